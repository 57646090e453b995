"""W&B's client on this machine: which mode is taken."""

import subprocess
import sys

import pytest
from conftest import ROOT

from experiments.tracking.client import resolve_mode
from sngan.config import InputError


def test_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_mode("disabled") == "disabled"
    assert resolve_mode("auto") == "offline"  # not logged in
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    assert resolve_mode("auto") == "offline"
    assert resolve_mode("online") == "online"
    monkeypatch.setenv("WANDB_MODE", "of-line")
    with pytest.raises(InputError, match="expected one of online, offline, disabled"):
        resolve_mode("auto")
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    # this process stays logged out
    code = "from experiments.tracking.client import resolve_mode; print(resolve_mode('auto'))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "online"
