"""What `check` asks of a machine, each in a process of its own: python -m experiments.gpu.phases NAME --folder DIR ..

Prints what it finds and writes it to DIR/NAME.json. Exit code 1: it is not as it should be.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.profiler import ProfilerActivity, profile

from experiments.bench.loop import matmul_rates
from experiments.display import Display
from experiments.engines.packed import PackedEngine
from experiments.engines.server import steps_per_second
from experiments.engines.sweep import sweep
from experiments.gpu import agreement
from experiments.gpu.archive import Archives
from experiments.gpu.processes import start, stop
from experiments.ledger import MANIFEST, read_manifest
from experiments.machine import device_name, git_state, prepare_cuda, resolve_device
from experiments.output import outlive_readers
from experiments.record import RESULTS, recorded_configs, run_folders, to_json
from experiments.run import Policy
from experiments.signals import stop_on_signals
from experiments.study import BUNDLED, Study, read
from sngan.arms import ARMS
from sngan.config import TRAINING_VERSION, Execution, RunConfig
from sngan.data import load
from sngan.files import write_atomically
from sngan.slot import Copy, Slot
from sngan.train import train

ROOT = Path(__file__).parents[2]
_REAL_STUDY = "mnist-core"
_REAL = {"dataset": "mnist", "steps": 1000, "n_evaluations": 2, "arm": ["sn_dcgan", "penalty", "dcgan"]}
_TINY = {"dataset": "digits", "batch_size": 16, "g_width": 8, "n_fake": 50, "steps": 200, "arm": ["sn_dcgan"]}
_BEFORE_THE_END = 13.0  # seconds in which the last runs stop


class Phases:
    """One machine, or its rehearsal on a CPU with tiny sizes; `folder` holds what phases leave for each other."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        prepare_cuda()
        self._folder: Path = arguments.folder
        self._out: Path = arguments.out
        self._deadline: float = arguments.until
        self._workers: int = arguments.workers
        self._tiny: bool = arguments.rehearse
        self._device = torch.device("cpu" if arguments.rehearse else "cuda")
        self._log = self._folder / "sweep.log"

    def environment(self) -> dict[str, Any]:
        """What the machine is, and how fast its matrix products are."""
        packages = {d.name: d.version for d in importlib.metadata.distributions() if d.name}
        found: dict[str, Any] = {
            "device": device_name(self._device),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "training_version": TRAINING_VERSION,
            **{name: value for name, value in git_state().items() if name != "git_dirty"},
        }
        if self._device.type == "cuda":
            properties = torch.cuda.get_device_properties(self._device)
            found |= {"memory_bytes": properties.total_memory, "multiprocessors": properties.multi_processor_count}
            query = ["nvidia-smi", "--query-gpu=name,driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"]
            with suppress(OSError):
                found["nvidia_smi"] = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
        found["matmul_flops"] = matmul_rates(self._device)
        print(to_json(found, indent=1))
        return found | {"ok": True, "packages": dict(sorted(packages.items()))}

    def agreement(self) -> dict[str, Any]:
        """Twenty steps of every arm against committed rows of a CPU."""
        arms = ("sn_dcgan", "penalty") if self._tiny else tuple(ARMS)
        lines = agreement.compare(self._device, arms)
        return {"ok": all(line["agrees"] for line in lines), "lines": lines}

    def determinism(self) -> dict[str, Any]:
        """The same runs twice, in processes of their own: the same bytes."""
        for name in ("once", "twice"):
            self._sweep(name)
        different = self._different("once", "twice")
        return {"ok": not different, "runs": len(run_folders(self._runs("once"))), "different": different}

    def resume(self) -> dict[str, Any]:
        """Runs stopped by SIGTERM after a third of their steps and resumed, against runs that never stopped."""
        if not run_folders(self._runs("once")):
            self._sweep("once")
        sweep, third = self._start_sweep("stopped"), self._sizes["steps"] // 3
        while sweep.poll() is None and not any(r.last_step() >= third for r in run_folders(self._runs("stopped"))):
            time.sleep(0.02)
        stop(sweep)
        statuses = {record.run_id: record.status() for record in run_folders(self._runs("stopped"))}
        at = {run_id: status["step"] for run_id, status in statuses.items() if status["state"] == "interrupted"}
        self._sweep("stopped")
        different = self._different("once", "stopped")
        exact = [record.status()["attempts"][-1]["exact"] for record in run_folders(self._runs("stopped"))]
        return {
            "ok": bool(at) and not different and all(exact),
            "stopped_at": at,
            "exact": exact,
            "different": different,
        }

    def bench(self) -> dict[str, Any]:
        """`sngan bench`, as a user runs it."""
        result = self._folder / "bench-result.json"
        if self._tiny and hasattr(os, "sched_setaffinity"):  # one core: fewer processes to start
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        tiny = ["--dataset", "digits", "--batch-size", "16", "--seconds", "0.3", "--rounds", "1"]
        sizes = tiny if self._tiny else ["--dataset", "mnist", "--seconds", "40"]
        command = [sys.executable, "-m", "experiments", "bench", *sizes]
        subprocess.run([*command, "--device", self._device.type, "--out", str(result)], check=True)
        return {"ok": True, **json.loads(result.read_text())}

    def profile(self) -> dict[str, Any]:
        """Where a step's time is: kernels and the gaps between them, by arm."""
        arms = {}
        sizes = {key: value for key, value in self._sizes.items() if key != "arm"}
        for arm in ("dcgan", "sn_dcgan", "penalty_dcgan"):
            config = RunConfig(arm=arm, **sizes)  # type: ignore[arg-type]
            arms[arm], table = _profiled(config, self._device, 5 if self._tiny else 20)
            print(f"{arm}: {to_json(arms[arm])}\n{table}")
        return {"ok": True, "arms": arms}

    def runs(self) -> dict[str, Any]:
        """The study's runs that are not frozen yet: each is archived when it has ended, until the time is up."""
        study = self._study_left()
        if not study.configs:
            print(f"{study.name}: all runs are frozen already")
            return {"ok": True, "study": study.name, "to_do": 0}
        folder = self._folder / "runs" / study.name
        archives = Archives(self._out, study.name, study.text)
        deadline = self._deadline - _BEFORE_THE_END
        workers = self._workers or (2 if self._tiny else 0)
        print(
            f"{study.name}: {len(study.configs)} runs to do, {workers or 'as many as is measured'} at once", flush=True
        )
        found: dict[str, Any] = {"ok": False, "study": study.name, "to_do": len(study.configs), "workers": workers}
        found |= {"archives": archives.runs, "runs": {}}
        begin = time.time()
        sweep = start([sys.executable, "-m", "experiments.gpu.phases", "sweep", *self._arguments(workers)], self._log)
        try:
            while (code := sweep.poll()) is None and not archives.full and time.time() < deadline:
                time.sleep(0.5)
                self._archive(folder, archives, found)
        finally:
            stop(sweep)
            self._archive(folder, archives, found)
        seconds, steps = time.time() - begin, {record.run_id: record.last_step() for record in run_folders(folder)}
        found |= {"ok": not code, "seconds": seconds, "steps": sum(steps.values()), "full": archives.full}
        found["failed"] = {
            record.run_id: {key: status.get(key) for key in ("error", "traceback")}
            for record in run_folders(folder)
            if (status := record.status())["state"] == "failed"
        }
        found["not_ended"] = {run_id: step for run_id, step in steps.items() if run_id not in found["runs"]}
        found["seconds_per_step_of_all"] = seconds / max(1, found["steps"])
        print(to_json({key: found[key] for key in ("steps", "seconds", "seconds_per_step_of_all", "not_ended")}))
        return found

    def sweep(self) -> dict[str, Any]:
        """What `runs` starts: a sweep of the runs that are left."""
        study, execution = self._study_left(), Execution(threads=1, wandb="disabled", checkpoint_every=500)
        device = str(resolve_device(self._device.type))
        with Display(total=len(study.configs)) as display:
            config = replace(study.configs[0], **asdict(execution))

            def open_engine(jobs: int) -> PackedEngine:
                engine = PackedEngine(jobs, config, [device], self._workers)
                display.say(engine.note)
                return engine

            account = sweep(study, self._folder / "runs" / study.name, display, open_engine, execution, Policy())
        return {"ok": not account["failed"], "account": account}

    def _arguments(self, workers: int) -> list[str]:
        """The command line of this process, for another one."""
        rehearse = ["--rehearse"] if self._tiny else []
        return ["--folder", str(self._folder), "--out", str(self._out), "--until", str(self._deadline),
                "--workers", str(workers), *rehearse]  # fmt: skip

    def _archive(self, folder: Path, archives: Archives, found: dict[str, Any]) -> None:
        """Add the runs that ended since, and say so on the disk."""
        for record in run_folders(folder):
            status = record.status()
            if record.run_id in found["runs"] or status["state"] not in RESULTS or archives.full:
                continue
            archives.add(record)
            if not archives.full:
                attempt = status["attempts"][-1]
                kept = {key: attempt.get(key) for key in ("wall_seconds", "evaluation_seconds", "peak_memory_bytes")}
                found["runs"][record.run_id] = {"state": status["state"], "step": status["step"], **kept}
                print(f"archived {record.run_id}: {status['state']} at step {status['step']:,}", flush=True)
            self._write("runs", found)

    def _study_left(self) -> Study:
        """The study with the runs that are not frozen yet, seed by seed, first those of which a part is frozen."""
        if self._tiny:
            sizes = {"seed": [0, 1, 2], **_TINY, "arm": ["sn_dcgan", "penalty"], "steps": 60}
            path = self._study_file("rehearsal", sizes)
        else:
            path = BUNDLED / f"{_REAL_STUDY}.yaml"
        study = read(path)
        kept = ROOT / "experiments" / "results" / study.name / "data"
        parts = read_manifest(kept)["parts"].values() if (kept / MANIFEST).exists() else ()
        done = {run_id for part in parts for run_id in part["runs"]}
        begun = {config.seed for config in study.configs if config.run_id in done}
        left = [config for config in study.configs if config.run_id not in done]
        return replace(study, configs=sorted(left, key=lambda config: (config.seed not in begun, config.seed)))

    def _study_file(self, name: str, parameters: dict[str, Any]) -> Path:
        """A study file; its first parameter varies slowest."""
        of_runs = {key: {"values" if isinstance(value, list) else "value": value} for key, value in parameters.items()}
        path = self._folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"name": name, "method": "grid", "parameters": of_runs}, sort_keys=False))
        return path

    @property
    def _sizes(self) -> dict[str, Any]:
        return _TINY if self._tiny else _REAL

    def _runs(self, name: str) -> Path:
        return self._folder / name / "short"

    def _start_sweep(self, name: str) -> subprocess.Popen[bytes]:
        """A sweep of a few short runs into a folder of this name."""
        study, workers = self._study_file("short", self._sizes), str(len(self._sizes["arm"]))
        where = ["--device", self._device.type, "--engine", "packed", "--pack", workers]
        command = [sys.executable, "-m", "experiments", "sweep", str(study), *where]
        how = ["--threads", "1", "--wandb", "disabled", "--checkpoint-every", str(self._sizes["steps"])]
        return start([*command, *how, "--runs-dir", str(self._folder / name)], self._log)

    def _sweep(self, name: str) -> None:
        sweep = self._start_sweep(name)
        try:
            sweep.wait()
        finally:
            stop(sweep)
            for record in run_folders(self._runs(name)):
                print(f"{name}: {record.run_id} {record.status()['state']} at step {record.last_step():,}", flush=True)
        if sweep.returncode:
            raise SystemExit(f"the sweep {name!r} ended with code {sweep.returncode}")

    def _different(self, one: str, other: str) -> list[str]:
        """Files of results that two sweeps' records do not share byte for byte."""
        different = []
        for config in recorded_configs(self._runs(one))[0]:
            folders = [self._runs(name) / config.run_id for name in (one, other)]
            files = ["metrics.jsonl", "evaluations.jsonl"]
            files += [f"samples/{path.name}" for path in sorted((folders[0] / "samples").glob("step-*.png"))]
            contents = [[(f / name).read_bytes() if (f / name).exists() else b"" for name in files] for f in folders]
            different += [
                f"{config.run_id}/{name}" for name, a, b in zip(files, *contents, strict=True) if a != b or not a
            ]
        return different

    def _write(self, name: str, found: dict[str, Any]) -> None:
        write_atomically(self._folder / f"{name}.json", to_json(found))

    def run(self, name: str) -> bool:
        action: Callable[[], dict[str, Any]] = getattr(self, name)
        try:
            found = action()
        finally:
            if self._log.exists() and name != "sweep":  # which writes it
                print(f"the sweeps' last lines:\n{self._log.read_text(errors='replace')[-3000:]}", flush=True)
        self._write(name, found)
        return found["ok"]


def _profiled(config: RunConfig, device: torch.device, steps: int) -> tuple[dict[str, Any], str]:
    """Milliseconds of a step, as it is written and in a slot; kernels, launches, time without a kernel; a table."""
    cuda = device.type == "cuda"
    data = load(config.dataset, config.data_dir).to(device)
    rate = steps_per_second([slot := Slot(config, data)], config, Copy(config, data).whole())
    seconds = _timed(config, device, steps, nullcontext()) / steps
    profiler = profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])])
    _timed(config, device, steps, profiler)
    events = profiler.key_averages()
    found: dict[str, Any] = {"ms_per_step": 1000 * seconds, "slot_ms_per_step": 1000 / rate, "slot": slot.program}
    if cuda:
        kernels = [e for e in events if "CUDA" in str(e.device_type) and not getattr(e, "is_user_annotation", False)]
        found["kernel_ms_per_step"] = sum(e.self_device_time_total for e in kernels) / 1000 / steps
        found["launches_per_step"] = sum(e.count for e in events if "LaunchKernel" in e.key) / steps
        found["share_of_time_without_a_kernel"] = max(0.0, 1 - found["kernel_ms_per_step"] / found["ms_per_step"])
    found["operations_per_step"] = sum(e.count for e in events if e.key.startswith("aten::")) / steps
    by = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    return found, events.table(sort_by=by, row_limit=15, max_name_column_width=60)


def _timed(config: RunConfig, device: torch.device, steps: int, inside: Any) -> float:
    """Seconds of so many steps of a run, within a context manager, after as many as a warm-up."""
    times = []

    def look(step: int) -> bool:
        if step in (steps, 2 * steps):
            if cuda:
                torch.cuda.synchronize()
            inside.__enter__() if step == steps else inside.__exit__(None, None, None)
            times.append(time.perf_counter())
        return False

    cuda = device.type == "cuda"
    data = load(config.dataset, config.data_dir).to(device)
    train(replace(config, steps=2 * steps), data, None, lambda state: None, due=look)
    return times[1] - times[0]


NAMES = ("environment", "agreement", "determinism", "resume", "bench", "profile", "runs", "sweep")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.gpu.phases", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--folder", type=Path, required=True, help="where phases work, and write what they find")
    parser.add_argument("--out", type=Path, required=True, help="where archives of runs are written")
    parser.add_argument("--until", type=float, required=True, help="seconds of the epoch at which it has to be over")
    parser.add_argument("--workers", type=int, default=0, help="real runs at once; 0: as many as is measured")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with tiny sizes")
    arguments = parser.parse_args()
    try:
        with stop_on_signals():
            sys.exit(not Phases(arguments).run(arguments.name))
    except KeyboardInterrupt as stopped:
        sys.exit(f"{arguments.name} was stopped ({stopped})")


if __name__ == "__main__":
    outlive_readers()
    main()
