"""The real W&B client against a stand-in server on loopback: what arrives is the record, and trouble costs nothing.

Not proven here: how W&B's own server treats what it gets.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from conftest import ROOT, small, wait_for, write_study
from test_dashboard import spec
from test_wandb_runs import assert_equal
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args
from wandb_server import KEY, Run, Server, serving

from analysis.load import load
from analysis.page.report import Written, write_report
from analysis.sources import wandb_runs
from analysis.stability import summarize
from experiments import cli
from experiments.images import film_of
from experiments.record import KILLED, Record, run_folders
from experiments.run import execute
from experiments.study import BUNDLED, bundled_names, find, read
from experiments.tracking.dashboard import workspace
from sngan.config import InputError

_SLOW = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server
        assert server.unknown == []


def start(server: Server, folder: Path, *command: object, patience: float = 4) -> subprocess.Popen[str]:
    """The `sngan` command, logged in at the server, in a process of its own that waits for W&B no longer than this."""
    arguments = [str(argument) for argument in (*command, "--runs-dir", folder)]
    code = (
        f"from experiments.tracking import tracker; tracker.PATIENCE_SECONDS = {patience};"
        f"from experiments import cli; cli.main({arguments!r})"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes)


def train_command(steps: int, **options: object) -> list[object]:
    config = small(steps=steps)
    names = ("dataset", "batch_size", "g_width", "steps", "n_fake", "threads", "device")
    values = {name: getattr(config, name) for name in names} | {"wandb": "online", "study": "tiny"} | options
    return ["train", *(part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", value))]


def record_of(folder: Path, steps: int) -> Record:
    return Record(folder / "tiny" / small(steps=steps).run_id)


def expected(record: Record) -> dict[int, dict[str, Any]]:
    """Numbers only: lists arrive as histograms."""
    history = [row for row, _ in record.history()]
    return {row["step"]: {k: v for k, v in row.items() if not isinstance(v, list)} for row in history}


def arrived(run: Run) -> dict[int, dict[str, Any]]:
    """The last row of each step, without W&B's own keys and images; its words for non-finite numbers are None."""
    rows = {}
    for row in run.history:
        kept = {key: value for key, value in row.items() if not key.startswith("_") and not isinstance(value, dict)}
        rows[row["step"]] = {key: value if _is_finite(value) else None for key, value in kept.items()}
    return rows


def _is_finite(value: object) -> bool:
    """W&B's client says non-finite numbers by NaN or by words."""
    return isinstance(value, int | float) and math.isfinite(value)


def sync(server: Server, folder: Path) -> str:
    """What the warning says is to be done."""
    environment = {**os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
    environment.pop("WANDB_SERVICE", None)  # that of this process, if it has one, works in another folder
    command = [str(Path(sys.executable).with_name("wandb")), "sync", "--include-online", "--yes"]
    done = subprocess.run(command, cwd=folder / "tiny", env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@_SLOW
def test_what_arrives_is_the_record_and_no_key_stays(server: Server, tmp_path: Path) -> None:
    output, _ = (process := start(server, tmp_path, *train_command(30))).communicate(timeout=100)
    assert process.returncode == 0, output
    assert "warning" not in output
    record = record_of(tmp_path, 30)
    run = server.runs[f"tiny-{record.run_id}"]
    assert arrived(run) == expected(record)
    assert len(run.history) == len(record.rows())
    assert run.values() == record.config().identity() | {"study": "tiny", "run_id": record.run_id}
    assert (run.exit_code, run.summary["state"]) == (0, "finished")
    assert run.summary["metrics_sha256"] == record.metrics_sha256()
    assert run.fields["tags"][0] == "tiny"
    sent = [content for name, content in run.files.items() if name.startswith("media/images/samples")]
    assert sorted(sent) == sorted(path.read_bytes() for path in record.samples_path.glob("step-*.png"))
    histograms = {row["step"]: row["spectrum/conv2"] for row in run.history if "spectrum/conv2" in row}
    assert {step: sum(found["values"]) for step, found in histograms.items()} == {10: 32, 20: 32, 30: 32}
    assert run.alerts == []
    artifacts = {artifact.type: artifact for artifact in run.artifacts}
    assert artifacts["model"].files["checkpoint.pt"] == record.checkpoint_path.read_bytes()
    for path in (record.config_path, record.protocol_path, *record.row_paths):
        assert artifacts["record"].files[path.name] == path.read_bytes()
    digest = record.protocol()["reference_sha256"]
    assert artifacts["dataset"].manifest["images"]["ref"] == f"urn:sha256:{digest}"
    assert all(artifact.committed for artifact in run.artifacts)
    status = record.status()
    assert run.summary["status"] == {k: v for k, v in status.items() if k != "wandb_url"} | {
        "attempts": run.summary["status"]["attempts"]
    }
    assert run.summary["wandb_url"] == status["wandb_url"]
    assert status["wandb_url"] == f"{server.url}/tester/sngan/runs/tiny-{record.run_id}"
    assert (status["attempts"][0]["wandb"], status["attempts"][0]["wandb_error"]) == ("online", None)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("fault", "when"),
    [("500", "midway"), ("hang", "from the start"), ("hang", "midway"), ("drop", "midway"),
     ("401", "from the start")],
)  # fmt: skip
@_SLOW
def test_a_server_that_fails_costs_one_warning_and_a_sync_later(
    fault: str, when: str, server: Server, tmp_path: Path
) -> None:
    server.fault = fault if when == "from the start" else ""
    process = start(server, tmp_path, *train_command(300))
    record = record_of(tmp_path, 300)
    run_id = f"tiny-{record.run_id}"
    if when == "midway":
        deadline = time.monotonic() + 60
        while run_id not in server.runs and time.monotonic() < deadline:  # rows come later
            time.sleep(0.02)
        server.fault = fault
    output, _ = process.communicate(timeout=150)
    assert process.returncode == 0, output
    assert output.count("warning") == 1, output
    assert "WARNING" not in output
    status = record.status()
    assert status["state"] == "finished"
    assert status["attempts"][0]["wandb"] == ("offline" if when == "from the start" else "online")
    assert status["attempts"][0]["wandb_error"] in output
    execute(small(steps=300), "tiny", tmp_path / "quiet", lambda message: None)
    assert record.metrics_path.read_bytes() == Record(tmp_path / "quiet" / record.run_id).metrics_path.read_bytes()
    server.fault = ""
    assert "wandb sync --include-online" in output
    sync(server, tmp_path)
    assert arrived(server.runs[run_id]) == expected(record)
    assert server.runs[run_id].exit_code == 0
    assert server.runs[run_id].summary["state"] == "finished"


def _services(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of W&B's service of this process."""
    found = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "wandb-core" in line]


@_SLOW
@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_service_that_is_killed_is_replaced_and_told_everything(mode: str, server: Server, tmp_path: Path) -> None:
    process = start(server, tmp_path, *train_command(400, wandb=mode))
    record = record_of(tmp_path, 400)
    wait_for(lambda: record.last_step() >= 30 and _services(process), 60)
    for pid in _services(process):
        os.kill(pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    assert "warning" not in output
    assert "Traceback" not in output
    if mode == "offline":
        assert record.status()["attempts"][0]["wandb"] == "offline"
        sync(server, tmp_path)
    run = server.runs[f"tiny-{record.run_id}"]
    assert arrived(run) == expected(record)
    assert (run.exit_code, run.summary["state"]) == (0, "finished")
    assert {artifact.type for artifact in run.artifacts} == {"dataset", "model", "record", "code"}


@_SLOW
@pytest.mark.parametrize("asked", [["--wandb", "online"], []])  # else the look at the login starts W&B's service
def test_a_server_that_answers_nothing_leaves_offline_runs_and_no_traceback(
    asked: list[str], server: Server, tmp_path: Path
) -> None:
    """`{"data": null}` makes W&B's service crash."""
    server.fault = "null"
    path = write_study(tmp_path, seed=[0, 1], steps=30)
    command = ("sweep", path, *asked, "--workers", 1)
    output, _ = (process := start(server, tmp_path, *command)).communicate(timeout=150)
    assert process.returncode == 0, output
    assert output.count("warning") == 1, output
    assert "Traceback" not in output
    assert "goroutine" not in output
    assert {record.status()["attempts"][0]["wandb"] for record in run_folders(tmp_path / "tiny")} == {"offline"}
    server.fault = ""
    assert "wandb sync --include-online" in output
    sync(server, tmp_path)
    assert [(run.exit_code, len(run.artifacts)) for run in server.runs.values()] == [(0, 4), (0, 4)]


@_SLOW
def test_what_the_records_have_is_sent_again_wherever_they_lie(server: Server, tmp_path: Path) -> None:
    """By W&B's own command, from a folder that was moved, and by ours, which needs nothing of W&B's files."""
    before, after = tmp_path / "before", tmp_path / "after"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_PROJECT", "a/b")  # no name for a project
        output, _ = (process := start(server, before, *train_command(30, wandb="offline"))).communicate(timeout=100)
        assert process.returncode == 0, output
        (warning,) = [line for line in output.splitlines() if line.startswith("warning")]
        assert "Invalid project name 'a/b'" in warning
        assert "sngan status tiny --send-wandb" in warning
        assert "wandb sync" not in warning
    before.rename(after)
    record = record_of(after, 30)
    environment = {"WANDB_API_KEY": "", "WANDB_BASE_URL": server.url}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        assert cli.run(["status", "tiny", "--send-wandb", "--runs-dir", str(after)]) == 0  # offline
    after.rename(before)
    sync(server, before)
    run = server.runs.pop(f"tiny-{record.run_id}")
    files = {artifact.type: set(artifact.files) - {"wandb_manifest.json"} for artifact in run.artifacts}
    assert files["model"] == {"checkpoint.pt"}
    assert files["record"] == {"config.json", "protocol.json", "metrics.jsonl", "timing.jsonl", "evaluations.jsonl"}
    record = record_of(before, 30)
    for _ in range(2):  # the second time only artifacts, which W&B knows by their digests
        output, _ = (process := start(server, before, "status", "tiny", "--send-wandb")).communicate(timeout=100)
        assert (process.returncode, "1 runs sent to W&B, 0 not" in output) == (0, True), output
        run = server.runs[f"tiny-{record.run_id}"]
        assert len(run.history) == len(record.rows())
        assert arrived(run) == expected(record)
    del run.lines["wandb-history.jsonl"][1]  # a row that got lost there
    output, _ = (process := start(server, before, "status", "tiny", "--send-wandb")).communicate(timeout=100)
    assert arrived(run) == expected(record)
    record.metrics_path.write_text(record.metrics_path.read_text() + "\n")
    output, _ = (process := start(server, before, "status", "tiny", "--send-wandb")).communicate(timeout=100)
    assert process.returncode == 1
    assert "metrics.jsonl was changed after the run ended" in output


@_SLOW
def test_a_run_that_diverged_is_no_crash_and_raises_an_alert(server: Server, tmp_path: Path) -> None:
    bad = {"arm": "plain", "lr": 10.0, "beta1": 0.999, "beta2": 0.0}
    output, _ = (process := start(server, tmp_path, *train_command(2000, **bad))).communicate(timeout=100)
    assert process.returncode == 0, output
    (run,) = server.runs.values()
    assert (run.exit_code, run.summary["state"]) == (0, "diverged")
    (alert,) = run.alerts
    assert alert["severity"] == "WARN"
    assert "non-finite" in alert["text"]
    record = Record(tmp_path / "tiny" / run.values()["run_id"])
    assert arrived(run) == expected(record)


@pytest.fixture
def logged_in(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """This process, logged in at the server."""
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wandb.teardown()
    yield server
    wandb.teardown()


def sweep_online(server: Server, folder: Path, **parameters: object) -> Path:
    path = write_study(folder, **parameters)
    output, _ = (process := start(server, folder, "sweep", path, "--wandb", "online")).communicate(timeout=200)
    assert process.returncode == 0, output
    return path


def files_of(report: Path) -> dict[str, bytes]:
    return {str(p.relative_to(report)): p.read_bytes() for p in report.rglob("*") if p.is_file()}


@_SLOW
def test_runs_of_another_program_are_read_from_the_server(
    logged_in: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As W&B has them: losses in some rows, quality in others, NaN among them; arm and seed in the runs' names."""
    monkeypatch.chdir(tmp_path)
    for name in ("ppo-seed1", "ppo-seed2", "sac-seed1", "sac-seed2"):
        with wandb.init(project="others", entity="tester", name=name, config={"env": "cheetah"}) as run:
            for step in range(8):
                lost = name == "sac-seed2" and step > 4
                run.log({"global_step": step, "d_loss": math.nan if lost else 0.5})
            run.log({"global_step": 8, "Return": math.nan if lost else -3.0 - step})
    arguments = ["report", "--source", "wandb", "--project", "tester/others", "--maximize", "--runs-dir", str(tmp_path)]
    mapping = "quality=Return,loss=d_loss,step=global_step,dataset=env"
    options = ["--map", mapping, "--run-name", r"(?P<arm>.+)-seed(?P<seed>\d+)", "--figures", "svg"]
    assert cli.run([*arguments, *options]) == 0
    statistics = json.loads((tmp_path / "others" / "report" / "statistics.json").read_text())
    runs = {(run["arm"], run["seed"]): (run["q_end"], run["causes"]) for run in statistics["runs"]}
    assert runs == {
        ("ppo", 1): (-10.0, ""), ("ppo", 2): (-10.0, ""), ("sac", 1): (-10.0, ""),
        ("sac", 2): (None, "divergence at 5"),
    }  # fmt: skip
    assert statistics["quality_name"] == "Return"
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--map", "quality=Return", "--run-name", "(?P<arm>x)(?P<seed>1)"])
    assert ended.value.code == 2
    assert "does not match the run 'ppo-seed1'" in capfd.readouterr().err


@_SLOW
def test_a_study_is_read_from_the_server_as_from_its_records(
    logged_in: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page by page; and the report of what was read is the report of the records."""
    path = sweep_online(logged_in, tmp_path, arm=["dcgan", "sn"], seed=[0, 1], steps=60)
    expected = load(tmp_path / "tiny")
    monkeypatch.setattr(wandb_runs, "PER_PAGE", 2)
    told: list[tuple[int, int]] = []
    found = load("wandb:tester/sngan", runs_dir=str(tmp_path), tell=lambda *counts: told.append(counts))
    assert_equal(found, expected)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert logged_in.pages == 2
    report = write_report(expected, kinds=["svg"]).parent
    of_records = files_of(report)
    shutil.rmtree(report)
    assert cli.run(["report", "wandb:tester/sngan", "--figures", "svg", "--runs-dir", str(tmp_path)]) == 0
    assert files_of(report) == of_records
    same = lambda of, **how: assert_equal(of, expected) or Written(report, [])  # noqa: E731
    monkeypatch.setattr("analysis.page.report.write", same)
    flags = ["--source", "wandb", "--project", "tester/sngan"]
    assert cli.run(["report", str(path), *flags, "--runs-dir", str(tmp_path)]) == 0
    some = load("wandb:tester/sngan", filters={"config.arm": "sn"}, runs_dir=str(tmp_path))
    assert some.account[["finished", "missing"]].to_list() == [2, 2]
    assert cli.run(["status", str(path), "--check-wandb", "--runs-dir", str(tmp_path)]) == 0


@_SLOW
def test_rows_of_results_come_from_the_cache_unless_it_is_damaged(logged_in: Server, tmp_path: Path) -> None:
    sweep_online(logged_in, tmp_path, arm=["dcgan", "sn"], seed=[0], steps=30)
    expected = load(tmp_path / "tiny")
    for damage, read_again in ((False, 2), (False, 0), (True, 1)):
        before = logged_in.histories
        if damage:
            kept = next((tmp_path / "cache").rglob("rows.json"))
            kept.write_bytes(kept.read_bytes()[:-1] + b" ")
        assert_equal(load("wandb:tester/sngan", runs_dir=str(tmp_path)), expected)
        assert logged_in.histories - before == read_again


@_SLOW
def test_our_own_runs_are_read_from_the_server_as_anyones(logged_in: Server, tmp_path: Path) -> None:
    sweep_online(logged_in, tmp_path, arm=["dcgan", "sn"], seed=[0, 1], steps=30)
    arguments = ["wandb:tester/sngan", "--map", "quality=eval/fd,loss=loss/d,arm=arm,seed=seed,step=step"]
    options = ["--baseline", "sn", "--figures", "svg", "--runs-dir", str(tmp_path)]
    assert cli.run(["report", *arguments, *options]) == 0
    statistics = json.loads((tmp_path / "sngan" / "report" / "statistics.json").read_text())
    theirs = {(run["arm"], run["seed"]): run["q_best"] for run in statistics["runs"]}
    study = load(tmp_path / "tiny")
    summary = summarize(study.history, study.runs)
    assert theirs == {(run.arm, run.seed): pytest.approx(run.q_best) for run in summary.itertuples()}


@_SLOW
def test_what_the_server_lacks_of_a_killed_run_is_named(logged_in: Server, tmp_path: Path) -> None:
    path = sweep_online(logged_in, tmp_path, arm=["dcgan"], seed=[0], steps=60)
    killed = next(iter(logged_in.runs.values()))
    killed.summary["state"], killed.exit_code, killed.state = "running", None, "crashed"
    last = max(killed.lines["wandb-history.jsonl"])
    del killed.lines["wandb-history.jsonl"][last]
    run = load("wandb:tester/sngan", runs_dir=str(tmp_path)).runs.set_index("run_id").loc[killed.values()["run_id"]]
    assert (run["state"], run["step"], run["error"]) == ("interrupted", 50, KILLED)
    assert cli.run(["status", str(path), "--check-wandb", "--runs-dir", str(tmp_path)]) == 1


@_SLOW
def test_of_several_studies_none_is_fetched_until_one_is_named(logged_in: Server, tmp_path: Path) -> None:
    sweep_online(logged_in, tmp_path, arm=["dcgan"], seed=[0, 1], steps=30)
    next(iter(logged_in.runs.values())).config["study"]["value"] = "another"
    with pytest.raises(InputError, match=r"runs of 2 studies; name one .*: another, tiny"):
        load("wandb:tester/sngan", runs_dir=str(tmp_path))
    assert logged_in.histories == 0
    found = load("wandb:tester/sngan", filters={"config.study": "tiny"}, runs_dir=str(tmp_path))
    assert found.account[["finished", "missing"]].to_list() == [1, 1]


@_SLOW
def test_what_is_not_on_the_server_is_an_error(logged_in: Server, tmp_path: Path) -> None:
    sweep_online(logged_in, tmp_path, arm=["dcgan"], seed=[0], steps=30)
    with pytest.raises(InputError, match="no runs of the study other"):
        load("wandb:tester/sngan", study="other")
    logged_in.fault = "404"
    with pytest.raises(InputError, match="cannot read W&B's project tester/nothing"):
        load("wandb:tester/nothing")
    logged_in.fault = ""


@_SLOW
def test_workspace_and_report_are_saved_once_and_read_back(logged_in: Server, tmp_path: Path) -> None:
    path = sweep_online(logged_in, tmp_path, arm=["dcgan", "sn"], seed=[0], steps=30)
    urls = set()
    for _ in range(2):
        output, _ = (process := start(logged_in, tmp_path, "dashboard", path)).communicate(timeout=100)
        assert process.returncode == 0, output
        urls.add(output.split()[-1])
    (url,) = urls
    assert len(logged_in.views) == 1
    again = ws.Workspace.from_url(url)
    assert spec(again) == spec(workspace(read(path), "tester", "sngan"))

    urls = set()
    for _ in range(2):
        arguments = ("report", "tiny", "--publish", "--figures", "png")
        output, _ = (process := start(logged_in, tmp_path, *arguments)).communicate(timeout=200)
        assert process.returncode == 0, output
        urls.add(output.split()[-1])
    (url,) = urls
    assert len(logged_in.views) == 2
    report = wr.Report.from_url(url)
    text = "\n".join(block.text for block in report.blocks if isinstance(block, wr.MarkdownBlock))
    local = tmp_path / "tiny" / "report"
    lines = (local / "report.md").read_text().splitlines()
    assert [line for line in text.splitlines() if line.startswith("|")] == [li for li in lines if li.startswith("|")]
    assert all(record.status()["wandb_url"] in text for record in run_folders(tmp_path / "tiny"))
    sent = [content for name, content in logged_in.runs["tiny-report"].files.items() if name.startswith("media/")]
    assert set(sent) == {path.read_bytes() for path in (local / "figures").glob("*.png")}


def agent(server: Server, folder: Path, path: Path) -> subprocess.Popen[str]:
    """`wandb sweep` on the file, then `wandb agent`, as a user types them in a checkout."""
    environment = {
        **os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "PYTHONPATH": str(ROOT),
        "SNGAN_RUNS": str(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "WANDB_AGENT_DISABLE_FLAPPING": "true",
    }  # fmt: skip
    wandb_command = str(Path(sys.executable).with_name("wandb"))
    known = set(server.sweeps)
    command = [wandb_command, "sweep", "--project", "sngan", str(path)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    (name,) = set(server.sweeps) - known
    command = [wandb_command, "agent", f"tester/sngan/{name}"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes)


def write_sweep(folder: Path, **parameters: object) -> Path:
    path = write_study(folder, **parameters)
    command = (
        '["${env}", "${interpreter}", "-m", "experiments", "train", "--study", "tiny", "--threads", "1", "${args}"]'
    )
    primary = "controller: {type: cloud, primary: {failures: {dataset: digits}}}"
    path.write_text(f"program: experiments/__main__.py\ncommand: {command}\n{primary}\n{path.read_text()}")
    return path


@_SLOW
def test_an_agent_trains_a_grid_and_a_finished_cell_only_says_so(server: Server, tmp_path: Path) -> None:
    path = write_sweep(tmp_path, arm=["dcgan", "sn"], seed=[0, 1])
    output, _ = agent(server, tmp_path, path).communicate(timeout=200)
    assert list(server.runs) == [f"sweep0-{i}" for i in range(4)], output  # the server's ids
    planned = {config.run_id: config for config in read(path).configs}
    records = {run_id: Record(tmp_path / "tiny" / run_id) for run_id in planned}
    assert {run.values()["run_id"] for run in server.runs.values()} == set(planned)
    for run in server.runs.values():
        record = records[run.values()["run_id"]]
        assert arrived(run) == expected(record)
        assert (run.exit_code, run.summary["state"], run.fields["sweep"]) == (0, "finished", "sweep0")
        assert {k: run.values()[k] for k in record.config().identity()} == record.config().identity()
    before = {run_id: record.metrics_path.stat().st_mtime_ns for run_id, record in records.items()}

    path = write_sweep(tmp_path, arm=["sn"], seed=[0, 1])  # a part of the grid as another sweep
    output, _ = agent(server, tmp_path, path).communicate(timeout=200)
    assert output.count("is finished already; nothing to do") == 2, output
    assert before == {run_id: record.metrics_path.stat().st_mtime_ns for run_id, record in records.items()}
    for name in ("sweep1-0", "sweep1-1"):
        run = server.runs[name]
        record = records[run.values()["run_id"]]
        assert arrived(run) == expected(record)
        assert (run.exit_code, run.summary["metrics_sha256"]) == (0, record.metrics_sha256())
        assert any(name.startswith("media/videos/") for name in run.files)


@_SLOW
def test_a_run_that_an_agent_was_told_to_stop_resumes(server: Server, tmp_path: Path) -> None:
    """Stopped by the server (early stop, preemption), then handed out again under its id."""
    path = write_sweep(tmp_path, arm=["sn"], seed=[0], steps=[1800], log_every=20, n_evaluations=2)
    process = agent(server, tmp_path, path)
    (config,) = read(path).configs
    record = Record(tmp_path / "tiny" / config.run_id)
    wait_for(lambda: len(record.rows()) > 5)
    sweep = server.sweeps["sweep0"]
    sweep.stop.add("sweep0-0")
    wait_for(lambda: record.status()["state"] == "interrupted")
    assert "checkpoint.pt" in {path.name for path in record.folder.iterdir()}
    wait_for(lambda: server.runs["sweep0-0"].preempting)
    sweep.stop.clear()
    sweep.requeued.append("sweep0-0")
    output, _ = process.communicate(timeout=200)
    status = record.status()
    assert (status["state"], [a["resumed_from"] > 0 for a in status["attempts"]][-1]) == ("finished", True), output
    run = server.runs["sweep0-0"]
    assert arrived(run) == expected(record)
    assert (run.exit_code, run.summary["state"]) == (0, "finished")
    assert status["attempts"][-1]["exact"]  # bit for bit, as tests of resuming show


@_SLOW
def test_every_bundled_study_is_a_wandb_sweep(server: Server, tmp_path: Path) -> None:
    """Each cell's arguments, as W&B's agent writes them, are those of a planned run."""
    environment = {**os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
    wandb_command = str(Path(sys.executable).with_name("wandb"))
    for name in bundled_names():
        command = [wandb_command, "sweep", "--project", "sngan", str(BUNDLED / f"{name}.yaml")]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        sweep = list(server.sweeps.values())[-1]
        study = find(name)
        assert len(sweep.cells) == study.cells
        parsed: dict[str, Any] = {}  # a command line takes a tenth of a second: one for each cell but for the seed
        run_ids = set()
        for cell in sweep.cells:
            arguments = create_sweep_command_args({"args": {k: {"value": v} for k, v in cell.items()}})["args"]
            others = str([argument for argument in arguments if argument != f"--seed={cell['seed']}"])
            if others not in parsed:
                parsed[others] = cli.parse(["train", "--study", name, *arguments]).config
                assert parsed[others].seed == cell["seed"]
            assert f"--seed={cell['seed']}" in arguments
            run_ids.add(replace(parsed[others], seed=cell["seed"]).run_id)
        assert run_ids == {config.run_id for config in study.configs}
        assert sweep.config["command"][2:] == ["-m", "experiments", "train", "--study", name, "${args}"]


@_SLOW
@pytest.mark.parametrize("online", [True, False])
def test_a_killed_run_resumes_as_the_same_wandb_run(online: bool, server: Server, tmp_path: Path) -> None:
    command = train_command(600, checkpoint_every=50, wandb="online" if online else "offline")
    record, killed = record_of(tmp_path, 600), 0
    while killed < 2:
        process = start(server, tmp_path, *command)
        rows = len(record.rows())
        deadline = time.monotonic() + 60
        while len(record.rows()) < rows + 12 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    output, _ = (process := start(server, tmp_path, *command)).communicate(timeout=100)
    assert process.returncode == 0, output
    assert "resumes from step" in output
    assert len(list((tmp_path / "tiny" / "wandb").glob("*run-*-*"))) == 1  # W&B's own viewer lists the run once
    if not online:
        assert server.runs == {}
        sync(server, tmp_path)
    assert list(server.runs) == [f"tiny-{record.run_id}"]
    (run,) = server.runs.values()
    assert arrived(run) == expected(record)
    (film,) = (content for name, content in run.files.items() if name.startswith("media/videos/"))
    assert film == film_of(sorted(record.samples_path.glob("step-*.png"))).getvalue()
    files = {name: content for artifact in run.artifacts for name, content in artifact.files.items()}
    assert files["checkpoint.pt"] == record.checkpoint_path.read_bytes()
    assert files["metrics.jsonl"] == record.metrics_path.read_bytes()
    assert (run.exit_code, run.summary["state"]) == (0, "finished")


@_SLOW
def test_a_stopped_run_is_preempting_and_leaves_in_time(server: Server, tmp_path: Path) -> None:
    """Also where W&B's server hangs: a cluster kills what takes longer than it said."""
    record = record_of(tmp_path, 100_000)
    for fault in ("", "hang"):
        rows = len(record.rows())
        process = start(server, tmp_path, *train_command(100_000), patience=30)
        deadline = time.monotonic() + 60
        while len(record.rows()) < rows + 12 and time.monotonic() < deadline:
            time.sleep(0.02)
        server.fault = fault
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        output, _ = process.communicate(timeout=60)
        assert time.monotonic() - begin < 10
        assert process.returncode == 3, output
        assert record.status()["state"] == "interrupted"
    assert server.runs[f"tiny-{record.run_id}"].preempting


@_SLOW
def test_a_sweep_shows_one_warning(server: Server, tmp_path: Path) -> None:
    server.fault = "401"
    path = write_study(tmp_path, seed=[0, 1, 2, 3])
    output, _ = (process := start(server, tmp_path, "sweep", path, "--wandb", "online")).communicate(timeout=100)
    assert process.returncode == 0, output
    assert output.count("warning: ") == 1, output
    server.fault = ""
    sync(server, tmp_path)
    assert len(server.runs) == 4


@_SLOW
def test_a_full_disk_under_wandb_is_named(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "tiny" / "wandb"
    folder.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounts are forbidden here")
    try:
        output, _ = (process := start(server, tmp_path, *train_command(600, wandb="offline"))).communicate(timeout=100)
    finally:
        subprocess.run(["umount", folder], check=True)
    assert process.returncode == 0, output
    assert output.count("warning") == 1, output
    assert "no space left" in output.lower()
    status = record_of(tmp_path, 600).status()
    assert status["state"] == "finished"
    assert "no space left" in json.dumps(status["attempts"]).lower()
