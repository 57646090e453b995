"""Planned minus finished -> an engine that trains run after run: worker processes here, or Ray."""

from __future__ import annotations

import dataclasses
import re
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from experiments.display import Display
from experiments.record import RESULTS, Record, write_atomically
from experiments.study import Study, check_primary, read
from sngan.config import InputError, RunConfig

_POLL_SECONDS = 1.0


class Job(NamedTuple):
    """What an engine hands to a worker: a run, and how to take it."""

    config: RunConfig
    study: str
    folder: Path
    redo_failed: bool
    force: bool
    memory_fraction: float  # of a CUDA device's memory


class Engine(Protocol):
    """Where runs are trained. `sweep` gives it jobs while it is free, and hears what becomes of them."""

    retries_dead_workers: bool  # by itself, so that `died` is final

    def free(self) -> bool:
        """Whether it takes a further job now."""
        ...

    def busy(self) -> bool: ...

    def give(self, job: Job) -> None: ...

    def hear(self, seconds: float) -> list[tuple[Job, tuple[Any, ...]]]:
        """What jobs said since, after at most this time: ("over", state, stops_all), ("died", cause), or to Display."""
        ...

    def stop(self) -> None:
        """End all workers: the idle leave at once, the busy leave their run `interrupted`."""
        ...


def sweep(
    study: Study, folder: Path, display: Display, open_engine: Callable[[int], Engine], execution: dict[str, Any],
    redo_failed: bool = False, force: bool = False, retries: int = 1, memory_fraction: float = 1.0,
) -> Counter[str]:  # fmt: skip
    """Train what the study's folder lacks and return how many of its runs are in each state, or were `refused`.

    Finished and diverged runs are results and left alone. A run whose worker dies is tried again, at most `retries`
    times; so are failed ones where `redo_failed`. `force` as in `execute`. `execution` are execution fields for every
    run; `open_engine(jobs)` is called once, unless there is nothing to do. Runs that another process has are waited
    for, and taken over should it die. Where one run cannot be written for lack of room, no further one is started.
    KeyboardInterrupt stops the workers, which leave their runs `interrupted`, and is raised on.
    """
    _keep_study(study, folder)
    refused = 0
    if todo := pending(study, folder, redo_failed):
        options = {"redo_failed": redo_failed, "force": force, "memory_fraction": memory_fraction}
        jobs = [Job(dataclasses.replace(c, **execution), study.name, folder, **options) for c in todo]
        engine = open_engine(len(jobs))
        try:
            refused = _Sweep(jobs, display, engine, retries).run()
        finally:
            engine.stop()
    account = Counter(Record(folder / config.run_id).status()["state"] for config in study.configs)
    return account + Counter(refused=refused)


def pending(study: Study, folder: Path, redo_failed: bool = False) -> list[RunConfig]:
    """The study's runs that are not over, in its order."""
    over = {*RESULTS} if redo_failed else {*RESULTS, "failed"}
    return [config for config in study.configs if Record(folder / config.run_id).status()["state"] not in over]


def shard(study: Study, text: str) -> Study:
    """`i/n`: the i-th of n parts of a study's runs, counted from 0; every run is in one. Raises InputError."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    i, n = map(int, found.groups()) if found else (0, 0)
    if not i < n:
        raise InputError(f"--shard {text!r}: expected i/n with i from 0 to n - 1, such as 0/4 for the first of four")
    return dataclasses.replace(study, configs=study.configs[i::n])


def _keep_study(study: Study, folder: Path) -> None:
    """study.yaml as launched; an earlier version of it is kept beside. Single runs have none."""
    folder.mkdir(parents=True, exist_ok=True)
    if not study.text:
        return
    path = folder / "study.yaml"
    if not path.exists():
        write_atomically(path, study.text)
    elif path.read_text(encoding="utf-8") != study.text:
        try:
            before = read(path)
        except InputError:  # of a program that knew other fields, or damaged
            before = study
        check_primary(before, study, str(folder))
        path.rename(path.with_name(f"study-until-{time.strftime('%Y%m%dT%H%M%S')}.yaml"))
        write_atomically(path, study.text)


def train_job(job: Job, tell: Callable[..., None]) -> tuple[str, str]:
    """What a worker of any engine does with a job: state of its run, and why nothing else can run, if so.

    `tell` as in `execute`. Never raises but KeyboardInterrupt, after a signal.
    """
    from experiments.run import execute, limit_memory, nothing_can_be_written

    run_id = job.config.run_id
    try:
        limit_memory(job.config.device, job.memory_fraction)
        result = execute(job.config, job.study, job.folder, tell, redo_failed=job.redo_failed, force=job.force)
        return result.state, result.stops_all
    except InputError as error:
        tell("end", run_id, "failed", 0, str(error), 0.0)
    except OSError as error:  # the record itself could not be written
        tell("end", run_id, "failed", 0, str(error), 0.0)
        return "failed", nothing_can_be_written(error)
    except Exception:
        tell("end", run_id, "failed", 0, traceback.format_exc(), 0.0)
    return "failed", ""


class _Sweep:
    def __init__(self, jobs: list[Job], display: Display, engine: Engine, retries: int) -> None:
        self._queue, self._display, self._engine, self._retries = deque(jobs), display, engine, retries
        self._elsewhere: list[Job] = []  # runs that another process has
        self._elsewhere_told = False
        self._refused: set[str] = set()
        self._deaths: Counter[str] = Counter()
        self._tries: Counter[str] = Counter(j.config.run_id for j in jobs if _record(j).status()["state"] == "failed")

    def run(self) -> int:
        """Returns the number of runs that could not be taken as they are, so that their records say nothing of it."""
        while self._queue or self._elsewhere or self._engine.busy():
            while self._queue and self._engine.free():
                self._engine.give(self._queue.popleft())
            for job, message in self._engine.hear(_POLL_SECONDS):
                self._handle(job, message)
            self._look_elsewhere()
        return len(self._refused)

    def _handle(self, job: Job, message: tuple[Any, ...]) -> None:
        method, *arguments = message
        run_id = job.config.run_id
        if method == "died":
            self._bury(job, *arguments)
        elif method == "end" and arguments[1] == "failed" and job.redo_failed and self._tries[run_id] < self._retries:
            self._display.end(*arguments, counts=False)
        elif method != "over":
            getattr(self._display, method)(*arguments)
        else:
            state, stops_all = arguments
            if state == "running":
                self._elsewhere.append(job)
            if state == "failed" and _record(job).status()["state"] != "failed":
                self._refused.add(run_id)
            if stops_all and self._queue:
                self._queue.clear()
                self._display.say(f"no further run is started: {stops_all} ({job.folder})")
            elif state == "failed" and job.redo_failed and self._tries[run_id] < self._retries and not stops_all:
                self._tries[run_id] += 1
                self._queue.append(job)

    def _bury(self, job: Job, cause: str) -> None:
        """A worker died: its run is interrupted, and tried again unless this happened too often."""
        record = _record(job)
        self._deaths[record.run_id] += 1
        again = self._deaths[record.run_id] <= self._retries and not self._engine.retries_dead_workers
        error = f"its worker process died ({cause}; {'it is tried again' if again else 'not tried again'})"
        with record.claim() as mine:
            if mine and (status := record.status(claimed=True))["state"] == "interrupted":
                record.write_status(status | {"error": error})
        self._display.end(record.run_id, "interrupted", record.last_step(), error, 0.0, counts=not again)
        if again:
            self._queue.append(job)

    def _look_elsewhere(self) -> None:
        for job in list(self._elsewhere):
            if not _record(job).is_claimed():
                self._elsewhere.remove(job)
                self._queue.append(job)  # over, or orphaned: the worker that gets it finds out
                self._elsewhere_told = False
        if self._elsewhere and not self._elsewhere_told and not self._engine.busy():
            names = ", ".join(job.config.run_id for job in self._elsewhere)
            self._display.say(f"waiting for runs that another process has: {names}")
            self._elsewhere_told = True


def _record(job: Job) -> Record:
    return Record(job.folder / job.config.run_id)
