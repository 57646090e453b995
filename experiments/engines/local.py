"""The local engine: worker processes on this machine that take run after run."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import NamedTuple

from experiments.engines.engine import Died, Done, Event, Job, train_job
from experiments.engines.server import Where
from experiments.messages import Message
from experiments.output import outlive_readers
from experiments.record import State
from experiments.signals import out_of_reach, requested, stop_on_signals
from sngan.config import InputError

_STOP_SECONDS = 10.0  # a stopped worker writes `interrupted` and leaves


def check_devices(text: str) -> list[str]:
    """`0,1` -> ["cuda:0", "cuda:1"]. Raises InputError for anything that is not a list of numbers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise InputError(f"--devices {text!r}: expected CUDA device numbers with commas between them, such as 0,1")
    return [f"cuda:{int(part)}" for part in parts]


class _Worker:
    """A process, our end of its pipe, and the job that it has."""

    def __init__(self, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.device = device
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_work, args=(theirs,), daemon=True)
        with out_of_reach():
            self.process.start()
        theirs.close()
        self.job: Job | None = None

    def cause_of_death(self) -> str:
        self.process.join()
        code = self.process.exitcode or 0
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


class _Stopped(NamedTuple):
    """What a worker gets before SIGTERM: the signal that the sweep got, if it was one."""

    by: str


class LocalEngine:
    """`workers` processes; worker i uses `devices[i % len(devices)]`, or what `place` says makes steps for it."""

    retries_dead_workers = False

    def __init__(self, workers: int, devices: list[str], place: Callable[[str], Where] | None = None) -> None:
        self._place = place
        self._workers = [_Worker(devices[i % len(devices)]) for i in range(workers)]

    def has_capacity(self) -> bool:
        return any(worker.job is None for worker in self._workers)

    def is_busy(self) -> bool:
        return any(worker.job for worker in self._workers)

    def submit(self, job: Job) -> None:
        i = next(i for i, worker in enumerate(self._workers) if worker.job is None)
        if not self._workers[i].process.is_alive():
            self._workers[i] = _Worker(self._workers[i].device)
        worker = self._workers[i]
        config = dataclasses.replace(job.config, device=worker.device)
        worker.job = job._replace(config=config, where=self._place(worker.device) if self._place else None)
        worker.connection.send(worker.job)

    def poll(self, seconds: float) -> list[tuple[Job, Event]]:
        busy = {worker.connection: worker for worker in self._workers if worker.job}
        if not busy:
            time.sleep(seconds)
        events = []
        for connection in wait(busy, timeout=seconds) if busy else ():
            worker = busy[connection]  # type: ignore[index]
            job = worker.job
            assert job
            try:
                event = worker.connection.recv()
            except (EOFError, ConnectionResetError):
                event = Died(worker.cause_of_death())
            if isinstance(event, Done | Died):
                worker.job = None
            if isinstance(event, Done) and event.state is State.FAILED and worker.device != "cpu" and not job.where:
                worker.connection.close()  # an error may have spoilt the process's CUDA context: a new one comes
                worker.process.join()
            events.append((job, event))
        return events

    def stop(self) -> None:
        for worker in self._workers:
            if worker.job:
                with suppress(OSError):  # it has died
                    worker.connection.send(_Stopped(requested()))
                worker.process.terminate()
            else:
                worker.connection.close()
        deadline = time.monotonic() + _STOP_SECONDS
        try:
            for worker in self._workers:
                worker.process.join(max(0.0, deadline - time.monotonic()))
        finally:  # a second signal does not wait for them
            for worker in self._workers:
                worker.process.kill()
                worker.process.join()


def _work(connection: Connection) -> None:
    """A worker process: job after job, until the pipe closes or the parent dies."""

    outlive_readers()
    lock = threading.Lock()  # the thread that talks to W&B tells of its trouble

    def send(event: Message | Done | Died) -> None:
        try:
            with lock:
                connection.send(event)
        except OSError as error:
            raise KeyboardInterrupt("the sweep is gone") from error  # not a failure of the run

    def why() -> str:
        try:
            return connection.recv().by if connection.poll() else ""
        except (EOFError, OSError):
            return "the sweep is gone"

    with suppress(EOFError, KeyboardInterrupt), stop_on_signals(why):
        threading.Thread(target=_follow_parent, daemon=True).start()
        while not requested() and isinstance(job := connection.recv(), Job):
            send(train_job(job, send))


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
