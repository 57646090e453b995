"""What a person sees while runs train: one live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_LINE_EVERY_SECONDS = 15.0
_WIDE = 120  # columns; a narrower terminal has no room for bars


class Display:
    """Told of the starts, steps and ends of `total` runs; `with Display(..) as display`."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._total, self._ended, self._start = total, 0, time.monotonic()
        self._said: set[str] = set()
        self._steps: dict[str, int] = {}
        self._first: dict[str, int] = {}
        self._started: dict[str, float] = {}
        self._line_time: dict[str, float] = {}
        self._tasks: dict[str, TaskID] = {}
        self._live: Progress | None = None
        if self._console.is_terminal:
            self._wide = self._console.width >= _WIDE
            columns = [TextColumn("{task.description}"), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}")]
            if self._wide:
                columns = [columns[0], BarColumn(bar_width=20), *columns[1:], TimeElapsedColumn()]
            self._live = Progress(*columns, TimeRemainingColumn(), console=self._console, refresh_per_second=4)
            if total > 1:
                self._all = self._live.add_task("runs", total=total, numbers="")

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    @property
    def seconds(self) -> float:
        """Since the display was made."""
        return time.monotonic() - self._start

    def say(self, line: str, once: str = "") -> None:
        """`once` names lines of which only the first is shown."""
        if once in self._said:
            return
        self._said |= {once} - {""}
        self._console.print(line, markup=False, emoji=False)

    def start(self, run_id: str, steps: int, note: str, step: int = 0) -> None:
        """`step` is where the run resumes from; the time left is reckoned from there."""
        self._steps[run_id], self._first[run_id] = steps, step
        self._started[run_id] = self._line_time[run_id] = time.monotonic()
        if self._live:
            shown = run_id if self._wide else run_id.rpartition("-")[0]  # without its hash
            self._tasks[run_id] = self._live.add_task(shown, total=steps, completed=step, numbers="")
        if note or not self._live:
            self.say(f"{run_id}: {note or f'started, {steps:,} steps'}")

    def progress(self, run_id: str, step: int, row: dict[str, float]) -> None:
        if self._live:
            self._live.update(self._tasks[run_id], completed=step, numbers=_numbers(row))
        elif (now := time.monotonic()) - self._line_time[run_id] >= _LINE_EVERY_SECONDS:
            self._line_time[run_id] = now
            done = step - self._first[run_id]
            left = (now - self._started[run_id]) / done * (self._steps[run_id] - step) if done else None
            later = f" {duration(left)} left" if left is not None else ""
            self.say(f"{run_id}: step {step:,}/{self._steps[run_id]:,} {_numbers(row)}{later}")

    def end(self, run_id: str, state: str, step: int, error: str, seconds: float, counts: bool = True) -> None:
        """`counts` is False for a run that will be tried again."""
        self._ended += counts
        if self._live:
            if run_id in self._tasks:
                self._live.remove_task(self._tasks.pop(run_id))
            if self._total > 1:
                self._live.update(self._all, completed=self._ended)
        count = f"[{self._ended}/{self._total}] " if counts and self._total > 1 else ""
        reason = f": {error}" if error else ""
        self.say(f"{count}{run_id}: {state} at step {step:,} after {duration(seconds)}{reason}")


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """tell(done, total): a bar on a terminal, elsewhere a line now and then."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if console.is_terminal:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("")
            yield lambda done, total: progress.update(task, completed=done, total=total)
        return
    said = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal said
        if (now := time.monotonic()) - said >= _LINE_EVERY_SECONDS or done == total:
            said = now
            console.print(f"{what}: {done}/{total}", markup=False, emoji=False)

    yield tell


def duration(seconds: float) -> str:
    """`12 s`, `3 min 20 s`, `2 h 5 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def _numbers(row: dict[str, Any]) -> str:
    if "loss/d" not in row:
        return ""
    return f"D {row['loss/d']:.3f} G {row['loss/g']:.3f} {row.get('time/images_per_second', 0):,.0f} images/s"
