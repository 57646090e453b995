"""W&B, the mirror of the record: one W&B run per run. Its trouble costs one warning and never a training."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
import os
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from experiments.images import film_of
from experiments.record import Record, State, to_json
from experiments.tracking import client
from experiments.tracking.modes import ModeWatch
from experiments.tracking.source import CHECKOUT
from sngan import quantities
from sngan.config import RunConfig
from sngan.files import leads_out

if TYPE_CHECKING:
    import wandb

_PROGRAM = "experiments/__main__.py"
PATIENCE_SECONDS = 30.0  # with W&B's server at the start and at the end of a run
_STOP_SECONDS = 5.0
_QUIET_SECONDS = 5.0  # that W&B's service has to start in silence
_ARTIFACT_SECONDS = 10.0  # until W&B's client has taken artifacts, of which it asks the server something first
_FULL_BYTES = 2**20
_BINS = 100  # of a histogram, at most
_HISTOGRAM = ("_type", "bins", "values", "packedBins.min", "packedBins.size", "packedBins.count")  # W&B's keys of one
_Call = Callable[["wandb.Run"], object]
Row = tuple[dict[str, Any], dict[str, Path]]
"""a row of the record, and images by key"""


class Tracker:
    """One W&B run, open until `finish`; a thread talks to W&B, so that training never waits for it.

    `folder`: of the study. `mode` as from `resolve_mode`; the attribute is the mode that it came to. If W&B's server
    does not answer in half a minute, or refuses, the run is kept offline with all its rows, and so are all later runs
    of this process. If W&B's client is lost, a new one is started, once, and gets everything from the record again.
    Trouble costs warnings by `warn`, and raises nothing. The W&B run's id is `<study>-<run id>`, its name the run id,
    its group the cell (the run without its seed); its config is flat: identity fields, `study` and `run_id`. Under a
    W&B agent the id is the server's; runs are then matched by config. `recorded()`: the rows and images of the record,
    of which those up to step `since` were there before: what W&B lacks of them (offline all) is sent first, so each
    offline run is complete. `look_back`: the server is asked for a gap in its rows, else its last step is believed.
    `summary` is what the summary says until `finish`; `code` is a folder with the program that trains. Alerts tell of
    divergence, of an error, and of modes that a healthy run lost.
    """

    def __init__(
        self, config: RunConfig, study: str, folder: Path, mode: str, tags: list[str], warn: Callable[[str], None],
        recorded: Callable[[], Sequence[Row]] = tuple, since: int = -1, summary: dict[str, Any] | None = None,
        look_back: bool = False, code: Path | None = None,
    ) -> None:  # fmt: skip
        self._config, self._study, self._folder, self._tags = config, study, folder, tags
        self._recorded, self._taken = recorded, since  # of the record's rows W&B has been told those up to here
        self._look_back, self._code = look_back, code
        self._summary, self._defined = summary or {}, set[str]()
        self._frames: list[Path] = []  # in order of steps
        protocol = self._summary.get("protocol", {})
        self._modes = ModeWatch(config, protocol.get("trivial_fd"), protocol.get("n_classes"))
        for row, images in self._past():
            self._frames += [images["samples"]] if "samples" in images else []
            self._modes.lost(row)
        self._warn, self._id = warn, f"{study}-{config.run_id}"
        self._run: wandb.Run | None = None
        self._calls: SimpleQueue[_Call | Row | None] = SimpleQueue()
        self._said: list[_Call] = []  # of those, what is no row of the record
        self.mode = "offline" if mode == "online" and _Server.failed else mode
        self.error: str | None = None
        self._in_files = True  # as the warning said
        self._thread = threading.Thread(target=self._mirror, name=client.THREAD, daemon=True)
        if mode != "disabled" and _Client.hangs:
            self.mode = "disabled"
            self._trouble("does not start in this process", in_files=False)
        elif mode != "disabled":
            self._thread.start()

    @property
    def url(self) -> str | None:
        return self._run.url if self._run and self.mode == "online" else None

    def log(self, row: dict[str, Any], images: dict[str, Path]) -> None:
        """One call per row, with all its keys; `images` are PNG files by key."""
        lost = self._modes.lost(row)
        self._frames += [images["samples"]] if "samples" in images else []
        if self._thread.is_alive():
            self._calls.put((row, images))
            if lost:
                self._calls.put(lambda run: run.alert("mode collapse", f"{self._config.run_id}: {lost}", level="WARN"))

    def settle(self) -> None:
        """Wait until W&B's client has taken all that was logged; for measurements."""
        taken = threading.Event()
        self._calls.put(lambda _: taken.set())
        while self._thread.is_alive() and not taken.wait(0.1):
            pass

    def finish(self, state: State, summary: dict[str, Any], record: Record | None = None) -> None:
        """Wait until W&B has everything: about a minute at most, and 5 seconds for a run that was told to stop.

        `record`: the folder of a run that ended, whose weights and rows become artifacts.
        """
        self._calls.put(lambda run: run.summary.update(_plain(summary | _address(run, self.mode))))
        if state in (State.DIVERGED, State.FAILED):
            text = f"{self._config.run_id}: {summary.get('error')}"
            self._calls.put(lambda run: run.alert(state, text, level="WARN" if state is State.DIVERGED else "ERROR"))
        if record:
            self._calls.put(
                lambda run: _within(
                    _ARTIFACT_SECONDS,
                    _log_artifacts,
                    run,
                    self._config,
                    record,
                    summary,
                    self.mode == "offline",
                    self._code,
                )
            )
        if state is State.INTERRUPTED:
            self._calls.put(lambda run: run.mark_preempting())
        self._calls.put(lambda run: run.finish(exit_code=0 if state.is_result else 1))
        self._calls.put(None)
        most = _STOP_SECONDS if state is State.INTERRUPTED else 2 * PATIENCE_SECONDS + _ARTIFACT_SECONDS
        if self._thread.is_alive():
            self._thread.join(most)
        if self._thread.is_alive() and state is not State.INTERRUPTED:
            _Client.hangs = _Client.hangs or not self._run
            self._trouble(f"does not answer: it was waited for {most:.0f} s", in_files=False)

    def _mirror(self) -> None:
        """The thread: everything that is said to W&B, in order."""
        may_restart, failed = True, ""
        with suppress(KeyboardInterrupt):  # raised by a warning that nobody reads any more
            while self.mode != "disabled":
                try:
                    self._run = self._start()
                    if failed:
                        self._trouble(failed, in_files=True)
                    self._say_everything(self._run, may_restart or self.mode == "online")
                    return
                except (Exception, SystemExit) as error:
                    client.forget()
                    if may_restart and (self.mode == "offline" or _is_client_gone(error)):
                        may_restart = False
                        continue
                    begun = "work" if self._run else "start"
                    failed = failed or f"could not {begun} {self.mode}: {client.in_words(error)}"
                    _Server.failed |= self.mode == "online"
                    self.mode = "offline" if self.mode == "online" else "disabled"
            self._trouble(failed, in_files=False)

    def _say_everything(self, run: wandb.Run, is_one_left: bool) -> None:
        """Raises what goes wrong, if there is another way left, and what says that the client is gone.

        Not that the server is slow: then W&B's files have everything.
        """
        complete = True  # on disk
        for call in self._said:  # to the client before
            call(run)
        for call in iter(self._calls.get, None):
            try:
                if isinstance(call, tuple):
                    self._taken = call[0]["step"]
                    self._log(run, *call)
                else:
                    self._said.append(call)
                    call(run)
            except TimeoutError as error:
                self._trouble(f"could not send everything: {client.in_words(error)}", in_files=True)
            except (Exception, SystemExit) as error:  # which the client raises if its service ends with an error
                if is_one_left or _is_client_gone(error):
                    raise
                complete = False
                self._trouble(f"could not take everything: {client.in_words(error)}", in_files=False)
        with suppress(OSError):
            if shutil.disk_usage(self._folder / "wandb").free < _FULL_BYTES:
                self._trouble("may lack rows: no space left on device", in_files=False)  # W&B says nothing of it
            elif complete:
                self._set_aside_older(Path(run.dir).parent)

    def _past(self) -> list[Row]:
        return (
            [(row, images) for row, images in self._recorded() if row["step"] <= self._taken]
            if self._taken >= 0
            else []
        )

    def _set_aside_older(self, newest: Path) -> None:
        """W&B's files of earlier attempts hold nothing else; `wandb sync` would stop at one that was cut off."""
        aside = newest.parent / "replaced"
        for folder in newest.parent.glob(f"*run-*-{self._id}*"):  # W&B adds -1 to a second one of the same second
            if folder.name != newest.name:
                aside.mkdir(exist_ok=True)
                folder.rename(aside / folder.name)

    def _start(self) -> wandb.Run:
        import wandb

        in_git = (CHECKOUT / ".git").exists()  # its commit, and what differs from it as diff.patch
        git: dict[str, Any] = {"git_root": str(CHECKOUT), "save_code": True} if in_git else {"disable_git": True}
        quiet = wandb.Settings(
            silent=True, console="off", init_timeout=PATIENCE_SECONDS,
            finish_timeout=PATIENCE_SECONDS, finish_timeout_raises=True, program=_PROGRAM, **git,
        )  # fmt: skip
        _without_telemetry()
        with _client_says_nothing():
            wandb.setup(quiet)
        wandb.termsetup(quiet, _WandbMessages(self._trouble))  # what W&B would print
        run = wandb.init(
            project=client.project(),
            dir=self._folder,
            id=self._id,
            name=self._config.run_id,
            group=self._config.cell,
            job_type="train",
            tags=[*self._tags, self._config.arm, f"seed-{self._config.seed}"],
            config=self._config.identity() | {"study": self._study, "run_id": self._config.run_id},
            mode=self.mode,  # type: ignore[arg-type]
            resume="allow" if self.mode == "online" else None,  # offline W&B cannot know the past
            reinit="create_new",
            settings=quiet,
        )
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        run.summary.update(_plain(self._summary | _address(run, self.mode)))
        past = self._past()
        known = run.summary.get("step", -1) if run.resumed else -1
        if run.resumed and self._look_back:
            known = min(known, self._without_a_gap(run, [row["step"] for row, _ in past]))
        for row, images in past:
            if row["step"] > known:
                self._log(run, row, images)
        return run

    def _without_a_gap(self, run: wandb.Run, steps: list[int]) -> int:
        """The last of the record's steps up to which W&B's server has every row; -1 if it lacks the first."""
        import wandb

        runs = wandb.Api(timeout=60).runs(f"{run.entity}/{run.project}", {"config.run_id": self._config.run_id})
        rows = (row for same in runs if same.id == run.id for row in same.scan_history())
        there = {row.get("step") for row in rows}
        return max(itertools.takewhile(there.__contains__, steps), default=-1)

    def _log(self, run: wandb.Run, row: dict[str, Any], images: dict[str, Path]) -> None:
        for key in row.keys() - self._defined:  # W&B lets only one of its patterns apply, and that is `*`
            if (quantity := quantities.find(key)) and quantity.summary:
                run.define_metric(key, step_metric="step", summary=quantity.summary)
            for part in _HISTOGRAM if isinstance(row[key], list) else ():
                run.define_metric(f"{key}.{part}", step_metric="step", summary="none")
        self._defined |= row.keys()
        media = _media(row, images)
        if row["step"] == self._config.steps and self._frames:
            import wandb

            caption = "the same latents through training"
            media["evolution"] = wandb.Video(film_of(self._frames), format="gif", caption=caption)
        run.log(media)

    def _trouble(self, what: str, in_files: bool) -> None:
        """One warning per run, and another one if what that promised is not so.

        `in_files`: W&B's files have everything, so that its own command can send it.
        """
        if self.mode == "online":
            _Server.failed = True
        if not self.error or (self._in_files and not in_files):
            self._in_files = in_files
            self.error = f"W&B {what}"
            send = shlex.join(["sngan", "status", self._study, "--send-wandb", "--runs-dir", str(self._folder.parent)])
            sync = f"cd {shlex.quote(str(self._folder))} && wandb sync --include-online --yes"
            self._warn(
                f"{self.error}. The record is complete; once that is fixed, `{sync if in_files else send}` sends what "
                "is missing"
            )


class _Server:
    failed = False  # this process then works offline: it does not wait again for each run


class _Client:
    hangs = False  # it never came back from its start in this process, and would not for a further run


def _is_client_gone(error: BaseException) -> bool:
    """Whether W&B's service no longer answers, as its client says it: wandb.Error is what the service answers."""
    import wandb

    module = type(error).__module__
    of_the_client = module.startswith("wandb.sdk.") and not isinstance(error, wandb.Error)
    return isinstance(error, ConnectionError | EOFError) or of_the_client or module.startswith("wandb.sdk.lib.service")


def _without_telemetry() -> None:
    """The client's own telemetry may fail, and with it the client waits for itself if its service does not start."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    with suppress(ImportError):
        from wandb.analytics.opentelemetry.opentelemetry_proxy import disable

        disable()


@contextmanager
def _client_says_nothing() -> Iterator[None]:
    """Processes that are started within write no errors: W&B's service would print how it crashed.

    If it takes long, descriptor 2 is what it was all the same.
    """
    sys.stderr.flush()
    before, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    os.close(nothing)
    later = threading.Timer(_QUIET_SECONDS, os.dup2, (before, 2))
    later.daemon = True
    later.start()
    try:
        yield
    finally:
        later.cancel()
        later.join()
        os.dup2(before, 2)
        os.close(before)


class _WandbMessages:
    """Where W&B's messages go, by wandb.termsetup: those that say that something was not sent are trouble."""

    def __init__(self, trouble: Callable[[str, bool], None]) -> None:
        self._trouble = trouble

    def info(self, msg: str) -> None: ...

    def warning(self, msg: str) -> None:
        if "wandb sync" in msg:
            self._trouble(f"could not send everything: {msg.rpartition('WARNING ')[2].rstrip('.')}", True)

    error = warning


def _media(row: dict[str, Any], images: dict[str, Path]) -> dict[str, Any]:
    """The row as W&B takes it: spectra and classes as histograms, PNG files as images."""
    import wandb

    logged = {key: value for key, value in row.items() if not isinstance(value, list)}
    for key in row.keys() - logged.keys():
        values = [value for value in row[key] if value is not None and math.isfinite(value)]
        if key == "class_counts":
            width = -(-len(values) // _BINS)  # classes per bin
            counts = [sum(values[i : i + width]) for i in range(0, len(values), width)]
            edges = [i * width for i in range(len(counts) + 1)]
            logged[key] = wandb.Histogram(np_histogram=(counts, edges))  # type: ignore[arg-type]
        elif values:
            logged[key] = wandb.Histogram(values)
    there = {key: path for key, path in images.items() if path.is_file()}
    return logged | {key: wandb.Image(str(path), caption=f"step {row['step']}") for key, path in there.items()}


def _within(seconds: float, call: Callable[..., None], *arguments: Any) -> None:
    """Call, and wait for its end no longer than this. Raises what it raises, and TimeoutError."""
    raised: list[Exception] = []

    def attempt() -> None:
        try:
            call(*arguments)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=attempt, name=client.THREAD, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:.0f} seconds")
    if raised:
        raise raised[0]


def _plain(summary: dict[str, Any]) -> dict[str, Any]:
    """Without what is no JSON: W&B's summary holds what the record's files hold."""
    return json.loads(to_json(summary))


def _address(run: wandb.Run, mode: str) -> dict[str, Any]:
    return {"wandb_url": run.url} if mode == "online" else {}


def _log_artifacts(
    run: wandb.Run, config: RunConfig, record: Record, summary: dict[str, Any], offline: bool, code: Path | None
) -> None:
    """Data set (by digest), record, final weights and the program, which W&B reads where they lie."""
    import wandb
    from wandb.sdk.artifacts._internal_artifact import InternalArtifact

    identity = config.identity()
    metadata = {
        "study": run.config["study"],
        "run_id": config.run_id,
        "config": identity,
        "config_sha256": hashlib.sha256(to_json(identity).encode()).hexdigest(),
        **_plain({key: summary.get(key) for key in ("state", "error", "metrics_sha256")}),
    }
    name = f"{run.config['study']}-{config.run_id}"[-120:]  # W&B takes 128 characters; the run id's hash stays
    data = _plain(summary.get("protocol", {})).get("reference_sha256")
    if data:
        own = f"-{config.data_sha256[:8]}" if config.data_sha256 else ""
        artifact = wandb.Artifact(f"data-{config.dataset}{own}", "dataset", metadata={"sha256": data})
        artifact.add_reference(f"urn:sha256:{data}", name="images", checksum=False)
        run.log_artifact(artifact)
    files = {"model": [record.checkpoint_path], "record": [record.config_path, record.protocol_path, *record.row_paths]}
    for kind, paths in files.items():
        artifact = wandb.Artifact(f"{kind}-{name}", kind, metadata=metadata)
        for path in paths:
            if path.is_file() and not leads_out(path, record.folder):
                entry = artifact.add_file(str(path.absolute()), policy="immutable")
                if offline:  # `wandb sync` runs in the study's folder, wherever that is by then
                    entry.local_path = str(path.relative_to(record.folder.parent))
        run.log_artifact(artifact)
    if code and not run.settings.disable_code:
        name = f"source-{run.project}-{_PROGRAM.replace('/', '-')}"[:128]  # as wandb.Run.log_code names it
        artifact = InternalArtifact(name, "code")
        for path in sorted(code.rglob("*.py")):
            entry = artifact.add_file(str(path.absolute()), path.relative_to(code).as_posix(), policy="immutable")
            if offline:
                entry.local_path = str(path.relative_to(record.folder.parent))
        run.log_artifact(artifact)
