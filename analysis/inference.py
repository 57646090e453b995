"""Numbers of seeds -> estimates with intervals, tests of paired arms, survival, power. scipy and statsmodels do it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import gammaln, xlogy

from analysis.stats import LEVEL, Interval, signed_rank_critical, signed_rank_p

MARGIN = float(np.log(1.25))  # of equality on a log scale
_NONE = Interval(np.nan, np.nan, np.nan)
_EXACT_UP_TO = 100  # pairs, of the interval of two paired rates
_NUISANCE = 64  # values of the nuisance parameter that an unconditional test is maximized over


def stratified_bootstrap(statistic: Callable[..., Any], *groups: np.ndarray, draws: int = 2000) -> Interval:
    """`statistic(*groups)` with its 95 % percentile interval, drawing within each group; the same for the same data.

    `statistic` takes groups of shape (.., n) and gives (..). No interval if a group has fewer than two values, or the
    statistic is infinite.
    """
    estimate = float(statistic(*groups))
    if min(map(len, groups)) < 2 or not np.isfinite(estimate):
        return Interval(estimate, np.nan, np.nan)
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore")  # of draws that are all alike
        found = stats.bootstrap(
            groups, lambda *drawn, axis: statistic(*drawn), vectorized=True, axis=-1, n_resamples=draws,
            method="percentile", confidence_level=LEVEL, rng=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
    return Interval(estimate, float(found.low), float(found.high))


# --- paired tests ---


def equality_p(differences: np.ndarray, margin: float = MARGIN) -> float:
    """TOST: p that the centre of paired differences lies outside +-margin, by two signed rank tests. NaN below 2.

    A difference may be infinite: a run without an end is not equal to one that has an end.
    """
    if len(differences) < 2 or np.isnan(differences).any():
        return np.nan
    return max(signed_rank_p(differences + margin, "greater"), signed_rank_p(differences - margin, "less"))


def paired_rates_p(x: np.ndarray, y: np.ndarray) -> float:
    """Unconditional exact test of two paired failure indicators, two-sided. NaN without pairs.

    By the largest probability, over the share of pairs that differ, of a z = (b - c) / sqrt(b + c) as far from zero as
    the one found; b and c are the pairs in which one of the two alone failed.

    Source: Suissa and Shuster, Biometrics 47 (1991); two-sided, where theirs is one-sided.
    """
    return _unconditional_p(int((x & ~y).sum()), int((~x & y).sum()), len(x)) if len(x) else np.nan


@lru_cache(maxsize=4096)
def _unconditional_p(b: int, c: int, n: int) -> float:
    if b == c:
        return 1.0
    z = abs(b - c) / np.sqrt(b + c) - 1e-9
    differing = np.arange(1, n + 1)
    # |2 B - m| >= z sqrt(m), where B of m pairs is binomial
    tails = 2 * stats.binom.cdf(np.floor((differing - z * np.sqrt(differing)) / 2 + 1e-9), differing, 0.5)
    shares = np.linspace(0, 1, 2001)[1:]
    return float((stats.binom.pmf(differing, n, shares[:, None]) @ np.minimum(tails, 1)).max())


@lru_cache(maxsize=4096)
def paired_rates_interval(b: int, c: int, n: int, level: float = LEVEL) -> Interval:
    """Difference (b - c) / n of two paired rates, with the interval that inverts the unconditional exact test.

    b and c: pairs in which one of the two alone failed, of n. By Tango's score statistic, which at no difference is
    that of `paired_rates_p`; beyond 100 pairs by its normal approximation. NaN without pairs.

    Source: Tango, Statistics in Medicine 17 (1998); exact by the maximum over the nuisance parameter.
    """
    if not n:
        return _NONE
    estimate, limits = (b - c) / n, []
    for end in (-1.0, 1.0):
        inside, outside = estimate, end
        for _ in range(20):
            middle = (inside + outside) / 2
            kept = _difference_p(b, c, n, middle) > 1 - level
            inside, outside = (middle, outside) if kept else (inside, middle)
        limits.append(end if abs(inside - end) < 1e-5 else inside)
    if _unconditional_p(b, c, n) > 1 - level:  # at no difference there are ties that a smallest one breaks
        limits = [min(limits[0], 0.0), max(limits[1], 0.0)]
    return Interval(estimate, *limits)


def _difference_p(b: int, c: int, n: int, difference: float) -> float:
    """Two-sided p of a difference of two paired rates."""
    found = abs(float(_score(np.array(b), np.array(c), n, difference)))
    if n > _EXACT_UP_TO:
        return float(2 * stats.norm.sf(found))
    only_x, only_y = _tables(n)
    far = np.abs(_score(only_x, only_y, n, difference)) >= found - 1e-9
    only_x, only_y = only_x[far], only_y[far]
    rates = np.linspace(max(0.0, -difference), (1 - difference) / 2, _NUISANCE)[:, None]
    rest = np.maximum(1 - 2 * rates - difference, 0)
    log_ways = gammaln(n + 1) - gammaln(only_x + 1) - gammaln(only_y + 1) - gammaln(n - only_x - only_y + 1)
    logs = xlogy(only_x, rates + difference) + xlogy(only_y, rates) + xlogy(n - only_x - only_y, rest)
    return float(np.exp(log_ways + logs).sum(axis=1).max())


@lru_cache(maxsize=64)
def _tables(n: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of counts whose sum is at most n."""
    x, y = np.meshgrid(np.arange(n + 1), np.arange(n + 1))
    possible = x + y <= n
    return x[possible], y[possible]


def _score(b: np.ndarray, c: np.ndarray, n: int, difference: float) -> np.ndarray:
    """Tango's z of b and c pairs of n, where the true difference is this one."""
    linear = -b - c + (2 * n - b + c) * difference
    root = np.sqrt(np.maximum(linear**2 + 8 * n * c * difference * (1 - difference), 0))
    rate = np.clip((root - linear) / (4 * n), 0, 1)
    variance = n * (2 * rate + difference * (1 - difference))
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (b - c - n * difference) / np.sqrt(np.maximum(variance, 0))
    return np.nan_to_num(z, nan=0.0, posinf=np.inf, neginf=-np.inf)


def mcnemar_p(x: np.ndarray, y: np.ndarray) -> float:
    """Exact two-sided McNemar test of two paired failure indicators. 1 if no pair differs, NaN without pairs."""
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
    adjusted, known = np.full(len(p), np.nan), np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    times = np.arange(len(order), 0, -1)  # statsmodels' collects garbage at each call, 70 ms
    adjusted[order] = np.minimum(np.maximum.accumulate(times * p[order]), 1)
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
    """Log-rank test of two arms' (steps, failed). Unpaired; NaN if an arm is empty, 1 if nothing failed or all
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
    """In how many pairs of (steps, failed) x failed first, and in how many it can be told which did.

    A failure at the step to which the other run was seen comes before it.
    """
    (x_steps, x_failed), (y_steps, y_failed) = x, y
    x_first = int((x_failed & ((x_steps < y_steps) | ((x_steps == y_steps) & ~y_failed))).sum())
    return x_first, x_first + int((y_failed & ((y_steps < x_steps) | ((x_steps == y_steps) & ~x_failed))).sum())


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
