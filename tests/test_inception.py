"""Inception's features against torch-fidelity, TensorFlow's resizing and matrices by hand; the user's file, checked.

No machine of ours has the weights: a stand-in of their format, drawn at random, takes their place. What needs
torch-fidelity is skipped without it.
"""

import builtins
import hashlib
import io
import os
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sngan import inception
from sngan.config import InputError
from sngan.data import load, normalized
from sngan.inception import FILE, SHA256, Inception
from sngan.metrics import frechet_distance, kernel_distance


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would download fails the test."""
    refuse: Callable = lambda *_, **__: pytest.fail("downloads")  # noqa: E731
    for where, name in ((urllib.request, "urlopen"), (socket.socket, "connect"), (torch.hub, "download_url_to_file"),
                        (torch.hub, "load_state_dict_from_url")):  # fmt: skip
        monkeypatch.setattr(where, name, refuse)


@pytest.fixture(scope="session")
def _network(standin: Path) -> Inception:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "SHA256", hashlib.sha256(standin.read_bytes()).hexdigest())
        return Inception(standin)


@pytest.fixture
def network(_network: Inception) -> Inception:
    torch.manual_seed(0)
    return _network


def some_images(n: int, channels: int = 1, side: int = 28) -> Tensor:
    return torch.randint(
        0, 256, (n, channels, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


# --- features ---


def test_what_it_is(network: Inception, standin: Path) -> None:
    assert network.n_features == 2048
    assert network.sha256 == hashlib.sha256(standin.read_bytes()).hexdigest()
    assert "Inception" in network.name
    assert not network.network.training
    features = network.embed(some_images(2))
    assert (features.shape, features.dtype, features.requires_grad) == ((2, 2048), torch.float32, False)
    assert features.std(0).mean() > 1e-3  # the images differ
    assert network.embed(some_images(0)).shape == (0, 2048)


def test_grey_is_the_same_in_three_channels(network: Inception) -> None:
    images = some_images(2)
    assert torch.equal(network.embed(images), network.embed(images.repeat(1, 3, 1, 1)))
    assert not torch.allclose(network.embed(images), network.embed(some_images(2, 3)), atol=1e-3)


def test_floats_are_rounded_to_8_bits(network: Inception) -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)  # every byte once
    seen: list[Tensor] = []
    hook = network.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for dtype in (torch.float32, torch.float64):
        x = normalized(images, dtype)
        for step in (-0.49, 0, 0.49):  # of a byte
            network.embed((x + step / 127.5).clamp(-1, 1))
    hook.remove()
    assert len(seen) == 6
    assert all(torch.equal(given, images.expand(-1, 3, -1, -1)) for given in seen)


def test_features_of_an_image_do_not_depend_on_the_others(network: Inception) -> None:
    images = some_images(5)
    together = network.embed(images)
    torch.testing.assert_close(network.embed(images, batch_size=2), together, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network.embed(images.flip(0)).flip(0), together, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3


def bilinear_of_tensorflow_1(image: np.ndarray, side: int = 299) -> np.ndarray:
    """resize_bilinear without aligned corners and half-pixel centres: pixel i of the result lies at i * in / out."""
    n = image.shape[0]
    at = np.arange(side) * n / side
    low = np.floor(at).astype(int)
    high, share = np.minimum(low + 1, n - 1), at - low
    rows = image[low] * (1 - share)[:, None] + image[high] * share[:, None]
    return rows[:, low] * (1 - share) + rows[:, high] * share


@pytest.mark.parametrize("side", [28, 32, 299, 320])
def test_images_are_resized_as_tensorflow_1_did(network: Inception, side: int) -> None:
    image, seen = some_images(1, 1, side), []
    first = network.network.Conv2d_1a_3x3
    hook = first.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network.embed(image)
    hook.remove()
    expected = (bilinear_of_tensorflow_1(image[0, 0].numpy().astype(float)) - 128) / 128
    assert seen[0].shape == (1, 3, 299, 299)
    for channel in seen[0][0].numpy():
        np.testing.assert_allclose(channel, expected, atol=1e-4)


def test_nothing_random_is_drawn_and_nothing_changes(standin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(standin.read_bytes()).hexdigest())
    before, products = torch.get_rng_state(), torch.backends.cuda.matmul.fp32_precision  # type: ignore[attr-defined]
    network, images = Inception(str(standin)), some_images(1)
    first, kept = network.embed(images), images.clone()
    assert torch.equal(first, network.embed(images))
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.backends.cuda.matmul.fp32_precision == products  # type: ignore[attr-defined]


def test_products_are_float32_inside(network: Inception) -> None:
    found: list[str] = []
    cudnn = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before, cudnn.fp32_precision = cudnn.fp32_precision, "tf32"
    hook = network.network.register_forward_pre_hook(lambda *_: found.append(cudnn.fp32_precision))
    network.embed(some_images(1))
    hook.remove()
    assert (found, cudnn.fp32_precision) == (["ieee"], "tf32")
    cudnn.fp32_precision = before


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 2, 28, 28), "got .2, 2, 28, 28"),
        (torch.zeros(2, 1, 28, 27), "got .2, 1, 28, 27"),
        (torch.zeros(1, 28, 28), "expected images"),
        (torch.zeros(2, 1, 28, 28, dtype=torch.int64), "int64"),
        (torch.full((2, 1, 28, 28), 255.0), r"in \[-1, 1\]"),
        (torch.full((2, 1, 28, 28), torch.nan), "finite"),
    ],
)
def test_other_images_are_refused(network: Inception, images: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network.embed(images)


# --- distances ---


def frechet_by_hand(real: np.ndarray, fake: np.ndarray) -> float:
    """By numpy: with C = A'A, C_r C_f has the eigenvalues of the small matrix A_r A_f' A_f A_r', and zeros."""
    a, b = ((x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (real, fake))
    root = np.sqrt(np.clip(np.linalg.eigvalsh((a @ b.T) @ (b @ a.T)), 0, None)).sum()
    return ((real.mean(0) - fake.mean(0)) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * root


def test_fid_is_the_frechet_distance_of_these_features(network: Inception) -> None:
    digits = load("digits").images
    real, fake = network.embed(digits[:6]), network.embed(some_images(6))
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-6 * float(real.square().sum()))
    expected = frechet_by_hand(real.double().numpy(), fake.double().numpy())
    assert expected > 1e-2
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-6)


class Images(torch.utils.data.Dataset):
    """As torch-fidelity reads them: (3, side, side) uint8."""

    def __init__(self, images: Tensor) -> None:
        self._images = images.expand(-1, 3, -1, -1)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        return self._images[index]


@pytest.mark.slow
def test_fid_and_kid_are_torch_fidelitys(network: Inception, standin: Path) -> None:
    """Of one weights file and the same images, by its own command: features, statistics and distance."""
    theirs = pytest.importorskip("torch_fidelity")
    n = 24
    real, fake = load("digits").images[:n], some_images(n)
    options = {"fid": True, "kid": True, "kid_subsets": 1, "kid_subset_size": n, "cuda": False, "batch_size": 8,
               "cache": False, "verbose": False, "save_cpu_ram": True,  # without worker processes
               "feature_extractor_weights_path": str(standin)}  # fmt: skip
    expected = theirs.calculate_metrics(input1=Images(real), input2=Images(fake), **options)
    features = network.embed(real), network.embed(fake)
    # their matrix square root is of singular covariances, which costs it digits
    assert frechet_distance(*features) == pytest.approx(expected["frechet_inception_distance"], rel=1e-3)
    assert kernel_distance(*features) == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-3)


# --- the file ---


def test_the_file_is_that_of_the_release() -> None:
    assert f"-{SHA256[:8]}.pth" == FILE[-13:]
    assert len(SHA256) == 64


@pytest.mark.parametrize("nothing", ["", None])
def test_without_a_path_nothing_is_downloaded(nothing: Any) -> None:
    with pytest.raises(InputError) as error:
        Inception(nothing)
    for word in ("--inception-weights", "SNGAN_INCEPTION", FILE, SHA256, "[fid]"):
        assert word in str(error.value)


NO_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "there is no file"),
    "a folder": (Path.mkdir, "is not a file"),
    "a pipe": (os.mkfifo, "is not a file"),
    "below a file": (lambda path: path.parent.joinpath("x").touch(), "there is no file"),
    "a loop of links": (lambda path: path.symlink_to(path), "no Inception weights"),
    "empty": (Path.touch, hashlib.sha256().hexdigest()),
    "another file": (lambda path: path.write_bytes(b"x" * 1000), hashlib.sha256(b"x" * 1000).hexdigest()),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_not_the_file_is_refused(kind: str, tmp_path: Path) -> None:
    make, message = NO_FILES[kind]
    path = tmp_path / "x" / "weights.pth" if kind == "below a file" else tmp_path / "weights.pth"
    make(path if kind != "below a file" else path.parent)
    with pytest.raises(InputError) as error:
        Inception(path)
    for word in (message, str(path), FILE, SHA256):
        assert word in str(error.value)


def test_weights_of_the_format_with_other_numbers_are_refused(standin: Path) -> None:
    with pytest.raises(InputError, match="is not the file that FID needs"):
        Inception(standin)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path := tmp_path / "weights.pth").touch()
    opened = Path.open

    def refuse(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        Inception(path)


def test_without_torch_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({}, buffer := io.BytesIO())
    (path := tmp_path / "weights.pth").write_bytes(buffer.getvalue())
    monkeypatch.setattr(inception, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    imported = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".")[0] == "torch_fidelity":
            raise ModuleNotFoundError("No module named 'torch_fidelity'")
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(InputError, match=r"needs torch-fidelity .*pip install -e '\.\[fid\]'"):
        Inception(path)
