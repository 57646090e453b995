"""What a run is made of: networks under their constraint, optimizers, and streams of images and latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sngan.arms import ARMS
from sngan.config import RunConfig
from sngan.constraints import CONSTRAINTS, Constraint
from sngan.data import Batches, ImageData
from sngan.models import Discriminator, Generator, initialize
from sngan.precision import set_products
from sngan.spectral import raw_weight, weight_layers
from sngan.streams import Ahead, Normal, torch_generator


class Run:
    """Networks, optimizers and streams: everything that the rest of a run depends on, its instruments aside."""

    def __init__(self, config: RunConfig, data: ImageData) -> None:
        self.config, self.device, self.dtype = config, data.images.device, getattr(torch, config.dtype)
        self.layout = layout_of(config)
        self.G, self.D, self.constraint = build(config, self.device)
        self.opt_g, self.opt_d = (
            torch.optim.Adam(network.parameters(), lr=config.lr, betas=(config.beta1, config.beta2), fused=True)
            for network in (self.G, self.D)
        )
        self.batches = Batches(data, config.batch_size, config.seed, self.dtype)
        self.z_d, self.z_g = (self._latents(name) for name in ("z_d", "z_g"))

    def _latents(self, name: str) -> Ahead:
        shape = (self.config.batch_size, self.config.z_dim)
        return Ahead(Normal(torch_generator(self.config.seed, name), shape, self.dtype), self.device)

    def forward(self, network: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            return network(x).to(self.dtype)

    def state(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name).state_dict() for name in _PARTS},
            "streams": {"z_d": self.z_d.state(), "z_g": self.z_g.state()},
            "data": self.batches.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        for name in _PARTS:
            getattr(self, name).load_state_dict(state[name])
        self.z_d.load_state(state["streams"]["z_d"])
        self.z_g.load_state(state["streams"]["z_g"])
        self.batches.load_state(state["data"])


_PARTS = ("G", "D", "opt_g", "opt_d", "constraint")


def layout_of(config: RunConfig) -> torch.memory_format:
    return torch.channels_last if config.memory_format == "channels_last" else torch.contiguous_format


def build(config: RunConfig, device: torch.device | str) -> tuple[nn.Module, nn.Module, Constraint]:
    """G, D and the constraint as the run starts: initialized, then constrained, then moved to `device`.

    Drawn in float64 on the CPU, so that neither device nor precision changes the draws. Asserts that the
    initialization reached the raw parameters: after the constraint, writing to `.weight` would do nothing.
    From here on float32 products of this process are float32 on CUDA too, whose libraries would take TF32 by default,
    and cuDNN takes only algorithms that give the same bits twice.
    """
    set_products("ieee")
    torch.backends.cudnn.deterministic = True
    G, D = unconstrained(config)
    initialize(G, config.seed, "G", config.init)
    initialize(D, config.seed, "D", config.init)
    initial = {name: layer.weight.detach().clone() for name, layer in weight_layers(D)}  # type: ignore[operator]
    constraint = CONSTRAINTS[ARMS[config.arm].constraint](config, D)
    for name, layer in weight_layers(D):
        assert torch.equal(raw_weight(layer), initial[name]), f"the initialization of {name} was lost"
    for network in (G, D):
        network.to(device).to(memory_format=layout_of(config))  # type: ignore[call-overload]
    return G, D, constraint.to(device)


def unconstrained(config: RunConfig) -> tuple[Generator, Discriminator]:
    """G and D of the run's architecture and norm, with weights of no meaning."""
    dtype = getattr(torch, config.dtype)
    with torch.random.fork_rng(devices=[]):  # torch's constructors draw from the global generator
        G = Generator(config.z_dim, config.channels, config.g_width, config.architecture).to(dtype)
        D = Discriminator(config.channels, config.d_width, ARMS[config.arm].norm, config.architecture).to(dtype)
    return G, D
