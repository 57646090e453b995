"""Statistics of one run's curves, on curves whose answer is known."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from others import own_images

from analysis.events import Thresholds
from analysis.stability import STATISTICS, failures_under, gradient_references, rolling_median, summarize
from experiments.record import State
from sngan.config import InputError


def run(arm: str = "dcgan", seed: int = 0, steps: int = 3000, every: int = 10, **metrics: object) -> pd.DataFrame:
    """One run's rows; a metric is an array or a function of the steps."""
    step = np.arange(0, steps + 1, every)
    frame = pd.DataFrame({"run_id": f"{arm}-{seed}", "dataset": "digits", "arm": arm, "setting": "C", "seed": seed,
                          "step": step})  # fmt: skip
    for name, value in metrics.items():
        frame[name.replace("__", "/")] = value(step) if callable(value) else value
    return frame


def test_a_constant_loss_neither_oscillates_nor_degrades() -> None:
    row = summarize(run(loss__d=0.7, loss__g=0.7)).iloc[0]
    assert (row["loss_d_end"], row["loss_d_best"]) == (0.7, 0.7)
    assert (row["loss_d_degradation"], row["loss_d_oscillation"], row["loss_d_roughness"]) == (0, 0, 0)
    assert row["last_step"] == 3000


def test_end_best_and_degradation() -> None:
    loss = np.full(301, 0.5)
    loss[100], loss[-3:] = 0.1, [0.9, 0.8, 4.0]
    row = summarize(run(loss__d=loss)).iloc[0]
    assert (row["loss_d_end"], row["loss_d_best"]) == (0.9, 0.1)  # the median of the last three
    assert row["loss_d_degradation"] == pytest.approx(np.log(9))


def test_oscillation_is_of_the_second_half() -> None:
    def loss(step: np.ndarray) -> np.ndarray:
        early = np.where(step // 10 % 2, 5.0, 0.2)
        late = np.where(step // 10 % 2, 1.0, np.e)
        return np.where(step < 1500, early, late)

    assert summarize(run(loss__d=loss)).iloc[0]["loss_d_oscillation"] == pytest.approx(1)


def test_roughness_is_relative_and_blind_to_the_trend() -> None:
    noise = np.random.default_rng(0).normal(size=301)
    rough = [summarize(run(loss__d=scale * (1 + 0.01 * noise))).iloc[0]["loss_d_roughness"] for scale in (1, 50)]
    assert rough[0] == pytest.approx(rough[1])
    assert rough[0] == pytest.approx(0.01 * 0.6745, rel=0.15)  # MAD of a normal distribution
    trend = summarize(run(loss__d=lambda step: 1 + step / 3000)).iloc[0]["loss_d_roughness"]
    assert trend < 1e-3


def test_rolling_median_covers_201_steps() -> None:
    values, steps = np.random.default_rng(0).normal(size=101), np.arange(0, 1010, 10)
    assert rolling_median(values, steps)[50] == np.median(values[40:61])  # 10 rows of 10 steps to each side
    assert rolling_median(values, np.arange(101))[50] == np.median(values)
    assert rolling_median(values, 100 * np.arange(101))[50] == np.median(values[45:56])  # never fewer than 11 rows


def test_gradients_are_judged_against_the_common_reference_of_the_seed() -> None:
    """Median over steps 100 to 600 of all arms of a seed: here 1, of which sn has nothing."""
    dcgan = run("dcgan", grad_norm__g=1.0)
    vanished = np.full(301, 0.005)
    vanished[200:] = 1.0
    sn = run("sn", grad_norm__g=vanished)
    other = run("dcgan", seed=1, grad_norm__g=77.0)
    third = run("plain", grad_norm__g=1.0)
    references = gradient_references(pd.concat([dcgan, sn, third, other]))
    assert references == {"dcgan-0": 1, "sn-0": 1, "plain-0": 1, "dcgan-1": 77}
    result = summarize(pd.concat([dcgan, sn, third, other])).set_index("run_id")
    assert result.loc["sn-0", "grad_g_vanishing"] == pytest.approx(200 / 301)
    assert result.loc["dcgan-0", "grad_g_vanishing"] == 0


def test_spikes_and_explosions_are_judged_by_the_maxima() -> None:
    peaks = np.ones(301)
    peaks[[50, 150, 250]] = [6, 500, 4]
    row = summarize(run(grad_norm__g=1.0, **{"grad_norm__g_max": peaks})).iloc[0]
    assert row["grad_g_spikes"] == pytest.approx(1000 * 2 / 3000)  # two above 5 x the rolling median
    assert row["grad_g_exploding"] == pytest.approx(1 / 301)


def test_vanishing_is_against_the_runs_own_median_after_its_first_twentieth() -> None:
    """A common reference decides by scale: an arm whose gradients are all a third of the others' does not vanish."""
    norm = np.ones(301)
    norm[:10], norm[200:206] = 1e-6, 1e-3
    rows = [summarize(run(grad_norm__g=scale * norm)).iloc[0] for scale in (1.0, 1 / 3)]
    assert rows[0]["grad_g_p1"] == pytest.approx(np.log(np.percentile(norm[16:], 1)))  # steps above 150
    assert rows[0]["grad_g_p1"] == pytest.approx(rows[1]["grad_g_p1"])
    assert rows[0]["grad_g_p1"] < np.log(0.01)


def test_norms_are_counted_from_their_updates_on() -> None:
    """Sigma from the first update, growth from update 500; what is not finite is above, and no end of growth."""
    sigma = np.full(301, 1.0)
    sigma[0], sigma[1], sigma[51] = 9.0, 1.2, np.nan
    weights = np.exp(np.arange(301) / 300)
    columns = {"sigma/conv1": sigma, "sigma/conv2": 0.9, "weight_norm/conv1": weights, "weight_norm/conv2": 1.0}
    row = summarize(run(d_updates=lambda step: step, **columns)).iloc[0]
    assert row["sigma_share"] == pytest.approx(2 / 600)
    assert row["sigma_growth"] == pytest.approx(0)
    assert row["weight_growth"] == pytest.approx(0.5 * 250 / 300)
    growing = summarize(run(d_updates=lambda step: step, **{"sigma/conv1": weights})).iloc[0]
    assert (growing["sigma_max"], growing["sigma_growth"]) == (pytest.approx(1), pytest.approx(250 / 300))
    lost = weights.copy()
    lost[280:] = np.nan  # it diverged: to its last finite row
    assert summarize(run(d_updates=lambda step: step, **{"sigma/conv1": lost})).iloc[0]["sigma_max"] == pytest.approx(
        279 / 300
    )
    steep = np.where(np.arange(301) > 225, 2.0, 50.0)
    late = summarize(run(**{"lipschitz/empirical": steep})).iloc[0]
    assert (late["grad_x_p99_late"], late["grad_x_max"]) == (pytest.approx(np.log(2)), pytest.approx(np.log(50)))


def test_short_runs_take_their_reference_early_too() -> None:
    gradient = np.where(np.arange(0, 1001, 10) <= 250, 2.0, 9.0)
    assert gradient_references(run(steps=1000, grad_norm__g=gradient)) == {"dcgan-0": 2}


def test_none_is_missing_and_what_is_no_number_or_has_no_step_is_refused() -> None:
    loss = [0.5] * 300
    expected = summarize(run(loss__d=[*loss, np.nan])).iloc[0]
    found = summarize(run(loss__d=pd.Series([*loss, None], dtype=object))).iloc[0]
    pd.testing.assert_series_equal(found, expected)
    with pytest.raises(InputError, match="no number"):
        summarize(run(loss__d=[*loss, "high"]))
    with pytest.raises(InputError, match="1 rows have no step"):
        summarize(run(loss__d=0.5).assign(step=lambda frame: frame["step"].where(frame["step"] != 20)))


def test_a_run_without_setting_is_not_dropped() -> None:
    assert len(summarize(run(loss__d=0.5, grad_norm__g=1.0).assign(setting=None))) == 1


def test_roughness_needs_a_positive_median_not_positive_values() -> None:
    loss = np.full(301, 0.5)
    loss[100] = -0.1
    row = summarize(run(loss__d=loss)).iloc[0]
    assert row["loss_d_roughness"] == 0
    assert np.isnan([row["loss_d_degradation"], row["loss_d_oscillation"]]).all()  # no logarithm


def test_gaps_nan_early_ends_and_absent_metrics_give_nan_or_a_value() -> None:
    loss = np.full(301, 0.5)
    loss[::7] = np.nan
    gaps = run(loss__d=loss).drop(index=range(40, 60))
    row = summarize(gaps).iloc[0]
    assert row["loss_d_end"] == row["loss_d_best"] == 0.5
    assert np.isnan(row["loss_g_end"])
    assert np.isnan(row["grad_g_spikes"])
    one = summarize(run(steps=0, loss__d=0.5, grad_norm__g=0.1)).iloc[0]
    assert one["loss_d_end"] == 0.5
    assert np.isnan(one["loss_d_oscillation"])
    nothing = summarize(run(loss__d=np.nan, loss__g=np.nan)).iloc[0]
    assert nothing[list(STATISTICS)].isna().all()
    negative = summarize(run(loss__d=-1.0)).iloc[0]  # Wasserstein
    assert negative["loss_d_end"] == -1
    assert np.isnan(negative["loss_d_degradation"])


def test_order_of_rows_and_repeated_steps_do_not_matter() -> None:
    noise = np.random.default_rng(0).uniform(0.5, 1, 301)
    frame = run(loss__d=noise, grad_norm__g=noise)
    repeated = pd.concat([frame.assign(**{"loss/d": 99.0}).iloc[:50], frame])  # of one step the last row counts
    shuffled = frame.sample(frac=1, random_state=0)
    expected = summarize(frame)
    pd.testing.assert_frame_equal(summarize(repeated), expected)
    pd.testing.assert_frame_equal(summarize(shuffled), expected)


def test_missing_keys_are_named() -> None:
    with pytest.raises(InputError, match="lacks the columns seed"):
        summarize(run().drop(columns="seed"))


def test_the_number_of_classes_is_the_one_that_is_known_of_the_run(tmp_path: Path) -> None:
    """Three effective modes are all of three classes, and far from half of ten."""
    study = own_images(tmp_path, ("a", 3, "labels"), modes=2.9)
    found = summarize(study.history, study.runs)
    assert found["healthy_end"].eq(True).all()
    assert not failures_under(study.history, study.runs, [Thresholds()])[0].any()
    of_ten = study.runs.assign(classes=10)
    assert set(summarize(study.history, of_ten)["cause"]) == {"never learned"}
    assert failures_under(study.history, of_ten, [Thresholds()])[0].all()
    assert set(summarize(study.history, study.runs.drop(columns="classes"))["cause"]) == {"never learned"}


def test_fd_pixels_is_no_second_view_of_itself(tmp_path: Path) -> None:
    study = own_images(tmp_path, ("a", 0, "pixels"), states=(State.FINISHED, State.DIVERGED))
    found = summarize(study.history, study.runs, terms=study.terms)
    assert found["gain"].notna().all()
    assert found.filter(like="pixels").isna().all(axis=None)
    assert found[["coverage_end", "modes_end", "effective_modes_end", "effective_modes_low"]].isna().all(axis=None)
    unknown = summarize(study.history, study.runs.drop(columns="trivial_fd"), terms=study.terms)
    assert "no trivial sampler's fd_pixels" in unknown["notes"].iloc[0]
