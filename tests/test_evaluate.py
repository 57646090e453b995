"""Evaluations against other implementations (torchmetrics, scikit-learn, numpy) and samplers whose quality is known."""

import hashlib
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors
from test_data import write_idx
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from sngan import data, evaluate
from sngan.arms import ARMS
from sngan.config import InputError, RunConfig
from sngan.data import ImageData, load, normalized
from sngan.evaluate import EVALUATED, Evaluation
from sngan.state import build
from sngan.train import train
from sngan.yardstick import load_yardstick

DESIGN_KEYS = {
    f"eval/{name}"
    for name in ("fd", "fd_pixels", "kd", "kd_error", "precision", "recall", "density", "coverage", "modes", "modes_5",
                 "effective_modes", "mode_kl", "diversity")
}  # fmt: skip


def at_the_end(config: RunConfig) -> tuple[nn.Module, dict[str, float]]:
    """G as the training leaves it, and the last row's `eval/*`."""
    state, rows = {}, []
    train(config, load(config.dataset, config.data_dir), lambda row, samples: rows.append(row), state.update)
    G, _, _ = build(config, "cpu")
    G.load_state_dict(state["G"])
    return G, {key: value for key, value in rows[-1].items() if key.startswith("eval/")}


class Features(nn.Module):
    """The yardstick as torchmetrics wants it."""

    num_features = 64

    def forward(self, images: Tensor) -> Tensor:
        return load_yardstick("digits").network.features(images)


def pixel_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """Frechet distance of the means of 2x2 pixels, with the matrix square root of scipy."""
    a, b = (x.reshape(len(x), x.shape[1], 14, 2, 14, 2).mean((3, 5)).reshape(len(x), -1) for x in (real, fake))
    covariances = np.cov(a.T), np.cov(b.T)
    roots = np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex) ** 0.5
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + sum(map(np.trace, covariances)) - 2 * roots.real.sum()


def scores_of_others(config: RunConfig, G: nn.Module) -> dict[str, float]:
    """Everything once more, from the named streams up."""
    n = min(config.n_fake, 1797)
    chosen = np.random.default_rng(np.random.SeedSequence([0, zlib.crc32(b"evaluation")])).permutation(1797)[:n]
    real = load("digits").images[chosen].float() / 127.5 - 1
    seed = np.random.SeedSequence([config.seed, zlib.crc32(b"evaluation")]).generate_state(1, np.uint64)[0]
    z = torch.randn(config.n_fake, config.z_dim, generator=torch.Generator().manual_seed(int(seed)))
    G.eval()
    with torch.no_grad():
        fake = torch.cat([G(part) for part in z.split(37)])
        logits = load_yardstick("digits").network(fake)
    found = {}
    fid, kid = FrechetInceptionDistance(Features()), KernelInceptionDistance(Features(), subsets=1, subset_size=n)
    for metric in (fid.set_dtype(torch.float64), kid):
        metric.update(real, real=True)
        metric.update(fake[:n], real=False)
    found["eval/fd"], found["eval/kd"] = fid.compute().item(), kid.compute()[0].item()
    with torch.no_grad():
        f_real, f_fake = (Features()(x).double().numpy() for x in (real, fake[:n]))
    found["eval/fd_pixels"] = pixel_distance(real.numpy(), fake[:n].numpy())
    radii = [NearestNeighbors(n_neighbors=6).fit(x).kneighbors(x)[0][:, -1] for x in (f_real, f_fake)]
    distances = np.linalg.norm(f_real[:, None] - f_fake[None], axis=2)  # (real, fake)
    found["eval/precision"] = (distances < radii[0][:, None]).any(0).mean()
    found["eval/recall"] = (distances < radii[1][None]).any(1).mean()
    found["eval/density"] = (distances < radii[0][:, None]).sum(0).mean() / 5
    found["eval/coverage"] = (distances < radii[0][:, None]).any(1).mean()
    counts, classes = np.bincount(logits.argmax(1), minlength=10), np.bincount(load_digits().target)
    p = counts[counts > 0] / config.n_fake
    found["eval/modes"], found["eval/modes_5"] = (counts > 0).sum(), (counts >= 5).sum()
    found["eval/effective_modes"] = math.exp(-(p * np.log(p)).sum())
    found["eval/mode_kl"] = (p * np.log(p / (classes[counts > 0] / 1797))).sum()
    spread = [np.linalg.norm(x[:, None] - x[None], axis=2).sum() for x in (f_fake, f_real)]
    found["eval/diversity"] = spread[0] / spread[1]
    return found


def agrees_with_others(config: RunConfig) -> None:
    G, found = at_the_end(config)
    assert set(found) == DESIGN_KEYS == set(EVALUATED)
    for key, expected in scores_of_others(config, G).items():
        assert found[key] == pytest.approx(expected, rel=1e-3, abs=1e-4), key  # torchmetrics' MMD is in float32


# a preset of which the generator draws something within a minute's fraction
DRAWING = {"lr": 2e-3, "init": "dcgan", "steps": 60, "n_evaluations": 1, "n_fake": 150}


@pytest.mark.parametrize("arm", ["sn_dcgan", "plain"])
def test_evaluations_are_those_of_other_implementations(arm: str) -> None:
    agrees_with_others(small(arm=arm, seed=1, **DRAWING))


def test_a_planted_generator_in_train_mode_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def nothing(*networks: nn.Module) -> Iterator[None]:
        yield

    monkeypatch.setattr(evaluate, "evaluating", nothing)
    with pytest.raises(AssertionError):
        agrees_with_others(small(seed=1, **DRAWING))


def test_samples_that_are_partly_good_are_judged_as_by_others() -> None:
    """Digits below five, all noisy (a copy of a real lies on the edge of balls, where rounding decides), half moved."""
    order = digits_in_order(3)
    images = load("digits").images[order[load("digits").labels[order] < 5]][:700]
    images[::2] = images[::2].roll((3, 2), (2, 3))
    noise = torch.randint(-40, 40, images.shape, generator=torch.Generator().manual_seed(0))
    images = (images + noise).clamp(0, 255).to(torch.uint8)
    config = small(n_fake=700)
    found = Evaluation(config, load("digits"))(Sampler(images))
    for key, expected in scores_of_others(config, Sampler(images)).items():
        assert found[key] == pytest.approx(expected, rel=1e-3, abs=1e-4), key
    shares = [found[f"eval/{name}"] for name in ("precision", "recall", "density", "coverage", "diversity")]
    assert all(0.1 < share < 1.5 for share in shares)
    assert min(abs(a - b) for i, a in enumerate(shares) for b in shares[:i]) > 0.002  # none stands for another


def test_more_samples_than_images_count_in_modes_and_not_in_distances() -> None:
    evaluation = Evaluation(small(n_fake=1900), load("digits"))
    assert [evaluation.protocol[key] for key in ("n_real", "n_fake", "n_labels")] == [1797, 1797, 1900]
    images = torch.cat([load("digits").images, torch.zeros(103, 1, 28, 28, dtype=torch.uint8)])
    found = evaluation(Sampler(images))
    assert found["eval/fd"] == pytest.approx(0, abs=1e-6)  # the reals themselves, in another order
    p = np.bincount(load_yardstick("digits").embed(images)[1]) / 1900
    assert found["eval/effective_modes"] == pytest.approx(math.exp(-(p * np.log(p)).sum()))


def test_where_modes_need_more_samples_than_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunConfig, "n_compared", 100)  # as of stacked_mnist's 26,000 samples 5,000 are
    for n_labels in (400, 300):
        protocol = Evaluation(small(n_fake=n_labels), load("digits")).protocol
        assert [protocol[key] for key in ("n_real", "n_fake", "n_labels")] == [100, 100, n_labels]
        assert [protocol["real_against_real"][key] for key in ("n", "n_labels")] == [100, n_labels]
        assert [protocol["trivial_sampler"][key] for key in ("n", "n_labels")] == [100, 100]
    monkeypatch.undo()
    assert RunConfig(dataset="mnist", n_fake=9000).n_compared == 9000
    assert RunConfig(dataset="stacked_mnist", n_fake=9000).n_compared == 5000


def test_evaluations_come_at_their_steps_and_are_all_there() -> None:
    config, rows = small(steps=50, n_evaluations=2), []
    train(config, load("digits"), lambda row, samples: rows.append((row, samples)))
    for row, samples in rows:
        evaluated = row["step"] in config.evaluation_steps()
        assert (samples is not None) == evaluated
        assert {key for key in row if key.startswith("eval/")} == (DESIGN_KEYS if evaluated else set())
        assert ("time/evaluation_seconds" in row) == evaluated


# --- samplers whose quality is known ---


class Sampler(nn.Module):
    """Draws the given images in their order, whatever the latents."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images, self.drawn = images, 0

    def forward(self, z: Tensor) -> Tensor:
        self.drawn += len(z)
        return normalized(self.images[self.drawn - len(z) : self.drawn])


def digits_in_order(seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).permutation(1797))


def test_reals_score_like_reals_and_one_repeated_image_like_one_mode() -> None:
    config = small(n_fake=600)
    evaluation = Evaluation(config, load("digits"))
    reals, trivial = (evaluation.protocol[name] for name in ("real_against_real", "trivial_sampler"))
    good = evaluation(Sampler(load("digits").images[digits_in_order(5)]))
    for key in ("fd", "precision", "recall", "density", "coverage", "effective_modes", "diversity"):
        # a third of these samples is in the reference itself, so they are a little better
        assert good[f"eval/{key}"] == pytest.approx(reals[key], rel=0.5 if key == "fd" else 0.1), key
    assert good["eval/modes"] == good["eval/modes_5"] == 10
    assert abs(good["eval/kd"]) < 0.01 * trivial["kd"]
    assert good["eval/fd"] < 0.05 * trivial["fd"]
    stuck = evaluation(Sampler(load("digits").images[:1].repeat(600, 1, 1, 1)))
    assert (stuck["eval/modes"], stuck["eval/effective_modes"]) == (1, 1)
    assert stuck["eval/mode_kl"] == pytest.approx(math.log(1797 / 178))  # digits has 178 zeros
    assert stuck["eval/diversity"] == pytest.approx(0, abs=1e-6)
    assert stuck["eval/coverage"] < 0.02
    assert stuck["eval/fd"] > 0.5 * trivial["fd"]


def test_the_trivial_sampler_is_pixel_means_and_noise() -> None:
    """The same, simulated by numpy with other noise."""
    protocol = Evaluation(small(n_fake=1797), load("digits")).protocol
    pixels = load("digits").images.numpy() / 127.5 - 1
    noise = np.random.default_rng(7).normal(size=pixels.shape)
    images = torch.from_numpy(np.clip(pixels.mean(0) + pixels.std(0) * noise, -1, 1))
    fid = FrechetInceptionDistance(Features()).set_dtype(torch.float64)
    fid.update(torch.from_numpy(pixels).float(), real=True)
    fid.update(images.float(), real=False)
    assert protocol["trivial_fd"] == protocol["trivial_sampler"]["fd"] == pytest.approx(fid.compute().item(), rel=0.02)


def test_reals_against_reals_are_disjoint_halves() -> None:
    halves = Evaluation(small(n_fake=2000), load("digits")).protocol["real_against_real"]
    assert halves["n"] == 898
    chosen = np.random.default_rng(np.random.SeedSequence([0, zlib.crc32(b"evaluation")])).permutation(1797)
    first, second = (load_yardstick("digits").embed(load("digits").images[part])[0].double().numpy()
                     for part in (chosen[:898], chosen[898:1796]))  # fmt: skip
    fid = ((first.mean(0) - second.mean(0)) ** 2).sum()
    roots = np.sqrt(np.linalg.eigvals(np.cov(first.T) @ np.cov(second.T)).astype(complex)).real.sum()
    assert halves["fd"] == pytest.approx(fid + np.trace(np.cov(first.T) + np.cov(second.T)) - 2 * roots, rel=1e-4)
    assert halves["coverage"] == pytest.approx(1 - 0.5**5, abs=0.02)  # of equal distributions
    first, second = (load("digits").images[part].numpy() / 127.5 - 1 for part in (chosen[:898], chosen[898:1796]))
    assert halves["fd_pixels"] == pytest.approx(pixel_distance(first, second), rel=1e-4)


def test_noise_and_grey_backgrounds_fool_the_yardstick_and_not_the_pixels() -> None:
    """The two views: a grey background hardly moves fd, and moves fd_pixels far. Noise has precision and no shape."""
    evaluation = Evaluation(small(n_fake=800), load("digits"))
    reals, trivial = (evaluation.protocol[name] for name in ("real_against_real", "trivial_sampler"))
    images = load("digits").images[digits_in_order(5)][:800]
    good, grey = (evaluation(Sampler(x)) for x in (images, (images * 0.8 + 51).to(torch.uint8)))
    assert good["eval/fd_pixels"] < 1.1 * reals["fd_pixels"]
    assert grey["eval/fd"] < 0.1 * trivial["fd"]
    assert grey["eval/fd_pixels"] > 0.5 * trivial["fd_pixels"] > 5 * reals["fd_pixels"]
    assert trivial["precision"] > 0.7 > trivial["effective_modes"] / 10  # so fd and modes judge health
    assert evaluation.protocol["pixels"].startswith("means of 2x2 pixels in [-1, 1], 196 numbers")


# --- protocol, cache, trouble ---


def test_the_protocol_says_what_judges_and_on_what() -> None:
    protocol = Evaluation(small(n_fake=123), load("digits")).protocol
    assert protocol["reference_sha256"] == hashlib.sha256(load("digits").images.numpy().tobytes()).hexdigest()
    assert protocol["feature_net_sha256"] == load_yardstick("digits").sha256
    assert protocol["feature_net_accuracy"] >= 0.98
    assert (protocol["n_real"], protocol["n_fake"], protocol["k"], protocol["n_features"]) == (123, 123, 5, 64)
    assert protocol["batch_norm"] == "running statistics"


def test_arms_and_seeds_share_the_reference_which_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Evaluation(small(n_fake=77), load("digits"))
    monkeypatch.setattr(evaluate, "make_reference", None)
    for arm in ARMS:
        other = Evaluation(small(n_fake=77, arm=arm, seed=3), load("digits"))
        assert other.protocol == first.protocol
        assert not torch.equal(other.latents, first.latents)  # latents are the seed's


def test_samples_that_are_not_finite_are_recorded_as_such_and_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return torch.full((len(z), 1, 28, 28), torch.nan)

    assert all(math.isnan(value) for value in Evaluation(small(), load("digits"))(Broken()).values())
    monkeypatch.setattr(Evaluation, "__call__", lambda self, G: dict.fromkeys(EVALUATED, math.nan))
    outcome = train(small(), load("digits"), lambda row, samples: None)
    assert (outcome.state, outcome.step) == ("diverged", 10)
    assert "eval/fd" in outcome.reason


def test_too_few_images_to_judge_by_are_refused() -> None:
    digits = load("digits")
    few = ImageData("digits", digits.images[:39], digits.labels[:39], "few")
    with pytest.raises(InputError, match="digits has 39 images; to judge samples at least 40 are needed"):
        Evaluation(small(), few)


# --- stacked_mnist ---


@pytest.mark.usefixtures("any_files")
def test_stacked_images_are_judged_by_three_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "N_STACKED", 500)
    write_idx(tmp_path / "MNIST" / "raw")
    config = small(dataset="stacked_mnist", n_fake=700)
    stacked = load("stacked_mnist", str(tmp_path))
    evaluation = Evaluation(config, stacked)
    assert [evaluation.protocol[key] for key in ("n_real", "n_labels", "n_features")] == [500, 700, 192]
    assert "588 numbers an image" in evaluation.protocol["pixels"]
    found = evaluation(Sampler(stacked.images.repeat(2, 1, 1, 1)))
    _, labels = load_yardstick("stacked_mnist").embed(stacked.images.repeat(2, 1, 1, 1)[:700])
    p = np.bincount(labels) / 700
    p = p[p > 0]
    assert found["eval/modes"] == len(p)
    assert found["eval/mode_kl"] == pytest.approx((p * np.log(1000 * p)).sum())  # to the uniform one


@pytest.mark.slow
def test_a_perfect_sampler_of_stacked_mnist_hits_every_mode() -> None:
    root = data.data_root()
    if not (root / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
        pytest.skip(f"MNIST is not in {root}; set SNGAN_DATA")
    stacked = load("stacked_mnist")
    config = RunConfig(dataset="stacked_mnist")
    assert (config.n_fake, config.n_compared) == (26_000, 5_000)
    evaluation = Evaluation(config, stacked)
    found = evaluation(Sampler(stacked.images[-26_000:]))
    assert found["eval/modes"] == found["eval/modes_5"] == 1000
    assert found["eval/mode_kl"] == pytest.approx(999 / 52_000, rel=0.25)  # MNIST's classes are not quite equal
    stuck = evaluation(Sampler(stacked.images[:1].expand(26_000, -1, -1, -1)))
    assert (stuck["eval/modes"], stuck["eval/mode_kl"]) == (1, pytest.approx(math.log(1000)))
