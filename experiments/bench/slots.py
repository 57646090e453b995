"""Many runs on one device, measured: throughput by the number of slots, and how near the machine's floor a step is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from experiments.account import step_flop
from experiments.engines.server import SIZES, steps_per_second
from sngan.config import RunConfig
from sngan.data import ImageData
from sngan.slot import Copy, Slot
from sngan.state import Run
from sngan.train import update

_ON_A_CPU = (1, 2)  # slots; there they only take turns


def packed_steps(config: RunConfig, data: ImageData, seconds: float, rounds: int) -> dict[str, list[float]]:
    """Row -> seconds per step of all slots together, round by round; steps alone, nothing is looked at.

    On CUDA in every precision, captured, and one slot as it is written; on a CPU a rehearsal.
    """
    cuda = data.images.is_cuda
    precisions = ("float32", "tf32", "bfloat16") if cuda else ("float32",)
    sizes = SIZES if cuda else _ON_A_CPU
    turn = seconds / rounds / (len(precisions) * len(sizes) + 1)
    found: dict[str, list[float]] = {}
    for precision in precisions:
        of_one = replace(config, precision=precision)  # type: ignore[arg-type]
        state, slots = Copy(of_one, data).whole(), [Slot(of_one, data) for _ in range(max(sizes))]
        for _ in range(rounds):
            for size in sizes:
                rate = steps_per_second(slots[:size], of_one, state, turn)
                found.setdefault(row_name(size, slots[0].program.kind, precision), []).append(1 / rate)
        del slots
    if cuda:
        eager = Slot(config, data, graphs=False)
        rates = [steps_per_second([eager], config, Copy(config, data).whole(), turn) for _ in range(rounds)]
        found[row_name(1, "eager", "float32")] = [1 / rate for rate in rates]
    return found


def row_name(size: int, kind: str, precision: str) -> str:
    return f"packed, {size} {kind}, {precision}"


def packed_ratios(rows: dict[str, Any], notebook: float, floors: dict[str, float]) -> dict[str, float]:
    """Of rows of `packed_steps`, by precision: against one slot, the notebook's loop, and the floor."""
    ratios = {}
    for precision, floor in floors.items():
        of_precision = {name: row for name, row in rows.items() if name.startswith("packed") and precision in name}
        paces = {name: row["step_seconds"] for name, row in of_precision.items()}
        if not paces:
            continue
        best, one = min(paces.values()), min(pace for name, pace in paces.items() if name.startswith("packed, 1 "))
        ratios |= {
            f"speed of one slot against the notebook's loop, {precision}": notebook / one,
            f"throughput packed against one slot, {precision}": one / best,
            f"throughput packed against the notebook's loop, {precision}": notebook / best,
            f"share of the floor, one slot, {precision}": floor / one,
            f"share of the floor, packed, {precision}": floor / best,
        }
    return ratios


def floor_seconds(config: RunConfig, data: ImageData, flops: dict[str, float], bandwidth: float) -> dict[str, float]:
    """By precision: what a step would take if all operations ran at the matrix rate, or all bytes at the memory's.

    The larger of the two. Bytes are those that each operation reads and writes in float32, as if no cache held them.
    """
    n_bytes = step_bytes(config, data)
    return {precision: max(step_flop(config) / rate, n_bytes / bandwidth) for precision, rate in flops.items()}


def step_bytes(config: RunConfig, data: ImageData) -> int:
    """Bytes that the operations of a step read and write, counted without computing; of Adam by its formula."""

    class Count(TorchDispatchMode):
        n = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if not func.is_view:
                tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor) and t is not images]
                Count.n += sum(t.numel() * t.element_size() for t in tensors)
            return result

    run = Run(config, data.to("meta"))
    images, run.device = run.feed.images, torch.device("cpu")  # of which a batch is read; autocast knows no meta
    for optimizer in (run.opt_d, run.opt_g):
        optimizer.step = lambda: None  # type: ignore[method-assign,assignment]
    with Count():
        update(run)
    parameters = {
        network: sum(p.numel() * p.element_size() for p in network.parameters()) for network in (run.G, run.D)
    }
    return Count.n + 7 * (parameters[run.G] + config.n_dis * parameters[run.D])  # p, g, m, v read; p, m, v written


def memory_rate(device: torch.device, megabytes: int = 256) -> float:
    """Bytes per second, read and written, of a copy on the device: the best of several."""
    source = torch.zeros(megabytes * 2**18, device=device)
    target = torch.zeros_like(source)
    seconds = min(_timed(lambda: target.copy_(source), device) for _ in range(5))
    return 2 * source.numel() * source.element_size() / seconds


def _timed(action: Callable[[], Any], device: torch.device) -> float:
    begin = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin
