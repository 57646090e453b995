import os
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


def test_mnist_is_read_from_where_torchvision_keeps_it(tmp_path: Path) -> None:
    images = write_idx(tmp_path / "MNIST" / "raw")
    found = load("mnist", str(tmp_path))
    np.testing.assert_array_equal(found.images[:, 0], images)
    assert found.digest == load("mnist", str(tmp_path)).digest


def umask() -> int:
    os.umask(mask := os.umask(0))
    return mask


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


def test_three_channels_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "N_STACKED", 500)
    write_idx(tmp_path / "MNIST" / "raw")
    config = small(dataset="stacked_mnist", arm="sn", steps=2, data_dir=str(tmp_path))
    assert execute(config, "single", tmp_path, lambda message: None).state == "finished"
    grid = np.asarray(Image.open(tmp_path / config.run_id / "samples" / "step-000002.png"))
    assert grid.shape == (242, 242, 3)


def test_files_that_are_not_mnists_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw", classes=11)
    with pytest.raises(InputError, match=r"damaged .*60 labels up to 10; expected .* below 10"):
        load("mnist", str(tmp_path))


def test_without_network_the_message_names_files_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    data.load.cache_clear()
    with pytest.raises(InputError) as caught:
        load("fashion_mnist", str(tmp_path))
    assert "train-images-idx3-ubyte.gz" in str(caught.value)
    assert str(tmp_path / "FashionMNIST" / "raw") in str(caught.value)


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
    found = load(name)
    assert found.images.shape == (60000, 1, 28, 28)
    assert found.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
