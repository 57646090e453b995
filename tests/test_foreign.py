"""Runs of other programs: what the table says is what the statistics are of."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.foreign import from_table, parse_mapping, read_csv
from analysis.freeze import freeze
from analysis.load import load
from analysis.report import write_report
from analysis.stability import summarize
from analysis.tables import compare_arms
from sngan.config import InputError

MAPPING = {"quality": "fid", "arm": "method", "loss": "d_loss", "step": "iteration"}


def some_table(seeds: int = 8, ratio: float = 0.5) -> pd.DataFrame:
    """Two methods, the second better by `ratio` at each step and seed; its last seed diverges."""
    random = np.random.default_rng(0)
    rows = []
    for seed in range(seeds):
        quality = 100 * np.exp(random.normal(0, 0.1, 12)).cumprod()
        for method, factor in (("base", 1.0), ("better, lr 1", ratio)):
            for i, fid in enumerate(quality * factor):
                lost = method != "base" and seed == seeds - 1 and i > 5
                rows.append({"method": method, "seed": seed, "iteration": 100 * i, "note": "x",
                             "fid": fid if i % 3 == 2 else math.nan, "d_loss": math.nan if lost else 1.0})  # fmt: skip
    return pd.DataFrame(rows)


def test_the_statistics_are_of_the_tables_numbers(tmp_path: Path) -> None:
    study = from_table(some_table(), MAPPING, "mine", tmp_path)
    assert study.account[["finished", "diverged"]].to_list() == [15, 1]
    lost = study.runs.loc[study.runs["state"] == "diverged"]
    assert (lost["arm"].item(), lost["seed"].item()) == ("better; lr 1", 7)
    summary = summarize(study.history, study.runs)
    run = summary[(summary["arm"] == "base") & (summary["seed"] == 3)].iloc[0]
    table = some_table()
    fid = table.loc[(table["method"] == "base") & (table["seed"] == 3), "fid"].dropna()
    assert run["q_end"] == pytest.approx(np.exp(np.log(fid.tail(3)).mean()))
    assert np.isnan(run["gain"])  # no trivial sampler is known: arms are compared by the quality itself
    assert run["q_best"] == pytest.approx(fid.min())
    compared = compare_arms(study, summary).set_index("statistic")
    assert "gain" not in compared.index
    comparison = compared.loc["log_q_end"]
    assert (comparison["refused"], comparison["n_both_ended"], comparison["at_floor"]) == ("", 7, 1 / 8)
    assert (comparison["baseline"], comparison["arm"], comparison["n_pairs"]) == ("base", "better; lr 1", 8)
    assert comparison["shift"] == pytest.approx(math.log(0.5))
    other = from_table(some_table(), MAPPING, "mine", tmp_path, baseline="better; lr 1")
    comparison = compare_arms(other, summarize(other.history, other.runs)).set_index("statistic").loc["log_q_end"]
    assert comparison["baseline"] == "better; lr 1"


def test_states(tmp_path: Path) -> None:
    table = pd.DataFrame({"arm": "a", "seed": [0, 1, 2, 3], "quality": [1.0, math.nan, math.inf, 2.0]})
    runs = from_table(table, {}, "t", tmp_path).runs
    assert runs["state"].to_list() == ["finished", "diverged", "diverged", "finished"]
    table["state"] = ["finished", "failed", "diverged", "finished"]
    assert from_table(table, {}, "t", tmp_path).runs["state"].to_list() == list(table["state"])
    curve = pd.DataFrame({"arm": "a", "seed": 0, "quality": [3.0, math.nan, math.nan, 2.0, math.nan, math.nan]})
    assert from_table(curve, {}, "t", tmp_path).runs["state"].item() == "finished"
    assert from_table(curve[:3], {}, "t", tmp_path).runs["state"].item() == "diverged"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "x"}, "seed .* must hold whole numbers, got 'x'"),
        ({"seed": 2.0**70}, "must hold whole numbers"),
        ({"method": None}, "arm .* is empty in row 1"),
        ({"seed": 0.5}, "must hold whole numbers, got 0.5"),
        ({"fid": "high"}, "holds 'high', which is no number"),
        ({"fid": -1.0}, "must be positive"),
        ({"iteration": 0}, "stands there twice"),
    ],
)
def test_what_a_table_may_not_hold(change: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        from_table(some_table().assign(**change), MAPPING, "mine", tmp_path)


def test_mappings_and_files(tmp_path: Path) -> None:
    assert parse_mapping("quality=fid, arm=method") == {"quality": "fid", "arm": "method"}
    wrongs = {"qualty=fid": "is none of arm, seed", "quality": "lacks its column", "quality=": "lacks its column",
              "arm=a,arm=b": "the name 'arm' stands there twice", "arm=a,seed=a": "the column 'a' stands"}  # fmt: skip
    for wrong, message in wrongs.items():
        with pytest.raises(InputError, match=message):
            parse_mapping(wrong)
    with pytest.raises(InputError, match=r"lacks arm \(column 'arm'\), quality \(column 'nothing'\); its columns are"):
        from_table(some_table(), {"quality": "nothing"}, "mine", tmp_path)
    with pytest.raises(InputError, match="no arm 'c'; there are base"):
        from_table(some_table(), MAPPING, "mine", tmp_path, baseline="c")
    with pytest.raises(InputError, match="cannot read"):
        read_csv(tmp_path / "none.csv", {}, tmp_path)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(InputError, match="cannot read"):
        read_csv(tmp_path / "empty.csv", {}, tmp_path)


def test_the_command_writes_the_whole_report(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    path = tmp_path / "mine.csv"
    some_table().to_csv(path, index=False)
    mapping = ",".join(f"{name}={column}" for name, column in MAPPING.items())
    arguments = ("report", "--csv", path, "--map", mapping, "--figures", "svg", "--runs-dir", tmp_path)
    code, output, errors = command(*arguments)
    assert (code, output.strip()) == (0, str(tmp_path / "mine" / "report" / "index.html")), errors
    page = Path(output.strip()).read_text()
    assert "What this page calls fd is their fid" in page
    assert "--csv mine.csv --map" in page
    assert "better; lr 1" in page
    first = Path(output.strip()).read_bytes()
    command(*arguments)
    assert Path(output.strip()).read_bytes() == first
    for wrong in (["--csv", path, "demo"], ["demo", "--map", "arm=x"], ["demo", "--baseline", "x"]):
        assert command("report", *wrong)[0] == 2


def test_words_that_mean_nothing_elsewhere_are_names_here(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("arm,seed,quality\nNone,1,2\nSN,1,null\n")
    study = read_csv(path, {}, tmp_path)
    assert study.runs.set_index("arm")["state"].to_dict() == {"None": "finished", "SN": "diverged"}
    path.write_text("arm,seed,quality\n,1,2\n")
    with pytest.raises(InputError, match="empty in row 1"):
        read_csv(path, {}, tmp_path)
    path.write_text("arm,seed,quality\na,1,2,\na,2,3,\n")  # longer than its header
    with pytest.raises(InputError, match="cannot read"):
        read_csv(path, {}, tmp_path)
    both = pd.DataFrame({"arm": ["a,1", "a;1"], "seed": 0, "quality": 1.0})
    with pytest.raises(InputError, match="differ only in commas"):
        from_table(both, {}, "t", tmp_path)
    alike = pd.DataFrame({"arm": ["a", "a-"], "seed": [-1, 1], "quality": 1.0})
    with pytest.raises(InputError, match="called alike"):
        from_table(alike, {}, "t", tmp_path)


def test_a_metric_that_a_run_never_had_is_no_divergence(tmp_path: Path) -> None:
    quality = [math.nan, 3.0, math.nan]  # evaluated once, then another row
    table = pd.DataFrame({"arm": "a", "seed": 0, "quality": quality, "loss": [1.0, 1.0, 1.0]})
    assert from_table(table, {}, "t", tmp_path).runs["state"].item() == "finished"
    table = pd.DataFrame({"arm": "a", "seed": 0, "quality": [4.0, 3.0, 2.0], "loss": math.nan})
    assert from_table(table, {}, "t", tmp_path).runs["state"].item() == "finished"
    table["quality"] = [4.0, 3.0, math.inf]
    assert from_table(table.assign(loss=1.0), {}, "t", tmp_path).runs["state"].item() == "diverged"


def test_a_row_a_run_is_enough(tmp_path: Path) -> None:
    table = pd.DataFrame({"arm": ["a"] * 8 + ["b"] * 8, "seed": [*range(8)] * 2, "quality": np.arange(1.0, 17)})
    study = from_table(table, {}, "t", tmp_path)
    summary = summarize(study.history, study.runs)
    assert summary.set_index(["arm", "seed"])["q_end"].to_dict() == {
        (arm, seed): pytest.approx(value) for arm, seed, value in table.itertuples(index=False)
    }
    assert summary["ended"].eq(True).all()
    assert set(summary["notes"].str.contains("1 evaluation")) == {True}


@pytest.mark.parametrize("quality", [[math.inf, math.inf], [1.0, math.inf], [1e308, 1e-308]])
def test_numbers_that_cannot_be_drawn_are_no_error(quality: list[float], tmp_path: Path) -> None:
    table = pd.DataFrame({"arm": ["a", "b"], "seed": 1, "quality": quality, "loss": [-1e308, 1.0]})
    page = write_report(from_table(table, {}, "t", tmp_path), kinds=["svg"])
    assert page.exists()


def test_a_report_of_others_judges_no_paper_and_is_not_frozen(tmp_path: Path) -> None:
    table = some_table().replace({"base": "dcgan", "better, lr 1": "sn_dcgan"})
    study = from_table(table, MAPPING, "t", tmp_path / "t", baseline="sn_dcgan", command="sngan report --csv t.csv")
    report = write_report(study, kinds=["svg"]).parent
    text = (report / "report.md").read_text()
    assert "contradicted" not in text
    assert "initial weights" not in text
    assert "Made by `sngan report --csv t.csv`" in text
    with pytest.raises(InputError, match="keep the table itself"):
        freeze(study, tmp_path / "frozen")


def test_a_table_never_replaces_a_studys_report(
    mixed_study: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    path = tmp_path / "tiny.csv"
    some_table().rename(columns={"method": "arm", "fid": "quality"}).to_csv(path, index=False)
    code, _, errors = command("report", "--csv", path, "--runs-dir", mixed_study.parent)
    assert code == 2
    assert "holds records of a study" in errors
    assert not (mixed_study / "report").exists()


def test_our_own_history_as_a_table_gives_our_own_statistics(mixed_study: Path) -> None:
    ours = load(mixed_study)
    mapping = {"quality": "eval/fd", "loss": "loss/d", "loss_g": "loss/g", "grad_g": "grad_norm/g"}
    state = ours.runs.set_index("run_id")["state"]
    table = ours.history.assign(state=ours.history["run_id"].map(state))
    theirs = from_table(table, mapping, "ours", mixed_study)
    keys = ["arm", "seed"]
    names = ["q_best", "loss_d_end", "loss_g_roughness", "grad_g_spikes"]
    one, two = (summarize(s.history, s.runs).set_index(keys)[names] for s in (ours, theirs))
    pd.testing.assert_frame_equal(one.loc[two.index], two)
