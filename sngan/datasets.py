"""The data sets: what their images are, and how samples of them are judged. A data set is one row. No torch."""

from __future__ import annotations

from dataclasses import dataclass

MANY = 100  # classes: of more, `is_many`


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """The small classifier that is trained on a data set, and whose features judge samples (`sngan.yardstick`).

    `lowest_accuracy` on images that it was not trained on: below it nothing is judged. `sha256` and `accuracy` of the
    weights that the package ships; empty if they are trained on first use.
    """

    epochs: int
    lowest_accuracy: float
    sha256: str = ""
    accuracy: float = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Images of `channels` x `side` x `side`, and how samples are judged.

    `loader` is a key of `sngan.data.LOADERS`, `torchvision` that library's class if it is its. `has_test`: whether it
    has test images; else a fifth of the images is held out to judge its classifier. `judge`: the data set whose
    classifier judges samples; `each_channel`: one channel at a time, as images of one channel, the class being the
    channels' classes read as the digits of a number. `n_fake`: samples of an evaluation, 0: by the length of the run;
    `n_compared`: how many of them distances are measured by, 0: all. `licence`: whose images they are, on what terms.
    """

    channels: int
    side: int
    classes: int
    loader: str
    torchvision: str = ""
    has_test: bool = True
    judge: str
    each_channel: bool = False
    classifier: Classifier | None = None
    n_fake: int = 0
    n_compared: int = 0
    licence: str

    @property
    def judged_channels(self) -> int:
        """Images of the judge's kind that one image is judged as."""
        return self.channels if self.each_channel else 1


DATASETS: dict[str, Dataset] = {
    "digits": Dataset(
        channels=1,
        side=28,
        classes=10,
        loader="digits",
        has_test=False,
        judge="digits",
        classifier=Classifier(
            epochs=80,
            lowest_accuracy=0.98,
            sha256="2d0c5628eb525afe079446fb3a251816763b5d3592e64d579070fba318981933",
            accuracy=0.9944,
        ),
        licence="Optical Recognition of Handwritten Digits by E. Alpaydin and C. Kaynak (UCI), CC BY 4.0",
    ),
    "mnist": Dataset(
        channels=1,
        side=28,
        classes=10,
        loader="torchvision",
        torchvision="MNIST",
        judge="mnist",
        classifier=Classifier(
            epochs=12,
            lowest_accuracy=0.992,
            sha256="866b533412b13effef1559ee9a3257096a87237903794ea97ee98825b51ba781",
            accuracy=0.9948,
        ),
        licence="MNIST, copyright Yann LeCun and Corinna Cortes, CC BY-SA 3.0",
    ),
    "fashion_mnist": Dataset(
        channels=1,
        side=28,
        classes=10,
        loader="torchvision",
        torchvision="FashionMNIST",
        judge="fashion_mnist",
        classifier=Classifier(
            epochs=12,
            lowest_accuracy=0.88,
            sha256="7e3fd51eb0954071eb27daa789797ab3a9405752dd825ab145e9994559cb2506",
            accuracy=0.9198,
        ),
        licence="Fashion-MNIST, copyright Zalando SE, MIT License",
    ),
    "stacked_mnist": Dataset(
        channels=3,
        side=28,
        classes=1000,
        loader="stacked",
        has_test=False,
        judge="mnist",
        each_channel=True,
        n_fake=26_000,  # a thousand modes need more samples than distances do
        n_compared=5_000,
        licence="made of MNIST, copyright Yann LeCun and Corinna Cortes, CC BY-SA 3.0",
    ),
}

JUDGES = tuple(name for name, row in DATASETS.items() if row.classifier)
"""Data sets with a classifier of their own"""


def classes_of(dataset: str) -> int:
    """Number of classes that samples of a data set can hit; 10 for another program's."""
    return DATASETS[dataset].classes if dataset in DATASETS else 10


def is_many(classes: int) -> bool:
    """Whether the classes are so many that some thousand samples do not tell how often each comes.

    Then samples are held against equal frequencies, and a run's modes against its own best instead of their number.
    """
    return classes > MANY
