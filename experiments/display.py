"""What a person sees while runs train: one live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import IO, Any, assert_never

from rich import console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text

from experiments.messages import Ended, Entered, Message, Progressed, Said, Started
from sngan.files import visible

LINE_EVERY_SECONDS = 15.0
_WIDE = 120  # columns; a narrower terminal has no room for bars
_ESTIMATED_OVER = 24 * 3600.0  # seconds: runs end in pairs, and the last half minute says little of the rest


class Console(console.Console):
    """Rich's, in which only its own styles and bars steer the terminal."""

    @property
    def file(self) -> IO[str]:
        """Where it writes. While a bar is shown, Rich's stands before our stream, which makes text visible itself."""
        file = super().file
        return getattr(file, "rich_proxied_file", file)

    @file.setter
    def file(self, file: IO[str]) -> None:
        console.Console.file.fset(self, file)  # type: ignore[attr-defined]

    def render(
        self, renderable: console.RenderableType, options: console.ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


class _Count(MofNCompleteColumn):
    """`1,200/4,000`, or the name of the phase in which nothing is counted."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("phase") or f"{task.completed:,.0f}/{task.total:,.0f}")


@dataclass
class _Shown:
    """A run in training."""

    steps: int
    first: int  # the step at which it started, or resumed
    started: float
    line_time: float
    task: TaskID | None = None


class Display:
    """Shows the starts, steps and ends of `total` runs; `with Display(..) as display`."""

    def __init__(self, total: int, console: console.Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._total, self._ended, self._start = total, 0, time.monotonic()
        self._said: set[str] = set()
        self._shown: dict[str, _Shown] = {}
        self._live: Progress | None = None
        if self._console.is_terminal:
            self._wide = self._console.width >= _WIDE
            columns = [TextColumn("{task.description}"), _Count(), TextColumn("{task.fields[numbers]}")]
            if self._wide:
                columns = [columns[0], BarColumn(bar_width=20), *columns[1:], TimeElapsedColumn()]
            self._live = Progress(
                *columns,
                TimeRemainingColumn(),
                console=self._console,
                refresh_per_second=4,
                speed_estimate_period=_ESTIMATED_OVER,
            )
            if total > 1:
                self._all = self._live.add_task("runs", total=total, numbers="", phase="loading")

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

    def show(self, message: Message, counts: bool = True) -> None:
        """`counts` is False for the end of a run that will be retried."""
        match message:
            case Said(line, once):
                self.say(line, once)
            case Started():
                self._show_start(message)
            case Entered():
                self._show_phase(message)
            case Progressed():
                self._show_progress(message)
            case Ended():
                self._show_end(message, counts)
            case _:
                assert_never(message)

    def say(self, line: str, once: str = "") -> None:
        """`once` names lines of which only the first is shown."""
        if once in self._said:
            return
        self._said |= {once} - {""}
        self._console.print(line, markup=False, emoji=False)

    def _show_start(self, run: Started) -> None:
        now = time.monotonic()
        self._shown[run.run_id] = shown = _Shown(run.steps, run.step, now, now)
        if self._live:
            shown.task = self._live.add_task(
                run.run_id, total=run.steps, completed=run.step, numbers="", phase="loading"
            )
            self._show_all()
        if run.note or not self._live:
            self.say(f"{run.run_id}: {run.note or f'started, {run.steps:,} steps'}")

    def _show_phase(self, run: Entered) -> None:
        shown = self._shown.get(run.run_id)
        if self._live and shown and shown.task is not None:
            self._live.update(shown.task, phase=run.phase)

    def _show_all(self) -> None:
        if self._live and self._total > 1:
            self._live.update(self._all, completed=self._ended, phase="")

    def _show_progress(self, run: Progressed) -> None:
        if not (shown := self._shown.get(run.run_id)):
            return  # it has ended
        if self._live and shown.task is not None:
            numbers = next((text for text in _numbers(run.row) if len(text) <= self._room()), "")
            self._live.update(shown.task, completed=run.step, numbers=numbers, phase="")
        elif (now := time.monotonic()) - shown.line_time >= LINE_EVERY_SECONDS:
            shown.line_time = now
            done = run.step - shown.first
            left = (now - shown.started) / done * (shown.steps - run.step) if done else None
            later = f" {duration(left)} left" if left is not None else ""
            self.say(f"{run.run_id}: step {run.step:,}/{shown.steps:,} {''.join(_numbers(run.row)[:1])}{later}")

    def _room(self) -> float:
        """Columns for numbers beside the longest run id."""
        if self._wide:
            return inf
        taken = max(len(run_id) + len(f" {run.steps:,}/{run.steps:,}  0:00:00") for run_id, run in self._shown.items())
        return self._console.width - taken - 1

    def _show_end(self, run: Ended, counts: bool) -> None:
        self._ended += counts
        shown = self._shown.pop(run.run_id, None)
        if self._live:
            if shown and shown.task is not None:
                self._live.remove_task(shown.task)
            self._show_all()
        count = f"[{self._ended}/{self._total}] " if counts and self._total > 1 else ""
        reason = f": {run.error}" if run.error else ""
        self.say(f"{count}{run.run_id}: {run.state} at step {run.step:,} after {duration(run.seconds)}{reason}")


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
        if (now := time.monotonic()) - said >= LINE_EVERY_SECONDS or done == total:
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


def _numbers(row: dict[str, Any]) -> list[str]:
    """Losses and speed of a row, the longest text first; nothing of a row without losses."""
    if "loss/d" not in row:
        return []
    losses = f"D {row['loss/d']:.3f} G {row['loss/g']:.3f}"
    return [f"{losses} {row.get('time/images_per_second', 0):,.0f} images/s", losses]
