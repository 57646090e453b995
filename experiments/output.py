"""Standard output and standard error that outlive whoever reads them, and show what others wrote as text."""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

from sngan.files import visible

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def outlive_readers() -> None:
    """From now on it is no error of this process if the reader of its output leaves, or its terminal is gone.

    A stream that was closed from the start is one that nobody reads. Streams that are not the process's own, such as
    a notebook's, are left alone. What others wrote, as in a study's description or a damaged file, does not steer the
    terminal (`visible`); what the stream's encoding lacks is written as Python writes it, and a path as the bytes that
    it is.
    """
    codecs.register_error("sngan", _as_it_can_be_written)
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
    return _Visible(
        io.BufferedWriter(_Lasting(number)), stream.encoding, "sngan",
        line_buffering=stream.line_buffering or stream.write_through,
    )  # fmt: skip


class _Visible(io.TextIOWrapper):
    """Writes text and nothing else. Rich, which steers the terminal on purpose, writes to `rich_proxied_file`."""

    def write(self, text: str, /) -> int:
        redraws = text.startswith("\r") and self.isatty()  # tqdm's bar, as of a download
        return super().write("\r" + visible(text[1:]) if redraws else visible(text))

    @property
    def rich_proxied_file(self) -> _Steering:
        return _Steering(self)


class _Steering:
    """The same stream for whoever has made text visible already."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return io.TextIOWrapper.write(self._stream, text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _as_it_can_be_written(error: UnicodeError) -> tuple[str | bytes, int]:
    r"""Bytes that are no UTF-8 as these bytes; other characters as `\xe9`."""
    assert isinstance(error, UnicodeEncodeError)
    found = error.object[error.start : error.end]
    if all("\udc80" <= character <= "\udcff" for character in found):
        return found.encode("utf-8", "surrogateescape"), error.end
    return found.encode("ascii", "backslashreplace"), error.end
