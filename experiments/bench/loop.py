"""`sngan bench`: all rows on the same work, alternating in one run, as medians with their spread and ratios."""

from __future__ import annotations

import itertools
import math
import platform
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from experiments.account import step_flop
from experiments.bench.notebook import notebook_steps
from experiments.bench.slots import floor_seconds, memory_rate, packed_ratios, packed_steps
from experiments.bench.throughput import further_runs, sweep_throughput
from experiments.display import Console
from experiments.images import grid_png
from experiments.machine import cores, device_name, keep_memory, prepare_cuda, resolve_device
from experiments.record import Record, State, to_json
from experiments.run import execute
from experiments.tracking.client import is_installed
from experiments.tracking.tracker import Tracker
from sngan.arms import ARMS
from sngan.config import InputError, RunConfig
from sngan.data import ImageData, load
from sngan.evaluate import Evaluation
from sngan.files import write_atomically
from sngan.measure import Instruments, Window
from sngan.precision import products
from sngan.state import build
from sngan.train import Here, train

_NOTEBOOK = "the notebook's loop (dcgan)"
_TUTORIAL = "the same with images in memory"
_PRECISIONS = {"bfloat16": "dcgan, bfloat16", "tf32": "dcgan, tf32"}
_FURTHER = "a further run of one step and one evaluation"  # start and end: less those
_WHOLE = "a run of sn_dcgan with evaluations and record"  # on a CPU: what its parts add up to
_SIZES = {
    **{f"dcgan, batch {n}": {"batch_size": n} for n in (16, 64, 256)},
    **{f"dcgan, G width {n}": {"g_width": n} for n in (32, 128)},
}
_Ready = Callable[[int], Callable[[], None]]  # makes ready for so many steps, and gives what makes them
_MEANS = "means and gradient norms, one step"
_SIGMAS = "exact sigmas, one row"
_OPERATORS = "operator norms, spectra, gradients, one row"
_RECORD = "the record, one row"
_WANDB = "W&B, one row"  # offline, what the call costs the training
_EVALUATION = "evaluation and sample grid, one"


def bench(
    dataset: str, batch_size: int, threads: int, device: str, data_dir: str, seconds: float, rounds: int, out: Path,
    as_json: bool,
) -> int:  # fmt: skip
    """Print the table and write it as JSON to `out` (a .json file, or a folder). Returns 0.

    Raises InputError for a device or data that are not there, or a size out of range.
    """
    if not 0 < seconds < math.inf or not 0 <= threads <= 4096 or not 1 <= rounds <= 1000:
        raise InputError(
            "--seconds must be above 0, --threads from 0 to 4096 and --rounds from 1 to 1,000, "
            f"got {seconds:g}, {threads} and {rounds}"
        )
    prepare_cuda()
    where = resolve_device(device)
    torch.set_num_threads(threads or cores())
    data = load(dataset, data_dir).to(where)
    work = {"dataset": dataset, "batch_size": batch_size, "data_dir": data_dir}
    configs = {arm: RunConfig(arm=arm, **work) for arm in ARMS}  # type: ignore[arg-type]
    keep_memory()
    rates = matmul_rates(where)
    rows = _measure(_candidates(configs, data), seconds, rounds)
    sizes = {name: replace(configs["dcgan"], **changes) for name, changes in _SIZES.items()}
    rows |= _measure({name: _steps_of(config, data) for name, config in sizes.items()}, seconds / 3, rounds)
    instruments = _instrument_seconds(configs["sn_dcgan"], data, rounds)
    rows |= {name: _spread("seconds", values) for name, values in instruments.items()}
    packed = packed_steps(configs["dcgan"], data, seconds / 3, rounds)
    rows |= {name: _spread("step_seconds", values) for name, values in packed.items()}
    rows[_FURTHER] = _spread("seconds", further_runs(replace(configs["sn_dcgan"], device=device)))
    rates = {name: max(rate, rates[name]) for name, rate in matmul_rates(where).items()}  # the machine is shared
    if where.type == "cpu":
        rows |= _sweeps(configs["dcgan"], rows, seconds / 24, max(1, rounds // 2))
    rows[_WHOLE] = _spread("seconds", [_whole_run(configs["sn_dcgan"], rows, where)])
    memory = memory_rate(where)
    floors = floor_seconds(configs["dcgan"], data, rates, memory)
    result = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(where) | {"matmul_flops": rates, "memory_bytes_per_second": memory},
        "floor_seconds": floors,
        "work": {"dataset": dataset, "batch_size": batch_size, "precision": "float32 if no other is named"},
        "rows": rows,
        "ratios": _ratios(rows, configs["dcgan"], _flop_done(configs["dcgan"], data), rates["float32"])
        | packed_ratios(rows, rows[_NOTEBOOK]["step_seconds"], floors),
    }
    if out.suffix != ".json":
        out = out / f"{where.type}-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S')}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, to_json(result, indent=1) + "\n")
    if as_json:
        print(to_json(result, indent=1))
    else:
        _print(result)
        print(out)
    return 0


def _candidates(configs: dict[str, RunConfig], data: ImageData) -> dict[str, _Ready]:
    """name -> what trains so many steps."""
    streams = {
        _NOTEBOOK: notebook_steps(configs["dcgan"], data),
        _TUTORIAL: notebook_steps(configs["dcgan"], data, in_memory=True),
    }

    def notebook(stream: Iterator[Any]) -> _Ready:
        def steps(n: int) -> None:
            torch.backends.cudnn.deterministic = False  # as whoever runs the notebook has it; ours sets it
            deque(itertools.islice(stream, n), maxlen=0).clear()

        return lambda n: partial(steps, n)

    candidates = {name: notebook(stream) for name, stream in streams.items()}
    tf32 = data.images.is_cuda
    configs = configs | {
        name: replace(configs["dcgan"], precision=precision)  # type: ignore[arg-type]
        for precision, name in _PRECISIONS.items()
        if precision != "tf32" or tf32
    }
    return candidates | {name: _steps_of(config, data) for name, config in configs.items()}


def _steps_of(config: RunConfig, data: ImageData) -> _Ready:
    """Training without its start, which makes networks and the vectors of power iterations."""

    def ready(n: int) -> Callable[[], None]:
        run = replace(config, steps=n)
        here = Here(run, data, observed=False)

        def steps() -> None:
            train(run, data, None, steps=here)

        return steps

    return ready


def _sweeps(
    config: RunConfig, rows: dict[str, dict[str, Any]], seconds: float, rounds: int
) -> dict[str, dict[str, Any]]:
    """All cores, as one worker or as many as there are cores; each about so many seconds a round."""
    found: dict[str, list[dict[str, Any]]] = {}
    for i in range(rounds):
        Console(stderr=True, highlight=False).print(f"sweeps, round {i + 1} of {rounds}")
        for precision in ("float32", "bfloat16"):
            pace = rows[_PRECISIONS.get(precision, "dcgan")]["step_seconds"]
            for workers, threads in sorted({(1, cores()), (cores(), 1)}):
                steps = max(5, round(seconds / pace / workers))
                row = sweep_throughput(replace(config, precision=precision), workers, threads, steps)
                found.setdefault(f"sweep, workers x threads {workers} x {threads}, {precision}", []).append(row)
    return {
        name: all_rounds[0]
        | _spread("step_seconds", [row["step_seconds"] for row in all_rounds])
        | {"peak_memory_bytes": max(row["peak_memory_bytes"] for row in all_rounds)}
        for name, all_rounds in found.items()
    }


def _measure(candidates: dict[str, _Ready], seconds: float, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds a step of each, from rounds in which all take their turn; the first round sets the pace."""
    console = Console(stderr=True, highlight=False)
    pace = {name: _pace(ready, 3) for name, ready in candidates.items()}
    turn = seconds / rounds / len(candidates)
    counts = {name: max(5, round(turn / pace[name])) for name in candidates}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(rounds):
        console.print(f"round {i + 1} of {rounds}")
        for name, ready in candidates.items():
            times[name].append(_pace(ready, counts[name]))
    return {name: _spread("step_seconds", values) for name, values in times.items()}


def _spread(name: str, values: list[float]) -> dict[str, Any]:
    whole = {"fastest": min(values), "slowest": max(values), "rounds": len(values), "each": values}
    return {name: median(values)} | whole


def _pace(ready: _Ready, n: int) -> float:
    steps = ready(n)
    return _time(lambda n: steps(), n) / n


def _time(steps: Callable[[int], None], n: int) -> float:
    start = time.perf_counter()
    steps(n)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _instrument_seconds(config: RunConfig, data: ImageData, rounds: int) -> dict[str, list[float]]:
    """Seconds of what is done beside training: at every step, every row, every `instrument_every`, every evaluation."""
    device = data.images.device
    G, D, constraint = build(config, device)
    instruments, window, evaluation = (
        Instruments(config, G, D, constraint, data),
        Window(config, device),
        Evaluation(config, data),
    )
    loss = G(torch.randn(config.batch_size, config.z_dim, device=device)).mean() + D(instruments.samples()).mean()
    loss.backward()
    logits = torch.randn(config.batch_size, device=device)

    def means() -> None:
        window.add_d(D, (loss, loss, loss, loss, loss), logits, logits)
        window.add_g(G, loss)
        window.clear()

    means()
    window.steps = 1
    full_row = instruments.row(0, window.means()) | {"time/step_seconds": 0.1, "time/images_per_second": 100.0}
    with TemporaryDirectory() as folder:
        record = Record(Path(folder) / config.run_id)
        record.samples_path.mkdir(parents=True)
        mode = "offline" if is_installed() else "disabled"
        tracker = Tracker(config, "bench", Path(folder), mode, [], warn=lambda text: print(text, file=sys.stderr))
        tracker.settle()  # it is there
        actions = {
            _MEANS: means,
            _SIGMAS: lambda: instruments.row(1, {}),
            _OPERATORS: lambda: instruments.row(0, {}),
            _RECORD: lambda: record.append(full_row),
            _WANDB: lambda: (tracker.log(full_row, {}), tracker.settle()),
        }
        if not is_installed():
            del actions[_WANDB]
        seconds: dict[str, list[float]] = {name: [] for name in actions}
        for _ in range(rounds):
            for name, action in actions.items():
                seconds[name].append(_time(_repeat(action), 10) / 10)

        def evaluate() -> None:
            scores = evaluation(G)
            image = record.write_sample("step.png", grid_png(instruments.samples()))
            record.append(full_row | scores)
            tracker.log(full_row | scores, {"samples": image})
            tracker.settle()

        evaluate()
        seconds[_EVALUATION] = [_time(_repeat(evaluate), 1) for _ in range(rounds)]
        tracker.finish(State.FINISHED, {})
    more = [operators - sigmas for operators, sigmas in zip(seconds[_OPERATORS], seconds[_SIGMAS], strict=True)]
    return seconds | {_OPERATORS: more}


def _repeat(action: Callable[[], Any]) -> Callable[[int], None]:
    def repeated(n: int) -> None:
        for _ in range(n):
            action()

    return repeated


def _costs(rows: dict[str, dict[str, Any]], config: RunConfig) -> dict[str, float]:
    """Seconds per step of what is done beside training."""
    every = {_MEANS: 1, _SIGMAS: config.log_every, _OPERATORS: config.instrument_every, _RECORD: config.log_every,
             _WANDB: config.log_every, _EVALUATION: config.steps / len(config.evaluation_steps())}  # fmt: skip
    return {name: rows[name]["seconds"] / n for name, n in every.items() if name in rows}


def _whole_run(config: RunConfig, rows: dict[str, dict[str, Any]], device: torch.device) -> float:
    """Seconds: on CUDA of a real one; on a CPU, where it takes an hour, what its parts add up to."""
    if device.type != "cuda":
        return config.steps * (rows[config.arm]["step_seconds"] + sum(_costs(rows, config).values()))
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        execute(replace(config, device=str(device), wandb="disabled"), "bench", Path(folder), lambda message: None)
        return time.perf_counter() - start


def _flop_done(config: RunConfig, data: ImageData) -> int:
    """Floating point operations in one step's matrix products and convolutions, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        _steps_of(config, data)(1)()
    return counter.get_total_flops()


def _ratios(rows: dict[str, dict[str, float]], config: RunConfig, flop_done: int, rate: float) -> dict[str, float]:
    step = {name: row["step_seconds"] for name, row in rows.items() if "step_seconds" in row}
    ratios = {"speed against the notebook's loop": step[_NOTEBOOK] / step["dcgan"]}
    ratios["speed against the same with images in memory"] = step[_TUTORIAL] / step["dcgan"]
    for precision, name in _PRECISIONS.items():
        if name in step:
            ratios[f"speed against the notebook's loop, {precision}"] = step[_NOTEBOOK] / step[name]
    paces = {"one run": step["dcgan"]}
    for precision in ("float32", "bfloat16"):
        sweeps = [row["step_seconds"] for name, row in rows.items() if name.startswith("sweep") and precision in name]
        if sweeps:
            ratios[f"throughput of a sweep against the notebook's loop, {precision}"] = step[_NOTEBOOK] / min(sweeps)
            if precision == "float32":
                paces["a sweep"] = min(sweeps)
    for name, pace in paces.items():  # as convolutions are defined, and what is done: `toom_cook` needs fewer
        ratios[f"share of the float32 matrix rate, {name}"] = step_flop(config) / pace / rate
        ratios[f"share of the float32 matrix rate, {name}, operations done"] = flop_done / pace / rate
    ratios |= {f"{arm} / plain": step[arm] / step["plain"] for arm in ARMS if arm != "plain"}
    costs = _costs(rows, config)
    shares = {name: cost / (step["sn_dcgan"] + sum(costs.values())) for name, cost in costs.items()}
    evaluation = shares.pop(_EVALUATION)
    ratios |= {f"cost of {name.rpartition(',')[0]}": share for name, share in shares.items()}
    ratios["cost of all instruments, record and W&B"] = sum(shares.values())
    return ratios | {f"cost of evaluation in a run of {config.steps:,} steps": evaluation}


def matmul_rates(device: torch.device) -> dict[str, float]:
    """Floating point operations per second of matrix products, by precision."""
    with products("ieee"):
        rates = {name: matmul_flops(device, getattr(torch, name)) for name in ("float32", "bfloat16")}
    if device.type == "cuda":
        with products("tf32"):
            rates["tf32"] = matmul_flops(device, torch.float32)
    return rates


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations per second of a square matrix product: the best of several.

    Of 2,048 rows, or of as many as take 0.02 s: without its own units a CPU is a hundred times slower in bfloat16.
    """
    size, seconds = 128, 0.0
    while seconds < 0.02 and size < 2048:
        size *= 2
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        product = _repeat(lambda a=a, b=b: torch.matmul(a, b))
        product(1)
        seconds = _time(product, 1)
    return 2 * size**3 / min(_time(product, 3) / 3 for _ in range(5))


def _machine(device: torch.device) -> dict[str, Any]:
    return {
        "device": device_name(device),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "instruction_sets": _instruction_sets(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _instruction_sets() -> list[str]:
    """Those of the CPU that matrix products can use, if Linux names them."""
    file = Path("/proc/cpuinfo")
    words = set(file.read_text().split()) if file.exists() else set()
    return sorted(word for word in words if word.startswith(("avx", "amx", "fma", "sve", "asimd")))


def _print(result: dict[str, Any]) -> None:
    console, machine, work = Console(highlight=False, soft_wrap=True), result["machine"], result["work"]
    console.width = max(console.width, 100)  # a table in a file too
    rates = ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in machine["matmul_flops"].items())
    console.print(
        f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}; matrix product {rates}"
    )
    table = Table("row", "ms", "fastest", "slowest", "images/s", "peak MB", box=None, pad_edge=False)
    for name, row in result["rows"].items():
        spread = [f"{1000 * row[key]:.2f}" if key in row else "" for key in ("fastest", "slowest")]
        batch_size = _SIZES.get(name, {}).get("batch_size", work["batch_size"])
        images = f"{batch_size / row['step_seconds']:,.0f}" if "step_seconds" in row else ""
        memory = f"{row['peak_memory_bytes'] / 1e6:,.0f}" if "peak_memory_bytes" in row else ""
        table.add_row(name, f"{1000 * row.get('step_seconds', row.get('seconds')):.2f}", *spread, images, memory)
    console.print(table)
    for name, ratio in result["ratios"].items():
        console.print(f"{name}: {ratio:.1%}" if name.startswith(("share", "cost")) else f"{name}: {ratio:.2f} x")
