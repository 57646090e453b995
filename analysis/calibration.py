"""How often the intervals cover and the tests err, on simulated studies whose truth is known.

`python -m analysis.calibration` (10 minutes on a core) writes calibration.csv, which the report prints.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.inference import (
    equality_p,
    iqm_intervals,
    log_rank_p,
    mcnemar_p,
    order_p,
    sd_interval,
    sign_flip_p,
    trend_p,
)
from analysis.stats import (
    Interval,
    location_interval,
    probability_of_improvement,
    rate_interval,
    signed_rank_p,
    spread_ratio,
    subtract,
)

TABLE = Path(__file__).with_name("calibration.csv")
_LEVEL = 0.05
_COVERAGE, _ERROR, _POWER = "coverage", "type I error", "power"
_TAILS, _ROUGH = ("normal", "t3"), ("normal", "t3", "ties", "failed runs", "imputed runs")
_Arms = tuple[np.ndarray, ...]
_Rng = np.random.Generator


class Check(NamedTuple):
    """What a procedure should do; `trial` says of one simulated study whether it covered, or rejected."""

    procedure: str
    measures: str
    low: float
    high: float
    data: tuple[str, ...]
    trial: Callable[[_Arms], bool]
    correlations: tuple[float, ...] = (0.0, 0.3, 0.6)
    replicates: int = 6000


def _covers(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def _events(arms: _Arms) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Times to failure, seen up to a common end."""
    return tuple((np.minimum(np.exp(of), 1.5), np.exp(of) < 1.5) for of in arms[:2])


CHECKS = (
    Check("Hodges-Lehmann shift", _COVERAGE, 0.93, 0.98, _TAILS,
           lambda arms: _covers(location_interval(arms[0] - arms[1])[0], 0)),
    Check("interquartile mean", _COVERAGE, 0.93, 0.98, _TAILS,
           lambda arms: _covers(iqm_intervals(pd.DataFrame({"x": arms[0]}))["x"], 0), (0.0,), 2000),
    Check("standard deviation", _COVERAGE, 0.92, 1, ("normal",),
           lambda arms: _covers(sd_interval(arms[0]), 1), (0.0,)),
    Check("spread ratio", _COVERAGE, 0.92, 1, _TAILS, lambda arms: _covers(spread_ratio(*arms[:2])[0], 1)),
    Check("probability of improvement", _COVERAGE, 0.92, 1, (*_TAILS, "ties"),
           lambda arms: _covers(probability_of_improvement(*arms[:2]), 0.5)),
    Check("signed rank test", _ERROR, 0, 0.06, _ROUGH, lambda arms: signed_rank_p(subtract(*arms[:2])) <= _LEVEL),
    Check("paired Brown-Forsythe test", _ERROR, 0, 0.06, _ROUGH,
           lambda arms: spread_ratio(*arms[:2])[1] <= _LEVEL, replicates=20_000),
    Check("sign flips", _ERROR, 0, 0.06, (*_TAILS, "ties", "imputed runs"),
           lambda arms: sign_flip_p(arms[0] - arms[1]) <= _LEVEL),
    Check("equality (TOST), at its margin", _ERROR, 0, 0.06, (*_TAILS, "ties"),
           lambda arms: equality_p(4 + arms[0] - arms[1], 4.0) <= _LEVEL),  # exact where there are ties
    Check("Page's trend", _ERROR, 0, 0.06, (*_TAILS, "ties"),
           lambda arms: trend_p(pd.DataFrame(np.array(arms).T)) <= _LEVEL),
    Check("exact McNemar", _ERROR, 0, 0.06, _TAILS,
           lambda arms: mcnemar_p(*(failed for _, failed in _events(arms))) <= _LEVEL),
    Check("log-rank", _ERROR, 0, 0.06, _TAILS, lambda arms: log_rank_p(*_events(arms)) <= _LEVEL),
    Check("order of failures", _ERROR, 0, 0.06, _TAILS, lambda arms: order_p(*_events(arms)) <= _LEVEL),
)  # fmt: skip
POWERS = {  # of the paired Brown-Forsythe test, spread twice as large: published by n and correlation
    **dict(zip(itertools.product([10], [0.0, 0.3, 0.6]), [0.27, 0.29, 0.36], strict=True)),
    **dict(zip(itertools.product([20], [0.0, 0.3, 0.6]), [0.61, 0.64, 0.76], strict=True)),
    **dict(zip(itertools.product([30], [0.0, 0.3, 0.6]), [0.82, 0.85, 0.93], strict=True)),
}


def _arms(rng: _Rng, n: int, correlation: float, data: str) -> _Arms:
    """n seeds of three arms of equal centre and spread, which share a part; where runs fail, one of six does."""
    shared, *own = rng.standard_t(3, (4, n)) if data == "t3" else rng.normal(size=(4, n))
    arms = [np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * of for of in own]
    if data == "ties":
        arms = [np.round(2 * of) / 2 for of in arms]
    if data in (failed := {"failed runs": np.inf, "imputed runs": 4.0}):
        arms = [np.where(rng.random(n) < 1 / 6, failed[data], of) for of in arms]
    return tuple(arms)


def frequency(check: Check, data: str, n: int, correlation: float) -> float:
    """In what share of simulated studies the check's trial is true."""
    rng = np.random.default_rng([CHECKS.index(check), n, int(10 * correlation), _ROUGH.index(data)])
    hits = sum(bool(check.trial(_arms(rng, n, correlation, data))) for _ in range(check.replicates))
    return hits / check.replicates


def calibrate(sizes: tuple[int, ...] = (10, 20)) -> Iterator[dict[str, object]]:
    """A row for each procedure, kind of data, number of seeds and correlation: how often, and what is required.

    Seeded: the same rows every time.
    """
    for check, n in itertools.product(CHECKS, sizes):
        for correlation, data in itertools.product(check.correlations, check.data):
            yield _row(check, data, n, correlation, frequency(check, data, n, correlation))
    for (n, correlation), power in POWERS.items():
        check = Check("paired Brown-Forsythe test, spread ratio 2", _POWER, power - 0.05, power + 0.05, (), bool)
        rng, hits = np.random.default_rng([n, int(10 * correlation)]), 0
        for _ in range(check.replicates):
            x, y, _ = _arms(rng, n, correlation, "normal")
            hits += spread_ratio(2 * x, y)[1] <= _LEVEL
        yield _row(check, "normal", n, correlation, hits / check.replicates)
    for n in sizes:
        counts = [rate_interval(count, n) for count in range(n + 1)]
        covered = [
            sum(stats.binom.pmf(k, n, p) for k, interval in enumerate(counts) if interval.low <= p <= interval.high)
            for p in np.linspace(0.005, 0.995, 199)
        ]
        check = Check("rate (Clopper-Pearson), worst rate", _COVERAGE, 0.95, 1, (), bool, replicates=0)
        yield _row(check, "binomial", n, 0.0, float(min(covered)))


def _row(check: Check, data: str, n: int, correlation: float, value: float) -> dict[str, object]:
    return {
        "procedure": check.procedure, "measures": check.measures, "data": data, "n": n, "correlation": correlation,
        "value": round(value, 4), "required_low": round(check.low, 2), "required_high": round(check.high, 2),
        "replicates": check.replicates,
    }  # fmt: skip


if __name__ == "__main__":
    rows = []
    for row in calibrate():
        rows.append(row)
        print(row, file=sys.stderr)
    pd.DataFrame(rows).to_csv(TABLE, index=False)
