"""The notebook's loop, which `sngan bench` measures against: what it trains is what this program trains."""

import itertools
import math

import pytest
import torch
from conftest import small
from torch import nn

from experiments.bench import notebook
from sngan.data import load
from sngan.state import build


@pytest.mark.parametrize(("arm", "sn"), [("dcgan", False), ("sn_dcgan", True)])
def test_its_networks_have_the_layers_of_ours(arm: str, sn: bool) -> None:
    """Biases aside, which batch norm takes away again: the notebook has them in every layer."""
    config = small(arm=arm, g_width=64, d_width=16)
    ours, theirs = build(config, "cpu")[:2], (notebook.generator(config.z_dim, 64), notebook.discriminator(16, sn))
    for one, other in zip(ours, theirs, strict=True):
        shapes = [
            [tuple(m.weight.shape) for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
            for network in (one, other)
        ]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize("in_memory", [False, True])
def test_it_trains(in_memory: bool) -> None:
    torch.manual_seed(0)
    losses = list(itertools.islice(notebook.notebook_steps(small(), load("digits"), in_memory=in_memory), 20))
    assert all(map(math.isfinite, itertools.chain(*losses)))
    assert losses[0][0] == pytest.approx(math.log(2), abs=0.25)  # neither side knows anything
    assert losses[-1] != losses[0]
