"""One run inside its folder: claimed, trained, recorded, mirrored to W&B, and ended in a written state."""

from __future__ import annotations

import functools
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from experiments import checkpoint, signals
from experiments.advice import explain, nothing_can_be_written
from experiments.engines.server import Remote, StepsLost, Where
from experiments.images import grid_png
from experiments.machine import (
    device_name,
    git_state,
    git_tag,
    keep_memory,
    peak_memory_bytes,
    prepare_cuda,
    resolve_device,
)
from experiments.messages import Ended, Entered, Progressed, Said, Started, Tell
from experiments.record import Record, State
from experiments.tracking.client import resolve_mode, under_agent
from experiments.tracking.sending import send, summary_of
from experiments.tracking.source import snapshot
from experiments.tracking.tracker import Tracker
from sngan.config import TRAINING_VERSION, InputError, RunConfig
from sngan.data import ImageData, normalized
from sngan.data import load_images as load
from sngan.datasets import GIVEN
from sngan.evaluate import Evaluation, check_enough
from sngan.judges import load_judge
from sngan.measure import N_SAMPLES
from sngan.precision import check_precision
from sngan.slot import Ahead
from sngan.train import Here, Outcome, Steps, train


@dataclass(frozen=True)
class Policy:
    """What becomes of runs that did not end well."""

    redo_failed: bool = False  # failed runs are trained again
    force: bool = False  # a checkpoint of another configuration, data set or version is resumed all the same
    retries: int = 1  # per run: if its worker dies and, with `redo_failed`, if it fails


class Result(NamedTuple):
    """State of a run after `execute`; `ran` is False if it had ended before, or belongs to another process.

    `stops_all` says why no further run can be written either, empty as a rule.
    """

    state: State
    error: str | None
    ran: bool
    stops_all: str = ""


def execute(
    config: RunConfig, study: str, study_folder: Path, tell: Tell, policy: Policy = Policy(), where: Where | None = None
) -> Result:
    """Train one run in `study_folder/<run id>`, unless it has ended or another process has it.

    An exception of the training becomes the state `failed` with its traceback, not an exception here. A signal
    (see `signals.stop_on_signals`) leaves a checkpoint and the state `interrupted`, and raises KeyboardInterrupt. A run
    that was interrupted, or failed, resumes from its last checkpoint, or starts over if there is none.

    Raises InputError if device, data or what judges samples is unavailable, if the device lacks the run's precision,
    and if the checkpoint was trained with another configuration, data set or version of the program; then nothing is
    changed.
    With `policy.force` the run is resumed all the same, and its attempt records the difference.

    `where`: the process that makes the steps; if it ends, the run is `interrupted`, and StepsLost is raised. Default:
    they are made here, on the device of `config`.
    """
    keep_memory()
    device = torch.device("cpu") if where else resolve_device(config.device)
    check_precision(config.precision, where.device if where else device)
    if device.type == "cuda":
        prepare_cuda()
    prepared(config, lambda text: tell(Said(text)))
    data = load(config).to(device)
    mode = resolve_mode(config.wandb)
    record = Record(study_folder / config.run_id)
    with record.claim() as mine:
        if not mine:
            return Result(State.RUNNING, None, ran=False)
        status = _as_it_ended(record.status(claimed=True), record, config, tell)
        state = State(status["state"])
        if state.is_result or (state is State.FAILED and not policy.redo_failed):
            if state.is_result and under_agent():  # the agent's server waits for this cell's numbers
                send(config, study, record, mode, status, lambda text: tell(Said(f"warning: {text}")))
            return Result(state, status.get("error"), ran=False)
        return _Attempt(config, study, record, data, mode, status, tell, policy, where).run()


def prepared(config: RunConfig, say: Callable[[str], None]) -> None:
    """The images are at hand and enough, and so is what judges samples: downloaded, decoded or trained if need be.

    Raises InputError if they cannot be.
    """
    data = load(config, say)
    if config.dataset in GIVEN:  # of others a run says so, as it fails
        check_enough(data, config.batch_size, config.data_path)
    load_judge(config, data, say=say)


def _as_it_ended(status: dict[str, Any], record: Record, config: RunConfig, tell: Tell) -> dict[str, Any]:
    """The status; if its file is lost, or contradicts the final weights, what these say."""
    if "damaged" not in status:
        return status
    aside = record.set_status_aside()
    note = status["damaged"] + (f"; it is kept as {aside.name}" if aside else "")
    if ended := checkpoint.outcome(record, config):
        status = ended | {"attempts": status["attempts"]}
        record.write_status(status)
        note += f"; the run's final weights say that it is {status['state']}"
    tell(Said(f"warning: {note}"))
    return status


class _Attempt:
    """One attempt at a run whose folder is claimed."""

    def __init__(
        self, config: RunConfig, study: str, record: Record, data: ImageData, mode: str, before: dict[str, Any],
        tell: Tell, policy: Policy, where: Where | None,
    ) -> None:  # fmt: skip
        self._config, self._record, self._data, self._tell, self._where = config, record, data, tell, where
        self._resume, differences = checkpoint.latest(record, config, data.digest, data.images.device, self._warn)
        if differences and not policy.force:
            raise InputError(
                f"{config.run_id} cannot resume unchanged: {'; '.join(differences)}. Restore what it was, move "
                f"{record.folder} out of the way to train it from the start, or use --force to resume all the same"
            )
        self._attempt = self._conditions(mode)
        if self._resume:
            self._compare_conditions(before, differences)
        self._status: dict[str, Any] = {
            "state": State.RUNNING,
            "step": self._attempt["resumed_from"],
            "error": None,
            "attempts": [*before["attempts"], self._attempt],
            **git_state(),
            "training_version": TRAINING_VERSION,
        }
        self._before = before["state"]
        # rows without a checkpoint that fits are those of a run that had none yet, or that was damaged
        weights = (record.checkpoint_path, record.previous_checkpoint_path)
        self._is_worth_keeping = (
            "damaged" in before or self._before is State.MISSING or any(path.exists() for path in weights)
        )
        tags = [study, *([tag] if (tag := git_tag()) else [])]
        folder = record.folder.parent
        self._open_tracker = functools.partial(
            Tracker, config, study, folder, mode, tags, self._warn_of_wandb,
            code=snapshot(folder / "wandb" / "code") if mode != "disabled" else None,
        )  # fmt: skip
        self._tracker: Tracker | None = None
        self._real: Path | None = None  # until it is logged
        self._steps: Remote | Ahead | None = None  # None: not yet training
        self._evaluations = set(config.evaluation_steps())
        self._progress_time = 0.0
        self._start = time.perf_counter()

    def _warn(self, text: str, once: str = "") -> None:
        self._tell(Said(f"warning: {self._config.run_id}: {text}", once))

    def _warn_of_wandb(self, text: str) -> None:
        """Of a whole sweep once for each of the two commands that send what is missing."""
        self._warn(text, once=f"W&B {'--send-wandb' in text}")

    def _conditions(self, mode: str) -> dict[str, Any]:
        """What the record says of this attempt, as far as it is known at its start."""
        device = self._data.images.device
        return self._config.execution() | {
            "device": self._where.device if self._where else str(device),
            "threads": self._config.threads or torch.get_num_threads(),
            "wandb": mode,
            "device_name": self._where.device_name if self._where else device_name(device),
            "evaluated_on": device.type,
            "program": None if self._where or device.type == "cuda" else "eager",  # None: until its steps begin
            "torch": torch.__version__,
            "exact": True,
            "resumed_from": self._resume["step"] if self._resume else 0,
            "started": _now(),
            "ended": None,
            "evaluation_seconds": 0.0,
        }

    def _compare_conditions(self, before: dict[str, Any], differences: list[str]) -> None:
        """Whether the run, resumed, still has the bits of one that was never stopped: `exact` of the attempt."""
        then, now = before["attempts"][-1] if before["attempts"] else {}, self._attempt
        changed = [
            f"{name} was {then.get(name)} and is {now[name]}"
            for name in ("device_name", "threads", "memory_format", "torch", "evaluated_on")
            if then.get(name, now[name] if name == "evaluated_on" else None) != now[name]  # older ones do not say
        ]
        if changed:
            self._warn(f"resumes under other conditions, so not bit for bit: {'; '.join(changed)}")
        if differences:
            now["forced"] = differences
            self._warn(f"resumes by force: {'; '.join(differences)}")
        now["exact"] = bool(then.get("exact", True)) and not changed and not differences

    def run(self) -> Result:
        step = self._attempt["resumed_from"]
        how = f"resumes from step {step:,}" if self._resume else "starts over"
        note = "" if self._before == State.MISSING else f"was {self._before} and {how}"
        self._tell(Started(self._config.run_id, self._config.steps, note, step))
        try:
            if self._resume:
                self._record.cut_back(self._config, step, self._resume["rows"])
            elif aside := self._record.start_over(self._config, self._is_worth_keeping):
                self._warn(f"what was there is kept in {aside}")
            self._record.write_status(self._status)
            outcome = self._train()
            self._status |= self._record.digests()
        except KeyboardInterrupt as stop:
            self._end(State.INTERRUPTED, self._record.last_step(), signals.stopped_by(signals.cause() or str(stop)))
            raise
        except StepsLost as lost:
            self._end(State.INTERRUPTED, self._record.last_step(), str(lost), tell=False)  # whoever catches it does
            raise
        except BaseException as error:  # whatever it was: the other runs of the study continue
            self._status["traceback"] = traceback.format_exc()
            result = self._end(State.FAILED, self._record.last_step(), explain(error, self._config))
            return result._replace(stops_all=nothing_can_be_written(error))
        return self._end(State(outcome.state), outcome.step, outcome.reason or None)

    def _train(self) -> Outcome:
        if self._config.threads:  # first of all: the last bits of every number depend on it
            torch.set_num_threads(self._config.threads)
        self._record.write_protocol(Evaluation(self._config, self._data).protocol)
        self._tracker = self._open_tracker(
            recorded=self._record.history,
            since=self._resume["step"] if self._resume else -1,
            summary=summary_of(self._status, self._record),
        )
        self._real = self._record.write_sample("real.png", grid_png(normalized(_some(self._data))))
        if self._where:
            self._steps = Remote(self._where, self._config, self._data)
        elif self._data.images.is_cuda:
            self._steps = Ahead(self._config, self._data)
        steps = _Announced(self._steps or Here(self._config, self._data), self._announce)
        with signals.gracefully():
            return train(self._config, self._data, self._log, self._save, self._resume, self._due, steps)

    def _announce(self, step: int) -> None:
        if step in self._evaluations:
            self._tell(Entered(self._config.run_id, "evaluating"))

    def _log(self, row: dict[str, Any], samples: Tensor | None) -> None:
        images = {}
        self._attempt["evaluation_seconds"] += row.get("time/evaluation_seconds", 0.0)
        if samples is not None:
            images["samples"] = self._record.write_sample(self._record.sample_path(row["step"]).name, grid_png(samples))
        if self._real:
            images["real"], self._real = self._real, None
        self._record.append(row)
        self._note_program()
        assert self._tracker
        self._tracker.log(row, images)
        if (now := time.perf_counter()) - self._progress_time > 0.2 or row["step"] == self._config.steps:
            self._progress_time = now
            shown = {key: row[key] for key in ("loss/d", "loss/g", "time/images_per_second") if key in row}
            self._tell(Progressed(self._config.run_id, row["step"], shown))

    def _note_program(self) -> None:
        """What makes the steps: `graph` or `eager`, and why."""
        program = self._steps.program if self._steps else None
        if program and self._attempt.get("program") != program.kind:
            self._attempt |= {"program": program.kind, **({"program_why": program.why} if program.why else {})}
            self._record.write_status(self._status)

    def _due(self, step: int) -> bool:
        return bool(signals.requested()) or step % self._config.checkpoint_every == 0

    def _save(self, state: dict[str, Any]) -> None:
        checkpoint.write(self._record, state, self._config, self._data.digest)
        if signals.requested() and "streams" in state:  # final weights are no reason to stop: the run has ended
            raise KeyboardInterrupt(signals.requested())

    def _end(self, state: State, step: int, error: str | None, tell: bool = True) -> Result:
        seconds = time.perf_counter() - self._start
        self._attempt |= {
            "ended": _now(),
            "wall_seconds": seconds,
            "peak_memory_bytes": (self._steps and self._steps.memory_bytes) or peak_memory_bytes(),
        }
        self._status |= {"state": state, "step": step, "error": error}
        self._note_tracker()
        self._record.write_status(self._status)
        if state.is_result:
            self._record.previous_checkpoint_path.unlink(missing_ok=True)
        if self._tracker:
            kept = self._record if state.is_result else None
            self._tracker.finish(state, summary_of(self._status, self._record), kept)
            if self._note_tracker():
                self._record.write_status(self._status)
        if tell:
            self._tell(Ended(self._config.run_id, state, step, error or "", seconds))
        return Result(state, error, ran=True)

    def _note_tracker(self) -> bool:
        """What has become of W&B, which answers when it likes; whether that is news."""
        if not (tracker := self._tracker):
            return False
        before = dict(self._attempt), self._status.get("wandb_url")
        self._attempt |= {"wandb": tracker.mode, "wandb_error": tracker.error}
        self._status |= {"wandb_url": tracker.url} if tracker.url else {}
        return before != (self._attempt, self._status.get("wandb_url"))


def _some(data: ImageData) -> Tensor:
    """Images (64 at most, C, side, side) to look at: the first, or from all over a user's own, which lie by class."""
    step = max(1, len(data.images) // N_SAMPLES) if data.name in GIVEN else 1
    return data.images[::step][:N_SAMPLES]


class _Announced:
    """Steps of which each is announced before it is looked at."""

    def __init__(self, steps: Steps, announce: Callable[[int], None]) -> None:
        self.run, self.settle, self.clock, self.end = steps.run, steps.settle, steps.clock, steps.end
        self._steps, self._announce = steps, announce

    def begin(self, at: int) -> Iterator[int]:
        for step in self._steps.begin(at):
            self._announce(step)
            yield step


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
