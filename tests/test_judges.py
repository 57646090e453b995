"""What judges samples beside a data set's own yardstick: labels of one's own, another's yardstick, pixels alone."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small
from test_data import write_cifar

from experiments.record import Record, State, read_rows
from experiments.run import execute
from sngan.config import InputError, RunConfig
from sngan.data import ImageData, load, load_images
from sngan.datasets import DATASETS
from sngan.evaluate import EVALUATED, Evaluation
from sngan.judges import load_judge
from sngan.models import Generator
from sngan.yardstick import Yardstick, load_yardstick

MODES = {"eval/modes", "eval/modes_5", "eval/effective_modes", "eval/mode_kl"}


@pytest.fixture
def digits(tmp_path: Path) -> str:
    """The digits as a user's own labelled images."""
    found = load("digits")
    path = tmp_path / "digits.npz"
    np.savez(path, images=found.images[:, 0].numpy(), labels=found.labels.numpy())
    return f"npz:{path}"


def recorded(config: RunConfig, tmp_path: Path) -> tuple[Record, dict]:
    """A run's record, and its last row."""
    assert execute(config, "single", tmp_path / "runs", lambda message: None).state is State.FINISHED
    record = Record(tmp_path / "runs" / config.run_id)
    return record, list(read_rows(record.metrics_path))[-1]


def scored(row: dict) -> set[str]:
    return {key for key in row if key.startswith("eval/")}


def test_pixels_alone_give_fd_pixels_alone(digits: str, tmp_path: Path) -> None:
    own, known = (small(dataset=name, judge=judge, steps=4) for name, judge in ((digits, "pixels"), ("digits", None)))
    record, row = recorded(own, tmp_path)
    _, of_known = recorded(known, tmp_path)
    assert scored(row) == {"eval/fd_pixels"}
    assert row["eval/fd_pixels"] == of_known["eval/fd_pixels"]  # of the same images, order and latents
    protocol = record.protocol()
    assert (protocol["feature_net_sha256"], protocol["n_features"], protocol["n_classes"]) == (None, 0, 10)
    assert protocol["trivial_sampler"].keys() == {"n", "n_labels", "fd_pixels"}
    assert "trivial_fd" not in protocol
    assert "square around the centre" in protocol["image_rule"]
    assert (own.quality, known.quality) == ("fd_pixels", "fd")


def test_what_judges_changes_nothing_else(digits: str, tmp_path: Path) -> None:
    rows = [recorded(small(dataset=digits, judge=judge, steps=4), tmp_path)[1] for judge in ("pixels", "digits")]
    rest = [{key: value for key, value in row.items() if key not in scored(row)} for row in rows]
    assert rest[0] == rest[1]


def test_another_data_sets_classifier_knows_no_classes(digits: str, tmp_path: Path) -> None:
    _, row = recorded(small(dataset=digits, judge="mnist", steps=4), tmp_path)
    assert scored(row) == set(EVALUATED) - MODES
    evaluations = (tmp_path / "runs").rglob("evaluations.jsonl")
    assert all("class_counts" not in path.read_text() for path in evaluations)


def test_a_classifier_of_own_labels_is_trained_once_and_knows_them(
    digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sngan.yardstick._IMAGES_SHOWN", 40_000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config, said = small(dataset=digits, steps=4), []
    assert config.judge == "labels"
    data = load_images(config)
    judge = load_judge(config, data, say=said.append)
    assert any("training the classifier that judges samples, once" in line for line in said)
    assert judge.accuracy is not None
    assert judge.accuracy > 0.95
    assert judge.feature_net == "a classifier of the images' own labels, penultimate layer"
    _, labels = judge.embed(data.images)
    assert (labels == data.labels).double().mean() > 0.97
    record, row = recorded(config, tmp_path)
    assert scored(row) == set(EVALUATED)
    assert record.protocol()["real_against_real"]["modes"] == 10
    again: list[str] = []
    load_judge(config, data, say=again.append)
    assert again == []


def test_labels_that_cannot_be_learned_are_refused(
    digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sngan.yardstick._IMAGES_SHOWN", 3_000)
    config = small(dataset=digits)
    data = load_images(config)
    shuffled = ImageData(data.name, data.images, data.labels[torch.randperm(len(data.labels))], "shuffled")
    with pytest.raises(InputError, match=r"right about only .* at least 5\d\.\d% are expected\. Use judge pixels, or"):
        load_judge(config, shuffled, say=lambda text: None)


def colours(n: int = 60, side: int = 28) -> ImageData:
    """Digits of another kind in each channel."""
    images = load("digits").images[: 3 * n].reshape(n, 3, 28, 28)
    images = torch.nn.functional.interpolate(images.float(), size=(side, side), mode="nearest").to(torch.uint8)
    return ImageData("folder", images, torch.zeros(n, dtype=torch.int64), f"colours {side}")


def of_given(judge: str, channels: int = 3, architecture: str = "dcgan28") -> RunConfig:
    return small(dataset="folder", judge=judge, channels=channels, architecture=architecture)


def test_colour_is_judged_as_colour() -> None:
    """A classifier of grey images sees one channel after the other, and a grey copy is something else."""
    data = colours()
    judge = load_judge(of_given("digits"), data)
    features, _ = judge.embed(data.images)
    assert features.shape == (60, 3 * 64)
    for channel in range(3):
        expected, _ = load_yardstick("digits").embed(data.images[:, channel : channel + 1])
        torch.testing.assert_close(features[:, 64 * channel : 64 * (channel + 1)], expected, rtol=1e-4, atol=1e-4)
    swapped, _ = judge.embed(data.images.flip(1))
    assert (swapped - features).abs().max() > 0.1


def test_grey_images_of_a_classifier_for_colour_are_seen_three_times(
    tmp_path: Path, any_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path)
    row = DATASETS["cifar10"]
    assert row.classifier
    monkeypatch.setitem(
        DATASETS, "cifar10", replace(row, classifier=replace(row.classifier, epochs=1, lowest_accuracy=0.0))
    )
    grey = ImageData("folder", load("digits").images[:50], torch.zeros(50, dtype=torch.int64), "grey")
    config = replace(of_given("cifar10", channels=1), data_dir=str(tmp_path))
    judge = load_judge(config, grey, say=lambda text: None)
    own = load_yardstick("cifar10", str(tmp_path))
    large = torch.nn.functional.interpolate(grey.images.float(), size=(32, 32), mode="bilinear", antialias=True)
    expected, _ = own.embed(large.div(127.5).sub(1).expand(-1, 3, -1, -1))
    torch.testing.assert_close(judge.embed(grey.images)[0], expected, rtol=1e-4, atol=1e-4)


def test_larger_images_are_seen_as_small_ones() -> None:
    """The nearest digit of a picture twice as large is the digit that it was made of."""
    data, large = colours(), colours(side=56)
    small_ones = load_judge(of_given("digits"), data)
    row = replace(of_given("digits").row, side=56)
    large_ones = Yardstick("digits", row, load_yardstick("digits").network, "", 1.0)
    distances = torch.cdist(large_ones.embed(large.images)[0], small_ones.embed(data.images)[0])
    assert torch.equal(distances.argmin(1), torch.arange(60))
    assert (distances.diagonal() < 0.2 * distances.mean()).all()


@pytest.mark.parametrize(("dataset", "judge"), [("digits", "digits"), ("mnist", "mnist"), ("stacked_mnist", "mnist")])
def test_a_data_sets_own_judge_is_no_other(dataset: str, judge: str) -> None:
    given, own = (RunConfig(dataset=dataset, judge=name) for name in (judge, None))
    assert given == own
    assert own.row is DATASETS[dataset]
    if judge == dataset:
        assert RunConfig(dataset=dataset, judge="labels") == own
    assert RunConfig(dataset=dataset, judge="pixels").run_id != own.run_id


def test_a_thousand_labels_are_judged_by_their_digits() -> None:
    with pytest.raises(
        InputError, match="judge labels: stacked_mnist has too many classes for a classifier; use mnist"
    ):
        RunConfig(dataset="stacked_mnist", judge="labels")


def test_samples_that_are_not_finite_have_no_score(digits: str) -> None:
    for judge, keys in (("pixels", {"eval/fd_pixels"}), ("mnist", set(EVALUATED) - MODES)):
        config = small(dataset=digits, judge=judge)
        broken: Callable = type(
            "Broken", (torch.nn.Linear,), {"forward": lambda self, z: torch.full((len(z), 1, 28, 28), torch.nan)}
        )
        found = Evaluation(config, load_images(config))(broken(1, 1))
        assert found.keys() == keys
        assert all(np.isnan(value) for value in found.values())


def test_a_callers_own_images_are_not_given_the_classes_of_another_data_set() -> None:
    """Networks of one's own may have images that no name of a data set stands for."""
    digits = load("digits")
    of_digits = ImageData("mine", digits.images[:60], digits.labels[:60], "a part")
    judge = load_judge(small(), of_digits)
    assert isinstance(judge, Yardstick)
    assert not judge.knows_classes
    large = colours(side=64)
    assert load_judge(small(), large).n_features == 0
    named = load_judge(small(judge="mnist"), large)
    assert named.n_features == 3 * 64
    assert named.embed(large.images)[0].shape == (60, 3 * 64)


@pytest.mark.slow  # Inception sees 5 images a second
def test_with_inceptions_features_the_distance_is_called_fid(
    standin: Path, digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in has the format of the weights, and numbers drawn at random."""
    monkeypatch.setattr("sngan.inception.SHA256", hashlib.sha256(standin.read_bytes()).hexdigest())
    config = small(dataset=digits, judge="inception", steps=2, n_fake=40, n_evaluations=1)
    with pytest.raises(InputError, match=r"FID needs Inception's weights.*--inception-weights FILE or SNGAN_INCEPTION"):
        execute(config, "single", tmp_path / "runs", lambda message: None)
    assert not (tmp_path / "runs").exists()
    record, row = recorded(replace(config, inception_weights=str(standin)), tmp_path)
    assert scored(row) == set(EVALUATED) - MODES | {"eval/fid", "eval/kid"}
    assert (row["eval/fid"], row["eval/kid"]) == (row["eval/fd"], row["eval/kd"])
    protocol = record.protocol()
    assert protocol["feature_net"].startswith("Inception v3")
    assert protocol["n_features"] == 2048
    monkeypatch.setenv("SNGAN_INCEPTION", str(standin))
    data = load_images(config)
    judge = load_judge(config, data)
    broken = torch.zeros(2, 1, 28, 28)
    broken[1, 0, 3, 3] = torch.nan
    features, _ = judge.embed(broken)
    assert features[0].isfinite().all()
    assert features[1].isnan().all()


def test_classes_of_too_few_images_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    images = load("digits").images[:60, 0].numpy()
    np.savez(tmp_path / "few.npz", images=images, labels=np.arange(60) % 20)
    config = small(dataset=f"npz:{tmp_path / 'few.npz'}")
    with pytest.raises(InputError, match=r"20 of npz's 20 classes have fewer than 5 images.* Use judge pixels"):
        load_judge(config, load_images(config), say=lambda text: pytest.fail(text))


def test_larger_images_are_averaged() -> None:
    """Single pixels, three times as large, become grey: 1/81 of a triangle's weights is left."""
    board = (np.indices((84, 84)).sum(0) % 2 * 2 - 1).astype(np.float32)
    seen = load_yardstick("digits").network.fitted(torch.from_numpy(board)[None, None])
    assert seen[..., 2:-2, 2:-2].abs().max() < 0.05


def unlabelled(images: torch.Tensor, name: str = "mine", digest: str = "") -> ImageData:
    return ImageData(name, images, torch.zeros(len(images), dtype=torch.int64), digest)


@pytest.mark.parametrize(("channels", "side"), [(1, 64), (3, 28), (3, 64)])
def test_images_of_another_kind_than_the_data_sets_are_judged_by_pixels(channels: int, side: int) -> None:
    data = unlabelled(torch.zeros(60, channels, side, side, dtype=torch.uint8))
    assert load_judge(small(), data).n_features == 0


def test_the_same_images_without_labels_have_no_modes(digits: str, tmp_path: Path) -> None:
    """Though their digest is that of the data set, whose reference is kept."""
    known = Evaluation(small(), load("digits"))
    np.savez(tmp_path / "a.npz", images=load("digits").images[:, 0].numpy())
    config = small(dataset=f"npz:{tmp_path / 'a.npz'}", judge="digits")
    G = Generator(config.z_dim)
    assert known(G).keys() >= MODES
    assert not MODES & Evaluation(config, load_images(config))(G).keys()


def test_references_are_of_images_of_one_shape() -> None:
    images = load("digits").images[:180]
    for channels in (1, 3):
        data = unlabelled(images.reshape(-1, channels, 28, 28), "folder", "one digest")
        config = replace(of_given("pixels", channels), n_fake=40)
        assert f"{196 * channels} numbers an image" in Evaluation(config, data).protocol["pixels"]


def test_a_callers_digest_is_not_believed() -> None:
    images = load("digits").images
    scales = [
        Evaluation(small(judge="pixels", n_fake=40), unlabelled(of)).protocol["trivial_sampler"]["fd_pixels"]
        for of in (images[:60], images[60:120])
    ]
    assert scales[0] != scales[1]


class StandIn:
    """In Inception's place: features (N, 40) that mean nothing."""

    name, sha256, n_features = "a stand-in", "0" * 64, 40

    def __init__(self, weights: str, device: object) -> None:
        self._products = torch.randn(28 * 28, 40, generator=torch.Generator().manual_seed(0))

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        x = images / 127.5 - 1 if images.dtype == torch.uint8 else images
        return x[:, 0].flatten(1).float() @ self._products


def test_by_inceptions_features_fd_is_fid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sngan.judges.Inception", StandIn)
    config = small(judge="inception", inception_weights="x")
    found = Evaluation(config, load("digits"))(Generator(config.z_dim))
    assert found.keys() == set(EVALUATED) - MODES | {"eval/fid", "eval/kid"}
    assert (found["eval/fid"], found["eval/kid"]) == (found["eval/fd"], found["eval/kd"])
    G = Generator(config.z_dim)
    with torch.no_grad():
        next(G.parameters()).fill_(torch.nan)
    broken = Evaluation(config, load("digits"))(G)
    assert broken.keys() == found.keys()
    assert all(np.isnan(value) for value in broken.values())
