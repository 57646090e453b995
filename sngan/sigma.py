"""The instruments: exact spectral norms. They share no state with spectral.py and move nothing they measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm as SpectralNormHook
from torch.nn.utils.weight_norm import WeightNorm as WeightNormHook

_ELEMENTWISE = (nn.LayerNorm, nn.RMSNorm)  # their weights are gains, no matrices
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@torch.no_grad()
def matrix_sigma(weight: Any, dim: int = 0) -> Tensor:
    """Largest singular value of `weight` as the matrix (shape[dim], rest): exact, a () float64 tensor.

    `weight` is a torch tensor, an array or nested lists, of any number of dimensions (a vector counts as one
    row); dim=1 gives the matrix of a transposed convolution. The value is the square root of the largest eigenvalue
    of the smaller Gram matrix of weight / max|weight|: squaring costs the largest singular value no accuracy, and
    the scaling keeps 1e-200 and 1e200 in range. Zero gives 0. A weight with a non-finite entry gives nan, so that
    a diverged run can still be recorded. Raises ValueError for an empty weight.
    """
    if not isinstance(weight, Tensor):  # a copy in native byte order and without negative strides
        weight = torch.from_numpy(np.array(weight, dtype=np.float64, order="C"))
    weight = weight.detach().double()
    if weight.numel() == 0:
        raise ValueError(f"matrix_sigma needs a non-empty weight, got shape {tuple(weight.shape)}")
    matrix = weight.movedim(dim, 0).flatten(1) if weight.ndim > 1 else weight.reshape(1, -1)
    scale = matrix.abs().max()
    if not scale.isfinite():
        return torch.full_like(scale, torch.nan)
    if not scale:
        return torch.zeros_like(scale)
    matrix = matrix / scale
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return scale * torch.linalg.eigvalsh(gram)[-1].clamp_min(0).sqrt()


@contextmanager
def standing_still(module: nn.Module) -> Iterator[None]:
    """Parametrizations in eval mode, so that reading a weight moves no vector; the modes are put back after."""
    parametrizations = [
        p
        for m in module.modules()
        if parametrize.is_parametrized(m)
        for chain in m.parametrizations.values()  # type: ignore[union-attr,operator]
        for p in chain.modules()  # type: ignore[union-attr]
    ]
    modes = [p.training for p in parametrizations]
    try:
        for p in parametrizations:
            p.training = False
        yield
    finally:
        for p, mode in zip(parametrizations, modes, strict=True):
            p.training = mode


def _weights(module: nn.Module) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """(name, owner, used weight) of every weight with at least two dimensions; `.weight` is left off the name."""
    for path, owner in module.named_modules():
        if isinstance(owner, parametrize.ParametrizationList) or path.split(".")[-1] == "parametrizations":
            continue
        if isinstance(owner, _ELEMENTWISE):
            continue
        hooked = _hooked(owner)
        parametrized = list(owner.parametrizations) if parametrize.is_parametrized(owner) else []  # type: ignore[arg-type]
        parameters = [_stem(name, hooked) for name in owner._parameters]
        for name in dict.fromkeys([*parameters, *parametrized]):
            tensor = hooked[name]() if name in hooked else getattr(owner, name)
            if "weight" in name and isinstance(tensor, Tensor) and tensor.ndim >= 2:
                yield (path if name == "weight" else f"{path}.{name}".lstrip(".")), owner, tensor


def _hooked(owner: nn.Module) -> dict[str, Callable[[], Tensor]]:
    """name -> the weight as torch's older hooks would compute it before the next forward pass in eval mode."""
    found: dict[str, Callable[[], Tensor]] = {}
    for hook in owner._forward_pre_hooks.values():
        if isinstance(hook, SpectralNormHook):
            found[hook.name] = partial(hook.compute_weight, owner, False)
        elif isinstance(hook, WeightNormHook):
            found[hook.name] = partial(hook.compute_weight, owner)
        elif isinstance(hook, BasePruningMethod):
            found[hook._tensor_name] = partial(hook.apply_mask, owner)
    return found


def _stem(parameter: str, hooked: dict[str, Callable[[], Tensor]]) -> str:
    """`weight` of `weight_orig`, `weight_g` and `weight_v`, where a hook makes one of them."""
    stem = parameter.rpartition("_")[0]
    return stem if stem in hooked else parameter


@torch.no_grad()
def log_sigmas(module: nn.Module) -> dict[str, float]:
    """Exact sigma of every weight (two dimensions or more) that the forward pass of any nn.Module uses.

    Keys are module paths in order of registration ("" for the module itself; other tensors than `weight` keep
    their name, as in "lstm.weight_ih_l0"); the gains of layer norms are no matrices and left out. With a
    parametrization, or torch's older hooks (spectral norm, weight norm, pruning), it is the sigma of the weight as
    eval mode uses it. An empty weight has sigma 0. Nothing is moved: no buffer, mode, gradient or random state.
    """
    with standing_still(module):
        return {
            name: matrix_sigma(tensor, 1 if isinstance(owner, _TRANSPOSED) else 0).item() if tensor.numel() else 0.0
            for name, owner, tensor in _weights(module)
        }
