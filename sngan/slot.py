"""Runs of one program, one after the other in one place of a device, ahead of those who look at them.

The step is a program on tensors that stay where they are (`train.update`). On CUDA it is captured once as a graph and
replayed, since launching its 175 to 370 kernels one by one takes longer than computing them; the next run is copied
into the same tensors. Where capture fails, and on a CPU, the same program runs as it is written.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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


class State(NamedTuple):
    """All that the rest of a run depends on: a block of its tensors (uint8), its streams' states, its window's."""

    tensors: Tensor
    streams: dict[str, Any]
    window: dict[str, list[Tensor]]


class Program(NamedTuple):
    """How steps are made: `graph`, captured and replayed, or `eager`, and why."""

    kind: str
    why: str = ""


class Shown(NamedTuple):
    """A run after a step, as far as its observers need it: what `Copy.show` takes."""

    step: int
    seconds: float  # that the steps since the run began took
    in_window: int  # steps since the row before
    of_rows: Tensor  # uint8
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


class _Kept:
    """A run after a step: all that it depends on, kept on the device, and what observers need, on its way to them."""

    def __init__(self, run: Run) -> None:
        cuda = run.device.type == "cuda"
        self._all, self._rows = Block(run.tensors(), run.device), Block(run.of_rows(), run.device)
        sizes = len(self._rows.bytes), len(Block(tensors_of(run.G), "meta").bytes)  # G's come first of all
        self._host, self._samples = (torch.empty(size, dtype=torch.uint8, pin_memory=cuda) for size in sizes)
        self._begun, self._ended = (torch.cuda.Event(enable_timing=True) if cuda else None for _ in range(2))
        self._start = self._seconds = 0.0
        self.step = self.made = self._in_window = 0
        self._with_samples = False

    def begin(self) -> None:
        """Its steps follow."""
        self._start = time.perf_counter()
        if self._begun:
            self._begun.record()

    @torch.no_grad()
    def take(self, run: Run, step: int, with_samples: bool) -> None:
        """On the stream of the steps; does not wait for it."""
        assert run.window
        self.step, self.made, self._in_window, self._with_samples = step, run.feed.made, run.window.steps, with_samples
        run.look()
        self._all.take(run.tensors())
        self._rows.take(run.of_rows())
        self._host.copy_(self._rows.bytes, non_blocking=True)
        if with_samples:
            self._samples.copy_(self._all.bytes[: len(self._samples)], non_blocking=True)
        if self._ended:
            self._ended.record()
        self._seconds = time.perf_counter() - self._start

    def is_ready(self) -> bool:
        return not self._ended or self._ended.query()

    def show(self) -> Shown:
        """Waits for it; `seconds` are those of its steps."""
        seconds = self._seconds
        if self._begun and self._ended:
            self._ended.synchronize()
            seconds = self._begun.elapsed_time(self._ended) / 1000
        return Shown(self.step, seconds, self._in_window, self._host, self._samples if self._with_samples else None)

    def tensors(self) -> Tensor:
        return self._all.bytes.cpu()


class Slot:
    """Makes the steps of run after run with equal `key`s; `config` is that of any. Raises what making the run does.

    It is at most `AHEAD` stops ahead of those that were shown, and keeps the state at each of them: a divergence that
    is found late, a checkpoint that is due and a signal all get the state of their step. On CUDA every slot has a
    stream and memory of its own. With `graphs=False` nothing is captured, and `why` says why not.
    """

    def __init__(self, config: RunConfig, data: ImageData, graphs: bool = True, why: str = "") -> None:
        self._device = data.images.device
        check_precision(config.precision, self._device)
        self.key, self.config = key(config), None
        self._seconds, self._at = 0.0, 0
        cuda = self._device.type == "cuda"
        if cuda:
            torch.cuda.synchronize(self._device)  # the data are there for other streams, too
            torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device) if cuda else 0
        self._stream = torch.cuda.Stream(self._device) if cuda else None
        with self._streamed():
            self._run = Run(config, data, block=_DRAWN)
            self._kept = deque(_Kept(self._run) for _ in range(AHEAD + 1))
            self._step, self.program = prepared(self._run, self._stream, graphs, why)
        self.memory_bytes = torch.cuda.max_memory_allocated(self._device) - before if cuda else 0
        self._waiting: deque[_Kept] = deque()  # those that were not shown yet
        self._shown: _Kept | None = None  # the last that was

    def _streamed(self) -> AbstractContextManager[Any]:
        return torch.cuda.stream(self._stream) if self._stream else nullcontext()

    def _wait(self) -> None:
        if self._stream:
            self._stream.synchronize()

    def begin(self, config: RunConfig, at: int, state: State) -> None:
        """A run from step `at` on, with the state that `Copy.whole` gives."""
        assert self.key == key(config)
        assert self._run.window
        with self._streamed():
            self._wait()  # for steps of the run before
            block = Block(self._run.tensors(), "cpu")
            block.bytes.copy_(state.tensors)
            block.give(self._run.tensors())
            self._run.feed.load_state(state.streams)
            self._run.window.load_state(state.window)
            self._wait()
        self.config, self._at, self._seconds = config, at, 0.0
        self._kept.extend([*self._waiting, *([self._shown] if self._shown else [])])
        self._waiting.clear()
        self._shown = None
        self._run.feed.wanted = 0

    def has_room(self) -> bool:
        """Whether further steps may be made now."""
        return self.config is not None and self._at < self.config.steps and len(self._waiting) < AHEAD

    def launch(self) -> int:
        """Make the steps to the next stop, on CUDA without waiting for them; how many they are."""
        config, run = self.config, self._run
        assert config
        assert run.window
        stop, kept = next_stop(config, self._at), self._kept.popleft()
        with self._streamed():
            kept.begin()
            for _ in range(stop - self._at):
                run.turn()
                self._step()
            kept.take(run, stop, needs_samples(config, stop))
            if config.has_row(stop):
                run.window.clear()
        self._waiting.append(kept)
        made, self._at = stop - self._at, stop
        return made

    def has_shown_all(self) -> bool:
        return not self._waiting

    def is_ready(self) -> bool:
        """Whether `show` would not wait."""
        return bool(self._waiting) and self._waiting[0].is_ready()

    def show(self) -> Shown:
        """The next stop. What it shows stays as it is, and its state is kept, until the one after is shown."""
        kept = self._waiting.popleft()
        shown = kept.show()
        self._seconds += shown.seconds
        if self._shown:
            self._kept.append(self._shown)
        self._shown = kept
        self._run.feed.wanted = kept.made
        return shown._replace(seconds=self._seconds)

    def state(self) -> State:
        """Of the stop that was shown last; its window was shown."""
        assert self._shown
        with self._streamed():
            return State(self._shown.tensors(), self._run.feed.state(self._shown.made), {})

    def end(self) -> None:
        """Nobody looks at the run any more."""
        self.config = None


def prepared(run: Run, stream: torch.cuda.Stream | None, graphs: bool, why: str) -> tuple[Callable[[], None], Program]:
    """The run's step, captured if there is a stream and that can be, else as it is written."""

    def step() -> None:
        with run.products():
            update(run)

    if not stream or not graphs:
        return step, Program("eager", why)
    if not run.constraint.capturable:
        return step, Program("eager", f"{run.config.arm} waits for the device in every step")
    try:
        return captured(run, step, stream), Program("graph")
    except torch.OutOfMemoryError:  # a step as it is written would need no less
        raise
    except RuntimeError as error:
        torch.cuda.synchronize(run.device)  # raises if nothing more can be done in this process
        return step, Program("eager", " ".join(f"capture failed: {error}".split())[:300])


def captured(run: Run, step: Callable[[], None], stream: torch.cuda.Stream) -> Callable[[], None]:
    """A replay of `step`, captured on `stream`; the run is left as it was. Raises RuntimeError if that cannot be."""
    graph = torch.cuda.CUDAGraph()
    with unmoved(run):
        run.turn()
        warm_up(run, step)
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            step()
    return graph.replay


def warm_up(run: Run, step: Callable[[], None]) -> None:
    for _ in range(_WARM_UP):
        step()
        _rewind(run)


@contextmanager
def unmoved(run: Run) -> Iterator[None]:
    """Whatever happens inside, the run is what it was before, in the same tensors."""
    before, streams = Block(run.tensors(), run.device), run.feed.state()
    before.take(run.tensors())
    try:
        yield
    finally:
        before.give(run.tensors())
        run.feed.load_state(streams)
        _rewind(run)


def _rewind(run: Run) -> None:
    run.feed.rewind()
    if run.window:
        run.window.clear()


class Copy(Run):
    """A slot's run as its observers see it: on a CPU, after the step that was shown last."""

    def __init__(self, config: RunConfig, data: ImageData) -> None:
        super().__init__(config, data.to("cpu"))
        self._all, self._rows, self._samples = (
            Block(tensors, "cpu") for tensors in (self.tensors(), self.of_rows(), tensors_of(self.G))
        )
        self.seconds = 0.0

    def look(self) -> None:
        """The slot's run did."""

    def show(self, shown: Shown) -> None:
        assert self.window
        self._rows.bytes.copy_(shown.of_rows)
        self._rows.give(self.of_rows())
        for parameter, gradient in zip(self.D.parameters(), self._gradients, strict=True):
            parameter.grad = gradient
        self.window.steps, self.seconds = shown.in_window, shown.seconds
        if shown.of_samples is not None:
            self._samples.bytes.copy_(shown.of_samples)
            self._samples.give(tensors_of(self.G))

    def whole(self) -> State:
        """All that the run's steps depend on."""
        assert self.window
        self._all.take(self.tensors())
        return State(self._all.bytes, self.feed.state(), self.window.state())

    def settle(self, state: State) -> None:
        self._all.bytes.copy_(state.tensors)
        self._all.give(self.tensors())
        self.feed.load_state(state.streams)


class Ahead:
    """Steps that a slot of this process makes while observers, on the CPU, look at those before."""

    def __init__(self, config: RunConfig, data: ImageData) -> None:
        self._slot, self.run = Slot(config, data), Copy(config, data)
        self.program, self.memory_bytes = self._slot.program, self._slot.memory_bytes

    def clock(self) -> float:
        return self.run.seconds

    def begin(self, at: int) -> Iterator[int]:
        slot, step = self._slot, at
        slot.begin(self.run.config, at, self.run.whole())
        while step < self.run.config.steps:
            self._fill()
            shown = slot.show()
            self.run.show(shown)
            self._fill()
            yield (step := shown.step)

    def _fill(self) -> None:
        while self._slot.has_room():
            self._slot.launch()

    def settle(self) -> None:
        self.run.settle(self._slot.state())

    def end(self) -> None:
        self._slot.end()
