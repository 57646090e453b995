"""The classic mistakes of such a study, planted on purpose: for each, a named test must fail."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import test_claims
import test_inference
import test_stats

from analysis import claims, inference, stats


def drop_failed(scores: pd.DataFrame, baseline: str) -> pd.DataFrame:
    return stats.compare(scores[np.isfinite(scores["score"])], baseline)


def unpair(scores: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """As if the arms had nothing in common: each in the order of its values."""
    order = scores.sort_values("score").groupby("arm").cumcount()
    return stats.compare(scores.assign(seed=order), baseline)


def resample_rows(values: np.ndarray, real: Callable = stats.location_interval) -> tuple[stats.Interval, str]:
    """As if each seed had been seen ten times."""
    return real(np.repeat(values, 10))


def without_imputed(study: object, summary: pd.DataFrame) -> pd.DataFrame:
    kept = summary[~summary["imputed"].astype(bool)]
    return claims.judge(study, kept)  # type: ignore[arg-type]


def percentile(table: pd.DataFrame) -> dict[str, stats.Interval]:
    """The bootstrap that covers too little."""
    found = {}
    for arm in table:
        values = table[arm].dropna().to_numpy()
        drawn = values[np.random.default_rng(0).integers(len(values), size=(500, len(values)))].mean(axis=1)
        low, high = np.quantile(drawn, [0.2, 0.8])
        found[arm] = stats.Interval(float(values.mean()), low, high)
    return found


def one_sided(x: np.ndarray, y: np.ndarray) -> float:
    return inference.mcnemar_p(x, y) / 2


PLANTED = {
    "failed runs dropped": (test_stats, "compare", drop_failed,
                            test_stats.test_failed_runs_rank_worst_and_are_never_dropped),
    "paired data tested unpaired": (test_stats, "compare", unpair,
                                    test_stats.test_pairs_are_of_one_seed_in_whatever_order_the_rows_come),
    "rows resampled instead of seeds": (stats, "location_interval", resample_rows,
                                        test_stats.test_bands_are_over_seeds_and_say_their_n),
    "another bootstrap": (test_inference, "iqm_intervals", percentile,
                          test_inference.test_the_interquartile_mean_is_the_mean_of_the_middle_half),
    "half a p": (test_inference, "mcnemar_p", one_sided,
                 test_inference.test_mcnemar_is_the_binomial_of_the_pairs_that_differ),
}  # fmt: skip


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_fails_a_named_test(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, wrong, test = PLANTED[fault]
    test()
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(AssertionError):
        test()


def test_claims_without_their_failed_runs_are_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(test_claims, "judge", without_imputed)
    with pytest.raises(AssertionError):
        test_claims.test_failed_runs_are_not_dropped(tmp_path)
