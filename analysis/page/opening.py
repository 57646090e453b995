"""What the page says first of a study of this project: a paragraph that is true for its runs, and its verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.page.tables import written
from analysis.stats import APPROXIMATE_BELOW
from analysis.study import Study
from analysis.variants import in_order, label_of, labelled

_CONTEXTS = 6  # as many are told one by one
_MARKS = {"supported": "\N{CHECK MARK}", "contradicted": "\N{BALLOT X}"}
DECIDED = ("supported", "contradicted", "depends on the view")
_FACTOR = 1.1  # what arms' sigmas differ by, to be worth a sentence


class Said(NamedTuple):
    """A sentence, and the anchor of what it rests on."""

    text: str
    anchor: str = ""


class Line(NamedTuple):
    """A verdict on a claim, and for each context that has it the effect with interval and n."""

    claim: str
    statement: str
    verdict: str
    effect: str

    @property
    def mark(self) -> str:
        return _MARKS.get(self.verdict, "?")

    @property
    def text(self) -> str:
        return f"{self.claim}: {self.statement} {self.verdict.capitalize()}: {self.effect}."


def paragraph(study: Study, arms: pd.DataFrame, sigma: pd.DataFrame, claims: pd.DataFrame) -> list[Said]:
    """How many runs there are, what they show, or why nothing can be said. Frames: those of the tables."""
    said = [Said(_runs(study), "account")]
    contexts = list(arms["context"].unique()) if len(arms) else []
    if len(contexts) == 1:
        said.append(Said(_quality(study, arms), "arms"))
    for context in contexts[:_CONTEXTS] if len(contexts) > 1 else ():
        if text := _best_and_worst(study, context, arms[arms["context"] == context]):
            said.append(Said(text, "arms"))
    if len(contexts) > _CONTEXTS:
        said.append(Said(f"{len(contexts) - _CONTEXTS} more contexts stand below.", "arms"))
    if len(arms):
        said.append(_failures(arms))
    if text := _sigma(sigma, several=len(contexts) > 1):
        said.append(Said(text, "sigma"))
    return [*said, _tested(study, claims)]


def _runs(study: Study) -> str:
    runs, count = study.runs, study.account
    n = runs.groupby(["context", "variant"])["seed"].nunique()
    arms, contexts = runs["variant"].nunique(), list(runs["context"].unique())
    each = f"{n.min()}" if n.nunique() == 1 else f"{n.min()} to {n.max()}"
    where = f" on {contexts[0]}"
    if len(contexts) > 1:
        where = f" in each of {len(contexts)} contexts"
        where += f" ({', '.join(contexts)})" if len(contexts) <= _CONTEXTS else ""
    states = [f"{number:,} {state}" for state, number in count.items() if number]
    ended = "all finished" if count.get("finished", 0) == len(runs) else ", ".join(states)
    plural = "" if arms == 1 else "s"
    return (
        f"{len(runs):,} run{'s' if len(runs) != 1 else ''}: {arms} arm{plural} with {each} seed"
        f"{'' if each == '1' else 's'} each{where}; {ended}."
    )


def _estimates(names: Sequence[str], values: Sequence[str]) -> str:
    return ", ".join(f"{label} {value}" for label, value in zip(names, values, strict=True))


def _measured(row: dict[Any, Any]) -> str:
    return f"{written(row['q_centre'])} [{written(row['q_low'])}, {written(row['q_high'])}]"


def _quality(study: Study, arms: pd.DataFrame) -> str:
    known = arms[np.isfinite(arms["q_centre"].astype(float))]
    lost = [label_of(v) for v in arms.loc[~arms.index.isin(known.index), "arm"]]
    text = f"At the end of training {study.terms.quality} ({study.terms.better} is better): "
    words = [_measured(row) for row in known.to_dict("records")]
    text += _estimates([label_of(v) for v in known["arm"]], words) if len(known) else "no arm has one"
    if lost:
        text += f"; half of the runs or more have no end: {', '.join(lost)}"
    trivial = study.runs["trivial_fd"].dropna()
    return f"{text}; the trivial sampler {written(float(trivial.iloc[0]))}." if len(trivial) else f"{text}."


def _best_and_worst(study: Study, context: str, arms: pd.DataFrame) -> str:
    known = arms[arms["q_centre"].notna()].sort_values("q_centre", kind="stable").to_dict("records")
    if not known or np.isinf(known[0]["q_centre"]):
        return ""
    text = f"{context}: at the end of training {study.terms.quality} ({study.terms.better} is better) is lowest for "
    text += f"{label_of(known[0]['arm'])}, {_measured(known[0])}"
    if len(known) == 1:
        return f"{text}."
    if np.isinf(known[-1]["q_centre"]):
        lost = ", ".join(label_of(row["arm"]) for row in known if np.isinf(row["q_centre"]))
        return f"{text}; half of the runs or more have no end: {lost}."
    return f"{text}, and highest for {label_of(known[-1]['arm'])}, {_measured(known[-1])}."


def _failures(arms: pd.DataFrame) -> Said:
    """By arm, over all contexts."""
    total = arms.groupby("arm", sort=False)[["failures", "n"]].sum().reindex(in_order(arms["arm"]))
    if not total["failures"].any():
        return Said(f"None of the {total['n'].sum():,} runs that ended failed in any way.")
    counts = [f"{row.failures} of {row.n}" for row in total.itertuples()]
    over = ", over all contexts" if arms["context"].nunique() > 1 else ""
    return Said(f"Failed runs{over}: {_estimates([label_of(str(v)) for v in total.index], counts)}.", "failures")


def _sigma(sigma: pd.DataFrame, several: bool) -> str:
    """Of the layer whose spectral norm is the largest in any arm; nothing where the arms hardly differ."""
    if sigma.empty:
        return ""
    context = sigma["context"].iloc[0]
    of = sigma[(sigma["context"] == context) & (sigma["sigma"] > 0)]
    if of.empty:
        return ""
    layer = of.loc[of["sigma"].idxmax(), "layer"]
    of = of[of["layer"] == layer].set_index("arm").loc[lambda rows: in_order(pd.Series(rows.index))]
    if of["sigma"].max() < _FACTOR * of["sigma"].min():
        return ""
    return (
        f"{f'{context}: ' if several else ''}Spectral norm of {layer} as used, at the end (median over seeds): "
        f"{_estimates([label_of(str(v)) for v in of.index], [written(v) for v in of['sigma']])}."
    )


def _tested(study: Study, claims: pd.DataFrame) -> Said:
    fewest = int(study.runs.groupby(["context", "variant"])["seed"].nunique().min())
    of = claims.drop_duplicates(["claim", "context"])
    if fewest < APPROXIMATE_BELOW or not (of["verdict"] != "not tested").any():
        seeds = f"{fewest} seed{'s' if fewest != 1 else ''} per arm"
        if fewest < APPROXIMATE_BELOW:
            text = f"{seeds}: this report describes; it cannot support a claim."
            return Said(f"{text} A claim is tested from {APPROXIMATE_BELOW} paired seeds on.")
        return Said("None of the papers' claims can be tested: this study lacks what they are about.", "untested")
    counts = of["verdict"].value_counts()
    said = [f"{counts[v]} {v}" for v in (*DECIDED, "inconclusive", "refused", "not tested") if v in counts]
    return Said(f"The papers' claims, each in each context that it is about: {', '.join(said)}.", "verdicts")


def verdict_lines(claims: pd.DataFrame) -> list[Line]:
    """One line for each claim that was tested and each verdict on it, over contexts: the decided ones first."""
    found: dict[tuple[str, str], list[tuple[str, _Effect]]] = {}
    statements = dict(zip(claims["claim"], claims["statement"], strict=True))
    for (claim, context), parts in claims.groupby(["claim", "context"], sort=False):
        verdict = parts["verdict"].iloc[0]
        if verdict != "not tested":
            found.setdefault((str(claim), verdict), []).append((str(context), _effect(parts, verdict)))
    several = claims["context"].nunique() > 1
    lines = [
        Line(claim, statements[claim], verdict, _listed(effects, several))
        for (claim, verdict), effects in found.items()
    ]
    return sorted(lines, key=lambda line: line.verdict not in DECIDED)


class _Effect(NamedTuple):
    what: str
    number: str


def _listed(effects: Sequence[tuple[str, _Effect]], several: bool) -> str:
    """What was measured, once if it is the same in all contexts, and how much it is in each."""
    whats = {effect.what for _, effect in effects}
    said = [
        " ".join(filter(None, [
            context if several else "",
            "" if len(whats) == 1 else effect.what + (":" if effect.number else ""),
            effect.number,
        ]))
        for context, effect in effects
    ]  # fmt: skip
    once = whats.pop() if len(whats) == 1 else ""
    return (f"{once}: " if once and any(effect.number for _, effect in effects) else once) + "; ".join(
        filter(None, said)
    )


def _effect(parts: pd.DataFrame, verdict: str) -> _Effect:
    """Of the part that decided: the weakest, or of a contradiction the weakest of those that say the opposite."""
    deciding = parts[parts["decides"].astype(bool) & parts["effect"].notna()]
    if verdict == "contradicted" and (deciding["part"] == "opposite").any():
        deciding = deciding[deciding["part"] == "opposite"]
    if deciding.empty:
        return _Effect(labelled(str(parts["reason"].iloc[0])), "")
    row = deciding.loc[deciding["p_part"].astype(float).fillna(1).idxmax()]
    number = f"{written(row['effect'])} [{written(row['low'])}, {written(row['high'])}], n = {row['n']}"
    if verdict not in DECIDED and row["reason"]:
        number += f" ({labelled(row['reason'])})"
    return _Effect(labelled(row["evidence"]).replace(" - ", " \N{MINUS SIGN} "), number)


def untested(claims: pd.DataFrame) -> list[tuple[str, str]]:
    """(why, claims) of those that were not tested: what each lacks."""
    found: dict[str, list[str]] = {}
    for row in claims.drop_duplicates(["claim", "context"]).to_dict("records"):
        if row["verdict"] == "not tested":
            names = found.setdefault(labelled(row["reason"]), [])
            names += [row["claim"]] if row["claim"] not in names else []
    return [(why, ", ".join(names)) for why, names in found.items()]
