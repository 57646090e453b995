"""Weights of a study for others: one seed of each cell, with a loader, licences and metadata, for an archive."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments import standalone
from experiments.export import export
from experiments.machine import git_state
from experiments.record import Record, State, read_rows, to_json
from experiments.study import Study
from sngan.arms import ARMS
from sngan.config import TRAINING_VERSION, InputError, RunConfig
from sngan.datasets import DATASETS
from sngan.files import write_atomically

LICENCE = "MIT"  # of the program, its results and the weights
_AUTHORS = "The sngan authors"
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

    Of a cell it is the run of `seed`, or else of the smallest seed that finished; the record must be here, since a
    frozen run keeps no generator. A folder of an earlier release is replaced as a whole when the new one is complete.
    Raises InputError if no cell has such a run, or `out` holds something else.
    """
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / "models").is_dir())):
        raise InputError(f"{out} holds something else than exported weights: give --out a new folder")
    chosen, without = _chosen(study, records, seed)
    if not chosen:
        wanted = "finished run" if seed is None else f"finished run of seed {seed}"
        raise InputError(f"no {wanted} of {study.name} has its weights in {records}: nothing to export")
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    models = []
    for done, record in enumerate(chosen, start=1):
        target = temporary / "models" / record.run_id
        shutil.copytree(export(record), target, ignore=shutil.ignore_patterns("load.py"))
        models.append((record.config(), _at_the_end(record)))
        tell(done, len(chosen))
    write_atomically(temporary / "load.py", Path(standalone.__file__).read_text(encoding="utf-8"))
    write_atomically(temporary / "README.md", _readme(study, models, without))
    write_atomically(temporary / "metadata.json", to_json(_metadata(study, models), indent=2) + "\n")
    write_atomically(temporary / "SHA256SUMS", _sums(temporary))
    shutil.rmtree(out, ignore_errors=True)
    temporary.rename(out)
    return Released(out, _zipped(out), [record.run_id for record in chosen], without)


def _chosen(study: Study, records: Path, seed: int | None) -> tuple[list[Record], list[str]]:
    """The run of each cell, and the cells without one."""
    cells: dict[str, list[RunConfig]] = {}
    for config in study.configs:
        cells.setdefault(config.cell, []).append(config)
    chosen, without = [], []
    for cell, configs in cells.items():
        wanted = sorted((c for c in configs if seed in (None, c.seed)), key=lambda config: config.seed)
        found = [Record(records / config.run_id) for config in wanted]
        usable = [r for r in found if (s := r.status())["state"] == State.FINISHED and not r.damage(s)]
        usable = [record for record in usable if record.checkpoint_path.exists()]
        if usable:
            chosen.append(usable[0])
        else:
            states = ", ".join(sorted({str(record.status()["state"]) for record in found})) or "not planned"
            without.append(f"{cell} ({states})")
    return chosen, without


def _at_the_end(record: Record) -> dict[str, Any]:
    """Of the last evaluation."""
    rows = [row for row in read_rows(record.metrics_path) if "eval/fd" in row]
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
        label = ARMS[config.arm].label
        lines.append(
            f"| `{config.run_id}` | {label} | {config.seed} | {config.lr:g} | {config.steps:,} | "
            f"{' | '.join(numbers)} |"
        )
    lines += ["", "fd: Frechet distance in the features of a small classifier of the data set, not FID.", ""]
    if without:
        lines += [f"Cells without a finished run here: {'; '.join(without)}.", ""]
    return "\n".join([*lines, "## Licences", "", *_licences(models), ""])


def _licences(models: list[tuple[RunConfig, dict[str, Any]]]) -> list[str]:
    datasets = dict.fromkeys(config.dataset for config, _ in models)
    return [
        f"- Weights and this text: {LICENCE} License, copyright {_AUTHORS}.",
        *(f"- Training images, none of which is included: {DATASETS[name].licence}." for name in datasets),
    ]


def _metadata(study: Study, models: list[tuple[RunConfig, dict[str, Any]]]) -> dict[str, Any]:
    """What an archive asks for, under the names of Zenodo's deposits."""
    papers = dict.fromkeys(ARMS[config.arm].source.partition("arXiv ")[2][:10] for config, _ in models)
    return {
        "upload_type": "dataset",
        "title": f"GAN weights of the study {study.name}: one seed of each arm and setting",
        "creators": [{"name": _AUTHORS}],
        "description": f"{study.description} Generators and discriminators as safetensors, with a loader in PyTorch.",
        "license": LICENCE,
        "notes": " ".join(line.removeprefix("- ") for line in _licences(models)),
        "keywords": ["generative adversarial networks", "spectral normalization", "training stability"],
        "related_identifiers": [
            {"identifier": f"arXiv:{paper}", "relation": "references", "scheme": "arxiv"} for paper in papers if paper
        ],
        "version": f"training version {TRAINING_VERSION}, commit {git_state()['git_commit'] or 'unknown'}",
        "access_right": "open",
        "language": "eng",
    }


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sums(folder: Path) -> str:
    """As `sha256sum --check` reads them."""
    names = ((hashlib.sha256(path.read_bytes()).hexdigest(), path.relative_to(folder)) for path in _files(folder))
    return "".join(f"{digest}  {name.as_posix()}\n" for digest, name in names)


def _zipped(folder: Path) -> Path:
    """The folder as one file without dates, so that equal contents are equal bytes."""
    path = folder.with_name(f"{folder.name}.zip")
    temporary = path.with_name(f".{path.name}.tmp")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in _files(folder):
            name = f"{folder.name}/{file.relative_to(folder).as_posix()}"
            archive.writestr(zipfile.ZipInfo(name), file.read_bytes(), zipfile.ZIP_DEFLATED)
    temporary.replace(path)
    return path
