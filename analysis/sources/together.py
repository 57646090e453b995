"""A study's runs from the folders where they are frozen and from the records here: as if they had one home."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from analysis.sources.frozen import by_plan, read_runs
from analysis.sources.records import of_record
from analysis.study import Found, Study, assemble, reference_version
from experiments.ledger import check, intact, listed, said, same_bits
from experiments.record import RESULTS, Record, run_folders
from experiments.study import Study as Plan
from sngan.config import InputError


class _Candidate(NamedTuple):
    where: Path
    found: Found

    @property
    def status(self) -> dict[str, Any]:
        return self.found.status


def read(
    plan: Plan, folder: Path, have: Sequence[Path], replaces: bool = False, mixed: bool = False, launch: str | None = ""
) -> Study:
    """The runs of a plan: what is frozen in `have`, and what has been recorded in `folder`, which need not be there.

    Of a run that is there more than once the first frozen result counts, with `replaces` the one that was recorded
    here; `warnings` name the others. Results of other versions of the training code do not count against one of
    `reference_version`, unless `mixed`. `launch`: the command that trains the plan's runs; None if
    there need be none.

    Raises InputError if there are no runs at all, a file is not what was frozen, or two results contradict each other.
    """
    manifests = {place: intact(place) for place in have}
    frozen = {place: by_plan(read_runs(place, manifest), plan) for place, manifest in manifests.items()}
    planned = {config.run_id for config in plan.configs}
    here = {record.run_id for record in run_folders(folder)}
    if launch is not None and not here and not any(planned & set(runs) for runs in frozen.values()):
        looked = f" in {listed(list(map(str, have)))}" if have else ""
        raise InputError(
            f"no run of {plan.name} has started in {folder}, and none is frozen{looked}: "
            f"train first with `{launch or f'sngan sweep {plan.name}'}`"
        )
    candidates: dict[str, list[_Candidate]] = {}
    for place, runs in frozen.items():
        for run_id in runs.keys() & planned:
            candidates.setdefault(run_id, []).append(_Candidate(place, runs[run_id]))
    for run_id in planned & here:
        local = _Candidate(folder / run_id, of_record(Record(folder / run_id)))
        candidates.setdefault(run_id, []).insert(0 if replaces and _is_sound(local) else len(have), local)
    reference = reference_version(one.status for several in candidates.values() for one in several)
    found, lines = {}, []
    for config in plan.configs:
        if several := candidates.get(config.run_id):
            counts, others = _counting(config.run_id, several, None if mixed else reference)
            found[config.run_id] = counts.found
            lines += [_named(config.run_id, counts, other) for other in others]
    of_the_study = (frozen[place] for place in have if manifests[place]["study"] == plan.name)
    extra = here.union(*of_the_study) - planned - plan.not_chosen
    study = assemble(plan, folder, found, sorted(extra), cached=folder.is_dir())
    return replace(study, warnings=lines)


def _is_sound(one: _Candidate) -> bool:
    return one.status["state"] in RESULTS and not one.found.damage


def _counting(run_id: str, several: list[_Candidate], reference: Any) -> tuple[_Candidate, list[_Candidate]]:
    """Of what there is of a run the one that counts, and the other results.

    A sound result of the reference's version comes before another one, and any of these before what is no result. Of
    equal results it is the one with the most sample grids. Raises InputError if two results contradict each other.
    """

    def rank(one: _Candidate) -> int:
        if not _is_sound(one):
            return 2
        return int(reference is not None and one.status.get("training_version") != reference)

    first = min(several, key=rank)  # the first of equals
    equal = [one for one in several if rank(one) == rank(first) and same_bits(first.status, one.status)]
    counts = max(equal, key=lambda one: len(one.found.samples)) if _is_sound(first) else first
    others = [one for one in several if _is_sound(one) and not same_bits(counts.status, one.status)]
    for other in others:
        check(run_id, counts.where, counts.status, other.where, other.status)
    return counts, others


def _named(run_id: str, counts: _Candidate, other: _Candidate) -> str:
    return (
        f"{run_id}: the result in {counts.where} counts ({said(counts.status)}), not the other one in {other.where} "
        f"({said(other.status)})"
    )
