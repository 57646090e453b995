"""What follows from an architecture's rows, against what torch does with the networks."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sngan import architectures
from sngan.architectures import ARCHITECTURES, Architecture, Layer, bounds, fitting, layer_names, sized
from sngan.config import InputError, RunConfig
from sngan.models import Discriminator, Generator, initialize
from sngan.sigma import conv_sigma, matrix_sigma

PAPERS = Architecture(  # Miyato et al. 2018, Table 3, a quarter as wide
    label="the SN-GAN paper's networks for 32x32 images",
    source="Miyato et al. 2018, arXiv 1802.05957",
    side=32,
    z_dim=128,
    g_width=16,
    d_width=16,
    slope=0.1,
    generator=(
        Layer("dense", "dense", 8, kernel=4),
        Layer("deconv1", "deconv", 4, kernel=4, stride=2, padding=1, norm=True, activation="relu"),
        Layer("deconv2", "deconv", 2, kernel=4, stride=2, padding=1, norm=True, activation="relu"),
        Layer("deconv3", "deconv", 1, kernel=4, stride=2, padding=1, norm=True, activation="relu"),
        Layer("conv", "conv", "image", kernel=3, padding=1, activation="tanh"),
    ),
    discriminator=(
        Layer("conv1", "conv", 1, kernel=3, padding=1, norm=True, activation="leaky_relu"),
        Layer("conv2", "conv", 1, kernel=4, stride=2, padding=1, norm=True, activation="leaky_relu"),
        Layer("conv3", "conv", 2, kernel=3, padding=1, norm=True, activation="leaky_relu"),
        Layer("dense", "dense", "logit"),
    ),
)


@pytest.fixture(params=[*ARCHITECTURES, "papers"])
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(ARCHITECTURES, "papers", PAPERS)
    return request.param


def seen(network: nn.Module, x: Tensor) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """layer -> shapes of what goes in and comes out of it, one image."""
    shapes = {}
    for layer_name, layer in network.named_children():
        layer.register_forward_hook(
            lambda _, inputs, output, n=layer_name: shapes.update({n: (tuple(inputs[0].shape[1:]), output.shape[1:])})
        )
    network.eval()(x)
    return shapes


@pytest.mark.parametrize("channels", [1, 3])
def test_sizes_and_multiplications_are_those_of_the_networks(name: str, channels: int) -> None:
    side, z_dim = ARCHITECTURES[name].side, 10
    G, D = Generator(z_dim, channels, 8, name), Discriminator(channels, 8, "none", name)
    z, image = torch.randn(1, z_dim), torch.rand(1, channels, side, side)
    of_g, of_d = architectures.generator(name, z_dim, channels, 8), architectures.discriminator(name, channels, 8)
    for network, x, rows in ((G, z, of_g), (D, image, of_d)):
        shapes = seen(network, x)
        for row in rows:
            layer = network.get_submodule(row.layer.name)
            inputs, outputs = shapes[row.layer.name]
            weight = layer.weight.numel()  # type: ignore[union-attr,operator]
            if isinstance(layer, nn.Linear):
                assert (inputs, outputs) == (
                    (row.channels_in * row.side_in**2,), (row.channels_out * row.side_out**2,)
                )  # fmt: skip
                assert row.multiplications == weight
            else:
                assert inputs == (row.channels_in, row.side_in, row.side_in)
                assert outputs == (row.channels_out, row.side_out, row.side_out)
                places = row.side_in**2 if isinstance(layer, nn.ConvTranspose2d) else row.side_out**2
                assert row.multiplications == weight * places
    assert G(torch.randn(2, z_dim)).shape == (2, channels, side, side)
    assert D(torch.rand(2, channels, side, side)).shape == (2,)


def test_what_stands_between_the_layers_is_what_the_rows_say(name: str) -> None:
    def said(network: nn.Module) -> list[str]:
        slopes = {nn.LeakyReLU: lambda layer: f"LeakyReLU {layer.negative_slope}"}
        return [slopes.get(type(layer), lambda of: type(of).__name__)(layer) for layer in network.children()]

    deconv, conv = ["ConvTranspose2d", "BatchNorm2d", "ReLU"], ["Conv2d", "BatchNorm2d"]
    expected = {
        "dcgan28": (deconv * 3 + ["ConvTranspose2d", "Tanh"], [*conv, "LeakyReLU 0.2"] * 2 + ["Conv2d"]),
        "papers": (
            ["Flatten", "Linear", "Unflatten", *deconv * 3, "Conv2d", "Tanh"],
            [*conv, "LeakyReLU 0.1"] * 3 + ["Flatten", "Linear"],
        ),
    }[name]
    assert (said(Generator(8, 1, 8, name)), said(Discriminator(1, 8, "batch", name))) == expected
    without = [layer for layer in expected[1] if layer != "BatchNorm2d"]
    assert said(Discriminator(1, 8, "none", name)) == without
    layered = [layer.replace("BatchNorm2d", "LayerNorm") for layer in expected[1]]
    assert said(Discriminator(1, 8, "layer", name)) == layered
    with pytest.raises(ValueError, match="unknown norm 'group'; known: batch, none, layer"):
        Discriminator(1, 8, "group", name)  # type: ignore[arg-type]


def test_operator_norms_lie_between_sigma_and_the_bound(name: str) -> None:
    """Of drawn weights, and of a blur, which overlapping windows add up most: it comes near the bound."""
    D, nearest = Discriminator(1, 4, "none", name), {}
    for row in architectures.discriminator(name, 1, 4):
        layer = D.get_submodule(row.layer.name)
        if isinstance(layer, nn.Linear):
            assert row.bound == 1
            continue
        with torch.no_grad():
            layer.weight.fill_(1.0)  # type: ignore[union-attr,operator]
        norm, sigma = float(conv_sigma(layer, (row.side_in, row.side_in))), float(matrix_sigma(layer.weight))  # type: ignore[arg-type]
        assert sigma * (1 - 1e-6) <= norm <= row.bound * sigma * (1 + 1e-6)
        nearest[row.layer.name] = norm / sigma / row.bound
    assert min(nearest.values()) > 0.9
    assert bounds(name) == {row.layer.name: row.bound for row in architectures.discriminator(name, 1, 4)}


def test_a_3x3_convolution_of_stride_1_is_bounded_by_3_whatever_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "papers", PAPERS)
    assert bounds("papers")["conv1"] == 3
    assert bounds("dcgan28") == {"conv1": 2, "conv2": 2, "conv3": 1}


def test_every_layer_of_every_architecture_is_initialized_from_its_stream(name: str) -> None:
    for network, letter in ((Generator(8, 1, 8, name), "G"), (Discriminator(1, 8, "batch", name), "D")):
        drawn = []
        for seed in (1, 1, 2):
            initialize(network, seed, letter, "dcgan")  # type: ignore[arg-type]
            drawn.append({key: value.clone() for key, value in network.named_parameters()})
        assert all(torch.equal(drawn[0][key], drawn[1][key]) for key in drawn[0])
        assert not any(torch.equal(drawn[0][key], drawn[2][key]) for key in drawn[0] if key.endswith("weight"))


def test_the_discriminators_layers_are_named(name: str) -> None:
    weighted = [key.removesuffix(".weight") for key, value in Discriminator(1, 4, "none", name).named_parameters()
                if value.ndim > 1]  # fmt: skip
    assert tuple(weighted) == layer_names(name)


def test_the_architecture_follows_from_the_images_size_and_gives_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig()
    assert (config.architecture, config.g_width, config.d_width, config.z_dim) == ("dcgan28", 64, 16, 64)
    monkeypatch.setitem(ARCHITECTURES, "papers", PAPERS)
    assert fitting(32) == "papers"
    with pytest.raises(ValueError, match="no architecture has 64 pixels a side"):
        fitting(64)
    with pytest.raises(InputError, match="architecture"):
        RunConfig(architecture="dcgan280")


FIRST, SECOND, LAST = ARCHITECTURES["dcgan28"].discriminator


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"discriminator": (FIRST, SECOND)}, "must end in one logit, not in 5 pixels"),
        ({"discriminator": (FIRST, SECOND, LAST._replace(channels=2))}, "must end in one logit"),
        ({"discriminator": (FIRST, FIRST, LAST)}, "names of their own"),
        ({"discriminator": (FIRST._replace(name="bn2"), SECOND, LAST)}, "names of their own"),
        ({"discriminator": (Layer("up", "deconv", 1, 2), Layer("end", "dense", "logit"))}, "up must be a conv, or"),
        ({"discriminator": (Layer("dense", "dense", 1, norm=True), Layer("end", "dense", "logit"))}, "no norm"),
        ({"discriminator": (Layer("dense", "dense", 1), Layer("end", "conv", "logit"))}, "no convolution"),
        ({"side": 32}, "the generator must end in an image of 32 pixels a side, not 28"),
        ({"generator": ARCHITECTURES["dcgan28"].generator[:3]}, "the generator must end in an image"),
    ],
)
def test_rows_that_make_no_such_networks_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(ARCHITECTURES["dcgan28"], **changes)


def test_a_kernel_larger_than_what_it_sees_is_refused() -> None:
    with pytest.raises(ValueError, match="conv1 has a kernel of 4, and sees 3"):
        sized(ARCHITECTURES["dcgan28"].discriminator, 1, 3, 4)
