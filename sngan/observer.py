"""What is measured of a run, and when."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from sngan.config import RunConfig
from sngan.data import ImageData
from sngan.evaluate import Evaluation
from sngan.measure import Instruments, non_finite
from sngan.state import Run

Log = Callable[[dict[str, Any], Tensor | None], None]
"""log(row, samples): a row of the record, and at evaluations the fixed latents' images"""


class Observer:
    """What is measured of a run, and when: it makes the rows of the record, and sees that a run has diverged.

    `run` is the one that is trained, or a copy that shows what it is at the steps at which something is due. `clock`
    gives the seconds that steps have taken so far, in any place where nothing is measured.
    """

    def __init__(self, run: Run, data: ImageData, log: Log, clock: Callable[[], float] = time.perf_counter) -> None:
        assert run.window
        self._run, self._log, self._window, self._clock = run, log, run.window, clock
        self._instruments = Instruments(run.config, run.G, run.D, run.constraint, data)
        self._evaluation, self._evaluations = Evaluation(run.config, data), set(run.config.evaluation_steps())
        self._since = clock()

    def begin(self) -> None:
        """The row of step 0."""
        self._log(self._instruments.row(0, {}), None)
        self._since = self._clock()

    def after(self, step: int) -> str:
        """Log what is due after a step. Returns what is not finite, by which the run has diverged; else nothing."""
        config, G = self._run.config, self._run.G
        if not config.has_row(step):
            return ""
        means = self._window.means()  # waits for the device
        timing = elapsed(self._clock() - self._since, self._window.steps, config)
        row, samples = self._instruments.row(step, means), None
        if step in self._evaluations:
            start, samples = time.perf_counter(), self._instruments.samples()
            row |= self._evaluation(G) | self._instruments.spectra()
            timing["time/evaluation_seconds"] = time.perf_counter() - start
        self._log(row | timing, samples)
        self._run.look()
        bad = non_finite(row, samples, self._run.magnitudes())
        self._window.clear()
        self._since = self._clock()
        return bad

    def state(self) -> dict[str, Any]:
        return {"window": self._window.state(), "instruments": self._instruments.state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self._window.load_state(state["window"])
        self._instruments.load_state(state["instruments"])
        self._since = self._clock()


class Unobserved:
    """What takes an observer's place in a run that nobody looks at."""

    def begin(self) -> None: ...

    def after(self, step: int) -> str:
        return ""

    def state(self) -> dict[str, Any]:
        return {"window": {"d": [], "g": []}, "instruments": {}}

    def load_state(self, state: dict[str, Any]) -> None: ...


def elapsed(seconds: float, steps: int, config: RunConfig) -> dict[str, float]:
    """Seconds per step, of the seconds that they took, and the real images seen per second."""
    of_one = seconds / steps
    return {"time/step_seconds": of_one, "time/images_per_second": config.n_dis * config.batch_size / of_one}
