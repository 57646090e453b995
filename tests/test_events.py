"""Events on curves whose story is known."""

import numpy as np
import pandas as pd
import pytest

from analysis.events import Thresholds, find_events
from analysis.stability import STATISTICS, summarize

TRIVIAL = 40.0


def story(fd: list[float], state: str = "finished", dataset: str = "mnist", **columns: object) -> pd.DataFrame:
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
    assert story([90.0, 30.0, 21.0, 70.0, 80.0, 80.0], **{"eval/diversity": 0.1}) == {"never learned": 500}
    assert story(GOOD, **{"eval/effective_modes": 4.9}) == {"never learned": 500}  # near, in too few modes
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


def test_quality_at_the_end() -> None:
    planned = runs(good="finished", short="finished", broken="failed", going="running", gone="missing")
    frames = [history("good", [*GOOD, 12.0]), history("short", [90.0, 10.0]), history("broken", GOOD),
              history("going", GOOD)]  # fmt: skip
    found = summarize(pd.concat(frames), planned).set_index("run_id")
    good = found.loc["good"]
    assert (good["q_end"], good["q_best"], good["imputed"], good["failure"]) == (9.0, 8.0, False, False)
    assert good["log_q_end"] == pytest.approx(np.log(9))
    assert good["quality_degradation"] == pytest.approx(np.log(9 / 8))
    changes = np.abs(np.diff(np.log([10.0, 9.0, 8.0, 12.0])))  # the second half: steps 300 to 600
    assert good["quality_oscillation"] == pytest.approx(changes.mean())
    assert good["healthy_step"] == 200
    short, broken = found.loc["short"], found.loc["broken"]
    assert (short["q_end"], short["imputed"]) == (TRIVIAL, True)
    assert "2 evaluations" in short["notes"]
    assert (broken["q_end"], broken["imputed"], broken["failure"], broken["cause"]) == (TRIVIAL, True, True, "error")
    for run_id, state in (("going", "running"), ("gone", "missing")):
        assert found.loc[run_id, "failure"] is None
        assert np.isnan(found.loc[run_id, "q_end"])
        assert state in found.loc[run_id, "notes"]


def test_an_unknown_trivial_sampler_is_said() -> None:
    planned = runs(a="finished", b="diverged").drop(columns="trivial_fd")
    found = summarize(pd.concat([history("a", GOOD), history("b", GOOD)]), planned).set_index("run_id")
    assert found.loc["a", "q_end"] == 9.0
    assert "whether it learned is not known" in found.loc["a", "notes"]
    assert np.isnan(found.loc["b", "q_end"])
    assert "which is not known" in found.loc["b", "notes"]


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
    assert np.isnan(nothing["q_best"])
    assert (nothing["q_end"], nothing["imputed"]) == (TRIVIAL, True)
    one = summarize(history("a", [10.0]), runs(a="finished")).iloc[0]
    assert (one["q_best"], one["q_end"]) == (10.0, TRIVIAL)
    gaps = summarize(history("a", [90.0, np.nan, 15.0, np.nan, 9.0, 8.0]), runs(a="finished")).iloc[0]
    assert (gaps["q_end"], gaps["q_best"]) == (9.0, 8.0)
    assert set(STATISTICS) <= set(gaps.index)
