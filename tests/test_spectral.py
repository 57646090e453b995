import copy
import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.optim.swa_utils import AveragedModel
from torch.testing import assert_close
from torchvision import models

from sngan.sigma import log_sigmas, matrix_sigma
from sngan.spectral import (
    SpectralPenalty,
    advance_power_iteration,
    apply_spectral_norm,
    hold_power_iteration,
    raw_weight,
    remove_spectral_norm,
    sigma_estimates,
    unconstrained_weights,
)

LAYERS = {
    "conv": lambda: nn.Conv2d(3, 5, 4, 2),
    "transposed": lambda: nn.ConvTranspose2d(3, 5, 4, 2),
    "linear": lambda: nn.Linear(7, 4),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix(weight: torch.Tensor, kind: str) -> np.ndarray:
    """(out, rest), by numpy; a transposed convolution has its outputs in dim 1."""
    array = weight.detach().double().numpy()
    return np.moveaxis(array, int(kind == "transposed"), 0).reshape(array.shape[int(kind == "transposed")], -1)


def layer_of(kind: str, scale: float = 3.0) -> nn.Module:
    layer = LAYERS[kind]().double()
    with torch.no_grad():
        layer.weight.copy_(scale * torch.randn(layer.weight.shape, generator=generator(1), dtype=torch.float64))
    return layer


@pytest.mark.parametrize("kind", LAYERS)
def test_used_sigma_is_one_after_convergence_and_the_raw_one_is_not(kind: str) -> None:
    layer = apply_spectral_norm(layer_of(kind), n_power_iterations=500, generator=generator())
    _ = layer.weight  # a read in train mode iterates
    layer.eval()
    assert np.linalg.svd(matrix(layer.weight, kind), compute_uv=False)[0] == pytest.approx(1, abs=1e-9)
    assert np.linalg.svd(matrix(layer.parametrizations.weight.original, kind), compute_uv=False)[0] > 2


@pytest.mark.parametrize("kind", LAYERS)
def test_gradient_is_that_of_the_paper(kind: str) -> None:
    """(G - <G, W_SN> u v') / sigma, with G the gradient with respect to W_SN and u, v, sigma by SVD."""
    layer = apply_spectral_norm(layer_of(kind), n_power_iterations=2000, generator=generator())
    outer = torch.randn(layer.weight.shape, generator=generator(2), dtype=torch.float64)
    (layer.weight * outer).sum().backward()
    raw = layer.parametrizations.weight.original
    w, g = matrix(raw, kind), matrix(outer, kind)
    u, s, vt = np.linalg.svd(w, full_matrices=False)
    expected = (g - (g * (w / s[0])).sum() * np.outer(u[:, 0], vt[0])) / s[0]
    np.testing.assert_allclose(matrix(raw.grad, kind), expected, atol=1e-9)


@pytest.mark.parametrize("kind", LAYERS)
def test_penalty_and_its_gradient_by_svd(kind: str) -> None:
    """lambda / 2 sigma^2 has the gradient lambda sigma u v'."""
    layer, weight = layer_of(kind), 0.3
    penalty = SpectralPenalty(layer, n_power_iterations=2000, generator=generator())
    value = weight * penalty()
    value.backward()
    u, s, vt = np.linalg.svd(matrix(layer.weight, kind), full_matrices=False)
    assert value.item() == pytest.approx(weight / 2 * s[0] ** 2, rel=1e-12)
    np.testing.assert_allclose(matrix(layer.weight.grad, kind), weight * s[0] * np.outer(u[:, 0], vt[0]), atol=1e-8)
    assert layer.bias.grad is None


def test_penalty_sums_over_layers_and_skips_constrained_ones() -> None:
    first, second, third = layer_of("linear"), nn.Linear(4, 6).double(), nn.Linear(6, 2).double()
    network = nn.Sequential(first, nn.BatchNorm1d(4).double(), second, third)
    apply_spectral_norm(third, generator=generator())
    penalty = SpectralPenalty(network, n_power_iterations=3000, generator=generator())
    sigmas = [np.linalg.svd(layer.weight.detach().numpy(), compute_uv=False)[0] for layer in (first, second)]
    assert penalty().item() == pytest.approx(0.5 * sum(s**2 for s in sigmas), rel=1e-9)
    assert not list(penalty.parameters())


def test_penalty_of_everything_constrained_is_zero() -> None:
    layer = apply_spectral_norm(layer_of("linear"), generator=generator())
    assert SpectralPenalty(layer)().item() == 0


def test_one_round_a_training_forward_and_none_in_eval() -> None:
    layer = apply_spectral_norm(layer_of("linear"), generator=generator())
    parametrization = layer.parametrizations.weight[0]
    w = layer.parametrizations.weight.original.detach().numpy()
    v = parametrization._v.numpy().copy()
    layer(torch.zeros(1, 7, dtype=torch.float64))
    u = w @ v / np.linalg.norm(w @ v)  # torch's order: u first
    v = w.T @ u / np.linalg.norm(w.T @ u)
    np.testing.assert_allclose(parametrization._u.numpy(), u, rtol=1e-12)
    np.testing.assert_allclose(parametrization._v.numpy(), v, rtol=1e-12)
    layer.eval()
    layer(torch.zeros(1, 7, dtype=torch.float64))
    np.testing.assert_allclose(parametrization._u.numpy(), u, rtol=1e-12)


def test_held_vectors_move_only_when_advanced() -> None:
    layer = hold_power_iteration(apply_spectral_norm(layer_of("conv"), generator=generator()))
    parametrization = layer.parametrizations.weight[0]
    before = parametrization._u.clone()
    layer(torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    assert torch.equal(parametrization._u, before)
    advance_power_iteration(layer)
    assert not torch.equal(parametrization._u, before)
    advance_power_iteration(layer, 500)
    sigma = np.linalg.svd(matrix(layer.parametrizations.weight.original, "conv"), compute_uv=False)[0]
    assert sigma_estimates(layer)[""].item() == pytest.approx(sigma, rel=1e-9)


@pytest.mark.parametrize("kind", LAYERS)
def test_removal_keeps_the_outputs_of_eval_mode(kind: str) -> None:
    layer = apply_spectral_norm(layer_of(kind), generator=generator())
    x = torch.randn((2, 7) if kind == "linear" else (2, 3, 8, 8), generator=generator(3), dtype=torch.float64)
    expected = copy.deepcopy(layer).eval()(x)
    remove_spectral_norm(layer)
    assert_close(layer(x), expected, rtol=1e-14, atol=1e-14)
    assert set(layer.state_dict()) == {"weight", "bias"}


class Tied(nn.Module):
    """An embedding and two linear layers with one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.one, self.two = nn.Embedding(7, 4), nn.Linear(4, 7), nn.Linear(4, 7)
        self.one.weight = self.two.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(self.embed(x)) + self.two(self.embed(x))


def attention() -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(nn.MultiheadAttention(4, 2, batch_first=True), "in_proj_weight")


NETWORKS = {
    "tied": (lambda: apply_spectral_norm(Tied(), skip=nn.Embedding), lambda: (torch.arange(7),)),
    "embedding": (lambda: nn.utils.parametrizations.spectral_norm(nn.Embedding(7, 4)), lambda: (torch.arange(7),)),
    "older, embedding": (lambda: nn.utils.spectral_norm(nn.Embedding(7, 4)), lambda: (torch.arange(7),)),
    "lstm": (
        lambda: nn.utils.parametrizations.spectral_norm(nn.LSTM(3, 4), "weight_hh_l0"),
        lambda: (torch.rand(5, 1, 3),),
    ),
    "older, lstm": (lambda: nn.utils.spectral_norm(nn.LSTM(3, 4), "weight_hh_l0"), lambda: (torch.rand(5, 1, 3),)),
    "attention": (attention, lambda: (torch.rand(1, 3, 4),) * 3),
    "transformer": (
        lambda: apply_spectral_norm(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), skip="*.in_proj_weight"),
        lambda: (torch.rand(2, 3, 8),),
    ),
    "complex": (
        lambda: apply_spectral_norm(nn.Linear(3, 4, dtype=torch.complex64), 30),
        lambda: (torch.rand(2, 3, dtype=torch.complex64),),
    ),
}


def first(output: torch.Tensor | tuple) -> torch.Tensor:
    """The tensor, of layers that return others beside it."""
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("kind", NETWORKS)
def test_removal_leaves_no_spectral_norm_and_the_outputs(kind: str) -> None:
    make, inputs = NETWORKS[kind]
    network, x = make(), inputs()
    network(*x)
    with torch.no_grad():
        expected = first(network.eval()(*x))
        assert_close(first(remove_spectral_norm(network)(*x)), expected)
    assert not [key for key in network.state_dict() if "parametrizations" in key or key.endswith(("_orig", "_u"))]


@pytest.mark.parametrize("kind", ["tied", "lstm", "attention", "transformer"])
def test_removal_of_a_copy_leaves_the_original_and_the_other_way_round(kind: str) -> None:
    make, inputs = NETWORKS[kind]
    network, x = make(), inputs()
    network(*x)
    with torch.no_grad():
        expected = first(network.eval()(*x))
        others = copy.deepcopy(network), AveragedModel(network).eval(), copy.deepcopy(network)
        for one in (others[0], network, *others[1:]):
            remove_spectral_norm(one)
            for other in (network, *others):
                assert_close(first(other(*x)), expected)


def test_a_copy_of_a_parametrized_layer_is_constrained_alone() -> None:
    layer = nn.Linear(3, 3)
    nn.utils.parametrizations.orthogonal(layer, "weight")
    parametrize.remove_parametrizations(layer, "weight")
    parametrize.register_parametrization(layer, "bias", nn.Identity())
    x = torch.rand(2, 3)
    expected = layer(x)
    apply_spectral_norm(copy.deepcopy(layer))
    assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("dtype", "scale"), [(torch.float32, 1e-13), (torch.float32, 1e18), (torch.float16, 1e-2), (torch.bfloat16, 1e-13)]
)
def test_small_and_large_weights_have_their_sigma(dtype: torch.dtype, scale: float) -> None:
    layer = layer_of("linear", scale).to(dtype)
    sigma = np.linalg.svd(matrix(layer.weight, "linear"), compute_uv=False)[0]
    penalty = SpectralPenalty(layer, 30, generator())
    penalty.advance()
    assert penalty.sigma_estimates()[""].item() == pytest.approx(sigma, rel=0.02)
    apply_spectral_norm(layer, 30)
    expected = matrix(layer.parametrizations.weight.original, "linear") / sigma
    assert matrix(layer.weight, "linear") == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        (torch.float32, 1e-20),
        (torch.float32, 1e-30),
        (torch.float32, 1e25),
        (torch.float16, 1e-5),
        (torch.float16, 5e4),
    ],
)
def test_weights_that_their_type_has_no_room_for_are_refused(dtype: torch.dtype, scale: float) -> None:
    layer = nn.Sequential(nn.Linear(4, 4), layer_of("linear", scale).to(dtype))
    for refuse in (apply_spectral_norm, SpectralPenalty):
        with pytest.raises(ValueError, match="layer '1' has a weight of norm"):
            refuse(layer)
    assert not any(parametrize.is_parametrized(one) for one in layer)


def test_complex_weights_have_the_sigma_of_an_svd() -> None:
    layer = nn.Linear(3, 4, dtype=torch.complex128)
    u, s, vt = np.linalg.svd(layer.weight.detach().numpy(), full_matrices=False)
    penalty = SpectralPenalty(layer, 500, generator())
    value = penalty()
    value.backward()
    assert value.item() == pytest.approx(s[0] ** 2 / 2)
    np.testing.assert_allclose(layer.weight.grad.numpy(), s[0] * np.outer(u[:, 0], vt[0]), atol=1e-9)
    apply_spectral_norm(layer, 500, generator())
    _ = layer.weight
    assert sigma_estimates(layer)[""].item() == pytest.approx(s[0])
    assert_close(layer.eval().weight.detach().numpy(), layer.parametrizations.weight.original.detach().numpy() / s[0])


def test_the_penalty_follows_its_weights_to_another_type() -> None:
    layer = layer_of("linear").float()
    penalty = SpectralPenalty(layer, 500, generator())
    layer.double()
    assert penalty().item() == pytest.approx(np.linalg.svd(matrix(layer.weight, "linear"))[1][0] ** 2 / 2)
    penalty().backward()
    assert set(penalty.task_ratios(0.1)) == {""}
    layer.half()
    assert penalty().dtype == torch.float32  # half precision has no room for squares


@pytest.mark.parametrize("number", [0.01, 2.0, 0, -1, True, "1", None])
def test_iterations_are_a_whole_number(number: object) -> None:
    for refuse in (apply_spectral_norm, SpectralPenalty):
        with pytest.raises(ValueError, match="n_power_iterations must be"):
            refuse(nn.Linear(2, 2), number)


def test_start_vectors_come_from_the_generator_alone() -> None:
    layers = layer_of("conv"), layer_of("conv")
    before = torch.get_rng_state()
    first, second = (apply_spectral_norm(layer, generator=generator(7)) for layer in layers)
    assert torch.equal(first.parametrizations.weight[0]._u, second.parametrizations.weight[0]._u)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_cannot_be_normalized_is_named() -> None:
    zero = nn.Linear(2, 2)
    nn.init.zeros_(zero.weight)
    for module, message in (
        (nn.ReLU(), "no Conv"),
        (apply_spectral_norm(nn.Linear(2, 2)), "spectral norm already"),
        (nn.utils.spectral_norm(nn.Linear(2, 2)), "spectral norm already"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), "something else computes"),
        (prune.identity(nn.Linear(2, 2), "weight"), "a hook computes"),
        (nn.LazyLinear(2), "has no weights yet"),
        (torch.jit.script(nn.Linear(2, 2)), "TorchScript"),
        (nn.Linear(2, 2).to(torch.float8_e4m3fn), "weight in float8_e4m3fn"),
        (0.01, "expected a network"),
        (nn.Linear, "expected a network"),
        (zero, "finite non-zero"),
        (nn.Linear(2, 2, device="meta"), "without values"),
    ):
        with pytest.raises(ValueError, match=message):
            apply_spectral_norm(module)


def test_penalty_is_of_the_weight_that_is_used() -> None:
    layer = nn.utils.parametrizations.weight_norm(layer_of("linear"))
    with torch.no_grad():
        layer.parametrizations.weight.original0.mul_(3)
    sigma = np.linalg.svd(layer.weight.detach().numpy(), compute_uv=False)[0]
    assert SpectralPenalty(layer, 2000, generator())().item() == pytest.approx(sigma**2 / 2, rel=1e-9)
    assert SpectralPenalty(nn.utils.spectral_norm(nn.Linear(3, 3)))().item() == 0  # constrained already
    with pytest.raises(ValueError, match="a hook computes"):
        SpectralPenalty(prune.identity(nn.Linear(2, 2), "weight"))


def test_a_weight_that_was_zero_can_be_penalized_when_it_has_grown() -> None:
    layer = nn.Linear(4, 3, bias=False)
    nn.init.zeros_(layer.weight)
    penalty = SpectralPenalty(layer, generator=generator())
    assert penalty().item() == 0
    nn.init.eye_(layer.weight)
    assert penalty().item() == pytest.approx(0.5)


def test_removal_of_torchs_older_hook() -> None:
    layer = nn.utils.spectral_norm(layer_of("linear"))
    layer(torch.zeros(1, 7, dtype=torch.float64))
    x = torch.randn(2, 7, generator=generator(3), dtype=torch.float64)
    expected = layer.eval()(x).detach()
    assert_close(remove_spectral_norm(layer)(x), expected)
    assert set(layer.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_of_any_size_a_weight_is_normalized_to_one_or_refused(dtype: torch.dtype) -> None:
    for exponent in range(-330, 309, 3):
        layer = nn.Linear(5, 6, bias=False).to(dtype)
        layer.weight.data = (layer.weight.double() * 10.0**exponent).to(dtype)
        true = log_sigmas(layer)[""]
        if not 0 < true < math.inf:
            continue
        with suppress(ValueError):
            penalty = SpectralPenalty(layer, 20)
            penalty()
            assert penalty.sigma_estimates()[""].item() == pytest.approx(true, rel=0.05)
        with suppress(ValueError):
            apply_spectral_norm(layer, 20)
            layer(torch.ones(1, 5, dtype=dtype))
            assert log_sigmas(layer)[""] == pytest.approx(1, rel=0.05)


def inferred(*sizes: int) -> nn.Linear:
    with torch.inference_mode():
        return nn.Linear(*sizes)


class Particular(nn.Linear):
    def __init_subclass__(cls, *, needed: int, **others: object) -> None: ...


@torch.no_grad()
@pytest.mark.parametrize(
    ("second", "generator", "error"),
    [
        (nn.Linear, 42, ValueError),
        (nn.Linear, 0, ValueError),
        (nn.Linear, "cpu", ValueError),
        (nn.Linear, lambda name: {"0": torch.Generator()}[name], KeyError),
        (Particular, None, ValueError),
        (inferred, None, ValueError),
    ],
)
def test_a_network_is_normalized_as_a_whole_or_not_at_all(second: Any, generator: Any, error: type) -> None:
    network, x = nn.Sequential(nn.Linear(3, 3), second(3, 3)), torch.rand(2, 3)
    before, outputs = [type(layer) for layer in network], network(x)
    with pytest.raises(error):
        apply_spectral_norm(network, generator=generator)
    assert [type(layer) for layer in network] == before
    assert torch.equal(network(x), outputs)
    assert list(network.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]


@pytest.mark.parametrize(
    "add",
    [
        lambda new, old: prune.l1_unstructured(old, "weight_orig", 0.5),
        lambda new, old: parametrize.register_parametrization(old, "weight_orig", nn.Tanh()),
        lambda new, old: prune.l1_unstructured(new.parametrizations.weight, "original", 0.5),
        lambda new, old: parametrize.register_parametrization(new, "weight", nn.Tanh()),
    ],
)
def test_removal_leaves_a_network_with_something_else_on_its_weights_as_it_is(add: Callable) -> None:
    network = nn.Sequential(apply_spectral_norm(nn.Linear(3, 3)), nn.utils.spectral_norm(nn.Linear(3, 3)))
    add(network[0], network[1])
    network.eval()
    x, keys = torch.rand(2, 3), list(network.state_dict())
    outputs = network(x)
    with pytest.raises(ValueError, match="something else on its weight"):
        remove_spectral_norm(network)
    assert list(network.state_dict()) == keys
    assert torch.equal(network(x), outputs)


def test_a_shallow_copy_is_normalized_without_its_original() -> None:
    layer, x = nn.Linear(3, 3), torch.rand(1, 3)
    outputs = layer(x)
    apply_spectral_norm(copy.copy(layer))
    assert torch.equal(layer(x), outputs)


def test_a_weight_that_inference_mode_has_freed_is_trained() -> None:
    layer = apply_spectral_norm(nn.Linear(3, 3))
    with torch.inference_mode():
        remove_spectral_norm(layer)
    layer(torch.rand(2, 3)).sum().backward()
    assert layer.weight.grad is not None


class Tenfold(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 10 * weight


@pytest.mark.parametrize(
    ("layer", "dim"), [(nn.ConvTranspose2d(3, 5, 4), 0), (nn.Conv2d(3, 5, 4), 1), (nn.Conv2d(3, 5, 4), 0)]
)
def test_estimates_of_spectral_norms_of_others(layer: nn.Module, dim: int) -> None:
    parametrize.register_parametrization(layer, "weight", Tenfold())
    nn.utils.parametrizations.spectral_norm(layer, dim=dim)
    advance_power_iteration(layer, 100)
    assert sigma_estimates(layer)[""].item() == pytest.approx(
        10 * matrix_sigma(raw_weight(layer), dim).item(), rel=1e-4
    )


def test_the_penalty_names_what_became_of_its_network_and_has_room_for_squares() -> None:
    layer = nn.Linear(200, 200).half()
    nn.init.constant_(layer.weight, 17.2)
    penalty = SpectralPenalty(layer)
    assert penalty().item() == pytest.approx(0.5 * log_sigmas(layer)[""] ** 2, rel=0.01)
    prune.l1_unstructured(layer, "weight", 0.5)
    with pytest.raises(ValueError, match="no parameter"):
        penalty()
    with pytest.raises(ValueError, match="has no Conv"):
        SpectralPenalty(nn.LSTM(2, 2))
    with pytest.raises(ValueError, match="rounds must be a whole number"):
        advance_power_iteration(layer, 1.0)  # type: ignore[arg-type]


def of_many_kinds() -> nn.Module:
    return nn.ModuleDict(
        {
            "embedding": nn.Embedding(5, 4),
            "body": nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ConvTranspose2d(2, 1, 3)),
            "attention": nn.MultiheadAttention(4, 2),
            "lstm": nn.LSTM(4, 3),
            "heads": nn.ModuleDict({"head": nn.Linear(4, 1), "head_2": nn.Linear(4, 1)}),
        }
    )


CONSTRAINED = ["body.0", "body.2", "attention.out_proj", "heads.head", "heads.head_2"]
OTHERS = ["embedding", "attention.in_proj_weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0"]


@pytest.mark.parametrize(
    ("chosen", "constrained", "warned"),
    [
        ({}, CONSTRAINED, OTHERS),
        ({"only": None, "skip": ()}, CONSTRAINED, OTHERS),
        ({"only": "heads.head"}, ["heads.head"], []),  # not heads.head_2
        ({"only": "heads"}, ["heads.head", "heads.head_2"], []),
        ({"only": "heads.head.weight"}, ["heads.head"], []),
        ({"only": "*.head*"}, ["heads.head", "heads.head_2"], []),
        ({"only": "body.[0-9]"}, ["body.0", "body.2"], []),
        ({"only": nn.Linear}, CONSTRAINED[2:], []),  # an attention's out_proj is one
        ({"only": [nn.Conv2d, "heads.head"]}, ["body.0", "heads.head"], []),
        ({"only": (name for name in ("attention", "lstm"))}, ["attention.out_proj"], OTHERS[1:]),
        ({"only": ["heads", nn.Embedding], "skip": {"*_2"}}, ["heads.head"], ["embedding"]),
        ({"skip": ["embedding", "*.in_proj_weight", nn.RNNBase]}, CONSTRAINED, []),
        ({"skip": nn.MultiheadAttention}, [*CONSTRAINED[:2], *CONSTRAINED[3:]], [OTHERS[0], *OTHERS[2:]]),
        ({"skip": ["*weight_?h_l0", "body", nn.BatchNorm2d, "body.1"]}, CONSTRAINED[2:], OTHERS[:2]),
        ({"skip": np.array(OTHERS)}, CONSTRAINED, []),
    ],
)
def test_only_and_skip_select_by_name_pattern_and_class(chosen: dict, constrained: list, warned: list) -> None:
    network = of_many_kinds()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert apply_spectral_norm(network, 1, generator(), **chosen) is network
    assert list(sigma_estimates(network)) == constrained
    assert unconstrained_weights(network) == [name for name in log_sigmas(network) if name not in constrained]
    assert len(caught) == bool(warned)
    assert [name for name in log_sigmas(network) if caught and repr(name) in str(caught[0].message)] == warned


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"only": "head"}, "only='head': nothing in ModuleDict has such a name; near it: 'heads', 'heads.head'"),
        ({"skip": ["heads", "Embedding"]}, "skip='Embedding': .* near it: 'embedding'"),
        ({"skip": "*.in_proj_wait"}, "near it: 'attention.in_proj_weight'"),
        ({"skip": "zzz"}, "there are 'embedding', 'body', 'attention', 'lstm' and 'heads'"),
        ({"skip": "body.0.bias"}, "nothing in ModuleDict has such a name"),
        ({"skip": "embedding,lstm"}, "nothing in ModuleDict has such a name"),
        (
            {"only": nn.Bilinear},
            "only=Bilinear: there is no such module in ModuleDict; .* Conv2d, ConvTranspose2d, Emb",
        ),
        ({"skip": [nn.GRU]}, "skip=GRU: there is no such module"),
        ({"only": ["heads", "body.1"]}, "only='body.1': there is no weight of two dimensions or more in it"),
        ({"only": ["heads", nn.BatchNorm2d]}, "only=BatchNorm2d: there is no weight of two dimensions or more in it"),
        ({"only": []}, "only and skip leave no Conv.* of ModuleDict to normalize; it has 'body.0', .* 'heads.head_2'"),
        ({"only": "lstm"}, "only and skip leave no Conv"),
        ({"only": "heads", "skip": nn.Linear}, "only and skip leave no Conv"),
        ({"skip": "*"}, "only and skip leave no Conv"),
        ({"only": 0}, "only: expected the name of a layer, a pattern of names or a subclass of .*, got 0"),
        ({"skip": False}, "skip: expected the name of a layer"),
        ({"skip": int}, "skip: expected the name of a layer"),
        ({"skip": b"lstm"}, "skip: expected the name of a layer"),
        ({"skip": [["lstm"]]}, "skip: expected the name of a layer"),
        ({"skip": nn.Linear(2, 2)}, "skip: expected the name of a layer"),
        ({"skip": nn.Sequential()}, r"skip: expected the name of a layer.*, got Sequential\(\)"),
    ],
)
def test_a_selection_that_is_none_is_named_and_changes_nothing(chosen: dict, message: str) -> None:
    network = of_many_kinds()
    keys = list(network.state_dict())
    with pytest.raises(ValueError, match=message):
        apply_spectral_norm(network, **chosen)
    assert list(network.state_dict()) == keys


def test_what_is_left_unconstrained_is_named_where_it_was_called() -> None:
    network = nn.Sequential(nn.Linear(3, 3), *(nn.Embedding(2, 3) for _ in range(7)), nn.LSTM(3, 3, 2))
    keys = list(network.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="Embedding"):
            apply_spectral_norm(network)
    assert list(network.state_dict()) == keys  # a warning that is an error, too, comes before any change
    with pytest.warns(
        UserWarning, match=r"'1', '2', '3' and 4 more \(Embedding\); '8.weight_ih_l0', .*\(LSTM\)"
    ) as caught:
        apply_spectral_norm(network)
    assert caught[0].filename == __file__


def test_layers_that_are_skipped_may_be_what_cannot_be_normalized() -> None:
    network = nn.ModuleDict({"one": nn.Linear(2, 2), "zero": nn.Linear(2, 2)})
    nn.init.zeros_(network["zero"].weight)
    with pytest.raises(ValueError, match="non-zero weight; skip='zero' leaves it as it is"):
        apply_spectral_norm(network)
    apply_spectral_norm(network, skip="zero")
    nn.init.eye_(network["zero"].weight)
    apply_spectral_norm(network, only="zero")  # "one" has its spectral norm already
    assert unconstrained_weights(network) == []


def test_a_layer_in_two_places_has_two_names() -> None:
    layer = nn.Linear(2, 2)
    for name in ("one", "other"):
        network = nn.ModuleDict({"one": layer, "other": layer, "third": nn.Linear(2, 2)})
        assert list(sigma_estimates(apply_spectral_norm(network, skip=name))) == ["third"]


def test_weights_that_others_constrain_are_not_left() -> None:
    assert unconstrained_weights(attention()) == ["out_proj"]
    assert unconstrained_weights(nn.utils.spectral_norm(nn.LSTM(3, 4), "weight_hh_l0")) == ["weight_ih_l0"]
    assert unconstrained_weights(prune.identity(nn.Linear(2, 2), "weight")) == [""]
    network = nn.ModuleDict({"attention": attention(), "linear": nn.Linear(2, 2)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apply_spectral_norm(network)
    with pytest.raises(ValueError, match="expected a network"):
        unconstrained_weights([])  # type: ignore[arg-type]


IN_PROJ = {
    "vit_b_16": [f"encoder.layers.encoder_layer_{i}.self_attention.in_proj_weight" for i in range(12)],
    "transformer": [f"layers.{i}.self_attn.in_proj_weight" for i in range(2)],
}
FOREIGN = {  # how it is made, the shape of its input, and a layer that is small enough for an SVD
    "resnet18": (models.resnet18, (2, 3, 64, 64), "layer1.0.conv1"),
    "vgg11_bn": (lambda: models.vgg11_bn(init_weights=False), (2, 3, 32, 32), "features.0"),
    "vit_b_16": (lambda: models.vit_b_16(image_size=32), (2, 3, 32, 32), "conv_proj"),
    "mobilenet_v2": (models.mobilenet_v2, (2, 3, 64, 64), "features.1.conv.1"),
    "transformer": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2),
        (2, 5, 16),
        "layers.1.linear1",
    ),
}


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow if k == "vgg11_bn" else ()) for k in FOREIGN])
@torch.no_grad()
def test_networks_of_others(kind: str) -> None:
    make, shape, one = FOREIGN[kind]
    network, x = make(), torch.rand(shape)
    skip = ["heads.head"] if kind == "vit_b_16" else []  # zero in a fresh one
    layers = [name for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        apply_spectral_norm(network, generator=generator(), skip=skip)
    assert list(sigma_estimates(network)) == [name for name in layers if name not in skip]
    assert unconstrained_weights(network) == [*IN_PROJ.get(kind, []), *skip]
    assert [repr(IN_PROJ[kind][0]) in str(w.message) for w in caught] == [True] * (kind in IN_PROJ)
    if skip:
        nn.init.normal_(network.heads.head.weight)
    layer = network.get_submodule(one)
    before = sigma_estimates(layer)[""]
    assert network(x).isfinite().all()
    assert sigma_estimates(layer)[""] > before  # a training forward is a round
    advance_power_iteration(layer, 1000)
    expected = network.eval()(x)
    sigma = np.linalg.svd(matrix(raw_weight(layer), "conv"), compute_uv=False)[0]
    raw = raw_weight(layer).clone()
    remove_spectral_norm(network)
    assert_close(layer.weight, raw / sigma, rtol=1e-3, atol=1e-6)
    assert torch.equal(network(x), expected)
    assert expected.abs().max() > 1e-3


def test_the_raw_weight_of_weight_norm_is_its_direction_however_small_the_layer() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(1, 5))  # as many lengths as weights
    assert raw_weight(layer) is layer.parametrizations.weight.original1  # type: ignore[union-attr,operator]
