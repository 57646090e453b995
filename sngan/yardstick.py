"""The small classifier whose features judge samples: one a data set, its accuracy and weights' hash published."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs
import torch
from filelock import FileLock
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from sngan.config import DATASETS, InputError
from sngan.data import load, normalized
from sngan.precision import products
from sngan.streams import numpy_generator, torch_generator

N_FEATURES = 64


@dataclass(frozen=True)
class Weights:
    """Weights shipped with the package, in `yardsticks/<name>.safetensors`, and their accuracy on held-out images."""

    sha256: str
    accuracy: float


# Trained by `sngan yardstick <name>`. Held out: the 10,000 test images; of digits the seeded fifth (359 images).
SHIPPED = {
    "digits": Weights(sha256="2d0c5628eb525afe079446fb3a251816763b5d3592e64d579070fba318981933", accuracy=0.9944),
    "mnist": Weights(sha256="866b533412b13effef1559ee9a3257096a87237903794ea97ee98825b51ba781", accuracy=0.9948),
    "fashion_mnist": Weights(
        sha256="7e3fd51eb0954071eb27daa789797ab3a9405752dd825ab145e9994559cb2506", accuracy=0.9198
    ),
}
LOWEST_ACCURACY = {"digits": 0.98, "mnist": 0.992, "fashion_mnist": 0.88}
EPOCHS = {"digits": 80, "mnist": 12, "fashion_mnist": 12}
_BATCH_SIZE, _LR, _SHIFT = 128, 4e-3, 2  # _SHIFT: pixels by which training images are moved
_FOLDER = Path(__file__).parent / "yardsticks"


class Classifier(nn.Sequential):
    """Images (N, 1, 28, 28) in [-1, 1] -> logits (N, classes); `features` are the penultimate layer's (N, 64).

    In eval mode an image's features do not depend on the other images of its batch.
    """

    dense: nn.Linear
    logits: nn.Linear

    def __init__(self, classes: int = 10) -> None:
        sizes = [(1, 24, 4, 2), (24, 32, 3, 1), (32, 64, 4, 2), (64, 64, 3, 2)]  # in, out, kernel, stride
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (n_in, n_out, kernel, stride) in enumerate(sizes, start=1):  # 28, 14, 14, 7, 4 pixels a side
            layers[f"conv{i}"] = nn.Conv2d(n_in, n_out, kernel, stride, padding=1, bias=False)
            layers[f"bn{i}"] = nn.BatchNorm2d(n_out)
            layers[f"act{i}"] = nn.ReLU()
        layers["flat"] = nn.Flatten()
        layers["dense"] = nn.Linear(64 * 4 * 4, N_FEATURES)
        layers["act"] = nn.ReLU()
        layers["logits"] = nn.Linear(N_FEATURES, classes)
        super().__init__(layers)

    def features(self, x: Tensor) -> Tensor:
        for layer in list(self)[:-1]:
            x = layer(x)
        return x


@dataclass(frozen=True)
class Yardstick:
    """What judges a data set's samples: `network` on its device, in eval mode; `sha256` is of its weights' file.

    `dataset` is the one that the network was trained on; `channels` are judged one by one by that network: of
    stacked_mnist the features are those of its three channels, and the label is the three digits read as a number.
    """

    dataset: str
    channels: int
    network: Classifier
    sha256: str
    accuracy: float

    @property
    def n_features(self) -> int:
        return N_FEATURES * self.channels

    @torch.no_grad()
    @products("ieee")
    def embed(self, images: Tensor, batch_size: int = 500) -> tuple[Tensor, Tensor]:
        """Features (N, n_features) float32 and labels (N,) int64 of images (N, channels, 28, 28).

        Images are uint8 in 0..255 or floating point in [-1, 1]. `batch_size` channels are judged at a time, which
        bounds the memory and changes results by rounding only. Raises ValueError for images of another shape.
        """
        if images.shape[1:] != (self.channels, 28, 28):
            raise ValueError(f"expected images (N, {self.channels}, 28, 28), got {tuple(images.shape)}")
        device = next(self.network.parameters()).device
        features, digits = [], []
        for batch in images.reshape(-1, 1, 28, 28).split(batch_size):
            batch = batch.to(device)
            x = normalized(batch) if batch.dtype == torch.uint8 else batch.float()
            features.append(self.network.features(x))
            digits.append(self.network.logits(features[-1]).argmax(1))
        places = 10 ** torch.arange(self.channels - 1, -1, -1, device=device)
        labels = (torch.cat(digits).reshape(-1, self.channels) * places).sum(1)
        return torch.cat(features).reshape(-1, self.n_features), labels


def load_yardstick(
    dataset: str, data_dir: str = "", device: torch.device | str = "cpu", say: Callable[[str], None] = print
) -> Yardstick:
    """The yardstick of a data set, on `device`.

    The weights for `digits`, `fashion_mnist` and `mnist` (which judges stacked_mnist too) are shipped. Those of a data
    set without are trained once, which takes minutes on a CPU, and kept in the platform's cache folder, by the hash of
    the images that they were trained on; a second process waits for the first. `say` gets lines of progress.

    Raises InputError for an unknown data set, where weights are not those whose hash is known, where images are
    needed and cannot be had, and where a trained classifier is less accurate than LOWEST_ACCURACY.
    """
    name = "mnist" if dataset == "stacked_mnist" else dataset
    if name in SHIPPED:
        path, shipped = _FOLDER / f"{name}.safetensors", SHIPPED[name]
        content, accuracy = _read(path, shipped.sha256, "Install the package again"), shipped.accuracy
    elif name in LOWEST_ACCURACY:
        content, accuracy = _cached(name, data_dir, say)
    else:
        raise InputError(f"no yardstick for data set {dataset!r}; known: {', '.join(DATASETS)}")
    network = Classifier()
    network.load_state_dict(from_bytes(content))
    network.eval().requires_grad_(False).to(device)
    return Yardstick(name, DATASETS[dataset][0], network, hashlib.sha256(content).hexdigest(), accuracy)


def train_weights(
    dataset: str, data_dir: str = "", say: Callable[[str], None] = print, epochs: int = 0
) -> tuple[bytes, float]:
    """A classifier's weights as a safetensors file, and its accuracy on images that it was not trained on.

    Everything random comes from the stream `yardstick` of seed 0: the same machine with the same number of threads
    gives the same bytes. `epochs`: 0 for those of EPOCHS. Held out are the test images of a data set that has some,
    of `digits` a fifth. Adam on a one-cycle schedule; images are moved by up to 2 pixels either
    way, and half of them get another black, another white and noise: generated digits on grey are digits too. At the
    end the features are scaled to a mean square of 1, which changes no prediction.

    Raises InputError for a data set that has no yardstick of its own, where images cannot be had, and where the
    accuracy is below LOWEST_ACCURACY.
    """
    if dataset not in LOWEST_ACCURACY:
        raise InputError(f"{dataset!r} has no yardstick of its own; expected one of {', '.join(LOWEST_ACCURACY)}")
    x_train, y_train, x_test, y_test = _split(dataset, data_dir)
    epochs = epochs or EPOCHS[dataset]
    rng, generator = numpy_generator(0, "yardstick"), torch_generator(0, "yardstick")
    with torch.random.fork_rng(devices=[]):  # torch's constructors draw from the global generator
        torch.manual_seed(generator.initial_seed())
        network = Classifier()
    optimizer = torch.optim.Adam(network.parameters(), lr=_LR)
    steps = len(x_train) // _BATCH_SIZE
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LR, total_steps=epochs * steps)
    for epoch in range(1, epochs + 1):
        order = torch.from_numpy(rng.permutation(len(x_train)))
        for indices in order[: steps * _BATCH_SIZE].split(_BATCH_SIZE):
            x = _disturbed(_moved(normalized(x_train[indices]), generator), generator)
            loss = nn.functional.cross_entropy(network.train()(x), y_train[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        accuracy = _accuracy(network, x_test, y_test)
        say(f"yardstick for {dataset}: epoch {epoch} of {epochs}, {accuracy:.2%} of {len(x_test):,} held-out images")
    if accuracy < LOWEST_ACCURACY[dataset]:
        raise InputError(
            f"the classifier that should judge {dataset}'s samples is right about only {accuracy:.1%} of the held-out "
            f"images; at least {LOWEST_ACCURACY[dataset]:.1%} are expected. Are images and labels those of {dataset}?"
        )
    _scale_features(network, x_train[:5000])
    return to_bytes(network.state_dict()), accuracy


@torch.no_grad()
def _scale_features(network: Classifier, images: Tensor) -> None:
    """Make the features' mean square 1 over the images; the logits stay what they are.

    Without this the unit of distances would be an accident of the training.
    """
    scale = network.eval().features(normalized(images)).square().mean().sqrt()
    for parameter in network.dense.parameters():  # ReLU passes a positive factor on
        parameter.div_(scale)
    network.logits.weight.mul_(scale)


def _split(dataset: str, data_dir: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to train on, and those to judge the classifier by."""
    data = load(dataset, data_dir)
    if dataset == "digits":
        order = torch.from_numpy(numpy_generator(0, "yardstick/held_out").permutation(len(data.images)))
        held_out, rest = order.tensor_split([len(order) // 5])
        return data.images[rest], data.labels[rest], data.images[held_out], data.labels[held_out]
    test = load(dataset, data_dir, part="test")
    return data.images, data.labels, test.images, test.labels


def _moved(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image (N, C, H, W) moved by its own number of pixels up to _SHIFT, black (-1) where nothing was."""
    n, _, height, width = x.shape
    padded = nn.functional.pad(x, [_SHIFT] * 4, value=-1.0)
    top, left = torch.randint(0, 2 * _SHIFT + 1, (2, n, 1), generator=generator)
    rows, columns = top + torch.arange(height), left + torch.arange(width)  # (N, H), (N, W)
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _disturbed(x: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images (N, C, H, W) in [-1, 1] with a lower contrast, a brighter background, and noise."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(x), 1, 1, 1, generator=generator)

    black, white = uniform(-1, 0), uniform(0.2, 1)
    noise = uniform(0, 0.3) * torch.randn(x.shape, generator=generator)
    disturbed = (black + (white - black) * (x + 1) / 2 + noise).clamp(-1, 1)
    return torch.where(uniform(0, 1) < 0.5, disturbed, x)


@torch.no_grad()
def _accuracy(network: Classifier, images: Tensor, labels: Tensor) -> float:
    network.eval()
    predictions = [network(normalized(batch)).argmax(1) for batch in images.split(500)]
    return (torch.cat(predictions) == labels).double().mean().item()


def _cached(dataset: str, data_dir: str, say: Callable[[str], None]) -> tuple[bytes, float]:
    """Weights from the cache, trained first where there are none: <dataset>-<images>-<accuracy>-<weights>.safetensors.

    One file, moved into place: its name says what must be in it.
    """
    folder = platformdirs.user_cache_path("sngan") / "yardsticks"
    folder.mkdir(parents=True, exist_ok=True)
    start = f"{dataset}-{load(dataset, data_dir).digest[:16]}"
    with FileLock(folder / f"{start}.lock"):
        for path in sorted(folder.glob(f"{start}-*.safetensors")):
            accuracy, sha256 = path.stem.split("-")[2:]
            return _read(path, sha256, "Delete it, and it is trained again"), float(accuracy)
        say(f"yardstick for {dataset}: training the classifier that judges samples, once; kept in {folder}")
        content, accuracy = train_weights(dataset, data_dir, say)
        path = folder / f"{start}-{accuracy:.4f}-{hashlib.sha256(content).hexdigest()}.safetensors"
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_bytes(content)
        os.replace(temporary, path)
    return content, accuracy


def _read(path: Path, sha256: str, advice: str) -> bytes:
    """The file's bytes. Raises InputError where it cannot be read or is another one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"the weights of the classifier that judges samples are missing: {error}. {advice}") from error
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise InputError(f"{path} is not the file that it should be: its SHA-256 is {found}, not {sha256}. {advice}")
    return content
