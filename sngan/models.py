"""Networks built from an architecture's rows, and their initialization from named streams."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sngan import architectures
from sngan.architectures import ARCHITECTURES, Sized
from sngan.arms import Norm
from sngan.convolutions import Conv2d, ConvTranspose2d
from sngan.streams import torch_generator


class Generator(nn.Sequential):
    """z (N, z_dim) -> images (N, channels, side, side) in [-1, 1], with batch norm between its layers.

    The notebook's has 1, 3, 6, 13, 28 pixels a side.
    """

    def __init__(self, z_dim: int = 64, channels: int = 1, width: int = 64, architecture: str = "dcgan28") -> None:
        rows = architectures.generator(architecture, z_dim, channels, width)
        super().__init__(_modules(rows, "batch", ARCHITECTURES[architecture].slope))

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z[:, :, None, None])


class LayerNorm(nn.GroupNorm):
    """(x - mean) / sd over an image's channels and pixels, times gamma and plus beta, both by channel.

    `learned`: whether gamma is a parameter; else it is 1, and a buffer, so that a state fits in either kind.
    Source: Ba et al. 2016; without gamma in Miyato et al. 2018. Deviation: beta is one number a channel, as in a batch
    norm, and not one a pixel.
    """

    def __init__(self, channels: int, learned: bool) -> None:
        super().__init__(1, channels)
        if not learned:
            del self.weight
            self.register_buffer("weight", torch.ones(channels))


class Discriminator(nn.Sequential):
    """Images (N, channels, side, side) -> logits (N,); the notebook's has 28, 13, 5, 1 pixels a side.

    The notebook's has no padding: the last row and column of its 13x13 and 5x5 inputs are never seen. `norm` is the
    layer between the layers with weights: "batch", "layer" (its gamma "fixed" at 1 or "learned") or "none". Raises
    ValueError for another one.
    """

    def __init__(
        self, channels: int = 1, width: int = 16, norm: Norm = "batch", architecture: str = "dcgan28",
        norm_scale: str = "fixed",
    ) -> None:  # fmt: skip
        rows = architectures.discriminator(architecture, channels, width)
        super().__init__(_modules(rows, norm, ARCHITECTURES[architecture].slope, norm_scale == "learned"))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flatten()


def _modules(rows: list[Sized], norm: str, slope: float, learned: bool = True) -> OrderedDict[str, nn.Module]:
    """The layers by their names; of the i-th the norm is `bn<i>` or `ln<i>`, and the activation `act<i>`."""
    if norm not in get_args(Norm):
        raise ValueError(f"unknown norm {norm!r}; known: {', '.join(get_args(Norm))}")
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for i, row in enumerate(rows, start=1):
        layer = row.layer
        if layer.kind == "dense":
            modules[f"flatten{i}"] = nn.Flatten()
        modules[layer.name] = _weighted(row)
        if layer.kind == "dense" and layer.kernel > 1:
            modules[f"unflatten{i}"] = nn.Unflatten(1, (row.channels_out, row.side_out, row.side_out))
        if layer.norm and norm == "batch":
            modules[f"bn{i}"] = nn.BatchNorm2d(row.channels_out)
        elif layer.norm and norm == "layer":
            modules[f"ln{i}"] = LayerNorm(row.channels_out, learned)
        if layer.activation == "tanh":
            modules[f"act{i}"] = nn.Tanh()
        elif layer.activation == "relu":
            modules[f"act{i}"] = nn.ReLU(inplace=True)
        elif layer.activation == "leaky_relu":
            modules[f"act{i}"] = nn.LeakyReLU(slope, inplace=True)
    return modules


def _weighted(row: Sized) -> nn.Module:
    layer = row.layer
    if layer.kind == "dense":
        return nn.Linear(row.channels_in * row.side_in**2, row.channels_out * row.side_out**2)
    convolution = Conv2d if layer.kind == "conv" else ConvTranspose2d
    return convolution(row.channels_in, row.channels_out, layer.kernel, layer.stride, layer.padding)


@torch.no_grad()
def initialize(network: nn.Module, seed: int, name: Literal["G", "D"], scheme: Literal["notebook", "dcgan"]) -> None:
    """Draw every parameter from the stream `init/<name>/<layer>`; networks of a seed share equal layers.

    Weights of convolutions and dense layers N(0, 0.02); batch-norm scales N(0, 0.02) (`notebook`) or N(1, 0.02)
    (`dcgan`), a layer norm's 1, shifts 0; biases U(-1/sqrt(fan_in), 1/sqrt(fan_in)), which is torch's default, kept by
    the notebook.
    Source: Radford et al. 2016. Deviation: the notebook's batch-norm scale, confessed above.
    """
    for path, layer in network.named_modules():
        if not list(layer.parameters(recurse=False)):
            continue
        generator = torch_generator(seed, f"init/{name}/{path}")

        def normal(parameter: Tensor, mean: float = 0.0, generator: torch.Generator = generator) -> None:
            draws = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(mean + 0.02 * draws)

        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            normal(layer.weight)
            fan_in = layer.weight[0].numel()  # torch counts dim 1 also in transposed convolutions
            assert layer.bias is not None
            draws = torch.rand(layer.bias.shape, generator=generator, dtype=torch.float64)
            layer.bias.copy_((2 * draws - 1) / math.sqrt(fan_in))
        elif isinstance(layer, nn.BatchNorm2d):
            normal(layer.weight, mean=0.0 if scheme == "notebook" else 1.0)
            layer.bias.zero_()
            layer.reset_running_stats()
        elif isinstance(layer, LayerNorm):
            layer.reset_parameters()
        else:
            raise TypeError(f"no initialization for {type(layer).__name__} at {path!r}")
