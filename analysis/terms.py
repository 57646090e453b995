"""What measured things are called, and which side of quality is better: this project's words, or another program's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from sngan.quantities import knows_classes

Sight = Literal["classifier", "pixels", "inception"]
_NAMES: dict[Sight, str] = {"classifier": "fd", "pixels": "fd_pixels", "inception": "FID"}


@dataclass(frozen=True)
class Terms:
    """Quality is compared by ratio, that is by its logarithm, or by difference (`ratio` false).

    `maximize`: higher is better; such a quality is compared by difference. Internally the columns are `eval/fd`,
    `loss/d`, `loss/g`, `grad_norm/g` and `step`, whatever they are called here. `sight`: what this program's samples
    are seen by (of other programs nothing), `classes`: whether that knows the data's classes, so that modes are
    counted.
    """

    quality: str = "fd"
    maximize: bool = False
    ratio: bool = True
    loss_d: str = "D's loss"
    loss_g: str = "G's loss"
    grad_g: str = "G's gradient"
    step: str = "generator updates (step)"
    sight: Sight | Literal[""] = ""
    classes: bool = True

    @property
    def location(self) -> str:
        """The statistic of a run's quality at its end, on the scale on which arms are compared."""
        return "log_q_end" if self.ratio else "q_end"

    @property
    def scale(self) -> str:
        """That scale in words."""
        return f"log {self.quality}" if self.ratio else self.quality

    @property
    def worst(self) -> float:
        """What a run without an end counts for on that scale."""
        return -float("inf") if self.maximize else float("inf")

    @property
    def sees_alike(self) -> bool:
        """Whether samples that are too much alike can be told, by their diversity."""
        return self.sight != "pixels"

    @property
    def unseen(self) -> str:
        """Which failures cannot be seen, and why: a sentence; empty if all can be."""
        if not self.sees_alike:
            return "Mode collapse could not be seen: samples are judged by their pixels alone."
        if not self.classes:
            return (
                "Mode collapse could be seen only by samples that are too much alike: what judges them does not know "
                "the data's classes."
            )
        return ""

    @property
    def better(self) -> str:
        return "higher" if self.maximize else "lower"

    def said(self, text: str) -> str:
        """`text` of this program's fd, with what this quality is called in its place."""
        return re.sub(r"\bfd\b", lambda _: self.quality, text)

    def fill(self, text: str) -> str:
        """`text` with {q}, {scale}, {best}, {mean}, {loss_d}, {loss_g} and {grad_g} in words."""
        return text.format(
            q=self.quality,
            scale=self.scale,
            best="highest" if self.maximize else "lowest",
            mean="exp of the mean log" if self.ratio else "mean",
            loss_d=self.loss_d,
            loss_g=self.loss_g,
            grad_g=self.grad_g,
        )


OURS = Terms(sight="classifier")


def sight_of(judge: str) -> Sight:
    """What a run's judge sees samples by."""
    return "pixels" if judge == "pixels" else "inception" if judge == "inception" else "classifier"


def name_of(judge: str) -> str:
    """What the quality of a run is called that is judged so."""
    return _NAMES[sight_of(judge)]


def terms_of(runs: Iterable[tuple[str, str]]) -> Terms:
    """Of runs of this program, each by its data set and judge; of runs that are seen by several things those of fd."""
    found = set(runs)
    sights = {sight_of(judge) for _, judge in found}
    sight = sights.pop() if len(sights) == 1 else "classifier"
    classes = not found or any(knows_classes(dataset, judge) for dataset, judge in found)
    return Terms(quality=_NAMES[sight], sight=sight, classes=classes)
