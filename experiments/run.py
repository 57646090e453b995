"""One run inside its folder: claimed, trained, recorded, mirrored to W&B, and ended in a written state."""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import io
import os
import platform
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from experiments import checkpoint
from experiments.record import RESULTS, Record
from experiments.tracking import Tracker, resolve_mode, under_agent
from sngan.config import TRAINING_VERSION, InputError, RunConfig
from sngan.data import ImageData, load, normalized
from sngan.evaluate import Evaluation
from sngan.measure import N_SAMPLES
from sngan.precision import check_precision
from sngan.train import Outcome, train
from sngan.yardstick import load_yardstick

_GRACE_SECONDS = 8.0  # of ten that a cluster, or the sweep, gives a run that it stops
Tell = Callable[..., None]  # tell("progress", run_id, ...): the name of one of Display's methods and its arguments


class Result(NamedTuple):
    """State of a run after `execute`; `ran` is False where it was over before, or belongs to another process.

    `stops_all` says why no further run can be written either, empty as a rule.
    """

    state: str
    error: str | None
    ran: bool
    stops_all: str = ""


def execute(
    config: RunConfig, study: str, study_folder: Path, tell: Tell, *, redo_failed: bool = False, force: bool = False
) -> Result:
    """Train one run in `study_folder/<run id>`, unless it is over or another process has it.

    An exception of the training becomes the state `failed` with its traceback, not an exception here. A signal
    (see `stop_on_signals`) leaves a checkpoint and the state `interrupted`, and raises KeyboardInterrupt. A run that
    was interrupted, or failed, goes on from its last checkpoint, or starts over where there is none.

    Raises InputError if device, data or the yardstick is unavailable, if the device lacks the run's precision, and if
    the checkpoint was trained with another configuration, data set or version of the program; then nothing is changed.
    With `force` the run is resumed all the same, and its attempt records the difference.
    """
    keep_memory()
    check_precision(config.precision, device := resolve_device(config.device))
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # with it cuBLAS gives the same bits twice
    data = load(config.dataset, config.data_dir).to(device)
    load_yardstick(config.dataset, config.data_dir, say=lambda text: tell("say", text))
    mode = resolve_mode(config.wandb)
    record = Record(study_folder / config.run_id)
    with record.claim() as mine:
        if not mine:
            return Result("running", None, ran=False)
        status = _repaired(record.status(claimed=True), record, config, tell)
        if status["state"] in RESULTS or (status["state"] == "failed" and not redo_failed):
            if status["state"] in RESULTS and under_agent():  # the agent's server waits for this cell's numbers
                _mirror(config, study, record, mode, status, tell)
            return Result(status["state"], status.get("error"), ran=False)
        return _Attempt(config, study, record, data, mode, status, tell, force).run()


def _repaired(status: dict[str, Any], record: Record, config: RunConfig, tell: Tell) -> dict[str, Any]:
    """The status; where its file is not readable, what the checkpoint shows that the run is."""
    if "damaged" not in status:
        return status
    aside = record.set_status_aside()
    note = f"warning: {status['damaged']}; it is kept as {aside.name}"
    if over := checkpoint.outcome(record, config):
        status = over | {"attempts": []}
        record.write_status(status)
        note += f", and the run's final weights say that it is {status['state']}"
    tell("say", note)
    return {key: value for key, value in status.items() if key != "damaged"}


def _mirror(config: RunConfig, study: str, record: Record, mode: str, status: dict[str, Any], tell: Tell) -> None:
    """Send the record of a run that is over to W&B."""
    summary = _summary(status, record, record.folder.parent)
    tracker = Tracker(
        config, study, record.folder.parent, mode, [study], lambda text: tell("say", f"warning: {text}"),
        record.history(), summary,
    )  # fmt: skip
    tracker.finish(status["state"], summary, record)


def _summary(status: dict[str, Any], record: Record, study_folder: Path) -> dict[str, Any]:
    """What W&B's summary says of a run: the end state, how samples are judged, and what reading back needs."""
    attempt = status["attempts"][-1] if status["attempts"] else {}
    kept = {key: value for key, value in status.items() if key not in ("traceback", "wandb_url")}
    study_file = study_folder / "study.yaml"
    return {
        **{key: status.get(key) for key in ("state", "error", "metrics_sha256")},
        **{key: attempt.get(key) for key in ("wall_seconds", "peak_memory_bytes")},
        "device": attempt.get("device_name"),
        "status": kept,
        "protocol": record.protocol(),
        "study_file": study_file.read_text(encoding="utf-8") if study_file.exists() else "",
    }


class _Attempt:
    """One attempt at a run whose folder is claimed."""

    def __init__(
        self,
        config: RunConfig,
        study: str,
        record: Record,
        data: ImageData,
        mode: str,
        before: dict,
        tell: Tell,
        force: bool,
    ) -> None:
        self._config, self._record, self._data, self._tell = config, record, data, tell
        device = data.images.device

        def warn(text: str, once: str = "") -> None:
            tell("say", f"warning: {config.run_id}: {text}", once)

        self._resume, differences = checkpoint.latest(record, config, data.digest, device, warn)
        if differences and not force:
            raise InputError(
                f"{config.run_id} cannot go on as what it was: {'; '.join(differences)}. Go back to that, move "
                f"{record.folder} out of the way to train it anew, or use --force to go on all the same"
            )
        self._start = time.perf_counter()
        self._attempt = config.execution() | {
            "device": str(device),
            "threads": config.threads or torch.get_num_threads(),
            "wandb": mode,
            "device_name": device_name(device),
            "torch": torch.__version__,
            "exact": True,
            "resumed_from": self._resume["step"] if self._resume else 0,
            "started": _now(),
            "ended": None,
            "evaluation_seconds": 0.0,
        }
        if self._resume:
            self._compare_execution(before, differences, warn)
        self._status: dict[str, Any] = {
            "state": "running",
            "step": self._attempt["resumed_from"],
            "error": None,
            "attempts": [*before["attempts"], self._attempt],
            **git_state(),
            "training_version": TRAINING_VERSION,
        }
        self._again = before["state"] if before["state"] != "missing" else ""
        tags = [study, *([tag] if (tag := git_tag()) else [])]
        warn_of_wandb = functools.partial(warn, once="W&B")  # of a whole sweep
        self._open_tracker = functools.partial(Tracker, config, study, record.folder.parent, mode, tags, warn_of_wandb)
        self._tracker: Tracker | None = None
        self._real: Path | None = None  # until it is logged
        self._progress_time = 0.0

    def _compare_execution(self, before: dict, differences: list[str], warn: Callable[[str], None]) -> None:
        """Whether the run, resumed, still has the bits of one that was never stopped: `exact` of the attempt."""
        then, now = before["attempts"][-1] if before["attempts"] else {}, self._attempt
        changed = [
            f"{name} was {then.get(name)} and is {now[name]}"
            for name in ("device_name", "threads", "memory_format", "torch")
            if then.get(name) != now[name]
        ]
        if changed:
            warn(f"goes on under other conditions, so not bit for bit: {'; '.join(changed)}")
        if differences:
            now["forced"] = differences
            warn(f"goes on by force: {'; '.join(differences)}")
        now["exact"] = bool(then.get("exact", True)) and not changed and not differences

    def run(self) -> Result:
        how = f"goes on from step {self._resume['step']:,}" if self._resume else "starts over"
        note = f"was {self._again} and {how}" if self._again else ""
        self._tell("start", self._config.run_id, self._config.steps, note, self._attempt["resumed_from"])
        try:
            if self._resume:
                self._record.cut_back(self._config, self._resume["step"], self._resume["metrics_bytes"])
            else:
                self._record.start_over(self._config)
            self._record.write_status(self._status)
            outcome = self._train()
            self._status |= self._record.digests()
        except KeyboardInterrupt as stop:
            self._end("interrupted", self._record.last_step(), f"stopped by a signal ({stop})")
            raise
        except BaseException as error:  # whatever it was: the other runs of the study go on
            self._status["traceback"] = traceback.format_exc()
            result = self._end("failed", self._record.last_step(), explain(error, self._config))
            return result._replace(stops_all=nothing_can_be_written(error))
        return self._end(outcome.state, outcome.step, outcome.reason or None)

    def _train(self) -> Outcome:
        if self._config.threads:  # first of all: the last bits of every number depend on it
            torch.set_num_threads(self._config.threads)
        self._record.write_protocol(Evaluation(self._config, self._data).protocol)
        self._tracker = self._open_tracker(
            past=self._record.history() if self._resume else [],
            summary=_summary(self._status, self._record, self._record.folder.parent),
        )
        self._real = self._record.write_sample("real.png", grid_png(normalized(self._data.images[:N_SAMPLES])))
        if self._data.images.is_cuda:
            torch.cuda.reset_peak_memory_stats(self._data.images.device)
        with _stop.gracefully():
            return train(self._config, self._data, self._log, self._save, self._resume, self._due)

    def _log(self, row: dict[str, Any], samples: Tensor | None) -> None:
        images = {}
        self._attempt["evaluation_seconds"] += row.get("time/evaluation_seconds", 0.0)
        if samples is not None:
            images["samples"] = self._record.write_sample(self._record.sample_path(row["step"]).name, grid_png(samples))
        if self._real:
            images["real"], self._real = self._real, None
        self._record.append(row)
        assert self._tracker
        self._tracker.log(row, images)
        if (now := time.perf_counter()) - self._progress_time > 0.2 or row["step"] == self._config.steps:
            self._progress_time = now
            shown = {key: row[key] for key in ("loss/d", "loss/g", "time/images_per_second") if key in row}
            self._tell("progress", self._config.run_id, row["step"], shown)

    def _due(self, step: int) -> bool:
        return bool(_stop.requested) or step % self._config.checkpoint_every == 0

    def _save(self, state: dict[str, Any]) -> None:
        checkpoint.write(self._record, state, self._config, self._data.digest)
        if _stop.requested and "streams" in state:  # final weights are no reason to stop: the run is over
            raise KeyboardInterrupt(_stop.requested)

    def _end(self, state: str, step: int, error: str | None) -> Result:
        seconds = time.perf_counter() - self._start
        self._attempt |= {
            "ended": _now(),
            "wall_seconds": seconds,
            "peak_memory_bytes": self._peak_memory_bytes(),
        }
        self._status |= {"state": state, "step": step, "error": error}
        self._note_tracker()
        self._record.write_status(self._status)
        if state in RESULTS:
            self._record.previous_checkpoint_path.unlink(missing_ok=True)
        if self._tracker:
            summary = _summary(self._status, self._record, self._record.folder.parent)
            self._tracker.finish(state, summary, self._record if state in RESULTS else None)
            if self._note_tracker():
                self._record.write_status(self._status)
        self._tell("end", self._config.run_id, state, step, error or "", seconds)
        return Result(state, error, ran=True)

    def _note_tracker(self) -> bool:
        """What has become of W&B, which answers when it likes; whether that is news."""
        if not (tracker := self._tracker):
            return False
        before = dict(self._attempt), self._status.get("wandb_url")
        self._attempt |= {"wandb": tracker.mode, "wandb_error": tracker.error}
        self._status |= {"wandb_url": tracker.url} if tracker.url else {}
        return before != (self._attempt, self._status.get("wandb_url"))

    def _peak_memory_bytes(self) -> int:
        """Of the device's allocator on CUDA; on a CPU the largest resident size of the process so far."""
        device = self._data.images.device
        if device.type == "cuda":
            return torch.cuda.max_memory_allocated(device)
        return peak_memory_bytes()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
