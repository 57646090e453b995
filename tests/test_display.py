"""What a person sees while runs train: plain lines in a file, a live display on a real terminal."""

import io
import re
import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Terminal, needs, write_study
from rich.console import Console

from experiments import display as displays
from experiments.display import Display, duration
from experiments.messages import Ended, Progressed, Said, Started

ROW = {"loss/d": 0.5, "loss/g": 1.25, "time/images_per_second": 1234.0}


def test_plain_lines_elsewhere_than_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(displays, "LINE_EVERY_SECONDS", 0.0)
    out = io.StringIO()
    with Display(total=2, console=Console(file=out, soft_wrap=True)) as display:
        display.show(Said("[red]a name with brackets[/red]"))
        display.show(Started("first", 1000, "", 0))
        display.show(Progressed("first", 10, ROW))
        display.show(Ended("first", "finished", 1000, "", 61.0))
        display.show(Started("second", 1000, "was interrupted and starts over", 0))
        display.show(Ended("second", "failed", 20, "ValueError: too large", 1.0))
    lines = out.getvalue().splitlines()
    assert lines[0] == "[red]a name with brackets[/red]"  # nothing in a name is markup
    assert lines[1] == "first: started, 1,000 steps"
    assert re.fullmatch(r"first: step 10/1,000 D 0\.500 G 1\.250 1,234 images/s .* left", lines[2])
    assert lines[3] == "[1/2] first: finished at step 1,000 after 1 min 1 s"
    assert lines[4] == "second: was interrupted and starts over"
    assert lines[5] == "[2/2] second: failed at step 20 after 1 s: ValueError: too large"
    assert "\x1b" not in out.getvalue()


def test_the_time_left_of_a_resumed_run_is_reckoned_from_where_it_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(displays, "LINE_EVERY_SECONDS", 0.0)
    clock = iter([0.0, 0.0, 10.0])
    monkeypatch.setattr(displays.time, "monotonic", lambda: next(clock))
    out = io.StringIO()
    display = Display(total=1, console=Console(file=out, soft_wrap=True))
    display.show(Started("run", 1000, "resumes", 900))
    display.show(Progressed("run", 950, ROW))  # 50 steps took 10 s, and 50 are left
    assert "10 s left" in out.getvalue()


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 59.6, 3599, 3661)] == ["0 s", "1 min 0 s", "59 min 59 s", "1 h 1 min"]


@pytest.mark.parametrize(
    ("width", "bar", "more"),
    [
        pytest.param(140, r" +\S+", r" [\d,]+ images/s +\d:\d\d:\d\d", id="wide", marks=pytest.mark.slow),
        pytest.param(80, "", "", id="narrow", marks=pytest.mark.slow),
    ],
)
def test_a_sweep_and_its_status_side_by_side_on_terminals(width: int, bar: str, more: str, tmp_path: Path) -> None:
    needs(shutil.which("tmux"), "needs tmux: apt-get install tmux")
    path = write_study(tmp_path, arm=["dcgan", "sn"], steps=100_000)

    def line(*arguments: object) -> str:
        command = [sys.executable, "-m", "experiments", *arguments, "--runs-dir", tmp_path]
        return f"PYTHONPATH={ROOT} " + " ".join(map(str, command)) + "; echo code $?; sleep 60"

    ids = "digits-dcgan-C-s00-[0-9a-f]{8}", "digits-sn-C-s00-[0-9a-f]{8}"
    numbers = rf"-[0-9a-f]{{8}}{bar} +[1-9][\d,]*/100,000 D \d\.\d+ G \d\.\d+{more} +\d+:\d\d:\d\d"
    with (
        Terminal(line("sweep", path, "--workers", "2", "--wandb", "disabled"), width, 20) as terminal,
        Terminal(line("status", path, "--watch"), width, 20) as watcher,
    ):
        terminal.wait_for(r"runs +\S* *loading")
        terminal.wait_for(rf"digits-dcgan-C-s00{numbers}", rf"digits-sn-C-s00{numbers}", r"runs .*0/2")
        watcher.wait_for("2 running", *(rf"{run_id}\S? +running\S? +[1-9]" for run_id in ids))
        terminal.press("C-c")
        terminal.wait_for("the same command continues", "code 3")
        watcher.wait_for("2 interrupted", *(rf"{run_id}\S? +interrupted" for run_id in ids))
        watcher.press("C-c")
        watcher.wait_for("code 3")
    for arguments in (("plan", path), ("status", path), ("status", path, "--failed")):
        with Terminal(line(*arguments), width, 30) as terminal:
            screen = terminal.wait_for("code 0")
            assert len(re.findall("|".join(ids), screen)) == (0 if "--failed" in arguments else 2), screen
