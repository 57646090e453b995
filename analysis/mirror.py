"""Where W&B has something else than the records."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import pandas as pd

from analysis.load import Tell, load
from analysis.study import Study, as_recorded
from sngan.config import InputError


def differences(study: Study, found: Mapping[str, Study]) -> tuple[list[str], int]:
    """Where W&B has something else than the record, a line each, and how many runs were compared.

    `study`: of the records; `found`: run id -> the study that W&B has it in. Runs that are missing in the records, or
    train right now, are left out.
    """
    texts, compared = [], 0
    studies = {id(of): of for of in (study, *found.values())}
    recorded = {key: as_recorded(of) for key, of in studies.items()}
    for run in study.runs[~study.runs["state"].isin(["missing", "running"])].itertuples():
        mirrored = found.get(run.run_id)
        if mirrored is None or run.run_id not in set(mirrored.runs["run_id"]):
            texts.append(f"{run.run_id}: W&B does not have it")
            continue
        compared += 1
        other = mirrored.runs.set_index("run_id").loc[run.run_id]
        for name in ("state", "step", "error", "metrics_sha256", "damage"):
            ours, theirs = getattr(run, name), other[name]
            if ours != theirs and not (pd.isna(ours) and pd.isna(theirs)):
                texts.append(f"{run.run_id}: {name} is {_shown(ours)} in the record and {_shown(theirs)} in W&B")
        ours, theirs = (
            rows[rows["run_id"] == run.run_id].set_index("step") if len(rows) else pd.DataFrame()
            for rows in (recorded[id(study)], recorded[id(mirrored)])
        )  # fmt: skip
        texts += [f"{run.run_id}: {text}" for text in _different_rows(ours, theirs)]
    return texts, compared


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)


def mirrors(study: Study, tell: Tell) -> dict[str, Study]:
    """Run id -> what W&B has: on its server if the record has an address, else in its files beside the records.

    Raises InputError if W&B was never told of this study.
    """
    sources = [f"wandb-files:{study.folder}"] if any((study.folder / "wandb").glob("*run-*/run-*.wandb")) else []
    paths = {"/".join(urlsplit(url).path.strip("/").split("/")[:2]) for url in study.runs["wandb_url"].dropna()}
    sources += [f"wandb:{path}" for path in sorted(paths)]
    if not sources:
        raise InputError(f"W&B has nothing of {study.folder}: its runs were trained with --wandb disabled")
    found: dict[str, Study] = {}
    for source in sources:
        mirrored = load(source, study.name, tell=tell)
        runs = mirrored.runs[mirrored.runs["state"] != "missing"]
        found |= dict.fromkeys(runs["run_id"], mirrored)
    return found


def _different_rows(ours: pd.DataFrame, theirs: pd.DataFrame) -> Iterator[str]:
    for one, two, where in ((ours, theirs, "W&B"), (theirs, ours, "the record")):
        if len(steps := one.index.difference(two.index)):
            yield f"{len(steps)} rows are not in {where}, the first at step {steps[0]}"
    steps = ours.index.intersection(theirs.index)
    for metric in sorted(name for name in {*ours, *theirs} if "/" in name):
        one, two = (
            frame.loc[steps, metric] if metric in frame else pd.Series(math.nan, index=steps)
            for frame in (ours, theirs)
        )
        different = steps[~((one == two) | (one.isna() & two.isna()))]
        if len(different):
            first = different[0]
            yield (
                f"{metric} differs at {len(different)} of {len(steps)} steps, first at step {first}: "
                f"{one[first]:.9g} in the record, {two[first]:.9g} in W&B"
            )
