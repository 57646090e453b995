"""Files that are there whole or not at all."""

import multiprocessing
import os
import stat
from html import escape
from pathlib import Path
from xml.dom import minidom

import pytest

from sngan.config import InputError
from sngan.files import check_folder, check_writable, leads_out, parse_json, read_within, visible, write_atomically


def test_what_is_written_is_there_whole_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in ("text ä", b"bytes", memoryview(b"view")):
        write_atomically(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else bytes(content))
    os.umask(mask := os.umask(0))
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(
    fails: str, error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, "before")

    def full(*_: object) -> None:
        raise error("disk full, or a signal")

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(error, match="disk full"):
        write_atomically(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder"])
def test_what_is_no_file_is_not_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "there"
    if kind == "a device":
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("needs root, and the right to make devices")
    else:
        (os.mkfifo if kind == "a pipe" else os.mkdir)(path)
    (tmp_path / "link").symlink_to(path)
    before = path.lstat()
    with pytest.raises(OSError, match=r"This is a .*, and not replaced"):
        write_atomically(path, "content")
    for refused in (path, tmp_path / "link"):
        with pytest.raises(InputError, match=r"is a .*, which is not replaced: name a file"):
            check_writable(refused)
    write_atomically(tmp_path / "link", "content")  # which alone is replaced
    assert path.lstat() == before
    assert sorted(tmp_path.iterdir()) == [tmp_path / "link", path]


def test_where_no_file_can_be_written_is_known_before_it_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    (tmp_path / "nowhere").symlink_to("none")
    for path in (tmp_path / "file", tmp_path / "new", tmp_path / "a" / "b" / "new"):
        check_writable(path)
    check_folder(tmp_path / "a" / "b")
    for path, why in (
        (tmp_path / "file" / "new", "file is not a folder"),
        (tmp_path / "file" / "a" / "new", "file is not a folder"),
        (tmp_path / "nowhere" / "new", "nowhere is not a folder"),
        (tmp_path / ("x" * 250), "cannot be written: File name too long"),
        (Path("/proc/new"), "cannot be written: No such file"),
        (Path("/"), "is a folder"),
        (Path(), "is a folder"),
    ):
        with pytest.raises(InputError, match=why):
            check_writable(path)
    for folder in (tmp_path / "file", tmp_path / "file" / "a", Path("/proc/new")):
        with pytest.raises(InputError, match="cannot be written"):
            check_folder(folder)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "nowhere"}
    assert (tmp_path / "file").read_text() == "content"


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


def test_a_link_is_followed_within_the_folder_alone(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    (folder / "inner").mkdir(parents=True)
    for path in (outside, folder / "file"):
        path.write_text("content")
    (folder / "within").symlink_to("file")
    (folder / "out").symlink_to(outside)
    (folder / "inner" / "up").symlink_to(Path("..") / ".." / "outside")
    (folder / "far").symlink_to(tmp_path)
    (tmp_path / "alias").symlink_to(folder)  # the folder itself may be a link
    for name in ("file", "within"):
        assert (
            read_within(folder / name, folder)
            == read_within(tmp_path / "alias" / name, tmp_path / "alias")
            == b"content"
        )
    for name in ("out", "inner/up", "far/outside"):
        assert leads_out(folder / name, folder)
        with pytest.raises(InputError, match="leads out of"):
            read_within(folder / name, folder)
    with pytest.raises(FileNotFoundError):
        read_within(folder / "none", folder)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # would never end
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name, why in (("pipe", "is not a file"), ("folder", "is not a file"), ("loop", "cannot be read: Too many")):
        with pytest.raises(InputError, match=f"^{tmp_path / name} {why}"):
            read_within(tmp_path / name, tmp_path)
    with pytest.raises(InputError, match="is no path: "):
        read_within(tmp_path / "a\0b", tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff", b"1" + b"0" * 5000, b'"\\ud800"'])
def test_what_is_no_json_is_named(content: bytes) -> None:
    with pytest.raises(InputError, match="here: not readable as JSON"):
        parse_json(content, "here")


def test_text_is_written_whatever_it_holds(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "a path \udce9, half a pair \ud800")
    assert (tmp_path / "file").read_text() == "a path \\udce9, half a pair \\ud800"


def test_what_steers_a_terminal_or_has_no_place_in_xml_is_visible() -> None:
    assert visible("lines\n and tabs\t, äß中\U0001f600 stay") == "lines\n and tabs\t, äß中\U0001f600 stay"
    assert visible("\x1b[31m \x9b \a \r \u202e \ufffe") == r"\x1b[31m \x9b \x07 \r \u202e \ufffe"
    for code in range(0x110000):
        if not 0xDC80 <= code <= 0xDCFF:
            text = visible(chr(code))
            assert text == chr(code) or text.isascii(), code
            if code < 0x3000 or not code % 97 or 0xD000 < code < 0x10000:
                minidom.parseString(f"<a>{escape(text)}</a>")


def test_a_file_that_no_run_could_have_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.touch()
    os.truncate(path, 40 * 2**30)
    with pytest.raises(InputError, match="has 42,949,672,960 bytes"):
        read_within(path, tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"pipe is not a file$"):
        read_within(tmp_path / "pipe", tmp_path)
