"""The instruments: spectral norms of matrices and of convolutions. They share no state with spectral.py.

Nothing here moves what it measures: no buffer, mode, gradient or random state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from numbers import Real
from operator import index
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm as SpectralNormHook
from torch.nn.utils.weight_norm import WeightNorm as WeightNormHook

from sngan.values import numbers, submodules, whole

_ELEMENTWISE = (nn.LayerNorm, nn.RMSNorm)  # their weights are gains, no matrices
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_START_SEED = 0  # of the vector that conv_sigma starts from
_BASIS, BASIS_BYTES = 192, 2**28  # vectors that are in memory at once, and how large they may be together
_LOOK = 16  # steps between two looks at how far it is: each waits for the device
_EXHAUSTED = 1e-14  # of the largest singular value: what rounding leaves when there is no further direction


@torch.no_grad()
def matrix_sigma(weight: Any, dim: int = 0) -> Tensor:
    """Largest singular value of `weight` as the matrix (shape[dim], rest): exact, a () float64 tensor.

    `weight` is a torch tensor, an array or nested lists, of any number of dimensions (a vector counts as one
    row); dim=1 gives the matrix of a transposed convolution. The value is the square root of the largest eigenvalue
    of the smaller Gram matrix of weight / max|weight|: squaring costs the largest singular value no accuracy, and
    the scaling keeps 1e-200 and 1e200 in range. Zero gives 0. A weight with a non-finite entry gives nan, so that
    a diverged run can still be recorded. Complex weights have a real sigma like others. Raises ValueError for an empty
    weight, one that is no numbers, and a dim that it lacks.
    """
    scale, matrix = _scaled(_as_matrix(weight, dim))
    if not scale.isfinite():
        return torch.full_like(scale, torch.nan)
    if not scale:
        return torch.zeros_like(scale)
    gram = matrix @ matrix.mH if matrix.shape[0] <= matrix.shape[1] else matrix.mH @ matrix
    return scale * torch.linalg.eigvalsh(gram)[-1].clamp_min(0).sqrt()


def _as_matrix(weight: Any, dim: int) -> Tensor:
    """`weight` as the float64, or complex128, matrix (shape[dim], rest); a vector is one row."""
    weight = numbers(weight, "weight", complex_too=True)
    if weight.numel() == 0:
        raise ValueError(f"expected a non-empty weight, got shape {tuple(weight.shape)}")
    if weight.ndim < 2:
        return weight.reshape(1, -1)
    if whole(dim, "dim", -weight.ndim) >= weight.ndim:
        raise ValueError(f"dim must be one of the weight's {weight.ndim}, got {dim!r}")
    return weight.movedim(int(dim), 0).flatten(1)


def _scaled(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The largest absolute entry, of complex ones of their parts, () float64, and the matrix divided by it."""
    parts = torch.view_as_real(matrix) if matrix.is_complex() else matrix
    scale = parts.abs().max()
    return scale, torch.view_as_complex(parts / scale) if matrix.is_complex() else matrix / scale


class Spectrum(NamedTuple):
    """Shape of a matrix's singular values s_1 >= s_2 >= ..; none of it depends on the matrix's scale."""

    stable_rank: float  # |W|_F^2 / s_1^2
    effective_rank: float  # exp of the entropy of s_i^2 / sum s^2
    share: float  # of the s_i above s_1 / 2


@torch.no_grad()
def singular_values(weight: Any, dim: int = 0) -> Tensor:
    """All singular values of `weight` as the matrix (shape[dim], rest), largest first, float64; NaN if non-finite.

    Raises ValueError as `matrix_sigma` does.
    """
    scale, s = _scaled_singular_values(weight, dim)
    return scale * s


def _scaled_singular_values(weight: Any, dim: int) -> tuple[Tensor, Tensor]:
    """The largest absolute entry, and the singular values of the matrix divided by it: () and (rank,) float64."""
    scale, matrix = _scaled(_as_matrix(weight, dim))
    if not (scale.isfinite() and scale > 0):
        return scale, torch.ones(min(matrix.shape), dtype=torch.float64, device=matrix.device)
    return scale, torch.linalg.svdvals(matrix)


@torch.no_grad()
def spectrum(weight: Any, dim: int = 0) -> Spectrum:
    """Shape of the singular values of `weight` as the matrix (shape[dim], rest). NaN for a zero or non-finite one."""
    scale, s = _scaled_singular_values(weight, dim)
    if not (scale.isfinite() and scale > 0):
        return Spectrum(np.nan, np.nan, np.nan)
    energy = s.square() / s.square().sum()
    entropy = -torch.special.xlogy(energy, energy).sum()
    return Spectrum((1 / energy[0]).item(), entropy.exp().item(), (s > s[0] / 2).double().mean().item())


@torch.no_grad()
def batch_norm_gain(norm: nn.Module) -> Tensor:
    """gamma / sqrt(running variance + eps) of a batch norm in eval mode, (channels,) float64.

    Raises ValueError for what has no running variance.
    """
    if not isinstance(getattr(norm, "running_var", None), Tensor):
        raise ValueError(f"{type(norm).__name__} has no running variance, by which eval mode would divide")
    variance = norm.running_var.double()  # type: ignore[operator,union-attr]
    gamma = norm.weight.double() if norm.weight is not None else torch.ones_like(variance)  # type: ignore[operator,union-attr]
    return gamma / (variance + norm.eps).sqrt()  # type: ignore[operator]


class ConvSigma:
    """Operator norm of a convolution as the layer runs on inputs of one size; its vector is kept from call to call.

    Conv1d, Conv2d and ConvTranspose2d, with their stride, padding, dilation, groups and output padding; the bias is
    no part of it. `input_hw` is the input's (height, width), of a Conv1d its length. Each call runs at most
    `iterations` steps on the weight as eval mode uses it now, and fewer if |A'Ax - s^2 x| <= `tolerance` s^2 before,
    s = |A x|, |x| = 1. It returns s, a () float64 tensor: a lower bound, and, unless the steps ran out, within
    `tolerance` s of a singular value. A weight with a non-finite entry gives nan and leaves the vector as it was.

    Each call starts from the sum of the vector that the last one found and of a fixed one, drawn from `generator` (on
    the CPU), else from one of its own. From the vector alone it would stay with a former top singular vector after
    the next one has overtaken it. `vector` (C, H, W) may be stored and set. Raises ValueError for another layer, an
    input that is too small for it, or a vector of another shape, zero or not finite. Up to 192 vectors of the input's
    size are kept at a time, but no more than 16 where they exceed 256 MB.

    Source: power iteration on x -> A'Ax, with A' the adjoint (vector-Jacobian product) of the layer. Deviation: it
    takes the best vector of all that the power iteration spans (Golub & Kahan 1965), which costs the same two
    applications per step and needs tens of steps where the power iteration needs hundreds.
    """

    def __init__(
        self, module: nn.Module, input_hw: int | tuple[int, ...], generator: torch.Generator | None = None
    ) -> None:
        if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d):
            raise ValueError(f"expected a Conv1d, Conv2d or ConvTranspose2d, got {type(module).__name__}")
        try:
            size = tuple(map(index, input_hw if isinstance(input_hw, Iterable) else [input_hw]))
        except TypeError:  # no whole numbers
            size = ()
        if len(size) != len(module.kernel_size) or min(size) < 1:
            raise ValueError(f"input_hw of a {type(module).__name__}: expected {len(module.kernel_size)} positive "
                             f"sizes, got {input_hw!r}")  # fmt: skip
        self._module = module
        if not isinstance(generator, torch.Generator | None):
            raise ValueError(f"generator: expected a torch.Generator, got {generator!r}")
        generator = generator or torch.Generator().manual_seed(_START_SEED)
        try:
            start = torch.randn(module.in_channels, *size, generator=generator, dtype=torch.float64)
        except RuntimeError as error:
            raise ValueError(f"an input of size {size} is too large: {error}") from error
        self._vector = self._start = start / start.norm()
        try:
            shape = self.apply(self._start, torch.zeros_like(self._weight(), device="cpu")).shape
        except RuntimeError as error:
            raise ValueError(f"an input of size {size} is too small for {module}: {error}") from error
        if 0 in shape:
            raise ValueError(f"an input of size {size} is too small for {module}")

    @property
    def vector(self) -> Tensor:
        return self._vector

    @vector.setter
    def vector(self, vector: Tensor) -> None:
        vector = numbers(vector, "vector")
        if vector.shape != self._start.shape or not vector.isfinite().all() or not vector.any():
            raise ValueError(f"vector: expected finite numbers, not all zero, of shape {tuple(self._start.shape)}")
        if abs(vector.norm().item() - 1) > 1e-9:  # a unit vector stays as it is, bit for bit
            vector = vector / vector.abs().max()
            vector = vector / vector.norm()
        self._vector = vector

    def apply(self, x: Tensor, weight: Tensor) -> Tensor:
        """A x for one x (C, H, W)."""
        m = self._module
        if isinstance(m, nn.ConvTranspose2d):
            layout: Any = (m.stride, m.padding, m.output_padding, m.groups, m.dilation)
            return nn.functional.conv_transpose2d(x[None], weight, None, *layout)[0]
        return m._conv_forward(x[None], weight, None)[0]

    @torch.no_grad()
    def _weight(self) -> Tensor:
        """As eval mode uses it, in float64; nothing moves."""
        hooked = _hooked(self._module)
        with standing_still(self._module):
            return numbers(hooked["weight"]() if "weight" in hooked else self._module.weight, "weight")

    @torch.no_grad()
    def __call__(self, iterations: int = 200, tolerance: float = 1e-6) -> Tensor:
        whole(iterations, "iterations", 1)
        if not isinstance(tolerance, Real) or not tolerance >= 0:
            raise ValueError(f"tolerance: expected a number from 0 on, got {tolerance!r}")
        weight = self._weight()
        scale = weight.abs().max()
        if not scale.isfinite():
            return torch.full_like(scale, torch.nan)
        if not scale:
            return torch.zeros_like(scale)
        warm, fixed = self._vector.to(weight.device), self._start.to(weight.device)
        start = warm + torch.where((warm * fixed).sum() < 0, -fixed, fixed)  # which never cancel out
        self._vector, sigma = largest(partial(self.apply, weight=weight / scale), start, iterations, tolerance)
        return scale * sigma


def conv_sigma(module: nn.Module, input_hw: int | tuple[int, ...], iterations: int = 1000) -> Tensor:
    """Operator norm of a convolution as it runs on inputs of size `input_hw`, a () float64 tensor.

    Stateless: the same layer gives the same number. At most `iterations` steps; it ends when nothing is gained any
    more. See `ConvSigma` for what is supported, the errors, and the method.
    """
    return ConvSigma(module, input_hw)(iterations, tolerance=1e-13)


def largest(apply: Callable[[Tensor], Tensor], x: Tensor, iterations: int, tolerance: float) -> tuple[Tensor, Tensor]:
    """Unit x and s = |A x| after at most `iterations` steps towards the largest singular value of the linear map A.

    `apply` is A. It ends as soon as |A'Ax - s^2 x| <= `tolerance` s^2.
    """
    with torch.enable_grad():
        origin = torch.zeros_like(x, requires_grad=True)
        image = apply(origin)

    def adjoint(y: Tensor) -> Tensor:
        return torch.autograd.grad(image, origin, y, retain_graph=True)[0]

    size = min(_BASIS, max(_LOOK, BASIS_BYTES // (x.numel() * x.element_size())))
    for start in range(0, iterations, size):
        x, converged = _krylov(apply, adjoint, x, min(size, iterations - start), tolerance)
        if converged:
            break
    return x, apply(x).norm()


def _krylov(
    apply: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor], x: Tensor, steps: int, tolerance: float
) -> tuple[Tensor, bool]:
    """The best unit vector in the span of x, A'Ax, (A'A)^2 x, .. of at most `steps` dimensions, and whether it will do.

    Golub & Kahan's bidiagonalization: A V = U B with orthonormal V and upper bidiagonal B, whose largest singular value
    is that of A on the span.
    """
    v, beta = x / x.norm(), x.new_zeros(())
    u, tiny = torch.zeros_like(apply(v)), torch.finfo(x.dtype).tiny
    steps = min(steps, x.numel(), u.numel() + 1)
    V = x.new_zeros(steps, x.numel())
    diagonal, above = [], []  # of B; they stay on the device until they are looked at
    for k in range(steps):
        V[k] = v.flatten()
        u = apply(v) - beta * u
        alpha = u.norm()
        u = u / alpha.clamp_min(tiny)
        w = adjoint(u).flatten()
        for _ in range(2):  # once is not orthogonal enough; the first time takes alpha v away
            w = w - V[: k + 1].T @ (V[: k + 1] @ w)
        beta = w.norm()
        v = (w / beta.clamp_min(tiny)).view_as(x)
        diagonal.append(alpha)
        above.append(beta)
        if k == steps - 1 or k % _LOOK == _LOOK - 1:
            alphas, betas = torch.stack([torch.stack(diagonal), torch.stack(above)]).cpu().numpy()
            exhausted = np.flatnonzero(betas <= _EXHAUSTED * alphas.max())  # what comes after it, is rounding
            n = exhausted[0] + 1 if len(exhausted) else k + 1
            left, sigmas, right = np.linalg.svd(np.diag(alphas[:n]) + np.diag(betas[: n - 1], 1))
            residual = betas[n - 1] * abs(left[-1, 0])
            if residual <= tolerance * sigmas[0]:
                break
    best = torch.from_numpy(right[0]).to(V) @ V[:n]
    return (best / best.norm()).view_as(x), bool(residual <= tolerance * sigmas[0])


@contextmanager
def standing_still(module: nn.Module) -> Iterator[None]:
    """Parametrizations in eval mode, so that reading a weight moves no vector; the modes are put back after."""
    parametrizations = [
        p
        for _, m in submodules(module)
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


def weights(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """(name, owner, the owner's name of it, used weight) of every weight with at least two dimensions.

    `.weight` is left off the name. To be read within `standing_still`. Raises ValueError as `log_sigmas` does.
    """
    for path, owner in submodules(module):
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
                yield (path if name == "weight" else f"{path}.{name}".lstrip(".")), owner, name, tensor


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
    """`weight` of `weight_orig`, `weight_g` and `weight_v`, if a hook makes one of them."""
    stem = parameter.rpartition("_")[0]
    return stem if stem in hooked else parameter


@torch.no_grad()
def log_sigmas(module: nn.Module) -> dict[str, float]:
    """Exact sigma of every weight (two dimensions or more) that the forward pass of any nn.Module uses.

    Keys are module paths in order of registration ("" for the module itself; other tensors than `weight` keep
    their name, as in "lstm.weight_ih_l0"); the gains of layer norms are no matrices and left out. With a
    parametrization, or torch's older hooks (spectral norm, weight norm, pruning), it is the sigma of the weight as
    eval mode uses it. An empty weight has sigma 0. Nothing is moved: no buffer, mode, gradient or random state.
    A weight is a parameter with "weight" in its name. Raises ValueError for what is no network, or has parts that are
    compiled to TorchScript or not yet initialized.
    """
    with standing_still(module):
        return {
            name: matrix_sigma(tensor, 1 if isinstance(owner, _TRANSPOSED) else 0).item() if tensor.numel() else 0.0
            for name, owner, _, tensor in weights(module)
        }
