"""The loop, in the order of the SN-GAN paper's algorithm."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sngan.config import ARMS, RunConfig
from sngan.data import Batches, ImageData, normalized
from sngan.losses import adversarial_d, adversarial_g
from sngan.models import Discriminator, Generator, initialize
from sngan.sigma import log_sigmas, matrix_sigma
from sngan.spectral import (
    SpectralPenalty,
    advance_power_iteration,
    apply_spectral_norm,
    hold_power_iteration,
    matrix_dim,
    raw_weight,
    sigma_estimates,
    weight_layers,
)
from sngan.streams import numpy_generator, torch_generator

N_SAMPLES = 64  # images of a sample grid


class Outcome(NamedTuple):
    """How a training ended: `finished` or `diverged`, after `step` generator updates, and why."""

    state: str
    step: int
    reason: str = ""


def train(
    config: RunConfig,
    data: ImageData,
    log: Callable[[dict[str, Any], Tensor | None], None] | None,
    save: Callable[[int, dict[str, Any]], None] | None = None,
) -> Outcome:
    """Train one run on the device of `data` and return how it ended.

    `log(row, samples)` gets each row of the record, `time/*` included, and at evaluations the fixed latents'
    images (64, C, 28, 28) in [-1, 1]; None measures nothing and changes no bit of the run. `save(step, state)`
    gets the weights when the run is over. Non-finite numbers end the run as `diverged`.
    Source: Miyato et al. 2018, Algorithm 1; settings in section 4.
    """
    device, dtype = data.images.device, getattr(torch, config.precision)
    G, D, penalty = build(config, device)
    opt_g, opt_d = (
        torch.optim.Adam(network.parameters(), lr=config.lr, betas=(config.beta1, config.beta2), fused=True)
        for network in (G, D)
    )
    batches = Batches(data, config.batch_size, config.seed, dtype)
    z_d, z_g = (torch_generator(config.seed, name, device) for name in ("z_d", "z_g"))
    instruments = Instruments(config, G, D, penalty) if log else None
    if log and instruments:
        log(instruments.row(0, {}), None)
    window = Window()
    evaluations = set(config.evaluation_steps())

    def latents(generator: torch.Generator) -> Tensor:
        return torch.randn(config.batch_size, config.z_dim, generator=generator, device=device, dtype=dtype)

    for step in range(1, config.steps + 1):
        for _ in range(config.n_dis):
            x_real, z = images_as(next(batches), config.memory_format), latents(z_d)
            with torch.no_grad():
                x_fake = G(z)
            if config.power_iteration == "per_update":
                advance_power_iteration(D, config.n_power_iterations)
            logits_fake, logits_real = D(x_fake), D(x_real)  # fake first: the order decides which u and v each sees
            adversarial, d_real, d_fake = adversarial_d(config.loss, logits_real, logits_fake)
            penalty_d = config.penalty_weight * penalty() if penalty else None
            loss_d = adversarial if penalty_d is None else adversarial + penalty_d
            minimize(opt_d, loss_d)
            window.add_d(D, loss_d, adversarial, penalty_d, d_real, d_fake, logits_real, logits_fake)
        with frozen(D):
            loss_g = adversarial_g(config.loss, D(G(latents(z_g))))
        minimize(opt_g, loss_g)
        window.add_g(G, loss_g)

        if log and instruments and (step % config.log_every == 0 or step == config.steps or step in evaluations):
            row = instruments.row(step, window.means(config))
            samples = instruments.samples() if step in evaluations else None
            log(row, samples)
            if bad := non_finite(row, G, D):
                return finish(save, step, G, D, Outcome("diverged", step, f"non-finite at step {step}: {bad}"))
            window = Window()
    return finish(save, config.steps, G, D, Outcome("finished", config.steps))
