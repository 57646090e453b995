"""Files that are there whole or not at all."""

import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from sngan.files import write_atomically


def test_what_is_written_is_there_whole_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in ("text ä", b"bytes", memoryview(b"view")):
        write_atomically(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else bytes(content))
    os.umask(mask := os.umask(0))
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, "before")

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def _write_again_and_again(path: Path) -> None:
    while True:
        for letter in "ab":
            write_atomically(path, letter * 100_000)


def test_a_reader_never_sees_a_part_whenever_the_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for _ in range(3):
        process = multiprocessing.get_context("fork").Process(target=_write_again_and_again, args=(path,))
        process.start()
        while not path.exists():
            pass
        found = {path.read_text() for _ in range(100)}
        process.kill()
        process.join()
        assert {*found, path.read_text()} <= {"a" * 100_000, "b" * 100_000}
