"""Planned minus finished -> worker processes on this machine that take run after run."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import Counter, deque
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from experiments.display import Display
from experiments.record import RESULTS, Record, write_atomically
from experiments.study import Study
from sngan.config import InputError, RunConfig

_POLL_SECONDS = 1.0
_STOP_SECONDS = 10.0  # a stopped worker writes `interrupted` and leaves
_TRIES = 2  # of a run whose worker process was killed, in one sweep


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def sweep(
    study: Study, folder: Path, display: Display, workers: int, devices: list[str], execution: dict[str, Any],
    redo_failed: bool = False, force: bool = False,
) -> Counter[str]:  # fmt: skip
    """Train what the study's folder lacks and return how many of its runs are in each state.

    Finished and diverged runs are results and left alone; failed ones are tried again where `redo_failed`. `force` as
    in `execute`.
    Worker i uses `devices[i % len(devices)]`; `execution` are further execution fields for every run. Runs that
    another process has are waited for, and taken over should it die. A run whose worker is killed is tried once
    more. KeyboardInterrupt stops the workers, which leave their runs `interrupted`, and is raised on.
    """
    _keep_study(study, folder)
    sweeper = _Sweep(study, folder, display, devices, execution, {"redo_failed": redo_failed, "force": force})
    try:
        sweeper.run(workers)
    finally:
        sweeper.stop()
    return Counter(Record(folder / config.run_id).status()["state"] for config in study.configs)


def pending(study: Study, folder: Path, redo_failed: bool = False) -> list[RunConfig]:
    """The study's runs that are not over, in its order."""
    over = {*RESULTS} if redo_failed else {*RESULTS, "failed"}
    return [config for config in study.configs if Record(folder / config.run_id).status()["state"] not in over]


def _keep_study(study: Study, folder: Path) -> None:
    """study.yaml as launched; an earlier version of it is kept beside. Single runs have none."""
    folder.mkdir(parents=True, exist_ok=True)
    if not study.text:
        return
    path = folder / "study.yaml"
    if path.exists() and path.read_text(encoding="utf-8") != study.text:
        path.rename(path.with_name(f"study-until-{time.strftime('%Y%m%dT%H%M%S')}.yaml"))
    write_atomically(path, study.text)


class _Worker:
    """A process, our end of its pipe, and the run that it has."""

    def __init__(self, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.device = device
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_work, args=(theirs,), daemon=True)
        # Ctrl-C reaches the whole process group, and a worker that is still importing would print a traceback
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited
        self.process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        self.job: RunConfig | None = None

    def give(self, config: RunConfig, study: str, folder: Path, options: dict[str, bool]) -> None:
        self.job = config
        self.connection.send((config, study, folder, options))


class _Sweep:
    def __init__(
        self, study: Study, folder: Path, display: Display, devices: list[str], execution: dict[str, Any],
        options: dict[str, bool],
    ) -> None:  # fmt: skip
        self._study, self._folder, self._display = study, folder, display
        self._devices, self._execution, self._options = devices, execution, options
        self._workers: list[_Worker] = []
        self._elsewhere: list[RunConfig] = []  # runs that another process has
        self._deaths: Counter[str] = Counter()
        self._elsewhere_told = False

    def run(self, workers: int) -> None:
        queue = deque(pending(self._study, self._folder, self._options["redo_failed"]))
        for i in range(min(workers, len(queue))):
            self._workers.append(_Worker(self._devices[i % len(self._devices)]))
        while queue or self._elsewhere or any(worker.job for worker in self._workers):
            for i, worker in enumerate(self._workers):
                if queue and worker.job is None:
                    if not worker.process.is_alive():
                        worker = self._workers[i] = _Worker(worker.device)
                    config = dataclasses.replace(queue.popleft(), device=worker.device, **self._execution)
                    worker.give(config, self._study.name, self._folder, self._options)
            busy = {w.connection: w for w in self._workers if w.job}
            if not busy:
                time.sleep(_POLL_SECONDS)
            for connection in wait(busy, timeout=_POLL_SECONDS) if busy else ():
                self._hear(busy[connection], queue)  # type: ignore[index]
            self._look_elsewhere(queue)

    def _hear(self, worker: _Worker, queue: deque[RunConfig]) -> None:
        assert worker.job
        try:
            method, *arguments = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            self._bury(worker, queue)
            return
        if method == "over":
            (state,) = arguments
            if state == "running":
                self._elsewhere.append(worker.job)
            worker.job = None
        else:
            getattr(self._display, method)(*arguments)

    def _bury(self, worker: _Worker, queue: deque[RunConfig]) -> None:
        """A worker process died: its run is interrupted, and tried again unless this happened before."""
        assert worker.job
        worker.process.join()
        code = worker.process.exitcode or 0
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        run_id = worker.job.run_id
        self._deaths[run_id] += 1
        again = self._deaths[run_id] < _TRIES
        error = f"its worker process died ({cause}; {'it is tried again' if again else 'not tried again'})"
        record = Record(self._folder / run_id)
        with record.claim() as mine:
            if mine and (status := record.status(claimed=True))["state"] == "interrupted":
                record.write_status(status | {"error": error})
        self._display.end(run_id, "interrupted", record.last_step(), error, 0.0, counts=not again)
        if again:
            queue.append(worker.job)
        worker.job = None

    def _look_elsewhere(self, queue: deque[RunConfig]) -> None:
        for config in list(self._elsewhere):
            if not Record(self._folder / config.run_id).is_claimed():
                self._elsewhere.remove(config)
                queue.append(config)  # over, or orphaned: the worker that gets it finds out
                self._elsewhere_told = False
        if self._elsewhere and not self._elsewhere_told and not any(w.job for w in self._workers):
            names = ", ".join(config.run_id for config in self._elsewhere)
            self._display.say(f"waiting for runs that another process has: {names}")
            self._elsewhere_told = True

    def stop(self) -> None:
        """End the workers: the idle leave at once, the busy leave their run `interrupted`."""
        for worker in self._workers:
            if worker.job:
                worker.process.terminate()
            else:
                worker.connection.close()
        deadline = time.monotonic() + _STOP_SECONDS
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def _work(connection: Connection) -> None:
    """A worker process: run after run, until the pipe closes or the parent dies."""
    from experiments.run import execute, stop_on_signals

    def tell(*message: Any) -> None:
        try:
            connection.send(message)
        except OSError as error:
            raise KeyboardInterrupt("the sweep is gone") from error  # not a failure of the run

    with stop_on_signals():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
        threading.Thread(target=_follow_parent, daemon=True).start()
        try:
            while True:
                config, study, folder, options = connection.recv()
                state = "failed"
                try:
                    state = execute(config, study, folder, tell, **options).state
                except InputError as error:
                    tell("end", config.run_id, state, 0, str(error), 0.0)
                except Exception:  # the record itself could not be written
                    tell("end", config.run_id, state, 0, traceback.format_exc(), 0.0)
                tell("over", state)
        except (EOFError, KeyboardInterrupt):
            pass


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def check_devices(text: str) -> list[str]:
    """`0,1` -> ["cuda:0", "cuda:1"]. Raises InputError for anything that is not a list of numbers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise InputError(f"--devices {text!r}: expected CUDA device numbers with commas between them, such as 0,1")
    return [f"cuda:{int(part)}" for part in parts]
