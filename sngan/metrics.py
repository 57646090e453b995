"""How good and how varied samples are: distances and coverage as pure functions of features or labels.

Features are (n, d) arrays or tensors of any float or integer type. Everything is computed in float64 on the device of
`real`, arrays on the CPU; devices differ by rounding. No argument is changed. `real` and `fake` may differ in n, not in
d. Pairs of samples are visited in blocks of rows, so memory grows with n, never with n^2. Wrong arguments raise
ValueError: features that are no real numbers, no matrix, differ in width, have masked or non-finite entries or ones
beyond float32's largest (their cubes would overflow), or are too few; and counts that are no whole numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import entr, rel_entr
from torch import Tensor

from sngan.values import numbers, whole

# rows of a block of pairs: what fits into a CPU's cache, and what keeps a CUDA device busy (80 MB for 5,000 columns)
BLOCKS = {"cpu": 128, "cuda": 2048}
_MOST_MODES = 10_000_000
_LARGEST = float(np.finfo(np.float32).max)  # of features
_ROOM = 2.0**480  # features of this size have squares that are finite, and so has their smallest difference


def frechet_distance(real: Any, fake: Any) -> float:
    """|mu_r - mu_f|^2 + tr(C_r + C_f - 2 (C_r C_f)^(1/2)), with unbiased covariances (n - 1).

    With C = A'A, the eigenvalues of C_r C_f are the squared singular values of A_r A_f', so the last trace is a
    nuclear norm: real, and exact for singular covariances too (n <= d; at least 2 samples of each). Rounding is
    about 1e-15 of the traces; below zero it is cut off.

    Finite samples bias it upwards, for two sets of N(0, I) by about (d + d (d + 1) / 4) (1 / n_r + 1 / n_f): compare
    values of equal n only. Source: Heusel et al. 2017, for whom features were an Inception network's.
    """
    real, fake = _features(real, fake)
    means = real.mean(0), fake.mean(0)
    factors = [
        torch.linalg.qr((x - mean) / (len(x) - 1) ** 0.5, mode="r").R  # (min(n, d), d), R'R = C
        for x, mean in zip((real, fake), means, strict=True)
    ]
    traces = sum(factor.square().sum() for factor in factors)
    root_trace = torch.linalg.svdvals(factors[0] @ factors[1].T).sum()
    return max(0.0, float((means[0] - means[1]).square().sum() + traces - 2 * root_trace))


def kernel_distance(real: Any, fake: Any) -> float:
    """Squared maximum mean discrepancy under k(x, y) = (x.y / d + 1)^3, unbiased, so it may be negative.

    The mean of k over the pairs of distinct reals, plus the same of the fakes, minus twice the mean over
    (real, fake); at least 2 samples of each. Source: Binkowski et al. 2018.
    Deviation: over all pairs, where they average over random subsets.
    """
    return _mmd2(*_features(real, fake))


def kernel_distance_error(real: Any, fake: Any, blocks: int = 10) -> float:
    """Standard error of the mean of kernel_distance over `blocks` disjoint parts of both sets.

    The parts follow the order of the rows, which must be random, and differ by at most one row in size; each needs
    2 samples of either set. For `kernel_distance` itself, which uses all pairs, this error is about right where the
    distributions differ clearly; where they are equal it is too large, by a factor of about sqrt(blocks).
    """
    if whole(blocks, "blocks", 0) < 2:
        raise ValueError(f"a standard error needs at least 2 blocks, got {blocks}")
    real, fake = _features(real, fake, fewest=2 * blocks, why=f"2 in each of {blocks} blocks")
    parts = zip(real.tensor_split(blocks), fake.tensor_split(blocks), strict=True)
    distances = [_mmd2(*part) for part in parts]
    scale = _power_of_two(max(map(abs, distances)))  # their squares may be too large
    return float(np.std([distance / scale for distance in distances], ddof=1) * scale / blocks**0.5)


class PRDC(NamedTuple):
    precision: float  # share of fakes inside the ball of at least one real
    recall: float  # share of reals inside the ball of at least one fake
    density: float  # number of reals whose ball a fake is in, mean over fakes, / k; may exceed 1
    coverage: float  # share of reals whose ball has at least one fake in it


def prdc(real: Any, fake: Any, k: int = 5) -> PRDC:
    """Precision, recall, density and coverage by the balls that reach from each sample to its k-th neighbour.

    Neighbours are of the same set, the sample itself excluded, copies of it included; so each set needs k + 1
    samples. Balls are open: a distance equal to the radius is outside, and a sample with k copies has an empty ball.
    Comparisons are those of directly computed Euclidean distances, so copies and ties are decided exactly; where
    there are many, it takes several times as long.

    Two sets of one distribution have an expected density of 1 and coverage of about 1 - (n_r / (n_r + n_f))^k.
    Source: Kynkaanniemi et al. 2019 (precision, recall), Naeem et al. 2020 (density, coverage).
    Deviation: the balls of Kynkaanniemi et al. are closed; these are those of Naeem et al.'s code, for all four.
    """
    k = whole(k, "k", 1)
    real, fake = _features(real, fake, fewest=k + 1, why=f"the {k} neighbours of a sample and itself")
    enlarge = _ROOM / _power_of_two(float(max(real.abs().max(), fake.abs().max())))
    real, fake = real * enlarge, fake * enlarge
    radii_real, radii_fake = _squared_radii(real, k), _squared_radii(fake, k)
    centre = torch.cat([real, fake]).mean(0)
    balls = torch.zeros(len(fake), dtype=torch.int64, device=fake.device)  # per fake: how many reals' balls it is in
    recalled = covered = 0
    for rows in _blocks(real):
        radii = radii_real[rows, None]
        squares, bound = _squares_by_products(real[rows] - centre, fake - centre)  # (B, n_f), (B, 1)
        unsure = ((squares - radii).abs() <= bound) | ((squares - radii_fake).abs() <= bound)
        again = unsure.any(1)
        squares[again] = _squares(real[rows[again]], fake)
        inside = squares < radii
        balls += inside.sum(0)
        covered += int(inside.any(1).sum())
        recalled += int((squares < radii_fake).any(1).sum())
    return PRDC(
        precision=float((balls > 0).double().mean()),
        recall=recalled / len(real),
        density=float(balls.double().mean()) / k,
        coverage=covered / len(real),
    )


class ModeCoverage(NamedTuple):
    modes: int  # classes hit by at least one sample
    kl: float  # nats; inf if samples fall on a class that the reference lacks
    effective_modes: float  # exp(entropy) of the samples' histogram: n_modes if uniform, 1 if all in one
    modes_5: int  # classes hit by at least 5 samples


def mode_coverage(labels: Any, n_modes: int, reference: Any = None) -> ModeCoverage:
    """How a classifier's labels of the samples, integers in [0, n_modes), spread over the classes.

    `kl` is KL(samples || reference); the reference is a histogram of length n_modes (counts or probabilities),
    uniform by default. A perfect sampler of n samples still has a kl of about (n_modes - 1) / (2 n).
    Raises ValueError for labels that are empty, no integers, not one-dimensional or out of range, and for a
    reference of another length, with negative or non-finite entries, or of sum zero.
    """
    n_modes = whole(n_modes, "n_modes", 1)
    if n_modes > _MOST_MODES:
        raise ValueError(f"n_modes must be at most {_MOST_MODES:,}, got {n_modes}")
    values = numbers(labels, "labels").cpu().numpy()
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"labels must be a vector of at least one label, got shape {values.shape}")
    kind = str(labels.dtype if isinstance(labels, Tensor) else np.asarray(labels).dtype).removeprefix("torch.")
    if not kind.startswith(("int", "uint")):
        raise ValueError(f"labels must be integers, got {kind}")
    if values.min() < 0 or values.max() >= n_modes:
        raise ValueError(f"labels must be in 0..{n_modes - 1}, got {values.min():.0f}..{values.max():.0f}")
    counts = np.bincount(values.astype(np.int64), minlength=n_modes)
    target = np.ones(n_modes) if reference is None else numbers(reference, "reference").cpu().numpy()
    if target.shape != (n_modes,):
        raise ValueError(f"reference must be a histogram of length {n_modes}, got shape {target.shape}")
    if not np.isfinite(target).all() or target.min() < 0 or not target.any():
        raise ValueError("reference must have finite entries, none negative and at least one positive")
    target = target / _power_of_two(target.max())  # the sum may be too large
    p, q = counts / counts.sum(), target / target.sum()
    return ModeCoverage(
        modes=int((counts > 0).sum()),
        kl=max(0.0, float(rel_entr(p, q).sum())),  # equal histograms may differ by a rounding
        effective_modes=float(np.exp(entr(p).sum())),
        modes_5=int((counts >= 5).sum()),
    )


def diversity(real: Any, fake: Any) -> float:
    """Mean Euclidean distance between two distinct fakes, over that between two distinct reals.

    1 where fakes vary as reals do, 0 for one image repeated. At least 2 samples of each; reals that are all equal
    have no distance to compare with and raise ValueError. Rounding is below 1e-6 of the value.
    """
    real, fake = _features(real, fake)
    if (real == real[0]).all():
        raise ValueError(f"the {len(real)} rows of real are all equal; diversity needs at least 2 different ones")
    means, scales = [], []
    for x in (real, fake):
        centred = x - x.mean(0)
        scales.append(_power_of_two(float(centred.abs().max())))
        means.append(_mean_over_distinct_pairs(torch.cdist, centred * (_ROOM / scales[-1])))
    if math.isinf(found := means[1] / means[0] * (scales[1] / scales[0])):
        raise ValueError("the rows of real differ by so little that the ratio has no number")
    return found


def _features(real: Any, fake: Any, fewest: int = 2, why: str = "a spread") -> tuple[Tensor, Tensor]:
    """Both as checked (n, d) float64 matrices of at least `fewest` rows."""
    real = numbers(real, "real")
    fake = numbers(fake, "fake").to(real.device)
    for name, x in (("real", real), ("fake", fake)):
        if x.ndim != 2 or x.shape[1] == 0:
            raise ValueError(f"{name} must be a matrix (samples, features), got shape {tuple(x.shape)}")
        if len(x) < fewest:
            raise ValueError(f"{name} has {len(x)} samples; at least {fewest} are needed for {why}")
        if bad := int((~x.isfinite()).any(1).sum()):
            raise ValueError(f"{bad} of the {len(x)} rows of {name} are not finite; all must be")
        if (largest := float(x.abs().max())) > _LARGEST:
            raise ValueError(f"{name} has an entry of size {largest:.3g}; at most {_LARGEST:.3g} is possible")
    if real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"real has {real.shape[1]} features and fake {fake.shape[1]}; both must come from the same network"
        )
    return real, fake


def _power_of_two(number: float) -> float:
    """Of about the number's size, by which dividing costs no digit; 1 for 0."""
    return 2.0 ** min(max(-500, math.frexp(number)[1]), 1023) if number else 1.0


def _blocks(x: Tensor) -> tuple[Tensor, ...]:
    """The indices of the rows of x, in blocks."""
    return torch.arange(len(x), device=x.device).split(BLOCKS[x.device.type])


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """(A, d), (B, d) -> (A, B): (a.b / d + 1)^3."""
    return (a @ b.T).div_(a.shape[1]).add_(1).pow_(3)


def _mean_over_distinct_pairs(function: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> float:
    """Mean of a symmetric function over all pairs of two different rows."""
    total, start = 0.0, 0
    for rows in x.split(BLOCKS[x.device.type]):
        # rows start.. against columns start..: above the diagonal each pair stands once
        total += float(function(rows, x[start:]).triu_(1).sum())
        start += len(rows)
    return total / (len(x) * (len(x) - 1) / 2)


def _mmd2(real: Tensor, fake: Tensor) -> float:
    rows = real.split(BLOCKS[real.device.type])
    across = sum(float(_kernel(a, fake).sum()) for a in rows) / (len(real) * len(fake))
    return _mean_over_distinct_pairs(_kernel, real) + _mean_over_distinct_pairs(_kernel, fake) - 2 * across


def _squares(a: Tensor, b: Tensor) -> Tensor:
    """(..., A, d), (..., B, d) -> (..., A, B) squared distances from the differences: equal pairs give equal bits."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square_()


def _squares_by_products(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(A, B) squared distances as |a|^2 + |b|^2 - 2 a.b, several times as fast, and (A, 1) bounds on their rounding.

    The bound is a few times (d + some) eps (|a|^2 + |b|^2), which covers the rounding of `_squares`, and of centring
    a and b, as well.
    """
    norms_a, norms_b = a.square().sum(1, keepdim=True), b.square().sum(1)
    bound = 8 * (a.shape[1] + 8) * torch.finfo(a.dtype).eps * (norms_a + norms_b.max())
    return (a @ b.T).mul_(-2).add_(norms_a).add_(norms_b), bound


def _squared_radii(x: Tensor, k: int) -> Tensor:
    """(n,) squared distance, as by `_squares`, of each row to the k-th nearest of the others."""
    centred = x - x.mean(0)
    radii = torch.empty(len(x), dtype=x.dtype, device=x.device)
    for rows in _blocks(x):
        squares, bound = _squares_by_products(centred[rows], centred)
        squares[rows - rows[0], rows] = torch.inf  # no row is its own neighbour
        kth, neighbour = (found[:, -1] for found in squares.topk(k, largest=False))
        radii[rows] = _squares(x[rows, None], x[neighbour, None]).flatten()
        # which one is the k-th is unsure where another row is as far, up to rounding
        again = rows[((squares - kth[:, None]).abs() <= 2 * bound).sum(1) > 1]
        squares = _squares(x[again], x)
        squares[torch.arange(len(again), device=x.device), again] = torch.inf
        radii[again] = squares.topk(k, largest=False).values[:, -1]
    return radii
