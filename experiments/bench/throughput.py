"""What a sweep's worker does, measured: throughput by workers and threads, memory, and what each further run costs."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from experiments.machine import keep_memory, peak_memory_bytes
from experiments.run import execute
from experiments.signals import out_of_reach
from experiments.tracking.client import is_installed
from sngan.config import InputError, RunConfig
from sngan.data import load
from sngan.train import train

_WARM_UP = 3  # steps


def sweep_throughput(config: RunConfig, workers: int, threads: int, steps: int) -> dict[str, Any]:
    """`workers` processes with `threads` threads each train `steps` steps at once, nothing recorded.

    `step_seconds`: wall time over the steps of all together; `peak_memory_bytes`: of the largest process.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(workers)
    ours, theirs = zip(*(context.Pipe() for _ in range(workers)), strict=True)
    processes = [
        context.Process(target=_train, args=(replace(config, seed=i), threads, steps, barrier, theirs[i]), daemon=True)
        for i in range(workers)
    ]
    try:
        for process, connection in zip(processes, theirs, strict=True):
            with out_of_reach():
                process.start()
            connection.close()  # the worker's alone now: when it dies, `recv` ends
        found = [connection.recv() for connection in ours]
    except EOFError as error:
        raise InputError("a worker of the benchmark ended early; its output above says why") from error
    finally:
        for process in processes:
            if process.is_alive():  # a signal may have come before its start
                process.terminate()
                process.join()
    slowest = max(seconds for seconds, _ in found)
    row = {"workers": workers, "threads": threads, "step_seconds": slowest / (workers * steps)}
    return row | {"peak_memory_bytes": max(memory for _, memory in found)}


def _train(config: RunConfig, threads: int, steps: int, barrier: Barrier, connection: Connection) -> None:
    keep_memory()
    torch.set_num_threads(threads)
    data = load(config.dataset, config.data_dir)
    train(replace(config, steps=_WARM_UP), data, None)
    barrier.wait(timeout=300)
    start = time.perf_counter()
    train(replace(config, steps=steps), data, None)
    seconds = time.perf_counter() - start
    connection.send((seconds, peak_memory_bytes()))


def further_runs(config: RunConfig) -> list[float]:
    """Seconds of whole runs of one step, two rows and one evaluation, in a process that had such a run before."""
    config = replace(config, steps=1, n_evaluations=1, wandb="offline" if is_installed() else "disabled")
    seconds = []
    with TemporaryDirectory() as folder:
        for seed in range(4):
            start = time.perf_counter()
            execute(replace(config, seed=seed), "bench", Path(folder), lambda *message: None)
            seconds.append(time.perf_counter() - start)
    return seconds[1:]
