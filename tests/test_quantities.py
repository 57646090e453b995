"""The table of quantities, against what runs record and what workspace, report and tables show."""

import math
from pathlib import Path
from typing import Any

import pytest
from conftest import small, write_study

from analysis import measured
from analysis.load import load as load_study
from analysis.page.figures import CURVES
from experiments.record import Record
from experiments.run import execute
from experiments.study import read as read_study
from experiments.tracking.dashboard import workspace
from sngan.architectures import layer_names
from sngan.arms import ARMS
from sngan.config import RunConfig
from sngan.data import load
from sngan.quantities import EVALUATED, OF_INCEPTION, QUANTITIES, SECTIONS, find, is_told, is_training
from sngan.train import train

LAYERS = layer_names(RunConfig().architecture)


def names(*recorded: str, arm: str = "") -> set[str]:
    """Of what an arm records so, of every layer."""
    constraint, norm = (ARMS[arm].constraint, ARMS[arm].norm) if arm else ("", "")
    return {
        name
        for of in QUANTITIES
        if of.recorded in recorded
        and (not of.constraints or constraint in of.constraints)
        and (not of.norms or norm in of.norms)
        for name in of.names(LAYERS)
        if not (name.startswith("sigma_bn/") and name.endswith(LAYERS[-1]))  # behind it there is no norm
    }


@pytest.mark.parametrize("loss", ["bce", "hinge", "wasserstein", "least_squares"])
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_trains_with_every_loss_and_logs_what_the_table_says(arm: str, loss: str) -> None:
    small_run = {"batch_size": 4, "g_width": 8, "d_width": 8, "steps": 3, "log_every": 1, "instrument_every": 3}
    rows: list[dict[str, Any]] = []
    config = small(arm=arm, loss=loss, n_evaluations=1, n_fake=20, **small_run)
    outcome = train(config, load("digits"), lambda row, samples: rows.append(row))
    assert (outcome.state, outcome.step, len(rows)) == ("finished", 3, 4)
    trained, of_updates = names("row", arm=arm), {"loss", "logit", "accuracy", "grad_norm", "penalty_ratio"}
    if loss == "wasserstein":
        trained = {name for name in trained if not name.startswith("accuracy/")}
    at_start = {name for name in trained | names("instruments", arm=arm) if name.split("/")[0] not in of_updates}
    assert set(rows[0]) == at_start
    assert set(rows[1]) - names("timing") == trained
    assert set(rows[3]) - names("timing", "list") == trained | names("instruments", "evaluation", arm=arm)
    numbers = [value for row in rows for value in row.values() if isinstance(value, float)]
    assert all(map(math.isfinite, numbers))
    assert any(rows[3][f"weight_norm/{layer}"] != rows[0][f"weight_norm/{layer}"] for layer in LAYERS)


@pytest.mark.parametrize("arm", ["dcgan", "penalty", "ln"])
def test_what_a_run_records_is_what_the_table_says(arm: str, tmp_path: Path) -> None:
    """Every key of every file, and each row of the table when it says: nothing more, and nothing less."""
    config = small(arm=arm, steps=40, log_every=10, instrument_every=20, n_evaluations=1)
    assert execute(config, "single", tmp_path, lambda message: None).state == "finished"
    record = Record(tmp_path / config.run_id)
    rows: dict[int, dict[str, Any]] = {row["step"]: row for row in record.rows()}
    trained, instruments = names("row", arm=arm), names("instruments", arm=arm)
    of_updates = {"loss", "logit", "accuracy", "grad_norm", "penalty_ratio"}
    assert set(rows[0]) == {name for name in trained | instruments if name.split("/")[0] not in of_updates}
    assert set(rows[10]) == trained
    assert set(rows[20]) == trained | instruments
    assert set(rows[40]) == trained | instruments | names("evaluation", arm=arm)
    last, images = record.history()[-1]
    assert set(last) - set(rows[40]) == names("timing", "list", arm=arm)
    assert set(images) <= names("image")
    status = record.status()
    assert names("status") <= set(status) | set(status["attempts"][-1])


def test_every_name_is_of_one_row_and_every_row_is_shown_somewhere_or_says_why_not() -> None:
    patterns = [of.pattern for of in QUANTITIES]
    assert len(set(patterns)) == len(patterns)
    for of in QUANTITIES:
        assert bool(of.section or of.figure or of.table) != bool(of.unshown), of.pattern
        assert of.section in ("", *SECTIONS)
        assert [find(name) for name in of.names(LAYERS)] == [of] * len(of.names(LAYERS))
    assert find("sigma_of_nothing/conv1") is find("loss") is None


def test_what_a_row_says_is_shown_is_shown(mixed_study: Path, tmp_path: Path) -> None:
    study = write_study(tmp_path, arm=["penalty", "clip", "ortho"])  # an arm of each constraint that has a quantity
    view = workspace(read_study(study), "e", "p")
    for section in SECTIONS:
        (panels,) = (of.panels for of in view.sections if of.name == section)
        shown = [name for panel in panels for name in (getattr(panel, "y", None) or getattr(panel, "media_keys", None)
                                                       or panel.metrics)]  # fmt: skip
        assert shown == [name for of in QUANTITIES if of.section == section for name in of.names(LAYERS)]
        for panel in panels:
            if y := getattr(panel, "y", None):  # the same axis as in the report
                assert bool(panel.log_y) == (find(y[0]).axis == "log")  # type: ignore[union-attr]
    figures = {name for curves in CURVES for name in curves.metrics(LAYERS)}
    assert figures >= {name for of in QUANTITIES if of.figure for name in of.names(LAYERS)}
    mixed = load_study(mixed_study)
    frames = {"quality": measured.quality(mixed), "sigma": measured.sigmas(mixed),
              "operators": measured.operators(mixed), "lipschitz": measured.lipschitz(mixed)}  # fmt: skip
    columns = {name: set(frame) for name, frame in frames.items()}
    for of in QUANTITIES:
        if of.table:
            assert of.kind in columns[of.table] or of.kind.split("/")[1] in columns[of.table], of.pattern


def test_a_run_diverges_by_what_it_trains_by_and_not_by_an_instrument() -> None:
    assert all(map(is_training, ("loss/d", "logit/max_abs", "grad_norm/g", "weight_norm/conv3", *EVALUATED)))
    assert not any(map(is_training, ("penalty_ratio/conv1", "sigma_conv/conv1", "grad_x/real", "time/step_seconds")))


def test_what_a_judge_can_tell() -> None:
    def told(dataset: str, judge: str) -> set[str]:
        evaluated = [of for of in (*QUANTITIES, *OF_INCEPTION) if of.recorded in ("evaluation", "list")]
        return {of.pattern for of in evaluated if is_told(of, dataset, judge)} - {"spectrum/<layer>"}

    modes = {"eval/modes", "eval/modes_5", "eval/effective_modes", "eval/mode_kl", "class_counts"}
    assert told("folder", "pixels") == {"eval/fd_pixels"}
    assert told("folder", "labels") == told("mnist", "mnist") == {*EVALUATED, "class_counts"}
    assert told("stacked_mnist", "mnist") >= modes
    assert told("folder", "mnist") == told("mnist", "kmnist") == {*EVALUATED} - modes
    assert told("mnist", "inception") == {*EVALUATED, "eval/fid", "eval/kid"} - modes


def test_an_evaluation_scores_the_same_thirteen_whoever_judges() -> None:
    names = "fd fd_pixels kd kd_error precision recall density coverage modes modes_5 effective_modes mode_kl diversity"
    assert tuple(f"eval/{name}" for name in names.split()) == EVALUATED
    for name in ("eval/fid", "eval/kid"):
        of = find(name)
        assert of is not None
        assert (of.judges, of.better, of.recorded) == (("inception",), "lower", "evaluation")
        assert is_training(name)
