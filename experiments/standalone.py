"""Load networks that `sngan export` wrote. This file lies beside them and needs nothing but torch and safetensors.

from load import load
generator, discriminator = load("models/mnist-sn-C-s00-0123abcd")    # a folder with export.json
images = generator(torch.randn(16, 64))                              # 64: "input" in export.json; in [-1, 1]
logits = discriminator(images)                                       # (16,)

`python load.py FOLDER ..` checks that the networks give the numbers that they gave when they were exported.
"""

from __future__ import annotations

import json
import math
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

KINDS = (
    "Conv2d",
    "ConvTranspose2d",
    "Linear",
    "BatchNorm2d",
    "GroupNorm",
    "ReLU",
    "LeakyReLU",
    "Tanh",
    "Flatten",
    "Unflatten",
)


class Generator(nn.Sequential):
    """z (N, z_dim) -> images (N, channels, side, side) in [-1, 1]."""

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z[:, :, None, None])


class Discriminator(nn.Sequential):
    """Images (N, channels, side, side) -> logits (N,)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flatten()


def load(folder: str | Path) -> tuple[Generator, Discriminator]:
    """Generator and discriminator of a folder, on the CPU, in eval mode. Raises ValueError for an unknown layer."""
    folder = Path(folder)
    layers = json.loads((folder / "export.json").read_text(encoding="utf-8"))["layers"]
    networks = []
    for kind, name in ((Generator, "generator"), (Discriminator, "discriminator")):
        network = kind(OrderedDict((layer["name"], _made(layer)) for layer in layers[name]))
        network.load_state_dict(load_file(folder / f"{name}.safetensors"), assign=True)
        networks.append(network.eval().requires_grad_(False))
    return networks[0], networks[1]


def _made(layer: dict[str, Any]) -> nn.Module:
    if layer["kind"] not in KINDS:
        raise ValueError(f"{layer['name']}: unknown kind of layer {layer['kind']!r}")
    return getattr(nn, layer["kind"])(**layer["arguments"])


@torch.no_grad()
def probe(generator: nn.Module, discriminator: nn.Module, z_dim: int, dtype: torch.dtype) -> dict[str, Any]:
    """Numbers that tell whether networks are the same: of two fixed latents the images' norms, and their logits."""
    z = torch.stack([torch.linspace(-1, 1, z_dim), torch.linspace(2, -1, z_dim)]).to(dtype)
    images = generator(z)
    return {"image_norms": images.flatten(1).norm(dim=1).tolist(), "logits": discriminator(images).tolist()}


def check(folder: str | Path) -> float:
    """Largest relative difference between what the networks give here and gave when they were exported.

    Infinite if a number is finite on one side alone; of a run that diverged they are not, here and there.
    """
    description = json.loads((Path(folder) / "export.json").read_text(encoding="utf-8"))
    generator, discriminator = load(folder)
    dtype = next(generator.parameters()).dtype
    found = probe(generator, discriminator, description["input"]["generator"][1], dtype)
    pairs = [pair for name in found for pair in zip(found[name], description["probe"][name], strict=True)]
    return max(_difference(one, other) for one, other in pairs)


def _difference(one: float, other: float | None) -> float:
    if other is None or not math.isfinite(other):  # JSON has no NaN
        return math.inf if math.isfinite(one) else 0.0
    return abs(one - other) / (abs(other) + 0.01) if math.isfinite(one) else math.inf


def _main(folders: list[str]) -> None:
    if missing := [name for name in folders if not (Path(name) / "export.json").is_file()] or not folders:
        sys.exit(f"give folders that hold export.json{f', not {missing[0]}' if folders else ''}: load.py FOLDER ..")  # type: ignore[index]
    wrong = []
    for name in folders:
        try:
            wrong += [] if check(name) < 1e-3 else [name]
        except (ValueError, KeyError, TypeError, RuntimeError, OSError, SafetensorError) as error:
            wrong.append(f"{name} ({type(error).__name__}: {error})")
    print(f"{len(folders) - len(wrong)} of {len(folders)} give the numbers that they gave when exported")
    sys.exit(f"different: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    _main(sys.argv[1:])
