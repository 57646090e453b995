"""Records of a study, as they lie on the disk."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import small

from analysis.events import Thresholds
from analysis.load import load
from analysis.page.content import content_of
from analysis.study import sound
from experiments.record import Record, State
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
    assert "line 1: a metric is no number" in study.runs.set_index("run_id").loc[record.run_id, "damage"]


@pytest.mark.parametrize("depth", [2, 10_000, 200_000])
@pytest.mark.parametrize("state", ["finished", "interrupted"])
def test_rows_that_are_nested_are_named_and_end_nothing(depth: int, state: str, mixed_study: Path) -> None:
    """Arrow's reader ended the process. The rows of a result are not those that it ended with; of another run most
    are readable."""
    record = Record(mixed_study / small(steps=60).run_id)
    n_rows = len(record.rows())
    with open(record.metrics_path, "a") as file:
        file.write(f'{{"step": 70, "loss/d": {"[" * depth}{"]" * depth}}}\n{{"step": 80, "loss/d": {{"a": 1}}}}\n')
    record.write_status(record.status() | {"state": State(state)})
    study = load(mixed_study)
    damage = study.runs.set_index("run_id").loc[record.run_id, "damage"]
    assert f"line {n_rows + 1}: " in damage
    assert ("was changed after the run ended" in damage) == (state == "finished")
    assert len(study.history[study.history["run_id"] == record.run_id]) == n_rows
    assert record.run_id not in set(sound(study).history["run_id"]) or state != "finished"


@pytest.mark.parametrize(
    "line",
    ['{"step": 70, "loss/d": true}', '{"step": 70, "loss/d": "2020-01-01"}', '{"step": 60, "loss/d": 1}',
     '{"step": 65.5, "loss/d": 1}', '{"step": -1}'],
)  # fmt: skip
def test_rows_that_no_run_writes_are_named_although_arrow_reads_them(line: str, mixed_study: Path) -> None:
    record = Record(mixed_study / small(steps=60).run_id)
    n_rows = len(record.rows())
    with open(record.metrics_path, "a") as file:
        file.write(line + "\n")
    record.write_status(record.status() | {"state": State.INTERRUPTED})
    study = load(mixed_study)
    assert f"line {n_rows + 1}: " in study.runs.set_index("run_id").loc[record.run_id, "damage"]
    assert len(study.history[study.history["run_id"] == record.run_id]) == n_rows


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "[]", '{"arm": "unknown"}', "\udcff", None])
def test_one_configuration_that_is_lost_refuses_no_other_run(
    content: str | None, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    """Of single runs, without a study file: `plan`, `status` and `report` name it and show the others."""
    for seed in (0, 1):
        execute(small(seed=seed, steps=10), "single", tmp_path / "single", lambda message: None)
    lost = Record(tmp_path / "single" / small(seed=1, steps=10).run_id)
    lost.config_path.unlink()
    if content is None:
        lost.config_path.mkdir()
    else:
        lost.config_path.write_bytes(content.encode(errors="surrogateescape"))
    for name in ("plan", "status", "report")[: 3 if content == "{" else 2]:  # a report takes seconds
        code, output, errors = command(name, "single", "--runs-dir", tmp_path)
        assert code == 0, errors
        assert lost.run_id in output + errors
        assert "config.json" in output + errors
    study = load(tmp_path / "single")
    assert list(study.runs["seed"]) == [0]
    assert study.extra == [lost.run_id]
    assert lost.run_id in study.warnings[0]
    Record(tmp_path / "single" / small(seed=0, steps=10).run_id).config_path.write_text("{")
    code, _, errors = command("report", "single", "--runs-dir", tmp_path)
    assert (code, "config.json" in errors, "Traceback" in errors) == (2, True, False)


@pytest.mark.parametrize("name", ["metrics.jsonl", "protocol.json", "config.json", "evaluations.jsonl", "status.json"])
def test_a_record_that_leads_out_of_its_folder_is_not_read(name: str, mixed_study: Path, tmp_path: Path) -> None:
    record = Record(mixed_study / small(steps=60).run_id)
    outside = tmp_path / "outside"
    (record.folder / name).rename(outside)
    (record.folder / name).symlink_to(outside)
    study = load(mixed_study)
    run = study.runs.set_index("run_id").loc[record.run_id]
    assert "leads out of" in f"{run['damage']} {run['error']}"
    assert record.run_id not in set(sound(study).history["run_id"]) or name == "status.json"
    (record.folder / name).unlink()
    (record.folder / name).symlink_to(Path("..") / record.run_id / "elsewhere")  # within the folder it may
    outside.rename(record.folder / "elsewhere")
    assert load(mixed_study).runs.set_index("run_id").loc[record.run_id, "damage"] == ""


def test_grids_that_lead_out_of_the_folder_are_none(mixed_study: Path, tmp_path: Path) -> None:
    record = Record(mixed_study / small(steps=60).run_id)
    steps = sorted(record.grids())
    outside = tmp_path / "private.png"
    outside.write_bytes(record.sample_path(steps[-1]).read_bytes())
    for path in (record.sample_path(steps[0]), record.samples_path / "real.png"):
        path.unlink()
        path.symlink_to(outside)
    assert (sorted(record.grids()), record.real_grid()) == (steps[1:], None)
    assert sorted(load(mixed_study).samples[record.run_id]) == steps[1:]
    record.samples_path.rename(tmp_path / "samples")
    record.samples_path.symlink_to(tmp_path / "samples")
    assert record.run_id not in load(mixed_study).samples


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
