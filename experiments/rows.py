"""Rows of numbers in .jsonl files, as a run writes them: one object per line, in order of steps."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from sngan.config import InputError
from sngan.files import read_within

_MOST_STEPS = 2**53  # whole numbers that a double holds
_MOST = sys.float_info.max


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; a torn last line is dropped, a missing file has no rows.

    Raises InputError that names file and line for a line before the last that cannot be read.
    """
    rows, damage = readable_rows(path)
    if damage:
        raise InputError(f"{path}, {damage}")
    return rows


def readable_rows(path: Path) -> tuple[list[dict[str, Any]], str]:
    """As `read_rows`, the rows that are readable, and what is wrong with the first line that is not, or nothing."""
    try:
        content = read_within(path, path.parent)
    except FileNotFoundError:
        return [], ""
    except InputError as error:
        return [], str(error)
    rows, damage, last = [], "", -1
    complete = content.split(b"\n")[:-1]  # what follows the last newline is torn, or empty
    for number, line in enumerate(complete, start=1):
        try:
            rows.append(_row(line, last))
            last = rows[-1]["step"]
        except (ValueError, RecursionError) as error:
            damage = damage or f"line {number}: {error}"
    return rows, damage


def _row(line: bytes, last: int) -> dict[str, Any]:
    """Raises ValueError, and RecursionError, for what is no row that comes after step `last`."""
    try:
        row = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not readable as JSON ({error})") from error
    if not isinstance(row, dict) or type(row.get("step")) is not int or not 0 <= row["step"] < _MOST_STEPS:
        raise ValueError("expected an object with a whole number as step")
    if row["step"] <= last:
        raise ValueError(f"step {row['step']} after step {last}")
    for name, value in row.items():
        if not all(map(_is_number, value if isinstance(value, list) else [value])):
            raise ValueError(f"a metric is no number, nor a list of them: {name!r}")
    return row


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON; a run writes null")


def _is_number(value: Any) -> bool:
    """Or null, as which non-finite ones are written. Python's own integers can be too large for a float."""
    return value is None or type(value) is float or (type(value) is int and abs(value) <= _MOST)
