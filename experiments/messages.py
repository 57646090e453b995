"""What a run tells whoever launched it, from its own process: four types of message."""

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


Message = Said | Started | Progressed | Ended
Tell = Callable[[Message], None]
