"""`sngan bench --report`: time and memory of a report over synthetic records."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from analysis.synthetic import write_records
from experiments.record import to_json
from sngan.config import InputError
from sngan.files import write_atomically

SIZES = ((250, 500, 40), (1000, 500, 40), (200, 2500, 60))
"""runs, rows per run, keys per row; the first shows whether the second is linear in rows"""


def bench_report(out: Path, as_json: bool, sizes: tuple[tuple[int, int, int], ...] = SIZES) -> int:
    """Print the table and write it as JSON to `out` (a .json file, or a folder). Returns 0.

    Each report is made by a process of its own: with one run missing, and again when that run has come, which reads
    only what is new. Times are of the whole command, memory is the process's peak.
    """
    console, rows = Console(stderr=True, highlight=False), {}
    for runs, of_run, keys in sizes:
        name = f"{runs:,} runs x {of_run:,} rows x {keys} keys"
        console.print(f"{name}: writing records")
        with TemporaryDirectory() as folder:
            study = write_records(Path(folder) / "bench", runs, of_run, keys)
            last = sorted(path.parent for path in study.glob("*/config.json"))[-1]
            last.rename(Path(folder) / "held_back")
            console.print(f"{name}: report")
            row = _report(study)
            (Path(folder) / "held_back").rename(last)
            row["again_seconds"] = _report(study)["seconds"]
            row["page_bytes"] = (study / "report" / "index.html").stat().st_size
            rows[name] = row | {"rows_per_second": (runs - 1) * of_run / row["seconds"]}
    machine = {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    result = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine, "rows": rows}
    if out.suffix != ".json":
        out = out / f"report-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S')}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, to_json(result, indent=1) + "\n")
    if as_json:
        print(to_json(result, indent=1))
        return 0
    table = Table("records", "s", "again, one run added", "peak GB", "page MB", box=None, pad_edge=False)
    for name, row in rows.items():
        sizes_of = (f"{row['peak_memory_bytes'] / 1e9:.2f}", f"{row['page_bytes'] / 1e6:.1f}")
        table.add_row(name, f"{row['seconds']:.1f}", f"{row['again_seconds']:.1f}", *sizes_of)
    shown = Console(highlight=False, soft_wrap=True)
    shown.width = max(shown.width, 100)  # in a file too
    shown.print(table)
    shown.print(out)
    return 0


def _report(study: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "experiments", "report", study.name, "--runs-dir", str(study.parent)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr
    try:
        errors = process.stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
    except KeyboardInterrupt:
        process.kill()  # before its folder goes
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)  # it has been waited for
    if process.returncode:
        raise InputError(f"the report ended with code {process.returncode}: {errors}")
    return {"seconds": time.perf_counter() - start, "peak_memory_bytes": usage.ru_maxrss * 1024}
