"""What measured things are called, and which side of quality is better: this project's words, or another program's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Terms:
    """Quality is compared by ratio, that is by its logarithm, or by difference (`ratio` false).

    `maximize`: higher is better; such a quality is compared by difference. Internally the columns are `eval/fd`,
    `loss/d`, `loss/g`, `grad_norm/g` and `step`, whatever they are called here.
    """

    quality: str = "fd"
    maximize: bool = False
    ratio: bool = True
    loss_d: str = "D's loss"
    loss_g: str = "G's loss"
    grad_g: str = "G's gradient"
    step: str = "generator updates (step)"

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
    def better(self) -> str:
        return "higher" if self.maximize else "lower"

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


OURS = Terms()
