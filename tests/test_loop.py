"""The benchmarks: every row and ratio."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sngan.arms import ARMS


@pytest.mark.slow
def test_bench_writes_every_row_and_ratio(command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.bench.loop.cores", lambda: 1)  # fewer processes to start
    out = tmp_path / "bench.json"
    arguments = ["bench", "--seconds", 2, "--rounds", 2, "--batch-size", 16, "--device", "cpu", "--out", out, "--json"]
    code, output, _ = command(*arguments)
    assert code == 0
    result = json.loads(out.read_text())
    assert json.loads(output) == result
    assert set(ARMS) < set(result["rows"])
    assert all(row.get("step_seconds", row.get("seconds")) > 0 for row in result["rows"].values())
    rows, ratios = result["rows"], result["ratios"]
    assert ratios["sn / plain"] == pytest.approx(rows["sn"]["step_seconds"] / rows["plain"]["step_seconds"])
    assert {"speed against the notebook's loop", "cost of exact sigmas"} <= set(ratios)
    costs = [ratios[f"cost of {name}"] for name in ("means and gradient norms", "exact sigmas", "the record", "W&B")]
    costs.append(ratios["cost of operator norms, spectra, gradients"])
    assert ratios["cost of all instruments, record and W&B"] == pytest.approx(sum(costs))
    assert ratios["cost of evaluation in a run of 23,450 steps"] > 0
    share = "share of the float32 matrix rate, one run"
    assert 0 < ratios[f"{share}, operations done"] < ratios[share]
    assert all(row["fastest"] <= row.get("step_seconds", row.get("seconds")) <= row["slowest"] for row in rows.values())
    sweeps = {name: row for name, row in rows.items() if name.startswith("sweep, ")}
    assert len(sweeps) == 2
    fastest = min(row["step_seconds"] for name, row in sweeps.items() if "float32" in name)
    speed = rows["the notebook's loop (dcgan)"]["step_seconds"] / fastest
    assert ratios["throughput of a sweep against the notebook's loop, float32"] == pytest.approx(speed)
    assert all(row["peak_memory_bytes"] > 1e8 for row in sweeps.values())
    assert {"the same with images in memory", "dcgan, bfloat16", "dcgan, batch 64", "dcgan, G width 128"} < set(rows)
