import fcntl
import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from conftest import small

from experiments.record import (
    KILLED,
    UNTOLD,
    Record,
    State,
    find_run,
    read_rows,
    recorded_configs,
    run_folders,
    runs_root,
    spent,
    write_atomically,
)
from sngan.config import InputError


def started(folder: Path) -> Record:
    config = small()
    record = Record(folder / config.run_id)
    record.folder.mkdir(parents=True)
    record.start_over(config)
    return record


def test_rows_are_split_and_non_finite_numbers_are_null(tmp_path: Path) -> None:
    record = started(tmp_path)
    record.append({"step": 10, "loss/d": float("nan"), "logit/max_abs": float("inf"), "time/step_seconds": 0.5})
    assert record.metrics_path.read_text() == '{"step": 10, "loss/d": null, "logit/max_abs": null}\n'
    assert record.timing() == [{"step": 10, "time/step_seconds": 0.5}]


def test_a_torn_last_line_is_dropped_and_a_broken_earlier_one_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 10}\n{"step": 2')
    assert [row["step"] for row in read_rows(path)] == [0, 10]
    path.write_text('{"step": 0}\n{"ste\n{"step": 20}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2"):
        read_rows(path)
    assert read_rows(tmp_path / "none.jsonl") == []


def test_configuration_survives(tmp_path: Path) -> None:
    record = started(tmp_path)
    assert record.config().run_id == record.run_id == small().run_id
    stored = json.loads((record.folder / "config.json").read_text())
    assert stored == small().identity()


def test_a_write_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "status.json"
    write_atomically(path, "first")
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, "second")
    assert path.read_text() == "first"


def _hold(folder: str, ready: "multiprocessing.synchronize.Event") -> None:
    with Record(Path(folder)).claim() as mine:
        assert mine
        ready.set()
        signal.pause()


def test_a_claim_excludes_others_and_dies_with_its_owner(tmp_path: Path) -> None:
    record = started(tmp_path)
    record.write_status({"state": "running", "step": 0, "error": None, "attempts": []})
    assert record.status()["state"] == "interrupted"  # nobody has it
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    owner = context.Process(target=_hold, args=(str(record.folder), ready))
    owner.start()
    assert ready.wait(30)
    assert record.status()["state"] == "running"
    with record.claim() as mine:
        assert not mine
    assert owner.pid
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    assert record.status()["state"] == "interrupted"
    with record.claim() as mine:
        assert mine


@pytest.mark.parametrize(
    "status",
    ["[]", '{"state": "gone", "step": 0, "error": null, "attempts": []}', '{"state": "finished"}',
     '{"state": "failed", "step": 0, "error": 3, "attempts": []}',
     '{"state": "failed", "step": 0, "error": null, "attempts": [1]}'],
)  # fmt: skip
def test_a_status_that_no_run_writes_is_named(tmp_path: Path, status: str) -> None:
    record = started(tmp_path)
    (record.folder / "status.json").write_text(status)
    found = record.status()
    assert (found["state"], found["step"], found["attempts"]) == ("interrupted", 0, [])
    assert "status.json: not the status of a run" in found["damaged"]
    assert found["error"].startswith(found["damaged"])


def test_a_renamed_run_is_not_counted_as_another(tmp_path: Path) -> None:
    record = started(tmp_path)
    configs, wrong = recorded_configs(tmp_path)
    assert ([config.run_id for config in configs], wrong) == ([record.run_id], {})
    record.folder.rename(tmp_path / "copy")
    configs, wrong = recorded_configs(tmp_path)
    assert configs == []
    assert f"is the configuration of {record.run_id}" in wrong["copy"]


def test_a_result_in_the_place_of_another_run_is_none(tmp_path: Path) -> None:
    """Such as a folder that was copied, or renamed, to the id of a run that is planned too."""
    record = started(tmp_path)
    record.append({"step": 0})
    record.write_status({"state": State.DIVERGED, "step": 0, "error": None, "attempts": []} | record.digests())
    assert record.damage(record.status()) == ""
    other = Record(record.folder.rename(tmp_path / small(seed=1).run_id))
    assert f"is the configuration of {record.run_id}" in other.damage(other.status())
    other.config_path.write_text('{"of": "another program"}')
    other.write_status(other.status() | {"config_sha256": other.digests()["config_sha256"]})
    assert other.damage(other.status()) == ""


def test_a_run_without_its_configuration_is_named(tmp_path: Path) -> None:
    record = started(tmp_path)
    (record.folder / "status.json").touch()
    (tmp_path / "report").mkdir()
    (tmp_path / "a file").touch()
    for lose in (lambda: None, record.config_path.unlink, lambda: record.config_path.symlink_to("config.json")):
        lose()
        assert [found.folder for found in run_folders(tmp_path)] == [record.folder]
    configs, wrong = recorded_configs(tmp_path)
    assert configs == []
    assert wrong.keys() == {record.run_id}


def test_a_file_in_the_place_of_a_run_is_named(tmp_path: Path) -> None:
    path = tmp_path / small().run_id
    path.touch()
    found = Record(path).status()
    assert (found["state"], found["error"]) == ("missing", f"{path} is not a folder")


@pytest.mark.parametrize("state", [State.RUNNING, State.MISSING, State.INTERRUPTED])
def test_what_the_final_weights_deny_is_what_was_written(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = started(tmp_path)
    record.write_status({"state": state, "step": 0, "error": None, "attempts": []})
    monkeypatch.setattr("experiments.final.said_by", lambda path: {"state": "finished"})
    assert f"says {state}, and the final weights say finished" in record.status()["damaged"]


def test_the_folder_that_one_stands_in_is_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = started(tmp_path)
    monkeypatch.chdir(record.folder)
    assert [find_run(name).run_id for name in (".", "../" + record.run_id)] == [record.run_id] * 2


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    record = started(tmp_path)
    record.folder.chmod(0o700)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    ours, theirs = multiprocessing.get_context("fork").Pipe()

    def look() -> None:
        os.setuid(65534)
        theirs.send(recorded_configs(tmp_path)[1])

    process = multiprocessing.get_context("fork").Process(target=look)
    process.start()
    process.join()
    assert "Permission denied" in ours.recv()[record.run_id]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_another_user_sees_that_a_run_is_live_or_that_it_cannot_be_told(mode: int, tmp_path: Path) -> None:
    record = started(tmp_path)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)

    def seen() -> str:
        """Of a process of another user."""
        ours, theirs = multiprocessing.get_context("fork").Pipe()

        def look() -> None:
            os.setuid(65534)
            theirs.send(f"{(status := record.status())['state']}: {status['error']}")

        process = multiprocessing.get_context("fork").Process(target=look)
        process.start()
        process.join()
        return ours.recv()

    with record.claim() as mine:
        assert mine
        record.write_status({"state": State.RUNNING, "step": 0, "error": None, "attempts": []})
        (record.folder / ".lock").chmod(mode)
        assert seen() == ("running: None" if mode == 0o644 else f"running: {UNTOLD}")
        assert record.is_claimed()
    assert seen() == (f"interrupted: {KILLED}" if mode == 0o644 else f"running: {UNTOLD}")


def test_readers_do_not_take_each_other_for_an_owner(tmp_path: Path) -> None:
    record = started(tmp_path)
    (record.folder / ".lock").touch()
    handle = os.open(record.folder / ".lock", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    assert record.is_claimed() is False
    os.close(handle)


@pytest.mark.parametrize("what", ["a folder", "too deep", "a link that leads out"])
def test_a_status_that_is_none_is_named(what: str, tmp_path: Path) -> None:
    record = started(tmp_path)
    path = record.folder / "status.json"
    if what == "a folder":
        path.mkdir()
    elif what == "too deep":
        path.write_text("[" * 100_000)
    else:
        path.symlink_to("/etc/hostname")
    assert record.status()["state"] == "interrupted"
    assert "status.json" in record.status()["damaged"]


def test_missing_is_a_state(tmp_path: Path) -> None:
    assert Record(tmp_path / "nothing").status()["state"] == "missing"
    assert run_folders(tmp_path / "nothing") == []


def test_runs_are_found_by_id_and_by_folder(tmp_path: Path) -> None:
    record = started(tmp_path / "study")
    assert find_run(record.run_id, str(tmp_path)).folder == record.folder
    assert find_run(str(record.folder)).run_id == record.run_id
    with pytest.raises(InputError, match="no run 'x'"):
        find_run("x", str(tmp_path))
    started(tmp_path / "other")
    with pytest.raises(InputError, match="in 2 studies"):
        find_run(record.run_id, str(tmp_path))


def test_where_runs_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs_root() == Path("runs")
    monkeypatch.setenv("SNGAN_RUNS", "elsewhere")
    assert runs_root() == Path("elsewhere")
    assert runs_root("here") == Path("here")


def test_seconds_are_those_of_the_attempts_that_made_the_record() -> None:
    attempts = [{"s": 100.0}, {"resumed_from": 0, "s": 1.0}, {"resumed_from": 20, "s": 2.0}, {"resumed_from": 30}]
    assert spent({"attempts": attempts}, "s") == 3.0
    assert spent({"attempts": []}, "s") == 0.0
