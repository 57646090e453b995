"""Adversarial losses on logits, in forms that do not saturate: softplus(l) instead of -log(1 - sigmoid(l))."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import relu, softplus

THRESHOLDS = {"bce": 0.0, "hinge": 0.0, "least_squares": 0.5}
"""Loss -> the logit between those of generated and of real images; of `wasserstein` there is none"""


def adversarial_d(kind: str, logits_real: Tensor, logits_fake: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Discriminator loss as (total, real part, fake part), each a scalar mean over the batch.

    `bce`: total = (real + fake) / 2, the notebook's; Goodfellow et al. 2014 have the sum.
    `hinge`: real + fake with margin 1. `wasserstein`: D(fake) - D(real), parts -D(real) and D(fake).
    `least_squares`: real + fake, (D(real) - 1)^2 / 2 and D(fake)^2 / 2 (Mao et al. 2017, the 0-1 coding).
    """
    if kind == "bce":
        real, fake = softplus(-logits_real).mean(), softplus(logits_fake).mean()
        return (real + fake) / 2, real, fake
    if kind == "hinge":
        real, fake = relu(1 - logits_real).mean(), relu(1 + logits_fake).mean()
    elif kind == "wasserstein":
        real, fake = -logits_real.mean(), logits_fake.mean()
    elif kind == "least_squares":
        real, fake = (logits_real - 1).square().mean() / 2, logits_fake.square().mean() / 2
    else:
        raise ValueError(f"unknown loss {kind!r}; known: bce, hinge, wasserstein, least_squares")
    return real + fake, real, fake


def adversarial_g(kind: str, logits_fake: Tensor) -> Tensor:
    """Generator loss, a scalar mean over the batch.

    Non-saturating for `bce`, (D(fake) - 1)^2 / 2 for `least_squares`, -D(fake) for `hinge` and `wasserstein`.
    """
    if kind == "bce":
        return softplus(-logits_fake).mean()
    if kind == "least_squares":
        return (logits_fake - 1).square().mean() / 2
    if kind in ("hinge", "wasserstein"):
        return -logits_fake.mean()
    raise ValueError(f"unknown loss {kind!r}; known: bce, hinge, wasserstein, least_squares")
