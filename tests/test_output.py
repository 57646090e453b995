"""Whoever reads what the program prints may leave: real processes, pipes and terminals."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, needs, write_study

_LOUD = "import sys; from experiments.output import outlive_readers; outlive_readers(); "


def start(*line: object, **streams: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(list(map(str, line)), env={**os.environ, "PYTHONPATH": str(ROOT)}, **streams)


def nobody() -> int:
    """The end of a pipe whose reader has left."""
    reads, writes = os.pipe()
    os.close(reads)
    return writes


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("--help", 0),
        ("status --help", 0),
        ("status demo", 0),
        ("plan demo", 0),
        ("plan demo --json", 0),
        ("plan nothing", 2),
        ("plan", 2),
    ],
)
def test_a_reader_that_left_changes_no_exit_code(arguments: str, code: int) -> None:
    line = [sys.executable, "-m", "experiments", *arguments.split()]
    writes = nobody()
    neither = start(*line, stdout=writes, stderr=writes)
    without_output = start(*line, stdout=writes, stderr=subprocess.PIPE)
    os.close(writes)
    assert neither.wait(60) == code
    errors = without_output.communicate(timeout=60)[1].decode()
    assert without_output.returncode == code
    assert bool(errors) == (code == 2)
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors


STEERING = "\x1b[31mred\x1b]0;title\x07 \x9b1m a\rb \u202ec \b \x00"


@pytest.mark.parametrize("rich", [False, True])
def test_what_others_wrote_does_not_steer_the_terminal(rich: bool) -> None:
    how = "from experiments.display import Console; Console().print(text, markup=False, soft_wrap=True)"
    code = _LOUD + f"text = {STEERING!r}; {how if rich else 'print(text)'}; print(text, file=sys.stderr)"
    done = start(sys.executable, "-c", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE).communicate(timeout=60)
    for said in done:
        assert said.decode().removesuffix("\n").isprintable()
        assert r"\x1b[31mred\x1b]0;title" in said.decode()


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_a_path_is_printed_as_it_is_and_text_as_it_can_be(encoding: str, tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/n\xe9"  # no UTF-8
    os.mkdir(path)
    line = [sys.executable, "-c", _LOUD + "import os; print(os.getcwd(), '\u00e9\u4e2d')"]
    process = start("env", f"PYTHONIOENCODING={encoding}:strict", *line, cwd=path, stdout=subprocess.PIPE)
    accent = {"ascii": b"\\xe9", "utf-8": "\u00e9".encode(), "latin-1": b"\xe9"}[encoding]
    chinese = "\u4e2d".encode() if encoding == "utf-8" else b"\\u4e2d"
    assert process.communicate(timeout=60)[0] == path + b" " + accent + chinese + b"\n"
    assert process.returncode == 0


@pytest.mark.parametrize("module", ["check", "merge", "kit", "agreement", "phases"])
def test_nor_that_of_the_modules_that_are_run_on_a_gpus_machine(module: str) -> None:
    writes = nobody()
    line = ["env", "PYTHONUNBUFFERED=", sys.executable, "-m", f"experiments.gpu.{module}", "--help"]
    process = start(*line, stdout=writes, stderr=subprocess.PIPE)
    os.close(writes)
    assert (process.communicate(timeout=60)[1], process.returncode) == (b"", 0)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_the_reader_may_leave_midway(unbuffered: str) -> None:
    code = _LOUD + "[print(i, file=file) for i in range(100_000) for file in (sys.stdout, sys.stderr)]; sys.exit(7)"
    reads, writes = os.pipe()
    process = start("env", f"PYTHONUNBUFFERED={unbuffered}", sys.executable, "-c", code, stdout=writes, stderr=writes)
    os.close(writes)
    assert os.read(reads, 2) == b"0\n"
    os.close(reads)
    assert process.wait(30) == 7


def test_the_terminal_may_go_away() -> None:
    master, terminal = os.openpty()
    code = _LOUD + "sys.stdin.read(); print('lost'); print('lost', file=sys.stderr); sys.exit(7)"
    process = start(sys.executable, "-c", code, stdin=subprocess.PIPE, stdout=terminal, stderr=terminal)
    os.close(terminal)
    os.close(master)
    process.communicate(timeout=30)
    assert process.returncode == 7


@pytest.mark.parametrize(("closed", "code"), [("status demo >&-", 0), ("status nothing 2>&-", 2), ("<&- >&- 2>&-", 2)])
def test_a_stream_may_be_closed_from_the_start(closed: str, code: int) -> None:
    process = start("sh", "-c", f"{sys.executable} -m experiments {closed}", stdout=-1, stderr=-1)
    assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == code


def test_a_full_disk_is_an_error_of_the_output_and_not_of_the_errors() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, which Linux has")
    with open("/dev/full", "w") as full:
        line = [sys.executable, "-c", _LOUD + "print('lost', file=sys.stderr); print('lost', flush=True)"]
        assert start(*line, stdout=subprocess.DEVNULL, stderr=full).wait(30) == 0
        process = start(*line, stdout=full, stderr=subprocess.PIPE)
        assert "No space left" in process.communicate(timeout=30)[1].decode()
        assert process.returncode != 0


@pytest.mark.slow
def test_a_sweep_whose_reader_left_trains_on(tmp_path: Path) -> None:
    path, writes = write_study(tmp_path, seed=[0, 1]), nobody()
    options = ["--workers", 1, "--device", "cpu", "--wandb", "disabled", "--runs-dir", tmp_path]
    process = start(sys.executable, "-m", "experiments", "sweep", path, *options, stdout=writes, stderr=writes)
    os.close(writes)
    assert process.wait(100) == 0
    assert all('"finished"' in status.read_text() for status in (tmp_path / "tiny").glob("*/status.json"))


def test_help_is_plain_on_a_terminal() -> None:
    """Our streams show what steers a terminal as text, and the command line's library would colour it."""
    needs(shutil.which("script"), "needs script, of util-linux")
    command = f"{sys.executable} -m experiments export --help; {sys.executable} -m experiments plam"
    found = subprocess.run(
        ["script", "-qec", command, "/dev/null"], capture_output=True, text=True, check=False,
        env=os.environ | {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "usage: sngan export" in found.stdout
    assert "Unrecognized options: plam" in found.stdout
    assert "x1b" not in found.stdout
    assert "\x1b" not in found.stdout
