"""Variants: arms with those of their parameters that a study varies. Their names, order and baseline."""

from __future__ import annotations

import pandas as pd

from sngan.arms import ARMS

_ORDER = list(ARMS)


def arm_of(variant: str) -> str:
    return variant.split(",")[0]


def label_of(variant: str) -> str:
    """The arm's label in words, with the variant's parameters."""
    arm, *parameters = variant.split(",", 1)
    label = ARMS[arm].label if arm in ARMS else arm
    return ", ".join([label, *(p.strip().replace("_", " ") for p in parameters)])


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
