"""Tables against counts by hand, and against studies whose truth is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.calibration import OPERATING, TABLE
from analysis.page import tables
from analysis.page.tables import Table
from analysis.stability import summarize
from analysis.study import Study
from analysis.synthetic import study


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
    frame = tables.paired_failures(summary).frame.set_index("test")
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
    assert tables.paired_failures(outcomes(sn=[None, 3])).frame.empty


def test_an_arm_that_a_setting_harms_interacts_with_it(tmp_path: Path) -> None:
    """In E all but sn have three times the fd: sn gains log 3 on dcgan, exactly so in every seed; plain nothing.

    The gain ends at the trivial sampler's 40: from 10 to 30 it falls by log 3.
    """
    of = study(tmp_path, {"dcgan": {}, "sn": {}, "plain": {}}, seeds=12, settings={"C": 1.0, "E": 3.0})
    frame = tables.interactions(of, summarize(of.history, of.runs)).frame.set_index("arm")
    assert set(frame["n"]) == {12}
    assert frame.loc["sn", "effect"] == pytest.approx(np.log(3), abs=0.02)
    assert frame.loc["sn", "low"] > 1
    assert frame.loc["sn", "p"] == pytest.approx(2 / 2**12)
    assert frame.loc["sn", "p_adjusted"] == pytest.approx(4 / 2**12)
    assert abs(frame.loc["plain", "effect"]) < 0.02
    alone = study(tmp_path, {"dcgan": {}, "sn": {}}, seeds=3)
    assert tables.interactions(alone, summarize(alone.history, alone.runs)).frame.empty


def test_contexts_are_compared_in_the_studys_order_and_where_both_arms_are(tmp_path: Path) -> None:
    arms = {"dcgan": {}, "sn": {}, "plain": {}}
    of = study(tmp_path, arms, seeds=8, settings={"E": 1.0, "C": 3.0, "A": 1.0})
    absent = (of.runs["arm"] == "plain") & (of.runs["setting"] == "E")
    of = replace(of, runs=of.runs[~absent], history=of.history[~of.history["run_id"].isin(of.runs[absent]["run_id"])])
    frame = tables.interactions(of, summarize(of.history, of.runs)).frame
    pairs = {(row["arm"], row["in"][-1], row["against"][-1]) for row in frame.to_dict("records")}
    assert pairs == {("sn", "C", "E"), ("sn", "A", "E"), ("plain", "A", "C")}


def one_arm(log_q: np.ndarray, ended: np.ndarray | None = None, failure: np.ndarray | bool = False) -> pd.DataFrame:
    """Runs of one arm from the log of fd at 20 evaluations, one row per seed."""
    n, steps = len(log_q), 100 * np.arange(1, 21)
    late = log_q[:, 15:]
    slope = np.polynomial.polynomial.polyfit(np.arange(5), late.T, 1)
    residual = late - (slope[0][:, None] + slope[1][:, None] * np.arange(5))
    return pd.DataFrame({
        "context": "c", "variant": "sn", "seed": np.arange(n), "last_step": steps[-1], "failure": failure,
        "ended": True if ended is None else ended, "log_q_end": late.mean(1), "q_end": np.exp(late.mean(1)),
        "q_line": np.exp(slope[0] + 4 * slope[1]), "q_sd": np.sqrt((residual**2).sum(1) / 3),
        "q_middle": log_q[:, 6:10].mean(1), "gain": np.maximum(0, np.log(40) - late.mean(1)),
    })  # fmt: skip


def test_noise_from_evaluation_to_evaluation_is_not_taken_for_spread_over_seeds() -> None:
    """Seeds that do not differ, evaluations that do by .24: the end's sd is that noise over root 5, none persists."""
    rng, found = np.random.default_rng(0), []
    for _ in range(60):
        same = tables.arms(one_arm(2 + 0.24 * rng.normal(size=(20, 20)))).frame.iloc[0]
        differing = tables.arms(
            one_arm(2 + 0.3 * rng.normal(size=(20, 1)) + 0.24 * rng.normal(size=(20, 20)))
        ).frame.iloc[0]
        found.append((same["sd"], same["sd_within_run"], same["sd_persistent"], differing["sd_persistent"]))
    sd, within, persistent, of_seeds = np.median(found, axis=0)
    assert sd == pytest.approx(0.24 / np.sqrt(5), rel=0.05)
    assert within == pytest.approx(0.24, rel=0.03)
    assert persistent < 0.05
    assert of_seeds == pytest.approx(0.3, rel=0.1)


def test_spread_is_of_runs_without_failure_and_location_of_all() -> None:
    log_q = np.log([[8.0], [9.0], [10.0], [11.0], [30.0], [60.0]]) * np.ones(20)
    failed, ended = np.arange(6) >= 4, np.arange(6) < 5  # one collapsed, one diverged
    row = tables.arms(one_arm(log_q, ended, failed)).frame.iloc[0]
    assert (row["n"], row["ended"], row["failures"], row["n_steady"]) == (6, 5, 2, 4)
    assert row["q_ended"] == pytest.approx(10)  # of those that ended, in its own unit
    assert row["sd"] == pytest.approx(np.log([8.0, 9, 10, 11]).std(ddof=1))
    assert row["sd_ended"] == pytest.approx(np.log([8.0, 9, 10, 11, 30]).std(ddof=1))
    even = tables.arms(one_arm(log_q[:4])).frame.iloc[0]
    assert even["q_ended"] == pytest.approx(9.5)  # not the root of 90
    assert tables.arms(one_arm(log_q[:0])).frame.empty


def test_another_order_of_arms_by_the_line_is_marked() -> None:
    falling = np.linspace(3, 2, 20) * np.ones((5, 1))  # above 2.12 on average, 2 at the end
    flat = np.full((5, 20), 2.05)
    summary = pd.concat([one_arm(falling).assign(variant="sn"), one_arm(flat).assign(variant="dcgan")])
    frame = tables.arms(summary).frame.set_index("arm")
    assert frame.loc["sn", "q_ended"] > frame.loc["dcgan", "q_ended"]
    assert frame.loc["sn", "q_line"] < frame.loc["dcgan", "q_line"]
    assert frame["order"].tolist() == ["differs", "differs"]
    assert set(tables.arms(pd.concat([one_arm(flat), one_arm(flat + 1).assign(variant="dcgan")])).frame["order"]) == {
        "same"
    }


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
    frame = tables.tuned(of, summary).frame.set_index("arm")
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
    assert tables.tuned(*by_rate(tmp_path, one_rate)).frame.empty


def test_the_largest_rate_that_worked_is_shown_per_arm_and_seed(tmp_path: Path) -> None:
    of, summary = by_rate(tmp_path, {"sn": {0.01: [1.0, 1.0, 0.1], 0.02: [1.0, 0.1, 0.1], 0.03: [0.1, 1.0, 0.1]}})
    frame = tables.rates(of, summary).frame
    assert frame["healthy_rates"].tolist() == [2, 2, 0]
    assert frame["largest_healthy_lr"].tolist()[:2] == [0.02, 0.03]
    assert np.isnan(frame["largest_healthy_lr"].iloc[2])
    assert set(frame["rates"]) == {3}


def test_claims_out_of_reach_are_named_with_their_power() -> None:
    kept = pd.read_csv(OPERATING)
    power = kept[kept["claim"] != "any"].set_index(["claim", "n"])["share"]
    judged = pd.DataFrame(
        [("C7b", 20, "inconclusive", ""), ("C8", 20, "supported", ""), ("C9", 0, "not tested", "needs sn with ..")],
        columns=["claim", "n", "verdict", "reason"],
    ).assign(decides=True, statement="..", context="c", seeds=lambda of: of["n"])
    frame = tables.reach(judged).frame.set_index("claim")
    assert frame.loc["C7b", "power_at_20"] == power["C7b", 20] < 0.5
    assert frame.loc["C7b", "decidable"].startswith("no: ")
    assert frame.loc["C9", "decidable"] == "no: needs sn with .."
    assert (
        tables.reach(judged.assign(seeds=8)).frame.set_index("claim").loc["C8", "decidable"]
        == "hardly: 8 seeds, fewer than 10"
    )
    tuned = tables.operating().frame
    assert len(tuned) == len(kept)


def test_latex_has_the_cells_and_nothing_that_latex_would_run() -> None:
    frame = pd.DataFrame({"run_id": ["a_b", "\\input{x} 5 % & $y$"], "fd": [1.23456, np.nan]})
    lines = Table("t", "", "", frame).latex().splitlines()
    assert lines[0] == r"\begin{tabular}{ll}"
    assert r"run id & fd \\" in lines
    assert r"a\_b & 1.235 \\" in lines
    assert r"\textbackslash input\{x\} 5 \% \& \$y\$ &  \\" in lines


def test_calibration_is_the_range_of_what_was_simulated() -> None:
    frame = tables.calibration().frame
    kept = pd.read_csv(TABLE)
    assert frame["conditions"].sum() == len(kept)
    row = frame[(frame["procedure"] == "spread ratio") & (frame["n"] == 10)].iloc[0]
    of = kept[(kept["procedure"] == "spread ratio") & (kept["n"] == 10)]["value"]
    assert (row["lowest"], row["highest"]) == (of.min(), of.max())
