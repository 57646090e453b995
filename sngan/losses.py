"""Adversarial losses on logits, in forms that do not saturate: softplus(l) instead of -log(1 - sigmoid(l))."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import relu, softplus


def adversarial_d(kind: str, logits_real: Tensor, logits_fake: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Discriminator loss as (total, real part, fake part), each a scalar mean over the batch.

    `bce`: total = (real + fake) / 2, the notebook's; Goodfellow et al. 2014 have the sum.
    `hinge`: real + fake with margin 1. `wasserstein`: D(fake) - D(real), parts -D(real) and D(fake).
    """
    if kind == "bce":
        real, fake = softplus(-logits_real).mean(), softplus(logits_fake).mean()
        return (real + fake) / 2, real, fake
    if kind == "hinge":
        real, fake = relu(1 - logits_real).mean(), relu(1 + logits_fake).mean()
    elif kind == "wasserstein":
        real, fake = -logits_real.mean(), logits_fake.mean()
    else:
        raise ValueError(f"unknown loss {kind!r}; known: bce, hinge, wasserstein")
    return real + fake, real, fake


def adversarial_g(kind: str, logits_fake: Tensor) -> Tensor:
    """Generator loss, a scalar mean over the batch: non-saturating for `bce`, -D(fake) otherwise."""
    return softplus(-logits_fake).mean() if kind == "bce" else -logits_fake.mean()
