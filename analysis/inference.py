"""Numbers of seeds -> estimates with intervals, tests of paired arms, survival, power. scipy and statsmodels do it."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.stats import LEVEL, Interval, signed_rank_critical, signed_rank_p

MARGIN = float(np.log(1.1))  # of equality on a log scale
_NONE = Interval(np.nan, np.nan, np.nan)
_TRIM = 0.25  # the interquartile mean is the 25 % trimmed mean
_RESAMPLES = 4000


def iqm_intervals(table: pd.DataFrame) -> dict[str, Interval]:
    """Interquartile mean of each column (arms; rows are seeds, NaN where an arm lacks one), with its 95 % interval.

    Bootstrap-t: seeds are drawn, the same for all arms that have the same seeds, and each draw is studentized by the
    standard error of a trimmed mean (from the winsorized variance). No interval below 4 seeds, for equal values, or
    where a value is infinite. The percentile bootstrap covers too little at these sizes.
    """
    found = {}
    for arm in table:
        values = table[arm].dropna().to_numpy(float)
        if not len(values):
            found[arm] = _NONE
            continue
        estimate = float(stats.trim_mean(values, _TRIM))
        if len(values) < 4 or not np.isfinite(values).all() or np.ptp(values) == 0:
            found[arm] = Interval(estimate, np.nan, np.nan)
            continue
        drawn = values[np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))]
        errors = _trimmed_error(drawn)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (stats.trim_mean(drawn, _TRIM, axis=1) - estimate) / errors
        t, error = t[errors > 0], float(_trimmed_error(values[None])[0])
        low, high = np.quantile(t, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        found[arm] = Interval(estimate, estimate - high * error, estimate - low * error)
    return found


def _trimmed_error(samples: np.ndarray) -> np.ndarray:
    """Standard error of each row's trimmed mean (Tukey and McLaughlin 1963)."""
    n = samples.shape[1]
    cut = int(_TRIM * n)
    ordered = np.sort(samples, axis=1)
    winsorized = np.clip(ordered, ordered[:, [cut]], ordered[:, [n - 1 - cut]])
    return winsorized.std(axis=1, ddof=1) / ((1 - 2 * _TRIM) * np.sqrt(n))


def sd_interval(values: np.ndarray) -> Interval:
    """Standard deviation with Bonett's interval, which allows for tails other than the normal's. None below 5 values.

    Source: Bonett, Computational Statistics & Data Analysis 50 (2006).
    """
    n = len(values)
    if n < 2 or not np.isfinite(values).all():
        return _NONE
    sd = float(values.std(ddof=1))
    if n < 5 or sd == 0:
        return Interval(sd, np.nan, np.nan)
    centre = stats.trim_mean(values, 1 / (2 * np.sqrt(n - 4))) if n > 5 else np.median(values)
    kurtosis = n * ((values - centre) ** 4).sum() / ((values - values.mean()) ** 2).sum() ** 2
    z = stats.norm.ppf((1 + LEVEL) / 2)
    c = n / (n - z)
    half = z * c * np.sqrt(max(kurtosis - (n - 3) / n, 0) / (n - 1)) / 2
    return Interval(sd, float(sd * np.sqrt(c) * np.exp(-half)), float(sd * np.sqrt(c) * np.exp(half)))


# --- paired tests ---


def equality_p(differences: np.ndarray, margin: float = MARGIN) -> float:
    """TOST: p that the centre of paired differences lies outside +-margin, by two signed rank tests. NaN below 2."""
    d = differences[np.isfinite(differences)]
    if len(d) < 2 or len(d) < len(differences):
        return np.nan
    return max(signed_rank_p(d + margin, "greater"), signed_rank_p(d - margin, "less"))


def mcnemar_p(x: np.ndarray, y: np.ndarray) -> float:
    """Exact two-sided McNemar test of two paired failure indicators. 1 where no pair differs, NaN without pairs."""
    if not len(x):
        return np.nan
    only_x, only_y = int((x & ~y).sum()), int((~x & y).sum())
    return float(stats.binomtest(only_x, only_x + only_y).pvalue) if only_x + only_y else 1.0


def trend_p(table: pd.DataFrame) -> float:
    """Page's test that the columns rise in their order, over the rows (seeds) that have all. NaN below 2 rows or 3
    columns. Under ties by 1,999 seeded permutations within the rows, where the published null is far too wide."""
    complete = table.dropna().to_numpy(float)
    if complete.shape[0] < 2 or complete.shape[1] < 3:
        return np.nan
    ranks, order = stats.rankdata(complete, axis=1), np.arange(1.0, complete.shape[1] + 1)
    if (np.sort(ranks, axis=1) == order).all():
        return float(stats.page_trend_test(complete).pvalue)
    shuffled = np.random.default_rng(0).permuted(np.broadcast_to(ranks, (1999, *ranks.shape)), axis=2) @ order
    return (1 + int((shuffled.sum(axis=1) >= (ranks @ order).sum() - 1e-9).sum())) / 2000


def sign_flip_p(differences: np.ndarray) -> float:
    """Two-sided permutation test by sign flips that the mean of paired differences is zero.

    Exact up to 14 differences, by 2**14 seeded random flips beyond. NaN below 2.
    """
    d = differences[np.isfinite(differences)]
    if len(d) < 2:
        return np.nan
    if not d.any():
        return 1.0
    exact = len(d) <= 14
    as_far = int((np.abs(_signs(len(d)) @ d) >= np.abs(d.sum()) * (1 - 1e-12)).sum())
    return as_far / 2 ** len(d) if exact else (as_far + 1) / (2**14 + 1)


@lru_cache(maxsize=16)
def _signs(n: int) -> np.ndarray:
    """Rows of n signs: all there are up to n = 14, else 2**14 at random."""
    if n > 14:
        return np.random.default_rng(0).choice([-1.0, 1.0], (2**14, n))
    return 1.0 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p values; NaN stay and do not count."""
    from statsmodels.stats.multitest import multipletests

    adjusted, known = np.full(len(p), np.nan), ~np.isnan(p)
    if known.any():
        adjusted[known] = multipletests(p[known], method="holm")[1]
    return adjusted


# --- time to failure ---


class Survival(NamedTuple):
    """Kaplan-Meier: `curve` has step, survival, low, high (95 %, log-log); `mean` is restricted to the horizon."""

    curve: pd.DataFrame
    mean: Interval


def survival(steps: np.ndarray, failed: np.ndarray, horizon: float) -> Survival:
    """Share of runs without failure over steps. `steps`: of the failure, or to which a run without one was seen.

    The restricted mean is the area below the curve up to `horizon`, its interval from Greenwood's variance. Empty
    without runs; a curve without failures has no interval.
    """
    if not len(steps):
        return Survival(pd.DataFrame(columns=["step", "survival", "low", "high"]), _NONE)
    sample = stats.CensoredData(uncensored=steps[failed], right=steps[~failed])
    function = stats.ecdf(sample).sf
    at = np.concatenate([[0.0], function.quantiles])
    share = np.concatenate([[1.0], function.probabilities])
    low, high = np.full(len(at), np.nan), np.full(len(at), np.nan)
    if failed.any():
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # at the ends it has none
            band = function.confidence_interval(LEVEL, method="log-log")
        low[1:], high[1:] = band.low.probabilities, band.high.probabilities
    curve = pd.DataFrame({"step": at, "survival": share, "low": low, "high": high})
    widths = np.diff(np.append(np.minimum(at, horizon), horizon))
    mean = float((share * widths).sum())
    variance = 0.0
    for step in np.unique(steps[failed]):
        at_risk, deaths = int((steps >= step).sum()), int((steps[failed] == step).sum())
        beyond = float((share * widths)[at >= step].sum())
        variance += beyond**2 * deaths / (at_risk * (at_risk - deaths)) if at_risk > deaths else 0.0
    half = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt(variance)
    limits = (max(mean - half, 0.0), min(mean + half, horizon)) if variance else (np.nan, np.nan)
    return Survival(curve, Interval(mean, *limits))


def log_rank_p(x: tuple[np.ndarray, np.ndarray], y: tuple[np.ndarray, np.ndarray]) -> float:
    """Log-rank test of two arms' (steps, failed). Unpaired; NaN where an arm is empty, 1 where nothing failed or all
    failed at once."""
    if not len(x[0]) or not len(y[0]):
        return np.nan
    if not x[1].any() and not y[1].any():
        return 1.0
    samples = [stats.CensoredData(uncensored=steps[failed], right=steps[~failed]) for steps, failed in (x, y)]
    with np.errstate(invalid="ignore"):
        p = float(stats.logrank(*samples).pvalue)
    return 1.0 if np.isnan(p) else p


def order_p(x: tuple[np.ndarray, np.ndarray], y: tuple[np.ndarray, np.ndarray]) -> float:
    """Sign test over paired seeds of which arm failed first; pairs in which that cannot be told are left out."""
    x_first, told = order_counts(x, y)
    return float(stats.binomtest(x_first, told).pvalue) if told else 1.0


def order_counts(x: tuple[np.ndarray, np.ndarray], y: tuple[np.ndarray, np.ndarray]) -> tuple[int, int]:
    """In how many pairs of (steps, failed) x failed first, and in how many it can be told which did."""
    (x_steps, x_failed), (y_steps, y_failed) = x, y
    x_first = int((x_failed & (x_steps < y_steps)).sum())
    return x_first, x_first + int((y_failed & (y_steps < x_steps)).sum())


# --- power ---


@lru_cache
def spread_power(n: int, correlation: float, ratio: float = 2.0, level: float = 0.05, simulations: int = 4000) -> float:
    """Power of the paired Brown-Forsythe test (Wilcoxon on |x - med x| - |y - med y|) on normal data, by simulation.

    `ratio` of the two spreads, two-sided `level`. A seeded simulation: its standard error is below 0.008. Where n
    allows no p below the level it is 0.
    """
    if (critical := signed_rank_critical(n, 1 - level)) is None:
        return 0.0
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((simulations, n))
    own = rng.standard_normal((2, simulations, n))
    x, y = (np.sqrt(abs(correlation)) * s + np.sqrt(1 - abs(correlation)) * o
            for s, o in zip((shared, np.sign(correlation or 1) * shared), own, strict=True))  # fmt: skip
    x = ratio * x
    d = np.abs(x - np.median(x, axis=1, keepdims=True)) - np.abs(y - np.median(y, axis=1, keepdims=True))
    positive = np.where(d > 0, stats.rankdata(np.abs(d), axis=1), 0.0).sum(axis=1)
    return float((np.minimum(positive, n * (n + 1) / 2 - positive) <= critical).mean())


def seeds_needed(correlation: float, ratio: float = 2.0, level: float = 0.05, power: float = 0.8) -> int | None:
    """The smallest number of seeds with this power of the spread test, up to 200; None beyond."""
    low, high = 6, 200
    if spread_power(high, correlation, ratio, level) < power:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if spread_power(middle, correlation, ratio, level) >= power else (middle + 1, high)
    return low
