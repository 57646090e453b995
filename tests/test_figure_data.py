"""What the figures show, against numbers by hand."""

import numpy as np
import pandas as pd
import pytest

from analysis import figure_data
from analysis.plots import look_of


def rows(**metrics: list[float]) -> pd.DataFrame:
    """Two seeds of two variants at steps 0, 10 and 20, a metric's twelve values in that order."""
    keys = [(v, seed, step) for v in ("sn", "dcgan") for seed in (0, 1) for step in (0, 10, 20)]
    frame = pd.DataFrame(keys, columns=["variant", "seed", "step"]).assign(context="c")
    return frame.assign(run_id=frame["variant"] + frame["seed"].astype(str), **metrics)


def test_ratios_are_of_the_layers_that_have_an_operator_norm() -> None:
    history = rows(**{"sigma/a": [2.0] * 12, "sigma_conv/a": [3.0] * 12, "sigma/b": [1.0] * 12})
    found = figure_data.with_ratios(history, ["a", "b"])
    assert (found[f"{figure_data.RATIO}/a"] == 1.5).all()
    assert f"{figure_data.RATIO}/b" not in found


def test_few_seeds_have_a_line_each_and_many_have_none() -> None:
    found = figure_data.curves(rows(**{"loss/d": np.arange(12.0), "loss/g": [0.0] * 12}), ["loss/d", "loss/g", "other"])
    assert list(found) == ["loss/d"]  # what is 0 everywhere shows nothing
    seeds = found["loss/d"].seeds
    assert seeds is not None
    of = seeds[(seeds["variant"] == "sn") & (seeds["seed"] == 1)]
    assert of.sort_values("step")["value"].tolist() == [3, 4, 5]
    many = pd.concat([rows(x=[1.0] * 12).assign(seed=lambda of, i=i: of["seed"] + 2 * i) for i in range(3)])
    assert many["seed"].nunique() == 6
    many["run_id"] = many["variant"] + many["seed"].astype(str)
    assert figure_data.curves(many, ["x"])["x"].seeds is None
    one = rows(x=[1.0] * 12).query("seed == 0")
    assert figure_data.curves(one, ["x"])["x"].seeds is None


def test_the_forest_has_each_arms_shift_failures_and_spread() -> None:
    look = look_of(["dcgan", "sn"])
    at = {"context": "c", "arm": "sn", "baseline": "dcgan"}
    compared = pd.DataFrame([
        {**at, "statistic": "gain", "better": "higher", "n_pairs": 9, "shift": 0.5, "shift_low": 0.1, "shift_high": 0.8,
         "spread_ratio": 0.5, "spread_low": 0.25, "spread_high": 2.0},
        {**at, "statistic": "late_change", "better": "lower", "n_pairs": 9, "shift": 7.0, "shift_low": 6.0,
         "shift_high": 8.0, "spread_ratio": 1.0, "spread_low": 1.0, "spread_high": 1.0},
    ])  # fmt: skip
    failed = {**at, "test": "failure (unconditional exact)", "n_pairs": 9, "low": -0.6, "high": 0.1}
    paired = pd.DataFrame([{**failed, "seeds_that_differ": 3, "difference": -0.3}])
    location, failures, spread = figure_data.forest(compared, paired, "gain", look)
    assert (location.kind, location.better, location.rows.to_dict("records")) == (
        "location", "higher",
        [{"context": "", "row": "SN (9)", "variant": "sn", "effect": 0.5, "low": 0.1, "high": 0.8}],
    )  # fmt: skip
    assert failures.rows[["effect", "low", "high"]].values.tolist() == [[-0.3, -0.6, 0.1]]
    assert spread.rows[["effect", "low", "high"]].values.tolist() == [[-1, -2, 1]]
    nobody = paired.assign(seeds_that_differ=0, difference=0.0)
    assert [panel.kind for panel in figure_data.forest(compared, nobody, "gain", look)] == ["location", "spread"]


def test_gradient_strips_are_relative_to_the_seeds_reference() -> None:
    history = rows(**{"grad_norm/g": np.full(12, 6.0)})
    summary = pd.DataFrame({"run_id": ["sn0", "sn1", "dcgan0", "dcgan1"], "grad_g_reference": [1.0, 2, 3, 0.5]})
    strips = figure_data.gradient_strips(history, summary, most=1)
    assert strips["sn"].loc[0].tolist() == [6.0] * 3
    assert list(strips["dcgan"].index) == [0]  # one seed at most
    assert figure_data.gradient_strips(rows(), summary, 1) == {}


def test_wall_time_is_spread_evenly_over_the_steps() -> None:
    history = rows(**{"eval/fd": np.tile([9.0, 8, 7], 4)})
    runs = pd.DataFrame({"run_id": ["sn0", "sn1", "dcgan0", "dcgan1"], "variant": ["sn", "sn", "dcgan", "dcgan"],
                         "step": 20, "wall_seconds": [600.0, 1800, 120, 120]})  # fmt: skip
    found = figure_data.over_wall_time(history, runs)
    assert found is not None
    for frame in (found.bands, found.seeds):
        assert frame is not None
        last = frame.groupby("variant")["step"].max()
        assert last.to_dict() == pytest.approx({"sn": 20.0, "dcgan": 2.0})
    assert figure_data.over_wall_time(rows(), runs) is None


def test_values_are_spread_out_from_the_first_to_the_last() -> None:
    assert figure_data.spread_out(range(11), 3) == [0, 5, 10]
    assert figure_data.spread_out([4, 7], 5) == [4, 7]
    assert figure_data.curves(rows(), []) == {}
