"""Verdicts under other views: what changes is what was changed, and nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.claims import judge
from analysis.sensitivity import MAIN, at_every_rate, flips, verdicts, with_end
from analysis.stability import summarize
from analysis.study import Study
from analysis.synthetic import study

TRUTHS = {
    "dcgan": {"fd": 8.0}, "sn_dcgan": {"fd": 8.0}, "plain": {"fd": 16.0}, "sn": {"fd": 4.0},
}  # fmt: skip


@pytest.fixture
def clear(tmp_path: Path) -> Study:
    """sn draws much better than dcgan, by fd as by fd_pixels."""
    made = study(tmp_path / "runs", TRUTHS, seeds=12)
    history = made.history.assign(**{"eval/fd_pixels": made.history["eval/fd"]})
    sampler = {"fd_pixels": 40.0, "kd": 0.8}
    runs = made.runs.assign(trivial_fd_pixels=40.0)
    return replace(
        made, history=history, runs=runs, protocols={i: {"trivial_sampler": sampler} for i in runs["run_id"]}
    )


def of(table: pd.DataFrame, claim: str) -> dict[str, str]:
    own = table[table["claim"] == claim]
    return dict(zip(own["view"], own["verdict"], strict=True))


def test_the_first_view_is_the_studys_and_the_same_measure_gives_the_same(clear: Study) -> None:
    table = verdicts(clear)
    judged = judge(clear, summarize(clear.history, clear.runs)).drop_duplicates(["claim", "context"])
    judged = judged[judged["verdict"] != "not tested"]
    planned = table[table["view"] == MAIN]
    assert dict(zip(planned["claim"], planned["verdict"], strict=True)) == dict(
        zip(judged["claim"], judged["verdict"], strict=True)
    )
    assert not table.loc[table["view"].isin([MAIN, "by fd_pixels", "by kd"]), "flips"].any()  # kd is fd / 50 here
    assert of(table, "C8")[MAIN] == "supported"


def test_a_measure_that_sees_the_opposite_flips_what_goes_by_quality_alone(clear: Study) -> None:
    better = clear.history["arm"].map({"sn": 8.0, "dcgan": 0.25}).fillna(1.0)
    seen = replace(clear, history=clear.history.assign(**{"eval/kd": clear.history["eval/kd"] * better}))
    table = verdicts(seen)
    assert of(table, "C8")["by kd"] == "contradicted"
    assert of(table, "C1")["by kd"] == of(table, "C1")[MAIN]
    said = flips(table).set_index("claim").loc["C8"]
    assert (said["flips"], said["which"]) == (1, "contradicted: by kd")
    assert said["of"] == len(table["view"].unique()) - 1


def test_a_view_by_one_measure_is_by_that_one_alone(tmp_path: Path) -> None:
    """By fd and kd sn_dcgan is tighter, by fd_pixels dcgan: only the planned view has two measures that disagree."""
    made = study(tmp_path / "runs", {"dcgan": {"fd_sd": 0.6}, "sn_dcgan": {"fd_sd": 0.01}}, seeds=16)
    arms = made.history["arm"].map({"dcgan": "sn_dcgan", "sn_dcgan": "dcgan"})
    of_other = made.history.set_index(["arm", "seed", "step"])["eval/fd"]
    places = pd.MultiIndex.from_arrays([arms, made.history["seed"], made.history["step"]])
    history = made.history.assign(**{"eval/fd_pixels": of_other.reindex(places).to_numpy()})
    protocols = {i: {"trivial_sampler": {"kd": 0.8, "fd_pixels": 40.0}} for i in made.runs["run_id"]}
    runs = made.runs.assign(trivial_fd_pixels=40.0)
    table = verdicts(replace(made, history=history, runs=runs, protocols=protocols))
    found = of(table, "C7b")
    assert (found[MAIN], found["by kd"], found["by fd_pixels"]) == ("depends on the view", "supported", "contradicted")


def test_the_end_over_the_last_quarter_is_the_planned_one(clear: Study) -> None:
    summary = summarize(clear.history, clear.runs)
    again = with_end(clear, summary, 0.25)
    for name in ("log_q_end", "gain", "log_q_pixels_end", "gain_pixels"):
        np.testing.assert_allclose(again[name], summary[name], rtol=1e-12)
    last = with_end(clear, summary, 0.0).set_index("run_id")["log_q_end"]
    ends = clear.history.sort_values("step").groupby("run_id")["eval/fd"].last()
    np.testing.assert_allclose(last, np.log(ends[last.index]), rtol=1e-12)


def test_a_run_without_an_end_stays_without_one(clear: Study) -> None:
    lost = clear.runs["run_id"].iloc[0]
    runs = clear.runs.assign(state=clear.runs["state"].mask(clear.runs["run_id"] == lost, "diverged"))
    summary = summarize(clear.history, runs)
    row = with_end(replace(clear, runs=runs), summary, 0.5).set_index("run_id").loc[lost]
    assert np.isnan(row["log_q_end"])
    assert row["gain"] == 0


def test_what_is_judged_in_one_context_is_judged_in_the_others_as_well(tmp_path: Path) -> None:
    made = study(tmp_path / "runs", TRUTHS, seeds=8, settings={"A": 1.0, "B": 1.0, "C": 1.0})
    named = "mnist, setting B"
    made = replace(made, primary={"failures": named, "spread": named, "C14": named})
    summary = summarize(made.history, made.runs)
    once, everywhere = judge(made, summary), at_every_rate(made, summary)
    assert once.loc[once["claim"] == "C14a", "context"].unique().tolist() == [named]
    assert set(everywhere.loc[everywhere["claim"] == "C14a", "context"]) == set(made.runs["context"])
    pd.testing.assert_frame_equal(everywhere.iloc[: len(once)], once)
