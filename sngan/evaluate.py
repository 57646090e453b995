"""How good a generator's samples are: distances to real images, and modes, in the features of the yardstick."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sngan.config import DATASETS, InputError, RunConfig
from sngan.data import ImageData, normalized
from sngan.measure import evaluating
from sngan.metrics import diversity, frechet_distance, kernel_distance, kernel_distance_error, mode_coverage, prdc
from sngan.streams import numpy_generator, torch_generator
from sngan.yardstick import Yardstick, load_yardstick

NEIGHBOURS = 5  # k of precision, recall, density and coverage
_FEWEST = 20  # samples of each that the metrics need
_BATCH = 250  # samples that are in memory at once


class Reference(NamedTuple):
    """The real images that samples are compared with, the same in all runs of a data set and n."""

    features: Tensor  # (n, n_features) float32
    class_counts: np.ndarray  # (classes,) of the whole data set
    scale: dict[str, Any]  # what reals score against reals, and the trivial sampler against reals


class Evaluation:
    """Judges one run's generator: always from the same latents, those of the seed's stream `evaluation`.

    `protocol` says how, and what scores mean: it belongs beside every number. Raises InputError where the data set
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
        generator = torch_generator(config.seed, "evaluation", device)
        dtype = getattr(torch, config.dtype)
        self._z = torch.randn(config.n_fake, config.z_dim, generator=generator, device=device, dtype=dtype)
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
            "batch_norm": "running statistics",
            "k": NEIGHBOURS,
            **self._reference.scale,
        }

    @torch.no_grad()
    def __call__(self, G: nn.Module) -> dict[str, Any]:
        """`eval/*` of G in eval mode: distances by the first n samples, modes by all. NaN where samples are not finite.

        Beside them `class_counts`: how many samples the yardstick takes for each class, absent where they are not
        finite. Nothing of G is moved; afterwards it is in train mode.
        """
        features, labels = [], []
        with evaluating(G):
            for z in self._z.split(_BATCH):
                found = self._yardstick.embed(G(z))
                features.append(found[0])
                labels.append(found[1])
        fake = torch.cat(features)
        if not fake.isfinite().all():
            return dict.fromkeys(EVALUATED, float("nan"))
        counts, labels = self._reference.class_counts, torch.cat(labels)
        found = torch.bincount(labels, minlength=len(counts)).tolist()
        return scores(self._reference.features, fake[: self._n], labels, counts) | {"class_counts": found}


def scores(real: Tensor, fake: Tensor, labels: Tensor, class_counts: np.ndarray) -> dict[str, float]:
    """`eval/*` of fakes (n, d) against reals (n, d), modes by the fakes' labels against the data's class counts.

    Of more than 100 classes (stacked_mnist) the reference is uniform, as where its modes are usually counted.
    """
    neighbours = prdc(real, fake, NEIGHBOURS)
    uniform = len(class_counts) > 100
    modes = mode_coverage(labels, len(class_counts), None if uniform else class_counts)
    return {
        "eval/fd": frechet_distance(real, fake),
        "eval/kd": kernel_distance(real, fake),
        "eval/kd_error": kernel_distance_error(real, fake),
        "eval/precision": neighbours.precision,
        "eval/recall": neighbours.recall,
        "eval/density": neighbours.density,
        "eval/coverage": neighbours.coverage,
        "eval/modes": modes.modes,
        "eval/modes_5": modes.modes_5,
        "eval/effective_modes": modes.effective_modes,
        "eval/mode_kl": modes.kl,
        "eval/diversity": diversity(real, fake),
    }


EVALUATED = (
    *("eval/fd", "eval/kd", "eval/kd_error", "eval/precision", "eval/recall", "eval/density", "eval/coverage"),
    *("eval/modes", "eval/modes_5", "eval/effective_modes", "eval/mode_kl", "eval/diversity"),
)

_references: dict[tuple, Reference] = {}  # the last two: a sweep's worker takes run after run of the same data set


def _reference(data: ImageData, yardstick: Yardstick, n: int, n_labels: int) -> Reference:
    """From the cache, by the data set's and the yardstick's hashes; bits depend on device and threads, so these too."""
    key = (data.digest, yardstick.sha256, n, n_labels, str(data.images.device), torch.get_num_threads())
    if key not in _references:
        while len(_references) > 1:
            del _references[next(iter(_references))]
        _references[key] = _make_reference(data, yardstick, n, n_labels)
    return _references[key]


def _make_reference(data: ImageData, yardstick: Yardstick, n: int, n_labels: int) -> Reference:
    """n real images, drawn by the stream `evaluation` of seed 0, and what gives scores their scale.

    Real against real: two disjoint sets of m = min(n, half of the data set), and the modes of n_labels reals where
    there are as many. The trivial sampler draws each pixel by itself, from a normal distribution with the mean and
    standard deviation that it has in the reference, cut off at black and white: it knows nothing of shapes.
    """
    order = torch.from_numpy(numpy_generator(0, "evaluation").permutation(len(data.images))).to(data.images.device)
    images = data.images[order[:n]]
    features, _ = yardstick.embed(images)
    m = min(n, len(order) // 2)
    others, other_labels = yardstick.embed(data.images[order[m : m + n_labels]])
    counts = np.bincount(data.labels.cpu().numpy(), minlength=DATASETS[data.name][1])
    pixels = normalized(images, torch.float64)
    noise = torch.randn(pixels.shape, generator=torch_generator(0, "evaluation/trivial"), dtype=torch.float64)
    trivial = (pixels.mean(0) + pixels.std(0) * noise.to(pixels.device)).clamp_(-1, 1)
    trivial_features, trivial_labels = yardstick.embed(trivial)
    by_name = lambda values: {key.removeprefix("eval/"): value for key, value in values.items()}  # noqa: E731
    real_against_real = by_name(scores(features[:m], others[:m], other_labels, counts))
    trivial_scores = by_name(scores(features, trivial_features, trivial_labels, counts))
    scale = {
        "real_against_real": {"n": m, "n_labels": len(other_labels), **real_against_real},
        "trivial_sampler": {"n": n, "n_labels": n, **trivial_scores},
        "trivial_fd": trivial_scores["fd"],
    }
    return Reference(features, counts, scale)
