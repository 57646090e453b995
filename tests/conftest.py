"""Shared by all tests: a command line in a process of its own, small runs, and skips that CI turns into failures."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from pyarrow import parquet

from experiments import checkpoint
from experiments.cli import main
from experiments.gpu.archive import Archives
from experiments.ledger import fingerprint
from experiments.record import DIGESTS, RESULTS, Record, run_folders
from experiments.run import execute
from experiments.study import read
from sngan.arms import ARMS
from sngan.config import RunConfig
from sngan.datasets import DATASETS

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which `nohup pytest` would have all programs ignore that tests start

ROOT = Path(__file__).parents[1]
FURTHER = list(ARMS)[6:]  # arms beside the reference study's
ONE_EACH = list({ARMS[name].constraint: name for name in ARMS if name not in FURTHER}.values())  # of each constraint
SMALL = {"dataset": "digits", "batch_size": 16, "g_width": 8, "steps": 30, "n_fake": 100}
HOSTILE = "</td><script>document.title = 'taken'</script> | ![x](y)"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No account, no settings and no cache of the machine, one thread (the bits of a run depend on their number)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    for name in [name for name in os.environ if name.startswith(("WANDB_", "SNGAN_RUNS"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    torch.set_num_threads(1)
    torch.manual_seed(0)  # in whatever order tests run


@pytest.fixture
def any_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of other images are taken for the published ones."""
    for name, row in DATASETS.items():
        monkeypatch.setitem(DATASETS, name, replace(row, published={}))


def small(**changes: object) -> RunConfig:
    return RunConfig(**{**SMALL, "threads": 1, "device": "cpu", "wandb": "disabled", **changes})  # type: ignore[arg-type]


def write_study(folder: Path, name: str = "tiny", **parameters: object) -> Path:
    """A study file of small runs; lists become `values`."""
    lines = [f"name: {name}", "method: grid", "parameters:"]
    for key, value in {**SMALL, **parameters}.items():
        lines.append(f"  {key}: {{{'values' if isinstance(value, list) else 'value'}: {value}}}")
    path = folder / f"{name}.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def trained(path: Path, tmp_path: Path, only: Callable[[RunConfig], bool] = lambda config: True) -> Path:
    """The runs of a study file, in a folder of records."""
    study = read(path)
    folder = tmp_path / "records" / study.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(study.text)
    for config in filter(only, study.configs):
        config = replace(config, threads=1, device="cpu", wandb="disabled")
        execute(config, study.name, folder, lambda message: None)
    return folder


def refrozen(
    folder: Path,
    status: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    config: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    rename: Mapping[str, str] | None = None,
) -> None:
    """What is frozen there, as if its runs had had another status, configuration or id; intact all the same."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, part in manifest["parts"].items():
        path = folder / "parts" / name / "runs.parquet"
        runs = parquet.read_table(path).to_pylist()
        for run in runs:
            run["run_id"] = (rename or {}).get(run["run_id"], run["run_id"])
            for column, change in (("status", status), ("config", config)):
                run[column] = json.dumps(change(json.loads(run[column])))
        parquet.write_table(pyarrow.Table.from_pylist(runs), path)
        part["runs"] = {run["run_id"]: json.loads(run["status"]).get("metrics_sha256") or "" for run in runs}
        part["files"]["runs.parquet"] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest["sha256"] = fingerprint(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def sngan(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the `sngan` command in a process of its own, in an empty folder."""

    def run(*arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "experiments", *map(str, arguments)]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    return run


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the `sngan` command in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return ended.value.code, *capsys.readouterr()  # type: ignore[return-value]

    return run


@pytest.fixture
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps train in this process, which saves the seconds in which a worker starts."""
    from others import HereEngine  # no GPU machine has what it needs

    monkeypatch.setattr("experiments.engines.local.LocalEngine", HereEngine)


def wait_for(condition: Callable[[], object], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


class Terminal:
    """A program in tmux, as a person sees and uses it."""

    def __init__(self, line: str, width: int, height: int, **environment: str) -> None:
        # a server of its own: one that is told to end takes the next session with it while it does
        self._tmux = ["tmux", "-L", f"sngan-{uuid.uuid4().hex}"]
        # without the size of another terminal, which readline puts into pytest's environment
        kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        start = ["-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y", str(height), line]
        subprocess.run([*self._tmux, *start], env=kept | environment, check=True)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False)

    def screen(self) -> str:
        return subprocess.run([*self._tmux, "capture-pane", "-p"], capture_output=True, text=True, check=True).stdout

    def press(self, *keys: str) -> None:
        subprocess.run([*self._tmux, "send-keys", *keys], check=True)

    def wait_for(self, *patterns: str) -> str:
        deadline = time.monotonic() + 90
        while not all(re.search(pattern, screen := self.screen()) for pattern in patterns):
            assert time.monotonic() < deadline, screen
            time.sleep(0.1)
        return screen


def needs(present: object, reason: str) -> None:
    """Skip where something is not on the machine; fail instead where SNGAN_SKIP_NOTHING is set, as in CI."""
    if not present:
        (pytest.fail if os.environ.get("SNGAN_SKIP_NOTHING") else pytest.skip)(reason)


def launched_study(folder: Path) -> list[RunConfig]:
    """The study `tiny` of two arms and three seeds in its folder, as a sweep leaves it before its first run."""
    folder.mkdir()
    path = write_study(folder, "study", arm=["dcgan", "sn"], seed=[0, 1, 2], steps=60)
    path.write_text(path.read_text().replace("name: study", "name: tiny\ndescription: Which is which?"))
    return read(path).configs


@pytest.fixture(scope="session")
def _mixed_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed") / "tiny"
    configs = {(config.arm, config.seed): config for config in launched_study(folder)}
    extra = small(arm="penalty", steps=60)
    for config in (*configs.values(), extra):
        if config != configs["sn", 2]:
            execute(replace(config, threads=1, device="cpu", wandb="disabled"), "tiny", folder, lambda message: None)
    failed = Record(folder / configs["dcgan", 2].run_id)
    failed.write_status(failed.status() | {"state": "failed", "step": 30, "error": HOSTILE, "traceback": "Traceback"})
    failed.metrics_path.write_text("\n".join(failed.metrics_path.read_text().splitlines()[:4]) + '\n{"step": 4')
    failed.checkpoint_path.unlink()  # final weights, which say finished
    diverged = Record(folder / configs["sn", 1].run_id)
    rows = diverged.rows()
    rows[-1]["loss/d"] = None
    diverged.metrics_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ended = {"state": "diverged", "error": "non-finite: loss/d", "metrics_sha256": diverged.metrics_sha256()}
    rewrite_end(diverged, diverged.status() | ended)
    return folder


def rewrite_end(record: Record, status: dict[str, Any]) -> None:
    """As if the run had ended so: in its status, and in its final weights, which would contradict it."""
    record.write_status(status)
    content = torch.load(record.checkpoint_path, weights_only=True)
    told = status | {"reason": status["error"] or ""}
    for name in ("state", "step", "reason", "training_version", *DIGESTS):
        content.pop(name, None)
        content |= {name: told[name]} if name in told else {}
    content["state"] = str(content["state"])
    content.pop("sha256")
    torch.save(content | {"sha256": checkpoint.fingerprint(content)}, record.checkpoint_path)


@pytest.fixture
def mixed_study(_mixed_study: Path, tmp_path: Path) -> Path:
    """A study's folder with real short runs: three finished, one diverged, one failed, one missing, one outside it.

    Divergence and failure are written into records of real runs by hand, the reason as hostile as a name may be.
    """
    made = shutil.ignore_patterns("report", ".history.cache")  # by other tests
    return shutil.copytree(_mixed_study, tmp_path / "runs" / "tiny", ignore=made)


def ended_records(study: Path) -> list[Record]:
    return [r for r in run_folders(study) if (s := r.status())["state"] in RESULTS and not r.damage(s)]


@pytest.fixture
def archived(mixed_study: Path, tmp_path: Path) -> tuple[Path, list[Record]]:
    """One archive, and the records that are in it, in its order."""
    records = ended_records(mixed_study)
    assert len(records) >= 3
    (tmp_path / "out").mkdir()
    archives = Archives(tmp_path / "out", "tiny", (mixed_study / "study.yaml").read_text())
    for record in records:
        archives.add(record)
    assert archives.runs == {"runs-0.tar": [record.run_id for record in records]}
    return tmp_path / "out" / "runs-0.tar", records


@pytest.fixture(scope="session")
def page(_mixed_study: Path) -> Path:
    """The report of the mixed study, to be read only."""
    from analysis.page.report import write_report  # no GPU machine has what it needs

    return write_report(_mixed_study)


def train_offline(folder: Path, study: str = "tiny", **changes: Any) -> Record:
    config = small(wandb="offline", **changes)
    execute(config, study, folder / study, lambda message: None)
    return Record(folder / study / config.run_id)


@pytest.fixture(scope="session")
def _study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with runs that finished, failed, are missing and are extra, mirrored offline."""
    folder = tmp_path_factory.mktemp("mirrored") / "tiny"
    configs = launched_study(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", "")
        for config in (*configs[:5], small(arm="penalty", steps=60)):
            if config == configs[3]:
                patch.setattr("experiments.run.train", lambda *_: 1 / 0)
            execute(replace(config, threads=1, device="cpu", wandb="offline"), "tiny", folder, lambda message: None)
            if config == configs[3]:
                patch.undo()
                patch.setenv("WANDB_API_KEY", "")
    return folder


@pytest.fixture
def study_folder(_study_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(_study_folder, tmp_path / "runs" / "tiny", ignore=shutil.ignore_patterns(".history.cache"))


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the format of Inception's weights, its numbers drawn at random: no features of it mean anything.

    Convolutions keep the size of what they see (He et al. 2015); else all 2048 features would be zero.
    """
    port = pytest.importorskip("torch_fidelity").feature_extractor_inceptionv3
    network = port.FeatureExtractorInceptionV3
    generator = torch.Generator().manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "load_state_dict", lambda *_: None)
        patch.setattr(port, "load_state_dict_from_url", lambda *_, **__: {})
        state = network("stand-in", ["2048"]).state_dict()
    for name, tensor in state.items():
        if name.endswith("conv.weight"):
            torch.nn.init.kaiming_normal_(tensor, nonlinearity="relu", generator=generator)
        elif name.endswith("running_mean"):
            tensor.normal_(0, 0.1, generator=generator)
    path = tmp_path_factory.mktemp("weights") / "stand-in.pth"
    torch.save(state, path)
    return path
