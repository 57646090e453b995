"""The one command that proves everything on a GPU, rehearsed on a CPU."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, wait_for
from test_data import write_idx

from analysis.sources.frozen import thaw
from experiments.gpu import kit
from experiments.gpu.merge import merge
from experiments.gpu.processes import start, stop
from experiments.record import RESULTS
from sngan.datasets import DATASETS


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
    """The real wheels, with 60 made-up images in MNIST's place, which a wheel more lets all processes take for it."""
    folder = tmp_path_factory.mktemp("kit")
    write_idx(folder / "data" / "MNIST" / "raw")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "mnist", replace(DATASETS["mnist"], published={}))
        kit.make(folder / "kit", str(folder / "data"))
    with zipfile.ZipFile(folder / "kit" / "wheels" / "any_files.whl", "w") as wheel:
        wheel.writestr(
            "sitecustomize.py",
            "from dataclasses import replace\nfrom sngan.datasets import DATASETS\n"
            "DATASETS['mnist'] = replace(DATASETS['mnist'], published={})\n",
        )
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
