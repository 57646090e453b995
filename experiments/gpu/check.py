"""The one command that runs on a CUDA machine: proves what is claimed of it, measures it, and makes real runs there.

python -m experiments.gpu.check --seconds 560 --out DIR

DIR then holds report.json (replaced after every phase), log.txt, and up to six archives of runs, at most 10 MiB
each: whatever moment it is cut off, what was done is on the disk. `python -m experiments.gpu.merge DIR` takes that
over. Needs no network, and no package but those of machine.txt and of the kit (`make gpu-kit`).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from experiments.gpu.kit import hide_what_the_machine_lacks, unpack
from experiments.gpu.processes import run
from experiments.output import outlive_readers
from sngan.files import write_atomically

ROOT = Path(__file__).parents[2]
_RESERVE = 18.0  # seconds in which the last phase stops and the report is written
_FOR_RUNS = 0.4  # of the time, that the phases before leave to real runs


class Phase(NamedTuple):
    """`seconds`: the most that it may take; 0: all that is left."""

    name: str
    seconds: float


PHASES = (
    Phase("environment", 60),
    Phase("tests", 150),
    Phase("agreement", 150),
    Phase("determinism", 90),
    Phase("resume", 90),
    Phase("bench", 220),
    Phase("profile", 60),
    Phase("runs", 0),
)


class Check:
    """Phase after phase within a number of seconds; each is a process, and none stops the next."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._begin = time.monotonic()
        self._seconds: float = arguments.seconds
        self._out: Path = arguments.out
        self._workers: int = arguments.workers
        self._rehearse: bool = arguments.rehearse
        self._kit: Path = arguments.kit
        self._chosen = [phase for phase in PHASES if phase.name in arguments.only]
        self._report: dict[str, Any] = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "rehearsal": self._rehearse,
            "budget_seconds": self._seconds,
            "state": "running",
            "device": _device(self._rehearse),
            "phases": {phase.name: {"state": "not begun"} for phase in self._chosen},
        }

    @property
    def _left(self) -> float:
        return self._seconds - _RESERVE - (time.monotonic() - self._begin)

    def run(self) -> bool:
        """Whether every phase passed."""
        self._out.mkdir(parents=True, exist_ok=True)
        log = self._out / "log.txt"
        log.touch()
        self._write()
        with tempfile.TemporaryDirectory(prefix="gpu-check-") as temporary:
            folder = Path(temporary)
            try:
                environment = self._environment(folder)
                for phase in self._chosen:
                    self._take(phase, folder, environment, log)
                self._report["state"] = "ended"
            except KeyboardInterrupt:
                self._report["state"] = "stopped"
            except Exception as error:  # a damaged kit, a full disk
                self._report |= {"state": "failed", "error": repr(error)}
                print(f"the check cannot continue: {error!r}", flush=True)
            self._write()
        states = [phase["state"] for phase in self._report["phases"].values()]
        return self._report["state"] == "ended" and set(states) == {"passed"}

    def _environment(self, folder: Path) -> dict[str, str]:
        """Variables of the phases: this program, the kit's packages and data, and no cache of the machine."""
        paths, variables = [str(ROOT)], {}
        if (self._kit / "wheels").is_dir():
            variables = unpack(self._kit, folder / "kit")
            paths.insert(0, variables["PYTHONPATH"])
        if self._rehearse:
            paths.append(str(hide_what_the_machine_lacks(folder / "hidden", carried=bool(variables))))
            variables |= {"SNGAN_GPU_TESTS_ON": "cpu", "OMP_NUM_THREADS": "1"}  # several processes share the cores
        return variables | {
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "WANDB_MODE": "disabled",
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    def _take(self, phase: Phase, folder: Path, environment: dict[str, str], log: Path) -> None:
        entry = self._report["phases"][phase.name]
        most = phase.seconds * (4 if self._rehearse else 1)  # a CPU that others use too
        left = self._left - (_FOR_RUNS * self._seconds if phase.seconds and self._chosen[-1].name == "runs" else 0)
        seconds = min(most or left, left)
        if seconds < 5:
            entry["state"] = "no time left"
            return
        print(f"{phase.name}: up to {seconds:.0f} s", flush=True)
        with open(log, "a") as file:
            file.write(f"\n===== {phase.name}, up to {seconds:.0f} s\n")
        position, begin = log.stat().st_size, time.monotonic()
        entry |= {"state": "running", "limit_seconds": seconds}
        self._write()
        try:
            code = run(self._command(phase.name, folder, seconds), log, seconds, environment)
            entry["state"] = {None: "ran out of time", 0: "passed"}.get(code, "failed")
        except KeyboardInterrupt:
            entry["state"] = "stopped"
            raise
        finally:
            entry["seconds"] = time.monotonic() - begin
            lines = log.read_bytes()[position:].decode(errors="replace").splitlines()
            self._add(phase.name, entry, folder, lines)
            self._write()
            print(f"{phase.name}: {entry['state']} after {entry['seconds']:.0f} s", flush=True)
            if entry["state"] != "passed":
                print("\n".join(f"    {line}" for line in lines[-25:]), flush=True)

    def _command(self, name: str, folder: Path, seconds: float) -> list[str]:
        if name == "tests":
            marked = sorted(path for path in (ROOT / "tests").glob("test_*.py") if "mark.gpu" in path.read_text())
            few = ["-k", "(sn_dcgan and not changes) or twice or another_device or draws"] if self._rehearse else []
            files = [str(path) for path in marked]
            how = ["-p", "no:cacheprovider", "-vv", "-rs", "-s", "-m", "gpu"]
            return [sys.executable, "-m", "pytest", *how, *few, *files]
        rehearse = ["--rehearse"] if self._rehearse else []
        return [sys.executable, "-m", "experiments.gpu.phases", name, "--folder", str(folder), "--out", str(self._out),
                "--until", str(time.time() + seconds), "--workers", str(self._workers), *rehearse]  # fmt: skip

    def _add(self, name: str, entry: dict[str, Any], folder: Path, lines: list[str]) -> None:
        """What the phase found, or, of tests, what pytest said last."""
        result = folder / f"{name}.json"
        if result.exists():
            entry["found"] = json.loads(result.read_text())
        elif said := [line for line in lines if line.strip()]:
            entry["said"] = said[-1]

    def _write(self) -> None:
        """report.json, replaced at once."""
        self._report["seconds"] = time.monotonic() - self._begin
        write_atomically(self._out / "report.json", json.dumps(self._report, indent=1) + "\n")


def _device(rehearse: bool) -> str:
    """The machine's name, before anything else is known of it."""
    if rehearse:
        return f"cpu {platform.machine()}"
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "--id=0"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    return "unknown"


def main() -> None:
    names = [phase.name for phase in PHASES]
    parser = argparse.ArgumentParser(
        prog="python -m experiments.gpu.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=560.0, help="that all may take; default: %(default)s")
    parser.add_argument(
        "--out", type=Path, default=Path("gpu-check"), help="a new or empty folder; default: %(default)s"
    )
    parser.add_argument("--kit", type=Path, default=ROOT / ".gpu-kit", help="what `make gpu-kit` made")
    parser.add_argument("--only", type=lambda text: text.split(","), default=names, metavar="PHASE,..",
                        help=f"of {', '.join(names)}; default: all")  # fmt: skip
    parser.add_argument("--workers", type=int, default=0, help="real runs at once; default: as many as is measured")
    parser.add_argument("--rehearse", action="store_true", help="the same on a CPU, with tiny sizes")
    arguments = parser.parse_args()
    if unknown := set(arguments.only) - set(names):
        parser.error(f"unknown phase {', '.join(sorted(unknown))}; known: {', '.join(names)}")
    if not 0 < arguments.seconds < math.inf or arguments.workers < 0:
        parser.error("--seconds must be a number above 0, and --workers at least 0")
    if arguments.out.exists() and (not arguments.out.is_dir() or any(arguments.out.iterdir())):
        parser.error(f"{arguments.out} is not empty: name a new folder")
    if not arguments.rehearse and not (arguments.kit / "wheels").is_dir():
        parser.error(f"no kit at {arguments.kit}: `make gpu-kit` makes it, and it has to travel with this folder")
    arguments.out = arguments.out.absolute()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(not Check(arguments).run())


if __name__ == "__main__":
    outlive_readers()
    main()
