"""The loop against an independent implementation, and what measuring, seeds and arms may and may not change."""

import itertools
import zlib
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import small
from torch import Tensor, nn

from sngan import train as training
from sngan.config import ARMS, RunConfig
from sngan.data import ImageData, load
from sngan.spectral import raw_weight, weight_layers
from sngan.train import build, train


def rows_of(config: RunConfig, data: ImageData | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    train(config, data or load("digits"), lambda row, samples: rows.append(row))
    return rows


# --- the notebook's algorithm once more, in plain PyTorch and nothing of ours but the initial weights ---


def _stream(seed: int, name: str) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(name.encode())])


def _latents(seed: int, name: str, batch: int, z_dim: int):
    state = int(_stream(seed, name).generate_state(1, np.uint64)[0])
    generator = torch.Generator().manual_seed(state)
    while True:
        yield torch.randn(batch, z_dim, generator=generator, dtype=torch.float64)


def _real_batches(seed: int, batch: int):
    images, rng = load("digits").images.double() / 255 * 2 - 1, np.random.default_rng(_stream(seed, "data"))
    queue: list[int] = []
    while True:
        while len(queue) < batch:
            queue += list(rng.permutation(len(images)))
        yield images[queue[:batch]]
        del queue[:batch]


class _SNConv:
    """A convolution whose kernel is divided by u'Wv after one round; vectors are constants of the gradient."""

    def __init__(self, w: Tensor, b: Tensor, u: Tensor, v: Tensor) -> None:
        self.w, self.b, self.u, self.v = w, b, u, v

    def __call__(self, x: Tensor) -> Tensor:
        flat = self.w.reshape(len(self.w), -1)
        with torch.no_grad():
            self.u = flat @ self.v
            self.u = self.u / self.u.norm()
            self.v = flat.T @ self.u
            self.v = self.v / self.v.norm()
        return F.conv2d(x, self.w / (self.u @ flat @ self.v), self.b, stride=2)


def _notebook(config: RunConfig) -> list[tuple[float, ...]]:
    """(loss_d, real part, fake part, loss_g) of every step."""
    G0, D0, _ = build(config, "cpu")
    g = {name: p.detach().clone().requires_grad_() for name, p in G0.named_parameters()}
    d, convs = {}, []
    for name, layer in weight_layers(D0):
        d[name + ".w"] = raw_weight(layer).detach().clone().requires_grad_()
        d[name + ".b"] = layer.bias.detach().clone().requires_grad_()
        if config.arm == "sn_dcgan":
            sn = layer.parametrizations.weight[0]
            convs.append(_SNConv(d[name + ".w"], d[name + ".b"], sn._u.clone(), sn._v.clone()))
        else:
            convs.append(lambda x, n=name: F.conv2d(x, d[n + ".w"], d[n + ".b"], stride=2))
    for i in (1, 2):
        d[f"bn{i}.g"], d[f"bn{i}.b"] = (
            p.detach().clone().requires_grad_() for p in D0.get_submodule(f"bn{i}").parameters()
        )

    def norm(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        return (x - mean) / (var + 1e-5).sqrt() * gain[:, None, None] + shift[:, None, None]

    def G(z: Tensor) -> Tensor:
        x = z[:, :, None, None]
        for i, stride in ((1, 2), (2, 1), (3, 2)):
            x = F.conv_transpose2d(x, g[f"deconv{i}.weight"], g[f"deconv{i}.bias"], stride=stride)
            x = norm(x, g[f"bn{i}.weight"], g[f"bn{i}.bias"]).clamp_min(0)
        return torch.tanh(F.conv_transpose2d(x, g["deconv4.weight"], g["deconv4.bias"], stride=2))

    def D(x: Tensor) -> Tensor:
        for i in (1, 2):
            x = F.leaky_relu(norm(convs[i - 1](x), d[f"bn{i}.g"], d[f"bn{i}.b"]), 0.2)
        return convs[2](x).flatten()

    def adam(parameters: dict[str, Tensor], memory: dict[str, list[Tensor]], t: int) -> None:
        for name, p in parameters.items():
            m, v = memory.setdefault(name, [torch.zeros_like(p), torch.zeros_like(p)])
            assert p.grad is not None
            m = config.beta1 * m + (1 - config.beta1) * p.grad
            v = config.beta2 * v + (1 - config.beta2) * p.grad**2
            memory[name] = [m, v]
            step = m / (1 - config.beta1**t) / ((v / (1 - config.beta2**t)).sqrt() + 1e-8)
            p.data = p.data - config.lr * step
            p.grad = None

    bce = nn.BCEWithLogitsLoss()
    z_d = _latents(config.seed, "z_d", config.batch_size, config.z_dim)
    z_g = _latents(config.seed, "z_g", config.batch_size, config.z_dim)
    real = _real_batches(config.seed, config.batch_size)
    memory_d: dict[str, list[Tensor]] = {}
    memory_g: dict[str, list[Tensor]] = {}
    losses, updates = [], 0
    ones, zeros = (f(config.batch_size, dtype=torch.float64) for f in (torch.ones, torch.zeros))
    for step in range(1, config.steps + 1):
        row: list[Tensor] = []
        for _ in range(config.n_dis):
            updates += 1
            fake = G(next(z_d)).detach()
            loss_fake = bce(D(fake), zeros)
            loss_real = bce(D(next(real)), ones)
            loss_d = (loss_real + loss_fake) / 2
            loss_d.backward()
            adam(d, memory_d, updates)
            row.append(torch.stack([loss_d, loss_real, loss_fake]).detach())
        loss_g = bce(D(G(next(z_g))), ones)
        loss_g.backward()
        for p in d.values():
            p.grad = None
        adam(g, memory_g, step)
        losses.append((*torch.stack(row).mean(0).tolist(), loss_g.item()))
    return losses


@pytest.mark.parametrize(("arm", "setting"), [("dcgan", "C"), ("sn_dcgan", "C"), ("sn_dcgan", "E")])
def test_losses_are_those_of_a_plain_implementation(arm: str, setting: str) -> None:
    config = small(arm=arm, setting=setting, precision="float64", steps=20, log_every=1)
    keys = ("loss/d", "loss/d_real", "loss/d_fake", "loss/g")
    ours = [[row[key] for key in keys] for row in rows_of(config)[1:]]
    np.testing.assert_allclose(ours, _notebook(config), rtol=0, atol=1e-9)


# --- what does not change a run ---


def final_weights(config: RunConfig, measured: bool) -> dict[str, Tensor]:
    saved: dict[str, Any] = {}
    train(config, load("digits"), (lambda row, samples: None) if measured else None, saved.update)
    return {f"{network}.{name}": t for network in "GD" for name, t in saved[network].items()}


@pytest.mark.parametrize("arm", ARMS)
def test_measuring_every_step_moves_no_bit(arm: str) -> None:
    config = small(arm=arm, steps=50, log_every=1)
    quiet, measured = final_weights(config, False), final_weights(config, True)
    assert all(torch.equal(quiet[name], measured[name]) for name in quiet)


def test_what_ran_before_in_the_process_moves_no_bit() -> None:
    first = rows_of(small(arm="sn"))
    torch.manual_seed(123)
    rows_of(small(arm="penalty", seed=9))
    torch.rand(1000)
    again = rows_of(small(arm="sn"))
    for a, b in zip(first, again, strict=True):
        assert {k: v for k, v in a.items() if "time" not in k} == {k: v for k, v in b.items() if "time" not in k}


def test_seeds_differ() -> None:
    assert rows_of(small(seed=0))[-1]["loss/d"] != rows_of(small(seed=1))[-1]["loss/d"]


# --- what the arms of a seed share ---


def test_arms_share_initial_weights_batches_and_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, dict[str, list[Tensor]]] = {}
    weights: dict[str, dict[str, Tensor]] = {}

    def recorded(config: RunConfig, device: Any) -> Any:
        G, D, penalty = build(config, device)
        inputs = seen[config.arm] = {"z": [], "x": []}
        G.register_forward_pre_hook(lambda m, args: inputs["z"].append(args[0].clone()))
        D.register_forward_pre_hook(lambda m, args: inputs["x"].append(args[0].clone()))
        weights[config.arm] = {f"G.{n}": p.clone() for n, p in G.state_dict().items()}
        for name, layer in weight_layers(D):
            weights[config.arm] |= {f"D.{name}.w": raw_weight(layer).clone(), f"D.{name}.b": layer.bias.clone()}
        return G, D, penalty

    monkeypatch.setattr(training, "build", recorded)
    for arm in ARMS:
        train(small(arm=arm, steps=5), load("digits"), None)
    for arm in ARMS:
        for name, tensor in weights["dcgan"].items():
            assert torch.equal(weights[arm][name], tensor), (arm, name)
        assert all(torch.equal(a, b) for a, b in zip(seen[arm]["z"], seen["dcgan"]["z"], strict=True))
        real = [inputs["x"][1::3] for inputs in (seen[arm], seen["dcgan"])]  # fake, real, fake of the G step
        assert len(real[0]) == 5
        assert all(torch.equal(a, b) for a, b in zip(*real, strict=True))
    assert not torch.equal(seen["dcgan"]["z"][0], seen["dcgan"]["z"][1])


def test_every_d_update_has_a_fresh_real_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[Tensor] = []

    def recorded(config: RunConfig, device: Any) -> Any:
        G, D, penalty = build(config, device)
        D.register_forward_pre_hook(lambda m, args: batches.append(args[0].clone()))
        return G, D, penalty

    monkeypatch.setattr(training, "build", recorded)
    train(small(setting="A", steps=1), load("digits"), None)
    real = batches[1:-1:2]
    assert len(real) == 5
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(real))


# --- what a row says ---


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

    monkeypatch.setattr(training, "build", recorded)
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


def test_sn_holds_the_used_sigma_at_one_and_the_baseline_does_not() -> None:
    sn, plain = (rows_of(small(arm=arm, steps=60))[-1] for arm in ("sn_dcgan", "dcgan"))
    for layer in ("conv1", "conv2", "conv3"):
        assert sn[f"sigma/{layer}"] == pytest.approx(1, abs=0.05)
        assert abs(plain[f"sigma/{layer}"] - 1) > 0.1
        assert plain[f"sigma/{layer}"] == plain[f"sigma_raw/{layer}"]


def test_non_finite_numbers_end_a_run_as_diverged() -> None:
    config = small(arm="plain", steps=2000, lr=10.0, beta1=0.999, beta2=0.0)
    rows: list[dict[str, Any]] = []
    outcome = train(config, load("digits"), lambda row, samples: rows.append(row))
    assert outcome.state == "diverged"
    assert "non-finite" in outcome.reason
    assert outcome.step == rows[-1]["step"] < 2000


@pytest.mark.parametrize("loss", ["hinge", "wasserstein"])
@pytest.mark.parametrize("power_iteration", ["per_forward", "per_update"])
def test_other_losses_and_cadences_train(loss: str, power_iteration: str) -> None:
    row = rows_of(small(arm="sn", loss=loss, power_iteration=power_iteration))[-1]
    assert ("accuracy/d_real" in row) == (loss == "hinge")
    assert row["sigma/conv1"] == pytest.approx(1, abs=0.1)
