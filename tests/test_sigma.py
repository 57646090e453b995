import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor, nn
from torch.nn.utils import prune, weight_norm

from sngan import sigma
from sngan.config import RunConfig
from sngan.data import data_root, load
from sngan.sigma import ConvSigma, batch_norm_gain, conv_sigma, log_sigmas, matrix_sigma, singular_values, spectrum
from sngan.spectral import apply_spectral_norm
from sngan.state import build
from sngan.train import train


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
    for dim in (1.0, True, None, np.array(1.0)):
        with pytest.raises(ValueError, match="dim must be a whole number"):
            matrix_sigma([[1.0, 2.0]], dim)
    assert matrix_sigma(np.array([[1e-309 + 1e-309j]])).item() == pytest.approx(math.sqrt(2) * 1e-309)
    with pytest.raises(ValueError, match="dim must be one of the weight's 2, got 2"):
        matrix_sigma([[0, 2], [1, 0]], dim=2)


def test_complex_weights_have_real_sigmas() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 5)) + 1j * rng.normal(size=(3, 5))
    s = np.linalg.svd(weight, compute_uv=False)
    assert matrix_sigma(weight).item() == pytest.approx(s[0])
    assert singular_values(weight).tolist() == pytest.approx(s)
    layer = nn.Linear(5, 3, dtype=torch.complex128)
    layer.weight.data = torch.from_numpy(weight)
    assert log_sigmas(layer)[""] == pytest.approx(s[0])


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


def test_a_rank_of_one_and_extreme_scales() -> None:
    rng = np.random.default_rng(0)
    outer = np.outer(rng.normal(size=30), rng.normal(size=50))
    for scale in (1e-20, 1, 1e20, 1e-300, 1e300):
        expected = np.linalg.svd(outer, compute_uv=False)[0] * scale
        assert matrix_sigma(outer * scale).item() == pytest.approx(expected, rel=1e-12)


def test_shape_of_a_spectrum_by_hand() -> None:
    shape = spectrum(torch.diag(torch.tensor([4.0, 2.0, 2.1, 0.0])))
    energy = np.array([16, 4, 4.41]) / 24.41
    assert shape.stable_rank == pytest.approx(24.41 / 16)
    assert shape.effective_rank == pytest.approx(np.exp(-(energy * np.log(energy)).sum()))
    assert shape.share == 0.5  # 4 and 2.1 of four
    flat = spectrum(torch.eye(5) * 1e-30)
    assert (flat.stable_rank, flat.share) == (pytest.approx(5), 1)
    assert np.isnan(spectrum(torch.zeros(2, 2))).all()
    transposed = torch.randn(3, 5, 2, 2, generator=torch.Generator().manual_seed(0))
    assert spectrum(transposed, 1) == pytest.approx(spectrum(transposed.movedim(1, 0).flatten(1)))


def test_batch_norm_gain_is_what_eval_mode_multiplies_with() -> None:
    norm = nn.BatchNorm2d(3).double()
    nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(0))
    norm(torch.randn(20, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 7)
    norm.eval()
    ones = torch.ones(1, 3, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(batch_norm_gain(norm), (norm(ones) - norm(0 * ones)).flatten())


# --- convolutions: the operator as a dense matrix, and numpy's SVD of it ---


def dense(layer: nn.Module, size: tuple[int, ...]) -> np.ndarray:
    """(inputs, outputs), from the images of an identity basis."""
    layer = copy.deepcopy(layer).double().eval()
    n = layer.in_channels * math.prod(size)
    basis = torch.eye(n, dtype=torch.float64).reshape(n, layer.in_channels, *size)
    with torch.no_grad():
        return (layer(basis) - layer(torch.zeros_like(basis[:1]))).flatten(1).numpy()


def largest(matrix: np.ndarray) -> float:
    return float(np.linalg.svd(matrix, compute_uv=False)[0])


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    """A Conv1d, Conv2d or ConvTranspose2d of random geometry, and an input size that it takes."""
    kind = draw(st.sampled_from([nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d]))
    n = 1 if kind is nn.Conv1d else 2
    kernel, stride, dilation = (tuple(draw(st.integers(1, 3)) for _ in range(n)) for _ in range(3))
    padding = tuple(draw(st.integers(0, 2)) for _ in range(n))
    groups = draw(st.integers(1, 3))
    channels = [groups * draw(st.integers(1, 2)) for _ in range(2)]
    size = tuple(draw(st.integers(1, 7)) for _ in range(n))
    extra = {}
    if kind is nn.ConvTranspose2d:
        extra["output_padding"] = tuple(
            draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
        )
        outputs = [(i - 1) * s - 2 * p + d * (k - 1) + o + 1 for i, s, p, d, k, o in
                   zip(size, stride, padding, dilation, kernel, extra["output_padding"], strict=True)]  # fmt: skip
    else:
        outputs = [(i + 2 * p - d * (k - 1) - 1) // s + 1 for i, s, p, d, k in
                   zip(size, stride, padding, dilation, kernel, strict=True)]  # fmt: skip
    assume(min(outputs) >= 1)
    layer = kind(*channels, kernel, stride, padding, dilation=dilation, groups=groups, **extra)
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=rng))
    return layer, size


@settings(deadline=None, max_examples=250)
@given(convolutions())
def test_conv_sigma_is_that_of_the_dense_operator(case: tuple[nn.Module, tuple[int, ...]]) -> None:
    layer, size = case
    expected = largest(dense(layer, size))
    found = conv_sigma(layer, size).item()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-12)
    assert found <= expected * (1 + 1e-12)  # a lower bound at any number of steps
    assert conv_sigma(layer, size, iterations=2).item() <= expected * (1 + 1e-12)


@settings(deadline=None, max_examples=20)
@given(convolutions())
def test_conv_sigma_is_scipys(case: tuple[nn.Module, tuple[int, ...]]) -> None:
    layer, size = case
    matrix = dense(layer, size)
    assume(min(matrix.shape) > 2 and matrix.any())
    operator = LinearOperator(matrix.shape, matvec=matrix.dot, rmatvec=matrix.T.dot)
    expected = svds(operator, k=1, return_singular_vectors=False, random_state=0)[0]
    assert conv_sigma(layer, size).item() == pytest.approx(expected, rel=1e-6, abs=1e-12)


@settings(deadline=None, max_examples=200)
@given(convolutions())
def test_a_convolution_is_bounded_by_its_groups_matrices(case: tuple[nn.Module, tuple[int, ...]]) -> None:
    """max_g sigma(W_g) <= |A| <= sqrt(c_h c_w) max_g sigma(W_g), with c = ceil(k / (s / gcd(s, d))).

    The left side where one receptive field lies inside the unpadded input. A transposed convolution is the adjoint:
    the same with its matrices (in, out*kh*kw) and the roles of input and output exchanged.
    """
    layer, size = case
    matrices = layer.weight.detach().double().chunk(layer.groups)
    bound = max(largest(w.flatten(1).numpy()) for w in matrices)
    geometry = list(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True))
    factor = math.prod(math.ceil(k / (s // math.gcd(s, d))) for k, s, d in geometry) ** 0.5
    norm = largest(dense(layer, size))
    assert norm <= factor * bound * (1 + 1e-9)
    if isinstance(layer, nn.ConvTranspose2d):
        inside = all(p == 0 for p in layer.padding)
    else:
        first = [-(-p // s) * s - p for p, s in zip(layer.padding, layer.stride, strict=True)]  # first start inside
        fields = zip(first, geometry, size, strict=True)
        inside = all(start + d * (k - 1) < n for start, (k, _, d), n in fields)
    if inside:
        assert norm >= bound * (1 - 1e-9)


def test_an_output_of_one_pixel_has_the_matrix_sigma() -> None:
    layer = nn.Conv2d(3, 5, 4, 2)
    assert conv_sigma(layer, (4, 4)).item() == pytest.approx(matrix_sigma(layer.weight).item(), rel=1e-12)
    last = nn.Conv2d(32, 1, 4, 2)  # the discriminator's last: 5x5 pixels, of which it sees 4x4
    assert conv_sigma(last, (5, 5)).item() == pytest.approx(matrix_sigma(last.weight).item(), rel=1e-12)


def test_known_counterexamples_to_the_naive_bound() -> None:
    """sigma(W) <= |A| <= sqrt(ceil(kh/sh) ceil(kw/sw)) sigma(W), with W of all groups, and dilation left out."""
    generator = torch.Generator().manual_seed(0)
    grouped = nn.Conv2d(4, 4, 3, stride=3, groups=4)
    with torch.no_grad():  # four equal rows in W, which each see a channel of their own
        grouped.weight.copy_(torch.randn(1, 1, 3, 3, generator=generator).expand(4, 1, 3, 3))
    assert conv_sigma(grouped, (9, 9)).item() == pytest.approx(matrix_sigma(grouped.weight).item() / 2, rel=1e-6)
    dilated = nn.Conv2d(1, 1, 3, stride=2, dilation=2)
    nn.init.ones_(dilated.weight)
    assert conv_sigma(dilated, (29, 29)).item() > 2 * 1.2 * matrix_sigma(dilated.weight).item()
    transposed = nn.ConvTranspose2d(8, 1, 3, stride=3)
    nn.init.ones_(transposed.weight)
    by_dim_1 = matrix_sigma(transposed.weight, 1).item()  # what torch's spectral norm divides by
    by_dim_0 = matrix_sigma(transposed.weight, 0).item()
    assert by_dim_0 == pytest.approx(by_dim_1)  # one output channel and equal rows
    with torch.no_grad():
        transposed.weight.copy_(torch.linalg.qr(torch.randn(9, 8, generator=generator))[0].T.reshape(8, 1, 3, 3))
    found = conv_sigma(transposed, (4, 4)).item()
    assert found == pytest.approx(1, rel=1e-6)  # orthonormal patches that do not overlap
    assert matrix_sigma(transposed.weight, 1).item() == pytest.approx(8**0.5)  # and dim 1 says 2.8: no lower bound
    wide = nn.ConvTranspose2d(1, 9, 1)
    nn.init.ones_(wide.weight)
    assert conv_sigma(wide, (4, 4)).item() == pytest.approx(3)  # which dim 1 sees as well
    overlapping = nn.ConvTranspose2d(1, 1, 3)
    nn.init.ones_(overlapping.weight)
    assert conv_sigma(overlapping, (20, 20)).item() > 2.5 * matrix_sigma(overlapping.weight, 1).item()  # no upper one


def test_a_warm_vector_follows_the_weight_and_is_its_own() -> None:
    layer = nn.Conv2d(8, 16, 4, 2)
    apply_spectral_norm(layer, generator=torch.Generator().manual_seed(0))
    state, random = {k: v.clone() for k, v in layer.state_dict().items()}, torch.get_rng_state()
    instrument = ConvSigma(layer, (13, 13))
    for _ in range(4):
        found = instrument(20).item()
        with torch.no_grad():
            layer.parametrizations.weight.original.mul_(1.5)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(layer.state_dict()[k], v) for k, v in state.items() if "_u" in k or "_v" in k)
    with torch.no_grad():
        layer.parametrizations.weight.original.div_(1.5)
    assert found == pytest.approx(largest(dense(layer, (13, 13))), rel=1e-5)  # single precision of the layer
    kept = instrument.vector.clone()
    with torch.no_grad():
        layer.parametrizations.weight.original[0, 0, 0, 0] = torch.inf
    assert np.isnan(instrument().item())
    assert torch.equal(instrument.vector, kept)
    instrument.vector = kept
    assert torch.equal(instrument.vector, kept)  # as it was stored
    with torch.no_grad():
        layer.parametrizations.weight.original[0, 0, 0, 0] = 0.1
    expected = pytest.approx(largest(dense(layer, (13, 13))), rel=1e-5)
    for scale in (1e200, 1e-200):
        instrument.vector = scale * kept
        assert instrument().item() == expected
    for wrong in (kept * torch.nan, torch.zeros_like(kept), kept[:1]):
        with pytest.raises(ValueError, match=r"vector: expected finite numbers, not all zero, of shape \(8, 13, 13\)"):
            instrument.vector = wrong


def test_a_basis_that_memory_is_too_small_for_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, weight, _ = crossed(6, 0.01)
    with torch.no_grad():
        layer.weight.copy_(weight)
    expected = conv_sigma(layer, (13, 13)).item()
    monkeypatch.setattr(sigma, "BASIS_BYTES", 1000)
    assert conv_sigma(layer, (13, 13)).item() == pytest.approx(expected, rel=1e-9)


def crossed(channels: int, gap: float) -> tuple[nn.Conv2d, Tensor, Tensor]:
    """A convolution by channel of which two kernels have almost one norm, and these weights: as they are, exchanged."""
    layer = nn.Conv2d(channels, channels, 4, 2, groups=channels)
    scales = torch.linspace(0.3, 0.8, channels)
    scales[0], scales[1] = 1.0, 1 - gap
    weight = layer.weight.detach() / layer.weight.detach().flatten(1).norm(dim=1)[:, None, None, None]
    exchanged = scales.clone()
    exchanged[[0, 1]] = scales[[1, 0]]
    return layer, weight * scales[:, None, None, None], weight * exchanged[:, None, None, None]


@pytest.mark.parametrize("gap", [0.3, 0.03, 0.005, 1e-3])
@pytest.mark.parametrize("warm", [1, 5])
def test_after_two_singular_values_have_crossed_the_larger_is_found(gap: float, warm: int) -> None:
    """The former top singular vector is one of the new operator too: whoever starts from it alone stays there."""
    generator = torch.Generator().manual_seed(int(1 / gap))
    layer, before, after = crossed(6, gap)
    with torch.no_grad():
        for weight in (before, after):
            weight += 1e-4 * torch.randn(weight.shape, generator=generator)
        instrument = ConvSigma(layer, (13, 13))
        for weight in (before, after, before):
            layer.weight.copy_(weight)
            for _ in range(warm if weight is before else 1):
                found = instrument().item()
            assert found == pytest.approx(largest(dense(layer, (13, 13))), rel=1e-4)


@pytest.mark.slow
def test_recorded_operator_norms_of_mnist_are_those_of_the_dense_operator() -> None:
    """A run in which two singular values cross within its first 100 steps; 20 warm steps were 0.4 % low at step 100."""
    root = data_root()
    if not (root / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
        pytest.skip(f"MNIST is not in {root}; set SNGAN_DATA")
    config = RunConfig(dataset="mnist", arm="penalty_dcgan", seed=1, steps=300, n_fake=100)
    rows, weights = {}, {}
    train(config, load("mnist"), lambda row, _: rows.update({row["step"]: row}),
          lambda state: weights.update({state["step"]: {k: v.clone() for k, v in state["D"].items()}}),
          due=lambda step: step % 100 == 0)  # fmt: skip
    _, D, _ = build(config, "cpu")
    assert set(weights) == {100, 200, 300}
    for step, state in weights.items():
        D.load_state_dict(state)
        for name, size in (("conv1", (28, 28)), ("conv2", (13, 13)), ("conv3", (5, 5))):
            expected = largest(dense(D.get_submodule(name), size))
            assert rows[step][f"sigma_conv/{name}"] == pytest.approx(expected, rel=1e-6), (step, name)


def test_conv_sigma_names_what_it_cannot_measure() -> None:
    for layer, size, message in (
        (nn.Linear(3, 3), (3, 3), "expected a Conv1d"),
        (nn.Conv2d(1, 1, 3), (8,), "expected 2 positive sizes"),
        (nn.Conv2d(1, 1, 3), (8.5, 8), "expected 2 positive sizes"),
        (nn.Conv2d(1, 1, 3), 8.5, "expected 2 positive sizes"),
        (nn.Conv2d(1, 1, 3, dtype=torch.complex64), (8, 8), "weight must be real numbers"),
        (nn.Conv2d(1, 1, 3, device="meta"), (8, 8), "without values"),
        (nn.Conv2d(1, 1, 3), (2, 8), "too small"),
        (nn.ConvTranspose2d(1, 1, 1, padding=1), (2, 2), "too small"),
    ):
        with pytest.raises(ValueError, match=message):
            conv_sigma(layer, size)
    with pytest.raises(ValueError, match="too large"):
        ConvSigma(nn.Conv2d(1, 1, 3), (10**6, 10**6))
    with pytest.raises(ValueError, match="generator: expected"):
        ConvSigma(nn.Conv2d(1, 1, 3), (8, 8), 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tolerance: expected"):
        ConvSigma(nn.Conv2d(1, 1, 3), (8, 8))(tolerance=math.nan)
    with pytest.raises(ValueError, match="no running variance"):
        batch_norm_gain(nn.BatchNorm2d(3, track_running_stats=False))
    for module, what in (
        ([], "expected a network"),
        (nn.LazyLinear(3), "has no weights yet"),
        (torch.jit.script(nn.Linear(2, 2)), "TorchScript"),
    ):
        with pytest.raises(ValueError, match=what):
            log_sigmas(module)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="iterations"):
        conv_sigma(nn.Conv2d(1, 1, 3), (8, 8), 0)
    assert conv_sigma(nn.Conv1d(2, 3, 3), 9).dtype == torch.float64
    zero = nn.Conv2d(1, 1, 3)
    nn.init.zeros_(zero.weight)
    assert conv_sigma(zero, (8, 8)).item() == 0


@pytest.mark.parametrize("fault", ["twice the sigma", "no stride"])
def test_a_planted_fault_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Conv2d(2, 3, 3, stride=2)
    found = lambda: conv_sigma(layer, (9, 9)).item()  # noqa: E731
    expected = pytest.approx(largest(dense(layer, (9, 9))), rel=1e-4)
    assert found() == expected
    if fault == "no stride":
        monkeypatch.setattr(ConvSigma, "apply", lambda self, x, weight: nn.functional.conv2d(x[None], weight)[0])
    else:
        real = sigma.largest
        monkeypatch.setattr(sigma, "largest", lambda *a: (real(*a)[0], 2 * real(*a)[1]))
    assert found() != expected
