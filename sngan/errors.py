"""A user's mistake, and the words of its message."""

from __future__ import annotations

import difflib
from typing import Any


class InputError(ValueError):
    """A user's mistake: the message says what was wrong, where, and what would be right."""


def shown(value: object) -> str:
    """A value as Python writes it, for a message: of a long one the beginning."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more than 4,300 digits
        return "a number that is too large"
    return text if len(text) <= 200 else f"{text[:200]}.."


def suggestion(word: object, known: Any) -> str:
    """`; did you mean 'x'?` if a known word is near, else nothing."""
    near = difflib.get_close_matches(str(word)[:100], [str(k) for k in known], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
