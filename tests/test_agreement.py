"""Agreement with the rows of a CPU."""

from __future__ import annotations

import json

import pytest

from experiments.gpu import agreement
from sngan.arms import ARMS
from sngan.config import TRAINING_VERSION
from sngan.spectral import weight_layers
from sngan.state import build


def test_the_rows_of_a_cpu_are_those_of_this_training_code() -> None:
    rows = json.loads(agreement.FILE.read_text())
    assert rows["about"]["training_version"] == TRAINING_VERSION, "python -m experiments.gpu.agreement --write"
    for precision in ("float64", "float32"):
        assert set(rows[precision]) == set(ARMS)
        assert all(len(values) == 21 for found in rows[precision].values() for values in found.values())
    for arm, found in rows["float64"].items():
        layers = [name for name, _ in weight_layers(build(agreement.RunConfig(arm=arm), "cpu")[1])]  # type: ignore[arg-type]
        assert {f"sigma/{name}" for name in layers} < set(found)


def test_another_arm_does_not_agree() -> None:
    rows = json.loads(agreement.FILE.read_text())
    for tolerance in agreement.TOLERANCES:
        one, other = (rows[tolerance.precision][arm] for arm in ("penalty", "penalty_dcgan"))
        assert agreement.largest_difference(one, one, tolerance.metrics, tolerance.step)[0] == 0
        assert agreement.largest_difference(one, other, tolerance.metrics, tolerance.step)[0] > tolerance.most


@pytest.mark.parametrize(
    ("found", "difference", "where"),
    [
        ({"loss/d": [1.0, 2.0, None]}, 0.0, "loss/d at 1"),
        ({"loss/d": [1.0, 2.5, None]}, 0.2, "loss/d at 1"),
        ({"loss/d": [1.0, 2.0, 3.0]}, float("inf"), "loss/d at 2"),
        ({"loss/d": [1.0, float("nan"), None]}, float("inf"), "loss/d at 1"),
        ({"loss/g": [1.0, 2.0, None]}, float("inf"), "metrics that only one has: loss/d, loss/g"),
    ],
)
def test_the_largest_difference(found: agreement.Rows, difference: float, where: str) -> None:
    expected: agreement.Rows = {"loss/d": [1.0, 2.0, None]}
    assert agreement.largest_difference(expected, found, "loss", 2) == (pytest.approx(difference), where)
    assert agreement.largest_difference(expected, found, "sigma", 2) == (0.0, "")
