"""Tables that callers pass, column by column: what is no number and no name is refused in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from sngan.config import InputError, shown, suggestion

_MOST_STEPS = 2**53  # whole numbers that a double holds


def instance(value: Any, kind: type, what: str) -> Any:
    """The value, if it is of this kind. Raises InputError."""
    if not isinstance(value, kind):
        raise InputError(f"{what}: expected {kind.__name__}, got {shown(value)}")
    return value


def frame(table: object, name: str, columns: Sequence[str]) -> pd.DataFrame:
    """The table, its rows numbered from 0, if it has each of these columns once. Raises InputError."""
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"{name}: expected a table (pandas.DataFrame), got {type(table).__name__}")
    if isinstance(table.columns, pd.MultiIndex):
        raise InputError(f"{name}: the columns are a MultiIndex; expected one name each, such as {columns[0]}")
    if missing := [column for column in columns if column not in table]:
        lacking = "lack" if name.endswith("s") else "lacks"
        raise InputError(f"{name} {lacking} the columns {', '.join(missing)}; expected {', '.join(columns)}")
    if not table.columns.is_unique:
        raise InputError(f"{name}: there is {table.columns[table.columns.duplicated()][0]!r} more than once")
    return table.reset_index(drop=True)


def number(value: Any, what: str) -> float:
    """As a float, None as NaN. Raises InputError for what is no real number, and for what a double does not hold."""
    if value is None or value is pd.NA:
        return math.nan
    if not _is_number(value):
        raise InputError(f"{what}: {shown(value)} is no number")
    with suppress(OverflowError, ValueError):
        found = float(value)
        if not math.isinf(found) or found == value:
            return found
    raise InputError(f"{what}: a number fits no double; expected numbers within 1.8e308 of 0")


def _is_number(value: object) -> bool:
    return isinstance(value, (Real, Decimal, np.bool_)) and not isinstance(value, np.timedelta64)


def numbers(values: pd.Series, what: str) -> pd.Series:
    """As float64, None as NaN. Raises InputError for words, even of digits, dates, complex numbers, other objects.

    Whatever the column's type: of categories, or of Arrow's, every value is looked at.
    """
    if values.dtype.kind in "biuf" and values.dtype != np.longdouble:
        return values.astype(object).where(values.notna(), np.nan).astype(float)
    return pd.Series([number(value, what) for value in values], values.index, float)


def steps(values: pd.Series, what: str) -> pd.Series:
    """As int64. Raises InputError for what is no whole number from 0 on."""
    found = numbers(values, what)
    if (bad := values[~((found >= 0) & (found < _MOST_STEPS) & (found % 1 == 0))]).size:
        raise InputError(f"{what}: expected whole numbers from 0 on, got {shown(bad.tolist()[0])}")
    return found.astype("int64")


def flags(values: pd.Series, what: str) -> pd.Series:
    """As bool; 1 is True, 0 is False. Raises InputError for everything else, and for what is not there."""
    if bad := [value for value in values if not (_is_number(value) and value in (0, 1))]:
        raise InputError(f"{what}: expected True or False, got {shown(bad[0])}")
    return pd.Series([bool(value) for value in values], values.index, bool)


def names(values: pd.Series, what: str, all_there: bool = True) -> pd.Series:
    """Raises InputError for what cannot tell rows apart, such as lists, or, unless that is allowed, is not there."""
    distinct: Iterable[Any] = values
    with suppress(TypeError, NotImplementedError):  # lists and their like, of which the first is named below
        distinct = values.unique()
    for value in distinct:
        try:
            hash(value)
        except TypeError as error:
            raise InputError(f"{what}: {shown(value)} is no name ({error})") from error
        if all_there and pd.api.types.is_scalar(value) and pd.isna(value):
            raise InputError(f"{what}: {shown(value)} is no name")
    return values


def one_of(value: Any, known: Iterable[Any], what: str, among: str) -> Any:
    """That of the known ones which equals the value. Raises InputError if none does."""
    found = {each: each for each in known}
    with suppress(KeyError, TypeError):  # a list equals none
        return found[value]
    near = suggestion(value, [each for each in found if isinstance(each, str)])
    raise InputError(f"{what} {shown(value)} is not among {among}{near} ({', '.join(map(shown, found))})")
