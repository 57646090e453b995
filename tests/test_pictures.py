"""Figures as files, and within the page."""

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from analysis.load import load
from analysis.page.figures import Drawn, samples
from analysis.page.pictures import save
from analysis.page.report import KINDS, write_report
from experiments.record import run_folders
from sngan.config import InputError


def test_files_that_no_run_wrote_do_not_hinder_the_report(mixed_study: Path, tmp_path: Path) -> None:
    folder = next(record for record in run_folders(mixed_study) if record.status()["state"] == "finished").samples_path
    (folder / "step-later.png").write_text("")
    (folder / "step-000060.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    drawn = samples(load(mixed_study), "digits, setting C")
    pictures = [save(figure, tmp_path, KINDS) for figure in drawn]
    assert [picture.file for picture in pictures] == ["samples", "samples-all"]
    assert "step 60" in pictures[0].title


def test_within_the_page_stands_what_is_smaller(tmp_path: Path) -> None:
    """A line as SVG, whose words can be searched; ten thousand dots as a bitmap; both say what there is to see."""
    markups = {}
    for name, dots in (("line", 2), ("dots", 10_000)):
        figure = Figure(figsize=(4, 2))
        at = np.random.default_rng(0).random((2, dots))
        figure.subplots().plot(*at, "." if dots > 2 else "-")
        picture = save(Drawn(name, "A title", 'caption "quoted"', figure, name), tmp_path, ["pdf"])
        assert {path.name for path in tmp_path.iterdir()} >= {f"{name}.pdf"}
        assert Image.open(io.BytesIO(picture.png)).format == "PNG"
        markups[name] = picture.markup
    assert markups["line"].startswith("<svg ")
    assert markups["dots"].startswith('<img src="data:image/png;base64,')
    for markup in markups.values():
        assert re.search(r'(aria-label|alt)="A title\. caption &#34;quoted&#34;"', markup)
    assert not list(tmp_path.glob("*.png"))


def test_the_width_is_the_files_and_the_page_has_its_own(mixed_study: Path) -> None:
    """Text of 8 points in a column's figure would be twice as large in the page."""
    page = write_report(mixed_study, kinds=["png"], width=3.25)
    assert Image.open(page.parent / "figures" / "losses.png").width == 650
    (figure,) = re.findall(r'<figure id="figure-losses".*?</figure>', page.read_text(), re.DOTALL)
    assert 'width="486pt"' in figure
    for width in (0.0, -1.0, float("nan"), 1000.0):
        with pytest.raises(InputError, match="expected 2 to 20"):
            write_report(mixed_study, width=width)


def test_an_arm_without_the_shown_seed_keeps_its_place_among_the_large_samples(mixed_study: Path) -> None:
    study = load(mixed_study)
    whole = [axis.get_title() for axis in next(samples(study, "digits, setting C")).figure.axes if axis.get_visible()]
    runs = study.runs[study.runs["run_id"].isin(study.samples)].sort_values("seed")
    arms = [of for _, of in runs.groupby("arm")["run_id"].apply(list).items() if len(of) > 1]
    gone = {of[i % 2] for i, of in enumerate(arms)}  # no seed is left that all arms have
    left = {run_id: grids for run_id, grids in study.samples.items() if run_id not in gone}
    fewer = next(samples(replace(study, samples=left), "digits, setting C")).figure
    assert [axis.get_title() for axis in fewer.axes if axis.get_visible()] == whole
    assert any(text.get_text() == "no samples" for axis in fewer.axes for text in axis.texts)
