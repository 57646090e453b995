"""What the page says first: a paragraph that is true for the runs at hand, and the verdicts on the papers' claims."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.page.tables import interval, written
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


class Opening(NamedTuple):
    """What the page says first: sentences with what they rest on, one line per verdict, what was not tested and why,
    and where the runs are from."""

    said: Sequence[Said]
    lines: Sequence[Line] = ()
    untested: Sequence[tuple[str, str]] = ()
    machines: str = ""

    @property
    def decided(self) -> list[Line]:
        return [line for line in self.lines if line.verdict in DECIDED]

    @property
    def open(self) -> list[Line]:
        return [line for line in self.lines if line.verdict not in DECIDED]


NOTHING = Opening(())


def paragraph(study: Study, arms: pd.DataFrame, sigma: pd.DataFrame, claims: pd.DataFrame) -> list[Said]:
    """How many runs there are, what they show, or why nothing can be said. Frames: those of the tables."""
    said = [Said(runs(study), "account")]
    contexts = list(arms["context"].unique()) if len(arms) else []
    if len(contexts) == 1:
        said.append(Said(quality(study, arms), "arms"))
    elif contexts:
        said.append(Said(_best_and_worst(study, arms, contexts), "arms"))
    if len(arms):
        said.append(_failures(study, arms))
    if text := _sigma(sigma, several=len(contexts) > 1):
        said.append(Said(text, "sigma"))
    return [*said, _tested(study, claims)]


def runs(study: Study) -> str:
    """How many runs, arms and seeds there are, where, and what became of them."""
    frame, count = study.runs, study.account
    n = frame.groupby(["context", "variant"])["seed"].nunique()
    arms, contexts = frame["variant"].nunique(), list(frame["context"].unique())
    each = f"{n.min()}" if n.nunique() == 1 else f"{n.min()} to {n.max()}"
    where = "" if study.foreign and contexts == [study.name] else f" on {contexts[0]}"
    if len(contexts) > 1:
        where = f" in each of {len(contexts)} {'data sets' if study.foreign else 'contexts'}"
        where += f" ({'; '.join(contexts)})" if len(contexts) <= _CONTEXTS else ""
    states = [f"{number:,} {state}" for state, number in count.items() if number]
    ended = "all finished" if count.get("finished", 0) == len(frame) > 1 else ", ".join(states)
    seeds = f"{each} seed{'' if each == '1' else 's'}{' each' if arms > 1 else ''}"
    return f"{_number(len(frame), 'run')}: {_number(arms, 'arm')} with {seeds}{where}; {ended}."


def _number(count: int, of: str) -> str:
    return f"{count:,} {of}{'' if count == 1 else 's'}"


def _named(study: Study, variant: Any) -> str:
    return str(variant) if study.foreign else label_of(str(variant))


def _measured(row: dict[Any, Any]) -> str:
    text = interval(row["q_centre"], row.get("q_low"), row.get("q_high"))
    return text.replace("-inf", "no limit").replace("inf", "no limit")


def _without_end(study: Study, arms: pd.DataFrame) -> str:
    """Which arms have how many runs without an end, as the rest of a sentence."""
    lost = [
        f"{_named(study, row['arm'])}: {row['n'] - row['ended']} of {row['n']}"
        for row in arms.to_dict("records") if row["ended"] < row["n"]
    ]  # fmt: skip
    return f"; runs without an end: {', '.join(lost)}" if lost else ""


def quality(study: Study, arms: pd.DataFrame) -> str:
    """The quality of every arm at the end, with its interval; of the arms of one context."""
    known = arms[np.isfinite(arms["q_centre"].astype(float))]
    if not arms["ended"].any():
        return f"No run has an end, so none has a final {study.terms.quality}."
    words = [f"{_named(study, row['arm'])}: {_measured(row)}" for row in known.to_dict("records")]
    side = f"{study.terms.better} is better; 95 % intervals in brackets"
    side = f"how far the pixels of samples are from the data's; {side}" if study.terms.sight == "pixels" else side
    text = f"{study.terms.quality} at the end of training ({side}): {'; '.join(words) or 'no arm has an estimate'}"
    text += _without_end(study, arms)
    trivial = study.runs["trivial_fd"].dropna()
    return f"{text}; the trivial sampler: {written(float(trivial.iloc[0]))}." if len(trivial) else f"{text}."


def _best_and_worst(study: Study, arms: pd.DataFrame, contexts: Sequence[str]) -> str:
    """Of a distance, of which lower is better, in the first contexts."""
    said, names = [], {context: study.terms_in(context).quality for context in contexts}
    several = len(set(names.values())) > 1
    for context in contexts[:_CONTEXTS]:
        of = arms[arms["context"] == context]
        known = of[np.isfinite(of["q_centre"].astype(float))].sort_values("q_centre", kind="stable").to_dict("records")
        ends = [f"{label_of(row['arm'])} {_measured(row)}" for row in (known[:1] + known[1:][-1:])]
        place = f"{context} ({names[context]})" if several else context
        said.append(f"{place}: {' and '.join(ends) or 'no arm has an estimate'}{_without_end(study, of)}")
    more = len(contexts) - _CONTEXTS
    rest = f" {more} more contexts stand below." if more > 0 else ""
    how = "lower is better; 95 % intervals in brackets"
    by = "quality" if several else study.terms.quality
    return f"Best and worst arm by {by} at the end of training ({how}): {'. '.join(said)}.{rest}"


def _failures(study: Study, arms: pd.DataFrame) -> Said:
    """By arm, over all contexts, and which failures could not be seen."""
    text, anchor = _failed(arms)
    return Said(" ".join([text, *_unseen(study)]), anchor)


def _unseen(study: Study) -> list[str]:
    found: dict[str, list[str]] = {}
    for context in map(str, study.runs["context"].unique()):
        found.setdefault(study.terms_in(context).unseen, []).append(context)
    if len(found) == 1:
        return list(filter(None, found))
    return [f"In {', '.join(of)}: {text[:1].lower()}{text[1:]}" for text, of in found.items() if text]


def _failed(arms: pd.DataFrame) -> Said:
    total = arms.groupby("arm", sort=False)[["failures", "n"]].sum().reindex(in_order(arms["arm"]))
    if not total["failures"].any():
        n = int(total["n"].sum())
        return Said(f"None of the {n:,} runs failed." if n > 1 else "It did not fail.")
    counts = [
        f"{label_of(str(arm))}: {row.failures} of {row.n}"
        for arm, row in zip(total.index, total.itertuples(), strict=True)
    ]
    over = ", over all contexts" if arms["context"].nunique() > 1 else ""
    return Said(f"Failed runs{over}: {'; '.join(counts)}.", "failures")


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
        f"{'; '.join(f'{label_of(str(arm))}: {written(value)}' for arm, value in of['sigma'].items())}."
    )


def _tested(study: Study, claims: pd.DataFrame) -> Said:
    """What came of the claims, or why none of them could be tested."""
    of = claims.drop_duplicates(["claim", "context"])
    counts = of["verdict"].value_counts()
    if set(counts.index) - {"not tested"}:
        said = [f"{counts[v]} {v}" for v in (*DECIDED, "inconclusive", "refused", "not tested") if v in counts]
        return Said(f"The papers' claims, each in each context that it is about: {', '.join(said)}.", "judged")
    if not study.runs["state"].isin(["finished", "diverged", "failed"]).any():
        return Said("No run has ended yet.")
    fewest = int(study.runs.groupby(["context", "variant"])["seed"].nunique().min())
    if fewest < APPROXIMATE_BELOW:
        text = f"{_number(fewest, 'seed')} per arm: this report describes; it cannot support a claim."
        return Said(f"{text} A claim is tested from {APPROXIMATE_BELOW} paired seeds on.")
    return Said("None of the papers' claims can be tested: this study lacks what they are about.", "untested")


def verdict_lines(claims: pd.DataFrame) -> list[Line]:
    """One line for each claim that was tested and each verdict on it, over contexts: the decided ones first."""
    found: dict[tuple[str, str], list[tuple[str, _Effect]]] = {}
    statements = dict(zip(claims["claim"], claims["statement"], strict=True))
    for (claim, context), parts in claims.groupby(["claim", "context"], sort=False):
        verdict = parts["verdict"].iloc[0]
        if verdict != "not tested":
            found.setdefault((str(claim), verdict), []).append((str(context), _effect(parts, verdict)))
    several = {context for of in found.values() for context, _ in of if ", over " not in context}
    lines = [
        Line(claim, statements[claim], verdict, _listed(effects, len(several) > 1))
        for (claim, verdict), effects in found.items()
    ]
    return sorted(lines, key=lambda line: line.verdict not in DECIDED)


class _Effect(NamedTuple):
    what: str
    number: str


def _listed(effects: Sequence[tuple[str, _Effect]], several: bool) -> str:
    """What was measured, once if it is the same in all contexts, and how much it is in each."""
    whats, numbers = ({of[i] for _, of in effects} for i in (0, 1))
    if len(whats) == len(numbers) == 1:
        (context, effect), *rest = effects
        place = (
            f"in all {len(effects)} contexts "
            if rest
            else f"{context} "
            if several and ", over " not in context
            else ""
        )
        return f"{effect.what}: {place}{effect.number}" if effect.number else effect.what
    said = []
    for context, effect in effects:
        words = [
            context if several else "",
            "" if len(whats) == 1 else f"{effect.what}:" if effect.number else effect.what,
        ]
        said.append(" ".join(filter(None, [*words, effect.number])))
    return (f"{whats.pop()}: " if len(whats) == 1 else "") + "; ".join(said)


def _effect(parts: pd.DataFrame, verdict: str) -> _Effect:
    """Of the part that decided: the weakest, or of a contradiction the weakest of those that say the opposite."""
    deciding = parts[parts["decides"].astype(bool) & parts["effect"].notna()]
    if verdict == "contradicted" and (deciding["part"] == "opposite").any():
        deciding = deciding[deciding["part"] == "opposite"]
    if deciding.empty:
        return _Effect(labelled(str(parts["reason"].iloc[0])), "")
    row = deciding.loc[deciding["p_part"].astype(float).fillna(1).idxmax()]
    number = f"{interval(row['effect'], row['low'], row['high'])}, n = {row['n']}".replace("-", "\N{MINUS SIGN}")
    if verdict not in DECIDED and row["reason"]:
        number += f" ({labelled(row['reason'])})"
    what = _COUNTS.sub("", labelled(row["evidence"])).replace(" - ", " \N{MINUS SIGN} ")
    return _Effect(what, number)


_COUNTS = re.compile(r" \(\d+ and \d+\)$")  # of seeds, which differ from context to context


def untested(claims: pd.DataFrame) -> list[tuple[str, str]]:
    """(why, claims) of those that were not tested: what each lacks."""
    found: dict[str, list[str]] = {}
    for row in claims.drop_duplicates(["claim", "context"]).to_dict("records"):
        if row["verdict"] == "not tested":
            names = found.setdefault(labelled(row["reason"]), [])
            names += [row["claim"]] if row["claim"] not in names else []
    return [(why, ", ".join(names)) for why, names in found.items()]
