"""What a run is made of: networks under their constraint, optimizers, and what its steps read and write."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from sngan.arms import ARMS
from sngan.config import InputError, RunConfig
from sngan.constraints import CONSTRAINTS, Constraint
from sngan.data import ImageData
from sngan.feed import Feed
from sngan.measure import Window, magnitudes
from sngan.models import Discriminator, Generator, initialize
from sngan.networks import Networks, check_networks, layout_of, move
from sngan.precision import products, set_products
from sngan.spectral import raw_weight, weight_layers


class Run:
    """Networks, optimizers and streams: everything that the rest of a run depends on, its instruments aside.

    Every tensor that a step reads or writes is made here and stays where it is, so that the step is a program on them;
    a state is loaded in place. `block` is the number of steps that are drawn for at once (see `Feed`); `observed`: a
    window takes down what is logged. `networks`: the caller's own.
    """

    def __init__(
        self, config: RunConfig, data: ImageData, observed: bool = True, block: int = 1,
        networks: Networks | None = None,
    ) -> None:  # fmt: skip
        self.config, self.device, self.dtype = config, data.images.device, getattr(torch, config.dtype)
        self.layout = layout_of(config)
        if networks is None:
            _check_images(config, data)
        made = build(config, self.device) if networks is None else adopt(config, data, networks)
        self.G, self.D, self.constraint = made
        self.opt_g, self.opt_d = (_adam(network, config, self.device) for network in (self.G, self.D))
        self.feed = Feed(config, data, self.dtype, block, self.constraint.sources())
        self.constraint.draw = self.feed.of_update
        self.window = Window(config, self.device) if observed else None
        self._magnitudes = magnitudes(self.G, self.D)
        self._gradients = [torch.zeros_like(parameter) for parameter in self.D.parameters()]

    def turn(self) -> None:
        """Before every step."""
        self.feed.turn()
        if self.window:
            self.window.steps += 1

    def forward(self, network: nn.Module, x: Tensor) -> Tensor:
        # the cache would keep casts of a captured step's weights
        bfloat16 = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16, cache_enabled=False):
            return network(x).to(self.dtype)

    def logits(self, x: Tensor) -> Tensor:
        """(N,) of D; another one's than ours may be (N, 1)."""
        return self.forward(self.D, x).flatten()

    def products(self) -> AbstractContextManager[None]:
        """How CUDA multiplies within a step."""
        return products("tf32" if self.config.precision == "tf32" else "ieee")

    def look(self) -> None:
        """Take down what rows are made of beside the tensors that stay: D's gradients, and every magnitude."""
        for gradient, parameter in zip(self._gradients, self.D.parameters(), strict=True):
            if parameter.grad is not None:
                gradient.copy_(parameter.grad)
        self._magnitudes.copy_(magnitudes(self.G, self.D))

    def magnitudes(self) -> dict[str, float]:
        """Sum of the absolute values of each parameter at the last look, by its name."""
        networks = (("Generator", self.G), ("Discriminator", self.D))
        names = [f"{of} {name}" for of, network in networks for name, _ in network.named_parameters()]
        return dict(zip(names, self._magnitudes.tolist(), strict=True))

    def of_rows(self) -> list[Tensor]:
        """What every row is made of: D, the constraint's vectors, and what was taken down."""
        window = self.window.tensors() if self.window else []
        return [*tensors_of(self.D), *tensors_of(self.constraint), *window, *self._gradients, self._magnitudes]

    def tensors(self) -> list[Tensor]:
        """All that is trained or iterated, G's own first: what a step changes, the positions and the window aside."""
        modules = [t for module in (self.G, self.D, self.constraint) for t in tensors_of(module)]
        moments = [t for opt in (self.opt_g, self.opt_d) for of_one in opt.state.values() for t in of_one.values()]
        return modules + moments

    def state(self) -> dict[str, Any]:
        streams = self.feed.state()
        return {
            **{name: getattr(self, name).state_dict() for name in _MODULES + _OPTIMIZERS},
            "data": streams.pop("data"),
            "streams": streams,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        for name in _MODULES:
            getattr(self, name).load_state_dict(state[name])
        for name in _OPTIMIZERS:
            _load_adam(getattr(self, name), state[name])
        self.feed.load_state({**state["streams"], "data": state["data"]})


def _check_images(config: RunConfig, data: ImageData) -> None:
    """Raises InputError for images of another kind than the run's networks make."""
    found, made = tuple(data.images.shape[1:]), (config.channels, config.side, config.side)
    if found != made:
        raise InputError(
            f"images of {data.name} have the shape {found}, and the networks of {config.architecture} make {made}: "
            "give the data of the run (sngan.data.load_images), or networks of your own"
        )


_MODULES, _OPTIMIZERS = ("G", "D", "constraint"), ("opt_g", "opt_d")


def tensors_of(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _adam(network: nn.Module, config: RunConfig, device: torch.device) -> torch.optim.Adam:
    """Adam with its moments made at once; on CUDA its steps may be captured, since it counts on the device."""
    parameters, betas, cuda = list(network.parameters()), (config.beta1, config.beta2), device.type == "cuda"
    optimizer = torch.optim.Adam(parameters, config.lr, betas, fused=device.type in ("cpu", "cuda"), capturable=cuda)
    for parameter in parameters:
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        step = torch.zeros((), dtype=torch.float32, device=device)
        optimizer.state[parameter] = {"step": step, **moments}
    return optimizer


@torch.no_grad()
def _load_adam(optimizer: torch.optim.Adam, state: dict[str, Any]) -> None:
    """In place: `load_state_dict` would replace the tensors, and take over what another device's Adam was made for."""
    for i, parameter in enumerate(optimizer.param_groups[0]["params"]):
        for name, value in optimizer.state[parameter].items():
            value.copy_(state["state"][i][name]) if i in state["state"] else value.zero_()


def build(config: RunConfig, device: torch.device | str) -> tuple[nn.Module, nn.Module, Constraint]:
    """G, D and the constraint as the run starts: initialized, then constrained, then moved to `device`.

    Drawn in float64 on the CPU, so that neither device nor precision changes the draws. Asserts that the
    initialization reached the raw parameters, unless the constraint has one of its own: after the constraint, writing
    to `.weight` would do nothing.
    From here on products are those of `exact_products`.
    """
    exact_products()
    G, D = unconstrained(config)
    initialize(G, config.seed, "G", config.init)
    initialize(D, config.seed, "D", config.init)
    initial = {name: layer.weight.detach().clone() for name, layer in weight_layers(D)}  # type: ignore[operator]
    constraint = CONSTRAINTS[ARMS[config.arm].constraint](config, D)
    for name, layer in weight_layers(D):
        kept = constraint.initializes or torch.equal(raw_weight(layer), initial[name])
        assert kept, f"the initialization of {name} was lost"
    for network in (G, D):
        move(network, device, layout_of(config))
    return G, D, constraint.to(device)


def adopt(config: RunConfig, data: ImageData, networks: Networks) -> tuple[nn.Module, nn.Module, Constraint]:
    """The caller's G and D, D under the arm's constraint, moved to the data's device, and the constraint.

    The constraint is made on the CPU, as by `build`, whose networks have the same bits if they are given here. Raises
    InputError as `check_networks` does, before anything of them has changed.
    """
    exact_products()
    check_networks(config, data, networks)
    for network in networks:
        network.to("cpu", getattr(torch, config.dtype)).train()
    constraint = CONSTRAINTS[ARMS[config.arm].constraint](config, networks[1])
    for network in networks:
        move(network, data.images.device, layout_of(config))
    return *networks, constraint.to(data.images.device)


def exact_products() -> None:
    """From here on float32 products of this process are float32 on CUDA too, and cuDNN's have the same bits twice.

    CUDA's libraries would take TF32 by default.
    """
    set_products("ieee")
    torch.backends.cudnn.deterministic = True


def unconstrained(config: RunConfig) -> tuple[Generator, Discriminator]:
    """G and D of the run's architecture and norm, with weights of no meaning."""
    dtype = getattr(torch, config.dtype)
    with torch.random.fork_rng(devices=[]):  # torch's constructors draw from the global generator
        G = Generator(config.z_dim, config.channels, config.g_width, config.architecture).to(dtype)
        networks = config.channels, config.d_width, config.norm, config.architecture, config.norm_scale
        D = Discriminator(*networks).to(dtype)
    return G, D
