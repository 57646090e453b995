"""What W&B has of a study's runs, as `analysis.load` takes it: offline files, or the runs of a project."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import platformdirs

from analysis.load import Found
from experiments.record import KILLED, RESULTS, write_atomically
from sngan.config import IDENTITY_FIELDS, InputError, RunConfig, from_parameters

_NOT_METRICS = ("_", "time/", "spectrum/", "samples", "real")
_NON_FINITE = {"NaN", "Infinity", "-Infinity"}
Tell = Callable[[int, int], None]
"""tell(done, total)"""


class Mirrored(NamedTuple):
    """A run that W&B has: its configuration, the study that it says, and that study's file as it was launched."""

    config: RunConfig
    study: str
    study_file: str
    started: str  # ISO time
    found: Found


@dataclass(frozen=True)
class RemoteFile:
    """A file of a W&B run: fetched when it is first read, then kept in the cache."""

    cached: Path
    fetch: Callable[[Path], Any]

    def read_bytes(self) -> bytes:
        if not self.cached.exists():
            self.cached.parent.mkdir(parents=True, exist_ok=True)
            self.fetch(self.cached)
        return self.cached.read_bytes()


def offline_runs(folder: Path) -> list[Mirrored]:
    """The runs in W&B's folder of a study. Raises InputError where there are none."""
    files = sorted(folder.glob("*run-*/run-*.wandb"))
    if not files:
        raise InputError(f"no W&B files at {folder}: expected folders such as offline-run-20260101_000000-<id> in it")
    return [run for file in files if (run := _offline_run(file))]


def _offline_run(file: Path) -> Mirrored | None:
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    items: list[dict[str, Any]] = []
    started, over = "", False
    for kind, content in inspected(file):
        if kind == "run":
            config |= content.get("config", {}).get("update", {})
            started = started or content.get("start_time", "")
        elif kind == "config":
            config |= content.get("update", {})
        elif kind == "summary":
            summary |= content.get("update", {})
        elif kind == "history":
            items.append(content["item"])
        over |= kind == "exit"
    samples = {path: file.parent / "files" / path for item in items if (path := item.get("samples.path"))}
    return _mirrored(config, summary, "" if over else "interrupted", started, lambda: items, samples.__getitem__)


def inspected(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(type, content) of every record in a .wandb file, by the reader that W&B ships.

    Its output is not promised to stay as it is: this is the only function that knows it (W&B 0.31). Of a file that was
    cut off, what is whole. Raises InputError where nothing can be read.
    """
    import wandb

    command = [wandb.util.get_core_path(), "leet", "inspect", "--json", "--no-observability"]
    command += ["--run-file", file.name, "."]
    done = subprocess.run(command, cwd=file.parent, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    any_read = False
    for line in done.stdout.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        any_read = True
        yield found["type"], found.get(found["type"], {})
    if not any_read:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it is empty"]
        raise InputError(f"{file}: W&B's reader cannot read it: {reason[0]}")


def online_runs(path: str, filters: dict[str, Any], tell: Tell) -> list[Mirrored]:
    """The runs of the W&B project `entity/project` that match W&B's `filters`.

    Rows of runs that are over are kept in the platform's cache folder, each run's when it was read, so that a reading
    that was cut off goes on. Raises InputError where the project cannot be had.
    """
    import requests
    import wandb
    from wandb.errors import CommError, Error

    try:
        api = wandb.Api(timeout=60)
        runs = api.runs(path, filters=filters, order="+created_at", per_page=50, lazy=False)
        total, mirrored = len(runs), []
        for done, run in enumerate(runs, start=1):
            if found := _online_run(run):
                mirrored.append(found)
            tell(done, total)
        return mirrored
    except (CommError, Error, ValueError, requests.RequestException) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"cannot read W&B's project {path}: {' '.join(str(error).split())}; log in with `wandb login`, and give it "
            "as ENTITY/PROJECT"
        ) from error


def _online_run(run: Any) -> Mirrored | None:
    summary = dict(run.summary_metrics)
    live = run.state in ("running", "pending")
    state = ("running" if live else "interrupted") if summary.get("state") in (None, "running") else ""
    identity = [run.url, summary.get("metrics_sha256"), run.lastHistoryStep]
    folder = platformdirs.user_cache_path("sngan") / "wandb" / hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    items = functools.partial(_online_items, run, folder / "rows.json" if not state else None)

    def sample(name: str) -> RemoteFile:
        return RemoteFile(folder / name, lambda to: run.file(name).download(str(folder), replace=True))

    return _mirrored(dict(run.config), summary, state, run.created_at, items, sample)


def _online_items(run: Any, kept: Path | None) -> list[dict[str, Any]]:
    """The rows of a run: from `kept` where they are there."""
    if kept and kept.exists():
        try:
            content = kept.read_bytes()
            digest, _, rows = content.partition(b"\n")
            if hashlib.sha256(rows).hexdigest().encode() == digest:
                return json.loads(rows)
        except (OSError, ValueError):
            pass  # damaged: it is read anew
    rows = list(run.scan_history(page_size=10_000))
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(rows).encode()
        write_atomically(kept, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    return rows


def _mirrored(
    config: dict[str, Any], summary: dict[str, Any], state: str, started: str,
    items: Callable[[], list[dict[str, Any]]], sample: Callable[[str], Any],
) -> Mirrored | None:  # fmt: skip
    """A run of this program; None for any other. `state`: of a run whose summary does not say how it ended."""
    if "run_id" not in config or not {"dataset", "arm", "seed", "steps"} <= config.keys():
        return None
    try:
        identity = from_parameters({name: config[name] for name in IDENTITY_FIELDS if name in config})
    except InputError:
        return None
    rows = _cut_back(items())
    status = {"attempts": [], "error": None} | (summary.get("status") or {})
    url = None
    if state or "state" not in summary:
        status |= {"state": state or "interrupted", "step": rows[-1]["step"] if rows else 0}
        status["error"] = KILLED if status["state"] == "interrupted" else None
    else:
        status |= {name: summary.get(name) for name in ("state", "error", "metrics_sha256")}
        url = summary.get("wandb_url")
    status["step"] = status.get("step", rows[-1]["step"] if rows else 0)
    status |= {"wandb_url": url} if url else {}
    samples = {row["step"]: sample(path) for row in rows if (path := _sample_path(row))}
    found = Found(status, _missing(identity, status, rows), summary.get("protocol") or {}, lambda: _frame(rows), samples)
    return Mirrored(identity, str(config.get("study", "")), summary.get("study_file") or "", started, found)


def _sample_path(row: dict[str, Any]) -> str | None:
    nested = row.get("samples")
    return nested.get("path") if isinstance(nested, dict) else row.get("samples.path")


def _cut_back(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in order of steps: where a resumed run logged a step again, what came from there on before is dropped."""
    rows: list[dict[str, Any]] = []
    for item in items:
        if not isinstance(item.get("step"), int | float):
            continue
        step = int(item["step"])
        while rows and rows[-1]["step"] >= step:
            rows.pop()
        rows.append(item | {"step": step})
    return rows


def _missing(config: RunConfig, status: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """What W&B lacks of a run that is over, or nothing."""
    if status["state"] not in RESULTS:
        return ""
    expected = {*range(0, status["step"] + 1, config.log_every), status["step"]}
    lacking = len(expected - {row["step"] for row in rows})
    return f"W&B lacks {lacking} of {len(expected)} rows" if lacking else ""


def _frame(rows: list[dict[str, Any]]) -> tuple[pd.DataFrame, str]:
    """The metrics of the record, non-finite numbers as NaN like its nulls."""
    kept = [
        {key: _number(value) for key, value in row.items() if not key.startswith(_NOT_METRICS) and _is_number(value)}
        for row in rows
    ]
    return pd.DataFrame(kept), ""


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool)) or value in _NON_FINITE


def _number(value: Any) -> float | int:
    return value if isinstance(value, int | float) and math.isfinite(value) else math.nan
