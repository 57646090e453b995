"""Another program's arms in sentences, and over all its data sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.claims import LEVEL
from analysis.inference import stratified_bootstrap
from analysis.load import Study
from analysis.stats import APPROXIMATE_BELOW, benjamini_hochberg, signed_rank_p
from analysis.tables import Table, against, iqm
from analysis.terms import Terms

_SENTENCES = 12  # as many comparisons are said one by one, and of more those that are decided


def across_table(study: Study, summary: pd.DataFrame) -> Table:
    """Another program's arms over all its data sets, as in `rliable`: interquartile mean, and probability of
    improvement."""
    terms, rows = study.terms, []
    over = summary[summary["failure"].notna() & (summary[terms.location].notna() | summary["ended"].eq(False))]
    level = np.where(over["ended"].eq(True), over["q_end"].astype(float), terms.worst)
    by_arm = {
        arm: {context: of["q"].to_numpy() for context, of in runs.groupby("context", sort=False)}
        for arm, runs in over.assign(q=level).groupby("variant")
    }
    order = against(over["variant"], study.baseline) if over["context"].nunique() > 1 else []
    for arm in order:
        of, base = by_arm[arm], by_arm[order[0]]
        row = {"arm": arm, "data_sets": len(of), "n": sum(map(len, of.values()))}
        pooled = stratified_bootstrap(_pooled_iqm, *of.values())
        row |= dict(zip(("q_iqm", "iqm_low", "iqm_high"), pooled, strict=True))
        shared = [context for context in of if context in base]
        if arm != order[0] and shared:
            pairs = [group for context in shared for group in (of[context], base[context])]
            found = stratified_bootstrap(lambda *groups: _chances(groups, terms).mean(axis=0), *pairs)
            row |= {"baseline": order[0], "shared": len(shared)}
            row |= dict(zip(("prob_improvement", "prob_low", "prob_high"), found, strict=True))
            if len(shared) >= APPROXIMATE_BELOW:
                row["p"] = signed_rank_p(_chances(pairs, terms) - 0.5)
        rows.append(row)
    columns = [
        *("arm", "data_sets", "n", "q_iqm", "iqm_low", "iqm_high", "baseline", "shared"),
        *("prob_improvement", "prob_low", "prob_high", "p"),
    ]
    caption = (
        "Over all data sets. {q} iqm: interquartile mean of {q} over all n runs of all data sets at once, which means "
        "something only if the data sets share a scale (normalized scores). prob improvement: the chance that a run of "
        "the arm is better than one of the baseline, ties half, mean over the shared data sets; it needs no scale. "
        "Runs are not paired here. Intervals: 95 % percentile bootstrap over the runs within each data set, 2,000 "
        "draws. p: signed rank test over data sets of that chance against one half, from "
        f"{APPROXIMATE_BELOW} of them on; p adjusted by Benjamini-Hochberg over the arms."
    )
    frame = pd.DataFrame(rows, columns=columns)
    frame["p_adjusted"] = benjamini_hochberg(frame["p"].to_numpy(float))
    return Table("across", "Over data sets", terms.fill(caption), frame, "two data sets", terms.quality)


def _pooled_iqm(*groups: np.ndarray) -> np.ndarray:
    """(.., n) each -> (..): of all groups' values at once."""
    return iqm(np.concatenate(groups, axis=-1))


def _chances(groups: Sequence[np.ndarray], terms: Terms) -> np.ndarray:
    """For each pair of groups, (.., n) and (.., m), P(a value of the first is better than one of the second), ties
    half: (pairs, ..)."""
    sides = [(y, x) if terms.maximize else (x, y) for x, y in zip(groups[::2], groups[1::2], strict=True)]
    of_pairs = ((x[..., :, None], y[..., None, :]) for x, y in sides)
    return np.array([((x < y).mean(axis=(-2, -1)) + (x <= y).mean(axis=(-2, -1))) / 2 for x, y in of_pairs])


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
        return said
    return [_over_all(row, by, sides) for row in across.dropna(subset="baseline").to_dict("records")] + said


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
    if p <= LEVEL and (low > 0.5 or high < 0.5):
        verdict = "so it is better" if low > 0.5 else "so it is worse"
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
    few = "" if n >= APPROXIMATE_BELOW else f": fewer than {APPROXIMATE_BELOW} pairs describe, they do not test"
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
