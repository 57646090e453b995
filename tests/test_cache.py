"""What can be made again: kept, mapped, and never believed if it is damaged."""

import hashlib
import os
import random
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_data import in_time

from sngan import cache


def test_what_is_kept_is_read_and_mapped(tmp_path: Path) -> None:
    path, content = tmp_path / "kind" / "name", np.arange(24, dtype=np.uint8)
    assert cache.read(path) is None
    assert cache.mapped(path, (24,)) is None
    cache.write(path, content.data)
    assert cache.read(path) == content.tobytes()
    found = cache.mapped(path, (2, 3, 4))
    assert found is not None
    assert np.array_equal(found, content.reshape(2, 3, 4))
    found[:] = 0
    assert cache.read(path) == content.tobytes()  # the copy of this process
    assert cache.mapped(path, (24,), hashlib.sha256(content).hexdigest()) is not None
    assert cache.mapped(path, (24,), hashlib.sha256(b"other").hexdigest()) is None
    for shape in ((25,), (23,), (2, 2)):
        assert cache.mapped(path, shape) is None


@pytest.mark.parametrize("content", [b"", b"x", b"some content"])
def test_a_changed_or_lost_byte_anywhere_is_no_file(content: bytes, tmp_path: Path) -> None:
    path, rng = tmp_path / "name", random.Random(0)
    cache.write(path, content)
    assert cache.read(path) == content
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :])
        assert cache.read(path) is None
        path.write_bytes(whole[:place])
        assert cache.read(path) is None


def test_where_nothing_can_be_kept_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "kind").write_text("a file, not a folder")
    cache.write(tmp_path / "kind" / "name", b"content")
    assert cache.read(tmp_path / "kind" / "name") is None


def test_folders_are_the_platforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder("images") == tmp_path / "sngan" / "images"


def test_a_user_without_a_home_has_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    assert cache.folder("images") == Path(tempfile.gettempdir()) / f"sngan-{os.getuid()}" / "images"


@pytest.mark.parametrize("mode", [0o666, 0o622, 0o664, 0o620, 0o1666])  # a sticky bit of a file says nothing
def test_what_another_user_could_have_written_is_not_believed(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grp.getgrgid", lambda group: SimpleNamespace(gr_name="staff", gr_mem=["somebody"]))
    path = tmp_path / "kind" / "name"
    cache.write(path, b"content")
    path.chmod(mode)
    assert cache.read(path) is None
    assert cache.mapped(path, (7,)) is None
    cache.write(path, b"content")
    assert cache.read(path) == b"content"
    for mode_of_folder in (0o777, 0o775):
        path.parent.chmod(mode_of_folder)
        assert cache.read(path) is None
        assert cache.mapped(path, (7,)) is None
        assert cache.refusal(path) == f"other users can write in {path.parent}"
        cache.write(path, b"other")  # what would not be believed is not written
        assert path.read_bytes().endswith(b"content")
    path.parent.chmod(0o1777)  # as of /tmp: others cannot replace it
    assert cache.read(path) == b"content"
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
        assert cache.read(path) is None
        cache.write(path, b"content")
        assert cache.read(path) == b"content"


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0o002)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_no_others_may_write_what_is_kept_whatever_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grp.getgrgid", lambda group: SimpleNamespace(gr_name="staff", gr_mem=[]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = cache.folder("images") / "name"
    cache.write(path, b"content")
    assert [stat.S_IMODE(of.stat().st_mode) for of in (path, path.parent)] == [0o644, 0o755]
    path.parent.chmod(0o775)  # as an older version made it
    path.chmod(0o664)
    assert cache.read(path) is None
    cache.write(path, b"content")
    assert cache.read(path) == b"content"
    (tmp_path / "records").mkdir()
    assert cache.refusal(tmp_path / "records" / "name")
    assert stat.S_IMODE((tmp_path / "records").stat().st_mode) == 0o775  # which is not the cache's


@pytest.mark.parametrize(
    ("name", "members", "believed"),
    [("me", [], True), ("me", ["me"], True), ("me", ["other"], False), ("us", [], False)],
)
def test_a_group_of_one_is_that_user(
    name: str, members: list[str], believed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write(tmp_path / "name", b"content")
    for path in (tmp_path, tmp_path / "name"):
        path.chmod(0o775)
    monkeypatch.setattr("pwd.getpwuid", lambda user: SimpleNamespace(pw_name="me", pw_gid=tmp_path.stat().st_gid))
    monkeypatch.setattr("grp.getgrgid", lambda group: SimpleNamespace(gr_name=name, gr_mem=members))
    assert cache.read(tmp_path / "name") == (b"content" if believed else None)


def test_what_is_no_file_is_neither_waited_for_nor_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    for path in sorted(tmp_path.iterdir()):
        with in_time():
            assert cache.read(path) is None
            assert cache.mapped(path, (7,)) is None
            cache.write(path, b"content")
        assert "is not replaced" in cache.refusal(path)
        assert not path.is_file()
