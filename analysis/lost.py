"""Which runs of a table have diverged, if it does not say so.

A run is lost
- from its first infinite loss or quality on;
- from a NaN that was logged on: the word stands in a row of a kind in which other rows have a number in that column,
  and no number follows, in no run of the table (where one does, the word is what that table writes for nothing);
- where a loss (or quality, if no loss is finite) stops for much longer than it ever paused in any run, and no finite
  quality follows;
- altogether, if neither quality nor loss is ever finite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

NAN_WORDS = ("nan", "-nan", "null")
FAR = 3.0
"""Times the longest other gap: what is missing to the end for longer is lost."""
_WATCHED = ("loss", "loss_g", "quality")


class Lost(NamedTuple):
    step: float
    why: str | None


def lost_runs(
    rows: pd.DataFrame, words: Mapping[str, np.ndarray], called: Mapping[str, str]
) -> tuple[dict[str, Lost], list[str]]:
    """Run id -> since when it is lost, and what is doubtful of the others, a sentence each.

    `rows` in order of run_id and step, with step, quality and losses; `words`: column -> where NaN is written;
    `called`: what the columns are called.
    """
    names = [name for name in _WATCHED if name in rows]
    bounds = np.flatnonzero(np.append(True, rows["run_id"].to_numpy()[1:] != rows["run_id"].to_numpy()[:-1]))
    places = [slice(a, b) for a, b in zip(bounds, [*bounds[1:], len(rows)], strict=True)]
    columns = {name: rows[name].to_numpy() for name in names}
    finite = {name: np.isfinite(values) for name, values in columns.items()}
    steps = rows["step"].to_numpy()
    written = {name: _logged(name, finite, words) for name in names}
    for name, where in written.items():
        if any(_before_a_number(where[place], finite[name][place]) for place in places):
            written[name] = np.zeros(len(rows), bool)
    longest = {name: max((_longest_gap(steps[p], finite[name][p]) for p in places), default=0) for name in names}
    found: dict[str, Lost] = {}
    without, early = [], []
    for place in places:
        run_id, at = str(rows["run_id"].iloc[place.start]), steps[place]
        known = {name: finite[name][place] for name in names}
        values = {name: columns[name][place] for name in names}
        ends = list(_ends(at, values, known, {name: written[name][place] for name in names}, longest, called))
        if ends:
            found[run_id] = min(ends, key=lambda end: end.step)
        elif not known["quality"].any():
            without.append(run_id)
        elif longest["quality"] and at[-1] - at[known["quality"]][-1] > longest["quality"]:
            early.append(run_id)
    doubts = []
    if without:
        doubts.append(f"without any {called['quality']}, so in no comparison of it: {_listed(without)}")
    if early:
        doubts.append(f"{called['quality']} ends long before the run does: {_listed(early)}")
    return found, doubts


def _ends(
    steps: np.ndarray,
    columns: Mapping[str, np.ndarray],
    finite: Mapping[str, np.ndarray],
    written: Mapping[str, np.ndarray],
    longest: Mapping[str, float],
    called: Mapping[str, str],
) -> Iterator[Lost]:
    """Where a run is lost by each rule."""
    by_loss = any(finite[name].any() for name in finite if name != "quality")
    for name, values in columns.items():
        if (infinite := np.isinf(values)).any():
            step = int(steps[infinite.argmax()])
            yield Lost(step, f"{called[name]} is infinite at step {step:,}")
        if written[name].any():
            step = int(steps[written[name].argmax()])
            yield Lost(step, f"{called[name]} is NaN from step {step:,}")
        if (name == "quality" and by_loss) or not finite[name].any() or not longest[name]:
            continue
        last = int(np.flatnonzero(finite[name])[-1])
        if steps[-1] - steps[last] > FAR * longest[name] and not finite["quality"][last + 1 :].any():
            yield Lost(int(steps[last + 1]), f"{called[name]} is missing after step {steps[last]:,}")
    if not any(known.any() for known in finite.values()):
        yield Lost(int(steps[0]), f"{called['quality']} is never finite")


def _logged(name: str, finite: Mapping[str, np.ndarray], words: Mapping[str, np.ndarray]) -> np.ndarray:
    """Where NaN is written in rows of a kind in which the column was logged.

    Kinds are rows with and without a quality; of quality itself rows with and without a loss.
    """
    other = "quality" if name != "quality" else "loss"
    kind = finite[other] if other in finite else np.zeros(len(finite[name]), bool)
    logged = np.isin(kind, np.unique(kind[finite[name]])) if finite[name].any() else np.ones(len(kind), bool)
    return words.get(name, np.zeros(len(kind), bool)) & logged


def _before_a_number(written: np.ndarray, finite: np.ndarray) -> bool:
    return bool(written.any() and finite[written.argmax() :].any())


def _longest_gap(steps: np.ndarray, finite: np.ndarray) -> float:
    """Between two numbers of a run, or from its first row to the first of them."""
    known = steps[finite]
    return float(max(np.diff(known).max(initial=0), known[0] - steps[0])) if len(known) else 0.0


def _listed(names: list[str]) -> str:
    return "; ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
