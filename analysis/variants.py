"""Variants: arms with those of their parameters that a study varies. Their names, order and baseline."""

from __future__ import annotations

import re

import pandas as pd

from sngan.arms import ARMS, Norm

_ORDER = list(ARMS)


def arm_of(variant: str) -> str:
    return variant.split(",")[0]


def label_of(variant: str) -> str:
    """The arm's label with the variant's parameters: `penalty 0.1`, `SN, n power iterations 5`."""
    arm, *parameters = variant.split(", ")
    label = ARMS[arm].label if arm in ARMS else arm
    weights = [p.removeprefix("penalty_weight") for p in parameters if p.startswith("penalty_weight ")]
    rest = [_in_words(arm, p) for p in parameters if not p.startswith("penalty_weight ")]
    return ", ".join(["".join([label, *weights]), *rest])


def norm_of(variant: str) -> Norm | None:
    """The norm between the discriminator's layers; of others' arms none is known."""
    arm, *parameters = variant.split(", ")
    given = [p.removeprefix("d_norm ") for p in parameters if p.startswith("d_norm ")]
    own = ARMS[arm].norm if arm in ARMS else None
    return own if given in ([], ["own"]) else given[0]  # type: ignore[return-value]


def _in_words(arm: str, parameter: str) -> str:
    if not parameter.startswith("d_norm "):
        return parameter.replace("_", " ")
    norm = norm_of(f"{arm}, {parameter}")
    return "no norm in D" if norm == "none" else f"{norm} norm in D"


def labelled(text: str) -> str:
    """`text` with the arms' labels for their slugs, as far as these are words of their own (not parts of run ids)."""
    text = _WEIGHT.sub(lambda found: f"{ARMS[found[1]].label} {found[2]}", text)
    text = text.replace("n_power_iterations", "n power iterations")
    return _SLUG.sub(lambda found: ARMS[found[0]].label, text)


_ANY = "|".join(sorted(ARMS, key=len, reverse=True))
_SLUG = re.compile(rf"(?<![\w/-])(?:{_ANY})(?![\w/-])")
_WEIGHT = re.compile(rf"(?<![\w/-])({_ANY})(?:,| with) penalty_weight ([\d.e-]+)")


def in_order(variants: pd.Series) -> list[str]:
    """The distinct variants in the order of the arm table, arms of others behind it by name."""
    return sorted(variants.unique(), key=lambda v: (_ORDER.index(arm_of(v)) if arm_of(v) in ARMS else len(ARMS), v))


def against(variants: pd.Series, baseline: str) -> list[str]:
    """The distinct variants, first of them the baseline: the named one, or else the first in order."""
    return sorted(in_order(variants), key=lambda variant: variant != baseline)


def groups(frame: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """((context, variant), rows) in the order of contexts and of the arm table."""
    return [
        ((str(context), variant), of[of["variant"] == variant])
        for context, of in frame.groupby("context", sort=False)
        for variant in in_order(of["variant"])
    ]
