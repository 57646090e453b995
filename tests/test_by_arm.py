"""Location and spread of each arm, of runs whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from analysis.page import tables


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
