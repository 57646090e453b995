"""Runs that ended, told to W&B from their records."""

import shutil
from pathlib import Path

import pytest
from conftest import small
from test_tracker import history_of, inspect, merged, wandb_file

from experiments.record import Record, State
from experiments.run import execute
from experiments.study import Study, single_runs
from experiments.tracking.sending import send_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Runs that were trained without W&B: one finished, one failed, one whose metrics were changed, one missing."""
    configs = [small(seed=seed, wandb="disabled") for seed in range(4)]
    for config in configs[:3]:
        execute(config, "tiny", tmp_path / "tiny", lambda message: None)
    _, failed, changed = (Record(tmp_path / "tiny" / config.run_id) for config in configs[:3])
    failed.write_status(failed.status() | {"state": State.FAILED, "error": "ZeroDivisionError"})
    failed.checkpoint_path.unlink()  # which would contradict it
    with open(changed.metrics_path, "a") as file:
        file.write("x\n")
    return single_runs("tiny", configs)


def test_what_has_ended_is_told_and_what_was_damaged_is_named(study: Study, tmp_path: Path) -> None:
    by_seed = {config.seed: config.run_id for config in study.configs}
    told: list[tuple[int, int]] = []
    for _ in range(2):  # the second time the files are written again, and those of before set aside
        sent = send_study(study, tmp_path / "tiny", "offline", lambda done, total: told.append((done, total)))
        assert set(sent.sent) == {by_seed[0], by_seed[1]}
        (line,) = sent.not_sent
        assert line == f"{by_seed[2]}: metrics.jsonl was changed after the run ended"
    assert told == [(1, 3), (2, 3), (3, 3)] * 2
    record, failed = (Record(tmp_path / "tiny" / by_seed[seed]) for seed in (0, 1))
    found = inspect(wandb_file(record))
    assert [row["step"] for row in history_of(found)] == [row["step"] for row in record.rows()]
    # no code: it may be another by now
    assert {artifact["type"] for artifact in found["artifact"]} == {"dataset", "model", "record"}
    assert merged(found["summary"])["state"] == "finished"
    assert "real" in history_of(found)[0] or "real.path" in history_of(found)[0]
    assert inspect(wandb_file(failed))["exit"][0]["exit_code"] == 1
    assert record.status()["attempts"][0]["wandb"] == "disabled"  # of the training, which is not changed


def test_what_cannot_be_told_is_named(study: Study, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "tiny" / "wandb", ignore_errors=True)
    (tmp_path / "tiny" / "wandb").write_text("a file where W&B wants a folder")
    sent = send_study(study, tmp_path / "tiny", "offline", lambda done, total: None)
    assert sent.sent == []
    assert len(sent.not_sent) == 3
    assert "not tried" in sent.not_sent[1]


def test_a_run_in_training_is_left_alone(study: Study, tmp_path: Path) -> None:
    record = Record(tmp_path / "tiny" / study.configs[0].run_id)
    with record.claim():
        sent = send_study(study, tmp_path / "tiny", "offline", lambda done, total: None)
    assert record.run_id not in sent.sent
    assert f"{record.run_id}: another process has it" in sent.not_sent


def test_of_single_runs_those_that_cannot_be_told_apart_are_named(study: Study, tmp_path: Path) -> None:
    finished = Record(tmp_path / "tiny" / study.configs[0].run_id)
    finished.config_path.write_text("{")
    sent = send_study(single_runs("tiny", study.configs[1:2]), tmp_path / "tiny", "offline", lambda done, total: None)
    assert sent.sent == [study.configs[1].run_id]
    (line,) = sent.not_sent
    assert line.startswith(f"{finished.run_id}: {finished.config_path}: not readable as JSON")
