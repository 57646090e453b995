"""The table of data sets, against the images that their loaders give."""

from dataclasses import replace
from pathlib import Path

import pytest
from test_data import write_cifar, write_idx

from sngan.config import RunConfig
from sngan.data import LOADERS, load
from sngan.datasets import DATASETS, GIVEN, JUDGES, OTHER_JUDGES, classes_of, is_many, named
from sngan.yardstick import load_yardstick


@pytest.mark.usefixtures("any_files")
@pytest.mark.parametrize("name", DATASETS)
def test_images_are_as_the_row_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sngan.data.N_STACKED", 500)
    for folder in ("MNIST", "FashionMNIST", "KMNIST"):
        write_idx(tmp_path / folder / "raw", n=300)
    write_cifar(tmp_path)
    row = DATASETS[name]
    if row.classifier and not row.classifier.sha256:  # trained here, for one epoch, on what is no such images
        quick = replace(row.classifier, epochs=1, lowest_accuracy=0.0)
        monkeypatch.setitem(DATASETS, name, row := replace(row, classifier=quick))
    load.cache_clear()
    data = load(name, str(tmp_path))
    assert data.images.shape[1:] == (row.channels, row.side, row.side)
    assert int(data.labels.max()) < row.classes == classes_of(name)
    load.cache_clear()
    judge = load_yardstick(name, str(tmp_path))
    features, labels = judge.embed(data.images[:20])
    assert features.shape == (20, judge.n_features)
    assert int(labels.max()) < row.classes
    config = RunConfig(dataset=name)
    assert (config.channels, config.side) == (row.channels, row.side)


def test_every_data_set_is_loaded_and_judged_by_one_that_has_a_classifier() -> None:
    assert {row.loader for row in DATASETS.values()} == set(LOADERS)
    assert {row.judge for row in DATASETS.values()} == set(JUDGES)
    for row in DATASETS.values():
        judge = DATASETS[row.judge]
        assert row.classes == judge.classes**row.judged_channels
        assert (row.channels, row.side) == (judge.channels * row.judged_channels, judge.side)


def test_a_users_own_images_are_no_data_set_of_the_table() -> None:
    assert not set(GIVEN) & set(DATASETS)
    assert not set(OTHER_JUDGES) & set(JUDGES)
    assert named() == [*DATASETS, "folder:PATH", "npz:PATH"]


def test_a_thousand_classes_are_many_and_a_hundred_are_not() -> None:
    assert is_many(1000)
    assert not is_many(100)
    assert classes_of("somebody's") == 10
