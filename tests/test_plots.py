"""Figures show the numbers they are given, in the arm table's colours and words."""

import itertools
from pathlib import Path

import matplotlib.colors
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from analysis.page import plots
from analysis.stats import bands
from sngan.arms import ARMS


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [("c", arm, seed, step, rng.uniform(1, 2)) for arm in ARMS for seed in range(3) for step in (0, 10, 20)]
    return pd.DataFrame(rows, columns=["context", "variant", "seed", "step", "loss/d"])


def test_curves_are_the_bands_in_the_arms_colours(frame: pd.DataFrame) -> None:
    shown = bands(frame, "loss/d")
    figure = plots.curves({"loss": shown}, plots.look_of(ARMS), columns=1)
    (axis,) = (a for a in figure.axes if a.get_visible())
    assert axis.get_title() == "loss"
    lines = {matplotlib.colors.to_hex(line.get_color()).upper(): line for line in axis.lines}
    assert set(lines) == {arm.colour.upper() for arm in ARMS.values()}
    for slug, arm in ARMS.items():
        expected = shown[shown["variant"] == slug]
        np.testing.assert_array_equal(lines[arm.colour.upper()].get_ydata(), expected["centre"])
        dashed = lines[arm.colour.upper()].is_dashed()
        assert dashed == (arm.norm == "none")  # told apart in grey too
    assert len(axis.collections) == len(ARMS)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [arm.label for arm in ARMS.values()]


def test_a_single_seed_has_a_line_and_no_band(frame: pd.DataFrame) -> None:
    figure = plots.curves({"loss": bands(frame[frame["seed"] == 0], "loss/d")}, plots.look_of(ARMS), columns=1)
    areas = [path.vertices for collection in figure.axes[0].collections for path in collection.get_paths()]
    assert not any(len(vertices) > 1 for vertices in areas)
    assert len(figure.axes[0].lines) == len(ARMS)


def test_variants_of_one_arm_share_its_colour_and_differ_in_dashes() -> None:
    rows = [("c", f"penalty, penalty_weight {w}", s, w, np.nan, np.nan, 1) for w in (0.01, 0.1) for s in (0, 10)]
    frame = pd.DataFrame(rows, columns=["context", "variant", "step", "centre", "low", "high", "n"])
    axis = plots.curves({"loss": frame}, plots.look_of(frame["variant"]), columns=1).axes[0]
    first, second = axis.lines
    assert first.get_color() == second.get_color() == ARMS["penalty"].colour
    assert first._dash_pattern != second._dash_pattern
    assert plots.label_of("penalty, penalty_weight 0.1") == ARMS["penalty"].label + ", penalty weight 0.1"


def test_sample_matrix_shows_each_grid_in_its_place(tmp_path: Path) -> None:
    grids = {}
    for i, (row, column) in enumerate([("a", "seed 0"), ("a", "seed 1"), ("b", "seed 0")]):
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.full((4, 4), 40 * i, np.uint8)).save(path)
        grids[row, column] = path
    figure = plots.sample_matrix(grids)
    shown = [round(255 * axis.images[0].get_array()[0, 0]) if axis.images else None for axis in figure.axes]
    assert shown == [0, 40, 80, None]  # row by row; the absent one says so
    assert [axis.get_title() for axis in figure.axes] == ["seed 0", "seed 1", "", ""]
    assert figure.axes[3].texts[0].get_text() == "no samples"


def test_differences_are_a_dot_per_seed() -> None:
    rows = [("s", arm, seed, difference) for arm, differences in {"sn": [-1, 2], "plain": [0.5, np.inf]}.items()
            for seed, difference in enumerate(differences)]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["statistic", "variant", "seed", "difference"])
    axis = plots.differences(frame, {"s": "a statistic"}, plots.look_of(["sn", "plain"])).axes[0]
    dots = {tuple(point) for collection in axis.collections for point in collection.get_offsets().tolist()}
    assert dots == {(0.5, 0.0), (-1.0, 1.0), (2.0, 1.0)}  # arms in the table's order; infinity is in the tables only
    assert [text.get_text() for text in axis.get_yticklabels()] == ["plain", "sn"]


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_figure_gives_the_same_bytes_each_time(frame: pd.DataFrame, kind: str) -> None:
    panels = {"loss": bands(frame, "loss/d")}
    first, second = (plots.rendered(plots.curves(panels, plots.look_of(ARMS)), kind) for _ in range(2))  # type: ignore[arg-type]
    assert first == second


@pytest.mark.parametrize("decades", [0.3, 1, 3, 5.2])
def test_labels_of_a_logarithmic_axis_do_not_overlap(decades: float) -> None:
    rows = [("c", "dcgan", step, 10 ** (-decades * step), np.nan, np.nan, 1) for step in (0, 0.5, 1)]
    panel = pd.DataFrame(rows, columns=["context", "variant", "step", "centre", "low", "high", "n"])
    figure = plots.curves({str(i): panel for i in range(4)}, plots.look_of(["dcgan"]), list("0123"))
    plots.rendered(figure, "png")
    axis = figure.axes[0]
    labels = [t for t in [*axis.yaxis.get_ticklabels(which="both")] if t.get_text()]
    boxes = sorted((box.y0, box.y1) for box in (t.get_window_extent() for t in labels)
                   if axis.bbox.y0 <= (box.y0 + box.y1) / 2 <= axis.bbox.y1)  # fmt: skip
    assert len(boxes) >= 2
    assert all(below[1] <= above[0] + 1 for below, above in itertools.pairwise(boxes))
