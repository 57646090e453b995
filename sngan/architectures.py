"""The networks as rows of layers, and what follows from the rows: sizes, multiplications, bounds. No torch."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

_TAKEN = r"(bn|ln|act|flatten|unflatten)\d+"  # names of what stands between the layers


class Layer(NamedTuple):
    """A layer with weights, and what comes after it.

    `kind`: conv, deconv (a transposed convolution), or dense, which sees all pixels and gives an image of `kernel`
    pixels a side. `channels` that come out: a multiple of the network's width, or those of an `image` or a `logit`.
    `norm`: whether the network's norm layer follows; then comes the activation, if there is one.
    """

    name: str
    kind: Literal["conv", "deconv", "dense"]
    channels: int | Literal["image", "logit"]
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    norm: bool = False
    activation: Literal["relu", "leaky_relu", "tanh", ""] = ""


class Sized(NamedTuple):
    """A layer in a network of known sizes: channels and pixels a side of what goes in and comes out."""

    layer: Layer
    channels_in: int
    side_in: int
    channels_out: int
    side_out: int

    @property
    def multiplications(self) -> int:
        """For one image, as the layer is defined: windows that hang over the edge count in full."""
        layer = self.layer
        places = {"conv": self.side_out, "deconv": self.side_in, "dense": self.side_in}[layer.kind]
        return layer.kernel**2 * places**2 * self.channels_in * self.channels_out

    @property
    def bound(self) -> float:
        """Of a convolution or a dense layer the operator norm over the matrix's sigma, at most.

        The root of how many windows overlap at a pixel: ceil(kernel / stride) a side, or fewer if there are fewer
        windows; 1 if there is one.
        """
        if self.layer.kind == "dense":
            return 1.0
        return float(min(math.ceil(self.layer.kernel / self.layer.stride), self.side_out))


def sized(
    layers: Sequence[Layer], channels: int, side: int, width: int, image_channels: int = 1, logits: int = 1
) -> list[Sized]:
    """The layers of a network that sees `channels` x `side` x `side`, in forward order.

    Raises ValueError if a layer's kernel is larger than what it sees.
    """
    found, named = [], {"image": image_channels, "logit": logits}
    for layer in layers:
        out = named[layer.channels] if isinstance(layer.channels, str) else layer.channels * width
        if layer.kind == "deconv":
            side_out = (side - 1) * layer.stride + layer.kernel - 2 * layer.padding
        elif layer.kind == "conv":
            side_out = (side + 2 * layer.padding - layer.kernel) // layer.stride + 1
        else:
            side_out = layer.kernel
        if side_out < 1:
            raise ValueError(f"{layer.name} has a kernel of {layer.kernel}, and sees {side} pixels a side")
        found.append(Sized(layer, channels, side, out, side_out))
        channels, side = out, side_out
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A generator and a discriminator for images of `side` pixels a side.

    G has batch norm if its rows have a norm; there D has what its arm says. `z_dim`, `g_width` and `d_width` are
    those of a run that names no others. `slope` is that of the leaky ReLU.
    """

    label: str
    source: str
    side: int
    z_dim: int
    g_width: int
    d_width: int
    slope: float
    generator: tuple[Layer, ...]
    discriminator: tuple[Layer, ...]

    def __post_init__(self) -> None:
        """Raises ValueError for rows that make no such networks, or none that the instruments know."""
        of_g, of_d = sized(self.generator, 1, 1, 1, image_channels=1), sized(self.discriminator, 1, self.side, 1)
        if of_g[-1].layer.channels != "image" or of_g[-1].side_out != self.side:
            raise ValueError(
                f"the generator must end in an image of {self.side} pixels a side, not {of_g[-1].side_out}"
            )
        if of_d[-1].layer.channels != "logit" or of_d[-1].side_out != 1:
            raise ValueError(f"the discriminator must end in one logit, not in {of_d[-1].side_out} pixels a side")
        for of in of_d:
            if of.layer.kind == "deconv" or (of.layer.kind == "dense" and of.layer.kernel > 1):
                raise ValueError(f"the discriminator's {of.layer.name} must be a conv, or a dense layer of kernel 1")
        for rows in (of_g, of_d):
            names = [of.layer.name for of in rows]
            if len(set(names)) < len(names) or any(re.fullmatch(_TAKEN, name) for name in names):
                raise ValueError(f"layers need names of their own, which are not {_TAKEN}: {', '.join(names)}")
            for of, after in itertools.pairwise(rows):
                if of.layer.kind == "dense" and of.side_out == 1 and (of.layer.norm or after.layer.kind == "conv"):
                    raise ValueError(f"after the vector of {of.layer.name} there can be no norm and no convolution")


ARCHITECTURES: dict[str, Architecture] = {
    "dcgan28": Architecture(
        label="the notebook's networks for 28x28 images",
        source="DCGAN as many courses teach it; Radford et al. 2016, arXiv 1511.06434",
        side=28,
        z_dim=64,
        g_width=64,
        d_width=16,
        slope=0.2,
        generator=(  # 1, 3, 6, 13, 28 pixels a side
            Layer("deconv1", "deconv", 4, kernel=3, stride=2, norm=True, activation="relu"),
            Layer("deconv2", "deconv", 2, kernel=4, stride=1, norm=True, activation="relu"),
            Layer("deconv3", "deconv", 1, kernel=3, stride=2, norm=True, activation="relu"),
            Layer("deconv4", "deconv", "image", kernel=4, stride=2, activation="tanh"),
        ),
        discriminator=(  # 28, 13, 5, 1: the last row and column of the 13x13 and 5x5 inputs are never seen
            Layer("conv1", "conv", 1, kernel=4, stride=2, norm=True, activation="leaky_relu"),
            Layer("conv2", "conv", 2, kernel=4, stride=2, norm=True, activation="leaky_relu"),
            Layer("conv3", "conv", "logit", kernel=4, stride=2),
        ),
    ),
    "sndcgan32": Architecture(
        label="the SN-GAN paper's CNN for 32x32 images",
        source="Miyato et al. 2018, arXiv 1802.05957, Table 3; D's norms, if it has some, after all but the first "
        "convolution, as in its authors' code and in Radford et al. 2016",
        side=32,
        z_dim=128,
        g_width=64,
        d_width=64,
        slope=0.1,
        generator=(  # 4, 8, 16, 32, 32 pixels a side
            Layer("dense", "dense", 8, kernel=4),
            Layer("deconv1", "deconv", 4, kernel=4, stride=2, padding=1, norm=True, activation="relu"),
            Layer("deconv2", "deconv", 2, kernel=4, stride=2, padding=1, norm=True, activation="relu"),
            Layer("deconv3", "deconv", 1, kernel=4, stride=2, padding=1, norm=True, activation="relu"),
            Layer("conv", "conv", "image", kernel=3, padding=1, activation="tanh"),
        ),
        discriminator=(  # 32, 16, 16, 8, 8, 4, 4 pixels a side
            Layer("conv1", "conv", 1, kernel=3, padding=1, activation="leaky_relu"),
            Layer("conv2", "conv", 1, kernel=4, stride=2, padding=1, norm=True, activation="leaky_relu"),
            Layer("conv3", "conv", 2, kernel=3, padding=1, norm=True, activation="leaky_relu"),
            Layer("conv4", "conv", 2, kernel=4, stride=2, padding=1, norm=True, activation="leaky_relu"),
            Layer("conv5", "conv", 4, kernel=3, padding=1, norm=True, activation="leaky_relu"),
            Layer("conv6", "conv", 4, kernel=4, stride=2, padding=1, norm=True, activation="leaky_relu"),
            Layer("conv7", "conv", 8, kernel=3, padding=1, norm=True, activation="leaky_relu"),
            Layer("dense", "dense", "logit"),
        ),
    ),
}

YARDSTICK = (  # of 28 pixels a side 28, 14, 14, 7, 4; then features, and a logit for each class
    Layer("conv1", "conv", 24, kernel=4, stride=2, padding=1, norm=True, activation="relu"),
    Layer("conv2", "conv", 32, kernel=3, stride=1, padding=1, norm=True, activation="relu"),
    Layer("conv3", "conv", 64, kernel=4, stride=2, padding=1, norm=True, activation="relu"),
    Layer("conv4", "conv", 64, kernel=3, stride=2, padding=1, norm=True, activation="relu"),
    Layer("dense", "dense", 64, activation="relu"),
    Layer("logits", "dense", "logit"),
)
"""The classifier whose features judge samples, in a width of 1"""


def generator(name: str, z_dim: int, channels: int, width: int) -> list[Sized]:
    """The generator's layers for images of so many channels. `name` is a key of ARCHITECTURES."""
    return sized(ARCHITECTURES[name].generator, z_dim, 1, width, channels)


def discriminator(name: str, channels: int, width: int) -> list[Sized]:
    """The discriminator's layers for images of so many channels. `name` is a key of ARCHITECTURES."""
    return sized(ARCHITECTURES[name].discriminator, channels, ARCHITECTURES[name].side, width)


def layer_names(name: str) -> tuple[str, ...]:
    """Of the discriminator's layers with weights, in forward order."""
    return tuple(layer.name for layer in ARCHITECTURES[name].discriminator)


def bounds(name: str) -> dict[str, float]:
    """Layer of the discriminator -> its operator norm over its matrix's sigma, at most."""
    return {of.layer.name: of.bound for of in discriminator(name, 1, 1)}


def fitting(side: int) -> str:
    """The first architecture for images of so many pixels a side. Raises ValueError if there is none."""
    for name, architecture in ARCHITECTURES.items():
        if architecture.side == side:
            return name
    sides = ", ".join(f"{name} has {of.side}" for name, of in ARCHITECTURES.items())
    raise ValueError(f"no architecture has {side} pixels a side ({sides})")
