"""The instruments: exact spectral norms. They share no state with spectral.py and move nothing they measure."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm as SpectralNormHook

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@torch.no_grad()
def matrix_sigma(weight: Any, dim: int = 0) -> Tensor:
    """Largest singular value of `weight` as the matrix (shape[dim], rest): exact, a () float64 tensor.

    `weight` is a torch tensor or array of any number of dimensions (a vector counts as one row); dim=1 gives
    the matrix of a transposed convolution. The value is the square root of the largest eigenvalue of the
    smaller Gram matrix of weight / max|weight|: squaring costs the largest singular value no accuracy, and the
    scaling keeps 1e-200 and 1e200 in range. Zero gives 0. A weight with a non-finite entry gives nan, so that
    a diverged run can still be recorded. Raises ValueError for an empty weight.
    """
    weight = torch.as_tensor(weight).detach().double()
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
        hooks = {h.name: h for h in owner._forward_pre_hooks.values() if isinstance(h, SpectralNormHook)}
        parametrized = list(owner.parametrizations) if parametrize.is_parametrized(owner) else []  # type: ignore[arg-type]
        names = [
            *(name.removesuffix("_orig") if name[:-5] in hooks else name for name in owner._parameters),
            *parametrized,
        ]
        for name in names:
            tensor = hooks[name].compute_weight(owner, False) if name in hooks else getattr(owner, name)
            if "weight" in name and isinstance(tensor, Tensor) and tensor.ndim >= 2:
                yield (path if name == "weight" else f"{path}.{name}".lstrip(".")), owner, tensor


@torch.no_grad()
def log_sigmas(module: nn.Module) -> dict[str, float]:
    """Exact sigma of every weight (two dimensions or more) that the forward pass of any nn.Module uses.

    Keys are module paths in order of registration ("" for the module itself; other tensors than `weight` keep
    their name, as in "lstm.weight_ih_l0"). With a parametrization, or torch's older spectral norm hook, it is
    the sigma of the weight as eval mode uses it. Nothing is moved: no buffer, mode, gradient or random state.
    """
    with standing_still(module):
        return {
            name: matrix_sigma(tensor, 1 if isinstance(owner, _TRANSPOSED) else 0).item()
            for name, owner, tensor in _weights(module)
        }
