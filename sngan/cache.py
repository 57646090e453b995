"""What can be made again, kept in files that start with the SHA-256 of the rest: a damaged one counts as none."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import platformdirs

from sngan.files import write_atomically

_DIGEST_BYTES = 32


def folder(kind: str) -> Path:
    """In the platform's cache folder."""
    return platformdirs.user_cache_path("sngan") / kind


def read(path: Path) -> bytes | None:
    """What `write` has kept there; None if there is nothing, or it is damaged."""
    with suppress(OSError):
        kept = path.read_bytes() if path.is_file() else b""  # a pipe would never end
        content = memoryview(kept)[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() == kept[:_DIGEST_BYTES]:
            return bytes(content)
    return None


def mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The same as a uint8 array that is read from the disk once per machine; None if it has another shape, too.

    Writing to the array changes a copy of this process.
    """
    with suppress(OSError, ValueError):
        content = np.memmap(path, np.uint8, mode="c", offset=_DIGEST_BYTES, shape=shape)
        with path.open("rb") as file:
            if hashlib.sha256(content.data).digest() == file.read(_DIGEST_BYTES):
                return content
    return None


def write(path: Path, content: bytes | memoryview) -> None:
    """Keep it, if the folder can be written. A process that has mapped the file before keeps what it had."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, hashlib.sha256(content).digest(), content)
