"""What the page says besides tables and figures: how to read it, what is wrong with runs, versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis import measured
from analysis.events import Thresholds
from analysis.page.tables import Table
from analysis.stats import APPROXIMATE_BELOW
from analysis.study import Study
from experiments.record import RESULTS
from experiments.study import JUDGED
from sngan.arms import ARMS

READING = (
    "A run is one training. Its arm says what is done to the discriminator; its seed fixes initial weights, data order "
    "and latents, which the arms share: differences are paired.",
    "Seeds are the sample. Bands and intervals are over seeds, never over evaluations of one model; n stands beside "
    "every number.",
    "Runs that diverged or failed are counted, as runs without an end, and rank worst in comparisons. Nothing is left "
    "out silently, and no run is given an fd that it did not have: quality is compared by the gain over a trivial "
    "sampler, which is 0 without an end.",
    "sigma is the exact largest singular value of a layer's weight matrix, not the power iteration's estimate. It is "
    "not the operator norm of the convolution.",
    "Verdicts come from thresholds that were fixed beforehand; inconclusive is the default.",
    "A GAN's loss is not its quality. Losses and gradients show how steadily a run trains; fd, coverage and modes say "
    "what it learned, in the features of a small classifier named below; and look at the samples.",
)

READING_FOREIGN = (
    "A run is one training. Runs of different arms with one seed are compared as pairs.",
    READING[1],
    "Runs that diverged or failed are counted, as runs without an end, and rank worst in comparisons. Nothing is left "
    "out silently, and no run is given a quality that it did not have.",
    "An arm is called better only if the whole 95 % interval of the paired difference lies on that side and the "
    "adjusted p is at most 0.05; that nothing can be said is the default.",
)


def content_of(
    study: Study, shown: list[Table], thresholds: Thresholds, short: Sequence[str] = (), machines: str = ""
) -> dict[str, Any]:
    runs = study.runs
    seeds = runs.groupby(["context", "variant"])["seed"].nunique()
    versions = {
        "code": ", ".join(f"{c}{' with changes' if d else ''}" for c, d in _distinct(runs, "git_commit", "git_dirty")),
        "torch": ", ".join(v for (v,) in _distinct(runs, "torch")),
        "devices": ", ".join(v for (v,) in _distinct(runs, "device_name")),
        "training version": ", ".join(str(int(v)) for (v,) in _distinct(runs, "training_version")),
        "seeds per arm": f"{seeds.min()}" if seeds.nunique() == 1 else f"{seeds.min()} to {seeds.max()}",
    }
    problems = runs.loc[(runs["state"] != "finished") | (runs["damage"] != ""), ["run_id", "state", "step"]]
    reasons = [runs.loc[problems.index, name].fillna("") for name in ("error", "damage")]
    problems["error"] = [", ".join(filter(None, pair)) for pair in zip(*reasons, strict=True)]
    judged = Counter(context for context, _, _ in measured.protocols_of(study))
    trained = runs.loc[runs["state"].isin(RESULTS), "training_version"].dropna().astype(int)
    return {
        "mixed_protocols": [context for context, count in judged.items() if count > 1],
        "mixed_versions": sorted(set(trained)) if trained.nunique() > 1 else [],
        "name": study.name,
        "question": study.description,
        "account": study.account.to_dict(),
        "total": len(runs),
        "extra": study.extra,
        "problems": problems.to_dict("records"),
        "primary": _primary(study),
        "machines": machines,
        "short": short,
        "warnings": list(study.warnings),
        "foreign": study.foreign,
        "few_seeds": int(seeds.min()) if seeds.min() < APPROXIMATE_BELOW else 0,
        "tables": shown,
        "evidenced": {claim for table in shown if table.file == "evidence" for claim in table.frame["claim"]},
        "thresholds": [] if study.foreign else thresholds.table(),
        "reading": READING_FOREIGN if study.foreign else READING,
        "versions": {key: value for key, value in versions.items() if value},
        "arms": [
            {"slug": arm, "label": ARMS[arm].label, "source": ARMS[arm].source}
            for arm in ARMS if (runs["arm"] == arm).any() and not study.foreign
        ],
        "command": study.command or f"sngan report {study.name}",
    }  # fmt: skip


def _primary(study: Study) -> str:
    """In which contexts the primary outcomes are judged, and who said so."""
    if study.foreign:
        return ""
    contexts = list(study.runs["context"].unique())
    if not study.primary and len(contexts) == 1:
        return "The primary outcomes, failures and spread over seeds of sn_dcgan against dcgan, have one context here."
    if not study.primary:
        return (
            "The study's file names no context for the primary outcomes (primary: {failures: .., spread: ..}): so none "
            "of its claims is primary, failures and spread are judged among the others, and C14 is not judged."
        )
    said = "; ".join(f"{JUDGED[outcome]}: {context}" for outcome, context in study.primary.items())
    rest = ", ".join(outcome for outcome in JUDGED if outcome not in study.primary)
    return (
        f"The study's file names beforehand the contexts in which it judges {said}. What a launched or frozen "
        "study has named stays." + (f" No context is named for {rest}." if rest and len(contexts) > 1 else "")
    )


def _distinct(runs: pd.DataFrame, *columns: str) -> list[tuple[Any, ...]]:
    return list(runs[list(columns)].dropna().drop_duplicates().itertuples(index=False, name=None))
