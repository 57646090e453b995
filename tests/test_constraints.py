"""The hooks of a constraint: that the loop calls each of them when it says, and that any may be another's."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FURTHER, ONE_EACH, small
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from sngan import train as training
from sngan.arms import ARMS
from sngan.config import RunConfig
from sngan.constraints import CONSTRAINTS, Constraint, orthonormal_gap
from sngan.data import load
from sngan.models import Discriminator
from sngan.sigma import log_sigmas
from sngan.spectral import raw_weight, weight_layers
from sngan.state import build, unconstrained
from sngan.streams import torch_generator
from sngan.train import train


class Told(Constraint):
    """Writes down which hook is called, adds a constant to the loss, and clips the weights."""

    def __init__(self, config: RunConfig, D: nn.Module) -> None:
        super().__init__(config, D)
        self.said: list[str] = []
        self.register_buffer("updates", torch.zeros(()))

    def before_update(self) -> None:
        self.said.append("before")

    def weighted_penalty(self, x_real: Tensor, x_fake: Tensor) -> Tensor:
        assert x_real.shape == x_fake.shape
        assert not x_fake.requires_grad
        assert x_real.max() == 1 > x_fake.max()  # white strokes, and grey of a generator that drew nothing yet
        self.said.append("penalty")
        return x_real.new_full((), 0.25)

    @torch.no_grad()
    def after_update(self) -> None:
        self.said.append("after")
        self.updates += 1
        for parameter in self.D.parameters():
            parameter.clamp_(-0.01, 0.01)

    def readings(self) -> dict[str, Tensor]:
        return {"updates": self.updates}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Told]:
    """The arm `plain` with that constraint; the constraints that are made."""
    made: list[Told] = []

    def make(config: RunConfig, D: nn.Module) -> Told:
        made.append(Told(config, D))
        return made[-1]

    monkeypatch.setitem(CONSTRAINTS, ARMS["plain"].constraint, make)
    return made


def rows_of(config: RunConfig, resume: dict[str, Any] | None = None) -> tuple[list[dict[str, Any]], list[dict]]:
    rows, states = [], []

    def save(state: dict[str, Any]) -> None:
        states.append(copy.deepcopy(state))

    train(config, load("digits"), lambda row, _: rows.append(row), save, resume, lambda step: step == 3)
    return rows, states


def test_hooks_are_called_around_each_update_of_d(told: list[Told], monkeypatch: pytest.MonkeyPatch) -> None:
    minimize = training.minimize
    monkeypatch.setattr(training, "minimize", lambda *of: (told[0].said.append("minimize"), minimize(*of)))
    rows, _ = rows_of(small(arm="plain", n_dis=2, steps=6, log_every=1))
    of_d = ["before", "penalty", "minimize", "after"]
    assert told[0].said == (of_d * 2 + ["minimize"]) * 6
    assert [row["updates"] for row in rows] == [2.0 * step for step in range(7)]
    assert all(row["loss/d"] == pytest.approx(row["loss/d_adversarial"] + 0.25) for row in rows[1:])
    assert all(row["loss/d_penalty"] == 0.25 for row in rows[1:])
    assert all(parameter.abs().max() <= 0.01 for parameter in told[0].D.parameters())


def test_what_a_constraint_keeps_is_in_the_state_of_a_run(told: list[Told]) -> None:
    config = small(arm="plain", steps=6, log_every=1)
    rows, states = rows_of(config)
    assert states[0]["step"] == 3
    resumed, _ = rows_of(config, states[0])
    assert [row["updates"] for row in resumed] == [4.0, 5.0, 6.0]
    assert resumed[-1]["loss/d"] == rows[-1]["loss/d"]


@pytest.mark.parametrize("arm", ARMS)
def test_a_constraint_owns_nothing_of_d_and_removal_leaves_plain_weights(arm: str) -> None:
    _, D, constraint = build(small(arm=arm), "cpu")
    assert not list(constraint.parameters())
    assert D not in set(constraint.modules())
    D.eval()
    x = torch.rand(4, 1, 28, 28)
    with torch.no_grad():
        before, sigmas = D(x), log_sigmas(D)
        constraint.remove()
        torch.testing.assert_close(D(x), before)
    assert log_sigmas(D) == pytest.approx(sigmas, rel=1e-6)
    assert not any("parametrizations" in name for name, _ in D.named_parameters())


class Normalized(Constraint):
    """torch's weight normalization: the weight is made of a length and a direction."""

    def __init__(self, config: RunConfig, D: nn.Module) -> None:
        super().__init__(config, D)
        for _, layer in weight_layers(D):
            weight_norm(layer)

    def remove(self) -> None:
        for _, layer in weight_layers(self.D):
            parametrize.remove_parametrizations(layer, "weight")
            layer.weight = nn.Parameter(layer.weight.detach())  # type: ignore[operator,union-attr]


def test_a_constraint_may_make_a_weight_of_several_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONSTRAINTS, ARMS["plain"].constraint, Normalized)
    rows, _ = rows_of(small(arm="plain", steps=6, log_every=1))
    assert rows[0]["sigma/conv2"] == pytest.approx(rows[0]["sigma_raw/conv2"], rel=1e-6)  # as it begins
    assert rows[-1]["sigma/conv2"] != pytest.approx(rows[-1]["sigma_raw/conv2"], rel=1e-6)
    _, D, constraint = build(small(arm="plain"), "cpu")
    x = torch.rand(4, 1, 28, 28)
    with torch.no_grad():
        before = D(x)
        constraint.remove()
        torch.testing.assert_close(D(x), before)
    plain = Discriminator(norm="none")
    plain.load_state_dict(D.state_dict())
    torch.testing.assert_close(plain(x), before)


def made(arm: str, **changes: object) -> tuple[nn.Module, Any]:
    """D in float64, and its constraint."""
    _, D, constraint = build(small(arm=arm, precision="float64", d_width=4, batch_size=3, **changes), "cpu")
    return D, constraint


def raw(D: nn.Module) -> dict[str, np.ndarray]:
    """Layer -> the matrix (out, rest) of its raw weight."""
    return {name: raw_weight(layer).detach().flatten(1).numpy() for name, layer in weight_layers(D)}


def images(n: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return tuple(torch.rand(n, 1, 28, 28, generator=generator, dtype=torch.float64) * 2 - 1 for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("d_norm", ["none", "batch", "layer"])
def test_clipping_bounds_every_weight_and_nothing_else(d_norm: str) -> None:
    networks = {}

    def log(row: dict[str, Any], _: Tensor | None) -> None:
        if row["step"]:
            assert all(0 < row[f"clipped/{name}"] < 1 for name, _ in weight_layers(networks["D"]))

    config = small(arm="clip", clip_value=0.03, d_norm=d_norm, norm_scale="learned", init="dcgan", steps=3, log_every=1)
    steps = training.Here(config, load("digits"))
    networks["D"] = steps.run.D
    train(config, load("digits"), log, steps=steps)
    D, largest = networks["D"], np.float32(0.03)
    for _, layer in weight_layers(D):
        assert layer.weight.abs().max() == largest  # type: ignore[union-attr,operator]
    norms = [layer for layer in D.children() if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm)]
    assert len(norms) == (0 if d_norm == "none" else 2)
    assert all(layer.weight.abs().min() > 0.5 for layer in norms)
    assert any(layer.bias.abs().max() > largest for _, layer in weight_layers(D))  # type: ignore[union-attr,operator]


def test_the_gradient_penalty_is_that_of_finite_differences() -> None:
    """10 E(|dD/dx| - 1)^2, with the slopes of D at every pixel from differences of its logits."""
    D, constraint = made("gp")
    x_real, x_fake = images()
    share = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64).view(-1, 1, 1, 1)
    constraint.draw = {"gradient_penalty": share}.__getitem__
    points = share * x_real + (1 - share) * x_fake
    assert torch.equal(points[0], x_fake[0])
    assert torch.equal(points[2], x_real[2])
    step, norms = 1e-5, []
    with torch.no_grad():
        for x in points:
            moved = step * torch.eye(784, dtype=torch.float64).view(-1, 1, 28, 28)
            norms.append(((D(x + moved) - D(x - moved)) / (2 * step)).norm().item())
    expected = 10 * np.mean([(norm - 1) ** 2 for norm in norms])
    assert constraint.weighted_penalty(x_real, x_fake).item() == pytest.approx(expected, rel=1e-6)
    weights = [layer.weight for _, layer in weight_layers(D)]
    gradients = torch.autograd.grad(constraint.weighted_penalty(x_real, x_fake), weights)
    for weight, gradient in zip(weights, gradients, strict=True):  # what training follows, too
        direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.add_(sign * step * direction)
            values.append(constraint.weighted_penalty(x_real, x_fake).item())
            with torch.no_grad():
                weight.sub_(sign * step * direction)
        assert (gradient * direction).sum().item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)


def test_of_a_linear_discriminator_gradient_penalties_have_closed_forms() -> None:
    """D(x) = w'x + b: R1 is (gamma / 2) |w|^2 with the gradient gamma w, WGAN-GP's 10 (|w| - 1)^2."""
    D = nn.Sequential(nn.Flatten(), nn.Linear(784, 1)).double()
    linear, (x_real, x_fake) = D[1], images()
    w = linear.weight.detach()  # type: ignore[union-attr,operator]
    config = small(arm="r1", penalty_weight=3.0, precision="float64", batch_size=3)
    r1 = CONSTRAINTS["r1"](config, D)
    penalty = r1.weighted_penalty(x_real, x_fake)
    assert penalty.item() == pytest.approx(1.5 * w.square().sum().item(), rel=1e-12)
    (gradient,) = torch.autograd.grad(penalty, linear.weight)
    torch.testing.assert_close(gradient, 3 * w)
    assert r1.weighted_penalty(x_fake, x_real).item() == penalty.item()  # the slope is the same everywhere
    gp = CONSTRAINTS["gradient_penalty"](small(arm="gp", precision="float64"), D)
    gp.draw = lambda name: torch.rand(3, 1, 1, 1, dtype=torch.float64)
    assert gp.weighted_penalty(x_real, x_fake).item() == pytest.approx(10 * (w.norm().item() - 1) ** 2, rel=1e-12)


def test_points_of_the_gradient_penalty_come_from_the_seeds_stream() -> None:
    config, shares = small(arm="gp", steps=4, n_dis=2, batch_size=5), []
    steps = training.Here(config, load("digits"))
    draw = steps.run.constraint.draw
    steps.run.constraint.draw = lambda name: shares.append(draw(name).flatten()) or draw(name)  # type: ignore[func-returns-value]
    train(config, load("digits"), None, steps=steps)
    expected = torch.rand(8, 5, generator=torch_generator(config.seed, "gradient_penalty"))
    torch.testing.assert_close(torch.stack(shares), expected, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(3, 1, 2, 2), (6, 1, 2, 2), (1, 5), (4, 4)])
def test_the_orthonormal_gap_is_zero_if_and_only_if_rows_or_columns_are_orthonormal(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    matrix = random.normal(size=(shape[0], int(np.prod(shape[1:]))))
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    assert orthonormal_gap(torch.from_numpy(left @ right).view(shape)).item() < 1e-24
    small_side = min(matrix.shape)
    gram = matrix @ matrix.T if small_side == len(matrix) else matrix.T @ matrix
    expected = ((gram - np.eye(small_side)) ** 2).sum()
    assert orthonormal_gap(torch.from_numpy(matrix).view(shape)).item() == pytest.approx(expected)
    for i in range(small_side):  # every singular value counts
        stretched = left @ np.diag(1 + 0.1 * (np.arange(small_side) == i)) @ right
        assert orthonormal_gap(torch.from_numpy(stretched).view(shape)).item() == pytest.approx(0.21**2)


def test_initial_weights_of_ones_own_are_made_of_those_that_arms_share() -> None:
    shared = raw(made("plain")[0])
    D, constraint = made("ortho")
    for name, weight in raw(D).items():
        np.testing.assert_allclose(np.linalg.svd(weight, compute_uv=False), 1, atol=1e-12)
        assert np.vdot(weight, shared[name]) == pytest.approx(np.linalg.svd(shared[name], compute_uv=False).sum())
    assert constraint.weighted_penalty(*images()).item() == pytest.approx(0, abs=1e-12)
    with torch.no_grad():
        raw_weight(D.get_submodule("conv2")).mul_(2)  # M = 4 I, of 8 rows: the distance from I is the root of 8 times 9
    assert constraint.readings()["orthonormal_gap/conv2"].item() == pytest.approx(72**0.5)
    assert constraint.weighted_penalty(*images()).item() == pytest.approx(72)
    for name, weight in raw(made("sn_at_init")[0]).items():
        np.testing.assert_allclose(weight, shared[name] / np.linalg.svd(shared[name], compute_uv=False)[0], rtol=1e-12)


def test_spectral_normalization_at_init_begins_like_sn_and_is_free_afterwards() -> None:
    rows = {arm: rows_of(small(arm=arm, steps=6, log_every=1))[0] for arm in ("sn_at_init", "sn")}
    assert rows["sn_at_init"][0]["lipschitz/product"] == pytest.approx(rows["sn"][0]["lipschitz/product"], rel=0.05)
    assert rows["sn_at_init"][0]["sigma/conv2"] == pytest.approx(1, rel=1e-6)
    assert rows["sn_at_init"][-1]["sigma/conv2"] != pytest.approx(1, rel=1e-6)


def test_convolutions_have_operator_norm_1_by_the_dense_operator() -> None:
    D, _ = made("sn_conv", dataset="digits")
    D.eval()
    sizes = {"conv1": 28, "conv2": 13, "conv3": 5}
    with torch.no_grad():
        for name, layer in weight_layers(D):
            assert isinstance(layer, nn.Conv2d)
            channels, side = layer.in_channels, sizes[name]
            basis = torch.eye(channels * side**2, dtype=torch.float64).view(-1, channels, side, side)
            operator = layer._conv_forward(basis, layer.weight, None).flatten(1).numpy()
            gram = operator.T @ operator if operator.shape[0] > operator.shape[1] else operator @ operator.T
            assert np.sqrt(np.linalg.eigvalsh(gram)[-1]) == pytest.approx(1, abs=2e-3), name


def test_exact_normalization_gives_matrices_of_norm_1_in_training_and_in_eval() -> None:
    D, _ = made("sn_svd")
    for mode in (True, False):
        D.train(mode)
        for name, layer in weight_layers(D):
            used = layer.weight.detach().flatten(1).numpy()  # type: ignore[union-attr,operator]
            assert np.linalg.svd(used, compute_uv=False)[0] == pytest.approx(1, rel=1e-12), name


def test_bidirectional_normalization_divides_by_the_mean_of_two_svds() -> None:
    D, constraint = made("bsn", n_power_iterations=1000)
    D(images()[0])
    for name, layer in weight_layers(D):
        weight = raw_weight(layer).detach().numpy()
        both = [np.moveaxis(weight, dim, 0).reshape(weight.shape[dim], -1) for dim in (0, 1)]
        expected = np.mean([np.linalg.svd(matrix, compute_uv=False)[0] for matrix in both])
        assert constraint.readings()[f"sigma_estimate/{name}"].item() == pytest.approx(expected, rel=1e-6)
        D.eval()
        np.testing.assert_allclose(layer.weight.detach().numpy(), weight / expected, rtol=1e-6)  # type: ignore[union-attr,operator]


@pytest.mark.parametrize("arm", [arm for arm, row in ARMS.items() if "power_iteration" in row.parameters])
def test_vectors_move_once_an_update_if_they_are_to(arm: str) -> None:
    D, constraint = made(arm, power_iteration="per_update")
    x, readings = images()[0], constraint.readings()
    D(x)
    D(x)
    assert constraint.readings() == readings
    constraint.before_update()
    assert constraint.readings() != readings
    often, once = (made(arm, power_iteration="per_update", n_power_iterations=n)[1] for n in (5, 1))
    often.before_update()
    for _ in range(5):
        once.before_update()
    assert often.readings() == once.readings()


@pytest.mark.parametrize("arm", ["sn_conv", "bsn"])
def test_vectors_start_from_the_seeds_stream_of_the_layer(arm: str) -> None:
    """The last layer's matrix has one row, which is its singular vector; the vector's sign is that of the draw."""
    for seed in range(8):
        D, _ = made(arm, seed=seed)
        layer = D.get_submodule("conv3")
        size = (1, layer.in_channels, 5, 5) if arm == "sn_conv" else (layer.in_channels * 16,)
        draw = torch.randn(size, generator=torch_generator(seed, "power_iteration/conv3"), dtype=torch.float64)
        x0 = layer.parametrizations.weight[0].get_buffer("x0")  # type: ignore[union-attr,operator]
        if arm == "sn_conv":
            draw, x0 = (x[..., :4, :4] for x in (draw, x0))  # what the layer sees
        row = raw_weight(layer).detach().flatten()
        torch.testing.assert_close(x0.flatten(), (row @ draw.flatten()).sign() * nn.functional.normalize(row, dim=0))


@pytest.mark.parametrize("norm_scale", ["fixed", "learned"])
def test_weight_normalization_is_torchs(norm_scale: str) -> None:
    D, _ = made("wn", norm_scale=norm_scale)
    for name, layer in weight_layers(D):
        rows = layer.weight.detach().flatten(1).norm(dim=1)  # type: ignore[union-attr,operator]
        lengths = np.linalg.norm(raw(D)[name], axis=1) if norm_scale == "learned" else np.ones(len(rows))
        np.testing.assert_allclose(rows, lengths, rtol=1e-12)  # a learned length begins at that of the raw weight
    trained = {name: p.numel() for name, p in D.named_parameters() if name.endswith("original0")}
    outputs = [4, 8, 1] if norm_scale == "learned" else []  # a length for each
    assert list(trained.values()) == outputs


@pytest.mark.parametrize("d_norm", ["none", "batch", "layer"])
@pytest.mark.parametrize("arm", [*ONE_EACH, *FURTHER])
def test_every_constraint_goes_with_every_norm_and_can_be_removed(arm: str, d_norm: str) -> None:
    """Of a constraint and a norm that are another arm's, that one; void ones only if they are asked for."""
    constraint = ARMS[arm].constraint
    named = [name for name, row in ARMS.items() if (row.constraint, row.norm) == (constraint, d_norm)]
    config = small(arm=(named or [arm])[0], d_norm=d_norm, steps=2, log_every=1, void_combination="allow")
    rows = rows_of(config)[0]
    assert all(np.isfinite(row["sigma/conv2"]) for row in rows)
    _, D, made_of = build(config, "cpu")
    made_of.remove()
    unconstrained(config)[1].load_state_dict(D.state_dict())


@pytest.mark.parametrize("arm", ARMS)
def test_readings_move_nothing(arm: str) -> None:
    _, D, constraint = build(small(arm=arm), "cpu")
    before = {key: value.clone() for key, value in [*D.state_dict().items(), *constraint.state_dict().items()]}
    assert {key: value.item() for key, value in constraint.readings().items()} == {
        key: value.item() for key, value in constraint.readings().items()
    }
    after = dict([*D.state_dict().items(), *constraint.state_dict().items()])
    assert all(torch.equal(after[key], value) for key, value in before.items())
