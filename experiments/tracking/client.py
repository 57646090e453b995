"""W&B's client on this machine: whether it is there and logged in, and which project it writes to."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from contextlib import suppress
from typing import Any

from sngan.config import InputError

PROJECT = "sngan"
MODES = ("online", "offline", "disabled")
THREAD = "W&B of a run"
"""name of the threads that talk to W&B"""
_SERVICE = "WANDB_SERVICE"  # where the client looks for its service


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
    before = os.environ.get(_SERVICE)
    try:
        import wandb

        logged_in = wandb.login(prompt=False, verify=False)
    except Exception as error:  # broken credentials must not end a training
        text = in_words(error)
        print(f"warning: W&B cannot tell whether you are logged in, working offline: {text}", file=sys.stderr)
        logged_in = False
    if os.environ.get(_SERVICE) != before:  # started to look; processes that this one starts would share it
        forget()
    return "online" if logged_in else "offline"


def forget() -> None:
    """End W&B's service, which else keeps the id of a run that it could not start; a new one is started when needed."""
    import wandb

    threading.excepthook = _without_its_threads
    with suppress(Exception, SystemExit):  # it may be gone, or end with an error's exit code
        wandb.teardown()
    os.environ.pop(_SERVICE, None)


def _without_its_threads(crash: threading.ExceptHookArgs, otherwise: Any = threading.excepthook) -> None:
    """Of the client's own threads, which fail when their service is gone, nothing is said."""
    frames = traceback.walk_tb(crash.exc_traceback)
    packages = {str(frame.f_globals.get("__name__")).partition(".")[0] for frame, _ in frames}
    if "wandb" not in packages or "experiments" in packages:
        otherwise(crash)


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
