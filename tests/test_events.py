"""Events on curves whose story is known."""

import numpy as np
import pandas as pd
import pytest

from analysis.events import CAUSES, Thresholds, find_events, meanings
from analysis.failures import survival_of
from analysis.inference import order_counts, survival
from analysis.stability import STATISTICS, failures_under, summarize
from analysis.terms import terms_of

TRIVIAL = 40.0


def story(fd: list[float], state: str = "finished", dataset: str = "mnist", **columns: object) -> dict[str, int]:
    """Events of a run with these evaluations, one every 100 steps, as {cause: step}; rows every 10 steps."""
    step = np.arange(0, 100 * len(fd) - 99, 10)
    frame = pd.DataFrame({"step": step, "loss/d": 0.7, "loss/g": 0.7, "logit/max_abs": 1.0})
    evaluated = frame["step"] % 100 == 0
    frame.loc[evaluated, "eval/fd"] = fd
    for name, values in {"eval/effective_modes": 9.0, "eval/mode_kl": 0.1, "eval/diversity": 0.9, **columns}.items():
        frame.loc[evaluated if name.startswith("eval/") else slice(None), name] = values
    classes = 1000 if dataset == "stacked_mnist" else 10
    columns_of = {name: frame[name].to_numpy() for name in frame}
    return dict(find_events(columns_of, state, classes, TRIVIAL, 1.0, Thresholds()))


GOOD = [90.0, 30.0, 15.0, 10.0, 9.0, 8.0]


def test_a_run_that_learns_and_stays_has_no_event() -> None:
    assert story(GOOD) == {}


def test_never_learned_is_never_healthy_and_that_alone() -> None:
    assert story([90.0, 30.0, 21.0, 70.0, 80.0, 80.0], **{"eval/diversity": 0.1}) == {"never learned": 0}
    assert story(GOOD, **{"eval/effective_modes": 4.9}) == {"never learned": 0}  # near, in too few modes
    assert story([90.0, 30.0], state="interrupted") == {}  # not over


def test_collapse_counts_after_health_and_where_it_lasts() -> None:
    modes = [1.0, 3.0, 9.0, 4.0, 9.0, 9.0]
    assert story(GOOD, **{"eval/effective_modes": modes}) == {}  # one evaluation, not the last
    modes = [1.0, 3.0, 9.0, 4.0, 4.0, 9.0]
    assert story(GOOD, **{"eval/effective_modes": modes}) == {"mode collapse": 300}
    modes = [1.0, 3.0, 9.0, 9.0, 9.0, 4.0]
    assert story(GOOD, **{"eval/effective_modes": modes}) == {"mode collapse": 500}
    assert story(GOOD, **{"eval/mode_kl": [2, 2, 0.1, 0.6, 0.6, 0.1]}) == {"mode collapse": 300}
    assert story(GOOD, **{"eval/diversity": [0.1, 0.1, 0.9, 0.9, 0.4, 0.4]}) == {"mode collapse": 400}


def test_quality_collapse_is_against_the_best_so_far() -> None:
    assert story([90.0, 30.0, 15.0, 10.0, 21.0, 21.0]) == {"quality collapse": 400}
    assert story([90.0, 30.0, 15.0, 10.0, 19.0, 19.0]) == {}
    assert story([90.0, 30.0, 15.0, 10.0, 21.0, 10.0]) == {}


def test_with_a_thousand_classes_collapse_is_against_the_runs_own_best() -> None:
    few = {"eval/effective_modes": [600.0, 600.0, 600.0, 600.0, 290.0, 290.0], "eval/mode_kl": 2.0}
    assert story(GOOD, dataset="stacked_mnist", **few) == {"mode collapse": 400}


def test_divergence_is_the_first_number_that_is_none() -> None:
    loss = np.full(51, 0.7)
    loss[30:] = np.nan
    assert story(GOOD, state="diverged", **{"loss/g": loss}) == {"divergence": 300}
    logits = np.full(51, 1.0)
    logits[12] = 2e4
    assert story(GOOD, **{"logit/max_abs": logits}) == {"divergence": 120}
    assert story([90.0], state="diverged") == {"divergence": 0}
    assert story(GOOD, state="failed") == {"error": 500}


def test_saturation_lasts_500_steps() -> None:
    fd = [90.0, *[10.0] * 11]
    for last, expected in ((800, {"D saturation": 300}), (790, {})):
        step = np.arange(0, 1101, 10)
        saturated = (step >= 300) & (step <= last)
        columns = {
            "accuracy/d_real": np.where(saturated, 1.0, 0.8),
            "accuracy/d_fake": 1.0,
            "grad_norm/g": np.where(saturated, 0.009, 1.0),
        }
        assert story(fd, **columns) == expected


def history(run_id: str, fd: list[float], seed: int = 0, **columns: object) -> pd.DataFrame:
    step = 100 * np.arange(len(fd))
    keys = {"run_id": run_id, "dataset": "mnist", "arm": "dcgan", "setting": "C", "seed": seed}
    return pd.DataFrame({**keys, "step": step, "eval/fd": fd, "eval/effective_modes": 9.0, **columns})


def runs(**states: str) -> pd.DataFrame:
    keys = {"dataset": "mnist", "arm": "dcgan", "setting": "C", "seed": 0, "trivial_fd": TRIVIAL}
    return pd.DataFrame([{"run_id": run_id, "state": state, **keys} for run_id, state in states.items()])


@pytest.fixture
def ends() -> pd.DataFrame:
    """Statistics of runs that ended well, soon or badly, or have not ended."""
    planned = runs(good="finished", short="finished", broken="failed", going="running", gone="missing")
    frames = [history("good", [*GOOD, 12.0]), history("short", [90.0, 10.0]), history("broken", GOOD),
              history("going", GOOD)]  # fmt: skip
    return summarize(pd.concat(frames), planned).set_index("run_id")


def test_quality_at_the_end(ends: pd.DataFrame) -> None:
    good = ends.loc["good"]
    end = np.log([9.0, 8.0, 12.0]).mean()  # the last quarter has two evaluations, and three is the least
    assert good["log_q_end"] == pytest.approx(end)
    assert good["q_end"] == pytest.approx(np.exp(end))
    assert good["gain"] == pytest.approx(np.log(TRIVIAL) - end)


def test_quality_on_the_way(ends: pd.DataFrame) -> None:
    good, end = ends.loc["good"], np.log([9.0, 8.0, 12.0]).mean()
    assert (good["q_best"], good["ended"], good["failure"], good["healthy_end"]) == (8.0, True, False, True)
    assert good["healthy_step"] == 200
    assert good["quality_degradation"] == pytest.approx(end - np.log(8))
    assert np.isnan(good["late_change"])  # of the third quarter nothing is left
    changes = np.abs(np.diff(np.log([10.0, 9.0, 8.0, 12.0])))  # the second half: steps 300 to 600
    assert good["quality_oscillation"] == pytest.approx(changes.mean())


def test_the_end_of_two_evaluations_is_of_both_and_says_so(ends: pd.DataFrame) -> None:
    assert ends.loc["short", "q_end"] == pytest.approx(30)
    assert "2 evaluations" in ends.loc["short", "notes"]


def test_no_run_is_given_a_quality_that_it_did_not_have(ends: pd.DataFrame) -> None:
    broken = ends.loc["broken"]
    assert (broken["ended"], broken["failure"], broken["cause"], broken["gain"]) == (False, True, "error", 0)
    assert np.isnan(broken["q_end"])


@pytest.mark.parametrize(("run_id", "state"), [("going", "running"), ("gone", "missing")])
def test_a_run_that_has_not_ended_is_no_failure(run_id: str, state: str, ends: pd.DataFrame) -> None:
    assert ends.loc[run_id, "failure"] is None
    assert np.isnan(ends.loc[run_id, "q_end"])
    assert state in ends.loc[run_id, "notes"]


def test_the_last_quarter_its_line_and_what_stays_of_the_middle() -> None:
    """Twenty evaluations, evenly spaced: the last five are the end, four to five tenths of the run the middle."""
    log_q = np.array([3.0] * 6 + [2.5, 2.4, 2.3, 2.2] + [2.0] * 5 + [1.5, 1.4, 1.6, 1.5, 1.2])
    fd = [np.nan, *np.exp(log_q)]  # step 0 has none; steps 100 to 2,000
    row = summarize(history("a", fd), runs(a="finished")).iloc[0]
    late = log_q[-5:]
    assert row["log_q_end"] == pytest.approx(late.mean())
    assert row["late_change"] == pytest.approx(late.mean() - 2.0)
    assert row["q_middle"] == pytest.approx(np.mean([2.5, 2.4, 2.3, 2.2]))  # steps 700 to 1,000
    line = np.polynomial.Polynomial.fit(np.arange(5), late, 1)
    assert row["q_line"] == pytest.approx(np.exp(line(4)))
    assert row["q_sd"] == pytest.approx(np.sqrt(((late - line(np.arange(5))) ** 2).sum() / 3))


def test_a_run_that_collapses_and_then_diverges_has_no_end() -> None:
    fd = [90.0, 30.0, 15.0, 10.0, 21.0, 22.0, 23.0, 24.0]
    loss = np.full(8, 0.7)
    loss[7] = np.nan
    planned = runs(a="finished", b="diverged", c="finished")
    found = summarize(
        pd.concat([history("a", fd, **{"loss/d": loss}), history("b", fd), history("c", fd)]), planned
    ).set_index("run_id")
    for run_id in ("a", "b"):
        row = found.loc[run_id]
        assert (row["cause"], row["failure_step"]) == ("quality collapse", 400)
        assert row["causes"] == "quality collapse at 400; divergence at 700"
        assert (row["ended"], row["gain"], row["healthy_end"]) == (False, 0, False)
        assert np.isnan(row["q_end"])
    assert (found.loc["c", "ended"], found.loc["c", "causes"]) == (True, "quality collapse at 400")
    assert found.loc["c", "q_end"] == pytest.approx(np.exp(np.log([22, 23, 24]).mean()))


def test_an_arm_that_never_learns_is_not_steadier_than_one_that_collapses_late() -> None:
    """It was never in the healthy state: it comes first in order and in time to failure, ten of ten times."""
    fd = [90.0, *[10.0] * 25, *[60.0] * 4]
    found = summarize(
        pd.concat([history("late", fd), history("never", [60.0] * 30)]), runs(late="finished", never="finished")
    ).set_index("run_id")
    assert found.loc["late", "failure_step"] == 2600
    assert (found.loc["never", "cause"], found.loc["never", "failure_step"]) == ("never learned", 0)
    late, never = ((np.full(10, float(found.loc[a, "failure_step"])), np.ones(10, bool)) for a in ("late", "never"))
    assert order_counts(never, late) == (10, 10)
    assert survival(*never, 3000).mean.estimate == 0


def test_a_run_that_was_never_healthy_has_no_time_without_failure_whatever_ended_it() -> None:
    """Else the arm that diverges as well, at the end, would be the steadier one of two that never learn."""
    fd = [90.0, *[35.0] * 20]
    found = summarize(pd.concat([history("a", fd), history("b", fd)]), runs(a="finished", b="diverged"))
    found = found.set_index("run_id").assign(context="c")
    assert found["cause"].to_dict() == {"a": "never learned", "b": "divergence"}
    assert found["ended"].to_dict() == {"a": True, "b": False}
    for run_id in "ab":
        assert survival_of(found.loc[[run_id]]).mean.estimate == 0


def test_what_is_not_finite_is_a_divergence_and_what_is_logged_seldom_is_none() -> None:
    loss = np.where(np.arange(51) % 2, 0.7, np.nan)  # every other row, and not the last
    assert story(GOOD, **{"loss/d": loss}) == {}
    lost = loss.copy()
    lost[40:] = np.nan
    assert story(GOOD, **{"loss/d": lost}) == {"divergence": 400}
    odd = summarize(history("a", [90.0, 30.0, 10.0, 9.0, np.inf, 8.0, 8.0, 8.0, 8.0]), runs(a="finished")).iloc[0]
    assert (odd["ended"], odd["gain"], odd["causes"]) == (False, 0, "divergence at 400")
    modes = [np.nan, np.nan, 700, 700, 10, 10]
    assert story(GOOD, dataset="stacked_mnist", **{"eval/effective_modes": modes}) == {"mode collapse": 400}


def test_without_an_evaluation_health_is_not_known() -> None:
    row = summarize(history("a", [np.nan] * 6), runs(a="finished")).iloc[0]
    assert row["healthy_end"] is None
    assert not summarize(history("a", [np.nan] * 6), runs(a="diverged")).iloc[0]["healthy_end"]


def test_of_a_thousand_classes_health_is_the_distance_alone() -> None:
    """The published DCGAN of Stacked-MNIST hits 78 to 99 modes, and learns."""
    assert story(GOOD, dataset="stacked_mnist", **{"eval/effective_modes": 80.0}) == {}
    assert story(GOOD, dataset="mnist", **{"eval/effective_modes": 3.0}) == {"never learned": 0}


def test_an_unknown_trivial_sampler_is_said() -> None:
    planned = runs(a="finished", b="diverged").drop(columns="trivial_fd")
    found = summarize(pd.concat([history("a", GOOD), history("b", GOOD)]), planned).set_index("run_id")
    assert found.loc["a", "q_end"] == pytest.approx(np.exp(np.log([10, 9, 8]).mean()))
    assert "whether it learned is not known" in found.loc["a", "notes"]
    assert np.isnan(found.loc[["a", "b"], "gain"]).all()
    assert found.loc["a", "healthy_end"] is None
    assert np.isnan(found.loc["b", "q_end"])
    assert "no end" in found.loc["b", "notes"]


def test_other_thresholds_count_the_same_runs_again() -> None:
    fd = [90.0, 30.0, 15.0, 10.0, 16.0, 16.0]
    frame = history("a", fd).assign(variant="dcgan", context="c")
    planned = runs(a="finished").assign(variant="dcgan", context="c")
    others = [Thresholds(), Thresholds(quality_collapse=1.5), Thresholds(healthy=0.2), Thresholds(modes=0.95)]
    assert failures_under(frame, planned, others)[list(range(4))].iloc[0].tolist() == [False, True, True, True]


def test_steepness() -> None:
    columns = {"lipschitz/empirical": [1.0, 2, 4, 8, 4, 2], "lipschitz/product": 20.0, "stable_rank/conv1": 3.0,
               "stable_rank/conv2": 5.0}  # fmt: skip
    row = summarize(history("a", GOOD, **columns)).iloc[0]
    assert row["grad_x_max"] == pytest.approx(np.log(8))
    assert row["grad_x_p99"] == pytest.approx(np.log(np.percentile([1, 2, 4, 8, 4, 2], 99)))
    assert row["tightness"] == pytest.approx(0.1)
    assert row["lipschitz_product"] == pytest.approx(np.log(20))
    assert row["stable_rank"] == 4


def test_no_evaluation_one_evaluation_and_gaps() -> None:
    nothing = summarize(history("a", [np.nan] * 6), runs(a="finished")).iloc[0]
    assert nothing[["q_best", "q_end", "gain"]].isna().all()
    assert "no evaluation" in nothing["notes"]
    one = summarize(history("a", [10.0]), runs(a="finished")).iloc[0]
    assert (one["q_best"], one["q_end"]) == (10.0, pytest.approx(10))
    assert "1 evaluation" in one["notes"]
    gaps = summarize(history("a", [90.0, np.nan, 15.0, np.nan, 9.0, 8.0]), runs(a="finished")).iloc[0]
    assert (gaps["q_end"], gaps["q_best"]) == (pytest.approx((15 * 9 * 8) ** (1 / 3)), 8.0)
    assert set(STATISTICS) <= set(gaps.index)


def test_gain_is_never_below_that_of_the_trivial_sampler() -> None:
    worse = summarize(history("a", [90.0, *[57.0] * 8]), runs(a="finished")).iloc[0]
    assert (worse["gain"], worse["ended"], worse["cause"]) == (0, True, "never learned")
    assert worse["q_end"] == pytest.approx(57)


def test_causes_and_thresholds_say_what_can_be_seen() -> None:
    assert meanings() == CAUSES
    pixels, other = terms_of([("folder", "pixels")]), terms_of([("folder", "mnist")])
    assert set(CAUSES) - set(meanings(pixels)) == {"mode collapse"}
    assert "an fd_pixels below half the trivial sampler's;" in meanings(pixels)["never learned"]
    assert meanings(other)["mode collapse"] == "samples too much alike, after it was healthy"
    names = [name for name, _, _ in Thresholds().table()]
    assert [name for name, _, _ in Thresholds().table(other)] == [n for n in names if n not in ("modes", "mode_kl")]
    shown = Thresholds().table(pixels)
    assert [name for name, _, _ in shown] == [n for n in names if n not in ("modes", "mode_kl", "diversity")]
    assert not any("modes" in meaning or "classes" in meaning for _, _, meaning in shown)
