import gzip
import hashlib
import os
import pickle
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, KMNIST, MNIST

from experiments.run import execute
from sngan import data
from sngan.config import InputError
from sngan.data import load, normalized
from sngan.datasets import DATASETS


def test_digits_are_scikit_learns_enlarged_bilinearly() -> None:
    found = load("digits")
    assert found.images.shape == (1797, 1, 28, 28)
    assert found.images.dtype == torch.uint8
    np.testing.assert_array_equal(found.labels, load_digits().target)
    small = load_digits().images[17].astype(np.float32) * 255 / 16
    large = np.asarray(Image.fromarray(small).resize((28, 28), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(found.images[17, 0].numpy(), large.round(), atol=1.01)  # Pillow is the other opinion


def test_normalized_covers_minus_one_to_one() -> None:
    pixels = torch.tensor([0, 127, 255], dtype=torch.uint8)
    assert normalized(pixels, torch.float64).tolist() == pytest.approx([-1, 127 / 127.5 - 1, 1])


@contextmanager
def in_time(seconds: int = 30) -> Iterator[None]:
    """Fails what hangs."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"hangs for {seconds} s"))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def write_idx(folder: Path, n: int = 60, classes: int = 10) -> np.ndarray:
    """MNIST's files in the format of its authors: big-endian header, then bytes."""
    images = np.random.default_rng(0).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    folder.mkdir(parents=True)
    header = (2051).to_bytes(4, "big") + n.to_bytes(4, "big") + (28).to_bytes(4, "big") * 2
    labels = (2049).to_bytes(4, "big") + n.to_bytes(4, "big") + bytes(i % classes for i in range(n))
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    return images


@pytest.mark.usefixtures("any_files")
def test_mnist_is_read_from_where_torchvision_keeps_it(tmp_path: Path) -> None:
    images = write_idx(tmp_path / "MNIST" / "raw")
    found = load("mnist", str(tmp_path))
    np.testing.assert_array_equal(found.images[:, 0], images)
    assert found.digest == load("mnist", str(tmp_path)).digest


@pytest.mark.usefixtures("any_files")
def test_processes_share_one_copy_that_nobody_can_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "N_STACKED", 500)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw)
    for name in ("mnist", "stacked_mnist", "stacked_mnist"):
        data.load.cache_clear()
        found = load(name, str(tmp_path))
        (path,) = (tmp_path / "cache").rglob(f"{name}-*")
        mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
        start, end = (int(number, 16) for number in mapped[-1].split()[0].split("-"))
        assert start <= found.images.data_ptr() < end
        before, kept = path.read_bytes(), found.images.clone()
        found.images.zero_()
        assert path.read_bytes() == before
        data.load.cache_clear()
        assert torch.equal(load(name, str(tmp_path)).images, kept)
    path.unlink()
    path.write_bytes(bytes([before[0] ^ 1]) + before[1:])  # damaged: made again
    data.load.cache_clear()
    assert torch.equal(load("stacked_mnist", str(tmp_path)).images, kept)
    assert path.read_bytes() == before
    path.unlink()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    data.load.cache_clear()
    assert torch.equal(load("stacked_mnist", str(tmp_path)).images, kept)
    assert not any("stacked" in p.name for p in path.parent.iterdir())


@pytest.mark.usefixtures("any_files")
def test_a_pipe_among_the_shared_copies_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    images = write_idx(tmp_path / "MNIST" / "raw")
    load("mnist", str(tmp_path))
    (path,) = (tmp_path / "cache").rglob("mnist-*")
    path.unlink()
    os.mkfifo(path)
    data.load.cache_clear()
    with in_time():
        np.testing.assert_array_equal(load("mnist", str(tmp_path)).images[:, 0], images)


@pytest.mark.usefixtures("any_files")
def test_stacked_mnist_are_fixed_triples_read_as_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "N_STACKED", 500)
    images = write_idx(tmp_path / "MNIST" / "raw")
    found = load("stacked_mnist", str(tmp_path))
    assert found.images.shape == (500, 3, 28, 28)
    channels = {image.tobytes(): i for i, image in enumerate(images)}
    for image, label in zip(found.images.numpy()[:50], found.labels[:50], strict=True):
        triple = [channels[channel.tobytes()] for channel in image]
        assert label == int("".join(str(i % 10) for i in triple))
    assert len(set(found.labels.tolist())) > 300  # of 1,000 classes, 500 triples
    assert not torch.equal(found.images[:, 0], found.images[:, 1])


@pytest.mark.usefixtures("any_files")
def test_three_channels_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "N_STACKED", 500)
    write_idx(tmp_path / "MNIST" / "raw")
    config = small(dataset="stacked_mnist", arm="sn", steps=2, data_dir=str(tmp_path))
    assert execute(config, "single", tmp_path, lambda message: None).state == "finished"
    grid = np.asarray(Image.open(tmp_path / config.run_id / "samples" / "step-000002.png"))
    assert grid.shape == (242, 242, 3)


@pytest.mark.usefixtures("any_files")
def test_files_that_are_not_mnists_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw", classes=11)
    with pytest.raises(InputError, match=r"60 labels up to 10; expected .* below 10"):
        load("mnist", str(tmp_path))


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with made-up files, training and test ones, whose digests stand where MNIST's do."""
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw)
    for path in raw.glob("t10k-*"):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    digests = {
        path.name: (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()) for path in raw.iterdir()
    }
    monkeypatch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], published=digests))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    data.load.cache_clear()
    return raw


def pack(path: Path, content: bytes | None = None, cut: int = 0) -> None:
    """A .gz in the file's place, of other content, or without its last bytes."""
    packed = gzip.compress(path.read_bytes() if content is None else content)
    path.with_name(f"{path.name}.gz").write_bytes(packed[: len(packed) - cut])
    path.unlink()


def in_place(make: Callable[[Path], object], name: str = "train-labels-idx1-ubyte") -> Callable[[Path], object]:
    """Something else where the file was, or its .gz."""

    def do(raw: Path) -> None:
        (raw / name.removesuffix(".gz")).unlink()
        make(raw / name)

    return do


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "the test images": (
        lambda raw: (raw / "train-images-idx3-ubyte").write_bytes((raw / "t10k-images-idx3-ubyte").read_bytes()),
        "train-images-idx3-ubyte is not the published .* of MNIST: it is t10k-images-idx3-ubyte",
    ),
    "one pixel": (lambda raw: flip(raw / "train-images-idx3-ubyte", 500), "its SHA-256 is .*, not "),
    "one label": (lambda raw: flip(raw / "train-labels-idx1-ubyte", 30), "train-labels.* its SHA-256 is .*, not "),
    "truncated": (lambda raw: os.truncate(raw / "train-images-idx3-ubyte", 900), "fewer bytes than that one's 47,056"),
    "empty": (lambda raw: os.truncate(raw / "train-labels-idx1-ubyte", 0), "fewer bytes than that one's 68"),
    "longer": (lambda raw: os.truncate(raw / "train-labels-idx1-ubyte", 69), "more bytes than that one's 68"),
    "truncated .gz": (lambda raw: pack(raw / "train-images-idx3-ubyte", cut=9), r"\.gz is damaged or truncated"),
    "another .gz": (lambda raw: pack(raw / "train-labels-idx1-ubyte", b"12"), r"\.gz is not the published"),
    "a large .gz": (lambda raw: pack(raw / "train-labels-idx1-ubyte", bytes(10**6)), "more bytes than"),
    "no .gz": (lambda raw: pack(raw / "train-images-idx3-ubyte", cut=10**6), r"\.gz"),
    "a folder": (in_place(Path.mkdir), "labels-idx1-ubyte is not a file"),
    "a folder as .gz": (in_place(Path.mkdir, "train-labels-idx1-ubyte.gz"), r"\.gz is not a file"),
    "a pipe": (in_place(os.mkfifo), "labels-idx1-ubyte is not a file"),
    "a pipe as .gz": (in_place(os.mkfifo, "train-labels-idx1-ubyte.gz"), r"\.gz is not a file"),
    "a link to itself": (
        in_place(lambda path: path.symlink_to(path.name)),
        "ubyte cannot be read: Too many levels of symbolic links",
    ),
    "a link to nothing": (in_place(lambda path: path.symlink_to("none")), "ubyte is a link that leads nowhere"),
    "a .gz that is a link to nothing": (
        in_place(lambda path: path.symlink_to("none"), "train-images-idx3-ubyte.gz"),
        r"\.gz is a link that leads nowhere",
    ),
    "missing": (
        lambda raw: (raw / "train-labels-idx1-ubyte").unlink(),
        "train-labels-idx1-ubyte missing, and no download: ",
    ),
}


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("kind", DAMAGES)
def test_only_the_published_files_are_mnist(kind: str, published: Path) -> None:
    do, message = DAMAGES[kind]
    do(published)
    with in_time(), pytest.raises(InputError, match=message) as caught:
        load("mnist", str(published.parents[1]))
    assert "Delete what is damaged there and put them there" in str(caught.value)
    load("mnist", str(published.parents[1]), part="test")  # of which nothing is damaged


def test_files_that_were_packed_again_are_unpacked(published: Path) -> None:
    (published / "t10k-images-idx3-ubyte").unlink()  # not needed to train
    before = (published / "train-images-idx3-ubyte").read_bytes()
    pack(published / "train-images-idx3-ubyte")
    assert load("mnist", str(published.parents[1])).images.shape == (60, 1, 28, 28)
    assert (published / "train-images-idx3-ubyte").read_bytes() == before


def test_a_gz_serves_where_it_cannot_be_unpacked(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load("mnist", str(published.parents[1]))
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        pack(published / name)
    monkeypatch.setattr("sngan.data.write_atomically", lambda *_: (_ for _ in ()).throw(PermissionError("read-only")))
    data.load.cache_clear()
    found = load("mnist", str(published.parents[1]))
    assert (found.digest, found.labels.tolist()) == (expected.digest, expected.labels.tolist())
    assert not (published / "train-images-idx3-ubyte").exists()


@pytest.mark.parametrize("name", ["train-labels-idx1-ubyte", "train-labels-idx1-ubyte.gz"])
def test_what_may_not_be_read_is_not_called_damaged_or_missing(
    name: str, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name.endswith(".gz"):
        pack(published / name.removesuffix(".gz"))
    opened = Path.open

    def refused(path: Path, *arguments: Any) -> Any:
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments)

    monkeypatch.setattr(Path, "open", refused)  # as root may read everything
    with pytest.raises(InputError, match=f"cannot get mnist: {published / name} cannot be read: Permission denied"):
        load("mnist", str(published.parents[1]))


def test_no_download_goes_into_a_pipe(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All files are downloaded if one is missing."""
    monkeypatch.setattr(MNIST, "download", lambda self: (published / "t10k-labels-idx1-ubyte.gz").write_bytes(b""))
    (published / "train-labels-idx1-ubyte").unlink()
    in_place(os.mkfifo, "t10k-labels-idx1-ubyte.gz")(published)
    with in_time(), pytest.raises(InputError, match=r"t10k-labels-idx1-ubyte\.gz is not a file"):
        load("mnist", str(published.parents[1]))


def test_without_network_the_message_names_files_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    data.load.cache_clear()
    with pytest.raises(InputError) as caught:
        load("fashion_mnist", str(tmp_path))
    assert "train-images-idx3-ubyte.gz" in str(caught.value)
    assert str(tmp_path / "FashionMNIST" / "raw") in str(caught.value)


def write_cifar(root: Path, n: int = 60) -> np.ndarray:
    """CIFAR-10's files in the format of their authors, the "python version": (6 n, 3, 32, 32), the test batch last.

    The colour of an image's middle says its class.
    """
    rng = np.random.default_rng(0)
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    batches = []
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        images = rng.integers(0, 60, (n, 3, 32, 32), dtype=np.uint8)
        labels = [i % 10 for i in range(n)]
        for image, label in zip(images, labels, strict=True):
            image[:, 8:24, 8:24] += np.array([[190, 0, 0, 190, 190, 0, 190, 95, 0, 95][label],
                                              [0, 190, 0, 190, 0, 190, 190, 95, 0, 0][label],
                                              [0, 0, 190, 0, 190, 190, 190, 95, 0, 190][label]],
                                             np.uint8)[:, None, None]  # fmt: skip
        content = {b"batch_label": name.encode(), b"labels": labels, b"data": images.reshape(n, 3072),
                   b"filenames": [b"%d.png" % i for i in range(n)]}  # fmt: skip
        (folder / name).write_bytes(pickle.dumps({key.decode(): value for key, value in content.items()}, protocol=2))
        batches.append(images)
    return np.concatenate(batches)


@pytest.mark.usefixtures("any_files")
def test_cifar10_is_read_from_where_torchvision_keeps_it(tmp_path: Path) -> None:
    images = write_cifar(tmp_path)
    found, test = load("cifar10", str(tmp_path)), load("cifar10", str(tmp_path), part="test")
    np.testing.assert_array_equal(found.images, images[:300])
    np.testing.assert_array_equal(test.images, images[300:])
    assert found.labels.tolist() == [i % 10 for i in range(60)] * 5
    assert (found.images.dtype, found.classes, found.digest) == (
        torch.uint8, 10, hashlib.sha256(images[:300].tobytes()).hexdigest()
    )  # fmt: skip


class Command:
    """What a pickle can be made to run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


BATCHES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda path: os.truncate(path, 5000), "not the format of CIFAR-10, or it is truncated"),
    "empty": (lambda path: os.truncate(path, 0), "not the format of CIFAR-10, or it is truncated"),
    "no pickle": (lambda path: path.write_bytes(b"x" * 99), "not the format of CIFAR-10"),
    "a program": (lambda path: path.write_bytes(pickle.dumps(Command(path.parent / "ran"))), "has no posix.mkdir"),
    "a list": (lambda path: path.write_bytes(pickle.dumps([1, 2])), "not the format of CIFAR-10"),
    "other images": (
        lambda path: path.write_bytes(pickle.dumps({"data": np.zeros((2, 30), np.uint8), "labels": [0, 1]})),
        "not the format of CIFAR-10",
    ),
    "a class too many": (
        lambda path: path.write_bytes(pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [10]})),
        "labels up to 10; expected .* below 10",
    ),
    "a label too few": (
        lambda path: path.write_bytes(pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]})),
        "302 images|242, 3, 32, 32",
    ),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "data_batch_3 is not a file"),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "data_batch_3 is not a file"),
}


@pytest.mark.usefixtures("any_files")
@pytest.mark.parametrize("kind", BATCHES)
def test_files_that_are_not_cifar10s_are_refused(kind: str, tmp_path: Path) -> None:
    write_cifar(tmp_path)
    do, message = BATCHES[kind]
    do(tmp_path / "cifar-10-batches-py" / "data_batch_3")
    with in_time(), pytest.raises(InputError, match=message) as caught:
        load("cifar10", str(tmp_path))
    assert "or cifar-10-python.tar.gz beside that folder" in str(caught.value)
    assert not (tmp_path / "cifar-10-batches-py" / "ran").exists()


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_only_the_published_files_are_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those whose MD5 torchvision knows."""
    images = write_cifar(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    with pytest.raises(InputError, match=r"data_batch_1 is not the published .* of CIFAR10: its MD5 is .*, not c99caf"):
        load("cifar10", str(tmp_path))
    monkeypatch.setattr(
        CIFAR10, "train_list", [[f"data_batch_{i}", md5(folder / f"data_batch_{i}")] for i in range(1, 6)]
    )
    np.testing.assert_array_equal(load("cifar10", str(tmp_path)).images, images[:300])
    data.load.cache_clear()
    flip(folder / "data_batch_4", 5000)
    with pytest.raises(InputError, match="data_batch_4 is not the published data_batch_4 of CIFAR10: its MD5 is"):
        load("cifar10", str(tmp_path))


def test_of_kmnist_the_packed_file_is_known_and_the_size_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "KMNIST" / "raw"
    write_idx(raw, n=70)
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(
        InputError, match=r"is not the published .* of KMNIST: it has fewer bytes than that one's 47,040,016"
    ):
        load("kmnist", str(tmp_path))
    paths = sorted(raw.iterdir())
    for path in paths:
        pack(path)
    with pytest.raises(InputError, match=r"ubyte\.gz is not the published .* of KMNIST: "):
        load("kmnist", str(tmp_path))
    resources = [(f"{path.name}.gz", md5(path.with_name(f"{path.name}.gz"))) for path in paths]
    monkeypatch.setattr(KMNIST, "resources", sorted(resources, reverse=True))  # images before labels
    sizes = {path.name: (len(gzip.decompress(path.with_name(f"{path.name}.gz").read_bytes())), "") for path in paths}
    monkeypatch.setitem(DATASETS, "kmnist", replace(DATASETS["kmnist"], published=sizes))
    monkeypatch.setattr(KMNIST, "resources", [*resources[2:3], *resources[3:], *resources[:2]])
    assert load("kmnist", str(tmp_path)).images.shape == (70, 1, 28, 28)
    data.load.cache_clear()
    assert load("kmnist", str(tmp_path)).images.shape == (70, 1, 28, 28)  # of the files that were unpacked


@pytest.mark.usefixtures("any_files")
def test_test_images_are_other_files(tmp_path: Path) -> None:
    images = write_idx(tmp_path / "MNIST" / "raw")
    path = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\7")
    images[-1, -1, -1] = 7
    np.testing.assert_array_equal(load("mnist", str(tmp_path), part="test").images[:, 0], images)
    with pytest.raises(InputError, match="digits has no test images"):
        load("digits", part="test")


@pytest.mark.parametrize("name", ["cifar100", "", ["mnist"], {}, None, 3])
def test_unknown_data_set(name: Any) -> None:
    with pytest.raises(InputError, match=re.escape(f"unknown data set {name!r}; known: digits")):
        load(name)


@pytest.mark.parametrize("part", ["tset", "Train", "", ["test"], None])
@pytest.mark.parametrize("name", ["mnist", "stacked_mnist", "digits"])
def test_unknown_part(name: str, part: Any) -> None:
    with pytest.raises(InputError, match=re.escape(f"unknown part {part!r} of {name}; known: train, test")):
        load(name, part=part)


def test_a_root_is_a_path() -> None:
    for root in (["data"], None, 3):
        with pytest.raises(InputError, match="is no path of a folder"):
            load("digits", root)  # type: ignore[arg-type]
    assert load("digits", Path("data")) is load("digits", "data")  # type: ignore[arg-type]


def test_what_is_no_table_of_bytes_is_refused(tmp_path: Path, any_files: None) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_idx(raw)
    path = raw / "train-labels-idx1-ubyte"
    whole = path.read_bytes()
    for content in (b"", b"\0\0", b"\0\0\x08", b"\0\0\x08\1", whole[:-1], whole + b"x", b"\0\0\x0d" + whole[3:]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot get mnist"):
            load("mnist", str(tmp_path))


@pytest.mark.parametrize("name", ["mnist"])
def test_real_mnist_where_it_is(name: str) -> None:
    root = data.data_root()
    if not (root / "MNIST" / "raw" / "train-images-idx3-ubyte").exists():
        pytest.skip(f"MNIST is not in {root}; set SNGAN_DATA")
    assert hashlib.md5((root / "MNIST" / "raw" / "train-images-idx3-ubyte").read_bytes()).hexdigest() == (
        "6bbc9ace898e44ae57da46a324031adb"  # which is published in many places
    )
    found = load(name)
    assert found.images.shape == (60000, 1, 28, 28)
    assert found.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


class Numpy(Command):
    def __reduce__(self) -> tuple[Any, ...]:
        return np.save, (str(self.path), np.zeros(1))


@pytest.mark.usefixtures("any_files")
def test_a_batch_runs_nothing_of_numpys_either(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    path.write_bytes(pickle.dumps(Numpy(path.parent / "ran")))
    with pytest.raises(InputError, match=r"has no numpy\.save"):
        load("cifar10", str(tmp_path))
    assert not (path.parent / "ran.npy").exists()
