"""Figures and samples as files, and as images within the page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.figure_data import sample_grids, spread_out
from analysis.page import plots
from analysis.page.figures import Drawn
from analysis.study import Study
from analysis.variants import in_order, label_of
from sngan.files import write_atomically

_FILM_BYTES = 5e6  # of PNG files; a third more in the page


@dataclass(frozen=True)
class Picture:
    """A figure of the report: what to see, and the same in words for those who do not see it."""

    file: str
    title: str
    caption: str
    data_uri: str
    kind: str = ""
    """what a claim's `figure` names: the file without its context"""

    @property
    def anchor(self) -> str:
        return f"figure-{self.file}"


@dataclass(frozen=True)
class Film:
    """The same latents of one seed through training: for each arm one image per step."""

    context: str
    seed: int
    steps: list[int]
    arms: list[tuple[str, list[str]]]


def save(drawn: Drawn, folder: Path, kinds: Sequence[str]) -> Picture:
    """Write a figure as `kinds` of files."""
    content = {kind: plots.rendered(drawn.figure, kind) for kind in ("png", *sorted(set(kinds) - {"png"}))}
    for kind in kinds:
        write_atomically(folder / f"{drawn.file}.{kind}", content[kind])
    return Picture(drawn.file, drawn.title, drawn.caption, _png_uri(content["png"]), drawn.file.partition("-")[0])


def film(study: Study) -> Film | None:
    """One seed's sample grids at the steps that its arms share; None if there are none.

    Of the first context and the first seed that most of its arms have; at most as many steps as fit the page.
    """
    for context, runs in study.runs.groupby("context", sort=False):
        for seed in sorted(runs["seed"].unique(), key=lambda s: -(runs["seed"] == s).sum()):
            grids = sample_grids(study, runs[runs["seed"] == seed])
            shared = sorted(set.intersection(*map(set, grids.values()))) if grids else []
            if len(shared) < 2:
                continue
            size = max(len(grid.read_bytes()) for found in grids.values() for grid in found.values())
            most = max(int(_FILM_BYTES / (size * len(grids))), 2)
            steps = spread_out(shared, most)
            variants = in_order(pd.Series([variant for variant, _ in grids]))
            arms = [(label_of(v), [_png_uri(grids[v, seed][step].read_bytes()) for step in steps])
                    for v in variants]  # fmt: skip
            return Film(str(context), int(seed), steps, arms)
    return None


def _png_uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()
