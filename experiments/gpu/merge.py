"""Take over what `check` brought back: its runs into the frozen study, its report beside the others of the device.

python -m experiments.gpu.merge DIR [DIR ..]
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import tempfile
from pathlib import Path

from experiments.cli import main as sngan
from experiments.gpu.archive import unpack
from experiments.output import outlive_readers
from experiments.record import run_folders, to_json
from experiments.study import read
from sngan.config import InputError
from sngan.files import parse_json, read_within, write_atomically

RESULTS = Path("experiments/results")


def merge(folders: list[Path], results: Path) -> None:
    """Freeze the archives' runs into RESULTS/<study>/data and add the reports to RESULTS/gpu/<device>.json.

    Runs that are frozen already stay as they are; archives that were cut off give the runs before the cut. Done twice
    it adds nothing. Prints what it does, and why, if a run or a report is left out. Raises InputError for a folder that
    holds nothing that `check` wrote.
    """
    archives = {folder: sorted(folder.glob("runs-*.tar")) for folder in folders}
    for folder in folders:
        if not (folder / "report.json").is_file() and not archives[folder]:
            raise InputError(f"{folder} holds neither report.json nor archives of runs: it is not a folder of `check`")
    with tempfile.TemporaryDirectory(prefix="gpu-merge-") as temporary:
        runs_dir = Path(temporary)
        for archive in itertools.chain(*archives.values()):
            for note in unpack(archive, runs_dir):
                print(note)
        for study in sorted(runs_dir.iterdir()):
            if records := run_folders(study):
                _freeze(study, [record.run_id for record in records], results / study.name / "data")
    for folder in folders:
        print(_keep_report(folder / "report.json", results / "gpu"))


def _freeze(study: Path, run_ids: list[str], folder: Path) -> None:
    planned = {config.run_id for config in read(study / "study.yaml").configs}
    for run_id in run_ids:
        if run_id not in planned:
            print(f"{run_id} is not in the plan of {study.name}, and is left out")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        sngan(["report", study.name, "--runs-dir", str(study.parent), "--freeze", str(folder), "--no-report"])
    except SystemExit as ended:
        if ended.code:
            raise InputError(f"the runs of {study.name} could not be frozen; the reason is above") from ended


def _keep_report(path: Path, folder: Path) -> str:
    """Add a report to those of its device, oldest first. Returns the file's name, or why it was left out."""
    try:
        report = parse_json(read_within(path, path.parent), str(path))
        device = re.sub(r"[^a-z0-9]+", "-", str(report["device"] or "unknown").lower()).strip("-")
        kept = folder / f"{device}{'-rehearsal' * bool(report['rehearsal'])}.json"
        reports = parse_json(read_within(kept, folder), str(kept)) if kept.exists() else []
        reports = [other for other in reports if other["started"] != report["started"]] + [report]
        reports.sort(key=lambda one: one["started"])
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:  # InputError too
        return f"the report {path} is left out: it, or the file of its device in {folder}, is unreadable ({error!r})"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, to_json(reports, indent=1) + "\n")
    return str(kept)


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
    outlive_readers()
    main()
