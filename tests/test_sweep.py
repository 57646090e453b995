"""Real worker processes, real signals."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, small, wait_for, write_study

from experiments.engines.local import check_devices
from experiments.engines.sweep import shard
from experiments.record import Record, run_folders
from experiments.run import execute
from experiments.study import find, read
from sngan.config import InputError

OFF = ("--wandb", "disabled", "--runs-dir")


def metrics(folder: Path) -> dict[str, bytes]:
    return {record.run_id: record.metrics_path.read_bytes() for record in run_folders(folder)}


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "experiments", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_one_worker_and_two_give_the_same_bytes(tmp_path: Path, command: Callable) -> None:
    path = write_study(tmp_path, arm=["dcgan", "sn", "penalty_dcgan"])
    for workers in (1, 2):
        code, _, errors = command("sweep", path, "--workers", workers, *OFF, tmp_path / f"w{workers}")
        assert code == 0, errors
    one, two = (metrics(tmp_path / f"w{workers}" / "tiny") for workers in (1, 2))
    assert len(one) == 3
    assert one == two
    alone = Record(tmp_path / small(arm="sn").run_id)
    execute(small(arm="sn"), "single", tmp_path, lambda message: None)
    assert one[alone.run_id] == alone.metrics_path.read_bytes()
    assert (tmp_path / "w1" / "tiny" / "study.yaml").read_text() == path.read_text()


@pytest.mark.slow
def test_ctrl_c_leaves_interrupted_runs_and_code_3(tmp_path: Path) -> None:
    path = write_study(tmp_path, seed=[0, 1], steps=100_000)
    process = start("sweep", path, "--workers", 2, *OFF, tmp_path)
    records = [Record(tmp_path / "tiny" / config.run_id) for config in read(path).configs]
    wait_for(lambda: all(len(record.rows()) > 2 for record in records))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 3, output
    assert "the same command continues" in output
    assert "Traceback" not in output
    assert [record.status()["state"] for record in records] == ["interrupted"] * 2
    assert [record.status()["error"] for record in records] == ["stopped by a signal (SIGINT)"] * 2


@pytest.mark.slow
def test_a_run_whose_worker_is_killed_twice_is_left_and_the_others_continue(tmp_path: Path) -> None:
    path = write_study(tmp_path, seed=[0, 1, 2], steps=400)
    process = start("sweep", path, "--workers", 1, *OFF, tmp_path)
    record = Record(tmp_path / "tiny" / read(path).configs[0].run_id)
    for kill in (1, 2):
        wait_for(lambda n=kill: len(record.status()["attempts"]) == n and 2 < len(record.rows()) < 30)
        children = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True)
        os.kill(int(children.stdout.split()[0]), signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 3, output
    assert "signal SIGKILL; it is retried" in output
    assert "signal SIGKILL; not retried" in output
    assert output.count("[3/3]") == 1
    assert "[4/3]" not in output
    assert len(record.status()["attempts"]) == 2
    assert [Record(tmp_path / "tiny" / config.run_id).status()["state"] for config in read(path).configs] == [
        "interrupted", "finished", "finished"
    ]  # fmt: skip


@pytest.mark.slow
def test_two_sweeps_of_twelve_runs_share_the_work(tmp_path: Path) -> None:
    path = write_study(tmp_path, seed=list(range(12)), steps=60)
    sweeps = [start("sweep", path, "--workers", 1, *OFF, tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=200)[0] for process in sweeps]
    assert [process.returncode for process in sweeps] == [0, 0], outputs
    records = run_folders(tmp_path / "tiny")
    assert [record.status()["state"] for record in records] == ["finished"] * 12
    assert [len(record.status()["attempts"]) for record in records] == [1] * 12
    assert sum("finished at step" in line for output in outputs for line in output.splitlines()) == 12


def test_shards_are_all_of_a_study_once() -> None:
    study = find("mnist-core")
    for n in (1, 7, 60, 100):
        parts = [shard(study, f"{i}/{n}").configs for i in range(n)]
        assert sorted(c.run_id for part in parts for c in part) == sorted(c.run_id for c in study.configs)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for wrong in ("2/2", "-1/2", "1", "0/0", "a/b", "1/2/3", "²/3", ""):
        with pytest.raises(InputError, match="expected i/n"):
            shard(study, wrong)


@pytest.mark.slow
def test_a_shard_is_what_its_sweep_trains(tmp_path: Path, command: Callable) -> None:
    path = write_study(tmp_path, seed=[0, 1, 2])
    code, _, errors = command("sweep", path, "--workers", 1, "--shard", "1/3", *OFF, tmp_path)
    assert (code, "1 runs of part 1/3, 1 to do" in errors) == (0, True), errors
    assert [record.config().seed for record in run_folders(tmp_path / "tiny")] == [1]


@pytest.mark.usefixtures("no_workers")
def test_an_edited_study_keeps_what_is_outside_it(tmp_path: Path, command: Callable) -> None:
    for seed in (0, 1):
        execute(small(seed=seed), "tiny", tmp_path / "tiny", lambda message: None)
    write_study(tmp_path, seed=[0, 1]).rename(tmp_path / "tiny" / "study.yaml")
    path = write_study(tmp_path, seed=[1])
    assert command("sweep", path, "--workers", 1, *OFF, tmp_path)[0] == 0
    account = json.loads(command("status", path, "--json", "--runs-dir", tmp_path)[1])
    assert account["account"]["finished"] == len(account["runs"]) == 1
    assert account["extra"] == [{"run_id": small(seed=0).run_id, "state": "finished"}]
    assert len(list((tmp_path / "tiny").glob("study-until-*.yaml"))) == 1


@pytest.mark.usefixtures("no_workers")
@pytest.mark.parametrize(
    ("damage", "wrong"),
    [
        (lambda path: path.write_bytes(b"\xff\xfe\0"), ""),
        (lambda path: path.mkdir(), "study.yaml is not a file"),
        (lambda path: os.mkfifo(path), "study.yaml is not a file"),
    ],
)
def test_a_damaged_study_file_beside_the_records_is_kept_or_named(
    damage: Callable, wrong: str, tmp_path: Path, command: Callable
) -> None:
    execute(small(), "tiny", tmp_path / "tiny", lambda message: None)
    damage(tmp_path / "tiny" / "study.yaml")
    code, _, errors = command("sweep", write_study(tmp_path), "--workers", 1, *OFF, tmp_path)
    assert (code, wrong in errors) == (2 if wrong else 0, True), errors
    assert bool(list((tmp_path / "tiny").glob("study-until-*.yaml"))) == (not wrong)


@pytest.mark.usefixtures("no_workers")
def test_single_runs_can_be_swept_and_stay_single_runs(tmp_path: Path, command: Callable) -> None:
    execute(small(), "single", tmp_path / "single", lambda message: None)
    assert command("sweep", "single", "--workers", 1, *OFF, tmp_path)[0] == 0
    assert not (tmp_path / "single" / "study.yaml").exists()
    status = json.loads(command("status", "single", "--json", "--runs-dir", tmp_path)[1])
    assert status["account"]["finished"] == 1


def test_device_lists() -> None:
    assert check_devices("0, 2") == ["cuda:0", "cuda:2"]
    for wrong in ("cuda:0", "0,", "²", "-1"):
        with pytest.raises(InputError, match="commas between them"):
            check_devices(wrong)
