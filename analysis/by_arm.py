"""Location, spread and failures of each arm."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.stability import STATISTICS
from analysis.stats import iqm, location_interval, rate_interval
from analysis.terms import OURS, Terms
from analysis.variants import groups


def arms(summary: pd.DataFrame, terms: Terms = OURS) -> pd.DataFrame:
    """Location, spread and failures of each arm, over the runs that ended: one row per context and arm.

    `summary`: of `stability.summarize`. A run without an end (it diverged or failed) counts for `terms.worst`.
    """
    ended = summary[summary["failure"].notna()]
    rows = [_row(context, variant, runs, terms) for (context, variant), runs in groups(ended)]
    frame = pd.DataFrame(rows, columns=list(rows[0]) if rows else ["context", "arm", "n"])
    if len(frame):
        by = frame.groupby("context")[["q_ended", "q_line"]].rank()
        frame.insert(frame.columns.get_loc("q_line") + 1, "order", np.where(  # type: ignore[arg-type]
            by["q_ended"].eq(by["q_line"]) | by.isna().any(axis=1), "same", "differs"))  # fmt: skip
    return frame


def _row(context: str, variant: str, runs: pd.DataFrame, terms: Terms) -> dict[str, object]:
    back = np.exp if terms.ratio else np.asarray
    ended, failed = (runs[name].astype(bool).to_numpy() for name in ("ended", "failure"))
    level = np.where(ended, runs[terms.location].astype(float), terms.worst)
    level = level[~np.isnan(level)]
    steady, having = runs[~failed], runs[ended]
    row = {"context": context, "arm": variant, "n": len(runs), "ended": int(ended.sum())}
    if runs["gain"].notna().any():
        gain = location_interval(runs["gain"].dropna().to_numpy(float))[0]
        row |= dict(zip(("gain", "gain_low", "gain_high"), gain, strict=True))
    row |= dict(zip(("q_centre", "q_low", "q_high"), back(location_interval(level)[0]), strict=True))
    row |= {"q_median": _median_of(pd.Series(back(level))), "q_iqm": float(iqm(back(level)))}
    row |= {"q_ended": _median_of(having["q_end"]), "q_line": _median_of(having["q_line"])}
    ends = having["q_end"].dropna().to_numpy(float)
    row |= {"q_mean": float(ends.mean()) if len(ends) else np.nan, "q_mean_sd": _sd(ends)}
    rate = rate_interval(int(failed.sum()), len(runs))
    row |= {"failures": int(failed.sum()), "failure_rate": rate.estimate, "rate_low": rate.low, "rate_high": rate.high}
    of = steady[terms.location].dropna().to_numpy(float)
    row |= {"n_steady": len(of), "sd": _sd(of), "mad": _mad(of)}
    row |= dict(zip(("q_10", "q_90"), back(np.quantile(of, [0.1, 0.9])) if len(of) else [np.nan] * 2, strict=True))
    row["sd_ended"] = _sd(having[terms.location].dropna().to_numpy(float))
    within = having["q_sd"].dropna().to_numpy(float)
    row["sd_within_run"] = float(np.sqrt((within**2).mean())) if len(within) else np.nan
    row["sd_persistent"] = _persistent(steady, terms)
    return row


def _median_of(values: pd.Series) -> float:
    return float(values.astype(float).median()) if len(values) else np.nan


def _sd(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else np.nan


def _mad(values: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values)))) if len(values) > 1 else np.nan


def _persistent(runs: pd.DataFrame, terms: Terms) -> float:
    both = runs[["q_middle", terms.location]].astype(float).dropna()
    return float(np.sqrt(max(both.cov().iloc[0, 1], 0))) if len(both) > 2 else np.nan


def statistics(summary: pd.DataFrame) -> pd.DataFrame:
    """Median and range of every statistic, over the runs of an arm that ended and have it."""
    rows = []
    for (context, variant), runs in groups(summary[summary["failure"].notna()]):
        for name in present(summary):
            values = runs[name].astype(float).dropna()
            row = {"context": context, "arm": variant, "statistic": name, "n": len(values)}
            rows.append(row | {"median": values.median(), "low": values.min(), "high": values.max()})
    return pd.DataFrame(rows, columns=["context", "arm", "statistic", "n", "median", "low", "high"])


def present(summary: pd.DataFrame) -> list[str]:
    """The statistics that some run has."""
    return [name for name in STATISTICS if summary[name].notna().any()]
