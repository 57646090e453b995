"""Tables against counts by hand, and against studies whose truth is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.calibration import TABLE
from analysis.stability import summarize
from analysis.synthetic import study
from analysis.tables import BOUND, Table, calibration_table, interactions_table, paired_failures_table
from sngan.models import Discriminator
from sngan.sigma import conv_sigma, matrix_sigma


def outcomes(**failure_steps: list[float | None]) -> pd.DataFrame:
    """Runs of 100 steps by arm: the step at which each seed failed, None where it did not."""
    rows = [
        {"context": "c", "variant": arm, "seed": seed, "last_step": 100, "failure": step is not None,
         "failure_step": np.nan if step is None else step, "ended": True}
        for arm, steps in failure_steps.items() for seed, step in enumerate(steps)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_paired_failures_by_hand() -> None:
    """Seeds 0 to 7: sn fails in 0 alone, dcgan in 1 to 6, of which sn in 6 too and earlier; 7 has no dcgan."""
    summary = outcomes(dcgan=[None, 20, 30, 40, 50, 60, 70], sn=[90, None, None, None, None, None, 10, None])
    frame = paired_failures_table(summary).frame.set_index("test")
    assert set(frame["arm"]) == {"sn"}
    assert set(frame["baseline"]) == {"dcgan"}
    assert set(frame["n_pairs"]) == {7}
    failure = frame.loc["failure (unconditional exact)"]
    assert (failure["seeds_that_differ"], failure["arm_worse"]) == (6, 1)
    assert failure["difference"] == pytest.approx(-4 / 7)
    assert failure["low"] < -4 / 7 < failure["high"]
    assert frame.loc["failure (McNemar)", "p"] == pytest.approx(2 * (1 + 6) / 2**6)
    assert failure["p"] < frame.loc["failure (McNemar)", "p"]
    first = frame.loc["first failure (sign test)"]
    assert (first["seeds_that_differ"], first["arm_worse"]) == (7, 2)
    assert first["p"] == pytest.approx(2 * (1 + 7 + 21) / 2**7)
    p = np.sort(frame["p"].to_numpy())
    adjusted = np.minimum.accumulate((p * 4 / np.array([1, 2, 3, 4]))[::-1])[::-1]
    assert np.sort(frame["p_adjusted"]) == pytest.approx(np.minimum(adjusted, 1))
    assert paired_failures_table(outcomes(sn=[None, 3])).frame.empty


def test_an_arm_that_a_setting_harms_interacts_with_it(tmp_path: Path) -> None:
    """In E all but sn have three times the fd: sn gains log 3 on dcgan, exactly so in every seed; plain nothing.

    The gain ends at the trivial sampler's 40: from 10 to 30 it falls by log 3.
    """
    of = study(tmp_path, {"dcgan": {}, "sn": {}, "plain": {}}, seeds=12, settings={"C": 1.0, "E": 3.0})
    frame = interactions_table(of, summarize(of.history, of.runs)).frame.set_index("arm")
    assert set(frame["n"]) == {12}
    assert frame.loc["sn", "effect"] == pytest.approx(np.log(3), abs=0.02)
    assert frame.loc["sn", "low"] > 1
    assert frame.loc["sn", "p"] == pytest.approx(2 / 2**12)
    assert frame.loc["sn", "p_adjusted"] == pytest.approx(4 / 2**12)
    assert abs(frame.loc["plain", "effect"]) < 0.02
    alone = study(tmp_path, {"dcgan": {}, "sn": {}}, seeds=3)
    assert interactions_table(alone, summarize(alone.history, alone.runs)).frame.empty


def test_contexts_are_compared_in_the_studys_order_and_where_both_arms_are(tmp_path: Path) -> None:
    arms = {"dcgan": {}, "sn": {}, "plain": {}}
    of = study(tmp_path, arms, seeds=8, settings={"E": 1.0, "C": 3.0, "A": 1.0})
    absent = (of.runs["arm"] == "plain") & (of.runs["setting"] == "E")
    of = replace(of, runs=of.runs[~absent], history=of.history[~of.history["run_id"].isin(of.runs[absent]["run_id"])])
    frame = interactions_table(of, summarize(of.history, of.runs)).frame
    pairs = {(row["arm"], row["in"][-1], row["against"][-1]) for row in frame.to_dict("records")}
    assert pairs == {("sn", "C", "E"), ("sn", "A", "E"), ("plain", "A", "C")}


def test_latex_has_the_cells_and_nothing_that_latex_would_run() -> None:
    frame = pd.DataFrame({"run_id": ["a_b", "\\input{x} 5 % & $y$"], "fd": [1.23456, np.nan]})
    lines = Table("t", "", "", frame).latex().splitlines()
    assert lines[0] == r"\begin{tabular}{ll}"
    assert r"run id & fd \\" in lines
    assert r"a\_b & 1.235 \\" in lines
    assert r"\textbackslash input\{x\} 5 \% \& \$y\$ &  \\" in lines


def test_calibration_is_the_range_of_what_was_simulated() -> None:
    frame = calibration_table().frame
    kept = pd.read_csv(TABLE)
    assert frame["conditions"].sum() == len(kept)
    row = frame[(frame["procedure"] == "spread ratio") & (frame["n"] == 10)].iloc[0]
    of = kept[(kept["procedure"] == "spread ratio") & (kept["n"] == 10)]["value"]
    assert (row["lowest"], row["highest"]) == (of.min(), of.max())


def test_the_bound_of_an_operator_norm_is_the_theorems() -> None:
    """And it holds for drawn weights, of which one is a blur, which overlapping windows add up most."""
    D, side = Discriminator(norm="none"), 28
    for name, layer in D.named_children():
        if not isinstance(layer, torch.nn.Conv2d):
            continue
        overlap = -(-layer.kernel_size[0] // layer.stride[0])
        out = (side - layer.kernel_size[0]) // layer.stride[0] + 1
        assert BOUND[name] == (overlap if out > 1 else 1)
        with torch.no_grad():
            layer.weight[0, 0] = 1.0
        norm, sigma = conv_sigma(layer, (side, side)), float(matrix_sigma(layer.weight))
        assert sigma * (1 - 1e-6) <= norm <= BOUND[name] * sigma * (1 + 1e-6)
        side = out
