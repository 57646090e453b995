"""What weights are divided by, against numpy's singular values, torch's own normalizations and finite differences."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from sngan.divisors import EstimatedNorm, ExactSigma, UnitRows, convolution_map, matrix_map

SHAPES = [(4, 1, 4, 4), (8, 3, 3, 3), (1, 8, 2, 2), (40, 2, 3, 3)]


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def numpy_sigma(weight: Tensor, dim: int = 0) -> float:
    matrix = np.moveaxis(weight.detach().double().numpy(), dim, 0).reshape(weight.shape[dim], -1)
    return float(np.linalg.svd(matrix, compute_uv=False)[0])


def dense(layer: nn.Conv2d, side: int) -> np.ndarray:
    """The convolution as the matrix of what it does to every pixel of the basis."""
    basis = torch.eye(layer.in_channels * side**2, dtype=torch.float64).view(-1, layer.in_channels, side, side)
    with torch.no_grad():
        return layer._conv_forward(basis, layer.weight.double(), None).flatten(1).numpy().T


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_a_weight_over_its_exact_sigma_has_sigma_1(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    weight = drawn(*shape).to(dtype)
    assert numpy_sigma(ExactSigma()(weight)) == pytest.approx(1, rel=tolerance)
    assert ExactSigma().norm(weight).item() == pytest.approx(numpy_sigma(weight), rel=tolerance)
    for scale in (1e-20, 1e15):  # squares of such weights have no room in float32
        assert numpy_sigma(ExactSigma()(weight * scale)) == pytest.approx(1, rel=1e-5)


def test_the_exact_sigmas_gradient_is_uv() -> None:
    weight = drawn(5, 2, 3, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(ExactSigma().norm(weight), weight)
    u, _, v = np.linalg.svd(weight.detach().numpy().reshape(5, -1), full_matrices=False)
    np.testing.assert_allclose(gradient.numpy().reshape(5, -1), np.outer(u[:, 0], v[0]), atol=1e-12)
    assert torch.autograd.gradcheck(ExactSigma(), (weight,))  # of W / sigma, by finite differences


def test_a_weight_that_is_not_finite_stays_so_without_an_error() -> None:
    weight = drawn(3, 4)
    weight[0, 0] = torch.nan
    assert ExactSigma()(weight).isnan().all()


@pytest.mark.parametrize(
    ("stride", "padding", "kernel", "side"), [(2, 0, 4, 12), (1, 1, 3, 7), (2, 1, 4, 8), (2, 0, 4, 5), (1, 0, 5, 5)]
)
def test_a_convolution_over_its_norm_has_operator_norm_1(stride: int, padding: int, kernel: int, side: int) -> None:
    """Against the singular values of the dense operator; the matrix's sigma is another number."""
    layer = nn.Conv2d(2, 3, kernel, stride, padding).double()
    layer.weight.data = drawn(*layer.weight.shape)
    parametrization = EstimatedNorm(
        layer.weight.detach(), [convolution_map(layer, side)], 1, 4000, torch.Generator().manual_seed(0)
    )
    assert np.linalg.svd(dense(layer, side), compute_uv=False)[0] > 1.5
    parametrize.register_parametrization(layer, "weight", parametrization)
    layer.eval()
    assert np.linalg.svd(dense(layer, side), compute_uv=False)[0] == pytest.approx(1, rel=1e-5)
    assert numpy_sigma(layer.weight) < 1 + 1e-5


def test_few_rounds_estimate_the_norm_from_below() -> None:
    layer = nn.Conv2d(2, 3, 4, 2).double()
    largest = np.linalg.svd(dense(layer, 12), compute_uv=False)[0]
    found = []
    for start in (0, 1, 5, 50):
        generator = torch.Generator().manual_seed(0)
        of = EstimatedNorm(layer.weight.detach(), [convolution_map(layer, 12)], 1, start, generator)
        found.append(of.norm(layer.weight).item())
    assert found == sorted(found)
    assert found[0] < 0.9 * largest
    assert 0.98 * largest < found[-1] <= largest * (1 + 1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_bidirectional_sigma_is_the_mean_of_two_svds(shape: tuple[int, ...]) -> None:
    weight = drawn(*shape)
    maps = [matrix_map(weight, dim) for dim in (0, 1)]
    of = EstimatedNorm(weight, maps, 1, 5000, torch.Generator().manual_seed(0))
    expected = (numpy_sigma(weight, 0) + numpy_sigma(weight, 1)) / 2
    assert of.norm(weight).item() == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(of.eval()(weight), weight / expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("make", [
    lambda layer: [convolution_map(layer, 6)],
    lambda layer: [matrix_map(layer.weight, dim) for dim in (0, 1)],
])  # fmt: skip
def test_estimates_move_in_training_alone_and_their_gradient_is_that_of_the_norm(make: Callable) -> None:
    layer = nn.Conv2d(2, 3, 3).double()
    weight = layer.weight.detach().requires_grad_()
    of = EstimatedNorm(weight.detach(), make(layer), 2, 3000, torch.Generator().manual_seed(0))
    still = copy.deepcopy(of.state_dict())
    assert torch.autograd.gradcheck(of.eval(), (weight,))  # with the vectors as they stand
    assert all(torch.equal(value, still[key]) for key, value in of.state_dict().items())
    other = EstimatedNorm(weight.detach(), make(layer), 2, 0, torch.Generator().manual_seed(0)).train()
    stages = []
    for _ in range(3):
        stages.append(torch.cat([x.flatten() for x in other.state_dict().values()]))
        other(weight)
    assert not torch.equal(stages[0], stages[1])
    assert not torch.equal(stages[1], stages[2])


@pytest.mark.parametrize("make", [
    lambda weight: ExactSigma(),
    lambda weight: EstimatedNorm(weight, [matrix_map(weight)], 1, 2, torch.Generator().manual_seed(0)),
    lambda weight: EstimatedNorm(
        weight, [convolution_map(nn.Conv2d(8, 16, 3), 6)], 1, 2, torch.Generator().manual_seed(0)),
])  # fmt: skip
def test_norms_are_not_taken_in_bfloat16(make: Callable) -> None:
    weight = drawn(16, 8, 3, 3).float()
    of, other = make(weight).train(), make(weight).train()
    with torch.autocast("cpu", torch.bfloat16):
        found = of(weight)
    assert torch.equal(found, other(weight))
    assert all(torch.equal(a, b) for a, b in zip(of.buffers(), other.buffers(), strict=True))


def test_a_zero_weight_leaves_the_vectors_as_they_are() -> None:
    weight = drawn(3, 4)
    of = EstimatedNorm(weight, [matrix_map(weight)], 1, 3, torch.Generator().manual_seed(0))
    before = of.state_dict()["x0"].clone()
    of.advance(torch.zeros_like(weight), 3)
    assert torch.equal(of.state_dict()["x0"], before)


@pytest.mark.parametrize("layer", [nn.Conv2d(2, 5, 3), nn.Linear(7, 4)])
def test_unit_rows_are_torchs_weight_norm_with_length_1(layer: nn.Module) -> None:
    weight = layer.weight.detach().clone()  # type: ignore[union-attr,operator]
    weight_norm(layer, dim=0)
    layer.parametrizations.weight.original0.data.fill_(1)  # type: ignore[union-attr,operator]
    torch.testing.assert_close(UnitRows()(weight), layer.weight.detach())  # type: ignore[operator,union-attr]
    assert UnitRows()(weight).flatten(1).norm(dim=1).tolist() == pytest.approx([1.0] * len(weight))
