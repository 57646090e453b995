"""Records of a study, as they lie on the disk."""

from pathlib import Path

import pytest
from conftest import small

from analysis.events import Thresholds
from analysis.load import load
from analysis.page.content import content_of
from experiments.record import Record
from experiments.run import execute
from sngan.config import InputError


def test_metrics_that_a_run_did_not_end_with_are_named(mixed_study: Path) -> None:
    assert set(load(mixed_study).runs["damage"]) == {""}
    changed, missing = (
        Record(mixed_study / small(steps=60).run_id),
        Record(mixed_study / small(steps=60, seed=1).run_id),
    )
    with open(changed.metrics_path, "a") as file:
        file.write('{"step": 70}\n')
    missing.metrics_path.unlink()
    damage = load(mixed_study).runs.set_index("run_id")["damage"]
    assert damage[changed.run_id] == "metrics.jsonl was changed after the run ended"
    assert damage[missing.run_id] == "metrics.jsonl is missing"
    assert (damage != "").sum() == 2
    problems = {run["run_id"]: run["error"] for run in content_of(load(mixed_study), [], Thresholds())["problems"]}
    assert {run_id: problems[run_id] for run_id in (changed.run_id, missing.run_id)} == dict(damage[damage != ""])


def test_a_metric_that_is_no_number_is_named_with_its_file(mixed_study: Path) -> None:
    record = Record(mixed_study / small(steps=60).run_id)
    record.metrics_path.write_text('{"step": 0, "loss/d": "high"}\n')
    study = load(mixed_study)
    assert "a metric is no number" in study.runs.set_index("run_id").loc[record.run_id, "damage"]


def test_a_folder_without_a_study_file_is_all_its_runs(tmp_path: Path) -> None:
    for seed in (0, 1):
        execute(small(seed=seed, steps=10), "single", tmp_path / "single", lambda message: None)
    study = load(str(tmp_path / "single"))
    assert (study.name, study.account["finished"], study.extra) == ("single", 2, [])


def test_where_there_is_nothing_the_message_says_what_to_do(tmp_path: Path, mixed_study: Path) -> None:
    with pytest.raises(InputError, match="train first with `sngan sweep demo`"):
        load(tmp_path / "demo")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no run has started there"):
        load(tmp_path / "empty")
