"""What W&B has of a study's runs: files beside the records, or the runs of a project on its server."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pandas as pd

from analysis.sources.columns import COLUMNS, REQUIRED
from analysis.study import Found
from experiments.record import KILLED, RESULTS, checked_protocol, checked_status
from sngan import cache
from sngan.config import IDENTITY_FIELDS, InputError, RunConfig, from_parameters
from sngan.files import leads_out

_NOT_METRICS = ("_", "time/", "spectrum/", "class_counts", "samples", "real", "evolution")
_LOG = logging.getLogger(__name__)
PER_PAGE = 50  # runs at a request
_NON_FINITE = ("NaN", "Infinity", "-Infinity")  # compared with what may have no hash
_MOST_STEPS = 2**53
Tell = Callable[[int, int], None]
"""tell(done, total)"""


class Mirrored(NamedTuple):
    """A run that W&B has: its configuration, the study that it says, and that study's file as it was launched."""

    config: RunConfig
    study: str
    study_file: str
    started: str  # ISO time
    items: list[dict[str, Any]]  # rows as W&B has them
    found: Found


@dataclass(frozen=True)
class RemoteFile:
    """A file of a W&B run: fetched when it is first read, then kept in the cache."""

    cached: Path
    fetch: Callable[[], bytes]

    def read_bytes(self) -> bytes:
        if (content := cache.read(self.cached)) is None:
            cache.write(self.cached, content := self.fetch())
        return content


def offline_runs(folder: Path) -> list[Mirrored]:
    """The runs in W&B's folder of a study. Raises InputError if there are none."""
    files = sorted(folder.glob("*run-*/run-*.wandb"))
    if not files:
        raise InputError(f"no W&B files at {folder}: expected folders such as offline-run-20260101_000000-<id> in it")
    runs, refusals = [], []
    for file in files:
        try:
            if leads_out(file, folder):
                raise InputError(f"{file} leads out of {folder}")
            run = _offline_run(file)
        except InputError as error:  # such as of a run that was killed before W&B wrote anything
            refusals.append(error)
            _LOG.warning("%s; it is left out", error)
            continue
        runs += [run] if run else []
    if refusals and not runs:
        raise refusals[0]
    return runs


def _offline_run(file: Path) -> Mirrored | None:
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    items: list[dict[str, Any]] = []
    started, over = "", False
    for kind, content in inspected(file):
        if kind == "run":
            config |= _object(_object(content.get("config")).get("update"))
            started = started or str(content.get("start_time", ""))
        elif kind == "config":
            config |= _object(content.get("update"))
        elif kind == "summary":
            summary |= _object(content.get("update"))
        elif kind == "history":
            items.append(_object(content.get("item")))
        over |= kind == "exit"
    known = over or summary.get("state") not in (None, "running")
    state, files = "" if known else "interrupted", file.parent / "files"

    def grid(name: str) -> Path | None:
        return None if leads_out(files / name, files) else files / name

    return _mirrored(config, summary, state, started, lambda: items, grid)


def inspected(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(type, content) of every record in a .wandb file, by the reader that W&B ships.

    Its output is not promised to stay as it is: this is the only function that knows it (W&B 0.31). Of a file that was
    cut off, what is whole. Raises InputError if nothing can be read.
    """
    from wandb.util import get_core_path

    command = [get_core_path(), "leet", "inspect", "--json", "--no-observability"]
    command += ["--run-file", file.name, "."]
    done = subprocess.run(command, cwd=file.parent, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    any_read = False
    for line in done.stdout.splitlines():
        try:
            found = _object(json.loads(line))
        except (ValueError, RecursionError):
            continue
        any_read = True
        yield str(found.get("type")), _object(found.get(str(found.get("type"))))
    if not any_read:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it is empty"]
        raise InputError(f"{file}: W&B's reader cannot read it: {reason[0]}")


def _object(value: Any) -> dict[str, Any]:
    """Of what W&B holds, which may be anything: an object, or an empty one."""
    return value if isinstance(value, dict) else {}


def online_runs(path: str, filters: dict[str, Any], tell: Tell) -> list[Mirrored]:
    """The runs of the W&B project `entity/project` that match W&B's `filters`.

    Rows of runs that ended are kept in the platform's cache folder, each run's when it was read, so that a reading that
    was cut off resumes. Raises InputError if the project is unavailable, or has runs of several studies.
    """
    return [found for found in _each_run(path, filters, tell, _online_run, _check_study) if found]


def _check_study(runs: Iterable[Any], path: str) -> None:
    """Before any row is fetched."""
    only_study((str(run.config["study"]) for run in runs if {"run_id", "study"} <= run.config.keys()), f"wandb:{path}")


def only_study(names: Iterable[str], source: str) -> str:
    """The one name. Raises InputError if there are several."""
    if len(found := sorted(set(names))) > 1:
        raise InputError(f"{source} has runs of {len(found)} studies; name one (--filter study=..): {', '.join(found)}")
    return found[0] if found else ""


def table(path: str, mapping: Mapping[str, str], filters: dict[str, Any], by_name: bool, tell: Tell) -> pd.DataFrame:
    """The runs of any W&B project as a table for `analysis.sources.table`: a row per logged step.

    A column comes from the rows, or else from the run's configuration or summary; `run` is the run's name, of which
    arm and seed are parts if `by_name`; W&B's own count is the step unless there is another. Runs without an arm, a
    seed or any quality are left out, which is said; of none but such the table is empty, and has all that they have as
    columns. Raises InputError if the project is unavailable.
    """
    columns = {known: mapping.get(known, known) for known in COLUMNS}
    seen: dict[str, None] = {}
    required = ("quality",) if by_name else REQUIRED

    def rows_of(run: Any) -> pd.DataFrame:
        rows = pd.DataFrame(list(run.scan_history()))
        of_run = {"run": run.name, **run.summary_metrics, **run.config}
        if "step" not in mapping and "step" not in rows and "_step" in rows:
            rows["step"] = rows["_step"]
        seen.update(dict.fromkeys(name for name in [*rows, *of_run] if not name.startswith("_")))
        for column in columns.values():
            if column not in rows and isinstance(of_run.get(column), str | int | float):
                rows[column] = of_run[column]
        if lacking := [column for known, column in columns.items() if known in required and column not in rows]:
            _LOG.warning("%s is left out: it has no %s", run.url, ", ".join(lacking))
            return pd.DataFrame()
        return rows[[column for column in columns.values() if column in rows]]

    found = [rows for rows in _each_run(path, filters, tell, rows_of) if len(rows)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=list(seen))


def _each_run(
    path: str, filters: dict[str, Any], tell: Tell, call: Callable[[Any], Any],
    check: Callable[[Iterable[Any], str], None] = lambda runs, path: None,
) -> list[Any]:  # fmt: skip
    try:
        from wandb import Api

        api = Api(timeout=60)
        runs = api.runs(path, filters=filters, order="+created_at", per_page=PER_PAGE, lazy=False)
        total, results = len(runs), []
        check(runs, path)
        for done, run in enumerate(runs, start=1):
            results.append(call(run))
            tell(done, total)
        return results
    except InputError:
        raise
    except Exception as error:  # W&B's client raises errors of many kinds
        text = " ".join(str(error).split()).rstrip(".")
        if "wandb login" not in text:
            text += "; is it ENTITY/PROJECT, and is this the account that may see it?"
        raise InputError(f"cannot read W&B's project {path}: {text}") from error


def _online_run(run: Any) -> Mirrored | None:
    summary = dict(run.summary_metrics)
    live = run.state in ("running", "pending")
    state = ("running" if live else "interrupted") if summary.get("state") in (None, "running") else ""
    identity = json.dumps([run.url, summary.get("metrics_sha256")]).encode()
    folder = cache.folder("wandb") / hashlib.sha256(identity).hexdigest()
    kept = None if state else cache.read(folder / "rows.json")

    def items() -> list[dict[str, Any]]:
        return list(map(_object, json.loads(kept) if kept else run.scan_history()))

    def sample(name: str) -> RemoteFile:
        return RemoteFile(folder / name, lambda: _downloaded(run, name))

    try:
        found = _mirrored(dict(run.config), summary, state, run.created_at, items, sample)
    except InputError as error:
        _LOG.warning("%s is left out: %s", run.url, error)
        return None
    if found and found.found.status["state"] in RESULTS and not found.found.damage and not kept:
        cache.write(folder / "rows.json", json.dumps(found.items).encode())
    return found


def _downloaded(run: Any, name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return Path(run.file(name).download(folder).name).read_bytes()
        except Exception as error:  # W&B's client raises errors of many kinds
            raise InputError(f"cannot fetch {name} of {run.url}: {' '.join(str(error).split())}") from error


def _mirrored(
    config: dict[str, Any], summary: dict[str, Any], state: str, started: str,
    items: Callable[[], list[dict[str, Any]]], sample: Callable[[str], Any],
) -> Mirrored | None:  # fmt: skip
    """A run of this program; None for any other. `state`: of a run whose summary does not say how it ended.

    Raises InputError if the summary says of it what no run says.
    """
    if "run_id" not in config or not {"dataset", "arm", "seed", "steps"} <= config.keys():
        return None
    try:
        identity = from_parameters({name: config[name] for name in IDENTITY_FIELDS if name in config})
    except InputError:
        return None
    rows = cut_back(items())
    where = f"W&B's summary of {identity.run_id}"
    status = {"attempts": [], "error": None} | _object(summary.get("status"))
    url = None
    if state or "state" not in summary:
        status |= {"state": state or "interrupted", "step": rows[-1]["step"] if rows else 0}
        status["error"] = KILLED if status["state"] == "interrupted" else None
    else:
        status |= {name: summary.get(name) for name in ("state", "error", "metrics_sha256")}
        url = summary.get("wandb_url")
    status["step"] = status.get("step", rows[-1]["step"] if rows else 0)
    status |= {"wandb_url": url} if url else {}
    status = checked_status(status, where)
    protocol = checked_protocol(_object(summary.get("protocol")), where)
    grids = {row["step"]: sample(path) for row in rows if (path := _image_path(row, "samples"))}
    samples = {step: grid for step, grid in grids.items() if grid}
    real = next((sample(path) for row in rows if (path := _image_path(row, "real"))), None)
    found = Found(status, _missing(identity, status, rows), protocol, lambda: frame(rows), samples, real=real)
    return Mirrored(identity, str(config.get("study", "")), str(summary.get("study_file") or ""), started, rows, found)


def _image_path(row: dict[str, Any], name: str) -> str | None:
    nested = row.get(name)
    path = nested.get("path") if isinstance(nested, dict) else row.get(f"{name}.path")
    inside = isinstance(path, str) and not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts
    return path if inside else None


def cut_back(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in order of steps: where a resumed run logged a step again, what came from there on before is dropped."""
    rows: list[dict[str, Any]] = []
    for item in items:
        step = item.get("step")
        if not isinstance(step, int | float) or not 0 <= step < _MOST_STEPS:
            continue
        step = int(step)
        while rows and rows[-1]["step"] >= step:
            rows.pop()
        rows.append(item | {"step": step})
    return rows


def _missing(config: RunConfig, status: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """What W&B lacks of a run that ended, or nothing."""
    if status["state"] not in RESULTS:
        return ""
    if status["step"] > config.steps:
        return f"W&B says that it ended at step {status['step']:,} of {config.steps:,}"
    expected = {*range(0, status["step"] + 1, config.log_every), status["step"]}
    lacking = len(expected - {row["step"] for row in rows})
    return f"W&B lacks {lacking} of {len(expected)} rows" if lacking else ""


def frame(rows: list[dict[str, Any]]) -> tuple[pd.DataFrame, str]:
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
