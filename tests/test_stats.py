"""Statistics against hand calculation, published tables, scipy, brute force and simulation."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from analysis.stats import (
    bands,
    binned,
    compare,
    location_interval,
    probability_of_improvement,
    rate_interval,
    signed_rank_critical,
    signed_rank_p,
    spread_ratio,
    subtract,
)
from sngan.config import InputError


def scores(**arms: list[float]) -> pd.DataFrame:
    rows = [(arm, seed, score) for arm, values in arms.items() for seed, score in enumerate(values)]
    return pd.DataFrame(rows, columns=["arm", "seed", "score"]).dropna()


def test_critical_values_are_those_of_the_published_table() -> None:
    """Wilcoxon's signed rank, two-sided 5 %: n -> critical value."""
    table = {6: 0, 7: 2, 8: 3, 9: 5, 10: 8, 11: 10, 12: 13, 15: 25, 20: 52, 25: 89, 30: 137}
    assert {n: signed_rank_critical(n) for n in table} == table
    assert signed_rank_critical(5) is None  # 2 / 2**5 is above 5 %


def test_a_small_comparison_by_hand() -> None:
    result = compare(scores(base=[5, 6, 7, 8, 9, 10, 11], arm=[4, 4, 4, 4, 4, 4, 4]), "base").iloc[0]
    assert (result["arm"], result["baseline"], result["n_pairs"]) == ("arm", "base", 7)
    assert result["shift"] == -4  # median of the Walsh averages of -1..-7
    assert (result["shift_low"], result["shift_high"]) == (-6, -2)  # third from each end: critical value 2
    assert result["p_location"] == pytest.approx(2 / 2**7)
    assert result["p_adjusted"] == result["p_location"]
    assert result["prob_improvement"] == 1
    assert result["spread_ratio"] == 0
    assert result["interval"] == "signed rank"


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 14), st.integers(0, 2**32 - 1))
def test_hodges_lehmann_and_its_interval_invert_the_test(n: int, seed: int) -> None:
    values = np.random.default_rng(seed).standard_t(3, n)
    interval, kind = location_interval(values)
    pairs = [(values[i] + values[j]) / 2 for i, j in itertools.combinations_with_replacement(range(n), 2)]
    assert interval.estimate == pytest.approx(np.median(pairs))
    if n < 6:
        assert kind == "t, approximate"
        return
    width = interval.high - interval.low
    for limit, inside in ((interval.low, 1), (interval.high, -1)):  # scipy's exact test is the other opinion
        assert scipy_stats.wilcoxon(values - limit - inside * 1e-9 * width, method="exact").pvalue > 0.05
        assert scipy_stats.wilcoxon(values - limit + inside * 1e-9 * width, method="exact").pvalue <= 0.05


def test_too_few_seeds_give_no_interval_rather_than_one_of_no_width() -> None:
    one = compare(scores(base=[1.0], arm=[2.0]), "base").iloc[0]
    assert (one["n_pairs"], one["shift"]) == (1, 1)
    assert np.isnan([one["shift_low"], one["shift_high"], one["spread_ratio"], one["p_spread"]]).all()
    three = compare(scores(base=[1.0, 2, 4], arm=[2.0, 2.5, 3]), "base").iloc[0]
    assert three["interval"] == "t, approximate"
    assert np.isfinite(three["shift_low"])
    assert np.isnan(three["spread_low"])


def test_unequal_seeds_are_paired_where_both_have_one() -> None:
    frame = scores(base=[1, 2, 3, 4], arm=[np.nan, 2, 2, 2])
    assert compare(frame, "base").iloc[0]["n_pairs"] == 3


def test_pairs_are_of_one_seed_in_whatever_order_the_rows_come() -> None:
    rng = np.random.default_rng(3)
    base, arm = rng.normal(size=(2, 9))
    frame = scores(base=list(base), arm=list(arm))
    result = compare(frame, "base")
    pd.testing.assert_frame_equal(result, compare(frame.sample(frac=1, random_state=0), "base"))
    walsh = [(a + b) / 2 for a, b in itertools.combinations_with_replacement(arm - base, 2)]
    assert result.iloc[0]["shift"] == pytest.approx(np.median(walsh))
    assert result.iloc[0]["p_location"] == scipy_stats.wilcoxon(arm, base).pvalue
    assert result.iloc[0]["p_location"] != scipy_stats.wilcoxon(np.sort(arm), np.sort(base)).pvalue


def test_a_baseline_alone_is_compared_with_nothing() -> None:
    alone = compare(scores(base=[1.0, 2.0]), "base")
    assert len(alone) == 0
    assert list(alone) == list(compare(scores(base=[1.0, 2.0], arm=[1.0, 2.0]), "base"))


def test_failed_runs_rank_worst_and_are_never_dropped() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=10)
    failing = base - 0.5
    failing[:4] = np.inf
    better = compare(scores(base=list(base), arm=list(base - 0.5)), "base").iloc[0]
    worse = compare(scores(base=list(base), arm=list(failing)), "base").iloc[0]
    assert better["n_pairs"] == worse["n_pairs"] == 10
    assert better["prob_improvement"] > worse["prob_improvement"]
    assert worse["shift_high"] == np.inf
    assert signed_rank_p(np.array([np.inf] * 7)) == pytest.approx(2 / 2**7)
    both = compare(scores(base=[np.inf] * 3 + [1.0] * 7, arm=[np.inf] * 3 + [0.0] * 7), "base").iloc[0]
    assert both["shift"] == -1  # two failed runs are equally bad


@pytest.mark.parametrize("n", [2, 5, 10])
@pytest.mark.parametrize("unit", [2.0**1023, -(2.0**1023), 2.0**600, 2.0**-600])
@pytest.mark.filterwarnings("error")
def test_scores_of_every_size_are_compared(unit: float, n: int) -> None:
    """Sums and squares of which a double does not hold."""
    base, arm = np.random.default_rng(5).uniform(1.4, 1.9, (2, n))
    expected = compare(scores(base=list(base), arm=list(arm)), "base")
    found = compare(scores(base=list(unit * base), arm=list(unit * arm)), "base")
    shift = ["shift", "shift_low", "shift_high"]
    assert np.isfinite(expected[shift]).all(axis=None)
    rescaled = found[shift] / unit
    assert (
        rescaled[shift if unit > 0 else [shift[0], shift[2], shift[1]]].values.tolist()
        == expected[shift].values.tolist()
    )
    same = ["p_location", "spread_ratio", "spread_low", "spread_high", "p_spread", "n_spread", "interval"]
    pd.testing.assert_frame_equal(found[same], expected[same], check_exact=True)


def test_p_values_are_adjusted_over_the_rows() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(size=12)
    arms = {f"arm{i}": list(base + rng.normal(i / 3, 1, 12)) for i in range(4)}
    result = compare(scores(base=list(base), **arms), "base")
    order = result["p_location"].sort_values()
    by_hand, smallest = {}, 1.0
    for rank in range(4, 0, -1):  # Benjamini and Hochberg 1995, step up
        smallest = min(smallest, order.iloc[rank - 1] * 4 / rank)
        by_hand[order.index[rank - 1]] = smallest
    assert result["p_adjusted"].to_dict() == pytest.approx(by_hand)


@settings(max_examples=30, deadline=None)
@given(st.integers(7, 14), st.integers(0, 2**32 - 1))
def test_the_interval_of_the_spread_ratio_inverts_the_paired_test(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = 2 * rng.normal(size=n), rng.normal(size=n)
    ratio, p = spread_ratio(x, y)
    a, b = np.abs(x - np.median(x)), np.abs(y - np.median(y))
    assert (p > 0.05) == (ratio.low < 1 < ratio.high)

    def p_of(r: float) -> float:
        d = a - r * b
        return scipy_stats.wilcoxon(d[d != 0], method="exact").pvalue

    assert ratio.low <= ratio.estimate <= ratio.high
    assert p_of(ratio.estimate * (1 + 1e-9)) > 0.3
    if ratio.low > 0:
        assert p_of(ratio.low * (1 - 1e-9)) <= 0.05 < p_of(ratio.low * (1 + 1e-9))


def test_spread_is_compared_among_seeds_in_which_neither_failed_and_from_eight_on() -> None:
    rng = np.random.default_rng(4)
    base, arm = rng.normal(size=12), 0.2 * rng.normal(size=12)
    for lost in (np.inf, 3.0):  # a run without an end, or one that failed otherwise and has one
        frame = scores(base=list(base), arm=[*([lost] * 4), *arm[4:]])
        frame["failed"] = (frame["arm"] == "arm") & (frame["seed"] < 4)
        row = compare(frame, "base").iloc[0]
        ratio, p = spread_ratio(arm[4:], base[4:])
        assert (row["n_pairs"], row["n_spread"]) == (12, 8)
        assert (row["spread_ratio"], row["spread_low"], row["spread_high"], row["p_spread"]) == (*ratio, p)
    few = compare(frame[frame["seed"] != 11], "base").iloc[0]
    assert few["n_spread"] == 7
    assert np.isfinite(few["spread_ratio"])  # it describes
    assert np.isnan([few["spread_low"], few["spread_high"], few["p_spread"]]).all()


def test_infinite_scores_of_one_sign_are_equal_and_of_two_are_not() -> None:
    x, y = np.array([np.inf, -np.inf, np.inf, 1.0]), np.array([np.inf, -np.inf, -np.inf, np.inf])
    assert subtract(x, y).tolist() == [0, 0, np.inf, -np.inf]


def test_an_interval_of_another_level_inverts_its_test() -> None:
    values = np.random.default_rng(2).normal(size=12)
    low, high = location_interval(values, 0.9)[0][1:]
    for limit, side, inside in ((low, "greater", 1e-9), (high, "less", -1e-9)):  # one-sided, at 5 %
        assert scipy_stats.wilcoxon(values - limit - inside, alternative=side, method="exact").pvalue > 0.05
        assert scipy_stats.wilcoxon(values - limit + inside, alternative=side, method="exact").pvalue <= 0.05
    wide = location_interval(values)[0]
    assert wide.low < low < high < wide.high


def test_probability_of_improvement_is_mann_whitneys() -> None:
    x, y = np.array([1.0, 2, 2, np.inf]), np.array([2.0, 3, np.inf, 0])
    expected = np.mean([1.0 if a < b else 0.5 if a == b else 0.0 for a in x for b in y])
    assert probability_of_improvement(x, y).estimate == expected


def test_its_interval_is_the_jackknifes_on_the_logit_scale() -> None:
    """Written out: leave out a seed, both its runs, and look how much the estimate moves."""
    x, y = np.array([1.0, 5, 3, 2, 8, 4]), np.array([2.0, 4, 6, 7, 9, 3])
    n, found = len(x), probability_of_improvement(x, y)

    def estimate(kept: list[int]) -> float:
        return float(np.mean([1.0 if x[i] < y[j] else 0.5 if x[i] == y[j] else 0.0 for i in kept for j in kept]))

    without = np.array([estimate([i for i in range(n) if i != out]) for out in range(n)])
    error = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    p = estimate(list(range(n)))
    half = 2.5705818 * error / (p * (1 - p))  # t, 5 degrees of freedom
    logit = np.log(p / (1 - p))
    assert found.low == pytest.approx(1 / (1 + np.exp(half - logit)), rel=1e-6)
    assert found.high == pytest.approx(1 / (1 + np.exp(-half - logit)), rel=1e-6)
    apart = probability_of_improvement(x, x + 100)
    assert (apart.estimate, apart.high) == (1, 1)
    assert apart.low == pytest.approx(0.025 ** (1 / 6))  # all six of six
    assert np.isnan(probability_of_improvement(x[:3], y[:3]).low)
    assert np.isnan(probability_of_improvement(np.ones(6), np.ones(6)).low)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=10))
def test_the_signed_rank_test_is_exact_under_ties(values: list[int]) -> None:
    """By all signs of the midranks, zeros left out."""
    d = np.array(values, float)
    ranks = scipy_stats.rankdata(np.abs(d[d != 0]))
    sums = np.array([np.dot(signs, ranks) for signs in itertools.product([0, 1], repeat=len(ranks))])
    observed = ranks[d[d != 0] > 0].sum()
    less, greater = (sums <= observed).mean(), (sums >= observed).mean()
    assert signed_rank_p(d, "less") == pytest.approx(less)
    assert signed_rank_p(d, "greater") == pytest.approx(greater)
    assert signed_rank_p(d) == pytest.approx(min(1, 2 * min(less, greater)))


def test_the_signed_rank_test_of_many_is_scipys() -> None:
    d = np.random.default_rng(0).normal(0.1, 1, 300)
    assert signed_rank_p(d) == pytest.approx(scipy_stats.wilcoxon(d).pvalue)
    few = d[:40]
    for alternative in ("two-sided", "less", "greater"):
        assert signed_rank_p(few, alternative) == pytest.approx(
            scipy_stats.wilcoxon(few, alternative=alternative).pvalue
        )
    assert signed_rank_p(np.append(few, [np.inf] * 9)) < signed_rank_p(few)  # failed runs rank highest
    assert np.isnan(signed_rank_p(np.array([1.0, np.nan])))


def test_no_failure_in_twenty_still_allows_seventeen_percent() -> None:
    interval = rate_interval(0, 20)
    assert (interval.estimate, interval.low) == (0, 0)
    assert interval.high == pytest.approx(1 - 0.025 ** (1 / 20))  # Clopper and Pearson's limit, 16.8 %
    assert np.isnan(rate_interval(0, 0)).all()


@pytest.mark.parametrize(
    ("frame", "baseline", "message"),
    [
        (pd.DataFrame({"arm": ["a"], "seed": [0]}), "a", "lack the columns score"),
        (scores(dcgan=[1], sn=[2]), "dcgn", "did you mean 'dcgan'"),
        (pd.DataFrame({"arm": ["a"], "seed": [0], "score": [np.nan]}), "a", "the score is nan"),
        (pd.DataFrame({"arm": ["a", "a"], "seed": [0, 0], "score": [1, 2]}), "a", "seed 0 more than once"),
    ],
)
def test_mistakes_are_named(frame: pd.DataFrame, baseline: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(frame, baseline)


# --- bands over seeds ---


def history(values: np.ndarray, steps: list[int], variant: str = "dcgan") -> pd.DataFrame:
    """One row per seed (rows of `values`) and step."""
    rows = [("c", variant, seed, step, values[seed, i]) for seed in range(len(values)) for i, step in enumerate(steps)]
    return pd.DataFrame(rows, columns=["context", "variant", "seed", "step", "loss/d"])


def test_bands_are_over_seeds_and_say_their_n() -> None:
    values = np.random.default_rng(0).normal(size=(8, 3))
    values[5:, 2] = np.nan
    frame = bands(history(values, [0, 10, 20]), "loss/d").set_index("step")
    assert frame["n"].to_dict() == {0: 8, 10: 8, 20: 5}
    expected, _ = location_interval(values[:, 1])
    assert (frame.loc[10, "centre"], frame.loc[10, "low"], frame.loc[10, "high"]) == expected
    few = bands(history(values[:6], [0, 10, 20]), "loss/d").set_index("step")  # a range, not an interval
    assert few.loc[10, ["centre", "low", "high"]].tolist() == [
        np.median(values[:6, 1]),
        *np.sort(values[:6, 1])[[0, -1]],
    ]
    alone = bands(history(values[:1], [0, 10, 20]), "loss/d")
    assert alone[["low", "high"]].isna().all(axis=None)
    assert len(alone) == 3


def test_steps_that_most_seeds_did_not_reach_are_left_out() -> None:
    values = np.array([[1.0, 2.0], [1.0, np.nan], [1.0, np.nan]])
    assert bands(history(values, [0, 10]), "loss/d")["step"].tolist() == [0]


def test_binning_means_over_equal_stretches_and_keeps_short_runs() -> None:
    steps = list(range(0, 2001, 10))
    frame = history(np.arange(len(steps), dtype=float)[None], steps)
    few = binned(frame, ["loss/d"], bins=20)
    assert few["step"].tolist() == list(range(0, 2001, 100))
    assert few.loc[few["step"] == 100, "loss/d"].item() == np.mean(range(1, 11))
    pd.testing.assert_frame_equal(binned(frame, ["loss/d"], bins=300), frame[[*few]], check_dtype=False)
