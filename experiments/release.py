"""Weights of a study for others: one seed of each cell, with a loader, licences and metadata, for an archive."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments import standalone
from experiments.export import export
from experiments.record import Record, State, to_json
from experiments.rows import read_rows
from experiments.study import Study
from sngan.arms import ARMS
from sngan.config import InputError, RunConfig
from sngan.datasets import DATASETS
from sngan.files import write_atomically

LICENCE = "MIT"  # of the program, its results and the weights
_AUTHORS = "The sngan authors"
_SUMS = "SHA256SUMS"
_QUALITY = ("eval/fd", "eval/fd_pixels", "eval/coverage")


class Released(NamedTuple):
    """What `release` wrote: the folder, the same as one ZIP file, the runs, and the cells that have none, with why."""

    folder: Path
    archive: Path
    run_ids: list[str]
    without: list[str]


def release(
    study: Study,
    records: Path,
    out: Path,
    seed: int | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Released:
    """Export the networks of one finished run per cell into `out`, and as `out`.zip, whose bytes repeat.

    Of a cell it is the run of `seed`, or else of the smallest seed that finished and has its weights; the record must
    be here, since a frozen run keeps no generator. An earlier release is replaced as a whole when the new one is
    complete. Raises InputError if no cell has such a run, or if `out` or the ZIP file holds something else.
    """
    archive = out.with_name(f"{out.name}.zip")
    _check_out(out, archive)
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    cells: dict[str, list[RunConfig]] = {}
    for config in study.configs:
        cells.setdefault(config.cell, []).append(config)
    chosen, without = [], []
    try:
        for done, (cell, configs) in enumerate(cells.items(), start=1):
            wanted = [config for config in configs if seed in (None, config.seed)]
            run, why = _exported(sorted(wanted, key=lambda config: config.seed), records, temporary / "models")
            chosen += [run] if run else []
            without += [] if run else [f"{cell} ({why})"]
            tell(done, len(cells))
        if not chosen:
            wanted = "finished run" if seed is None else f"finished run of seed {seed}"
            raise InputError(
                f"no {wanted} of {study.name} has its weights in {records}: nothing to export (frozen runs keep no "
                "generator)"
            )
        models = [(record.config(), _at_the_end(record)) for record in chosen]
        write_atomically(temporary / "load.py", Path(standalone.__file__).read_text(encoding="utf-8"))
        write_atomically(temporary / "LICENSE", _licence_text())
        write_atomically(temporary / "README.md", _readme(study, models, without))
        write_atomically(temporary / "metadata.json", to_json(_metadata(study, chosen), indent=2) + "\n")
        write_atomically(temporary / _SUMS, _sums(temporary))
        shutil.rmtree(out, ignore_errors=True)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _zip(out, archive)
    return Released(out, archive, [record.run_id for record in chosen], without)


def _check_out(out: Path, archive: Path) -> None:
    """Raises InputError if anything there is not of an earlier release."""
    if (out.exists() and not out.is_dir()) or Path.cwd().is_relative_to(out):
        raise InputError(f"{out} is no folder of its own, below the current one: give --out another")
    if files := _files(out):
        listed = {_SUMS}
        if (out / _SUMS).is_file() and (out / "metadata.json").is_file():
            sums = (out / _SUMS).read_text(encoding="utf-8", errors="replace")
            listed |= {line.partition("  ")[2] for line in sums.splitlines()}
        if others := [path for path in files if path.relative_to(out).as_posix() not in listed]:
            raise InputError(f"{others[0]} is not of exported weights, and would be lost: give --out a new folder")
    if archive.exists():
        names = zipfile.ZipFile(archive).namelist() if zipfile.is_zipfile(archive) else []
        if f"{out.name}/{_SUMS}" not in names:
            raise InputError(f"{archive} holds something other than exported weights: give --out another folder")


def _exported(configs: list[RunConfig], records: Path, models: Path) -> tuple[Record | None, str]:
    """The first of these runs that can be exported, into its folder there; or why there is none."""
    reasons = []
    for config in configs:
        record = Record(records / config.run_id)
        status = record.status()
        damage = record.damage(status)
        if status["state"] is not State.FINISHED or damage:
            reasons.append(damage or str(status["state"]))
            continue
        try:
            shutil.copytree(export(record), models / record.run_id, ignore=shutil.ignore_patterns("load.py"))
        except InputError as error:
            reasons.append(str(error))
            continue
        return record, ""
    return None, "; ".join(dict.fromkeys(reasons)) or "no such seed"


def _at_the_end(record: Record) -> dict[str, Any]:
    """Of the last evaluation."""
    rows = [row for row in read_rows(record.metrics_path) if f"eval/{record.config().quality}" in row]
    return {name: rows[-1].get(name) for name in _QUALITY} if rows else {}


def _readme(study: Study, models: list[tuple[RunConfig, dict[str, Any]]], without: list[str]) -> str:
    names = [name.removeprefix("eval/") for name in _QUALITY]
    lines = [
        f"# Weights of the study {study.name}",
        "",
        study.description,
        "",
        f"Generator and discriminator of {len(models)} runs, one per cell (runs that differ in nothing but the seed), "
        "as they were at the end of training: safetensors, with spectral normalization removed from the weights.",
        "",
        "```python",
        "from load import load  # needs torch and safetensors, nothing else",
        "",
        f'generator, discriminator = load("models/{models[0][0].run_id}")',
        "```",
        "",
        "`python load.py models/*` checks that every network gives the numbers that it gave when it was exported; "
        "`sha256sum --check SHA256SUMS` checks the files. `export.json` holds each run's whole configuration.",
        "",
        f"| run | arm | seed | lr | steps | {' | '.join(names)} |",
        f"|---|---|---|---|---|{'---|' * len(names)}",
    ]
    for config, quality in models:
        numbers = (f"{value:.4g}" if isinstance(value := quality.get(name), float) else "" for name in _QUALITY)
        label = ARMS[config.arm].words
        lines.append(
            f"| `{config.run_id}` | {label} | {config.seed} | {config.lr:g} | {config.steps:,} | "
            f"{' | '.join(numbers)} |"
        )
    if any(config.judge in (*DATASETS, "labels") for config, _ in models):
        lines += ["", "fd: Frechet distance in the features of a small classifier of the data set, not FID."]
    lines += [""]
    if without:
        lines += [f"Cells without a finished run here: {'; '.join(without)}.", ""]
    return "\n".join([*lines, "## Licences", "", *_licences([config for config, _ in models]), ""])


def _licence_text() -> str:
    """The program's own, of the checkout or else of the installed package."""
    path = Path(__file__).parents[1] / "LICENSE"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    return importlib.metadata.distribution("sngan").read_text("licenses/LICENSE") or f"{LICENCE} License, {_AUTHORS}\n"


def _licences(configs: list[RunConfig]) -> list[str]:
    licences = dict.fromkeys(config.row.licence for config in configs)
    return [
        f"- Weights and this text: {LICENCE} License (file LICENSE), copyright {_AUTHORS}.",
        *(f"- Training images, none of which is included: {licence}." for licence in licences),
    ]


def _metadata(study: Study, records: list[Record]) -> dict[str, Any]:
    """What an archive asks for, under the names of Zenodo's deposits."""
    configs, statuses = [record.config() for record in records], [record.status() for record in records]
    papers = dict.fromkeys(ARMS[config.arm].source.partition("arXiv ")[2][:10] for config in configs)
    versions = dict.fromkeys(str(status.get("training_version") or "unknown") for status in statuses)
    trees = dict.fromkeys(str(status.get("git_tree") or "unknown")[:12] for status in statuses)
    return {
        "upload_type": "dataset",
        "title": f"GAN weights of the study {study.name}: one seed of each arm and setting",
        "creators": [{"name": _AUTHORS}],
        "description": f"{study.description} Generators and discriminators as safetensors, with a loader in PyTorch.",
        "license": LICENCE,
        "notes": " ".join(line.removeprefix("- ") for line in _licences(configs)),
        "keywords": ["generative adversarial networks", "spectral normalization", "training stability"],
        "related_identifiers": [
            {"identifier": f"arXiv:{paper}", "relation": "references", "scheme": "arxiv"} for paper in papers if paper
        ],
        "version": f"training version {', '.join(versions)}, git tree of the training code {', '.join(trees)}",
        "access_right": "open",
        "language": "eng",
    }


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())


def _sums(folder: Path) -> str:
    """As `sha256sum --check` reads them."""
    names = ((hashlib.sha256(path.read_bytes()).hexdigest(), path.relative_to(folder)) for path in _files(folder))
    return "".join(f"{digest}  {name.as_posix()}\n" for digest, name in names)


def _zip(folder: Path, archive: Path) -> None:
    """The folder as one file without dates, so that equal contents are equal bytes."""
    temporary = archive.with_name(f".{archive.name}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as content:
            for file in _files(folder):
                name = f"{folder.name}/{file.relative_to(folder).as_posix()}"
                content.writestr(zipfile.ZipInfo(name), file.read_bytes(), zipfile.ZIP_DEFLATED)
        temporary.replace(archive)
    finally:
        temporary.unlink(missing_ok=True)
