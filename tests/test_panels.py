"""Figures of panels: a true width, text of 8 points, and what panels share said once."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pikepdf
import pytest
from matplotlib.figure import Figure
from PIL import Image

from analysis import plots
from analysis.page import panels
from analysis.plots import look_of
from analysis.stats import bands
from sngan.arms import ARMS

WIDTHS = (3.25, 5.5, 6.75)


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [("c", arm, seed, step, rng.uniform(1, 2)) for arm in ARMS for seed in range(3) for step in (0, 10, 20)]
    return pd.DataFrame(rows, columns=["context", "variant", "seed", "step", "loss/d"])


def figures(frame: pd.DataFrame, width: float) -> dict[str, Figure]:
    """One of each kind."""
    look, of = look_of(ARMS), bands(frame, "loss/d")
    rows = pd.DataFrame({"context": "", "row": [f"{arm} (3)" for arm in ARMS], "variant": list(ARMS), "effect": 0.5})
    rows = rows.assign(low=-0.1, high=np.inf)
    effects = [panels.Effects("Gain, minus that of DCGAN", "higher is better", rows)] * 3
    curve = pd.DataFrame({"step": [0, 10], "survival": [1, 0.5], "low": [0.9, 0.3], "high": [1, 0.7]})
    failed = pd.DataFrame({"arm": list(ARMS), "none": 3, "mode collapse": 2, "error": 0})
    shares = pd.DataFrame({"threshold": "healthy", "value": [0.25, 0.5], "variant": "sn", "share": [0.1, 0.3]})
    strip = pd.DataFrame(np.arange(1, 13.0).reshape(3, 4), columns=[0, 10, 20, 30])
    ends = pd.DataFrame({"variant": list(ARMS), "context": "lr 0.1", "value": 2.0, "failed": False})
    matrix = pd.DataFrame(np.ones((2, len(ARMS))), ["lr 0.1", "lr 0.2"], [arm.label for arm in ARMS.values()])
    return {
        "curves": panels.curves({f"panel {i}": of for i in range(6)}, look, width, columns=3),
        "forest": panels.forest(effects, look, width),
        "differences": panels.differences({"a": frame.rename(columns={"loss/d": "difference"})}, look, width),
        "survival": panels.survival({"sn": curve}, look, width),
        "causes": panels.causes(failed, ["mode collapse", "error"], look, width),
        "sensitivity": panels.sensitivity(shares, look, width),
        "strips": panels.strips({"SN": strip}, "norm", "step", width),
        "matrix": panels.matrix(matrix, "median fd", width),
        "matrices": panels.matrices({"failed": matrix.T, "diverged": matrix.T}, width),
        "ends": panels.ends({"with": ends, "without": ends}, look, {"trivial sampler": 3.0}, width),
        "large": panels.large_samples({"real images": None, "SN": None, "plain": None}, width),
        "samples": panels.samples({("SN", "seed 0"): None, ("plain", "seed 1"): None}, width),
    }


@pytest.mark.parametrize("width", WIDTHS)
def test_figures_have_their_true_width_and_truetype_text_of_8_points(frame: pd.DataFrame, width: float) -> None:
    """Read back from the files: the PDF's page and fonts, the bitmap's pixels, the SVG's text."""
    for name, figure in figures(frame, width).items():
        with pikepdf.open(io.BytesIO(panels.rendered(figure, "pdf"))) as pdf:
            (page,) = pdf.pages
            assert float(page.mediabox[2]) == pytest.approx(72 * width, abs=0.5), name
            fonts: list[Any] = [font.DescendantFonts[0] for font in page.Resources.Font.values()]
            assert {str(font.Subtype) for font in fonts} == {"/CIDFontType2"}, name  # TrueType, and never Type 3
            content = page.Contents.read_bytes().decode("latin-1")
            assert set(re.findall(r"/F\d+ ([\d.]+) Tf", content)) == {"8"}, name
        assert Image.open(io.BytesIO(panels.rendered(figure, "png"))).width == round(200 * width), name


def test_the_x_label_is_there_once_and_steps_below_the_lowest_panels(frame: pd.DataFrame) -> None:
    figure = panels.curves({str(i): bands(frame, "loss/d") for i in range(5)}, look_of(ARMS), columns=3)
    svg = panels.rendered(figure, "svg").decode()
    assert svg.count(">generator updates (step)<") == 1
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert len(shown) == 5
    labelled = [any(label.get_visible() and label.get_text() for label in axis.get_xticklabels()) for axis in shown]
    assert labelled == [False, False, True, True, True]  # below the third there is none


def test_panels_that_are_compared_have_one_scale(frame: pd.DataFrame) -> None:
    of = bands(frame, "loss/d")
    large = of.assign(**{name: 9 * of[name] for name in ("centre", "low", "high")})
    for compared in (True, False):
        figure = panels.curves({"used": of, "raw": large}, look_of(ARMS), compared=compared)
        limits = {axis.get_ylim() for axis in figure.axes}
        assert len(limits) == (1 if compared else 2)


def test_a_narrow_figure_has_fewer_columns(frame: pd.DataFrame) -> None:
    of = bands(frame, "loss/d")
    for width, columns in ((3.25, 2), (6.75, 4)):
        figure = panels.curves({str(i): of for i in range(4)}, look_of(ARMS), width, columns=4)
        assert figure.axes[0].get_gridspec().ncols == columns


def test_rows_of_the_forest_are_named_once(frame: pd.DataFrame) -> None:
    figure = figures(frame, 6.75)["forest"]
    named = [[label.get_text() for label in axis.get_yticklabels()] for axis in figure.axes]
    assert named[0] == [f"{arm} (3)" for arm in ARMS]
    assert not any("".join(texts) for texts in named[1:])


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_a_figure_gives_the_same_bytes_each_time(frame: pd.DataFrame, kind: str) -> None:
    of = {"loss": bands(frame, "loss/d")}
    first, second = (panels.rendered(panels.curves(of, look_of(ARMS)), kind) for _ in range(2))
    assert first == second


def test_within_a_page_names_are_a_figures_own_and_texts_stay(frame: pd.DataFrame) -> None:
    figure = panels.curves({'id="x" <b> 0.123456': bands(frame, "loss/d")}, look_of(ARMS))
    text = panels.inline(panels.rendered(figure, "svg"), "one", "what to see")
    assert text.startswith('<svg role="img" aria-label="what to see"')
    ids = set(re.findall(r'<[^>]*\bid="([^"]*)"', text))
    assert ids
    assert all(name.startswith("one-") for name in ids)
    used = set(re.findall(r'href="#([^"]*)"', text)) | set(re.findall(r"url\(#([^)]*)\)", text))
    assert used <= ids
    assert "&lt;b&gt; 0.123456" in text
    assert "<metadata" not in text
    assert len(text) < 0.9 * len(panels.rendered(figure, "svg"))


def test_long_names_leave_room_for_what_they_name(recwarn: pytest.WarningsRecorder, tmp_path: Path) -> None:
    table = pd.DataFrame(np.ones((2, 2)), ["x" * 300, "x" * 300 + "y"], ["a", "b"])
    rows = pd.DataFrame(
        {"context": table.index, "row": ["x" * 300 + " (9)", "sn (10)"], "variant": "sn", "effect": 0.5}
    )
    effects = panels.Effects("t", "", rows.assign(low=-0.1, high=1.0))
    forest = panels.forest([effects], look_of(["sn"]), 3.25)
    for figure in (panels.matrix(table, "m"), forest):
        panels.rendered(figure, "png")
    assert not [str(warning.message) for warning in recwarn]
    arms = ["x" * 300 + "1" + "x" * 50, "x" * 300 + "2" + "x" * 50]  # alike where they are shortened
    look = plots.foreign_look(arms, "step")
    dots = panels.differences({"t": pd.DataFrame({"variant": arms, "difference": [1.0, 2.0]})}, look, 3.25)
    failed = pd.DataFrame({"arm": arms, "none": [1, 2], "error": [3, 4]})
    for axis in (dots.axes[0], panels.causes(failed, ["error"], look, 3.25).axes[0]):
        assert len(axis.get_yticklabels()) == 2
    first, second = (label.get_text() for label in forest.axes[0].get_yticklabels())
    assert first.endswith("(9)")  # what tells rows apart stays
    assert second.endswith("\nsn (10)")
