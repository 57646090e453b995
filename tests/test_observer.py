"""What is measured of a run, and when."""

import dataclasses
from typing import Any

import pytest
import torch
from conftest import FURTHER, ONE_EACH, small
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sngan import observer
from sngan.arms import ARMS
from sngan.config import RunConfig
from sngan.data import load
from sngan.evaluate import Evaluation
from sngan.train import train


def fetched(config: RunConfig) -> int:
    """How often training took a number from the device, which waits for it. The digits are not counted."""

    class Count(TorchDispatchMode):
        n = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            Count.n += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    data = load("digits")
    Evaluation(config, data)  # the reference images are judged once per process
    with Count():
        train(config, data, lambda row, samples: None)
    return Count.n


@pytest.mark.parametrize("arm", ["dcgan", *ONE_EACH, *FURTHER])
def test_nothing_is_fetched_between_two_rows(arm: str) -> None:
    """Twice the steps with as many rows wait as often for the device."""
    config = small(arm=arm, n_dis=2, n_evaluations=1, instrument_every=1000, n_fake=20)
    short, long = (dataclasses.replace(config, steps=n, log_every=n) for n in (2, 4))
    assert fetched(short) == (of_long := fetched(long)) > 0
    assert fetched(dataclasses.replace(long, log_every=2)) > of_long  # a row does


def final_weights(config: RunConfig, measured: bool) -> dict[str, Tensor]:
    saved: dict[str, Any] = {}
    train(config, load("digits"), (lambda row, samples: None) if measured else None, saved.update)
    return {f"{network}.{name}": t for network in "GD" for name, t in saved[network].items()}


@pytest.mark.parametrize("arm", ARMS)
def test_measuring_every_step_moves_no_bit(arm: str) -> None:
    config = small(arm=arm, steps=8, log_every=1, instrument_every=1, n_evaluations=8, n_fake=20)
    assert len(config.evaluation_steps()) == 8
    quiet, measured = final_weights(config, False), final_weights(config, True)
    assert all(torch.equal(quiet[name], measured[name]) for name in quiet)


def test_step_time_and_images_per_second() -> None:
    timing = observer.elapsed(10.0, 5, small(n_dis=3))
    assert timing == {"time/step_seconds": 2, "time/images_per_second": 3 * 16 / 2}


def test_non_finite_numbers_end_a_run_as_diverged() -> None:
    config = small(arm="plain", steps=2000, lr=10.0, beta1=0.999, beta2=0.0)
    rows: list[dict[str, Any]] = []
    outcome = train(config, load("digits"), lambda row, samples: rows.append(row))
    assert outcome.state == "diverged"
    assert "non-finite" in outcome.reason
    assert outcome.step == rows[-1]["step"] < 2000
