"""Generated tables against the reading rules, written a second time: row by row, as their description says them."""

from __future__ import annotations

import codecs
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from others import OTHER, curve, read_text, summary_of
from pyarrow import parquet

from analysis.sources.columns import Reading
from analysis.sources.lost import FAR
from analysis.sources.table import read

Row = dict[str, Any]
_CELL = st.sampled_from(["1.5", "2", "3e-1", "", "", "NaN", "inf"])
_DENSE = st.sampled_from(["1.5"] * 20 + ["", "NaN", "-inf"])
_NAMES = st.sampled_from(["a", "a ", "1", "1.0", "01", "None", "x, y", "ä", '"q"'])


@st.composite
def generated(draw: st.DrawFn) -> list[Row]:
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


def written(rows: list[Row], folder: Path, kind: str) -> Path:
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
@given(generated(), st.sampled_from(["csv", "utf16-csv", "tsv", "jsonl", "parquet"]))
def test_the_rules_read_as_they_are_written(rows: list[Row], kind: str) -> None:
    assume(kind != "jsonl" or any(row["quality"] for row in rows))  # else it has no such column
    with tempfile.TemporaryDirectory() as folder:
        study = read(written(rows, Path(folder), kind), Reading(), Path(folder))
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


def w_and_b_shape(**end: str) -> str:
    """Two arms x 8 seeds: losses at steps 0 to 990, and a last row with quality only; `end`: of the last rows' loss."""
    lines = ["arm,seed,step,loss,loss_g,quality"]
    for arm in "ab":
        for seed in range(8):
            lines += [f"{arm},{seed},{step},1,2," for step in range(0, 1000, 10)]
            lines.append(f"{arm},{seed},1000,{end.get('loss', '')},{end.get('loss_g', '')},{5 + seed}")
    return "\n".join(lines)


@pytest.mark.parametrize("end", [{}, {"loss": "NaN"}, {"loss": "NaN", "loss_g": "null"}, {"loss": "NA"}])
def test_healthy_runs_in_the_shape_of_w_and_b_are_not_diverged(end: dict[str, str], tmp_path: Path) -> None:
    study = read_text(tmp_path, w_and_b_shape(**end), mapping={"loss_g": "loss_g"})
    assert study.account["finished"] == 16
    summary = summary_of(study)
    assert not summary["failure"].any()
    assert summary["q_end"].tolist() == [5.0 + seed for seed in range(8)] * 2


@pytest.mark.parametrize(
    ("rows", "state", "since"),
    [
        (curve([2, "", "", ""], [1, 1, 1, 1]), "finished", None),  # one evaluation, not in the last row
        (curve(["", 2, "", ""], [1, 1, 1, 1]), "finished", None),
        (curve([2, 2, 2, ""]), "finished", None),  # evaluations of which the last is missing
        (curve([*[2] * 5, "", ""]), "finished", None),  # a short gap
        (curve([*[2] * 5, *[""] * 5]), "diverged", 500),  # for far longer than any other
        (curve([2, 2, "inf", 2]), "diverged", 200),  # an infinity
        (curve([2, 2, 2, 2], [1, "-Infinity", 1, 1]), "diverged", 100),
        (curve([2, 2, "", ""], [1, 1, "NaN", "NaN"]), "diverged", 200),  # logged as NaN
        (curve([2, 2, 2, 2], [1, 1, "NaN", "NaN"]), "finished", None),  # for a while, and there is a quality
        (curve([2] * 8, [1, 1, *["NaN"] * 6]), "diverged", 200),  # for far longer than any other
        (curve([2, 2, 2, 2], ["NaN"] * 4), "finished", None),  # never a number: this run has no such loss
        (curve([2, 2, "NaN", "NaN"], [1, 1, 1, 1]), "finished", None),  # evaluations end, the loss continues
        (curve([2, 2, 2, 2], [1, 1, "", ""]), "finished", None),  # not logged any more
        (curve([2, *[""] * 9], [1, *[""] * 9]), "diverged", 100),  # nothing any more
        (curve([*[""] * 9, 2], [1, *[""] * 9]), "finished", None),  # quality is finite later
        (curve([2, 2, "NaN"]), "diverged", 200),
        (curve(["NaN", "NaN", ""]), "diverged", 0),  # nothing was ever finite
        (curve(["", "", ""]), "finished", None),  # nothing was measured, which is said
        (curve(["", "", ""], [1, 1, 1]), "finished", None),  # no quality, which is said
        (curve([2, 2], ["", ""]), "finished", None),  # a metric that this run never had
    ],
)
def test_what_is_a_divergence_and_since_when(rows: str, state: str, since: int | None, tmp_path: Path) -> None:
    study = read_text(tmp_path, f"arm,seed,step,quality,loss\n{OTHER}\n{rows}\n")
    run = study.runs.set_index("arm").loc["a"]
    assert run["state"] == state
    assert (None if np.isnan(run["lost_step"]) else run["lost_step"]) == since
    of = summary_of(study).set_index("arm")
    assert of.loc["a", "ended"] == (state == "finished")
    assert of.loc["a", "causes"] == ("" if since is None else f"divergence at {since:,}")
    assert of.loc["b", "causes"] == ""


def test_a_word_that_stands_for_nothing_elsewhere_is_no_divergence(tmp_path: Path) -> None:
    """Where NaN comes before numbers, as between evaluations, it is that table's word for nothing."""
    rows = [f"{arm},{seed},{step},{2 if step % 1000 == 0 and step < 10000 else 'nan'}"
            for arm in "ab" for seed in range(3) for step in range(500, 10001, 500)]  # fmt: skip
    study = read_text(tmp_path, "arm,seed,step,quality\n" + "\n".join(rows))  # evaluations, the last one missing
    assert set(study.runs["state"]) == {"finished"}
    rows += [f"c,0,{step},{2 if step % 1000 == 0 and step < 4000 else 'nan'}" for step in range(500, 10001, 500)]
    study = read_text(tmp_path, "arm,seed,step,quality\n" + "\n".join(rows))
    assert study.runs.set_index("arm")["state"].to_dict()["c"] == "diverged"
    assert study.account["finished"] == 6


def test_what_writes_nan_and_null_for_nothing_makes_no_divergence(tmp_path: Path) -> None:
    """pandas writes null for what is not there, with na_rep NaN: losses every 10 steps, a quality every 100, at last
    a quality alone; and of two methods one has a second loss."""
    rows = [
        {"arm": arm, "seed": seed, "step": step, "quality": 5.0 + seed if step % 100 == 0 else None,
         "loss": 1.0 if step < 1000 else None, "loss_g": 2.0 if step < 1000 and arm == "gan" else None}
        for arm in ("gan", "diffusion") for seed in range(8) for step in range(0, 1001, 10)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    table.to_csv(tmp_path / "blank.csv", index=False)
    table.to_csv(tmp_path / "word.csv", index=False, na_rep="NaN")
    table.to_json(tmp_path / "null.jsonl", orient="records", lines=True)
    pyarrow.parquet.write_table(pyarrow.table({n: table[n].to_numpy() for n in table}), tmp_path / "nan.parquet")
    for name in ("blank.csv", "word.csv", "null.jsonl", "nan.parquet"):
        study = read(tmp_path / name, Reading(), tmp_path / "out")
        assert study.account["finished"] == 16, name
        assert not summary_of(study)["failure"].any(), name


def test_what_would_end_every_run_is_how_the_table_was_logged(tmp_path: Path) -> None:
    steps = [2**i for i in range(13)]
    rows = [f"a,{seed},{step},2" for seed in range(8) for step in steps] + [f"a,{seed},20000," for seed in range(8)]
    study = read_text(tmp_path, "arm,seed,step,quality\n" + "\n".join(rows))
    assert study.account["finished"] == 8
    assert any("quality ends long before the run does" in text for text in study.warnings)
