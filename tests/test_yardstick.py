"""The classifiers that judge samples: their published accuracy and hashes, and what they make of an image."""

import hashlib
import io
import os
import re
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.datasets import load_digits
from test_data import in_time, write_idx

from sngan import cache, datasets, yardstick
from sngan.config import InputError
from sngan.data import data_root, load
from sngan.datasets import DATASETS, JUDGES
from sngan.yardstick import Classifier, Yardstick, load_yardstick, train_weights


def folder_of_weights() -> Path:
    return Path(yardstick.__file__).parent / "yardsticks"


def classifier_of(name: str) -> datasets.Classifier:
    row = DATASETS[name].classifier
    assert row
    return row


SHIPPED = [name for name in JUDGES if classifier_of(name).sha256]


def change(monkeypatch: pytest.MonkeyPatch, name: str, **values: object) -> None:
    """Another row of the classifier of a data set."""
    row = replace(classifier_of(name), **values)  # type: ignore[arg-type]
    monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], classifier=row))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_small_and_those_of_the_table(name: str) -> None:
    content = (folder_of_weights() / f"{name}.safetensors").read_bytes()
    row = classifier_of(name)
    assert hashlib.sha256(content).hexdigest() == row.sha256 == load_yardstick(name).sha256
    assert len(content) < 1_000_000
    assert row.accuracy >= row.lowest_accuracy >= {"mnist": 0.992, "digits": 0.98, "fashion_mnist": 0.88}[name]


def test_digits_accuracy_is_that_of_the_table() -> None:
    """On the seeded fifth that it was not trained on."""
    sequence = np.random.SeedSequence([0, zlib.crc32(b"yardstick/held_out")])
    held_out = np.random.default_rng(sequence).permutation(1797)[:359]
    _, labels = load_yardstick("digits").embed(load("digits").images[held_out])
    assert (labels.numpy() == load_digits().target[held_out]).mean() == pytest.approx(
        classifier_of("digits").accuracy, abs=1e-4
    )


def test_mnist_accuracy_is_that_of_the_table() -> None:
    """On MNIST's own test images, read as bytes."""
    raw = data_root() / "MNIST" / "raw"
    if not (raw / "t10k-images-idx3-ubyte").exists():
        pytest.skip(f"MNIST is not in {raw}; set SNGAN_DATA")
    images = np.fromfile(raw / "t10k-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 1, 28, 28)
    truth = np.fromfile(raw / "t10k-labels-idx1-ubyte", np.uint8)[8:]
    _, labels = load_yardstick("mnist").embed(torch.from_numpy(images))
    assert (labels.numpy() == truth).mean() == pytest.approx(classifier_of("mnist").accuracy, abs=2e-4)


# --- features ---


def features_are_each_images_own(judge: Yardstick) -> None:
    """Whatever the batch is, and whatever is in it: up to rounding."""
    images = load("digits").images[:100].expand(-1, judge.judged.channels, -1, -1)
    expected, labels = judge.embed(images, 100)
    order = torch.from_numpy(np.random.default_rng(0).permutation(100))
    for batch_size in (1, 7, 500):
        features, found = judge.embed(images[order], batch_size)
        torch.testing.assert_close(features, expected[order], rtol=1e-4, atol=1e-4)
        assert torch.equal(found, labels[order])


@pytest.mark.parametrize("dataset", ["digits", "mnist", "stacked_mnist"])
def test_features_do_not_depend_on_the_batch(dataset: str) -> None:
    features_are_each_images_own(load_yardstick(dataset))


def test_a_planted_train_mode_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier that was left in train mode uses its batches' own statistics."""
    monkeypatch.setattr(Classifier, "eval", lambda self: self.train())
    with pytest.raises(AssertionError):
        features_are_each_images_own(load_yardstick("digits"))


def test_features_are_the_penultimate_layers_and_labels_the_largest_logits() -> None:
    judge, images = load_yardstick("digits"), load("digits").images[:50]
    features, labels = judge.embed(images)
    x = images.float() / 127.5 - 1
    logits = judge.network(x)
    assert features.shape == (50, judge.n_features) == (50, 64)
    torch.testing.assert_close(features @ judge.network.logits.weight.T + judge.network.logits.bias, logits)
    assert torch.equal(labels, logits.argmax(1))
    for other in (x, x.double()):  # an image is the same in bytes and in [-1, 1]
        torch.testing.assert_close(judge.embed(other)[0], features)


@pytest.mark.parametrize(("black", "white", "noise"), [(-0.3, 0.5, 0), (-0.1, 0.4, 0), (-1, 0.1, 0), (-1, 1, 0.25)])
def test_a_digit_on_grey_or_with_noise_is_still_that_digit(black: float, white: float, noise: float) -> None:
    """As generators draw them: without such images in its training, the classifier took whole grids for one class."""
    x = load("digits").images / 255 * (white - black) + black
    x = x + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    _, labels = load_yardstick("digits").embed(x.clamp(-1, 1))
    assert (labels == load("digits").labels).float().mean() > 0.99


def test_features_have_unit_mean_square() -> None:
    features, _ = load_yardstick("digits").embed(load("digits").images)
    assert features.square().mean().item() == pytest.approx(1, abs=0.05)


def test_stacked_images_are_judged_channel_by_channel() -> None:
    images, labels = load("digits").images[:90], load("digits").labels[:90]
    one, (features, triples) = (
        load_yardstick("mnist"),
        load_yardstick("stacked_mnist").embed(images.reshape(30, 3, 28, 28)),
    )
    singly, digits = one.embed(images)
    torch.testing.assert_close(features, singly.reshape(30, 192))
    assert triples.tolist() == [100 * a + 10 * b + c for a, b, c in digits.reshape(30, 3).tolist()]
    assert (digits == labels).float().mean() > 0.5  # MNIST's classifier knows other people's digits too


def test_the_channels_classes_are_the_digits_of_a_number_to_the_base_of_the_judges_classes() -> None:
    torch.manual_seed(0)
    network, row = Classifier(classes=3).eval(), replace(DATASETS["stacked_mnist"], classes=27)
    images = torch.rand(40, 3, 28, 28) * 2 - 1
    network.logits.bias.data -= network(images.reshape(-1, 1, 28, 28)).mean(0)  # so that all classes come
    digits = network(images.reshape(-1, 1, 28, 28)).argmax(1).reshape(-1, 3)
    _, labels = Yardstick("", row, network, "", 1.0).embed(images)
    assert len(set(digits.flatten().tolist())) == 3
    assert labels.tolist() == [9 * a + 3 * b + c for a, b, c in digits.tolist()]


def test_colours_are_no_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of three channels are seen in colour, whole, unless their row says that each channel is judged alone."""
    row = replace(DATASETS["fashion_mnist"], channels=3, judge="colour")
    monkeypatch.setitem(DATASETS, "colour", row)
    torch.manual_seed(0)
    network = Classifier(channels=3).eval()
    images = torch.rand(5, 3, 28, 28) * 2 - 1
    features, labels = Yardstick("colour", row, network, "", 1.0).embed(images)
    assert features.shape == (5, 64)
    assert torch.equal(labels, network(images).argmax(1))
    swapped, _ = Yardstick("colour", row, network, "", 1.0).embed(images.flip(1))
    assert not torch.allclose(swapped, features)


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected images \(N, 3, 28, 28\), got \(2, 1, 28, 28\)"):
        load_yardstick("stacked_mnist").embed(torch.zeros(2, 1, 28, 28))


# --- where weights come from ---


def test_weights_that_are_not_the_published_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray((folder_of_weights() / "digits.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "digits.safetensors").write_bytes(content)
    monkeypatch.setattr(yardstick, "FOLDER", tmp_path)
    with pytest.raises(
        InputError, match=r"digits\.safetensors is not the file .* SHA-256 is .*Install the package again"
    ):
        load_yardstick("digits")
    with pytest.raises(InputError, match="are missing"):
        load_yardstick("mnist")
    with pytest.raises(InputError, match="known: digits"):
        load_yardstick("cifar100")
    (tmp_path / "fashion_mnist.safetensors").mkdir()
    with pytest.raises(InputError, match="is not a file"):
        load_yardstick("fashion_mnist")


@pytest.mark.parametrize("name", ["cifar100", ["digits"], {}, None])
def test_unknown_data_sets(name: Any) -> None:
    with pytest.raises(InputError, match=re.escape(f"no yardstick for data set {name!r}; known: digits")):
        load_yardstick(name)
    for other in (name, "stacked_mnist"):
        with pytest.raises(InputError, match=re.escape(f"{other!r} has no yardstick of its own")):
            train_weights(other)


@pytest.fixture
def quick(any_files: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A cache of its own, one epoch, any accuracy, and noise as Fashion-MNIST, for which no weights are shipped."""
    for name in ("digits", "fashion_mnist"):
        change(monkeypatch, name, epochs=1, lowest_accuracy=0.0)
    change(monkeypatch, "fashion_mnist", sha256="")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("SNGAN_DATA", str(tmp_path))
    write_idx(tmp_path / "FashionMNIST" / "raw", n=300)
    load.cache_clear()
    yield
    load.cache_clear()


@pytest.mark.usefixtures("quick")
def test_training_repeats_itself_bit_for_bit_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    first, accuracy = train_weights("digits", say=lambda text: None)
    assert torch.rand(1).item() == torch.rand(1, generator=torch.Generator().manual_seed(1)).item()
    assert train_weights("digits", say=lambda text: None) == (first, accuracy)
    assert accuracy > 0.5  # after one epoch; one in ten by chance
    network = Classifier()
    network.load_state_dict(safetensors.torch.load(first))
    x = load("digits").images.float() / 127.5 - 1
    assert network.eval().features(x).square().mean().item() == pytest.approx(1, abs=0.05)


@pytest.mark.usefixtures("quick")
def test_what_is_not_shipped_is_trained_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    folder = tmp_path / "cache" / "sngan" / "yardsticks"
    folder.mkdir(parents=True)  # with what an older version kept
    (folder / f"fashion_mnist-{load('fashion_mnist').digest[:16]}-0.9900.weights").write_bytes(b"old")
    with ThreadPoolExecutor(2) as pool:  # the second waits for the first
        judges = list(pool.map(lambda _: load_yardstick("fashion_mnist", say=said.append), range(2)))
    assert len([text for text in said if "once, for 1 epochs; kept in" in text]) == 1
    assert judges[0].sha256 == judges[1].sha256
    assert 0 <= judges[0].accuracy < 0.5  # of noise
    monkeypatch.setattr(yardstick, "train_weights", None)
    again = load_yardstick("fashion_mnist")
    assert (again.sha256, again.accuracy) == (judges[0].sha256, judges[0].accuracy)
    (kept,) = (path for path in folder.glob("*.weights") if "0.9900" not in path.name)
    if os.geteuid() == 0:
        os.chown(kept, 12345, 12345)
        with pytest.raises(InputError, match=r"another user could have written it. Delete it"):
            load_yardstick("fashion_mnist")
        os.chown(kept, 0, 0)
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    with pytest.raises(InputError, match=r"is damaged, or .* Delete it, and it is trained again"):
        load_yardstick("fashion_mnist")


@pytest.mark.usefixtures("quick")
def test_stopped_it_continues_after_its_last_epoch_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yardstick, "_FIRST", 0.0)
    change(monkeypatch, "fashion_mnist", epochs=4)
    monkeypatch.setattr(yardstick, "_SAY_EVERY", 0.0)
    expected, said = train_weights("fashion_mnist", say=lambda text: None), list[str]()
    stops = ["1.5 of 4 epochs", "epoch 3 of 4,"]

    def stop(text: str) -> None:
        said.append(text)
        if stops and stops[0] in text:
            del stops[0]
            raise KeyboardInterrupt

    while stops:
        with pytest.raises(KeyboardInterrupt):
            load_yardstick("fashion_mnist", say=stop)
    judge = load_yardstick("fashion_mnist", say=said.append)
    assert judge.sha256 == hashlib.sha256(expected[0]).hexdigest()
    assert [text.partition(": ")[2] for text in said if "continues after epoch" in text and "stopped" not in text] == [
        "continues after epoch 1 of 4",
        "continues after epoch 3 of 4",
    ]
    assert len([text for text in said if "stopped; what 1 of 4 epochs gave is kept in" in text]) == 1
    assert any(re.search(r"0\.5 of 4 epochs, about \d+ s left", text) for text in said)
    assert not list((tmp_path / "cache").rglob("*.partial"))


def stopped(at: str, keep: Path, **how: Any) -> list[str]:
    """What a training says, of four epochs on noise, until it is stopped at some words."""
    said: list[str] = []

    def stop(text: str) -> None:
        said.append(text)
        if at in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_weights(**{"dataset": "fashion_mnist", "epochs": 4, "say": stop, "keep": keep, **how})
    return said


@pytest.mark.usefixtures("quick")
def test_what_another_training_kept_is_not_continued_and_a_line_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATASETS, "other", DATASETS["fashion_mnist"])
    keep, raw = tmp_path / "keep", tmp_path / "other" / "FashionMNIST" / "raw"
    stopped("epoch 1 of 4,", keep)
    write_idx(raw, n=300)
    labels = raw / "train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\0")
    again = f"starts again, as {keep} is of another training: "
    for how, why in (
        ({"dataset": "other"}, "data set 'fashion_mnist', not other"),
        ({"data_dir": str(tmp_path / "other")}, "labels '[0-9a-f]{64}', not [0-9a-f]{64}"),
        ({"epochs": 2}, "epochs 4, not 2"),
        ({"dataset": "digits"}, "data set 'fashion_mnist', not digits; images .*; labels "),
    ):
        (said,) = stopped("starts again", keep, **how)
        assert re.search(f"{again}{why}", said)
    expected = train_weights("digits", say=lambda text: None)
    assert train_weights("digits", say=lambda text: None, keep=keep) == expected
    stopped("epoch 1 of 4,", keep)
    torch.set_num_threads(2)
    assert stopped("starts again", keep) == [f"yardstick for fashion_mnist: {again}threads 1, not 2"]


@pytest.mark.usefixtures("quick")
def test_whatever_was_kept_the_training_starts(tmp_path: Path) -> None:
    keep, expected = tmp_path / "keep", train_weights("fashion_mnist", say=lambda text: None, epochs=4)
    stopped("epoch 1 of 4,", keep)
    state = torch.load(io.BytesIO(cache.read(keep) or b""), weights_only=True)
    states: list[object] = [
        *(None, [], {}, 3, {"of": [4, 300]}, {"of": state["of"]}),
        *(state | {"epoch": odd} for odd in (-1, 5, "2", None, 0.5)),
        *({name: value for name, value in state.items() if name != left_out} for left_out in state),
        *(state | {name: {"step": 3, "param_groups": []}} for name in ("network", "optimizer")),
        state | {"order": "{"},
    ]
    contents = [b"", b"abc", b"PK\x03\x04"]
    for odd in states:
        torch.save(odd, buffer := io.BytesIO())
        contents.append(buffer.getvalue())
    for content in contents:
        cache.write(keep, content)
        (said,) = stopped("starts again", keep)
        assert f"starts again, as {keep} holds no state of a training" in said
    assert train_weights("fashion_mnist", say=lambda text: None, epochs=4, keep=keep) == expected
    keep.chmod(0o666)
    (said,) = stopped("starts again", keep)
    assert f"starts again, as {keep} is damaged, or another user could have written it" in said


def _a_file(folder: Path) -> None:
    folder.rmdir()
    folder.write_text("a file")


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {  # for a folder that is there
    "a file": (_a_file, "is not a folder"),
    "a folder": (lambda folder: (folder / "keep").mkdir(), "is a folder, which is not replaced"),
    "a pipe": (lambda folder: os.mkfifo(folder / "keep"), "a pipe or a socket, which is not replaced"),
    "others' too": (lambda folder: folder.chmod(0o777), "other users can write in"),
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("place", PLACES)
def test_where_nothing_can_be_kept_a_line_says_so_and_the_training_ends(place: str, tmp_path: Path) -> None:
    make, why = PLACES[place]
    keep, expected = tmp_path / "place" / "keep", train_weights("fashion_mnist", say=lambda text: None)
    keep.parent.mkdir()
    make(keep.parent)
    said: list[str] = []
    with in_time(60):
        assert train_weights("fashion_mnist", say=said.append, keep=keep) == expected
    assert re.search(f"nothing is kept before the end, since .*{why}.*; if it is stopped, it starts again", said[0])
    assert stopped("epoch 1 of 4,", keep)[-1] == "yardstick for fashion_mnist: stopped; nothing of it is kept"


@contextmanager
def another_user() -> Iterator[None]:
    """One who may not enter the folders of tests; without root's rights the same by their modes."""
    if os.geteuid():
        pytest.skip("needs root")
    os.seteuid(12345)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("place", ["a file", "another user's"])
def test_a_cache_that_keeps_nothing_does_not_stop_it(place: str, tmp_path: Path) -> None:
    data, said = load("fashion_mnist"), list[str]()
    if place == "a file":
        (tmp_path / "cache" / "sngan").mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache" / "sngan" / "yardsticks").write_text("")
    with pytest.MonkeyPatch.context() as patch, another_user() if place != "a file" else nullcontext():
        patch.setattr(yardstick, "load", lambda *_, **__: data)
        judge = load_yardstick("fashion_mnist", say=said.append)
    assert judge.accuracy >= 0
    assert "nothing can be kept in" in said[-1]
    assert "kept in" not in said[0]


@pytest.mark.usefixtures("quick")
def test_weights_that_were_kept_are_some_or_are_refused(tmp_path: Path) -> None:
    load_yardstick("fashion_mnist", say=lambda text: None)
    (path,) = (tmp_path / "cache" / "sngan" / "yardsticks").glob("*.weights")
    good = cache.read(path) or b""
    weights = good.partition(b"\n")[2]
    tensors = safetensors.torch.load(weights)
    others = safetensors.torch.save({name: value for name, value in tensors.items() if "dense" not in name})
    shaped = safetensors.torch.save({name: value[:1].contiguous() for name, value in tensors.items() if value.ndim})
    for content in (
        *(b"", b"abc", b"0.5", b"0.5\n", b"0.5\nabc", b"abc\n" + weights, b"nan\n" + weights, b"7\n" + weights),
        *(b"\xff\n" + weights, b"0.5\n" + weights[:-1], b"0.5\n" + others, b"0.5\n" + shaped),
    ):
        cache.write(path, content)
        with pytest.raises(InputError, match=rf"{path} is damaged, or .* Delete it, and it is trained again"):
            load_yardstick("fashion_mnist")
    cache.write(path, good)
    path.chmod(0o666)
    with pytest.raises(InputError, match=r"another user could have written it.*chmod go-w"):
        load_yardstick("fashion_mnist")
    for make in (Path.mkdir, os.mkfifo, lambda path: path.symlink_to("none")):
        path.rmdir() if path.is_dir() else path.unlink()
        make(path)
        with in_time(), pytest.raises(InputError, match="is damaged, or"):
            load_yardstick("fashion_mnist")


@pytest.mark.usefixtures("quick")
def test_a_classifier_below_the_stated_accuracy_is_refused_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, "fashion_mnist", lowest_accuracy=0.9)
    with pytest.raises(InputError, match=r"right about only .* at least 90\.0% are expected"):
        load_yardstick("fashion_mnist", say=lambda text: None)
    assert not list((tmp_path / "cache" / "sngan" / "yardsticks").glob("*.weights"))


@pytest.mark.usefixtures("quick")
def test_the_accuracy_is_of_test_images_and_of_digits_of_others_than_were_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\7")
    x_train, _, x_test, _ = yardstick.split("fashion_mnist", "")
    assert (len(x_train), len(x_test), x_test[-1, 0, -1, -1]) == (300, 300, 7)
    assert torch.equal(x_train[:-1], x_test[:-1])  # the files differ in their last image only
    x_train, y_train, x_test, y_test = yardstick.split("digits", "")
    together = torch.cat([x_train, x_test]).flatten(1), load("digits").images.flatten(1)
    assert (len(y_train), len(y_test)) == (1438, 359)
    assert all(torch.equal(a, b) for a, b in zip(*(x.sort(0).values for x in together), strict=True))


def test_training_images_are_moved_by_up_to_two_pixels_either_way() -> None:
    x = torch.rand(300, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    moved, shifts = yardstick.moved(x, torch.Generator().manual_seed(1)), set()
    for before, after in zip(x[:, 0].numpy(), moved[:, 0].numpy(), strict=True):
        padded = np.pad(before, 2, constant_values=-1)
        same = [(i, j) for i in range(5) for j in range(5) if np.array_equal(padded[i : i + 28, j : j + 28], after)]
        assert len(same) == 1
        shifts |= set(same)
    assert len(shifts) == 25


def test_half_of_the_training_images_are_disturbed() -> None:
    x = load("digits").images[:1000].float() / 127.5 - 1
    disturbed = yardstick.disturbed(x, torch.Generator().manual_seed(0))
    same = (disturbed == x).flatten(1).all(1)
    assert same.float().mean() == pytest.approx(0.5, abs=0.05)
    assert disturbed.abs().max() <= 1
    contrast = disturbed.flatten(1).std(1) / x.flatten(1).std(1)
    assert 0.5 < contrast[~same].mean() < 0.8
    assert disturbed[~same].flatten(1).quantile(0.1, 1).std() > 0.2  # black is another in each
