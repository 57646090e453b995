"""The loop against an independent implementation, and what measuring, seeds and arms may and may not change."""

import dataclasses
import io
import resource
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import FURTHER, ONE_EACH, small
from torch import Tensor, nn

from experiments.machine import keep_memory
from sngan.arms import ARMS
from sngan.config import RunConfig
from sngan.data import ImageData, load
from sngan.state import build
from sngan.train import train


def rows_of(config: RunConfig, data: ImageData | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    train(config, data or load("digits"), lambda row, samples: rows.append(row))
    return rows


# --- the algorithm once more, in plain PyTorch and nothing of ours but the digits ---


def stream(seed: int, name: str) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(name.encode())])


def torch_stream(seed: int, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(int(stream(seed, name).generate_state(1, np.uint64)[0]))


def _latents(seed: int, name: str, batch: int, z_dim: int) -> Iterator[Tensor]:
    generator = torch_stream(seed, name)
    while True:
        yield torch.randn(batch, z_dim, generator=generator, dtype=torch.float64)


def _real_batches(seed: int, batch: int) -> Iterator[Tensor]:
    images, rng = load("digits").images.double() / 255 * 2 - 1, np.random.default_rng(stream(seed, "data"))
    queue: list[int] = []
    while True:
        while len(queue) < batch:
            queue += list(rng.permutation(len(images)))
        yield images[queue[:batch]]
        del queue[:batch]


def _initial_weights(config: RunConfig) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """G's and D's parameters: N(0, 0.02) kernels, torch's default biases, gains about 0 (notebook) or 1."""
    w, d = config.g_width, config.d_width
    kernels = {
        "G/deconv1": (config.z_dim, 4 * w, 3), "G/deconv2": (4 * w, 2 * w, 4), "G/deconv3": (2 * w, w, 3),
        "G/deconv4": (w, 1, 4), "D/conv1": (d, 1, 4), "D/conv2": (2 * d, d, 4), "D/conv3": (1, 2 * d, 4),
    }  # fmt: skip
    gains = {"G/bn1": 4 * w, "G/bn2": 2 * w, "G/bn3": w}
    if config.norm == "batch":
        gains |= {"D/bn1": d, "D/bn2": 2 * d}
    networks: dict[str, dict[str, Tensor]] = {"G": {}, "D": {}}
    for path, (first, second, size) in kernels.items():
        network, name = path.split("/")
        generator = torch_stream(config.seed, f"init/{path}")
        weight = 0.02 * torch.randn(first, second, size, size, generator=generator, dtype=torch.float64)
        n = second if network == "G" else first
        bias = torch.rand(n, generator=generator, dtype=torch.float64) * 2 - 1
        networks[network] |= {f"{name}.weight": weight, f"{name}.bias": bias / np.sqrt(second * size * size)}
    for path, n in gains.items():
        network, name = path.split("/")
        gain = torch.randn(n, generator=torch_stream(config.seed, f"init/{path}"), dtype=torch.float64) * 0.02
        networks[network] |= {
            f"{name}.weight": gain + (config.init == "dcgan"),
            f"{name}.bias": torch.zeros(n).double(),
        }
    if config.norm == "layer":
        networks["D"] |= {f"ln{i}.bias": torch.zeros(i * d).double() for i in (1, 2)}
    return networks["G"], networks["D"]


class _Vectors:
    """u and v of one kernel's power iteration, from their stream and after 15 rounds."""

    def __init__(self, seed: int, name: str, weight: Tensor) -> None:
        flat = weight.detach().flatten(1)
        generator = torch_stream(seed, f"power_iteration/{name}")
        self.u, self.v = (torch.randn(n, generator=generator, dtype=torch.float64) for n in flat.shape)
        self.u, self.v = self.u / self.u.norm(), self.v / self.v.norm()
        self.iterate(weight, 15, "vu")

    def iterate(self, weight: Tensor, rounds: int, order: str) -> None:
        flat = weight.detach().flatten(1)
        for which in order * rounds:
            if which == "v":
                self.v = F.normalize(flat.T @ self.u, dim=0)
            else:
                self.u = F.normalize(flat @ self.v, dim=0)

    def sigma(self, weight: Tensor) -> Tensor:
        return self.u @ weight.flatten(1) @ self.v


_REFERENCES = ("none", "spectral_norm", "spectral_norm_penalty", "weight_clipping", "gradient_penalty", "r1")
"""The constraints that the reference has"""


def _reference(config: RunConfig) -> list[dict[str, float]]:
    """What the rows of `log_every` 1 must say."""
    g, d = ({n: p.requires_grad_() for n, p in network.items()} for network in _initial_weights(config))
    names = ("conv1", "conv2", "conv3")
    vectors = {name: _Vectors(config.seed, name, d[f"{name}.weight"]) for name in names}
    constraint = ARMS[config.arm].constraint
    normalized, penalized = constraint == "spectral_norm", constraint == "spectral_norm_penalty"
    rounds, per_update = config.n_power_iterations, config.power_iteration == "per_update"
    layered, steep = config.norm == "layer", constraint in ("gradient_penalty", "r1")
    generator = torch_stream(config.seed, "gradient_penalty")
    shares = (torch.rand(config.batch_size, 1, 1, 1, generator=generator, dtype=torch.float64) for _ in iter(int, 1))

    def norm(x: Tensor, parameters: dict[str, Tensor], name: str) -> Tensor:
        if f"{name}.weight" not in parameters:
            if f"{name}.bias" not in parameters:
                return x
            mean, var = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), unbiased=False, keepdim=True)
            return (x - mean) / (var + 1e-5).sqrt() + parameters[f"{name}.bias"][:, None, None]
        gain, shift = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        return (x - mean) / (var + 1e-5).sqrt() * gain[:, None, None] + shift[:, None, None]

    def G(z: Tensor) -> Tensor:
        x = z[:, :, None, None]
        for i, stride in ((1, 2), (2, 1), (3, 2)):
            x = F.conv_transpose2d(x, g[f"deconv{i}.weight"], g[f"deconv{i}.bias"], stride=stride)
            x = norm(x, g, f"bn{i}").clamp_min(0)
        return torch.tanh(F.conv_transpose2d(x, g["deconv4.weight"], g["deconv4.bias"], stride=2))

    def D(x: Tensor) -> Tensor:
        for i, name in enumerate(names, start=1):
            weight = d[f"{name}.weight"]
            if normalized:
                if not per_update:
                    vectors[name].iterate(weight, rounds, "uv")  # torch's order
                weight = weight / vectors[name].sigma(weight)
            x = F.conv2d(x, weight, d[f"{name}.bias"], stride=2)
            x = x if i == 3 else F.leaky_relu(norm(x, d, f"ln{i}" if layered else f"bn{i}"), 0.2)
        return x.flatten()

    def slope_penalty(x_real: Tensor, x_fake: Tensor) -> Tensor:
        """WGAN-GP's or R1's, of squares that are summed up pixel by pixel."""
        share = next(shares)
        x = (share * x_real + (1 - share) * x_fake if constraint == "gradient_penalty" else x_real).requires_grad_()
        squares = sum(torch.autograd.grad(logit, x, create_graph=True)[0].pow(2).sum((1, 2, 3)) for logit in D(x))
        gap = (squares.sqrt() - 1) ** 2 if constraint == "gradient_penalty" else squares / 2
        return config.penalty_weight * gap.mean()

    def adam(parameters: dict[str, Tensor], memory: dict[str, list[Tensor]], t: int) -> Tensor:
        """One update; returns the norm of the gradient."""
        squares = torch.zeros(()).double()
        for name, p in parameters.items():
            m, v = memory.setdefault(name, [torch.zeros_like(p), torch.zeros_like(p)])
            assert p.grad is not None
            squares += (p.grad**2).sum()
            m = config.beta1 * m + (1 - config.beta1) * p.grad
            v = config.beta2 * v + (1 - config.beta2) * p.grad**2
            memory[name] = [m, v]
            step = m / (1 - config.beta1**t) / ((v / (1 - config.beta2**t)).sqrt() + 1e-8)
            p.data = p.data - config.lr * step
            p.grad = None
        return squares.sqrt()

    bce = nn.BCEWithLogitsLoss()
    z_d = _latents(config.seed, "z_d", config.batch_size, config.z_dim)
    z_g = _latents(config.seed, "z_g", config.batch_size, config.z_dim)
    real = _real_batches(config.seed, config.batch_size)
    memory_d: dict[str, list[Tensor]] = {}
    memory_g: dict[str, list[Tensor]] = {}
    rows, updates = [], 0
    ones, zeros = (f(config.batch_size, dtype=torch.float64) for f in (torch.ones, torch.zeros))
    for step in range(1, config.steps + 1):
        window: list[dict[str, float]] = []
        for _ in range(config.n_dis):
            updates += 1
            fake = G(next(z_d)).detach()
            if per_update or penalized:
                for name in names:
                    vectors[name].iterate(d[f"{name}.weight"], rounds, "vu")  # Algorithm 1's order
            x_real = next(real)
            logits_fake, logits_real = D(fake), D(x_real)
            loss_fake, loss_real = bce(logits_fake, zeros), bce(logits_real, ones)
            sigmas = [vectors[name].sigma(d[f"{name}.weight"]) for name in names]
            penalty = config.penalty_weight / 2 * sum(s**2 for s in sigmas) if penalized else zeros.sum()
            penalty = slope_penalty(x_real, fake) if steep else penalty
            loss_d = (loss_real + loss_fake) / 2 + penalty
            kernels = [d[f"{name}.weight"] for name in names]
            task = torch.autograd.grad((loss_real + loss_fake) / 2, kernels, retain_graph=True)
            pulls = {
                name: (
                    config.penalty_weight * s / (vectors[name].u @ gradient.flatten(1) @ vectors[name].v).abs()
                ).item()
                for name, s, gradient in zip(names, sigmas, task, strict=True)
            }
            loss_d.backward()
            said = {
                "loss/d": loss_d, "loss/d_adversarial": (loss_real + loss_fake) / 2, "loss/d_penalty": penalty,
                "loss/d_real": loss_real, "loss/d_fake": loss_fake, "logit/real": logits_real.mean(),
                "logit/fake": logits_fake.mean(), "logit/max_abs": torch.cat([logits_real, logits_fake]).abs().max(),
                "accuracy/d_real": (logits_real > 0).double().mean(),
                "accuracy/d_fake": (logits_fake < 0).double().mean(), "grad_norm/d": adam(d, memory_d, updates),
            }  # fmt: skip
            window.append({key: value.item() for key, value in said.items()})
            if constraint == "weight_clipping":
                for name in names:
                    d[f"{name}.weight"].data = d[f"{name}.weight"].data.clamp(-0.01, 0.01)
        loss_g = bce(D(G(next(z_g))), ones)
        loss_g.backward()
        for p in d.values():
            p.grad = None
        row = {key: float(np.mean([update[key] for update in window])) for key in window[0]}
        row["logit/max_abs"] = max(update["logit/max_abs"] for update in window)
        row |= {f"penalty_ratio/{name}": pull for name, pull in pulls.items() if penalized}
        rows.append(row | {"loss/g": loss_g.item(), "grad_norm/g": adam(g, memory_g, step).item()})
    return rows


@pytest.mark.parametrize(
    "changes",
    [
        *({"arm": arm} for arm in ARMS if ARMS[arm].constraint in _REFERENCES),
        {"arm": "dcgan", "init": "dcgan", "setting": "F"},
        {"arm": "sn_dcgan", "setting": "E", "seed": 0},
        {"arm": "sn", "n_power_iterations": 3},
        {"arm": "sn", "power_iteration": "per_update", "n_dis": 2},
        {"arm": "sn_dcgan", "power_iteration": "per_update", "n_power_iterations": 2},
        {"arm": "penalty", "penalty_weight": 0.5, "n_power_iterations": 2, "n_dis": 2},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_rows_are_those_of_an_independent_implementation(changes: dict[str, Any]) -> None:
    config = small(**{"seed": 3, "precision": "float64", "steps": 20, "log_every": 1, **changes})
    for row, expected in zip(rows_of(config)[1:], _reference(config), strict=True):
        for key, value in expected.items():
            # the rest is steeper: 100 updates at lr 1e-3 amplify rounding in gradients to 1e-8
            close = {"rel": 1e-6} if "ratio" in key else {"abs": 1e-9 if key.startswith("loss/") else 1e-7}
            assert row[key] == pytest.approx(value, **close), (row["step"], key)
        penalized = ARMS[config.arm].constraint == "spectral_norm_penalty"
        assert any("penalty_ratio" in key for key in row) == penalized


@pytest.mark.parametrize("arm", ARMS)
def test_samples_are_of_the_fixed_latents_of_the_seed(arm: str) -> None:
    """Equal in all arms: the stream `samples`, seen by G in eval mode."""
    config, state, images = small(arm=arm, seed=2, steps=5), {}, {}
    train(config, load("digits"), lambda row, samples: images.update({row["step"]: samples}), state.update)
    G, _, _ = build(config, "cpu")
    G.load_state_dict(state["G"])
    z = torch.randn(64, config.z_dim, generator=torch_stream(2, "samples"))
    assert torch.equal(images[5], G.eval()(z))


@pytest.mark.parametrize("arm", [arm for arm, row in ARMS.items() if row.constraint in _REFERENCES])
def test_estimates_before_training_are_those_of_the_streams(arm: str) -> None:
    """15 rounds from the layer's own stream; where the arm has no power iteration, one more of the instrument's."""
    config = small(arm=arm, seed=4, precision="float64")
    row = rows_of(dataclasses.replace(config, steps=1))[0]
    for name in ("conv1", "conv2", "conv3"):
        weight = _initial_weights(config)[1][f"{name}.weight"]
        vectors = _Vectors(4, name, weight)
        vectors.iterate(weight, ARMS[arm].constraint not in ("spectral_norm", "spectral_norm_penalty"), "vu")
        assert row[f"sigma_estimate/{name}"] == pytest.approx(vectors.sigma(weight).item(), rel=1e-12)


def resident_sizes() -> dict[int, int]:
    """Bytes per logged step of a process that keeps what it frees; the one evaluation, which needs more, comes last."""
    keep_memory()
    torch.set_num_threads(1)
    sizes: dict[int, int] = {}

    def log(row: dict[str, Any], samples: Tensor | None) -> None:
        sizes[row["step"]] = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    config = small(arm="sn_dcgan", batch_size=4, steps=2501, log_every=500, instrument_every=500, n_evaluations=1)
    train(config, load("digits"), log)
    return sizes


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # what other tests left behind moves by megabytes
        sizes = fresh.submit(resident_sizes).result()
    assert sizes[2500] - sizes[1000] < 0.5e6


def test_what_ran_before_in_the_process_moves_no_bit() -> None:
    first = rows_of(small(arm="sn"))
    torch.manual_seed(123)
    rows_of(small(arm="penalty", seed=9))
    torch.rand(1000)
    again = rows_of(small(arm="sn"))
    for a, b in zip(first, again, strict=True):
        assert {k: v for k, v in a.items() if "time" not in k} == {k: v for k, v in b.items() if "time" not in k}


def test_sn_holds_the_used_sigma_at_one_and_the_baseline_does_not() -> None:
    sn, plain = (rows_of(small(arm=arm, steps=60))[-1] for arm in ("sn_dcgan", "dcgan"))
    for layer in ("conv1", "conv2", "conv3"):
        assert sn[f"sigma/{layer}"] == pytest.approx(1, abs=0.05)
        assert abs(plain[f"sigma/{layer}"] - 1) > 0.1
        assert plain[f"sigma/{layer}"] == plain[f"sigma_raw/{layer}"]


@pytest.mark.parametrize("loss", ["hinge", "wasserstein"])
@pytest.mark.parametrize("power_iteration", ["per_forward", "per_update"])
def test_other_losses_and_cadences_train(loss: str, power_iteration: str) -> None:
    row = rows_of(small(arm="sn", loss=loss, power_iteration=power_iteration))[-1]
    assert ("accuracy/d_real" in row) == (loss == "hinge")
    assert row["sigma/conv1"] == pytest.approx(1, abs=0.1)


# --- resume ---


def stored(state: dict[str, Any]) -> dict[str, Any]:
    """As a checkpoint brings it back."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize(
    "changes",
    [
        *({"arm": arm} for arm in ONE_EACH),
        *(pytest.param({"arm": arm}, marks=pytest.mark.slow) for arm in ARMS if arm not in (*ONE_EACH, *FURTHER)),
        *({"arm": arm, "steps": 8, "log_every": 2, "instrument_every": 4, "n_evaluations": 1} for arm in FURTHER),
        {"arm": "sn", "power_iteration": "per_update", "n_dis": 2, "precision": "float64"},
        pytest.param({"arm": "penalty", "batch_size": 700, "steps": 20}, marks=pytest.mark.slow),  # an epoch ends
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_a_resumed_run_is_as_if_it_had_never_stopped(changes: dict[str, Any]) -> None:
    """From every step: rows, samples and final weights are those of the run that was never stopped."""
    config, data = small(**{"steps": 30, "seed": 5, "log_every": 5, "instrument_every": 10, **changes}), load("digits")

    def run(resume: dict[str, Any] | None, due: Any) -> tuple[dict[int, dict], dict[int, Tensor], list[dict]]:
        rows, samples, states = {}, {}, []

        def log(row: dict[str, Any], images: Tensor | None) -> None:
            rows[row["step"]] = {key: value for key, value in row.items() if not key.startswith("time/")}
            if images is not None:
                samples[row["step"]] = images

        train(config, data, log, lambda state: states.append(stored(state)), resume, due)
        return rows, samples, states

    rows, samples, states = run(None, lambda step: step in (4, 10, 17))
    assert [state["step"] for state in states] == [*(step for step in (4, 10, 17) if step < config.steps), config.steps]
    for state in states[:-1]:
        later_rows, later_samples, (final,) = run(state, None)
        assert later_rows == {step: row for step, row in rows.items() if step > state["step"]}
        assert all(torch.equal(later_samples[step], samples[step]) for step in samples if step > state["step"])
        for network in "GD":
            assert all(torch.equal(final[network][name], states[-1][network][name]) for name in final[network])
