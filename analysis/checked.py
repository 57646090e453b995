"""Tables that callers pass, column by column: what is no number and no name is refused in words."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import numpy as np
import pandas as pd

from sngan.config import InputError, shown

_MOST_STEPS = 2**53  # whole numbers that a double holds


def frame(table: object, name: str, columns: Sequence[str]) -> pd.DataFrame:
    """The table, if it has each of these columns once. Raises InputError."""
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"{name}: expected a table (pandas.DataFrame), got {type(table).__name__}")
    if missing := [column for column in columns if column not in table]:
        lacking = "lack" if name.endswith("s") else "lacks"
        raise InputError(f"{name} {lacking} the columns {', '.join(missing)}; expected {', '.join(columns)}")
    if not table.columns.is_unique:
        raise InputError(f"{name}: there is {table.columns[table.columns.duplicated()][0]!r} more than once")
    return table


def numbers(values: pd.Series, what: str) -> pd.Series:
    """As float64, None as NaN. Raises InputError for words, even of digits, dates, complex numbers, other objects."""
    if values.dtype == object or isinstance(values.dtype, pd.StringDtype):
        absent = values.isna()
        if bad := [value for value in values[~absent] if not isinstance(value, Real)]:
            raise InputError(f"{what}: {shown(bad[0])} is no number")
    elif isinstance(values.dtype, np.dtype) and values.dtype.kind not in "biuf":
        raise InputError(f"{what}: expected numbers, got {values.dtype}")
    try:
        return values.astype(object).where(values.notna(), np.nan).astype(float)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{what} holds what is no number: {error}") from error


def steps(values: pd.Series, what: str) -> pd.Series:
    """As int64. Raises InputError for what is no whole number from 0 on."""
    found = numbers(values, what)
    if (bad := values[~((found >= 0) & (found < _MOST_STEPS) & (found % 1 == 0))]).size:
        raise InputError(f"{what}: expected whole numbers from 0 on, got {shown(bad.iloc[0])}")
    return found.astype("int64")


def names(values: pd.Series, what: str, all_there: bool = True) -> pd.Series:
    """Raises InputError for what cannot tell rows apart, such as lists, or, unless that is allowed, is not there."""
    try:
        distinct = values.unique()
    except TypeError as error:  # lists
        raise InputError(f"{what}: {shown(values.iloc[0])} is no name ({error})") from error
    if all_there and (absent := [value for value in distinct if pd.api.types.is_scalar(value) and pd.isna(value)]):
        raise InputError(f"{what}: {shown(absent[0])} is no name")
    return values
