"""The same runs read from records and from what W&B's client wrote: equal frames."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from conftest import launched_study, small
from test_tracking import train_offline

from analysis.load import load
from analysis.page.report import write_report
from analysis.sources import wandb_runs
from analysis.study import Study
from experiments.cli import wandb_filters
from experiments.record import KILLED, Record
from experiments.run import execute
from sngan.config import InputError

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def _study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with runs that finished, failed, are missing and are extra, mirrored offline."""
    folder = tmp_path_factory.mktemp("mirrored") / "tiny"
    configs = launched_study(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", "")
        for config in (*configs[:5], small(arm="penalty", steps=60)):
            if config == configs[3]:
                patch.setattr("experiments.run.train", lambda *_: 1 / 0)
            execute(replace(config, threads=1, device="cpu", wandb="offline"), "tiny", folder, lambda message: None)
            if config == configs[3]:
                patch.undo()
                patch.setenv("WANDB_API_KEY", "")
    return folder


@pytest.fixture
def study_folder(_study_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(_study_folder, tmp_path / "runs" / "tiny", ignore=shutil.ignore_patterns(".history.cache"))


def assert_equal(found: Study, expected: Study) -> None:
    pd.testing.assert_frame_equal(found.runs, expected.runs)
    pd.testing.assert_frame_equal(found.history, expected.history)
    pd.testing.assert_series_equal(found.account, expected.account)
    for name in ("name", "description", "extra", "protocols", "folder", "bench"):
        assert getattr(found, name) == getattr(expected, name), name
    grids = [
        {run_id: {step: grid.read_bytes() for step, grid in of.items()} for run_id, of in study.samples.items()}
        for study in (found, expected)
    ]
    assert grids[0] == grids[1]
    assert any(grids[1].values())


def test_offline_files_give_the_frames_of_the_records(study_folder: Path) -> None:
    expected = load(study_folder)
    assert expected.account.to_dict() == {
        "finished": 4, "diverged": 0, "failed": 1, "interrupted": 0, "running": 0, "missing": 1,
    }  # fmt: skip
    assert_equal(load(f"wandb-files:{study_folder / 'wandb'}"), expected)
    assert_equal(load(f"wandb-files:{study_folder}", study="tiny"), expected)


def test_the_report_of_offline_files_is_the_report_of_the_records(study_folder: Path) -> None:
    page = write_report(load(study_folder), kinds=["svg"])
    expected = {path.relative_to(page.parent): path.read_bytes() for path in page.parent.rglob("*") if path.is_file()}
    shutil.rmtree(page.parent)
    write_report(load(f"wandb-files:{study_folder}"), kinds=["svg"])
    found = {path.relative_to(page.parent): path.read_bytes() for path in page.parent.rglob("*") if path.is_file()}
    assert found == expected


def test_non_finite_numbers_and_missing_ones_stay_what_they_are(tmp_path: Path) -> None:
    diverged = train_offline(tmp_path, arm="plain", steps=2000, lr=10.0, beta1=0.999, beta2=0.0)
    train_offline(tmp_path, arm="dcgan", steps=30)
    expected, found = load(tmp_path / "tiny"), load(f"wandb-files:{tmp_path / 'tiny' / 'wandb'}")
    assert_equal(found, expected)
    assert expected.account["diverged"] == 1
    lost = diverged.status()["error"].removeprefix("non-finite: ").split(", ")[0]
    assert math.isnan(found.history.set_index("run_id").loc[diverged.run_id, lost].iloc[-1])
    assert found.history["sigma_bn/conv1"].isna().any()  # plain has no batch norm: the key is absent


def test_the_words_of_wandb_for_numbers_that_are_none() -> None:
    rows = [
        {"step": 0, "a/b": "Infinity", "c/d": "NaN", "e/f": None, "g/h": 1, "samples": "x", "time/x": 1, "_step": 4},
        {"step": 10, "a/b": math.inf, "c/d": math.nan, "e/f": "-Infinity", "g/h": 2, "spectrum/x": [1.0]},
    ]
    frame, damage = wandb_runs.frame(rows)
    assert (list(frame), damage) == (["step", "a/b", "c/d", "e/f", "g/h"], "")
    assert frame[["a/b", "c/d", "e/f"]].isna().all(axis=None)
    assert frame["g/h"].to_list() == [1, 2]


def test_a_resumed_run_counts_once(tmp_path: Path) -> None:
    """As W&B has it after a kill: fragments that overlap, of which the later one is right."""
    rows = [{"step": s, "loss/d": s / 10, "_step": i} for i, s in enumerate((0, 10, 20, 30))]
    again = [{"step": s, "loss/d": s / 10 + 1, "_step": i} for i, s in enumerate((20, 30, 40), start=4)]
    found = wandb_runs.cut_back([*rows, {"_step": 99}, *again])
    assert [(row["step"], row["loss/d"]) for row in found] == [(0, 0.0), (10, 1.0), (20, 3.0), (30, 4.0), (40, 5.0)]


def test_a_killed_run_is_interrupted(study_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An exit record that never came, as kill -9 leaves it."""
    (file,) = study_folder.glob("wandb/*-dcgan-C-s00-*/run-*.wandb")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 9 // 10])  # a torn end
    run = load(f"wandb-files:{study_folder}").runs.set_index("run_id").iloc[0]
    assert (run["state"], run["error"], run["attempts"]) == ("interrupted", KILLED, 1)
    assert 0 < run["step"] <= 60
    others = load(f"wandb-files:{study_folder}").runs[1:]
    caplog.clear()
    for rest in (b"", content[:7]):  # killed before W&B wrote anything
        file.write_bytes(rest)
        runs = load(f"wandb-files:{study_folder}").runs
        assert runs["state"].iloc[0] == "missing"
        pd.testing.assert_frame_equal(runs[1:].drop(columns="trivial_fd"), others.drop(columns="trivial_fd"))
    assert [f"{file}: W&B's reader cannot read it" in text for text in caplog.messages] == [True, True]
    for each in study_folder.glob("wandb/*/run-*.wandb"):
        each.write_bytes(b"")
    with pytest.raises(InputError, match="W&B's reader cannot read it"):
        load(f"wandb-files:{study_folder}")


def test_a_run_whose_summary_says_how_it_ended_has_ended(study_folder: Path) -> None:
    """Its exit record alone is lost; and the plan is that of whichever run still has it."""
    expected = load(study_folder)
    files = sorted(study_folder.glob("wandb/*/run-*.wandb"))
    files[0].write_bytes(files[0].read_bytes()[:-10])
    assert_equal(load(f"wandb-files:{study_folder}"), expected)
    files[-1].write_bytes(files[-1].read_bytes()[:1500])
    (study_folder / "study.yaml").unlink()
    found = load(f"wandb-files:{study_folder}")
    assert (found.description, len(found.runs)) == (expected.description, 6)


def test_rows_that_wandb_lacks_are_named(study_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = wandb_runs.inspected
    lost = lambda kind, content: kind == "history" and content["item"]["step"] in (20, 30)  # noqa: E731
    monkeypatch.setattr(wandb_runs, "inspected", lambda file: (found for found in real(file) if not lost(*found)))
    study = load(f"wandb-files:{study_folder}")
    finished = study.runs[study.runs["state"] == "finished"]
    assert set(finished["damage"]) == {"W&B lacks 2 of 7 rows"}


def test_what_wandb_has_otherwise_is_named(study_folder: Path, command: Command) -> None:
    arguments = ("status", "tiny", "--check-wandb", "--runs-dir", study_folder.parent)
    code, output, _ = command(*arguments)
    assert (code, output) == (0, "5 runs compared with W&B: 0 differences\n")
    changed = Record(next(study_folder.glob("digits-sn-C-s01-*")))
    rows = changed.rows()
    rows[2]["loss/d"] += 0.25
    del rows[4]
    changed.metrics_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    changed.write_status(changed.status() | {"metrics_sha256": changed.metrics_sha256()})
    shutil.rmtree(next(study_folder.glob("wandb/*-dcgan-C-s02-*")))
    code, output, _ = command(*arguments, "--json")
    found = json.loads(output)
    assert code == 1
    assert found["compared"] == 4
    lost, sha, missing, loss = found["differences"]
    assert lost.endswith("W&B does not have it")
    assert "metrics_sha256 is" in sha
    assert missing == f"{changed.run_id}: 1 rows are not in the record, the first at step 40"
    assert loss.startswith(f"{changed.run_id}: loss/d differs at 1 of 6 steps, first at step 20: ")
    changed.write_status(changed.status() | {"state": "running"})
    with changed.claim() as mine:
        assert mine
        code, output, _ = command(*arguments)
    assert "4 runs compared" not in output  # one of them trains right now
    assert "state is" not in output
    shutil.rmtree(study_folder / "wandb")
    code, _, errors = command(*arguments)
    assert code == 2
    assert "trained with --wandb disabled" in errors


def test_the_command_reads_wandbs_files(study_folder: Path, command: Command) -> None:
    code, output, errors = command(
        "report", "tiny", "--source", "wandb-files", "--figures", "svg", "--runs-dir", study_folder.parent
    )
    assert (code, output.strip()) == (0, str(study_folder / "report" / "index.html")), errors
    alone = study_folder.parent.parent / "elsewhere"
    shutil.move(study_folder / "wandb", alone / "wandb")
    code, output, errors = command("report", alone, "--source", "wandb-files", "--figures", "svg")
    assert (code, output.strip()) == (0, str(alone / "report" / "index.html")), errors
    for wrong in (["--source", "wandb"], ["--project", "a/b"], ["--filter", "lr=1"]):
        assert command("report", "tiny", *wrong)[0] == 2


def test_filters() -> None:
    assert wandb_filters("") == {}
    assert wandb_filters("lr=0.001,arm=sn") == {"config.lr": 0.001, "config.arm": "sn"}
    assert wandb_filters('{"tags": "v1"}') == {"tags": "v1"}
    for wrong in ("lr", "{", "a=["):
        with pytest.raises(InputError, match="neither FIELD=VALUE"):
            wandb_filters(wrong)


def test_bad_sources_are_errors(tmp_path: Path, study_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no W&B files at"):
        load(f"wandb-files:{tmp_path}")
    with pytest.raises(InputError, match="no runs of the study other"):
        load(f"wandb-files:{study_folder}", study="other")
    execute(small(wandb="offline"), "second", study_folder, lambda message: None)
    with pytest.raises(InputError, match="runs of 2 studies; name one of second, tiny"):
        load(f"wandb-files:{study_folder}")
    assert len(load(f"wandb-files:{study_folder}", study="tiny").runs) == 6
