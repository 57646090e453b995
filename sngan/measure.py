"""What a row of the record is made of. Measured after the step, in eval mode; no measurement moves the run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sngan.config import RunConfig
from sngan.sigma import log_sigmas, matrix_sigma
from sngan.spectral import SpectralPenalty, matrix_dim, raw_weight, sigma_estimates, spectral_norm_of, weight_layers
from sngan.streams import torch_generator

N_SAMPLES = 64  # images of a sample grid

_D_KEYS = (
    *("loss/d", "loss/d_adversarial", "loss/d_penalty", "loss/d_real", "loss/d_fake"),
    *("logit/real", "logit/fake", "logit/max_abs", "accuracy/d_real", "accuracy/d_fake", "grad_norm/d"),
)
_G_KEYS = ("loss/g", "grad_norm/g")


def gradient_norm(network: nn.Module) -> Tensor:
    """Euclidean norm over all gradients of a network, a () tensor."""
    return torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])


class Window:
    """Scalars of the updates since the previous row; they stay on the device until `means` fetches them once."""

    def __init__(self) -> None:
        self._d: list[Tensor] = []  # one (11,) tensor per D update, in the order of _D_KEYS
        self._g: list[Tensor] = []  # one (2,) tensor per G update

    @torch.no_grad()
    def add_d(
        self,
        D: nn.Module,
        losses: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],  # total, adversarial, penalty, real, fake
        logits_real: Tensor,
        logits_fake: Tensor,
    ) -> None:
        largest = torch.maximum(logits_real.abs().max(), logits_fake.abs().max())
        # shares of the batch on the right side of zero
        accuracies = ((logits_real > 0).to(largest).mean(), (logits_fake < 0).to(largest).mean())
        logits = (logits_real.mean(), logits_fake.mean(), largest)
        self._d.append(torch.stack([*losses, *logits, *accuracies, gradient_norm(D)]))

    @torch.no_grad()
    def add_g(self, G: nn.Module, loss_g: Tensor) -> None:
        self._g.append(torch.stack([loss_g, gradient_norm(G)]))

    @property
    def steps(self) -> int:
        return len(self._g)

    def means(self, config: RunConfig) -> dict[str, float]:
        """Means over the window; of `logit/max_abs` the maximum, of `grad_norm/*` also both extremes."""
        row: dict[str, float] = {}
        for keys, rows in ((_D_KEYS, self._d), (_G_KEYS, self._g)):
            values = torch.stack(rows).double().cpu().numpy()  # (updates, keys)
            for key, column in zip(keys, values.T, strict=True):
                if key == "logit/max_abs":
                    row[key] = float(column.max())
                    continue
                row[key] = float(column.mean())
                if key.startswith("grad_norm/"):
                    row[f"{key}_min"], row[f"{key}_max"] = float(column.min()), float(column.max())
        if config.loss == "wasserstein":  # zero is no threshold there
            del row["accuracy/d_real"], row["accuracy/d_fake"]
        return row


class Instruments:
    """Exact sigmas of D's layers and the fixed latents' images.

    `sigma_estimate/<layer>` is the power iteration's running value u'Wv: of the training where the arm has one,
    else of an instrument's own vectors (stream `power_iteration/<layer>`), advanced one round a row.
    """

    def __init__(self, config: RunConfig, G: nn.Module, D: nn.Module, penalty: SpectralPenalty | None) -> None:
        self._config, self._G, self._D = config, G, D
        device = next(G.parameters()).device
        self._layers = dict(weight_layers(D))
        constrained = any(spectral_norm_of(layer) is not None for layer in self._layers.values())
        self._penalty = penalty
        self._probe = None
        if not constrained and penalty is None:
            self._probe = SpectralPenalty(D, generator=layer_generators(config.seed))
        generator = torch_generator(config.seed, "samples", device)
        dtype = getattr(torch, config.precision)
        self._z = torch.randn(N_SAMPLES, config.z_dim, generator=generator, device=device, dtype=dtype)

    def row(self, step: int, window: dict[str, float]) -> dict[str, Any]:
        d_updates = step * self._config.n_dis
        row: dict[str, Any] = {"step": step, "d_updates": d_updates, "images_seen": d_updates * self._config.batch_size}
        row |= window
        used = log_sigmas(self._D)
        if self._probe is not None:
            self._probe.advance()
            estimates = self._probe.sigma_estimates()
        else:
            estimates = (self._penalty.sigma_estimates() if self._penalty else {}) | sigma_estimates(self._D)
        for name, layer in self._layers.items():
            raw = raw_weight(layer).detach()
            row[f"sigma/{name}"] = used[name]
            row[f"sigma_raw/{name}"] = matrix_sigma(raw, matrix_dim(layer)).item()
            row[f"sigma_estimate/{name}"] = estimates[name].item()
            row[f"weight_norm/{name}"] = raw.double().norm().item()
        return row

    @torch.no_grad()
    def samples(self) -> Tensor:
        """Images (64, C, 28, 28) in [-1, 1] of the fixed latents, batch norm by its running statistics."""
        self._G.eval()
        try:
            return self._G(self._z)
        finally:
            self._G.train()


def layer_generators(seed: int) -> Any:
    """layer name -> CPU generator at the stream `power_iteration/<layer>`."""
    return lambda name: torch_generator(seed, f"power_iteration/{name}")


@torch.no_grad()
def non_finite(row: dict[str, Any], *networks: nn.Module) -> str:
    """The first of the row's keys with non-finite values, or of the parameters that hold some; empty if none."""
    keys = [key for key, value in row.items() if not math.isfinite(value)]
    if not keys:
        for network in networks:
            totals = torch.stack([p.detach().sum() for p in network.parameters()]).cpu().numpy()
            bad = np.flatnonzero(~np.isfinite(totals))
            keys += [f"{type(network).__name__} {list(dict(network.named_parameters()))[i]}" for i in bad]
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
