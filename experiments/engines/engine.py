"""What an engine is: it takes jobs, and says what becomes of them."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import NamedTuple, Protocol

from experiments.advice import nothing_can_be_written
from experiments.engines.server import StepsLost, Where
from experiments.machine import limit_memory
from experiments.messages import Ended, Message, Tell
from experiments.record import Record, State
from experiments.run import Policy, execute
from sngan.config import InputError, RunConfig


class Job(NamedTuple):
    """What an engine hands to a worker: a run, and how to take it."""

    config: RunConfig
    study: str
    folder: Path
    policy: Policy
    memory_fraction: float  # of a CUDA device's memory
    where: Where | None = None  # its steps are made, if not by the worker

    @property
    def record(self) -> Record:
        return Record(self.folder / self.config.run_id)


class Done(NamedTuple):
    """A worker has no more to do with a job. `stops_all`: why no further run can be written either, or nothing."""

    state: State
    stops_all: str


class Died(NamedTuple):
    """A worker ended in the middle of its job."""

    cause: str


Event = Message | Done | Died


class Engine(Protocol):
    """Where runs are trained. `sweep` submits jobs while there is capacity, and polls for what becomes of them."""

    retries_dead_workers: bool  # by itself, so that `Died` is final

    def has_capacity(self) -> bool:
        """Whether it takes a further job now."""
        ...

    def is_busy(self) -> bool: ...

    def submit(self, job: Job) -> None: ...

    def poll(self, seconds: float) -> list[tuple[Job, Event]]:
        """What happened since, job by job; waits for it at most this time."""
        ...

    def stop(self) -> None:
        """End all workers: the idle leave at once, the busy leave their run `interrupted`."""
        ...


def train_job(job: Job, tell: Tell) -> Done | Died:
    """What a worker of any engine does with a job. Never raises but KeyboardInterrupt, after a signal."""

    def failed(error: str) -> None:
        tell(Ended(job.config.run_id, State.FAILED, 0, error, 0.0))

    try:
        if not job.where:
            limit_memory(job.config.device, job.memory_fraction)
        result = execute(job.config, job.study, job.folder, tell, job.policy, job.where)
        return Done(result.state, result.stops_all)
    except StepsLost as lost:
        return Died(str(lost))
    except InputError as error:
        failed(str(error))
    except OSError as error:  # the record itself could not be written
        failed(str(error))
        return Done(State.FAILED, nothing_can_be_written(error))
    except Exception:
        failed(traceback.format_exc())
    return Done(State.FAILED, "")
