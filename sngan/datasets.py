"""The data sets: what their images are, and how samples of them are judged. A data set is one row. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    classifier judges samples, if a run names no other judge; `each_channel`: one channel at a time, as images of one
    channel, the class being the channels' classes read as the digits of a number. `n_fake`: samples of an evaluation,
    0: by the length of the run; `n_compared`: how many of them distances are measured by, 0: all. `licence`: whose
    images they are, on what terms. `published`: size and SHA-256 of each unpacked file, by its name; another file is
    not that data set. Where its SHA-256 is not known (empty), the MD5 that torchvision has of it or its .gz decides.
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
    published: Mapping[str, tuple[int, str]] = field(default_factory=dict)

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
        published={
            "train-images-idx3-ubyte": (47040016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
            "train-labels-idx1-ubyte": (60008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
            "t10k-images-idx3-ubyte": (7840016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
            "t10k-labels-idx1-ubyte": (10008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
        },
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
        published={
            "train-images-idx3-ubyte": (47040016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
            "train-labels-idx1-ubyte": (60008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
            "t10k-images-idx3-ubyte": (7840016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
            "t10k-labels-idx1-ubyte": (10008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
        },
    ),
    "kmnist": Dataset(
        channels=1,
        side=28,
        classes=10,
        loader="torchvision",
        torchvision="KMNIST",
        judge="kmnist",
        classifier=Classifier(epochs=12, lowest_accuracy=0.9),
        licence="KMNIST, by the ROIS-DS Center for Open Data in the Humanities and Tarin Clanuwat et al., CC BY-SA 4.0",
        published={
            "train-images-idx3-ubyte": (47040016, ""),
            "train-labels-idx1-ubyte": (60008, ""),
            "t10k-images-idx3-ubyte": (7840016, ""),
            "t10k-labels-idx1-ubyte": (10008, ""),
        },
    ),
    "cifar10": Dataset(
        channels=3,
        side=32,
        classes=10,
        loader="cifar",
        torchvision="CIFAR10",
        judge="cifar10",
        classifier=Classifier(epochs=24, lowest_accuracy=0.55),
        licence="CIFAR-10 by Alex Krizhevsky, Vinod Nair and Geoffrey Hinton; its page names no licence",
        published=dict.fromkeys([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"], (0, "")),
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
GIVEN = {"folder": "a folder of images", "npz": "a file of arrays"}
"""A user's own images, as `folder:PATH` and `npz:PATH`"""
OTHER_JUDGES = {
    "labels": "a classifier that is trained on the images' own labels",
    "pixels": "no features: eval/fd_pixels alone",
    "inception": "Inception's features, by which eval/fid is FID",
}
"""What judges samples beside the classifiers of data sets"""


def is_data_set(name: object) -> bool:
    """Whether this is the name of one; no list is, of which a table cannot be asked."""
    return isinstance(name, str) and name in DATASETS


def named() -> list[str]:
    """The data sets, as they are named on a command line."""
    return [*DATASETS, *(f"{name}:PATH" for name in GIVEN)]


def classes_of(dataset: str) -> int:
    """Number of classes that samples of a data set can hit; 10 for another program's."""
    return DATASETS[dataset].classes if dataset in DATASETS else 10


def is_many(classes: int) -> bool:
    """Whether the classes are so many that some thousand samples do not tell how often each comes.

    Then samples are held against equal frequencies, and a run's modes against its own best instead of their number.
    """
    return classes > MANY
