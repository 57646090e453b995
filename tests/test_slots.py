"""Throughput of slots, and the floor of a step."""

from dataclasses import replace

import pytest
from conftest import small

from experiments.bench.slots import floor_seconds, memory_rate, packed_ratios, packed_steps, step_bytes
from sngan.data import load
from sngan.state import Run


def test_bytes_of_a_step_grow_with_the_batch_from_what_the_weights_need() -> None:
    data = load("digits")
    for arm in ("dcgan", "sn_dcgan", "penalty", "gp", "sn_conv"):
        config = small(arm=arm)
        of = {n: step_bytes(replace(config, batch_size=n), data) for n in (16, 32, 48)}
        of_an_image = (of[32] - of[16]) / 16
        assert of[48] - of[32] == pytest.approx(of[32] - of[16], rel=1e-6)
        run = Run(config, data)
        weights = 4 * sum(p.numel() for network in (run.G, run.D) for p in network.parameters())
        # Adam moves seven times the weights; the passes read them, and write and read their gradients
        assert 10 * weights < of[16] - 16 * of_an_image < 60 * weights
        assert of_an_image > 3 * 28 * 28 * 4


def test_the_floor_is_what_takes_longer() -> None:
    config, data = small(), load("digits")
    n_bytes = step_bytes(config, data)
    slow, fast = 1e3, 1e30
    assert floor_seconds(config, data, {"float32": fast}, 1e6) == {"float32": n_bytes / 1e6}
    assert floor_seconds(config, data, {"float32": slow}, fast)["float32"] > 1  # at 1,000 operations per second


def test_ratios_are_of_rows_of_one_precision() -> None:
    rows = {name: {"step_seconds": pace} for name, pace in {
        "packed, 1 graph, float32": 0.004, "packed, 4 graph, float32": 0.001, "packed, 1 eager, float32": 0.02,
        "packed, 1 graph, tf32": 0.002, "dcgan": 0.02}.items()}  # fmt: skip
    ratios = packed_ratios(rows, 0.1, {"float32": 0.0005, "tf32": 0.0001, "bfloat16": 0.0001})
    assert ratios["speed of one slot against the notebook's loop, float32"] == pytest.approx(25)
    assert ratios["throughput packed against one slot, float32"] == pytest.approx(4)
    assert ratios["throughput packed against the notebook's loop, tf32"] == pytest.approx(50)
    assert ratios["share of the floor, packed, float32"] == pytest.approx(0.5)
    assert not any("bfloat16" in name for name in ratios)


def test_slots_are_timed_and_memory_is_copied() -> None:
    data = load("digits")
    found = packed_steps(small(), data, 0.4, 2)
    assert set(found) == {"packed, 1 eager, float32", "packed, 2 eager, float32"}
    assert all(0 < value < 1 for values in found.values() for value in values)
    assert memory_rate(data.images.device, 1) > 1e7
