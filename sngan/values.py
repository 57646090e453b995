"""What callers pass as numbers, checked: what is no number, or has no value, raises ValueError and is never guessed."""

from __future__ import annotations

from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor


def whole(value: Any, name: str, least: int) -> int:
    """An int of at least `least`; floats are none, not even 3.0. Raises ValueError."""
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    number = index(value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def numbers(values: Any, name: str, complex_too: bool = False) -> Tensor:
    """`values`, a tensor or anything that NumPy makes an array of, as a float64 tensor, on its device if that is CUDA.

    It shares memory with the caller's where that is float64 already. Raises ValueError for text and other objects,
    lists of unequal lengths, masked entries, tensors without values (device meta) or of rows of unequal lengths
    (nested), and for complex numbers, which become complex128 with `complex_too`.
    """
    if isinstance(values, Tensor):
        tensor = _plain(values.detach(), name)
        if tensor.device.type not in ("cpu", "cuda"):  # others have no float64, as a rule
            tensor = tensor.cpu()
    else:
        tensor = torch.from_numpy(_array(values, name))
    if tensor.is_complex():
        if not complex_too:
            raise ValueError(f"{name} must be real numbers, got complex ones")
        return tensor.to(torch.complex128)
    return tensor.double()


def _plain(tensor: Tensor, name: str) -> Tensor:
    """Dense, with values."""
    if tensor.is_meta or tensor.is_nested:
        kind = "without values (device meta)" if tensor.is_meta else "of rows of unequal lengths (nested)"
        raise ValueError(f"{name} is a tensor {kind}")
    if tensor.is_quantized:
        return tensor.dequantize()
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def _array(values: Any, name: str) -> np.ndarray:
    """A copy in native byte order and without negative strides, float64 or complex128."""
    if np.ma.is_masked(values):
        raise ValueError(f"{name} has {np.ma.count_masked(values)} masked entries; leave them out")
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biufcO":  # text would be read as numbers
            raise TypeError(f"they are of type {array.dtype}")
        if array.dtype.kind == "O" and any(value is None for value in array.flat):
            raise TypeError("there is None among them")
        kind = np.complex128 if array.dtype.kind == "c" else np.float64
        return np.array(array, dtype=kind, order="C")
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # objects, unequal lengths, GPU tensors
        raise ValueError(f"{name} must be numbers: {error}") from None
