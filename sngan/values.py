"""What callers pass as numbers or as a network, checked: what is none, or has no value, raises ValueError."""

from __future__ import annotations

from numbers import Number
from operator import index
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.masked import MaskedTensor


def whole(value: Any, name: str, least: int) -> int:
    """An int of at least `least`; floats are none, not even 3.0. Raises ValueError."""
    try:
        if isinstance(value, bool | np.bool_) or (isinstance(value, Tensor) and value.dtype == torch.bool):
            raise TypeError("true and false are no numbers")
        number = index(value)
    except (TypeError, ValueError, RuntimeError):  # arrays and tensors have the method, whatever they hold
        raise ValueError(f"{name} must be a whole number, got {value!r}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def submodules(module: Any) -> list[tuple[str, nn.Module]]:
    """(path, module) of every module in a network, itself included, in order of registration.

    Raises ValueError for what is no network, or has parts that are compiled to TorchScript or not yet initialized.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"expected a network (torch.nn.Module), got {type(module).__name__}")
    found = list(module.named_modules())
    for path, part in found:
        where = f"layer {path!r}" if path else "the network"
        if isinstance(part, torch.jit.ScriptModule):
            raise ValueError(f"{where} is compiled to TorchScript, and is what it is; take the module it was made from")
        if any(isinstance(p, nn.UninitializedParameter) for p in part._parameters.values()):
            raise ValueError(f"{where} ({type(part).__name__}) has no weights yet; run the network once")
    return found


def numbers(values: Any, name: str, complex_too: bool = False) -> Tensor:
    """`values`, a tensor or anything that NumPy makes an array of, as a float64 tensor, on its device if that is CUDA.

    It shares memory with the caller's where that is float64 already. Raises ValueError for text and other objects,
    lists of unequal lengths, masked entries, tensors without values (device meta) or of rows of unequal lengths
    (nested), and for complex numbers, which become complex128 with `complex_too`.
    """
    if isinstance(values, MaskedTensor):
        raise ValueError(f"{name} is a masked tensor; give the entries that count as a plain one")
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
    if _is_masked(values):
        raise ValueError(f"{name} has masked entries; leave them out")
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biufcO":  # text would be read as numbers
            raise TypeError(f"they are of type {array.dtype}")
        if array.dtype.kind == "O":
            for value in array.flat:
                if not isinstance(value, Number | np.number | np.bool_):
                    raise TypeError(f"there is {value!r:.100} among them")
        kind = np.complex128 if array.dtype.kind == "c" else np.float64
        return np.array(array, dtype=kind, order="C")
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # objects, unequal lengths, GPU tensors
        raise ValueError(f"{name} must be numbers: {error}") from None


def _is_masked(values: Any) -> bool:
    """Whether an entry is masked, also of an array in a list, where NumPy would forget it."""
    if isinstance(values, list | tuple):
        return any(_is_masked(value) for value in values if not isinstance(value, float | int))
    return bool(np.ma.is_masked(values))
