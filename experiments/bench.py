"""`sngan bench`: all rows on the same work, alternating in one run, as medians with their spread and ratios."""

from __future__ import annotations

import itertools
import math
import platform
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from experiments.account import step_flop
from experiments.bench_notebook import notebook_steps
from experiments.record import Record, to_json, write_atomically
from experiments.run import device_name, grid_png, resolve_device
from experiments.tracking import Tracker
from experiments.workers import cores
from sngan.config import ARMS, InputError, RunConfig
from sngan.data import ImageData, load
from sngan.evaluate import Evaluation
from sngan.measure import Instruments, Window
from sngan.train import build, train

_ROUNDS = 5
_NOTEBOOK = "the notebook's loop (dcgan)"
_MEANS = "means and gradient norms, one step"
_SIGMAS = "exact sigmas, one row"
_OPERATORS = "operator norms, spectra, input gradients, one row"
_RECORD = "the record, one row"
_WANDB = "W&B, one row"  # offline, what the call costs the training
_EVALUATION = "evaluation and sample grid, one"


def bench(
    dataset: str,
    batch_size: int,
    threads: int,
    device: str,
    data_dir: str,
    seconds: float,
    out: Path,
    as_json: bool,
) -> int:
    """Print the table and write it as JSON to `out` (a .json file, or a folder). Returns 0.

    Raises InputError for a device or data that are not there, or a size out of range.
    """
    if not 0 < seconds < math.inf or not 0 <= threads <= 4096:
        raise InputError(f"--seconds must be above 0 and --threads from 0 to 4096, got {seconds:g} and {threads}")
    where = resolve_device(device)
    torch.set_num_threads(threads or cores())
    data = load(dataset, data_dir).to(where)
    configs = {arm: RunConfig(dataset=dataset, arm=arm, batch_size=batch_size) for arm in ARMS}  # type: ignore[arg-type]
    rates = {name: matmul_flops(where, getattr(torch, name)) for name in ("float32", "bfloat16")}
    rows = _measure(_candidates(configs, data), seconds)
    rows |= {name: {"seconds": value} for name, value in _instrument_seconds(configs["sn_dcgan"], data).items()}
    result = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(where) | {"matmul_flops": rates},
        "work": {"dataset": dataset, "batch_size": batch_size, "precision": "float32"},
        "rows": rows,
        "ratios": _ratios(rows, configs["dcgan"], rates["float32"]),
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


def _candidates(configs: dict[str, RunConfig], data: ImageData) -> dict[str, Callable[[int], None]]:
    """name -> train that many steps."""

    def ours(config: RunConfig) -> Callable[[int], None]:
        return lambda n: train(replace(config, steps=n), data, None) and None

    stream = notebook_steps(data, data.images.device, configs["dcgan"].batch_size)
    candidates: dict[str, Callable[[int], None]] = {
        _NOTEBOOK: lambda n: deque(itertools.islice(stream, n), maxlen=0).clear()
    }
    return candidates | {arm: ours(config) for arm, config in configs.items()}


def _measure(candidates: dict[str, Callable[[int], None]], seconds: float) -> dict[str, dict[str, float]]:
    """Seconds a step of each, from rounds in which all take their turn; the first round sets the pace."""
    console = Console(stderr=True, highlight=False)
    pace = {name: _time(steps, 3) / 3 for name, steps in candidates.items()}
    turn = seconds / _ROUNDS / len(candidates)
    counts = {name: max(5, round(turn / pace[name])) for name in candidates}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(_ROUNDS):
        console.print(f"round {i + 1} of {_ROUNDS}")
        for name, steps in candidates.items():
            times[name].append(_time(steps, counts[name]) / counts[name])
    return {
        name: {
            "step_seconds": median(values),
            "fastest": min(values),
            "slowest": max(values),
            "rounds": _ROUNDS,
        }
        for name, values in times.items()
    }


def _time(steps: Callable[[int], None], n: int) -> float:
    start = time.perf_counter()
    steps(n)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _instrument_seconds(config: RunConfig, data: ImageData) -> dict[str, float]:
    """Seconds of what is done beside training: at every step, every row, every `instrument_every`, every evaluation."""
    device = data.images.device
    G, D, penalty = build(config, device)
    instruments, window, evaluation = Instruments(config, G, D, penalty, data), Window(), Evaluation(config, data)
    loss = G(torch.randn(config.batch_size, config.z_dim, device=device)).mean() + D(instruments.samples()).mean()
    loss.backward()
    logits = torch.randn(config.batch_size, device=device)

    def means() -> None:
        window.add_d(D, (loss, loss, loss, loss, loss), logits, logits)
        window.add_g(G, loss)

    means()
    full_row = instruments.row(0, window.means(config)) | {"time/step_seconds": 0.1, "time/images_per_second": 100.0}
    with TemporaryDirectory() as folder:
        record = Record(Path(folder) / config.run_id)
        record.samples_path.mkdir(parents=True)
        tracker = Tracker(config, "bench", Path(folder), "offline", [], warn=lambda text: print(text, file=sys.stderr))
        tracker.settle()  # it is there
        actions = {
            _MEANS: means,
            _SIGMAS: lambda: instruments.row(1, {}),
            _OPERATORS: lambda: instruments.row(0, {}),
            _RECORD: lambda: record.append(full_row),
            _WANDB: lambda: (tracker.log(full_row, {}), tracker.settle()),
        }
        seconds = {
            name: median(_time(_repeat(action), 10) / 10 for _ in range(_ROUNDS)) for name, action in actions.items()
        }

        def evaluate() -> None:
            scores = evaluation(G)
            image = record.write_sample("step.png", grid_png(instruments.samples()))
            record.append(full_row | scores)
            tracker.log(full_row | scores, {"samples": image})
            tracker.settle()

        evaluate()
        seconds[_EVALUATION] = median(_time(_repeat(evaluate), 1) for _ in range(_ROUNDS))
        tracker.finish("finished", {})
    return seconds | {_OPERATORS: seconds[_OPERATORS] - seconds[_SIGMAS]}


def _repeat(action: Callable[[], Any]) -> Callable[[int], None]:
    def repeated(n: int) -> None:
        for _ in range(n):
            action()

    return repeated


def _ratios(rows: dict[str, dict[str, float]], config: RunConfig, rate: float) -> dict[str, float]:
    step = {name: row["step_seconds"] for name, row in rows.items() if "step_seconds" in row}
    ratios = {"speed against the notebook's loop": step[_NOTEBOOK] / step["dcgan"]}
    ratios["share of the float32 matrix rate"] = step_flop(config) / step["dcgan"] / rate
    ratios |= {f"{arm} / plain": step[arm] / step["plain"] for arm in ARMS if arm != "plain"}
    every = {_MEANS: 1, _SIGMAS: config.log_every, _OPERATORS: config.instrument_every, _RECORD: config.log_every,
             _WANDB: config.log_every, _EVALUATION: config.steps / len(config.evaluation_steps())}  # fmt: skip
    costs = {name: rows[name]["seconds"] / n for name, n in every.items()}  # seconds a step
    shares = {name: cost / (step["sn_dcgan"] + sum(costs.values())) for name, cost in costs.items()}
    evaluation = shares.pop(_EVALUATION)
    ratios |= {f"cost of {name.rpartition(',')[0]}": share for name, share in shares.items()}
    ratios["cost of all instruments, record and W&B"] = sum(shares.values())
    return ratios | {f"cost of evaluation in a run of {config.steps:,} steps": evaluation}


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations a second of a square matrix product: the best of several.

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
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _print(result: dict[str, Any]) -> None:
    console, machine, work = Console(highlight=False, soft_wrap=True), result["machine"], result["work"]
    rates = ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in machine["matmul_flops"].items())
    console.print(
        f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}; matrix product {rates}"
    )
    table = Table("row", "ms", "fastest", "slowest", "images/s", box=None, pad_edge=False)
    for name, row in result["rows"].items():
        spread = [f"{1000 * row[key]:.2f}" if key in row else "" for key in ("fastest", "slowest")]
        images = f"{work['batch_size'] / row['step_seconds']:,.0f}" if "step_seconds" in row else ""
        table.add_row(name, f"{1000 * row.get('step_seconds', row.get('seconds')):.2f}", *spread, images)
    console.print(table)
    for name, ratio in result["ratios"].items():
        console.print(f"{name}: {ratio:.1%}" if name.startswith(("share", "cost")) else f"{name}: {ratio:.2f} x")
