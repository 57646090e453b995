"""How CUDA multiplies float32 numbers: as they are, but in the training steps of a run of `precision: tf32`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from sngan.config import InputError

Products = Literal["ieee", "tf32"]


def set_products(products: Products) -> None:
    """From here on: `ieee` float32 products of this process are float32 on CUDA too, where cuDNN's default is TF32."""
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = products  # type: ignore[attr-defined]


@contextmanager
def products(kind: Products) -> Iterator[None]:
    """float32 products of this process inside; afterwards what they were before."""
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = matmul.fp32_precision, conv.fp32_precision
    set_products(kind)
    try:
        yield
    finally:
        matmul.fp32_precision, conv.fp32_precision = before


def check_precision(precision: str, device: torch.device | str) -> None:
    """Raises InputError for `tf32` on a device that has no such products: a run is never another than it says."""
    if precision == "tf32" and torch.device(device).type != "cuda":
        raise InputError(
            f"precision tf32 needs a CUDA device, and the device is {device}: use precision float32 there, "
            "which is another run, or --device cuda"
        )
