"""Where a study's runs were trained, and whether what came out differs by device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.stats import permutation_test

from analysis.claims import LEVEL
from analysis.inference import holm
from analysis.study import Study

OUTCOMES = {"failures": "failure", "gain": "gain"}
"""What is compared between devices -> the summary's column"""
_FEWEST_SEEDS = 5  # on either side; with fewer no permutation of them can reach p = .05 beside another outcome's
_COLUMNS = ["outcome", "device", "against", "n", "n_against", "seeds", "seeds_against", "difference", "p", "p_adjusted"]


def provenance(study: Study) -> pd.DataFrame:
    """Of each run that has begun: device, PyTorch, version and tree of the code, dates."""
    columns = {
        **{name: name for name in ("run_id", "context")}, "variant": "arm", "seed": "seed", "device_name": "device",
        **{name: name for name in ("threads", "torch", "training_version", "git_tree", "git_commit", "git_dirty")},
        **{name: name for name in ("started", "ended", "attempts", "exact")},
    }  # fmt: skip
    runs = study.runs[study.runs["attempts"] > 0].rename(columns={"started_at": "started", "ended_at": "ended"})
    frame = runs[list(columns)].rename(columns=columns)
    whole = frame[["threads", "training_version"]].astype("Int64").astype(object)
    return frame.assign(**whole.where(whole.notna(), None)).reset_index(drop=True)  # type: ignore[arg-type]


def devices(study: Study, summary: pd.DataFrame) -> pd.DataFrame:
    """Failures and gain of each further device against those of the one with the most runs, among runs that ended.

    `difference`: mean over the cells (context and arm) that have runs of both, weighted as by Mantel and Haenszel; of
    failures that of rates. p: two-sided permutation test over seeds, which the cells share; exact if there are at most
    10,000 permutations, else of 9,999 of them. It takes seeds for exchangeable: if a seed's runs are of both devices,
    its two shares count as two seeds. Adjusted by Holm over all rows.
    """
    ended, rows = _ended(study, summary), []
    names = list(ended["device"].value_counts().index)
    for device in names[1:]:
        both = ended[ended["device"].isin([names[0], device])]
        for outcome, column in OUTCOMES.items():
            of = both[np.isfinite(both[column].to_numpy(float))]
            shared = of.groupby(["context", "variant"])["device"].transform("nunique") == 2
            if (of := of[shared]).size:
                rows.append({"outcome": outcome, "device": device, "against": names[0]} | _compared(of, column, device))
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    return frame.assign(p_adjusted=holm(frame["p"].to_numpy(float)))


def _ended(study: Study, summary: pd.DataFrame) -> pd.DataFrame:
    """The runs that ended, with the device that they ended on, if it is known."""
    device = summary["run_id"].map(study.runs.set_index("run_id")["device_name"])
    return summary.assign(device=device)[summary["failure"].notna() & device.notna()]


def _compared(runs: pd.DataFrame, column: str, device: str) -> dict[str, float]:
    """Of runs in cells that have both devices."""
    value = runs[column].to_numpy(float)
    cell = runs.groupby(["context", "variant"]).ngroup().to_numpy()
    here = (runs["device"] == device).to_numpy()
    unit = runs.groupby(["seed", "device"]).ngroup().to_numpy()
    ours, theirs = np.unique(unit[here]), np.unique(unit[~here])

    def difference(of: np.ndarray, _: np.ndarray | None = None) -> float:
        mine = np.isin(unit, of)
        n, n_other = (np.bincount(cell, weights=side) for side in (mine, ~mine))
        total, total_other = (np.bincount(cell, weights=side * value) for side in (mine, ~mine))
        weight = n * n_other / (n + n_other)
        some = weight > 0
        means = total[some] / n[some] - total_other[some] / n_other[some]
        return float((weight[some] * means).sum() / weight[some].sum()) if some.any() else 0.0

    p = np.nan
    if min(len(ours), len(theirs)) >= _FEWEST_SEEDS:
        p = permutation_test(
            (ours, theirs), difference, vectorized=False, n_resamples=9_999, rng=np.random.default_rng(0)
        ).pvalue
    sides = {"n": here.sum(), "n_against": (~here).sum(), "seeds": len(ours), "seeds_against": len(theirs)}
    return sides | {"difference": difference(ours), "p": float(p)}


def machines(study: Study, summary: pd.DataFrame, compared: pd.DataFrame) -> str:
    """From how many machines the runs that ended are, and whether outcomes differ, by `compared` of `devices`."""
    return " ".join(_sentences(_ended(study, summary), compared))


def _sentences(ended: pd.DataFrame, compared: pd.DataFrame) -> Iterator[str]:
    counts = ended["device"].value_counts()
    if counts.empty:
        return
    if len(counts) == 1:
        yield f"All {counts.iloc[0]:,} runs that ended are from one machine, or several alike: {counts.index[0]}."
        return
    each = ", ".join(f"{count:,} on {name}" for name, count in counts.items())
    yield f"The runs that ended are from at least {len(counts)} machines, which their devices tell apart: {each}."
    tested = compared.dropna(subset="p_adjusted")
    differing = tested[tested["p_adjusted"] <= LEVEL]
    for row in differing.itertuples():
        more = "higher" if row.difference > 0 else "lower"
        yield f"{str(row.outcome).capitalize()}: {more} on {row.device} than on {row.against} (p {row.p_adjusted:.2g})."
    if not len(compared):
        yield "Whether outcomes differ by device cannot be told: no arm ran on two of them in one context."
    elif not len(tested):
        yield f"Whether outcomes differ by device is not tested: a side has fewer than {_FEWEST_SEEDS} seeds."
    elif not len(differing):
        least, fewest = tested["p_adjusted"].min(), int(tested[["seeds", "seeds_against"]].min().min())
        yield f"No difference by device was found (smallest adjusted p {least:.2g}; at least {fewest} seeds a side)."
    split = ended.groupby(["context", "seed"])["device"].nunique() > 1
    if split.any():
        yield (
            f"In {split.sum():,} of {len(split):,} pairings of arms (context and seed) the runs are of different "
            "devices, so that a difference between arms there may be one between devices."
        )
