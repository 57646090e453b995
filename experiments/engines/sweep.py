"""Planned minus finished -> an engine that trains run after run: worker processes here, or Ray."""

from __future__ import annotations

import dataclasses
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Container
from pathlib import Path

from experiments.display import Display
from experiments.engines.engine import Died, Done, Engine, Event, Job
from experiments.messages import Ended, Said
from experiments.record import Record, State, shown_state
from experiments.run import Policy
from experiments.study import Study, check_primary, for_wandb, is_for_wandb, read
from sngan.config import Execution, InputError, RunConfig
from sngan.files import read_within, write_atomically

_POLL_SECONDS = 1.0


def sweep(
    study: Study, folder: Path, display: Display, open_engine: Callable[[int], Engine], execution: Execution,
    policy: Policy, memory_fraction: float = 1.0, frozen: Container[str] = (),
) -> Counter[str]:  # fmt: skip
    """Train what the study's folder lacks and return how many of its runs are in each state, or were `refused`.

    Finished and diverged runs are results and left alone; so are the `frozen` ones, which are kept elsewhere. A run
    whose worker dies is retried, at most `policy.retries` times; so are failed ones with `policy.redo_failed`.
    `execution` is that of every run, but for the device, which the engine gives to each worker. `open_engine(jobs)` is
    called once, unless there is nothing to do. Runs that another process has are waited for, and taken over should it
    die. If one run cannot be written because the disk is full, no further one is started.
    KeyboardInterrupt stops the workers, which leave their runs `interrupted`, and is raised on.
    """
    _keep_study(study, folder)
    refused = 0
    if todo := pending(study, folder, policy, frozen):
        configs = [config.under(execution) for config in todo]
        jobs = [Job(config, study.name, folder, policy, memory_fraction) for config in configs]
        engine = open_engine(len(jobs))
        try:
            refused = _Sweep(jobs, display, engine, policy).run()
        finally:
            engine.stop()
    records = {config.run_id: Record(folder / config.run_id) for config in study.configs}
    account = Counter(shown_state(record.status(), run_id in frozen) for run_id, record in records.items())
    return account + Counter(refused=refused)


def pending(study: Study, folder: Path, policy: Policy, frozen: Container[str] = ()) -> list[RunConfig]:
    """The study's runs that have not ended, here or where they are `frozen`, in its order."""
    ended = {state for state in State if state.is_result} | (set() if policy.redo_failed else {State.FAILED})
    left = [config for config in study.configs if config.run_id not in frozen]
    return [config for config in left if Record(folder / config.run_id).status()["state"] not in ended]


def shard(study: Study, text: str) -> Study:
    """`i/n`: the i-th of n parts of a study's runs, counted from 0; every run is in one. Raises InputError."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    i, n = map(int, found.groups()) if found else (0, 0)
    if not i < n:
        raise InputError(f"--shard {text!r}: expected i/n with i from 0 to n - 1, such as 0/4 for the first of four")
    return dataclasses.replace(study, configs=study.configs[i::n])


def check_images(study: Study, folder: Path) -> None:
    """Raises InputError if a user's own images are no longer what they were when this study was launched there."""
    path = folder / "study.yaml"
    if not study.text or not path.exists():
        return
    try:
        before = {config.data_path: config.data_sha256 for config in read(path).configs if config.data_path}
    except InputError:  # of a program that knew other fields, or damaged
        return
    for config in study.configs:
        if before.get(config.data_path, config.data_sha256) != config.data_sha256:
            raise InputError(
                f"{config.data_path} has changed since the study {study.name} was launched, whose runs are in "
                f"{folder}. Bring back what it was, or give the study another name to train on what it is now"
            )


def _keep_study(study: Study, folder: Path) -> None:
    """study.yaml as launched; an earlier version of it is kept beside. Single runs have none.

    wandb-sweep.yaml, where that is no sweep file of W&B, is the same in W&B's words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not study.text:
        return
    path = folder / "study.yaml"
    if is_for_wandb(study):
        (folder / "wandb-sweep.yaml").unlink(missing_ok=True)  # of an earlier version
    else:
        write_atomically(folder / "wandb-sweep.yaml", for_wandb(study))
    if not path.exists():
        write_atomically(path, study.text)
    elif read_within(path, folder) != study.text.encode():
        try:
            before = read(path)
        except InputError:  # of a program that knew other fields, or damaged
            before = study
        check_primary(before, study, str(folder))
        check_images(study, folder)
        path.rename(path.with_name(f"study-until-{time.strftime('%Y%m%dT%H%M%S')}.yaml"))
        write_atomically(path, study.text)


class _Sweep:
    def __init__(self, jobs: list[Job], display: Display, engine: Engine, policy: Policy) -> None:
        self._queue, self._display, self._engine, self._policy = deque(jobs), display, engine, policy
        self._elsewhere: list[Job] = []  # runs that another process has
        self._elsewhere_told = False
        self._refused: set[str] = set()
        self._deaths: Counter[str] = Counter()
        failed_before = [job.config.run_id for job in jobs if job.record.status()["state"] == State.FAILED]
        self._tries: Counter[str] = Counter(failed_before)

    def run(self) -> int:
        """Returns the number of runs that could not be taken as they are, so that their records say nothing of it."""
        while self._queue or self._elsewhere or self._engine.is_busy():
            while self._queue and self._engine.has_capacity():
                self._engine.submit(self._queue.popleft())
            for job, event in self._engine.poll(_POLL_SECONDS):
                self._handle(job, event)
            self._look_elsewhere()
        return len(self._refused)

    def _handle(self, job: Job, event: Event) -> None:
        match event:
            case Died(cause):
                self._handle_dead_worker(job, cause)
            case Done(state, stops_all):
                self._handle_done(job, state, stops_all)
            case Ended(state=State.FAILED):
                self._display.show(event, counts=not self._retries_failed(job))
            case _:
                self._display.show(event)

    def _retries_failed(self, job: Job) -> bool:
        return self._policy.redo_failed and self._tries[job.config.run_id] < self._policy.retries

    def _handle_done(self, job: Job, state: State, stops_all: str) -> None:
        if state is State.RUNNING:
            self._elsewhere.append(job)
        if state is State.FAILED and job.record.status()["state"] != State.FAILED:
            self._refused.add(job.config.run_id)
        if stops_all and self._queue:
            self._queue.clear()
            self._display.show(Said(f"no further run is started: {stops_all} ({job.folder})"))
        elif state is State.FAILED and self._retries_failed(job) and not stops_all:
            self._tries[job.config.run_id] += 1
            self._queue.append(job)

    def _handle_dead_worker(self, job: Job, cause: str) -> None:
        """Its run is interrupted, and retried unless this happened too often."""
        record = job.record
        self._deaths[record.run_id] += 1
        retry = self._deaths[record.run_id] <= self._policy.retries and not self._engine.retries_dead_workers
        error = f"its worker process died ({cause}; {'it is retried' if retry else 'not retried'})"
        with record.claim() as mine:
            if mine and (status := record.status(claimed=True))["state"] == State.INTERRUPTED:
                record.write_status(status | {"error": error})
        self._display.show(Ended(record.run_id, State.INTERRUPTED, record.last_step(), error, 0.0), counts=not retry)
        if retry:
            self._queue.append(job)

    def _look_elsewhere(self) -> None:
        for job in list(self._elsewhere):
            if not job.record.is_claimed():
                self._elsewhere.remove(job)
                self._queue.append(job)  # ended, or orphaned: the worker that gets it finds out
                self._elsewhere_told = False
        if self._elsewhere and not self._elsewhere_told and not self._engine.is_busy():
            names = ", ".join(job.config.run_id for job in self._elsewhere)
            self._display.show(Said(f"waiting for runs that another process has: {names}"))
            self._elsewhere_told = True
