"""The result in sentences."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from others import MAPPING, results, some_table

from analysis.page.report import write_report
from analysis.sources.columns import Reading
from analysis.sources.table import from_table
from analysis.study import Study


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
    assert said.endswith("n = 5 paired seeds): fewer than 7 pairs are described, not tested.")
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
