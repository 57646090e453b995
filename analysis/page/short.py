"""Another program's arms compared, in sentences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.claims import LEVEL
from analysis.stats import APPROXIMATE_BELOW
from analysis.study import Study
from analysis.terms import Terms

_SENTENCES = 6  # as many comparisons are said one by one, and of more those that are decided


def in_short(study: Study, summary: pd.DataFrame, comparisons: pd.DataFrame, across: pd.DataFrame) -> list[str]:
    """Which arm of another program is better than the baseline by how much, or that nothing can be said: sentences.

    Better: the whole interval of the shift lies on that side, and its p, adjusted over arms and contexts, is at most
    0.05. With several contexts the first sentence is of all of them, by the chance of being better.
    """
    terms = study.terms
    by = f"By {terms.quality} ({terms.better} is better)"
    rows = comparisons[comparisons["statistic"] == terms.location].to_dict("records")
    if not rows:
        return [f"{by} nothing can be said: there are no two arms with results for the same seeds."]
    contexts = list(dict.fromkeys(row["context"] for row in rows))
    lost = summary[summary["ended"].eq(False)].groupby(["context", "variant"]).size()
    runs = summary[summary["failure"].notna()].groupby(["context", "variant"]).size()
    sides, said = {}, []
    for row in rows:
        key = (row["context"], row["arm"])
        sides[key], text = _said(row, terms)
        without = [
            f"without an end: {lost[row['context'], arm]} of {runs[row['context'], arm]} runs of {arm}"
            for arm in (row["arm"], row["baseline"])
            if (row["context"], arm) in lost
        ]
        place = f" on {row['context']}" if len(contexts) > 1 else ""
        if sides[key] or len(rows) <= _SENTENCES:
            said.append(f"{by}{place} {'; '.join([text, *without])}.")
    if len(contexts) == 1:
        return [*said, *_undecided([row["arm"] for row in rows if not sides[contexts[0], row["arm"]]], len(rows))]
    over, open_ = [], []
    for row in across.dropna(subset="baseline").to_dict("records"):
        if len(across) <= _SENTENCES or _side(row):
            over.append(_over_all(row, by, sides))
        else:
            open_.append(row["arm"])
    return [*over, *_undecided(open_, len(across)), *said]


def _undecided(arms: list[str], of: int) -> list[str]:
    """One sentence for all of them, if they have none of their own."""
    return [f"Nothing can be said of {', '.join(arms)}."] if arms and of > _SENTENCES else []


def _side(row: dict[str, Any]) -> str:
    """Better or worse over all data sets, or nothing."""
    low, high = row["prob_low"], row["prob_high"]
    decided = row["p_adjusted"] <= LEVEL and (low > 0.5 or high < 0.5)
    return ("better" if low > 0.5 else "worse") if decided else ""


def _over_all(row: dict[str, Any], by: str, sides: dict[tuple[str, str], str]) -> str:
    """A row of the table over data sets in two sentences; `sides`: (context, arm) -> better, worse or nothing."""
    arm, low, high, p = (row[name] for name in ("arm", "prob_low", "prob_high", "p_adjusted"))
    chance = f"a run of {arm} is better than one of {row['baseline']} with probability {row['prob_improvement']:.2f}"
    numbers = [f"95 % interval {low:.2f} to {high:.2f}", f"n = {row['n']} runs of {arm}"]
    numbers += [] if np.isnan(p) else [f"adjusted p {p:.2g}"]
    n = int(row["shared"])
    verdict = "of which nothing can be said" if n >= APPROXIMATE_BELOW else (
        f"which describes: fewer than {APPROXIMATE_BELOW} data sets are not tested"
    )  # fmt: skip
    if side := _side(row):
        verdict = f"so it is {side}"
    found: dict[str, list[str]] = {"better": [], "worse": [], "": []}
    for (context, of), side in sides.items():
        if of == arm:
            found[side].append(context)
    each = [f"{side} on {len(names)} ({', '.join(names)})" for side, names in found.items() if side and names]
    each.append(f"undecided on {len(found[''])}")
    return (
        f"{by}, over {n} data set{'s' if n > 1 else ''}, {chance} ({', '.join(numbers)}), {verdict}. "
        f"One by one, by paired seeds, it is {', '.join(each)}."
    )


def _said(row: dict[str, Any], terms: Terms) -> tuple[str, str]:
    """(better, worse or nothing, a sentence without its beginning) of a row of `compare_arms`."""
    arm, base = row["arm"], row["baseline"]
    low, high, n, p = row["shift_low"], row["shift_high"], int(row["n_pairs"]), row["p_adjusted"]
    nothing = f"nothing can be said of {arm} against {base}"
    if not n:
        return "", f"{nothing}: they share no seed"
    tested = f"n = {n} paired seed{'s' if n != 1 else ''}" + (f", adjusted p {p:.2g}" if n >= APPROXIMATE_BELOW else "")
    few = "" if n >= APPROXIMATE_BELOW else f": fewer than {APPROXIMATE_BELOW} pairs are described, not tested"
    if row["n_both_ended"] == 0 and row["shift"] == 0:
        return "", f"{nothing}: no pair of runs has two ends ({tested})"
    if np.isfinite(row["shift"]):
        interval = f"95 % interval {_amount(low, terms)} to {_amount(high, terms)}"
        shift = f"{_amount(row['shift'], terms)} ({interval if not np.isnan(low) else 'no interval'}, {tested})"
    else:  # on the side of the one that has ends
        ended = arm if (row["shift"] > 0) == terms.maximize else base
        shift = f"in most pairs only {ended} has an end ({tested})"
    if not (n >= APPROXIMATE_BELOW and p <= LEVEL and (low > 0 or high < 0)):
        return "", f"{nothing}: {shift}{few}"
    side = "better" if (low > 0) == terms.maximize else "worse"
    return side, f"{arm} is {side} than {base}: {shift}"


def _amount(shift: float, terms: Terms) -> str:
    """A difference with its sign; of a ratio in percent, or as a factor if that reads better."""
    if not np.isfinite(shift):
        return "no limit"
    if not terms.ratio:
        return f"{shift:+.3g}"
    return f"{100 * np.expm1(shift):+.3g} %" if shift < np.log(3) else f"a factor of {np.exp(shift):.3g}"
