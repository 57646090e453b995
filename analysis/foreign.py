"""Anyone's runs, from a table or a W&B project -> the frames of `analysis.load`.

A table has a row a logged step (or a row a run). What its columns mean is said by a mapping; a column that already has
the name needs no mention.

| name | | what |
|---|---|---|
| `arm` | required | what is compared |
| `seed` | required | whole numbers; runs of different arms with one seed are pairs |
| `quality` | required | lower is better, positive |
| `step` | | training step; else the rows of a run are counted |
| `loss`, `loss_g` | | of D and of G |
| `grad_g` | | norm of G's gradient |
| `dataset`, `setting` | | runs that differ there are not compared |
| `state` | | `finished`, `diverged`, `failed`; else a run has diverged whose loss (or quality, where it has none) is
infinite at the end, or missing there for longer than ever between two values |
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.load import Study
from experiments.record import STATES
from sngan.config import InputError, suggestion

METRICS = {"quality": "eval/fd", "loss": "loss/d", "loss_g": "loss/g", "grad_g": "grad_norm/g"}
REQUIRED = ("arm", "seed", "quality")
COLUMNS = ("arm", "seed", "step", "dataset", "setting", "state", *METRICS)
_NAMES = ("arm", "dataset", "setting", "state")
_MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "None"]
_UNKNOWN = (  # of what `analysis.load` tells of a run
    *("error", "device", "device_name", "threads", "torch", "wall_seconds", "exact", "git_commit", "git_tree"),
    *("git_dirty", "training_version", "wandb_url", "metrics_sha256"),
)


def parse_mapping(text: str) -> dict[str, str]:
    """`quality=fid,arm=method` -> {"quality": "fid", "arm": "method"}. Raises InputError for what is no such name."""
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    pairs = [(name.strip(), column.strip()) for name, _, column in parts]
    for values, what in zip(zip(*pairs, strict=True), ("name", "column"), strict=False):
        if twice := [value for value in values if value and values.count(value) > 1]:
            raise InputError(f"--map {text!r}: the {what} {twice[0]!r} stands there twice")
    for name, column in pairs:
        if name not in COLUMNS:
            known = f"{', '.join(COLUMNS)}{suggestion(name, COLUMNS)}"
            raise InputError(f"--map {text!r}: {name!r} is none of {known}; write NAME=COLUMN,..")
        if not column:
            raise InputError(f"--map {text!r}: {name} lacks its column; write {name}=COLUMN")
    return dict(pairs)


def read_csv(path: Path, mapping: Mapping[str, str], folder: Path, baseline: str = "") -> Study:
    """A CSV file as a study whose report belongs into `folder`. Raises InputError where it cannot be read.

    Missing are an empty cell, NA, NaN and null; in columns of names (arm, dataset, setting, state) only an empty cell.
    """
    words = {mapping.get(known, known) for known in _NAMES}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows that are longer than the header
            columns = pd.read_csv(path, nrows=0, index_col=False).columns
            missing = {column: [""] if column in words else _MISSING for column in columns}
            table = pd.read_csv(path, index_col=False, keep_default_na=False, na_values=missing)
    except (OSError, ValueError, pd.errors.ParserWarning) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"cannot read {path} as CSV with commas and a header: {error}") from error
    command = f"sngan report --csv {path.name}" + (f" --map {_written(mapping)}" if mapping else "")
    return from_table(table, mapping, path.stem, folder, baseline, command)


def _written(mapping: Mapping[str, str]) -> str:
    return ",".join(f"{known}={column}" for known, column in mapping.items())


def from_table(
    table: pd.DataFrame, mapping: Mapping[str, str], name: str, folder: Path, baseline: str = "", command: str = ""
) -> Study:
    """A study from a table as described above; `baseline` is the arm that others are compared with, else the first.

    `command` made it; its page says so.

    Raises InputError for a column that is missing or holds something else than it should.
    """
    column = {known: mapping.get(known, known) for known in COLUMNS}
    missing = [known for known in COLUMNS if (known in REQUIRED or known in mapping) and column[known] not in table]
    if missing:
        wanted = ", ".join(f"{known} (column {column[known]!r})" for known in missing)
        raise InputError(f"{name} lacks {wanted}; its columns are {', '.join(map(str, table))}: say which with --map")
    rows = pd.DataFrame({known: table[column[known]] for known in COLUMNS if column[known] in table})
    if rows.empty:
        raise InputError(f"{name} has no rows")
    for known in set(rows) & {*_NAMES}:
        if (lacking := rows[known].isna()).any():
            raise InputError(f"{name}: {known} (column {column[known]!r}) is empty in row {lacking.argmax() + 1}")
        rows[known] = rows[known].astype(str)
    before = rows["arm"].nunique()
    rows["arm"] = rows["arm"].str.replace(",", ";")  # a comma parts an arm from its parameters
    if rows["arm"].nunique() < before:
        raise InputError(f"{name}: arms differ only in commas and semicolons, which are taken for the same")
    for known in ("seed", "step"):
        if known in rows:
            rows[known] = _whole(rows[known], f"{name}: {known} (column {column[known]!r})")
    for known in METRICS.keys() & set(rows):
        numbers = pd.to_numeric(rows[known], errors="coerce")
        if (bad := rows[known][numbers.isna() & rows[known].notna()]).any():
            raise InputError(f"{name}: {known} (column {column[known]!r}) holds {bad.iloc[0]!r}, which is no number")
        rows[known] = numbers.astype(float)
    if (rows["quality"] <= 0).any():
        raise InputError(f"{name}: quality (column {column['quality']!r}) must be positive, lower being better")
    for known, default in (("dataset", name), ("setting", "custom")):
        rows[known] = rows.get(known, default)
    keys = ["dataset", "setting", "arm", "seed"]
    rows["run_id"] = rows[keys].astype(str).agg("-".join, axis=1)
    if rows["run_id"].nunique() < len(rows[keys].drop_duplicates()):
        raise InputError(f"{name}: two runs would both be called alike; do without dashes in dataset, setting or arm")
    if "step" not in rows:
        rows["step"] = rows.groupby("run_id").cumcount()
    if (twice := rows.duplicated(["run_id", "step"])).any():
        first = rows[twice].iloc[0]
        raise InputError(f"{name}: step {first['step']} of {first['run_id']} stands there twice")
    rows["variant"] = rows["arm"]
    rows["context"] = rows["dataset"] + ", setting " + rows["setting"]
    rows = rows.sort_values(["run_id", "step"], kind="stable", ignore_index=True)
    if baseline and baseline not in set(rows["arm"]):
        raise InputError(f"{name}: no arm {baseline!r}; there are {', '.join(sorted(rows['arm'].unique()))}")
    last = rows.groupby("run_id").tail(1).set_index("run_id")
    states = _states(rows, name)
    runs = last[[*keys, "variant", "context", "step"]].assign(
        state=states, damage="", trivial_fd=np.nan, trivial_fd_pixels=np.nan, attempts=1, **dict.fromkeys(_UNKNOWN)
    )
    runs = runs.reset_index()
    history = rows.rename(columns=METRICS).drop(columns="state", errors="ignore")
    account = runs["state"].value_counts().reindex(STATES, fill_value=0).rename("runs")
    description = (
        f"Runs of another program. What this page calls fd is their {column['quality']}; whether they ever were "
        "healthy is not known, so of failures only divergence and errors are counted."
    )
    return Study(
        name, description, folder, runs, history, account, [], baseline=baseline, command=command, foreign=True
    )


def _whole(values: pd.Series, what: str) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce")
    if (bad := values[numbers.isna() | (numbers % 1 != 0) | (numbers.abs() > 2**53)]).size:
        raise InputError(f"{what} must hold whole numbers, got {bad.tolist()[0]!r}")
    return numbers.astype("int64")


def _states(rows: pd.DataFrame, name: str) -> pd.Series:
    """Run id -> state."""
    by_run = rows.groupby("run_id")
    if "state" in rows:
        states = by_run["state"].last()
        if unknown := set(states) - {"finished", "diverged", "failed"}:
            raise InputError(f"{name}: state {unknown.pop()!r} is none of finished, diverged, failed")
        return states
    watched = [known for known in ("quality", "loss") if known in rows]
    lost = {run_id: _diverged({known: run[known].to_numpy() for known in watched}) for run_id, run in by_run}
    return pd.Series(lost).map({True: "diverged", False: "finished"})


def _diverged(run: Mapping[str, np.ndarray]) -> bool:
    """By its loss, where it has one, and by infinite quality; else by its quality."""
    quality, loss = run["quality"], run.get("loss")
    if loss is None or np.isnan(loss).all():
        return _is_lost(quality)
    known = quality[~np.isnan(quality)]
    return _is_lost(loss) or bool(len(known) and np.isinf(known[-1]))


def _is_lost(values: np.ndarray) -> bool:
    known = np.flatnonzero(~np.isnan(values))
    if not len(known) or np.isinf(values[known[-1]]):
        return True
    return bool(len(values) - 1 - known[-1] >= max(np.diff(known), default=1))
