"""Scores over seeds -> estimate, interval, n; paired comparisons. Seeds are the sample."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis import checked
from sngan.config import InputError

LEVEL = 0.95
APPROXIMATE_BELOW = 7  # pairs
SPREAD_FROM = 8  # pairs in which neither run failed
_EXACT_UP_TO = 200  # pairs, of the signed rank test
_COMPARISON = [
    *("arm", "baseline", "n_pairs", "shift", "shift_low", "shift_high", "p_location", "p_adjusted"),
    *("prob_improvement", "prob_low", "prob_high", "spread_ratio", "spread_low", "spread_high", "p_spread"),
    *("n_spread", "interval"),
]


class Interval(NamedTuple):
    """NaN limits if the sample gives no interval, as one seed gives none."""

    estimate: float
    low: float
    high: float


def compare(scores: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Every other arm against `baseline`, paired by seed. `scores` has columns arm, seed, score; lower is better.

    A score of +inf is a run without an end: it ranks worst and is never dropped. A column `failed` says which runs
    failed otherwise; without it those of +inf did. One row per arm:
    - `n_pairs`: seeds that both have.
    - `shift`, `shift_low`, `shift_high`: Hodges-Lehmann estimate of arm - baseline, with the 95 % interval that
      inverts the signed rank test; from 2 to 5 pairs a t interval.
    - `p_location`: Wilcoxon signed rank, two-sided; `p_adjusted`: Benjamini-Hochberg over the rows.
    - `prob_improvement`, `prob_low`, `prob_high`: P(arm < baseline), ties half, over all pairs of one run of each, with
      a 95 % interval over seeds. None below 4 pairs.
    - `spread_ratio`, `spread_low`, `spread_high`, `p_spread`: typical distance from the median, arm / baseline, by the
      paired Brown-Forsythe test, Wilcoxon on |x - med x| - |y - med y|, which the interval inverts; among the
      `n_spread` seeds in which neither run failed. No interval and no p below 8 of them.
    - `interval`: how the interval of the shift was made; "approximate" below 7 pairs.

    What cannot be computed is NaN. Raises InputError for missing columns, a score that is NaN, -inf or no number,
    `failed` neither true nor false, an arm or seed that is no name, a seed given twice, a baseline that is no arm.
    """
    scores, arms, of = _checked(scores, baseline)
    table = scores.pivot(index="seed", columns="arm", values="score")
    lost = np.isinf(table)
    if "failed" in scores:
        lost |= scores.pivot(index="seed", columns="arm", values="failed").eq(True)
    rows = []
    for place, arm in enumerate(arms):
        if place == of:
            continue
        both = table[[place, of]].notna().all(axis=1)
        x, y = table.loc[both, place].to_numpy(float), table.loc[both, of].to_numpy(float)
        differences = subtract(x, y)
        shift, kind = location_interval(differences)
        steady = ~lost.loc[both, [place, of]].any(axis=1).to_numpy()
        ratio, p_spread = spread_ratio(x[steady], y[steady])
        if steady.sum() < SPREAD_FROM:
            ratio, p_spread = Interval(ratio.estimate, np.nan, np.nan), np.nan
        better = probability_of_improvement(x, y)
        rows.append(
            {
                "arm": arm,
                "baseline": arms[of],
                "n_pairs": len(x),
                "shift": shift.estimate,
                "shift_low": shift.low,
                "shift_high": shift.high,
                "p_location": signed_rank_p(differences),
                "p_adjusted": np.nan,
                "prob_improvement": better.estimate,
                "prob_low": better.low,
                "prob_high": better.high,
                "spread_ratio": ratio.estimate,
                "spread_low": ratio.low,
                "spread_high": ratio.high,
                "p_spread": p_spread,
                "n_spread": int(steady.sum()),
                "interval": kind,
            }
        )
    result = pd.DataFrame(rows, columns=_COMPARISON)
    return result.assign(p_adjusted=benjamini_hochberg(result["p_location"].to_numpy(float)))


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjusted p values; NaN stay and do not count."""
    adjusted, known = np.full(len(p), np.nan), ~np.isnan(p)
    if known.any():
        adjusted[known] = stats.false_discovery_control(p[known])
    return adjusted


def _checked(scores: pd.DataFrame, baseline: str) -> tuple[pd.DataFrame, list[Any], int]:
    """The scores with the arms by their places, the arms, and the baseline's place."""
    scores = checked.frame(scores, "scores", ("arm", "seed", "score"))
    scores = scores.assign(
        arm=checked.names(scores["arm"], "arm"),
        seed=checked.names(scores["seed"], "seed"),
        score=checked.numbers(scores["score"], "score"),
        **{name: checked.flags(scores[name], name) for name in ("failed",) if name in scores},
    )
    places = {arm: place for place, arm in enumerate(dict.fromkeys(scores["arm"]))}
    of = places[checked.one_of(baseline, places, "baseline", "the arms")]
    bad = scores[scores["score"].isna() | (scores["score"] == -np.inf)]
    if len(bad):
        first = bad.iloc[0]
        raise InputError(
            f"arm {first['arm']}, seed {first['seed']}: the score is {first['score']}; give +inf for a failed run, "
            "and leave out what is missing"
        )
    twice = scores[scores.duplicated(["arm", "seed"])]
    if len(twice):
        raise InputError(f"arm {twice.iloc[0]['arm']} has seed {twice.iloc[0]['seed']} more than once")
    return scores.assign(arm=[places[arm] for arm in scores["arm"]]), list(places), of


def subtract(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x - y; two runs without an end are equally bad."""
    both = np.isinf(x) & (x == y)
    return np.where(both, 0.0, np.where(both, 0.0, x) - np.where(both, 0.0, y))


def signed_rank_p(differences: np.ndarray, alternative: str = "two-sided") -> float:
    """Wilcoxon signed rank p, `two-sided` or of a centre `greater` or `less` than 0. NaN without data.

    Zeros are left out (Wilcoxon's rule), tied ranks are averaged, infinite differences rank highest. Exact up to 200
    differences, under ties too, where scipy's is a random permutation or an approximation; normal beyond.
    """
    if not len(differences) or np.isnan(differences).any():
        return np.nan
    d = differences[differences != 0]
    if not len(d):
        return 1.0
    doubled = np.rint(2 * stats.rankdata(np.abs(d))).astype(int)  # whole numbers even if ranks are averaged
    positive, total = int(doubled[d > 0].sum()), int(doubled.sum())
    if len(d) > _EXACT_UP_TO:
        z = (positive - total / 2) / np.sqrt((doubled**2).sum() / 4)
        less, greater = stats.norm.cdf(z), stats.norm.sf(z)
    else:
        below = _signed_rank_null(tuple(np.sort(doubled)))
        less, greater = below[positive], below[total - positive]
    p = {"less": less, "greater": greater, "two-sided": 2 * min(less, greater)}[alternative]
    return min(float(p), 1.0)


@lru_cache(maxsize=64)
def _signed_rank_null(ranks: tuple[int, ...]) -> np.ndarray:
    """P(W+ <= w), w = 0, 1, .. of the ranks' sum, where every sign is a fair coin's."""
    weights = np.ones(1)
    for rank in ranks:
        shifted = np.concatenate([np.zeros(rank), weights])
        weights = (np.pad(weights, (0, rank)) + shifted) / 2
    return np.cumsum(weights)


def location_interval(values: np.ndarray, level: float = LEVEL) -> tuple[Interval, str]:
    """Hodges-Lehmann estimate of the centre of `values` with its interval of the level, and how that was made.

    The interval inverts the signed rank test; below 6 values it is Student's t. It allows for infinite values.
    """
    n = len(values)
    if n == 0:
        return Interval(np.nan, np.nan, np.nan), "none"
    i, j = np.triu_indices(n)
    with np.errstate(invalid="ignore"):
        walsh = values[i] / 2 + values[j] / 2  # a sum could be too large
    walsh = np.nan_to_num(walsh, nan=0.0, posinf=np.inf, neginf=-np.inf)  # inf and -inf cancel
    k, last = signed_rank_critical(n, level), len(walsh) - 1
    walsh = np.partition(walsh, sorted({last // 2, len(walsh) // 2} | ({k, last - k} if k is not None else set())))
    estimate = _median(walsh)
    label = ", approximate" if n < APPROXIMATE_BELOW else ""
    if k is not None:
        return Interval(estimate, walsh[k], walsh[-1 - k]), "signed rank" + label
    if n > 1 and np.isfinite(values).all():
        unit = 2.0 ** (int(np.frexp(np.abs(values).max())[1]) - 1)  # exact; squares are not too large or too small
        mean, sd = (values / unit).mean(), (values / unit).std(ddof=1)
        half = stats.t.ppf((1 + level) / 2, n - 1) * sd / np.sqrt(n)
        return Interval(estimate, float(mean - half) * unit, float(mean + half) * unit), "t" + label
    return Interval(estimate, np.nan, np.nan), "none"


def spread_ratio(x: np.ndarray, y: np.ndarray, level: float = LEVEL) -> tuple[Interval, float]:
    """Typical distance of x from its median over that of paired y, with interval and p of the paired Brown-Forsythe
    test. Values are finite: pairs in which a run failed do not belong here. Of two shapes with equal standard
    deviations it tells that typical distances differ, as those of a lognormal and a normal do (44 % at n = 20,
    21 % if the log's standard deviation is 0.75).

    W+ of |x - med x| - r |y - med y| is the number of pairs i <= j whose ratio (a_i + a_j) / (b_i + b_j) exceeds r,
    that the median of these ratios and their order statistics invert the test.
    """
    nothing = Interval(np.nan, np.nan, np.nan)
    if len(x) < 2:
        return nothing, np.nan
    a, b = (np.abs(of / 8 - np.median(of / 8)) for of in (x, y))  # so that no sum is too large
    p = signed_rank_p(a - b)
    informative = (a > 0) | (b > 0)
    a, b = a[informative], b[informative]
    if not len(a):
        return nothing, p
    i, j = np.triu_indices(len(a))
    with np.errstate(divide="ignore"):
        ratios = np.sort((a[i] + a[j]) / (b[i] + b[j]))
    k = signed_rank_critical(len(a), level)
    limits = (np.nan, np.nan) if k is None else (ratios[k], ratios[-1 - k])
    return Interval(_median(ratios), *limits), p


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> Interval:
    """P(x < y) + P(x = y) / 2 over all pairs, with an interval over seeds, of which x[i] and y[i] are one.

    The jackknife over seeds on the logit scale, with Student's t, so that it stays between 0 and 1. At complete
    separation, where nothing varies, Clopper and Pearson's limits of n in n seeds. No interval below 4 seeds.
    """
    n = len(x)
    if not n:
        return Interval(np.nan, np.nan, np.nan)
    better = ((x[:, None] < y).astype(float) + (x[:, None] <= y)) / 2
    estimate = float(better.mean())
    if n < 4:
        return Interval(estimate, np.nan, np.nan)
    if estimate in (0.0, 1.0):
        return rate_interval(int(estimate) * n, n)
    without = (better.sum() - better.sum(0) - better.sum(1) + np.diag(better)) / (n - 1) ** 2
    error = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()) / (estimate * (1 - estimate))
    if error == 0:
        return Interval(estimate, np.nan, np.nan)
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * error
    centre = np.log(estimate / (1 - estimate))
    low, high = 1 / (1 + np.exp(-(centre + np.array([-half, half]))))
    return Interval(estimate, float(low), float(high))


@lru_cache
def signed_rank_critical(n: int, level: float = LEVEL) -> int | None:
    """The largest k with P(W+ <= k) <= 2.5 % under the null: the limits are the k-th from each end, from 0.

    None if no such k exists, which is below n = 6 (at a level of 95 %). Exact up to n = 200, normal beyond.
    """
    tail = (1 - level) / 2
    if n > _EXACT_UP_TO:
        mean, sd = n * (n + 1) / 4, np.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        return max(int(mean + stats.norm.ppf(tail) * sd), 0)
    k = int(np.searchsorted(_signed_rank_null(tuple(range(1, n + 1))), tail, side="right"))
    return k - 1 if k >= 1 else None


def _median(ordered: np.ndarray) -> float:
    """Median of values that may be infinite, sorted at least about the middle."""
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return float(low if low == high else low / 2 + high / 2)


def rate_interval(count: int, n: int, level: float = LEVEL) -> Interval:
    """A rate with its two-sided Clopper-Pearson interval."""
    if n == 0:
        return Interval(np.nan, np.nan, np.nan)
    exact = stats.binomtest(count, n).proportion_ci(level, method="exact")
    return Interval(count / n, exact.low, exact.high)


def binned(history: pd.DataFrame, metrics: list[str], bins: int = 150) -> pd.DataFrame:
    """Every run's rows as means over at most `bins` equal stretches of steps; `step` is a stretch's end.

    Step 0 and runs of few rows keep their rows as they are.
    """
    widths = np.ceil(history.groupby("context")["step"].transform("max") / bins)
    spacing = history.groupby("context")["step"].transform(_spacing)
    widths = np.maximum((widths / spacing).apply(np.ceil) * spacing, 1)
    ends = (np.ceil(history["step"] / widths) * widths).astype(int)
    keys = ["context", "variant", "seed"]
    return history.assign(step=ends).groupby([*keys, "step"], sort=False)[metrics].mean().reset_index()


def _spacing(steps: pd.Series) -> float:
    """The most common distance between logged steps."""
    unique = np.unique(steps)
    return float(np.median(np.diff(unique))) if len(unique) > 1 else 1.0


def fewest_seeds(history: pd.DataFrame) -> int:
    """The number of seeds of the variant that has fewest; 0 without rows."""
    return int(history.groupby(["context", "variant"])["seed"].nunique().min()) if len(history) else 0


def bands(history: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Over seeds at every step: context, variant, step, centre, low, high, n.

    Where every variant has 7 seeds or more, the Hodges-Lehmann centre with its 95 % interval; else the median with
    the range of the seeds; of one seed no band (NaN). Steps that fewer than half of the variant's seeds reached
    are left out.
    """
    rows, intervals = [], fewest_seeds(history) >= APPROXIMATE_BELOW
    for (context, variant), group in history.dropna(subset=metric).groupby(["context", "variant"], sort=False):
        table = group.pivot_table(index="step", columns="seed", values=metric, aggfunc="last")
        for step, values in zip(table.index, table.to_numpy(), strict=True):
            values = values[~np.isnan(values)]
            if 2 * len(values) < table.shape[1]:
                continue
            if intervals:
                centre, low, high = location_interval(values)[0]
            else:
                centre = float(np.median(values))
                low, high = (values.min(), values.max()) if len(values) > 1 else (np.nan, np.nan)
            rows.append((context, variant, step, centre, low, high, len(values)))
    return pd.DataFrame(rows, columns=["context", "variant", "step", "centre", "low", "high", "n"])


def iqm(values: np.ndarray) -> Any:
    """Interquartile mean of (.., n): of the middle half, a quarter of the values (rounded down) cut off at each end.

    Source: Agarwal et al. 2021. A run without an end is an infinite value, and is cut off as one.
    """
    n = values.shape[-1]
    return np.sort(values, axis=-1)[..., n // 4 : n - n // 4].mean(axis=-1) if n else np.nan
