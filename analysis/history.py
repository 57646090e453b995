"""The rows of a study's runs in one frame. Those of results are kept: a second report reads only what is new."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
from pyarrow import parquet

from analysis.checked import frame, numbers, steps
from experiments.record import RESULTS
from sngan import cache

COUNTS = ("step", "d_updates", "images_seen")
KEYS = ("dataset", "arm", "setting", "seed", "variant", "context")
"""columns of the runs that every row has too"""
_CACHE = ".history.cache"
_NOT_METRICS = (*COUNTS, "run_id", "metrics_sha256")

Rows = Callable[[], tuple[pd.DataFrame, str]]
"""() -> a run's rows, and what is wrong with those that cannot be read"""


def history_of(
    runs: pd.DataFrame, rows_of: Mapping[str, Rows], folder: Path | None = None
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The rows of all runs in their order, and what is wrong with those that were read in part, by run id.

    Rows of results are kept in `folder`, if there is one, beside the SHA-256 of the file that they came from.
    """
    sound = runs["state"].isin(RESULTS) & (runs["damage"] == "")
    digests = runs.loc[sound, ["run_id", "metrics_sha256"]].dropna().set_index("run_id")["metrics_sha256"]
    kept = _kept(folder) if folder else _NONE
    kept = kept[kept["metrics_sha256"] == kept["run_id"].map(digests)]
    frames, damage = [kept], {}
    for run_id in runs.loc[~runs["run_id"].isin(kept["run_id"]), "run_id"]:
        rows, wrong = _readable(rows_of[run_id])
        if len(rows):
            frames.append(rows.assign(run_id=run_id, metrics_sha256=digests.get(run_id)))
        if wrong:
            damage[run_id] = f"metrics.jsonl, {wrong}"
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        return pd.DataFrame(columns=["run_id", *KEYS, "step"]), damage
    rows = pd.concat(frames, ignore_index=True)
    results = rows[rows["metrics_sha256"].notna()]
    if folder and set(results["run_id"]) != set(kept["run_id"]):
        _keep(results, folder)
    return _in_order(rows, runs), damage


def _readable(rows_of: Rows) -> tuple[pd.DataFrame, str]:
    """A run's rows with their types, one per step."""
    rows, wrong = rows_of()
    rows = rows.loc[:, [name in COUNTS or "/" in name for name in rows]]  # others could be called like one of KEYS
    if not len(rows):
        return rows, wrong
    try:
        frame(rows, "its rows", ["step"])
        steps(rows["step"], "step")
        for name in COUNTS[1:]:
            if name in rows:
                numbers(rows[name], name)
        return _typed(rows).drop_duplicates("step", keep="last"), wrong
    except (KeyError, TypeError, ValueError) as error:  # InputError too
        return pd.DataFrame(), f"a number is none ({error}), so no row is used"


def _typed(rows: pd.DataFrame) -> pd.DataFrame:
    """With the types of `Study.history`; what float32 cannot hold is infinite."""
    metrics = [name for name in rows if name not in _NOT_METRICS]
    kinds = {name: np.float64 if name.startswith("eval/") else np.float32 for name in metrics}
    with np.errstate(over="ignore"):
        typed = rows.astype({name: kind for name, kind in kinds.items() if rows[name].dtype != kind})
    return typed.copy()  # in one piece again: astype leaves a piece per column


def _in_order(rows: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Of runs in their order, with what identifies them in front."""
    place = rows["run_id"].map({run_id: i for i, run_id in enumerate(runs["run_id"])})
    metrics = sorted(name for name in rows if name not in _NOT_METRICS)
    columns = ["run_id", *(name for name in COUNTS if name in rows), *metrics]
    rows = rows.iloc[place.argsort(kind="stable")][columns]
    rows = rows.dropna(axis=1, how="all")  # of runs that were there once, and only in the cache
    of_run = runs.set_index("run_id")
    identity = pd.DataFrame({name: rows["run_id"].map(of_run[name]) for name in KEYS})
    return pd.concat([rows[["run_id"]], identity, rows.drop(columns="run_id")], axis=1).reset_index(drop=True)


_NONE = pd.DataFrame(columns=["run_id", "metrics_sha256"])


def _kept(folder: Path) -> pd.DataFrame:
    """What `_keep` has kept there; nothing if another program wrote it."""
    content = cache.read(folder / _CACHE)
    try:
        kept = _typed(parquet.read_table(pyarrow.BufferReader(content)).to_pandas()) if content else _NONE
        return frame(kept, "kept rows", ["run_id", "metrics_sha256", "step"]) if len(kept) else _NONE
    except (pyarrow.ArrowException, KeyError, TypeError, ValueError):
        return _NONE


def _keep(rows: pd.DataFrame, folder: Path) -> None:
    buffer = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pandas(rows, preserve_index=False), buffer)
    cache.write(folder / _CACHE, buffer.getvalue().to_pybytes())
