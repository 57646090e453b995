"""What a layer's weight may be divided by in every forward pass: row norms, exact sigma, and estimated operator norms.

torch's spectral normalization, which divides by the power iteration's sigma, is in spectral.py.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, normalize
from torch.nn.grad import conv2d_input

from sngan.spectral import as_matrix


class LinearMap(NamedTuple):
    """A weight as a linear map A of x: A x and A'y for (weight, x) and (weight, y), of inputs of the shape `size`."""

    apply: Callable[[Tensor, Tensor], Tensor]
    adjoint: Callable[[Tensor, Tensor], Tensor]
    size: tuple[int, ...]


def matrix_map(weight: Tensor, dim: int = 0) -> LinearMap:
    """The matrix (shape[dim], rest)."""
    return LinearMap(
        lambda w, x: torch.mv(as_matrix(w, dim), x),
        lambda w, y: torch.mv(as_matrix(w, dim).T, y),
        (as_matrix(weight, dim).shape[1],),
    )


def convolution_map(layer: nn.Conv2d, side: int) -> LinearMap:
    """The convolution as it runs on images of `side` x `side` pixels: its stride, padding, dilation and groups."""
    layout: Any = (layer.stride, layer.padding, layer.dilation, layer.groups)
    size = (1, layer.in_channels, side, side)
    return LinearMap(lambda w, x: conv2d(x, w, None, *layout), lambda w, y: conv2d_input(size, w, y, *layout), size)


def without_autocast(weight: Tensor) -> AbstractContextManager[Any]:
    """Norms in the parameters' type: in bfloat16 they would be 0.4 % off."""
    kind = weight.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


class UnitRows(nn.Module):
    """Every output's weights divided by their Euclidean norm: weight normalization with the scale 1.

    `dim` is that of the outputs. Source: Salimans & Kingma 2016 with g = 1, as in Miyato et al. 2018.
    """

    def __init__(self, dim: int = 0) -> None:
        super().__init__()
        self._dim = dim

    def forward(self, weight: Tensor) -> Tensor:
        norms = as_matrix(weight, self._dim).norm(dim=1)
        return weight / norms.view([-1 if dim == self._dim else 1 for dim in range(weight.ndim)])


class ExactSigma(nn.Module):
    """The weight divided by the largest singular value of its matrix (shape[dim], rest); its gradient is that of u'Wv.

    The vectors come from the smaller Gram matrix's eigenvectors in float64, which costs sigma no accuracy. A weight
    that is not finite stays so. It waits for the device: no CUDA graph can hold it.
    """

    def __init__(self, dim: int = 0) -> None:
        super().__init__()
        self._dim = dim

    def norm(self, weight: Tensor) -> Tensor:
        matrix = as_matrix(weight, self._dim)
        with torch.no_grad():
            scale = matrix.abs().max().double()
            usable = scale.isfinite() & (scale > 0)  # eigenvectors of NaN would be an error, and no divergence
            wide = torch.where(usable, matrix.double() / scale, torch.ones_like(matrix, dtype=torch.float64))
            if matrix.shape[0] <= matrix.shape[1]:
                v = wide.T @ torch.linalg.eigh(wide @ wide.T).eigenvectors[:, -1]
            else:
                v = torch.linalg.eigh(wide.T @ wide).eigenvectors[:, -1]
            v = normalize(v, dim=0).to(matrix)
        return torch.mv(matrix, v).norm()  # not finite where the weight is not

    def forward(self, weight: Tensor) -> Tensor:
        with without_autocast(weight):
            return weight / self.norm(weight)


class EstimatedNorm(nn.Module):
    """The weight divided by the mean of the operator norms of linear maps that it stands for.

    A norm is |A x| of a unit x that the power iteration x <- A'Ax / |A'Ax| moves: `rounds` of them in every reading in
    training mode, none in eval mode. x is a constant of the gradient, which is y (dA) x, y = Ax / |Ax|. It starts from
    normal draws of `generator` and `start` rounds. Source: as in Miyato et al. 2018, Algorithm 1, for other maps.
    """

    def __init__(
        self, weight: Tensor, maps: list[LinearMap], rounds: int, start: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self._maps, self.rounds = maps, rounds
        for i, of in enumerate(maps):
            x = torch.randn(of.size, generator=generator, dtype=torch.float64)
            self.register_buffer(f"x{i}", (x / x.norm()).to(weight))
        self.advance(weight, start)

    def _pairs(self) -> list[tuple[LinearMap, Tensor]]:
        return [(of, self.get_buffer(f"x{i}")) for i, of in enumerate(self._maps)]

    @torch.no_grad()
    def advance(self, weight: Tensor, rounds: int) -> None:
        """So many rounds; a vector that a weight of zero maps to zero stays as it is."""
        for of, x in self._pairs():
            for _ in range(rounds):
                image = of.adjoint(weight, of.apply(weight, x))
                norm = image.norm()
                torch.where(norm > 0, image / norm, x, out=x)

    def norm(self, weight: Tensor) -> Tensor:
        """() with the vectors as they stand."""
        # copies: the next reading changes the vectors in place, and the backward pass needs today's
        norms = [of.apply(weight, x.clone()).norm() for of, x in self._pairs()]
        return torch.stack(norms).mean()

    def forward(self, weight: Tensor) -> Tensor:
        with without_autocast(weight):
            if self.training and self.rounds:
                self.advance(weight, self.rounds)
            return weight / self.norm(weight)
