"""The real W&B client, offline, read back with W&B's own reader."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb
from conftest import ROOT, small, train_offline
from PIL import Image

from experiments.messages import Message, Said
from experiments.record import Record, run_folders
from experiments.rows import read_rows
from experiments.run import execute
from experiments.tracking.sending import send
from experiments.tracking.tracker import Tracker


def inspect(file: Path) -> dict[str, list[dict[str, Any]]]:
    """Type -> payloads of a .wandb file, by `wandb leet inspect`."""
    command = [wandb.util.get_core_path(), "leet", "inspect", "--json", "--no-observability", "--run-file", file, "."]
    lines = subprocess.run(
        command, capture_output=True, stdin=subprocess.DEVNULL, text=True, check=True, cwd=file.parent, timeout=60
    ).stdout.splitlines()
    found: dict[str, list[dict[str, Any]]] = {}
    for record in map(json.loads, lines):
        found.setdefault(record["type"], []).append(record.get(record["type"], {}))
    return found


def merged(payloads: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: value for payload in payloads for key, value in payload.get("update", {}).items()}


def history_of(found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [payload["item"] for payload in found["history"]]


def wandb_file(record: Record) -> Path:
    (file,) = record.folder.parent.glob(f"wandb/offline-run-*-{record.folder.parent.name}-{record.run_id}*/*.wandb")
    return file


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A run that was mirrored offline; to be read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", "")
        return train_offline(tmp_path_factory.mktemp("offline"), arm="sn_dcgan")


def test_offline_rows_equal_the_records(offline: Record) -> None:
    history = history_of(inspect(wandb_file(offline)))
    timing = {row["step"]: row for row in offline.timing()}
    expected = [row | timing.get(row["step"], {}) for row in offline.rows()]
    assert len(history) == len(expected) == 4
    for sent, row in zip(history, expected, strict=True):
        assert {key: sent[key] for key in row} == row


def test_media_come_with_evaluations(offline: Record) -> None:
    evaluations, steps = offline.config().evaluation_steps(), offline.config().steps
    for sent, row in zip(history_of(inspect(wandb_file(offline))), offline.rows(), strict=True):
        rest = {key.split(".")[0] for key in set(sent) - set(row) if not key.startswith(("_", "time/"))}
        expected = {f"spectrum/conv{i}" for i in (1, 2, 3)} | {"samples", "class_counts"}
        only = {0: {"real"}, steps: {"evolution"}}.get(row["step"], set())
        assert rest == (expected if row["step"] in evaluations else set()) | only
    media = wandb_file(offline).parent / "files" / "media"
    assert len(list((media / "images").glob("samples_*.png"))) == len(evaluations)
    assert len(list((media / "images").glob("real_*.png"))) == 1
    (film,) = (media / "videos").glob("evolution_*.gif")
    with Image.open(film) as images:
        assert 1 < images.n_frames <= len(evaluations)  # equal grids become one


def test_what_a_run_is_called_and_configured(offline: Record) -> None:
    found = inspect(wandb_file(offline))
    (run,) = found["run"]
    assert run["run_id"] == f"tiny-{offline.run_id}"
    assert run["display_name"] == offline.run_id
    assert run["project"] == "sngan"
    assert run["run_group"] == offline.config().cell
    assert run["job_type"] == "train"
    assert {"tiny", "sn_dcgan", "seed-0"} <= set(run["tags"])
    config = recorded_config(found)
    assert {key: config[key] for key in offline.config().identity()} == offline.config().identity()
    assert (config["study"], config["run_id"]) == ("tiny", offline.run_id)
    assert found["exit"][0].get("exit_code", 0) == 0


def test_the_summary_says_how_the_run_ended(offline: Record) -> None:
    summary, status = merged(inspect(wandb_file(offline))["summary"]), offline.status()
    assert (summary["state"], summary["error"]) == ("finished", None)
    assert summary["metrics_sha256"] == status["metrics_sha256"]
    assert summary["protocol"] == offline.protocol()
    attempt = status["attempts"][0]
    assert summary["device"] == attempt["device_name"]
    for name in ("wall_seconds", "peak_memory_bytes"):
        assert summary[name] == attempt[name]


def test_the_summary_has_last_and_extreme_values(offline: Record) -> None:
    summary = merged(inspect(wandb_file(offline))["summary"])
    fd = [row["eval/fd"] for row in offline.rows() if "eval/fd" in row]
    assert summary["eval/fd"] == {"last": fd[-1], "min": min(fd)}
    sigma = [row["sigma_raw/conv2"] for row in offline.rows()]
    assert summary["sigma_raw/conv2"] == {"last": sigma[-1], "max": max(sigma)}
    assert not [key for key in summary if key.startswith(("class_counts", "spectrum/"))]  # bins of histograms


def test_the_code_is_the_program(offline: Record) -> None:
    found = inspect(wandb_file(offline))
    assert found["environment"][0]["program"] == "experiments/__main__.py"
    (code,) = [artifact for artifact in found["artifact"] if artifact["type"] == "code"]
    held = {entry["path"]: entry["local_path"] for entry in code["manifest"]["contents"]}
    assert {"sngan/train.py", "experiments/__main__.py", "analysis/claims.py"} <= held.keys()
    path = offline.folder.parent / held["sngan/train.py"]  # `wandb sync` runs in the study's folder
    assert path.read_bytes() == (ROOT / "sngan" / "train.py").read_bytes()


def test_spectra_and_classes_are_recorded_and_shown_as_histograms(tmp_path: Path) -> None:
    """The largest singular value is the sigma that was measured by another way; resuming cuts the file back."""
    record = train_offline(tmp_path, arm="sn_dcgan")
    rows = {row["step"]: row for row in record.rows()}
    spectra = read_rows(record.evaluations_path)
    assert [row["step"] for row in spectra] == record.config().evaluation_steps()
    for row in spectra:
        for layer, size in (("conv1", 16), ("conv2", 32), ("conv3", 1)):
            values = row[f"spectrum/{layer}"]
            assert len(values) == size
            assert values == sorted(values, reverse=True)
            assert values[0] == pytest.approx(rows[row["step"]][f"sigma_raw/{layer}"], rel=1e-9)
            energy = sum(value**2 for value in values)
            assert sum(row["class_counts"]) == record.config().n_fake
            assert sum(count > 0 for count in row["class_counts"]) == rows[row["step"]]["eval/modes"]
            assert energy**0.5 == pytest.approx(rows[row["step"]][f"weight_norm/{layer}"], rel=1e-6)
    (sent,) = (row for row in history_of(inspect(wandb_file(record))) if row["step"] == 20)
    assert sent["spectrum/conv2._type"] == "histogram"
    assert sum(sent["spectrum/conv2.values"]) == 32
    assert sent["class_counts.values"] == spectra[1]["class_counts"]
    assert sent["class_counts.bins"] == list(range(11))
    record.cut_back(record.config(), 20, {"metrics.jsonl": record.metrics_path.stat().st_size})
    assert [row["step"] for row in read_rows(record.evaluations_path)] == [
        row["step"] for row in spectra if row["step"] < 21
    ]


def test_an_agents_cell_whose_status_was_lost_gets_its_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had ended; its final weights say so, and the agent's server is told."""
    record = train_offline(tmp_path)
    shutil.rmtree(record.folder.parent / "wandb")
    (record.folder / "status.json").write_text("{")
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    said: list[Message] = []
    result = execute(small(wandb="offline"), "tiny", tmp_path / "tiny", said.append)
    assert (result.state, result.ran) == ("finished", False)
    assert ["W&B" in message.line for message in said if isinstance(message, Said)] == [False]  # of the status alone
    found = inspect(wandb_file(record))
    assert merged(found["summary"])["state"] == "finished"
    assert found["exit"][0].get("exit_code", 0) == 0


def test_artifacts_are_the_record_where_it_lies(tmp_path: Path) -> None:
    record = train_offline(tmp_path)
    artifacts = {payload["type"]: payload for payload in inspect(wandb_file(record))["artifact"]}
    assert set(artifacts) == {"model", "record", "dataset", "code"}
    files = {
        kind: {entry["path"]: entry.get("local_path", entry.get("ref")) for entry in payload["manifest"]["contents"]}
        for kind, payload in artifacts.items()
    }
    assert files["model"] == {"checkpoint.pt": f"{record.run_id}/checkpoint.pt"}  # from the study's folder on
    names = ("config.json", "protocol.json", "metrics.jsonl", "timing.jsonl", "evaluations.jsonl")
    assert files["record"] == {name: f"{record.run_id}/{name}" for name in names}
    assert files["dataset"] == {"images": f"urn:sha256:{record.protocol()['reference_sha256']}"}
    for kind in ("model", "record"):
        metadata = json.loads(artifacts[kind]["metadata"])
        assert metadata["config"] == record.config().identity()
        assert len(metadata["config_sha256"]) == 64
        assert metadata["metrics_sha256"] == record.metrics_sha256()


def test_links_to_files_of_others_are_not_sent(tmp_path: Path) -> None:
    record = train_offline(tmp_path)
    private = tmp_path / "private"
    record.timing_path.rename(private)
    record.timing_path.symlink_to(private)
    shutil.rmtree(tmp_path / "tiny" / "wandb")
    send(record.config(), "tiny", record, "offline", record.status(), print)
    (sent,) = [payload for payload in inspect(wandb_file(record))["artifact"] if payload["type"] == "record"]
    names = [entry["path"] for entry in sent["manifest"]["contents"]]
    assert sorted(names) == ["config.json", "evaluations.jsonl", "metrics.jsonl", "protocol.json"]


def test_artifacts_of_long_names_end_with_the_whole_run_id(tmp_path: Path) -> None:
    """A study's name may have 64 characters, and a seed ten digits."""
    record = train_offline(tmp_path, study="s" * 64, arm="penalty_dcgan", lr=0.001, seed=2**32 - 1)
    names = {payload["type"]: payload["name"] for payload in inspect(wandb_file(record))["artifact"]}
    assert names["model"].endswith(record.run_id)
    assert names["record"].endswith(record.run_id)
    assert max(map(len, names.values())) <= 128


def test_alerts_name_what_ended_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "alert" not in inspect(wandb_file(train_offline(tmp_path)))
    diverged = train_offline(tmp_path, arm="plain", steps=2000, lr=10.0, beta1=0.999, beta2=0.0)
    (alert,) = inspect(wandb_file(diverged))["alert"]
    assert (alert["title"], alert["level"]) == ("diverged", "WARN")
    assert diverged.run_id in alert["text"]
    assert "non-finite" in alert["text"]
    monkeypatch.setattr("experiments.run.train", lambda *_: 1 / 0)
    failed = train_offline(tmp_path, seed=5)
    found = inspect(wandb_file(failed))
    (alert,) = found["alert"]
    assert (alert["title"], alert["level"]) == ("failed", "ERROR")
    assert "ZeroDivisionError" in alert["text"]
    assert found["exit"][0]["exit_code"] == 1
    assert "artifact" not in found


def test_code_is_named_by_commit_and_difference(tmp_path: Path) -> None:
    file = wandb_file(train_offline(tmp_path))
    (git,) = {json.dumps(e["git"]) for e in inspect(file)["environment"] if "git" in e}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert json.loads(git)["commit"] == commit.strip()
    changes = subprocess.run(["git", "diff", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert (file.parent / "files" / "diff.patch").exists() == bool(changes)


def recorded_config(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Config comes with the run and in records of its own."""
    return merged([*(run["config"] for run in found["run"] if "config" in run), *found.get("config", [])])


def test_the_x_axis_is_our_step(tmp_path: Path) -> None:
    found = inspect(wandb_file(train_offline(tmp_path)))
    metrics = {m.get("glob_name") or m.get("name"): m for m in found["metric"]}
    assert metrics["*"]["step_metric"] == "step"


def test_a_diverged_run_keeps_its_non_finite_numbers(tmp_path: Path) -> None:
    record = train_offline(tmp_path, arm="plain", steps=2000, lr=10.0, beta1=0.999, beta2=0.0)
    last = history_of(inspect(wandb_file(record)))[-1]
    nulls = {key for key, value in record.rows()[-1].items() if value is None}
    assert nulls
    assert all(not math.isfinite(float(last[key])) for key in nulls)


def test_runs_of_one_process_do_not_mix(tmp_path: Path) -> None:
    records = [train_offline(tmp_path, arm=arm, seed=seed) for arm, seed in (("dcgan", 0), ("sn", 1), ("penalty", 2))]
    for record in records:
        found = inspect(wandb_file(record))
        assert len(found["run"]) == len(found["exit"]) == 1
        config = recorded_config(found)
        assert (config["arm"], config["seed"]) == (record.config().arm, record.config().seed)
        history = history_of(found)
        assert [row["loss/d"] for row in history[1:]] == [row["loss/d"] for row in record.rows()[1:]]
        assert [row["step"] for row in history] == [0, 10, 20, 30]
    assert wandb.run is None


def test_disabled_imports_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from experiments.run import execute; from sngan.config import RunConfig;"
        "c = RunConfig(steps=2, batch_size=4, g_width=4, n_fake=20, device='cpu', wandb='disabled', threads=1);"
        f"assert execute(c, 's', Path({str(tmp_path)!r}), lambda message: None).state == 'finished';"
        "sys.exit('wandb' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[1]).returncode == 0
    assert not (tmp_path / "wandb").exists()


def test_trouble_costs_one_warning_and_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock of a client that fails at the third row, whenever it is told it; what it wraps is real."""
    told: list[Message] = []
    real_log = wandb.Run.log

    def log(self: wandb.Run, row: dict[str, Any]) -> None:
        if row["step"] == 20:
            raise OSError("disk full")
        real_log(self, row)

    monkeypatch.setattr(wandb.Run, "log", log)
    config = small(wandb="offline")
    result = execute(config, "tiny", tmp_path / "tiny", told.append)
    assert result.state == "finished"
    warnings = [message for message in told if isinstance(message, Said)]
    assert len(warnings) == 1
    assert "disk full" in warnings[0].line
    assert "sngan status tiny --send-wandb" in warnings[0].line
    assert [row["step"] for row in Record(tmp_path / "tiny" / config.run_id).rows()] == [0, 10, 20, 30]


def test_a_service_that_is_no_longer_there_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if another process had started one, and had ended since."""
    wandb.teardown()
    monkeypatch.setenv("WANDB_SERVICE", f"3-{os.getpid()}-unix-{tmp_path / 'socket'}")
    record = train_offline(tmp_path)
    assert record.status()["attempts"][0]["wandb_error"] is None
    assert len(history_of(inspect(wandb_file(record)))) == 4


@pytest.mark.slow
def test_a_client_that_hangs_is_waited_for_once(tmp_path: Path) -> None:
    """A mock of a client that waits for itself: it is named, and a second run of the process does without."""
    code = (
        "import time, wandb; wandb.setup = lambda *_: time.sleep(1000);"
        "from pathlib import Path; from conftest import small; from experiments.run import execute;"
        "from experiments.tracking import tracker; tracker.PATIENCE_SECONDS = 0.5;"
        f"told = []; [execute(small(wandb='offline', seed=s), 'tiny', Path({str(tmp_path / 'tiny')!r}), told.append)"
        " for s in (0, 1)]; print(*[m.line for m in told if hasattr(m, 'line')], sep='\\n')"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)
    first, second = [line for line in done.stdout.splitlines() if line.startswith("warning")]
    assert "W&B does not answer" in first
    assert "W&B does not start in this process" in second
    assert all("`sngan status tiny --send-wandb" in line for line in (first, second))
    assert [record.status()["state"] for record in run_folders(tmp_path / "tiny")] == ["finished", "finished"]


def test_a_client_that_cannot_start_costs_one_warning(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "wandb").write_text("a file where W&B wants a folder")
    tracker = Tracker(small(), "tiny", tmp_path, "offline", [], told.append)
    tracker.log({"step": 0}, {})
    tracker.finish({}, 0)
    assert len(told) <= 1
    assert wandb.run is None
