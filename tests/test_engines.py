"""What every engine promises, with real processes and real signals; each promise is tested on each engine."""

import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, small, wait_for, write_study

from experiments.record import Record
from experiments.run import execute
from experiments.study import read
from sngan.config import RunConfig

_SLOW = pytest.mark.slow
_CLUSTER = pytest.mark.cluster
ENGINES = [pytest.param(engine, marks=_SLOW) for engine in ("local", "packed", "ray")]
LONG = [*(pytest.param(engine, marks=_SLOW) for engine in ("local", "packed")), pytest.param("ray", marks=_CLUSTER)]


class Launch:
    """`sngan sweep` in a process of its own, and every process that came of it.

    They have a mark in their environment, those aside that changed their title (Ray's), which have a run's lock open.
    """

    def __init__(self, *arguments: object, environment: dict[str, str] | None = None) -> None:
        self._folder = arguments[arguments.index("--runs-dir") + 1]
        mark = uuid.uuid4().hex
        self._mark = f"SNGAN_TEST_MARK={mark}".encode()
        command = [sys.executable, "-m", "experiments", "sweep", *map(str, arguments)]
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "SNGAN_TEST_MARK": mark, **(environment or {})}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command, env=variables, **pipes)

    def end(self, timeout: float = 200) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, output

    def pids(self) -> list[int]:
        return [pid for pid, (environment, files) in _processes().items()
                if self._mark in environment or any(file.startswith(str(self._folder)) for file in files)]  # fmt: skip


def _processes() -> dict[int, tuple[bytes, list[str]]]:
    """Environment and open files of every process here (Linux)."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        files = []
        with suppress(OSError):  # it has ended
            for file in os.listdir(folder / "fd"):
                with suppress(OSError):  # closed meanwhile
                    files.append(os.readlink(folder / "fd" / file))
            found[int(folder.name)] = ((folder / "environ").read_bytes(), files)
    return found


def owners(record: Record) -> list[int]:
    """The process that trains a run: it has its lock open."""
    return [pid for pid, (_, files) in _processes().items() if str(record.folder / ".lock") in files]


def sweep_options(engine: str, folder: Path, workers: int = 2) -> tuple[object, ...]:
    return ("--engine", engine, "--workers", workers, "--device", "cpu", "--wandb", "disabled", "--runs-dir", folder,
            "--checkpoint-every", 20)  # fmt: skip


def alone(config: RunConfig, folder: Path) -> bytes:
    """The metrics of the run as it is when nothing else is there."""
    quiet = small(**config.identity())
    execute(quiet, "alone", folder / "alone", lambda message: None)
    return Record(folder / "alone" / config.run_id).metrics_path.read_bytes()


@pytest.mark.parametrize("engine", LONG)
def test_results_failures_and_divergence_are_the_same_on_every_engine(engine: str, tmp_path: Path) -> None:
    # Adam with beta2 = 0 and lr = 10 diverges; a batch of 1,800 is more than digits has
    path = write_study(tmp_path, arm="plain", setting="custom", n_dis=1, beta1=0.999, beta2=0.0, lr=[10.0, 2e-4],
                       batch_size=[16, 1800], steps=300, seed=2)  # fmt: skip
    code, output = Launch(path, *sweep_options(engine, tmp_path)).end()
    assert code == 1, output
    assert "--retry failed" in output
    records = {config: Record(tmp_path / "tiny" / config.run_id) for config in read(path).configs}
    for config, record in records.items():
        status = record.status()
        if config.batch_size == 1800:
            assert (status["state"], "larger than digits" in status["error"]) == ("failed", True)
        else:
            assert status["state"] == ("diverged" if config.lr == 10 else "finished")
            assert record.metrics_path.read_bytes() == alone(config, tmp_path)
        assert len(status["attempts"]) == 1
    over = [record for config, record in records.items() if config.batch_size == 16]
    before = [record.metrics_path.stat() for record in over]
    code, output = Launch(path, *sweep_options(engine, tmp_path), "--retry", "failed", "--retries", 2).end()
    assert (code, "2 to do" in output) == (1, True), output
    for config, record in records.items():
        assert len(record.status()["attempts"]) == (3 if config.batch_size == 1800 else 1)
    assert [record.metrics_path.stat() for record in over] == before


@pytest.mark.parametrize("engine", ENGINES)
def test_a_killed_worker_costs_no_run(engine: str, tmp_path: Path) -> None:
    path = write_study(tmp_path, seed=[0, 1], steps=200)
    launch = Launch(path, *sweep_options(engine, tmp_path))
    record = Record(tmp_path / "tiny" / read(path).configs[0].run_id)
    wait_for(lambda: 3 < len(record.rows()) < 20)
    (owner,) = owners(record)
    os.kill(owner, signal.SIGKILL)
    code, output = launch.end()
    assert code == 0, output
    for config in read(path).configs:
        record = Record(tmp_path / "tiny" / config.run_id)
        assert record.metrics_path.read_bytes() == alone(config, tmp_path)
        assert len(record.status()["attempts"]) == (2 if config.seed == 0 else 1)
    assert Record(tmp_path / "tiny" / read(path).configs[0].run_id).status()["attempts"][1]["resumed_from"] >= 20


@pytest.mark.parametrize("engine", LONG)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_or_stopped_sweep_is_continued(engine: str, number: int, tmp_path: Path) -> None:
    path = write_study(tmp_path, seed=[0, 1, 2], steps=200)
    records = [Record(tmp_path / "tiny" / config.run_id) for config in read(path).configs]
    launch = Launch(path, *sweep_options(engine, tmp_path))
    wait_for(lambda: sum(len(record.rows()) > 3 for record in records) >= 2)
    addresses = listening(launch.pids())
    assert bool(addresses) == (engine == "ray")
    assert addresses <= {"127.0.0.1", "::1"}  # its services are for this machine only
    launch.process.send_signal(number)
    code, output = launch.end(30)
    assert code == (3 if number == signal.SIGTERM else -number), output
    assert "Traceback" not in output
    wait_for(lambda: not any(record.is_claimed() for record in records), 20)
    states = [record.status()["state"] for record in records]
    assert states.count("interrupted") == 2
    if number == signal.SIGTERM:
        errors = {record.status()["error"] for record in records if record.status()["state"] == "interrupted"}
        assert errors == {"stopped by a signal (SIGTERM)"}
    code, output = (again := Launch(path, *sweep_options(engine, tmp_path))).end()
    assert code == 0, output
    wait_for(lambda: not again.pids(), 30)  # no orphans
    if not (engine == "ray" and number == signal.SIGKILL):  # Ray's agents take a minute to notice
        assert not launch.pids()
    for config, record in zip(read(path).configs, records, strict=True):
        assert record.metrics_path.read_bytes() == alone(config, tmp_path)


@_SLOW
def test_a_device_whose_process_dies_costs_no_run(tmp_path: Path) -> None:
    """It comes again, without graphs, and its runs resume; the record says why."""
    path = write_study(tmp_path, seed=[0, 1], steps=300)
    records = [Record(tmp_path / "tiny" / config.run_id) for config in read(path).configs]
    launch = Launch(path, *sweep_options("packed", tmp_path))
    wait_for(lambda: all(len(record.rows()) > 3 for record in records))
    os.kill(makes_steps(launch.pids()), signal.SIGKILL)
    code, output = launch.end()
    assert code == 0, output
    assert "the process that made its steps on cpu ended" in output
    assert "[2/2]" in output
    assert "[3/2]" not in output
    for config, record in zip(read(path).configs, records, strict=True):
        assert record.metrics_path.read_bytes() == alone(config, tmp_path)
        first, second = record.status()["attempts"]
        assert first["program"] == second["program"] == "eager"
        assert (first.get("program_why"), second["program_why"]) == (None, "the process before ended with exit code -9")
        assert second["exact"]
    wait_for(lambda: not launch.pids(), 30)


def makes_steps(pids: list[int]) -> int:
    """The process to which the workers of a packed sweep come: it listens on a socket in the file system (Linux)."""
    lines = Path("/proc/net/unix").read_text().splitlines()[1:]
    inodes = {line.split()[6] for line in lines if line.endswith("/steps") and line.split()[3] == "00010000"}
    (pid,) = {pid for pid in pids for file in Path(f"/proc/{pid}/fd").glob("*")
              if file.is_symlink() and os.readlink(file).removeprefix("socket:[").rstrip("]") in inodes}  # fmt: skip
    return pid


def test_more_slots_than_a_device_has_streams_are_refused(command: Callable, tmp_path: Path) -> None:
    path, options = write_study(tmp_path), ("--wandb", "disabled", "--runs-dir", tmp_path)
    for wrong, message in (
        (("--engine", "packed", "--pack", 25), "--pack must be from 0 to 24"),
        (("--pack", -1), "--pack must be from 0 to 24"),
        (("--engine", "local", "--pack", 2), "--pack is for --engine packed"),
        (("--pack", 2, "--per-gpu", 2), "--per-gpu for --engine local, not both"),
        (("--engine", "packed", "--per-gpu", 2), "--per-gpu for --engine local, not both"),
    ):
        code, _, errors = command("sweep", path, *wrong, *options)
        assert (code, message in errors) == (2, True), errors
    assert not (tmp_path / "tiny").exists()


def listening(pids: list[int]) -> set[str]:
    """Addresses on which these processes accept connections over TCP (Linux)."""
    inodes = set()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").glob("*"):
            if found := re.match(r"socket:\[(\d+)\]", os.readlink(file) if file.is_symlink() else ""):
                inodes.add(found.group(1))
    found = set()
    for table, size in (("tcp", 8), ("tcp6", 32)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state, inode = line.split()[1], line.split()[3], line.split()[9]
            if state == "0A" and inode in inodes:
                found.add(_address(local[:size]))
    return found


def _address(text: str) -> str:
    text = text.removeprefix("0000000000000000FFFF0000")  # IPv4 within IPv6
    if len(text) == 8:
        return ".".join(str(int(text[i : i + 2], 16)) for i in (6, 4, 2, 0))
    return "::1" if text == "0" * 24 + "01000000" else text


_TWO_NODES = """
import sys, time
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(nodes[0], allow_graceful=False)
sys.stdin.readline()
cluster.shutdown()
"""


@_CLUSTER
def test_a_cluster_loses_a_node_and_no_run(tmp_path: Path) -> None:
    """A simulated cluster: two Ray nodes on this machine, one of them killed midway."""
    path = write_study(tmp_path, seed=[0, 1, 2], steps=200)
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    cluster = subprocess.Popen([sys.executable, "-c", _TWO_NODES], env=variables, stderr=subprocess.DEVNULL, **pipes)
    assert cluster.stdin
    assert cluster.stdout
    try:
        address = next(line.strip() for line in cluster.stdout if re.fullmatch(r"[\d.]+:\d+", line.strip()))
        launch = Launch(path, *sweep_options("ray", tmp_path, workers=0), "--address", address)
        records = [Record(tmp_path / "tiny" / config.run_id) for config in read(path).configs]
        wait_for(lambda: sum(len(record.rows()) > 3 for record in records) == 2)
        cluster.stdin.write("\n")
        cluster.stdin.flush()
        code, output = launch.end(300)
        cluster.stdin.write("\n")
        cluster.stdin.flush()
        cluster.wait(60)
    finally:
        cluster.kill()
    assert code == 0, output
    for config, record in zip(read(path).configs, records, strict=True):
        assert record.metrics_path.read_bytes() == alone(config, tmp_path)
    assert sum(len(record.status()["attempts"]) for record in records) == 4


@_SLOW
def test_no_cluster_at_the_address(sngan: Callable, tmp_path: Path) -> None:
    path = write_study(tmp_path)
    done = sngan("sweep", path, *sweep_options("ray", tmp_path), "--address", "127.0.0.1:1")
    assert done.returncode == 2
    assert "no Ray cluster at '127.0.0.1:1'" in done.stderr
    assert "Traceback" not in done.stderr
