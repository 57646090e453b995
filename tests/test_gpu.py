"""What a CUDA device must do as a CPU does: the same experiment per seed, float32 that is float32, resumable runs."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small
from torch import nn

from experiments.run import execute
from sngan.config import ARMS, RunConfig
from sngan.data import load
from sngan.sigma import conv_sigma
from sngan.train import build, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def rows_on(device: str, config: RunConfig) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    train(config, load(config.dataset, config.data_dir).to(device), lambda row, samples: rows.append(row))
    return rows


def worst(one: list[dict[str, Any]], other: list[dict[str, Any]], prefix: str = "") -> tuple[float, str]:
    """The largest relative difference of two runs' numbers, and where it is."""
    found = (0.0, "")
    for a, b in zip(one, other, strict=True):
        assert set(a) == set(b)
        for key, value in a.items():
            if key.startswith("time/") or not key.startswith(prefix) or not isinstance(value, float):
                continue
            assert math.isfinite(value) == math.isfinite(b[key])
            if math.isfinite(value):
                found = max(found, (abs(value - b[key]) / max(abs(value), abs(b[key]), 1e-3), f"{key} at {a['step']}"))
    return found


@pytest.mark.parametrize("arm", ARMS)
def test_a_seed_is_the_same_experiment_as_on_a_cpu(arm: str) -> None:
    """In float64 all that is recorded agrees far beyond what another seed, order or latent would give."""
    config = small(arm=arm, steps=20, log_every=1, instrument_every=5, n_evaluations=2, precision="float64")
    cpu, cuda = rows_on("cpu", config), rows_on("cuda", config)
    for prefix, most in (
        *((prefix, 1e-7) for prefix in ("loss", "logit", "grad_norm", "sigma", "weight_norm", "grad_x", "lipschitz")),
        *(("eval/fd_pixels", 1e-7), ("eval/fd", 1e-3)),  # the yardstick is in float32
    ):
        difference, where = worst(cpu, cuda, prefix)
        print(f"{arm} {prefix}: {difference:.1e} {where}")
        assert difference < most, (difference, where)
    assert rows_on("cuda", dataclasses.replace(config, seed=1))[-1]["loss/d"] != cuda[-1]["loss/d"]


@pytest.mark.parametrize("arm", ARMS)
def test_float32_agrees_to_rounding(arm: str) -> None:
    config = small(arm=arm, steps=20, log_every=1, instrument_every=100, n_evaluations=1)
    cpu, cuda = rows_on("cpu", config), rows_on("cuda", config)
    for steps, most in ((1, 1e-4), (5, 1e-3), (20, 0.05)):
        difference, where = worst(cpu[: steps + 1], cuda[: steps + 1], "loss")
        print(f"{arm} up to step {steps}: {difference:.1e} {where}")
        assert difference < most, (steps, difference, where)


def test_float32_is_not_tf32() -> None:
    build(small(), "cuda")
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(64, 256, 6, 6, generator=generator), torch.randn(128, 256, 3, 3, generator=generator)
    products = (
        (lambda x, w: nn.functional.conv2d(x, w), x, weight),
        (lambda x, w: x @ w, x.flatten(1), weight.flatten(1)[:, : 128 * 9].T.repeat(8, 1)),
    )
    for product, a, b in products:
        exact = product(a.double(), b.double())
        found = product(a.cuda(), b.cuda()).cpu().double()
        assert ((found - exact).norm() / exact.norm()).item() < 1e-6  # TF32: 3e-4


def test_operator_norms_are_those_of_a_cpu() -> None:
    layer = nn.Conv2d(16, 32, 4, 2)
    expected = conv_sigma(layer, (13, 13)).item()
    assert conv_sigma(layer.cuda(), (13, 13)).item() == pytest.approx(expected, rel=1e-10)


def test_a_run_goes_on_from_another_device_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments import run as running

    for first, second in (("cpu", "cuda"), ("cuda", "cpu")):
        config = small(steps=40, device=first, checkpoint_every=20)
        folder = tmp_path / first
        save = running._Attempt._save

        def stop_at_20(self: Any, state: dict[str, Any], save: Any = save) -> None:
            save(self, state)
            raise KeyboardInterrupt

        monkeypatch.setattr(running._Attempt, "_save", stop_at_20)
        with pytest.raises(KeyboardInterrupt):
            execute(config, "single", folder, lambda *m: None)
        monkeypatch.setattr(running._Attempt, "_save", save)
        assert (
            execute(dataclasses.replace(config, device=second), "single", folder, lambda *m: None).state == "finished"
        )
        attempts = json.loads((folder / config.run_id / "status.json").read_text())["attempts"]
        assert [attempt["exact"] for attempt in attempts] == [True, False]
        assert attempts[1]["resumed_from"] == 20
