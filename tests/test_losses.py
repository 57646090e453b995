import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from sngan.losses import adversarial_d, adversarial_g


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


def test_hinge_and_wasserstein_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert adversarial_d("hinge", real, fake)[0].item() == (0 + 0.5) / 2 + (0 + 1) / 2
    assert adversarial_d("wasserstein", real, fake)[0].item() == -1.5 - 1.25
    assert adversarial_g("hinge", fake).item() == adversarial_g("wasserstein", fake).item() == 1.5
    with pytest.raises(ValueError, match="unknown loss"):
        adversarial_d("lsgan", real, fake)
