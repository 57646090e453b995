"""Files that are there whole or not at all, and files of others, which may be anything."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from sngan.errors import InputError

MOST_BYTES = 2**30  # of a file of others that is read as a whole
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udc7f\udd00-\udfff\ufffe\uffff]"
)


def visible(text: str) -> str:
    r"""The text with what would steer a terminal, or has no place in XML, as Python writes it, such as \x1b.

    Lines and tabs stay, and so do bytes that are no UTF-8, as of a path (surrogates from U+DC80 to U+DCFF).
    """
    return _HIDDEN.sub(lambda found: repr(found.group())[1:-1], text)


def write_atomically(path: Path, *parts: bytes | memoryview | str, mode: int = 0o666) -> None:
    """Write the parts, one after the other, to a temporary name in the same folder, flush to disk, move into place.

    Text is UTF-8; what that cannot say, as bytes of a path, is written as Python writes it. `mode` is that of a new
    file, before the umask. Raises OSError if a device, a pipe or a folder is there, which stays.
    """
    if (what := _other(path)) and what != "a link":  # of which nothing but itself is replaced
        raise OSError(errno.EEXIST, f"This is {what}, and not replaced", str(path))
    temporary = _temporary(path)
    try:
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            for part in parts:
                file.write(part.encode(errors="backslashreplace") if isinstance(part, str) else part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # a signal too
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def check_writable(path: Path) -> None:
    """Raises InputError if no file can be written there, or if something other than a file would be replaced.

    For what takes long to make, before it is made. Nothing is left there, and no folder is made.
    """
    try:
        if what := _other(path):
            raise InputError(f"{path} is {what}, which is not replaced: name a file")
        _other(_temporary(path))  # raises if that is too long
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
    check_folder(path.parent)


def check_folder(folder: Path) -> None:
    """Raises InputError if no file can be written into the folder, which may be one that is still to be made."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    try:
        if not there.is_dir():
            raise InputError(f"{folder} cannot be written: {there} is not a folder")
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}") from error


def _other(path: Path) -> str:
    """What is there, in words, if it is something other than a file. Raises OSError if nobody can know."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    kinds = {stat.S_IFREG: "", stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link"}
    return kinds.get(stat.S_IFMT(mode), "a device, a pipe or a socket")


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path below the folder leads out of it, by a link on the way. The folder itself may be one."""
    below = [path, *path.parents]
    below = below[: below.index(folder)] if folder in below else below
    real = [Path(os.path.realpath(one)) for one in (path, folder)]  # of a loop of links: itself
    return any(map(os.path.islink, below)) and not real[0].is_relative_to(real[1])


def read_within(path: Path, folder: Path) -> bytes:
    """The content of a file in the folder, as `read_file`. Raises InputError if it leads out of the folder."""
    if "\0" not in str(path) and leads_out(path, folder):
        raise InputError(f"{path} leads out of {folder}: it is not read")
    return read_file(path)


def read_file(path: Path, most: int = -1) -> bytes:
    """The content of a file, or its first `most` bytes. Raises FileNotFoundError if there is none.

    Raises InputError if it is no regular file (a pipe would never end), is larger than what any run writes and to be
    read as a whole, or may not be read.
    """
    try:
        if not path.exists() or path.is_file():
            with path.open("rb") as file:
                if most < 0 and (size := os.fstat(file.fileno()).st_size) > MOST_BYTES:
                    raise InputError(f"{path} has {size:,} bytes: more than {MOST_BYTES:,} are not read")
                return file.read(most)
    except (FileNotFoundError, InputError):
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a null byte
        raise InputError(f"{str(path)!r} is no path: {error}") from error
    raise InputError(f"{path} is not a file")


def parse_json(content: bytes | str, where: str) -> Any:
    """What JSON text says. Raises InputError that begins with `where`, also for what is nested too deep, or no text.

    Nor are words text that cannot be written as UTF-8: lone surrogates.
    """
    try:
        said = json.loads(content)
        json.dumps(said, ensure_ascii=False).encode()
        return said
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: not readable as JSON ({error})") from error
