"""W&B's client on this machine: whether it is there and logged in, and which project it writes to."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sngan.config import InputError

PROJECT = "sngan"
MODES = ("online", "offline", "disabled")
THREAD = "W&B of a run"
"""name of the threads that talk to W&B"""
_QUIET_SECONDS = 5.0  # that W&B's service has to start in silence


def resolve_mode(wanted: str) -> str:
    """`online`, `offline` or `disabled`: what was asked for, else WANDB_MODE, else online when logged in.

    Raises InputError for a WANDB_MODE that is none of these.
    """
    if wanted in MODES:
        return wanted
    if mode := os.environ.get("WANDB_MODE"):
        mode = {"dryrun": "offline", "run": "online", "shared": "online"}.get(mode, mode)
        if mode not in MODES:
            raise InputError(f"the environment's WANDB_MODE is {mode!r}; expected one of {', '.join(MODES)}")
        return mode
    try:
        import wandb

        with in_silence():
            logged_in = wandb.login(prompt=False, verify=False)
    except Exception as error:  # broken credentials must not end a training
        text = in_words(error)
        print(f"warning: W&B cannot tell whether you are logged in, working offline: {text}", file=sys.stderr)
        logged_in = False
    return "online" if logged_in else "offline"


@contextmanager
def in_silence() -> Iterator[None]:
    """Processes that are started within write no errors: W&B's service would print how it crashed.

    If it takes long, descriptor 2 is what it was all the same.
    """
    sys.stderr.flush()
    before, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    os.close(nothing)
    later = threading.Timer(_QUIET_SECONDS, os.dup2, (before, 2))
    later.daemon = True
    later.start()
    try:
        yield
    finally:
        later.cancel()
        later.join()
        os.dup2(before, 2)
        os.close(before)


def in_words(error: object) -> str:
    """What the client raised, or says, in one line; of its settings the variable that sets the wrong one."""
    details = getattr(error, "errors", None)
    if isinstance(error, ValueError) and callable(details):  # pydantic's
        found: Any = details()
        wrong = [(".".join(map(str, one["loc"])), one["msg"], one["input"]) for one in found]
        return "; ".join(f"{name} (WANDB_{name.upper()}) is {value!r}: {why}" for name, why, value in wrong)
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def is_installed() -> bool:
    """Whether W&B's client can be imported; a run with `wandb: disabled` does without."""
    try:
        import wandb  # noqa: F401
    except ImportError:
        return False
    return True


def project() -> str:
    """Name of the W&B project: WANDB_PROJECT, else `sngan`."""
    return os.environ.get("WANDB_PROJECT") or PROJECT


def under_agent() -> bool:
    """Whether a W&B agent started this process, for one cell of a W&B sweep."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def is_busy() -> bool:
    """Whether W&B still has something to do for a run of this process."""
    return any(thread.name == THREAD for thread in threading.enumerate())
