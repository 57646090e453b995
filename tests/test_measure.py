"""What a row of the record is made of, against independent computations."""

import contextlib
import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import small
from test_train import rows_of, stream, torch_stream
from torch import nn

from sngan import measure, state
from sngan.config import RunConfig
from sngan.constraints import Constraint
from sngan.data import load
from sngan.measure import Instruments, links, non_finite
from sngan.spectral import raw_weight
from sngan.state import Run, build


def test_rows_and_their_parts_add_up() -> None:
    config = small(arm="penalty_dcgan", penalty_weight=0.5, steps=25, log_every=10, n_dis=2)
    rows = rows_of(config)
    assert [row["step"] for row in rows] == [0, 10, 20, 25]
    assert [row["d_updates"] for row in rows] == [0, 20, 40, 50]
    assert rows[-1]["images_seen"] == 50 * 16
    for row in rows[1:]:
        assert row["loss/d"] == pytest.approx(row["loss/d_adversarial"] + row["loss/d_penalty"])
        assert row["loss/d_adversarial"] == pytest.approx((row["loss/d_real"] + row["loss/d_fake"]) / 2)
        assert row["grad_norm/d_min"] <= row["grad_norm/d"] <= row["grad_norm/d_max"]
        assert 0 <= row["accuracy/d_real"] <= 1
    assert "loss/d" not in rows[0]


def test_the_penalty_is_lambda_half_times_the_sum_of_squared_sigmas() -> None:
    rows = rows_of(small(arm="penalty", penalty_weight=0.5, steps=10, log_every=1, n_power_iterations=200))
    for before, row in itertools.pairwise(rows):
        expected = 0.25 * sum(before[f"sigma/conv{i}"] ** 2 for i in (1, 2, 3))
        assert row["loss/d_penalty"] == pytest.approx(expected, rel=1e-2)  # near-ties converge slowly


def test_means_are_over_the_updates_since_the_previous_row() -> None:
    fine, coarse = (rows_of(small(arm="sn", steps=20, log_every=n)) for n in (1, 10))
    for key in ("loss/d", "loss/g", "logit/real", "accuracy/d_fake", "grad_norm/g"):
        expected = np.mean([row[key] for row in fine[11:21]])
        assert coarse[2][key] == pytest.approx(expected, rel=1e-6), key
    assert coarse[2]["grad_norm/g_max"] == max(row["grad_norm/g"] for row in fine[11:21])
    assert coarse[2]["logit/max_abs"] == max(row["logit/max_abs"] for row in fine[11:21])


def test_gradient_norms_and_sigmas_at_a_known_step(monkeypatch: pytest.MonkeyPatch) -> None:
    networks: dict[str, nn.Module] = {}

    def recorded(config: RunConfig, device: Any) -> Any:
        networks["G"], networks["D"], penalty = build(config, device)
        return networks["G"], networks["D"], penalty

    monkeypatch.setattr(state, "build", recorded)
    row = rows_of(small(arm="sn", steps=3, log_every=1))[-1]
    squares = sum(float((p.grad.double() ** 2).sum()) for p in networks["G"].parameters())
    assert row["grad_norm/g"] == pytest.approx(squares**0.5, rel=1e-5)
    layer = networks["D"].get_submodule("conv2")
    raw = raw_weight(layer).detach().double().numpy()
    raw = raw.reshape(len(raw), -1)
    sigma = np.linalg.svd(raw, compute_uv=False)[0]
    assert row["sigma_raw/conv2"] == pytest.approx(sigma, rel=1e-9)
    assert row["weight_norm/conv2"] == pytest.approx(np.linalg.norm(raw), rel=1e-9)
    assert row["sigma/conv2"] == pytest.approx(sigma / row["sigma_estimate/conv2"], rel=1e-5)


def networks_at_the_end(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, nn.Module, dict]:
    networks: list[Any] = []

    def recorded(config: RunConfig, device: Any) -> Any:
        networks[:] = build(config, device)
        return tuple(networks)

    monkeypatch.setattr(state, "build", recorded)
    row = rows_of(config)[-1]
    return networks[0].eval(), networks[1].eval(), row


@pytest.mark.parametrize("arm", ["sn_dcgan", "plain"])
def test_operator_norms_at_a_known_step(arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(arm=arm, d_width=8, precision="float64", steps=30, instrument_every=5)
    _, D, row = networks_at_the_end(config, monkeypatch)
    product = 1.0
    for i, side in ((1, 28), (2, 13), (3, 5)):
        layer = D.get_submodule(f"conv{i}")
        n = layer.in_channels * side * side
        basis = torch.eye(n, dtype=torch.float64).reshape(n, layer.in_channels, side, side)
        with torch.no_grad():
            operator = F.conv2d(basis, layer.weight, stride=2).flatten(1).numpy()
            matrix = layer.weight.flatten(1).numpy()
        norm = np.linalg.norm(operator @ operator.T, 2) ** 0.5
        assert row[f"sigma_conv/conv{i}"] == pytest.approx(norm, rel=1e-3)
        assert row[f"sigma_conv/conv{i}"] <= norm * (1 + 1e-9)
        product *= row[f"sigma_conv/conv{i}"]
        assert (f"sigma_bn/conv{i}" in row) == (arm == "sn_dcgan" and i < 3)
        if f"sigma_bn/conv{i}" in row:
            bn = D.get_submodule(f"bn{i}")
            gain = (bn.weight / (bn.running_var + bn.eps).sqrt()).detach().numpy()
            assert row[f"sigma_bn/conv{i}"] == pytest.approx(np.linalg.norm(np.diag(gain) @ matrix, 2), rel=1e-9)
            product *= np.abs(gain).max()
        s = np.linalg.svd(matrix, compute_uv=False)
        assert row[f"stable_rank/conv{i}"] == pytest.approx((s**2).sum() / s[0] ** 2)
        assert row[f"spectrum_share/conv{i}"] == np.mean(s > s[0] / 2)
    assert row["lipschitz/product"] == pytest.approx(product)
    assert 0 < row["lipschitz/empirical"] <= row["lipschitz/product"]


def input_gradients_one_by_one(config: RunConfig, G: nn.Module, D: nn.Module) -> dict[str, list[float]]:
    """|dD/dx| at the points of the stream `instruments`, image by image."""
    chosen = np.random.default_rng(stream(config.seed, "instruments")).integers(1797, size=64)
    real = load("digits").images[chosen].double() / 255 * 2 - 1
    generator = torch_stream(config.seed, "instruments")
    z = torch.randn(64, config.z_dim, generator=generator, dtype=torch.float64)
    share = torch.rand(64, 1, 1, 1, generator=generator, dtype=torch.float64)
    fake = G(z).detach()
    found = {}
    for kind, points in (("real", real), ("fake", fake), ("interpolated", share * real + (1 - share) * fake)):
        norms = []
        for x in points[:, None]:
            x.requires_grad_()
            norms.append(torch.autograd.grad(D(x).sum(), x)[0].norm().item())
        found[kind] = norms
    return found


@pytest.mark.parametrize("arm", ["sn_dcgan", "sn"])
def test_input_gradients_at_a_known_step(arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(arm=arm, seed=3, precision="float64", steps=30)
    G, D, row = networks_at_the_end(config, monkeypatch)
    expected = input_gradients_one_by_one(config, G, D)
    for kind, norms in expected.items():
        assert row[f"grad_x/{kind}"] == pytest.approx(np.mean(norms), rel=1e-9)
        assert row[f"grad_x/{kind}_max"] == pytest.approx(max(norms), rel=1e-9)
    assert row["lipschitz/empirical"] == pytest.approx(max(map(max, expected.values())), rel=1e-9)


def test_a_planted_fault_in_the_mode_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients measured in train mode: batch norm mixes the images, and the run is moved."""
    config = small(arm="sn_dcgan", precision="float64", steps=30)
    monkeypatch.setattr(measure, "evaluating", lambda *networks: contextlib.nullcontext())
    G, D, row = networks_at_the_end(config, monkeypatch)
    expected = input_gradients_one_by_one(config, G, D)
    assert row["grad_x/real"] != pytest.approx(np.mean(expected["real"]), rel=1e-3)
    monkeypatch.undo()
    assert rows_of(config)[-1]["loss/d"] != row["loss/d"]


def test_rows_with_every_instrument_come_at_their_cadence() -> None:
    config = small(steps=50, log_every=7, instrument_every=20)
    full = [row["step"] for row in rows_of(config) if "lipschitz/product" in row]
    assert full == [0, 21, 42, 50]


def test_non_finite_weights_are_found_and_named() -> None:
    run = Run(small(), load("digits"))
    assert non_finite({"loss/d": 0.5}, None, run.magnitudes()) == ""
    for value in (torch.inf, torch.nan):
        run.D.get_parameter("conv2.bias").data[0] = value
        run.look()
        assert non_finite({"loss/d": 0.5}, None, run.magnitudes()) == "Discriminator conv2.bias"
    assert non_finite({"loss/d": 0.5, "loss/g": float("nan")}, None, run.magnitudes()) == "loss/g"
    assert non_finite({"penalty_ratio/conv1": float("inf")}, None, {}) == ""  # an instrument's, not the training's
    assert non_finite({}, torch.tensor([0.0, torch.nan]), {}) == "samples"


def test_a_bound_is_recorded_only_if_everything_in_d_is_known_to_it() -> None:
    """Not of a norm whose gain depends on the image, nor of a batch norm that follows no layer with weights."""
    config, data = small(arm="dcgan"), load("digits")

    def product(**layers: nn.Module) -> bool:
        G, D, constraint = build(config, "cpu")
        for name, layer in layers.items():
            setattr(D, name, layer)
        return "lipschitz/product" in Instruments(config, G, D, constraint, data).row(0, {})

    assert product()
    assert product(act1=nn.ReLU())
    assert not product(bn1=nn.InstanceNorm2d(16))
    assert not product(bn1=nn.GroupNorm(1, 16))
    assert not product(act1=nn.BatchNorm2d(16))


class Skipping(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


def chain(*middle: nn.Module) -> nn.Sequential:
    """Of 28 x 28 pixels, the given parts, which keep 4 x 7 x 7, in its middle."""
    return nn.Sequential(nn.Conv2d(1, 4, 4, 4), *middle, nn.Flatten(), nn.Linear(196, 3), nn.Linear(3, 1))


def rows_with(D: nn.Module) -> dict[str, Any]:
    config, data = small(arm="plain", precision="float64"), load("digits")
    G, _, _ = build(config, "cpu")
    D.double()
    return Instruments(config, G, D, Constraint(config, D), data).row(0, {})


def batch_norm(kind: type = nn.BatchNorm2d, n: int = 4) -> Any:
    norm = kind(n).double()
    norm.weight.data.copy_(torch.linspace(-2, 1, n))
    norm.running_var.copy_(torch.linspace(0.5, 3, n))
    return norm


@pytest.mark.parametrize(
    "middle",
    [
        lambda: [nn.Identity(), nn.Dropout(0.5)],
        lambda: [nn.Sequential(batch_norm(), nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1)))],
        lambda: [nn.ConvTranspose2d(4, 2, 2, 2), batch_norm(n=2), nn.Conv2d(2, 4, 2, 2)],
        lambda: [nn.Flatten(), nn.Linear(196, 6), batch_norm(nn.BatchNorm1d, 6), nn.Linear(6, 196)],
        lambda: [nn.Flatten(2), nn.Conv1d(4, 4, 3, padding=1), batch_norm(nn.BatchNorm1d)],
        lambda: [nn.Linear(7, 7)],
        lambda: [nn.Conv2d(4, 4, 3, padding="same", padding_mode="circular", groups=2)],
    ],
)  # fmt: skip
def test_the_bound_of_a_chain_is_the_product_of_its_parts_norms(middle: Any) -> None:
    """Of parts that are linear in eval mode: the largest singular value of each one's Jacobian."""
    D, expected = chain(*middle()), 1.0
    row, x = rows_with(D), torch.randn(1, 1, 28, 28, dtype=torch.float64)
    D.eval()
    for part in links(D):
        jacobian = torch.autograd.functional.jacobian(part, x)
        x = part(x)
        expected *= torch.linalg.matrix_norm(jacobian.reshape(x.numel(), -1), 2).item()
    assert row["lipschitz/product"] == pytest.approx(expected, rel=1e-3)


def same(part: nn.Module) -> list[nn.Module]:
    return [part, nn.ReLU(), part]


@pytest.mark.parametrize(
    "middle",
    [
        lambda: [Skipping(nn.Conv2d(4, 4, 1))],
        lambda: [nn.LeakyReLU(2.0)],
        lambda: [nn.GELU()],
        lambda: [nn.ReLU(), batch_norm()],
        lambda: same(nn.Conv2d(4, 4, 1)),
        lambda: [nn.ReLU(), *same(batch_norm())],
        lambda: [nn.BatchNorm2d(4, track_running_stats=False)],
        lambda: [nn.Unflatten(1, (1, 4)), nn.Conv3d(1, 1, 1)],
        lambda: [nn.Flatten(2), nn.Linear(49, 49), batch_norm(nn.BatchNorm1d)],  # of channels that are no outputs
        lambda: [nn.LayerNorm(7)],
    ],
)
def test_what_is_not_known_has_no_bound(middle: Any) -> None:
    row = rows_with(chain(*middle()))
    assert "lipschitz/product" not in row
    assert "sigma_conv/0" in row
    assert not [key for key in row if key.startswith("sigma_bn/")]


def test_a_gain_scales_the_outputs_of_a_transposed_convolution() -> None:
    D = chain(layer := nn.ConvTranspose2d(4, 2, 2, 2), norm := batch_norm(n=2), nn.Conv2d(2, 4, 2, 2))
    row, gain = rows_with(D), (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().numpy()
    matrix = layer.weight.detach().numpy().transpose(1, 0, 2, 3).reshape(2, -1)
    assert row["sigma_bn/1"] == pytest.approx(np.linalg.norm(np.diag(gain) @ matrix, 2), rel=1e-9)
