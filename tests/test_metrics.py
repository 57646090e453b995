"""Metrics against closed forms, brute force, independent implementations and simulations."""

import itertools
import resource

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.neighbors import NearestNeighbors

from sngan import metrics
from sngan.metrics import diversity, frechet_distance, kernel_distance, kernel_distance_error, mode_coverage, prdc


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def with_moments(seed: int, n: int, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Samples whose mean and unbiased covariance are exactly these."""
    x = normal(seed, n, len(mean))
    x -= x.mean(0)
    whitened = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return mean + whitened @ np.linalg.cholesky(covariance).T


# --- frechet_distance ---


def test_frechet_distance_of_known_gaussians() -> None:
    """Diagonal covariances: |difference of means|^2 + sum (s - t)^2 of the standard deviations."""
    s, t, mean = np.array([1.0, 2.0, 0.5]), np.array([3.0, 0.1, 0.5]), np.array([1.0, -2.0, 0.25])
    real, fake = with_moments(0, 50, np.zeros(3), np.diag(s**2)), with_moments(1, 80, mean, np.diag(t**2))
    assert frechet_distance(real, fake) == pytest.approx((mean**2).sum() + ((s - t) ** 2).sum(), rel=1e-12)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-12)


def test_frechet_distance_is_that_of_the_matrix_square_root() -> None:
    mixing = normal(2, 6, 6)
    real, fake = normal(0, 40, 6) @ mixing, 1 + normal(1, 30, 6) @ mixing[::-1]
    covariances = np.cov(real.T), np.cov(fake.T)
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    means = ((real.mean(0) - fake.mean(0)) ** 2).sum()
    assert frechet_distance(real, fake) == pytest.approx(means + np.trace(sum(covariances) - 2 * root), rel=1e-9)


def test_frechet_distance_knows_no_axes_and_fewer_samples_than_features() -> None:
    real, fake = normal(0, 12, 30), 1 + 2 * normal(1, 15, 30)
    rotation, shift = np.linalg.qr(normal(2, 30, 30))[0], 5 * normal(3, 30)
    expected = frechet_distance(real, fake)
    assert frechet_distance(real @ rotation + shift, fake @ rotation + shift) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(fake, real) == pytest.approx(expected, rel=1e-12)
    padded = (np.pad(x, ((0, 0), (0, 9))) for x in (real, fake))  # features that never vary
    assert frechet_distance(*padded) == pytest.approx(expected, rel=1e-9)


def test_the_known_bias_of_equal_gaussians() -> None:
    """About (d + d (d + 1) / 4) (1 / n + 1 / m): same n for all that is compared."""
    rng, d, n = np.random.default_rng(0), 5, 200
    found = np.mean([frechet_distance(rng.normal(size=(n, d)), rng.normal(size=(n, d))) for _ in range(300)])
    assert found == pytest.approx((d + d * (d + 1) / 4) * 2 / n, rel=0.1)


# --- kernel_distance ---


def kernel_distance_by_loops(real: np.ndarray, fake: np.ndarray) -> float:
    def mean(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
        return float(np.mean([(a @ b / len(a) + 1) ** 3 for a, b in pairs]))

    within = [mean([(x[i], x[j]) for i, j in itertools.permutations(range(len(x)), 2)]) for x in (real, fake)]
    return sum(within) - 2 * mean(list(itertools.product(real, fake)))


def test_kernel_distance_is_that_of_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = normal(0, 23, 4), 0.5 + normal(1, 17, 4)
    expected = kernel_distance_by_loops(real, fake)
    for block in (1, 5, 128):
        monkeypatch.setitem(metrics.BLOCKS, "cpu", block)
        assert kernel_distance(real, fake) == pytest.approx(expected, rel=1e-10)
    assert kernel_distance(real[::-1], fake[::-1]) == pytest.approx(expected, rel=1e-10)


def test_kernel_distance_is_unbiased() -> None:
    rng = np.random.default_rng(0)
    values = [kernel_distance(rng.normal(size=(20, 3)), rng.normal(size=(20, 3))) for _ in range(500)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 500**0.5
    assert min(values) < 0


def test_the_error_of_the_kernel_distance() -> None:
    """Of disjoint blocks; where distributions differ clearly it is about the spread over repeated samples."""
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(40, 3)), 1 + rng.normal(size=(40, 3))
    parts = [kernel_distance_by_loops(real[i : i + 10], fake[i : i + 10]) for i in range(0, 40, 10)]
    assert kernel_distance_error(real, fake, 4) == pytest.approx(np.std(parts, ddof=1) / 2, rel=1e-9)
    pairs = [(rng.normal(size=(300, 3)), 1 + rng.normal(size=(300, 3))) for _ in range(100)]
    spread = np.std([kernel_distance(*pair) for pair in pairs])
    assert np.mean([kernel_distance_error(*pair) for pair in pairs]) == pytest.approx(spread, rel=0.25)


# --- prdc ---


def prdc_by_neighbours(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float, float, float]:
    radii = [NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x)[0][:, -1] for x in (real, fake)]
    distances = np.linalg.norm(real[:, None] - fake, axis=2)
    inside = distances < radii[0][:, None]
    return inside.any(0).mean(), (distances < radii[1]).any(1).mean(), inside.sum(0).mean() / k, inside.any(1).mean()


@pytest.mark.parametrize("k", [1, 5])
def test_prdc_is_that_of_brute_force(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = normal(0, 70, 3), 0.7 + 0.8 * normal(1, 50, 3)
    expected = prdc_by_neighbours(real, fake, k)
    assert min(expected) > 0
    assert max(expected[0], expected[1]) < 1
    for block in (1, 7, 128):
        monkeypatch.setitem(metrics.BLOCKS, "cpu", block)
        assert prdc(real, fake, k) == pytest.approx(expected)
    assert prdc(real[::-1], fake[::-1], k) == pytest.approx(expected)
    assert prdc(real + 1e6, fake + 1e6, k) == pytest.approx(expected)  # far from the origin


def test_balls_are_open_and_copies_are_decided_exactly() -> None:
    grid = np.array(list(itertools.product(range(6), range(6))), dtype=float)  # every distance is a tie
    shifted = grid + np.array([1, 0])
    assert prdc(grid, shifted, 2) == pytest.approx(prdc_by_neighbours(grid, shifted, 2))
    same = np.ones((10, 3))
    assert prdc(same, same + 1e-9) == (0, 0, 0, 0)  # balls of radius 0 hold nothing, not even their centre
    assert prdc(same + 1e-9, same) == (0, 0, 0, 0)
    real = normal(0, 40, 3)
    copied = prdc(real, real)
    assert (copied.precision, copied.recall, copied.coverage) == (1, 1, 1)
    for k in (1, 5):  # a ball holds its centre and k - 1 neighbours; the k-th lies on its edge, exactly
        assert prdc(real + 100, real + 100, k).density == 1


def test_coverage_of_real_by_real_is_not_one() -> None:
    """1 - (n_r / (n_r + n_f))^k: 0.969 for equal n, and much less for few fakes."""
    found = [prdc(normal(2 * i, 400, 8), normal(2 * i + 1, 400, 8)).coverage for i in range(10)]
    assert np.mean(found) == pytest.approx(1 - 0.5**5, abs=0.01)
    few = [prdc(normal(2 * i, 960, 8), normal(2 * i + 1, 80, 8)).coverage for i in range(10)]
    assert np.mean(few) == pytest.approx(1 - (12 / 13) ** 5, abs=0.03)


# --- modes and diversity ---


def test_a_perfect_sampler_of_a_thousand_modes() -> None:
    labels = np.random.default_rng(0).integers(1000, size=26_000)
    found = mode_coverage(labels, 1000)
    assert found.modes == 1000
    assert found.kl == pytest.approx(999 / 52_000, rel=0.2)  # 0.0192
    assert found.effective_modes == pytest.approx(1000, rel=0.03)


def test_a_sampler_stuck_on_one_image() -> None:
    found = mode_coverage(np.full(26_000, 7), 1000)
    assert (found.modes, found.modes_5) == (1, 1)
    assert (found.kl, found.effective_modes) == (pytest.approx(np.log(1000)), pytest.approx(1))


def test_mode_coverage_by_hand() -> None:
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 2, 2])
    found = mode_coverage(labels, 4, reference=[2, 1, 1, 0])
    p = np.array([5, 1, 2]) / 8
    assert (found.modes, found.modes_5) == (3, 1)
    assert found.kl == pytest.approx((p * np.log(p / [0.5, 0.25, 0.25])).sum())
    assert found.effective_modes == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert mode_coverage(labels, 4, reference=[1, 1, 0, 1]).kl == np.inf
    assert mode_coverage([0, 1, 0, 1], 2, reference=[5, 5]).kl == 0


def test_diversity_is_the_ratio_of_mean_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = normal(0, 31, 5), 3 + 0.3 * normal(1, 20, 5)
    means = [np.mean([np.linalg.norm(a - b) for a, b in itertools.combinations(x, 2)]) for x in (fake, real)]
    for block in (1, 6, 128):
        monkeypatch.setitem(metrics.BLOCKS, "cpu", block)
        assert diversity(real, fake) == pytest.approx(means[0] / means[1], rel=1e-6)
    assert diversity(real, np.repeat(fake[:1], 9, axis=0)) == pytest.approx(0, abs=1e-6)


# --- all of them ---

OF_FEATURES = [frechet_distance, kernel_distance, kernel_distance_error, prdc, diversity]


@pytest.mark.parametrize("metric", OF_FEATURES)
def test_arrays_and_tensors_give_one_number_and_are_left_alone(metric) -> None:
    real, fake = normal(0, 40, 6).astype(np.float32), normal(1, 30, 6).astype(np.float32)
    before = real.copy(), fake.copy()
    expected = metric(real.astype(np.float64), fake.astype(np.float64))
    assert metric(real, fake) == expected
    assert metric(torch.from_numpy(real), torch.from_numpy(fake).requires_grad_()) == expected
    assert metric(torch.from_numpy(real).double(), fake) == expected
    assert np.array_equal(real, before[0])
    assert np.array_equal(fake, before[1])


@pytest.mark.parametrize("metric", OF_FEATURES)
def test_mistakes_are_named(metric) -> None:
    real, fake = normal(0, 40, 6), normal(1, 30, 6)
    broken = fake.copy()
    broken[3, 2], broken[7, 0] = np.nan, np.inf
    for arguments, message in (
        ((real, fake[:, :5]), "real has 6 features and fake 5"),
        ((real, broken), "2 of the 30 rows of fake are not finite"),
        ((real[:1], fake), "real has 1 samples; at least"),
        ((real, fake[0]), r"fake must be a matrix \(samples, features\), got shape \(6,\)"),
        ((real, 1e200 * fake), r"fake has an entry of size .*e\+200; at most 3.4e\+38"),
        ((real + 0j, fake), "real must be real numbers"),
        ((np.ma.masked_array(real, mask=real > 1), fake), "real has masked entries"),
        ((real.astype(str), fake), "real must be numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            metric(*arguments)


def test_mistakes_of_their_own() -> None:
    real = normal(0, 12, 3)
    for call, message in (
        (lambda: prdc(real, real[:5]), "fake has 5 samples; at least 6"),
        (lambda: prdc(real, real, 0), "k must be at least 1"),
        (lambda: prdc(real, real, 3.0), "k must be a whole number, got 3.0"),
        (lambda: kernel_distance_error(real, real, 2.5), "blocks must be a whole number"),
        (lambda: mode_coverage([0], 3.0), "n_modes must be a whole number"),
        (lambda: mode_coverage(np.ma.masked_array([0, 1], mask=[0, 1]), 3), "labels has masked entries"),
        (lambda: mode_coverage(["0"], 3), "labels must be numbers"),
        (lambda: kernel_distance_error(real, real), "at least 20 are needed for 2 in each of 10 blocks"),
        (lambda: kernel_distance_error(real, real, 1), "at least 2 blocks"),
        (lambda: diversity(np.ones((5, 3)), real), "all equal"),
        (lambda: mode_coverage([], 3), "at least one label"),
        (lambda: mode_coverage([0.5], 3), "must be integers"),
        (lambda: mode_coverage([0, 3], 3), r"must be in 0\.\.2, got 0\.\.3"),
        (lambda: mode_coverage([-1], 3), r"got -1\.\.-1"),
        (lambda: mode_coverage([0], 0), "n_modes must be at least 1"),
        (lambda: mode_coverage([0], 3, [1, 1]), "histogram of length 3"),
        (lambda: mode_coverage([0], 2, [1, -1]), "none negative"),
        (lambda: mode_coverage([0], 2, [0, 0]), "at least one positive"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("scale", [1e-200, 1e37])
def test_what_knows_no_scale_is_the_same_at_every_scale(scale: float) -> None:
    real, fake = normal(0, 30, 3), normal(1, 40, 3)
    assert prdc(scale * real, scale * fake) == prdc(real, fake)
    assert diversity(scale * real, scale * fake) == pytest.approx(diversity(real, fake))
    assert diversity(scale * real, fake) == pytest.approx(diversity(real, fake) / scale)


def test_an_outlier_among_tiny_features_hides_nothing() -> None:
    real, fake, outlier = normal(0, 30, 3), normal(1, 40, 3), np.ones((1, 3))
    assert prdc(np.vstack([real * 1e-165, outlier]), fake * 1e-165) == prdc(
        np.vstack([real * 1e-30, outlier]), fake * 1e-30
    )


def test_numbers_whose_squares_or_sums_are_too_large() -> None:
    real, fake = normal(0, 30, 3), normal(1, 40, 3)
    assert kernel_distance_error(real * 1e30, fake * 1e30, 4) == pytest.approx(
        1e60 * kernel_distance_error(real * 1e20, fake * 1e20, 4), rel=1e-6
    )
    assert mode_coverage([0, 1, 2, 2], 3, [1e308] * 3) == mode_coverage([0, 1, 2, 2], 3)
    with pytest.raises(ValueError, match="n_modes must be at most"):
        mode_coverage([0], 10**30)
    with pytest.raises(ValueError, match="differ by so little"):
        diversity(real * 1e-315, fake)


@pytest.mark.slow
def test_memory_is_bounded_for_many_samples() -> None:
    """14,000 samples of each: a matrix of all pairs alone would be 1.6 GB."""
    real, fake = normal(0, 14_000, 64), normal(1, 14_000, 64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert abs(kernel_distance(real, fake)) < 0.01
    assert prdc(real, fake).coverage == pytest.approx(1 - 0.5**5, abs=0.02)
    assert diversity(real, fake) == pytest.approx(1, abs=0.01)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # kB
