"""Processes with a time limit, of which nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, wait_for

from experiments.gpu.processes import run


def alive(pid: int) -> bool:
    """Whether it runs: a process that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_gets_its_time_and_nothing_of_it_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.gpu.processes.GRACE_SECONDS_OUTSIDE", 1.0)
    log = tmp_path / "log"
    assert run(["sh", "-c", "echo said; exit 3"], log, 20) == 3
    assert log.read_text() == "said\n"
    stubborn = "import signal,subprocess,time; signal.signal(15, signal.SIG_IGN);" \
               "p = subprocess.Popen(['sleep', '100']); print(p.pid, flush=True); time.sleep(100)"  # fmt: skip
    assert run([sys.executable, "-c", stubborn], log, 3) is None
    wait_for(lambda: not alive(int(log.read_text().split()[-1])), 5)


def test_a_process_does_not_outlive_the_one_that_started_it(tmp_path: Path) -> None:
    code = "import pathlib, time; from experiments.gpu.processes import start;" \
           "print(start(['sleep', '100'], pathlib.Path('log')).pid, flush=True); time.sleep(100)"  # fmt: skip
    command = [sys.executable, "-c", code]
    parent = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    assert parent.stdout
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.wait()
    wait_for(lambda: not alive(child), 5)
