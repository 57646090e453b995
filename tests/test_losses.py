import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from sngan.losses import THRESHOLDS, adversarial_d, adversarial_g


def test_bce_is_torchs() -> None:
    real, fake = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total, part_real, part_fake = adversarial_d("bce", real, fake)
    assert part_real.item() == pytest.approx(binary_cross_entropy_with_logits(real, torch.ones(50).double()).item())
    assert part_fake.item() == pytest.approx(binary_cross_entropy_with_logits(fake, torch.zeros(50).double()).item())
    assert total.item() == pytest.approx((part_real + part_fake).item() / 2)
    expected = binary_cross_entropy_with_logits(fake, torch.ones(50).double()).item()
    assert adversarial_g("bce", fake).item() == pytest.approx(expected)


def test_bce_does_not_saturate() -> None:
    """At a logit of 1,000 a sigmoid followed by a logarithm gives infinity and no gradient."""
    logits = torch.tensor([-1000.0], requires_grad=True)
    loss = adversarial_g("bce", logits)
    loss.backward()
    assert loss.item() == 1000
    assert logits.grad is not None
    assert logits.grad.item() == -1


LOSSES = ("bce", "hinge", "wasserstein", "least_squares")
FAR = torch.tensor([-40.0, 40.0], dtype=torch.float64)


def test_least_squares_by_hand() -> None:
    """Mao et al. 2017: the targets are 1 for real images, 0 for generated ones, and 1 for the generator."""
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    total, of_real, of_fake = adversarial_d("least_squares", real, fake)
    assert of_real.item() == (1.0**2 + 0.5**2) / 2 / 2
    assert of_fake.item() == 9 / 2 / 2
    assert total.item() == of_real.item() + of_fake.item()
    assert adversarial_g("least_squares", fake).item() == (16 + 1) / 2 / 2


def slopes(loss: str, what: str, logits: torch.Tensor) -> list[float]:
    """Of a loss with respect to each of the logits, times their number."""
    logits = logits.clone().requires_grad_()
    others = torch.zeros(1, dtype=logits.dtype)
    total = {
        "real": lambda: adversarial_d(loss, logits, others)[0],
        "fake": lambda: adversarial_d(loss, others, logits)[0],
        "g": lambda: adversarial_g(loss, logits),
    }[what]()
    (gradient,) = torch.autograd.grad(total, logits)
    return (len(logits) * gradient).tolist()


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_push_logits_where_they_belong(loss: str) -> None:
    """D raises logits of real images and lowers those of fakes, G raises them; finite differences agree."""
    near = torch.tensor([0.3], dtype=torch.float64)
    assert slopes(loss, "real", near)[0] < 0 < slopes(loss, "fake", near)[0]
    assert slopes(loss, "g", near)[0] < 0
    step = 1e-6
    values = [adversarial_g(loss, near + sign * step).item() for sign in (1, -1)]
    assert slopes(loss, "g", near)[0] == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_losses_saturate_at_logits_of_40(dtype: torch.dtype) -> None:
    """A generator whose fakes are found out (-40) keeps its gradient, whatever the loss."""
    tiny = math.exp(-40)
    far = FAR.to(dtype)
    assert slopes("bce", "g", far) == pytest.approx([-1, -tiny], rel=1e-6)
    assert slopes("bce", "real", far) == pytest.approx([-0.5, -0.5 * tiny], rel=1e-6)
    assert slopes("bce", "fake", far) == pytest.approx([0.5 * tiny, 0.5], rel=1e-6)
    assert slopes("hinge", "real", far) == [-1, 0]
    assert slopes("hinge", "fake", far) == [0, 1]
    assert slopes("hinge", "g", far) == slopes("wasserstein", "g", far) == [-1, -1]
    assert slopes("wasserstein", "real", far) == [-1, -1]
    assert slopes("wasserstein", "fake", far) == [1, 1]
    assert slopes("least_squares", "real", far) == slopes("least_squares", "g", far) == [-41, 39]  # nowhere
    assert slopes("least_squares", "fake", far) == [-40, 40]
    for loss in LOSSES:
        assert all(torch.isfinite(part) for part in (*adversarial_d(loss, far, far), adversarial_g(loss, far)))


@pytest.mark.parametrize("loss", LOSSES)
def test_thresholds_lie_where_a_best_discriminator_is_undecided(loss: str) -> None:
    """Of equal shares of real and generated images at one point the best logit is the threshold."""
    if loss not in THRESHOLDS:
        assert slopes(loss, "real", FAR) == [-value for value in slopes(loss, "fake", FAR)]  # any logit is as good
        return
    at = torch.tensor([THRESHOLDS[loss]], dtype=torch.float64)
    assert slopes(loss, "real", at)[0] + slopes(loss, "fake", at)[0] == pytest.approx(0, abs=1e-12)


def test_hinge_and_wasserstein_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert adversarial_d("hinge", real, fake)[0].item() == (0 + 0.5) / 2 + (0 + 1) / 2
    assert adversarial_d("wasserstein", real, fake)[0].item() == -1.5 - 1.25
    assert adversarial_g("hinge", fake).item() == adversarial_g("wasserstein", fake).item() == 1.5
    with pytest.raises(ValueError, match="unknown loss"):
        adversarial_d("lsgan", real, fake)
    with pytest.raises(ValueError, match="unknown loss"):
        adversarial_g("lsgan", fake)
