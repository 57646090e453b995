"""Plots of the statistics, each on one Axes: for the report's figures, and for anyone's own.

    from matplotlib import pyplot
    from analysis import load, plots, stats

    figure, axis = pyplot.subplots()
    plots.curve(axis, stats.bands(load.load("runs/mnist-core").history, "eval/fd"))

Every function draws on the Axes that it is given and returns it. `look` says how variants look; without one they have
the arm table's colours, dashes and labels.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import matplotlib.colors
import matplotlib.ticker
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis

from analysis.grids import few_of, opened
from analysis.terms import OURS
from analysis.variants import arm_of, in_order, label_of, norm_of
from sngan.arms import ARMS, DASHES

_MORE_DASHES = [(3, 1, 1, 1), (5, 1, 1, 1, 1, 1), (7, 2), (1, 3)]
_DASHES = [*DASHES.values(), *_MORE_DASHES]
_HATCHES = ["", "//", "..", "xx", "--", "oo", "\\\\"]
_MARKS = "os^D"
_NUMBER = 0.5  # inches that a number of a matrix needs
_FAR = 1e100  # what is larger cannot be drawn
_ROOM = 0.14  # of an axis, that a name takes
_QUIET = {"linewidth": 0.8, "linestyle": ":", "color": "0.3"}


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
    """Of this project's arms: colours by arm, dashes by norm; further variants of an arm have dashes that are left."""
    order = in_order(pd.Series(list(variants), dtype=str))
    arms = [arm_of(v) for v in order]
    others = sorted(set(arms) - set(ARMS))
    colours = dict(zip(others, sns.color_palette("husl", len(others)).as_hex(), strict=True))
    colours |= {arm: row.colour for arm, row in ARMS.items()}
    dashes = {}
    for i, v in enumerate(order):
        norm, taken = norm_of(v), [dashes[other] for other in order[:i] if arm_of(other) == arm_of(v)]
        first = DASHES[norm] if norm else _DASHES[0]
        left = [dash for dash in (first, *_MORE_DASHES, *_DASHES) if dash not in taken]
        dashes[v] = left[0] if left else _DASHES[i % len(_DASHES)]
    return Look({v: colours[arm_of(v)] for v in order}, dashes, {v: label_of(v) for v in order})


def foreign_look(order: Sequence[str], step: str) -> Look:
    """Of another program's arms: a colour each, and from the eleventh on dashes too; their names as they are."""
    palette = sns.color_palette("colorblind" if len(order) <= 10 else "husl", len(order)).as_hex()
    dashes = {arm: _DASHES[i // 10 % len(_DASHES)] for i, arm in enumerate(order)}
    return Look(dict(zip(order, palette, strict=True)), dashes, {arm: arm for arm in order}, step)


def curve(axis: Axes, frame: pd.DataFrame, look: Look | None = None, seeds: pd.DataFrame | None = None) -> Axes:
    """A line over training for each variant, with its band: `frame` as of `stats.bands`. `axis.legend()` names them.

    `seeds` (columns variant, seed, step, value): each seed's own line, thin, in place of the bands."""
    look = look or look_of(frame["variant"])
    near = {name: frame[name].astype(float).where(frame[name].abs() < _FAR) for name in ("centre", "low", "high")}
    frame = frame.assign(**near)
    for variant, of in _by_variant(seeds, look) if seeds is not None else ():
        for _, own in of[of["value"].abs() < _FAR].groupby("seed"):
            _line(axis, own["step"], own["value"], variant, look, linewidth=0.5, alpha=0.55, label="_seed")
    for variant, of in _by_variant(frame, look):
        _line(axis, of["step"], of["centre"], variant, look)
        if seeds is None:
            of = of[of["low"].notna()]
            axis.fill_between(of["step"], of["low"], of["high"], color=look.colours[variant], alpha=0.15, linewidth=0)
    axis.set(xlabel=look.step)
    return axis


def logarithmic(axis: Axes) -> Axes:
    """A logarithmic y axis with plain numbers, if anything on it is positive.

    Over few decades 2 and 5 are labelled too, where over more they would overlap.
    """
    if any((np.asarray(line.get_ydata(), float) > 0).any() for line in axis.lines):
        axis.set_yscale("log")
        label_decades(axis.yaxis)
    else:
        axis.ticklabel_format(axis="y", useOffset=False)
    return axis


def label_decades(scale: Axis) -> None:
    """Plain numbers on a logarithmic axis; over few decades also at 2 and 5, where over more they would overlap."""
    scale.set_major_formatter("{x:g}")
    low, high = sorted(scale.get_view_interval())
    if high < 100 * low:
        scale.set_minor_locator(mpl.ticker.LogLocator(subs=(2, 5)))
        scale.set_minor_formatter("{x:g}")
    else:
        scale.set_minor_formatter(mpl.ticker.NullFormatter())


def references(axis: Axes, values: Mapping[str, float]) -> Axes:
    """A dotted horizontal line at each value, with its name: what reals score, or a bound that a theorem gives.

    The axis is widened to show them; what a logarithmic axis cannot show is left out."""
    log = axis.get_yscale() == "log"
    shown = {name: value for name, value in values.items() if np.isfinite(value) and (value > 0 or not log)}
    if not shown:
        return axis
    low, high = axis.get_ylim()
    low, high = min(low, *shown.values()), max(high, *shown.values())
    room = _ROOM * (np.log(high / low) if log else high - low)  # for the name above the highest
    axis.set_ylim((low * 0.9, high * np.exp(room)) if log else (low - 0.05 * (high - low), high + room))
    behind = {"facecolor": axis.get_facecolor(), "alpha": 0.7, "pad": 0.5, "linewidth": 0}
    for name, value in shown.items():
        axis.axhline(value, label="_reference", **_QUIET)
        at = (1, value), axis.get_yaxis_transform()
        axis.annotate(name, at[0], xycoords=at[1], ha="right", va="bottom", color="0.3", bbox=behind)
    return axis


def forest(axis: Axes, frame: pd.DataFrame, look: Look | None = None, none: float = 0.0) -> Axes:
    """An effect with its interval in every row, from the top: columns row (its label), variant, effect, low, high.

    `none`: no effect, a vertical line. A limit that is not finite is an arrow at the edge; without limits no bar.
    """
    look = look or look_of(frame["variant"])
    axis.axvline(none, color="0.4", linewidth=0.8)
    numbers = frame[["effect", "low", "high"]].to_numpy(float)
    known = np.concatenate([numbers[np.isfinite(numbers)], [none]])
    margin = 0.08 * (known.max() - known.min() or 1)
    left, right = known.min() - margin, known.max() + margin
    for at, (variant, (effect, low, high)) in enumerate(zip(frame["variant"], numbers, strict=True)):
        colour = look.colours[variant]
        if not np.isnan([low, high]).any():
            axis.plot(np.clip([low, high], left, right), [at, at], color=colour, linewidth=1.4, solid_capstyle="butt")
            for limit, edge, marker in ((low, left, "<"), (high, right, ">")):
                if np.isinf(limit):
                    axis.plot([edge], [at], marker=marker, color=colour, markersize=4, clip_on=False)
        if not np.isnan(effect):
            filled = "white" if np.isnan([low, high]).any() else colour
            axis.plot([np.clip(effect, left, right)], [at], "o", color=colour, markerfacecolor=filled, markersize=4.5)
    axis.set(xlim=(left, right), ylim=(len(frame) - 0.4, -0.6), xlabel="", ylabel="")
    axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
    axis.set_yticks(range(len(frame)), list(frame["row"]))
    return axis


def dots(axis: Axes, frame: pd.DataFrame, look: Look | None = None) -> Axes:
    """Paired differences: a row per variant, a dot per seed, zero marked; columns variant, difference.

    A difference that is not finite has no dot.
    """
    look = look or look_of(frame["variant"])
    variants = look.order(frame["variant"])
    sns.stripplot(
        frame[np.isfinite(frame["difference"])], x="difference", y="variant", hue="variant", order=variants,
        hue_order=variants, palette={v: look.colours[v] for v in variants}, jitter=False, size=4, alpha=0.8,
        legend=False, ax=axis,
    )  # fmt: skip
    axis.set_yticks(range(len(variants)), [look.labels[v] for v in variants])
    axis.axvline(0, color="0.4", linewidth=0.8)
    axis.set(xlabel="", ylabel="")
    return axis


def ends(axis: Axes, frame: pd.DataFrame, look: Look | None = None, within: pd.Series | None = None) -> Axes:
    """A mark per run, filled if it failed: columns variant, context, value (NaN: on the upper edge), failed.

    `within`: all values that axes of one scale show."""
    look = look or look_of(frame["variant"])
    contexts, variants = list(dict.fromkeys(frame["context"])), look.order(frame["variant"])
    known, all_values = (of.where(of > 0) for of in (frame["value"], frame["value"] if within is None else within))
    low, top = (
        (float(all_values.min()) / 1.35, 1.35 * float(all_values.max())) if all_values.notna().any() else (0.1, 1)
    )
    for i, variant in enumerate(variants):
        colour = look.colours[variant]
        marker = _MARKS[sum(look.colours[other] == colour for other in variants[:i]) % len(_MARKS)]
        axis.scatter([], [], s=11, marker=marker, color=colour, facecolor="none", label=look.labels[variant])
        for at, context in enumerate(contexts):
            of = frame[(frame["variant"] == variant) & (frame["context"] == context)]
            centre = at + (i - (len(variants) - 1) / 2) * 0.84 / len(variants)
            places = centre + np.linspace(-0.24, 0.24, len(of)) / len(variants)
            filled = [colour if failed else "none" for failed in of["failed"]]
            axis.scatter(places, known[of.index].fillna(top), s=11, marker=marker, linewidths=0.8, edgecolor=colour,
                         facecolor=filled, clip_on=False, zorder=3)  # fmt: skip
    axis.set_yscale("log")
    axis.set_ylim(low, top)
    label_decades(axis.yaxis)
    axis.annotate("no end", (1, 1), xycoords="axes fraction", xytext=(0, 3), textcoords="offset points", ha="right",
                  va="bottom", color="0.3")  # fmt: skip
    axis.set_xticks(range(len(contexts)), contexts)
    axis.set_xlim(-0.5, len(contexts) - 0.5)
    for edge in range(1, len(contexts)):
        axis.axvline(edge - 0.5, color="0.8", linewidth=0.6)
    axis.grid(visible=False, axis="x")
    return axis


def survival(axis: Axes, curves: Mapping[str, pd.DataFrame], look: Look | None = None) -> Axes:
    """Kaplan-Meier curves with bands, by variant: frames of step, survival, low, high. `axis.legend()` names them.

    As `analysis.failures.survival_of(runs).curve` has them."""
    look = look or look_of(curves)
    for variant in look.order(curves):
        of = curves[variant]
        _line(axis, of["step"], of["survival"], variant, look, linewidth=1.4, drawstyle="steps-post")
        axis.fill_between(
            of["step"], of["low"], of["high"], step="post", color=look.colours[variant], alpha=0.12, linewidth=0
        )
    axis.set(xlabel=look.step, ylabel="share without failure", ylim=(0, 1.02))
    return axis


def causes(axis: Axes, frame: pd.DataFrame, names: Sequence[str], look: Look | None = None) -> Axes:
    """Runs by cause of failure, a stacked bar per arm: columns arm, none and one per name, as of `failures.causes`.

    A cause that no run has is left out.
    """
    look = look or look_of(frame["arm"])
    shown = frame[["none", *names]]
    shown = shown.loc[:, shown.any()]
    left = np.zeros(len(shown))
    colours = dict(zip(["none", *names], sns.color_palette("cividis", len(names) + 1), strict=True))
    for name, counts in shown.items():
        axis.barh(range(len(shown)), counts, left=left, color="0.9" if name == "none" else colours[str(name)],
                  edgecolor="0.3", linewidth=0.5, hatch=_HATCHES[["none", *names].index(str(name)) % len(_HATCHES)],
                  label="no failure" if name == "none" else str(name))  # fmt: skip
        left += counts.to_numpy()
    axis.set_yticks(range(len(shown)), [look.labels[arm] for arm in frame["arm"]])
    axis.invert_yaxis()
    axis.set(xlabel="runs", ylabel="")
    axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    return axis


def shares(axis: Axes, frame: pd.DataFrame, look: Look | None = None) -> Axes:
    """Share of runs by the value of a threshold: columns variant, value, share.

    Every value has a tick.
    """
    look = look or look_of(frame["variant"])
    for variant, of in _by_variant(frame, look):
        _line(axis, of["value"], of["share"], variant, look, marker="o", markersize=3)
    axis.set(ylim=(-0.03, 1.03))
    values = sorted(frame["value"].unique())
    axis.set_xticks(values, [f"{value:.3g}" for value in values])
    return axis


def strips(axis: Axes, table: pd.DataFrame, norm: mpl.colors.Normalize | None = None) -> Axes:
    """A strip over training for each row of the table, whose columns are steps; colours by `norm`.

    The mesh, `axis.collections[0]`, is what a colour bar needs.
    """
    steps = np.asarray(table.columns, float)
    edges = np.concatenate([steps[:1], (steps[1:] + steps[:-1]) / 2, steps[-1:]])
    rows = np.arange(len(table) + 1)
    axis.pcolormesh(edges, rows, table.to_numpy(float), norm=norm, cmap="cividis", rasterized=True)
    labelled = np.arange(0, len(table), 1 if len(table) <= 5 else 5)
    axis.set_ylabel("seed")
    axis.set_yticks(labelled + 0.5, [str(table.index[i]) for i in labelled])
    axis.invert_yaxis()
    axis.grid(visible=False)
    return axis


def matrix(axis: Axes, table: pd.DataFrame, label: str) -> Axes:
    """A heat map with its numbers; `label` is the colour bar's.

    Where cells are too narrow for them, there are colours alone."""
    wide = axis.get_position().width * axis.get_figure(root=True).get_figwidth() / max(table.shape[1], 1)
    sns.heatmap(table, annot=bool(wide > _NUMBER), fmt=".3g", cmap="cividis_r", cbar_kws={"label": label}, ax=axis,
                linewidths=0.5, xticklabels=True, yticklabels=True)  # fmt: skip
    axis.set(xlabel="", ylabel="")
    axis.tick_params(axis="x", rotation=90 if wide < 2 * _NUMBER else 0)
    axis.grid(visible=False)
    return axis


def picture(axis: Axes, png: Any, few: bool = False) -> Axes:
    """A grid of samples, or its `few` first, from what has `read_bytes`, such as a path; None: there are none.

    Of a file that is no PNG it says so in its place.
    """
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)
    reason = "no samples"
    if png is not None:
        if image := opened(png):
            image = few_of(image) if few else image
            colours = image.convert("RGB") if image.mode in ("P", "RGB", "RGBA") else image.convert("L")
            axis.imshow(np.asarray(colours) / 255, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            return axis
        reason = "unreadable file"
    axis.text(0.5, 0.5, reason, ha="center", va="center", transform=axis.transAxes)
    return axis


def wrapped(text: str, width: int = 24) -> str:
    """The text in lines of at most so many characters."""
    return "\n".join(textwrap.wrap(text, width))


def _by_variant(frame: pd.DataFrame, look: Look) -> Iterator[tuple[str, pd.DataFrame]]:
    for variant in look.order(frame["variant"]):
        yield variant, frame.loc[frame["variant"] == variant]


def _line(axis: Axes, x: pd.Series, y: pd.Series, variant: str, look: Look, **style: Any) -> None:
    (line,) = axis.plot(
        x, y, **{"color": look.colours[variant], "linewidth": 1.2, "label": look.labels[variant]} | style
    )
    if look.dashes[variant]:
        line.set_dashes(look.dashes[variant])
