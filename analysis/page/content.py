"""What the page says besides tables and figures: how to read it, what is wrong with runs, versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from analysis import measured
from analysis.events import Thresholds
from analysis.page.opening import NOTHING, Opening
from analysis.page.pictures import Picture
from analysis.page.tables import Table
from analysis.stats import APPROXIMATE_BELOW
from analysis.study import Study
from analysis.terms import Terms
from analysis.variants import labelled
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


_OPEN = (  # anchor, title, figures, tables, and what is folded: tables and figures of these names
    (
        "quality-and-norms", "Quality and spectral norms", ("distance", "sigma"), ("arms",),
        ("quality", "sigma", "protocol"),
    ),
    (
        "what-failed", "Failures", ("causes", "survival"), (),
        ("failures", "paired_failures", "sensitivity"),
    ),
    (
        "judged", "Verdicts", ("forest",), ("verdicts",),
        ("evidence", "comparisons", "differences", "tuned", "rates", "interactions", "reach", "power", "operating"),
    ),
)  # fmt: skip
_OPEN_FOREIGN = (
    ("quality-and-norms", "Quality", ("quality",), ("arms",), ("across",)),
    _OPEN[1],
    ("judged", "Arms compared", ("forest",), (), ("comparisons", "differences", "interactions")),
)


_STEADY = "how steadily a run trains;"


def reading(terms: Terms, given: Sequence[str] = ()) -> list[str]:
    """How to read the page of this program's runs; `given`: names of the user's own images among their data sets."""
    *others, last = map(terms.said, READING)
    modes = ", coverage and modes" if terms.classes else " and coverage"
    said = {
        "pixels": "fd_pixels says how far the pixels of its samples are from the data's; and look at the samples, "
        "since nothing else judges them.",
        "inception": f"FID{modes} say what it learned, in the features of Inception; and look at the samples.",
        "classifier": f"fd{modes} say what it learned, in the features of a small classifier named below; and look at "
        "the samples.",
    }
    named = (
        f" {', '.join(given)}: the user's own images, named by the start of their content's SHA-256." if given else ""
    )
    others[0] += named
    return [*others, f"{last.partition(_STEADY)[0]}{_STEADY} {said[terms.sight or 'classifier']}"]


class Folded(NamedTuple):
    """What is shown on demand: figures of one kind in their contexts, and a table."""

    anchor: str
    title: str
    pictures: list[Picture]
    table: Table | None


class Section(NamedTuple):
    """A part of the page: figures and tables that are seen at once, and what is folded."""

    anchor: str
    title: str
    pictures: list[Picture]
    tables: list[Table]
    folded: list[Folded]


def sections_of(foreign: bool, shown: Sequence[Table], pictures: Sequence[Picture]) -> list[Section]:
    """Everything that there is to see, once: the last section has what the others do not name. Nothing empty."""
    tables = {table.file: table for table in shown if not table.is_empty}
    kinds: dict[str, list[Picture]] = {}
    for picture in pictures:
        if picture.markup:
            kinds.setdefault(picture.kind, []).append(picture)
    result, later = [], []
    for anchor, title, figures, open_tables, folded in _OPEN_FOREIGN if foreign else _OPEN:
        seen = [picture for kind in figures for picture in kinds.pop(kind, [])]
        at_once = [tables.pop(name) for name in open_tables if name in tables]
        rest = [_folded(name, kinds, tables) for name in folded if name in kinds or name in tables]
        if anchor == "judged" and not foreign and not at_once:
            title = "Arms compared"
        if seen or at_once:
            result.append(Section(anchor, title, seen, at_once, rest))
        else:
            later += rest
    rest = later + [_folded(name, kinds, tables) for name in [*kinds, *(name for name in tables if name not in kinds)]]
    return [*result, Section("more", "Everything else", [], [], rest)]


def _folded(name: str, kinds: dict[str, list[Picture]], tables: dict[str, Table]) -> Folded:
    pictures, table = kinds.pop(name, []), tables.pop(name, None)
    title = table.title if table else pictures[0].title.removesuffix(f": {pictures[0].context}")
    return Folded(name if table else f"figures-{name}", title, pictures, table)


def content_of(
    study: Study,
    shown: list[Table],
    thresholds: Thresholds,
    opening: Opening = NOTHING,
    pictures: Sequence[Picture] = (),
) -> dict[str, Any]:
    """What the template shows."""
    runs = study.runs
    contexts = [str(name) for name in runs["context"].unique()]
    sections = sections_of(study.foreign, shown, pictures)
    asked = study.description.partition("?")
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
    problems["error"] = [", ".join(dict.fromkeys(filter(None, pair))) for pair in zip(*reasons, strict=True)]
    judged = Counter(context for context, _, _ in measured.protocols_of(study))
    trained = runs.loc[runs["state"].isin(RESULTS), "training_version"].dropna().astype(int)
    return {
        "mixed_protocols": [context for context, count in judged.items() if count > 1],
        "mixed_versions": sorted(set(trained)) if trained.nunique() > 1 else [],
        "name": study.name,
        "asked": asked[0] + asked[1] if asked[1] else "",
        "question": study.description,
        "contexts": contexts if len(contexts) > 1 else [],
        "sections": sections,
        "anchors": _anchors(sections),
        "figures": {(picture.kind, picture.context): picture.anchor for picture in pictures if picture.markup},
        "opening": opening,
        "account": study.account.to_dict(),
        "total": len(runs),
        "extra": study.extra,
        "problems": problems.to_dict("records"),
        "primary": labelled(_primary(study)),
        "warnings": list(study.warnings),
        "foreign": study.foreign,
        "few_seeds": int(seeds.min()) if seeds.min() < APPROXIMATE_BELOW else 0,
        "tables": [table for table in shown if not table.is_empty],
        "evidenced": {cell for table in shown if table.file == "evidence" and not table.is_empty
                      for cell in table.shown["claim"]},
        "thresholds": [] if study.foreign else thresholds.table(study.terms),
        "reading": READING_FOREIGN if study.foreign else reading(study.terms, _given(study)),
        "versions": {key: value for key, value in versions.items() if value},
        "arms": [
            {"slug": arm, "label": ARMS[arm].label, "words": ARMS[arm].words, "source": ARMS[arm].source}
            for arm in ARMS if (runs["arm"] == arm).any() and not study.foreign
        ],
        "command": study.command or f"sngan report {study.name}",
    }  # fmt: skip


def _given(study: Study) -> list[str]:
    """Names of the data sets that are a user's own images."""
    if "data_name" not in study.runs:
        return []
    return list(study.runs.loc[study.runs["data_sha256"] != "", "data_name"].unique())


def _anchors(sections: Sequence[Section]) -> set[str]:
    """Of the sections, the tables, and the kinds of figures that are shown."""
    folded = [of for section in sections for of in section.folded]
    tables = [table for section in sections for table in section.tables] + [of.table for of in folded if of.table]
    pictures = [picture for of in (*sections, *folded) for picture in of.pictures]
    names = [section.anchor for section in sections]
    return {*names, *(table.file for table in tables), *(picture.kind for picture in pictures)}


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
