"""A data set as one uint8 tensor, and the order in which a seed shows it."""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.util
import io
import json
import os
import pickle
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from sngan import cache, given
from sngan.architectures import ARCHITECTURES
from sngan.config import LARGEST, RunConfig
from sngan.datasets import DATASETS, Dataset, is_data_set, named
from sngan.errors import InputError, shown
from sngan.files import read_file, write_atomically
from sngan.streams import numpy_generator

N_STACKED = 128_000  # images of stacked_mnist
Part = Literal["train", "test"]


@dataclass(frozen=True)
class ImageData:
    """`images` uint8 (N, C, side, side), `labels` int64 (N,), and the SHA-256 of the images' bytes.

    Of images without labels these are 0. `digest` of a user's own images is that of images and labels.
    """

    name: str
    images: Tensor
    labels: Tensor
    digest: str

    @property
    def classes(self) -> int:
        """Of the labels; 0 if there are none."""
        if self.name in DATASETS:
            return DATASETS[self.name].classes
        n = int(self.labels.max()) + 1
        return n if n > 1 else 0

    def to(self, device: torch.device | str) -> ImageData:
        return ImageData(self.name, self.images.to(device), self.labels.to(device), self.digest)


def data_root(data_dir: str = "") -> Path:
    """`data_dir`, else the environment's SNGAN_DATA, else the platform's cache folder."""
    return Path(data_dir or os.environ.get("SNGAN_DATA") or cache.folder("data"))


def load(
    name: str, data_dir: str = "", part: Part = "train", side: int = 0, channels: int = 0,
    say: Callable[[str], None] = given.to_stderr,
) -> ImageData:  # fmt: skip
    """The training images of a data set, on the CPU; downloaded into `data_root(data_dir)` if missing.

    `part="test"` are the test images of the data sets that have some (`has_test` of their row).

    `digits` are scikit-learn's 1,797 embedded 8x8 digits, enlarged bilinearly to 28x28. `stacked_mnist` are 128,000
    triples of MNIST's training images, one per channel, the same in every run; the label is the three digits read as
    a number. `folder:PATH` and `npz:PATH` are a user's own, of `side` pixels a side and so many `channels` (0: their
    own, or else the side of the largest networks), as `sngan.given.read` says; their name is `folder` or `npz`.
    All but the digits are mapped from a copy in the platform's cache folder that bears its digest, so that the
    processes of a machine share them. `say` gets lines of progress.

    Raises InputError for an unknown name or part, if files are missing and cannot be downloaded, for files that are not
    the published ones, byte for byte once they are unpacked, and what `sngan.given.read` raises.
    """
    if given.is_given(name):
        return _given(name, part, side, channels, say)
    if not is_data_set(name):
        raise InputError(f"unknown data set {shown(name)}; known: {', '.join(named())}")
    if part not in get_args(Part):
        raise InputError(f"unknown part {shown(part)} of {name}; known: {', '.join(get_args(Part))}")
    if not isinstance(data_dir, str | os.PathLike):
        raise InputError(f"{shown(data_dir)} is no path of a folder")
    if part == "test" and not DATASETS[name].has_test:
        raise InputError(f"{name} has no test images")
    return _loaded(name, os.fspath(data_dir), part)


def load_images(config: RunConfig, say: Callable[[str], None] = given.to_stderr) -> ImageData:
    """The training images of a run, as `load` gives them. Raises InputError if a user's own are not at hand."""
    if config.dataset in DATASETS:
        return load(config.dataset, config.data_dir)
    if not config.data_path:
        raise InputError(f"dataset {config.dataset}: it is not known where the images are; give {config.dataset}:PATH")
    content = given.Content(config.data_sha256, config.channels, 0, 0)
    name = f"{config.dataset}:{config.data_path}{content.fragment()}"
    return load(name, side=config.side, channels=config.channels, say=say)


def _given(name: str, part: str, side: int, channels: int, say: Callable[[str], None]) -> ImageData:
    if part != "train":
        raise InputError(f"{name} has no {shown(part)} images")
    if not side:
        own = given.look(name, say).side
        side = own if any(own == row.side for row in ARCHITECTURES.values()) else ARCHITECTURES[LARGEST].side
    if not isinstance(side, int) or side < 1 or channels not in (0, 1, 3):
        raise InputError(f"side {shown(side)}, channels {shown(channels)}: expected pixels a side, and 0, 1 or 3")
    kind, path, _ = given.named(name)
    content = given.present(name, say)  # whatever was read before
    key = kind, path, content.sha256, side, channels
    if key not in _given_images:
        while len(_given_images) > 1:
            del _given_images[next(iter(_given_images))]
        _given_images[key] = _read_given(f"{kind}:{path}{content.fragment()}", side, channels, say)
    return _given_images[key]


_given_images: dict[tuple, ImageData] = {}  # the last two: a sweep's worker takes run after run of the same images


def _read_given(name: str, side: int, channels: int, say: Callable[[str], None]) -> ImageData:
    images, labels, _ = given.read(name, side, channels, say)
    digest = hashlib.sha256(images.data)
    if labels.any():
        digest.update(labels.tobytes())
    return ImageData(name.partition(":")[0], torch.from_numpy(images), torch.from_numpy(labels), digest.hexdigest())


@functools.lru_cache(maxsize=2)  # a sweep's worker takes run after run of the same data set
def _loaded(name: str, data_dir: str, part: Part) -> ImageData:
    images, labels = LOADERS[DATASETS[name].loader](name, data_dir, part)
    return ImageData(name, images, labels, _digest(images))


def _clear() -> None:
    _loaded.cache_clear()
    _given_images.clear()


load.cache_clear = _clear  # pyright: ignore[reportFunctionMemberAccess]


def _digest(images: Tensor) -> str:
    return hashlib.sha256(images.numpy().data).hexdigest()


def _shared(name: str, shape: tuple[int, ...], make: Callable[[], Tensor], sha256: str = "") -> Tensor:
    """Images (N, C, side, side), mapped from the cache; made and put there if it lacks them, or has others than those.

    If they cannot be kept, in a full or read-only folder, they are those of this process.
    """
    path = cache.folder("images") / name
    if (found := cache.mapped(path, shape, sha256)) is None:
        images = make()
        cache.write(path, images.numpy().data)
        found = cache.mapped(path, shape, sha256)
    return images if found is None else torch.from_numpy(found)


def _digits(name: str, data_dir: str, part: Part) -> tuple[Tensor, Tensor]:
    # The file that sklearn.datasets.load_digits reads: importing that function costs a process two seconds.
    origin = importlib.util.find_spec("sklearn").origin  # type: ignore[union-attr]
    table = np.loadtxt(Path(str(origin)).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    small = torch.from_numpy(table[:, :-1]).float().reshape(-1, 1, 8, 8) * (255 / 16)  # 0..16 -> 0..255
    side = DATASETS[name].side
    large = torch.nn.functional.interpolate(small, size=(side, side), mode="bilinear", align_corners=False)
    return large.round().clamp(0, 255).to(torch.uint8), torch.from_numpy(table[:, -1]).long()


def _stacked(name: str, data_dir: str, part: Part) -> tuple[Tensor, Tensor]:
    """Three MNIST digits in the channels. Source: Metz et al. 2017, arXiv 1611.02163."""
    mnist = load("mnist", data_dir)
    triples = numpy_generator(0, "stacked_mnist").integers(len(mnist.images), size=(N_STACKED, 3))
    triples = torch.from_numpy(triples)
    hundreds, tens, ones = mnist.labels[triples].unbind(1)
    key = f"{name}-{N_STACKED}-{mnist.digest[:16]}"  # 300 MB
    images = _shared(key, (N_STACKED, 3, *mnist.images.shape[2:]), lambda: mnist.images[triples, 0])
    return images, 100 * hundreds + 10 * tens + ones


def _torchvision(name: str, data_dir: str, part: Part) -> tuple[Tensor, Tensor]:
    """Grey images in the format of MNIST: the published files, byte for byte."""
    row = DATASETS[name]
    of = _library(row)
    folder = data_root(data_dir) / row.torchvision / "raw"
    files = [folder / Path(file).stem for file, _ in of.resources]
    paths = [path for path in files if path.name.startswith("train") == (part == "train")]
    with _explained(name, folder, [f"{path.name}[.gz]" for path in files], f"{row.torchvision}/raw"):
        contents = _contents(name, data_dir, paths, beside={*files} - {*paths})
        images, labels = map(_table, contents)
        _check_images(images, labels, row)
    images, labels = images[:, None], labels.long()
    if part == "test":  # the yardstick's, read once in a while
        return images, labels
    digest = _digest(images)
    return _shared(f"{name}-{digest[:16]}", tuple(images.shape), lambda: images, digest), labels


def _cifar(name: str, data_dir: str, part: Part) -> tuple[Tensor, Tensor]:
    """Colour images in the format of CIFAR-10, "python version": the published files, byte for byte."""
    row = DATASETS[name]
    of = _library(row)
    folder = data_root(data_dir) / of.base_folder
    names = [file for file, _ in (of.train_list if part == "train" else of.test_list)]
    needed = [*(file for file, _ in of.train_list), *(file for file, _ in of.test_list)]
    with _explained(name, folder, needed, of.base_folder, f", or {of.filename} beside that folder"):
        batches = [_batch(content) for content in _contents(name, data_dir, [folder / file for file in names])]
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        _check_images(images, labels, row)
    if part == "test":
        return images, labels
    digest = _digest(images)
    return _shared(f"{name}-{digest[:16]}", tuple(images.shape), lambda: images, digest), labels


def _library(row: Dataset) -> Any:
    """torchvision's class of a data set."""
    from torchvision import datasets

    return getattr(datasets, row.torchvision)


@contextmanager
def _explained(name: str, folder: Path, files: list[str], place: str, else_: str = "") -> Iterator[None]:
    """What is wrong with a data set's files as InputError, with what would be right."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"cannot get {name}: {' '.join(str(error).split())}. It needs the files {', '.join(files)} in {folder}"
            f"{else_}. Delete what is damaged there and put them there, or name another root that holds {place} with "
            "--data-dir or SNGAN_DATA, or run once with a network to download them"
        ) from error


def _contents(name: str, data_dir: str, paths: list[Path], beside: Collection[Path] = ()) -> list[bytes]:
    """The content of the files, downloaded if one is missing.

    `beside`: which are downloaded as well, so that nothing else may be there: a pipe would never end. Raises ValueError
    if one cannot be read or is another file, and OSError or RuntimeError if it cannot be downloaded.
    """
    row = DATASETS[name]
    found = {path: _content(path, row) for path in paths}
    if missing := [path.name for path, content in found.items() if content is None]:
        for path in beside:
            _content(path, row)
        try:
            _library(row)(str(data_root(data_dir)), download=True)  # shows a bar
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"{', '.join(missing)} missing, and no download: {error}") from error
        found = {path: _content(path, row) for path in paths}
    return [content or b"" for content in found.values()]


def _check_images(images: Tensor, labels: Tensor, row: Dataset) -> None:
    """Raises ValueError if these images (N, .., side, side) and labels cannot be the data set's."""
    if images.shape[-2:] != (row.side, row.side) or labels.shape != images.shape[:1] or labels.max() >= row.classes:
        raise ValueError(
            f"{tuple(images.shape)} images, {len(labels)} labels up to {labels.max()}; expected "
            f"(N, {row.side}, {row.side}) and N labels below {row.classes}"
        )


def _content(path: Path, row: Dataset) -> bytes | None:
    """The file's bytes, or else those of its .gz, which are written there if that can be. None if neither is there.

    Raises ValueError if it cannot be read, or is not the published one.
    """
    most = row.published[path.name][0] + 1 if row.published and row.published[path.name][0] else -1
    packed = path.with_name(f"{path.name}.gz")
    if (content := _read(path, most)) is not None:
        _check_content(content, path, path.name, row, content)
        return content
    if (compressed := _read(packed)) is None:
        return None
    try:
        with gzip.open(io.BytesIO(compressed)) as file:
            content = file.read(most)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{packed} is damaged or truncated ({error})") from error
    _check_content(content, packed, path.name, row, compressed)
    with suppress(OSError):  # in a folder that cannot be written it is unpacked every time
        write_atomically(path, content)
    return content


def _read(path: Path, most: int = -1) -> bytes | None:
    """None if there is no such file. Raises ValueError if it cannot be read, as a link that leads nowhere."""
    try:
        return read_file(path, most)
    except FileNotFoundError:
        if link := next((one for one in (path, *path.parents) if os.path.islink(one) and not one.exists()), None):
            raise ValueError(f"{link} is a link that leads nowhere") from None
        return None


def _table(content: bytes) -> Tensor:
    """A file in the format of MNIST: 0, 0, 8, the number of dimensions, these as big-endian integers, and the bytes.

    Raises ValueError for another format.
    """
    if content[:3] != b"\0\0\x08":
        raise ValueError("this is not the format of MNIST")
    n_dims = int.from_bytes(content[3:4], "big")
    shape = np.frombuffer(content, ">i4", n_dims, offset=4)
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * n_dims).reshape(shape).copy())


class _Batch(pickle.Unpickler):
    """Of plain values and numpy's arrays: what else a pickle could run is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.split(".")[0], name) in {
            ("numpy", word) for word in ("_reconstruct", "_frombuffer", "ndarray", "dtype")
        }:
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"a batch of CIFAR-10 has no {module}.{name}")


def _batch(content: bytes) -> tuple[Tensor, Tensor]:
    """Images (N, 3, 32, 32) and labels of one file of CIFAR-10. Raises ValueError for another format."""
    try:
        batch = _Batch(io.BytesIO(content), encoding="latin1").load()
        images = np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32)
        return torch.from_numpy(images.copy()), torch.tensor(batch["labels"], dtype=torch.int64)
    except Exception as error:  # as a damaged pickle raises what it likes
        raise ValueError(f"this is not the format of CIFAR-10, or it is truncated ({error})") from error


def _check_content(content: bytes, path: Path, name: str, row: Dataset, raw: bytes) -> None:
    """Raises ValueError if these bytes of a file are not those of the published one of this name.

    `raw`: as the file at `path` has them, packed or not.
    """
    if not row.published:
        return
    size, expected = row.published[name]
    kind, found = "SHA-256", hashlib.sha256(content).hexdigest()
    if not expected:
        of = _library(row)
        lists = (list_ for what in ("resources", "train_list", "test_list") for list_ in getattr(of, what, ()))
        md5s = {Path(file).name: md5 for file, md5 in lists}
        kind, found, expected = "MD5", hashlib.md5(raw).hexdigest(), md5s.get(path.name, "")
    if found == expected or (not expected and len(content) == size):
        return
    if others := [other for other, (_, digest) in row.published.items() if digest == found]:
        what = f"it is {others[0]}"
    elif size and len(content) != size:
        what = f"it has {'fewer' if len(content) < size else 'more'} bytes than that one's {size:,}"
    else:
        what = f"its {kind} is {found}, not {expected}"
    raise ValueError(f"{path} is not the published {name} of {row.torchvision}: {what}")


LOADERS: dict[str, Callable[[str, str, Part], tuple[Tensor, Tensor]]] = {
    "digits": _digits,
    "stacked": _stacked,
    "torchvision": _torchvision,
    "cifar": _cifar,
}
"""name of a data set, `data_dir` and part -> uint8 images (N, C, side, side) and int64 labels (N,)"""


def normalized(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 -> [-1, 1], the range of tanh."""
    return images.to(dtype).div_(127.5).sub_(1)


class Order:
    """Indices of batch after batch, (batch_size,), of one permutation of the images joined to the next."""

    dtype = torch.int64

    def __init__(self, n_images: int, batch_size: int, generator: np.random.Generator) -> None:
        self.shape, self._n_images, self._generator = (batch_size,), n_images, generator
        self._rest = np.empty(0, dtype=np.int64)

    def fill(self, out: Tensor) -> None:
        if len(self._rest) < len(out):
            self._rest = np.concatenate([self._rest, self._generator.permutation(self._n_images)])
        batch, self._rest = np.split(self._rest, self.shape)
        out.copy_(torch.from_numpy(batch))

    def state(self) -> dict[str, Any]:
        return {"generator": json.dumps(self._generator.bit_generator.state), "order": torch.from_numpy(self._rest)}

    def load_state(self, state: dict[str, Any]) -> None:
        self._generator.bit_generator.state = json.loads(state["generator"])
        self._rest = state["order"].cpu().numpy()
