"""A study's runs from the folders where they are frozen and from the records here: as if they had one home."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from analysis.sources.frozen import by_plan, larger_plan, read_runs
from analysis.sources.records import of_record
from analysis.study import Found, Study, assemble, reference_version
from experiments.ledger import check, intact, read_manifest, said, same_bits
from experiments.record import RESULTS, Record, run_folders
from experiments.study import Study as Plan
from experiments.study import parse as parse_study
from sngan.config import InputError


class _Candidate(NamedTuple):
    where: Path
    found: Found

    @property
    def status(self) -> dict[str, Any]:
        return self.found.status


def read(plan: Plan, folder: Path, have: Sequence[Path], replaces: bool = False, mixed: bool = False) -> Study:
    """The runs of a plan: what is frozen in `have`, and what has been recorded in `folder`, which need not be there.

    Of a run that is there more than once the first frozen result counts, with `replaces` the one that was recorded
    here; `warnings` name the others. Results of other versions of the training code do not count against one of
    `reference_version`, unless `mixed`.

    Raises InputError if there are no runs at all, a file is not what was frozen, or two results contradict each other.
    """
    manifests = {place: intact(place) for place in have}
    frozen = {place: by_plan(read_runs(place, manifest), plan) for place, manifest in manifests.items()}
    planned = {config.run_id for config in plan.configs}
    here = {record.run_id for record in run_folders(folder)}
    if not here and not any(planned & set(runs) for runs in frozen.values()):
        raise InputError(
            f"no run of {plan.name} has started in {folder}, and none is frozen"
            f"{f' in {_listed(have)}' if have else ''}: train first with `sngan sweep {plan.name}`"
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
            same = [one for one in several if _is_sound(one) and same_bits(counts.status, one.status)]
            found[config.run_id] = max(same or [counts], key=lambda one: len(one.found.samples)).found
            lines += [_named(config.run_id, counts, other) for other in others]
    of_the_study = (frozen[place] for place in have if manifests[place]["study"] == plan.name)
    extra = here.union(*of_the_study) - planned - plan.not_chosen
    study = assemble(plan, folder, found, sorted(extra), cached=folder.is_dir())
    return replace(study, warnings=lines)


def largest_plan(plan: Plan, have: Sequence[Path]) -> Plan:
    """The plan, or a larger one of the same study that is frozen in one of these folders; of single runs all of them.

    Raises InputError if that one has named other contexts for its primary outcomes.
    """
    for place in have:
        manifest = read_manifest(place)
        if not plan.text and manifest["study"] == plan.name:
            both = {c.run_id: c for c in plan.configs} | {i: c for i, (c, _) in read_runs(place, manifest).items()}
            plan = replace(plan, configs=[both[run_id] for run_id in sorted(both)], cells=len(both))
        if manifest["study"] == plan.name and plan.text and manifest["plan"]:
            text = larger_plan(plan.text, manifest["plan"], place)
            plan = plan if text in (None, plan.text) else parse_study(text)
    return plan


def _is_sound(one: _Candidate) -> bool:
    return one.status["state"] in RESULTS and not one.found.damage


def _counting(run_id: str, several: list[_Candidate], reference: Any) -> tuple[_Candidate, list[_Candidate]]:
    """Of what there is of a run the one that counts, and the other results.

    A sound result of the reference's version comes before another one, and any of these before what is no result.
    Raises InputError if two results contradict each other.
    """

    def rank(one: _Candidate) -> int:
        if not _is_sound(one):
            return 2
        return int(reference is not None and one.status.get("training_version") != reference)

    counts = min(several, key=rank)  # the first of equals
    others = [one for one in several if _is_sound(one) and not same_bits(counts.status, one.status)]
    for other in others:
        check(run_id, counts.where, counts.status, other.where, other.status)
    return counts, others


def _named(run_id: str, counts: _Candidate, other: _Candidate) -> str:
    return (
        f"{run_id}: the result in {counts.where} counts ({said(counts.status)}), not the other one in {other.where} "
        f"({said(other.status)})"
    )


def _listed(folders: Sequence[Path]) -> str:
    return ", ".join(map(str, folders))
