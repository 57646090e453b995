"""One seed of each cell for others, loaded by a Python that has nothing of this program."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, trained, write_study

from experiments.export import networks
from experiments.record import Record, run_folders
from experiments.release import release
from experiments.study import read

GRID = {"seed": [0, 1], "arm": ["dcgan", "sn"], "steps": 20}


@pytest.fixture(scope="session")
def _records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released")
    return trained(write_study(folder, **GRID), folder)


@pytest.fixture
def records(_records: Path, tmp_path: Path) -> Path:
    return shutil.copytree(_records, tmp_path / "runs" / "tiny")


def test_a_study_is_exported_as_an_archive_for_others(records: Path, tmp_path: Path, command: Callable) -> None:
    failed = next(r for r in run_folders(records) if r.config().arm == "sn" and r.config().seed == 0)
    failed.write_status(failed.status() | {"state": "failed"})
    code, output, errors = command("export", "tiny", "--runs-dir", records.parent)
    assert code == 0, errors
    folder = records / "weights"
    assert output.splitlines()[-1] == f"{folder}: 2 runs, and as one file {folder}.zip"
    chosen = {path.name for path in (folder / "models").iterdir()}
    assert {(r.config().arm, r.config().seed) for r in run_folders(records) if r.run_id in chosen} == {
        ("dcgan", 0), ("sn", 1)
    }  # fmt: skip
    readme = (folder / "README.md").read_text()
    assert all(f"| `{run_id}` |" in readme for run_id in chosen)
    assert "Weights and this text: MIT License" in readme
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert "UCI), CC BY 4.0" in readme
    metadata = json.loads((folder / "metadata.json").read_text())
    assert {"title", "creators", "description", "license", "upload_type", "keywords"} <= set(metadata)
    assert metadata["license"] == "MIT"
    assert {"arXiv:1511.06434", "arXiv:1802.05957"} == {of["identifier"] for of in metadata["related_identifiers"]}
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()} == files - {"SHA256SUMS"}
    names = zipfile.ZipFile(f"{folder}.zip").namelist()
    assert set(names) == {f"weights/{name}" for name in files}
    before = Path(f"{folder}.zip").read_bytes()
    assert command("export", "tiny", "--runs-dir", records.parent)[0] == 0
    assert Path(f"{folder}.zip").read_bytes() == before


def test_the_loader_stands_alone(records: Path, tmp_path: Path) -> None:
    """In a process that cannot import this program, from the unpacked archive, against the program's own networks."""
    done = release(read(records / "study.yaml"), records, tmp_path / "weights", seed=1)
    zipfile.ZipFile(done.archive).extractall(tmp_path / "elsewhere")
    folder = tmp_path / "elsewhere" / "weights"
    code = (
        "import sys, importlib.util, torch; assert importlib.util.find_spec('sngan') is None\n"
        "from load import load\n"
        "for path in sys.argv[1:]:\n"
        "    g, d = load(path); images = g(torch.linspace(-2, 2, 128).reshape(2, 64))\n"
        "    torch.save({'images': images, 'logits': d(images)}, path + '/out.pt')\n"
        "assert not {m.split('.')[0] for m in sys.modules} & {'sngan', 'experiments', 'pandas'}"
    )
    bare = [sys.executable, "-S"]  # without site, whose .pth files make this program importable
    models = sorted((folder / "models").iterdir())
    subprocess.run([*bare, "-c", code, *models], cwd=folder, env=_alone(), check=True)
    for model in models:
        found = torch.load(model / "out.pt", weights_only=True)
        G, D = networks(Record(records / model.name))
        images = G(torch.linspace(-2, 2, 128).reshape(2, 64))
        torch.testing.assert_close(found["images"], images, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found["logits"], D(images), atol=1e-5, rtol=1e-4)
    other = release(read(records / "study.yaml"), records, tmp_path / "other", seed=0)
    weights = next((other.folder / "models").glob("*-dcgan-*")) / "generator.safetensors"
    (models[0] / "generator.safetensors").write_bytes(weights.read_bytes())
    told = subprocess.run([*bare, "load.py", *models], cwd=folder, env=_alone(), capture_output=True, text=True)
    assert (told.returncode, told.stdout) == (1, "1 of 2 give the numbers that they gave when exported\n"), told.stderr
    assert f"different: {models[0]}" in told.stderr


def _alone() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(torch.__file__).parents[1])}


def test_a_seed_can_be_chosen_and_what_has_none_is_named(records: Path, tmp_path: Path, command: Callable) -> None:
    gone = next(r for r in run_folders(records) if r.config().arm == "sn" and r.config().seed == 1)
    shutil.rmtree(gone.folder)
    code, output, _ = command("export", "tiny", "--seed", 1, "--out", tmp_path / "w", "--runs-dir", records.parent)
    assert code == 0
    assert re.search(r"no finished run with weights here: digits-sn-C-\w+ \(missing\)", output)
    assert "Cells without a finished run here: digits-sn-C-" in (tmp_path / "w" / "README.md").read_text()
    code, _, errors = command("export", "tiny", "--seed", 5, "--runs-dir", records.parent)
    assert (code, "no finished run of seed 5 of tiny has its weights in" in errors) == (2, True), errors
    code, _, errors = command("export", run_folders(records)[0].folder, "--seed", 1)
    assert (code, "for the export of a whole study" in errors) == (2, True)


def test_what_lies_in_the_way_is_kept(
    records: Path, tmp_path: Path, command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    (mine / "models").mkdir(parents=True)
    (mine / "models" / "thesis.tex").touch()
    arguments = ("export", "tiny", "--seed", 0, "--runs-dir", records.parent, "--out")
    for out in (mine, mine / "."):
        code, _, errors = command(*arguments, out)
        assert (code, "thesis.tex is not of exported weights, and would be lost" in errors) == (2, True), errors
    (tmp_path / "w.zip").write_text("mine too")
    code, _, errors = command(*arguments, tmp_path / "w")
    assert (code, "w.zip holds something other than exported weights" in errors) == (2, True), errors
    assert ((mine / "models" / "thesis.tex").exists(), (tmp_path / "w.zip").read_text()) == (True, "mine too")
    monkeypatch.chdir(tmp_path)
    for out in (".", ".."):
        code, _, errors = command(*arguments, out)
        assert (code, "is no folder of its own, below the current one" in errors) == (2, True), errors
    assert command(*arguments, "here")[0] == 0
    (tmp_path / "here" / "notes.txt").touch()  # beside an earlier release
    code, _, errors = command(*arguments, "here")
    assert (code, "notes.txt is not of exported weights" in errors) == (2, True), errors
    (tmp_path / "here" / "notes.txt").unlink()
    (tmp_path / "link").symlink_to(tmp_path / "here")
    assert command(*arguments, "link")[0] == 0
    assert (tmp_path / "here" / "load.py").exists()


def test_a_damaged_checkpoint_costs_its_cell_a_seed(records: Path, tmp_path: Path) -> None:
    for record in run_folders(records):
        if (record.config().arm, record.config().seed) in (("dcgan", 0), ("sn", 0), ("sn", 1)):
            record.checkpoint_path.write_bytes(b"no checkpoint")
    done = release(read(records / "study.yaml"), records, tmp_path / "w")
    assert [Record(records / run_id).config().seed for run_id in done.run_ids] == [1]
    (text,) = done.without
    assert re.match(r"digits-sn-C-\w+ \(.*checkpoint.pt is not readable", text)
    assert not list(tmp_path.glob(".*"))


def test_what_is_neither_run_nor_study_is_named(records: Path, command: Callable) -> None:
    code, _, errors = command("export", "mnist-shrt", "--runs-dir", records.parent)
    assert (code, "did you mean 'mnist-short'?" in errors, "no run 'mnist-shrt'" in errors) == (2, True, True), errors
    code, _, errors = command("export", "mnist-smoke", "--runs-dir", records.parent)
    assert (code, "frozen runs keep no generator" in errors) == (2, True), errors
    assert command("export", records, "--seed", 0)[0] == 0


@pytest.mark.parametrize("where", ["experiments.release.write_atomically", "zipfile.ZipFile.writestr"])
def test_a_signal_leaves_no_half_of_an_archive(
    where: str, records: Path, command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, lambda *_: signal.raise_signal(signal.SIGTERM))
    assert command("export", records)[0] == 3
    assert not [path for path in records.rglob(".*") if path.name != ".lock"]
    assert not (records / "weights.zip").exists()


def test_of_single_runs_those_that_cannot_be_told_apart_are_named(records: Path, command: Callable) -> None:
    (records / "study.yaml").unlink()
    damaged = run_folders(records)[0]
    damaged.config_path.write_text("{")
    code, _, errors = command("export", records)
    assert (code, f"warning: {damaged.run_id} is left out: {damaged.config_path}: not readable" in errors) == (0, True)
    code, _, errors = command("report", records, "--no-report", "--freeze", records.parent / "frozen")
    assert (code, f"{damaged.run_id} is left out: {damaged.config_path}: not readable" in errors) == (0, True)
