"""How good a generator's samples are: distances to real images, and modes, in the features of what judges them."""

from __future__ import annotations

import copy
import hashlib
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from sngan.config import RunConfig
from sngan.data import ImageData, normalized
from sngan.datasets import DATASETS, GIVEN, is_many
from sngan.errors import InputError
from sngan.judges import Judge, load_judge
from sngan.measure import evaluating
from sngan.metrics import diversity, frechet_distance, kernel_distance, kernel_distance_error, mode_coverage, prdc
from sngan.quantities import EVALUATED
from sngan.streams import normal, numpy_generator, torch_generator

NEIGHBOURS = 5  # k of precision, recall, density and coverage
_FEWEST = 20  # samples of each that the metrics need
_BATCH = 250  # samples that are in memory at once
RULE = "the largest square around the centre, by Pillow's bicubic filter; see sngan.given.read"


class Judged(NamedTuple):
    """What images are judged by: two views of them, and the labels that the judge gives them."""

    features: Tensor  # (n, n_features) float32; none if pixels alone are judged
    pixels: Tensor  # (n, C * (side / 2)^2) float64 in [-1, 1]: the means of 2x2 pixels
    labels: Tensor  # (n,) int64

    def first(self, n: int) -> Judged:
        return Judged(*(of_all[:n] for of_all in self))


class Reference(NamedTuple):
    """The real images that samples are compared with, the same in all runs of a data set and n."""

    images: Judged
    class_counts: np.ndarray | None  # (classes,) of the whole data set, if the judge knows them
    scale: dict[str, Any]  # what reals score against reals, and the trivial sampler against reals


class Evaluation:
    """Judges one run's generator: always from the same latents, those of the seed's stream `evaluation`.

    `protocol` says how, and what scores mean: it belongs beside every number. Raises InputError if the data set
    is too small to be judged, and what `load_judge` raises.
    """

    def __init__(self, config: RunConfig, data: ImageData) -> None:
        device = data.images.device
        self._judge = load_judge(config, data, device)
        check_enough(data)
        n_images = len(data.images)
        self._n = min(config.n_compared, n_images)
        self._reference = _reference(data, self._judge, self._n, config.n_fake)
        generator = torch_generator(config.seed, "evaluation")
        self.latents = normal((config.n_fake, config.z_dim), generator, getattr(torch, config.dtype), device)
        self.protocol = {
            "dataset": config.dataset,
            "reference": f"{self._n} of the {n_images} training images, drawn once for all runs",
            "reference_sha256": data.digest,
            "n_real": self._n,
            "n_fake": self._n,
            "n_labels": config.n_fake,
            "feature_net": self._judge.feature_net,
            "feature_net_sha256": self._judge.sha256,
            "feature_net_accuracy": self._judge.accuracy,
            "n_features": self._judge.n_features,
            "pixels": f"means of 2x2 pixels in [-1, 1], {self._reference.images.pixels.shape[1]} numbers an image",
            "batch_norm": "running statistics",
            "k": NEIGHBOURS,
            **self._reference.scale,
            **self._of_given(data),
        }

    @staticmethod
    def _of_given(data: ImageData) -> dict[str, Any]:
        """What is known of other data sets from their rows."""
        return {} if data.name in DATASETS else {"n_classes": data.classes, "image_rule": RULE}

    @torch.no_grad()
    def __call__(self, G: nn.Module) -> dict[str, Any]:
        """`eval/*` of G in eval mode: distances by the first n samples, modes by all. NaN if samples are not finite.

        What the judge cannot tell is absent: of pixels all but `eval/fd_pixels`, of images without labels the modes.
        Beside them `class_counts`: how many samples the judge takes for each class, absent if they are not finite.
        Nothing of G is moved; afterwards it is in train mode. Of a G on another device a copy is judged.
        """
        if next(G.parameters(), self.latents).device != self.latents.device:
            G = copy.deepcopy(G).to(self.latents.device)
        with evaluating(G):
            parts = [judge(self._judge, G(z)) for z in self.latents.split(_BATCH)]
        fake = Judged(*map(torch.cat, zip(*parts, strict=True)))
        if not (fake.features.isfinite().all() and fake.pixels.isfinite().all()):
            return dict.fromkeys(self._keys, float("nan"))
        counts = self._reference.class_counts
        found = scores(self._reference.images, fake.first(self._n), fake.labels, counts)
        if self._judge.is_inception:
            found |= {"eval/fid": found["eval/fd"], "eval/kid": found["eval/kd"]}
        if counts is None:
            return found
        return found | {"class_counts": torch.bincount(fake.labels, minlength=len(counts)).tolist()}

    @property
    def _keys(self) -> list[str]:
        """What the judge can tell."""
        known = self._reference.scale["trivial_sampler"]
        names = [key for key in EVALUATED if key.removeprefix("eval/") in known]
        return [*names, *(["eval/fid", "eval/kid"] if self._judge.is_inception else [])]


def check_enough(data: ImageData, batch_size: int = 2, name: str = "") -> None:
    """Raises InputError if there are too few images for a batch, or to judge samples by. `name`: what they are."""
    n, needed = len(data.images), max(batch_size, 2 * _FEWEST)
    if n < needed:
        have = "1 image" if n == 1 else f"{n} images"
        why = f"for a batch of {batch_size}" if needed == batch_size else "to judge samples"
        raise InputError(f"{name or data.name} has {have}; {why} at least {needed} are needed")


def judge(by: Judge, images: Tensor) -> Judged:
    """Images (n, C, side, side), uint8 or in [-1, 1], as the judge sees them, and at half their size."""
    features, labels = by.embed(images)
    pixels = normalized(images, torch.float64) if images.dtype == torch.uint8 else images.double()
    return Judged(features, avg_pool2d(pixels, 2).flatten(1), labels)


def scores(real: Judged, fake: Judged, labels: Tensor, class_counts: np.ndarray | None) -> dict[str, float]:
    """`eval/*` of fakes against as many reals, modes by `labels` (of more fakes, as a rule) against the class counts.

    Without features it is `eval/fd_pixels` alone, without class counts all but the modes.
    Of many classes (stacked_mnist) the reference is uniform, as its modes are usually counted.
    `eval/fd_pixels` is the view that noise and grey backgrounds do not fool, as they fool precision, density and a
    yardstick that was trained against them; noise with the pixels' means and covariances fools it in turn.
    """
    features = real.features, fake.features
    if not features[0].shape[1]:
        return {"eval/fd_pixels": frechet_distance(real.pixels, fake.pixels)}
    neighbours = prdc(*features, NEIGHBOURS)
    return {
        "eval/fd": frechet_distance(*features),
        "eval/fd_pixels": frechet_distance(real.pixels, fake.pixels),
        "eval/kd": kernel_distance(*features),
        "eval/kd_error": kernel_distance_error(*features),
        "eval/precision": neighbours.precision,
        "eval/recall": neighbours.recall,
        "eval/density": neighbours.density,
        "eval/coverage": neighbours.coverage,
        **({} if class_counts is None else _modes(labels, class_counts)),
        "eval/diversity": diversity(*features),
    }


def _modes(labels: Tensor, class_counts: np.ndarray) -> dict[str, float]:
    modes = mode_coverage(labels, len(class_counts), None if is_many(len(class_counts)) else class_counts)
    return {
        "eval/modes": modes.modes,
        "eval/modes_5": modes.modes_5,
        "eval/effective_modes": modes.effective_modes,
        "eval/mode_kl": modes.kl,
    }


references: dict[tuple, Reference] = {}  # the last two: a sweep's worker takes run after run of the same data set


def _reference(data: ImageData, by: Judge, n: int, n_labels: int) -> Reference:
    """From the cache, by the data set's and the judge's hashes; bits depend on device and threads, so these too."""
    judge = by.sha256, by.feature_net, by.knows_classes
    digest = data.digest
    if data.name not in (*DATASETS, *GIVEN):  # a caller may have written anything there
        digest = hashlib.sha256(data.images.cpu().numpy().tobytes()).hexdigest()
    key = (digest, data.images.shape, *judge, n, n_labels, str(data.images.device), torch.get_num_threads())
    if key not in references:
        while len(references) > 1:
            del references[next(iter(references))]
        references[key] = make_reference(data, by, n, n_labels)
    return references[key]


def reference_sets(data: ImageData, n: int, m: int, n_others: int) -> tuple[Tensor, Tensor, Tensor]:
    """n real images; n_others of those after the first m, if there are as many; and n of the trivial sampler."""
    order = torch.from_numpy(numpy_generator(0, "evaluation").permutation(len(data.images))).to(data.images.device)
    images = data.images[order[:n]]
    pixels = normalized(images, torch.float64)
    noise = torch.randn(pixels.shape, generator=torch_generator(0, "evaluation/trivial"), dtype=torch.float64)
    trivial = (pixels.mean(0) + pixels.std(0) * noise.to(pixels.device)).clamp_(-1, 1)
    return images, data.images[order[m : m + n_others]], trivial


def make_reference(data: ImageData, by: Judge, n: int, n_labels: int) -> Reference:
    """n real images, drawn by the stream `evaluation` of seed 0, and what gives scores their scale.

    Real against real: two disjoint sets of m = min(n, half of the data set), and the modes of n_labels reals where
    there are as many. The trivial sampler draws each pixel by itself, from a normal distribution with the mean and
    standard deviation that it has in the reference, cut off at black and white: it knows nothing of shapes.
    """
    m = min(n, len(data.images) // 2)
    reals, others, trivial = (judge(by, images) for images in reference_sets(data, n, m, n_labels))
    counts = np.bincount(data.labels.cpu().numpy(), minlength=data.classes) if by.knows_classes else None
    by_name = lambda values: {key.removeprefix("eval/"): value for key, value in values.items()}  # noqa: E731
    real_against_real = by_name(scores(reals.first(m), others.first(m), others.labels, counts))
    trivial_scores = by_name(scores(reals, trivial, trivial.labels, counts))
    scale = {
        "real_against_real": {"n": m, "n_labels": len(others.labels), **real_against_real},
        "trivial_sampler": {"n": n, "n_labels": n, **trivial_scores},
        **({"trivial_fd": trivial_scores["fd"]} if "fd" in trivial_scores else {}),
    }
    return Reference(reals, counts, scale)
