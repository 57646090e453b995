"""What a CUDA device must do as a CPU does: the same experiment per seed, float32 that is float32, resumable runs.

SNGAN_GPU_TESTS_ON=cpu rehearses the tests themselves: the device is then a CPU, and what only CUDA has is skipped.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FURTHER, ONE_EACH, small, write_study
from test_feed import made
from test_slot import final
from torch import Tensor, nn

from experiments import checkpoint
from experiments.record import recorded_configs
from experiments.run import execute
from sngan import metrics
from sngan.arms import ARMS
from sngan.config import RunConfig
from sngan.data import load, load_images
from sngan.evaluate import judge, scores
from sngan.feed import Feed
from sngan.measure import Window
from sngan.sigma import conv_sigma
from sngan.slot import Ahead, Copy, Slot
from sngan.state import Run, build
from sngan.train import train, update
from sngan.yardstick import load_yardstick

DEVICE = os.environ.get("SNGAN_GPU_TESTS_ON", "cuda")
MAIN = [arm for arm in ARMS if arm not in FURTHER]  # all are compared with a CPU's rows by experiments/gpu/agreement.py
on_cuda = pytest.mark.skipif(DEVICE != "cuda", reason="only CUDA has it")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def rows_on(device: str, config: RunConfig) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    train(config, load_images(config).to(device), lambda row, samples: rows.append(row))
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


@pytest.mark.parametrize("arm", MAIN)
def test_a_seed_is_the_same_experiment_as_on_a_cpu(arm: str) -> None:
    """In float64 all that is recorded agrees far beyond what another seed, order or latent would give."""
    config = small(arm=arm, steps=20, log_every=1, instrument_every=5, n_evaluations=2, precision="float64")
    cpu, cuda = rows_on("cpu", config), rows_on(DEVICE, config)
    for prefix, most in (
        *((prefix, 1e-7) for prefix in ("loss", "logit", "grad_norm", "sigma", "weight_norm", "grad_x", "lipschitz")),
        *(("eval/fd_pixels", 1e-7), ("eval/fd", 1e-3)),  # the yardstick is in float32
    ):
        difference, where = worst(cpu, cuda, prefix)
        print(f"{arm} {prefix}: {difference:.1e} {where}")
        assert difference < most, (difference, where)
    assert rows_on(DEVICE, dataclasses.replace(config, seed=1))[-1]["loss/d"] != cuda[-1]["loss/d"]


@pytest.mark.parametrize("arm", ["sn", "sn_dcgan", "gp"])
def test_the_papers_cnn_and_own_colour_images_are_those_of_a_cpu(arm: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    np.savez(tmp_path / "own.npz", images=images)
    config = small(
        dataset=f"npz:{tmp_path / 'own.npz'}", arm=arm, d_width=8, z_dim=8, steps=6, log_every=1, instrument_every=2,
        n_evaluations=1, n_fake=50, precision="float64",
    )  # fmt: skip
    assert (config.architecture, config.channels, config.judge) == ("sndcgan32", 3, "pixels")
    difference, where = worst(rows_on("cpu", config), rows_on(DEVICE, config))
    assert difference < 1e-6, (difference, where)


@pytest.mark.parametrize("arm", MAIN)
def test_float32_agrees_to_rounding(arm: str) -> None:
    config = small(arm=arm, steps=20, log_every=1, instrument_every=100, n_evaluations=1)
    cpu, cuda = rows_on("cpu", config), rows_on(DEVICE, config)
    for steps, most in ((1, 1e-4), (5, 1e-3), (20, 0.05)):
        difference, where = worst(cpu[: steps + 1], cuda[: steps + 1], "loss")
        print(f"{arm} up to step {steps}: {difference:.1e} {where}")
        assert difference < most, (steps, difference, where)


@on_cuda
def test_float32_is_not_tf32() -> None:
    build(small(), DEVICE)
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
    assert conv_sigma(layer.to(DEVICE), (13, 13)).item() == pytest.approx(expected, rel=1e-10)


def states_of(config: RunConfig, device: str) -> dict[str, Tensor]:
    """All tensors that a run depends on after its steps but one: networks, optimizers, u and v of both constraints."""
    found: dict[str, Tensor] = {}

    def keep(state: Any, name: str = "") -> None:
        if isinstance(state, dict | list):
            for key, value in state.items() if isinstance(state, dict) else enumerate(state):
                keep(value, f"{name}/{key}")
        elif isinstance(state, Tensor):
            found[name] = state.detach().cpu().clone()

    data = load(config.dataset, config.data_dir).to(device)
    train(config, data, None, keep, due=lambda step: step == config.steps - 1)
    return found


@pytest.mark.parametrize("arm", MAIN)
def test_states_of_networks_and_constraints_are_those_of_a_cpu(arm: str) -> None:
    cpu, cuda = (states_of(small(arm=arm, steps=8, precision="float64"), device) for device in ("cpu", DEVICE))
    assert cpu.keys() == cuda.keys()
    assert any(name.endswith(("_u", ".u0")) for name in cpu) == (ARMS[arm].constraint != "none")
    for name, value in cpu.items():
        torch.testing.assert_close(
            cuda[name], value, rtol=1e-7, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_draws_made_ahead_are_the_streams() -> None:
    """More than two blocks, latents and indices; a state taken within a block continues on a CPU."""
    config, data = small(seed=3), load("digits")
    ahead, single = (
        Feed(config, data.to(device), torch.float32, block) for device, block in ((DEVICE, 64), ("cpu", 1))
    )
    for i in range(150):
        read, expected = made(ahead, config), made(single, config)
        for name, (tensor,) in read.items():
            torch.testing.assert_close(
                tensor.cpu(), expected[name][0], rtol=0, atol=1e-6 * (name == "real"), msg=str(i)
            )
    elsewhere = Feed(config, data, torch.float32)
    elsewhere.load_state(ahead.state())
    assert torch.equal(made(elsewhere, config)["real"][0], made(single, config)["real"][0])


def close(found: float, expected: float) -> bool:
    return found == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(2000, 64), (5000, 64), (700, 192), (30, 64)])
def test_distances_and_neighbours_are_those_of_a_cpu(n: int, d: int) -> None:
    """In float64 on the device; with copies and ties among the samples, and fewer samples than features."""
    generator = torch.Generator().manual_seed(1)
    real, fake = (torch.randn(m, d, generator=generator).relu() for m in (n, n))
    fake[: n // 10] = real[: n // 10]
    fake[n // 5 : n // 4] = fake[n // 5]
    there = real.to(DEVICE), fake.to(DEVICE)
    for function in (
        metrics.frechet_distance,
        metrics.kernel_distance,
        metrics.kernel_distance_error,
        metrics.diversity,
    ):
        assert close(function(*there), function(real, fake)), function.__name__
    assert metrics.prdc(*there) == pytest.approx(metrics.prdc(real, fake), abs=1e-12)  # shares of counts
    assert there[0].device.type == DEVICE


def test_an_evaluation_is_that_of_a_cpu() -> None:
    """Of the same images, but for the rounding of the yardstick's float32."""
    images = load("digits").images
    found = []
    for device in ("cpu", DEVICE):
        yardstick = load_yardstick("digits", device=device)
        real, fake = (judge(yardstick, images[i : i + 400].to(device)) for i in (0, 400))
        assert real.features.device.type == torch.device(device).type
        found.append(scores(real, fake, fake.labels, torch.ones(10).numpy()))
    for key, value in found[0].items():
        is_distance = key in ("eval/fd", "eval/fd_pixels", "eval/kd", "eval/kd_error", "eval/diversity")
        # of the others a rounding may move one of 400 samples over a border
        tolerance = {"rel": 1e-4, "abs": 1e-5} if is_distance else {"rel": 0.02}
        assert found[1][key] == pytest.approx(value, **tolerance), key


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """While updates are made, whatever waits for the device is an error; the modes that were set."""
    modes: list[str] = []

    def set_mode(mode: str) -> None:
        modes.append(mode)
        if DEVICE == "cuda":
            torch.cuda.set_sync_debug_mode(mode)

    def then(function: Callable[..., Any], mode: str, before: bool) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            if before:
                set_mode(mode)
            result = function(*args)
            if not before:
                set_mode(mode)
            return result

        return wrapped

    monkeypatch.setattr(Feed, "real", then(Feed.real, "error", before=True))
    monkeypatch.setattr(Window, "add_g", then(Window.add_g, "default", before=False))
    yield modes
    set_mode("default")


@pytest.mark.parametrize(
    ("arm", "changes"),
    [
        *((arm, {}) for arm in (*MAIN, "gp", "sn_conv", "bsn")),
        *(("sn_dcgan", changes) for changes in ({"n_dis": 2}, {"loss": "hinge"}, {"power_iteration": "per_update"})),
        ("penalty", {"precision": "bfloat16"}),
    ],
)
def test_nothing_waits_for_the_device_between_rows(arm: str, changes: dict[str, Any], watched: list[str]) -> None:
    rows_on(DEVICE, small(arm=arm, steps=70, log_every=35, n_evaluations=1, **changes))  # two blocks of draws
    assert watched.count("default") == 70


GRAPHS = [
    *({"arm": arm} for arm in MAIN),
    *({"arm": arm, "steps": 12} for arm in FURTHER),
    {"arm": "sn", "power_iteration": "per_update", "loss": "hinge"},
    {"arm": "penalty", "setting": "custom", "lr": 1e-3, "beta1": 0.5, "beta2": 0.9, "n_dis": 3},
    {"arm": "sn_dcgan", "precision": "bfloat16"},
    *([{"arm": "dcgan", "precision": "tf32"}] if DEVICE == "cuda" else []),
]


@pytest.mark.parametrize("changes", GRAPHS, ids=lambda c: "-".join(map(str, c.values())))
def test_a_replayed_step_is_the_step_as_it_is_written(changes: dict[str, Any]) -> None:
    """Step by step, all tensors; the graph is captured, and capturing it left no trace."""
    config, data = small(**{"steps": 70, "log_every": 1, **changes}), load("digits").to(DEVICE)
    slot, run = Slot(config, data), Run(config, data, block=64)
    is_captured = DEVICE == "cuda" and run.constraint.capturable
    assert (slot.program.kind == "graph") == is_captured
    assert bool(slot.program.why) == (DEVICE == "cuda" and not is_captured)
    slot.begin(config, 0, Copy(config, data).whole())
    copy = Copy(config, data)
    for step in range(1, config.steps + 1):
        slot.launch()
        assert slot.show().step == step
        run.turn()
        with run.products():
            update(run)
        assert run.window
        run.window.clear()
        copy.settle(slot.state())
        for found, expected in zip(copy.tensors(), run.tensors(), strict=True):
            assert torch.equal(found, expected.cpu()), step


@pytest.mark.parametrize("arm", [*ONE_EACH, *FURTHER])
def test_rows_of_a_slot_are_those_of_the_steps_as_they_are_written(arm: str) -> None:
    """Observed on a CPU: to the rounding of its sums."""
    steps = 40 if arm in ONE_EACH else 10
    config, data = small(arm=arm, steps=steps, log_every=5, instrument_every=10), load("digits").to(DEVICE)
    rows: list[dict[str, Any]] = []
    train(config, data, lambda row, samples: rows.append(row), steps=Ahead(config, data))
    eager = rows_on(DEVICE, config)
    for prefix, most in (("loss", 1e-6), ("logit", 1e-6), ("sigma", 1e-4), ("weight_norm", 1e-5), ("eval", 1e-2)):
        difference, where = worst(rows, eager, prefix)
        assert difference < most, (prefix, difference, where)


def test_a_packed_run_has_the_bits_of_one_alone_and_slots_are_used_again() -> None:
    config, data = small(arm="sn_dcgan", steps=60), load("digits").to(DEVICE)
    alone = final(Slot(config, data), config)
    others = []
    for seed, arm in enumerate([*ARMS, *ARMS][:11], start=1):
        other = small(arm=arm, seed=seed, steps=10_000)
        others.append(Slot(other, data))
        others[-1].begin(other, 0, Copy(other, data).whole())
    slot = Slot(config, data)
    assert final(slot, config, others) == alone
    second = small(arm="sn_dcgan", seed=5, steps=60)
    assert final(slot, second, others) == final(Slot(second, data), second)


@on_cuda
def test_nothing_waits_for_the_device_while_steps_are_replayed() -> None:
    config, data = small(arm="sn_dcgan", steps=200, log_every=100), load("digits").to(DEVICE)
    slot = Slot(config, data)
    slot.begin(config, 0, Copy(config, data).whole())
    torch.cuda.set_sync_debug_mode("error")
    try:
        slot.launch()
        slot.launch()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_cuda
def test_memory_is_stable_over_runs_of_a_slot() -> None:
    config, data = small(arm="penalty", steps=60), load("digits").to(DEVICE)
    slot, sizes = Slot(config, data), []
    assert slot.memory_bytes > 1e6
    for seed in range(4):
        final(slot, dataclasses.replace(config, seed=seed))
        sizes.append(torch.cuda.memory_allocated())
    assert sizes[1:] == sizes[1:2] * 3


def test_the_same_run_twice_has_the_same_bytes(tmp_path: Path) -> None:
    for arm in ONE_EACH:
        config = small(arm=arm, steps=30, device=DEVICE)
        for name in ("one", "other"):
            assert execute(config, "single", tmp_path / name, lambda message: None).state == "finished"
        one, other = ((tmp_path / name / config.run_id / "metrics.jsonl").read_bytes() for name in ("one", "other"))
        assert one == other


@on_cuda
def test_tf32_is_another_arithmetic_and_near() -> None:
    config = small(arm="sn", steps=5, log_every=1, batch_size=64, n_evaluations=1)
    single, tf32 = (rows_on(DEVICE, dataclasses.replace(config, precision=name)) for name in ("float32", "tf32"))
    difference, where = worst(single, tf32, "loss")
    assert 0 < difference < 0.05, (difference, where)


@on_cuda
def test_peak_memory_is_the_devices(tmp_path: Path) -> None:
    peaks = []
    for batch_size in (16, 512):
        config = small(device=DEVICE, steps=3, batch_size=batch_size)
        execute(config, "single", tmp_path, lambda message: None)
        (attempt,) = json.loads((tmp_path / config.run_id / "status.json").read_text())["attempts"]
        peaks.append(attempt["peak_memory_bytes"])
    assert 1e6 < peaks[0] < peaks[1] < torch.cuda.get_device_properties(DEVICE).total_memory


@on_cuda
def test_a_run_that_memory_does_not_suffice_for_says_what_to_change(tmp_path: Path) -> None:
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(3e8 / total)
    try:
        config = small(device=DEVICE, batch_size=1500, g_width=256, steps=3)
        result = execute(config, "single", tmp_path, lambda message: None)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert result.state == "failed"
    assert f"out of memory in {config.run_id} (batch_size 1500, g_width 256): use a smaller batch_size" in str(
        result.error
    )
    assert execute(small(device=DEVICE, steps=3), "single", tmp_path, lambda message: None).state == "finished"


def test_a_sweep_over_devices(tmp_path: Path, sngan: Callable[..., Any]) -> None:
    """Workers get the devices that were named; a device that is not there is an error before anything starts."""
    path = write_study(tmp_path, arm=["dcgan", "sn"], steps=10)
    where = ("--devices", "0") if DEVICE == "cuda" else ("--device", "cpu")
    options = ("--wandb", "disabled", "--runs-dir", tmp_path / "runs")
    done = sngan("sweep", path, *where, "--workers", 2, "--per-gpu", 2, *options, timeout=300)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "tiny"
    for config in recorded_configs(folder)[0]:
        (attempt,) = json.loads((folder / config.run_id / "status.json").read_text())["attempts"]
        assert attempt["device"] == ("cuda:0" if DEVICE == "cuda" else "cpu")
    done = sngan("sweep", path, "--devices", "0,99", *options)
    assert done.returncode == 2
    assert "is not there" in done.stderr


def test_a_run_resumes_on_another_device_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = checkpoint.write
    for seed, (first, second) in enumerate((("cpu", DEVICE), (DEVICE, "cpu"))):
        config = small(steps=40, device=first, checkpoint_every=20, seed=seed)

        def stop_at_20(*arguments: Any) -> None:
            write(*arguments)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "write", stop_at_20)
            with pytest.raises(KeyboardInterrupt):
                execute(config, "single", tmp_path, lambda message: None)
        config = dataclasses.replace(config, device=second)
        assert execute(config, "single", tmp_path, lambda message: None).state == "finished"
        attempts = json.loads((tmp_path / config.run_id / "status.json").read_text())["attempts"]
        assert [attempt["exact"] for attempt in attempts] == [True, first == second]
        assert attempts[1]["resumed_from"] == 20
