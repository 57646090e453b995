"""The loop, in the order of the SN-GAN paper's algorithm."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sngan.config import ARMS, RunConfig
from sngan.data import Batches, ImageData
from sngan.evaluate import Evaluation
from sngan.losses import adversarial_d, adversarial_g
from sngan.measure import Instruments, Window, layer_generators, non_finite
from sngan.models import Discriminator, Generator, initialize
from sngan.precision import check_precision, float32_afterwards, set_products
from sngan.spectral import (
    SpectralPenalty,
    advance_power_iteration,
    apply_spectral_norm,
    hold_power_iteration,
    raw_weight,
    weight_layers,
)
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
    latents' images (64, C, 28, 28) in [-1, 1]. With None nothing is measured (and no divergence noticed); the bits of
    the run are the same. Non-finite numbers end the run as `diverged`.

    `save(state)` gets G, D and the outcome when the run is over, and after every step for which `due(step)` is true
    everything that the rest of the run depends on; an exception of `save` ends the training. With such a state as
    `resume` the run goes on from there, and gives the bits that it would have given (on the same device, threads and
    layout). States hold tensors, numbers, strings, lists and dicts.

    Raises InputError for precision `tf32` on a CPU.
    Source: Miyato et al. 2018, section 4 and Algorithm 1.
    """
    device, dtype = data.images.device, getattr(torch, config.dtype)
    check_precision(config.precision, device)
    layout = torch.channels_last if config.memory_format == "channels_last" else torch.contiguous_format
    G, D, penalty = build(config, device)
    opt_g, opt_d = (
        torch.optim.Adam(network.parameters(), lr=config.lr, betas=(config.beta1, config.beta2), fused=True)
        for network in (G, D)
    )
    batches = Batches(data, config.batch_size, config.seed, dtype)
    shape = (config.batch_size, config.z_dim)
    z_d, z_g = (Ahead(Normal(torch_generator(config.seed, name), shape, dtype), device) for name in ("z_d", "z_g"))
    evaluations = set(config.evaluation_steps())
    instruments = Instruments(config, G, D, penalty, data) if log else None
    evaluation = Evaluation(config, data) if log else None
    window, outcome, zero = Window(), Outcome("finished", config.steps), torch.zeros((), device=device, dtype=dtype)
    streams = {"z_d": z_d, "z_g": z_g}
    parts = {"G": G, "D": D, "opt_g": opt_g, "opt_d": opt_d, "penalty": penalty}

    def state(step: int) -> dict[str, Any]:
        return {
            "step": step,
            **{name: part.state_dict() for name, part in parts.items() if part},
            "streams": {name: latents.state() for name, latents in streams.items()},
            "data": batches.state(),
            "window": window.state(),
            "instruments": instruments.state() if instruments else {},
        }

    if resume:
        for name, part in parts.items():
            if part:
                part.load_state_dict(resume[name])
        for name, latents in streams.items():
            latents.load_state(resume["streams"][name])
        batches.load_state(resume["data"])
        window.load_state(resume["window"])
        if instruments:
            instruments.load_state(resume["instruments"])
    elif log and instruments:
        log(instruments.row(0, {}), None)

    def forward(network: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            return network(x).to(dtype)

    window_start = time.perf_counter()
    for step in range(resume["step"] + 1 if resume else 1, config.steps + 1):
        set_products("tf32" if config.precision == "tf32" else "ieee")
        for _ in range(config.n_dis):
            x_real = next(batches).to(memory_format=layout)  # (N, C, 28, 28) in [-1, 1]
            with torch.no_grad():
                x_fake = forward(G, next(z_d))  # of latents (N, z_dim)
            if config.power_iteration == "per_update":
                advance_power_iteration(D, config.n_power_iterations)
            logits_fake = forward(D, x_fake)  # before the real ones: in per_forward each forward moves u and v
            logits_real = forward(D, x_real)
            adversarial, d_real, d_fake = adversarial_d(config.loss, logits_real, logits_fake)
            weighted_penalty = config.penalty_weight * penalty() if penalty else zero
            loss_d = adversarial + weighted_penalty
            minimize(opt_d, loss_d)
            if log:
                window.add_d(D, (loss_d, adversarial, weighted_penalty, d_real, d_fake), logits_real, logits_fake)
        with frozen(D):
            loss_g = adversarial_g(config.loss, forward(D, forward(G, next(z_g))))
            minimize(opt_g, loss_g)
        if log:
            window.add_g(G, loss_g)
        set_products("ieee")  # for what measures

        if log and instruments and evaluation and (step % config.log_every == 0 or step == config.steps):
            means = window.means(config)  # waits for the device
            timing = elapsed(window_start, window.steps, config)
            row = instruments.row(step, means)
            samples = None
            if step in evaluations:
                evaluation_start, samples = time.perf_counter(), instruments.samples()
                row |= evaluation(G) | instruments.spectra()
                timing["time/evaluation_seconds"] = time.perf_counter() - evaluation_start
            log(row | timing, samples)
            if bad := non_finite(row, samples, G, D):
                outcome = Outcome("diverged", step, f"non-finite: {bad}")
                break
            window, window_start = Window(), time.perf_counter()
        if save and due and due(step) and step < config.steps:
            save(state(step))
    if save:
        save(outcome._asdict() | {"G": G.state_dict(), "D": D.state_dict()})
    return outcome


def build(config: RunConfig, device: torch.device | str) -> tuple[nn.Module, nn.Module, SpectralPenalty | None]:
    """G, D and the penalty or None, as the run starts: initialized, then constrained, then moved to `device`.

    Drawn in float64 on the CPU, so that neither device nor precision changes the draws. Asserts that the
    initialization reached the raw parameters: after the constraint, writing to `.weight` would do nothing.
    From here on float32 products of this process are float32 on CUDA too, whose libraries would take TF32 by default,
    and cuDNN takes only algorithms that give the same bits twice.
    """
    set_products("ieee")
    torch.backends.cudnn.deterministic = True
    arm, dtype = ARMS[config.arm], getattr(torch, config.dtype)
    layout = torch.channels_last if config.memory_format == "channels_last" else torch.contiguous_format
    with torch.random.fork_rng(devices=[]):  # torch's constructors draw from the global generator
        G = Generator(config.z_dim, config.channels, config.g_width).to(dtype)
        D = Discriminator(config.channels, config.d_width, arm.norm).to(dtype)
    initialize(G, config.seed, "G", config.init)
    initialize(D, config.seed, "D", config.init)
    initial = {name: layer.weight.detach().clone() for name, layer in weight_layers(D)}  # type: ignore[operator]
    penalty = None
    if arm.constraint == "spectral_norm":
        apply_spectral_norm(D, config.n_power_iterations, layer_generators(config.seed))
        if config.power_iteration == "per_update":
            hold_power_iteration(D)
    elif arm.constraint == "spectral_norm_penalty":
        penalty = SpectralPenalty(D, config.n_power_iterations, layer_generators(config.seed))
    for name, layer in weight_layers(D):
        assert torch.equal(raw_weight(layer), initial[name]), f"the initialization of {name} was lost"
    for network in (G, D):
        network.to(device).to(memory_format=layout)  # type: ignore[call-overload]
    return G, D, penalty.to(device) if penalty else None


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
