"""The real W&B client against a stand-in server on loopback: what arrives is the record, and trouble costs nothing.

Not proven here: how W&B's own server treats what it gets.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, small, write_study
from wandb_server import KEY, Run, Server, serving

from experiments.record import Record
from experiments.run import execute

_SLOW = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server
        assert server.unknown == []


def start(server: Server, folder: Path, *command: object, patience: float = 4) -> subprocess.Popen[str]:
    """The `sngan` command, logged in at the server, in a process of its own that waits for W&B no longer than this."""
    arguments = [str(argument) for argument in (*command, "--runs-dir", folder)]
    code = f"from experiments import cli, tracking; tracking._PATIENCE_SECONDS = {patience}; cli.main({arguments!r})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes)


def train_command(steps: int, **options: object) -> list[object]:
    config = small(steps=steps)
    names = ("dataset", "batch_size", "g_width", "steps", "n_fake", "threads", "device")
    values = {name: getattr(config, name) for name in names} | {"wandb": "online", "study": "tiny"} | options
    return ["train", *(part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", value))]


def record_of(folder: Path, steps: int) -> Record:
    return Record(folder / "tiny" / small(steps=steps).run_id)


def expected(record: Record) -> dict[int, dict[str, Any]]:
    """Numbers only: spectra arrive as histograms."""
    history = [row for row, _ in record.history()]
    return {row["step"]: {k: v for k, v in row.items() if not k.startswith("spectrum/")} for row in history}


def arrived(run: Run) -> dict[int, dict[str, Any]]:
    """The last row of each step, without W&B's own keys and images; its words for non-finite numbers are None."""
    rows = {}
    for row in run.history:
        kept = {key: value for key, value in row.items() if not key.startswith("_") and not isinstance(value, dict)}
        rows[row["step"]] = {key: None if isinstance(value, str) else value for key, value in kept.items()}
    return rows


def sync(server: Server, folder: Path) -> str:
    """What the warning says is to be done."""
    environment = {**os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
    command = [str(Path(sys.executable).with_name("wandb")), "sync", "--include-online", "--yes"]
    done = subprocess.run(command, cwd=folder / "tiny", env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@_SLOW
def test_what_arrives_is_the_record_and_no_key_stays(server: Server, tmp_path: Path) -> None:
    output, _ = (process := start(server, tmp_path, *train_command(30))).communicate(timeout=100)
    assert process.returncode == 0, output
    assert "warning" not in output
    record = record_of(tmp_path, 30)
    run = server.runs[f"tiny-{record.run_id}"]
    assert arrived(run) == expected(record)
    assert len(run.history) == len(record.rows())
    assert run.values() == record.config().identity() | {"study": "tiny", "run_id": record.run_id}
    assert (run.exit_code, run.summary["state"]) == (0, "finished")
    assert run.summary["metrics_sha256"] == record.metrics_sha256()
    assert run.fields["tags"][0] == "tiny"
    sent = [content for name, content in run.files.items() if name.startswith("media/images/samples")]
    assert sorted(sent) == sorted(path.read_bytes() for path in record.samples_path.glob("step-*.png"))
    status = record.status()
    assert status["wandb_url"] == f"{server.url}/tester/sngan/runs/tiny-{record.run_id}"
    assert (status["attempts"][0]["wandb"], status["attempts"][0]["wandb_error"]) == ("online", None)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("fault", "when"),
    [("500", "midway"), ("hang", "from the start"), ("hang", "midway"), ("drop", "midway"),
     ("401", "from the start")],
)  # fmt: skip
@_SLOW
def test_a_server_that_fails_costs_one_warning_and_a_sync_later(
    fault: str, when: str, server: Server, tmp_path: Path
) -> None:
    server.fault = fault if when == "from the start" else ""
    process = start(server, tmp_path, *train_command(300))
    record = record_of(tmp_path, 300)
    run_id = f"tiny-{record.run_id}"
    if when == "midway":
        deadline = time.monotonic() + 60
        while run_id not in server.runs and time.monotonic() < deadline:  # rows come later
            time.sleep(0.02)
        server.fault = fault
    output, _ = process.communicate(timeout=150)
    assert process.returncode == 0, output
    assert output.count("warning") == 1, output
    assert "WARNING" not in output
    status = record.status()
    assert status["state"] == "finished"
    assert status["attempts"][0]["wandb"] == ("offline" if when == "from the start" else "online")
    assert status["attempts"][0]["wandb_error"] in output
    execute(small(steps=300), "tiny", tmp_path / "quiet", lambda *message: None)
    assert record.metrics_path.read_bytes() == Record(tmp_path / "quiet" / record.run_id).metrics_path.read_bytes()
    server.fault = ""
    assert "wandb sync --include-online" in output
    sync(server, tmp_path)
    assert arrived(server.runs[run_id]) == expected(record)
    assert server.runs[run_id].exit_code == 0
    assert server.runs[run_id].summary["state"] == "finished"


@_SLOW
@pytest.mark.parametrize("online", [True, False])
def test_a_killed_run_goes_on_as_the_same_wandb_run(online: bool, server: Server, tmp_path: Path) -> None:
    command = train_command(600, checkpoint_every=50, wandb="online" if online else "offline")
    record, killed = record_of(tmp_path, 600), 0
    while killed < 2:
        process = start(server, tmp_path, *command)
        rows = len(record.rows())
        deadline = time.monotonic() + 60
        while len(record.rows()) < rows + 12 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    output, _ = (process := start(server, tmp_path, *command)).communicate(timeout=100)
    assert process.returncode == 0, output
    assert "goes on from step" in output
    assert len(list((tmp_path / "tiny" / "wandb").glob("*run-*-*"))) == 1  # W&B's own viewer lists the run once
    if not online:
        assert server.runs == {}
        sync(server, tmp_path)
    assert list(server.runs) == [f"tiny-{record.run_id}"]
    (run,) = server.runs.values()
    assert arrived(run) == expected(record)
    assert (run.exit_code, run.summary["state"]) == (0, "finished")


@_SLOW
def test_a_stopped_run_is_preempting_and_leaves_in_time(server: Server, tmp_path: Path) -> None:
    """Also where W&B's server hangs: a cluster kills what takes longer than it said."""
    record = record_of(tmp_path, 100_000)
    for fault in ("", "hang"):
        rows = len(record.rows())
        process = start(server, tmp_path, *train_command(100_000), patience=30)
        deadline = time.monotonic() + 60
        while len(record.rows()) < rows + 12 and time.monotonic() < deadline:
            time.sleep(0.02)
        server.fault = fault
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        output, _ = process.communicate(timeout=60)
        assert time.monotonic() - begin < 10
        assert process.returncode == 3, output
        assert record.status()["state"] == "interrupted"
    assert server.runs[f"tiny-{record.run_id}"].preempting


@_SLOW
def test_a_sweep_shows_one_warning(server: Server, tmp_path: Path) -> None:
    server.fault = "401"
    path = write_study(tmp_path, seed=[0, 1, 2, 3])
    output, _ = (process := start(server, tmp_path, "sweep", path, "--wandb", "online")).communicate(timeout=100)
    assert process.returncode == 0, output
    assert output.count("warning: ") == 1, output
    server.fault = ""
    sync(server, tmp_path)
    assert len(server.runs) == 4


@_SLOW
def test_a_full_disk_under_wandb_is_named(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "tiny" / "wandb"
    folder.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounts are forbidden here")
    try:
        output, _ = (process := start(server, tmp_path, *train_command(600, wandb="offline"))).communicate(timeout=100)
    finally:
        subprocess.run(["umount", folder], check=True)
    assert process.returncode == 0, output
    assert output.count("warning") == 1, output
    assert "no space left" in output.lower()
    status = record_of(tmp_path, 600).status()
    assert status["state"] == "finished"
    assert "no space left" in json.dumps(status["attempts"]).lower()
