"""What follows from an architecture's rows, against what torch does with the networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.account import step_flop
from sngan import architectures
from sngan.architectures import ARCHITECTURES, Layer, bounds, fitting, layer_names, sized
from sngan.config import InputError, RunConfig
from sngan.data import ImageData
from sngan.models import Discriminator, Generator, initialize
from sngan.sigma import conv_sigma, matrix_sigma
from sngan.state import Run
from sngan.train import update


@pytest.fixture(params=[*ARCHITECTURES])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def layers_of(network: nn.Module) -> list[str]:
    """Each layer's name, what it is, and the shapes of its parameters."""
    found = []
    for layer_name, layer in network.named_children():
        details = ""
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            details = f"k{layer.kernel_size[0]} s{layer.stride[0]} p{layer.padding[0]}"  # squares: see the weights
        elif isinstance(layer, nn.LeakyReLU):
            details = f"{layer.negative_slope}"
        kind = next(base.__name__ for base in type(layer).__mro__ if base.__module__.startswith("torch.nn"))
        shapes = [str(tuple(parameter.shape)) for parameter in layer.parameters()]
        found.append(" ".join(filter(None, (layer_name, kind, details, *shapes))))
    return found


def test_the_papers_networks_are_those_of_its_table() -> None:
    """Miyato et al. 2018, Table 3: layer by layer, as a reader of the paper would write them down."""
    G, D = Generator(128, 3, 64, "sndcgan32"), Discriminator(3, 64, "none", "sndcgan32")
    assert layers_of(G) == [
        "flatten1 Flatten", "dense Linear (8192, 128) (8192,)", "unflatten1 Unflatten",
        "deconv1 ConvTranspose2d k4 s2 p1 (512, 256, 4, 4) (256,)", "bn2 BatchNorm2d (256,) (256,)", "act2 ReLU",
        "deconv2 ConvTranspose2d k4 s2 p1 (256, 128, 4, 4) (128,)", "bn3 BatchNorm2d (128,) (128,)", "act3 ReLU",
        "deconv3 ConvTranspose2d k4 s2 p1 (128, 64, 4, 4) (64,)", "bn4 BatchNorm2d (64,) (64,)", "act4 ReLU",
        "conv Conv2d k3 s1 p1 (3, 64, 3, 3) (3,)", "act5 Tanh",
    ]  # fmt: skip
    assert layers_of(D) == [
        "conv1 Conv2d k3 s1 p1 (64, 3, 3, 3) (64,)", "act1 LeakyReLU 0.1",
        "conv2 Conv2d k4 s2 p1 (64, 64, 4, 4) (64,)", "act2 LeakyReLU 0.1",
        "conv3 Conv2d k3 s1 p1 (128, 64, 3, 3) (128,)", "act3 LeakyReLU 0.1",
        "conv4 Conv2d k4 s2 p1 (128, 128, 4, 4) (128,)", "act4 LeakyReLU 0.1",
        "conv5 Conv2d k3 s1 p1 (256, 128, 3, 3) (256,)", "act5 LeakyReLU 0.1",
        "conv6 Conv2d k4 s2 p1 (256, 256, 4, 4) (256,)", "act6 LeakyReLU 0.1",
        "conv7 Conv2d k3 s1 p1 (512, 256, 3, 3) (512,)", "act7 LeakyReLU 0.1",
        "flatten8 Flatten", "dense Linear (1, 8192) (1,)",
    ]  # fmt: skip
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in (G, D)]
    assert counts == [3_812_355, 2_935_873]  # 1,056,768 + 2,097,408 + .. by hand
    normed = [name for name in layers_of(Discriminator(3, 64, "batch", "sndcgan32")) if "BatchNorm2d" in name]
    assert normed == [f"bn{i} BatchNorm2d ({n},) ({n},)" for i, n in
                      ((2, 64), (3, 128), (4, 128), (5, 256), (6, 256), (7, 512))]  # fmt: skip


def test_the_notebooks_networks_are_those_of_the_notebook() -> None:
    G, D = Generator(), Discriminator(norm="none")
    assert [name for name in layers_of(G) if "Norm" not in name and "ReLU" not in name] == [
        "deconv1 ConvTranspose2d k3 s2 p0 (64, 256, 3, 3) (256,)",
        "deconv2 ConvTranspose2d k4 s1 p0 (256, 128, 4, 4) (128,)",
        "deconv3 ConvTranspose2d k3 s2 p0 (128, 64, 3, 3) (64,)",
        "deconv4 ConvTranspose2d k4 s2 p0 (64, 1, 4, 4) (1,)", "act4 Tanh",
    ]  # fmt: skip
    assert layers_of(D) == [
        "conv1 Conv2d k4 s2 p0 (16, 1, 4, 4) (16,)", "act1 LeakyReLU 0.2",
        "conv2 Conv2d k4 s2 p0 (32, 16, 4, 4) (32,)", "act2 LeakyReLU 0.2",
        "conv3 Conv2d k4 s2 p0 (1, 32, 4, 4) (1,)",
    ]  # fmt: skip
    assert sum(parameter.numel() for parameter in G.parameters()) == 747_841
    assert sum(parameter.numel() for parameter in Discriminator().parameters()) == 9_105


@pytest.mark.parametrize("n_dis", [1, 5])
def test_a_steps_operations_are_those_that_torch_counts(name: str, n_dis: int) -> None:
    """In the networks' products; torch counts forward and backward passes as they are made."""
    config = RunConfig(
        dataset={28: "mnist", 32: "cifar10"}[ARCHITECTURES[name].side], architecture=name, arm="plain", batch_size=4,
        n_dis=n_dis, threads=1, g_width=8, d_width=8,
    )  # fmt: skip
    images = torch.zeros(50, config.channels, config.side, config.side, dtype=torch.uint8)
    run = Run(config, ImageData(config.dataset, images, torch.zeros(50, dtype=torch.int64), ""))
    run.turn()
    with FlopCounterMode(display=False) as counter:
        update(run)
    assert counter.get_total_flops() == pytest.approx(step_flop(config), rel=0.05)


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
        "sndcgan32": (
            ["Flatten", "Linear", "Unflatten", *deconv * 3, "Conv2d", "Tanh"],
            ["Conv2d", "LeakyReLU 0.1", *[*conv, "LeakyReLU 0.1"] * 6, "Flatten", "Linear"],
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
        if row.side_in > 4:  # on fewer pixels the edge takes much away
            nearest[row.layer.name] = norm / sigma / row.bound
    assert min(nearest.values()) > 0.8
    assert bounds(name) == {row.layer.name: row.bound for row in architectures.discriminator(name, 1, 4)}


def test_a_3x3_convolution_of_stride_1_is_bounded_by_3_whatever_its_name() -> None:
    of_papers = {f"conv{i}": 3 if i % 2 else 2 for i in range(1, 8)}
    assert bounds("sndcgan32") == of_papers | {"dense": 1}
    assert bounds("dcgan28") == {"conv1": 2, "conv2": 2, "conv3": 1}


def test_operator_norms_of_the_papers_layers_are_those_of_dense_matrices() -> None:
    """The convolution of every unit image, as a matrix, and numpy's singular values."""
    for row in architectures.discriminator("sndcgan32", 3, 4)[:-1]:
        side = min(row.side_in, 8)
        layer = Discriminator(3, 4, "none", "sndcgan32").double().get_submodule(row.layer.name)
        units = torch.eye(row.channels_in * side**2, dtype=torch.float64).reshape(-1, row.channels_in, side, side)
        with torch.no_grad():
            matrix = (layer(units) - layer(torch.zeros_like(units[:1]))).flatten(1).numpy()
        exact = np.linalg.svd(matrix, compute_uv=False)[0]
        assert float(conv_sigma(layer, (side, side))) == pytest.approx(exact, rel=1e-5)
        assert exact <= row.bound * float(matrix_sigma(layer.weight)) * (1 + 1e-9)  # type: ignore[arg-type]


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


def test_the_architecture_follows_from_the_images_size_and_gives_widths() -> None:
    config = RunConfig()
    assert (config.architecture, config.g_width, config.d_width, config.z_dim) == ("dcgan28", 64, 16, 64)
    assert fitting(32) == "sndcgan32"
    config = RunConfig(dataset="cifar10")
    assert (config.architecture, config.g_width, config.d_width, config.z_dim) == ("sndcgan32", 64, 64, 128)
    with pytest.raises(InputError, match=r"architecture dcgan28 is for images of 28 pixels .* cifar10 has 32"):
        RunConfig(dataset="cifar10", architecture="dcgan28")
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
