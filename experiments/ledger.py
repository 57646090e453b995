"""What is frozen: the runs that a folder of results keeps, whether its files are intact, and which result counts.

study.json           {"grows": true}: what is frozen here counts as done wherever the study is launched or reported
manifest.json        the study's name and plan, the SHA-256 of every file, by part, and its own; replaced last
parts/<digest>/      some runs that ended; never changed (`analysis.sources.frozen` writes and reads them)
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.record import checked_config, checked_protocol, checked_status
from experiments.study import Study, check_primary, parse, single_runs
from sngan.config import TRAINING_VERSION, InputError, RunConfig, from_parameters
from sngan.files import parse_json, read_within

if TYPE_CHECKING:
    import pyarrow

SCHEMA = 2
MANIFEST, SETTINGS = "manifest.json", "study.json"
RUNS, HISTORY, EVALUATIONS = TABLES = ("runs.parquet", "history.parquet", "evaluations.parquet")
_PART = re.compile(r"[0-9a-f]{16}")  # its name, as `analysis.sources.frozen` makes it
_DIGESTS = ("metrics_sha256", "evaluations_sha256")  # the numbers of a run; configuration and protocol gain new fields
_CONDITIONS = ("device_name", "torch", "threads", "memory_format")  # what a run's bits depend on


class Kept(NamedTuple):
    """A run that is frozen."""

    folder: Path
    run_id: str  # as it was frozen: ids stay valid if defaults change
    identity: dict[str, Any]
    status: dict[str, Any]
    protocol: dict[str, Any]

    @property
    def config(self) -> RunConfig:
        """Its configuration: fields that it was frozen without have their defaults."""
        return from_parameters(self.identity)


class Ledger(NamedTuple):
    """What is frozen of a study's runs: run id -> the result that counts, and lines about those that do not.

    `beside`: runs that are frozen in the same folders and not among the study's, such as those of other seeds.
    """

    runs: Mapping[str, Kept] = {}
    notes: Sequence[str] = ()
    beside: Sequence[Kept] = ()


NOTHING = Ledger()


def home(study: str) -> Path | None:
    """The folder of results that grows with this study, in the current folder's checkout or else in this program's.

    None if there is none, or it does not grow. Raises InputError for a study.json that is none.
    """
    for results in (Path("experiments", "results"), Path(__file__).parent / "results"):
        if (folder := results / study / "data").is_dir():
            return folder if _grows(folder) else None
    return None


def _grows(folder: Path) -> bool:
    path = folder / SETTINGS
    try:
        settings = parse_json(read_within(path, folder), str(path))
    except FileNotFoundError:
        return False
    known = isinstance(settings, dict) and set(settings) <= {"grows"}
    if not known or not isinstance(settings.get("grows", False), bool):
        raise InputError(f'{path}: expected an object such as {{"grows": true}}, got {settings!r}')
    return settings.get("grows", False)


def folders_of(names: Iterable[str], have: Sequence[str]) -> list[Path]:
    """Where studies of these names are frozen: the folders that grow with them, then those in `have`, each once.

    Raises InputError if nothing is frozen in a folder of `have`.
    """
    own = [folder for folder in map(home, names) if folder and (folder / MANIFEST).exists()]
    found = {os.path.realpath(folder): folder for folder in own}  # of a loop of links: itself
    for name in have:
        if not name:
            raise InputError("--have '': expected a folder of frozen runs")
        read_manifest(Path(name))
        found.setdefault(os.path.realpath(name), Path(name))
    return list(found.values())


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises InputError if there is none, or it is not one of this schema, or it was changed."""
    path = folder / MANIFEST
    try:
        manifest = parse_json(read_within(path, folder), str(path))
    except FileNotFoundError as error:
        below = f"; did you mean {folder / 'data'}?" if (folder / "data" / MANIFEST).exists() else ""
        raise InputError(f"no frozen study at {folder}: {MANIFEST} is missing{below}") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        schema = manifest.get("schema", 1) if isinstance(manifest, dict) else manifest
        raise InputError(f"{path}: schema {schema!r}, expected {SCHEMA}; freeze the records again into a new folder")
    parts = manifest.get("parts")
    entries = list(parts.values()) if isinstance(parts, dict) else [None]
    if not all(isinstance(manifest.get(name), str) for name in ("study", "plan")) or not all(
        isinstance(entry, dict) and isinstance(entry.get(name), dict) for entry in entries for name in ("runs", "files")
    ):
        raise InputError(f"{path}: not the manifest of a frozen study (study, plan, and parts with runs and files)")
    for part, entry in (parts or {}).items():
        if not _PART.fullmatch(part) or "\0" in "".join(entry["files"]) or not entry["files"].keys() >= set(TABLES):
            raise InputError(f"{path}: {part!r} is no part of a frozen study, which has {', '.join(TABLES)}")
    if manifest.get("sha256") != fingerprint(manifest):
        raise InputError(f"{path} is not what was frozen: it was changed")
    return manifest


def fingerprint(manifest: dict[str, Any]) -> str:
    """SHA-256 of all else that the manifest says."""
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def intact(folder: Path) -> dict[str, Any]:
    """The manifest. Raises InputError also if a file is not what was frozen."""
    manifest = read_manifest(folder)
    for part, entry in manifest["parts"].items():
        for file, digest in entry["files"].items():
            path = folder / "parts" / part / file
            if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
                raise InputError(f"{folder / MANIFEST}: {file!r} leads out of the folder")
            try:
                found = hashlib.sha256(read_within(path, folder)).hexdigest()
            except FileNotFoundError as error:
                raise InputError(f"{path} is missing") from error
            if found != digest:
                raise InputError(f"{path} is not what was frozen: its SHA-256 has changed")
    return manifest


def kept_in(folder: Path, manifest: dict[str, Any]) -> dict[str, Kept]:
    """Run id -> the frozen run, of those that count by this manifest of the folder.

    Raises InputError for what no freeze writes.
    """
    found: dict[str, Kept] = {}
    for part, entry in manifest["parts"].items():
        found |= kept_in_part(folder, part, entry["runs"])
    return found


def kept_in_part(folder: Path, part: str, run_ids: Mapping[str, Any]) -> dict[str, Kept]:
    """As `kept_in`, of one part: those of these ids. Raises InputError also if one is not there."""
    path = folder / "parts" / part / RUNS
    names = ("config", "status", "protocol")
    found = {}
    for row in table_of(path, words=("run_id", *names)).to_pylist():
        if (run_id := row["run_id"]) not in run_ids:
            continue
        where = {name: f"{path}, {name} of {run_id}" for name in names}
        identity, status, protocol = (parse_json(row[name], where[name]) for name in names)
        checked_config(identity, where["config"])
        status = checked_status(status, where["status"])
        found[run_id] = Kept(folder, run_id, identity, status, checked_protocol(protocol, where["protocol"]))
    if missing := run_ids.keys() - found.keys():
        raise InputError(f"{path} lacks runs that the manifest lists: {listed(sorted(missing))}")
    return found


def table_of(path: Path, words: Sequence[str] = ("run_id",)) -> pyarrow.Table:
    """A table of a part. Raises InputError if it is no Parquet file, or lacks one of these columns of words."""
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(pyarrow.BufferReader(read_within(path, path.parent))).read()
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} is not readable as Parquet: {' '.join(str(error).split())[:200]}") from error
    kinds = pyarrow.types
    fields = {name: [table.schema.field(i) for i in table.schema.get_all_field_indices(name)] for name in words}
    lacking = [
        name for name, found in fields.items()
        if len(found) != 1 or not (kinds.is_string(t := found[0].type) or kinds.is_large_string(t) or not len(table))
    ]  # fmt: skip
    if lacking:
        raise InputError(f"{path}: expected one column of words each: {', '.join(lacking)}")
    return table


def plan_of(manifest: dict[str, Any], folder: Path) -> Study:
    """The study that the manifest of the folder has the file of. Raises InputError if it is none."""
    try:
        return parse(manifest["plan"])
    except InputError as error:
        raise InputError(f"{folder / MANIFEST}, plan: {error}") from error


def planned_in(folder: Path) -> Study:
    """The study that is frozen there, as it is planned."""
    manifest = read_manifest(folder)
    if manifest["plan"]:
        return plan_of(manifest, folder)
    return single_runs(manifest["study"], (run.config for run in kept_in(folder, manifest).values()))


def largest_plan(plan: Study, folders: Sequence[Path]) -> Study:
    """The plan, or a larger one of the same study that is frozen in one of these folders; of single runs all of them.

    Raises InputError if that one has named other contexts for its primary outcomes.
    """
    for folder in folders:
        if (manifest := read_manifest(folder))["study"] != plan.name:
            continue
        if plan.text or manifest["plan"]:
            plan = larger_plan(plan, manifest, folder) or plan
        else:
            plan = single_runs(plan.name, [*plan.configs, *planned_in(folder).configs])
    return plan


def larger_plan(ours: Study, manifest: dict[str, Any], folder: Path) -> Study | None:
    """Of a study and the one that is frozen in `folder`: which plans more, None if each has other runs.

    Of two with the same runs ours, unless the frozen one alone names its primary contexts. Raises InputError if that
    one has named others.
    """
    if manifest["plan"] in ("", ours.text):
        return ours
    before = plan_of(manifest, folder)
    theirs, mine = ({config.run_id for config in plan.configs} for plan in (before, ours))
    if not (theirs <= mine or mine <= theirs):
        return None
    if mine < theirs or (before.primary and not ours.primary):  # a copy that was launched before it named any
        return before
    check_primary(before, ours, str(folder))
    return ours


def ledger_of(study: Study, folders: Sequence[Path], mixed: bool = False) -> Ledger:
    """What is frozen of the study's runs in these folders, the first of which counts.

    Runs of another version of the training code are named and do not count, unless `mixed`. Raises InputError if a
    file is not what was frozen, and if two results contradict each other (`check`).
    """
    planned = {config.run_id for config in study.configs}
    runs: dict[str, Kept] = {}
    of_version: dict[str, list[str]] = {}
    elsewhere: dict[tuple[Path, Path], list[str]] = {}
    notes, beside = [], []
    for folder in folders:
        manifest = intact(folder)
        found = todays(kept_in(folder, manifest), planned)
        if not planned & found.keys() and folder != home(manifest["study"]):
            notes.append(f"of {study.name} no run is frozen in {folder} (which holds {manifest['study']})")
        if more := found.keys() - planned - study.not_chosen if manifest["study"] == study.name else ():
            notes.append(f"{len(more)} further runs of {study.name} are frozen in {folder}, of a larger plan than this")
        for run_id, run in found.items():
            if run_id not in planned:
                beside.append(run)
                continue
            if not mixed and (version := run.status.get("training_version")) != TRAINING_VERSION:
                of_version.setdefault(str(version or "unknown"), []).append(run_id)
            elif (counts := runs.setdefault(run_id, run)) is not run and not same_bits(counts.status, run.status):
                check(run_id, counts.folder, counts.status, folder, run.status)
                elsewhere.setdefault((folder, counts.folder), []).append(run_id)
    notes += [
        f"frozen, but of version {version} of the training code, not {TRAINING_VERSION}, and so not counted without "
        f"--mixed: {listed(run_ids)}"
        for version, run_ids in of_version.items()
    ]
    notes += [
        f"frozen in {folder} with another result than in {first}, which counts: {listed(run_ids)}"
        for (folder, first), run_ids in elsewhere.items()
    ]
    return Ledger(runs, notes, beside)


def todays(kept: Mapping[str, Kept], planned: Container[str]) -> dict[str, Kept]:
    """By the ids that a plan knows them by: a stored one that is not planned may be by its configuration."""
    return {run_id if run_id in planned else run.config.run_id: run for run_id, run in kept.items()}


def same_bits(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two statuses are of one result: by the digests of the numbers that both have."""
    both = [name for name in _DIGESTS if one.get(name) and other.get(name)]
    return all(one[name] == other[name] for name in both)


def conditions(status: dict[str, Any]) -> dict[str, Any]:
    """What a run's bits depend on beside its configuration, as its last attempt has it."""
    attempt = status["attempts"][-1] if status["attempts"] else {}
    return {"training_version": status.get("training_version")} | {
        name: attempt.get(name) for name in (*_CONDITIONS, "exact")
    }


def contradict(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two results differ that are promised to have equal bits.

    Those are exact ones that were trained by the same code on equal devices, with as many threads, under the same
    PyTorch.
    """
    return not same_bits(one, other) and conditions(one) == conditions(other) and bool(conditions(one)["exact"])


def check(run_id: str, where: Path, one: dict[str, Any], elsewhere: Path, other: dict[str, Any]) -> None:
    """Raises InputError if two results contradict each other."""
    if not contradict(one, other):
        return
    digests = [str(status.get("metrics_sha256"))[:12] for status in (one, other)]
    device, torch = (conditions(one)[name] for name in ("device_name", "torch"))
    raise InputError(
        f"{run_id} is in {where} (metrics {digests[0]}..) and in {elsewhere} (metrics {digests[1]}..) with different "
        f"bits, though both are exact, on {device} with torch {torch}, where bits repeat: one of them is not what was "
        "trained. Train it once more elsewhere to see which; then move the wrong record out of its study, or if the "
        "frozen one is wrong, freeze the study again, into another folder"
    )


def listed(run_ids: Sequence[str], most: int = 20) -> str:
    """The ids, or the first of them and how many more there are."""
    more = f" and {len(run_ids) - most:,} more" if len(run_ids) > most else ""
    return ", ".join(run_ids[:most]) + more


def said(status: dict[str, Any]) -> str:
    """Under which conditions a run was trained, in words."""
    found = conditions(status)
    exact = "" if found["exact"] in (True, None) else ", resumed under other conditions"
    threads = "1 thread" if found["threads"] == 1 else f"{found['threads'] or 'unknown'} threads"
    return (
        f"{found['device_name'] or 'unknown device'}, torch {found['torch'] or 'unknown'}, {threads}, "
        f"{found['memory_format'] or 'unknown memory format'}, version {found['training_version'] or 'unknown'}{exact}"
    )
