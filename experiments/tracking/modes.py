"""Mode collapse, seen while a run trains."""

from __future__ import annotations

import math
from typing import Any

from sngan.config import FEW_MODES, HEALTHY_FD, LARGE_MODE_KL, LOW_DIVERSITY, RunConfig
from sngan.datasets import classes_of, is_many


class ModeWatch:
    """Whether a run, once healthy, has lost modes: as the report judges it, but while the run trains.

    `trivial_fd`: of the trivial sampler; None if it is not known, and then nothing is seen. `classes`: of the data,
    if its row does not say.
    """

    def __init__(self, config: RunConfig, trivial_fd: float | None, classes: int | None = None) -> None:
        self._classes = classes or classes_of(config.dataset)
        self._healthy_fd = HEALTHY_FD * (trivial_fd or -math.inf)
        self._healthy = self._told = False
        self._best, self._bad = 0.0, 0  # effective modes; evaluations in a row

    def lost(self, row: dict[str, Any]) -> str:
        """What is wrong, once per run and at the second bad evaluation in a row; else nothing."""
        if any(row.get(f"eval/{name}") is None for name in ("fd", "effective_modes", "mode_kl", "diversity")):
            return ""
        modes, classes = row["eval/effective_modes"], self._classes
        many = is_many(classes)
        self._healthy |= row["eval/fd"] < self._healthy_fd and (many or modes >= FEW_MODES * classes)
        if not self._healthy:
            return ""
        self._best = max(self._best, modes)
        found = {f"effective modes {modes:.3g} of {classes}": modes < FEW_MODES * (self._best if many else classes)}
        if not many:
            kl, diversity = row["eval/mode_kl"], row["eval/diversity"]
            found |= {f"KL {kl:.3g} nats": kl > LARGE_MODE_KL, f"diversity {diversity:.3g}": diversity < LOW_DIVERSITY}
        reasons = [text for text, holds in found.items() if holds]
        self._bad = self._bad + 1 if reasons else 0
        if self._bad < 2 or self._told:
            return ""
        self._told = True
        return f"{', '.join(reasons)} at step {row['step']}, after it was healthy"
