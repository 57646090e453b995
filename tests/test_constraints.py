"""The hooks of a constraint: that the loop calls each of them when it says, and that any may be another's."""

import copy
from typing import Any

import pytest
import torch
from conftest import small
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from sngan import train as training
from sngan.arms import ARMS
from sngan.config import RunConfig
from sngan.constraints import CONSTRAINTS, Constraint
from sngan.data import load
from sngan.models import Discriminator
from sngan.sigma import log_sigmas
from sngan.spectral import weight_layers
from sngan.state import build
from sngan.train import train


class Told(Constraint):
    """Writes down which hook is called, adds a constant to the loss, and clips the weights."""

    def __init__(self, config: RunConfig, D: nn.Module) -> None:
        super().__init__(config, D)
        self.said: list[str] = []
        self.register_buffer("updates", torch.zeros(()))

    def before_update(self) -> None:
        self.said.append("before")

    def weighted_penalty(self, x_real: Tensor, x_fake: Tensor) -> Tensor:
        assert x_real.shape == x_fake.shape
        assert not x_fake.requires_grad
        assert x_real.max() == 1 > x_fake.max()  # white strokes, and grey of a generator that drew nothing yet
        self.said.append("penalty")
        return x_real.new_full((), 0.25)

    @torch.no_grad()
    def after_update(self) -> None:
        self.said.append("after")
        self.updates += 1
        for parameter in self.D.parameters():
            parameter.clamp_(-0.01, 0.01)

    def readings(self) -> dict[str, Tensor]:
        return {"updates": self.updates}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Told]:
    """The arm `plain` with that constraint; the constraints that are made."""
    made: list[Told] = []

    def make(config: RunConfig, D: nn.Module) -> Told:
        made.append(Told(config, D))
        return made[-1]

    monkeypatch.setitem(CONSTRAINTS, ARMS["plain"].constraint, make)
    return made


def rows_of(config: RunConfig, resume: dict[str, Any] | None = None) -> tuple[list[dict[str, Any]], list[dict]]:
    rows, states = [], []

    def save(state: dict[str, Any]) -> None:
        states.append(copy.deepcopy(state))

    train(config, load("digits"), lambda row, _: rows.append(row), save, resume, lambda step: step == 3)
    return rows, states


def test_hooks_are_called_around_each_update_of_d(told: list[Told], monkeypatch: pytest.MonkeyPatch) -> None:
    minimize = training.minimize
    monkeypatch.setattr(training, "minimize", lambda *of: (told[0].said.append("minimize"), minimize(*of)))
    rows, _ = rows_of(small(arm="plain", n_dis=2, steps=6, log_every=1))
    of_d = ["before", "penalty", "minimize", "after"]
    assert told[0].said == (of_d * 2 + ["minimize"]) * 6
    assert [row["updates"] for row in rows] == [2.0 * step for step in range(7)]
    assert all(row["loss/d"] == pytest.approx(row["loss/d_adversarial"] + 0.25) for row in rows[1:])
    assert all(row["loss/d_penalty"] == 0.25 for row in rows[1:])
    assert all(parameter.abs().max() <= 0.01 for parameter in told[0].D.parameters())


def test_what_a_constraint_keeps_is_in_the_state_of_a_run(told: list[Told]) -> None:
    config = small(arm="plain", steps=6, log_every=1)
    rows, states = rows_of(config)
    assert states[0]["step"] == 3
    resumed, _ = rows_of(config, states[0])
    assert [row["updates"] for row in resumed] == [4.0, 5.0, 6.0]
    assert resumed[-1]["loss/d"] == rows[-1]["loss/d"]


@pytest.mark.parametrize("arm", ARMS)
def test_a_constraint_owns_nothing_of_d_and_removal_leaves_plain_weights(arm: str) -> None:
    _, D, constraint = build(small(arm=arm), "cpu")
    assert not list(constraint.parameters())
    assert D not in set(constraint.modules())
    D.eval()
    x = torch.rand(4, 1, 28, 28)
    with torch.no_grad():
        before, sigmas = D(x), log_sigmas(D)
        constraint.remove()
        torch.testing.assert_close(D(x), before)
    assert log_sigmas(D) == pytest.approx(sigmas, rel=1e-6)
    assert not any("parametrizations" in name for name, _ in D.named_parameters())


class Normalized(Constraint):
    """torch's weight normalization: the weight is made of a length and a direction."""

    def __init__(self, config: RunConfig, D: nn.Module) -> None:
        super().__init__(config, D)
        for _, layer in weight_layers(D):
            weight_norm(layer)

    def remove(self) -> None:
        for _, layer in weight_layers(self.D):
            parametrize.remove_parametrizations(layer, "weight")
            layer.weight = nn.Parameter(layer.weight.detach())  # type: ignore[operator,union-attr]


def test_a_constraint_may_make_a_weight_of_several_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONSTRAINTS, ARMS["plain"].constraint, Normalized)
    rows, _ = rows_of(small(arm="plain", steps=6, log_every=1))
    assert rows[0]["sigma/conv2"] == pytest.approx(rows[0]["sigma_raw/conv2"], rel=1e-6)  # as it begins
    assert rows[-1]["sigma/conv2"] != pytest.approx(rows[-1]["sigma_raw/conv2"], rel=1e-6)
    _, D, constraint = build(small(arm="plain"), "cpu")
    x = torch.rand(4, 1, 28, 28)
    with torch.no_grad():
        before = D(x)
        constraint.remove()
        torch.testing.assert_close(D(x), before)
    plain = Discriminator(norm="none")
    plain.load_state_dict(D.state_dict())
    torch.testing.assert_close(plain(x), before)


@pytest.mark.parametrize("arm", ARMS)
def test_readings_move_nothing(arm: str) -> None:
    _, D, constraint = build(small(arm=arm), "cpu")
    before = {key: value.clone() for key, value in [*D.state_dict().items(), *constraint.state_dict().items()]}
    assert {key: value.item() for key, value in constraint.readings().items()} == {
        key: value.item() for key, value in constraint.readings().items()
    }
    after = dict([*D.state_dict().items(), *constraint.state_dict().items()])
    assert all(torch.equal(after[key], value) for key, value in before.items())
