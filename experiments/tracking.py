"""W&B, the mirror of the record: one W&B run per run. Its trouble costs one warning and never a training."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from sngan.config import InputError, RunConfig

if TYPE_CHECKING:
    import wandb

PROJECT = "sngan"
MODES = ("online", "offline", "disabled")
_PATIENCE_SECONDS = 30.0  # with W&B's server at the start and at the end of a run
_STOP_SECONDS = 5.0
_THREAD = "W&B of a run"
_FULL_BYTES = 2**20
_Row = tuple[dict[str, Any], dict[str, Path]]  # a row of the record, and images by key


def resolve_mode(wanted: str) -> str:
    """`online`, `offline` or `disabled`: what was asked for, else WANDB_MODE, else online when logged in.

    Raises InputError for a WANDB_MODE that is none of these.
    """
    if wanted in MODES:
        return wanted
    if mode := os.environ.get("WANDB_MODE"):
        mode = {"dryrun": "offline", "run": "online", "shared": "online"}.get(mode, mode)
        if mode not in MODES:
            raise InputError(f"the environment's WANDB_MODE is {mode!r}; expected one of {', '.join(MODES)}")
        return mode
    try:
        import wandb

        logged_in = wandb.login(prompt=False, verify=False)
    except Exception as error:  # broken credentials must not end a training
        print(f"warning: W&B cannot tell whether you are logged in, working offline: {error}", file=sys.stderr)
        logged_in = False
    return "online" if logged_in else "offline"


def is_busy() -> bool:
    """Whether W&B still has something to do for a run of this process."""
    return any(thread.name == _THREAD for thread in threading.enumerate())


class Tracker:
    """One W&B run, open until `finish`; a thread talks to W&B, so that training never waits for it.

    `mode` as from `resolve_mode`; the attribute is the mode that it came to. Where W&B's server does not answer in half
    a minute, or refuses, the run is kept offline with all its rows, and so are all later runs of this process. Trouble
    costs warnings by `warn`, and raises nothing. The W&B run's id is `<study>-<run id>`, its name the run id, its group
    the cell (the run without its seed); its config is flat: identity fields, `study` and `run_id`. Under a W&B agent
    the id is the server's; runs are then matched by config. `past` are the rows and images of earlier attempts: those
    that W&B does not have (offline it has none) are sent first, so each offline run is complete.
    """

    def __init__(
        self, config: RunConfig, study: str, folder: Path, mode: str, tags: list[str], warn: Callable[[str], None],
        past: Sequence[_Row] = (),
    ) -> None:  # fmt: skip
        self._config, self._study, self._folder, self._tags, self._past = config, study, folder, tags, past
        self._warn, self._id = warn, f"{study}-{config.run_id}"
        self._run: wandb.Run | None = None
        self._calls: SimpleQueue[Callable[[wandb.Run], object] | None] = SimpleQueue()
        self.mode = "offline" if mode == "online" and _Server.failed else mode
        self.error: str | None = None
        self._thread = threading.Thread(target=self._mirror, name=_THREAD, daemon=True)
        if mode != "disabled":
            self._thread.start()

    @property
    def url(self) -> str | None:
        return self._run.url if self._run and self.mode == "online" else None

    def log(self, row: dict[str, Any], images: dict[str, Path]) -> None:
        """One call per row, with all its keys; `images` are PNG files by key."""
        if self._thread.is_alive():
            self._calls.put(lambda run: run.log(row | _images(images, row["step"])))

    def settle(self) -> None:
        """Wait until W&B's client has taken all that was logged; for measurements."""
        taken = threading.Event()
        self._calls.put(lambda _: taken.set())
        while self._thread.is_alive() and not taken.wait(0.1):
            pass

    def finish(self, state: str, summary: dict[str, Any]) -> None:
        """Wait until W&B has everything: at most a minute, and 5 seconds for a run that was told to stop."""
        self._calls.put(lambda run: run.summary.update(summary))
        if state == "interrupted":
            self._calls.put(lambda run: run.mark_preempting())
        self._calls.put(lambda run: run.finish(exit_code=0 if state in ("finished", "diverged") else 1))
        self._calls.put(None)
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS if state == "interrupted" else 2 * _PATIENCE_SECONDS)

    def _mirror(self) -> None:
        """The thread: everything that is said to W&B, in order."""
        with suppress(KeyboardInterrupt):  # raised by a warning that nobody hears any more
            while not self._run:
                try:
                    self._run = self._start()
                except Exception as error:
                    self._trouble(f"could not start {self.mode}", error)
                    if self.mode == "offline":
                        self.mode = "disabled"
                        return
                    self.mode = "offline"
                    self._forget()
            self._say_everything(self._run)

    def _say_everything(self, run: wandb.Run) -> None:
        complete = True  # on disk
        for call in iter(self._calls.get, None):
            try:
                call(run)
            except TimeoutError as error:
                self._trouble("could not send everything", error)
            except Exception as error:
                complete = False
                self._trouble("could not take everything", error)
        with suppress(OSError):
            if shutil.disk_usage(self._folder / "wandb").free < _FULL_BYTES:
                self._trouble("may lack rows", "no space left on device")  # W&B says nothing of it
            elif complete:
                self._set_aside_older(Path(run.dir).parent)

    def _set_aside_older(self, newest: Path) -> None:
        """W&B's files of earlier attempts hold nothing else; `wandb sync` would stop at one that was cut off."""
        aside = newest.parent / "replaced"
        for folder in newest.parent.glob(f"*run-*-{self._id}"):
            if folder.name != newest.name:
                aside.mkdir(exist_ok=True)
                folder.rename(aside / folder.name)

    def _start(self) -> wandb.Run:
        import wandb

        quiet = wandb.Settings(
            silent=True, console="off", disable_code=True, init_timeout=_PATIENCE_SECONDS,
            finish_timeout=_PATIENCE_SECONDS, finish_timeout_raises=True,
        )  # fmt: skip
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # the client's telemetry, which may fail
        wandb.setup(quiet)
        wandb.termsetup(quiet, _Ear(self._trouble))  # what W&B would print
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            dir=self._folder,
            id=self._id,
            name=self._config.run_id,
            group=self._config.cell,
            job_type="train",
            tags=self._tags,
            config=self._config.identity() | {"study": self._study, "run_id": self._config.run_id},
            mode=self.mode,  # type: ignore[arg-type]
            resume="allow" if self.mode == "online" else None,  # offline W&B cannot know the past
            reinit="create_new",
            settings=quiet,
        )
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        known = run.summary.get("step", -1) if run.resumed else -1
        for row, images in self._past:
            if row["step"] > known:
                run.log(row | _images(images, row["step"]))
        return run

    def _forget(self) -> None:
        """End W&B's service, which else keeps the id of a run that it could not start."""
        import wandb

        wandb.teardown()

    def _trouble(self, what: str, error: object) -> None:
        if self.mode == "online":
            _Server.failed = True
        if not self.error:  # one warning a run
            self.error = f"W&B {what}: {' '.join(str(error).split())}"
            self._warn(
                f"{self.error}. Training goes on and the record is complete; once that is mended, "
                f"`cd {self._folder} && wandb sync --include-online` sends what is missing"
            )


class _Server:
    failed = False  # this process then works offline: it does not wait again for each run


class _Ear:
    """Where W&B's messages go, by wandb.termsetup: those that say that something was not sent are trouble."""

    def __init__(self, trouble: Callable[[str, object], None]) -> None:
        self._trouble = trouble

    def info(self, msg: str) -> None: ...

    def warning(self, msg: str) -> None:
        if "wandb sync" in msg:
            self._trouble("could not send everything", msg.rpartition("WARNING ")[2].rstrip("."))

    error = warning


def _images(images: dict[str, Path], step: int) -> dict[str, Any]:
    import wandb

    return {key: wandb.Image(str(path), caption=f"step {step}") for key, path in images.items()}
