from pathlib import Path
from typing import Any

import pytest
from conftest import HOSTILE, small, write_study
from others import own_images

from analysis.load import load
from analysis.study import STATES, as_recorded, assemble, seen_differently
from analysis.synthetic import TRIVIAL
from experiments.run import execute
from experiments.study import find, read


def test_every_planned_run_is_accounted_for(mixed_study: Path) -> None:
    study = load(mixed_study)
    expected = {"finished": 3, "diverged": 1, "failed": 1, "interrupted": 0, "running": 0, "missing": 1}
    assert study.account.to_dict() == expected
    assert list(study.account.index) == list(STATES)
    runs = study.runs.set_index(["arm", "seed"])
    assert len(runs) == 6
    assert runs.loc[("sn", 2), "state"] == "missing"
    assert runs.loc[("sn", 2), "attempts"] == 0
    assert runs.loc[("dcgan", 2), "error"] == HOSTILE
    assert runs.loc[("dcgan", 0), "batch_size"] == 16
    assert study.extra == [small(arm="penalty", steps=60).run_id]
    assert "penalty" not in set(study.runs["arm"]) | set(study.history["arm"])


def test_variants_name_the_parameters_that_differ_and_contexts_the_settings(tmp_path: Path) -> None:
    folder = tmp_path / "wide"
    folder.mkdir()
    path = write_study(tmp_path, "wide", arm=["dcgan", "penalty"], penalty_weight=[0.01, 0.1], n_dis=[1, 2], steps=10)
    (folder / "study.yaml").write_text(path.read_text())
    execute(small(steps=10), "wide", folder, lambda message: None)
    runs = load(folder).runs
    assert set(runs["variant"]) == {"dcgan", "penalty, penalty_weight 0.01", "penalty, penalty_weight 0.1"}
    assert set(runs["context"]) == {"n_dis 1", "n_dis 2"}
    assert (runs.groupby("context").size() == 3).all()


@pytest.mark.parametrize(
    ("grid", "contexts"),
    [
        ({"dataset": "digits", "arm": "sn"}, ["digits, setting C"]),
        ({"dataset": "digits", "arm": "sn", "n_dis": 2}, ["digits"]),
        ({"lr": [0.001, 0.01], "arm": ["sn", "plain"]}, ["lr 0.001", "lr 0.01"]),
        ({"lr": [0.001, 0.01], "setting": "C", "batch_size": [16, 32]},
         ["lr 0.001, batch_size 16", "lr 0.001, batch_size 32", "lr 0.01, batch_size 16", "lr 0.01, batch_size 32"]),
        ({"setting": ["A", "E"]}, ["setting A", "setting E"]),
        ({"dataset": ["digits", "mnist"], "setting": ["A", "E"]},
         ["digits, setting A", "digits, setting E", "mnist, setting A", "mnist, setting E"]),
        ({"dataset": ["digits", "mnist"], "lr": [0.001, 0.01]},
         ["digits, lr 0.001", "digits, lr 0.01", "mnist, lr 0.001", "mnist, lr 0.01"]),
        ({"dataset": ["digits", "mnist"]}, ["digits", "mnist"]),
    ],
)  # fmt: skip
def test_contexts_are_named_by_what_differs(grid: dict[str, Any], contexts: list[str], tmp_path: Path) -> None:
    plan = read(write_study(tmp_path, "named", steps=10, **grid))
    assert sorted(set(assemble(plan, tmp_path, {}).runs["context"])) == sorted(contexts)


def test_the_contexts_that_a_studys_file_names_are_found(tmp_path: Path) -> None:
    plan = find("mnist-short")
    study = assemble(plan, tmp_path, {})
    assert study.primary == {
        "failures": "lr 0.03", "spread": "lr 0.005", "C14": "lr 0.01",
    }  # fmt: skip
    assert set(study.primary.values()) < set(study.runs["context"])
    assert set(assemble(find("paper-settings"), tmp_path, {}).primary.values()) == {"setting C"}


def test_quality_is_fd_pixels_where_nothing_else_judges(tmp_path: Path) -> None:
    study = own_images(tmp_path, ("a", 0, "pixels"))
    assert study.terms.quality == "fd_pixels"
    assert [name for name in study.history if name.startswith("eval/")] == ["eval/fd"]
    assert set(study.runs["trivial_fd"]) == {4 * TRIVIAL}
    assert study.runs["trivial_fd_pixels"].isna().all()
    recorded = as_recorded(study)
    assert "eval/fd" not in recorded
    assert recorded["eval/fd_pixels"].equals(study.history["eval/fd"].rename("eval/fd_pixels"))


def test_runs_with_several_judges_keep_what_each_has(tmp_path: Path) -> None:
    study = own_images(tmp_path, ("a", 0, "pixels"), ("b", 3, "labels"))
    of = {name: rows for name, rows in study.history.groupby("context")}
    pixels, labels = (of[f"folder {digit * 8}, judge {judge}"] for digit, judge in (("a", "pixels"), ("b", "labels")))
    assert pixels["eval/fd_pixels"].isna().all()
    assert (labels["eval/fd_pixels"] == 4 * labels["eval/fd"]).all()
    assert study.terms.quality == "fd"
    assert study.terms_in(pixels["context"].iloc[0]).quality == "fd_pixels"
    recorded = as_recorded(study)
    assert recorded.loc[pixels.index, "eval/fd"].isna().all()
    assert recorded.loc[pixels.index, "eval/fd_pixels"].equals(pixels["eval/fd"].rename("eval/fd_pixels"))
    assert recorded.loc[labels.index, ["eval/fd", "eval/fd_pixels"]].equals(labels[["eval/fd", "eval/fd_pixels"]])
    (said,) = seen_differently(study)
    assert "(folder aaaaaaaa, judge pixels by fd_pixels; folder bbbbbbbb, judge labels by fd)" in said
    assert seen_differently(own_images(tmp_path, ("b", 3, "labels"))) == []


def test_own_images_are_told_apart_by_their_content(tmp_path: Path) -> None:
    study = own_images(tmp_path, ("a", 3, "labels"), ("b", 40, "labels"), ("c", 0, "mnist"))
    assert list(study.runs["context"].unique()) == ["folder aaaaaaaa", "folder bbbbbbbb", "folder cccccccc"]
    assert study.runs.groupby("data_name")["classes"].first().to_dict() == {
        "folder aaaaaaaa": 3, "folder bbbbbbbb": 40, "folder cccccccc": 0,
    }  # fmt: skip
    assert study.real == {f"folder {digit * 8}": tmp_path / f"{digit}.png" for digit in "abc"}
    assert study.real_in("folder bbbbbbbb") == tmp_path / "b.png"
    alone = own_images(tmp_path, ("a", 3, "labels"))
    assert set(alone.runs["context"]) == {"folder aaaaaaaa, setting C"}


def test_the_number_of_classes_is_the_data_sets_where_no_protocol_says_it(tmp_path: Path) -> None:
    plan = read(write_study(tmp_path, "few", dataset=["digits", "stacked_mnist"], steps=10))
    assert assemble(plan, tmp_path, {}).runs.set_index("dataset")["classes"].to_dict() == {
        "digits": 10, "stacked_mnist": 1000,
    }  # fmt: skip
