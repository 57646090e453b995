"""Records of a study: a folder of run folders."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow
from pyarrow import json

from analysis.study import Found, Study, assemble, evaluation_table
from experiments.record import Record, readable_rows, recorded_configs, run_folders
from experiments.study import read as read_study
from experiments.study import single_runs
from sngan.config import InputError


def read(folder: Path) -> Study:
    """The study whose records lie in `folder`: the runs of its study.yaml, or without one all that are found.

    Raises InputError if there are none, or a study file or a configuration cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"no records at {folder}: it is not a folder; train first with `sngan sweep {folder.name}`")
    records = run_folders(folder)
    if (folder / "study.yaml").exists():
        plan = read_study(folder / "study.yaml")
    else:
        plan = single_runs(folder.name, recorded_configs(folder))
    if not plan.configs or not records:
        raise InputError(
            f"no records at {folder}: no run has started there; train first with `sngan sweep {plan.name}`"
        )
    planned = {config.run_id for config in plan.configs}
    found = {run_id: of_record(Record(folder / run_id)) for run_id in planned}
    extra = [record.run_id for record in records if record.run_id not in planned]
    return assemble(plan, folder, found, extra, cached=True)


def of_record(record: Record) -> Found:
    """What a run's folder has of it."""
    status = record.status()
    damage, protocol = record.damage(status), {}
    real = record.samples_path / "real.png"
    if not damage:
        try:
            protocol = record.protocol()
        except InputError as error:
            damage = str(error)
    return Found(
        status, damage, protocol, lambda: rows(record.metrics_path), grids(record.samples_path),
        lambda: evaluation_table(readable_rows(record.evaluations_path)[0]), real if real.is_file() else None,
    )  # fmt: skip


def grids(folder: Path) -> dict[int, Path]:
    """step -> PNG of a run's sample grids."""
    found = {path.stem.removeprefix("step-"): path for path in sorted(folder.glob("step-*.png"))}
    return {int(step): path for step, path in found.items() if step.isdecimal()}


def rows(path: Path) -> tuple[pd.DataFrame, str]:
    """The readable rows of metrics.jsonl, and what is wrong with the first that is not."""
    try:  # a whole file at once: five times as fast
        table = json.read_json(path, read_options=json.ReadOptions(use_threads=False, block_size=2**28))
        if pyarrow.types.is_int64(table.schema.field("step").type) and not table["step"].null_count:
            return table.to_pandas(), ""
    except (pyarrow.ArrowException, OSError, KeyError, UnicodeDecodeError):
        pass  # missing, empty, torn or damaged
    found, wrong = readable_rows(path)
    return pd.DataFrame(found), wrong
