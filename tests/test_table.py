"""Anyone's table of runs: names, numbers, states, and what is refused."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from others import MAPPING, OTHER, curve, read_text, some_table, summary_of

from analysis.comparisons import compare_arms
from analysis.page import tables
from analysis.sources.columns import Reading
from analysis.sources.table import from_table, read
from sngan.config import InputError

Command = Callable[..., tuple[int, str, str]]


def test_the_statistics_are_of_the_tables_numbers(tmp_path: Path) -> None:
    study = from_table(some_table(), Reading(MAPPING), "mine", tmp_path)
    assert study.account[["finished", "diverged"]].to_list() == [15, 1]
    lost = study.runs.loc[study.runs["state"] == "diverged"]
    assert (lost["arm"].item(), lost["seed"].item()) == ("better, lr 1", 7)
    assert lost["error"].item() == "d_loss is missing after step 500"
    summary = summary_of(study)
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
    assert (comparison["baseline"], comparison["arm"], comparison["n_pairs"]) == ("base", "better, lr 1", 8)
    assert comparison["shift"] == pytest.approx(math.log(0.5))
    other = from_table(some_table(), Reading(MAPPING, baseline="better, lr 1"), "mine", tmp_path)
    comparison = compare_arms(other, summary_of(other)).set_index("statistic").loc["log_q_end"]
    assert comparison["baseline"] == "better, lr 1"


_NAMES = (
    *(["1", "1.0", "01"], ["2e-4", "0.0002"], ["TRUE", "True", "true"], ["0.10", "0.1"]),
    *(["None", "NA", "nan", "null"], ["$a_b$", "a,b", "a;b"], ["1_000", "1000"]),
)


@pytest.mark.parametrize("names", _NAMES)
@pytest.mark.parametrize("column", ["arm", "dataset", "setting"])
def test_names_stay_as_they_are_written(names: list[str], column: str, tmp_path: Path) -> None:
    table = pd.DataFrame({"arm": "a", "dataset": "d", "setting": "s", "seed": 1, "quality": 2.0}, range(len(names)))
    table[column] = names
    for file in ("t.csv", "t.jsonl"):
        path = tmp_path / file
        if file == "t.csv":
            table.to_csv(path, index=False)
        else:
            table.to_json(path, orient="records", lines=True)
        study = read(path, Reading(baseline=names[1] if column == "arm" else ""), tmp_path / "out")
        assert set(study.runs[column]) == set(names)
        assert study.runs["run_id"].nunique() == len(names)


def test_numbers_that_are_names_stay_as_json_writes_them(tmp_path: Path) -> None:
    text = '{"arm": 1.0, "seed": 1, "quality": 2e0}\n{"arm": 1, "seed": 1, "quality": 2}\n'
    assert set(read_text(tmp_path, text, "t.jsonl").runs["arm"]) == {"1.0", "1"}
    text = '{"arm": true, "seed": 1, "quality": 2}\n\n{"arm": "True", "seed": 1, "quality": 2, "more": {"x": [1]}}'
    assert set(read_text(tmp_path, text, "t.ndjson").runs["arm"]) == {"true", "True"}


def test_a_long_file_has_the_arms_of_a_short_one(tmp_path: Path) -> None:
    """pandas guesses types by chunks, of which some have 0.10 alone."""
    steps = 150_000
    lines = ["arm,seed,step,quality,other"]
    lines += [f"0.10,{seed},{step},2.5,{'x' if step > steps - 5 else 1}" for seed in (0, 1) for step in range(steps)]
    lines += [f"base,{seed},0,3,1" for seed in (0, 1)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    study = read(tmp_path / "t.csv", Reading(), tmp_path / "out")
    assert len(study.runs) == 4
    assert set(study.runs["arm"]) == {"0.10", "base"}


def test_names_that_look_alike_are_named_and_kept_apart(tmp_path: Path) -> None:
    text = "arm,seed,quality\n" + "\n".join(f'"{arm}",1,2' for arm in ("a", "a ", "SN", "sn", "1", "1.0", "b"))
    study = read_text(tmp_path, text)
    assert set(study.runs["arm"]) == {"a", "a ", "SN", "sn", "1", "1.0", "b"}
    said = [text for text in study.warnings if "look alike" in text]
    pairs = ("'a' and 'a '", "'SN' and 'sn'", "'1' and '1.0'")
    assert set(said) == {f"the arms {pair} look alike, and are kept apart" for pair in pairs}


def test_runs_without_quality_and_with_an_early_end_of_it_are_named(tmp_path: Path) -> None:
    rows = [curve(["", "", ""], [1, 1, 1]), curve([2, 2, "", "", 2, "", "", ""], [1] * 8).replace("a,0", "c,0")]
    study = read_text(tmp_path, "\n".join(["arm,seed,step,quality,loss", OTHER, *rows]))
    assert [text for text in study.warnings if "quality" in text] == [
        "without any quality, so in no comparison of it: a, seed 0; of runs that diverged write inf, or a column state"
    ]
    rows[1] = curve([2, 2, *[""] * 6], [1] * 8).replace("a,0", "c,0")
    study = read_text(tmp_path, "\n".join(["arm,seed,step,quality,loss", OTHER, rows[1]]))
    assert "quality ends long before the run does: c, seed 0" in study.warnings


def test_states_that_the_table_has_are_the_runs(tmp_path: Path) -> None:
    table = pd.DataFrame({"arm": "a", "seed": [0, 1, 2, 3], "quality": [1.0, math.nan, math.inf, 2.0]})
    runs = from_table(table, Reading(), "t", tmp_path).runs
    assert runs["state"].to_list() == ["finished", "finished", "diverged", "finished"]  # one without any, which is said
    table["state"] = ["finished", "failed", "diverged", "finished"]
    study = from_table(table, Reading(), "t", tmp_path)
    assert study.runs["state"].to_list() == list(table["state"])
    assert summary_of(study)["causes"].to_list() == ["", "error at 0", "divergence at 0", ""]
    table["state"] = ["finished", "finished", "finished", "finished"]
    with pytest.raises(InputError, match="a, seed 2 is finished, and has an infinite quality; say diverged"):
        from_table(table, Reading(), "t", tmp_path)
    with pytest.raises(InputError, match="a, seed 0 has the states finished and diverged; a run has one"):
        read_text(tmp_path, "arm,seed,step,quality,state\na,0,0,1,finished\na,0,1,2,diverged\n")
    with pytest.raises(InputError, match="state 'crashed' is none of finished, diverged, failed"):
        from_table(table.assign(state="crashed"), Reading(), "t", tmp_path)


def test_survivors_do_not_stand_for_all(tmp_path: Path) -> None:
    """Five of eight without an end: the median of all is infinite, that of the three stands beside a 3."""
    text = "arm,seed,quality\n" + "\n".join(f"a,{seed},{seed + 1 if seed < 3 else 'inf'}" for seed in range(8))
    study = read_text(tmp_path, text)
    row = tables.arms(summary_of(study), study.terms).frame.iloc[0]
    assert (row["n"], row["ended"], row["q_median"], row["q_iqm"]) == (8, 3, math.inf, math.inf)
    assert (row["q_ended"], row["q_mean"]) == (pytest.approx(2), pytest.approx(2))
    assert "imputed" not in tables.arms(summary_of(study), study.terms).caption
    study = read_text(tmp_path, text.replace("inf", "-inf"), maximize=True)
    row = tables.arms(summary_of(study), study.terms).frame.iloc[0]
    assert (row["q_median"], row["q_ended"]) == (-math.inf, pytest.approx(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "x"}, "seed .* must hold whole numbers, got 'x'"),
        ({"seed": 2.0**70}, "must hold whole numbers of at most 64 bits, written out: .* is too large"),
        ({"method": None}, "arm .* is empty in row 1"),
        ({"seed": 0.5}, "must hold whole numbers, got 0.5"),
        ({"fid": "high"}, "holds 'high', which is no number"),
        ({"fid": -1.0}, "must be positive.* --maximize"),
        ({"iteration": 0}, "step 0 of base, seed 0 appears 12 times"),
    ],
)
def test_what_a_table_may_not_hold(change: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        from_table(some_table().assign(**change), Reading(MAPPING), "mine", tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arm,seed,quality,task\na,1,2,x\na,1,3,y\n",
         r"a, seed 1 has 2 rows, .* map step=..; .* map dataset=.. or setting=..; columns that are not used: task"),
        ("arm,seed,it,quality\na,1,0,2\na,1,10,3\n", "columns that are not used: it"),
        ("arm,seed,quality\na,1,2\na,1,2\n", "a, seed 1 has 2 rows, and nothing tells them apart"),
        ("arm,seed,step,quality\na,1,5,2\na,1,5,2\n", r"step 5 of a, seed 1 appears 2 times \(rows 1 and 2\)"),
        ("arm,seed,quality,quality\na,1,2,3\n", "has 2 columns called 'quality': rename all but one"),
        ("arm,arm ,seed,quality\na,b,1,2\n", "has 2 columns called 'arm'"),
        ("arm,seed,quality\n,1,2\n", "arm .* is empty in row 1"),
        ("arm,seed,quality\na,1,2,\na,2,3,\n", "cannot read .* as CSV with a header"),  # longer than its header
        ("arm,seed,quality\na,1,\"1,234\"\n", "holds '1,234', which is no number: write a point for decimals"),
        ("arm;seed;quality\na;1;2,5\n", "holds '2,5', which is no number: write a point for decimals"),
        ("arm,seed,quality\na,1_0,2\n", "seed .* must hold whole numbers, got '1_0'"),
        ("arm,seed,quality\na,9223372036854775808,2\n", "64 bits, written out: 9223372036854775808 is too large"),
        ("arm,seed,quality\na,1e20,2\n", "64 bits, written out: 1.* is too large"),
        ("arm,seed,quality\n", "has no rows"),
        ("", "cannot read"),
    ],
)  # fmt: skip
def test_what_a_file_may_not_hold(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_text(tmp_path, text)


def test_a_column_that_is_not_used_may_be_there_twice(tmp_path: Path) -> None:
    study = read_text(tmp_path, "arm,note,seed,note,quality\na,x,1,y,2\n")
    assert study.warnings == ["columns that are not used: note, note"]


def test_rows_that_were_logged_one_by_one_are_one_row(tmp_path: Path) -> None:
    """A loss and an evaluation of one step; not what is there twice."""
    text = "arm,seed,step,quality,loss\na,0,0,,1\na,0,0,5,\na,0,1,,nan\na,0,1,7,\na,0,2,,2\n"
    history = read_text(tmp_path, text).history
    assert history["step"].tolist() == [0, 1, 2]
    assert history["eval/fd"].tolist()[:2] == [5, 7]
    assert history["loss/d"].tolist()[::2] == [1, 2]
    with pytest.raises(InputError, match=r"step 2 of a, seed 0 appears 2 times \(rows 5 and 6\)"):
        read_text(tmp_path, text + "a,0,2,,2\n")


def test_seeds_are_exact(tmp_path: Path) -> None:
    seeds = [2**53 + 1, 2**63 - 1, -5, 10]
    study = read_text(tmp_path, "arm,seed,quality\n" + "\n".join(f"a,{seed},2" for seed in seeds[:3]) + "\na,1e1,2\n")
    assert sorted(study.runs["seed"]) == sorted(seeds)


def test_runs_are_told_apart_whatever_their_names_hold(tmp_path: Path) -> None:
    table = pd.DataFrame({"dataset": ["d", "d, a"], "arm": ["a, b", "b"], "seed": 1, "quality": 1.0})
    study = from_table(table, Reading(), "t", tmp_path)
    assert study.runs["run_id"].nunique() == 2
    table = pd.DataFrame({"dataset": ["d", "d, s"], "setting": ["s, t", "t"], "arm": "a", "seed": 1, "quality": 1.0})
    assert from_table(table, Reading(), "t", tmp_path).runs["context"].nunique() == 2


def test_a_table_never_replaces_a_studys_report(mixed_study: Path, tmp_path: Path, command: Command) -> None:
    path = tmp_path / "tiny.csv"
    some_table().rename(columns={"method": "arm", "fid": "quality", "iteration": "step"}).to_csv(path, index=False)
    code, _, errors = command("report", "--csv", path, "--runs-dir", mixed_study.parent)
    assert code == 2
    assert "holds records of a study" in errors
    assert not (mixed_study / "report").exists()


def test_a_row_per_run_is_enough(tmp_path: Path) -> None:
    table = pd.DataFrame({"arm": ["a"] * 8 + ["b"] * 8, "seed": [*range(8)] * 2, "quality": np.arange(1.0, 17)})
    study = from_table(table, Reading(), "t", tmp_path)
    summary = summary_of(study)
    assert summary.set_index(["arm", "seed"])["q_end"].to_dict() == {
        (arm, seed): pytest.approx(value) for arm, seed, value in table.itertuples(index=False)
    }
    assert summary["ended"].eq(True).all()
    assert set(summary["notes"]) == {"1 evaluation"}
