"""What README says of the reference study."""

import re
from pathlib import Path

import pytest

from analysis.answer import answer
from analysis.load import load
from analysis.sources.frozen import freeze
from analysis.synthetic import write_records
from experiments.study import find, read
from sngan.config import InputError


def test_no_outcome_is_told_before_the_last_run(tmp_path: Path) -> None:
    folder = write_records(tmp_path / "many", runs=42, rows=40)  # 7 seeds of 6 arms
    plan = read(folder / "study.yaml")
    last = folder / plan.configs[-1].run_id
    last.rename(tmp_path / "last")
    with pytest.raises(InputError, match="no frozen study"):
        answer(plan, tmp_path / "frozen")
    freeze(load(folder), tmp_path / "frozen")
    growing = "\n".join(answer(plan, tmp_path / "frozen"))
    assert "6 of its 7 seeds are complete (41 of 42 runs)" in growing
    assert not re.search(r"\*\*|supported|\[-?\d", growing)  # no verdict, and no interval
    (tmp_path / "last").rename(last)
    freeze(load(folder), tmp_path / "frozen")
    whole = answer(plan, tmp_path / "frozen")
    assert whole[0].startswith("From 42 runs, 7 seeds per cell.")
    rows = [line.split(" | ") for line in whole if line.startswith(("| SN", "| Without"))]
    assert {len(row) for row in rows} == {6}
    assert "**" in rows[0][3]
    assert rows[0][5] == "7 |"
    assert re.fullmatch(r"share of seeds in which sn_dcgan alone failed, .* \(\d and \d\)", rows[0][1])
    assert re.fullmatch(r"-?\d[\d.]* \[-?\d[\d.]*, -?\d[\d.]*\]", rows[0][4])
    assert len({row[1] for row in rows}) == len(rows)  # each says what it measured
    with pytest.raises(InputError, match="holds the study many, not demo"):
        answer(find("demo"), tmp_path / "frozen")


def test_results_that_were_written_open_an_unfinished_study(tmp_path: Path) -> None:
    folder = write_records(tmp_path / "many", runs=48, rows=40)  # 8 seeds of 6 arms
    plan = read(folder / "study.yaml")
    (folder / plan.configs[-1].run_id).rename(tmp_path / "last")
    freeze(load(folder), tmp_path / "results" / "data")
    assert answer(plan, tmp_path / "results" / "data")[0].startswith("Not yet")
    (tmp_path / "results" / "statistics.json").write_text("{}")
    told = answer(plan, tmp_path / "results" / "data")
    assert told[0].startswith("From 47 runs, 7 of the 8 planned seeds in every cell, the rest still to be trained.")
    (row,) = [line for line in told if line.startswith("| SN makes training more stable: fewer failures")]
    assert "in other views" not in row
    views = "claim,context,kind,view,verdict,reason,flips\n"
    context = row.split(" | ")[2]
    views += "".join(
        f'C7a,"{context}",,{view},{verdict},,{flips}\n'
        for view, verdict, flips in (("as planned", "inconclusive", False), ("by kd", "refused", True))
    )
    (tmp_path / "results" / "sensitivity.csv").write_text(views)
    (marked,) = [line for line in answer(plan, tmp_path / "results" / "data") if line.startswith(row[:48])]
    assert "(in other views refused: by kd)" in marked
