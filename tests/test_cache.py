"""What can be made again: kept, mapped, and never believed if it is damaged."""

import hashlib
import os
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest

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


@pytest.mark.parametrize("mode", [0o666, 0o622])
def test_what_another_user_could_have_written_is_not_believed(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "kind" / "name"
    cache.write(path, b"content")
    path.chmod(mode)
    assert cache.read(path) is None
    assert cache.mapped(path, (7,)) is None
    path.chmod(0o644)
    path.parent.chmod(0o777)
    assert cache.read(path) is None
    path.parent.chmod(0o1777)  # as of /tmp: others cannot replace it
    assert cache.read(path) == b"content"
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
        assert cache.read(path) is None
        cache.write(path, b"content")
        assert cache.read(path) == b"content"
