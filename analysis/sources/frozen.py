"""A study's results without its runs' folders: parts that are only ever added, read back as any other source.

manifest.json        the study's name and plan, the SHA-256 of every file, by part, and its own; replaced last
parts/<digest>/      some runs that ended; never changed
    runs.parquet         per run: configuration, status (attempts, digests) and protocol, as JSON
    history.parquet      the rows, in the types of `analysis.study`
    evaluations.parquet  per evaluation: samples by class, singular values of D's layers
    weights/RUN.safetensors   D's final weights as trained, of the first three seeds of a cell
    samples/RUN/*.png         sample grids in 16 greys (256 colours): eight steps of one seed of a cell, the last step
                              of two more
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow
from PIL import Image
from pyarrow import compute, parquet

from analysis.history import COUNTS
from analysis.sources.records import grids
from analysis.study import Found, Study, assemble
from experiments.record import RESULTS, to_json
from experiments.study import Study as Plan
from experiments.study import check_primary
from experiments.study import parse as parse_study
from sngan.config import IDENTITY_FIELDS, InputError, RunConfig, from_parameters
from sngan.files import write_atomically

_SCHEMA = 2
_MANIFEST = "manifest.json"
PART_BYTES = 4_000_000
_WITH_WEIGHTS, _FILMS, _WITH_GRIDS = 3, 1, 3  # runs of a cell with D's weights, with a film, with grids at all
_FILM_STEPS, _GREYS = 8, 16


class Frozen(NamedTuple):
    """What `freeze` found and did, in numbers of the plan's runs; nothing in it says how a run ended."""

    folder: Path
    planned: int
    not_ended: int
    before: int
    added: int
    parts: int
    added_bytes: int
    left_out: list[str]
    """why, of each run that ended, or failed, and is not frozen as it is now"""
    without_weights: list[str]

    def __str__(self) -> str:
        parts = f"{self.parts} part{'s' * (self.parts != 1)}, {self.added_bytes / 1e6:.2f} MB"
        done = f"{self.before + self.added} of {self.planned} runs frozen, {self.added} of them now ({parts})"
        lines = [f"{self.folder}: {done}"]
        lines += [f"not ended yet: {self.not_ended}"] if self.not_ended else []
        lines += [f"not frozen: {text}" for text in self.left_out]
        return "\n".join(
            [*lines, *(f"frozen without D's weights, which are unavailable: {i}" for i in self.without_weights)]
        )


def freeze(
    study: Study,
    folder: Path,
    weights: Callable[[str], bytes | None] = lambda run_id: None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Frozen:
    """Add the study's runs that are finished or diverged, and not in `folder` yet, to what is frozen there.

    Whole seeds lie in a part as far as it stays below 4 MB. No part is ever changed, and the manifest, which alone says
    what counts, is replaced last: if it is killed before, the frozen study is as it was. One process at a time.
    `weights(run_id)`: D's final ones as a safetensors file; `tell(done, total)` reports progress.

    Named and left out are failed runs, which are to be retried, runs whose files were changed after they ended, and
    those of which another result is frozen already. The plan that is kept is the larger one: what was launched may be
    a part of it; of two with the same runs the one that names its primary contexts. Raises InputError if the folder
    holds something else, such as another study or one whose plan has runs that this one lacks and the other way round,
    and for runs that are not this program's.
    """
    if study.foreign:
        raise InputError("a table of another program's runs has no records to freeze: keep the table itself")
    manifest = _manifest_for(study, folder)
    before = {run_id: digest for part in manifest["parts"].values() for run_id, digest in part["runs"].items()}
    runs, left_out, not_ended = {}, [], 0
    for run in sorted(study.runs.to_dict("records"), key=lambda run: run["seed"]):  # stable: the plan's order otherwise
        run_id, digest = run["run_id"], run["metrics_sha256"] or ""
        if run["state"] == "failed":
            left_out.append(f"{run_id} failed, and is to be retried: {run['error']}")
        elif run["state"] not in RESULTS:
            not_ended += run_id not in before
        elif run_id in before:
            if digest != before[run_id]:
                left_out.append(f"{run_id}: another result of it is frozen (metrics {before[run_id][:12]}..)")
        elif run["damage"]:
            left_out.append(f"{run_id}: {run['damage']}")
        else:
            runs[run_id] = from_parameters({name: run[name] for name in IDENTITY_FIELDS})
    writer = _Writer(study, folder, weights, tell, manifest)
    manifest["parts"] |= (parts := dict(writer.write(runs)))
    manifest["sha256"] = fingerprint(manifest)
    write_atomically(folder / _MANIFEST, to_json(manifest, indent=1) + "\n")
    n_bytes = sum((folder / "parts" / name / file).stat().st_size for name in parts for file in parts[name]["files"])
    there = len(before.keys() & set(study.runs["run_id"]))
    return Frozen(
        folder, len(study.runs), not_ended, there, len(runs), len(parts), n_bytes, left_out, writer.without_weights
    )


def _manifest_for(study: Study, folder: Path) -> dict[str, Any]:
    """What is frozen in the folder, which may be new, with the larger plan. Raises InputError if they do not fit."""
    if not (folder / _MANIFEST).exists():
        if folder.exists() and not (folder.is_dir() and all(_is_leftover(path) for path in folder.iterdir())):
            raise InputError(f"{folder} is not empty, and no frozen study: give --freeze a new folder")
        return {"schema": _SCHEMA, "study": study.name, "plan": study.plan, "parts": {}}
    manifest = _manifest(folder)
    if manifest["study"] != study.name:
        raise InputError(
            f"{folder} holds the study {manifest['study']}, not {study.name}: give --freeze another folder"
        )
    if not study.plan or not manifest["plan"]:
        return manifest | {"plan": study.plan or manifest["plan"]}
    frozen, ours = ({config.run_id for config in parse_study(plan).configs} for plan in (manifest["plan"], study.plan))
    if not (frozen <= ours or ours <= frozen):
        raise InputError(
            f"the plan of {study.name} and the one that is frozen in {folder} each have runs that the other lacks "
            f"({len(ours - frozen)} and {len(frozen - ours)}): launch a study file that has them all, or a part of it"
        )
    before, now = (parse_study(plan) for plan in (manifest["plan"], study.plan))
    named = frozen == ours and before.primary and not now.primary  # a copy that was launched before
    if not named and not ours < frozen:
        check_primary(before, now, str(folder))
    return manifest | {"plan": study.plan if frozen <= ours and not named else manifest["plan"]}


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
        self._rows = dict(list(study.history.groupby("run_id", sort=False)))
        for name, part in manifest["parts"].items():
            for run_id, config in _configurations(self._folder / name).items():
                grids = sum(file.startswith(f"samples/{run_id}/") for file in part["files"])
                self._kept["weights", config.cell] += f"weights/{run_id}.safetensors" in part["files"]
                self._kept["film", config.cell] += grids > 1
                self._kept["grids", config.cell] += grids > 0

    def write(self, runs: dict[str, RunConfig]) -> list[tuple[str, dict[str, Any]]]:
        """Digest and manifest entry of the parts that hold these runs."""
        if not runs:
            return []
        extras: dict[str, dict[str, bytes]] = {}
        for done, (run_id, config) in enumerate(runs.items()):
            extras[run_id] = self._extras(run_id, config.cell)
            self._tell(done + 1, len(runs))
        return self._split(runs, extras)

    def _extras(self, run_id: str, cell: str) -> dict[str, bytes]:
        """Weights and sample grids that are kept of a run: file -> content."""
        files = {}
        if self._kept["weights", cell] < _WITH_WEIGHTS:
            if content := self._weights(run_id):
                files[f"weights/{run_id}.safetensors"] = content
                self._kept["weights", cell] += 1
            else:
                self.without_weights.append(run_id)
        grids = self._study.samples.get(run_id, {})
        if not grids or self._kept["grids", cell] >= _WITH_GRIDS:
            return files
        steps = sorted(grids)
        if film := self._kept["film", cell] < _FILMS:
            chosen = np.unique(np.linspace(0, len(steps) - 1, _FILM_STEPS).round().astype(int))
            steps = [steps[i] for i in chosen]
        self._kept["film", cell] += film
        self._kept["grids", cell] += 1
        for step in steps if film else steps[-1:]:
            with suppress(OSError, SyntaxError):  # no picture; SyntaxError is Pillow's for a broken PNG
                files[f"samples/{run_id}/step-{step:06d}.png"] = in_few_greys(grids[step].read_bytes())
        return files

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
        temporary = self._folder / ".tmp"
        for file, content in files.items():
            (temporary / file).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(temporary / file, content)
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
        rows = pd.concat([self._rows[run_id] for run_id in runs if run_id in self._rows] or [self._study.history[:0]])
        metrics = [name for name in rows if "/" in name and rows[name].notna().any()]
        keys = ["run_id", *(name for name in rows if name in COUNTS), *metrics]
        evaluations = [found[run_id].evaluations() for run_id in runs]
        names = [pyarrow.array([run_id] * len(table)) for run_id, table in zip(runs, evaluations, strict=True)]
        evaluations = [table.add_column(0, "run_id", [name]) for table, name in zip(evaluations, names, strict=True)]
        return {
            "runs.parquet": _parquet(pyarrow.Table.from_pylist(about)),
            "history.parquet": _parquet(pyarrow.Table.from_pandas(rows[keys], preserve_index=False)),
            "evaluations.parquet": _parquet(pyarrow.concat_tables(evaluations, promote_options="default")),
        }


def _without_paths(found: Found) -> dict[str, Any]:
    """The status, without where the data set lay on the machine."""
    attempts = [{name: a[name] for name in a if name != "data_dir"} for a in found.status["attempts"]]
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


def in_few_greys(png: bytes) -> bytes:
    """A PNG of half the size: 16 greys, or 256 colours."""
    image, buffer = Image.open(io.BytesIO(png)), io.BytesIO()
    if image.mode == "L":
        image, colours = image.point(lambda value: round(value / 17) * 17), _GREYS
    else:
        image, colours = image.convert("RGB"), 256
    image.quantize(colours).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def thaw(folder: Path) -> Study:
    """The study that is frozen there. Raises InputError if there is none, or a file is not what was frozen."""
    manifest = _manifest(folder)
    for part, entry in manifest["parts"].items():
        for file, digest in entry["files"].items():
            path = folder / "parts" / part / file
            if not path.resolve().is_relative_to(folder.resolve()):
                raise InputError(f"{folder / _MANIFEST}: {file!r} leads out of the folder")
            if not path.is_file():
                raise InputError(f"{path} is missing")
            if _sha256(path) != digest:
                raise InputError(f"{path} is not what was frozen: its SHA-256 has changed")
    runs: dict[str, tuple[RunConfig, Found]] = {}
    for name in manifest["parts"]:
        runs |= _read_part(folder / "parts" / name)
    if not runs:
        raise InputError(f"nothing is frozen in {folder} yet")
    if manifest["plan"]:
        plan = parse_study(manifest["plan"])
    else:
        configs = [runs[run_id][0] for run_id in sorted(runs)]
        plan = Plan(manifest["study"], "Single runs.", configs, len(configs), "")
    planned = {config.run_id for config in plan.configs}
    # a stored id stays valid: one that is not planned may be, under today's defaults, by its configuration
    found = {id_ if id_ in planned else config.run_id: run for id_, (config, run) in runs.items()}
    return assemble(plan, folder, found)


def _manifest(folder: Path) -> dict[str, Any]:
    """Raises InputError if there is none, or it is not one of this schema."""
    path = folder / _MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"no frozen study at {folder}: {_MANIFEST} is missing") from error
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != _SCHEMA:
        schema = manifest.get("schema", 1) if isinstance(manifest, dict) else manifest
        raise InputError(f"{path}: schema {schema!r}, expected {_SCHEMA}; freeze the records again into a new folder")
    parts = manifest.get("parts")
    entries = list(parts.values()) if isinstance(parts, dict) else [None]
    if not all(isinstance(manifest.get(name), str) for name in ("study", "plan")) or not all(
        isinstance(entry, dict) and isinstance(entry.get(name), dict) for entry in entries for name in ("runs", "files")
    ):
        raise InputError(f"{path}: not the manifest of a frozen study (study, plan, and parts with runs and files)")
    if manifest.get("sha256") != fingerprint(manifest):
        raise InputError(f"{path} is not what was frozen: it was changed")
    return manifest


def fingerprint(manifest: dict[str, Any]) -> str:
    """SHA-256 of all else that the manifest says."""
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _configurations(part: Path) -> dict[str, RunConfig]:
    table = parquet.read_table(part / "runs.parquet", columns=["run_id", "config"]).to_pylist()
    return {row["run_id"]: from_parameters(json.loads(row["config"])) for row in table}


def _read_part(part: Path) -> dict[str, tuple[RunConfig, Found]]:
    configurations = _configurations(part)
    history = dict(list(parquet.read_table(part / "history.parquet").to_pandas().groupby("run_id", sort=False)))
    evaluations = parquet.read_table(part / "evaluations.parquet")
    found = {}
    for row in parquet.read_table(part / "runs.parquet").to_pylist():
        run_id = row["run_id"]
        rows = history.get(run_id, pd.DataFrame()).drop(columns="run_id", errors="ignore")
        mine = evaluations.filter(compute.equal(evaluations["run_id"], run_id)).drop_columns("run_id")
        run = Found(
            json.loads(row["status"]), "", json.loads(row["protocol"]), lambda rows=rows: (rows, ""),
            grids(part / "samples" / run_id), lambda mine=mine: mine,
        )  # fmt: skip
        found[run_id] = configurations[run_id], run
    return found


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
