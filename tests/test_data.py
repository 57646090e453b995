import gzip
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small
from PIL import Image
from sklearn.datasets import load_digits

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


def umask() -> int:
    os.umask(mask := os.umask(0))
    return mask


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
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
    path.unlink()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    data.load.cache_clear()
    assert torch.equal(load("stacked_mnist", str(tmp_path)).images, kept)
    assert not any("stacked" in p.name for p in path.parent.iterdir())


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
    "a folder": (
        lambda raw: [(raw / "train-images-idx3-ubyte").unlink(), (raw / "train-images-idx3-ubyte").mkdir()],
        "is not a file",
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
    with pytest.raises(InputError, match=message) as caught:
        load("mnist", str(published.parents[1]))
    assert "Delete what is damaged there and put them there" in str(caught.value)
    load("mnist", str(published.parents[1]), part="test")  # of which nothing is damaged


def test_files_that_were_packed_again_are_unpacked(published: Path) -> None:
    (published / "t10k-images-idx3-ubyte").unlink()  # not needed to train
    before = (published / "train-images-idx3-ubyte").read_bytes()
    pack(published / "train-images-idx3-ubyte")
    assert load("mnist", str(published.parents[1])).images.shape == (60, 1, 28, 28)
    assert (published / "train-images-idx3-ubyte").read_bytes() == before


def test_without_network_the_message_names_files_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    data.load.cache_clear()
    with pytest.raises(InputError) as caught:
        load("fashion_mnist", str(tmp_path))
    assert "train-images-idx3-ubyte.gz" in str(caught.value)
    assert str(tmp_path / "FashionMNIST" / "raw") in str(caught.value)


@pytest.mark.usefixtures("any_files")
def test_test_images_are_other_files(tmp_path: Path) -> None:
    images = write_idx(tmp_path / "MNIST" / "raw")
    path = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\7")
    images[-1, -1, -1] = 7
    np.testing.assert_array_equal(load("mnist", str(tmp_path), part="test").images[:, 0], images)
    with pytest.raises(InputError, match="digits has no test images"):
        load("digits", part="test")


def test_unknown_data_set() -> None:
    with pytest.raises(InputError, match="known: digits"):
        load("cifar10")


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
