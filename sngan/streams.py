"""Named random streams: by name, never by position, so that a new stream moves no other."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


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


class _Drawn:
    """Draws of a generator."""

    def __init__(self, generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.shape, self.dtype, self._generator = shape, dtype, generator

    def state(self) -> Tensor:
        return self._generator.get_state()

    def load_state(self, state: Tensor) -> None:
        self._generator.set_state(state.cpu())


class Normal(_Drawn):
    """Standard normal draws of a generator."""

    def fill(self, out: Tensor) -> None:
        torch.randn(self.shape, generator=self._generator, dtype=self.dtype, out=out)


class Uniform(_Drawn):
    """Draws of a generator from [0, 1)."""

    def fill(self, out: Tensor) -> None:
        torch.rand(self.shape, generator=self._generator, dtype=self.dtype, out=out)
