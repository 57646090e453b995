"""A study's data without its runs: Parquet, sample grids, and a manifest of digests; read back, the same Study."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd

from analysis.load import Study, grids, sound
from analysis.stability import summarize
from experiments.record import STATES, Record, to_json, write_atomically
from sngan.config import InputError

_SCHEMA = 1
_MANIFEST = "manifest.json"
_ABOUT = ("name", "description", "extra", "protocols", "baseline", "command", "foreign")


def freeze(study: Study, folder: Path) -> Path:
    """Write what the report is made of into `folder`, which must be empty or new, and return its manifest.

    runs.parquet and history.parquet are the frames of `analysis.load`, statistics.parquet that of `summarize` at the
    default thresholds, for readers of other programs; study.json holds name, description, protocols and the runs
    outside the study; RUN/samples the grids; bench the benchmarks' files. The manifest has the SHA-256 of every file.
    Raises InputError where the folder holds something else.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty: give --freeze a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    study.runs.to_parquet(folder / "runs.parquet", index=False)
    study.history.to_parquet(folder / "history.parquet", index=False)
    summarize(sound(study).history, study.runs).to_parquet(folder / "statistics.parquet", index=False)
    about = {name: getattr(study, name) for name in _ABOUT}
    write_atomically(folder / "study.json", to_json(about | {"schema": _SCHEMA}, indent=1) + "\n")
    for run_id in study.runs["run_id"]:
        for step, grid in study.samples.get(run_id, {}).items():
            path = Record(folder / run_id).sample_path(step)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, grid.read_bytes())
    if study.bench and study.bench.is_dir():
        for path in sorted(study.bench.glob("*.json")):
            (folder / "bench").mkdir(exist_ok=True)
            shutil.copyfile(path, folder / "bench" / path.name)
    manifest = {str(path.relative_to(folder)): _sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    write_atomically(folder / _MANIFEST, to_json(manifest, indent=1) + "\n")
    return folder / _MANIFEST


def thaw(folder: Path) -> Study:
    """The study that was frozen there. Raises InputError where there is none, or a file is not what was frozen."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        files = {name: str(digest) for name, digest in manifest.items()}
    except FileNotFoundError as error:
        raise InputError(f"no frozen study at {folder}: {_MANIFEST} is missing") from error
    except (ValueError, AttributeError) as error:
        raise InputError(f"{folder / _MANIFEST}: not readable as JSON ({error})") from error
    for name, digest in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{folder / _MANIFEST}: {name!r} leads out of the folder")
        if not path.is_file():
            raise InputError(f"{path} is missing")
        if _sha256(path) != digest:
            raise InputError(f"{path} is not what was frozen: its SHA-256 has changed")
    if missing := {"runs.parquet", "history.parquet", "study.json"} - set(files):
        raise InputError(f"{folder / _MANIFEST} lacks {', '.join(sorted(missing))}")
    about = json.loads((folder / "study.json").read_text())
    if about.get("schema") != _SCHEMA:
        raise InputError(f"{folder / 'study.json'}: schema {about.get('schema')!r}, expected {_SCHEMA}")
    runs = pd.read_parquet(folder / "runs.parquet")
    history = pd.read_parquet(folder / "history.parquet")
    account = runs["state"].value_counts().reindex(STATES, fill_value=0).rename("runs")
    return Study(
        folder=folder, runs=runs, history=history, account=account, bench=folder / "bench",
        **{name: about[name] for name in _ABOUT if name in about},
        samples={run_id: grids(Record(folder / run_id).samples_path) for run_id in runs["run_id"]},
    )  # fmt: skip


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
