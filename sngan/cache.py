"""What can be made again, kept in files that start with the SHA-256 of the rest.

One that is damaged, or that another user could have written, counts as none.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import platformdirs

from sngan.files import write_atomically

_DIGEST_BYTES = 32


def folder(kind: str) -> Path:
    """In the platform's cache folder; for a user without a home, as in a container, in one of its own in /tmp."""
    with suppress(RuntimeError):
        if (path := platformdirs.user_cache_path("sngan")).is_absolute():
            return path / kind
    return Path(tempfile.gettempdir()) / f"sngan-{os.getuid()}" / kind


def is_own(path: Path) -> bool:
    """Whether nobody but this user and root can have written the file, as far as owners and modes tell."""
    if not hasattr(os, "geteuid"):
        return True
    with suppress(OSError):
        return all(
            found.st_uid in (os.geteuid(), 0) and (not found.st_mode & stat.S_IWOTH or found.st_mode & stat.S_ISVTX)
            for found in (path.stat(), path.parent.stat())
        )
    return False


def read(path: Path) -> bytes | None:
    """What `write` has kept there; None if there is nothing that can be believed."""
    with suppress(OSError):
        if not (is_own(path) and path.is_file()):  # a pipe would never end
            return None
        kept = path.read_bytes()
        content = memoryview(kept)[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() == kept[:_DIGEST_BYTES]:
            return bytes(content)
    return None


def mapped(path: Path, shape: tuple[int, ...], sha256: str = "") -> np.ndarray | None:
    """The same as a uint8 array that is read from the disk once per machine.

    None as well if it has another shape, or another SHA-256 than `sha256`, where that is known.
    Writing to the array changes a copy of this process.
    """
    with suppress(OSError, ValueError):
        if not is_own(path):
            return None
        content = np.memmap(path, np.uint8, mode="c", offset=_DIGEST_BYTES, shape=shape)
        with path.open("rb") as file:
            digest = hashlib.sha256(content.data)
            if digest.digest() == file.read(_DIGEST_BYTES) and sha256 in ("", digest.hexdigest()):
                return content
    return None


def write(path: Path, content: bytes | memoryview) -> None:
    """Keep it, if the folder can be written. A process that has mapped the file before keeps what it had."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, hashlib.sha256(content).digest(), content)
