import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune, weight_norm

from sngan.sigma import log_sigmas, matrix_sigma
from sngan.spectral import apply_spectral_norm


@settings(deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
    exponent=st.integers(-200, 200),
    data=st.data(),
)
def test_equals_numpys_svd(shape: list[int], seed: int, exponent: int, data: st.DataObject) -> None:
    weight = np.random.default_rng(seed).normal(size=shape) * 10.0**exponent
    dim = data.draw(st.integers(0, len(shape) - 1))
    matrix = np.moveaxis(weight, dim, 0).reshape(shape[dim], -1) if len(shape) > 1 else weight[None]
    expected = np.linalg.svd(matrix, compute_uv=False)[0]
    assert matrix_sigma(weight, dim).item() == pytest.approx(expected, rel=1e-12)


def test_known_cases() -> None:
    assert matrix_sigma(torch.diag(torch.tensor([3.0, -7.0, 1.0]))).item() == 7
    assert matrix_sigma(torch.zeros(3, 4)).item() == 0
    assert np.isnan(matrix_sigma(torch.tensor([[1.0, torch.inf]])).item())
    assert matrix_sigma(torch.ones(3, 5)).dtype == torch.float64
    assert matrix_sigma(np.diag([1.0, 2.0, 5.0]).astype(">f4")[::-1]).item() == 5  # of another byte order, reversed
    assert matrix_sigma([[0, 2], [1, 0]]).item() == 2
    with pytest.raises(ValueError, match="non-empty"):
        matrix_sigma(torch.empty(0, 3))


def test_nearly_equal_singular_values_keep_their_accuracy() -> None:
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=(40, 40)))[0] for _ in range(2))
    weight = u @ np.diag(np.linspace(1, 1 + 1e-10, 40)) @ v
    assert matrix_sigma(weight).item() == pytest.approx(1 + 1e-10, abs=1e-14)


def test_log_sigmas_measures_what_the_forward_pass_uses_and_moves_nothing() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 2, 3), nn.Flatten())
    apply_spectral_norm(network[0], n_power_iterations=3)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random = torch.get_rng_state()
    sigmas = log_sigmas(network)
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert network[0].training
    assert set(sigmas) == {"0", "2"}
    used = network.eval()[0].weight.detach().double().numpy().reshape(4, -1)
    transposed = np.moveaxis(network[2].weight.detach().double().numpy(), 1, 0).reshape(2, -1)
    assert sigmas["0"] == pytest.approx(np.linalg.svd(used, compute_uv=False)[0], rel=1e-6)
    assert sigmas["2"] == pytest.approx(np.linalg.svd(transposed, compute_uv=False)[0], rel=1e-12)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_log_sigmas_of_torchs_older_hooks_and_of_recurrent_layers() -> None:
    old = nn.utils.spectral_norm(nn.Linear(5, 3))
    old(torch.zeros(1, 5))
    before = old.weight_u.clone()
    sigma = np.linalg.svd(old.weight.detach().double().numpy(), compute_uv=False)[0]
    assert log_sigmas(old)[""] == pytest.approx(sigma, rel=1e-5)
    assert torch.equal(old.weight_u, before)
    pruned, weighted = prune.random_unstructured(nn.Linear(5, 3), "weight", 0.5), weight_norm(nn.Linear(5, 3))
    weighted.weight_g.data.mul_(3)  # what the next forward pass uses, not what the last one left
    for layer in (pruned, weighted):
        found = log_sigmas(layer)
        layer(torch.zeros(1, 5))
        expected = np.linalg.svd(layer.weight.detach().double().numpy(), compute_uv=False)[0]
        assert found == {"": pytest.approx(expected, rel=1e-6)}
    assert log_sigmas(nn.Sequential(nn.LayerNorm((3, 4)), nn.Linear(0, 3))) == {"1": 0}  # gains; an empty matrix
    assert set(log_sigmas(nn.LSTM(3, 4))) == {"weight_ih_l0", "weight_hh_l0"}
