"""What judges samples: a data set's yardstick, a classifier of the images' own labels, pixels alone, or Inception."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from sngan.config import RunConfig
from sngan.data import ImageData
from sngan.datasets import DATASETS
from sngan.inception import VARIABLE, Inception
from sngan.yardstick import label_yardstick, load_yardstick


class Judge(Protocol):
    """What sees images, on its device. `feature_net`: what it is, in words; `sha256` and `accuracy`: of its weights.

    `knows_classes`: whether its labels are the data's own. `is_inception`: whether its distance is FID.
    """

    @property
    def feature_net(self) -> str: ...

    @property
    def sha256(self) -> str | None: ...

    @property
    def accuracy(self) -> float | None: ...

    @property
    def n_features(self) -> int: ...

    @property
    def knows_classes(self) -> bool: ...

    @property
    def is_inception(self) -> bool: ...

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, n_features) and labels (N,) of images (N, C, side, side), uint8 or in [-1, 1]."""
        ...


class Pixels:
    """Sees nothing: samples are judged by their pixels alone."""

    feature_net = "none: samples are judged by their pixels alone"
    sha256 = accuracy = None
    n_features = 0
    knows_classes = is_inception = False

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return torch.empty(len(images), 0, device=images.device), labels


class InceptionJudge:
    """Inception's features, in which the Frechet distance is FID, and the kernel distance KID."""

    accuracy = None
    knows_classes = False
    is_inception = True
    n_features = Inception.n_features

    def __init__(self, weights: str, device: torch.device | str) -> None:
        self._network = Inception(weights, device)
        self.feature_net, self.sha256 = self._network.name, self._network.sha256

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Of an image that is not finite NaN."""
        finite = images.flatten(1).isfinite().all(1)
        features = self._network.embed(torch.where(finite[:, None, None, None], images, 0))
        features[~finite.to(features.device)] = torch.nan
        return features, torch.zeros(len(images), dtype=torch.int64, device=features.device)


@functools.lru_cache(maxsize=1)  # a sweep's worker takes run after run
def _inception(weights: str, device: str) -> InceptionJudge:
    return InceptionJudge(weights, device)


def load_judge(
    config: RunConfig, data: ImageData, device: torch.device | str = "cpu", say: Callable[[str], None] = print
) -> Judge:
    """What judges the samples of a run, as its `judge` says; trained first if it has to be, of which `say` is told.

    Images that are not the run's data set, as networks of a caller's own may have, are judged without its classes; if
    they have another size, too, then by their pixels alone, unless the run names a judge that is not its data set's.
    Raises InputError for labels that the data does not have, and what `load_yardstick` and `Inception` raise.
    """
    row, usual = config.row, config.dataset in DATASETS and config.judge == DATASETS[config.dataset].judge
    channels, side = data.images.shape[1:3]
    fits = (channels, side) == (row.channels, row.side)
    if config.judge == "pixels" or (usual and not fits):
        return Pixels()
    if config.judge == "inception":
        return _inception(config.inception_weights or os.environ.get(VARIABLE, ""), str(device))
    if config.judge == "labels":
        return label_yardstick(data, row, device, say)
    if usual and data.name == config.dataset:
        return load_yardstick(config.dataset, config.data_dir, device, say)
    each = DATASETS[config.judge].channels < channels
    row = row if fits else replace(row, channels=channels, side=side, each_channel=each)
    return load_yardstick(config.judge, config.data_dir, device, say, row)
