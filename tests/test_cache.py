"""What can be made again: kept, mapped, and never believed if it is damaged."""

import random
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
