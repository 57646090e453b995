"""A source of runs -> the study that it holds: equal frames, wherever the runs come from."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.sources import frozen, kind_of, records, table, wandb_runs
from analysis.sources.columns import AS_NAMED, Reading
from analysis.sources.formats import name_of
from analysis.sources.wandb_runs import Mirrored, Tell, only_study
from analysis.study import Study, assemble
from experiments.record import RESULTS, run_folders, runs_root
from experiments.study import check_name, single_runs
from experiments.study import parse as parse_study
from experiments.study import read as read_study
from sngan.config import InputError, shown

_LOG = logging.getLogger(__name__)


def load(
    source: str | Path,
    study: str = "",
    filters: Mapping[str, Any] | None = None,
    runs_dir: str = "",
    tell: Tell = lambda done, total: None,
    reading: Reading = AS_NAMED,
) -> Study:
    """Read the runs of a study: equal frames, whether from records, from W&B's files or its server, or frozen.

    | source | |
    |---|---|
    | a folder, such as `runs/mnist-core` | its records |
    | `frozen:DIR` | what `sngan report --freeze DIR` kept |
    | `wandb-files:DIR` | W&B's files in a study's folder, or in its `wandb/` |
    | `wandb:ENTITY/PROJECT` | a project on W&B's server |
    | `table:FILE.csv` | anyone's runs (`analysis.sources.table`), read as `reading` says |

    Of W&B: `study` names one if there are several, `filters` are W&B's (MongoDB's words, such as
    {"config.lr": 0.0002}), `tell(done, total)` reports progress; with a `reading` that maps columns or takes runs'
    names apart, the project is read as a table. The report of what is no folder belongs into one of `runs_dir`.

    Without study.yaml (W&B has it in each run's summary) every run that is found belongs to the study. Metrics that
    are not those that the run ended with (by their SHA-256; of W&B: rows that are missing) are read, as far as they
    are readable, and named in `damage`, as is any other changed file of a result; `analysis.study.sound` leaves them
    out. A run that W&B has more than once counts as the last that came to a result. Raises InputError if the source is
    of no known kind or has no runs, or a study file or a configuration cannot be read.
    """
    kind, place = kind_of(source)
    if kind == "frozen":
        return frozen.thaw(Path(place))
    if kind == "table":
        path = Path(place)
        return table.read(path, reading, _report_folder(name_of(path), runs_dir))
    if kind == "wandb" and reading.is_foreign:
        name = check_name(study or place.rpartition("/")[2])
        rows = wandb_runs.table(place, reading.mapping, dict(filters or {}), bool(reading.run_name), tell)
        source = f"{study} --source wandb --project {place}" if study else f"wandb:{place}"
        command = f"sngan report {source}{reading.arguments()}"
        return table.from_table(rows, reading, name, _report_folder(name, runs_dir), command)
    if kind == "wandb":
        named = {"config.study": study} if study else {}
        runs = wandb_runs.online_runs(place, {**named, **(filters or {})}, tell)
        return _mirrored(source, runs, study, None, runs_dir)
    if kind == "wandb-files":
        folder = Path(place)
        folder = folder if folder.name == "wandb" or not (folder / "wandb").is_dir() else folder / "wandb"
        return _mirrored(source, wandb_runs.offline_runs(folder), study, folder.parent, runs_dir)
    return records.read(Path(place))


def _report_folder(name: str, runs_dir: str) -> Path:
    """For the report of another program's runs. Raises InputError if it would replace that of records."""
    folder = runs_root(runs_dir) / name
    try:
        holds_records = os.path.lexists(folder / "study.yaml") or bool(run_folders(folder))
    except (OSError, ValueError) as error:  # a name that is too long
        raise InputError(f"the report of {shown(name)} cannot be written: {error}") from error
    if holds_records:
        raise InputError(f"{folder} holds records of a study; give the table another name, or another --runs-dir")
    return folder


def _mirrored(source: str | Path, runs: list[Mirrored], study: str, home: Path | None, runs_dir: str) -> Study:
    """The one study of which W&B has these runs. `home`: its folder of records, if W&B's files lie there."""
    runs = [run for run in runs if study in ("", run.study)]
    if not runs:
        raise InputError(f"no runs of {f'the study {study}' if study else 'this program'} at {source}")
    name = only_study((run.study for run in runs), str(source))
    runs.sort(key=lambda run: (run.found.status["state"] in RESULTS, run.started))  # what comes later, counts
    found = {run.config.run_id: run.found for run in runs}
    plan = None
    if home and (home / "study.yaml").exists():
        plan = read_study(home / "study.yaml")
    for _, text in sorted({(run.started, run.study_file) for run in runs if run.study_file}, reverse=True):
        try:
            plan = plan or parse_study(text)
        except InputError as error:
            _LOG.warning("a study file that W&B has of %s is left out: %s", name, error)
    plan = plan or single_runs(name, (run.config for run in runs))
    return assemble(plan, home or runs_root(runs_dir) / plan.name, found)
