"""Named random streams: by name, never by position, so that a new stream moves no other."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def stream(seed: int, name: str) -> np.random.SeedSequence:
    """The seed sequence of a named stream: SeedSequence([seed, crc32(name)])."""
    return np.random.SeedSequence([seed, zlib.crc32(name.encode())])


def torch_generator(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on `device` that starts at the named stream; torch's global generator is not touched."""
    generator = torch.Generator(device)
    return generator.manual_seed(int(stream(seed, name).generate_state(1, np.uint64)[0]))


def numpy_generator(seed: int, name: str) -> np.random.Generator:
    """A numpy generator (PCG64) that starts at the named stream."""
    return np.random.default_rng(stream(seed, name))
