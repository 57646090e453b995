"""What a signal does to a run in training, and to everything else: real signals to this process, and to others."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT, small, wait_for, write_study

from experiments import checkpoint, signals
from experiments.record import Record
from experiments.signals import stop_on_signals
from experiments.study import read

_SLOW = pytest.mark.slow


@pytest.fixture(autouse=True)
def _hangup() -> Iterator[None]:
    """As a process gets it that nobody told to ignore it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_outside_a_training_a_signal_ends_things_at_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match=number.name), stop_on_signals():
        signal.raise_signal(number)
    assert signals.requested() == number.name
    if number != signal.SIGHUP:
        assert signal.getsignal(number) == before


def test_in_a_training_the_first_asks_and_the_second_ends() -> None:
    with stop_on_signals(), signals.gracefully():
        assert signals.requested() == ""
        signal.raise_signal(signal.SIGTERM)
        assert signals.requested() == signals.cause() == "SIGTERM"
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
            signal.raise_signal(signal.SIGINT)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    with stop_on_signals(), signals.gracefully():
        assert signals.requested() == ""  # of the run before


@pytest.mark.parametrize("first", [signal.SIGHUP, signal.SIGTERM])
def test_a_hangup_is_never_the_second_signal(first: signal.Signals) -> None:
    """The shell sends it to its jobs, and the kernel once more when the shell is gone."""
    with stop_on_signals(), signals.gracefully():
        for number in (first, signal.SIGHUP, signal.SIGHUP):
            signal.raise_signal(number)
        assert signals.requested() == first.name
        with pytest.raises(KeyboardInterrupt, match=first.name):
            signal.raise_signal(signal.SIGINT)
    with stop_on_signals():
        with pytest.raises(KeyboardInterrupt, match=first.name):
            signal.raise_signal(first)
        signal.raise_signal(signal.SIGHUP)  # while it cleans up
    if first == signal.SIGHUP:
        signal.raise_signal(signal.SIGHUP)  # and while it leaves


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_on_signals(), signals.gracefully():
        signal.raise_signal(signal.SIGHUP)
        assert signals.requested() == ""
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_in_a_worker_the_parent_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal to the whole group is followed by the parent's, which is no second one, but says what the first was."""
    monkeypatch.setattr(signals, "GRACE_SECONDS", 0.2)
    said = ["", "SIGINT"]
    with stop_on_signals(said.pop), signals.gracefully():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGHUP)
        assert signals.requested() == ""
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
            signal.raise_signal(number)
        assert signals.requested() == "SIGUSR1"
        assert (signals.cause(), signals.cause()) == ("SIGINT", "SIGUSR1")
        with pytest.raises(KeyboardInterrupt, match="SIGUSR1"):
            time.sleep(30)


def test_after_the_time_of_grace_what_does_not_look_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "GRACE_SECONDS", 0.05)
    with stop_on_signals(), signals.gracefully():
        signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(KeyboardInterrupt, match="SIGUSR1"):
            time.sleep(30)


def test_a_new_process_is_out_of_reach_of_the_terminal() -> None:
    """Before it can say so itself: also the first one, with which Python starts another of its own."""
    code = (
        "import signal, subprocess, sys\n"
        "from experiments.signals import out_of_reach\n"
        "with out_of_reach():\n"
        "    subprocess.run(['grep', 'SigBlk', '/proc/self/status'])\n"
        "sys.exit(bool(signal.pthread_sigmask(signal.SIG_BLOCK, ())))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    blocked = int(done.stdout.split()[1], 16)
    assert {number for number in signal.Signals if blocked >> (number - 1) & 1} == {signal.SIGINT, signal.SIGHUP}
    assert done.returncode == 0


# --- real processes ---


def start(*arguments: object, terminal: int | None = None, ignore: bool = False) -> subprocess.Popen[str]:
    """The program, the first of its process group, and of a session if it gets a terminal."""

    def prepare() -> None:
        if ignore:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if terminal is not None:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    command = [sys.executable, "-m", "experiments", *map(str, arguments), "--device", "cpu", "--wandb", "disabled"]
    return subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, start_new_session=True, preexec_fn=prepare,
        stdin=terminal, stdout=terminal or subprocess.PIPE, stderr=terminal or subprocess.STDOUT,
    )  # fmt: skip


def hang_up(*arguments: object, when: Callable[[], object]) -> int:
    """The exit code of the program whose terminal closes."""
    master, terminal = os.openpty()
    process = start(*arguments, terminal=terminal)
    os.close(terminal)
    try:
        wait_for(when)
    finally:
        os.close(master)
    return process.wait(30)


def trained(tmp_path: Path) -> tuple[Record, list[str]]:
    options = ["--steps", "100000", "--batch-size", "16", "--g-width", "8", "--n-fake", "100", "--threads", "1"]
    record = Record(tmp_path / "single" / small(steps=100_000).run_id)
    return record, ["train", *options, "--runs-dir", str(tmp_path)]


def check_stopped(record: Record, name: str) -> None:
    status = json.loads((record.folder / "status.json").read_text())
    assert (status["state"], status["error"]) == ("interrupted", f"stopped by a signal ({name})")
    assert checkpoint.read(record.checkpoint_path)["step"] >= status["step"] > 0


def test_a_run_outlives_its_terminal_for_a_checkpoint(tmp_path: Path) -> None:
    record, arguments = trained(tmp_path)
    assert hang_up(*arguments, when=lambda: len(record.rows()) > 3) == 3
    check_stopped(record, "SIGHUP")


@_SLOW
@pytest.mark.parametrize("engine", ["local", "packed"])
def test_a_sweep_outlives_its_terminal_for_checkpoints(engine: str, tmp_path: Path) -> None:
    records, arguments = swept(engine, tmp_path)
    assert hang_up(*arguments, when=lambda: all(len(record.rows()) > 3 for record in records)) == 3
    for record in records:
        check_stopped(record, "SIGHUP")


def swept(engine: str, tmp_path: Path) -> tuple[list[Record], list[object]]:
    path = write_study(tmp_path, seed=[0, 1], steps=100_000)
    records = [Record(tmp_path / "tiny" / config.run_id) for config in read(path).configs]
    return records, ["sweep", path, "--engine", engine, "--workers", 2, "--runs-dir", tmp_path]


@_SLOW
@pytest.mark.parametrize(
    ("engine", "number"), [("local", signal.SIGINT), ("local", signal.SIGTERM), ("packed", signal.SIGUSR1)]
)
def test_a_signal_to_all_processes_of_a_sweep_is_one_signal(
    engine: str, number: signal.Signals, tmp_path: Path
) -> None:
    """As a terminal, `timeout` and a cluster send it; the runs say what it was."""
    records, arguments = swept(engine, tmp_path)
    process = start(*arguments)
    wait_for(lambda: all(len(record.rows()) > 3 for record in records))
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 3, output
    assert "the same command continues" in output
    assert "Traceback" not in output
    for record in records:
        check_stopped(record, number.name)


@_SLOW
def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    records, arguments = swept("local", tmp_path)
    process = start(*arguments)
    wait_for(lambda: all(len(record.rows()) > 3 for record in records))
    workers = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True)
    for pid in workers.stdout.split():
        os.kill(int(pid), signal.SIGSTOP)  # they would take their time
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=5)
    assert process.returncode == 3, output
    assert "Traceback" not in output
    assert [record.status()["state"] for record in records] == ["interrupted"] * 2


@_SLOW
def test_a_sweep_that_ignores_a_hangup_trains_on(tmp_path: Path) -> None:
    records, arguments = swept("local", tmp_path)
    process = start(*arguments, ignore=True)
    wait_for(lambda: all(len(record.rows()) > 3 for record in records))
    os.killpg(process.pid, signal.SIGHUP)
    rows = [len(record.rows()) for record in records]
    wait_for(lambda: all(len(record.rows()) > n + 3 for record, n in zip(records, rows, strict=True)))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 3
    for record in records:
        check_stopped(record, "SIGTERM")
