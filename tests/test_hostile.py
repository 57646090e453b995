"""A hostile world: full and read-only disks, damaged files, hostile names. Nothing is lost, nothing wrong believed."""

import json
import os
import random
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import wandb
from conftest import small, write_study

from analysis.load import load
from analysis.study import sound
from experiments.messages import Message
from experiments.record import Record, State, run_folders
from experiments.rows import read_rows
from experiments.run import Policy, execute
from experiments.study import read
from sngan.config import InputError

_SLOW = pytest.mark.slow
OFTEN = {"steps": 60, "checkpoint_every": 15, "log_every": 4}


def silent(*_: object) -> None: ...


def metrics(folder: Path) -> dict[str, bytes]:
    return {record.run_id: record.metrics_path.read_bytes() for record in run_folders(folder)}


# --- disks ---


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A real file system in memory: `disk("size=1m")` mounts it, or mounts it again with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        again = ["-o", f"remount,{options}"] if folder.is_mount() else ["-t", "tmpfs", "-o", options, "tmpfs"]
        if subprocess.run(["mount", *again, str(folder)], capture_output=True).returncode:
            pytest.skip("mounts are forbidden here")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)


@_SLOW
@pytest.mark.parametrize("kilobytes", [150, 1500])
def test_a_full_disk_costs_nothing_but_time(
    kilobytes: int, disk: Callable[[str], Path], tmp_path: Path, sngan: Callable
) -> None:
    folder = disk(f"size={kilobytes}k")
    path = write_study(tmp_path, seed=[0, 1, 2], steps=60, log_every=4)
    options = ("--workers", 1, "--wandb", "disabled", "--checkpoint-every", 15, "--device", "cpu", "--runs-dir", folder)
    done = sngan("sweep", path, *options)
    assert done.returncode == 1, done.stderr
    assert "no further run is started: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    account = json.loads(sngan("status", path, "--json", "--runs-dir", folder).stdout)
    failed = [run for run in account["runs"] if run["state"] == "failed"]
    assert len(failed) == 1
    assert "No space left on device" in failed[0]["error"]
    assert "--retry failed" in failed[0]["next"]
    kept = {record.run_id: record.rows() for record in run_folders(folder / "tiny")}  # readable
    finished = metrics(folder / "tiny")
    disk("size=100m")
    done = sngan("sweep", path, *options, "--retry", "failed")
    assert done.returncode == 0, done.stderr
    for config in read(path).configs:
        record = Record(folder / "tiny" / config.run_id)
        assert record.status()["state"] == "finished"
        execute(small(**config.identity()), "tiny", tmp_path / "quiet", silent)
        assert record.metrics_path.read_bytes() == Record(tmp_path / "quiet" / config.run_id).metrics_path.read_bytes()
        if config.run_id in kept and config.run_id not in {run["run_id"] for run in failed}:
            assert record.metrics_path.read_bytes() == finished[config.run_id]
            assert len(record.status()["attempts"]) == 1


@_SLOW
def test_a_read_only_disk_is_named(disk: Callable[[str], Path], tmp_path: Path, sngan: Callable) -> None:
    folder = disk("size=100m")
    path = write_study(tmp_path, seed=[0, 1])
    options = ("--workers", 1, "--wandb", "disabled", "--device", "cpu", "--runs-dir", folder)
    assert sngan("sweep", path, *options, "--shard", "0/2").returncode == 0
    disk("ro")
    for arguments in (["sweep", path, *options], ["report", "tiny", "--runs-dir", folder]):
        done = sngan(*arguments)
        assert done.returncode in (1, 2)
        assert "Read-only file system" in done.stderr + done.stdout
        assert "Traceback" not in done.stderr
    done = sngan("status", path, "--runs-dir", folder)
    assert done.returncode == 0
    assert "1 finished, 1 missing" in done.stdout
    assert sngan("plan", path, "--runs-dir", folder).returncode == 0


# --- damaged files ---


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    execute(small(**OFTEN), "single", folder, silent)
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that died at step 52 of 60 without a word, with checkpoints of steps 30 and 45."""
    folder = tmp_path_factory.mktemp("killed")
    write, write_state = Record.append, Record.write_status

    class Killed(BaseException): ...

    def append(self: Record, row: dict) -> None:
        write(self, row)
        if row["step"] == 52:
            raise Killed

    def write_status(self: Record, status: dict) -> None:
        if status["state"] != State.RUNNING:
            raise Killed
        write_state(self, status)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, "append", append)
        patch.setattr(Record, "write_status", write_status)
        with pytest.raises(Killed):
            execute(small(**OFTEN), "single", folder, silent)
    return folder


def flip(path: Path, rng: random.Random) -> None:
    """Change one bit of one byte, or cut the file there."""
    content = path.read_bytes()
    place, bit = rng.randrange(len(content)), 1 << rng.randrange(8)
    changed = content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
    path.write_bytes(content[:place] if rng.random() < 0.2 else changed)


def damage(folder: Path, number: int) -> tuple[Record, str]:
    rng = random.Random(number)
    record = Record(folder / small(**OFTEN).run_id)
    names = ("checkpoint.pt", "config.json", "status.json", "metrics.jsonl", "evaluations.jsonl", "protocol.json")
    name = names[number % len(names)]
    flip(record.folder / name, rng)
    return record, name


@pytest.mark.parametrize("number", [*range(16), *(pytest.param(number, marks=_SLOW) for number in range(16, 50))])
def test_a_finished_run_is_never_lost_by_a_damaged_byte(number: int, finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "runs")
    original = Record(finished / small(**OFTEN).run_id)
    record, name = damage(folder, number)
    intact = record.metrics_path.read_bytes()
    told: list[Message] = []
    result = execute(small(**OFTEN), "single", folder, told.append)
    assert (result.state, result.ran) == ("finished", False)
    assert record.metrics_path.read_bytes() == intact  # nothing was trained again
    (folder / "study.yaml").write_text(write_study(tmp_path, "single", **_study_fields()).read_text())
    study = sound(load(folder))
    if name in ("config.json", "metrics.jsonl", "evaluations.jsonl", "protocol.json"):
        assert study.runs["damage"].str.contains(name).all()
        assert study.history.empty
    elif study.runs["damage"].eq("").all():
        assert record.metrics_sha256() == original.status()["metrics_sha256"]
        assert len(study.history) == len(original.rows())


@pytest.mark.parametrize("name", ["status.json", "step", "training_version", "state", "protocol_sha256", "both"])
def test_the_final_weights_say_what_the_run_was(name: str, finished: Path, tmp_path: Path) -> None:
    """A status that is lost is written again, one that was changed is named."""
    folder = shutil.copytree(finished, tmp_path / "runs")
    record = Record(folder / small(**OFTEN).run_id)
    path, told = record.folder / "status.json", list[Message]()
    status, before = json.loads(path.read_text()), {path: path.read_bytes() for path in record.row_paths}
    if name == "status.json":
        path.unlink()
        assert record.status()["state"] == "interrupted"
        assert "status.json is missing" in record.status()["error"]
    elif name == "both":  # one digit, and the digest that would tell of it
        protocol = record.protocol()
        record.write_protocol(protocol | {"trivial_fd": protocol["trivial_fd"] + 40})
        path.write_text(json.dumps(status | record.digests()))
    else:
        path.write_text(json.dumps(status | {name: {"state": "diverged", "protocol_sha256": "0" * 64}.get(name, 7)}))
    result = execute(small(**OFTEN), "single", folder, told.append)
    assert (str(result.state) in ("finished", "diverged"), result.ran) == (True, False)
    assert {path: path.read_bytes() for path in record.row_paths} == before
    study = load(folder)
    if name == "status.json":
        assert "final weights say that it is finished" in told[0].line  # type: ignore[union-attr]
        assert (list(study.runs["state"]), list(study.runs["damage"])) == (["finished"], [""])
        assert not (record.folder / "status-damaged.json").exists()
    else:
        assert study.runs["damage"].str.contains("status.json was changed|protocol.json was changed").all()
        assert sound(study).history.empty


def edited(record: Record, **changes: object) -> None:
    path = record.folder / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_failure_that_the_final_weights_deny_is_named_and_not_trained_again(
    finished: Path, tmp_path: Path, command: Callable
) -> None:
    folder = shutil.copytree(finished, tmp_path / "single")
    record = Record(folder / small(**OFTEN).run_id)
    edited(record, state="failed")
    study = sound(load(folder))
    assert (list(study.runs["state"]), len(study.history)) == (["interrupted"], 0)  # no failure is counted
    assert "says failed, and the final weights say finished" in study.warnings[0]
    code, output, _ = command("status", "single", "--json", "--runs-dir", tmp_path)
    assert (code, "says failed, and the final weights say finished" in output) == (0, True)
    result = execute(small(**OFTEN), "single", folder, silent, Policy(redo_failed=True))
    assert (result.state, result.ran) == ("finished", False)


@pytest.mark.parametrize("state", ["finished", "diverged"])
def test_a_killed_run_is_no_result_because_its_status_says_so(state: str, killed: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(killed, tmp_path / "single")
    record = Record(folder / small(**OFTEN).run_id)
    edited(record, state=state, step=record.last_step())
    study = sound(load(folder))
    assert "status.json lacks metrics_sha256" in study.runs["damage"][0]
    assert study.history.empty


def test_without_final_weights_a_digest_that_is_gone_is_damage(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "single")
    record = Record(folder / small(**OFTEN).run_id)
    record.checkpoint_path.unlink()
    assert record.damage(record.status()) == ""
    edited(record, protocol_sha256=None)
    assert record.damage(record.status()).startswith("status.json lacks protocol_sha256")
    edited(record, training_version=4, config_sha256=None, evaluations_sha256=None)  # which knew the metrics alone
    assert record.damage(record.status()) == ""


def test_the_record_of_another_run_does_not_count(finished: Path, tmp_path: Path) -> None:
    path = write_study(tmp_path, "single", **_study_fields(), seed=[0, 1])
    folder = tmp_path / "runs" / "single"
    one, other = (Record(folder / config.run_id) for config in read(path).configs)
    for record in (one, other):
        shutil.copytree(finished / one.run_id, record.folder)
    shutil.copy(path, folder / "study.yaml")
    study = sound(load(folder))
    damage = study.runs.set_index("run_id")["damage"]
    assert damage[one.run_id] == ""
    assert f"is the configuration of {one.run_id}" in damage[other.run_id]
    assert set(study.history["run_id"]) == {one.run_id}


def test_pipes_are_not_waited_for(finished: Path, killed: Path, tmp_path: Path, sngan: Callable) -> None:
    for source, name in ((finished, "checkpoint.pt"), (killed, "checkpoint.pt"), (killed, ".lock")):
        folder = shutil.copytree(source, tmp_path / source.name / name / "single")
        path = folder / small(**OFTEN).run_id / name
        path.unlink(missing_ok=True)
        os.mkfifo(path)
        os.mkfifo(folder / ".history.cache")
        assert sngan("status", "single", "--runs-dir", folder.parent, timeout=60).returncode == 0
        load(folder)
    path = tmp_path / killed.name / "checkpoint.pt" / "single"
    assert execute(small(**OFTEN), "single", path, silent).state == "finished"


def test_a_record_whose_status_and_weights_are_lost_is_kept(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "runs")
    record = Record(folder / small(**OFTEN).run_id)
    rows = record.metrics_path.read_bytes()
    (record.folder / "status.json").unlink()
    record.checkpoint_path.unlink()
    told: list[Message] = []
    assert execute(small(**OFTEN), "single", folder, told.append).ran
    (aside,) = record.folder.glob("before-*")
    assert (aside / "metrics.jsonl").read_bytes() == record.metrics_path.read_bytes() == rows
    assert any(str(aside) in str(message) for message in told)


def test_a_lost_status_does_not_make_old_training_code_new(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(finished, tmp_path / "runs")
    record = Record(folder / small(**OFTEN).run_id)
    version = record.status()["training_version"]
    (record.folder / "status.json").write_text("{")
    monkeypatch.setattr("experiments.run.TRAINING_VERSION", version + 1)
    assert execute(small(**OFTEN), "single", folder, silent).state == "finished"
    assert record.status()["training_version"] == version


def test_a_name_in_metrics_that_is_no_text_is_damage(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "runs")
    metrics = Record(folder / small(**OFTEN).run_id).metrics_path
    metrics.write_bytes(metrics.read_bytes().replace(b'"loss/g"', b'"l\xe1ss/g"'))
    (folder / "study.yaml").write_text(write_study(tmp_path, "single", **_study_fields()).read_text())
    study = sound(load(folder))
    assert study.runs["damage"].str.contains("metrics.jsonl").all()
    assert study.history.empty


def _study_fields() -> dict[str, object]:
    return {key: value for key, value in OFTEN.items() if key != "checkpoint_every"}


@pytest.mark.parametrize("number", [*range(4), *(pytest.param(number, marks=_SLOW) for number in range(4, 28))])
def test_a_killed_run_with_a_damaged_byte_ends_as_it_would_have(
    number: int, killed: Path, finished: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(killed, tmp_path / "runs")
    record, name = damage(folder, number)
    told: list[Message] = []
    result = execute(small(**OFTEN), "single", folder, told.append)
    assert (result.state, result.ran) == ("finished", True), (name, result)
    undisturbed = Record(finished / record.run_id)
    for path in (record.metrics_path, record.evaluations_path, record.protocol_path):
        assert path.read_bytes() == (undisturbed.folder / path.name).read_bytes(), (name, path)
    assert read_rows(record.metrics_path)
    assert not record.damage(record.status())


# --- what others may have written ---


@pytest.mark.parametrize("name", ["../../x", "<script>alert(1)</script>", "/tmp/x", "a\nb", "..", "x" * 300])
def test_names_cannot_leave_the_folder(name: str, tmp_path: Path, command: Callable) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"name: {json.dumps(name)}\nmethod: grid\nparameters: {{steps: {{value: 10}}}}\n")
    before = set(tmp_path.rglob("*"))
    for arguments in (["sweep", path], ["train", "--steps", 10, "--study", name], ["status", name], ["sample", name]):
        assert command(*arguments, "--runs-dir", tmp_path / "runs")[0] == 2
    assert set(tmp_path.rglob("*")) == before


def test_a_study_runs_no_code(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    for tag in ("!!python/object/apply:os.mkdir", "!!python/object/new:os.mkdir"):
        path.write_text(f"name: x\nmethod: grid\nparameters: {tag} [{tmp_path / 'taken'}]\n")
        with pytest.raises(InputError, match="not valid YAML: could not determine a constructor"):
            read(path)
    assert not (tmp_path / "taken").exists()


def test_files_have_the_users_umask_and_no_secret(
    tmp_path: Path, command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "do-not-keep-this-0123456789"
    train = ["train", "--steps", 20, "--g-width", 8, "--n-fake", 100, "--wandb", "offline", "--device", "cpu"]
    for name in ("AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY"):
        monkeypatch.setenv(name, secret)
    wandb.teardown()  # W&B's service keeps the umask that it was started with
    before = os.umask(0o027)
    try:
        for batch_size, code in ((16, 0), (1800, 1)):  # the second fails, with a traceback
            assert command(*train, "--batch-size", batch_size, "--runs-dir", tmp_path / "runs")[0] == code
    finally:
        os.umask(before)
    paths = [p for p in (tmp_path / "runs").rglob("*") if not p.is_symlink()]
    assert len(paths) > 30
    for p in paths:
        assert stat.S_IMODE(p.stat().st_mode) & 0o027 == 0, p
        if "wandb" not in p.parts:  # W&B's client decides on its own files
            assert stat.S_IMODE(p.stat().st_mode) == (0o750 if p.is_dir() else 0o640), p
        assert not p.is_file() or secret.encode() not in p.read_bytes(), p
