import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.bench import bench_report
from experiments.account import evaluation_flop, step_flop
from experiments.bench.sweep import sweep_throughput
from sngan import models
from sngan.arms import ARMS
from sngan.config import InputError, RunConfig
from sngan.losses import adversarial_d, adversarial_g
from sngan.state import build
from sngan.yardstick import load_yardstick


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


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_benchmark() -> None:
    with pytest.raises(InputError, match="ended before its time"):
        sweep_throughput(RunConfig(batch_size=5000), workers=2, threads=1, steps=3)


@pytest.mark.slow
def test_bench_of_the_report_measures_time_and_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.json"
    assert bench_report(out, as_json=False, sizes=((12, 20, 40),)) == 0
    (row,) = json.loads(out.read_text())["rows"].values()
    assert row["again_seconds"] > 0
    assert row["seconds"] > 0
    assert 1e8 < row["peak_memory_bytes"] < 4e9
    assert "12 runs x 20 rows x 40 keys" in capsys.readouterr().out


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """torch's own counter, on torch's own layers, which need more multiplications than ours."""
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.setattr(models, "ConvTranspose2d", torch.nn.ConvTranspose2d)
    return FlopCounterMode(display=False)


def test_flop_of_a_step_are_those_that_torch_counts(counted: Any) -> None:
    """Without batch norm's share, which it does not count either."""
    config = RunConfig(arm="plain", batch_size=8)
    G, D, _ = build(config, "cpu")
    with counted as counter:
        with torch.no_grad():
            fake = G(torch.randn(8, config.z_dim))
        adversarial_d("bce", D(torch.rand(8, 1, 28, 28)), D(fake))[0].backward()
        D.requires_grad_(False)
        adversarial_g("bce", D(G(torch.randn(8, config.z_dim)))).backward()
    assert step_flop(config) == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize("dataset", ["mnist", "stacked_mnist"])
def test_flop_of_an_evaluation_are_those_that_torch_counts(dataset: str, counted: Any) -> None:
    config = RunConfig(dataset=dataset, n_fake=20)  # type: ignore[arg-type]
    G, _, _ = build(config, "cpu")
    with counted as counter, torch.no_grad():
        load_yardstick(dataset).embed(G(torch.randn(20, config.z_dim)))
    assert evaluation_flop(config) == pytest.approx(counter.get_total_flops(), rel=0.05)
