"""A stopped or killed run ends with the bytes of one that was never stopped; what cannot be trusted is not believed."""

import dataclasses
import json
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ONE_EACH, ROOT, small, write_study

from experiments import checkpoint, signals
from experiments.record import Record, State, run_folders
from experiments.run import Policy, execute
from experiments.signals import stop_on_signals
from experiments.study import read
from sngan.config import InputError, RunConfig
from sngan.data import load

OFTEN = {"steps": 60, "checkpoint_every": 15, "log_every": 4, "arm": "sn"}


def run(folder: Path, **options: Any) -> tuple[Record, list[str]]:
    config, said = small(**{**OFTEN, **options.pop("changes", {})}), []
    execute(config, "single", folder, lambda message: said.append(" ".join(map(str, message))), **options)
    return Record(folder / config.run_id), said


def content(record: Record) -> dict[str, bytes]:
    """What a run leaves that must not depend on how often it was stopped."""
    paths = [record.metrics_path, record.evaluations_path, record.config_path, record.protocol_path]
    return {path.name: path.read_bytes() for path in [*paths, *sorted(record.samples_path.iterdir())]}


def test_rows_are_on_the_disk_before_the_checkpoint_that_counts_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    flush, move = os.fsync, os.replace

    def fsync(handle: int) -> None:
        flush(handle)
        done.append(Path(f"/proc/self/fd/{handle}").readlink().name)

    def replace(source: Path, target: Path) -> None:
        move(source, target)
        done.append(f"-> {target.name}")

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    record, _ = run(tmp_path)
    places = [i for i, what in enumerate(done) if what == "-> checkpoint.pt"]
    assert len(places) == 4  # of which the last are the final weights
    for before, place in zip([0, *places], places, strict=False):
        assert {path.name for path in record.row_paths} <= set(done[before:place])


def stopped(
    folder: Path, monkeypatch: pytest.MonkeyPatch, at: int, number: int | None = signal.SIGTERM, **changes: Any
) -> Record:
    """A run that gets a signal, or (None) dies on the spot, when the row of step `at` was written."""
    write, write_state = Record.append, Record.write_status

    def append(self: Record, row: dict[str, Any]) -> None:
        write(self, row)
        if row["step"] == at:
            if number is None:
                raise Killed
            signal.raise_signal(number)

    def write_status(self: Record, status: dict[str, Any]) -> None:
        if status["state"] != State.RUNNING:
            raise Killed
        write_state(self, status)

    with monkeypatch.context() as patch, stop_on_signals():
        patch.setattr(Record, "append", append)
        if number is None:  # as after kill -9, nobody writes the end state
            patch.setattr(Record, "write_status", write_status)
        with pytest.raises((KeyboardInterrupt, Killed)):
            run(folder, changes=changes)
    return Record(folder / small(**OFTEN | changes).run_id)


_SLOW = pytest.mark.slow


class Killed(BaseException):
    pass


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return content(run(tmp_path_factory.mktemp("uninterrupted"))[0])


@pytest.mark.parametrize("name", ["metrics.jsonl", "timing.jsonl", "evaluations.jsonl"])
@pytest.mark.parametrize("harm", ["changed", pytest.param("emptied", marks=_SLOW), pytest.param("gone", marks=_SLOW)])
def test_a_killed_run_whose_rows_were_damaged_says_so_and_ends_whole(
    name: str, harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, bytes]
) -> None:
    """From the checkpoint before the damage, or from the start; of timing, which no result needs, rows are lost."""
    damaged = stopped(tmp_path, monkeypatch, 52, None).folder / name
    rows = damaged.read_bytes()
    if harm == "changed":
        damaged.write_bytes(rows[:30] + b"?" + rows[31:])
    elif harm == "emptied":
        damaged.write_bytes(b"")
    else:
        damaged.unlink()
    record, said = run(tmp_path)
    assert record.status()["state"] == "finished"
    assert name in " ".join(said)
    assert content(record) == uninterrupted


@pytest.mark.parametrize("at", [pytest.param(0, marks=_SLOW), 4, 32, pytest.param(56, marks=_SLOW)])
def test_a_signal_leaves_a_checkpoint_from_which_the_run_resumes(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, bytes]
) -> None:
    record = stopped(tmp_path, monkeypatch, at)
    status = record.status()
    assert (status["state"], status["error"]) == ("interrupted", "stopped by a signal (SIGTERM)")
    saved_step = checkpoint.read(record.checkpoint_path)["step"]
    assert saved_step in (at, at + 1)  # of step 0 the next one
    record, said = run(tmp_path)
    assert f"was interrupted and resumes from step {saved_step}" in said[0]
    assert content(record) == uninterrupted
    attempts = record.status()["attempts"]
    assert [attempt["resumed_from"] for attempt in attempts] == [0, saved_step]
    assert [attempt["exact"] for attempt in attempts] == [True, True]
    assert record.status()["state"] == "finished"
    assert not record.previous_checkpoint_path.exists()


@pytest.mark.parametrize(("at", "how"), [(40, "resumes from step 30"), pytest.param(8, "starts over", marks=_SLOW)])
def test_without_a_word_the_last_checkpoint_counts(
    at: int, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, bytes]
) -> None:
    record = stopped(tmp_path, monkeypatch, at, None)
    assert record.status()["state"] == "interrupted"
    assert record.rows()[-1]["step"] == at
    with open(record.metrics_path, "a") as file:
        file.write('{"step": 4')  # torn
    record, said = run(tmp_path)
    assert f"was interrupted and {how}" in said[0]
    assert content(record) == uninterrupted


def test_a_checkpoint_of_an_earlier_version_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a penalty's vectors were kept under another name, and nothing of a run without a penalty."""
    quiet, _ = run(tmp_path / "quiet", changes={"arm": "penalty"})
    record = stopped(tmp_path, monkeypatch, 32, arm="penalty")
    state = checkpoint.read(record.checkpoint_path)
    vectors = state.pop("constraint")
    state["penalty"] = {name.removeprefix("penalty."): vector for name, vector in vectors.items()}
    assert set(state["penalty"]) == {f"{letter}{i}" for letter in "uv" for i in range(3)}
    checkpoint.write(record, state, small(**OFTEN | {"arm": "penalty"}), load("digits").digest)
    record, said = run(tmp_path, changes={"arm": "penalty"})
    assert "was interrupted and resumes from step 32" in said[0]
    assert content(record) == content(quiet)


@_SLOW
def test_what_takes_too_long_is_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, bytes]
) -> None:
    """An evaluation that does not end: after the time of grace the run stops, and the checkpoint before counts."""
    monkeypatch.setattr(signals, "GRACE_SECONDS", 0.3)
    write = Record.append

    def append(self: Record, row: dict[str, Any]) -> None:
        if row["step"] == 40:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(30)
        write(self, row)

    start = time.monotonic()
    with monkeypatch.context() as patch, stop_on_signals():
        patch.setattr(Record, "append", append)
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
            run(tmp_path)
    assert time.monotonic() - start < 25
    assert content(run(tmp_path)[0]) == uninterrupted


# --- what is not believed ---


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, bytes]
) -> None:
    record = stopped(tmp_path, monkeypatch, 40, None)
    record.checkpoint_path.write_bytes(record.checkpoint_path.read_bytes()[:-1000])
    record, said = run(tmp_path)
    assert any("checkpoint.pt is not readable" in line for line in said)
    assert all(line.count("warning") <= 1 for line in said)
    assert any("resumes from step 15" in line for line in said)
    assert content(record) == uninterrupted


def test_a_changed_byte_anywhere_is_never_a_wrong_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = stopped(tmp_path, monkeypatch, 40, None)
    good, rng = record.checkpoint_path.read_bytes(), random.Random(0)
    expected = checkpoint.fingerprint(checkpoint.read(record.checkpoint_path))
    for _ in range(50):
        place, bit = rng.randrange(len(good)), 1 << rng.randrange(8)
        record.checkpoint_path.write_bytes(good[:place] + bytes([good[place] ^ bit]) + good[place + 1 :])
        try:
            found = checkpoint.read(record.checkpoint_path)
        except InputError:
            continue
        assert checkpoint.fingerprint(found) == expected  # a byte that nothing reads


@_SLOW
def test_rows_that_were_changed_since_are_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, bytes]
) -> None:
    record = stopped(tmp_path, monkeypatch, 40, None)
    record.metrics_path.write_bytes(record.metrics_path.read_bytes().replace(b'"loss/d": 0.', b'"loss/d": 9.', 1))
    record, said = run(tmp_path)
    assert any("does not fit the rows in metrics.jsonl" in line for line in said)
    assert any("starts over" in line for line in said)
    assert content(record) == uninterrupted


def test_a_checkpoint_that_is_nested_deep_is_none(tmp_path: Path) -> None:
    path, depth = tmp_path / "checkpoint.pt", 5_000
    lists = b"]" * depth + b"a" * (depth - 1)  # in one another, as pickle's opcodes
    content = b"\x80\x02}(X\x06\x00\x00\x00config}X\x04\x00\x00\x00deep" + lists + b"u."
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (("data.pkl", content), ("version", b"3"), ("byteorder", b"little")):
            archive.writestr(f"checkpoint/{name}", data)
    with pytest.raises(InputError, match=r"checkpoint\.pt is not readable"):
        checkpoint.read(path)


def test_a_checkpoint_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "taken"),)

    record = stopped(tmp_path, monkeypatch, 8, None)
    for write in (
        lambda path: path.write_bytes(pickle.dumps(Payload(), protocol=2)),
        lambda path: torch.save(Payload(), path),
    ):
        write(record.checkpoint_path)
        with pytest.raises(InputError, match="not readable"):
            checkpoint.read(record.checkpoint_path)
    assert run(tmp_path)[0].status()["state"] == "finished"
    assert not (tmp_path / "taken").exists()


# --- what has changed in between ---


def test_another_version_or_data_set_is_refused_unless_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = stopped(tmp_path, monkeypatch, 40, None)
    before = {path: path.read_bytes() for path in record.folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(checkpoint, "TRAINING_VERSION", 99)
    digits = load("digits")
    monkeypatch.setattr("experiments.run.load", lambda *_: dataclasses.replace(digits, digest="other"))
    with pytest.raises(
        InputError, match=r"TRAINING_VERSION was \d+ and is 99; data was 'a87.*' and is 'other'.*--force"
    ):
        run(tmp_path)
    assert {path: path.read_bytes() for path in before} == before
    record, said = run(tmp_path, policy=Policy(force=True))
    assert any("resumes by force: TRAINING_VERSION was" in line for line in said)
    first, last = record.status()["attempts"]
    assert (first["exact"], last["exact"], len(last["forced"])) == (True, False, 2)


@_SLOW
def test_another_configuration_is_refused_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = stopped(tmp_path, monkeypatch, 40, None)
    other = small(**{**OFTEN, "batch_size": 32})
    record.folder.rename(tmp_path / other.run_id)
    with pytest.raises(InputError, match="batch_size was 16 and is 32"):
        execute(other, "single", tmp_path, lambda message: None)


def test_other_conditions_are_taken_and_not_called_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(tmp_path, monkeypatch, 40, None)
    record, said = run(tmp_path, changes={"memory_format": "contiguous"})
    assert any("not bit for bit: memory_format was channels_last and is contiguous" in line for line in said)
    assert [attempt["exact"] for attempt in record.status()["attempts"]] == [True, False]
    assert record.status()["state"] == "finished"


def test_a_failed_run_resumes_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, bytes]
) -> None:
    write = Record.append

    def append(self: Record, row: dict[str, Any]) -> None:
        if row["step"] == 40:
            raise OSError(28, "No space left on device")
        write(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(Record, "append", append)
        record, _ = run(tmp_path)
    assert record.status()["state"] == "failed"
    assert "No space left on device" in record.status()["error"]
    record, said = run(tmp_path, policy=Policy(redo_failed=True))
    assert "was failed and resumes from step 30" in said[0]
    assert content(record) == uninterrupted


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluations.jsonl", "protocol.json"])
@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_a_run_whose_files_are_changed_while_it_trains_does_not_end_without_them(
    name: str, harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, bytes]
) -> None:
    write = Record.append

    def append(self: Record, row: dict[str, Any]) -> None:
        write(self, row)
        if row["step"] == 40:
            path = self.folder / name
            path.write_bytes(path.read_bytes().replace(b"0", b"1")) if harm == "changed" else path.unlink()

    with monkeypatch.context() as patch:
        patch.setattr(Record, "append", append)
        record, _ = run(tmp_path)
    status = record.status()
    assert (status["state"], f"{name} was changed while its run trained" in status["error"]) == ("failed", True)
    record, _ = run(tmp_path, policy=Policy(redo_failed=True))
    assert record.status()["state"] == "finished"
    assert content(record) == uninterrupted


def test_a_run_that_resumes_writes_into_no_file_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, bytes]
) -> None:
    record = stopped(tmp_path, monkeypatch, 52, None)
    others = tmp_path / "others"
    for path in record.row_paths:
        others.write_bytes(rows := path.read_bytes())
        path.unlink()
        path.symlink_to(others)
        record, _ = run(tmp_path)
        assert (others.read_bytes(), content(record)) == (rows, uninterrupted)
        shutil.rmtree(record.folder)
        record = stopped(tmp_path, monkeypatch, 52, None)


# --- real processes, real signals ---


def alive(group: int) -> list[str]:
    """States of the processes of a group, except zombies."""
    table = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    return [line for line in table.splitlines() if line.split()[0] == str(group) and "Z" not in line]


@_SLOW
def test_a_sweep_killed_again_and_again_ends_with_the_same_bytes(tmp_path: Path, command: Callable) -> None:
    """A sweep of 3 runs all of whose processes are killed at random moments; then compared with one that was not."""
    kills, rng = 3, random.Random(0)
    path = write_study(tmp_path, arm=["dcgan", "sn", "penalty"], steps=260)
    options = ["--workers", "2", "--checkpoint-every", "20", "--wandb", "disabled", "--device", "cpu"]
    line = [sys.executable, "-m", "experiments", "sweep", str(path), *options, "--runs-dir", str(tmp_path / "killed")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    records = [Record(tmp_path / "killed" / "tiny" / config.run_id) for config in read(path).configs]
    done: dict[str, int] = {}
    for _ in range(kills):
        process = subprocess.Popen(line, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
        rows = sum(len(record.rows()) for record in records)
        wanted, deadline = rows + rng.randint(1, 16), time.monotonic() + 60  # of 81 in all: work, not time, as below
        while process.poll() is None and sum(len(r.rows()) for r in records) < wanted and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
        deadline = time.monotonic() + 20
        while alive(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert alive(process.pid) == []  # no orphans
        for record in records:  # what is finished is never touched again
            if record.status()["state"] == "finished":
                assert done.setdefault(record.run_id, record.metrics_path.stat().st_mtime_ns) > 0
    code, _, errors = command("sweep", path, *options, "--runs-dir", tmp_path / "killed")
    assert code == 0, errors
    for record in records:
        assert record.status()["state"] == "finished"
        assert done.get(record.run_id, record.metrics_path.stat().st_mtime_ns) == record.metrics_path.stat().st_mtime_ns
        config: RunConfig = dataclasses.replace(record.config(), threads=1, device="cpu", wandb="disabled")
        execute(config, "tiny", tmp_path / "quiet", lambda message: None)
        assert content(record) == content(Record(tmp_path / "quiet" / record.run_id))
        assert all(attempt["exact"] for attempt in record.status()["attempts"])
    assert len(run_folders(tmp_path / "killed" / "tiny")) == 3
    assert sum(len(json.loads((r.folder / "status.json").read_text())["attempts"]) for r in records) > 3


@pytest.mark.parametrize(("kills", "steps"), [(4, 60), pytest.param(30, 450, marks=_SLOW)])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path: Path, kills: int, steps: int) -> None:
    """Three runs in processes that are copies of this one, which start at once, and are killed again and again."""
    changes = OFTEN | {"steps": steps}
    configs, rng = [small(**changes | {"arm": arm}) for arm in ONE_EACH], random.Random(kills)
    records = [Record(tmp_path / "killed" / config.run_id) for config in configs]
    for config in configs:  # before: the copies then have the reference features from the start
        execute(config, "tiny", tmp_path / "quiet", lambda message: None)

    def train_all() -> None:
        for config in configs:
            execute(config, "tiny", tmp_path / "killed", lambda message: None)

    for kill in range(kills + 1):
        process = multiprocessing.get_context("fork").Process(target=train_all)
        rows = sum(len(record.rows()) for record in records)
        process.start()
        if kill < kills:  # after so much work, not so much time: a fast machine is not done before the last kill
            wanted, deadline = rows + rng.randint(1, 8), time.monotonic() + 60
            while sum(len(record.rows()) for record in records) < wanted and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.03))
            assert process.is_alive()
            process.kill()
        process.join(300)
    attempts = [record.status()["attempts"] for record in records]
    assert any(attempt["resumed_from"] > 0 for of in attempts for attempt in of)
    assert kills <= sum(map(len, attempts)) <= kills + 3
    for record in records:
        assert content(record) == content(Record(tmp_path / "quiet" / record.run_id))
