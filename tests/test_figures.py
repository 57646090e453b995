"""Which figures there are, and what they say."""

import dataclasses
import math
from pathlib import Path

import pandas as pd
import pytest
from others import own_images, results
from test_report import synthetic

from analysis.page.figures import judged
from analysis.page.report import write, write_report
from analysis.sources.columns import Reading
from analysis.sources.table import from_table


def test_each_context_has_its_own_protocol() -> None:
    study = synthetic({("sn", 0): "finished", ("sn", 1): "finished"})
    study.runs.loc[0, "context"] = "d"
    protocols = {f"sn-{seed}": {"feature_net": "a net", "trivial_fd": 10.0 + seed} for seed in (0, 1)}
    study = dataclasses.replace(study, protocols=protocols)
    assert "the trivial sampler one of 10. " in judged(study, "d")
    assert "the trivial sampler one of 11. " in judged(study, "c")
    assert "11" not in judged(study, "d")


def test_every_data_set_has_its_own_figures(tmp_path: Path) -> None:
    curve = results(1.0, sets=1).assign(step=0)
    curve = pd.concat([curve.assign(step=step) for step in range(3)])
    table = pd.concat([curve.assign(dataset=name) for name in ("d 1", "d-1", "D_1", "x" * 300)])
    made = write(from_table(table, Reading({"quality": "score"}), "t", tmp_path), kinds=["svg"])
    assert len(list((made.page.parent / "figures").glob("quality-*.svg"))) == 4


def test_an_arm_has_one_colour_in_all_figures(tmp_path: Path) -> None:
    """Also where a figure does not have all of them: losses of two arms, quality of four; named as ours, too."""
    arms = ["plain", "dcgan", "x", "y"]
    rows = [{"arm": arm, "seed": seed, "step": step, "quality": 1 + i, "loss": 0.5 if arm in "xy" else math.nan}
            for i, arm in enumerate(arms) for seed in range(2) for step in range(5)]  # fmt: skip
    made = write(from_table(pd.DataFrame(rows), Reading(), "t", tmp_path), kinds=["svg"])

    def colours(figure: str) -> list[str]:
        """Of the lines of a figure's legend, in its order."""
        legend = (made.page.parent / "figures" / f"{figure}.svg").read_text().split('id="legend_')[-1]
        return [part.split(";")[0].strip() for part in legend.split("stroke: ")[1:]]

    of_four = dict(zip(["dcgan", "plain", "x", "y"], colours("quality"), strict=True))
    assert len(set(of_four.values())) == 4
    assert colours("losses") == [of_four["x"], of_four["y"]]


@pytest.mark.parametrize("quality", [[math.inf, math.inf], [1.0, math.inf], [1e308, 1e-308]])
def test_numbers_that_cannot_be_drawn_are_no_error(quality: list[float], tmp_path: Path) -> None:
    table = pd.DataFrame({"arm": ["a", "b"], "seed": 1, "quality": quality, "loss": [-1e308, 1.0]})
    page = write_report(from_table(table, Reading(), "t", tmp_path), kinds=["svg"])
    assert page.exists()


def test_the_protocol_is_told_as_it_was(tmp_path: Path) -> None:
    pixels, inception, labels = (
        judged(own_images(tmp_path, ("a", 3, judge)), "folder aaaaaaaa, setting C")
        for judge in ("pixels", "inception", "labels")
    )
    assert pixels == (
        "60 samples against 60 reals by their pixels alone (means of 2x2 pixels in [-1, 1], 196 numbers an image), "
        "batch norm by its running statistics. Reals against reals have an fd_pixels of 0.5, the trivial sampler one "
        "of 160. "
    )
    assert "in the features of inception's net (SHA-256 abababab)" in inception
    assert "an FID of 0.3, the trivial sampler one of 40. " in inception
    assert "in the features of labels's net (accuracy 99.00%, SHA-256 abababab)" in labels
    assert "an fd of 0.3" in labels
