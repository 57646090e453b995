"""Standard output and standard error that outlive whoever reads them."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def outlive_readers() -> None:
    """From now on it is no error of this process if the reader of its output leaves, or its terminal is gone.

    A stream that was closed from the start is one that nobody reads. Streams that are not the process's own, such as
    a notebook's, are left alone.
    """
    if sys.stdout is sys.__stdout__:
        sys.stdout = _lasting(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _lasting(sys.stderr, 2)


class _Lasting(io.FileIO):
    """Drops what nobody can read any more.

    From standard error it also drops what cannot be written for any other reason, such as a full disk: that could not
    be told anyway. It has a descriptor of its own: what this process says is not lost while descriptor 2 is another.
    """

    def __init__(self, number: int) -> None:
        super().__init__(os.dup(number), "w")
        self._is_for_errors = number == 2

    def write(self, content: ReadableBuffer, /) -> int:
        try:
            return super().write(content)
        except OSError as error:
            gone = isinstance(error, ConnectionError) or error.errno == errno.EIO
            if gone or self._is_for_errors:
                return memoryview(content).nbytes
            raise


def _lasting(stream: TextIO | None, number: int) -> TextIO:
    if stream is None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.set_inheritable(number, True)
        if null != number:
            os.close(null)
        stream = io.TextIOWrapper(io.FileIO(number, "w", closefd=False), "utf-8")
    assert isinstance(stream, io.TextIOWrapper)
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(number)), stream.encoding, stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,
    )  # fmt: skip
