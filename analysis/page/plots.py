"""Summaries -> figures. Draws, computes nothing."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import matplotlib.colors
import matplotlib.image
import matplotlib.lines
import matplotlib.ticker
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from analysis.terms import OURS
from analysis.variants import arm_of, in_order, label_of
from sngan.arms import ARMS

_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "sngan",  # the same figure, the same bytes
    "text.parse_math": False,  # a dollar sign in a name is one
}
_DASHES = ["", (4, 1.5), (1, 1), (3, 1, 1, 1), (5, 1, 1, 1, 1, 1)]
_FAR = 1e100  # what is larger cannot be drawn
_NO_DATE = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


@dataclass(frozen=True)
class Look:
    """How a study's variants look in every one of its figures, whichever of them it shows.

    `colours`, `dashes` and `labels` by variant, in their order; `step`: what the axis of training is called.
    """

    colours: Mapping[str, str]
    dashes: Mapping[str, Any]
    labels: Mapping[str, str]
    step: str = OURS.step

    def order(self, variants: Iterable[str]) -> list[str]:
        """The distinct variants in the study's order."""
        shown = set(variants)
        return [variant for variant in self.colours if variant in shown]


def look_of(variants: Iterable[str]) -> Look:
    """Of this project's arms: colours by arm, dashes for its variants; without batch norm dashed: readable in grey."""
    order = in_order(pd.Series(list(variants), dtype=str))
    arms = [arm_of(v) for v in order]
    dashes = {}
    for i, v in enumerate(order):
        number = arms[:i].count(arms[i]) + (ARMS[arms[i]].norm == "none")
        dashes[v] = _DASHES[number % len(_DASHES)]
    return Look({v: ARMS[arm_of(v)].colour for v in order}, dashes, {v: label_of(v) for v in order})


def foreign_look(order: Sequence[str], step: str) -> Look:
    """Of another program's arms: a colour each, and from the eleventh on dashes too; their names as they are."""
    palette = sns.color_palette("colorblind" if len(order) <= 10 else "husl", len(order)).as_hex()
    dashes = {arm: _DASHES[i // 10 % len(_DASHES)] for i, arm in enumerate(order)}
    return Look(dict(zip(order, palette, strict=True)), dashes, {arm: arm for arm in order}, step)


@mpl.rc_context(_STYLE)
def curves(
    panels: Mapping[str, pd.DataFrame],
    look: Look,
    logarithmic: Collection[str] = (),
    columns: int = 2,
    x_label: str = "",
    marks: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """One panel per title, from the frames of `stats.bands`: centre lines with bands, one per variant.

    `logarithmic`: titles of panels with such a y axis; `x_label`, if it is not the look's step; `marks`: title ->
    values at which a horizontal line is drawn.
    """
    rows = -(-len(panels) // columns)
    width = 3.6 * columns if columns > 1 else 7.2
    figure = Figure(figsize=(width, 2.5 * rows + 0.5), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, (title, frame) in zip(axes, panels.items(), strict=False):
        drawn = frame[["centre", "low", "high"]]
        frame = frame.assign(**drawn.where(drawn.abs() < _FAR))
        _curve(axis, frame, look)
        axis.set(title=title, xlabel=x_label or look.step, ylabel="")
        for value in (marks or {}).get(title, ()):
            low, high = axis.get_ylim()
            axis.axhline(value, color="0.3", linewidth=0.9, linestyle=":")
            axis.set_ylim(min(low, value - 0.1), max(high, value + 0.1))
        if title in logarithmic and (frame["centre"] > 0).any():
            axis.set_yscale("log")
            _label_decades(axis.yaxis)
        else:
            axis.ticklabel_format(axis="y", useOffset=False)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    _legend(figure, pd.concat([frame["variant"] for frame in panels.values()]), look)
    return figure


def _label_decades(scale: Axis) -> None:
    """Plain numbers on a logarithmic axis; over few decades also at 2 and 5, where over more they would overlap."""
    scale.set_major_formatter("{x:g}")
    low, high = sorted(scale.get_view_interval())
    if high < 100 * low:
        scale.set_minor_locator(mpl.ticker.LogLocator(subs=(2, 5)))
        scale.set_minor_formatter("{x:g}")
    else:
        scale.set_minor_formatter(mpl.ticker.NullFormatter())


def _styled(frame: pd.DataFrame, look: Look) -> dict[str, Any]:
    """seaborn's arguments for lines by variant."""
    order = look.order(frame["variant"])
    return {
        "data": frame, "hue": "variant", "style": "variant", "hue_order": order, "style_order": order,
        "palette": {v: look.colours[v] for v in order}, "dashes": {v: look.dashes[v] for v in order},
        "estimator": None, "legend": False,
    }  # fmt: skip


def _curve(axis: Axes, frame: pd.DataFrame, look: Look) -> None:
    sns.lineplot(x="step", y="centre", linewidth=1.2, ax=axis, **_styled(frame, look))
    for variant in look.order(frame["variant"]):
        of = frame[(frame["variant"] == variant) & frame["low"].notna()]
        axis.fill_between(of["step"], of["low"], of["high"], color=look.colours[variant], alpha=0.15, linewidth=0)


def _legend(figure: Figure, names: Iterable[str], look: Look) -> None:
    variants = look.order(names)
    lines = [mpl.lines.Line2D([], [], color=look.colours[v], linewidth=1.6) for v in variants]
    for line, variant in zip(lines, variants, strict=True):
        if look.dashes[variant]:
            line.set_dashes(look.dashes[variant])
    labels = [look.labels[v] for v in variants]
    figure.legend(lines, labels, loc="outside lower center", ncols=min(len(labels), 2), frameon=False)


@mpl.rc_context(_STYLE)
def raw_and_used(frame: pd.DataFrame, look: Look) -> Figure:
    """The way of each variant through (raw sigma, used sigma), a panel per layer; a dot where it ends.

    `frame` has columns layer, variant, step, raw, used, in order of steps.
    """
    layers = list(dict.fromkeys(frame["layer"]))
    figure = Figure(figsize=(max(2.6 * len(layers), 7.2), 3.2), layout="constrained")
    for axis, layer in zip(figure.subplots(1, len(layers), squeeze=False)[0], layers, strict=True):
        of = frame[frame["layer"] == layer]
        sns.lineplot(x="raw", y="used", sort=False, linewidth=1.2, ax=axis, **_styled(of, look))
        ends = of.groupby("variant").last()
        axis.scatter(ends["raw"], ends["used"], c=[look.colours[str(v)] for v in ends.index], s=16, zorder=3)
        axis.axline((1, 1), slope=1, color="0.6", linewidth=0.7, linestyle=":")
        axis.set(title=layer, xlabel="sigma of the raw parameter", ylabel="", xscale="log", yscale="log")
        _label_decades(axis.xaxis)
        _label_decades(axis.yaxis)
    figure.axes[0].set_ylabel("sigma of the weight as used")
    _legend(figure, frame["variant"], look)
    return figure


@mpl.rc_context(_STYLE)
def sensitivity(frame: pd.DataFrame, look: Look) -> Figure:
    """Share of runs that failed, a panel per threshold: frame of threshold (its name), value, variant, share."""
    names = list(dict.fromkeys(frame["threshold"]))
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        of = frame[frame["threshold"] == name]
        sns.lineplot(x="value", y="share", markers=True, ax=axis, **_styled(of, look))
        axis.set(title=name.replace("_", " "), xlabel="", ylabel="share of runs that failed", ylim=(-0.03, 1.03))
        values = sorted(of["value"].unique())
        axis.set_xticks(values, [f"{value:.3g}" for value in values])
    _legend(figure, frame["variant"], look)
    return figure


@mpl.rc_context(_STYLE)
def survival(curves_of: Mapping[str, pd.DataFrame], look: Look) -> Figure:
    """Kaplan-Meier curves with bands, by variant: frames of step, survival, low, high."""
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axis = figure.subplots()
    for variant in look.order(curves_of):
        of = curves_of[variant]
        (line,) = axis.step(of["step"], of["survival"], where="post", color=look.colours[variant], linewidth=1.4)
        if look.dashes[variant]:
            line.set_dashes(look.dashes[variant])
        axis.fill_between(
            of["step"], of["low"], of["high"], step="post", color=look.colours[variant], alpha=0.12, linewidth=0
        )
    axis.set(xlabel=look.step, ylabel="share without failure", ylim=(0, 1.02))
    _legend(figure, curves_of, look)
    return figure


@mpl.rc_context(_STYLE)
def causes(frame: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Runs by cause of failure, a stacked bar per arm: frame with arm, none and a column per name."""
    shown = frame.set_index("arm")[["none", *names]]
    shown = shown.loc[:, shown.any()]
    figure = Figure(figsize=(7.2, 0.36 * len(shown) + 1.4), layout="constrained")
    axis = figure.subplots()
    left = np.zeros(len(shown))
    greys = dict(zip(["none", *names], sns.color_palette("cividis", len(names) + 1), strict=True))
    for i, (name, counts) in enumerate(shown.items()):
        axis.barh(list(shown.index), counts, left=left, color="0.9" if name == "none" else greys[str(name)],
                  edgecolor="0.3", linewidth=0.5, hatch=["", "//", "..", "xx", "--", "oo", "\\\\"][i % 7],
                  label="no failure" if name == "none" else str(name))  # fmt: skip
        left += counts.to_numpy()
    axis.invert_yaxis()
    axis.set(xlabel="runs", ylabel="")
    axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


@mpl.rc_context(_STYLE)
def over_time(tables: Mapping[str, pd.DataFrame], label: str, x_label: str) -> Figure:
    """A strip for each row of each table (columns are steps), coloured on one logarithmic scale; a panel per table."""
    values = np.concatenate([table.to_numpy(float).ravel() for table in tables.values()])
    values = values[np.isfinite(values) & (values > 0)]
    norm = mpl.colors.LogNorm(values.min(), max(values.max(), values.min() * 1.01))
    heights = [len(table) for table in tables.values()]
    row = 0.24 if sum(heights) <= 30 else 0.1
    figure = Figure(figsize=(7.2, row * sum(heights) + 0.45 * len(tables) + 0.6), layout="constrained")
    axes = figure.subplots(len(tables), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axis, (title, table) in zip(axes, tables.items(), strict=True):
        steps = np.asarray(table.columns, float)
        edges = np.concatenate([steps[:1], (steps[1:] + steps[:-1]) / 2, steps[-1:]])
        mesh = axis.pcolormesh(
            edges, np.arange(len(table) + 1), table.to_numpy(float), norm=norm, cmap="cividis", rasterized=True
        )
        labelled = np.arange(0, len(table), 1 if row > 0.2 else 5)
        axis.set_yticks(labelled + 0.5, [table.index[i] for i in labelled])
        axis.invert_yaxis()
        axis.set_title(title, loc="left")
        axis.grid(False)
    axes[-1].set_xlabel(x_label)
    bar = figure.colorbar(mesh, ax=list(axes), label=label, shrink=min(1.0, 3 / figure.get_figheight()))
    _label_decades(bar.ax.yaxis)
    return figure


@mpl.rc_context(_STYLE)
def matrix(table: pd.DataFrame, label: str) -> Figure:
    """Contexts x arms as a heat map with its numbers."""
    figure = Figure(figsize=(0.9 * table.shape[1] + 3.2, 0.4 * table.shape[0] + 1.6), layout="constrained")
    axis = figure.subplots()
    sns.heatmap(table, annot=True, fmt=".3g", cmap="cividis_r", cbar_kws={"label": label}, ax=axis, linewidths=0.5)
    axis.set(xlabel="", ylabel="")
    axis.grid(False)
    return figure


@mpl.rc_context(_STYLE)
def sample_matrix(grids: Mapping[tuple[str, str], Any]) -> Figure:
    """PNG grids (with `read_bytes`) by (row, column) names, such as (variant's label, seed), side by side."""
    rows = list(dict.fromkeys(row for row, _ in grids))
    columns = list(dict.fromkeys(column for _, column in grids))
    figure = Figure(figsize=(2.2 * len(columns) + 0.3, 2.3 * len(rows) + 0.2), layout="constrained")
    for (i, row), (j, column) in ((r, c) for r in enumerate(rows) for c in enumerate(columns)):
        axis = figure.add_subplot(len(rows), len(columns), i * len(columns) + j + 1)
        axis.set(xticks=[], yticks=[])
        try:
            pixels = mpl.image.imread(io.BytesIO(grids[row, column].read_bytes()))
        except (KeyError, OSError, SyntaxError, ValueError) as error:  # SyntaxError is Pillow's for a broken PNG
            reason = "no samples" if isinstance(error, KeyError) else "unreadable file"
            axis.text(0.5, 0.5, reason, ha="center", va="center", transform=axis.transAxes)
        else:
            axis.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        if i == 0:
            axis.set_title(column)
        if j == 0:
            axis.set_ylabel("\n".join(_wrapped(row)), fontsize=7.5)
        axis.grid(False)
    return figure


@mpl.rc_context(_STYLE)
def differences(frame: pd.DataFrame, titles: Mapping[str, str], look: Look) -> Figure:
    """Paired differences per seed: a panel per `statistic`, a row per variant, a dot per seed, zero marked.

    `frame` has columns statistic, variant, seed, difference.
    """
    columns = 2
    rows = -(-len(titles) // columns)
    variants = look.order(frame["variant"])
    colours = {v: look.colours[v] for v in variants}
    figure = Figure(figsize=(7.2, (0.28 * len(variants) + 0.95) * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, (statistic, title) in zip(axes, titles.items(), strict=False):
        shown = frame[(frame["statistic"] == statistic) & np.isfinite(frame["difference"])]
        sns.stripplot(
            shown, x="difference", y="variant", hue="variant", order=variants, hue_order=variants,
            palette=colours, jitter=False, size=4.5, alpha=0.8, legend=False, ax=axis,
        )  # fmt: skip
        axis.axvline(0, color="0.4", linewidth=0.8)
        axis.set(title="\n".join(_wrapped(title, 38)), xlabel="", ylabel="")
    for axis in axes[len(titles) :]:
        axis.set_visible(False)
    return figure


@mpl.rc_context(_STYLE)
def rendered(figure: Figure, kind: str) -> bytes:
    """The figure as a file's content: of the same figure the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=130, metadata=_NO_DATE.get(kind))
    figure.set_layout_engine("none")  # what was laid out stays: the next kind costs half the time
    return buffer.getvalue()


def _wrapped(text: str, width: int = 24) -> list[str]:
    return textwrap.wrap(text, width)
