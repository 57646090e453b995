"""What the figures show, against numbers by hand."""

import numpy as np
import pandas as pd
import pytest

from analysis import figure_data


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


def test_the_way_of_raw_and_used_sigma_is_the_median_over_seeds() -> None:
    sigma, raw = np.arange(12.0), np.arange(12.0) * 2
    way = figure_data.raw_and_used(rows(**{"sigma/a": sigma, "sigma_raw/a": raw}), ["a", "b"])
    of = way[(way["variant"] == "sn") & (way["step"] == 10)].iloc[0]
    assert (of["layer"], of["used"], of["raw"]) == ("a", np.median([1, 4]), np.median([2, 8]))
    assert figure_data.raw_and_used(rows(**{"sigma/a": sigma}), ["a"]).empty


def test_strips_are_in_the_order_of_arms() -> None:
    strips = figure_data.sigma_strips(rows(**{"sigma/a": np.arange(12.0)}), ["a"])
    assert list(strips["a"].index) == ["dcgan", "sn"]
    assert strips["a"].loc["sn"].tolist() == [1.5, 2.5, 3.5]


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
    frame = figure_data.over_wall_time(history, runs)
    last = frame.groupby("variant")["step"].max()
    assert last.to_dict() == pytest.approx({"sn": 20.0, "dcgan": 2.0})
    assert figure_data.over_wall_time(rows(), runs).empty


def test_values_are_spread_out_from_the_first_to_the_last() -> None:
    assert figure_data.spread_out(range(11), 3) == [0, 5, 10]
    assert figure_data.spread_out([4, 7], 5) == [4, 7]
    assert figure_data.curves(rows(), []) == {}
