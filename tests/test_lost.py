"""Generated tables against the reading rules, written a second time: row by row, as their description says them."""

from __future__ import annotations

import codecs
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pyarrow
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from analysis.sources.lost import FAR
from analysis.sources.table import Reading, read

Row = dict[str, Any]
_CELL = st.sampled_from(["1.5", "2", "3e-1", "", "", "NaN", "inf"])
_DENSE = st.sampled_from(["1.5"] * 20 + ["", "NaN", "-inf"])
_NAMES = st.sampled_from(["a", "a ", "1", "1.0", "01", "None", "x, y", "ä", '"q"'])


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    """Runs of some arms and seeds: each a stretch of steps, its cells numbers, nothing, NaN and infinities."""
    arms = draw(st.lists(_NAMES, min_size=1, max_size=3, unique=True))
    columns = draw(st.sampled_from([["quality"], ["quality", "loss"], ["quality", "loss", "loss_g"]]))
    fill = draw(st.sampled_from([_CELL, _DENSE, st.sampled_from(["2", "NaN"]), st.sampled_from(["2", ""])]))
    rows = []
    for arm in arms:
        for seed in range(draw(st.integers(1, 2))):
            every, n = draw(st.sampled_from([1, 10])), draw(st.integers(1, 12))
            for i in range(n):
                row = {"arm": arm, "seed": str(seed), "step": str(every * i)}
                rows.append(row | {column: draw(fill) for column in columns})
    return draw(st.permutations(rows))


def write(rows: list[Row], folder: Path, kind: str) -> Path:
    path = folder / f"t.{kind.removeprefix('utf16-')}"
    if kind == "jsonl":  # what is empty is absent; strings and numbers
        lines = [{name: cell for name, cell in row.items() if cell != ""} for row in rows]
        path.write_text("\n".join(json.dumps(line) for line in lines))
    elif kind == "parquet":
        columns = {name: [row[name] if row[name] != "" else None for row in rows] for name in rows[0]}
        parquet.write_table(pyarrow.table(columns), path)
    else:
        separator = {"csv": ",", "utf16-csv": ";", "tsv": "\t"}[kind]
        quoted = [['"' + cell.replace('"', '""') + '"' for cell in row.values()] for row in rows]
        text = "\r\n".join(separator.join(cells) for cells in [list(rows[0]), *quoted]) + "\r\n"
        path.write_bytes(text.encode("utf-16") if kind == "utf16-csv" else codecs.BOM_UTF8 + text.encode())
    return path


def number(cell: str) -> float:
    return math.nan if cell in ("", "NaN") else float(cell)


def plainly(rows: list[Row]) -> dict[tuple[str, int], float | None]:
    """(arm, seed) -> the step from which the run is lost, or None."""
    names = [name for name in ("loss", "loss_g", "quality") if name in rows[0]]
    losses = [name for name in names if name != "quality"]
    runs: dict[tuple[str, int], list[Row]] = {}
    for row in sorted(rows, key=lambda row: int(row["step"])):
        runs.setdefault((row["arm"], int(row["seed"])), []).append(row)

    def finite(row: Row, *of: str) -> bool:
        return any(math.isfinite(number(row[name])) for name in of)

    ends: dict[tuple[str, int], list[int]] = {key: [] for key in runs}
    for name in names:
        gaps, fills, stops = [0], False, {}
        absent = any(row[name] == "" for row in rows)
        for run in runs.values():
            steps = [int(row["step"]) for row in run if finite(row, name)]
            gaps += [b - a for a, b in zip([int(run[0]["step"]), *steps], steps, strict=False)]
            fills |= any(row[name] == "NaN" and any(finite(r, name) for r in run[i:]) for i, row in enumerate(run))
        for key, run in runs.items():
            ends[key] += [int(row["step"]) for row in run if math.isinf(number(row[name]))]
            had = [i for i, row in enumerate(run) if finite(row, name)]
            if not had:
                continue
            after = run[had[-1] + 1 :]
            length = int(run[-1]["step"]) - int(run[had[-1]]["step"])
            far = max(gaps) > 0 and length > FAR * max(gaps)
            nans = [i for i, row in enumerate(after) if row[name] == "NaN"]
            if nans and not fills:
                others = losses if name == "quality" else ["quality"]
                alone = not any(finite(row, *others) for row in after[nans[0] :])
                if absent or alone or (far and name != "quality"):
                    stops[key] = int(after[nans[0]]["step"])
                    continue
            if name == "quality" and any(finite(row, *losses) for row in run):
                continue
            if after and far and not any(finite(row, "quality") for row in after):
                stops[key] = int(after[0]["step"])
        if len(stops) < len(runs) or len(runs) == 1:
            for key, step in stops.items():
                ends[key].append(step)
    for key, run in runs.items():
        nothing = not any(finite(row, *names) for row in run)
        if nothing and not ends[key] and any(row[name] == "NaN" for row in run for name in names):
            ends[key].append(int(run[0]["step"]))
    return {key: min(steps) if steps else None for key, steps in ends.items()}


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(tables(), st.sampled_from(["csv", "utf16-csv", "tsv", "jsonl", "parquet"]))
def test_the_rules_read_as_they_are_written(rows: list[Row], kind: str) -> None:
    assume(kind != "jsonl" or any(row["quality"] for row in rows))  # else it has no such column
    with tempfile.TemporaryDirectory() as folder:
        study = read(write(rows, Path(folder), kind), Reading(), Path(folder))
    expected = plainly(rows)
    found = study.runs.set_index(["arm", "seed"])
    assert set(found.index) == set(expected)
    for key, since in expected.items():
        assert found.loc[key, "state"] == ("finished" if since is None else "diverged"), key
        step = found.loc[key, "lost_step"]
        assert (None if math.isnan(step) else step) == since, key
    cells = {(row["arm"], int(row["seed"]), int(row["step"])): number(row["quality"]) for row in rows}
    for row in study.history.to_dict("records"):
        quality = cells.pop((row["arm"], row["seed"], row["step"]))
        assert row["eval/fd"] == quality or (math.isnan(row["eval/fd"]) and not math.isfinite(quality))
    assert not cells
