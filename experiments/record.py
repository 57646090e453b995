"""The run folder: what a run leaves on disk, the source of truth. Atomic writes, append-only rows, states."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sngan.config import InputError, RunConfig, from_parameters
from sngan.files import write_atomically

KILLED = "its process ended without a word (killed)"
# in the status and the final weights of a run that ended: of all files that its result depends on
DIGESTS = ("metrics_sha256", "config_sha256", "protocol_sha256", "evaluations_sha256")
_RESERVED_BYTES = 64 * 1024


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


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file; a torn last line is dropped, a missing file has no rows.

    Raises InputError that names file and line for a line before the last that cannot be read.
    """
    rows, damage = readable_rows(path)
    if damage:
        raise InputError(f"{path}, {damage}")
    return rows


def readable_rows(path: Path) -> tuple[list[dict[str, Any]], str]:
    """As `read_rows`, the rows that are readable, and what is wrong with the first line that is not, or nothing."""
    if not path.exists():
        return [], ""
    lines = path.read_bytes().split(b"\n")
    complete, rows, damage = lines[:-1], [], ""  # what follows the last newline is torn, or empty
    for number, line in enumerate(complete, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            damage = damage or f"line {number}: not readable as JSON ({error})"
            continue
        if isinstance(row, dict) and type(row.get("step")) is int:
            rows.append(row)
        else:
            damage = damage or f"line {number}: expected an object with a whole number as step"
    return rows, damage


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

    def is_claimed(self) -> bool:
        """Whether a live process holds the run."""
        if not Path(self._lock.lock_file).exists():
            return False
        probe = FileLock(self._lock.lock_file)
        try:
            probe.acquire(timeout=0.02, poll_interval=0.005)  # another reader's probe holds it for an instant
        except Timeout:
            return True
        except OSError:  # a folder that may only be read: its owner is not here
            return False
        probe.release()
        return False

    def start_over(self, config: RunConfig) -> None:
        """An empty record of this configuration; rows, samples and weights of an earlier attempt are removed."""
        self._remove_leftovers()
        for path in (*self.row_paths, self.protocol_path, self.checkpoint_path, self.previous_checkpoint_path):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.samples_path, ignore_errors=True)
        self.samples_path.mkdir(parents=True)
        self._write_config(config)

    def _write_config(self, config: RunConfig) -> None:
        write_atomically(self.config_path, to_json(config.identity(), indent=2) + "\n")

    def _remove_leftovers(self) -> None:
        """What a process that was killed in the middle of a write left; the claim says that it is gone."""
        for path in [*self.folder.glob(".*.tmp"), *self.samples_path.glob(".*.tmp")]:
            path.unlink(missing_ok=True)

    def cut_back(self, config: RunConfig, step: int, metrics_bytes: int) -> None:
        """Drop what came after `step`, when metrics.jsonl had that size: the run resumes from there."""
        self._remove_leftovers()
        try:
            intact = self.config() == from_parameters(config.identity())
        except InputError:
            intact = False
        if not intact:
            self._write_config(config)
        os.truncate(self.metrics_path, metrics_bytes)
        for path in self.row_paths[1:]:
            rows, _ = readable_rows(path)
            write_atomically(path, b"".join(to_json(row).encode() + b"\n" for row in rows if row["step"] <= step))
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
        _append_line(self.metrics_path, to_json(metrics))
        for path, part in ((self.timing_path, timing), (self.evaluations_path, lists)):
            if part:
                _append_line(path, to_json({"step": row["step"], **part}))

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
        write_atomically(self.protocol_path, to_json(protocol, indent=2) + "\n")

    def protocol(self) -> dict[str, Any]:
        """How the run's samples are judged; empty if it was not written. Raises InputError if unreadable."""
        path = self.protocol_path
        try:
            protocol = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise InputError(f"{path}: not readable as JSON ({error})") from error
        if not isinstance(protocol, dict):
            raise InputError(f"{path}: expected an object, got {type(protocol).__name__}")
        return protocol

    def config(self) -> RunConfig:
        """The recorded configuration. Raises InputError if config.json is missing or unreadable."""
        path = self.config_path
        try:
            return from_parameters(json.loads(path.read_text()))
        except FileNotFoundError as error:
            raise InputError(f"{self.folder} holds no run: {path.name} is missing") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: {error}") from error

    def status(self, claimed: bool = False) -> dict[str, Any]:
        """status.json with the state as it is now: `running` without a live owner is `interrupted`.

        `missing` if there is nothing on disk. If status.json is not what a run writes, the state is `interrupted` and
        `damaged` says what is wrong; the checkpoint shows what the run was, once it is resumed. `claimed`: the caller
        holds the claim.
        """
        try:
            status = self._read_status()
        except InputError as error:
            running = not claimed and self.is_claimed()
            state = {"state": State.RUNNING if running else State.INTERRUPTED, "step": self.last_step(), "attempts": []}
            return state | {"error": str(error), "damaged": str(error)}
        if status is None:
            # a claimed folder without status belongs to a run that is about to start
            running = not claimed and self.is_claimed()
            return {"state": State.RUNNING if running else State.MISSING, "step": 0, "attempts": []}
        if status["state"] == State.RUNNING:
            orphan = claimed or not self.is_claimed()
            status = self._read_status() or status  # it may have ended before the look at its owner
            if status["state"] == State.RUNNING:
                status["step"] = self.last_step()
                if orphan:
                    status |= {"state": State.INTERRUPTED, "error": KILLED}
        return status

    def _read_status(self) -> dict[str, Any] | None:
        """status.json as it stands, None without one. Raises InputError if it is not what a run writes."""
        path = self._status_path
        try:
            status = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise InputError(f"{path}: not readable as JSON ({error})") from error
        if (
            not isinstance(status, dict)
            or status.get("state") not in list(State)
            or type(status.get("step")) is not int
            or not isinstance(status.get("error"), str | None)
            or not isinstance(attempts := status.get("attempts"), list)
            or not all(isinstance(attempt, dict) for attempt in attempts)
        ):
            raise InputError(f"{path}: not the status of a run (state, step, error, attempts)")
        return status | {"state": State(status["state"])}

    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.metrics_path)

    def history(self) -> list[tuple[dict[str, Any], dict[str, Path]]]:
        """The rows with their timing and lists, and with the sample grids that were made at their steps."""
        others = [{row["step"]: row for row in readable_rows(path)[0]} for path in self.row_paths[1:]]
        history = []
        for row in self.rows():
            samples = self.sample_path(row["step"])
            for rows in others:
                row |= rows.get(row["step"], {})
            history.append((row, {"samples": samples} if samples.exists() else {}))
        return history

    def timing(self) -> list[dict[str, Any]]:
        return read_rows(self.timing_path)

    def set_status_aside(self) -> Path:
        """A status.json that is not readable gets another name, so that nothing is lost."""
        aside = self._status_path.with_name("status-damaged.json")
        os.replace(self._status_path, aside)
        return aside

    def last_step(self) -> int:
        """Of the last row that is readable; 0 if there is none."""
        content = self.metrics_path.read_bytes() if self.metrics_path.exists() else b""
        for line in reversed(content.split(b"\n")[:-1]):
            with suppress(ValueError, TypeError, KeyError):
                return int(json.loads(line)["step"])
        return 0

    def damage(self, status: dict[str, Any]) -> str:
        """What is wrong with the files that a result depends on; nothing is said of a run that is no result."""
        if not status["state"].is_result:
            return ""
        expected, found = {"metrics_sha256": None} | status, self.digests()
        for name, path in self._result_paths.items():
            if name in expected and name not in found:
                return f"{path.name} is missing"
            if expected.get(name) and expected[name] != found[name]:
                return f"{path.name} was changed after the run ended"
        return ""

    @property
    def _result_paths(self) -> dict[str, Path]:
        paths = (self.metrics_path, self.config_path, self.protocol_path, self.evaluations_path)
        return dict(zip(DIGESTS, paths, strict=True))

    def digests(self) -> dict[str, str]:
        """SHA-256 under the names of DIGESTS, of those files that there are: a run may diverge before an evaluation."""
        paths = self._result_paths.items()
        return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in paths if path.exists()}

    def metrics_sha256(self, size: int | None = None) -> str:
        """Of metrics.jsonl, or of its first `size` bytes; of nothing if there is none."""
        content = self.metrics_path.read_bytes() if self.metrics_path.exists() else b""
        return hashlib.sha256(content[:size]).hexdigest()


def spent(status: dict[str, Any], name: str) -> float:
    """Seconds under this name, over the attempts that the record is made of: from the last start at step 0 on."""
    total = 0.0
    for attempt in status["attempts"]:
        seconds = attempt.get(name)
        total = (total if attempt.get("resumed_from") else 0.0) + (seconds if isinstance(seconds, int | float) else 0.0)
    return total


def _append_line(path: Path, line: str) -> None:
    with open(path, "ab") as file:  # one write of one line: a kill tears at most the last
        file.write(line.encode() + b"\n")


def run_folders(study_folder: Path) -> list[Record]:
    """The records in a study's folder, by name."""
    if not study_folder.is_dir():
        return []
    return [Record(path.parent) for path in sorted(study_folder.glob("*/config.json"))]


def recorded_configs(study_folder: Path) -> list[RunConfig]:
    """The configurations of all runs in a folder. Raises InputError for a run that is not what its folder says."""
    configs = []
    for record in run_folders(study_folder):
        config = record.config()
        if config.run_id != record.run_id:
            raise InputError(
                f"{record.folder / 'config.json'} is the configuration of {config.run_id}: a copied or renamed folder? "
                "Move it out of the study, or give it that name"
            )
        configs.append(config)
    return configs


def find_run(run: str, runs_dir: str = "") -> Record:
    """The record of a run id or folder. Raises InputError if there is none, or more than one of that id."""
    if (Path(run) / "config.json").exists():
        return Record(Path(run))
    root = runs_root(runs_dir)
    found = [path.parent for path in sorted(root.glob("*/*/config.json")) if path.parent.name == run]
    if not found:
        raise InputError(f"no run {run!r}: neither a run's folder nor a run id below {root}")
    if len(found) > 1:
        raise InputError(f"run {run!r} is in {len(found)} studies; name one folder: {', '.join(map(str, found))}")
    return Record(found[0])
