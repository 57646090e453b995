"""Programs that are started, given their time, and never left behind. Standard library only."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

GRACE_SECONDS = 11.0  # from SIGTERM to SIGKILL: a sweep lets its runs write checkpoints for 10
GRACE_SECONDS_OUTSIDE = 16.0  # for a process that gives others that time


def _end_with_parent() -> None:
    """Linux sends SIGTERM to this process if the one that started it is gone, however that ended."""
    with suppress(OSError, AttributeError):
        death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(death_signal, signal.SIGTERM)


def start(command: list[str], log: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """A process in a group of its own, its output appended to `log`."""
    with open(log, "ab") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})}, process_group=0, preexec_fn=_end_with_parent,
        )  # fmt: skip


def stop(process: subprocess.Popen[bytes], grace_seconds: float = 0) -> None:
    """SIGTERM to the process, and SIGKILL to its group if that does not end it, or leaves some of it."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_seconds or GRACE_SECONDS)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run(command: list[str], log: Path, seconds: float, environment: dict[str, str] | None = None) -> int | None:
    """Exit code of a process; None if it did not end in time, and was stopped."""
    process = start(command, log, environment)
    try:
        return process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        return None
    finally:
        stop(process, GRACE_SECONDS_OUTSIDE)
