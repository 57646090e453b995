"""W&B's terminal viewer, as a person sees it."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT, Terminal, needs, train_offline, wait_for

from experiments.study import bundled_names, find
from experiments.tracking.viewer import names, view_offline
from sngan.config import InputError


@pytest.mark.parametrize("study", bundled_names())
def test_the_first_forty_characters_of_a_folder_tell_runs_apart(study: str) -> None:
    configs = find(study).configs
    named = names(configs)
    assert set(named) == {config.run_id for config in configs}
    assert len({f"run-20261128_121602-{name}"[:40] for name in named.values()}) == len(configs)


def test_names_begin_with_what_differs() -> None:
    named = names(find("mnist-short").configs)
    assert {"s03-0.005-sn_dcg", "s03-0.005-0.1-pen_dcg"} <= set(named.values())
    assert "s01-penalty_dcgan" in names(find("demo").configs).values()  # nothing but seed and arm
    assert names([]) == {}


@pytest.mark.slow
def test_the_terminal_viewer_lists_the_runs_and_shows_their_losses(tmp_path: Path) -> None:
    needs(shutil.which("tmux"), "needs tmux: apt-get install tmux")
    records = [train_offline(tmp_path, arm=arm) for arm in ("dcgan", "sn_dcgan")]
    line = f"{sys.executable} -m experiments dashboard tiny --runs-dir {tmp_path}"
    with Terminal(line, 160, 50, PYTHONPATH=str(ROOT), HOME=str(tmp_path)) as terminal:
        terminal.wait_for(r"Runs \[2 items\]", r"run-\d+_\d+-s00-dcgan ", r"run-\d+_\d+-s00-sn_d", "ID: tiny-")
        for record in reversed(records):  # the newest is listed first
            full = "ID: " + r"\s*".join(re.escape(c) for c in f"tiny-{record.run_id}")
            deadline = time.monotonic() + 60
            while not re.search(full, _last_column(terminal.screen())):
                assert time.monotonic() < deadline, terminal.screen()
                terminal.press("Down")
                time.sleep(1)
        terminal.press("Enter")
        terminal.wait_for("Run Overview", r"Metrics \[1-\d+ of \d\d\]")
        terminal.press("/")
        terminal.press("-l", "loss/d")
        terminal.press("Enter")
        terminal.wait_for(r"Metrics \[1-5 of 5 filtered", r"loss/d +\[x: step\]")
        assert len(_viewers(tmp_path)) == 2  # W&B's command, and what it started
        subprocess.run(["pkill", "-TERM", "-f", f"experiments dashboard tiny --runs-dir {tmp_path}"], check=True)
        wait_for(lambda: not _viewers(tmp_path), 20)


def _viewers(home: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another's
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"leet" in words and f"HOME={home}\0".encode() in (process / "environ").read_bytes():
                found.append(process.name)
    return found


def _last_column(screen: str) -> str:
    return " ".join(line.rpartition("│")[2].strip() for line in screen.splitlines())


def test_offline_the_viewer_is_named(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    code, _, errors = command("dashboard", "demo", "--runs-dir", tmp_path)
    assert code == 2
    assert "no W&B runs at" in errors
    train_offline(tmp_path)
    code, output, _ = command("dashboard", "tiny", "--runs-dir", tmp_path)
    assert code == 0
    assert output.strip().endswith(f"wandb leet {tmp_path / 'tiny' / 'wandb'}")
    assert len(output.splitlines()) == 1
    with pytest.raises(InputError, match="train with --wandb offline"):
        view_offline(tmp_path)
