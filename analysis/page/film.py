"""The sample grids within the page: every arm's, at the steps and seeds that fit, beside real images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
from PIL import Image

from analysis.figure_data import sample_grids, spread_out
from analysis.grids import ALL, FEW, few_of, opened
from analysis.page.pictures import png_uri
from analysis.study import Study
from analysis.variants import in_order, label_of

_BYTES, _BYTES_A_RUN, _MOST_BYTES = 700_000, 4_000, 1_900_000  # of PNG in a page; a third more as text
_FEW_STEPS = 5  # a film has more, or the steps are those of one seed
_GREYS, _COLOURS = 16, 256
_SHOWN = 250  # pixels of a grid's side in the page, about


class Still(NamedTuple):
    """A grid of one run at one step."""

    seed: int
    step: int
    uri: str


@dataclass(frozen=True)
class Film:
    """The grids of one context: arm by arm its stills, and real images ('' if there are none).

    `seeds` that have any, in order, of `all_seeds`; `latents`: how many of them a grid shows; `width`: of a grid, in
    pixels of the page; `cuttable`: whether 16 of them can be shown large, since all are squares of 8 x 8 images.
    """

    context: str
    seeds: list[int]
    arms: list[tuple[str, list[Still]]]
    real: str
    latents: int
    width: int
    all_seeds: int
    cuttable: bool

    def initial(self, stills: Sequence[Still]) -> Still | None:
        """The last of the first seed."""
        return max(
            (still for still in stills if still.seed == self.seeds[0]), key=lambda still: still.step, default=None
        )


class _Room(NamedTuple):
    """What is shown: whether grids are cut, at most so many steps of the first seed, and of the others, of so many."""

    cut: bool
    first: int
    others: int
    seeds: int


_Grids = dict[tuple[str, int], Mapping[int, Any]]


def films(study: Study) -> list[Film]:
    """The grids that fit the page, context by context; files that are not PNGs are left out.

    Whole grids at all steps if there is room for them, else at some steps, else at those of the first seed alone, else
    the first 16 latents of each grid.
    """
    found: dict[str, _Grids] = {}
    for context, runs in study.runs.groupby("context", sort=False):
        if grids := sample_grids(study, runs):
            found[str(context)] = grids
    if not found:
        return []
    room = _room(found)
    made = [_film(study, context, grids, room) for context, grids in found.items()]
    return [film for film in made if film.arms]


def _room(found: Mapping[str, _Grids]) -> _Room:
    runs = []  # the place of each run's seed among those of its context, and how many grids it has
    for grids in found.values():
        places = {seed: i for i, seed in enumerate(sorted({seed for _, seed in grids}))}
        runs += [(places[seed], len(of)) for (_, seed), of in grids.items()]
    most = min(_BYTES + _BYTES_A_RUN * len(runs), _MOST_BYTES)
    longest, seeds = max(steps for _, steps in runs), 1 + max(place for place, _ in runs)
    several = range(longest, min(longest, _FEW_STEPS) - 1, -1)
    every = [of[max(of)] for grids in found.values() for of in grids.values()]
    for cut in (False, True):
        sizes = [len(content.png) for grid in every[:: max(1, len(every) // 12)] if (content := _content(grid, cut))]
        size = sum(sizes) / max(len(sizes), 1)
        # all seeds with many steps; the others with their last; and of cut grids fewer seeds
        choices = [*((n, n, seeds) for n in several), *((n, 1, seeds) for n in several)]
        choices += [(min(longest, _FEW_STEPS), 1, n) for n in range(seeds, 0, -1)] if cut else []
        for first, others, n in choices:
            stills = sum(min(steps, others if place else first) for place, steps in runs if place < n)
            if stills * size <= most:
                return _Room(cut, first, others, n)
    return _Room(True, 1, 1, 1)


def _film(study: Study, context: str, grids: _Grids, room: _Room) -> Film:
    seeds, arms = sorted({seed for _, seed in grids})[: room.seeds], []
    seen: list[_Content] = []
    common = {seed: _steps(grids, seed, room.first if seed == seeds[0] else room.others) for seed in seeds}
    for variant in in_order(pd.Series([variant for variant, _ in grids])):
        stills = []
        for seed in seeds:
            of = grids.get((variant, seed), {})
            for step in sorted({*common[seed] & of.keys(), max(of)} if of else ()):
                if content := _content(of[step], room.cut):
                    stills.append(Still(seed, step, png_uri(content.png)))
                    seen.append(content)
        if stills:
            arms.append((label_of(variant), stills))
    side = max((content.width for content in seen), default=1)
    grid = study.real_in(context)
    real = _content(grid, room.cut) if grid else None
    shown = sorted({still.seed for _, stills in arms for still in stills})
    width = side * max(1, round(_SHOWN / side))
    everything = int(study.runs.loc[study.runs["context"] == context, "seed"].nunique())
    cuttable = not room.cut and all(content.cuttable for content in (*seen, *([real] if real else [])))
    uri, latents = png_uri(real.png) if real else "", FEW if room.cut else ALL
    return Film(context, shown, arms, uri, latents, width, everything, cuttable)


def _steps(grids: _Grids, seed: int, most: int) -> set[int]:
    """At most so many steps of the seed's longest run."""
    longest = max((of for (_, s), of in grids.items() if s == seed), key=len)
    return set(spread_out(sorted(longest), most)) if most > 1 else {max(longest)}


class _Content(NamedTuple):
    """A grid within the page: its PNG, its width, and whether it was a square of 8 x 8 images."""

    png: bytes
    width: int
    cuttable: bool


def _content(grid: Any, cut: bool) -> _Content | None:
    """In few greys or colours, cut to the first latents or whole; None if it is not a PNG."""
    image = opened(grid)
    if image is None:
        return None
    grey = image.mode in ("1", "L", "I;16", "I", "LA") or (image.mode == "P" and _is_grey(image))
    image = image.convert("L" if grey else "RGB")
    few = few_of(image)
    cuttable = few is not image
    image = few if cut else image
    if grey:
        image = image.point(lambda value: round(value / 17) * 17)
    buffer = io.BytesIO()
    image.quantize(_GREYS if grey else _COLOURS).save(buffer, format="PNG")
    return _Content(buffer.getvalue(), image.width, cuttable)


def _is_grey(image: Image.Image) -> bool:
    palette = image.getpalette() or []
    return all(palette[i] == palette[i + 1] == palette[i + 2] for i in range(0, len(palette) - 2, 3))
