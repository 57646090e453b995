"""How often the intervals cover, the tests err and the verdicts mislead, on simulated studies whose truth is known.

`python -m analysis.calibration` (10 minutes on a core) writes calibration.csv: interval by interval and test by test.
`python -m analysis.calibration --claims` (20 minutes on two cores) writes operating.csv: what the whole machinery of
claims, families and verdicts does if nothing differs, and if spectral normalization does what is claimed of it.
The report prints both.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.claims import BETTER, judge_runs
from analysis.inference import MARGIN, equality_p, log_rank_p, mcnemar_p, order_p, paired_rates_p, sign_flip_p, trend_p
from analysis.stats import (
    Interval,
    location_interval,
    probability_of_improvement,
    rate_interval,
    signed_rank_p,
    spread_ratio,
    subtract,
)
from analysis.synthetic import Truth, outcomes

TABLE = Path(__file__).with_name("calibration.csv")
OPERATING = Path(__file__).with_name("operating.csv")
_LEVEL = 0.05
_COVERAGE, _ERROR, _POWER, _WIDTH = "coverage", "type I error", "power", "width, 95th percentile"
_TAILS, _ROUGH = ("normal", "t3"), ("normal", "t3", "ties", "failed runs")
_SHAPES = ("normal", "t3", "lognormal", "contaminated")
_LOCATION_SIZES = (7, 8, 9, 10, 20)
_WIDEST = {7: 3.2, 8: 2.9, 9: 2.6, 10: 2.4, 20: 1.4}  # robust sd, of normal data: required of the location's interval
_TIMES = {"normal": 1.0, "t3": 2.2, "contaminated": 2.2, "lognormal": 3.0}  # the same for heavier tails
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
    Check("spread ratio", _COVERAGE, 0.92, 1, _TAILS, lambda arms: _covers(spread_ratio(*arms[:2])[0], 1)),
    Check("probability of improvement", _COVERAGE, 0.92, 1, (*_TAILS, "ties"),
           lambda arms: _covers(probability_of_improvement(*arms[:2]), 0.5)),
    Check("signed rank test", _ERROR, 0, 0.06, _ROUGH, lambda arms: signed_rank_p(subtract(*arms[:2])) <= _LEVEL),
    Check("paired Brown-Forsythe test", _ERROR, 0, 0.06, (*_TAILS, "ties"),
           lambda arms: spread_ratio(*arms[:2])[1] <= _LEVEL, replicates=20_000),
    Check("sign flips", _ERROR, 0, 0.06, (*_TAILS, "ties"),
           lambda arms: sign_flip_p(arms[0] - arms[1]) <= _LEVEL),
    Check("equality (TOST), at its margin", _ERROR, 0, 0.06, (*_TAILS, "ties"),
           lambda arms: equality_p(4 + arms[0] - arms[1], 4.0) <= _LEVEL),  # exact if there are ties
    Check("Page's trend", _ERROR, 0, 0.06, (*_TAILS, "ties"),
           lambda arms: trend_p(pd.DataFrame(np.array(arms).T)) <= _LEVEL),
    Check("paired rates (Suissa and Shuster)", _ERROR, 0, 0.06, _TAILS,
           lambda arms: paired_rates_p(*(failed for _, failed in _events(arms))) <= _LEVEL),
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
    if data == "failed runs":
        arms = [np.where(rng.random(n) < 1 / 6, np.inf, of) for of in arms]
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
    yield from _locations()
    yield from _two_shapes(sizes)
    for n in sizes:
        counts = [rate_interval(count, n) for count in range(n + 1)]
        covered = [
            sum(stats.binom.pmf(k, n, p) for k, interval in enumerate(counts) if interval.low <= p <= interval.high)
            for p in np.linspace(0.005, 0.995, 199)
        ]
        check = Check("rate (Clopper-Pearson), worst rate", _COVERAGE, 0.95, 1, (), bool, replicates=0)
        yield _row(check, "binomial", n, 0.0, float(min(covered)))


def _two_shapes(sizes: tuple[int, ...]) -> Iterator[dict[str, object]]:
    """What the test of spread says of two shapes with equal standard deviations: lognormal and normal."""
    check = Check("paired Brown-Forsythe test, equal sd, lognormal against normal", "rejections", 0, 1, (), bool)
    for n, log_sd in itertools.product(sizes, (0.75, 1.0)):
        rng, rejected = np.random.default_rng([n, int(100 * log_sd)]), 0
        sd = np.sqrt((np.exp(log_sd**2) - 1) * np.exp(log_sd**2))
        for _ in range(check.replicates):
            rejected += spread_ratio(np.exp(log_sd * rng.normal(size=n)) / sd, rng.normal(size=n))[1] <= _LEVEL
        yield _row(check, f"log sd {log_sd:g}", n, 0.0, rejected / check.replicates)


def _locations() -> Iterator[dict[str, object]]:
    """The interval of an arm's location: coverage of the centre, and how wide it is at its widest, in robust sd."""
    for n, shape in itertools.product(_LOCATION_SIZES, _SHAPES):
        rng = np.random.default_rng([n, _SHAPES.index(shape)])
        many = _shaped(np.random.default_rng(0), shape, 4_000_000)
        centre = float(np.median((many[::2] + many[1::2]) / 2))  # what Hodges and Lehmann estimate
        robust = 1.4826 * float(np.median(np.abs(many - np.median(many))))
        check = Check("Hodges-Lehmann centre of an arm", _COVERAGE, 0.93, 0.98, (), bool)
        found = [location_interval(_shaped(rng, shape, n))[0] for _ in range(check.replicates)]
        yield _row(check, shape, n, 0.0, float(np.mean([_covers(interval, centre) for interval in found])))
        widths = [(interval.high - interval.low) / robust for interval in found]
        ideal = 2 * 1.96 / np.sqrt(n)  # of a mean, if the sd is known
        check = check._replace(measures=_WIDTH, low=ideal, high=_WIDEST[n] * _TIMES[shape])
        yield _row(check, shape, n, 0.0, float(np.quantile(widths, 0.95)))


def _shaped(rng: _Rng, shape: str, n: int) -> np.ndarray:
    if shape == "t3":
        return rng.standard_t(3, n)
    values = rng.normal(size=n)
    if shape == "contaminated":
        return values * np.where(rng.random(n) < 0.1, 5.0, 1.0)
    return np.exp(values) if shape == "lognormal" else values


def _row(check: Check, data: str, n: int, correlation: float, value: float) -> dict[str, object]:
    return {
        "procedure": check.procedure, "measures": check.measures, "data": data, "n": n, "correlation": correlation,
        "value": round(value, 4), "required_low": round(check.low, 2), "required_high": round(check.high, 2),
        "replicates": check.replicates,
    }  # fmt: skip


# --- the claims ---

PRIMARY = {"failures": "mnist, lr 0", "spread": "mnist, lr 0", "C14": "mnist, lr 0"}
_WITH_SN = ("sn", "sn_dcgan")


@dataclass(frozen=True)
class Design:
    """A kind of study: what is true of its arms, and of which claims the power is asked."""

    name: str
    truths: Callable[[str, Mapping[str, float], int], Truth]
    sizes: tuple[int, ...]
    claims: tuple[str, ...] = ()
    """empty: any claim"""
    contexts: int = 2
    degrees: float = 5.0
    dataset: str = "mnist"
    replicates: int = 1000


def _nothing_differs(arm: str, parameters: Mapping[str, float], context: int) -> Truth:
    """Arms are exchangeable, but where a claim is of one arm or of equality: there its truth is its threshold."""
    truth = Truth()
    if arm == "sn":  # C16 and C9 at their margins; two iterations differ, five do not
        slower = replace(truth, healthy_step=np.exp(MARGIN) * truth.healthy_step)
        return replace(slower, fd=np.exp(MARGIN) * truth.fd) if parameters["n_power_iterations"] == 2 else slower
    return truth


_BASE = Truth(fd=10, fd_sd=0.3, failure=0.3, sigma_growth=BETTER + 0.2, sigma_max=1.0, steepness=0.0)
_SN = replace(
    _BASE, fd=8, fd_sd=0.15, failure=0.05, coverage=0.56, late=-0.1, spikes=2, p1=-0.6, modes=8.5, sigma_share=0.01,
    steepness=-0.5, growth=0.5, sigma_max=0.0,
)  # fmt: skip


def _as_claimed(arm: str, parameters: Mapping[str, float], context: int) -> Truth:
    """SN halves the spread, fails in 5 instead of 30 %, has an fd of 8 instead of 10; others lose in context 1."""
    if arm in _WITH_SN:
        return _SN
    truth = _BASE
    if arm in ("penalty", "penalty_dcgan"):
        stronger = parameters["penalty_weight"] > 0.05
        truth = replace(truth, failure=0.15 if stronger else 0.25, sigma_max=0.5 if stronger else 0.75)
    return replace(truth, fd=2.5 * truth.fd) if context == 1 else truth


def _batch_norm_matters(arm: str, parameters: Mapping[str, float], context: int) -> Truth:
    return (
        replace(_as_claimed(arm, parameters, context), fd=10.0)
        if arm == "sn"
        else _as_claimed(arm, parameters, context)
    )


def _four_rates(arm: str, parameters: Mapping[str, float], context: int) -> Truth:
    """Failures grow with the learning rate, later under spectral normalization."""
    rates = (0.05, 0.1, 0.3, 0.6) if arm in _WITH_SN else (0.1, 0.3, 0.6, 0.9)
    return replace(_as_claimed(arm, parameters, 0), failure=rates[context])


DESIGNS = (
    Design("nothing differs", _nothing_differs, (7, 10, 20), degrees=3, replicates=2000),
    Design("nothing differs, four contexts", _nothing_differs, (20,), contexts=4, degrees=3, replicates=2000),
    Design("as claimed", _as_claimed, (10, 20), ("C1", "C2", "C3", "C4", "C5", "C6", "C7a", "C7b", "C8", "C9", "C13",
           "C14a", "C14b", "C15", "C16")),
    Design("sn 10, sn_dcgan 8", _batch_norm_matters, (10, 20), ("C11",)),
    Design("as claimed, of a thousand classes", _as_claimed, (10, 20), ("C10",), dataset="stacked_mnist"),
    Design("failures by rate .1 to .9, with SN .05 to .6", _four_rates, (10, 20), ("C17",), contexts=4),
)  # fmt: skip


def verdicts(design: Design, seeds: int, replicate: int) -> dict[tuple[str, str], str]:
    """(claim, context) -> verdict of one simulated study."""
    place = DESIGNS.index(design)
    runs = outcomes(
        np.random.default_rng([place, seeds, replicate]), seeds, design.truths, design.contexts, design.degrees,
        dataset=design.dataset,
    )  # fmt: skip
    primary = {name: context.replace("mnist", design.dataset) for name, context in PRIMARY.items()}
    found = judge_runs(runs, primary).drop_duplicates(["claim", "context"])
    return dict(zip(zip(found["claim"], found["context"], strict=True), found["verdict"], strict=True))


def operating(designs: tuple[Design, ...] = DESIGNS) -> Iterator[dict[str, object]]:
    """One row per design, size and claim (or any): shares of studies in which it is supported and contradicted.

    Of a claim in its first context, which for the primary ones is the one that was named. Seeded.
    """
    with ProcessPoolExecutor() as pool:
        for design, n in [(of, n) for of in designs for n in of.sizes]:
            found = list(pool.map(functools.partial(verdicts, design, n), range(design.replicates), chunksize=20))
            if not design.claims:
                for verdict in ("supported", "contradicted"):
                    said = [verdict in of.values() for of in found]
                    yield _operating_row(design, n, "any", verdict, sum(said))
            for claim in design.claims:
                first = [next(verdict for (name, _), verdict in of.items() if name == claim) for of in found]
                yield _operating_row(design, n, claim, "supported", first.count("supported"))


def _operating_row(design: Design, n: int, claim: str, verdict: str, count: int) -> dict[str, object]:
    share = rate_interval(count, design.replicates)
    return {
        "truth": design.name, "contexts": design.contexts, "n": n, "claim": claim, "verdict": verdict,
        "share": round(share.estimate, 4), "low": round(share.low, 4), "high": round(share.high, 4),
        "required_high": 0.065 if claim == "any" else 1.0, "studies": design.replicates,
    }  # fmt: skip


def _write(rows: Iterator[dict[str, object]], path: Path) -> None:
    kept: list[dict[str, Any]] = []
    for row in rows:
        kept.append(row)
        print(row, file=sys.stderr)
    pd.DataFrame(kept).to_csv(path, index=False)


if __name__ == "__main__":
    if sys.argv[1:] == ["--claims"]:
        _write(operating(), OPERATING)
    elif sys.argv[1:]:
        sys.exit("usage: python -m analysis.calibration [--claims]")
    else:
        _write(calibrate(), TABLE)
