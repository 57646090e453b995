"""A study's results without its runs' folders: parts that are only ever added, read back as any other source.

manifest.json        which runs count, the study's plan, digests of all files (`experiments.ledger`); replaced last
parts/<digest>/      some runs that ended; never changed
    runs.parquet         per run: configuration, status (attempts, digests) and protocol, as JSON
    history.parquet      the rows, in the types of `analysis.study`
    evaluations.parquet  per evaluation: samples by class, singular values of D's layers
    weights/RUN.safetensors   D's final weights as trained, of the first three seeds of a cell
    samples/RUN/*.png         sample grids in 16 greys (256 colours): eight steps of one seed of a cell, the last step
                              of two more; of one run of a data set also a grid of real images
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow
from PIL import Image
from pyarrow import compute, parquet

from analysis.grids import opened
from analysis.history import COUNTS
from analysis.study import Found, Study, as_recorded, assemble, reference_version
from experiments.ledger import (
    EVALUATIONS,
    HISTORY,
    MANIFEST,
    RUNS,
    SCHEMA,
    SETTINGS,
    Kept,
    check,
    fingerprint,
    intact,
    kept_in,
    kept_in_part,
    larger_plan,
    plan_of,
    said,
    same_bits,
    table_of,
    todays,
)
from experiments.record import RESULTS, to_json
from experiments.study import Study as Plan
from experiments.study import parse as parse_study
from experiments.study import single_runs
from sngan.config import IDENTITY_FIELDS, InputError, RunConfig, from_parameters
from sngan.files import write_atomically

PART_BYTES = 4_000_000
_WITH_WEIGHTS, _FILMS, _WITH_GRIDS = 3, 1, 3  # runs of a cell with D's weights, with a film, with grids at all
_FILM_STEPS, _GREYS = 8, 16
_PLACES = ("data_path", "inception_weights")


class Frozen(NamedTuple):
    """What `freeze` found and did, in numbers of the plan's runs; nothing in it says how a run ended."""

    folder: Path
    planned: int
    not_ended: int
    before: int
    added: int
    replaced: int
    parts: int
    added_bytes: int
    left_out: list[str]
    """why, of each run that ended, or failed, and is not frozen as it is now"""
    without_weights: list[str]
    not_planned: list[str]

    def __str__(self) -> str:
        parts = f"{self.parts} part{'s' * (self.parts != 1)}, {self.added_bytes / 1e6:.2f} MB"
        replaced = f", {self.replaced} replaced" if self.replaced else ""
        done = f"{self.before + self.added} of {self.planned} runs frozen, {self.added} of them now{replaced} ({parts})"
        lines = [f"{self.folder}: {done}"]
        lines += [f"not ended yet: {self.not_ended}"] if self.not_ended else []
        if self.not_planned:
            lines.append(f"not in the study, and so not frozen (--seeds can name seeds): {', '.join(self.not_planned)}")
        lines += [f"not frozen: {text}" for text in self.left_out]
        return "\n".join(
            [*lines, *(f"frozen without D's weights, which are unavailable: {i}" for i in self.without_weights)]
        )


def freeze(
    study: Study,
    folder: Path,
    weights: Callable[[str], bytes | None] = lambda run_id: None,
    tell: Callable[[int, int], None] = lambda done, total: None,
    replace: bool = False,
    mixed: bool = False,
    also: Sequence[Path] = (),
) -> Frozen:
    """Add the study's runs that are finished or diverged, and not in `folder` yet, to what is frozen there.

    Whole seeds lie in a part as far as it stays below 4 MB. No part is ever changed, and the manifest, which alone says
    what counts, is replaced last: if it is killed before, the frozen study is as it was. One process at a time, for
    which a second one waits. `weights(run_id)`: D's final ones as a safetensors file; `tell(done, total)` reports
    progress. `also`: other folders where runs of this study are frozen, whose parts are added as they are.

    Named and left out are failed runs, which are to be retried, runs whose files were changed after they ended, those
    of another version of the training code than what is frozen there (unless `mixed`), and those of which another
    result is frozen, unless `replace`: then this one counts, and the part with the other stays. The plan that is kept
    is the larger one: what was launched may be a part of it; of two with the same runs the one that names its primary
    contexts. Raises InputError if the folder holds something else, such as another study or one whose plan has runs
    that this one lacks and the other way round, if a result contradicts a frozen one (`experiments.ledger.check`), and
    for runs that are not this program's.
    """
    if study.foreign:
        raise InputError("a table of another program's runs has no records to freeze: keep the table itself")
    n_adopted = 0
    with _alone_in(folder):
        manifest = _manifest_for(study, folder)
        chosen = _choose(study, folder, manifest, replace, mixed)
        writer = _Writer(study, folder, weights, tell, manifest)
        parts = dict(writer.write(chosen.runs))
        _count(parts, manifest, chosen.replaced)
        planned = set(study.runs["run_id"])
        for other in also:
            adopted, added = _adopted(other, folder, manifest, planned, mixed, chosen.left_out)
            _count(adopted, manifest, set())
            parts, n_adopted = parts | adopted, n_adopted + added
        manifest["sha256"] = fingerprint(manifest)
        write_atomically(folder / MANIFEST, to_json(manifest, indent=1) + "\n")
    n_bytes = sum((folder / "parts" / name / file).stat().st_size for name in parts for file in parts[name]["files"])
    added = len(chosen.runs) - len(chosen.replaced) + n_adopted
    return Frozen(
        folder, len(study.runs), chosen.not_ended - n_adopted, chosen.before, added, len(chosen.replaced), len(parts),
        n_bytes, chosen.left_out, writer.without_weights, [i for i in study.extra if i not in _ids(manifest)],
    )  # fmt: skip


def _count(parts: Mapping[str, Any], manifest: dict[str, Any], replaced: set[str]) -> None:
    """Let these parts count, and of the others no longer the runs that are replaced."""
    for part in manifest["parts"].values():
        part["runs"] = {run_id: digest for run_id, digest in part["runs"].items() if run_id not in replaced}
    for name, part in parts.items():
        earlier = manifest["parts"].get(name, {"runs": {}})["runs"]  # a result that was replaced, and is back
        manifest["parts"][name] = part | {"runs": earlier | part["runs"]}


def _adopted(
    other: Path, folder: Path, manifest: dict[str, Any], planned: set[str], mixed: bool, left_out: list[str]
) -> tuple[dict[str, Any], int]:
    """Copy another folder's parts with planned runs that are not frozen here; their entries, and how many runs.

    Of a run with another result here that one stays, and the other is named in `left_out`.
    """
    theirs, ours = intact(other), todays(kept_in(folder, manifest), planned)
    kept = kept_in(other, theirs)
    versions = _versions(ours, (run.status for run in kept.values()))
    parts, added = {}, 0
    for name, entry in theirs["parts"].items():
        runs = {}
        for run_id, digest in entry["runs"].items():
            today = run_id if run_id in planned else kept[run_id].config.run_id
            status, before = kept[run_id].status, ours.get(today)
            if today not in planned or (before and same_bits(before.status, status)):
                continue
            if before:
                check(today, folder, before.status, other, status)
                left_out.append(f"{today} in {other} {_why_not(status, before, versions, '--replace, of its record,')}")
            elif not mixed and status.get("training_version") not in versions:
                left_out.append(f"{today} in {other} {_why_not(status, None, versions, '--mixed')}")
            else:
                runs[run_id] = digest
        if runs:
            _copy_part(other / "parts" / name, entry["files"], folder / "parts")
            parts[name], added = {"runs": runs, "files": entry["files"]}, added + len(runs)
    return parts, added


def _copy_part(part: Path, files: Iterable[str], to: Path) -> None:
    """Of these files, and nothing else that lies there."""
    if not (to / part.name).exists():
        with _unfinished(to) as temporary:
            for file in files:
                (temporary / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(part / file, temporary / file)
            os.replace(temporary, to / part.name)


@contextmanager
def _unfinished(parts: Path) -> Iterator[Path]:
    """Where a part is written. What was not moved from there is removed, and so is what a killed freeze left."""
    temporary = parts / ".tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _ids(manifest: dict[str, Any]) -> set[str]:
    return {run_id for part in manifest["parts"].values() for run_id in part["runs"]}


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process at a time freezes into a folder; the lock is that of the folder itself, and leaves no file."""
    with suppress(FileExistsError):
        folder.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give --freeze a new one")
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class _Chosen(NamedTuple):
    """Which of a study's runs are to be frozen, and why others are not."""

    runs: dict[str, RunConfig]
    replaced: set[str]
    before: int
    not_ended: int
    left_out: list[str]


def _choose(study: Study, folder: Path, manifest: dict[str, Any], replace: bool, mixed: bool) -> _Chosen:
    kept = todays(kept_in(folder, manifest), set(study.runs["run_id"]))
    versions = _versions(kept, (found.status for found in study.found.values()))
    runs, replaced, left_out, not_ended = {}, set(), [], 0
    for run in sorted(study.runs.to_dict("records"), key=lambda run: run["seed"]):  # stable: the plan's order otherwise
        run_id, status = run["run_id"], study.found[run["run_id"]].status
        if run["state"] == "failed" and run_id not in kept:
            left_out.append(f"{run_id} failed, and is to be retried: {run['error']}")
        elif run["state"] not in RESULTS:
            not_ended += run_id not in kept
        elif run_id in kept and same_bits(kept[run_id].status, status):
            continue
        elif run["damage"]:
            left_out.append(f"{run_id}: {run['damage']}")
        else:
            if run_id in kept:
                check(run_id, folder, kept[run_id].status, study.folder, status)
            needed = ["--mixed"] if not mixed and status.get("training_version") not in versions else []
            needed += ["--replace"] if not replace and run_id in kept else []
            if needed:
                left_out.append(f"{run_id} {_why_not(status, kept.get(run_id), versions, ' '.join(needed))}")
                continue
            replaced |= {kept[run_id].run_id} if run_id in kept else set()
            runs[run_id] = from_parameters({name: run[name] for name in IDENTITY_FIELDS})
    return _Chosen(runs, replaced, len(kept.keys() & set(study.runs["run_id"])), not_ended, left_out)


def _versions(kept: Mapping[str, Kept], others: Iterable[dict[str, Any]]) -> set[Any]:
    """Of the training code that made what is frozen here; of an empty folder that of those to be frozen."""
    return {run.status.get("training_version") for run in kept.values()} or {reference_version(others)}


def _why_not(ours: dict[str, Any], frozen: Kept | None, versions: Iterable[Any], needed: str) -> str:
    """Why a result is not frozen, and the options with which it would be."""
    if not frozen:
        counted = " and ".join(sorted(str(version or "unknown") for version in versions))
        version = ours.get("training_version") or "unknown"
        return f"is of version {version} of the training code, not {counted}: {needed} freezes it too"
    digest = str(frozen.status.get("metrics_sha256"))[:12]
    return (
        f"is frozen with another result (metrics {digest}.., {said(frozen.status)}) than this one ({said(ours)}); "
        f"{needed} freezes this one in its place"
    )


def _manifest_for(study: Study, folder: Path) -> dict[str, Any]:
    """What is frozen in the folder, which may be new, with the larger plan. Raises InputError if they do not fit."""
    for torn in folder.glob(f".{MANIFEST}.*.tmp"):  # of a killed freeze: nobody else is here
        torn.unlink()
    if not (folder / MANIFEST).exists():
        if not all(_is_leftover(path) or path.name == SETTINGS for path in folder.iterdir()):
            raise InputError(f"{folder} is not empty, and no frozen study: give --freeze a new folder")
        return {"schema": SCHEMA, "study": study.name, "plan": study.plan, "parts": {}}
    manifest = intact(folder)
    if manifest["study"] != study.name:
        raise InputError(
            f"{folder} holds the study {manifest['study']}, not {study.name}: give --freeze another folder"
        )
    if not study.plan:
        return manifest
    ours = parse_study(study.plan)
    if plan := larger_plan(ours, manifest, folder):
        return manifest | {"plan": plan.text}
    frozen, mine = ({c.run_id for c in plan.configs} for plan in (plan_of(manifest, folder), ours))
    raise InputError(
        f"the plan of {study.name} and the one that is frozen in {folder} each have runs that the other lacks "
        f"({len(mine - frozen)} and {len(frozen - mine)}): launch a study file that has them all, or a part of it"
    )


def _is_leftover(path: Path) -> bool:
    """Whether it can be what a killed freeze left: parts/ with nothing but parts in it, or one of them."""
    if path.name == "parts":
        return path.is_dir() and all(map(_is_leftover, path.iterdir()))
    return path.is_dir() and re.fullmatch(r"\.tmp|[0-9a-f]{16}", path.name) is not None


class _Writer:
    """Writes parts; knows what of each cell is there already."""

    def __init__(
        self,
        study: Study,
        folder: Path,
        weights: Callable[[str], bytes | None],
        tell: Callable[[int, int], None],
        manifest: dict[str, Any],
    ) -> None:
        self._study, self._weights, self._tell = study, weights, tell
        self._folder = folder / "parts"
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.iterdir():
            if path.name not in manifest["parts"] and _is_leftover(path):
                shutil.rmtree(path)
        self.without_weights: list[str] = []
        self._kept: Counter[tuple[str, str]] = Counter()  # (what, cell): of how many runs
        self._history = as_recorded(study)
        self._rows = dict(list(self._history.groupby("run_id", sort=False)))
        for name, part in manifest["parts"].items():
            for run_id, kept in kept_in_part(folder, name, part["runs"]).items():
                config = kept.config
                grids = sum(file.startswith(f"samples/{run_id}/step-") for file in part["files"])
                self._kept["real", config.data_name] += f"samples/{run_id}/real.png" in part["files"]
                self._kept["weights", config.cell] += f"weights/{run_id}.safetensors" in part["files"]
                self._kept["film", config.cell] += grids > 1
                self._kept["grids", config.cell] += grids > 0

    def write(self, runs: dict[str, RunConfig]) -> list[tuple[str, dict[str, Any]]]:
        """Digest and manifest entry of the parts that hold these runs."""
        if not runs:
            return []
        extras: dict[str, dict[str, bytes]] = {}
        for done, (run_id, config) in enumerate(runs.items()):
            extras[run_id] = self._extras(run_id, config.cell, config.data_name)
            self._tell(done + 1, len(runs))
        return self._split(runs, extras)

    def _extras(self, run_id: str, cell: str, dataset: str) -> dict[str, bytes]:
        """Weights and sample grids that are kept of a run: file -> content."""
        files = {}
        if self._kept["weights", cell] < _WITH_WEIGHTS:
            if content := self._weights(run_id):
                files[f"weights/{run_id}.safetensors"] = content
                self._kept["weights", cell] += 1
            else:
                self.without_weights.append(run_id)
        for name, grid in self._grids(run_id, cell, dataset).items():
            if image := opened(grid):
                files[f"samples/{run_id}/{name}.png"] = in_few_greys(image)
        return files

    def _grids(self, run_id: str, cell: str, dataset: str) -> dict[str, Any]:
        """Name -> grid of those that are kept of a run."""
        chosen, grids = {}, self._study.samples.get(run_id, {})
        if (real := self._study.found[run_id].real) and not self._kept["real", dataset]:
            chosen["real"] = real
            self._kept["real", dataset] += 1
        if not grids or self._kept["grids", cell] >= _WITH_GRIDS:
            return chosen
        steps = sorted(grids)
        if film := self._kept["film", cell] < _FILMS:
            steps = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, _FILM_STEPS).round().astype(int))]
        self._kept["film", cell] += film
        self._kept["grids", cell] += 1
        return chosen | {f"step-{step:06d}": grids[step] for step in (steps if film else steps[-1:])}

    def _split(
        self, runs: dict[str, RunConfig], extras: dict[str, dict[str, bytes]]
    ) -> list[tuple[str, dict[str, Any]]]:
        """In one part, or if that would be too large in two halves, between two seeds if they have several."""
        files = self._tables(runs) | {name: content for run_id in runs for name, content in extras[run_id].items()}
        ids = list(runs)
        if len(ids) > 1 and sum(map(len, files.values())) > PART_BYTES:
            seeds = [runs[run_id].seed for run_id in ids]
            places = [i for i in range(1, len(ids)) if seeds[i] != seeds[i - 1]] or range(1, len(ids))
            place = min(places, key=lambda i: abs(i - len(ids) / 2))
            halves = ids[:place], ids[place:]
            return [part for half in halves for part in self._split({i: runs[i] for i in half}, extras)]
        digests = {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}
        name = hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:16]
        with _unfinished(self._folder) as temporary:
            for file, content in files.items():
                (temporary / file).parent.mkdir(parents=True, exist_ok=True)
                write_atomically(temporary / file, content)
            if not (self._folder / name).exists():  # else a result that was replaced, and is back
                os.replace(temporary, self._folder / name)
        statuses = {run_id: self._study.found[run_id].status for run_id in ids}
        return [(name, {"runs": {i: s.get("metrics_sha256") or "" for i, s in statuses.items()}, "files": digests})]

    def _tables(self, runs: dict[str, RunConfig]) -> dict[str, bytes]:
        """The three Parquet files of some runs."""
        found = {run_id: self._study.found[run_id] for run_id in runs}
        about = [
            {"run_id": run_id, "config": to_json(config.identity()), "status": to_json(_without_paths(found[run_id])),
             "protocol": to_json(found[run_id].protocol)}
            for run_id, config in runs.items()
        ]  # fmt: skip
        rows = pd.concat([self._rows[run_id] for run_id in runs if run_id in self._rows] or [self._history[:0]])
        metrics = [name for name in rows if "/" in name and rows[name].notna().any()]
        keys = ["run_id", *(name for name in rows if name in COUNTS), *metrics]
        evaluations = [found[run_id].evaluations() for run_id in runs]
        names = [pyarrow.array([run_id] * len(table)) for run_id, table in zip(runs, evaluations, strict=True)]
        evaluations = [table.add_column(0, "run_id", [name]) for table, name in zip(evaluations, names, strict=True)]
        return {
            RUNS: _parquet(pyarrow.Table.from_pylist(about)),
            HISTORY: _parquet(pyarrow.Table.from_pandas(rows[keys], preserve_index=False)),
            EVALUATIONS: _parquet(pyarrow.concat_tables(evaluations, promote_options="default")),
        }


def _without_paths(found: Found) -> dict[str, Any]:
    """The status, without where data and weights lay on the machine."""
    attempts = [
        {name: a[name] for name in a if name != "data_dir" and not (name in _PLACES and a[name])}
        for a in found.status["attempts"]
    ]
    return found.status | {"attempts": attempts}


def _parquet(table: pyarrow.Table) -> bytes:
    """Numbers by bytes of one significance together, which compress best, words and whole numbers as usual."""
    floating = []
    for field in table.schema:
        inner = field.type.value_type if pyarrow.types.is_list(field.type) else field.type
        if pyarrow.types.is_floating(inner):
            floating.append(field.name if inner == field.type else f"{field.name}.list.element")
    words = [field.name for field in table.schema if pyarrow.types.is_string(field.type)]
    buffer = pyarrow.BufferOutputStream()
    parquet.write_table(
        table.replace_schema_metadata(), buffer, compression="zstd", compression_level=19, write_statistics=False,
        use_byte_stream_split=floating, use_dictionary=words,
    )  # fmt: skip
    return buffer.getvalue().to_pybytes()


def in_few_greys(image: Image.Image) -> bytes:
    """A PNG of half the size: 16 greys, or 256 colours."""
    buffer = io.BytesIO()
    if image.mode == "L":
        image, colours = image.point(lambda value: round(value / 17) * 17), _GREYS
    else:
        image, colours = image.convert("RGB"), 256
    image.quantize(colours).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def thaw(folder: Path) -> Study:
    """The study that is frozen there. Raises InputError if there is none, or a file is not what was frozen."""
    manifest = intact(folder)
    runs = read_runs(folder, manifest)
    if not runs:
        raise InputError(f"nothing is frozen in {folder} yet")
    if manifest["plan"]:
        plan = plan_of(manifest, folder)
    else:
        plan = single_runs(manifest["study"], (config for config, _ in runs.values()))
    return assemble(plan, folder, by_plan(runs, plan))


def read_runs(folder: Path, manifest: dict[str, Any]) -> dict[str, tuple[RunConfig, Found]]:
    """The runs that count by this manifest of the folder."""
    runs: dict[str, tuple[RunConfig, Found]] = {}
    for name, entry in manifest["parts"].items():
        runs |= _read_part(folder, name, entry["runs"], entry["files"])
    return runs


def by_plan(runs: dict[str, tuple[RunConfig, Found]], plan: Plan) -> dict[str, Found]:
    """Under the ids that the plan knows them by: a stored one that is not planned may be by its configuration."""
    planned = {config.run_id for config in plan.configs}
    return {id_ if id_ in planned else config.run_id: found for id_, (config, found) in runs.items()}


def _read_part(
    folder: Path, name: str, run_ids: Mapping[str, Any], files: Mapping[str, str]
) -> dict[str, tuple[RunConfig, Found]]:
    """Those runs that count; of the part's files only those that the manifest lists are read."""
    part = folder / "parts" / name
    grids: dict[str, dict[int, Path]] = {}
    for file in sorted(files):
        if grid := re.fullmatch(r"samples/([^/]+)/step-(\d+)\.png", file, re.ASCII):
            grids.setdefault(grid[1], {})[int(grid[2])] = part / file
    history = dict(list(table_of(part / HISTORY).to_pandas().groupby("run_id", sort=False)))
    evaluations = table_of(part / EVALUATIONS)
    found = {}
    for run_id, kept in kept_in_part(folder, name, run_ids).items():
        rows = history.get(run_id, pd.DataFrame()).drop(columns="run_id", errors="ignore")
        mine = evaluations.filter(compute.equal(evaluations["run_id"], run_id)).drop_columns("run_id")
        real = f"samples/{run_id}/real.png"
        run = Found(
            kept.status, "", kept.protocol, lambda rows=rows: (rows, ""),
            grids.get(run_id, {}), lambda mine=mine: mine, part / real if real in files else None,
        )  # fmt: skip
        found[run_id] = kept.config, run
    return found
