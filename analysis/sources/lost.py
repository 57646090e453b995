"""Which runs of a table have diverged, if it does not say so.

A run is lost
- from its first infinite loss or quality on;
- from where a column that had numbers is NaN to the end, and NaN is what is written there, unless that word stands
  before numbers elsewhere in the table, which then writes it for nothing. If cells of the column are also absent,
  the word says what it says; else of a loss only if no finite quality stands in that row or later, or if it lasts far
  longer than the loss ever paused, and of quality if no finite loss does;
- where a loss (or quality, if no loss is finite) is absent to the end for far longer than it ever paused in any run,
  and no finite quality follows;
- altogether, if neither quality nor loss is ever finite, and NaN is written.

What would make every run of a table lost is how that table was logged, and makes none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

NAN_WORDS = ("nan", "-nan")
FAR = 3.0
"""Times the longest other gap: what is missing to the end for longer is lost."""
_WATCHED = ("loss", "loss_g", "quality")
_LOSSES = ("loss", "loss_g")


class Lost(NamedTuple):
    step: float
    why: str | None


class _Run(NamedTuple):
    """A run's rows in order of steps, by column: values, and where NaN is written."""

    steps: np.ndarray
    values: Mapping[str, np.ndarray]
    written: Mapping[str, np.ndarray]

    def finite(self, *names: str) -> np.ndarray:
        """Rows in which one of the columns has a number."""
        found = [np.isfinite(self.values[name]) for name in names if name in self.values]
        return np.logical_or.reduce(found) if found else np.zeros(len(self.steps), bool)

    def gap(self, name: str) -> float:
        """The longest between two numbers, or from the first row to the first of them."""
        known = self.steps[self.finite(name)]
        return float(max(np.diff(known).max(initial=0), known[0] - self.steps[0])) if len(known) else 0.0


def lost_runs(
    rows: pd.DataFrame, words: Mapping[str, np.ndarray], called: Mapping[str, str]
) -> tuple[dict[str, Lost], list[str]]:
    """Run id -> since when it is lost, and what is doubtful of the others, a sentence each.

    `rows` in order of run_id and step, with step, quality and losses; `words`: column -> where NaN is written;
    `called`: what the columns are called.
    """
    ids, names = rows["run_id"].to_numpy(), [name for name in _WATCHED if name in rows]
    begins = np.flatnonzero(np.append(True, ids[1:] != ids[:-1]))
    columns = {name: rows[name].to_numpy() for name in names}
    steps = rows["step"].to_numpy()
    runs = {}
    for begin, end in zip(begins, [*begins[1:], len(rows)], strict=True):
        of = slice(begin, end)
        values, written = ({name: table[name][of] for name in names} for table in (columns, words))
        runs[str(ids[begin])] = _Run(steps[of], values, written)
    found: dict[str, Lost] = {}
    for name in names:
        for ends in (_infinite(runs, name, called[name]), _stopped(runs, name, called[name])):
            for run_id, lost in ends.items():
                found[run_id] = min(lost, found.get(run_id, lost), key=lambda end: end.step)
    for run_id, run in runs.items():
        if not run.finite(*names).any() and any(run.written[name].any() for name in names) and run_id not in found:
            found[run_id] = Lost(int(run.steps[0]), f"{called['quality']} is never finite")
    rest = {run_id: run for run_id, run in runs.items() if run_id not in found}
    longest = max((run.gap("quality") for run in runs.values()), default=0)
    without = [run_id for run_id, run in rest.items() if not run.finite("quality").any()]
    early = [
        run_id for run_id, run in rest.items()
        if longest and run_id not in without and run.steps[-1] - run.steps[run.finite("quality")][-1] > longest
    ]  # fmt: skip
    doubts = []
    if without:
        doubts.append(
            f"without any {called['quality']}, so in no comparison of it: {_listed(without)}; of runs that diverged "
            "write inf, or a column state"
        )
    if early:
        doubts.append(f"{called['quality']} ends long before the run does: {_listed(early)}")
    return found, doubts


def _infinite(runs: Mapping[str, _Run], name: str, called: str) -> dict[str, Lost]:
    firsts = {run_id: np.flatnonzero(np.isinf(run.values[name])) for run_id, run in runs.items()}
    return {
        run_id: Lost(int(runs[run_id].steps[at[0]]), f"{called} is infinite")
        for run_id, at in firsts.items()
        if len(at)
    }


def _stopped(runs: Mapping[str, _Run], name: str, called: str) -> dict[str, Lost]:
    """Runs in which a column that had numbers is NaN, or missing for far longer than ever, to the end."""
    longest = max((run.gap(name) for run in runs.values()), default=0)
    fills = any((run.written[name][: _last(run, name) + 1]).any() for run in runs.values())
    absent = any((np.isnan(run.values[name]) & ~run.written[name]).any() for run in runs.values())
    found = {}
    for run_id, run in runs.items():
        last = _last(run, name)
        if last < 0 or last + 1 == len(run.steps):
            continue
        far = bool(longest) and run.steps[-1] - run.steps[last] > FAR * longest
        rest = run.written[name][last + 1 :]
        if rest.any() and not fills:
            first = last + 1 + int(rest.argmax())
            others = run.finite(*_LOSSES) if name == "quality" else run.finite("quality")
            if absent or not others[first:].any() or (far and name != "quality"):
                found[run_id] = Lost(int(run.steps[first]), f"{called} is NaN from here on")
                continue
        if name == "quality" and run.finite(*_LOSSES).any():
            continue
        if far and not run.finite("quality")[last + 1 :].any():
            found[run_id] = Lost(int(run.steps[last + 1]), f"{called} is missing after step {run.steps[last]:,}")
    return found if len(found) < len(runs) or len(runs) == 1 else {}


def _last(run: _Run, name: str) -> int:
    """Row of the column's last number; -1 if it has none."""
    return int(np.flatnonzero(run.finite(name))[-1]) if run.finite(name).any() else -1


def _listed(names: list[str]) -> str:
    return "; ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
