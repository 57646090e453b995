"""Intervals, tests and survival against hand calculation, formulas written out, brute force and simulation."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.inference import (
    MARGIN,
    equality_p,
    holm,
    iqm_intervals,
    log_rank_p,
    mcnemar_p,
    order_p,
    sd_interval,
    seeds_needed,
    sign_flip_p,
    spread_power,
    survival,
    trend_p,
)


def test_the_interquartile_mean_is_the_mean_of_the_middle_half() -> None:
    table = pd.DataFrame({"a": [100.0, 1, 2, 3, 4, 5, 6, -90], "b": [1.0, 2, 3, 4, np.nan, np.nan, np.nan, np.nan]})
    found = iqm_intervals(table)
    assert found["a"].estimate == pytest.approx(np.mean([2, 3, 4, 5]))
    assert found["b"].estimate == pytest.approx(2.5)
    assert found["a"].low < 3.5 < found["a"].high
    assert found["a"].low > -90
    one = iqm_intervals(pd.DataFrame({"a": [1.0]}))["a"]
    assert (one.estimate, np.isnan(one.low), np.isnan(one.high)) == (1, True, True)
    equal = iqm_intervals(pd.DataFrame({"a": [2.0] * 8}))["a"]
    assert (equal.estimate, np.isnan(equal.low)) == (2, True)
    assert np.isinf(iqm_intervals(pd.DataFrame({"a": [1.0, np.inf, np.inf, np.inf]}))["a"].estimate)


def test_the_spreads_interval_by_hand() -> None:
    """Bonett's formula written out for ten values."""
    values = np.array([15.83, 16.01, 16.24, 16.42, 15.33, 15.44, 16.88, 16.31, 15.9, 16.1])
    n, s, z = 10, values.std(ddof=1), 1.959963984540054
    m = np.sort(values)[2:8].mean()  # trimmed by 1 / (2 sqrt(6)) = 20.4 %: two at each end
    kurtosis = n * ((values - m) ** 4).sum() / ((values - values.mean()) ** 2).sum() ** 2
    c = n / (n - z)
    error = c * np.sqrt((kurtosis - (n - 3) / n) / (n - 1))
    found = sd_interval(values)
    assert found.estimate == pytest.approx(s)
    assert found.low == pytest.approx(np.sqrt(np.exp(np.log(c * s**2) - z * error)))
    assert found.high == pytest.approx(np.sqrt(np.exp(np.log(c * s**2) + z * error)))
    assert np.isnan(sd_interval(np.ones(1)).estimate)
    assert np.isnan(sd_interval(np.array([1.0, np.inf, 2.0])).estimate)


def test_equality_needs_evidence() -> None:
    near = np.linspace(-0.02, 0.02, 12)
    assert equality_p(near) < 0.001
    assert equality_p(near + MARGIN) > 0.4
    assert equality_p(near + 3 * MARGIN) > 0.99
    assert equality_p(near[:3]) > 0.05  # three seeds cannot show it
    assert np.isnan(equality_p(np.array([0.0, np.inf])))  # a failed run is not equal to anything


def test_mcnemar_is_the_binomial_of_the_pairs_that_differ() -> None:
    x = np.array([True] * 7 + [False] * 13)
    y = np.array([False] * 20)
    assert mcnemar_p(x, y) == pytest.approx(2 * 0.5**7)
    assert mcnemar_p(x, x) == 1
    assert np.isnan(mcnemar_p(x[:0], y[:0]))


def test_pages_trend_by_brute_force() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=(4, 3)) + np.array([0, 0.5, 1])
    ranks = stats.rankdata(values, axis=1)
    statistic = (ranks * [1, 2, 3]).sum()
    possible = [sum(np.dot(p, [1, 2, 3]) for p in rows)
                for rows in itertools.product(itertools.permutations([1, 2, 3]), repeat=4)]  # fmt: skip
    expected = np.mean(np.array(possible) >= statistic)
    table = pd.DataFrame(values, columns=list("abc"))
    assert trend_p(table) == pytest.approx(expected)
    with_gap = pd.concat([table, pd.DataFrame([[1.0, np.nan, 2.0]], columns=list("abc"))])
    assert trend_p(with_gap) == pytest.approx(expected)  # a seed that lacks an arm is left out
    assert np.isnan(trend_p(table[["a", "b"]]))


def test_pages_trend_under_ties_by_brute_force() -> None:
    """Failures are 0 or 1: ranks within a seed are averaged, and permuted within it."""
    failed = np.array([[0.0, 0, 1], [0, 1, 1], [0, 0, 0], [0, 0, 1], [1, 0, 1]])
    ranks = stats.rankdata(failed, axis=1)
    sums = [sum(np.dot(rank, [1, 2, 3]) for rank in rows)
            for rows in itertools.product(*(list(itertools.permutations(r)) for r in ranks))]  # fmt: skip
    expected = np.mean(np.array(sums) >= (ranks @ [1, 2, 3]).sum() - 1e-9)
    assert trend_p(pd.DataFrame(failed)) == pytest.approx(expected, abs=0.02)
    assert trend_p(pd.DataFrame(np.zeros((5, 3)))) == 1


def test_sign_flips_by_brute_force() -> None:
    d = np.array([0.3, -0.1, 0.8, 0.5, 0.2, -0.4, 0.9])
    means = [np.mean(d * signs) for signs in itertools.product([1, -1], repeat=7)]
    expected = np.mean(np.abs(means) >= abs(d.mean()) - 1e-12)
    assert sign_flip_p(d) == pytest.approx(expected)
    assert sign_flip_p(np.zeros(5)) == 1
    assert np.isnan(sign_flip_p(np.array([1.0])))


def test_holm_by_hand() -> None:
    assert holm(np.array([0.01, 0.04, np.nan, 0.03])).tolist()[:2] == [0.03, 0.06]
    assert np.isnan(holm(np.array([np.nan, 0.1]))[0])
    assert holm(np.array([np.nan, 0.1]))[1] == 0.1


def test_survival_by_hand() -> None:
    """Six runs: failures at 10, 20 and 20; one seen to 15 only, two to 30."""
    steps = np.array([10, 20, 20, 15, 30, 30])
    failed = np.array([True, True, True, False, False, False])
    curve, mean = survival(steps, failed, 30)
    at = curve.set_index("step")["survival"]
    assert at[10] == pytest.approx(5 / 6)
    assert at[20] == pytest.approx(5 / 6 * 2 / 4)
    assert mean.estimate == pytest.approx(10 + 10 * 5 / 6 + 10 * 5 / 12)
    area_10, area_20 = 10 * 5 / 6 + 10 * 5 / 12, 10 * 5 / 12
    variance = area_10**2 * 1 / (6 * 5) + area_20**2 * 2 / (4 * 2)  # Greenwood, written out
    assert mean.high == pytest.approx(min(30, mean.estimate + 1.959964 * np.sqrt(variance)))
    assert mean.low == pytest.approx(mean.estimate - 1.959964 * np.sqrt(variance))
    never = survival(np.array([30, 30]), np.array([False, False]), 30)
    assert (never.mean.estimate, np.isnan(never.mean.low)) == (30, True)
    assert survival(np.array([]), np.array([], bool), 30).curve.empty


def test_log_rank_by_hand() -> None:
    """The chi-squared statistic from expected counts, written out."""
    x = (np.array([6, 7, 10, 15]), np.array([True, True, False, True]))
    y = (np.array([16, 20, 20, 20]), np.array([True, False, False, False]))
    observed = expected = variance = 0.0
    for step in (6, 7, 15, 16):
        n_x, n_y = (x[0] >= step).sum(), (y[0] >= step).sum()
        deaths = (x[0][x[1]] == step).sum() + (y[0][y[1]] == step).sum()
        n = n_x + n_y
        observed += (x[0][x[1]] == step).sum()
        expected += deaths * n_x / n
        variance += deaths * n_x / n * n_y / n * (n - deaths) / max(n - 1, 1)
    assert log_rank_p(x, y) == pytest.approx(stats.chi2.sf((observed - expected) ** 2 / variance, 1), rel=1e-6)
    nothing = (np.array([20]), np.array([False]))
    assert log_rank_p(nothing, nothing) == 1
    assert log_rank_p((np.full(3, 5.0), np.ones(3, bool)), (np.full(3, 5.0), np.ones(3, bool))) == 1
    assert order_p(x, y) == pytest.approx(2 * 0.5**3)


def test_survival_and_log_rank_are_statsmodels() -> None:
    from statsmodels.duration.survfunc import SurvfuncRight, survdiff

    rng = np.random.default_rng(5)
    for _ in range(20):
        n = int(rng.integers(5, 40))
        steps, failed, arm = rng.integers(1, 30, n).astype(float), rng.random(n) < 0.6, rng.random(n) < 0.5
        if not failed.any() or arm.all() or not arm.any():
            continue
        other = SurvfuncRight(steps, failed)
        curve, mean = survival(steps, failed, 30.0)
        at = curve.drop_duplicates("step", keep="last").set_index("step")["survival"]
        assert at[other.surv_times].to_numpy() == pytest.approx(other.surv_prob)
        edges = np.concatenate([[0.0], other.surv_times, [30.0]])
        assert mean.estimate == pytest.approx(np.dot(np.diff(edges), np.concatenate([[1.0], other.surv_prob])))
        p = log_rank_p((steps[arm], failed[arm]), (steps[~arm], failed[~arm]))
        assert p == pytest.approx(survdiff(steps, failed, arm)[1])


@pytest.mark.parametrize(
    ("n", "level", "powers"),
    [(10, 0.05, (0.27, 0.29, 0.36)), (20, 0.05, (0.61, 0.64, 0.76)), (30, 0.05, (0.82, 0.85, 0.93)),
     (10, 0.025, (0.14, 0.15, 0.20)), (20, 0.025, (0.48, 0.51, 0.64)), (30, 0.025, (0.73, 0.76, 0.87))],
)  # fmt: skip
def test_power_is_that_of_the_published_simulation(n: int, level: float, powers: tuple[float, ...]) -> None:
    for correlation, power in zip((0.0, 0.3, 0.6), powers, strict=True):
        assert spread_power(n, correlation, 2.0, level) == pytest.approx(power, abs=0.025)


def test_too_few_seeds_have_no_power_and_the_need_is_named() -> None:
    assert spread_power(5, 0.0) == 0
    assert spread_power(6, 0.0, level=0.025) == 0
    assert 27 <= (seeds_needed(0.0) or 0) <= 31
    assert seeds_needed(0.0, ratio=1.05) is None
