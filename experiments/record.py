"""The run folder: what a run leaves on disk, the source of truth. Atomic writes, append-only rows, states."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from experiments import final
from experiments.rows import read_rows, readable_rows
from sngan.config import InputError, RunConfig, from_parameters
from sngan.files import leads_out, parse_json, read_within, write_atomically

KILLED = "its process ended without a word (killed)"
UNTOLD = "whether its process lives cannot be told from here: its lock cannot be read"
# in the status and the final weights of a run that ended: of all files that its result depends on
DIGESTS = ("metrics_sha256", "config_sha256", "protocol_sha256", "evaluations_sha256")
_FILES = {"config.json", "status.json", "metrics.jsonl", "checkpoint.pt"}  # any of which says that a run was here
_ALL_DIGESTS_SINCE = 5  # the training version; of results before it the status knows the metrics alone
_RESERVED_BYTES = 64 * 1024
_MOST = 2**63  # of a number in a status


class State(StrEnum):
    """What has become of a planned run."""

    FINISHED = "finished"
    DIVERGED = "diverged"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    RUNNING = "running"
    MISSING = "missing"

    @property
    def is_result(self) -> bool:
        """Whether the run has ended for good: it counts, and is not trained again."""
        return self in (State.FINISHED, State.DIVERGED)


RESULTS = tuple(state for state in State if state.is_result)
FROZEN = "frozen"


def shown_state(status: dict[str, Any], is_frozen: bool) -> str:
    """What plan and status say of a run: `frozen` if its result is kept elsewhere and there is none here."""
    state = status["state"]
    return FROZEN if is_frozen and not state.is_result and state is not State.RUNNING else state


def runs_root(runs_dir: str = "") -> Path:
    """`runs_dir`, else the environment's SNGAN_RUNS, else ./runs."""
    return Path(runs_dir or os.environ.get("SNGAN_RUNS") or "runs")


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON in which non-finite numbers are null, their keys kept."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Record:
    """One run's folder. Reading is open to all; writing to the one who holds `claim()`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics_path = folder / "metrics.jsonl"
        self.timing_path = folder / "timing.jsonl"
        self.evaluations_path = folder / "evaluations.jsonl"
        self.samples_path = folder / "samples"
        self.checkpoint_path = folder / "checkpoint.pt"
        self.previous_checkpoint_path = folder / "checkpoint-previous.pt"
        self.config_path = folder / "config.json"
        self.protocol_path = folder / "protocol.json"
        self._status_path = folder / "status.json"
        self._reserve_path = folder / ".reserve"
        self._lock = FileLock(str(folder / ".lock"))
        self._written: dict[Path, Any] = {}  # of what this process writes: its SHA-256 so far

    @property
    def run_id(self) -> str:
        return self.folder.name

    @property
    def row_paths(self) -> tuple[Path, Path, Path]:
        """The files of rows, the metrics first."""
        return self.metrics_path, self.timing_path, self.evaluations_path

    @contextmanager
    def claim(self) -> Iterator[bool]:
        """An operating-system lock that dies with its owner; yields False if another process holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0.5, poll_interval=0.05)  # a reader's probe holds it for an instant
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            self._lock.release()

    def is_claimed(self) -> bool | None:
        """Whether a live process holds the run, for all who may read its lock; None if that cannot be told."""
        try:
            handle = os.open(self._lock.lock_file, os.O_RDONLY | os.O_NONBLOCK)  # it may be a pipe
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            return False if error.errno == errno.ELOOP else None  # links in a circle are no file
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: readers do not see each other
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return None
        finally:
            os.close(handle)
        return False

    def start_over(self, config: RunConfig, keep: bool = False) -> Path | None:
        """An empty record of this configuration; rows, samples and weights of an earlier attempt are removed.

        With `keep` they are moved into a folder of their own within the record, which is returned.
        """
        self._remove_leftovers()
        earlier = (*self.row_paths, self.protocol_path, self.checkpoint_path, self.previous_checkpoint_path)
        there = [path for path in (*earlier, self.samples_path) if os.path.lexists(path)]
        aside = None
        if keep and there:
            aside = Path(tempfile.mkdtemp(prefix=f"before-{time.strftime('%Y%m%dT%H%M%S')}-", dir=self.folder))
        for path in there:
            if aside:
                path.rename(aside / path.name)
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        self.samples_path.mkdir(parents=True)
        self._written = {path: hashlib.sha256() for path in self.row_paths}
        self._write_config(config)
        return aside

    def _write_config(self, config: RunConfig) -> None:
        self._write(self.config_path, to_json(config.identity(), indent=2) + "\n")

    def _is_config_intact(self, config: RunConfig) -> bool:
        """Whether it is the same, in the bytes that a run writes, perhaps of a program that knew fewer fields."""
        try:
            content = read_within(self.config_path, self.folder)
            same = self.config() == from_parameters(config.identity())
        except (FileNotFoundError, InputError):
            return False
        return same and content == f"{to_json(json.loads(content), indent=2)}\n".encode()

    def _remove_leftovers(self) -> None:
        """What a process that was killed in the middle of a write left; the claim says that it is gone."""
        for path in [*self.folder.glob(".*.tmp"), *self.samples_path.glob(".*.tmp")]:
            path.unlink(missing_ok=True)

    def cut_back(self, config: RunConfig, step: int, sizes: Mapping[str, int]) -> None:
        """Drop what came after `step`, when files of rows had these sizes, by name: the run resumes from there.

        Of a file without a size the rows up to there are kept that are readable.
        """
        self._remove_leftovers()
        if not self._is_config_intact(config):
            self._write_config(config)
        for path in self.row_paths:
            if path.name in sizes:
                with suppress(FileNotFoundError):  # then it had no rows
                    os.truncate(path, sizes[path.name])
            else:
                rows, _ = readable_rows(path)
                write_atomically(path, b"".join(to_json(row).encode() + b"\n" for row in rows if row["step"] <= step))
            self._written[path] = hashlib.sha256(self._content(path))
        for path in self.samples_path.glob("step-*.png"):
            number = path.stem.removeprefix("step-")
            if number.isdecimal() and int(number) > step:
                path.unlink()

    def keep_previous_checkpoint(self) -> None:
        """The checkpoint becomes the one before; a new one can then be written."""
        if self.checkpoint_path.exists():
            os.replace(self.checkpoint_path, self.previous_checkpoint_path)

    def append(self, row: dict[str, Any]) -> None:
        """One row: `time/*` goes to timing.jsonl, lists of numbers to evaluations.jsonl, all else to metrics.jsonl."""
        timing = {key: value for key, value in row.items() if key.startswith("time/")}
        lists = {key: value for key, value in row.items() if isinstance(value, list)}
        metrics = {key: value for key, value in row.items() if key not in timing | lists}
        self._append_line(self.metrics_path, to_json(metrics))
        for path, part in ((self.timing_path, timing), (self.evaluations_path, lists)):
            if part:
                self._append_line(path, to_json({"step": row["step"], **part}))

    def _append_line(self, path: Path, line: str) -> None:
        content = line.encode() + b"\n"
        with open(path, "ab") as file:  # one write of one line: a kill tears at most the last
            file.write(content)
        if path in self._written:
            self._written[path].update(content)

    def sample_path(self, step: int) -> Path:
        return self.samples_path / f"step-{step:06d}.png"

    def write_sample(self, name: str, png: bytes) -> Path:
        path = self.samples_path / name
        write_atomically(path, png)
        return path

    def write_status(self, status: dict[str, Any]) -> None:
        """Of a running run also a reserve of disk space; of one that ended into that reserve if a disk is full."""
        content = to_json(status, indent=2) + "\n"
        if status["state"] == State.RUNNING:
            write_atomically(self._status_path, content)
            write_atomically(self._reserve_path, b"\0" * _RESERVED_BYTES)
            return
        try:
            write_atomically(self._status_path, content)
        except OSError:
            self._reserve_path.unlink(missing_ok=True)
            write_atomically(self._status_path, content)
        self._reserve_path.unlink(missing_ok=True)

    def write_protocol(self, protocol: dict[str, Any]) -> None:
        self._write(self.protocol_path, to_json(protocol, indent=2) + "\n")

    def _write(self, path: Path, content: str) -> None:
        write_atomically(path, content)
        self._written[path] = hashlib.sha256(content.encode())

    def protocol(self) -> dict[str, Any]:
        """How the run's samples are judged; empty if it was not written. Raises InputError if unreadable."""
        path = self.protocol_path
        try:
            protocol = parse_json(read_within(path, self.folder), str(path))
        except FileNotFoundError:
            return {}
        return checked_protocol(protocol, str(path))

    def config(self) -> RunConfig:
        """The recorded configuration. Raises InputError if config.json is missing or unreadable."""
        path = self.config_path
        try:
            identity = parse_json(read_within(path, self.folder), str(path))
        except FileNotFoundError as error:
            raise InputError(f"{self.folder} holds no run: {path.name} is missing") from error
        return checked_config(identity, str(path))

    def named_config(self) -> RunConfig:
        """As `config`. Raises InputError also if it is another run's than the folder's name says."""
        config = self.config()
        if other := self.misnamed(config):
            raise InputError(other)
        return config

    def misnamed(self, config: RunConfig) -> str:
        """That this configuration of the folder is another run's than its name says, or nothing."""
        if config.run_id == self.run_id:
            return ""
        return (
            f"{self.config_path} is the configuration of {config.run_id}: a copied or renamed folder? "
            "Move it out of the study, or give it that name"
        )

    def status(self, claimed: bool = False) -> dict[str, Any]:
        """status.json with the state as it is now: `running` without a live owner is `interrupted`.

        `missing` if there is nothing on disk. If status.json is not what a run writes, or is gone from a record with
        rows or weights, the state is `interrupted` and `damaged` says what is wrong; the checkpoint shows what the run
        was, once it is resumed. If it cannot be told whether the owner lives, `running` stays, and `error` says so.
        `claimed`: the caller holds the claim.
        """
        live, written = False if claimed else None, None
        try:
            status = self._read_status()
            if status and status["state"] == State.RUNNING:
                live = not claimed and self.is_claimed()
                status = self._read_status() or status  # it may have ended before the look at its owner
            written = status and status["state"]
        except InputError as error:
            held = not claimed and self.is_claimed()
            state = {"state": State.INTERRUPTED if held is False else State.RUNNING, "step": self.last_step()}
            said = f"{error}; {UNTOLD}" if held is None else str(error)
            return state | {"attempts": [], "error": said, "damaged": str(error)}
        if status is None:
            # a claimed folder without status belongs to a run that is about to start
            held = not claimed and self.is_claimed()
            state = {"state": State.MISSING if held is False else State.RUNNING, "step": 0, "attempts": []}
            wrong = UNTOLD if held is None else f"{self.folder} is not a folder" if self.folder.is_file() else ""
            return state | ({"error": wrong} if wrong else {})
        if status["state"] == State.RUNNING:
            status["step"] = self.last_step()
            if live is None:
                status["error"] = UNTOLD
            elif not live:
                status |= {"state": State.INTERRUPTED, "error": KILLED}
        if status["state"] not in (State.RUNNING, *RESULTS) and (ended := self._ended_after_all()):
            damaged = f"{self._status_path} says {written}, and the final weights say {ended}"
            status |= {"state": State.INTERRUPTED, "error": damaged, "damaged": damaged}
        return status

    def _ended_after_all(self) -> str:
        """How the run ended by its final weights, or nothing.

        Nothing while the checkpoint before lies beside them: from there a run that was killed at its very end resumes.
        """
        if os.path.exists(self.previous_checkpoint_path) or leads_out(self.checkpoint_path, self.folder):
            return ""
        return final.said_by(self.checkpoint_path).get("state", "")

    def _read_status(self) -> dict[str, Any] | None:
        """status.json as it stands, None without a record. Raises InputError if it is not what a run writes."""
        path = self._status_path
        try:
            status = parse_json(read_within(path, self.folder), str(path))
        except FileNotFoundError:
            if not (os.path.exists(self.metrics_path) or os.path.exists(self.checkpoint_path)):
                return None
            raise InputError(f"{path} is missing") from None
        return checked_status(status, str(path))

    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.metrics_path)

    def history(self) -> list[tuple[dict[str, Any], dict[str, Path]]]:
        """The rows with their timing and lists, and with grids: of samples at their steps, of real images the first."""
        others = [{row["step"]: row for row in readable_rows(path)[0]} for path in self.row_paths[1:]]
        history, grids = [], self.grids()
        for row in self.rows():
            for rows in others:
                row |= rows.get(row["step"], {})
            history.append((row, {"samples": grids[row["step"]]} if row["step"] in grids else {}))
        if history and (real := self.real_grid()):
            history[0][1]["real"] = real
        return history

    def grids(self) -> dict[int, Path]:
        """step -> PNG file of a sample grid; links that lead out of the folder are none."""
        found = {path.stem.removeprefix("step-"): path for path in sorted(self.samples_path.glob("step-*.png"))}
        return {int(step): path for step, path in found.items() if step.isdecimal() and self._is_picture(path)}

    def real_grid(self) -> Path | None:
        """The PNG file with real images, if there is one."""
        path = self.samples_path / "real.png"
        return path if self._is_picture(path) else None

    def _is_picture(self, path: Path) -> bool:
        return os.path.isfile(path) and not leads_out(path, self.folder)

    def timing(self) -> list[dict[str, Any]]:
        return read_rows(self.timing_path)

    def set_status_aside(self) -> Path | None:
        """A status.json that is not readable gets another name, so that nothing is lost; None if there is none."""
        names = itertools.chain(["status-damaged.json"], (f"status-damaged-{i}.json" for i in itertools.count(2)))
        aside = next(path for name in names if not os.path.lexists(path := self.folder / name))
        try:
            os.replace(self._status_path, aside)
        except FileNotFoundError:
            return None
        return aside

    def last_step(self) -> int:
        """Of the last row that is readable; 0 if there is none."""
        with suppress(FileNotFoundError, InputError):
            for line in reversed(read_within(self.metrics_path, self.folder).split(b"\n")[:-1]):
                with suppress(ValueError, TypeError, KeyError, RecursionError, OverflowError):
                    return int(json.loads(line)["step"])
        return 0

    def damage(self, status: dict[str, Any]) -> str:
        """What is wrong with the files that a result depends on; nothing is said of a run that is no result.

        The status is one of them: what the final weights say too must be the same there. And all of them may be another
        run's, in a folder that was copied or renamed.
        """
        if not status["state"].is_result:
            return ""
        try:
            expected, found = {"metrics_sha256": None} | status, self.digests()
        except InputError as error:
            return str(error)
        knows_all = (status.get("training_version") or 0) >= _ALL_DIGESTS_SINCE
        for name, path in self._result_paths.items():
            if name in expected and name not in found:
                return f"{path.name} is missing"
            if name in found and not expected.get(name) and (knows_all or path == self.metrics_path):
                return f"{self._status_path.name} lacks {name}, which it has of every run that ended"
            if expected.get(name) and expected[name] != found[name]:
                return f"{path.name} was changed after the run ended"
        with suppress(InputError):  # a configuration of a program that knows other fields
            if other := self.misnamed(self.config()):
                return other
        return self._contradiction(status)

    def _contradiction(self, status: dict[str, Any]) -> str:
        """Where status.json says something else than the final weights, or nothing."""
        if leads_out(self.checkpoint_path, self.folder):
            return f"{self.checkpoint_path.name} leads out of the folder"
        said = final.said_by(self.checkpoint_path)
        if not said and status["state"] is State.FINISHED and status["step"] != (last := self.last_step()):
            return f"{self._status_path.name} says step {status['step']}, and {self.metrics_path.name} ends at {last}"
        for name in ("state", "step", "error", "training_version", *DIGESTS):
            if name in said and status.get(name) != said[name]:
                return (
                    f"{self._status_path.name} was changed after the run ended: {name} is {status.get(name)} there, "
                    f"and {said[name]} in the final weights"
                )
        return ""

    @property
    def _result_paths(self) -> dict[str, Path]:
        paths = (self.metrics_path, self.config_path, self.protocol_path, self.evaluations_path)
        return dict(zip(DIGESTS, paths, strict=True))

    def digests(self) -> dict[str, str]:
        """SHA-256 under the names of DIGESTS, of those files that there are: a run may diverge before an evaluation.

        Raises InputError for one that is no file of this folder, or may not be read.
        """
        found = {}
        for name, path in self._result_paths.items():
            with suppress(FileNotFoundError):
                found[name] = hashlib.sha256(read_within(path, self.folder)).hexdigest()
        return found

    def metrics_sha256(self) -> str:
        """Of metrics.jsonl; of nothing if there is none."""
        return self._digest(self.metrics_path)[1]

    def rows_on_disk(self) -> dict[str, tuple[int, str]]:
        """Name -> size and SHA-256 of each file of rows, which is flushed to the disk first.

        Raises InputError for a file that is no longer what this process has written: its run would end without the rows
        that are lost.
        """
        for path in self.row_paths:
            with suppress(FileNotFoundError), open(path, "rb") as file:
                os.fsync(file.fileno())
        found = {path: self._digest(path) for path in dict.fromkeys([*self.row_paths, *self._written])}
        for path, written in self._written.items():
            if found[path][1] != written.hexdigest():
                raise InputError(f"{path} was changed while its run trained")
        return {path.name: found[path] for path in self.row_paths}

    def has_rows(self, name: str, size: int, sha256: str) -> bool:
        """Whether a file of rows, which lies in the folder, begins with so many bytes of this SHA-256."""
        path = self.folder / name
        is_own = path.is_file() and not leads_out(path, self.folder)
        return (is_own or not os.path.lexists(path)) and self._digest(path, size) == (size, sha256)

    def _digest(self, path: Path, size: int | None = None) -> tuple[int, str]:
        """Size and SHA-256 of a file's first `size` bytes; of nothing if there is none."""
        content = self._content(path)[:size]
        return len(content), hashlib.sha256(content).hexdigest()

    def _content(self, path: Path) -> bytes:
        return path.read_bytes() if path.is_file() else b""


def checked_config(identity: Any, where: str) -> RunConfig:
    """The configuration that a config.json says. Raises InputError that begins with `where` if it is none."""
    try:
        return from_parameters(identity)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: {error}") from error


def checked_status(content: Any, where: str) -> dict[str, Any]:
    """What a status.json says. Raises InputError that begins with `where` if no run writes such a status."""
    if not _is_status(content):
        raise InputError(f"{where}: not the status of a run (state, step, error, attempts)")
    return content | {"state": State(content["state"])}


def checked_protocol(content: Any, where: str) -> dict[str, Any]:
    """What a protocol.json says. Raises InputError that begins with `where` if no run writes such a protocol."""
    if not _is_protocol(content):
        raise InputError(f"{where}: expected an object of words and numbers, and of such objects")
    return content


def _is_status(content: Any) -> bool:
    """Whether a run writes such a status: words, and numbers that a float holds, in their places."""
    if not isinstance(content, dict) or not isinstance(attempts := content.get("attempts"), list):
        return False
    own = {name: value for name, value in content.items() if name != "attempts"}
    words = ("error", "traceback", *DIGESTS, "git_commit", "git_tree", "wandb_url")
    return (
        content.get("state") in list(State)
        and type(content.get("step")) is int
        and all(isinstance(content.get(name), str | None) for name in words)
        and isinstance(content.get("training_version"), int | None)
        and all(isinstance(attempt, dict) for attempt in attempts)
        and all(_is_plain(value) for of in (own, *attempts) for name, value in of.items() if name != "forced")
    )


def _is_protocol(content: Any) -> bool:
    """Whether a run writes such a protocol; of other programs' or versions' more names may be in it."""
    if not isinstance(content, dict):
        return False
    scores = [content.get(name, {}) for name in ("real_against_real", "trivial_sampler")]
    return (
        all(isinstance(of, dict) and all(map(_is_score, of.values())) for of in scores)
        and all(_is_score(content.get(name)) for name in ("trivial_fd", "n_fake", "n_real", "feature_net_accuracy"))
        and all(_is_plain(v) or (isinstance(v, dict) and all(map(_is_plain, v.values()))) for v in content.values())
    )


def _is_score(value: Any) -> bool:
    return value is None or (_is_plain(value) and not isinstance(value, str | bool))


def _is_plain(value: Any) -> bool:
    is_number = isinstance(value, int | float) and abs(value) < _MOST  # true and false too
    return value is None or isinstance(value, str) or is_number


def spent(status: dict[str, Any], name: str) -> float:
    """Seconds under this name, over the attempts that the record is made of: from the last start at step 0 on."""
    total = 0.0
    for attempt in status["attempts"]:
        seconds = attempt.get(name)
        total = (total if attempt.get("resumed_from") else 0.0) + (seconds if isinstance(seconds, int | float) else 0.0)
    return total


def run_folders(study_folder: Path) -> list[Record]:
    """The records in a study's folder, by name: also of runs that lost their configuration, or may not be read."""
    if not study_folder.is_dir():
        return []
    return [Record(path) for path in sorted(study_folder.iterdir()) if is_run(path)]


def is_run(folder: Path) -> bool:
    """Whether something of a run is there, or what is there may not be read."""
    try:
        return not _FILES.isdisjoint(os.listdir(folder))
    except PermissionError:  # it may well be one
        return True
    except OSError:
        return False


def recorded_configs(study_folder: Path) -> tuple[list[RunConfig], dict[str, str]]:
    """The configurations of the runs in a folder, and by run id what is wrong with the others."""
    configs, wrong = [], {}
    for record in run_folders(study_folder):
        try:
            configs.append(record.named_config())
        except InputError as error:
            wrong[record.run_id] = str(error)
    return configs, wrong


def find_run(run: str, runs_dir: str = "") -> Record:
    """The record of a run id, the beginning of one, or a folder. Raises InputError if that is no run, or several."""
    folder, root = Path(run), runs_root(runs_dir)
    if is_run(folder):
        return Record(folder.resolve() if folder.name in ("", "..") else folder)
    runs = [path.parent for path in sorted(root.glob("*/*/config.json"))]
    found = [path for path in runs if path.name == run] or [path for path in runs if run and path.name.startswith(run)]
    if not found:
        raise InputError(f"no run {run!r}: {_not_a_run(folder)}neither a run's folder nor a run id below {root}")
    if len(found) > 1 and found[0].name == run:
        raise InputError(f"run {run!r} is in {len(found)} studies; name one folder: {', '.join(map(str, found))}")
    if len(found) > 1:
        more = f" and {len(found) - 9} more" if len(found) > 9 else ""
        raise InputError(
            f"{run!r} begins the ids of {len(found)} runs: {', '.join(map(str, found[:9]))}{more}; write more of it"
        )
    return Record(found[0])


def _not_a_run(folder: Path) -> str:
    """What there is of that name instead, as the beginning of a sentence."""
    if not folder.exists() or not folder.name:
        return ""
    if not folder.is_dir():
        return "a file, "
    if not (runs := run_folders(folder)):
        return f"a folder without {' or '.join(sorted(_FILES))}, "
    return f"a folder of {len(runs)} runs (name one, such as {runs[0].folder}), "
