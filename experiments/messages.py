"""What a run tells whoever launched it, from its own process: five types of message."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from experiments.record import State


class Said(NamedTuple):
    """A line for people. `once` names lines of which only the first is shown."""

    line: str
    once: str = ""


class Started(NamedTuple):
    run_id: str
    steps: int  # of the whole run
    note: str
    step: int  # at which it starts, or resumes


class Entered(NamedTuple):
    """A phase in which steps stand still, such as `evaluating`; the next Progressed ends it."""

    run_id: str
    phase: str


class Progressed(NamedTuple):
    run_id: str
    step: int
    row: dict[str, float]  # numbers to show


class Ended(NamedTuple):
    run_id: str
    state: State
    step: int
    error: str
    seconds: float


Message = Said | Started | Entered | Progressed | Ended
Tell = Callable[[Message], None]
