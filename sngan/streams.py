"""Named random streams: by name, never by position, so that a new stream moves no other."""

from __future__ import annotations

import zlib

import numpy as np
import torch


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


def numpy_generator(seed: int, name: str) -> np.random.Generator:
    """A numpy generator (PCG64) that starts at the named stream."""
    return np.random.default_rng(stream(seed, name))
