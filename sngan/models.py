"""The notebook's networks for 28x28 images, and their initialization from named streams."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from sngan.convolutions import Conv2d, ConvTranspose2d
from sngan.streams import torch_generator


class Generator(nn.Sequential):
    """z (N, z_dim) -> images (N, channels, 28, 28) in [-1, 1]: 1, 3, 6, 13, 28 pixels a side.

    Batch norm and ReLU between the transposed convolutions, tanh at the end.
    """

    def __init__(self, z_dim: int = 64, channels: int = 1, width: int = 64) -> None:
        sizes = [z_dim, 4 * width, 2 * width, width, channels]
        kernels = [(3, 2), (4, 1), (3, 2), (4, 2)]  # kernel, stride; no padding
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (kernel, stride) in enumerate(kernels, start=1):
            layers[f"deconv{i}"] = ConvTranspose2d(sizes[i - 1], sizes[i], kernel, stride)
            if i < len(kernels):
                layers[f"bn{i}"] = nn.BatchNorm2d(sizes[i])
                layers[f"act{i}"] = nn.ReLU(inplace=True)
        layers["tanh"] = nn.Tanh()
        super().__init__(layers)

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z[:, :, None, None])


class Discriminator(nn.Sequential):
    """Images (N, channels, 28, 28) -> logits (N,): 28, 13, 5, 1 pixels a side.

    No padding: the last row and column of the 13x13 and 5x5 inputs are never seen. `norm` is the layer between
    the convolutions: "batch" or "none". LeakyReLU slope 0.2.
    """

    def __init__(self, channels: int = 1, width: int = 16, norm: Literal["batch", "none"] = "batch") -> None:
        sizes = [channels, width, 2 * width, 1]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i in (1, 2, 3):
            layers[f"conv{i}"] = Conv2d(sizes[i - 1], sizes[i], kernel_size=4, stride=2)
            if i < 3:
                if norm == "batch":
                    layers[f"bn{i}"] = nn.BatchNorm2d(sizes[i])
                layers[f"act{i}"] = nn.LeakyReLU(0.2, inplace=True)
        super().__init__(layers)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flatten()


@torch.no_grad()
def initialize(network: nn.Module, seed: int, name: Literal["G", "D"], scheme: Literal["notebook", "dcgan"]) -> None:
    """Draw every parameter from the stream `init/<name>/<layer>`; networks of a seed share equal layers.

    Convolution weights N(0, 0.02); batch-norm scales N(0, 0.02) (`notebook`) or N(1, 0.02) (`dcgan`), shifts 0;
    convolution biases U(-1/sqrt(fan_in), 1/sqrt(fan_in)), which is torch's default, kept by the notebook.
    Source: Radford et al. 2016. Deviation: the notebook's batch-norm scale, confessed above.
    """
    for path, layer in network.named_modules():
        if not list(layer.parameters(recurse=False)):
            continue
        generator = torch_generator(seed, f"init/{name}/{path}")

        def normal(parameter: Tensor, mean: float = 0.0, generator: torch.Generator = generator) -> None:
            draws = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(mean + 0.02 * draws)

        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            normal(layer.weight)
            fan_in = layer.weight[0].numel()  # torch counts dim 1 also in transposed convolutions
            assert layer.bias is not None
            draws = torch.rand(layer.bias.shape, generator=generator, dtype=torch.float64)
            layer.bias.copy_((2 * draws - 1) / math.sqrt(fan_in))
        elif isinstance(layer, nn.BatchNorm2d):
            normal(layer.weight, mean=0.0 if scheme == "notebook" else 1.0)
            layer.bias.zero_()
            layer.reset_running_stats()
        else:
            raise TypeError(f"no initialization for {type(layer).__name__} at {path!r}")
