"""The same runs read from records and from what W&B's client wrote: equal frames."""

import itertools
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import small, train_offline

from analysis.load import load
from analysis.page import figures
from analysis.page.report import Written, write_report
from analysis.sources import wandb_runs
from analysis.study import Study
from experiments.record import KILLED
from experiments.run import execute
from sngan.config import InputError

Command = Callable[..., tuple[int, str, str]]


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


def test_grids_that_lead_out_of_wandbs_folder_are_none(study_folder: Path, tmp_path: Path) -> None:
    before = load(f"wandb-files:{study_folder}").samples
    grid = next(iter(next(iter(before.values())).values()))
    grid.rename(tmp_path / "private.png")
    grid.symlink_to(tmp_path / "private.png")
    after = load(f"wandb-files:{study_folder}").samples
    assert sum(map(len, after.values())) == sum(map(len, before.values())) - 1
    assert grid.name not in {path.name for grids in after.values() for path in grids.values() if path.is_symlink()}


def test_runs_that_lead_out_of_wandbs_folder_are_none(
    study_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, *others = sorted((study_folder / "wandb").glob("offline-run-*"))
    folder = shutil.copytree(one, tmp_path / "theirs" / "wandb" / one.name).parent
    for run in others:
        (folder / run.name).symlink_to(run)
    assert (len(wandb_runs.offline_runs(folder)), "leads out of" in caplog.text) == (1, True)


def test_a_line_that_is_nested_deep_is_none(study_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file, *_) = (study_folder / "wandb").glob("*run-*/run-*.wandb")
    before, run = list(wandb_runs.inspected(file)), subprocess.run

    def with_another(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[bytes]:
        done = run(*arguments, **options)
        done.stdout = b"[" * 100_000 + b"]" * 100_000 + b"\n" + done.stdout
        return done

    monkeypatch.setattr(subprocess, "run", with_another)
    assert list(wandb_runs.inspected(file)) == before


def test_the_report_of_offline_files_is_the_report_of_the_records(
    study_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With some of the figures, which take most of the time."""
    draw = figures.draw
    monkeypatch.setattr(figures, "draw", lambda *of: itertools.islice(draw(*of), 3))
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
    file.write_bytes(content[: len(content) // 2])  # before its last rows
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


def test_the_command_reads_wandbs_files(study_folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a study's name, its folder or W&B's own, beside the records or without them. No page is drawn here."""
    monkeypatch.setattr("analysis.page.report.write", lambda of, **how: Written(of.folder, []))
    alone, runs = study_folder.parent.parent / "elsewhere", ("--runs-dir", study_folder.parent)
    for arguments in (
        ("tiny", "--source", "wandb-files", *runs), (f"wandb-files:{study_folder}",),
        (f"wandb-files:{study_folder / 'wandb'}",),
    ):  # fmt: skip
        assert command("report", *arguments) == (0, f"{study_folder}\n", "")
    shutil.move(study_folder / "wandb", alone / "wandb")
    for arguments in ((alone, "--source", "wandb-files"), (f"wandb-files:{alone}",), (f"wandb-files:{alone}/wandb",)):
        assert command("report", *arguments) == (0, f"{alone}\n", "")
    for wrong in (["--source", "wandb"], ["--project", "a/b"], ["--filter", "lr=1"]):
        assert command("report", "tiny", *wrong)[0] == 2


def test_bad_sources_are_errors(tmp_path: Path, study_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no W&B files at"):
        load(f"wandb-files:{tmp_path}")
    with pytest.raises(InputError, match="no runs of the study other"):
        load(f"wandb-files:{study_folder}", study="other")
    execute(small(wandb="offline"), "second", study_folder, lambda message: None)
    with pytest.raises(InputError, match=r"runs of 2 studies; name one .*: second, tiny"):
        load(f"wandb-files:{study_folder}")
    assert len(load(f"wandb-files:{study_folder}", study="tiny").runs) == 6
