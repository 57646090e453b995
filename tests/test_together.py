"""A study that grows on several machines is the study of one sweep, number for number."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import refrozen, rewrite_end, trained, write_study

from analysis.load import load
from analysis.page import figures
from analysis.sources.frozen import freeze, thaw
from analysis.sources.together import read
from experiments.choice import enlarged, with_seeds
from experiments.ledger import largest_plan
from experiments.record import Record, run_folders
from experiments.study import find
from experiments.study import read as read_study
from sngan.config import TRAINING_VERSION, InputError

GRID: dict[str, Any] = {"seed": [0, 1, 2], "arm": ["dcgan", "sn"], "steps": 20}
OF_THE_TIME = {"wall_seconds", "started", "ended", "wandb_url"}  # what two trainings of a run differ in


pytestmark = pytest.mark.usefixtures("no_workers")


@pytest.fixture(autouse=True)
def _without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "draw", lambda *_: [])  # they take most of the time


@pytest.fixture(scope="session")
def _whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny.yaml` and the records of all its runs."""
    folder = tmp_path_factory.mktemp("together")
    trained(write_study(folder, **GRID), folder)
    return folder


@pytest.fixture
def whole(_whole: Path, tmp_path: Path) -> Path:
    shutil.copy(_whole / "tiny.yaml", tmp_path)
    return shutil.copytree(_whole / "records" / "tiny", tmp_path / "whole" / "tiny")


def some_of(whole: Path, to: Path, seeds: set[int]) -> Path:
    """The records of these seeds alone."""
    shutil.copytree(whole, to)
    for record in run_folders(to):
        if record.config().seed not in seeds:
            shutil.rmtree(record.folder)
    return to


def frozen_of(whole: Path, to: Path, seeds: set[int]) -> Path:
    return freeze(load(some_of(whole, to.with_name(f"{to.name}-records") / "tiny", seeds)), to).folder


def tables(report: Path) -> dict[str, pd.DataFrame]:
    found = {path.stem: pd.read_csv(path) for path in sorted((report / "tables").glob("*.csv"))}
    return {name: frame.drop(columns=OF_THE_TIME & set(frame)) for name, frame in found.items()}


def test_three_steps_on_two_machines_are_one_sweep(whole: Path, tmp_path: Path, command: Callable) -> None:
    """Sweeps that train nothing twice: either machine has two thirds of the study's seeds to do, or to take over."""
    path, kept = tmp_path / "tiny.yaml", tmp_path / "kept"
    off = ("--workers", 1, "--wandb", "disabled")
    one, two = ("--runs-dir", tmp_path / "one"), ("--runs-dir", tmp_path / "two")
    for machine, seeds, have in ((one, "0", ()), (two, "0,1", ("--have", kept)), (one, "0..2", ("--have", kept))):
        code, _, errors = command("sweep", path, "--seeds", seeds, *have, *off, *machine)
        assert (code, "2 to do" in errors) == (0, True), errors
        code, output, errors = command("report", path, *machine, "--freeze", kept, "--no-report")
        assert (code, "2 of them now (1 part" in output) == (0, True), output + errors
        assert (machine[1] / "tiny" / "study.yaml").read_text() == path.read_text()
    folders = [len(run_folders(tmp_path / name / "tiny")) for name in ("one", "two")]
    assert folders == [4, 2]
    assert command("report", whole)[0] == 0
    expected = tables(whole / "report")
    for machine in (two, ("--runs-dir", tmp_path / "three")):  # the third has no records at all
        code, output, errors = command("report", path, "--have", kept, *machine)
        assert (code, errors) == (0, "")
        found = tables(Path(output.strip()).parent)
        assert found.keys() == expected.keys()
        for name, frame in expected.items():
            pd.testing.assert_frame_equal(found[name], frame, obj=name)
    statistics = [json.loads((folder / "report" / "statistics.json").read_text())
                  for folder in (whole, tmp_path / "three" / "tiny")]  # fmt: skip
    assert statistics[0]["runs"] == statistics[1]["runs"]
    assert statistics[0]["claims"] == statistics[1]["claims"]
    assert thaw(kept).account["finished"] == 6


def test_the_report_of_frozen_runs_needs_no_records(whole: Path, tmp_path: Path) -> None:
    kept, plan = frozen_of(whole, tmp_path / "kept", {0, 2}), read_study(tmp_path / "tiny.yaml")
    study = read(plan, tmp_path / "nowhere" / "tiny", [kept])
    assert (study.account["finished"], study.account["missing"]) == (4, 2)
    assert not (tmp_path / "nowhere").exists()
    one = load(whole).history
    expected = one[one["seed"] != 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(study.history, expected)
    assert list(study.runs["run_id"]) == [config.run_id for config in plan.configs]
    with pytest.raises(InputError, match=r"no run of tiny has started in .*, and none is frozen: train first"):
        read(plan, tmp_path / "nowhere" / "tiny", [])


def test_equal_digests_are_one_run(whole: Path, tmp_path: Path) -> None:
    kept, plan = frozen_of(whole, tmp_path / "kept", {0, 1}), read_study(tmp_path / "tiny.yaml")
    refrozen(kept, lambda status: status | {"attempts": [a | {"device_name": "other"} for a in status["attempts"]]})
    study = read(plan, whole, [kept, frozen_of(whole, tmp_path / "more", {1, 2})])
    assert (study.account["finished"], list(study.warnings), study.extra) == (6, [], [])
    assert len(study.samples) == 6  # a frozen run has fewer than its record


def altered(whole: Path, **conditions: Any) -> tuple[Record, float]:
    """A record with another loss in its last row, and that loss."""
    record = next(record for record in run_folders(whole) if record.config().seed == 0)
    *lines, last = record.metrics_path.read_text().splitlines()
    record.metrics_path.write_text("\n".join([*lines, json.dumps(json.loads(last) | {"loss/g": 1.25})]) + "\n")
    attempts = [attempt | conditions for attempt in record.status()["attempts"]]
    rewrite_end(record, record.status() | record.digests() | {"attempts": attempts})
    return record, 1.25


def last_loss(study: Any, run_id: str) -> float:
    return study.history.loc[study.history["run_id"] == run_id, "loss/g"].iloc[-1]


def test_of_two_results_the_frozen_one_counts_unless_it_is_replaced(
    whole: Path, tmp_path: Path, command: Callable
) -> None:
    kept, path = frozen_of(whole, tmp_path / "kept", {0}), tmp_path / "tiny.yaml"
    record, loss = altered(whole, device_name="NVIDIA H100", exact=False)
    arguments = ("report", path, "--have", kept, "--runs-dir", whole.parent, "--figures", "svg")
    code, _, errors = command(*arguments)
    assert code == 0
    assert f"{record.run_id}: the result in {kept} counts (" in errors
    assert f"not the other one in {record.folder} (NVIDIA H100, torch " in errors
    assert "resumed under other conditions)" in errors
    markdown = (whole / "report" / "report.md").read_text()
    assert f"Note: {record.run_id}: the result in {kept} counts" in markdown
    assert f"Made by `sngan report {path} --have {kept}`" in markdown
    plan = read_study(path)
    assert last_loss(read(plan, whole, [kept]), record.run_id) != loss
    assert last_loss(read(plan, whole, [kept], replaces=True), record.run_id) == loss
    code, _, errors = command(*arguments, "--replace")
    assert (code, f"the result in {record.folder} counts" in errors) == (0, True)


def test_results_that_contradict_each_other_are_an_error_that_names_both(
    whole: Path, tmp_path: Path, command: Callable
) -> None:
    kept = frozen_of(whole, tmp_path / "kept", {0})
    record, _ = altered(whole)
    for more in ((), ("--replace",)):
        code, _, errors = command("report", tmp_path / "tiny.yaml", "--have", kept, "--runs-dir", whole.parent, *more)
        assert code == 2
        assert f"{record.run_id} is in " in errors
        assert all(f"in {where} (metrics " in errors for where in (kept, record.folder))


def test_a_damaged_record_is_nothing_beside_a_frozen_result(whole: Path, tmp_path: Path) -> None:
    kept, plan = frozen_of(whole, tmp_path / "kept", {0}), read_study(tmp_path / "tiny.yaml")
    record = next(record for record in run_folders(whole) if record.config().seed == 0)
    record.metrics_path.write_bytes(record.metrics_path.read_bytes()[:-40])
    assert (load(whole).runs["damage"] != "").sum() == 1
    for replaces in (False, True):
        study = read(plan, whole, [kept], replaces=replaces)
        assert ((study.runs["damage"] != "").sum(), len(study.warnings)) == (0, 0)


def test_runs_of_another_version_are_named_and_left_out_unless_mixed(
    whole: Path, tmp_path: Path, command: Callable
) -> None:
    kept = frozen_of(whole, tmp_path / "kept", {0, 1})
    refrozen(kept, lambda status: status | {"training_version": TRAINING_VERSION - 1})
    records = some_of(whole, tmp_path / "here" / "tiny", {2})
    arguments = ("report", tmp_path / "tiny.yaml", "--have", kept, "--runs-dir", tmp_path / "here")
    code, _, errors = command(*arguments)
    assert code == 0
    assert f"4 results are of version {TRAINING_VERSION - 1} of the training code, not {TRAINING_VERSION}" in errors
    page = (records / "report" / "report.md").read_text()
    assert "6 planned runs: 2 finished, 4 missing." in page
    assert set(tables(records / "report")["arms"]["n"]) == {1}
    code, _, errors = command(*arguments, "--mixed")
    assert (code, errors) == (0, "")
    assert "6 planned runs: 6 finished." in (records / "report" / "report.md").read_text()
    # a study that is whole in an older version is a study all the same, which is said
    code, _, errors = command("report", f"frozen:{kept}")
    assert code == 0
    assert f"all results are of version {TRAINING_VERSION - 1} of the training code, this program" in errors
    assert "6 planned runs: 4 finished, 2 missing." in (kept / "report" / "report.md").read_text()


def test_against_one_of_another_version_the_result_of_this_version_counts(whole: Path, tmp_path: Path) -> None:
    kept, plan = frozen_of(whole, tmp_path / "kept", {0, 1}), read_study(tmp_path / "tiny.yaml")
    refrozen(kept, lambda status: status | {"training_version": 1, "metrics_sha256": "0" * 64})
    study = read(plan, whole, [kept])
    assert set(study.runs["training_version"]) == {TRAINING_VERSION}
    assert len(study.warnings) == 4
    assert set(read(plan, whole, [kept], mixed=True).runs["training_version"]) == {1, TRAINING_VERSION}


def test_a_run_that_was_trained_again_with_equal_bits_is_of_this_version(whole: Path, tmp_path: Path) -> None:
    """Though the other one has more sample grids."""
    kept, plan = frozen_of(whole, tmp_path / "kept", {0}), read_study(tmp_path / "tiny.yaml")
    refrozen(kept, lambda status: status | {"training_version": TRAINING_VERSION - 1})
    for record in run_folders(whole):
        shutil.rmtree(record.samples_path)
    assert set(read(plan, whole, [kept]).runs["training_version"]) == {TRAINING_VERSION}


def test_seeds_beyond_the_file_can_be_added_to_a_frozen_study(whole: Path, tmp_path: Path, command: Callable) -> None:
    """By whoever names them; then the whole study is what is frozen, for everyone."""
    path, kept = tmp_path / "tiny.yaml", frozen_of(whole, tmp_path / "kept", {0, 1, 2})
    arguments = ("--seeds", "7", "--have", kept, "--runs-dir", tmp_path / "new")
    assert command("sweep", path, *arguments, "--workers", 1, "--wandb", "disabled")[0] == 0
    code, output, errors = command("report", path, *arguments, "--freeze", kept, "--no-report")
    assert (code, "2 of 2 runs frozen, 2 of them now" in output) == (0, True), output + errors
    assert thaw(kept).account["finished"] == 8
    later = ("--seeds", "9", "--runs-dir", tmp_path / "later")  # and once more, by someone who knows of the folder only
    assert command("sweep", path, *later, "--workers", 1, "--wandb", "disabled")[0] == 0
    code, output, errors = command("report", path, "--freeze", kept, "--no-report", *later[2:])
    assert (code, output.count("digits-"), "not in the study, and so not frozen (--seeds" in output) == (0, 2, True)
    code, output, errors = command("report", path, "--freeze", kept, "--no-report", *later)
    assert (code, "2 of 2 runs frozen, 2 of them now" in output) == (0, True), output + errors
    for study, frozen in (("tiny", 10), (path, 6)):  # a file is taken as it is, and it is said that there is more
        plan = json.loads(command("plan", study, "--have", kept, "--json", "--runs-dir", tmp_path / "other")[1])
        assert plan["states"] == {"frozen": frozen}
        assert [f"{10 - frozen} further runs of tiny are frozen in" in note for note in plan["notes"]] == [True] * (
            frozen < 10
        )
    assert (tmp_path / "new" / "tiny" / "study.yaml").read_text() == path.read_text()
    code, output, _ = command("report", path, "--have", kept, "--runs-dir", tmp_path / "other")
    assert code == 0
    assert "10 planned runs: 10 finished." in (tmp_path / "other" / "tiny" / "report" / "report.md").read_text()
    code, output, _ = command("report", "tiny", "--have", kept, "--runs-dir", tmp_path / "unknown", "--seeds", "2,7")
    assert code == 0
    assert "4 planned runs: 4 finished." in (tmp_path / "unknown" / "tiny" / "report" / "report.md").read_text()
    assert "not in the study" not in (tmp_path / "unknown" / "tiny" / "report" / "index.html").read_text()


def test_a_study_of_values_of_its_own_has_its_own_folder_and_report(
    whole: Path, tmp_path: Path, command: Callable
) -> None:
    path, kept = tmp_path / "tiny.yaml", frozen_of(whole, tmp_path / "kept", {0, 1})
    where = ("--set", "arm=sn", "--have", kept, "--runs-dir", tmp_path / "new")
    assert command("sweep", path, *where, "--workers", 1, "--wandb", "disabled")[0] == 0
    assert len(run_folders(tmp_path / "new" / "tiny-arm-sn")) == 1  # two are frozen, of the study that it was made of
    code, output, errors = command("report", path, *where)
    assert (code, errors) == (0, "")
    page = Path(output.strip()).parent / "report.md"
    assert page.parent.parent == tmp_path / "new" / "tiny-arm-sn"
    assert page.read_text().startswith("# tiny-arm-sn\n")
    assert "3 planned runs: 3 finished." in page.read_text()
    assert "3 finished" in command("status", "tiny-arm-sn", *where[2:])[1].replace("1 finished, 2 frozen", "3 finished")


def test_what_is_missing_is_started_as_it_was_asked_for(tmp_path: Path, whole: Path, command: Callable) -> None:
    code, _, errors = command("report", tmp_path / "tiny.yaml", "--set", "lr=0.5", "--runs-dir", tmp_path / "new")
    assert code == 2
    assert f"train first with `sngan sweep {tmp_path / 'tiny.yaml'} --set lr=0.5 --runs-dir" in errors


def test_single_runs_that_are_frozen_are_known_by_their_folder(whole: Path, tmp_path: Path, command: Callable) -> None:
    (whole / "study.yaml").unlink()
    kept = freeze(load(some_of(whole, tmp_path / "some" / "tiny", {0, 1})), tmp_path / "kept").folder
    for where, finished in ((tmp_path / "nowhere", 4), (whole.parent, 6)):
        code, output, errors = command("report", "tiny", "--have", kept, "--runs-dir", where)
        assert (code, errors) == (0, "")
        assert (
            f"{finished} planned runs: {finished} finished." in Path(output.strip()).with_name("report.md").read_text()
        )
    assert "4 runs: 4 frozen" in command("status", "tiny", "--have", kept, "--runs-dir", tmp_path / "nowhere")[1]


def test_a_folder_of_records_stays_what_it_is(
    whole: Path, tmp_path: Path, command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name a study has what grows with it; by its folder it has what lies there, and what is named."""
    results = tmp_path / "experiments" / "results" / "tiny"
    frozen_of(whole, results / "data", {0, 1})
    (results / "data" / "study.json").write_text('{"grows": true}')
    some_of(whole, tmp_path / "runs" / "tiny", {2})
    monkeypatch.chdir(tmp_path)
    sources = {"tiny": 6, "tiny.yaml": 6, "runs/tiny": 2, "frozen:experiments/results/tiny/data": 4}
    for source, finished in sources.items():
        code, output, errors = command("report", source)
        assert (code, errors) == (0, "")
        assert f"6 planned runs: {finished} finished" in (Path(output.strip()).parent / "report.md").read_text()


def test_the_larger_plan_counts_and_its_primary_contexts_stay(whole: Path, tmp_path: Path) -> None:
    kept, plan = frozen_of(whole, tmp_path / "kept", {0}), read_study(tmp_path / "tiny.yaml")
    smaller = with_seeds(plan, [1])
    part = read_study(write_study(tmp_path, **GRID | {"seed": [1]}))
    assert len(largest_plan(part, [kept]).configs) == 6
    assert largest_plan(enlarged(with_seeds(plan, [1, 9])), [kept]).configs[0].seed == 1
    other = read_study(write_study(tmp_path, **GRID | {"seed": [1, 5]}))
    assert largest_plan(other, [kept]) == other  # each has runs that the other lacks
    assert smaller.text == plan.text
    assert largest_plan(find("mnist-smoke"), [kept]).name == "mnist-smoke"
