"""Comparisons of studies whose truth is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from others import own_images

from analysis import comparisons
from analysis.stability import summarize
from analysis.study import Study
from analysis.synthetic import study


def test_an_arm_that_a_setting_harms_interacts_with_it(tmp_path: Path) -> None:
    """In E all but sn have three times the fd: sn gains log 3 on dcgan, exactly so in every seed; plain nothing.

    The gain ends at the trivial sampler's 40: from 10 to 30 it falls by log 3.
    """
    of = study(tmp_path, {"dcgan": {}, "sn": {}, "plain": {}}, seeds=12, settings={"C": 1.0, "E": 3.0})
    frame = comparisons.interactions(of, summarize(of.history, of.runs)).set_index("arm")
    assert set(frame["n"]) == {12}
    assert frame.loc["sn", "effect"] == pytest.approx(np.log(3), abs=0.02)
    assert frame.loc["sn", "low"] > 1
    assert frame.loc["sn", "p"] == pytest.approx(2 / 2**12)
    assert frame.loc["sn", "p_adjusted"] == pytest.approx(4 / 2**12)
    assert abs(frame.loc["plain", "effect"]) < 0.02
    alone = study(tmp_path, {"dcgan": {}, "sn": {}}, seeds=3)
    assert comparisons.interactions(alone, summarize(alone.history, alone.runs)).empty


def test_contexts_are_compared_in_the_studys_order_and_where_both_arms_are(tmp_path: Path) -> None:
    arms = {"dcgan": {}, "sn": {}, "plain": {}}
    of = study(tmp_path, arms, seeds=8, settings={"E": 1.0, "C": 3.0, "A": 1.0})
    absent = (of.runs["arm"] == "plain") & (of.runs["setting"] == "E")
    of = replace(of, runs=of.runs[~absent], history=of.history[~of.history["run_id"].isin(of.runs[absent]["run_id"])])
    frame = comparisons.interactions(of, summarize(of.history, of.runs))
    pairs = {(row["arm"], row["in"][-1], row["against"][-1]) for row in frame.to_dict("records")}
    assert pairs == {("sn", "C", "E"), ("sn", "A", "E"), ("plain", "A", "C")}


def by_rate(tmp_path: Path, worked: dict[str, dict[float, list[float]]]) -> tuple[Study, pd.DataFrame]:
    """A study and its summary from the gain of each arm, learning rate and seed; healthy above log 2."""
    rows = [
        {"run_id": f"{arm}-{lr}-{seed}", "dataset": "mnist", "arm": arm, "variant": arm, "setting": "custom", "lr": lr,
         "context": f"mnist, lr {lr}", "seed": seed, "gain": gain,
         "failure": gain < np.log(2), "healthy_end": gain > np.log(2)}
        for arm, of in worked.items() for lr, gains in of.items() for seed, gain in enumerate(gains)
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    runs = frame[["run_id", "dataset", "arm", "variant", "setting", "lr", "context", "seed"]]
    return Study("s", "", tmp_path, runs, pd.DataFrame(), pd.Series(dtype=int), []), frame.drop(columns="lr")


def test_each_arm_at_its_own_best_rate_is_chosen_on_one_half_and_judged_on_the_other(tmp_path: Path) -> None:
    """dcgan's best by all seeds is 0.02, which its second half alone says; the first half chooses 0.01."""
    worked = {
        "dcgan": {0.01: [1.0] * 10 + [0.5] * 10, 0.02: [0.9] * 10 + [3.0] * 10},
        "sn": {0.01: [0.2] * 20, 0.02: [1.5] * 10 + [1.4] * 10},
    }
    of, summary = by_rate(tmp_path, worked)
    frame = comparisons.tuned(of, summary).set_index("arm")
    assert frame["lr"].to_dict() == {"dcgan": 0.01, "sn": 0.02}
    assert frame["n"].to_dict() == {"dcgan": 10, "sn": 10}
    assert frame["gain_median"].to_dict() == {"dcgan": 0.5, "sn": 1.4}
    sn = frame.loc["sn"]
    assert (sn["shift"], sn["low"], sn["baseline"], sn["baseline_lr"]) == (
        pytest.approx(0.9),
        pytest.approx(0.9),
        "dcgan",
        0.01,
    )
    assert sn["p"] == pytest.approx(2 / 2**10)
    assert np.isnan(frame.loc["dcgan", "shift"])
    one_rate = {arm: {0.01: rates[0.01]} for arm, rates in worked.items()}
    assert comparisons.tuned(*by_rate(tmp_path, one_rate)).empty


def test_the_largest_rate_that_worked_is_shown_per_arm_and_seed(tmp_path: Path) -> None:
    of, summary = by_rate(tmp_path, {"sn": {0.01: [1.0, 1.0, 0.1], 0.02: [1.0, 0.1, 0.1], 0.03: [0.1, 1.0, 0.1]}})
    frame = comparisons.rates(of, summary)
    assert frame["healthy_rates"].tolist() == [2, 2, 0]
    assert frame["largest_healthy_lr"].tolist()[:2] == [0.02, 0.03]
    assert np.isnan(frame["largest_healthy_lr"].iloc[2])
    assert set(frame["rates"]) == {3}


def test_folders_are_data_sets_of_their_own(tmp_path: Path) -> None:
    of = own_images(tmp_path, ("a", 3, "labels"), ("b", 3, "labels"), seeds=7, lrs=(1e-4, 1e-3))
    summary = summarize(of.history, of.runs)
    frame = comparisons.interactions(of, summary)
    assert sorted(frame[["dataset", "in", "against"]].values.tolist()) == [
        [f"folder {d * 8}", f"folder {d * 8}, lr 0.001", f"folder {d * 8}, lr 0.0001"] for d in "ab"
    ]
    assert set(comparisons.rates(of, summary)["over"]) == {"folder aaaaaaaa", "folder bbbbbbbb"}
