"""What the page says first: true for the study at hand, in numbers that statistics.json has."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from others import own_images, results

from analysis import by_arm
from analysis.claims import judge
from analysis.page import opening
from analysis.page.report import write_report
from analysis.page.tables import written
from analysis.sources.columns import Reading
from analysis.sources.table import from_table
from analysis.stability import summarize
from analysis.study import Study
from analysis.synthetic import study
from analysis.variants import label_of

TRUTHS = {"dcgan": {"failure": 0.1}, "sn_dcgan": {"fd": 8.0, "failure": 0.3}, "plain": {"fd": 16.0}, "sn": {"fd": 6.0}}

NOTHING = pd.DataFrame(columns=["context", "arm", "n", "ended", "failures", "q_centre"])


def statistics_of(of: Study) -> dict:
    return json.loads((write_report(of, kinds=["svg"]).parent / "statistics.json").read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analysis.page.figures.draw", lambda *_: iter(()))  # no figure is looked at here
        return statistics_of(study(tmp_path_factory.mktemp("opening"), TRUTHS, seeds=8))


def test_the_paragraph_counts_the_runs_and_their_states(page: Path) -> None:
    said = json.loads((page.parent / "statistics.json").read_text())["short"]
    assert (
        said[0] == "6 runs: 2 arms with 3 seeds each on digits, setting C; 3 finished, 1 diverged, 1 failed, 1 missing."
    )
    assert "cannot support a claim" in said[-1]
    assert any("Failed runs: DCGAN: " in text for text in said)
    assert any("runs without an end: DCGAN: 1 of 3, SN: 1 of 2" in text for text in said)


def test_every_number_of_the_paragraph_is_that_of_a_table(found: dict) -> None:
    arms = {row["arm"]: row for row in found["arms"]}
    quality = next(text for text in found["short"] if text.startswith("fd at the end of training"))
    for arm, row in arms.items():
        interval = f"{written(row['q_centre'])} [{written(row['q_low'])}, {written(row['q_high'])}]"
        assert f"{label_of(arm)}: {interval}" in quality
    failed = next(text for text in found["short"] if text.startswith("Failed runs"))
    counts = dict(re.findall(r"([\w-]+): (\d+ of \d+)", failed))
    assert counts == {label_of(arm): f"{row['failures']} of {row['n']}" for arm, row in arms.items()}
    tested = found["short"][-1]
    verdicts = pd.Series([row["verdict"] for row in found["verdicts"]]).value_counts()
    for verdict, count in verdicts.items():
        assert f"{count} {verdict}" in tested


def test_the_layer_whose_norm_is_the_largest_is_told(tmp_path: Path) -> None:
    rows = [("c", arm, layer, value) for layer, values in {"conv1": (0.4, 1.0), "conv2": (1.63, 1.0)}.items()
            for arm, value in zip(("dcgan", "sn_dcgan"), values, strict=True)]  # fmt: skip
    sigma = pd.DataFrame(rows, columns=["context", "arm", "layer", "sigma"])
    of = study(tmp_path, {"dcgan": {}, "sn_dcgan": {}}, seeds=2)

    def told(frame: pd.DataFrame) -> list[str]:
        said = opening.paragraph(of, NOTHING, frame, judge(of, summarize(of.history, of.runs)))
        return [sentence.text for sentence in said if "Spectral norm" in sentence.text]

    (text,) = told(sigma)
    assert text.startswith("Spectral norm of conv2 as used")
    assert text.endswith("DCGAN: 1.63; SN-DCGAN: 1.00.")
    assert told(sigma.assign(sigma=1.0)) == []  # alike: no sentence
    assert told(sigma[:0]) == []


def test_of_another_program_runs_and_qualities_are_told_by_their_own_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.page.figures.draw", lambda *_: iter(()))
    table = results(1.0, ("sn", "b"))
    statistics = statistics_of(from_table(table, Reading({"quality": "score"}, maximize=True), "t", tmp_path))
    runs, quality = statistics["about"]
    assert runs == "20 runs: 2 arms with 10 seeds each on d0; all finished."
    assert quality.startswith("score at the end of training (higher is better; 95 % intervals in brackets): sn: ")
    for row in statistics["arms"]:
        assert f"{row['arm']}: {written(row['q_centre'])} [{written(row['q_low'])}, " in quality


def test_a_verdict_has_a_line_with_effect_interval_and_n(found: dict) -> None:
    lines, verdicts = found["verdict_lines"], {row["claim"]: row for row in found["verdicts"]}
    told = {line.partition(":")[0]: line for line in lines}
    assert set(told) == {claim for claim, row in verdicts.items() if row["verdict"] != "not tested"}
    for claim, line in told.items():
        row = verdicts[claim]
        assert f"{row['statement']} {row['verdict'].capitalize()}: " in line
        parts = [part for part in found["evidence"] if part["claim"] == claim and part["effect"] is not None]
        numbers = [f"{written(p['effect'])} [{written(p['low'])}, {written(p['high'])}], n = {p['n']}" for p in parts]
        assert not parts or any(number.replace("-", "\N{MINUS SIGN}") in line for number in numbers), line
    decided = [any(f" {verdict.capitalize()}: " in line for verdict in opening.DECIDED) for line in lines]
    assert decided == sorted(decided, reverse=True)


def test_one_claim_in_several_contexts_is_one_line_for_each_verdict(tmp_path: Path) -> None:
    of = study(tmp_path, TRUTHS, seeds=9, settings={"A": 1.0, "C": 3.0})
    claims = judge(of, summarize(of.history, of.runs))
    lines = opening.verdict_lines(claims)
    assert len({(line.claim, line.verdict) for line in lines}) == len(lines)
    (c8,) = [line for line in lines if line.claim == "C8" and line.verdict == "supported"]
    assert c8.effect.count("n = 9") == 2
    assert "setting A" in c8.effect
    assert "setting C" in c8.effect


def test_what_was_not_tested_is_said_with_what_it_lacks(tmp_path: Path) -> None:
    of = study(tmp_path, {"dcgan": {}, "sn_dcgan": {}}, seeds=8)
    claims = judge(of, summarize(of.history, of.runs))
    reasons = opening.untested(claims)
    assert any("C8" in names and "needs SN" in why for why, names in reasons)
    told = [name for _, names in reasons for name in names.split(", ")]
    assert set(told) == set(claims.loc[claims["verdict"] == "not tested", "claim"])


def test_a_study_in_which_nothing_has_ended_says_so(tmp_path: Path) -> None:
    of = study(tmp_path, {"dcgan": {}, "sn": {}}, seeds=2)
    of = replace(of, runs=of.runs.assign(state="missing"), history=of.history[:0], account=pd.Series({"missing": 4}))
    said = opening.paragraph(of, NOTHING, pd.DataFrame(), judge(of, summarize(of.history, of.runs)))
    assert said[0].text.endswith("; 4 missing.")
    assert said[-1].text == "No run has ended yet."


def test_an_arm_without_ends_has_no_number(tmp_path: Path) -> None:
    rows = {"arm": ["dcgan", "plain", "sn"], "context": "c", "n": 5, "ended": [2, 4, 5], "failures": [3, 1, 0],
            "q_centre": [np.inf, 9.0, 8.0], "q_low": [9.0, 8.0, 7.0], "q_high": [np.inf, np.inf, 9.0]}  # fmt: skip
    of = study(tmp_path, {"dcgan": {}, "sn": {}}, seeds=2)
    claims = judge(of, summarize(of.history, of.runs))
    text = " ".join(said.text for said in opening.paragraph(of, pd.DataFrame(rows), pd.DataFrame(), claims))
    assert (
        "plain: 9.00 [8.00, no limit]; SN: 8.00 [7.00, 9.00]; runs without an end: DCGAN: 3 of 5, plain: 1 of 5" in text
    )
    assert "inf" not in text.replace("info", "")
    none = pd.DataFrame(rows).assign(ended=0)
    said = opening.paragraph(of, none, pd.DataFrame(), claims)
    assert "No run has an end, so none has a final fd." in [sentence.text for sentence in said]


def test_where_one_context_has_enough_seeds_its_verdicts_are_told(tmp_path: Path) -> None:
    of = study(tmp_path, TRUTHS, seeds=9, settings={"A": 1.0, "C": 1.0})
    kept = ~((of.runs["context"] == "mnist, setting C") & (of.runs["seed"] > 2))
    of = replace(of, runs=of.runs[kept], history=of.history[of.history["run_id"].isin(of.runs.loc[kept, "run_id"])])
    claims = judge(of, summarize(of.history, of.runs))
    said = opening.paragraph(of, NOTHING, pd.DataFrame(), claims)
    assert "cannot support" not in said[-1].text
    assert "supported" in said[-1].text


def said_of(of: Study) -> list[str]:
    summary = summarize(of.history, of.runs, terms=of.terms)
    arms, claims = by_arm.arms(summary, of.terms), judge(of, summary)
    return [said.text for said in opening.paragraph(of, arms, pd.DataFrame(columns=["context", "sigma"]), claims)]


def test_it_says_what_could_not_be_seen(tmp_path: Path) -> None:
    pixels = " ".join(said_of(own_images(tmp_path, ("a", 0, "pixels"))))
    assert (
        "None of the 6 runs failed. Mode collapse could not be seen: samples are judged by their pixels alone."
        in pixels
    )
    assert "fd_pixels at the end of training (how far the pixels of samples are from the data's; lower is" in pixels
    assert "the trivial sampler: 160." in pixels
    assert not re.search(r"\bfd\b|classifier", pixels)
    assert "FID at the end of training" in " ".join(said_of(own_images(tmp_path, ("a", 0, "inception"))))
    assert "could not be seen" not in " ".join(said_of(own_images(tmp_path, ("a", 3, "labels"))))


def test_of_several_judges_each_context_names_its_own(tmp_path: Path) -> None:
    said = said_of(own_images(tmp_path, ("a", 0, "pixels"), ("b", 3, "labels")))
    assert said[1].startswith("Best and worst arm by quality at the end")
    assert "folder aaaaaaaa, judge pixels (fd_pixels): " in said[1]
    assert "folder bbbbbbbb, judge labels (fd): " in said[1]
    assert said[2].endswith(
        "In folder aaaaaaaa, judge pixels: mode collapse could not be seen: samples are judged by their pixels alone."
    )
