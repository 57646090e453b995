"""Runs of one program, one after the other in one place of a device, ahead of those who look at them.

The step is a program on tensors that stay where they are (`train.update`). On CUDA it is captured once as a graph and
replayed, since launching its 175 to 370 kernels one by one takes longer than computing them; the next run is copied
into the same tensors. Where capture fails, and on a CPU, the same program runs as it is written.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sngan.block import Block
from sngan.config import RunConfig
from sngan.data import ImageData
from sngan.precision import check_precision
from sngan.state import Run, tensors_of
from sngan.train import update

AHEAD = 2  # stops that a slot may be ahead of those who look
_DRAWN = 64  # steps that are drawn for at once
_WARM_UP = 3  # steps before capture: libraries make their workspaces, and choose their algorithms
_FREE = ("seed", "steps", "n_evaluations", "n_fake", "instrument_every")  # what runs of one program may differ in


class Program(NamedTuple):
    """How steps are made: `graph`, captured and replayed, or `eager`, and why."""

    kind: str
    why: str = ""


class Shown(NamedTuple):
    """A run after a step, as far as its observers need it: what `View.show` takes."""

    step: int
    seconds: float  # that the steps so far took
    in_window: int  # steps since the row before
    of_rows: Tensor  # uint8, what every row is made of
    of_samples: Tensor | None  # uint8, G's tensors; None where no row needs them


def key(config: RunConfig) -> tuple[Any, ...]:
    """Runs with equal keys are runs of one program."""
    fields = {name: value for name, value in config.identity().items() if name not in _FREE}
    return *fields.values(), config.memory_format, config.threads


def next_stop(config: RunConfig, step: int) -> int:
    """The first step after `step` that is shown: one with a row, or at which a checkpoint is due."""
    every = (config.log_every, config.checkpoint_every)
    return min(config.steps, *(step - step % n + n for n in every))


def needs_samples(config: RunConfig, step: int) -> bool:
    """Whether observers look at G: for its images, and at the end."""
    return config.has_row(step) and (config.has_instruments(step) or step in config.evaluation_steps())


def of_rows(run: Run) -> list[Tensor]:
    """What every row is made of: D, the constraint's vectors, D's gradients, the window, and every magnitude."""
    assert run.window
    return [*tensors_of(run.D), *tensors_of(run.constraint), *run.gradients, *run.window.tensors(), run.shown]


class _Kept:
    """A run after a step: all that it depends on, kept on the device, and what observers need, on its way to them."""

    def __init__(self, run: Run) -> None:
        cuda = run.device.type == "cuda"
        self._all = Block(run.tensors(), run.device)
        self._n_samples = len(Block(tensors_of(run.G), "meta").bytes)  # they come first
        self._rows = Block(of_rows(run), run.device)
        self._host, self._samples = (
            torch.empty(size, dtype=torch.uint8, pin_memory=cuda) for size in (len(self._rows.bytes), self._n_samples)
        )
        self._event = torch.cuda.Event(enable_timing=True) if cuda else None
        self.step = self.made = self._in_window = 0
        self._seconds, self._with_samples = 0.0, False

    def take(self, run: Run, step: int, with_samples: bool) -> None:
        """Without waiting for a GPU: on the stream of its steps."""
        assert run.window
        self.step, self.made, self._in_window, self._with_samples = step, run.feed.made, run.window.steps, with_samples
        run.look()
        self._all.take(run.tensors())
        self._rows.take(of_rows(run))
        self._host.copy_(self._rows.bytes, non_blocking=True)
        if with_samples:
            self._samples.copy_(self._all.bytes[: self._n_samples], non_blocking=True)
        if self._event:
            self._event.record()

    def is_ready(self) -> bool:
        return not self._event or self._event.query()

    def shown(self, seconds: float) -> Shown:
        if self._event:
            self._event.synchronize()
        return Shown(self.step, seconds, self._in_window, self._host, self._samples if self._with_samples else None)

    def all(self) -> Tensor:
        return self._all.bytes.cpu()


class Slot:
    """Makes the steps of run after run with equal `key`s; `config` is that of any. Raises what making the run does.

    It stays at most `AHEAD` stops ahead of those that were shown, and keeps the state at each of them: a divergence
    that is found late, a checkpoint that is due and a signal all get the state of their step. On CUDA every slot has
    its own stream, which its graph was captured on, and its own memory. `graphs=False`: it is not captured, and `why`
    says why not.
    """

    def __init__(self, config: RunConfig, data: ImageData, graphs: bool = True, why: str = "") -> None:
        check_precision(config.precision, data.images.device)
        self.key, self.device = key(config), data.images.device
        cuda = self.device.type == "cuda"
        before = 0
        if cuda:
            torch.cuda.synchronize(self.device)  # the data are there for other streams, too
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
        self._stream = torch.cuda.Stream(self.device) if cuda else None
        with self._streamed():
            self._run = Run(config, data, block=_DRAWN)
            self._kept = deque(_Kept(self._run) for _ in range(AHEAD + 1))
            self._step, self.program = self._prepared(graphs, why)
        self.memory_bytes = torch.cuda.max_memory_allocated(self.device) - before if cuda else 0
        self._waiting: deque[_Kept] = deque()  # of the kept, those that were not shown
        self._at = self._config = None
        self._seconds = self._since = 0.0

    def _streamed(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self._stream) if self._stream else nullcontext()

    def _make_step(self) -> None:
        with self._run.products():
            update(self._run)

    def _prepared(self, graphs: bool, why: str) -> tuple[Callable[[], None], Program]:
        """The step, captured if that can be, and every tensor as it was before."""
        if self.device.type != "cuda":
            return self._make_step, Program("eager", why)
        if not graphs:
            return self._make_step, Program("eager", why or "graphs are switched off")
        try:
            return captured(self._run, self._make_step, self._stream), Program("graph")
        except RuntimeError as error:
            torch.cuda.synchronize(self.device)  # raises if nothing more can be done in this process
            return self._make_step, Program("eager", " ".join(f"capture failed: {error}".split())[:300])

    def begin(self, config: RunConfig, at: int, tensors: Tensor, streams: dict[str, Any], window: dict) -> None:
        """A run from step `at` on: `tensors` as `View.all` gives them, states of its streams and window."""
        assert self.key == key(config)
        assert self._run.window
        self._config, self._at = config, at
        with self._streamed():
            if self._stream:
                self._stream.synchronize()  # steps of the run before
            block = Block(self._run.tensors(), "cpu")
            block.bytes.copy_(tensors)
            block.give(self._run.tensors())
            self._run.feed.load_state(streams)
            self._run.window.load_state(window)
            if self._stream:
                self._stream.synchronize()
        self._kept.extend(self._waiting)
        self._waiting.clear()
        self._run.feed.wanted = 0
        self._shown_last: _Kept | None = None
        self._seconds, self._since = 0.0, time.perf_counter()

    def has_room(self) -> bool:
        """Whether further steps may be made now."""
        return self._config is not None and self._at < self._config.steps and len(self._waiting) < AHEAD

    def launch(self) -> None:
        """Make the steps to the next stop; on CUDA this does not wait for them."""
        config, run = self._config, self._run
        assert config
        assert self._at is not None
        assert run.window
        if not self._waiting:  # it stood still: that time is not the steps'
            self._since = time.perf_counter()
        stop = next_stop(config, self._at)
        with self._streamed():
            for _ in range(stop - self._at):
                run.turn()
                self._step()
            kept = self._kept.popleft()
            kept.take(run, stop, needs_samples(config, stop))
            if config.has_row(stop):
                run.window.clear()
        self._at = stop
        self._waiting.append(kept)

    def is_ready(self) -> bool:
        """Whether `show` would not wait."""
        return bool(self._waiting) and self._waiting[0].is_ready()

    def show(self) -> Shown:
        """The next stop. Its state is kept until the one after is shown; so are the bytes that it shows."""
        kept = self._waiting.popleft()
        shown = kept.shown(0.0)
        now = time.perf_counter()
        self._seconds, self._since = self._seconds + now - self._since, now
        if self._shown_last:
            self._kept.append(self._shown_last)
        self._shown_last = kept
        self._run.feed.wanted = kept.made
        return shown._replace(seconds=self._seconds)

    def state(self) -> tuple[Tensor, dict[str, Any]]:
        """All tensors, as `View.settle` takes them, and the streams' states, of the stop that was shown last."""
        assert self._shown_last
        with self._streamed():
            return self._shown_last.all(), self._run.feed.state(self._shown_last.made)

    def end(self) -> None:
        """Nobody looks at the run any more."""
        self._config = None


def captured(run: Run, step: Callable[[], None], stream: torch.cuda.Stream | None) -> Callable[[], None]:
    """A replay of `step`, captured on `stream`; the run is left as it was. Raises RuntimeError if that cannot be."""
    before = Block(run.tensors(), run.device)
    before.take(run.tensors())
    streams = run.feed.state()
    graph = torch.cuda.CUDAGraph()
    try:
        run.turn()
        for _ in range(_WARM_UP):
            step()
            rewind(run)
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            step()
    finally:
        torch.cuda.current_stream(run.device).synchronize()
        before.give(run.tensors())
        run.feed.load_state(streams)
        rewind(run)
        torch.cuda.current_stream(run.device).synchronize()
    return graph.replay
