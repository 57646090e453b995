"""Runs of a study, from their records or from W&B -> tidy frames and an account of its runs."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow
from pyarrow import json, parquet

from analysis.terms import OURS, Terms
from experiments.record import (
    RESULTS,
    STATES,
    Record,
    readable_rows,
    recorded_configs,
    run_folders,
    runs_root,
    spent,
    write_atomically,
)
from experiments.study import CONTEXT_FIELDS, contexts_of
from experiments.study import Study as Plan
from experiments.study import parse as parse_study
from experiments.study import read as read_study
from sngan.architectures import ARCHITECTURES
from sngan.arms import ARMS
from sngan.config import InputError, RunConfig

_CACHE = ".history.cache"
_NOT_METRICS = ("step", "d_updates", "images_seen", "run_id", "metrics_sha256")
COUNTS = ("step", "d_updates", "images_seen")
_KEYS = ["run_id", "dataset", "arm", "setting", "seed", "variant", "context"]


@dataclass(frozen=True)
class Study:
    """A study as it was found.

    `runs`: one row a planned run, with its state, step, error, identity fields, `damage` (what is wrong with the
    metrics of a run that is over; else empty), `variant` (the arm, with those of its parameters that differ within
    the study), `context` (data set and settings that variants are compared within), the last attempt's device and
    `exact` (False: it was resumed under other conditions), `wall_seconds` of all attempts since its start, and
    `trivial_fd` and `trivial_fd_pixels` (what the trivial sampler scores; of a run without protocol that of its
    context).
    `history`: one row a logged step, with run_id, dataset, arm, setting, seed, variant, context, step and the
    metrics (NaN where null or absent): `eval/*` as float64, the others as float32, in which the networks computed
    them, from every source of this program's runs. `account`: number of runs in each state. `extra`: run ids on
    disk that the study does not plan; they are left out of all else.
    `protocols`: run id -> how its samples were judged, of the runs that say so. `bench`: where benchmarks' files lie.
    `samples`: run id -> step -> sample grid, a PNG file with `read_bytes`. `found`: run id -> what the source has of
    the run, `plan`: the study's file. `folder`: of the records, or where a report
    of what W&B has belongs. `baseline`: the variant that others are compared with, if it is not the first;
    `command`: what makes the report, if it is not the usual one; `foreign`: whether the runs are another program's,
    `terms`: what it calls its quality, losses and steps, `warnings`: what its table leaves in doubt.
    `primary`: outcome -> the context that it is judged in, of those that the study's file names.
    """

    name: str
    description: str
    folder: Path
    runs: pd.DataFrame
    history: pd.DataFrame
    account: pd.Series
    extra: list[str]
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    bench: Path | None = None
    samples: Mapping[str, Mapping[int, Any]] = field(default_factory=dict)
    baseline: str = ""
    command: str = ""
    foreign: bool = False
    terms: Terms = OURS
    warnings: Sequence[str] = ()
    found: Mapping[str, Found] = field(default_factory=dict)
    plan: str = ""
    primary: Mapping[str, str] = field(default_factory=dict)


class Found(NamedTuple):
    """What a source has of one run: status as in status.json, what is wrong with it, protocol, rows, sample grids.

    `rows()`: one row per logged step, and what is wrong with those that cannot be read. `evaluations()`: at each
    evaluation `class_counts` (samples by class) and `spectrum/<layer>` (singular values, float32), by `step`; of what
    W&B has, nothing.
    """

    status: dict[str, Any]
    damage: str
    protocol: dict[str, Any]
    rows: Callable[[], tuple[pd.DataFrame, str]]
    samples: Mapping[int, Any]
    evaluations: Callable[[], pyarrow.Table] = lambda: evaluation_table([])


def load(
    source: str | Path,
    study: str = "",
    filters: Mapping[str, Any] | None = None,
    runs_dir: str = "",
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Study:
    """Read the runs of a study: equal frames, whether from records, from W&B's offline files or from its server.

    `source`: a folder of records such as runs/mnist-core; `wandb-files:DIR`, W&B's folder of a study
    (runs/mnist-core/wandb); or `wandb:ENTITY/PROJECT`, where `study` names the study if the project has several,
    `filters` are W&B's (MongoDB's words, such as {"config.lr": 0.0002}) and `tell(done, total)` hears of progress.

    Without study.yaml (W&B has it in each run's summary) every run that is found belongs to the study. Metrics that
    are not those that the run ended with (by their SHA-256; of W&B: rows that are missing) are read, as far as they
    are readable, and named in `damage`, as is any other changed file of a result; `sound` leaves them out. A run
    that W&B has more than once counts as the last that came to a result. Raises InputError if there are no runs,
    or a study file or a configuration cannot be read.
    """
    kind, _, place = str(source).partition(":")
    if kind not in ("wandb-files", "wandb"):
        return _load_records(Path(source))
    from analysis import mirror

    if kind == "wandb-files":
        folder = Path(place)
        folder = folder if folder.name == "wandb" or not (folder / "wandb").is_dir() else folder / "wandb"
        runs, home = mirror.offline_runs(folder), folder.parent
    else:
        named = {"config.study": study} if study else {}
        runs, home = mirror.online_runs(place, {**named, **(filters or {})}, tell), None
    runs = [run for run in runs if study in ("", run.study)]
    if len(names := sorted({run.study for run in runs})) > 1:
        raise InputError(f"{source} has runs of {len(names)} studies; name one of {', '.join(names)}")
    if not runs:
        raise InputError(f"no runs of {f'the study {study}' if study else 'this program'} at {source}")
    runs.sort(key=lambda run: (run.found.status["state"] in RESULTS, run.started))  # what comes later, counts
    found = {run.config.run_id: run.found for run in runs}
    configs = {run.config.run_id: run.config for run in runs}
    files = [(run.started, run.study_file) for run in runs if run.study_file]
    if home and (home / "study.yaml").exists():  # W&B's files beside the records
        plan = read_study(home / "study.yaml")
    elif files:
        plan = parse_study(max(files)[1])
    else:
        plan = Plan(names[0], "Single runs.", [configs[run_id] for run_id in sorted(configs)], len(configs), "")
    return assemble(plan, home or runs_root(runs_dir) / plan.name, found)


def wandb_client() -> Any:
    """W&B's client, imported when it is needed."""
    import wandb

    return wandb


def _load_records(folder: Path) -> Study:
    if not folder.is_dir():
        raise InputError(f"no records at {folder}: it is not a folder; train first with `sngan sweep {folder.name}`")
    records = run_folders(folder)
    if (folder / "study.yaml").exists():
        plan = read_study(folder / "study.yaml")
    else:
        configs = recorded_configs(folder)
        plan = Plan(folder.name, "Single runs.", configs, len(configs), "")
    if not plan.configs or not records:
        raise InputError(
            f"no records at {folder}: no run has started there; train first with `sngan sweep {plan.name}`"
        )
    planned = {config.run_id for config in plan.configs}
    found = {run_id: _of_record(Record(folder / run_id)) for run_id in planned}
    extra = [record.run_id for record in records if record.run_id not in planned]
    return assemble(plan, folder, found, extra, cached=True)


def _of_record(record: Record) -> Found:
    status = record.status()
    damage, protocol = record.damage(status), {}
    if not damage:
        try:
            protocol = record.protocol()
        except InputError as error:
            damage = str(error)
    rows = functools.partial(_rows, record.metrics_path)
    return Found(
        status, damage, protocol, rows, grids(record.samples_path),
        lambda: evaluation_table(readable_rows(record.evaluations_path)[0]),
    )  # fmt: skip


def evaluation_table(rows: list[dict[str, Any]]) -> pyarrow.Table:
    """Rows of evaluations.jsonl with their types."""
    names = sorted({name for row in rows for name in row} - {"step", "class_counts"})
    kinds = {name: pyarrow.list_(pyarrow.float32()) for name in names}
    fields = {"step": pyarrow.int64(), "class_counts": pyarrow.list_(pyarrow.int32()), **kinds}
    return pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(fields.items()))


def grids(folder: Path) -> dict[int, Path]:
    """step -> PNG of a run's sample grids."""
    found = {path.stem.removeprefix("step-"): path for path in sorted(folder.glob("step-*.png"))}
    return {int(step): path for step, path in found.items() if step.isdecimal()}


def assemble(
    plan: Plan, folder: Path, found: dict[str, Found], extra: list[str] | None = None, cached: bool = False
) -> Study:
    """The frames of a plan's runs. `cached`: whether rows of results may be kept in `folder`."""
    planned = {config.run_id: config for config in plan.configs}
    if extra is None:
        extra = sorted(set(found) - set(planned))
    nothing = Found({"state": "missing", "step": 0, "attempts": []}, "", {}, lambda: (pd.DataFrame(), ""), {})
    found = {run_id: found.get(run_id, nothing) for run_id in planned}
    runs = pd.DataFrame([_run(config, found[run_id]) for run_id, config in planned.items()])
    runs = runs.assign(variant=_variants(list(planned.values())), context=_contexts(list(planned.values())))
    history, unreadable = _history(runs, found, folder if cached else None)
    found_damage = zip(runs["damage"], runs["run_id"].map(unreadable), strict=True)
    runs["damage"] = ["; ".join(text for text in texts if isinstance(text, str) and text) for texts in found_damage]
    account = runs["state"].value_counts().reindex(STATES, fill_value=0).rename("runs")
    protocols = {run_id: run.protocol for run_id, run in found.items() if run.protocol}
    for view in ("fd", "fd_pixels"):
        scores = {run_id: (protocol.get("trivial_sampler") or {}).get(view) for run_id, protocol in protocols.items()}
        if view == "fd":
            scores |= {run_id: protocol.get("trivial_fd") for run_id, protocol in protocols.items()}
        runs[f"trivial_{view}"] = runs["run_id"].map(scores).astype(float)
        of_context = runs.groupby("context")[f"trivial_{view}"].transform("median")  # of runs without a protocol
        runs[f"trivial_{view}"] = runs[f"trivial_{view}"].fillna(of_context)
    samples = {run_id: run.samples for run_id, run in found.items() if run.samples}
    context_of = dict(zip(map(_context_key, plan.configs), runs["context"], strict=True))
    primary = {name: context_of[contexts_of(plan.configs, fields)[0]] for name, fields in plan.primary.items()}
    return Study(
        plan.name, plan.description, folder, runs, history, account, extra, protocols, folder.parent / "bench", samples,
        found=found, plan=plan.text, primary=primary,
    )  # fmt: skip


def _context_key(config: RunConfig) -> tuple[Any, ...]:
    return contexts_of([config], {})[0]


def sound(study: Study) -> Study:
    """Without the rows of runs that are over and have other metrics than they ended with: no result is made of them.

    What a killed or failed run left stays, as far as it is readable.
    """
    runs = study.runs
    changed = runs.loc[runs["state"].isin(RESULTS) & (runs["damage"] != ""), "run_id"]
    kept = study.history[~study.history["run_id"].isin(changed)].reset_index(drop=True)
    return replace(study, history=kept)


def _run(config: RunConfig, found: Found) -> dict[str, Any]:
    status = found.status
    attempt = status["attempts"][-1] if status["attempts"] else {}
    row = {"run_id": config.run_id, "state": status["state"], "step": status["step"], "error": status.get("error")}
    row |= config.identity() | {"damage": found.damage}
    row |= {name: attempt.get(name) for name in ("device", "device_name", "threads", "torch")}
    row |= {"wall_seconds": spent(status, "wall_seconds") or None, "exact": attempt.get("exact")}
    row |= {
        name: status.get(name)
        for name in ("git_commit", "git_tree", "git_dirty", "training_version", "wandb_url", "metrics_sha256")
    }
    return row | {"attempts": len(status["attempts"])}


def _history(runs: pd.DataFrame, found: dict[str, Found], folder: Path | None) -> tuple[pd.DataFrame, dict[str, str]]:
    """The rows of all runs in their order, and what is wrong with those that were read in part, by run id.

    Rows of results are kept in `folder`, if there is one, beside the SHA-256 of the file that they came from: a second
    report reads only what is new.
    """
    sound = runs["state"].isin(RESULTS) & (runs["damage"] == "")
    digests = runs.loc[sound, ["run_id", "metrics_sha256"]].dropna().set_index("run_id")["metrics_sha256"]
    kept = _kept(folder) if folder else pd.DataFrame(columns=["run_id", "metrics_sha256"])
    kept = kept[kept["metrics_sha256"] == kept["run_id"].map(digests)]
    known, frames, damage = set(kept["run_id"]), [kept], {}
    for run_id in runs.loc[~runs["run_id"].isin(known), "run_id"]:
        rows, wrong = found[run_id].rows()
        if not rows.empty:
            try:
                rows = _typed(rows).drop_duplicates("step", keep="last")
            except (TypeError, ValueError) as error:
                rows, wrong = pd.DataFrame(), f"a metric is no number ({error}), so no row is used"
        if not rows.empty:
            frames.append(rows.assign(run_id=run_id, metrics_sha256=digests.get(run_id)))
        if wrong:
            damage[run_id] = f"metrics.jsonl, {wrong}"
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        return pd.DataFrame(columns=[*_KEYS, "step"]), damage
    rows = pd.concat(frames, ignore_index=True)
    new = rows[rows["metrics_sha256"].notna()]
    if folder and set(new["run_id"]) != known:
        _keep(new, folder)
    metrics = sorted(name for name in rows if name not in _NOT_METRICS)
    counts = [name for name in COUNTS if name in rows]
    place = rows["run_id"].map({run_id: i for i, run_id in enumerate(runs["run_id"])})
    rows = rows.iloc[place.argsort(kind="stable")][["run_id", *counts, *metrics]]
    rows = rows.dropna(axis=1, how="all")  # of runs that were there once, and only in the cache
    metrics = [name for name in metrics if name in rows]
    keys = runs.set_index("run_id")[_KEYS[1:]]
    identity = pd.DataFrame({name: rows["run_id"].map(keys[name]) for name in keys})
    return pd.concat([rows[["run_id"]], identity, rows[[*counts, *metrics]]], axis=1).reset_index(drop=True), damage


def _typed(rows: pd.DataFrame) -> pd.DataFrame:
    """With the types of `Study.history`; what float32 cannot hold is infinite."""
    metrics = [name for name in rows if name not in _NOT_METRICS]
    kinds = {name: np.float64 if name.startswith("eval/") else np.float32 for name in metrics}
    with np.errstate(over="ignore"):
        typed = rows.astype({name: kind for name, kind in kinds.items() if rows[name].dtype != kind})
    return typed.copy()  # in one piece again: astype leaves a piece per column


def _kept(folder: Path) -> pd.DataFrame:
    try:
        content = (folder / _CACHE).read_bytes()
    except OSError:
        content = b""
    if hashlib.sha256(content[32:]).digest() != content[:32]:  # none, or damaged: everything is read anew
        return pd.DataFrame(columns=["run_id", "metrics_sha256"])
    return _typed(parquet.read_table(pyarrow.BufferReader(content[32:])).to_pandas())


def _keep(rows: pd.DataFrame, folder: Path) -> None:
    """Parquet, after its own SHA-256."""
    buffer = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pandas(rows, preserve_index=False), buffer)
    content = buffer.getvalue().to_pybytes()
    with suppress(OSError):  # a folder that may only be read
        write_atomically(folder / _CACHE, hashlib.sha256(content).digest() + content)


def _rows(path: Path) -> tuple[pd.DataFrame, str]:
    """The readable rows of metrics.jsonl, and what is wrong with the first that is not."""
    try:  # a whole file at once: five times as fast
        table = json.read_json(path, read_options=json.ReadOptions(use_threads=False, block_size=2**28))
        if pyarrow.types.is_int64(table.schema.field("step").type) and not table["step"].null_count:
            return table.to_pandas(), ""
    except (pyarrow.ArrowException, OSError, KeyError, UnicodeDecodeError):
        pass  # missing, empty, torn or damaged
    rows, wrong = readable_rows(path)
    return pd.DataFrame(rows), wrong


def _variants(configs: list[RunConfig]) -> list[str]:
    """The arm, with the values of those of its parameters that differ between the study's runs of that arm."""
    fields = {arm: list(ARMS[arm].parameters) for arm in {config.arm for config in configs}}
    differing = _differing(configs, lambda config: config.arm, fields)
    return [_label(config.arm, config, differing[config.arm]) for config in configs]


def _contexts(configs: list[RunConfig]) -> list[str]:
    """Data set and setting, with the values of the further fields that differ within those."""

    def start(config: RunConfig) -> str:
        return f"{config.dataset}, setting {config.setting}"

    names = [name for name in CONTEXT_FIELDS if name not in ("dataset", "setting")]
    differing = _differing(configs, start, dict.fromkeys(map(start, configs), names))
    return [_label(start(config), config, differing[start(config)]) for config in configs]


def _differing(
    configs: list[RunConfig], group: Callable[[RunConfig], str], fields: dict[str, list[str]]
) -> dict[str, list[str]]:
    """Of each group those of its fields that have several values among its configurations."""
    values: dict[tuple[str, str], set[Any]] = {}
    for config in configs:
        of = group(config)
        for name in fields[of]:
            value = getattr(config, name)
            own = getattr(ARCHITECTURES[config.architecture], name, None)  # what the networks' row says needs no word
            values.setdefault((of, name), set()).add(None if value == own else value)
    return {of: [name for name in names if len(values[of, name]) > 1] for of, names in fields.items()}


def _label(start: str, config: RunConfig, names: list[str]) -> str:
    return ", ".join([start, *(f"{name} {getattr(config, name):}" for name in names)])
