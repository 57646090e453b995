"""Runs of other programs: what the table says is what the statistics are of."""

import bz2
import json
import lzma
import math
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

from analysis.comparisons import compare_arms
from analysis.load import load
from analysis.page import tables
from analysis.page.report import write, write_report
from analysis.sources.frozen import freeze
from analysis.sources.table import Reading, from_table, parse_mapping, read, written
from analysis.stability import summarize
from analysis.study import Study
from analysis.synthetic import study as synthetic_study
from sngan.config import InputError

MAPPING = {"quality": "fid", "arm": "method", "loss": "d_loss", "step": "iteration"}
Command = Callable[..., tuple[int, str, str]]


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
                             "fid": fid if i % 3 == 2 and not lost else math.nan,
                             "d_loss": math.nan if lost else 1.0})  # fmt: skip
    return pd.DataFrame(rows)


def read_text(folder: Path, text: str, name: str = "t.csv", **how: object) -> Study:
    path = folder / name
    path.write_text(text)
    return read(path, Reading(**how), folder / "out")  # type: ignore[arg-type]


def summary_of(study: Study) -> pd.DataFrame:
    return summarize(study.history, study.runs, terms=study.terms)


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


# --- names are texts, as they are written ---


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


# --- what counts as diverged ---


def w_and_b_shape(**end: str) -> str:
    """Two arms x 8 seeds: losses at steps 0 to 990, and a last row with quality only; `end`: of the last rows' loss."""
    lines = ["arm,seed,step,loss,loss_g,quality"]
    for arm in "ab":
        for seed in range(8):
            lines += [f"{arm},{seed},{step},1,2," for step in range(0, 1000, 10)]
            lines.append(f"{arm},{seed},1000,{end.get('loss', '')},{end.get('loss_g', '')},{5 + seed}")
    return "\n".join(lines)


@pytest.mark.parametrize("end", [{}, {"loss": "NaN"}, {"loss": "NaN", "loss_g": "null"}, {"loss": "NA"}])
def test_healthy_runs_in_the_shape_of_w_and_b_are_not_diverged(end: dict[str, str], tmp_path: Path) -> None:
    study = read_text(tmp_path, w_and_b_shape(**end), mapping={"loss_g": "loss_g"})
    assert study.account["finished"] == 16
    summary = summary_of(study)
    assert not summary["failure"].any()
    assert summary["q_end"].tolist() == [5.0 + seed for seed in range(8)] * 2


def curve(quality: list[object], loss: list[object] | None = None, steps: list[int] | None = None) -> str:
    steps = steps or [100 * i for i in range(len(quality))]
    return "\n".join(f"a,0,{step},{q},{'' if loss is None else loss[i]}"
                     for i, (step, q) in enumerate(zip(steps, quality, strict=True)))  # fmt: skip


OTHER = "\n".join(f"b,0,{100 * i},2,1" for i in range(10))
"""Of another run, which has every number in every row."""


@pytest.mark.parametrize(
    ("rows", "state", "since"),
    [
        (curve([2, "", "", ""], [1, 1, 1, 1]), "finished", None),  # one evaluation, not in the last row
        (curve(["", 2, "", ""], [1, 1, 1, 1]), "finished", None),
        (curve([2, 2, 2, ""]), "finished", None),  # evaluations of which the last is missing
        (curve([*[2] * 5, "", ""]), "finished", None),  # a short gap
        (curve([*[2] * 5, *[""] * 5]), "diverged", 500),  # for far longer than any other
        (curve([2, 2, "inf", 2]), "diverged", 200),  # an infinity
        (curve([2, 2, 2, 2], [1, "-Infinity", 1, 1]), "diverged", 100),
        (curve([2, 2, "", ""], [1, 1, "NaN", "NaN"]), "diverged", 200),  # logged as NaN
        (curve([2, 2, 2, 2], [1, 1, "NaN", "NaN"]), "finished", None),  # for a while, and there is a quality
        (curve([2] * 8, [1, 1, *["NaN"] * 6]), "diverged", 200),  # for far longer than any other
        (curve([2, 2, 2, 2], ["NaN"] * 4), "finished", None),  # never a number: this run has no such loss
        (curve([2, 2, "NaN", "NaN"], [1, 1, 1, 1]), "finished", None),  # evaluations end, the loss continues
        (curve([2, 2, 2, 2], [1, 1, "", ""]), "finished", None),  # not logged any more
        (curve([2, *[""] * 9], [1, *[""] * 9]), "diverged", 100),  # nothing any more
        (curve([*[""] * 9, 2], [1, *[""] * 9]), "finished", None),  # quality is finite later
        (curve([2, 2, "NaN"]), "diverged", 200),
        (curve(["NaN", "NaN", ""]), "diverged", 0),  # nothing was ever finite
        (curve(["", "", ""]), "finished", None),  # nothing was measured, which is said
        (curve(["", "", ""], [1, 1, 1]), "finished", None),  # no quality, which is said
        (curve([2, 2], ["", ""]), "finished", None),  # a metric that this run never had
    ],
)
def test_what_is_a_divergence_and_since_when(rows: str, state: str, since: int | None, tmp_path: Path) -> None:
    study = read_text(tmp_path, f"arm,seed,step,quality,loss\n{OTHER}\n{rows}\n")
    run = study.runs.set_index("arm").loc["a"]
    assert run["state"] == state
    assert (None if np.isnan(run["lost_step"]) else run["lost_step"]) == since
    of = summary_of(study).set_index("arm")
    assert of.loc["a", "ended"] == (state == "finished")
    assert of.loc["a", "causes"] == ("" if since is None else f"divergence at {since:,}")
    assert of.loc["b", "causes"] == ""


def test_a_word_that_stands_for_nothing_elsewhere_is_no_divergence(tmp_path: Path) -> None:
    """Where NaN comes before numbers, as between evaluations, it is that table's word for nothing."""
    rows = [f"{arm},{seed},{step},{2 if step % 1000 == 0 and step < 10000 else 'nan'}"
            for arm in "ab" for seed in range(3) for step in range(500, 10001, 500)]  # fmt: skip
    study = read_text(tmp_path, "arm,seed,step,quality\n" + "\n".join(rows))  # evaluations, the last one missing
    assert set(study.runs["state"]) == {"finished"}
    rows += [f"c,0,{step},{2 if step % 1000 == 0 and step < 4000 else 'nan'}" for step in range(500, 10001, 500)]
    study = read_text(tmp_path, "arm,seed,step,quality\n" + "\n".join(rows))
    assert study.runs.set_index("arm")["state"].to_dict()["c"] == "diverged"
    assert study.account["finished"] == 6


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


# --- what is refused, by name ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "x"}, "seed .* must hold whole numbers, got 'x'"),
        ({"seed": 2.0**70}, "must hold whole numbers of at most 64 bits, written out: .* is too large"),
        ({"method": None}, "arm .* is empty in row 1"),
        ({"seed": 0.5}, "must hold whole numbers, got 0.5"),
        ({"fid": "high"}, "holds 'high', which is no number"),
        ({"fid": -1.0}, "must be positive.* --maximize"),
        ({"iteration": 0}, "step 0 of base, seed 0 stands there 12 times"),
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
        ("arm,seed,step,quality\na,1,5,2\na,1,5,2\n", r"step 5 of a, seed 1 stands there 2 times \(rows 1 and 2\)"),
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
    with pytest.raises(InputError, match=r"step 2 of a, seed 0 stands there 2 times \(rows 5 and 6\)"):
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


# --- files ---


def test_mappings(tmp_path: Path) -> None:
    assert parse_mapping("quality=fid, arm=method") == {"quality": "fid", "arm": "method"}
    hard = {"quality": 'FID, 50k "clean"', "arm": "a=b"}
    assert parse_mapping(written(hard)) == hard
    wrongs = {"qualty=fid": "is none of arm, seed", "quality": "lacks its column", "quality=": "lacks its column",
              "arm=a,arm=b": "the name 'arm' stands there twice", "arm=a,seed=a": "the column 'a' stands"}  # fmt: skip
    for wrong, message in wrongs.items():
        with pytest.raises(InputError, match=message):
            parse_mapping(wrong)
    with pytest.raises(InputError, match=r"lacks arm \(column 'arm'\), quality \(column 'nothing'\); its columns are"):
        from_table(some_table(), Reading({"quality": "nothing"}), "mine", tmp_path)
    with pytest.raises(InputError, match=r"no arm 'c'.*\(base, better, lr 1\)"):
        from_table(some_table(), Reading(MAPPING, baseline="c"), "mine", tmp_path)
    with pytest.raises(InputError, match="there is no such file"):
        read(tmp_path / "none.csv", Reading(), tmp_path)


@pytest.mark.parametrize(
    ("header", "advice"),
    [
        ("Method,Seed,Iteration,FID", "try --map arm=Method,seed=Seed,step=Iteration,quality=FID"),
        ("algorithm,seed,epoch,KID", "try --map arm=algorithm,step=epoch,quality=KID"),
        ("MODEL,seed,kimg,metrics/FID", "try --map arm=MODEL,step=kimg,quality=metrics/FID"),
        ("Model,Random Seed,Accuracy", "try --map 'arm=Model,seed=Random Seed,quality=Accuracy' --maximize"),
        ("agent,seed,env_id,return", "try --map arm=agent,quality=return,dataset=env_id --maximize"),
        ("a,b,c", "say which with --map NAME=COLUMN,.."),
        ("method,seed,c", "try --map arm=method, with quality=COLUMN"),
        ("run,step,FID", "try --map quality=FID --run-name '(?P<arm>.+?)"),
        ("method,seed,fid50k_full", "try --map arm=method,quality=fid50k_full"),
        ("config.method,config.seed,FID-50k", "try --map arm=config.method,seed=config.seed,quality=FID-50k"),
        ("method,run,val_loss", "try --map arm=method,quality=val_loss"),
    ],
)
def test_the_error_prints_what_to_write(header: str, advice: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:  # what was given stays
        read_text(tmp_path, "method,seed,Accuracy\na,1,2\n", maximize=True, baseline="b")
    assert "try --map arm=method,quality=Accuracy --baseline b --maximize" in str(error.value)
    with pytest.raises(InputError) as error:
        read_text(tmp_path, f"{header}\n{','.join('dqn-seed1' for _ in header.split(','))}\n")
    assert f": {advice}" in str(error.value)


def test_other_encodings_and_delimiters_are_read(tmp_path: Path) -> None:
    text = "arm,seed,quality\né,1,2.5\nb,1,3.5\n"
    contents = {
        "bom.csv": b"\xef\xbb\xbf" + text.encode(), "wide.csv": text.encode("utf-16"),
        "semicolons.csv": text.replace(",", ";").encode(), "tabs.tsv": text.replace(",", "\t").encode(),
        "crlf.txt": text.replace("\n", "\r\n").encode(), "blanks.csv": text.replace("seed,", " seed , ").encode(),
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        study = read(tmp_path / name, Reading(), tmp_path / "out")
        assert study.history[["arm", "seed", "eval/fd"]].to_numpy().tolist() == [["b", 1, 3.5], ["é", 1, 2.5]], name
    pd.read_csv(tmp_path / "bom.csv").to_csv(tmp_path / "t.csv.gz", index=False)
    study = read(tmp_path / "t.csv.gz", Reading(), tmp_path / "out")
    assert (study.name, len(study.runs)) == ("t", 2)
    (tmp_path / "latin.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="it is neither UTF-8 nor UTF-16"):
        read(tmp_path / "latin.csv", Reading(), tmp_path / "out")


def test_the_same_table_in_every_format(tmp_path: Path) -> None:
    table = some_table().drop(columns="note")
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    rows = [{k: v for k, v in row.items() if v == v} for row in table.to_dict("records")]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "t.json").write_text(json.dumps(rows))
    nested = [{"config": {"method": row.pop("method"), "seed": row.pop("seed")}, **row} for row in rows]
    (tmp_path / "n.jsonl").write_text("\n".join(map(json.dumps, nested)))
    frames = {}
    for name in ("t.csv", "t.parquet", "t.jsonl", "t.json", "n.jsonl"):
        of = {"arm": "config.method", "seed": "config.seed"} if name == "n.jsonl" else {}
        frames[name] = read(tmp_path / name, Reading({**MAPPING, **of}), tmp_path / "out").history
        frames[name] = frames[name].drop(columns=["context", "dataset"])  # the file's name
    for name, frame in frames.items():
        pd.testing.assert_frame_equal(frame[frames["t.csv"].columns], frames["t.csv"], obj=name)
    for name, content, message in (
        ("bad.jsonl", '{"arm": 1}\nx', "as JSON lines, one object per line"),
        ("bad.json", "[1]", "object 1 is str"),
        ("bad.parquet", "x", "as Parquet"),
    ):
        with pytest.raises(InputError, match=message):
            read_text(tmp_path, content, name)


def test_what_writes_nan_and_null_for_nothing_makes_no_divergence(tmp_path: Path) -> None:
    """pandas writes null for what is not there, with na_rep NaN: losses every 10 steps, a quality every 100, at last
    a quality alone; and of two methods one has a second loss."""
    rows = [
        {"arm": arm, "seed": seed, "step": step, "quality": 5.0 + seed if step % 100 == 0 else None,
         "loss": 1.0 if step < 1000 else None, "loss_g": 2.0 if step < 1000 and arm == "gan" else None}
        for arm in ("gan", "diffusion") for seed in range(8) for step in range(0, 1001, 10)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    table.to_csv(tmp_path / "blank.csv", index=False)
    table.to_csv(tmp_path / "word.csv", index=False, na_rep="NaN")
    table.to_json(tmp_path / "null.jsonl", orient="records", lines=True)
    pyarrow.parquet.write_table(pyarrow.table({n: table[n].to_numpy() for n in table}), tmp_path / "nan.parquet")
    for name in ("blank.csv", "word.csv", "null.jsonl", "nan.parquet"):
        study = read(tmp_path / name, Reading(), tmp_path / "out")
        assert study.account["finished"] == 16, name
        assert not summary_of(study)["failure"].any(), name


def test_what_would_end_every_run_is_how_the_table_was_logged(tmp_path: Path) -> None:
    steps = [2**i for i in range(13)]
    rows = [f"a,{seed},{step},2" for seed in range(8) for step in steps] + [f"a,{seed},20000," for seed in range(8)]
    study = read_text(tmp_path, "arm,seed,step,quality\n" + "\n".join(rows))
    assert study.account["finished"] == 8
    assert any("quality ends long before the run does" in text for text in study.warnings)


def test_json_that_hides_something_is_refused(tmp_path: Path) -> None:
    good = '{"arm": "a\u2028b", "seed": 1, "quality": 2}\n'
    assert read_text(tmp_path, good, "t.jsonl").runs["arm"].tolist() == ["a\u2028b"]
    with pytest.raises(InputError, match="line 2: Expecting value"):
        read_text(tmp_path, good + "x\n", "t.jsonl")
    with pytest.raises(InputError, match="line 1: 'arm' is there twice"):
        read_text(tmp_path, '{"arm": 1, "arm": 2, "seed": 1, "quality": 2}', "t.jsonl")
    with pytest.raises(InputError, match=r"arm .* is empty in row 1"):
        read_text(tmp_path, '{"arm": null, "seed": 1, "quality": 2}', "t.jsonl")


def test_headers_as_spreadsheets_write_them(tmp_path: Path) -> None:
    """Blank lines before it, line breaks in it; and files that were compressed."""
    text = '\n\narm,seed,quality,"note\n(free)"\na,1,2,"x\ny"\n'
    assert read_text(tmp_path, text).history["eval/fd"].tolist() == [2.0]
    contents = {"t.csv.xz": lzma.compress(text.encode()), "t.csv.bz2": bz2.compress(text.encode())}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "t.csv.zip", "w") as archive:
        archive.writestr("t.csv", text)
    for name in (*contents, "t.csv.zip"):
        study = read(tmp_path / name, Reading(), tmp_path / "out")
        assert (study.name, study.history["eval/fd"].tolist()) == ("t", [2.0]), name


def test_event_files_of_tensorboard(tmp_path: Path) -> None:
    """As PyTorch writes them: a folder per run, of whose name arm and seed are parts."""
    from torch.utils.tensorboard import SummaryWriter

    for arm in ("ppo", "sac"):
        for seed in range(2):
            with SummaryWriter(str(tmp_path / "logs" / f"{arm}_s{seed}")) as writer:
                for step in range(0, 50, 10):
                    writer.add_scalar("charts/return", -float(step) - seed, step)
                    lost = arm == "sac" and seed and step > 20
                    if step == 40 and seed == 0:
                        continue  # not logged there
                    writer.add_scalar("losses/d", math.nan if lost else 0.5, step)
    how = Reading(
        {"quality": "charts/return", "loss": "losses/d"}, maximize=True, run_name=r"(?P<arm>\w+)_s(?P<seed>\d+)"
    )
    study = read(tmp_path / "logs", how, tmp_path / "out")
    assert study.runs[["arm", "seed", "state"]].to_numpy().tolist() == [
        ["ppo", 0, "finished"], ["ppo", 1, "finished"], ["sac", 0, "finished"], ["sac", 1, "diverged"],
    ]  # fmt: skip
    assert study.history.loc[study.history["run_id"] == "ppo, seed 1", "eval/fd"].tolist() == [-1, -11, -21, -31, -41]
    with SummaryWriter(str(tmp_path / "logs" / "ppo_s2")) as writer:
        for step in (0, 10):
            writer.add_scalar("charts/return", 1.0, step)
            writer.add_scalar("step", 64 * step, step)
    (tmp_path / "logs" / "none").mkdir()
    (tmp_path / "logs" / "none" / "events.out.tfevents.0").write_bytes(b"")
    again = read(tmp_path / "logs", how, tmp_path / "out")
    assert again.runs.set_index("run_id").loc["ppo, seed 2", "step"] == 10
    assert any("without any scalar, so not among the runs: none" in text for text in again.warnings)
    assert any("step (tag)" in text for text in again.warnings)
    with pytest.raises(InputError, match=r"try --map quality=charts/return --run-name .* --maximize"):
        read(tmp_path / "logs", Reading(), tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="a folder without TensorBoard's event files"):
        read(tmp_path / "empty", Reading(), tmp_path / "out")


def chart(metric: str = "FID", runs: tuple[str, ...] = ("dqn-seed1", "dqn-seed2", "ppo-seed1", "ppo-seed2")) -> str:
    """As W&B's page exports it: every run's metric with its limits, empty where only others have logged."""
    names = [f"{run} - {metric}{end}" for run in runs for end in ("", "__MIN", "__MAX")]
    lines = [",".join(f'"{name}"' for name in ["Step", *names])]
    for step in (0, 10, 20):
        cells = [f'"{step + i + 1}"' if (step + 10 * i) % 20 == 0 else '""' for i in range(len(runs)) for _ in range(3)]
        lines.append(",".join([f'"{step}"', *cells]))
    return "\n".join(lines)


def test_a_chart_that_w_and_b_exported(tmp_path: Path) -> None:
    run_name = r"(?P<arm>.+)-seed(?P<seed>\d+)"
    study = read_text(tmp_path, chart(), run_name=run_name)
    assert study.terms.quality == "FID"
    assert study.terms.step == "Step"
    assert study.history[["arm", "seed", "step", "eval/fd"]].to_numpy().tolist() == [
        ["dqn", 1, 0, 1.0], ["dqn", 1, 20, 21.0], ["dqn", 2, 10, 12.0],
        ["ppo", 1, 0, 3.0], ["ppo", 1, 20, 23.0], ["ppo", 2, 10, 14.0],
    ]  # fmt: skip
    assert study.warnings == []
    study = read_text(tmp_path, chart("eval - FID"), run_name=run_name, mapping={"quality": "eval - FID"})
    assert set(study.runs["arm"]) == {"dqn", "ppo"}
    with pytest.raises(InputError, match=r"try --run-name '\(\?P<arm>.+\?\)\[-_ /\.\]\*\(\?:seed\|s\)"):
        read_text(tmp_path, chart())
    with pytest.raises(InputError, match="two runs of this W&B chart are called 'x1'"):
        read_text(tmp_path, chart(runs=("x1", "x1")), run_name=run_name)
    both = chart("eval - FID").replace("ppo-seed2 - eval - FID", "ppo-seed2 - fid")
    study = read_text(tmp_path, both, run_name=run_name + "$")
    assert study.terms.quality == "eval - FID"
    both = chart().replace("ppo-seed2 - FID", "ppo-seed2 - fid")
    study = read_text(tmp_path, both, run_name=run_name)
    assert "what some runs call 'fid' is taken for 'FID': each run of this chart has one metric" in study.warnings


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(", "is no regular expression"), ("(?P<arm>.+)", "it lacks seed"),
     ("(?P<arm>x)(?P<seed>9)", "does not match the run"),
     ("(?P<arm>.)(?P<seed>.)(?P<lr>.)", "the group 'lr' is none of arm, seed, dataset, setting")],
)  # fmt: skip
def test_run_names_that_cannot_be_taken_apart(pattern: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_text(tmp_path, chart(), run_name=pattern)
    both = "run,arm,quality\nb1,a,1\n"
    study = read_text(tmp_path, both, run_name="(?P<arm>.)(?P<seed>.)")
    assert (study.runs["arm"].item(), study.warnings) == ("b", ["columns that are not used: arm"])
    with pytest.raises(InputError, match="reads the column 'run', which is not there"):
        read_text(tmp_path, "arm,quality\na,1\n", run_name="(?P<arm>.)(?P<seed>.)")


# --- comparisons ---


def results(better: float, arms: tuple[str, ...] = ("a", "b", "c"), sets: int = 1, n: int = 10) -> pd.DataFrame:
    """Scores around 1; of arm b and c more by `better`."""
    random = np.random.default_rng(3)
    table = pd.DataFrame([(arm, seed, f"d{i}") for i in range(sets) for arm in arms for seed in range(n)])
    score = 1 + 0.1 * random.normal(size=len(table)) + better * (table[0] != "a")
    return table.set_axis(["arm", "seed", "dataset"], axis=1).assign(score=score)


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


@pytest.mark.parametrize(
    ("column", "maximize", "doubt"),
    [*((name, False, "more") for name in ("accuracy", "IS", "inception_score", "eval/reward", "episodeReturn", "recall",
                                          "coverage", "test_acc", "Mean Return", "reward")),
     *((name, True, "less") for name in ("FID", "kid", "val_loss", "FID50k_full")),
     *((name, False, "") for name in ("fid", "FID50k_full", "is_fid", "distance", "widescore")),
     ("accuracy", True, "")],
)  # fmt: skip
def test_a_quality_whose_name_says_the_other_side_is_warned_of(
    column: str, maximize: bool, doubt: str, tmp_path: Path
) -> None:
    study = from_table(
        results(0).rename(columns={"score": column}), Reading({"quality": column}, maximize=maximize), "t", tmp_path
    )
    said = [text for text in study.warnings if "usually better" in text]
    assert bool(said) == bool(doubt)
    assert all(f"{column!r} {doubt} is usually better" in text for text in said)


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
    assert set(tables.paired_failures(summary, "b").frame["baseline"]) == {"b"}
    assert tables.interactions(study, summary).frame.empty  # data sets do not compare, settings do
    study = from_table(
        table.rename(columns={"dataset": "setting"}), Reading({"quality": "score"}, "b", True), "t", tmp_path
    )
    frame = tables.interactions(study, summary_of(study)).frame
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


def test_every_data_set_has_its_own_figures(tmp_path: Path) -> None:
    curve = results(1.0, sets=1).assign(step=0)
    curve = pd.concat([curve.assign(step=step) for step in range(3)])
    table = pd.concat([curve.assign(dataset=name) for name in ("d 1", "d-1", "D_1", "x" * 300)])
    made = write(from_table(table, Reading({"quality": "score"}), "t", tmp_path), kinds=["svg"])
    assert len(list((made.page.parent / "figures").glob("quality-*.svg"))) == 4


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


# --- the report ---


def in_short(study: Study) -> list[str]:
    return json.loads((write_report(study, kinds=["svg"]).parent / "statistics.json").read_text())["short"]


def test_it_says_in_a_sentence_which_arm_is_better(tmp_path: Path) -> None:
    table = results(1.0, arms=("a", "b"))
    (said,) = in_short(from_table(table, Reading({"quality": "score"}, maximize=True), "t", tmp_path / "t"))
    assert said.startswith("By score (higher is better) b is better than a: +0.99 (95 % interval +0.87")
    assert "n = 10 paired seeds, adjusted p 0.002)" in said
    (said,) = in_short(from_table(table, Reading({"quality": "score"}), "t", tmp_path / "t"))
    assert said.startswith("By score (lower is better) b is worse than a: +")
    (said,) = in_short(from_table(results(0.0, ("a", "b")), Reading({"quality": "score"}), "t", tmp_path / "t"))
    assert "nothing can be said of b against a: " in said
    (said,) = in_short(from_table(results(1, ("a", "b"), n=5), Reading({"quality": "score"}), "t", tmp_path / "t"))
    assert "nothing can be said of b against a: " in said
    assert said.endswith("n = 5 paired seeds): fewer than 7 pairs describe, they do not test.")
    (said,) = in_short(from_table(results(1, ("a",)), Reading({"quality": "score"}), "t", tmp_path / "t"))
    assert (
        said == "By score (lower is better) nothing can be said: there are no two arms with results for the same seeds."
    )
    apart = pd.DataFrame({"arm": ["a", "b"], "seed": [1, 2], "quality": [2.0, 4.0]})
    (said,) = in_short(from_table(apart, Reading(), "t", tmp_path / "t"))
    assert said == "By quality (lower is better) nothing can be said of b against a: they share no seed."
    lost = pd.DataFrame(
        {"arm": ["a"] * 10 + ["b"] * 10, "seed": [*range(10)] * 2, "quality": [2.0] * 11 + [np.inf] * 9}
    )
    (said,) = in_short(from_table(lost, Reading(), "t", tmp_path / "t"))
    assert "b is worse than a: in most pairs only a has an end (n = 10 paired seeds" in said
    (said,) = in_short(from_table(lost.assign(quality=np.inf), Reading(), "t", tmp_path / "t"))
    assert "nothing can be said of b against a: no pair of runs has two ends" in said
    (said,) = in_short(from_table(some_table(12), Reading(MAPPING), "t", tmp_path / "t"))
    assert said.startswith("By fid (lower is better) better, lr 1 is better than base: -50 % (95 % interval -50 % to ")
    assert "n = 12 paired seeds, adjusted p 0.0" in said
    assert said.endswith("; without an end: 1 of 12 runs of better, lr 1.")
    said = in_short(
        from_table(results(1.0, ("a", "b"), sets=8), Reading({"quality": "score"}, maximize=True), "t", tmp_path / "t")
    )
    assert "over 8 data sets, a run of b is better than one of a with probability 1.00" in said[0]
    assert "adjusted p 0.0078), so it is better" in said[0]
    assert len(said) == 9


def test_the_command_writes_the_whole_report(tmp_path: Path, command: Command) -> None:
    path = tmp_path / "mine.csv"
    some_table().to_csv(path, index=False)
    arguments = ("report", "--csv", path, "--map", written(MAPPING), "--figures", "svg", "--runs-dir", tmp_path)
    code, output, errors = command(*arguments)
    assert (code, output.strip()) == (0, str(tmp_path / "mine" / "report" / "index.html")), errors
    assert errors == "warning: mine: columns that are not used: note\n"
    page = Path(output.strip()).read_text()
    assert "--csv mine.csv --map" in page
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


def test_an_arm_has_one_colour_in_all_figures(tmp_path: Path) -> None:
    """Also where a figure does not have all of them: losses of two arms, quality of four; named as ours, too."""
    arms = ["plain", "dcgan", "x", "y"]
    rows = [{"arm": arm, "seed": seed, "step": step, "quality": 1 + i, "loss": 0.5 if arm in "xy" else math.nan}
            for i, arm in enumerate(arms) for seed in range(2) for step in range(5)]  # fmt: skip
    made = write(from_table(pd.DataFrame(rows), Reading(), "t", tmp_path), kinds=["svg"])

    def colours(figure: str) -> list[str]:
        """Of the lines of a figure's legend, in its order."""
        legend = (made.page.parent / "figures" / f"{figure}.svg").read_text().split('id="legend_')[-1]
        return [part.split(";")[0].strip() for part in legend.split("stroke: ")[1:]]

    of_four = dict(zip(["dcgan", "plain", "x", "y"], colours("quality"), strict=True))
    assert len(set(of_four.values())) == 4
    assert colours("losses") == [of_four["x"], of_four["y"]]


@pytest.mark.parametrize("quality", [[math.inf, math.inf], [1.0, math.inf], [1e308, 1e-308]])
def test_numbers_that_cannot_be_drawn_are_no_error(quality: list[float], tmp_path: Path) -> None:
    table = pd.DataFrame({"arm": ["a", "b"], "seed": 1, "quality": quality, "loss": [-1e308, 1.0]})
    page = write_report(from_table(table, Reading(), "t", tmp_path), kinds=["svg"])
    assert page.exists()


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
