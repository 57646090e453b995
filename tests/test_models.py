import math

import pytest
import torch
from torch import nn

from sngan.models import Discriminator, Generator, initialize


def test_sizes_are_the_notebooks() -> None:
    G, D = Generator(), Discriminator()
    assert sum(p.numel() for p in G.parameters()) == 747_841
    assert sum(p.numel() for p in D.parameters()) == 9_105
    sides, x = [], torch.zeros(2, 64, 1, 1)
    for layer in G:
        x = layer(x)
        sides.append(x.shape[-1])
    assert sorted(set(sides)) == [3, 6, 13, 28]
    assert D(x).shape == (2,)
    assert [tuple(D.get_submodule(f"conv{i}").weight.flatten(1).shape) for i in (1, 2, 3)] == [
        (16, 16),
        (32, 256),
        (1, 512),
    ]


def test_discriminator_ignores_the_last_row_and_column_of_its_13x13_input() -> None:
    D = Discriminator(norm="none")
    x = torch.rand(1, 1, 28, 28)
    y = x.clone()
    y[..., 26:, :] = 0  # reaches only row 12 of the 13
    assert torch.equal(D(x), D(y))


@pytest.mark.parametrize(("scheme", "mean"), [("notebook", 0.0), ("dcgan", 1.0)])
def test_initial_draws_have_the_stated_moments(scheme: str, mean: float) -> None:
    D, G = Discriminator(width=64), Generator(width=64)
    for network, name in ((D, "D"), (G, "G")):
        initialize(network, 0, name, scheme)  # type: ignore[arg-type]
    weight = G.get_submodule("deconv2").weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert abs(weight.mean().item()) < 4 * 0.02 / math.sqrt(weight.numel())
    gains = torch.cat([D.get_submodule("bn2").weight, G.get_submodule("bn1").weight])
    assert gains.mean().item() == pytest.approx(mean, abs=4 * 0.02 / math.sqrt(len(gains)))
    assert gains.std().item() == pytest.approx(0.02, rel=0.2)
    assert not D.get_submodule("bn2").bias.any()


def test_a_seed_gives_equal_layers_to_networks_that_differ_elsewhere() -> None:
    with_norm, without = Discriminator(norm="batch"), Discriminator(norm="none")
    initialize(with_norm, 5, "D", "notebook")
    initialize(without, 5, "D", "notebook")
    for name, parameter in without.named_parameters():
        assert torch.equal(parameter, with_norm.get_parameter(name))
    initialize(without, 6, "D", "notebook")
    assert not torch.equal(without.get_parameter("conv1.weight"), with_norm.get_parameter("conv1.weight"))


def test_a_batch_normed_layers_scale_does_not_move_the_discriminator_and_the_last_layers_does() -> None:
    """So a penalty on the weights of a D with batch norm acts through its last layer alone: algebra, no finding."""
    D = Discriminator(norm="batch").double()
    initialize(D, 0, "D", "dcgan")
    x = torch.randn(64, 1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)

    def steepness() -> torch.Tensor:
        (gradient,) = torch.autograd.grad(D(x).sum(), x)
        return gradient.flatten(1).norm(dim=1)

    layers, before = dict(D.named_children()), steepness()
    for name in ("conv1", "conv2"):
        with torch.no_grad():
            layers[name].weight *= 10
        assert torch.allclose(steepness(), before, rtol=0.05)
        assert (steepness().mean() / before.mean() - 1).abs() < 0.02  # of the norm's epsilon
        with torch.no_grad():
            layers[name].weight /= 10
    with torch.no_grad():
        layers["conv3"].weight /= 3
    assert torch.allclose(steepness(), before / 3)


@pytest.mark.parametrize("norm_scale", ["fixed", "learned"])
def test_layer_norm_is_torchs_over_channels_and_pixels(norm_scale: str) -> None:
    """`nn.LayerNorm` over all of an image's numbers, of gamma 1 and beta 0, as the network begins."""
    D = Discriminator(norm="layer", norm_scale=norm_scale).double()
    initialize(D, 0, "D", "dcgan")
    layer, x = D.get_submodule("ln2"), torch.randn(5, 32, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), nn.LayerNorm((32, 5, 5)).double()(x))
    with torch.no_grad():
        layer.weight.mul_(2)
        layer.bias.add_(3)
    torch.testing.assert_close(layer(x), 2 * nn.LayerNorm((32, 5, 5)).double()(x) + 3)
    learned = [name for name, _ in D.named_parameters() if name.startswith("ln") and name.endswith("weight")]
    assert learned == (["ln1.weight", "ln2.weight"] if norm_scale == "learned" else [])
    Discriminator(norm="layer", norm_scale="learned").load_state_dict(D.state_dict())  # one state fits either


def test_a_layer_normed_discriminator_sees_each_image_by_itself() -> None:
    D, x = Discriminator(norm="layer").double(), torch.randn(3, 1, 28, 28, dtype=torch.float64)
    torch.testing.assert_close(D(x)[:1], D(x[:1]))
    torch.testing.assert_close(D.eval()(x), D.train()(x))
