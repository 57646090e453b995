"""The packed engine: many runs at once on each device, whose steps one process makes, and a worker for each run."""

from __future__ import annotations

import dataclasses

from experiments.engines.engine import Event, Job
from experiments.engines.local import LocalEngine
from experiments.engines.server import MOST, Server, Where
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
        if pack > MOST:
            raise InputError(f"--pack must be at most {MOST}: a CUDA device has no more streams of its own")
        self._threads = config.threads
        self._servers = {device: Server(device, config.threads) for device in devices}
        try:
            self._where = {device: server.wait() for device, server in self._servers.items()}
            most = -(-min(jobs, workers or jobs) // len(devices))
            self.note, pack = self._chosen(config, pack, most)
            at_once = min(jobs, workers or jobs, pack * len(devices))
            self._local = LocalEngine(at_once, devices, self._place)
        except BaseException:
            self._stop_servers()
            raise

    def _chosen(self, config: RunConfig, pack: int, most: int) -> tuple[str, int]:
        """What to say of the number of slots, and the number."""
        device, server = next(iter(self._servers.items()))
        if pack or device == "cpu":
            return "", min(pack or cores(), MOST)
        rates = server.measure(dataclasses.replace(config, device=device), min(most, MOST, 2 * cores()))
        best = max(rates, key=lambda n: rates[n])
        told = ", ".join(f"{n}: {rate:,.0f}" for n, rate in rates.items())
        return f"{best} runs at once on {device}; steps per second by their number: {told}", best

    def _place(self, device: str) -> Where:
        """Where a worker's next run has its steps made."""
        server = self._servers[device]
        if not server.process.is_alive():
            why = f"the process before ended with exit code {server.process.exitcode}"
            server.stop(0)
            self._servers[device] = server = Server(device, self._threads, graphs=False, why=why)
            self._where[device] = server.wait()
        return self._where[device]

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
