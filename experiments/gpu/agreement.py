"""Whether a device trains as a CPU does: the first 20 steps of every arm against rows that a CPU wrote.

Every random number comes from the CPU's named streams, so rows differ by rounding alone: in float64 by far less than
the tolerance, in float32 by what 20 steps make of a rounding. `python -m experiments.gpu.agreement --write` writes
agreement.json again, on one thread of a CPU.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from experiments.output import outlive_readers
from experiments.record import to_json
from sngan.arms import ARMS
from sngan.config import TRAINING_VERSION, RunConfig
from sngan.data import load
from sngan.files import write_atomically
from sngan.train import train

FILE = Path(__file__).with_name("agreement.json")
_CONFIG = {"dataset": "digits", "batch_size": 64, "steps": 20, "log_every": 1, "instrument_every": 5,
           "n_evaluations": 2, "n_fake": 200}  # fmt: skip
_DIGITS = 12
_SMALL = 1e-3  # a number below it is compared as if it were as large

Rows = dict[str, list[float | None]]  # metric -> one value per row; None if a row does not have it


class Tolerance(NamedTuple):
    """Largest relative difference of the metrics that start so, in rows up to `step`."""

    precision: str
    metrics: str
    step: int
    most: float


TOLERANCES = (
    *(Tolerance("float64", metrics, 20, 1e-8)
      for metrics in ("loss", "logit", "grad_norm", "sigma", "weight_norm", "penalty_ratio", "grad_x", "lipschitz")),
    Tolerance("float64", "eval/fd_pixels", 20, 1e-8),
    Tolerance("float64", "eval/fd", 20, 1e-5),  # its features are in float32
    Tolerance("float32", "loss", 1, 1e-4),
    Tolerance("float32", "loss", 5, 1e-3),
    Tolerance("float32", "loss", 20, 0.05),
)  # fmt: skip


def rows_on(device: torch.device | str, arm: str, precision: str) -> Rows:
    """The 21 rows of an arm's run on a device, by metric; in float32 the losses alone."""
    rows: list[dict[str, Any]] = []
    config = RunConfig(arm=arm, precision=precision, **_CONFIG)  # type: ignore[arg-type]
    train(config, load(config.dataset).to(device), lambda row, samples: rows.append(row))
    compared = {tolerance.metrics for tolerance in TOLERANCES if tolerance.precision == precision}
    keys = {key: None for row in rows for key in row if key.startswith(tuple(compared))}
    return {key: [_rounded(row.get(key)) for row in rows] for key in keys}


def _rounded(value: Any) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, int | float) else None


def write(path: Path = FILE) -> None:
    """Write what a CPU's rows are, on one thread."""
    torch.set_num_threads(1)
    rows = {precision: {arm: rows_on("cpu", arm, precision) for arm in ARMS} for precision in ("float64", "float32")}
    lines = [
        f'"{precision}": {{\n' + ",\n".join(f' "{arm}": {to_json(found)}' for arm, found in of_arm.items()) + "\n}"
        for precision, of_arm in rows.items()
    ]
    about = to_json({"training_version": TRAINING_VERSION, "torch": torch.__version__, **_CONFIG})
    write_atomically(path, f'{{"about": {about},\n' + ",\n".join(lines) + "\n}\n")


def compare(
    device: torch.device | str, arms: tuple[str, ...] = tuple(ARMS), say: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """One line for each arm and tolerance: the largest difference, where it is, and whether it is small enough."""
    expected = json.loads(FILE.read_text())
    lines = []
    for precision in ("float64", "float32"):
        for arm in arms:
            found = rows_on(device, arm, precision)
            for tolerance in (t for t in TOLERANCES if t.precision == precision):
                difference, where = largest_difference(
                    expected[precision][arm], found, tolerance.metrics, tolerance.step
                )
                line = {"arm": arm, **tolerance._asdict(), "difference": difference, "where": where}
                lines.append(line | {"agrees": difference <= tolerance.most})
                verdict = "" if difference <= tolerance.most else f" MORE THAN {tolerance.most:.0e}"
                say(
                    f"{precision} {arm} {tolerance.metrics} to step {tolerance.step}: {difference:.1e} {where}{verdict}"
                )
    return lines


def largest_difference(expected: Rows, found: Rows, metrics: str, step: int) -> tuple[float, str]:
    """The largest relative difference of metrics that start so, up to a step's row, and where; else infinite."""
    names = [{key for key in rows if key.startswith(metrics)} for rows in (expected, found)]
    if names[0] != names[1]:
        return math.inf, f"metrics that only one has: {', '.join(sorted(names[0] ^ names[1]))}"
    largest = (0.0, "")
    for key in sorted(names[0]):
        for i, (a, b) in enumerate(zip(expected[key][: step + 1], found[key][: step + 1], strict=True)):
            if a is None and b is None:
                continue
            close = a is not None and b is not None and math.isfinite(b)
            difference = abs(a - b) / max(abs(a), abs(b), _SMALL) if close else math.inf  # type: ignore[operator,arg-type]
            largest = max(largest, (difference, f"{key} at {i}"))
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.gpu.agreement", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write agreement.json again, from this CPU")
    parser.add_argument("--device", default="cuda", help="compared with the file; default: %(default)s")
    arguments = parser.parse_args()
    if arguments.write:
        write()
    else:
        raise SystemExit(not all(line["agrees"] for line in compare(arguments.device)))


if __name__ == "__main__":
    outlive_readers()
    main()
