"""What README says of the reference study: how far it is, and once it is whole its verdicts.

`python -m analysis.answer` prints it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from analysis.claims import CLAIMS, NAMED, judge
from analysis.page.tables import interval
from analysis.sensitivity import flips
from analysis.sources.frozen import thaw
from analysis.stability import summarize
from analysis.study import Study, in_double, of_one_version, sound
from experiments.ledger import kept_in, read_manifest, todays
from experiments.study import Study as Plan
from experiments.study import find
from sngan.config import InputError

REFERENCE = "mnist-short"
RESULTS = Path(__file__).parents[1] / "experiments" / "results"
_ASKED = {  # what is judged in a context that the study's file names, and over all learning rates: of which arms
    **dict.fromkeys(("C7a", "C7b"), "`sn_dcgan` against `dcgan`"),
    "C14a": "`sn` against `plain`",
    "C14b": "`sn` against `dcgan`",
    "C17": "`sn` against `plain`, and `sn_dcgan` against `dcgan`",
}


def answer(plan: Plan, folder: Path) -> list[str]:
    """Lines of Markdown on the study that is frozen in `folder`.

    As long as runs are missing and no results have been written beside `folder` (`analysis.results`), no outcome is
    looked at: the lines say how many seeds there are, and what will be judged. A verdict that is another one in some
    view of `sensitivity.csv` beside it is marked. Raises InputError if nothing is frozen there.
    """
    planned, manifest = {config.run_id: config for config in plan.configs}, read_manifest(folder)
    if (found := manifest.get("study")) != plan.name:
        raise InputError(f"{folder} holds the study {found}, not {plan.name}")
    kept = todays(kept_in(folder, manifest), planned).keys() & planned.keys()
    missing = {config.seed for run_id, config in planned.items() if run_id not in kept}
    seeds = {config.seed for config in plan.configs}
    counts = _Counts(len(kept), len(plan.configs), len(seeds - missing), len(seeds))
    if missing and not (folder.parent / "statistics.json").exists():
        return _closed(plan, counts)
    study = opened(folder)
    views = folder.parent / "sensitivity.csv"
    marks = flips(pd.read_csv(views, keep_default_na=False)) if views.exists() else None
    return _open(judge(study, summarize(study.history, study.runs)), counts, marks)


def opened(folder: Path) -> Study:
    """The frozen study as its outcomes are read: sound results of one training version; benchmarks lie with results."""
    study = in_double(sound(of_one_version(thaw(folder))))
    return replace(study, bench=folder.parents[1] / "bench")


class _Counts(NamedTuple):
    runs: int
    planned_runs: int
    seeds: int
    planned_seeds: int


def _closed(plan: Plan, of: _Counts) -> list[str]:
    lines = [
        f"Not yet: the reference study, [{plan.name}](experiments/studies/{plan.name}.yaml), is still running. "
        f"{of.seeds} of its {of.planned_seeds} seeds are complete ({of.runs} of {of.planned_runs} runs). Its plan was "
        "fixed before its first run, and the rules of its verdicts before any outcome was looked at, as none has been. "
        "It will give a [verdict](analysis/README.md#verdicts) on each of these claims, with effect, interval and "
        "number of seeds:",
        "",
        "| claim | arms | judged at |",
        "|---|---|---|",
    ]
    for claim in CLAIMS:
        if claim.id in _ASKED:
            context = plan.primary.get(NAMED.get(claim.id, ""), {})
            where = ", ".join(f"{name} {value}" for name, value in context.items()) or "all learning rates together"
            lines.append(f"| {claim.statement} | {_ASKED[claim.id]} | {where} |")
    return lines


def _open(claims: pd.DataFrame, of: _Counts, marks: pd.DataFrame | None) -> list[str]:
    seeds = f"{of.seeds} seeds per cell" if of.runs == of.planned_runs else (
        f"{of.seeds} of the {of.planned_seeds} planned seeds in every cell, the rest still to be trained"
    )  # fmt: skip
    lines = [
        f"From {of.runs} runs, {seeds}. A claim is supported if the whole interval of each of its parts lies beyond a "
        "threshold that was fixed before any outcome was looked at, contradicted if that of one part shows an opposite "
        "effect, each with an adjusted p of at most 0.05:",
        "",
        "| claim | measured | judged at | verdict | effect [95 %] | n |",
        "|---|---|---|---|---|---|",
    ]
    changed = {} if marks is None else {(m.claim, m.context): m for m in marks.itertuples() if m.flips}
    for row in claims[claims["claim"].isin(_ASKED) & claims["decides"]].to_dict("records"):
        if row["claim"] in NAMED and row["family"] != "primary" and not row["claim"].startswith("C14"):
            continue  # in a context that the file does not name
        verdict = f"**{row['verdict']}**" + (f" ({row['reason']})" if row["reason"] else "")
        if mark := changed.get((row["claim"], row["context"])):
            verdict += f" (in other views {mark.which})"
        effect = interval(row["effect"], row["low"], row["high"])
        cells = (row["statement"], row["evidence"], row["context"], verdict, effect, row["n"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def with_answer(text: str) -> str:
    """README with its answer renewed. Raises InputError if it has no place for one."""
    start, end = "<!-- made by `python -m analysis.answer` -->\n", "\n<!-- end -->"
    before, mark, rest = text.partition(start)
    _, close, after = rest.partition(end)
    if not mark or not close:
        raise InputError(f"no place for the answer: expected {start.strip()} and <!-- end -->")
    said = "\n".join(answer(find(REFERENCE), RESULTS / REFERENCE / "data"))
    return before + start + said + end + after


def main() -> None:
    try:
        print("\n".join(answer(find(REFERENCE), RESULTS / REFERENCE / "data")))
    except InputError as error:
        sys.exit(f"answer: {error}")


if __name__ == "__main__":
    main()
