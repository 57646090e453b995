"""Intervals, tests and survival against hand calculation, formulas written out, brute force and simulation."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.inference import (
    MARGIN,
    equality_p,
    holm,
    log_rank_p,
    mcnemar_p,
    order_counts,
    order_p,
    paired_rates_interval,
    paired_rates_p,
    seeds_needed,
    sign_flip_p,
    spread_power,
    survival,
    trend_p,
)


def test_equality_needs_evidence() -> None:
    near = np.linspace(-0.02, 0.02, 12)
    assert equality_p(near) < 0.001
    assert equality_p(near + MARGIN) > 0.4
    assert equality_p(near + 3 * MARGIN) > 0.99
    assert equality_p(near[:3]) > 0.05  # three seeds cannot show it
    assert pytest.approx(np.log(1.25)) == MARGIN
    lost = np.append(near, [np.inf] * 4)  # four runs without an end: not equal to those that have one
    assert equality_p(near) < equality_p(lost)
    assert equality_p(np.full(8, np.inf)) == 1
    assert np.isnan(equality_p(np.array([0.0, np.nan])))


def test_mcnemar_is_the_binomial_of_the_pairs_that_differ() -> None:
    x = np.array([True] * 7 + [False] * 13)
    y = np.array([False] * 20)
    assert mcnemar_p(x, y) == pytest.approx(2 * 0.5**7)
    assert mcnemar_p(x, x) == 1
    assert np.isnan(mcnemar_p(x[:0], y[:0]))


def enumerated_p(b: int, c: int, n: int, shares: np.ndarray) -> float:
    """Suissa and Shuster's test by all tables of n pairs, two-sided."""
    z = abs(b - c) / np.sqrt(b + c) if b + c else 0.0
    worst = 0.0
    for share in shares:
        total = 0.0
        for i in range(n + 1):
            for j in range(n + 1 - i):
                far = abs(i - j) / np.sqrt(i + j) if i + j else 0.0
                if far >= z - 1e-9:
                    ways = math.comb(n, i) * math.comb(n - i, j)
                    total += ways * (share / 2) ** (i + j) * (1 - share) ** (n - i - j)
        worst = max(worst, total)
    return worst


@pytest.mark.parametrize("n", [3, 5, 8])
def test_the_unconditional_test_by_enumeration(n: int) -> None:
    shares = np.linspace(0.0005, 1, 2000)
    for b in range(n + 1):
        for c in range(n + 1 - b):
            x = np.array([True] * b + [False] * (n - b))
            y = np.array([False] * b + [True] * c + [False] * (n - b - c))
            if (b + 2 * c) % 3 == 0 or b == 0:  # a third of the tables, and all one-sided ones
                assert paired_rates_p(x, y) == pytest.approx(enumerated_p(b, c, n, shares), abs=2e-6)


def test_the_unconditional_test_holds_its_level_and_sees_more_than_mcnemars() -> None:
    """Published: sizes .029 to .050, and rates of .05 against .3 are seen in .10, .49 and .74 of studies."""
    for n, power, size_from in ((7, None, 0.029), (10, 0.10, 0.029), (20, 0.48, 0.029)):
        tables = [(b, c) for b in range(n + 1) for c in range(n + 1 - b)]
        p = {of: paired_rates_p(*pairs(*of, n)) for of in tables}

        def rejected(only_x: float, only_y: float, n: int = n, p: dict = p) -> float:
            rest = 1 - only_x - only_y
            return sum(
                math.comb(n, b) * math.comb(n - b, c) * only_x**b * only_y**c * rest ** (n - b - c)
                for (b, c), value in p.items() if value <= 0.05
            )  # fmt: skip

        sizes = [rejected(share / 2, share / 2) for share in np.linspace(0.01, 1, 100)]
        assert size_from <= max(sizes) <= 0.05
        if power:
            assert rejected(0.05 * 0.7, 0.95 * 0.3) == pytest.approx(power, abs=0.015)
        one_sided = [b for b in range(n + 1) if p[b, 0] <= 0.05]
        assert one_sided[0] == 5  # up to n = 20; McNemar's needs six
    assert mcnemar_p(*pairs(5, 0, 20)) > 0.05


def pairs(b: int, c: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.arange(n) < b
    return x, (np.arange(n) >= b) & (np.arange(n) < b + c)


def test_the_interval_of_two_paired_rates_inverts_the_test_and_covers() -> None:
    n = 12
    intervals = {(b, c): paired_rates_interval(b, c, n) for b in range(n + 1) for c in range(n + 1 - b)}
    for (b, c), (estimate, low, high) in intervals.items():
        assert low <= estimate <= high
        assert estimate == pytest.approx((b - c) / n)
        assert (low > 0 or high < 0) == (paired_rates_p(*pairs(b, c, n)) <= 0.05)
        mirrored = intervals[c, b]
        assert (mirrored.low, mirrored.high) == (pytest.approx(-high, abs=1e-4), pytest.approx(-low, abs=1e-4))
    for only_x, only_y in itertools.product([0.02, 0.1, 0.3, 0.5], [0.05, 0.2, 0.4]):
        covered = sum(
            stats.multinomial.pmf([b, c, n - b - c], n, [only_x, only_y, 1 - only_x - only_y])
            for (b, c), (_, low, high) in intervals.items() if low - 1e-6 <= only_x - only_y <= high + 1e-6
        )  # fmt: skip
        assert covered >= 0.949
    many = paired_rates_interval(40, 10, 300)
    assert many.low < 0.1 < many.high
    assert np.isnan(paired_rates_interval(0, 0, 0)).all()


def test_a_failure_comes_before_the_end_of_a_run_at_the_same_step() -> None:
    x, y = (
        (np.array([10, 20, 30]), np.array([True, True, False])),
        (np.array([10, 20, 30]), np.array([False, True, True])),
    )
    assert order_counts(x, y) == (1, 2)  # seed 0 is x's, seed 2 is y's, of seed 1 it cannot be told
    assert survival(np.array([10, 10]), np.array([True, False]), 10).curve["survival"].iloc[-1] == 0.5


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
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(0).random(9) / 5
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


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
