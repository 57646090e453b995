"""What a run is made of: what arms and seeds share."""

import itertools
from typing import Any

import pytest
import torch
from conftest import small
from test_train import rows_of
from torch import Tensor

from sngan import state
from sngan.arms import ARMS
from sngan.config import RunConfig
from sngan.constraints import CONSTRAINTS
from sngan.data import load
from sngan.spectral import raw_weight, weight_layers
from sngan.state import build
from sngan.train import train


def test_seeds_differ() -> None:
    assert rows_of(small(seed=0))[-1]["loss/d"] != rows_of(small(seed=1))[-1]["loss/d"]


def test_arms_share_initial_weights_batches_and_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, dict[str, list[Tensor]]] = {}
    weights: dict[str, dict[str, Tensor]] = {}

    def recorded(config: RunConfig, device: Any) -> Any:
        G, D, penalty = build(config, device)
        inputs = seen[config.arm] = {"z": [], "x": []}
        G.register_forward_pre_hook(lambda m, args: inputs["z"].append(args[0].clone()))
        D.register_forward_pre_hook(lambda m, args: inputs["x"].append(args[0].clone()))
        weights[config.arm] = {f"G.{n}": p.clone() for n, p in G.state_dict().items()}
        for name, layer in weight_layers(D):
            weights[config.arm] |= {f"D.{name}.w": raw_weight(layer).clone(), f"D.{name}.b": layer.bias.clone()}
        return G, D, penalty

    monkeypatch.setattr(state, "build", recorded)
    for arm in ARMS:
        train(small(arm=arm, steps=5), load("digits"), None)
    of_their_own = {arm for arm in ARMS if CONSTRAINTS[ARMS[arm].constraint].initializes}
    assert of_their_own == {"ortho", "sn_at_init"}
    for arm in ARMS:
        for name, tensor in weights["dcgan"].items():
            if not (arm in of_their_own and name.endswith(".w")):
                assert torch.equal(weights[arm][name], tensor), (arm, name)
        assert all(torch.equal(a, b) for a, b in zip(seen[arm]["z"], seen["dcgan"]["z"], strict=True))
        # fake, real, perhaps those of a penalty, fake of the G step
        real = [inputs["x"][1 :: len(inputs["x"]) // 5] for inputs in (seen[arm], seen["dcgan"])]
        assert [len(of) for of in real] == [5, 5]
        assert all(torch.equal(a, b) for a, b in zip(*real, strict=True))
    assert not torch.equal(seen["dcgan"]["z"][0], seen["dcgan"]["z"][1])


def test_every_d_update_has_a_fresh_real_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[Tensor] = []

    def recorded(config: RunConfig, device: Any) -> Any:
        G, D, penalty = build(config, device)
        D.register_forward_pre_hook(lambda m, args: batches.append(args[0].clone()))
        return G, D, penalty

    monkeypatch.setattr(state, "build", recorded)
    train(small(setting="A", steps=1), load("digits"), None)
    real = batches[1:-1:2]
    assert len(real) == 5
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(real))
