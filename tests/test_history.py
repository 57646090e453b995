"""The rows of a study's runs in one frame."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.load import load
from analysis.sources import records
from experiments.record import Record, run_folders
from sngan import cache


def test_history_is_the_rows_on_disk(mixed_study: Path) -> None:
    study = load(mixed_study)
    for record in run_folders(mixed_study):
        if record.run_id in study.extra:
            continue
        found = study.history[study.history["run_id"] == record.run_id]
        lines = [line for line in record.metrics_path.read_text().splitlines() if line.endswith("}")]
        assert len(found) == len(lines)  # a torn last line is no row
        for row, line in zip(found.to_dict("records"), lines, strict=True):
            for key, value in json.loads(line).items():
                kept = value if value is None or key.startswith("eval/") else float(np.float32(value))
                assert row[key] == kept or (kept is None and np.isnan(row[key]))
    assert study.history.loc[study.history["step"] == 0, "loss/d"].isna().all()  # absent stays missing
    assert study.history["step"].dtype == study.history["seed"].dtype == np.int64
    assert (study.history["context"] == "digits, setting C").all()


def test_a_metric_that_is_called_like_a_field_is_none(mixed_study: Path) -> None:
    before = load(mixed_study)
    (failed,) = before.runs.loc[before.runs["state"] == "failed", "run_id"]
    path = Record(mixed_study / failed).metrics_path
    path.write_text(path.read_text().replace('"loss/d": ', '"arm": 1.0, "seed": 1.0, "loss/d": '))
    pd.testing.assert_frame_equal(load(mixed_study).history, before.history)


def test_results_are_read_once(mixed_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second look reads what is no result yet; a changed or new run is read, and a damaged cache not believed."""
    read, real = [], records.rows
    monkeypatch.setattr(records, "rows", lambda path: (read.append(path.parent.name), real(path))[1])
    first = load(mixed_study)
    results = set(first.runs.loc[first.runs["state"].isin(["finished", "diverged"]), "run_id"])
    assert len(read) == 6

    def again(expected: set[str]) -> None:
        read.clear()
        pd.testing.assert_frame_equal(load(mixed_study).history, first.history)
        assert set(read) & results == expected

    again(set())
    cache = mixed_study / ".history.cache"
    content, rng = cache.read_bytes(), random.Random(0)
    for _ in range(30):
        place = rng.randrange(len(content))
        cache.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :])
        pd.testing.assert_frame_equal(load(mixed_study).history, first.history)
    cache.unlink()
    again(results)
    record = Record(mixed_study / sorted(results)[0])
    record.metrics_path.write_bytes(record.metrics_path.read_bytes().replace(b'"loss/d": 0.', b'"loss/d": 9.'))
    read.clear()
    changed = load(mixed_study)
    assert set(read) & results == {record.run_id}
    assert (changed.runs["damage"] != "").sum() == 1
    assert not changed.history.equals(first.history)


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.assign(step="word"),
        lambda rows: rows.assign(step=rows["step"] + 0.5),
        lambda rows: rows.assign(step=-1),
        lambda rows: rows.drop(columns="step"),
        lambda rows: rows.assign(d_updates="word"),
        lambda rows: rows.assign(images_seen="word"),
        lambda rows: rows.set_axis([{"loss/g": "loss/d"}.get(name, name) for name in rows], axis=1),
    ],
)
def test_a_run_whose_rows_are_no_numbers_is_left_out(
    change: Callable, mixed_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = load(mixed_study), records.rows
    bad = before.runs.loc[before.runs["state"] == "finished", "run_id"].iloc[0]
    (mixed_study / ".history.cache").unlink()
    monkeypatch.setattr(
        records, "rows", lambda path: (change(real(path)[0]), "") if path.parent.name == bad else real(path)
    )
    after = load(mixed_study)
    assert set(before.history["run_id"]) - set(after.history["run_id"]) == {bad}
    assert "no row is used" in after.runs.set_index("run_id").loc[bad, "damage"]


@pytest.mark.parametrize("columns", [{"a": [1]}, {"run_id": ["x"], "metrics_sha256": ["y"]}])
def test_a_cache_of_something_else_is_not_believed(columns: dict, mixed_study: Path) -> None:
    before = load(mixed_study).history
    pd.DataFrame(columns).to_parquet(mixed_study / "a.parquet")
    for content in (b"PAR1junk", (mixed_study / "a.parquet").read_bytes()):
        cache.write(mixed_study / ".history.cache", content)
        pd.testing.assert_frame_equal(load(mixed_study).history, before)
