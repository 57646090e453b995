"""The classic mistakes of such a study, planted on purpose: for each, a named test must fail."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import test_claims
import test_events
import test_inference
import test_stats

from analysis import claims, events, inference, stability, stats


def drop_failed(scores: pd.DataFrame, baseline: str) -> pd.DataFrame:
    return stats.compare(scores[np.isfinite(scores["score"])], baseline)


def unpair(scores: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """As if the arms had nothing in common: each in the order of its values."""
    order = scores.sort_values("score").groupby("arm").cumcount()
    return stats.compare(scores.assign(seed=order), baseline)


def resample_rows(values: np.ndarray, real: Callable = stats.location_interval) -> tuple[stats.Interval, str]:
    """As if each seed had been seen ten times."""
    return real(np.repeat(values, 10))


def imputed(summary: pd.DataFrame) -> pd.DataFrame:
    """As it was: a run without an end has the trivial sampler's fd, so failing beats samples that are worse."""
    trivial = np.log(test_claims.TRIVIAL)
    log_q = np.where(summary["ended"], summary["log_q_end"], trivial)
    return summary.assign(gain=trivial - log_q, healthy_step=500.0)


def survivors(runs: pd.DataFrame, *rest: object) -> pd.DataFrame:
    """Claims without the runs that failed."""
    return claims.judge_runs(runs[runs["ended"].astype(bool)], *rest)  # type: ignore[arg-type]


def with_imputation(runs: pd.DataFrame, *rest: object) -> pd.DataFrame:
    return claims.judge_runs(imputed(runs), *rest)  # type: ignore[arg-type]


def one_sided_correction(family: str, p: list[float]) -> list[float]:
    """Contradictions by their own p: of the two adjustments in a study the second is left out."""
    one_sided_correction.calls = (one_sided_correction.calls + 1) % 5  # type: ignore[attr-defined]
    return p if one_sided_correction.calls in (4, 0) else _ADJUST(family, p)  # type: ignore[attr-defined]


one_sided_correction.calls = 0  # type: ignore[attr-defined]
_ADJUST = claims.adjust


def half_unconditional(x: np.ndarray, y: np.ndarray) -> float:
    return inference.paired_rates_p(x, y) / 2


def end_dated(run: object, state: str, *rest: object) -> list[tuple[str, int]]:
    """Never learned counts from the run's last step."""
    last = int(run["step"][-1])  # type: ignore[index]
    found = events.find_events(run, state, *rest)  # type: ignore[arg-type]
    return [(cause, last if cause == "never learned" else step) for cause, step in found]


def first_cause_alone(run: object, state: str, *rest: object) -> list[tuple[str, int]]:
    return events.find_events(run, state, *rest)[:1]  # type: ignore[arg-type]


def one_sided(x: np.ndarray, y: np.ndarray) -> float:
    return inference.mcnemar_p(x, y) / 2


PLANTED = {
    "failed runs dropped": (test_stats, "compare", drop_failed,
                            test_stats.test_failed_runs_rank_worst_and_are_never_dropped),
    "paired data tested unpaired": (test_stats, "compare", unpair,
                                    test_stats.test_pairs_are_of_one_seed_in_whatever_order_the_rows_come),
    "rows resampled instead of seeds": (stats, "location_interval", resample_rows,
                                        test_stats.test_bands_are_over_seeds_and_say_their_n),
    "half a p": (test_inference, "mcnemar_p", one_sided,
                 test_inference.test_mcnemar_is_the_binomial_of_the_pairs_that_differ),
    "half a p of the unconditional test": (test_inference, "paired_rates_p", half_unconditional,
                 test_inference.test_the_unconditional_test_holds_its_level_and_sees_more_than_mcnemars),
    "survivors only": (test_claims, "judge_runs", survivors,
                       test_claims.test_survivors_with_better_coverage_do_not_show_less_collapse),
    "the trivial fd imputed": (test_claims, "judge_runs", with_imputation,
                               test_claims.test_gains_by_brute_force),
    "correction on one side only": (claims, "adjust", one_sided_correction,
                 test_claims.test_families_are_adjusted_apart_and_primary_ones_are_named_by_the_study),
    "never learned at the end": (stability, "find_events", end_dated,
                 test_events.test_an_arm_that_never_learns_is_not_steadier_than_one_that_collapses_late),
    "the first cause alone": (stability, "find_events", first_cause_alone,
                              test_events.test_a_run_that_collapses_and_then_diverges_has_no_end),
}  # fmt: skip


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_fails_a_named_test(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, wrong, test = PLANTED[fault]
    test()
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(AssertionError):
        test()


def test_imputing_the_trivial_fd_again_calls_failing_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it did: sn, which diverges in every seed, is better than dcgan, which does not learn."""
    lost = {"ended": False, "failure": True}
    runs = test_claims.table({"sn": lost, "dcgan": {"fd": 57.0}})
    found = with_imputation(runs, {})
    assert found.loc[found["claim"] == "C8", "verdict"].iloc[0] == "supported"
    now = claims.judge_runs(runs, {})
    assert now.loc[now["claim"] == "C8", "verdict"].iloc[0] == "inconclusive"


def test_claims_without_their_failed_runs_are_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def without_failed(study: object, summary: pd.DataFrame) -> pd.DataFrame:
        return claims.judge(study, summary[summary["ended"].astype(bool)])  # type: ignore[arg-type]

    monkeypatch.setattr(test_claims, "judge", without_failed)
    with pytest.raises(AssertionError):
        test_claims.test_failed_runs_are_not_dropped(tmp_path)
