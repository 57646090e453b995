"""Plots show the numbers they are given, in the arm table's colours and words, on the Axes they are given."""

import inspect
import itertools
from pathlib import Path

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from analysis import plots
from analysis.page import panels
from analysis.stats import bands
from sngan.arms import ARMS


@pytest.fixture
def axis() -> Axes:
    return Figure().subplots()


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [("c", arm, seed, step, rng.uniform(1, 2)) for arm in ARMS for seed in range(3) for step in (0, 10, 20)]
    return pd.DataFrame(rows, columns=["context", "variant", "seed", "step", "loss/d"])


def test_every_plot_takes_axes_and_returns_them_and_says_how_in_three_lines() -> None:
    found = {
        name: of for name, of in inspect.getmembers(plots, inspect.isfunction)
        if of.__module__ == plots.__name__ and name[0] != "_" and "axis" in inspect.signature(of).parameters
    }  # fmt: skip
    assert {"curve", "forest", "dots", "survival", "causes", "shares", "strips", "matrix", "picture"} <= set(found)
    for name, of in found.items():
        assert inspect.signature(of).return_annotation == "Axes", name
        assert len(str(inspect.getdoc(of)).splitlines()) <= 3, name


def test_a_curve_is_the_bands_in_the_arms_colours(frame: pd.DataFrame, axis: Axes) -> None:
    shown = bands(frame, "loss/d")
    assert plots.curve(axis, shown) is axis
    lines = {matplotlib.colors.to_hex(line.get_color()).upper(): line for line in axis.lines}
    assert set(lines) == {arm.colour.upper() for arm in ARMS.values()}
    for slug, arm in ARMS.items():
        expected = shown[shown["variant"] == slug]
        np.testing.assert_array_equal(lines[arm.colour.upper()].get_ydata(), expected["centre"])
        dashed = lines[arm.colour.upper()].is_dashed()
        assert dashed == (arm.norm != "batch")  # told apart in grey too
    assert len(axis.collections) == len(ARMS)


def test_ends_are_marks_of_runs_filled_where_they_failed(axis: Axes) -> None:
    rows = [("sn", "a", 10.0, False), ("sn", "a", 20.0, True), ("plain", "a", np.nan, True), ("plain", "b", 5.0, False)]
    frame = pd.DataFrame(rows, columns=["variant", "context", "value", "failed"])
    assert plots.ends(axis, frame, within=pd.Series([1.0, 40.0, np.nan])) is axis
    low, high = axis.get_ylim()
    assert low < 1 < 40 < high
    assert axis.get_yscale() == "log"
    marks = [(*xy, alpha) for of in axis.collections if len(of.get_offsets())
             for xy, alpha in zip(np.asarray(of.get_offsets()), of.get_facecolors()[:, 3], strict=True)]  # fmt: skip
    assert sorted((round(y, 6), filled) for _, y, filled in marks) == [(5, 0), (10, 0), (20, 1), (round(high, 6), 1)]
    assert [round(x) for x, y, _ in marks if y == 5] == [1]  # its context's place
    assert axis.get_legend_handles_labels()[1] == [ARMS["plain"].label, ARMS["sn"].label]


def test_variants_of_one_colour_have_marks_of_their_own(axis: Axes) -> None:
    names = [f"penalty, penalty_weight {weight}" for weight in (0.01, 0.1)]
    frame = pd.DataFrame({"variant": names, "context": "a", "value": [1.0, 2.0], "failed": False})
    shapes = [of.get_paths()[0].vertices.shape for of in plots.ends(axis, frame).collections]
    assert len(set(shapes)) == 2


def test_the_legend_has_the_arms_labels(frame: pd.DataFrame) -> None:
    figure = panels.curves({"loss": bands(frame, "loss/d")}, plots.look_of(ARMS))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [arm.label for arm in ARMS.values()]


def test_an_axis_of_ones_own_has_a_legend(frame: pd.DataFrame, axis: Axes) -> None:
    plots.curve(axis, bands(frame, "loss/d"), seeds=frame.rename(columns={"loss/d": "value"}))
    plots.references(axis, {"reals": 1.5})
    assert [text.get_text() for text in axis.legend().get_texts()] == [arm.label for arm in ARMS.values()]


def test_a_single_seed_has_a_line_and_no_band(frame: pd.DataFrame, axis: Axes) -> None:
    plots.curve(axis, bands(frame[frame["seed"] == 0], "loss/d"))
    areas = [path.vertices for collection in axis.collections for path in collection.get_paths()]
    assert not any(len(vertices) > 1 for vertices in areas)
    assert len(axis.lines) == len(ARMS)


def test_few_seeds_have_a_line_each_in_place_of_bands(frame: pd.DataFrame, axis: Axes) -> None:
    of = frame[frame["variant"] == "sn"]
    plots.curve(axis, bands(of, "loss/d"), seeds=of.rename(columns={"loss/d": "value"}))
    assert not axis.collections
    drawn = sorted(line.get_ydata().tolist() for line in axis.lines if line.get_linewidth() < 1)
    assert drawn == sorted(values.tolist() for _, values in of.groupby("seed")["loss/d"])
    assert len(axis.lines) == 4  # and the median


def test_variants_of_one_arm_share_its_colour_and_differ_in_dashes(axis: Axes) -> None:
    rows = [("c", f"penalty, penalty_weight {w}", s, w, np.nan, np.nan, 1) for w in (0.01, 0.1) for s in (0, 10)]
    plots.curve(axis, pd.DataFrame(rows, columns=["context", "variant", "step", "centre", "low", "high", "n"]))
    first, second = axis.lines
    assert first.get_color() == second.get_color() == ARMS["penalty"].colour
    assert first._dash_pattern != second._dash_pattern


def test_reference_lines_are_at_their_values_and_named(axis: Axes) -> None:
    axis.plot([0, 1], [2, 3])
    plots.logarithmic(axis)
    plots.references(axis, {"reals": 0.5, "trivial sampler": 40.0, "unknown": np.nan, "negative": -1.0})
    plots.logarithmic(axis)
    drawn = [line.get_ydata()[0] for line in axis.lines[1:]]
    assert drawn == [0.5, 40]
    assert [text.get_text() for text in axis.texts] == ["reals", "trivial sampler"]
    low, high = axis.get_ylim()
    assert low < 0.5 < 40 < high


def test_a_grid_is_shown_in_its_place_and_what_is_none_says_so(tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    Image.fromarray(np.full((4, 4), 40, np.uint8)).save(path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    figure = panels.samples({("a", "seed 0"): path, ("a", "seed 1"): tmp_path / "broken.png", ("b", "seed 0"): path})
    shown = [round(255 * axis.images[0].get_array()[0, 0]) if axis.images else None for axis in figure.axes]
    assert shown == [40, None, 40, None]
    assert [axis.get_title() for axis in figure.axes] == ["seed 0", "seed 1", "", ""]
    assert figure.axes[1].texts[0].get_text() == "unreadable file"
    assert figure.axes[3].texts[0].get_text() == "no samples"


def test_differences_are_a_dot_per_seed(axis: Axes) -> None:
    rows = [(arm, seed, difference) for arm, differences in {"sn": [-1, 2], "plain": [0.5, np.inf]}.items()
            for seed, difference in enumerate(differences)]  # fmt: skip
    plots.dots(axis, pd.DataFrame(rows, columns=["variant", "seed", "difference"]))
    dots = {tuple(point) for collection in axis.collections for point in collection.get_offsets().tolist()}
    assert dots == {(0.5, 0.0), (-1.0, 1.0), (2.0, 1.0)}  # arms in the table's order; infinity is in the tables only
    assert [text.get_text() for text in axis.get_yticklabels()] == ["plain", "SN"]


def test_the_forest_is_effects_with_their_intervals_from_the_top(axis: Axes) -> None:
    rows = pd.DataFrame({
        "row": ["one", "two", "three", "four"], "variant": ["sn", "plain", "sn", "sn"],
        "effect": [1.0, -2.0, 0.5, np.nan], "low": [0.5, np.nan, -np.inf, np.nan], "high": [1.5, np.nan, 2.0, np.nan],
    })  # fmt: skip
    plots.forest(axis, rows)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["one", "two", "three", "four"]
    assert axis.get_ylim()[0] > axis.get_ylim()[1]
    bars = {line.get_ydata()[0]: line.get_xdata() for line in axis.lines if len(line.get_xdata()) == 2}
    np.testing.assert_array_equal(bars[0], [0.5, 1.5])
    assert bars[2][0] == axis.get_xlim()[0]  # no limit: up to the edge
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in dots] == [(1, 0), (-2, 1), (0.5, 2)]
    assert [line.get_markerfacecolor() == "white" for line in dots] == [False, True, False]
    assert any(line.get_marker() == "<" for line in axis.lines)


def test_causes_are_counts_by_arm_without_those_that_nobody_has(axis: Axes) -> None:
    frame = pd.DataFrame({"arm": ["dcgan", "sn"], "none": [3, 1], "error": [0, 0], "mode collapse": [0, 2]})
    plots.causes(axis, frame, ["error", "mode collapse"])
    assert axis.get_legend_handles_labels()[1] == ["no failure", "mode collapse"]
    widths = [[bar.get_width() for bar in bars] for bars in axis.containers]
    assert widths == [[3, 1], [0, 2]]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["DCGAN", "SN"]


@pytest.mark.parametrize("decades", [0.3, 1, 3, 5.2])
def test_labels_of_a_logarithmic_axis_do_not_overlap(decades: float) -> None:
    rows = [("c", "dcgan", step, 10 ** (-decades * step), np.nan, np.nan, 1) for step in (0, 0.5, 1)]
    panel = pd.DataFrame(rows, columns=["context", "variant", "step", "centre", "low", "high", "n"])
    figure = panels.curves({str(i): panel for i in range(4)}, plots.look_of(["dcgan"]), logarithmic=list("0123"))
    panels.rendered(figure, "png")
    axis = figure.axes[0]
    labels = [t for t in [*axis.yaxis.get_ticklabels(which="both")] if t.get_text()]
    boxes = sorted((box.y0, box.y1) for box in (t.get_window_extent() for t in labels)
                   if axis.bbox.y0 <= (box.y0 + box.y1) / 2 <= axis.bbox.y1)  # fmt: skip
    assert len(boxes) >= 2
    assert all(below[1] <= above[0] + 1 for below, above in itertools.pairwise(boxes))
