"""Rows of numbers in .jsonl files."""

from pathlib import Path

import pytest

from experiments.rows import read_rows, readable_rows
from sngan.config import InputError

ROW = b'{"step": 0, "loss/d": 1.5, "loss/g": null, "spectrum/conv1": [1, 2.5, null]}\n'


def test_what_a_run_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(ROW + b'{"step": 10}\n{"step": 2')
    assert read_rows(path)[0] == {"step": 0, "loss/d": 1.5, "loss/g": None, "spectrum/conv1": [1, 2.5, None]}
    assert [row["step"] for row in read_rows(path)] == [0, 10]  # a torn last line is none
    assert readable_rows(tmp_path / "none.jsonl") == ([], "")


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b"null", b"{}", b"[" * 10_000, b'{"step": 5, "a": ' + b"[" * 100_000, b"\xff\xfe",
     b'{"step": 5.0}', b'{"step": "5"}', b'{"step": true}', b'{"step": -5}',
     b'{"step": 0}', b'{"step": 9007199254740992}', b'{"step": 5, "a": "high"}', b'{"step": 5, "a": false}',
     b'{"step": 5, "a": {"b": 1}}', b'{"step": 5, "a": [[1]]}', b'{"step": 5, "a": ["1"]}',
     b'{"step": 5, "a": 1' + b"0" * 400 + b"}", b'{"step": 5, "a": 1' + b"0" * 5000 + b"}"],
)  # fmt: skip
def test_what_no_run_writes_is_named_with_its_line(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(ROW + line + b'\n{"step": 10}\n')
    rows, damage = readable_rows(path)
    assert [row["step"] for row in rows] == [0, 10]
    assert damage.startswith("line 2: ")
    assert len(damage) < 300
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: "):
        read_rows(path)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    rows, damage = readable_rows(tmp_path / "metrics.jsonl")
    assert (rows, "is not a file" in damage) == ([], True)
