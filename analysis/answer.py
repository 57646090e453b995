"""What README says of the reference study: how far it is, and once it is whole its verdicts.

`python -m analysis.answer` prints it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from analysis.claims import CLAIMS, NAMED, judge
from analysis.page.tables import interval
from analysis.sources.frozen import thaw
from analysis.stability import summarize
from experiments.ledger import kept_in, read_manifest, todays
from experiments.study import Study, find
from sngan.config import InputError

REFERENCE = "mnist-short"
_FROZEN = Path(__file__).parents[1] / "experiments" / "results" / REFERENCE / "data"
_ASKED = {  # what is judged in a context that the study's file names, and over all learning rates: of which arms
    **dict.fromkeys(("C7a", "C7b"), "`sn_dcgan` against `dcgan`"),
    "C14a": "`sn` against `plain`",
    "C14b": "`sn` against `dcgan`",
    "C17": "`sn` against `plain`, and `sn_dcgan` against `dcgan`",
}


def answer(plan: Study, folder: Path) -> list[str]:
    """Lines of Markdown on the study that is frozen in `folder`.

    As long as runs are missing, no outcome is looked at: the lines say how many seeds there are, and what will be
    judged. Raises InputError if nothing is frozen there.
    """
    planned, manifest = {config.run_id: config for config in plan.configs}, read_manifest(folder)
    if (found := manifest.get("study")) != plan.name:
        raise InputError(f"{folder} holds the study {found}, not {plan.name}")
    kept = todays(kept_in(folder, manifest), planned).keys() & planned.keys()
    missing = {config.seed for run_id, config in planned.items() if run_id not in kept}
    seeds = {config.seed for config in plan.configs}
    if missing:
        return _closed(plan, len(kept), len(seeds - missing), len(seeds))
    study = thaw(folder)
    return _open(judge(study, summarize(study.history, study.runs)), len(kept), len(seeds))


def _closed(plan: Study, n_runs: int, n_seeds: int, of_seeds: int) -> list[str]:
    lines = [
        f"Not yet: the reference study, [{plan.name}](experiments/studies/{plan.name}.yaml), is still running. "
        f"{n_seeds} of its {of_seeds} seeds are complete ({n_runs} of {len(plan.configs)} runs). Its plan was fixed "
        "before its first run, and the rules of its verdicts before any outcome was looked at, as none has been. It "
        "will give a [verdict](analysis/README.md#verdicts) on each of these claims, with effect, interval and number "
        "of seeds:",
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


def _open(claims: pd.DataFrame, n_runs: int, n_seeds: int) -> list[str]:
    lines = [
        f"From {n_runs} runs, {n_seeds} seeds per cell. A claim is supported, or contradicted, if its whole interval "
        "lies on that side of a threshold that was fixed before any outcome was looked at, and its adjusted p is at "
        "most 0.05:",
        "",
        "| claim | measured | judged at | verdict | effect [95 %] | n |",
        "|---|---|---|---|---|---|",
    ]
    for row in claims[claims["claim"].isin(_ASKED) & claims["decides"]].to_dict("records"):
        verdict = f"**{row['verdict']}**" + (f" ({row['reason']})" if row["reason"] else "")
        effect = interval(row["effect"], row["low"], row["high"])
        cells = (row["statement"], row["evidence"], row["context"], verdict, effect, row["n"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def main() -> None:
    try:
        print("\n".join(answer(find(REFERENCE), _FROZEN)))
    except InputError as error:
        sys.exit(f"answer: {error}")


if __name__ == "__main__":
    main()
