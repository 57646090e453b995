"""Named random streams: by name, never by position, so that a new stream moves no other."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

_BLOCK, _BLOCK_BYTES = 64, 16 * 2**20  # draws that are made at once for a device, at most


def stream(seed: int, name: str) -> np.random.SeedSequence:
    """The seed sequence of a named stream: SeedSequence([seed, crc32(name)])."""
    return np.random.SeedSequence([seed, zlib.crc32(name.encode())])


def torch_generator(seed: int, name: str) -> torch.Generator:
    """A torch generator that starts at the named stream; torch's global generator is not touched.

    It draws on the CPU whatever the device that the numbers are for: a seed is the same experiment on every device.
    """
    return torch.Generator().manual_seed(int(stream(seed, name).generate_state(1, np.uint64)[0]))


def normal(
    shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype, device: torch.device | str
) -> torch.Tensor:
    """Standard normal draws of a named stream, moved to `device`."""
    return torch.randn(shape, generator=generator, dtype=dtype).to(device)


def layer_generators(seed: int) -> Callable[[str], torch.Generator]:
    """layer name -> generator at the stream `power_iteration/<layer>`."""
    return lambda name: torch_generator(seed, f"power_iteration/{name}")


def numpy_generator(seed: int, name: str) -> np.random.Generator:
    """A numpy generator (PCG64) that starts at the named stream."""
    return np.random.default_rng(stream(seed, name))


class Source(Protocol):
    """Endless draws of one shape on the CPU, that can be taken up again at a state."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def fill(self, out: Tensor) -> None:
        """The next draw, into `out` of this shape and type."""
        ...

    def state(self) -> Any: ...

    def load_state(self, state: Any) -> None: ...


class Normal:
    """Standard normal draws of a generator."""

    def __init__(self, generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.shape, self.dtype, self._generator = shape, dtype, generator

    def fill(self, out: Tensor) -> None:
        torch.randn(self.shape, generator=self._generator, dtype=self.dtype, out=out)

    def state(self) -> Tensor:
        return self._generator.get_state()

    def load_state(self, state: Tensor) -> None:
        self._generator.set_state(state.cpu())


class Ahead:
    """A source's draws on `device`, one a turn.

    For a CUDA device they are made in blocks before they are needed, in pinned memory, and copied without waiting for
    what the device is at. Values and states are those of one draw after the other: a state may be
    loaded for any other device. `block` is the number of draws that are made at once; default: 1 on a CPU, else up
    to 64, in at most 16 MiB.
    """

    def __init__(self, source: Source, device: torch.device | str, block: int = 0) -> None:
        self._source, self._device = source, torch.device(device)
        self._pinned = self._device.type == "cuda"
        n_bytes = max(1, int(np.prod(source.shape)) * source.dtype.itemsize)
        self._size = block or (max(1, min(_BLOCK, _BLOCK_BYTES // n_bytes)) if self._pinned else 1)
        self._start: Any = None  # the source's state before the block
        self._block: list[Tensor] = []
        self._taken = 0  # of the block

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        if self._taken == len(self._block):
            self._draw()
        self._taken += 1
        return self._block[self._taken - 1]

    def _draw(self) -> None:
        if self._size > 1:
            self._start = self._source.state()
        shape, dtype = (self._size, *self._source.shape), self._source.dtype
        block = torch.empty(shape, dtype=dtype, pin_memory=self._pinned)
        for out in block:
            self._source.fill(out)
        self._block, self._taken = list(block.to(self._device, non_blocking=True)), 0

    def state(self) -> Any:
        """The source's, as if it had been asked for no draw that was not taken."""
        ahead = self._source.state()
        if self._taken == len(self._block):
            return ahead
        self._source.load_state(self._start)
        unused = torch.empty(self._source.shape, dtype=self._source.dtype)
        for _ in range(self._taken):
            self._source.fill(unused)
        state = self._source.state()
        self._source.load_state(ahead)
        return state

    def load_state(self, state: Any) -> None:
        self._source.load_state(state)
        self._block, self._taken = [], 0
