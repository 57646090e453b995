"""What can be made again, kept in files that start with the SHA-256 of the rest.

One that is damaged, or that another user could have written, counts as none. So no others may write what is kept here,
whatever the umask is.
"""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import platformdirs

from sngan.errors import InputError
from sngan.files import check_writable, write_atomically

_DIGEST_BYTES = 32
_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def folder(kind: str) -> Path:
    """In the platform's cache folder; for a user without a home, as in a container, in one of its own in /tmp."""
    with suppress(RuntimeError):
        if (path := platformdirs.user_cache_path("sngan")).is_absolute():
            return path / kind
    return Path(tempfile.gettempdir()) / f"sngan-{os.getuid()}" / kind


def is_own(path: Path) -> bool:
    """Whether it is a file, and nobody but this user and root can have written it, as far as owners and modes tell."""
    with suppress(OSError):
        return path.is_file() and _is_closed(path.stat()) and _is_closed(path.parent.stat())
    return False


def _is_closed(found: os.stat_result) -> bool:
    """Whether neither others nor a group of several may write this file, or put other files into this folder."""
    if not hasattr(os, "geteuid"):
        return True
    is_sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX  # as /tmp
    by_others = stat.S_IWOTH if _is_private(found.st_gid) else _BY_OTHERS
    return found.st_uid in (os.geteuid(), 0) and bool(is_sticky or not found.st_mode & by_others)


def _is_private(group: int) -> bool:
    """Whether it is the group that many systems give each user, with the user's name and nobody else in it."""
    with suppress(KeyError):
        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
        return user.pw_gid == group and user.pw_name == found.gr_name and {*found.gr_mem} <= {user.pw_name}
    return False


def refusal(path: Path) -> str:
    """Why nothing is kept there; empty if something can be. Makes the folder."""
    try:
        check_writable(path)
        path.parent.mkdir(mode=0o777 & ~_BY_OTHERS, parents=True, exist_ok=True)
        found = path.parent.stat()
        if not _is_closed(found) and path.is_relative_to(folder("")) and found.st_uid == os.geteuid():
            path.parent.chmod(stat.S_IMODE(found.st_mode) & ~_BY_OTHERS)  # made under an open umask
            found = path.parent.stat()
    except (InputError, OSError) as error:
        return str(error)
    return "" if _is_closed(found) else f"other users can write in {path.parent}"


def read(path: Path) -> bytes | None:
    """What `write` has kept there; None if there is nothing that can be believed."""
    with suppress(OSError):
        if not is_own(path):  # a pipe would never end
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
    """Keep it, if that is possible. A process that has mapped the file before keeps what it had."""
    if not refusal(path):
        with suppress(OSError):
            write_atomically(path, hashlib.sha256(content).digest(), content, mode=0o666 & ~_BY_OTHERS)


def remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
