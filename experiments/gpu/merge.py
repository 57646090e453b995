"""Take over what `check` brought back: its runs into the frozen study, its report beside the others of the device.

python -m experiments.gpu.merge DIR [DIR ..]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from experiments.cli import main as sngan
from experiments.gpu.archive import unpack
from experiments.record import to_json, write_atomically
from sngan.config import InputError

RESULTS = Path("experiments/results")


def merge(folders: list[Path], results: Path) -> None:
    """Freeze the archives' runs into RESULTS/<study>/data and add the reports to RESULTS/gpu/<device>.json.

    Runs that are frozen already stay as they are; archives that were cut off give the runs before the cut. Done twice
    it adds nothing. Prints what it does. Raises InputError where a folder holds nothing that `check` wrote.
    """
    for folder in folders:
        if not (folder / "report.json").is_file():
            raise InputError(f"{folder} holds no report.json: it is not a folder of `check`")
    with tempfile.TemporaryDirectory(prefix="gpu-merge-") as temporary:
        runs_dir = Path(temporary)
        for folder in folders:
            for archive in sorted(folder.glob("runs-*.tar")):
                for note in unpack(archive, runs_dir):
                    print(note)
        for study in sorted(path.name for path in runs_dir.iterdir() if any(path.glob("*/status.json"))):
            _freeze(study, runs_dir, results / study / "data")
    for folder in folders:
        print(_keep_report(json.loads((folder / "report.json").read_text()), results / "gpu"))


def _freeze(study: str, runs_dir: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        sngan(["report", study, "--runs-dir", str(runs_dir), "--freeze", str(folder), "--no-report"])
    except SystemExit as ended:
        if ended.code:
            raise InputError(f"the runs of {study} could not be frozen into {folder}; the reason is above") from ended


def _keep_report(report: dict[str, Any], folder: Path) -> Path:
    """Add a report to those of its device, oldest first."""
    device = re.sub(r"[^a-z0-9]+", "-", str(report["device"] or "unknown").lower()).strip("-")
    path = folder / f"{device}{'-rehearsal' * report['rehearsal']}.json"
    folder.mkdir(parents=True, exist_ok=True)
    reports = json.loads(path.read_text()) if path.exists() else []
    reports = [other for other in reports if other["started"] != report["started"]] + [report]
    write_atomically(path, to_json(sorted(reports, key=lambda one: one["started"]), indent=1) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.gpu.merge", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="what `check --out` wrote")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        merge(arguments.folders, arguments.results)
    except InputError as error:
        sys.exit(f"merge: {error}")


if __name__ == "__main__":
    main()
