"""What experiments/results says is what the frozen data gives."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image

from analysis.answer import REFERENCE, RESULTS, with_answer
from analysis.page.panels import rendered
from analysis.results import BLOCKS, Findings, figures, with_blocks
from sngan.config import InputError

FOLDER = RESULTS / REFERENCE


@pytest.fixture(scope="module")
def found() -> Findings:
    return Findings(FOLDER)


def test_a_block_without_a_place_is_named() -> None:
    with pytest.raises(InputError, match="no place for counts: expected <!-- counts -->"):
        with_blocks("# Results\n", Findings(FOLDER))


def test_a_readme_without_a_place_for_the_answer_is_refused() -> None:
    with pytest.raises(InputError, match="no place for the answer: expected <!-- made by"):
        with_answer("# Readme\n")


@pytest.mark.slow
def test_the_text_is_that_of_the_frozen_runs(found: Findings) -> None:
    """`python -m analysis.results` writes it."""
    text = (RESULTS / "README.md").read_text()
    assert with_blocks(text, found) == text
    for name in BLOCKS:
        assert f"<!-- {name} -->\n<!-- end -->" not in text, name


@pytest.mark.slow
def test_tables_and_verdicts_are_those_of_the_frozen_runs(found: Findings) -> None:
    for name, frame in (("sensitivity", found.views), ("observations", found.observed)):
        again = pd.read_csv(io.StringIO(frame.to_csv(index=False)))
        pd.testing.assert_frame_equal(pd.read_csv(FOLDER / f"{name}.csv"), again, rtol=1e-6)
    claims = json.loads((FOLDER / "statistics.json").read_text())["claims"]
    assert [(row["claim"], row["context"], row["verdict"]) for row in claims] == list(
        found.claims[["claim", "context", "verdict"]].itertuples(index=False, name=None)
    )


@pytest.mark.slow
def test_the_figures_are_those_of_the_frozen_runs(found: Findings) -> None:
    for name, figure in figures(found):
        kept, again = (
            np.asarray(Image.open(of).convert("L"), float)
            for of in (FOLDER / f"{name}.png", io.BytesIO(rendered(figure, "png")))
        )
        assert kept.shape == again.shape, name
        assert np.abs(kept - again).mean() < 0.5, name


def test_every_figure_that_is_named_is_there() -> None:
    text = (RESULTS / "README.md").read_text() + (ROOT / "README.md").read_text()
    for name in ("answer", "fate", "failures", "slopes", "delay"):
        assert f"mnist-short/{name}.png" in text
        assert (FOLDER / f"{name}.png").exists()
    page = Path(FOLDER / "index.html").read_text()
    assert "In short" in page
