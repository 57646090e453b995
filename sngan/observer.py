"""What is measured of a run, and when."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from sngan.config import RunConfig
from sngan.data import ImageData
from sngan.evaluate import Evaluation
from sngan.measure import Instruments, Window, non_finite
from sngan.state import Run

Log = Callable[[dict[str, Any], Tensor | None], None]
"""log(row, samples): a row of the record, and at evaluations the fixed latents' images"""


class Observer:
    """What is measured of a run, and when: it makes the rows of the record, and sees that a run has diverged."""

    def __init__(self, run: Run, data: ImageData, log: Log) -> None:
        config = run.config
        self._run, self._log = run, log
        self._instruments = Instruments(config, run.G, run.D, run.constraint, data)
        self._evaluation, self._evaluations = Evaluation(config, data), set(config.evaluation_steps())
        self.window, self._since = Window(), time.perf_counter()

    def begin(self) -> None:
        """The row of step 0."""
        self._log(self._instruments.row(0, {}), None)
        self._since = time.perf_counter()

    def after(self, step: int) -> str:
        """Log what is due after a step. Returns what is not finite, by which the run has diverged; else nothing."""
        config, G = self._run.config, self._run.G
        if step % config.log_every and step != config.steps:
            return ""
        means = self.window.means(config)  # waits for the device
        timing = elapsed(self._since, self.window.steps, config)
        row, samples = self._instruments.row(step, means), None
        if step in self._evaluations:
            start, samples = time.perf_counter(), self._instruments.samples()
            row |= self._evaluation(G) | self._instruments.spectra()
            timing["time/evaluation_seconds"] = time.perf_counter() - start
        self._log(row | timing, samples)
        bad = non_finite(row, samples, G, self._run.D)
        self.window, self._since = Window(), time.perf_counter()
        return bad

    def state(self) -> dict[str, Any]:
        return {"window": self.window.state(), "instruments": self._instruments.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.window.load_state(state["window"])
        self._instruments.load_state(state["instruments"])
        self._since = time.perf_counter()


class Unobserved:
    """What takes an observer's place in a run that nobody looks at."""

    window = None

    def begin(self) -> None: ...

    def after(self, step: int) -> str:
        return ""

    def state(self) -> dict[str, Any]:
        return {"window": Window().state(), "instruments": {}}

    def load_state(self, state: dict[str, Any]) -> None: ...


def elapsed(start: float, steps: int, config: RunConfig) -> dict[str, float]:
    """Seconds per step since `start`, instruments and record left out, and the real images seen per second."""
    seconds = (time.perf_counter() - start) / steps
    return {"time/step_seconds": seconds, "time/images_per_second": config.n_dis * config.batch_size / seconds}
