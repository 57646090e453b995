"""How good a generator's samples are: distances to real images, and modes, in the features of the yardstick."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from sngan.config import InputError, RunConfig
from sngan.data import ImageData, normalized
from sngan.datasets import DATASETS, is_many
from sngan.measure import evaluating
from sngan.metrics import diversity, frechet_distance, kernel_distance, kernel_distance_error, mode_coverage, prdc
from sngan.quantities import EVALUATED
from sngan.streams import normal, numpy_generator, torch_generator
from sngan.yardstick import Yardstick, load_yardstick

NEIGHBOURS = 5  # k of precision, recall, density and coverage
_FEWEST = 20  # samples of each that the metrics need
_BATCH = 250  # samples that are in memory at once


class Judged(NamedTuple):
    """What images are judged by: two views of them, and the yardstick's labels."""

    features: Tensor  # (n, n_features) float32
    pixels: Tensor  # (n, C * (side / 2)^2) float64 in [-1, 1]: the means of 2x2 pixels
    labels: Tensor  # (n,) int64

    def first(self, n: int) -> Judged:
        return Judged(*(of_all[:n] for of_all in self))


class Reference(NamedTuple):
    """The real images that samples are compared with, the same in all runs of a data set and n."""

    images: Judged
    class_counts: np.ndarray  # (classes,) of the whole data set
    scale: dict[str, Any]  # what reals score against reals, and the trivial sampler against reals


class Evaluation:
    """Judges one run's generator: always from the same latents, those of the seed's stream `evaluation`.

    `protocol` says how, and what scores mean: it belongs beside every number. Raises InputError if the data set
    is too small to be judged, and what `load_yardstick` raises.
    """

    def __init__(self, config: RunConfig, data: ImageData) -> None:
        device = data.images.device
        self._yardstick = load_yardstick(config.dataset, config.data_dir, device)
        n_images = len(data.images)
        if n_images < 2 * _FEWEST:
            raise InputError(f"{data.name} has {n_images} images; to judge samples at least {2 * _FEWEST} are needed")
        self._n = min(config.n_compared, n_images)
        self._reference = _reference(data, self._yardstick, self._n, config.n_fake)
        generator = torch_generator(config.seed, "evaluation")
        self.latents = normal((config.n_fake, config.z_dim), generator, getattr(torch, config.dtype), device)
        self.protocol = {
            "dataset": config.dataset,
            "reference": f"{self._n} of the {n_images} training images, drawn once for all runs",
            "reference_sha256": data.digest,
            "n_real": self._n,
            "n_fake": self._n,
            "n_labels": config.n_fake,
            "feature_net": f"{self._yardstick.dataset}'s yardstick, penultimate layer",
            "feature_net_sha256": self._yardstick.sha256,
            "feature_net_accuracy": self._yardstick.accuracy,
            "n_features": self._yardstick.n_features,
            "pixels": f"means of 2x2 pixels in [-1, 1], {self._reference.images.pixels.shape[1]} numbers an image",
            "batch_norm": "running statistics",
            "k": NEIGHBOURS,
            **self._reference.scale,
        }

    @torch.no_grad()
    def __call__(self, G: nn.Module) -> dict[str, Any]:
        """`eval/*` of G in eval mode: distances by the first n samples, modes by all. NaN if samples are not finite.

        Beside them `class_counts`: how many samples the yardstick takes for each class, absent if they are not
        finite. Nothing of G is moved; afterwards it is in train mode. Of a G on another device a copy is judged.
        """
        if next(G.parameters(), self.latents).device != self.latents.device:
            G = copy.deepcopy(G).to(self.latents.device)
        with evaluating(G):
            parts = [judge(self._yardstick, G(z)) for z in self.latents.split(_BATCH)]
        fake = Judged(*map(torch.cat, zip(*parts, strict=True)))
        if not (fake.features.isfinite().all() and fake.pixels.isfinite().all()):
            return dict.fromkeys(EVALUATED, float("nan"))
        counts = self._reference.class_counts
        found = torch.bincount(fake.labels, minlength=len(counts)).tolist()
        return scores(self._reference.images, fake.first(self._n), fake.labels, counts) | {"class_counts": found}


def judge(yardstick: Yardstick, images: Tensor) -> Judged:
    """Images (n, C, side, side), uint8 or in [-1, 1], as the yardstick sees them, and at half their size."""
    features, labels = yardstick.embed(images)
    pixels = normalized(images, torch.float64) if images.dtype == torch.uint8 else images.double()
    return Judged(features, avg_pool2d(pixels, 2).flatten(1), labels)


def scores(real: Judged, fake: Judged, labels: Tensor, class_counts: np.ndarray) -> dict[str, float]:
    """`eval/*` of fakes against as many reals, modes by `labels` (of more fakes, as a rule) against the class counts.

    Of many classes (stacked_mnist) the reference is uniform, as its modes are usually counted.
    `eval/fd_pixels` is the view that noise and grey backgrounds do not fool, as they fool precision, density and a
    yardstick that was trained against them; noise with the pixels' means and covariances fools it in turn.
    """
    features = real.features, fake.features
    neighbours = prdc(*features, NEIGHBOURS)
    reference = None if is_many(len(class_counts)) else class_counts
    modes = mode_coverage(labels, len(class_counts), reference)
    return {
        "eval/fd": frechet_distance(*features),
        "eval/fd_pixels": frechet_distance(real.pixels, fake.pixels),
        "eval/kd": kernel_distance(*features),
        "eval/kd_error": kernel_distance_error(*features),
        "eval/precision": neighbours.precision,
        "eval/recall": neighbours.recall,
        "eval/density": neighbours.density,
        "eval/coverage": neighbours.coverage,
        "eval/modes": modes.modes,
        "eval/modes_5": modes.modes_5,
        "eval/effective_modes": modes.effective_modes,
        "eval/mode_kl": modes.kl,
        "eval/diversity": diversity(*features),
    }


references: dict[tuple, Reference] = {}  # the last two: a sweep's worker takes run after run of the same data set


def _reference(data: ImageData, yardstick: Yardstick, n: int, n_labels: int) -> Reference:
    """From the cache, by the data set's and the yardstick's hashes; bits depend on device and threads, so these too."""
    key = (data.digest, yardstick.sha256, n, n_labels, str(data.images.device), torch.get_num_threads())
    if key not in references:
        while len(references) > 1:
            del references[next(iter(references))]
        references[key] = make_reference(data, yardstick, n, n_labels)
    return references[key]


def make_reference(data: ImageData, yardstick: Yardstick, n: int, n_labels: int) -> Reference:
    """n real images, drawn by the stream `evaluation` of seed 0, and what gives scores their scale.

    Real against real: two disjoint sets of m = min(n, half of the data set), and the modes of n_labels reals where
    there are as many. The trivial sampler draws each pixel by itself, from a normal distribution with the mean and
    standard deviation that it has in the reference, cut off at black and white: it knows nothing of shapes.
    """
    order = torch.from_numpy(numpy_generator(0, "evaluation").permutation(len(data.images))).to(data.images.device)
    images = data.images[order[:n]]
    reals = judge(yardstick, images)
    m = min(n, len(order) // 2)
    others = judge(yardstick, data.images[order[m : m + n_labels]])
    counts = np.bincount(data.labels.cpu().numpy(), minlength=DATASETS[data.name].classes)
    pixels = normalized(images, torch.float64)
    noise = torch.randn(pixels.shape, generator=torch_generator(0, "evaluation/trivial"), dtype=torch.float64)
    trivial = judge(yardstick, (pixels.mean(0) + pixels.std(0) * noise.to(pixels.device)).clamp_(-1, 1))
    by_name = lambda values: {key.removeprefix("eval/"): value for key, value in values.items()}  # noqa: E731
    real_against_real = by_name(scores(reals.first(m), others.first(m), others.labels, counts))
    trivial_scores = by_name(scores(reals, trivial, trivial.labels, counts))
    scale = {
        "real_against_real": {"n": m, "n_labels": len(others.labels), **real_against_real},
        "trivial_sampler": {"n": n, "n_labels": n, **trivial_scores},
        "trivial_fd": trivial_scores["fd"],
    }
    return Reference(reals, counts, scale)
