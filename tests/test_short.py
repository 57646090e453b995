"""The result in sentences."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from others import MAPPING, results, some_table

from analysis.page.report import write_report
from analysis.sources.columns import Reading
from analysis.sources.table import from_table
from analysis.study import Study


@pytest.fixture(autouse=True)
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.page.figures.draw", lambda *_: iter(()))


def in_short(study: Study) -> list[str]:
    return json.loads((write_report(study, kinds=["svg"]).parent / "statistics.json").read_text())["short"]


BY_SCORE = Reading({"quality": "score"})
LOST = pd.DataFrame({"arm": ["a"] * 10 + ["b"] * 10, "seed": [*range(10)] * 2, "quality": [2.0] * 11 + [np.inf] * 9})


@pytest.mark.parametrize(
    ("table", "reading", "parts"),
    [
        (results(1.0, ("a", "b")), BY_SCORE._replace(maximize=True),
         ["By score (higher is better) b is better than a: +0.99 (95 % interval +0.87",
          "n = 10 paired seeds, adjusted p 0.002)"]),
        (results(1.0, ("a", "b")), BY_SCORE, ["By score (lower is better) b is worse than a: +"]),
        (results(0.0, ("a", "b")), BY_SCORE, ["nothing can be said of b against a: "]),
        (results(1, ("a", "b"), n=5), BY_SCORE,
         ["nothing can be said of b against a: ",
          "n = 5 paired seeds): fewer than 7 pairs are described, not tested."]),
        (results(1, ("a",)), BY_SCORE,
         ["By score (lower is better) nothing can be said: there are no two arms with results for the same seeds."]),
        (pd.DataFrame({"arm": ["a", "b"], "seed": [1, 2], "quality": [2.0, 4.0]}), Reading(),
         ["By quality (lower is better) nothing can be said of b against a: they share no seed."]),
        (LOST, Reading(), ["b is worse than a: in most pairs only a has an end (n = 10 paired seeds"]),
        (LOST.assign(quality=np.inf), Reading(),
         ["nothing can be said of b against a: no pair of runs has two ends"]),
        (some_table(12), Reading(MAPPING),
         ["By fid (lower is better) better, lr 1 is better than base: -50 % (95 % interval -50 % to ",
          "n = 12 paired seeds, adjusted p 0.0", "; without an end: 1 of 12 runs of better, lr 1."]),
    ],
)  # fmt: skip
def test_it_says_in_a_sentence_which_arm_is_better(
    table: pd.DataFrame, reading: Reading, parts: list[str], tmp_path: Path
) -> None:
    (said,) = in_short(from_table(table, reading, "t", tmp_path / "t"))
    places = [said.find(part) for part in parts]
    assert places == sorted(places)
    assert min(places) >= 0
    if parts[-1].endswith("."):
        assert said.endswith(parts[-1])


def test_of_several_data_sets_the_first_sentence_is_of_all(tmp_path: Path) -> None:
    study = from_table(results(1.0, ("a", "b"), sets=8), BY_SCORE._replace(maximize=True), "t", tmp_path / "t")
    said = in_short(study)
    assert "over 8 data sets, a run of b is better than one of a with probability 1.00" in said[0]
    assert "adjusted p 0.0078), so it is better" in said[0]
    assert len(said) == 9
