"""Figures of a true width: panels of `analysis.plots`, with what they share (axes, legend, labels) said once."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.colors
import matplotlib.lines
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import plots
from analysis.plots import Look

WIDTH = 6.75
"""inches: a page's text in many a paper"""
TEXT = 8
"""points: the text's size in figures"""
_STYLE = {
    "font.size": TEXT,
    **dict.fromkeys(("axes.titlesize", "axes.labelsize", "legend.fontsize", "figure.labelsize"), TEXT),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), TEXT),
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.6,
    "axes.linewidth": 0.6,
    "axes.titlepad": 3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "sngan",  # the same figure, the same bytes
    "pdf.fonttype": 42,  # TrueType, as publishers want it
    "ps.fonttype": 42,
    "text.parse_math": False,  # a dollar sign in a name is one
}
_NO_DATE = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None}}
_CHARACTER = 0.062  # inches of a character of that size, about
NARROWEST = 1.5
"""inches of a panel"""


def style() -> AbstractContextManager[None]:
    """The style of the report's figures, as a context."""
    return mpl.rc_context(_STYLE)


class _Panels(NamedTuple):
    figure: Figure
    axes: list[Axes]
    characters: int  # that a panel's title holds in a line


def _panels(count: int, columns: int, width: float, height: float, **shared: Any) -> _Panels:
    """Axes in rows; as few columns as the width asks for."""
    columns = max(1, min(columns, count, int(width / NARROWEST)))
    rows = -(-count // columns)
    figure = Figure(figsize=(width, rows * height + 0.45), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for axis in axes[count:]:
        axis.set_visible(False)
    if shared.get("sharex"):
        for axis in axes[max(0, count - columns) : count]:  # the lowest of their columns
            axis.tick_params(labelbottom=True)
    return _Panels(figure, axes[:count], int((width / columns - 0.45) / _CHARACTER))


def _legend(figure: Figure, names: Iterable[str], look: Look) -> None:
    variants = look.order(names)
    lines = [mpl.lines.Line2D([], [], color=look.colours[v], linewidth=1.6) for v in variants]
    for line, variant in zip(lines, variants, strict=True):
        if look.dashes[variant]:
            line.set_dashes(look.dashes[variant])
    _outside(figure, lines, [_in_two_lines(look.labels[v], figure.get_figwidth()) for v in variants])


def _in_two_lines(name: str, width: float) -> str:
    """A row's name in a bit less than half of the figure; shortened where two lines do not hold it."""
    room = int(0.4 * width / _CHARACTER)
    lines = plots.wrapped(name, room).splitlines()
    return "\n".join([*lines[:1], lines[1][: room - 1] + "\N{HORIZONTAL ELLIPSIS}"] if len(lines) > 2 else lines)


def _with_short_names(look: Look, width: float) -> Look:
    return replace(
        look, labels={v: _shortened(name, int(0.35 * width / _CHARACTER)) for v, name in look.labels.items()}
    )


def _outside(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    longest = max((len(label) for label in labels), default=0) * _CHARACTER + 0.5
    columns = max(1, min(len(labels), int(figure.get_figwidth() / longest)))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, columnspacing=1.2)


def curves(
    panels: Mapping[str, pd.DataFrame],
    look: Look,
    width: float = WIDTH,
    *,
    logarithmic: Collection[str] = (),
    columns: int = 2,
    x_label: str = "",
    marks: Mapping[str, Mapping[str, float]] | None = None,
    seeds: Mapping[str, pd.DataFrame] | None = None,
    compared: bool = False,
) -> Figure:
    """One panel per title, from the frames of `stats.bands`.

    `logarithmic`: titles of panels with such a y axis; `x_label`, if it is not the look's step; `marks`: title ->
    horizontal lines by name; `seeds`: title -> each seed's values, drawn in place of bands; `compared`: whether all
    panels have one scale.
    """
    with style():
        made = _panels(len(panels), columns, width, 1.55, sharex=True, sharey=compared)
        for axis, (title, frame) in zip(made.axes, panels.items(), strict=True):
            plots.curve(axis, frame, look, (seeds or {}).get(title))
            axis.set(title=plots.wrapped(title, made.characters), xlabel="")
        for axis, title in zip(made.axes, panels, strict=True):
            if title in logarithmic:
                plots.logarithmic(axis)
            else:
                axis.ticklabel_format(axis="y", useOffset=False)
            plots.references(axis, (marks or {}).get(title, {}))
            if axis.get_yscale() == "log":  # over what is shown now
                plots.label_decades(axis.yaxis)
        made.figure.supxlabel(x_label or look.step)
        _legend(made.figure, pd.concat([frame["variant"] for frame in panels.values()]), look)
    return made.figure


class Effects(NamedTuple):
    """A panel of the forest plot: its title, what lies in which direction, and columns context, row, variant, effect,
    low, high."""

    title: str
    direction: str
    rows: pd.DataFrame


def forest(panels: Sequence[Effects], look: Look, width: float = WIDTH) -> Figure:
    """Effects with their intervals, a panel for each kind; rows have one order and are named once."""
    keys = list(
        dict.fromkeys(key for panel in panels for key in zip(panel.rows["context"], panel.rows["row"], strict=True))
    )
    beside = width >= 5
    shown = [_row_name(context, row, width) for context, row in keys]
    longest = max(len(line) for text in shown for line in text.splitlines()) * _CHARACTER
    high = 0.29 if any("\n" in text for text in shown) else 0.17
    with style():
        height = (high * len(keys) + 0.75) * (1 if beside else len(panels))
        figure = Figure(figsize=(width, height), layout="constrained")
        shape = (1, len(panels)) if beside else (len(panels), 1)
        axes = list(figure.subplots(*shape, squeeze=False).flat)
        room = max(12, int((width - longest) / shape[1] / _CHARACTER))
        for axis, panel in zip(axes, panels, strict=True):
            rows = panel.rows.set_index(["context", "row"]).reindex(pd.MultiIndex.from_tuples(keys))
            rows["variant"] = rows["variant"].fillna(next(iter(look.colours)))
            named = shown if axis is axes[0] or not beside else [""] * len(keys)
            plots.forest(axis, rows.assign(row=named), look)
            axis.set_title(plots.wrapped(panel.title, room))
            axis.set_xlabel(plots.wrapped(panel.direction, room))
            axis.grid(visible=False, axis="y")
    return figure


def _row_name(context: str, row: str, width: float) -> str:
    """In one line if there is room, else in two; the context is what is shortened."""
    room = int(0.4 * width / _CHARACTER)
    row = row if len(row) <= room else _shortened(row.rpartition(" (")[0], room - 5) + row[row.rindex(" (") :]
    if not context or len(context) + len(row) + 2 <= room:
        return f"{context}: {row}" if context else row
    return f"{_shortened(context, room - 1)}:\n{row}"


def _shortened(name: str, room: int) -> str:
    """Without its middle: names differ at their ends."""
    kept = max(1, (room - 1) // 2)
    return name if len(name) <= room else f"{name[:kept]}\N{HORIZONTAL ELLIPSIS}{name[-kept:]}"


def differences(frames: Mapping[str, pd.DataFrame], look: Look, width: float = WIDTH) -> Figure:
    """Paired differences per seed, a panel per title: frames of variant, difference."""
    variants = look.order(pd.concat([frame["variant"] for frame in frames.values()]))
    look = _with_short_names(look, width)
    with style():
        made = _panels(len(frames), 2 if width >= 5 else 1, width, 0.17 * len(variants) + 0.62)
        for axis, (title, frame) in zip(made.axes, frames.items(), strict=True):
            plots.dots(axis, frame, look).set_title(plots.wrapped(title, made.characters - 8))
    return made.figure


def survival(curves_of: Mapping[str, pd.DataFrame], look: Look, width: float = WIDTH) -> Figure:
    """Kaplan-Meier curves."""
    with style():
        made = _panels(1, 1, width, 2.2)
        plots.survival(made.axes[0], curves_of, look)
        _legend(made.figure, curves_of, look)
    return made.figure


def causes(frame: pd.DataFrame, names: Sequence[str], look: Look, width: float = WIDTH) -> Figure:
    """Runs by cause of failure."""
    with style():
        made, look = _panels(1, 1, width, 0.2 * len(frame) + 0.5), _with_short_names(look, width)
        _outside(made.figure, *plots.causes(made.axes[0], frame, names, look).get_legend_handles_labels())
    return made.figure


def sensitivity(frame: pd.DataFrame, look: Look, width: float = WIDTH) -> Figure:
    """Share of runs that failed, a panel per threshold: frame of threshold (its name), value, variant, share."""
    names = list(dict.fromkeys(frame["threshold"]))
    with style():
        made = _panels(len(names), 3, width, 1.7, sharey=True)
        for axis, name in zip(made.axes, names, strict=True):
            plots.shares(axis, frame[frame["threshold"] == name], look).set_title(name.replace("_", " "))
        made.figure.supylabel("share of runs that failed")
        _legend(made.figure, frame["variant"], look)
    return made.figure


def strips(tables: Mapping[str, pd.DataFrame], label: str, x_label: str, width: float = WIDTH) -> Figure:
    """A strip for each row of each table (columns are steps), coloured on one logarithmic scale; a panel per table."""
    values = np.concatenate([table.to_numpy(float).ravel() for table in tables.values()])
    values = values[np.isfinite(values) & (values > 0)]
    norm = mpl.colors.LogNorm(values.min(), max(values.max(), values.min() * 1.01))
    heights = [len(table) for table in tables.values()]
    row = 0.2 if sum(heights) <= 30 else 0.08
    with style():
        figure = Figure(figsize=(width, row * sum(heights) + 0.3 * len(tables) + 0.5), layout="constrained")
        axes = figure.subplots(len(tables), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
        for axis, (title, table) in zip(axes, tables.items(), strict=True):
            plots.strips(axis, table, norm).set_title(title, loc="left")
        axes[-1].set_xlabel(x_label)
        mesh, shrink = axes[0].collections[0], min(1.0, 2.5 / figure.get_figheight())
        plots.label_decades(figure.colorbar(mesh, ax=list(axes), label=label, shrink=shrink).ax.yaxis)
    return figure


def matrix(table: pd.DataFrame, label: str, width: float = WIDTH) -> Figure:
    """Contexts x arms as a heat map with its numbers."""
    with style():
        made = _panels(1, 1, width, max(0.25 * table.shape[0] + 1.2, 1.8))
        shown = [[_shortened(str(name), room) for name in names] for names, room in
                 ((table.index, int(0.3 * width / _CHARACTER)), (table.columns, 18))]  # fmt: skip
        plots.matrix(made.axes[0], table.set_axis(shown[0]).set_axis(shown[1], axis=1), label)
    return made.figure


def matrices(tables: Mapping[str, pd.DataFrame], width: float = WIDTH) -> Figure:
    """Heat maps of the same rows side by side, each with its numbers under its title."""
    rows = max(table.shape[0] for table in tables.values())
    with style():
        made = _panels(len(tables), len(tables) if width >= 5 else 1, width, max(0.25 * rows + 1.0, 1.8), sharey=True)
        for axis, (title, table) in zip(made.axes, tables.items(), strict=True):
            plots.matrix(axis, table, "").set_title(plots.wrapped(title, made.characters))
    return made.figure


def ends(frames: Mapping[str, pd.DataFrame], look: Look, marks: Mapping[str, float], width: float = WIDTH) -> Figure:
    """Where every run ended, a panel per title: frames of variant, context, value, failed; `marks`: lines by name."""
    with style():
        made = _panels(len(frames), 2 if width >= 5 else 1, width, 2.5, sharey=True)
        for axis, (title, frame) in zip(made.axes, frames.items(), strict=True):
            plots.ends(axis, frame, look, pd.concat(frames.values())["value"]).set_title(title, loc="left")
            limits = axis.get_ylim()
            plots.references(axis, marks).set_ylim(limits)
        made.axes[0].set_ylabel("fd at the end")
        legends = [axis.get_legend_handles_labels() for axis in made.axes]
        _outside(made.figure, [h for of, _ in legends for h in of], [name for _, of in legends for name in of])
    return made.figure


def large_samples(grids: Mapping[str, Any], width: float = WIDTH) -> Figure:
    """The first 16 images of PNG grids (with `read_bytes`), each under its name."""
    with style():
        columns = max(1, min(4, len(grids), int(width / NARROWEST)))
        rows = -(-len(grids) // columns)
        made = _panels(len(grids), columns, width, width / columns + 0.15 - 0.45 / rows)  # a title above each square
        for axis, (name, grid) in zip(made.axes, grids.items(), strict=True):
            plots.picture(axis, grid, few=True).set_title(plots.wrapped(name, made.characters))
    return made.figure


def samples(grids: Mapping[tuple[str, str], Any], width: float = WIDTH) -> Figure:
    """PNG grids (with `read_bytes`) by (row, column) names, such as (variant's label, seed), side by side."""
    rows = list(dict.fromkeys(row for row, _ in grids))
    columns = list(dict.fromkeys(column for _, column in grids))
    side = (width - 0.2) / len(columns)
    with style():
        figure = Figure(figsize=(width, (side + 0.05) * len(rows) + 0.2), layout="constrained")
        axes = figure.subplots(len(rows), len(columns), squeeze=False)
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                plots.picture(axes[i, j], grids.get((row, column)))
                axes[i, j].set_title(column if i == 0 else "")
            axes[i, 0].set_ylabel(plots.wrapped(row, int(side / _CHARACTER)))
    return figure


def rendered(figure: Figure, kind: str) -> bytes:
    """The figure as a file's content, as wide as it was made: of the same figure the same bytes."""
    buffer = io.BytesIO()
    with style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box in a PNG; SVG keeps the text
        figure.savefig(buffer, format=kind, dpi=200, metadata=_NO_DATE.get(kind))
    figure.set_layout_engine("none")  # what was laid out stays: the next kind costs half the time
    return buffer.getvalue()


_HEAD = re.compile(r"^.*?(?=<svg)|<metadata>.*?</metadata>|<!--.*?-->", re.DOTALL)
_LONG = re.compile(r"(\.\d{2})\d+")
_DRAWN = re.compile(r'(?<= )(?:d|x|y|x1|x2|y1|y2|transform)="[^"]*"')
_ID: tuple[tuple[str, Callable[[str], str]], ...] = (
    (r'\bid="([^"]*)"', lambda name: f'id="{name}"'),
    (r'href="#([^"]*)"', lambda name: f'href="#{name}"'),
    (r"url\(#([^)]*)\)", lambda name: f"url(#{name})"),
)


def inline(svg: bytes, prefix: str, words: str) -> str:
    """An SVG of matplotlib's as it can stand within a page: its ids its own, hundredths of a point, no metadata.

    `words`: what those hear who do not see it, escaped for an attribute.
    """
    text = _HEAD.sub("", svg.decode())
    text = _DRAWN.sub(lambda found: _LONG.sub(r"\1", found[0]), text)
    for pattern, write in _ID:
        text = re.sub(pattern, lambda found, write=write: write(f"{prefix}-{found[1]}"), text)
    text = re.sub(r"\n\s*", "\n", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{words}" ', 1).strip()
