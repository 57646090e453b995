"""Real worker processes, real signals."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, small, write_study

from experiments.record import Record, run_folders
from experiments.run import execute
from experiments.study import read
from experiments.workers import check_devices
from sngan.config import InputError

OFF = ("--wandb", "disabled", "--runs-dir")


def metrics(folder: Path) -> dict[str, bytes]:
    return {record.run_id: record.metrics_path.read_bytes() for record in run_folders(folder)}


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "experiments", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition: Callable[[], Any], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


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
    execute(small(arm="sn"), "single", tmp_path, lambda *message: None)
    assert one[alone.run_id] == alone.metrics_path.read_bytes()
    assert (tmp_path / "w1" / "tiny" / "study.yaml").read_text() == path.read_text()


def test_a_planted_exception_and_a_planted_nan_are_reported_and_the_rest_finishes(
    tmp_path: Path, command: Callable
) -> None:
    # Adam with beta2 = 0 and lr = 10 diverges; a batch of 1,800 is more than digits has
    path = write_study(tmp_path, arm="plain", steps=60, setting="custom", n_dis=1, beta1=0.999, beta2=0.0,
                       lr=[10.0, 2e-4], batch_size=[16, 1800])  # fmt: skip
    code, output, errors = command("sweep", path, *OFF, tmp_path)
    assert code == 1, errors
    assert "--retry failed" in output
    account = json.loads(command("status", path, "--json", "--runs-dir", tmp_path)[1])
    by_state: dict[str, set[str]] = {}
    for run in account["runs"]:
        by_state.setdefault(run["state"], set()).add(run["run_id"])
    configs = {config.run_id: config for config in read(path).configs}
    assert by_state["failed"] == {r for r, c in configs.items() if c.batch_size == 1800}
    assert by_state["diverged"] == {r for r, c in configs.items() if c.batch_size == 16 and c.lr == 10}
    assert set(by_state) == {"failed", "diverged", "finished"}
    assert all("larger than digits" in run["error"] for run in account["runs"] if run["state"] == "failed")
    # results and failures are left alone; failures are tried again on request
    code, _, errors = command("sweep", path, *OFF, tmp_path)
    assert code == 1
    assert "0 to do" in errors
    _, _, errors = command("sweep", path, "--retry", "failed", "--workers", 1, *OFF, tmp_path)
    assert "2 to do" in errors


@pytest.mark.slow
def test_killed_and_launched_again_it_completes_and_runs_nothing_twice(tmp_path: Path, command: Callable) -> None:
    path = write_study(tmp_path, seed=[0, 1, 2], steps=200)
    folder = tmp_path / "tiny"
    process = start("sweep", path, "--workers", 2, *OFF, tmp_path)

    def states() -> list[str]:
        return [Record(folder / config.run_id).status()["state"] for config in read(path).configs]

    def midway() -> bool:
        running = [r for r in run_folders(folder) if r.status()["state"] == "running" and len(r.rows()) > 3]
        return "finished" in states() and bool(running)

    wait_for(midway)
    process.send_signal(signal.SIGKILL)  # the parent; its workers notice
    process.wait()
    wait_for(lambda: "running" not in states())
    finished = {r.run_id: r.metrics_path.stat() for r in run_folders(folder) if r.status()["state"] == "finished"}
    interrupted = [r.run_id for r in run_folders(folder) if r.status()["state"] == "interrupted"]
    assert finished
    assert interrupted
    code, _, errors = command("sweep", path, "--workers", 1, *OFF, tmp_path)
    assert code == 0, errors
    how = [re.search(rf"{id}: was interrupted and (goes on from step \d+|starts over)", errors) for id in interrupted]
    assert all(how), errors  # a run that had hardly begun starts over
    assert states() == ["finished"] * 3
    assert all(Record(folder / run_id).metrics_path.stat() == before for run_id, before in finished.items())
    attempts = {r.run_id: len(r.status()["attempts"]) for r in run_folders(folder)}
    assert {run_id for run_id, n in attempts.items() if n > 1} == set(interrupted)
    started_over = next(config for config in read(path).configs if config.run_id in interrupted)
    alone = dataclasses.replace(started_over, threads=1, wandb="disabled")
    execute(alone, "tiny", tmp_path / "alone", lambda *_: None)
    assert metrics(tmp_path / "alone")[alone.run_id] == metrics(folder)[alone.run_id]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_leaves_interrupted_runs_and_code_3(tmp_path: Path, number: int) -> None:
    path = write_study(tmp_path, seed=[0, 1], steps=100_000)
    process = start("sweep", path, "--workers", 2, *OFF, tmp_path)
    records = [Record(tmp_path / "tiny" / config.run_id) for config in read(path).configs]
    wait_for(lambda: all(len(record.rows()) > 2 for record in records))
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 3, output
    assert "the same command continues" in output
    assert "Traceback" not in output
    assert [record.status()["state"] for record in records] == ["interrupted"] * 2
    assert all("signal" in json.loads((r.folder / "status.json").read_text())["error"] for r in records)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 2])
def test_a_killed_worker_costs_its_run_one_more_try_and_the_others_nothing(tmp_path: Path, kills: int) -> None:
    path = write_study(tmp_path, seed=[0, 1, 2], steps=400)
    process = start("sweep", path, "--workers", 1, *OFF, tmp_path)
    record = Record(tmp_path / "tiny" / read(path).configs[0].run_id)
    for kill in range(1, kills + 1):
        wait_for(lambda n=kill: len(record.status()["attempts"]) == n and 2 < len(record.rows()) < 30)
        children = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True)
        os.kill(int(children.stdout.split()[0]), signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == (0 if kills == 1 else 3), output
    assert "signal SIGKILL; it is tried again" in output
    assert ("signal SIGKILL; not tried again" in output) == (kills == 2)
    assert output.count("[3/3]") == 1
    assert "[4/3]" not in output
    assert len(record.status()["attempts"]) == 2
    assert [Record(tmp_path / "tiny" / config.run_id).status()["state"] for config in read(path).configs] == [
        "finished" if kills == 1 else "interrupted", "finished", "finished"
    ]  # fmt: skip


@pytest.mark.slow
def test_two_sweeps_on_one_folder_share_the_work(tmp_path: Path) -> None:
    path = write_study(tmp_path, seed=[0, 1, 2, 3], steps=200)
    sweeps = [start("sweep", path, "--workers", 1, *OFF, tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in sweeps]
    assert [process.returncode for process in sweeps] == [0, 0], outputs
    records = run_folders(tmp_path / "tiny")
    assert [record.status()["state"] for record in records] == ["finished"] * 4
    assert [len(record.status()["attempts"]) for record in records] == [1] * 4


def test_an_edited_study_keeps_what_is_outside_it(tmp_path: Path, command: Callable) -> None:
    for seed in (0, 1):
        execute(small(seed=seed), "tiny", tmp_path / "tiny", lambda *message: None)
    write_study(tmp_path, seed=[0, 1]).rename(tmp_path / "tiny" / "study.yaml")
    path = write_study(tmp_path, seed=[1])
    assert command("sweep", path, "--workers", 1, *OFF, tmp_path)[0] == 0
    account = json.loads(command("status", path, "--json", "--runs-dir", tmp_path)[1])
    assert account["account"]["finished"] == len(account["runs"]) == 1
    assert account["extra"] == [{"run_id": small(seed=0).run_id, "state": "finished"}]
    assert len(list((tmp_path / "tiny").glob("study-until-*.yaml"))) == 1


def test_single_runs_can_be_swept_and_stay_single_runs(tmp_path: Path, command: Callable) -> None:
    execute(small(), "single", tmp_path / "single", lambda *message: None)
    assert command("sweep", "single", "--workers", 1, *OFF, tmp_path)[0] == 0
    assert not (tmp_path / "single" / "study.yaml").exists()
    status = json.loads(command("status", "single", "--json", "--runs-dir", tmp_path)[1])
    assert status["account"]["finished"] == 1


def test_device_lists() -> None:
    assert check_devices("0, 2") == ["cuda:0", "cuda:2"]
    for wrong in ("cuda:0", "0,", "²", "-1"):
        with pytest.raises(InputError, match="commas between them"):
            check_devices(wrong)
