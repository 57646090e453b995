"""What is taken to a CUDA machine and what comes back: kit, check, archives, merge. No GPU: the check is rehearsed."""

from __future__ import annotations

import ast
import importlib.metadata
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, wait_for
from test_data import write_idx

from analysis.load import load
from analysis.sources.frozen import thaw
from experiments.gpu import agreement, archive, kit
from experiments.gpu.archive import Archives, unpack
from experiments.gpu.merge import merge
from experiments.gpu.processes import run, start, stop
from experiments.record import RESULTS, Record, run_folders
from sngan.arms import ARMS
from sngan.config import TRAINING_VERSION, InputError
from sngan.spectral import weight_layers
from sngan.train import build

# --- archives ---


def over(study: Path) -> list[Record]:
    return [r for r in run_folders(study) if (s := r.status())["state"] in RESULTS and not r.damage(s)]


@pytest.fixture
def archived(mixed_study: Path, tmp_path: Path) -> tuple[Path, list[Record]]:
    """One archive, and the records that are in it, in its order."""
    records = over(mixed_study)
    assert len(records) >= 3
    (tmp_path / "out").mkdir()
    archives = Archives(tmp_path / "out", "tiny", (mixed_study / "study.yaml").read_text())
    for record in records:
        archives.add(record)
    assert archives.runs == {"runs-0.tar": [record.run_id for record in records]}
    return tmp_path / "out" / "runs-0.tar", records


def test_a_run_comes_back_as_what_a_freeze_keeps(archived: tuple[Path, list[Record]], tmp_path: Path) -> None:
    path, records = archived
    assert not list(unpack(path, tmp_path / "back"))
    for record in records:
        folder = tmp_path / "back" / "tiny" / record.run_id
        names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
        (grid,) = [name for name in names if name.startswith("samples/")]
        assert grid == f"samples/{max(file.name for file in record.samples_path.glob('step-*.png'))}"
        rows = {"config.json", "protocol.json", "status.json", "metrics.jsonl", "evaluations.jsonl"}
        assert names == {*rows, "discriminator.safetensors", grid}
        for name in names - {"discriminator.safetensors"}:
            assert (folder / name).read_bytes() == (record.folder / name).read_bytes(), name
        weights = archive.discriminator_weights(Record(folder))
        assert weights == archive.discriminator_weights(record)
        assert weights
    assert (tmp_path / "back" / "tiny" / "study.yaml").read_text() == (
        records[0].folder.parent / "study.yaml"
    ).read_text()


def test_cut_anywhere_it_loses_what_follows_its_last_run(archived: tuple[Path, list[Record]], tmp_path: Path) -> None:
    path, records = archived
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    ends = [member.offset_data + member.size for member in members[1:]]
    wholes = [member.offset for member in members[1:]] + [len(content)]
    picker = random.Random(5)
    cuts = {0, 1, 511, 512, 513, *(end + d for end in ends for d in (-1, 0, 1))}
    cuts |= {whole + d for whole in wholes for d in (-1, 0, 1, 300)}  # 300: within a header
    cuts |= {picker.randrange(len(content)) for _ in range(25)}
    for cut in sorted(cut for cut in cuts if cut <= len(content)):
        path.write_bytes(content[:cut])
        notes = list(unpack(path, tmp_path / f"cut-{cut}"))
        found = {record.run_id for record in over(tmp_path / f"cut-{cut}" / "tiny")}
        assert found == {record.run_id for record, end in zip(records, ends, strict=True) if end <= cut}, cut
        assert [("cut off" in note) for note in notes] == [True] * (cut not in wholes), cut


def test_what_is_damaged_or_no_runs_is_left_out_and_named(archived: tuple[Path, list[Record]], tmp_path: Path) -> None:
    path, records = archived
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        first, second = tar.getmembers()[1:3]
    middle = second.offset_data + second.size // 2
    path.write_bytes(content[:middle] + bytes(b ^ 0xFF for b in content[middle : middle + 50]) + content[middle + 50 :])
    (note,) = unpack(path, tmp_path / "back")
    assert f"{records[1].run_id} is damaged, and left out" in note
    assert Path(first.name).name == f"{records[0].run_id}.tar.xz"
    assert {r.run_id for r in over(tmp_path / "back" / "tiny")} == {r.run_id for r in (records[0], *records[2:])}
    assert not (tmp_path / "back" / "tiny" / records[1].run_id).exists()

    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:xz") as tar:
        for name in ("../../outside.json", "/tmp/outside.json", "status.json"):
            tar.addfile(archive.header(name, b"{}"), io.BytesIO(b"{}"))
    hostile = tmp_path / "hostile.tar"
    for name in ("../outside/study.yaml", "/tmp/outside/study.yaml", "tiny/../x.tar.xz", "tiny/made-up.tar.xz"):
        archive.append(hostile, name, inner.getvalue())
    link = tarfile.TarInfo("tiny/link.tar.xz")
    link.type, link.linkname = tarfile.SYMTYPE, "../../outside"
    with open(hostile, "ab") as file:
        file.write(link.tobuf())
    archive.append(hostile, "tiny/study.yaml", b"name: [")
    notes = list(unpack(hostile, tmp_path / "deep" / "er"))
    assert [("is no run's" in note) for note in notes] == [True, True, True, False, True, False]
    assert "made-up is not what its status says" in notes[3]
    assert "the plan of tiny is left out" in notes[5]
    assert not [path for path in tmp_path.rglob("*") if "outside" in path.name]
    assert not [path for path in (tmp_path / "deep").rglob("*") if path.is_file()]


def test_a_run_whose_rows_were_changed_is_left_out(mixed_study: Path, tmp_path: Path) -> None:
    record = over(mixed_study)[0]
    record.metrics_path.write_bytes(record.metrics_path.read_bytes().replace(b"1", b"2", 1))
    Archives(tmp_path, "tiny", (mixed_study / "study.yaml").read_text()).add(record)
    (note,) = unpack(tmp_path / "runs-0.tar", tmp_path / "back")
    assert f"{record.run_id} is not what its status says" in note


def test_archives_are_filled_one_after_the_other(
    mixed_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = over(mixed_study)
    size = max(len(archive.packed(record)) for record in records)
    monkeypatch.setattr(archive, "BYTES", size + 4000)  # one run each
    monkeypatch.setattr(archive, "MOST", 2)
    archives = Archives(tmp_path, "tiny", "name: tiny")
    for record in records[:3]:
        assert not archives.full
        archives.add(record)
    assert archives.full
    assert archives.runs == {f"runs-{i}.tar": [records[i].run_id] for i in range(2)}
    assert all(path.stat().st_size <= size + 4000 for path in tmp_path.glob("*.tar"))


# --- merge ---


def a_report(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    report = {"started": "2026-01-01T00:00:00", "device": "NVIDIA H100 80GB HBM3", "rehearsal": False, "phases": {}}
    (folder / "report.json").write_text(json.dumps(report | changes))
    return folder


def test_merging_freezes_the_runs_and_keeps_the_reports(
    archived: tuple[Path, list[Record]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, records = archived
    first, second = a_report(path.parent), a_report(tmp_path / "later", started="2026-01-02T00:00:00")
    (second / path.name).write_bytes(path.read_bytes()[:-700])  # the same runs, without the last
    for _ in range(2):
        merge([second, first], tmp_path / "results")
        frozen = thaw(tmp_path / "results" / "tiny" / "data")
        ended = {r.run_id for r in records if "-penalty-" not in r.run_id}  # which is not planned
        assert set(frozen.runs["run_id"][frozen.runs["state"].isin(RESULTS)]) == ended
        reports = json.loads((tmp_path / "results" / "gpu" / "nvidia-h100-80gb-hbm3.json").read_text())
        assert [report["started"] for report in reports] == ["2026-01-01T00:00:00", "2026-01-02T00:00:00"]
    out = capsys.readouterr().out
    assert "is there already, and stays as it is" in out
    assert "cut off" in out
    ours, theirs = load(records[0].folder.parent).history, frozen.history
    for run_id in ended:
        mine, other = (frame[frame["run_id"] == run_id].reset_index(drop=True) for frame in (ours, theirs))
        assert mine["eval/fd"].equals(other["eval/fd"])
        assert mine["step"].tolist() == other["step"].tolist()


def test_a_folder_that_check_did_not_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither report.json nor archives"):
        merge([tmp_path], tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("content", [None, "", "[]", '{"started": "now"}'])
def test_runs_are_frozen_whatever_the_report_is(
    content: str | None, archived: tuple[Path, list[Record]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = archived
    if content is not None:
        (path.parent / "report.json").write_text(content)
    merge([path.parent], tmp_path / "results")
    assert (tmp_path / "results" / "tiny" / "data" / "manifest.json").exists()
    out = capsys.readouterr().out
    assert "report.json is left out" in out
    assert re.search(r"digits-penalty-C-s00-\w+ is not in the plan of tiny, and is left out", out)


def test_the_larger_plan_counts(tmp_path: Path) -> None:
    plans = [
        f"name: tiny\nmethod: grid\nparameters:\n  seed: {{values: {seeds}}}\n" for seeds in ([0], [0, 1, 2], [0, 1])
    ]
    for plan in plans:
        archive.append(tmp_path / "runs-0.tar", "tiny/study.yaml", plan.encode())
    assert not list(unpack(tmp_path / "runs-0.tar", tmp_path / "back"))
    assert (tmp_path / "back" / "tiny" / "study.yaml").read_text() == plans[1]


# --- agreement ---


def test_the_rows_of_a_cpu_are_those_of_this_training_code() -> None:
    rows = json.loads(agreement.FILE.read_text())
    assert rows["about"]["training_version"] == TRAINING_VERSION, "python -m experiments.gpu.agreement --write"
    for precision in ("float64", "float32"):
        assert set(rows[precision]) == set(ARMS)
        assert all(len(values) == 21 for found in rows[precision].values() for values in found.values())
    for arm, found in rows["float64"].items():
        layers = [name for name, _ in weight_layers(build(agreement.RunConfig(arm=arm), "cpu")[1])]  # type: ignore[arg-type]
        assert {f"sigma/{name}" for name in layers} < set(found)


def test_another_arm_does_not_agree() -> None:
    rows = json.loads(agreement.FILE.read_text())
    for tolerance in agreement.TOLERANCES:
        one, other = (rows[tolerance.precision][arm] for arm in ("penalty", "penalty_dcgan"))
        assert agreement.largest_difference(one, one, tolerance.metrics, tolerance.step)[0] == 0
        assert agreement.largest_difference(one, other, tolerance.metrics, tolerance.step)[0] > tolerance.most


@pytest.mark.parametrize(
    ("found", "difference", "where"),
    [
        ({"loss/d": [1.0, 2.0, None]}, 0.0, "loss/d at 1"),
        ({"loss/d": [1.0, 2.5, None]}, 0.2, "loss/d at 1"),
        ({"loss/d": [1.0, 2.0, 3.0]}, float("inf"), "loss/d at 2"),
        ({"loss/d": [1.0, float("nan"), None]}, float("inf"), "loss/d at 1"),
        ({"loss/g": [1.0, 2.0, None]}, float("inf"), "metrics that only one has: loss/d, loss/g"),
    ],
)
def test_the_largest_difference(found: agreement.Rows, difference: float, where: str) -> None:
    expected: agreement.Rows = {"loss/d": [1.0, 2.0, None]}
    assert agreement.largest_difference(expected, found, "loss", 2) == (pytest.approx(difference), where)
    assert agreement.largest_difference(expected, found, "sigma", 2) == (0.0, "")


# --- processes ---


def alive(pid: int) -> bool:
    """Whether it runs: a process that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_gets_its_time_and_nothing_of_it_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.gpu.processes.GRACE_SECONDS", 1.0)
    log = tmp_path / "log"
    assert run(["sh", "-c", "echo said; exit 3"], log, 20) == 3
    assert log.read_text() == "said\n"
    stubborn = "import signal,subprocess,time; signal.signal(15, signal.SIG_IGN);" \
               "p = subprocess.Popen(['sleep', '100']); print(p.pid, flush=True); time.sleep(100)"  # fmt: skip
    assert run([sys.executable, "-c", stubborn], log, 3) is None
    wait_for(lambda: not alive(int(log.read_text().split()[-1])), 5)


def test_a_process_does_not_outlive_the_one_that_started_it(tmp_path: Path) -> None:
    code = "import pathlib, time; from experiments.gpu.processes import start;" \
           "print(start(['sleep', '100'], pathlib.Path('log')).pid, flush=True); time.sleep(100)"  # fmt: skip
    command = [sys.executable, "-c", code]
    parent = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    assert parent.stdout
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.wait()
    wait_for(lambda: not alive(child), 5)


# --- kit ---


def test_what_is_carried_needs_nothing_else() -> None:
    there = {re.sub(r"[-_.]+", "-", name) for name in kit.on_the_machine()}
    for name in kit.CARRIED:
        for requirement in importlib.metadata.requires(name) or []:
            wanted, _, marker = requirement.partition(";")
            if "extra" in marker or "python_version < '3.1" in marker:
                continue
            assert re.split(r"[^A-Za-z0-9._-]", wanted)[0].lower().replace("_", "-") in there, requirement
    assert not {"wandb", "wandb-workspaces", "ray", "tyro", "platformdirs"} & (there - set(kit.CARRIED))


def test_what_starts_the_check_needs_the_standard_library_alone() -> None:
    """It runs before the kit is unpacked."""
    seen: set[str] = set()

    def follow(module: str) -> None:
        path = ROOT / f"{module.replace('.', '/')}.py"
        if module in seen or not path.exists():
            return
        seen.add(module)
        for node in ast.parse(path.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in (*sys.stdlib_module_names, "experiments", "sngan"), f"{module}: {name}"
                follow(name)

    follow("experiments.gpu.check")
    assert "sngan.config" in seen


def test_too_much_to_travel_is_an_error(tmp_path: Path) -> None:
    mib = 2**20
    assert "10.0 MiB; with the working tree 40.0 of 60 MiB" in kit.checked_size(tmp_path, 10 * mib, 30 * mib)
    with pytest.raises(InputError, match="the kit may have 20 MiB"):
        kit.checked_size(tmp_path, 21 * mib, mib)
    with pytest.raises(InputError, match="too much to travel"):
        kit.checked_size(tmp_path, 15 * mib, 46 * mib)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="something else than a kit"):
        kit.make(tmp_path)
    with pytest.raises(InputError, match="something else than a kit"):
        kit.make(tmp_path / "mine.txt")
    with pytest.raises(InputError, match="there is no folder"):
        kit.make(tmp_path / "nowhere" / "kit")
    assert (tmp_path / "mine.txt").exists()


# --- check ---


def check(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "experiments.gpu.check", *map(str, arguments)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "inf"], "--seconds must be a number above 0"),
        (["--only", "environment,test"], "unknown phase test; known: environment, tests"),
        (["--seconds", "0"], "--seconds must be a number above 0"),
        (["--kit", "nowhere"], "no kit at nowhere: `make gpu-kit` makes it"),
        (["--rehearse", "--out", "tests"], "tests is not empty: name a new folder"),
    ],
)
def test_bad_arguments_are_explained(arguments: list[str], message: str) -> None:
    done = subprocess.run(check(*arguments), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_budget_that_is_too_small_says_so(tmp_path: Path) -> None:
    done = subprocess.run(check("--rehearse", "--seconds", 6, "--out", tmp_path / "out"), cwd=ROOT, check=False)
    assert done.returncode == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["state"] == "ended"
    assert {phase["state"] for phase in report["phases"].values()} == {"no time left"}


def test_a_damaged_kit_is_said_in_the_report(tmp_path: Path) -> None:
    (tmp_path / "kit" / "wheels").mkdir(parents=True)
    (tmp_path / "kit" / "wheels" / "tyro.whl").write_bytes(b"PK")
    command = check("--rehearse", "--kit", tmp_path / "kit", "--out", tmp_path / "out")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the check cannot continue: BadZipFile" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["state"] == "failed"
    assert "BadZipFile" in report["error"]


@pytest.fixture(scope="module")
def real_kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real wheels, with 60 made-up images in MNIST's place."""
    folder = tmp_path_factory.mktemp("kit")
    write_idx(folder / "data" / "MNIST" / "raw")
    kit.make(folder / "kit", str(folder / "data"))
    return folder / "kit"


@pytest.mark.slow
def test_the_rehearsal_passes_on_what_the_machine_has(real_kit: Path, tmp_path: Path) -> None:
    """With nothing but the packages that are listed for it; the images of the kit are unpacked."""
    out = tmp_path / "out"
    done = subprocess.run(
        check("--rehearse", "--seconds", 1200, "--kit", real_kit, "--out", out), cwd=ROOT, check=False
    )
    report = json.loads((out / "report.json").read_text())
    states = {name: phase["state"] for name, phase in report["phases"].items()}
    assert done.returncode == 0, (states, (out / "log.txt").read_text()[-5000:])
    assert set(states.values()) == {"passed"}
    assert len(states) == 8
    names = {path.name for path in out.iterdir()}
    assert names == {"report.json", "log.txt", "runs-0.tar"}
    assert re.search(r"\d+ passed", report["phases"]["tests"]["said"])
    found = {name: phase["found"] for name, phase in report["phases"].items() if name != "tests"}
    assert found["runs"]["failed"] == {}
    assert found["environment"]["matmul_flops"]["float32"] > 1e8
    assert "the notebook's loop (dcgan)" in found["bench"]["rows"]
    assert "W&B, one row" not in found["bench"]["rows"]  # not carried
    assert set(found["profile"]["arms"]) == {"dcgan", "sn_dcgan", "penalty_dcgan"}
    assert found["resume"]["stopped_at"]
    assert len(found["runs"]["runs"]) == 6
    merge([out], tmp_path / "results")
    assert frozen_runs(tmp_path / "results") == set(found["runs"]["runs"])


@pytest.mark.slow
@pytest.mark.parametrize("least", [0, 1, 3])
def test_killed_at_a_random_moment_what_was_done_is_on_the_disk(least: int, tmp_path: Path) -> None:
    """At a moment soon after so many of its six runs are archived; two run at once, so it has more to do then."""
    out = tmp_path / "out"
    process = start(check("--rehearse", "--only", "runs", "--seconds", 300, "--out", out), tmp_path / "output")
    log = out / "log.txt"
    wait_for(lambda: log.exists() and log.read_text().count("archived ") >= least, 200)
    time.sleep(random.Random(least).uniform(0, 1 if least else 3))
    os.kill(process.pid, signal.SIGKILL)
    stop(process)
    told = re.findall(r"archived (\S+):", log.read_text())
    assert len(told) >= least
    assert json.loads((out / "report.json").read_text())["state"] == "running"
    merge([out], tmp_path / "results")
    merged = frozen_runs(tmp_path / "results") if told else set()
    assert set(told) <= merged
    assert len(merged) <= len(told) + 1  # one may have been written, and not told of
    wait_for(lambda: not [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(out).encode() in _content(p)], 30)


def frozen_runs(results: Path) -> set[str]:
    study = thaw(results / "rehearsal" / "data")
    return set(study.runs["run_id"][study.runs["state"].isin(RESULTS)])


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
