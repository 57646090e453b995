"""The Ray engine: each job a Ray task, on this machine or on the cluster at an address."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, TaskCancelledError, WorkerCrashedError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from experiments.engines.engine import Died, Done, Event, Job, train_job
from experiments.messages import Message
from experiments.record import Record
from experiments.signals import out_of_reach, requested, stop_on_signals, stopped_by
from sngan.config import Execution, InputError

_CONNECT_SECONDS = 10.0
_STOP_SECONDS = 10.0  # a cancelled task writes `interrupted` and leaves


class RayEngine:
    """Ray Core tasks. Every node needs this program, and the records' folder and the data at the same paths.

    A task takes `execution.threads` CPUs, and on a GPU one `per_gpu`-th of it. A task whose worker or node dies is
    retried by Ray, at most `retries` times. At most `tasks` run at once; 0: as many as the cluster has room for.
    """

    retries_dead_workers = True

    def __init__(self, address: str, tasks: int, execution: Execution, per_gpu: int, retries: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Ray puts handlers of its own over these, which end the process
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            if ":" in address.rpartition("://")[2]:  # Ray would try for minutes
                host, port = address.rpartition("://")[2].rsplit(":", 1)
                socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
            where: dict[str, Any] = (
                {"address": address} if address else {"address": "local", "include_dashboard": False}
            )
            with out_of_reach():
                ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            wrong = f"no Ray cluster at {address!r}" if address else "Ray does not start here"
            raise InputError(f"{wrong}: {' '.join(str(error).split())}") from error
        for number, handler in handlers.items():
            signal.signal(number, handler)
        resources = ray.cluster_resources()
        device = execution.device
        gpu = device == "cuda" or (device == "auto" and resources.get("GPU", 0) > 0)
        for name, needed in (("CPU", execution.threads), ("GPU", int(gpu))):
            if resources.get(name, 0) < needed:
                ray.shutdown()
                raise InputError(f"a run needs {needed} {name}, and the Ray cluster has {resources.get(name, 0):g}")
        self._device = "cuda" if gpu else "cpu"
        self._task = ray.remote(_train).options(
            num_cpus=execution.threads, num_gpus=1 / per_gpu if gpu else 0, max_retries=retries
        )
        self._limit = tasks
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})  # it outlives other nodes
        self._jobs: dict[Any, Job] = {}  # by the task's reference

    def has_capacity(self) -> bool:
        return not self._limit or len(self._jobs) < self._limit

    def is_busy(self) -> bool:
        return bool(self._jobs)

    def submit(self, job: Job) -> None:
        config = dataclasses.replace(job.config, device=self._device)
        job = job._replace(config=config, folder=Path(job.folder).absolute())
        self._jobs[self._task.remote(job, self._queue)] = job

    def poll(self, seconds: float) -> list[tuple[Job, Event]]:
        if not self._jobs:
            time.sleep(seconds)
            return []
        by_id = {job.config.run_id: job for job in self._jobs.values()}
        ray.wait(list(self._jobs), timeout=seconds)
        done, _ = ray.wait(list(self._jobs), num_returns=len(self._jobs), timeout=0)
        messages = self._queue.get_nowait_batch(self._queue.qsize())  # after `done`: so it holds all that those said
        events = [(by_id[run_id], message) for run_id, message in messages if run_id in by_id]
        for reference in done:
            job = self._jobs.pop(reference)
            try:
                events.append((job, ray.get(reference)))
            except RayError as error:
                events.append((job, Died(_cause(error))))
        return events

    def stop(self) -> None:
        for reference in self._jobs:
            ray.cancel(reference)  # SIGINT in the worker, as it were
        deadline = time.monotonic() + _STOP_SECONDS
        if self._jobs:
            ray.wait(list(self._jobs), num_returns=len(self._jobs), timeout=max(0.0, deadline - time.monotonic()))
        for job in self._jobs.values():
            _name_the_signal(job.record)
        ray.shutdown()


def _train(job: Job, queue: Queue) -> Done | Died:
    told, actor = [], queue.actor
    assert actor

    def tell(message: Message) -> None:  # without waiting: a task that waits lends its CPU to the next
        told[:] = [actor.put_nowait.remote((job.config.run_id, message))]

    with stop_on_signals():
        result = train_job(job, tell)
        with suppress(RayError):
            ray.get(told)  # so that the end of the task is not seen before the last message
        return result


def _name_the_signal(record: Record) -> None:
    """Of a run that was cancelled: the signal that the sweep got, instead of that with which Ray cancels."""
    cancelled, named = map(stopped_by, ("SIGINT", requested() or "SIGINT"))
    if named == cancelled or record.status().get("error") != cancelled:
        return
    with record.claim() as mine:
        if mine and (status := record.status(claimed=True)).get("error") == cancelled:
            record.write_status(status | {"error": named})


def _cause(error: RayError) -> str:
    if isinstance(error, WorkerCrashedError):
        return "killed more often than --retries allows"
    if isinstance(error, TaskCancelledError):
        return "cancelled"
    return " ".join(str(error).split())[:300]
