"""Runs of other programs: what the table says is what the statistics are of."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from others import MAPPING, results, some_table, summary_of

from analysis import comparisons, failures
from analysis.comparisons import compare_arms
from analysis.load import load
from analysis.page.report import write
from analysis.sources.columns import Reading, written
from analysis.sources.frozen import freeze
from analysis.sources.table import from_table, read
from analysis.stability import summarize
from analysis.synthetic import study as synthetic_study
from sngan.config import InputError

Command = Callable[..., tuple[int, str, str]]


def test_more_is_better(tmp_path: Path) -> None:
    """By difference, in its own direction; the same numbers with less is better turn every verdict."""
    up = from_table(results(1.0), Reading({"quality": "score"}, maximize=True), "t", tmp_path)
    turned = results(1.0).assign(kid=lambda of: -of["score"])
    down = from_table(turned, Reading({"quality": "kid"}), "t", tmp_path)
    one, two = (compare_arms(s, summary_of(s)).set_index(["statistic", "arm"]).loc["q_end"] for s in (up, down))
    assert (up.terms.better, down.terms.better) == ("higher", "lower")
    assert set(one["better"]) == {"higher"}
    assert (one["shift_low"] > 0.8).all()
    assert one["shift"].tolist() == pytest.approx((-two["shift"]).tolist())
    assert one["shift_low"].tolist() == pytest.approx((-two["shift_high"]).tolist())
    assert one["p_adjusted"].tolist() == pytest.approx(two["p_adjusted"].tolist())
    assert one["prob_improvement"].tolist() == [1, 1] == two["prob_improvement"].tolist()
    values = results(1.0)
    differences = values[values["arm"] == "b"]["score"].to_numpy() - values[values["arm"] == "a"]["score"].to_numpy()
    walsh = [(x + y) / 2 for i, x in enumerate(differences) for y in differences[i:]]
    assert one.loc["b", "shift"] == pytest.approx(np.median(walsh))
    curve = pd.DataFrame({"arm": "a", "seed": 0, "step": range(12), "score": [*range(11), 4.0]})
    run = summary_of(from_table(curve, Reading({"quality": "score"}, maximize=True), "t", tmp_path)).iloc[0]
    assert (run["q_best"], run["q_end"]) == (10, pytest.approx((9 + 10 + 4) / 3))
    assert run["quality_degradation"] == pytest.approx(10 - run["q_end"])


def test_every_table_compares_with_the_named_baseline(tmp_path: Path, command: Command) -> None:
    table = results(0.5, sets=2).assign(
        state=lambda of: np.where((of["seed"] < 2) & (of["arm"] == "a"), "diverged", "finished")
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    how = ("--map", "quality=score", "--maximize", "--baseline", "b", "--figures", "svg", "--runs-dir", tmp_path)
    code, _, errors = command("report", "--csv", tmp_path / "t.csv", *how)
    assert code == 0, errors
    statistics = json.loads((tmp_path / "t" / "report" / "statistics.json").read_text())
    for name in ("comparisons", "paired_failures"):
        assert {row["baseline"] for row in statistics[name]} == {"b"}, name
        assert {row["arm"] for row in statistics[name]} == {"a", "c"}, name
    assert {row["baseline"] for row in statistics["across"]} == {"b", None}
    study = read(tmp_path / "t.csv", Reading({"quality": "score"}, "b", True), tmp_path)
    summary = summary_of(study)
    assert set(failures.paired(summary, "b")["baseline"]) == {"b"}
    assert comparisons.interactions(study, summary).empty  # data sets do not compare, settings do
    study = from_table(
        table.rename(columns={"dataset": "setting"}), Reading({"quality": "score"}, "b", True), "t", tmp_path
    )
    frame = comparisons.interactions(study, summary_of(study))
    assert (set(frame["baseline"]), set(frame["arm"])) == ({"b"}, {"a", "c"})


def test_where_the_baseline_is_missing_nothing_is_compared(tmp_path: Path) -> None:
    table = results(1.0, sets=2)
    table = table[(table["arm"] != "a") | (table["dataset"] != "d0")]
    study = from_table(table, Reading({"quality": "score"}, maximize=True), "t", tmp_path)
    assert study.baseline == "a"
    frame = compare_arms(study, summary_of(study))
    assert set(zip(frame["context"], frame["baseline"], strict=True)) == {("d1", "a")}
    assert "without the baseline a, so nothing is compared there: d0" in study.warnings
    named = from_table(
        table.replace({"arm": {"a": "x", "b": "dcgan", "c": "sn"}}), Reading({"quality": "score"}), "t", tmp_path
    )
    assert named.baseline == "dcgan"  # the first by name


def test_a_study_written_as_a_table_gives_the_same_comparisons(tmp_path: Path) -> None:
    """By log fd where the study has the gain, which is that with its sign turned and a constant."""
    ours = synthetic_study(tmp_path, {"dcgan": {"fd": 12}, "sn": {"fd": 8}, "plain": {"fd": 10}}, seeds=10,
                           settings={"C": 1.0, "E": 1.1})  # fmt: skip
    mapping = {"quality": "eval/fd", "loss": "loss/d", "loss_g": "loss/g", "grad_g": "grad_norm/g"}
    path = tmp_path / "ours.csv"
    ours.history[["dataset", "setting", "arm", "seed", "step", *mapping.values()]].to_csv(path, index=False)
    theirs = read(path, Reading(mapping, baseline="dcgan"), tmp_path)
    assert theirs.account["finished"] == 60
    keys, frames = ["setting", "statistic", "arm"], []
    for study in (ours, theirs):
        summary = summarize(
            study.history.drop(columns="grad_norm/g_max", errors="ignore"), study.runs, terms=study.terms
        )
        frame = compare_arms(study, summary)
        frames.append(frame.assign(setting=frame["context"].str[-1]).set_index(keys).sort_index())
    one, two = frames
    gain, log_q = (frame.xs(name, level="statistic") for frame, name in ((one, "gain"), (two, "log_q_end")))
    assert (-gain["shift"]).tolist() == pytest.approx(log_q["shift"].tolist())
    assert (-gain["shift_high"]).tolist() == pytest.approx(log_q["shift_low"].tolist())
    for column in ("p_location", "p_adjusted", "prob_improvement", "spread_ratio", "n_pairs"):
        assert gain[column].tolist() == pytest.approx(log_q[column].tolist()), column
    shared = [
        "late_change",
        "quality_oscillation",
        "loss_d_roughness",
        "loss_g_degradation",
        "grad_g_spikes",
        "grad_g_p1",
    ]
    names = ["shift", "shift_low", "shift_high", "p_location", "p_adjusted", "n_pairs"]
    one, two = (frame[frame.index.get_level_values("statistic").isin(shared)][names] for frame in (one, two))
    pd.testing.assert_frame_equal(one, two)


def test_our_own_history_as_a_table_gives_our_own_statistics(mixed_study: Path) -> None:
    ours = load(mixed_study)
    mapping = {"quality": "eval/fd", "loss": "loss/d", "loss_g": "loss/g", "grad_g": "grad_norm/g"}
    state = ours.runs.set_index("run_id")["state"]
    table = ours.history.assign(state=ours.history["run_id"].map(state))
    theirs = from_table(table, Reading(mapping), "ours", mixed_study)
    keys = ["arm", "seed"]
    names = ["q_best", "loss_d_end", "loss_g_roughness", "grad_g_spikes"]
    one, two = (summarize(s.history, s.runs).set_index(keys)[names] for s in (ours, theirs))
    pd.testing.assert_frame_equal(one.loc[two.index], two)


def test_the_command_writes_the_whole_report(tmp_path: Path, command: Command) -> None:
    path = tmp_path / "mine.csv"
    some_table().to_csv(path, index=False)
    arguments = ("report", "--csv", path, "--map", written(MAPPING), "--figures", "svg", "--runs-dir", tmp_path)
    code, output, errors = command(*arguments)
    assert (code, output.strip()) == (0, str(tmp_path / "mine" / "report" / "index.html")), errors
    assert errors == "warning: mine: columns that are not used: note\n"
    page = Path(output.strip()).read_text()
    assert "table:mine.csv --map" in page
    assert "better, lr 1" in page
    first = Path(output.strip()).read_bytes()
    command(*arguments)
    assert Path(output.strip()).read_bytes() == first
    options = (["--map", "arm=x"], ["--baseline", "x"], ["--maximize"], ["--run-name", "x"])
    for wrong in (["--csv", path, "demo"], *(["demo", *option] for option in options)):
        assert command("report", *wrong)[0] == 2


FOREIGN_TO_IT = (
    *(
        "fd",
        "generator",
        "discriminator",
        "trivial sampler",
        "spectral",
        "sigma",
        "Lipschitz",
        "papers",
        "DCGAN",
        "dcgan_",
    ),
    *("healthy", "contradicted", "supported", "latents", "planned", "this project", "Frechet"),
)


@pytest.mark.parametrize("maximize", [False, True])
def test_a_report_of_others_has_nothing_of_this_project(maximize: bool, tmp_path: Path) -> None:
    table = some_table().assign(grad=1.0)
    study = from_table(
        table, Reading({**MAPPING, "grad_g": "grad"}, maximize=maximize), "t", tmp_path / "t", "sngan report --csv t"
    )
    made = write(study, kinds=["svg"])
    text = "".join(part if isinstance(part, str) else f"{part.title} {part.caption}" for part in made.parts)
    text = text.split("## How far the statistics can be trusted")[0]
    for word in FOREIGN_TO_IT:
        assert word.lower() not in text.lower().replace("made by `sngan", ""), word
    assert "Made by `sngan report --csv t`" in (made.page.parent / "report.md").read_text()
    page = made.page.read_text()
    assert "Nothing to show" not in page
    for word in ("generator updates", "Thresholds", "Verdicts"):
        assert word not in page
    statistics = json.loads((made.page.parent / "statistics.json").read_text())
    assert (statistics["quality_name"], statistics["quality_better"]) == ("fid", "higher" if maximize else "lower")
    assert {"claims", "thresholds", "primary", "sigma", "power"}.isdisjoint(statistics)
    keys = {
        key
        for rows in statistics.values()
        if isinstance(rows, list)
        for row in rows
        if isinstance(row, dict)
        for key in row
    }
    assert not [key for key in keys if "fd" in key]
    assert {"q_end", "q_median"} <= keys
    for figure in (made.page.parent / "figures").glob("*.svg"):
        drawn = figure.read_text()
        assert "generator" not in drawn
        assert ">fd" not in drawn
    assert ">iteration<" in (made.page.parent / "figures" / "quality.svg").read_text()
    with pytest.raises(InputError, match="keep the table itself"):
        freeze(study, tmp_path / "frozen")
