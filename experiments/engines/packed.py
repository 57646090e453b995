"""The packed engine: many runs at once on each device, whose steps one process makes, and a worker for each run."""

from __future__ import annotations

import dataclasses

from experiments.engines.engine import Event, Job
from experiments.engines.local import LocalEngine
from experiments.engines.server import MOST, Server, StepsLost, Where
from experiments.machine import cores
from sngan.config import InputError, RunConfig

_STOP_SECONDS = 15.0


class PackedEngine:
    """`pack` runs at once on each of `devices`, at most `workers` in all. 0: as many as is measured, on a CPU as cores.

    The process of a device makes the steps of all its runs (`server`), each in a slot of its own; rows are measured,
    samples judged and records written by the runs' workers, on the CPU. A device's process that ends is started again,
    and from then on captures no graphs. `config`: of one of the runs.
    """

    retries_dead_workers = False

    def __init__(self, jobs: int, config: RunConfig, devices: list[str], pack: int = 0, workers: int = 0) -> None:
        self._threads, self._where = config.threads, {}
        self._servers = {device: Server(device, config.threads) for device in devices}
        try:
            most = -(-min(jobs, workers or jobs) // len(devices))
            self.note, pack = self._chosen(config, pack, most)
            self._where |= {device: server.wait() for device, server in self._servers.items()}
            at_once = min(jobs, workers or jobs, pack * len(devices))
            self._local = LocalEngine(at_once, devices, self._place)
        except StepsLost as lost:
            self._stop_servers()
            raise InputError(
                f"{lost}, so no steps can be made there: its output says why; try --engine local"
            ) from lost
        except BaseException:
            self._stop_servers()
            raise

    def _chosen(self, config: RunConfig, pack: int, most: int) -> tuple[str, int]:
        """What to say of the number of slots, and the number."""
        device = next(iter(self._servers))
        if pack or device == "cpu":
            return "", min(pack or cores(), MOST)
        question = dataclasses.replace(config, device=device), min(most, MOST, 2 * cores())
        try:
            rates = self._servers[device].measure(*question)
        except StepsLost:  # a capture that could not be undone
            self._replace(device)
            rates = self._servers[device].measure(*question)
        best = max(rates, key=lambda n: rates[n])
        told = ", ".join(f"{n}: {rate:,.0f}" for n, rate in rates.items())
        return f"{best} runs at once on {device}; steps per second by their number: {told}", best

    def _place(self, device: str) -> Where:
        """Where a worker's next run has its steps made."""
        if not self._servers[device].process.is_alive():
            self._replace(device)
            try:
                self._where[device] = self._servers[device].wait()
            except StepsLost as lost:
                raise InputError(f"{lost} once more: its output says why; try --engine local") from lost
        return self._where[device]

    def _replace(self, device: str) -> None:
        """Another process, which captures nothing, in place of one that ended."""
        ended = self._servers[device]
        why = f"the process before ended with exit code {ended.process.exitcode}"
        ended.stop(0)
        self._servers[device] = Server(device, self._threads, graphs=False, why=why)

    def has_capacity(self) -> bool:
        return self._local.has_capacity()

    def is_busy(self) -> bool:
        return self._local.is_busy()

    def submit(self, job: Job) -> None:
        self._local.submit(job)

    def poll(self, seconds: float) -> list[tuple[Job, Event]]:
        return self._local.poll(seconds)

    def stop(self) -> None:
        self._local.stop()
        self._stop_servers()

    def _stop_servers(self) -> None:
        for server in self._servers.values():
            server.stop(_STOP_SECONDS)
