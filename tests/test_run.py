import dataclasses
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, small, write_study
from PIL import Image

from experiments import checkpoint
from experiments.messages import Ended, Message, Started
from experiments.record import Record, run_folders
from experiments.run import Policy, Result, execute
from sngan.data import load
from sngan.datasets import DATASETS


def run_small(folder: Path, **changes: Any) -> tuple[Record, Result, list[Message]]:
    config, told = small(**changes), []
    result = execute(config, "single", folder, told.append)
    return Record(folder / config.run_id), result, told


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Result, list[Message]]:
    """A run of 45 steps; to be read only."""
    return run_small(tmp_path_factory.mktemp("finished"), arm="sn_dcgan", steps=45)


Finished = tuple[Record, Result, list[Message]]


def test_a_finished_run_says_so(finished: Finished) -> None:
    record, result, told = finished
    assert result.state == "finished"
    status = record.status()
    assert (status["state"], status["step"], status["error"]) == ("finished", 45, None)
    assert status["metrics_sha256"] == hashlib.sha256(record.metrics_path.read_bytes()).hexdigest()
    assert [type(message) for message in (told[0], told[-1])] == [Started, Ended]


def test_its_attempt_says_how_it_was_trained_and_what_it_took(finished: Finished) -> None:
    record, _, _ = finished
    (attempt,) = record.status()["attempts"]
    assert {"device", "threads", "memory_format", "data_dir", "wandb"} <= set(attempt)
    assert attempt["torch"] == torch.__version__
    assert attempt["exact"] is True
    assert attempt["wall_seconds"] > 0
    assert attempt["peak_memory_bytes"] > 10**7
    seconds = [row["time/evaluation_seconds"] for row in record.timing() if "time/evaluation_seconds" in row]
    assert attempt["evaluation_seconds"] == pytest.approx(sum(seconds))


def test_its_protocol_says_how_samples_were_judged(finished: Finished) -> None:
    record, _, _ = finished
    assert json.loads((record.folder / "protocol.json").read_text()) == record.protocol()
    assert record.protocol()["feature_net_sha256"] == DATASETS["digits"].classifier.sha256  # type: ignore[union-attr]


def test_its_rows_come_at_their_steps_and_times_apart_from_them(finished: Finished) -> None:
    record, _, _ = finished
    assert [row["step"] for row in record.rows() if "eval/fd" in row] == record.config().evaluation_steps()
    assert [row["step"] for row in record.rows()] == [0, 10, 20, 30, 40, 45]
    assert [row["step"] for row in record.timing()] == [10, 20, 30, 40, 45]
    assert not any(key.startswith("time/") for row in record.rows() for key in row)


def test_its_files_are_grids_and_final_weights_and_nothing_half_written(finished: Finished) -> None:
    record, _, _ = finished
    grids = sorted(path.name for path in record.samples_path.iterdir())
    assert grids == ["real.png", *(f"step-{step:06d}.png" for step in record.config().evaluation_steps())]
    state = torch.load(record.checkpoint_path, weights_only=True)
    assert state["config"] == record.config().identity()
    assert not list(record.folder.glob("**/*.tmp"))


def test_what_a_result_depends_on_is_known_by_its_digest(tmp_path: Path) -> None:
    """In the status and in the final weights; a change is named, and so is what is missing."""
    record, _, _ = run_small(tmp_path, steps=20)
    names = ("metrics.jsonl", "config.json", "protocol.json", "evaluations.jsonl")
    expected = {f"{Path(name).stem}_sha256": hashlib.sha256((record.folder / name).read_bytes()).hexdigest()
                for name in names}  # fmt: skip
    for content in (record.status(), checkpoint.read(record.checkpoint_path)):
        assert {name: content[name] for name in expected} == expected
    assert record.damage(record.status()) == ""
    for name in names:
        content = (record.folder / name).read_bytes()
        (record.folder / name).write_bytes(content + b"\n")
        assert record.damage(record.status()) == f"{name} was changed after the run ended"
        (record.folder / name).unlink()
        assert record.damage(record.status()) == f"{name} is missing"
        (record.folder / name).write_bytes(content)
    (record.folder / "status.json").write_text("{")
    (record.folder / "protocol.json").write_text("{}")
    assert not run_small(tmp_path, steps=20)[1].ran  # the weights say how it ended, and with which files
    assert record.status()["protocol_sha256"] == expected["protocol_sha256"]
    assert record.damage(record.status()) == "protocol.json was changed after the run ended"


def test_a_run_that_diverges_before_its_first_evaluation_has_no_digest_of_one(tmp_path: Path) -> None:
    changes = {"lr": 10.0, "beta1": 0.999, "beta2": 0.0}  # non-finite soon
    record, result, _ = run_small(tmp_path, arm="plain", steps=100_000, n_evaluations=1, **changes)
    assert result.state == "diverged"
    assert not record.evaluations_path.exists()
    assert "evaluations_sha256" not in record.status()
    assert record.damage(record.status()) == ""


def test_the_record_holds_what_every_event_is_judged_by(tmp_path: Path) -> None:
    """Divergence, mode collapse, quality collapse, never learned, saturation: thresholds can be changed afterwards."""
    record, _, _ = run_small(tmp_path)
    trained, last = record.rows()[1:], record.rows()[-1]
    losses = {"loss/d", "loss/g", "logit/max_abs", "weight_norm/conv1", "weight_norm/conv2", "weight_norm/conv3"}
    saturation = {"accuracy/d_real", "accuracy/d_fake", "grad_norm/g"}
    assert all(losses | saturation <= set(row) for row in trained)
    assert {"eval/fd", "eval/kd", "eval/effective_modes", "eval/mode_kl", "eval/diversity"} <= set(last)
    trivial = record.protocol()["trivial_sampler"]
    assert record.protocol()["trivial_fd"] == trivial["fd"] > 0


def test_a_result_is_not_trained_again(tmp_path: Path) -> None:
    record, _, _ = run_small(tmp_path)
    before = record.metrics_path.stat()
    _, result, told = run_small(tmp_path)
    assert (result.state, result.ran, told) == ("finished", False, [])
    assert record.metrics_path.stat() == before


def test_an_exception_is_a_failed_run_with_its_traceback(tmp_path: Path) -> None:
    record, result, _ = run_small(tmp_path, batch_size=1800)  # more than digits has
    assert result.state == "failed"
    status = record.status()
    assert "larger than digits's 1797 images" in status["error"]
    assert "Traceback" in status["traceback"]
    _, again, _ = run_small(tmp_path, batch_size=1800)
    assert not again.ran  # not without being asked
    config = small(batch_size=1800)
    assert execute(config, "single", tmp_path, lambda message: None, policy=Policy(redo_failed=True)).ran
    assert len(record.status()["attempts"]) == 2


def test_divergence_is_a_result(tmp_path: Path) -> None:
    record, result, _ = run_small(tmp_path, arm="plain", steps=2000, lr=10.0, beta1=0.999, beta2=0.0)
    assert result.state == record.status()["state"] == "diverged"
    assert "non-finite" in record.status()["error"]
    last = record.rows()[-1]
    assert None in last.values()  # kept, as null
    assert record.status()["step"] == last["step"]


_SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "number",
    [*(pytest.param(number, marks=_SLOW) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)), signal.SIGUSR1],
)
def test_a_signal_leaves_an_interrupted_run_and_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    arguments = ["train", "--steps", "100000", "--batch-size", "16", "--g-width", "8", "--n-fake", "100"]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments", *arguments, "--wandb", "disabled", "--threads", "1", "--runs-dir",
         tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    record = Record(tmp_path / "single" / small(steps=100000).run_id)
    deadline = time.monotonic() + 60
    while len(record.rows()) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "Traceback" not in errors
    status = record.status()
    assert status["state"] == "interrupted"
    assert status["error"] == f"stopped by a signal ({number.name})"
    assert status["step"] == record.rows()[-1]["step"] > 0
    at = f"interrupted at step {status['step']:,} of 100,000"
    last = rf"{at} after \d+ s; the same command resumes it from its checkpoint: sngan train .*"
    assert re.fullmatch(last, errors.splitlines()[-1])
    assert checkpoint.read(record.checkpoint_path)["step"] >= status["step"]


def test_trouble_before_the_first_step_is_a_failed_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("experiments.run.Tracker", broken)
    record, result, told = run_small(tmp_path)
    assert result == Result("failed", "RuntimeError: two lines", True)
    assert record.status()["state"] == "failed"
    assert "in broken" in record.status()["traceback"]
    assert told[-1][:2] == (record.run_id, "failed")


def test_the_real_images_are_those_of_the_data_set(tmp_path: Path) -> None:
    record, _, _ = run_small(tmp_path, steps=1)
    grid = np.asarray(Image.open(record.samples_path / "real.png"))
    images = load("digits").images[:64, 0].numpy()
    for i in (0, 9, 63):
        top, left = 2 + 30 * (i // 8), 2 + 30 * (i % 8)
        np.testing.assert_array_equal(grid[top : top + 28, left : left + 28], images[i])


def test_lack_of_memory_names_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock: a real lack of memory would endanger the machine that tests."""

    def train(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("experiments.run.train", train)
    record, result, _ = run_small(tmp_path)
    assert result.state == "failed"
    assert record.run_id in str(result.error)
    assert "smaller batch_size" in str(result.error)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_on_cuda(tmp_path: Path) -> None:
    config = dataclasses.replace(small(), device="cuda")
    assert execute(config, "single", tmp_path, lambda message: None).state == "finished"
    status = json.loads((tmp_path / config.run_id / "status.json").read_text())
    assert status["attempts"][0]["device_name"] == torch.cuda.get_device_name()


def test_the_first_run_of_a_process_is_judged_as_the_others_are(
    tmp_path: Path, sngan: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """The last bits depend on the number of threads, which a fresh process has of its own."""
    path = write_study(tmp_path, seed=[0, 1], steps=2, n_fake=500)
    done = sngan("sweep", path, "--workers", 1, "--wandb", "disabled", "--runs-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = (record.protocol_path.read_bytes() for record in run_folders(tmp_path / "tiny"))
    assert first == second


def test_the_real_images_to_look_at_are_from_all_over_a_users_own(tmp_path: Path) -> None:
    """They lie by class."""
    np.savez(
        tmp_path / "own.npz", images=np.arange(200, dtype=np.uint8)[:, None, None] + np.zeros((1, 28, 28), np.uint8)
    )
    config = small(dataset=f"npz:{tmp_path / 'own.npz'}", steps=2, n_fake=40)
    execute(config, "single", tmp_path, lambda message: None)
    grid = np.asarray(Image.open(tmp_path / config.run_id / "samples" / "real.png"))
    assert set(grid[10::30, 10::30].flatten().tolist()) >= {0, 3, 90, 189}
