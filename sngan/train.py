"""The loop, in the order of the SN-GAN paper's algorithm."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sngan.arms import ARMS
from sngan.config import RunConfig
from sngan.constraints import CONSTRAINTS, Constraint
from sngan.data import Batches, ImageData
from sngan.evaluate import Evaluation
from sngan.losses import adversarial_d, adversarial_g
from sngan.measure import Instruments, Window, non_finite
from sngan.models import Discriminator, Generator, initialize
from sngan.precision import check_precision, float32_afterwards, set_products
from sngan.spectral import raw_weight, weight_layers
from sngan.streams import Ahead, Normal, torch_generator


class Outcome(NamedTuple):
    """How a training ended: `finished` or `diverged`, after `step` generator updates, and why."""

    state: str
    step: int
    reason: str = ""


@float32_afterwards()
def train(
    config: RunConfig,
    data: ImageData,
    log: Callable[[dict[str, Any], Tensor | None], None] | None,
    save: Callable[[dict[str, Any]], None] | None = None,
    resume: dict[str, Any] | None = None,
    due: Callable[[int], bool] | None = None,
) -> Outcome:
    """Train one run on the device of `data` and return how it ended.

    `log(row, samples)` gets each row of the record, with `time/*`, and at evaluations also `eval/*` and the fixed
    latents' images (64, C, side, side) in [-1, 1]. With None nothing is measured (and no divergence noticed); the bits
    of the run are the same. Non-finite numbers end the run as `diverged`.

    `save(state)` gets G, D and the outcome when the run has ended, and after every step for which `due(step)` is true
    everything that the rest of the run depends on; an exception of `save` ends the training. With such a state as
    `resume` the run resumes from there, and gives the bits that it would have given (on the same device, threads and
    layout). States hold tensors, numbers, strings, lists and dicts.

    Raises InputError for precision `tf32` on a CPU.
    """
    check_precision(config.precision, data.images.device)
    run = Run(config, data)
    observer = Observer(run, data, log) if log else None
    outcome, first = Outcome("finished", config.steps), 1
    if resume:
        run.load_state(resume)
        first = resume["step"] + 1
    if observer:
        observer.load_state(resume) if resume else observer.begin()
    for step in range(first, config.steps + 1):
        set_products("tf32" if config.precision == "tf32" else "ieee")
        update(run, observer.window if observer else None)
        set_products("ieee")  # for what measures
        if observer and (bad := observer.after(step)):
            outcome = Outcome("diverged", step, f"non-finite: {bad}")
            break
        if save and due and due(step) and step < config.steps:
            save({"step": step, **run.state(), **(observer.state() if observer else _UNOBSERVED)})
    if save:
        save(outcome._asdict() | {"G": run.G.state_dict(), "D": run.D.state_dict()})
    return outcome


def update(run: Run, window: Window | None) -> None:
    """One step: n_dis updates of the discriminator, and one of the generator.

    Source: Miyato et al. 2018, section 4 and Algorithm 1. `window` takes down what is logged.
    """
    config, G, D, constraint = run.config, run.G, run.D, run.constraint
    for _ in range(config.n_dis):
        x_real = next(run.batches).to(memory_format=run.layout)  # (N, C, side, side) in [-1, 1]
        with torch.no_grad():
            x_fake = run.forward(G, next(run.z_d))  # of latents (N, z_dim)
        constraint.before_update()
        logits_fake = run.forward(D, x_fake)  # before the real ones: each forward may move the constraint's vectors
        logits_real = run.forward(D, x_real)
        adversarial, d_real, d_fake = adversarial_d(config.loss, logits_real, logits_fake)
        penalty = constraint.weighted_penalty(x_real, x_fake)
        loss_d = adversarial + penalty
        minimize(run.opt_d, loss_d)
        constraint.after_update()
        if window:
            window.add_d(D, (loss_d, adversarial, penalty, d_real, d_fake), logits_real, logits_fake)
    with frozen(D):
        loss_g = adversarial_g(config.loss, run.forward(D, run.forward(G, next(run.z_g))))
        minimize(run.opt_g, loss_g)
    if window:
        window.add_g(G, loss_g)


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


class Observer:
    """What is measured of a run, and when: it makes the rows of the record, and sees that a run has diverged."""

    def __init__(self, run: Run, data: ImageData, log: Callable[[dict[str, Any], Tensor | None], None]) -> None:
        config = run.config
        self._run, self._log = run, log
        self._instruments = Instruments(config, run.G, run.D, run.constraint, data)
        self._evaluation, self._evaluations = Evaluation(config, data), set(config.evaluation_steps())
        self.window, self._since = Window(), time.perf_counter()

    def begin(self) -> None:
        """The row of step 0."""
        self._log(self._instruments.row(0, {}), None)
        self._since = time.perf_counter()

    def after(self, step: int) -> str:
        """Log what is due after a step. Returns what is not finite, by which the run has diverged; else nothing."""
        config, G = self._run.config, self._run.G
        if step % config.log_every and step != config.steps:
            return ""
        means = self.window.means(config)  # waits for the device
        timing = elapsed(self._since, self.window.steps, config)
        row, samples = self._instruments.row(step, means), None
        if step in self._evaluations:
            start, samples = time.perf_counter(), self._instruments.samples()
            row |= self._evaluation(G) | self._instruments.spectra()
            timing["time/evaluation_seconds"] = time.perf_counter() - start
        self._log(row | timing, samples)
        bad = non_finite(row, samples, G, self._run.D)
        self.window, self._since = Window(), time.perf_counter()
        return bad

    def state(self) -> dict[str, Any]:
        return {"window": self.window.state(), "instruments": self._instruments.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.window.load_state(state["window"])
        self._instruments.load_state(state["instruments"])
        self._since = time.perf_counter()


_UNOBSERVED = {"window": Window().state(), "instruments": {}}


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


def minimize(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """No gradients for the network's parameters: the G step needs those of its input only."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def elapsed(start: float, steps: int, config: RunConfig) -> dict[str, float]:
    """Seconds a step since `start`, instruments and record left out, and the real images seen a second."""
    seconds = (time.perf_counter() - start) / steps
    return {
        "time/step_seconds": seconds,
        "time/images_per_second": config.n_dis * config.batch_size / seconds,
    }
