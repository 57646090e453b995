"""The small classifier whose features judge samples: one per data set, its accuracy and weights' hash published."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from sngan import cache, datasets
from sngan.architectures import YARDSTICK, sized
from sngan.data import ImageData, load, normalized
from sngan.datasets import DATASETS, JUDGES, Dataset, is_data_set
from sngan.errors import InputError, shown
from sngan.files import read_file
from sngan.precision import products
from sngan.streams import numpy_generator, torch_generator

N_FEATURES = sized(YARDSTICK, 1, 28, width=1)[-1].channels_in

_BATCH_SIZE, _LR, _SHIFT = 128, 4e-3, 2  # _SHIFT: pixels by which training images are moved
_IMAGES_SHOWN = 500_000  # to a classifier of a user's own labels
_FEWEST_OF_A_CLASS = 5  # images of a user's own labels
_MOST_SAID = 100  # epochs of which each has a line
_SAY_EVERY, _FIRST = 10.0, 3.0  # seconds between lines of progress, and to the first
FOLDER = Path(__file__).parent / "yardsticks"


class Classifier(nn.Sequential):
    """Images (N, channels, side, side) in [-1, 1] -> logits (N, classes); `features` are the penultimate layer's.

    These are (N, 64). In eval mode an image's features do not depend on the other images of its batch.
    """

    dense: nn.Linear
    logits: nn.Linear

    def __init__(self, channels: int = 1, side: int = 28, classes: int = 10) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        *convolutions, dense, logits = sized(YARDSTICK, channels, side, width=1, logits=classes)
        for i, row in enumerate(convolutions, start=1):
            layer = row.layer
            layers[layer.name] = nn.Conv2d(
                row.channels_in, row.channels_out, layer.kernel, layer.stride, layer.padding, bias=False
            )
            if layer.norm:
                layers[f"bn{i}"] = nn.BatchNorm2d(row.channels_out)
            layers[f"act{i}"] = nn.ReLU()
        layers["flat"] = nn.Flatten()
        layers["dense"] = nn.Linear(dense.channels_in * dense.side_in**2, dense.channels_out)
        layers["act"] = nn.ReLU()
        layers["logits"] = nn.Linear(logits.channels_in, logits.channels_out)
        super().__init__(layers)
        self.channels, self.side = channels, side

    def fitted(self, x: Tensor) -> Tensor:
        """Images (N, 1 or its channels, H, W) as it sees them, brought to its size and channels."""
        if x.shape[2:] != (self.side, self.side):
            size = (self.side, self.side)
            x = nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
        return x.expand(-1, self.channels, -1, -1)

    def features(self, x: Tensor) -> Tensor:
        for layer in list(self)[:-1]:
            x = layer(x)
        return x


@dataclass(frozen=True)
class Yardstick:
    """What judges a data set's samples: `network` on its device, in eval mode; `sha256` is of its weights' file.

    `dataset` is the one that the network was trained on, `judged` the row of the one whose samples it judges, and
    `knows_classes` whether its classes are those of that one. Of one that is judged channel by channel (stacked_mnist)
    the features are those of all channels, and the label is their digits read as a number; any other's images are seen
    as they are, in colour if they have some. Images of another size than the network's are brought to it, bilinearly,
    and grey ones of a network for colour are seen three times.
    """

    dataset: str
    judged: Dataset
    network: Classifier
    sha256: str
    accuracy: float
    knows_classes: bool = True
    is_inception = False

    @property
    def feature_net(self) -> str:
        """In words."""
        of = f"{self.dataset}'s yardstick" if self.dataset in DATASETS else "a classifier of the images' own labels"
        return f"{of}, penultimate layer"

    @property
    def n_features(self) -> int:
        return N_FEATURES * self.judged.judged_channels

    @torch.no_grad()
    @products("ieee")
    def embed(self, images: Tensor, batch_size: int = 500) -> tuple[Tensor, Tensor]:
        """Features (N, n_features) float32 and labels (N,) int64 of images (N, channels, side, side).

        Images are uint8 in 0..255 or floating point in [-1, 1]. `batch_size` images of the network's kind are judged
        at a time, which bounds the memory and changes results by rounding only. Raises ValueError for images of
        another shape.
        """
        channels, side, n = self.judged.channels, self.judged.side, self.judged.judged_channels
        if images.shape[1:] != (channels, side, side):
            raise ValueError(f"expected images (N, {channels}, {side}, {side}), got {tuple(images.shape)}")
        device = next(self.network.parameters()).device
        features, digits = [], []
        for batch in images.reshape(-1, channels // n, side, side).split(batch_size):
            batch = batch.to(device)
            x = self.network.fitted(normalized(batch) if batch.dtype == torch.uint8 else batch.float())
            features.append(self.network.features(x))
            digits.append(self.network.logits(features[-1]).argmax(1))
        base = self.network.logits.out_features
        places = base ** torch.arange(n - 1, -1, -1, device=device)
        labels = (torch.cat(digits).reshape(-1, n) * places).sum(1)
        return torch.cat(features).reshape(-1, self.n_features), labels


class _Subject(NamedTuple):
    """Images that a classifier is trained on: `split()` gives images and labels to train on, and to judge it by.

    `digest()` is that of the images, and `advice` what to do if it learns too little.
    """

    name: str
    shape: tuple[int, int, int]  # channels, pixels a side, classes
    how: datasets.Classifier
    split: Callable[[], tuple[Tensor, Tensor, Tensor, Tensor]]
    digest: Callable[[], str]
    advice: str


def _known(dataset: str, data_dir: str) -> _Subject:
    """Raises InputError for a data set that has no classifier of its own."""
    row = DATASETS.get(dataset) if is_data_set(dataset) else None
    if row is None or row.classifier is None:
        raise InputError(f"{shown(dataset)} has no yardstick of its own; expected one of {', '.join(JUDGES)}")
    return _Subject(
        dataset, (row.channels, row.side, row.classes), row.classifier, partial(split, dataset, data_dir),
        lambda: load(dataset, data_dir).digest, f"Are images and labels those of {dataset}?",
    )  # fmt: skip


def _labelled(data: ImageData) -> _Subject:
    """Shown about as many images as the others' classifiers are, and expected to be well above the commonest class."""
    n, counts = len(data.images), data.labels.bincount()
    most, few = counts.max().item() / n, int((counts < _FEWEST_OF_A_CLASS).sum())
    if 2 * few > len(counts):
        raise InputError(
            f"{few} of {data.name}'s {len(counts)} classes have fewer than {_FEWEST_OF_A_CLASS} images, from which no "
            "classifier can learn them. Use judge pixels, or the name of a data set whose classifier may judge samples"
        )
    how = datasets.Classifier(epochs=min(max(_IMAGES_SHOWN // n, 12), 200), lowest_accuracy=(1 + most) / 2)
    shape = (data.images.shape[1], data.images.shape[2], data.classes)
    advice = "Use judge pixels, or the name of a data set whose classifier may judge them"
    return _Subject(data.name, shape, how, lambda: _held_out(data.to("cpu")), lambda: data.digest, advice)


def label_yardstick(
    data: ImageData, row: Dataset, device: torch.device | str = "cpu", say: Callable[[str], None] = print
) -> Yardstick:
    """A classifier of a user's own labels, trained on first use, and kept, as `load_yardstick` says.

    A fifth of the images is held out to judge it; it must be right on at least half of those that whoever names the
    commonest class is wrong about. Raises InputError if it is not.
    """
    subject = _labelled(data)
    content, accuracy = _cached(subject, say)
    network = _trained(subject, content).eval().requires_grad_(False).to(device)
    return Yardstick(data.name, row, network, hashlib.sha256(content).hexdigest(), accuracy)


def load_yardstick(
    dataset: str, data_dir: str = "", device: torch.device | str = "cpu", say: Callable[[str], None] = print,
    judged: Dataset | None = None,
) -> Yardstick:  # fmt: skip
    """The yardstick of a data set, on `device`. `judged`: the row of other images that it is to judge.

    Weights whose hash stands in the row of the data set that judges are shipped (`sngan yardstick` trains them). Others
    are trained once, which takes minutes on a CPU, and kept in the platform's cache folder, by the hash of the images
    that they were trained on; a second process waits for the first, and a stopped one is continued after its last
    epoch. `say` gets lines of progress.

    Raises InputError for an unknown data set, if weights are not those whose hash is known, if images are
    needed and unavailable, and if a trained classifier is less accurate than its row allows.
    """
    if not is_data_set(dataset):
        raise InputError(f"no yardstick for data set {shown(dataset)}; known: {', '.join(DATASETS)}")
    subject = _known(DATASETS[dataset].judge, data_dir)
    name, how = subject.name, subject.how
    if how.sha256:
        content, accuracy = _shipped(FOLDER / f"{name}.safetensors", how.sha256), how.accuracy
    else:
        content, accuracy = _cached(subject, say)
    network = _trained(subject, content).eval().requires_grad_(False).to(device)
    sha256 = hashlib.sha256(content).hexdigest()
    return Yardstick(name, judged or DATASETS[dataset], network, sha256, accuracy, knows_classes=judged is None)


def _classifier(subject: _Subject) -> Classifier:
    """With weights from the stream `yardstick`, for the images of a data set."""
    with torch.random.fork_rng(devices=[]):  # torch's constructors draw from the global generator
        torch.manual_seed(torch_generator(0, "yardstick").initial_seed())
        return Classifier(*subject.shape)


def _trained(subject: _Subject, content: bytes) -> Classifier:
    """With weights from a safetensors file."""
    network = _classifier(subject)
    network.load_state_dict(from_bytes(content))
    return network


def train_weights(
    dataset: str, data_dir: str = "", say: Callable[[str], None] = print, epochs: int = 0, keep: Path | None = None
) -> tuple[bytes, float]:
    """A classifier's weights as a safetensors file, and its accuracy on images that it was not trained on.

    Everything random comes from the stream `yardstick` of seed 0: the same machine with the same number of threads
    gives the same bytes. `epochs`: 0 for those of the data set's row. Held out are the test images of a data set that
    has some, of others a fifth. Adam on a one-cycle schedule; images are moved by up to 2 pixels either
    way, and half of them get another black, another white and noise: generated digits on grey are digits too. At the
    end the features are scaled to a mean square of 1, which changes no prediction. After each epoch the state is kept
    in the file `keep`, from which the same training continues, to the same bytes. Whoever has written the weights
    deletes it. `say` is told if nothing can be kept there, or what is there cannot be used.

    Raises InputError for a data set that has no yardstick of its own, if images are unavailable, and if the
    accuracy is below the lowest that the row allows.
    """
    return _train(_known(dataset, data_dir), say, epochs, keep)


def _train(subject: _Subject, say: Callable[[str], None], epochs: int, keep: Path | None) -> tuple[bytes, float]:
    x_train, y_train, x_test, y_test = subject.split()
    epochs, name = epochs or subject.how.epochs, f"yardstick for {subject.name}"
    new = partial(_Training, subject, x_train, y_train, epochs)
    training = new()
    if keep and (why := cache.refusal(keep)):
        say(f"{name}: nothing is kept before the end, since {why}; if it is stopped, it starts again")
        keep = None
    if keep and keep.exists():
        if why := training.resume(keep):
            training = new()
        say(f"{name}: {f'starts again, as {why}' if why else f'continues after epoch {training.epoch} of {epochs}'}")
    network, accuracy = training.network, _accuracy(training.network, x_test, y_test)
    try:
        while training.epoch < epochs:
            for left in training.train_epoch():
                say(f"{name}: {training.epoch + training.share:.1f} of {epochs} epochs, about {_minutes(left)} left")
            accuracy = _accuracy(network, x_test, y_test)
            if keep:
                training.keep(keep)
            if epochs <= _MOST_SAID or training.epoch == epochs or training.is_time_to_say():
                say(f"{name}: epoch {training.epoch} of {epochs}, {accuracy:.2%} of {len(x_test):,} held-out images")
    except KeyboardInterrupt:
        kept = f"what {training.epoch} of {epochs} epochs gave is kept in {keep}, and the same command continues there"
        say(f"{name}: stopped; {kept if keep and training.epoch and cache.is_own(keep) else 'nothing of it is kept'}")
        raise
    if accuracy < subject.how.lowest_accuracy:
        if keep:
            cache.remove(keep)
        raise InputError(
            f"the classifier that should judge {subject.name}'s samples is right about only {accuracy:.1%} of the "
            f"held-out images; at least {subject.how.lowest_accuracy:.1%} are expected. {subject.advice}"
        )
    _scale_features(network, x_train[:5000])
    return to_bytes(network.state_dict()), accuracy


class _Training:
    """Epoch after epoch, all that is random from the stream `yardstick` of seed 0; `share` of this epoch is done."""

    def __init__(self, subject: _Subject, images: Tensor, labels: Tensor, epochs: int) -> None:
        self._images, self._labels, self._epochs = images, labels, epochs
        self._of = {  # on all of which the bits depend
            "data set": subject.name,
            "images": hashlib.sha256(images.numpy().data).hexdigest(),
            "labels": hashlib.sha256(labels.numpy().data).hexdigest(),
            "epochs": epochs,
            "torch": str(torch.__version__),
            "threads": torch.get_num_threads(),
        }
        self._rng, self._generator = numpy_generator(0, "yardstick"), torch_generator(0, "yardstick")
        self.network, self.epoch, self.share = _classifier(subject), 0, 0.0
        self._optimizer = torch.optim.Adam(self.network.parameters(), lr=_LR)
        self._batch_size = min(_BATCH_SIZE, len(images))
        self._steps, self._said = len(images) // self._batch_size, time.monotonic() - _SAY_EVERY + _FIRST
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(self._optimizer, _LR, total_steps=epochs * self._steps)

    def train_epoch(self) -> Iterator[float]:
        """Now and then the seconds that are left."""
        self.share, begin = 0.0, time.monotonic()
        order = torch.from_numpy(self._rng.permutation(len(self._images)))
        for i, indices in enumerate(order[: self._steps * self._batch_size].split(self._batch_size), start=1):
            x = disturbed(moved(normalized(self._images[indices]), self._generator), self._generator)
            loss = nn.functional.cross_entropy(self.network.train()(x), self._labels[indices])
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            self._schedule.step()
            self.share = i / self._steps
            if i < self._steps and self.is_time_to_say():
                yield (time.monotonic() - begin) / self.share * (self._epochs - self.epoch - self.share)
        self.epoch, self.share = self.epoch + 1, 0.0

    def is_time_to_say(self) -> bool:
        """Whether there was no line of progress for long; then it is taken for one that there is now."""
        if is_time := (now := time.monotonic()) - self._said > _SAY_EVERY:
            self._said = now
        return is_time

    def _state(self) -> dict[str, Any]:
        return {
            "of": self._of,
            "epoch": self.epoch,
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "order": json.dumps(self._rng.bit_generator.state),
            "generator": self._generator.get_state(),
        }

    def keep(self, path: Path) -> None:
        torch.save(self._state(), buffer := io.BytesIO())
        cache.write(path, buffer.getbuffer())

    def resume(self, path: Path) -> str:
        """Continue from the state that is kept there. Or why that cannot be, in words; then start a new training."""
        if (content := cache.read(path)) is None:
            return f"{path} is damaged, or another user could have written it"
        try:
            state = torch.load(io.BytesIO(content), weights_only=True)
            of = {what: state["of"].get(what) for what in self._of}
            if others := [
                f"{what} {shown(of[what])}, not {ours}" for what, ours in self._of.items() if of[what] != ours
            ]:
                return f"{path} is of another training: {'; '.join(others)}"
            self.network.load_state_dict(state["network"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._rng.bit_generator.state = json.loads(state["order"])
            self._generator.set_state(state["generator"])
            self.epoch = range(self._epochs + 1).index(state["epoch"])
            self._schedule.last_epoch = self.epoch * self._steps  # which says all
        except Exception:  # whatever it holds
            return f"{path} holds no state of a training"
        return ""


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"


@torch.no_grad()
def _scale_features(network: Classifier, images: Tensor) -> None:
    """Make the features' mean square 1 over the images; the logits stay what they are.

    Without this the unit of distances would be an accident of the training.
    """
    scale = network.eval().features(normalized(images)).square().mean().sqrt()
    for parameter in network.dense.parameters():  # ReLU passes a positive factor on
        parameter.div_(scale)
    network.logits.weight.mul_(scale)


def split(dataset: str, data_dir: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to train on, and those to judge the classifier by."""
    data = load(dataset, data_dir)
    if not DATASETS[dataset].has_test:
        return _held_out(data)
    test = load(dataset, data_dir, part="test")
    return data.images, data.labels, test.images, test.labels


def _held_out(data: ImageData) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A seeded fifth is held out."""
    order = torch.from_numpy(numpy_generator(0, "yardstick/held_out").permutation(len(data.images)))
    held_out, rest = order.tensor_split([len(order) // 5])
    return data.images[rest], data.labels[rest], data.images[held_out], data.labels[held_out]


def moved(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image (N, C, H, W) moved by its own number of pixels up to _SHIFT, black (-1) where nothing was."""
    n, _, height, width = x.shape
    padded = nn.functional.pad(x, [_SHIFT] * 4, value=-1.0)
    top, left = torch.randint(0, 2 * _SHIFT + 1, (2, n, 1), generator=generator)
    rows, columns = top + torch.arange(height), left + torch.arange(width)  # (N, H), (N, W)
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def disturbed(x: Tensor, generator: torch.Generator) -> Tensor:
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


def _cached(subject: _Subject, say: Callable[[str], None]) -> tuple[bytes, float]:
    """Weights and accuracy from the cache, trained first if there are none: <dataset>-<images>.weights."""
    folder, name = cache.folder("yardsticks"), f"yardstick for {subject.name}"
    path = folder / f"{subject.name}-{subject.digest()[:16]}.weights"
    keep = path.with_suffix(".partial")
    refusal = cache.refusal(keep)
    with _alone(path.with_suffix(".lock"), lambda: say(f"{name}: waits for the process that trains it")):
        if os.path.lexists(path):
            return _kept(path, subject)
        epochs = subject.how.epochs
        kept = "" if refusal else f"; kept in {folder}; stopped, it continues after its last epoch"
        say(f"{name}: training the classifier that judges samples, once, for {epochs} epochs{kept}")
        content, accuracy = _train(subject, say, 0, keep)
        cache.write(path, f"{accuracy}\n".encode() + content)
        if cache.is_own(path):
            cache.remove(keep)
        else:
            say(f"{name}: nothing can be kept in {folder}, so it is trained again next time")
    return content, accuracy


def _kept(path: Path, subject: _Subject) -> tuple[bytes, float]:
    """Weights and accuracy from a file of the cache. Raises InputError if it does not hold them, or is not believed."""
    with suppress(ValueError, RuntimeError, KeyError, SafetensorError):
        accuracy, _, content = (cache.read(path) or b"").partition(b"\n")
        _trained(subject, content)
        if 0 <= float(accuracy) <= 1:
            return content, float(accuracy)
    raise InputError(
        f"{path} is damaged, or another user could have written it. Delete it, and it is trained again; or set "
        "XDG_CACHE_HOME to a folder of your own; or, if you trust all who could, chmod go-w it and its folder"
    )


@contextmanager
def _alone(path: Path, wait: Callable[[], None]) -> Iterator[None]:
    """One process of the machine at a time; each by itself where no lock can be written."""
    lock = FileLock(path)
    with suppress(OSError):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            wait()
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _shipped(path: Path, sha256: str) -> bytes:
    """The file's bytes. Raises InputError if it cannot be read or is another one."""
    advice = "Install the package again"
    try:
        content = read_file(path)
    except (FileNotFoundError, InputError) as error:
        raise InputError(f"the weights of the classifier that judges samples are missing: {error}. {advice}") from error
    if (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise InputError(f"{path} is not the file that it should be: its SHA-256 is {found}, not {sha256}. {advice}")
    return content
