"""Tables as people read and copy them."""

import csv
import io
import re

import numpy as np
import pandas as pd
import pytest

from analysis.page.tables import Table, of, written
from analysis.terms import terms_of


def test_latex_has_the_cells_and_nothing_that_latex_would_run() -> None:
    frame = pd.DataFrame({"run_id": ["a_b", "\\input{x} 5 % & $y$"], "fd": [1.23456, np.nan]})
    lines = Table("t", "", "", frame).latex().splitlines()
    assert lines[0] == r"\begin{tabular}{lr}"
    assert r"run id & fd \\" in lines
    assert r"a\_b & 1.23 \\" in lines
    assert r"\textbackslash input\{x\} 5 \% \& \$y\$ &  \\" in lines


def test_no_cell_and_no_head_of_a_csv_is_a_formula() -> None:
    frame = pd.DataFrame({"=a": ["=1+1", "+x", "-x", "@x", "\tx", "\rx", "x=1", " =1", "＝1"],
                          "fd": [-1.5, 2, 3, 4, 5, 6, -np.inf, 1, 1], "n": range(-1, 8),
                          "-b": [None, 1, -2.5, "-3", True, np.nan, "x", "x", "x"]})  # fmt: skip
    rows = list(csv.reader(io.StringIO(Table("t", "", "", frame).csv(), newline="")))
    assert rows[0] == ["'=a", "fd", "n", "'-b"]
    assert [row[0] for row in rows[1:]] == ["'=1+1", "'+x", "'-x", "'@x", "'\tx", r"'\rx", "x=1", "' =1", "'＝1"]
    assert rows[1][1:] == ["-1.5", "-1", ""]
    assert [row[3] for row in rows[2:]] == ["1", "-2.5", "'-3", "True", "", *"xxx"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7.0684, "7.07"), (1.0, "1.00"), (0.000123456, "0.000123"), (999.4, "999"), (999.7, "1,000"),
        (23450.4, "23,450"), (100.0, "100"), (0.0, "0"), (-0.0, "0"),
        (-1234.5, "-1,234"), (3e9, "3.00e+09"), (np.inf, "inf"), (-np.inf, "-inf"), (np.nan, ""), (None, ""),
        (23450, "23,450"), (np.int64(5), "5"), (True, "yes"), (np.False_, "no"), ("a", "a"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value: object, text: str) -> None:
    assert written(value) == text


def test_limits_stand_in_brackets_beside_their_estimate() -> None:
    frame = pd.DataFrame({
        "arm": ["a", "b", "c"],
        "fd": [7.0684, 2.0, np.nan], "fd_low": [6.4, np.nan, np.nan], "fd_high": [9.0, 3, np.nan],
        "failures": [1, 2, 3], "failure_rate": [0.5, 0.5, 1.0], "low": [0.1] * 3, "high": [0.9] * 3,
        "modes_low": [3.0, 4.0, 5.0],
    })  # fmt: skip
    table = Table("t", "", "", frame)
    assert table.heads() == ["arm", "fd", "failures", "failure rate", "modes low"]
    assert table.cells()[0] == ["a", "7.07 [6.40, 9.00]", "1", "0.500 [0.100, 0.900]", "3"]
    assert table.cells()[1][1] == "2.00"  # without an interval
    assert table.cells()[2][1] == ""
    assert table.columns[1].ends == ("fd low", "fd high")


def test_what_says_nothing_is_not_shown_and_stays_in_the_file() -> None:
    frame = pd.DataFrame({
        "context": ["c"] * 2, "arm": ["sn", "dcgan"], "diverged": [0, 0], "failed": [0, 1], "p": [np.nan] * 2,
        "note": ["", ""], "zero": [0, 0],
    })  # fmt: skip
    table = Table("t", "", "", frame, counts=["diverged", "failed"])
    assert table.heads() == ["arm", "failed", "zero"]
    assert table.cells() == [["SN", "0", "0"], ["DCGAN", "1", "0"]]
    assert list(table.frame) == list(frame)
    assert Table("t", "", "", frame, ours=False).cells()[0][0] == "sn"  # another program's arm of that name
    assert Table("t", "", "", frame, rows=pd.Series([False, True])).cells() == [["DCGAN", "0", "1", "0"]]
    nothing = Table("t", "", "", frame, rows=pd.Series([False, False]))
    assert nothing.columns == nothing.cells() == []


def test_wide_tables_are_shown_in_parts_that_fit_and_name_their_rows() -> None:
    frame = pd.DataFrame({"arm": ["sn"], "layer": ["conv1"], **{f"number_{i}": [1.234567 * i] for i in range(40)}})
    table = Table("t", "", "", frame)
    blocks = table.blocks()
    assert len(blocks) > 1
    for block in blocks:
        assert [column.name for column in block[:2]] == ["arm", "layer"]
        assert sum(column.width for column in block) <= 104
    assert [column.name for block in blocks for column in block[2:]] == list(frame)[2:]


def test_captions_say_what_judges() -> None:
    pixels, inception, other = (terms_of([("folder", judge)]) for judge in ("pixels", "inception", "mnist"))
    empty = pd.DataFrame()
    for name in ("quality", "protocol", "reach"):
        assert not re.search(r"\bfd\b|features of|FID", of(name, empty, pixels).caption), name
        assert not re.search(r"\bfd\b|a classifier|the classifier|not FID", of(name, empty, inception).caption), name
    assert "there is no classifier" in of("protocol", empty, pixels).caption
    assert "in the features of Inception" in of("quality", empty, inception).caption
    assert "they are not FID" in of("quality", empty, other).caption
    assert "mode_kl" not in of("quality", empty, other).caption
    assert "mode_kl" in of("quality", empty).caption
