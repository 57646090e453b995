"""Records of a study: a folder of run folders."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
from pyarrow import json

from analysis.study import Found, Study, assemble, evaluation_table
from experiments.record import Record, readable_rows, recorded_configs, run_folders
from experiments.study import read as read_study
from experiments.study import single_runs
from sngan.config import InputError
from sngan.files import leads_out, read_within


def read(folder: Path) -> Study:
    """The study whose records lie in `folder`: the runs of its study.yaml, or without one all that are found.

    Without a study file `warnings` name the runs whose configuration cannot be read, which are left out. Raises
    InputError if there are no runs, or a study file cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"no records at {folder}: it is not a folder; train first with `sngan sweep {folder.name}`")
    records = run_folders(folder)
    wrong: dict[str, str] = {}
    launched = folder / "study.yaml"
    if leads_out(launched, folder):
        raise InputError(f"{launched} leads out of {folder}: put the file itself there")
    if os.path.lexists(launched):
        plan = read_study(launched)
    else:
        configs, wrong = recorded_configs(folder)
        plan = single_runs(folder.name, configs)
    if wrong and not plan.configs:
        raise InputError(f"no run in {folder} can be read: {next(iter(wrong.values()))}")
    if not plan.configs or not records:
        raise InputError(
            f"no records at {folder}: no run has started there; train first with `sngan sweep {plan.name}`"
        )
    planned = {config.run_id for config in plan.configs}
    found = {run_id: of_record(Record(folder / run_id)) for run_id in planned}
    extra = [record.run_id for record in records if record.run_id not in planned]
    study = assemble(plan, folder, found, extra, cached=True)
    return replace(study, warnings=[f"{run_id} is left out: {why}" for run_id, why in wrong.items()])


def of_record(record: Record) -> Found:
    """What a run's folder has of it."""
    status = record.status()
    damage, protocol = status.get("damaged") or record.damage(status), {}
    if not damage:
        try:
            protocol = record.protocol()
        except InputError as error:
            damage = str(error)
    return Found(
        status, damage, protocol, lambda: rows(record.metrics_path), record.grids(),
        lambda: evaluation_table(readable_rows(record.evaluations_path)[0], str(record.evaluations_path)),
        record.real_grid(),
    )  # fmt: skip


def rows(path: Path) -> tuple[pd.DataFrame, str]:
    """The readable rows of metrics.jsonl, and what is wrong with the first that is not."""
    try:  # a whole file at once: five times as fast
        content = read_within(path, path.parent)
        if _is_flat(content):  # Arrow's reader ends the process on JSON that is nested deep
            options = json.ReadOptions(use_threads=False, block_size=2**28)
            table = json.read_json(pyarrow.BufferReader(content), read_options=options)
            if _are_numbers(table):
                return table.to_pandas(), ""
    except (pyarrow.ArrowException, OSError, InputError, KeyError, UnicodeDecodeError):
        pass  # missing, empty, torn or damaged
    found, wrong = readable_rows(path)
    return pd.DataFrame(found), wrong


def _is_flat(content: bytes) -> bool:
    """Whether it can be objects of numbers, one per line."""
    return b"[" not in content and content.count(b"{") == content.count(b"\n") and content.endswith(b"\n")


def _are_numbers(table: pyarrow.Table) -> bool:
    """Whether all columns are numbers, and the steps whole ones that increase from 0 on."""
    kinds = pyarrow.types
    if not all(kinds.is_int64(f.type) or kinds.is_float64(f.type) or kinds.is_null(f.type) for f in table.schema):
        return False
    if not kinds.is_int64(table.schema.field("step").type) or table["step"].null_count:
        return False
    steps = table["step"].to_numpy()
    return bool(len(steps) and steps[0] >= 0 and (np.diff(steps) > 0).all())
