"""What is frozen counts as done: in plan, status and sweep; two results of a run, and runs of other versions."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, refrozen, rewrite_end, small, trained, write_study

from analysis.load import load
from analysis.sources.frozen import freeze
from experiments import ledger
from experiments.ledger import Kept, check, folders_of, home, kept_in, ledger_of, same_bits
from experiments.record import Record, run_folders
from experiments.study import bundled_names, find, read
from sngan.config import TRAINING_VERSION, InputError

OFF = ("--workers", 1, "--wandb", "disabled", "--runs-dir")
TINY = {"seed": [0, 1], "arm": ["dcgan", "sn"], "steps": 10}


@pytest.fixture(scope="session")
def _kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study file `tiny.yaml`, its four runs' records, and `kept`: those of seed 0, frozen."""
    folder = tmp_path_factory.mktemp("ledger")
    records = trained(write_study(folder, **TINY), folder)
    first = folder / "first" / "tiny"
    shutil.copytree(records, first)
    for record in run_folders(first):
        if record.config().seed:
            shutil.rmtree(record.folder)
    freeze(load(first), folder / "kept")
    return folder


@pytest.fixture
def kept(_kept: Path, tmp_path: Path) -> Path:
    for name in ("kept", "records"):
        shutil.copytree(_kept / name, tmp_path / name)
    shutil.copy(_kept / "tiny.yaml", tmp_path)
    return tmp_path / "kept"


def grows(folder: Path, text: str = '{"grows": true}') -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(text)
    return folder


def states(output: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for run in json.loads(output)["runs"]:
        found[run["state"]] = found.get(run["state"], 0) + 1
    return found


def test_a_sweep_trains_what_is_not_frozen(kept: Path, tmp_path: Path, command: Callable) -> None:
    """In real workers."""
    path, have = tmp_path / "tiny.yaml", ("--have", kept)
    assert states(command("plan", path, "--json", *have, "--runs-dir", tmp_path / "new")[1]) == {
        "frozen": 2, "missing": 2
    }  # fmt: skip
    code, output, errors = command("sweep", path, *have, *OFF, tmp_path / "new")
    assert code == 0, errors
    assert "tiny: 4 runs, 2 frozen, 2 to do" in errors
    assert "tiny: 2 finished, 2 frozen after" in output
    assert [record.config().seed for record in run_folders(tmp_path / "new" / "tiny")] == [1, 1]
    assert (tmp_path / "new" / "tiny" / "study.yaml").read_text() == path.read_text()
    code, output, errors = command("sweep", path, *have, *OFF, tmp_path / "new")
    assert (code, "2 frozen, 0 to do" in errors) == (0, True)
    account = json.loads(command("status", path, "--json", *have, "--runs-dir", tmp_path / "new")[1])
    assert (account["account"]["finished"], account["account"]["frozen"], account["frozen"]) == (2, 2, 2)
    assert [run["next"] for run in account["runs"]] == [None] * 4
    assert [run["step"] for run in account["runs"] if run["state"] == "frozen"] == [None, None]  # tells no outcome


@pytest.mark.usefixtures("no_workers")
def test_a_shard_leaves_out_what_is_frozen(kept: Path, tmp_path: Path, command: Callable) -> None:
    path = tmp_path / "tiny.yaml"
    for i, frozen, todo in ((0, 1, 1), (1, 1, 1)):
        code, _, errors = command("sweep", path, "--have", kept, "--shard", f"{i}/2", *OFF, tmp_path / "new")
        assert code == 0, errors
        assert f"2 runs of part {i}/2, {frozen} frozen, {todo} to do" in errors
    assert len(run_folders(tmp_path / "new" / "tiny")) == 2


def test_status_says_what_is_here_and_what_is_frozen(kept: Path, tmp_path: Path, command: Callable) -> None:
    """A result here keeps its state; what did not end here is nothing beside a frozen result."""
    records = run_folders(tmp_path / "records" / "tiny")
    of_seed = {seed: [record for record in records if record.config().seed == seed] for seed in (0, 1)}
    begun = of_seed[0][0]
    begun.write_status(begun.status() | {"state": "interrupted", "step": 5})
    arguments = (tmp_path / "tiny.yaml", "--have", kept, "--runs-dir", tmp_path / "records")
    runs = {run["run_id"]: run for run in json.loads(command("status", *arguments, "--json")[1])["runs"]}
    assert (runs[begun.run_id]["state"], runs[begun.run_id]["frozen"]) == ("frozen", True)
    assert runs[begun.run_id]["error"] == "interrupted here at step 5"
    assert (runs[of_seed[0][1].run_id]["state"], runs[of_seed[0][1].run_id]["frozen"]) == ("finished", True)
    assert {(runs[r.run_id]["state"], runs[r.run_id]["frozen"]) for r in of_seed[1]} == {("finished", False)}
    output = command("status", *arguments)[1]
    assert f"frozen in {kept}: 2" in output
    assert "4 cells, 4 runs: 3 finished, 1 frozen" in output
    assert sum("finished, frozen" in line for line in output.splitlines()) == 1


def test_what_grows_counts_without_being_named(
    kept: Path, tmp_path: Path, command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "experiments" / "results" / "tiny"
    results.mkdir(parents=True)
    shutil.move(kept, results / "data")
    monkeypatch.chdir(tmp_path)
    arguments = ("plan", "tiny.yaml", "--json", "--runs-dir", "new")
    for text, frozen in ((None, 0), ('{"grows": false}', 0), ("{}", 0), ('{"grows": true}', 2)):
        if text:
            grows(results / "data", text)
        assert states(command(*arguments)[1]).get("frozen", 0) == frozen
    assert states(command("plan", "tiny", "--json")[1])["frozen"] == 2  # its plan is frozen too
    code, _, errors = command("sweep", "tiny", "--seeds", "0", *OFF, "new")
    assert (code, "2 frozen, 0 to do" in errors) == (0, True), errors
    for text, message in (("{", "not readable as JSON"), ("[" * 99_999, "not readable"), ('{"grows": 1}', "an object"),
                          ("[]", "expected an object"), ('{"Grows": true}', "expected an object")):  # fmt: skip
        grows(results / "data", text)
        code, _, errors = command(*arguments)
        assert (code, message in errors, "study.json" in errors) == (2, True, True), errors


def test_values_of_ones_own_use_what_is_frozen_of_the_study(kept: Path, tmp_path: Path, command: Callable) -> None:
    """`--set` with a value that the study has too: another study, but runs that are known by their configuration."""
    arguments = (tmp_path / "tiny.yaml", "--set", "arm=sn", "--have", kept, "--runs-dir", tmp_path / "new")
    assert states(command("plan", *arguments, "--json")[1]) == {"frozen": 1, "missing": 1}


def test_the_studies_of_this_program_that_grow() -> None:
    growing = {name for name in bundled_names() if home(name)}
    assert growing == {"mnist-short", "mnist-core", "paper-settings"}
    assert json.loads((ROOT / "experiments/results/demo/data/study.json").read_text()) == {"grows": False}
    assert home("nothing-of-that-name") is None
    study = find("mnist-short")
    found = ledger_of(study, folders_of(["mnist-short"], []), mixed=True)
    assert len(found.runs) >= 212
    assert set(found.runs) <= {config.run_id for config in study.configs}


def test_what_frozen_runs_took_is_what_the_plan_says(kept: Path, tmp_path: Path, command: Callable) -> None:
    refrozen(kept, lambda status: status | {"attempts": [a | {"wall_seconds": 7_200} for a in status["attempts"]]})
    assert "about 4 h 0 min of one CPU core left" in command(
        "plan", tmp_path / "tiny.yaml", "--have", kept, "--runs-dir", tmp_path / "new"
    )[1]  # fmt: skip
    assert "about 8 h 0 min of one CPU core left" in command(  # of other seeds too
        "plan", tmp_path / "tiny.yaml", "--seeds", "1,5", "--have", kept, "--runs-dir", tmp_path / "new"
    )[1]  # fmt: skip


def test_local_results_of_another_version_stay_and_it_is_said_what_to_do(
    tmp_path: Path, kept: Path, command: Callable
) -> None:
    for record in run_folders(tmp_path / "records" / "tiny"):
        rewrite_end(record, record.status() | {"training_version": TRAINING_VERSION - 1})
    arguments = (tmp_path / "tiny.yaml", "--runs-dir", tmp_path / "records")
    output = command("status", *arguments)[1]
    assert f"4 finished: of version {TRAINING_VERSION - 1} of the training code, and a report of version" in output
    assert "if you move its folder out of the study, sngan sweep" in output


def test_a_folder_that_is_named_must_hold_a_frozen_study(tmp_path: Path, command: Callable) -> None:
    path = write_study(tmp_path)
    (tmp_path / "above" / "data").mkdir(parents=True)
    (tmp_path / "above" / "data" / "manifest.json").touch()
    assert "did you mean" in command("plan", path, "--have", tmp_path / "above")[2]
    assert "--have '': expected a folder" in command("plan", path, "--have", "")[2]
    for wrong in (tmp_path / "nowhere", tmp_path, path):
        for name in ("plan", "status", "report"):
            code, _, errors = command(name, path, "--have", wrong, "--runs-dir", tmp_path)
            assert (code, "no frozen study at" in errors) == (2, True), errors


@pytest.mark.parametrize("name", ["runs.parquet", "history.parquet"])
def test_a_changed_byte_is_no_result(kept: Path, tmp_path: Path, command: Callable, name: str) -> None:
    path = next(kept.glob(f"parts/*/{name}"))
    content = path.read_bytes()
    path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    for arguments in (("plan",), ("status",), ("sweep", "--wandb", "disabled")):
        code, _, errors = command(*arguments, tmp_path / "tiny.yaml", "--have", kept, "--runs-dir", tmp_path / "new")
        assert (code, f"{path} is not what was frozen" in errors) == (2, True), errors
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("no_workers")
def test_runs_of_another_version_are_named_and_trained_again(kept: Path, tmp_path: Path, command: Callable) -> None:
    refrozen(kept, lambda status: status | {"training_version": TRAINING_VERSION - 1})
    arguments = (tmp_path / "tiny.yaml", "--have", kept, "--runs-dir", tmp_path / "new")
    output = command("plan", *arguments)[1]
    assert "4 runs: 4 missing" in output
    (note,) = [line for line in output.splitlines() if line.startswith("frozen, but of version")]
    assert f"of version {TRAINING_VERSION - 1} of the training code, not {TRAINING_VERSION}" in note
    assert all(run_id in note.split("--mixed: ")[1] for run_id in kept_in(kept, ledger.intact(kept)))
    assert "2 missing, 2 frozen" in command("plan", *arguments, "--mixed")[1]
    refrozen(kept, lambda status: {name: status[name] for name in status if name != "training_version"})
    assert "of version unknown" in command("status", *arguments)[1]
    code, _, errors = command("sweep", *arguments[:-2], "--seeds", "0", *OFF, tmp_path / "new")
    assert (code, "warning: frozen, but of version" in errors) == (0, True), errors
    assert len(run_folders(tmp_path / "new" / "tiny")) == 2


def test_of_two_folders_the_first_counts_and_the_other_is_named(kept: Path, tmp_path: Path, command: Callable) -> None:
    other = shutil.copytree(kept, tmp_path / "other")
    same = (tmp_path / "tiny.yaml", "--have", kept, "--have", other, "--runs-dir", tmp_path / "new")
    output = command("plan", *same)[1]
    assert ("2 missing, 2 frozen" in output, f"frozen in {kept}: 2" in output) == (True, True)

    def of_a_gpu(status: dict[str, Any]) -> dict[str, Any]:
        attempts = [attempt | {"device_name": "NVIDIA H100"} for attempt in status["attempts"]]
        return status | {"attempts": attempts, "metrics_sha256": "0" * 64}

    refrozen(other, of_a_gpu)
    output = command("plan", *same)[1]
    assert f"frozen in {other} with another result than in {kept}, which counts: digits-" in output
    refrozen(other, lambda status: of_a_gpu(status) | {"attempts": json.loads(_attempts(kept))})
    for name in ("plan", "status", "report"):
        code, _, errors = command(name, *same)
        assert code == 2
        assert f"is in {kept} (metrics " in errors
        assert f"and in {other} (metrics 000000000000..) with different bits" in errors


def _errors(output: str) -> dict[str, str]:
    return {run["run_id"]: run["error"] for run in json.loads(output)["runs"]}


def _attempts(kept: Path) -> str:
    return json.dumps(next(iter(kept_in(kept, ledger.intact(kept)).values())).status["attempts"])


def a_status(digest: str = "a", **attempt: Any) -> dict[str, Any]:
    usual = {"device_name": "cpu", "torch": "2", "threads": 1, "memory_format": "channels_last", "exact": True}
    return {"metrics_sha256": digest, "training_version": 5, "attempts": [usual | attempt]}


def test_two_results_contradict_each_other_where_bits_are_promised(tmp_path: Path) -> None:
    one = a_status()
    assert same_bits(one, a_status())
    assert not same_bits(one, a_status("b"))
    assert not same_bits(one | {"evaluations_sha256": "1"}, a_status() | {"evaluations_sha256": "2"})
    assert same_bits(one | {"evaluations_sha256": "1"}, a_status())  # of a version that did not record it
    check("run", tmp_path, one, tmp_path, a_status())
    for other in (
        {"device_name": "gpu"}, {"torch": "3"}, {"threads": 2}, {"memory_format": "contiguous"}, {"exact": False}
    ):  # fmt: skip
        check("run", tmp_path, one, tmp_path, a_status("b", **other))
    check("run", tmp_path, one, tmp_path, a_status("b") | {"training_version": 4})
    check("run", tmp_path, a_status(exact=False), tmp_path, a_status("b", exact=False))  # nothing is promised of those
    with pytest.raises(InputError, match=r"run is in one \(metrics a\.\.\) and in two \(metrics b\.\.\)"):
        check("run", Path("one"), one, Path("two"), a_status("b"))


def test_a_result_here_that_differs_from_the_frozen_one_is_told(kept: Path, tmp_path: Path, command: Callable) -> None:
    record = next(r for r in run_folders(tmp_path / "records" / "tiny") if r.config().seed == 0)
    record.metrics_path.write_bytes(record.metrics_path.read_bytes() + b"\n")
    attempts = [attempt | {"torch": "1.0"} for attempt in record.status()["attempts"]]
    rewrite_end(record, record.status() | record.digests() | {"attempts": attempts})
    arguments = (tmp_path / "tiny.yaml", "--have", kept, "--runs-dir", tmp_path / "records")
    error = _errors(command("status", *arguments, "--json")[1])[record.run_id]
    assert error.startswith(f"another result is frozen in {kept} (")
    assert error.endswith("), which counts")
    record.write_status(record.status() | {"attempts": json.loads(_attempts(kept))})
    error = _errors(command("status", *arguments, "--json")[1])[record.run_id]
    assert error.endswith("), which this one contradicts")


def test_an_old_part_counts_under_a_configuration_with_a_new_field(
    kept: Path, tmp_path: Path, command: Callable
) -> None:
    """As a part looks that was frozen before `init` and `power_iteration` were fields."""
    refrozen(kept, config=lambda config: {k: v for k, v in config.items() if k not in ("init", "power_iteration")})
    arguments = (tmp_path / "tiny.yaml", "--have", kept, "--runs-dir", tmp_path / "new")
    assert states(command("plan", *arguments, "--json")[1]) == {"frozen": 2, "missing": 2}
    found = kept_in(kept, ledger.intact(kept))
    assert {run.config.init for run in found.values()} == {"notebook"}
    assert isinstance(next(iter(found.values())), Kept)


def test_a_stored_id_counts_though_todays_would_be_another(kept: Path, tmp_path: Path) -> None:
    study = read(tmp_path / "tiny.yaml")
    names = {config.run_id: f"{config.run_id[:-8]}00000000" for config in study.configs}
    refrozen(kept, rename=names)
    assert set(ledger_of(study, [kept]).runs) == {config.run_id for config in study.configs if config.seed == 0}


def test_what_is_frozen_of_other_runs_does_not_count(kept: Path, tmp_path: Path) -> None:
    found = ledger_of(read(write_study(tmp_path, "another", seed=[0, 1], steps=20)), [kept])
    assert (found.runs, list(found.notes)) == (
        {}, [f"of another no run is frozen in {kept} (which holds tiny)"]
    )  # fmt: skip
    record = Record(tmp_path / small(seed=0, steps=10).run_id)
    assert record.run_id in ledger_of(read(write_study(tmp_path, "another", steps=10)), [kept]).runs
