"""What the papers claim, each with the statistic, the threshold fixed beforehand, and the verdict of a study.

A claim is a conjunction of parts, tested as an intersection-union test: every part has an effect per seed, with an
interval over seeds, and must lie beyond its threshold; the claim's p is the largest of its parts'. Inconclusive is the
default; below 7 paired seeds nothing is tested. Only the statistics of `analysis.stability` are looked at, one row per
run, and no run is left out because it failed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.inference import MARGIN, equality_p, holm, paired_rates_interval, paired_rates_p, trend_p
from analysis.stability import OVER, WITHOUT_END
from analysis.stats import (
    APPROXIMATE_BELOW,
    SPREAD_FROM,
    Interval,
    benjamini_hochberg,
    location_interval,
    signed_rank_p,
    spread_ratio,
    subtract,
)
from analysis.study import Study
from analysis.terms import OURS, Terms, terms_of
from experiments.study import CONTEXT_FIELDS
from sngan.arms import ARMS
from sngan.config import InputError
from sngan.datasets import classes_of
from sngan.files import parse_json, read_within

LEVEL = 0.05
BETTER = float(np.log(1.1))  # of a distance: what counts as better
FAMILIES = ("primary", "outcome", "mechanism and cost")
_TOO_MANY_WITHOUT_END = _TOO_MANY_FAILED = 0.2
_SATURATED = 0.9  # of the classes
_ROUNDS = 7  # of a benchmark
_NAN = Interval(np.nan, np.nan, np.nan)
_OPTIMIZER = ("setting", "lr", "beta1", "beta2", "n_dis")
_Arm = str | tuple[str, Mapping[str, Any]]
"""An arm by its name, or with values of its parameters; else these are the default ones, or the only ones there are"""


@dataclass(frozen=True)
class Part:
    """One part of a claim: an effect over paired seeds against a threshold fixed beforehand."""

    what: str
    expected: str = ""
    """`above`, `below` or `within` (equality: within +-threshold)"""
    threshold: float = np.nan
    interval: Interval = _NAN
    """95 %; of an equality 90 %, which is what two one-sided tests at 5 % invert to"""
    n: int = 0
    p: float = np.nan
    """of the effect against the threshold, two-sided and in the expected direction only; of equality TOST's"""
    p_against: float = np.nan
    """of an effect beyond `none` on the other side, two-sided; of an equality beyond the threshold on either side"""
    none: float = 0.0
    """no effect, or the threshold if no effect lies on the expected side of it"""
    untested: str = ""
    """which arm, setting or seeds it lacks"""
    refused: str = ""
    """why it would mislead, with the counts"""
    seeds: int = 0
    """pairs before any is left out; 0: n"""
    decides: bool = True
    """else it is shown beside the claim, and without a say in its verdict"""

    @property
    def tested(self) -> bool:
        return not self.untested and not self.refused

    @property
    def holds(self) -> bool:
        """By the interval alone."""
        _, low, high = self.interval
        t = self.threshold
        return bool({"above": low > t, "below": high < t, "within": -t < low and high < t}.get(self.expected, False))

    @property
    def opposite(self) -> bool:
        _, low, high = self.interval
        t, none = self.threshold, self.none
        return bool(
            {"above": high < none, "below": low > none, "within": low > t or high < -t}.get(self.expected, False)
        )

    @property
    def verdict(self) -> str:
        """Of the part alone, without regard to the other tests of the study."""
        if self.untested or self.refused:
            return "not tested" if self.untested else "refused"
        if self.holds and self.p <= LEVEL:
            return "holds"
        return "opposite" if self.opposite and self.p_against <= LEVEL else "open"


class Claim(NamedTuple):
    id: str
    statement: str
    source: str
    family: str
    figure: str  # of the report
    parts: Callable[[_Cell], Iterable[Part]]
    by_quality: bool = False
    """whether it goes by the distance of samples, of which there are two"""


class _Missing(Exception):
    """Which arm, setting or measurement a part lacks."""


@dataclass(frozen=True)
class _Table:
    """One row per run that has ended: statistics, outcome, arm, parameters, context."""

    runs: pd.DataFrame
    _columns: dict[str, np.ndarray] = field(default_factory=dict)

    def column(self, name: str) -> np.ndarray:
        """A statistic as a number; without an end what `stability.WITHOUT_END` says."""
        if name not in self._columns:
            found = self.runs[name] if name in self.runs else pd.Series(np.nan, self.runs.index)
            values = pd.to_numeric(found, errors="coerce").to_numpy(float)
            without = ~self.ended
            if name in WITHOUT_END and not name.startswith("gain"):  # if no run has it, it was not measured
                measured = not np.isnan(values[~without]).all() or not (~without).any()
                values = np.where(without, WITHOUT_END[name] if measured else np.nan, values)
            self._columns[name] = values
        return self._columns[name]

    @cached_property
    def ended(self) -> np.ndarray:
        return self.runs["ended"].eq(True).to_numpy()

    @cached_property
    def failed(self) -> np.ndarray:
        return self.runs["failure"].eq(True).to_numpy()

    @cached_property
    def first_healthy(self) -> np.ndarray:
        """log step; +inf for never, NaN if that is not known."""
        steps = self.column("healthy_step")
        unknown = self.runs["trivial_fd"].isna().to_numpy() if "trivial_fd" in self.runs else np.isnan(steps)
        if "q_best" in self.runs:  # without any evaluation
            unknown = unknown | (np.isnan(self.column("q_best")) & self.ended)
        return np.where(
            unknown & np.isnan(steps), np.nan, np.log(np.where(np.isnan(steps), np.inf, np.maximum(steps, 1)))
        )

    @cached_property
    def by_arm(self) -> dict[str, dict[str, dict[tuple[tuple[str, Any], ...], dict[int, int]]]]:
        """context -> arm -> parameters -> seed -> row."""
        found: dict[str, Any] = {}
        parameters = {arm: [n for n in row.usual if n in self.runs] for arm, row in ARMS.items()}
        for i, run in enumerate(self.runs.to_dict("records")):
            key = tuple((name, run[name]) for name in parameters.get(run["arm"], ()))
            found.setdefault(run["context"], {}).setdefault(run["arm"], {}).setdefault(key, {})[run["seed"]] = i
        return found


@dataclass(frozen=True)
class _Cell:
    """What a claim is tested on: one context of a study, or several that differ in the optimizer's settings."""

    table: _Table
    context: str
    dataset: str
    settings: Mapping[str, str] = field(default_factory=dict)
    """context -> its optimizer's settings in words, if the claim spans several"""
    lrs: Mapping[float, str] = field(default_factory=dict)
    """learning rate -> context, of those that differ in nothing else"""
    bench: Path | None = None
    view: str = ""
    """of quality: empty for the one that runs are judged by, `_pixels` for fd_pixels beside it"""
    terms: Terms = OURS
    classes: int = 0
    """of the data; 0: it has no labels"""

    @property
    def gain(self) -> str:
        return "gain" + self.view

    @property
    def log_q(self) -> str:
        return f"log_q{self.view}_end"

    def rows(self, arm: _Arm, context: str = "") -> dict[int, int]:
        """seed -> row of an arm's runs. Raises _Missing if there is none, or one too many."""
        name, wanted = (arm, {}) if isinstance(arm, str) else arm
        there = self.table.by_arm.get(context or self.context, {}).get(name, {})
        usual = ARMS[name].usual if name in ARMS else {}
        fits = [
            (key, rows)
            for key, rows in there.items()
            if all(dict(key).get(n, usual[n]) == v for n, v in wanted.items())
        ]
        if len(fits) > 1:
            fits = [(key, rows) for key, rows in fits if all(value == wanted.get(n, usual[n]) for n, value in key)]
        if len(fits) != 1:
            raise _Missing(f"{_name(arm)}{f' in {context}' if context else ''}")
        return fits[0][1]

    def pair(self, arm: _Arm, other: _Arm, context: str = "") -> tuple[np.ndarray, np.ndarray]:
        """Rows of the two by seed."""
        x, y = self.rows(arm, context), self.rows(other, context)
        seeds = [seed for seed in x if seed in y]
        return np.array([x[s] for s in seeds], int), np.array([y[s] for s in seeds], int)

    def weights(self, arm: str) -> list[_Arm]:
        """The arm with each of its penalties, from the smallest."""
        there = self.table.by_arm.get(self.context, {}).get(arm, {})
        usual = ARMS[arm].parameters["penalty_weight"]
        found = sorted({dict(key).get("penalty_weight", usual) for key in there})
        return [(arm, {"penalty_weight": weight}) for weight in found]


def _name(arm: _Arm) -> str:
    if isinstance(arm, str):
        return arm
    return f"{arm[0]} with {', '.join(f'{name} {value:g}' for name, value in arm[1].items())}"


# --- parts ---


def judged_part(what: str, expected: str, threshold: float, effects: np.ndarray, of: str = "paired seed") -> Part:
    """An effect per seed, or whatever the sample is `of`, against a threshold; NaN is none that was measured."""
    d = np.asarray(effects, float)
    if len(d) and np.isnan(d).all():
        return Part(what, untested=f"needs {what.partition(':')[0]}")
    d = d[~np.isnan(d)]
    none = {"above": min(threshold, 0.0), "below": max(threshold, 0.0)}.get(expected, 0.0)
    if (n := len(d)) < APPROXIMATE_BELOW:
        lacks = f"{n} {of}{'s' if n != 1 else ''}, {APPROXIMATE_BELOW} are needed"
        return Part(what, expected, threshold, n=n, none=none, untested=lacks)
    if expected == "within":
        interval = location_interval(d, 1 - 2 * LEVEL)[0]
        beyond = min(signed_rank_p(d - threshold, "greater"), signed_rank_p(d + threshold, "less"))
        return Part(what, expected, threshold, interval, n, equality_p(d, threshold), min(1.0, 2 * beyond), none)
    towards, away = ("greater", "less") if expected == "above" else ("less", "greater")
    p, p_against = (min(1.0, 2 * signed_rank_p(d - at, side)) for at, side in ((threshold, towards), (none, away)))
    return Part(what, expected, threshold, location_interval(d)[0], n, p, p_against, none)


def _missing(what: str, error: _Missing) -> Part:
    return Part(what, untested=f"needs {error}")


def _contrast(
    cell: _Cell,
    name: str,
    what: str,
    arm: _Arm,
    other: _Arm,
    expected: str,
    threshold: float = 0.0,
    learned: bool = False,
) -> Part:
    """arm - other of a statistic, per seed. `learned`: refused if neither ever learned in half of its runs.

    Where one of the two ended too early for the statistic to exist, the pair counts as no difference.
    """
    what = f"{what}: {_name(arm)} - {_name(other)}"
    try:
        x, y = cell.pair(arm, other)
    except _Missing as error:
        return _missing(what, error)
    values = cell.table.first_healthy if name == "first healthy" else cell.table.column(name)
    d = subtract(values[x], values[y])
    if not np.isnan(d).all():
        early = (np.isnan(values[x]) & ~cell.table.ended[x]) | (np.isnan(values[y]) & ~cell.table.ended[y])
        d = np.where(np.isnan(d) & early, 0.0, d)
    part = judged_part(what, expected, threshold, d)
    return _if_learned(cell, part, (arm, x), (other, y)) if learned else part


def _if_learned(cell: _Cell, part: Part, *arms: tuple[_Arm, np.ndarray]) -> Part:
    """The part, refused if none of the arms was ever healthy in half of its runs."""
    if part.untested:
        return part
    if any(np.isnan(cell.table.first_healthy[rows]).any() for _, rows in arms):
        return part  # not known
    counts = {_name(arm): (int(np.isfinite(cell.table.first_healthy[rows]).sum()), len(rows)) for arm, rows in arms}
    return replace(part, refused=location_refusal(counts))


def location_refusal(healthy: Mapping[str, tuple[int, int]]) -> str:
    """Why locations are not compared; empty if they are. `healthy`: arm -> runs that ever were, of how many."""
    if all(2 * count < n for count, n in healthy.values()):
        said = ", ".join(f"{arm} {count} of {n}" for arm, (count, n) in healthy.items())
        return f"neither arm was ever healthy in half of its runs: {said}"
    return ""


def spread_refusal(
    ratio: float, arms: tuple[str, str], n: int, failed: tuple[int, int], healthy: tuple[int, int]
) -> str:
    """Why spreads are not compared in the direction that was found, arm / other; empty if they are.

    `failed`, `healthy`: runs of each, of n, that failed and that ever were healthy.
    """
    for arm, count in zip(arms, healthy, strict=True):
        if 2 * count < n:
            return f"{arm} was ever healthy in {count} of its {n} runs, fewer than half"
    tighter = 0 if ratio < 1 else 1
    lost, against = failed[tighter], failed[1 - tighter]
    if ratio != 1 and lost > against and lost > _TOO_MANY_FAILED * n:
        return (
            f"{arms[tighter]} looks tighter after {lost} of its {n} runs failed, of the other arm {against}: "
            "survivors look tight"
        )
    return ""


def _equality(cell: _Cell, arm: _Arm, other: _Arm) -> Part:
    """TOST on log quality: a run without an end is not equal to one that has one, and two of them say nothing."""
    what = f"log {_distance(cell)} at the end: {_name(arm)} - {_name(other)}"
    try:
        x, y = cell.pair(arm, other)
    except _Missing as error:
        return _missing(what, error)
    log_q, ended = cell.table.column(cell.log_q), cell.table.ended
    if not np.isfinite(log_q[ended]).any() and ended.any():
        return _missing(what, _Missing(_distance(cell)))
    values = np.where(ended, log_q, np.inf)
    lacking, neither = int((~(ended[x] & ended[y])).sum()), ~(ended[x] | ended[y])
    part = replace(judged_part(what, "within", MARGIN, subtract(values[x], values[y])[~neither]), seeds=len(x))
    if len(x) >= APPROXIMATE_BELOW and lacking > _TOO_MANY_WITHOUT_END * len(x):
        said = f"{lacking} of {len(x)} pairs lack an end, more than a fifth"
        return replace(part, untested="", refused=said)
    return _if_learned(cell, part, (arm, x), (other, y))


def _failures(cell: _Cell, arm: _Arm, other: _Arm) -> Part:
    what = f"share of seeds in which {_name(arm)} alone failed, minus that of {_name(other)} alone"
    try:
        x, y = (cell.table.failed[rows] for rows in cell.pair(arm, other))
    except _Missing as error:
        return _missing(what, error)
    if (n := len(x)) < APPROXIMATE_BELOW:
        return Part(what, "below", 0.0, n=n, untested=f"{n} paired seeds, {APPROXIMATE_BELOW} are needed")
    only_x, only_y, p = int((x & ~y).sum()), int((~x & y).sum()), paired_rates_p(x, y)
    what += f" ({only_x} and {only_y})"
    interval = paired_rates_interval(only_x, only_y, n)
    return Part(what, "below", 0.0, interval, n, p if only_x < only_y else 1.0, p if only_x > only_y else 1.0)


def _spread(cell: _Cell, arm: _Arm, other: _Arm) -> Part:
    """Typical distance from the median of log quality, among seeds in which neither failed."""
    what = f"typical distance of log {_distance(cell)} from the median, {_name(arm)} / {_name(other)}"
    try:
        x, y = cell.pair(arm, other)
    except _Missing as error:
        return _missing(what, error)
    nothing = Part(what, "below", 1.0, n=0, none=1.0)
    if (n := len(x)) < SPREAD_FROM:
        return replace(nothing, n=n, untested=f"{n} paired seeds, {SPREAD_FROM} are needed")
    log_q, failed, ended = cell.table.column(cell.log_q), cell.table.failed, cell.table.ended
    if not np.isfinite(log_q[ended]).any() and ended.any():
        return _missing(what, _Missing(_distance(cell)))
    steady = ~failed[x] & ~failed[y] & np.isfinite(log_q[x]) & np.isfinite(log_q[y])
    if (kept := int(steady.sum())) < SPREAD_FROM:
        return replace(
            nothing,
            n=kept,
            seeds=n,
            refused=f"{kept} of {n} seeds in which neither arm failed, {SPREAD_FROM} are needed",
        )
    healthy = cell.table.first_healthy
    learned = [n if np.isnan(healthy[of]).any() else int(np.isfinite(healthy[of]).sum()) for of in (x, y)]
    ratio, p = spread_ratio(log_q[x][steady], log_q[y][steady])
    tighter = ratio.estimate < 1
    part = Part(what, "below", 1.0, ratio, kept, p if tighter else 1.0, p if ratio.estimate > 1 else 1.0, 1.0)
    lost = (int(failed[x].sum()), int(failed[y].sum()))
    arms = (_name(arm), _name(other))
    return replace(part, seeds=n, refused=spread_refusal(ratio.estimate, arms, n, lost, (learned[0], learned[1])))


def _weakest(parts: list[Part], order: list[_Arm], table: np.ndarray) -> Part:
    """The step of an order of arms that is least seen, and Page's p beside it."""
    said = f"weakest step of {' < '.join(_name(arm) for arm in order)}"
    worst = max(parts, key=lambda part: (not part.tested, part.p if part.tested else 1.0))
    page = trend_p(pd.DataFrame(table))
    return replace(worst, what=f"{said} (Page's p {page:.2g}): {worst.what}", decides=False)


def _order(cell: _Cell, part: Callable[[_Cell, _Arm, _Arm], Part], name: str) -> Iterator[Part]:
    """Whether the penalty lies between spectral normalization and the baseline: widely claimed, and no part of it."""
    order: list[_Arm] = ["sn_dcgan", *reversed(cell.weights("penalty_dcgan")), "dcgan"]
    if len(order) < 3:
        return
    try:
        rows = [cell.rows(arm) for arm in order]
    except _Missing:
        return
    seeds = [seed for seed in rows[0] if all(seed in of for of in rows)]
    values = cell.table.failed.astype(float) if name == "failed" else cell.table.column(name)
    table = np.array([[values[of[seed]] for of in rows] for seed in seeds]).reshape(len(seeds), len(order))
    if name != "failed" and len(table):
        table = table[np.isfinite(table).all(axis=1)]
        table = np.abs(table - np.median(table, axis=0)) if len(table) else table
    yield _weakest([part(cell, x, y) for x, y in itertools.pairwise(order)], order, table)


def _distance(cell: _Cell) -> str:
    return "fd_pixels" if cell.view else cell.terms.quality


# --- C1 to C17 ---

_PAIRS = (("sn", "plain"), ("sn_dcgan", "dcgan"))


def _c1(cell: _Cell) -> Iterator[Part]:
    for arm in ("sn", "sn_dcgan"):
        what = f"share of layer-rows of {arm} with a used sigma above 1.05, from the first update on"
        try:
            rows = np.array(list(cell.rows(arm).values()), int)
        except _Missing as error:
            yield _missing(what, error)
            continue
        shares = cell.table.column("sigma_share")[rows]
        if not np.isnan(shares).all():  # a run that ended before it had a row
            shares = np.where(np.isnan(shares) & ~cell.table.ended[rows], 0.05, shares)
        yield judged_part(what, "below", 0.05, shares, "seed")


def _c2(cell: _Cell) -> Iterator[Part]:
    what = "log of the 99th percentile of |dD/dx| over the last quarter"
    yield _contrast(cell, "grad_x_p99_late", what, "sn", "plain", "below", -MARGIN)
    for name, words, expected, threshold in (
        ("sigma_conv_max", "largest operator norm of sn's convolutions at the end", "above", 1.05),
        ("tightness", "steepest gradient of sn over the product of norms", "below", 0.12),
    ):
        try:
            values = cell.table.column(name)[list(cell.rows("sn").values())]
        except _Missing:
            continue
        yield replace(judged_part(words, expected, threshold, values, "seed"), decides=False)


def _c3(cell: _Cell) -> Iterator[Part]:
    what = "rise of plain's log largest sigma from update 500 of D to the end"
    try:
        rows = np.array(list(cell.rows("plain").values()), int)
    except _Missing as error:
        yield _missing(what, error)
    else:
        rise = cell.table.column("sigma_growth")[rows]
        if not np.isnan(rise).all():
            rise = np.where(np.isnan(rise) & ~cell.table.ended[rows], 0.0, rise)
        yield judged_part(what, "above", BETTER, rise, "seed")
    order: list[_Arm] = ["plain", *cell.weights("penalty")]
    if len(order) == 1:
        yield _missing("log largest sigma at the end: plain - penalty", _Missing("penalty"))
    for arm, other in itertools.pairwise(order):
        yield _contrast(cell, "sigma_max", "log largest sigma at the end", arm, other, "above")


def _c4(cell: _Cell) -> Iterator[Part]:
    what = "log growth of the raw weights' norm since update 500 of D, mean over layers"
    yield _contrast(cell, "weight_growth", what, "sn", "plain", "above")


def _c5(cell: _Cell) -> Iterator[Part]:
    for arm, other in _PAIRS:
        what = "spikes of G's gradient per 1,000 steps"
        yield _contrast(cell, "grad_g_spikes", what, arm, other, "below")
        what = "log of the 1st percentile of G's gradient over its own median"
        yield _contrast(cell, "grad_g_p1", what, arm, other, "above")


def _c6(cell: _Cell) -> Iterator[Part]:
    others, gain = ("dcgan", "plain"), cell.table.column(cell.gain)
    if len(cell.settings) < 2:
        yield _missing("gain at the worst of the optimizer's settings", _Missing("a second setting of the optimizer"))
        return
    try:
        rows = {arm: {c: cell.rows(arm, c) for c in cell.settings} for arm in ("sn", *others)}
    except _Missing as error:
        yield _missing("gain at the worst of the optimizer's settings", error)
        return
    seeds = [s for s in next(iter(rows["sn"].values())) if all(s in at for of in rows.values() for at in of.values())]
    gains = {arm: {c: gain[[at[s] for s in seeds]] for c, at in of.items()} for arm, of in rows.items()}
    known = ~np.isnan([values for of in gains.values() for values in of.values()]).any(axis=0)
    gains = {arm: {c: values[known] for c, values in of.items()} for arm, of in gains.items()}
    medians = {arm: {c: float(np.median(v)) if len(v) else 0.0 for c, v in of.items()} for arm, of in gains.items()}
    worst = {arm: min(of, key=of.__getitem__) for arm, of in medians.items()}
    best = {arm: max(of, key=of.__getitem__) for arm, of in medians.items()}
    at = {arm: np.array([rows[arm][worst[arm]][s] for s in seeds], int) for arm in gains}
    loss = {arm: of[best[arm]] - of[worst[arm]] for arm, of in gains.items()}
    words = cell.settings
    for other in others:
        what = f"gain by {_distance(cell)} at their worst: sn ({words[worst['sn']]}) - {other} ({words[worst[other]]})"
        part = judged_part(what, "above", BETTER, gains["sn"][worst["sn"]] - gains[other][worst[other]])
        yield _if_learned(cell, part, ("sn", at["sn"]), (other, at[other]))
        what = f"loss of gain from best to worst: {other} (best {words[best[other]]}) - sn (best {words[best['sn']]})"
        yield judged_part(what, "above", 0.0, loss[other] - loss["sn"])


def _c7a(cell: _Cell) -> Iterator[Part]:
    yield _failures(cell, "sn_dcgan", "dcgan")
    yield from _order(cell, _failures, "failed")


def _c7b(cell: _Cell) -> Iterator[Part]:
    yield _spread(cell, "sn_dcgan", "dcgan")
    yield from _order(cell, _spread, cell.log_q)


def _quality(cell: _Cell, arm: _Arm, other: _Arm, threshold: float) -> Part:
    return _contrast(cell, cell.gain, f"gain by {_distance(cell)}", arm, other, "above", threshold, learned=True)


def _c8(cell: _Cell) -> Iterator[Part]:
    yield _quality(cell, "sn", "dcgan", BETTER)
    yield replace(_quality(cell, "sn", "plain", -MARGIN), decides=False)
    yield replace(_equality(cell, "sn_dcgan", "dcgan"), decides=False)


def _c9(cell: _Cell) -> Iterator[Part]:
    one: _Arm = ("sn", {"n_power_iterations": 1})
    for several in (2, 5):
        yield _equality(cell, one, ("sn", {"n_power_iterations": several}))
    if "sn_svd" in cell.table.by_arm.get(cell.context, {}):
        yield _equality(cell, one, "sn_svd")


def _c10(cell: _Cell) -> Iterator[Part]:
    if cell.dataset != "stacked_mnist":
        yield _missing("modes hit: sn - dcgan", _Missing("stacked_mnist"))
        return
    yield _modes(cell, "modes_end", "modes hit", "sn", "dcgan")


def _modes(cell: _Cell, name: str, what: str, arm: _Arm, other: _Arm) -> Part:
    if not cell.terms.classes:
        return _missing(f"{what}: {_name(arm)} - {_name(other)}", _Missing("a judge that knows the data's classes"))
    return _contrast(cell, name, what, arm, other, "above")


def _c11(cell: _Cell) -> Iterator[Part]:
    yield _quality(cell, "sn_dcgan", "sn", 0.0)


_STEEP = ("gp", "r1")  # arms with a gradient penalty, which must cost 1.4 times as much as the same without


def _c12(cell: _Cell) -> Iterator[Part]:
    """From one benchmark's file: its effects are over rounds, in which all arms took their turn.

    A gradient penalty's part is there if the file has that arm. What is gained by removing spectral normalization has
    none: no benchmark measures it.
    """
    found = _benchmark(cell.bench)
    steep = [("plain", arm, 1 / 1.4) for arm in _STEEP if found and arm in found[1]]
    for arm, other, limit in (("sn", "plain", 1.2), ("penalty", "sn", 1.0), *steep):
        what = f"step time, {arm} / {other}"
        if found is None:
            yield _missing(what, _Missing(f"a benchmark's file with {_ROUNDS} rounds of these arms"))
            continue
        machine, seconds = found
        ratios = seconds[arm] / seconds[other]
        yield judged_part(f"{what}, over rounds of a benchmark on {machine}", "below", limit, ratios, "round")


def _benchmark(folder: Path | None) -> tuple[str, dict[str, np.ndarray]] | None:
    """Machine, and seconds per step by round of the arms that C12 needs: of the file that was made last."""
    found = []
    for path in sorted(folder.glob("*.json")) if folder else ():
        try:
            content = parse_json(read_within(path, path.parent), str(path))
            arms = ("plain", "sn", "penalty", *(arm for arm in _STEEP if arm in content["rows"]))
            seconds = {arm: np.array(content["rows"][arm]["each"], float) for arm in arms}
            if min(map(len, seconds.values())) >= _ROUNDS and len({len(values) for values in seconds.values()}) == 1:
                machine = content.get("machine", {})
                found.append(
                    (
                        str(content.get("made", "")),
                        str(machine.get("device") or machine.get("cpu") or "one machine"),
                        seconds,
                    )
                )
        except (InputError, ValueError, KeyError, TypeError, AttributeError, OSError):
            continue  # not a benchmark's file, or one without its rounds
    return max(found, key=lambda of: of[0])[1:] if found else None


def _c13(cell: _Cell) -> Iterator[Part]:
    ends, full = cell.table.column("effective_modes_end"), True
    for arm in ("sn", "plain", "sn_dcgan", "dcgan"):
        try:
            of = ends[list(cell.rows(arm).values())]
        except _Missing:
            full = False
        else:
            full &= bool(np.nanmedian(of) > _SATURATED * cell.classes) if not np.isnan(of).all() else False
    for arm, other in _PAIRS:
        part = _modes(cell, "effective_modes_low", "lowest effective modes of the second half", arm, other)
        if full and part.tested:
            said = f"saturated: in all four arms the median run ends above {_SATURATED:.0%} of the modes"
            part = replace(part, refused=said)
        yield part
    for arm, other in _PAIRS if cell.terms.sight != "pixels" else ():
        yield replace(_contrast(cell, "coverage_end", "coverage at the end", arm, other, "above"), decides=False)


def _c14a(cell: _Cell) -> Iterator[Part]:
    yield _failures(cell, "sn", "plain")


def _c14b(cell: _Cell) -> Iterator[Part]:
    yield _failures(cell, "sn", "dcgan")


def _c15(cell: _Cell) -> Iterator[Part]:
    name, what = "late_change" + cell.view, f"late change of log {_distance(cell)}"
    for other in ("dcgan", "plain"):
        yield _contrast(cell, name, what, "sn", other, "below", learned=True)


def _c16(cell: _Cell) -> Iterator[Part]:
    what = "log step of the first healthy evaluation"
    yield _contrast(cell, "first healthy", what, "sn", "dcgan", "below", MARGIN, learned=True)


def _c17(cell: _Cell) -> Iterator[Part]:
    healthy = cell.table.column("healthy_end")
    for arm, other in _PAIRS:
        what = f"number of {len(cell.lrs)} learning rates at which the run ends healthy: {arm} - {other}"
        if len(cell.lrs) < 3:
            yield _missing(what, _Missing("three learning rates"))
            continue
        try:
            counts = [_over_contexts(cell.rows(of, c) for c in cell.lrs.values()) for of in (arm, other)]
        except _Missing as error:
            yield _missing(what, error)
            continue
        x, y = ({seed: float(healthy[rows].sum()) for seed, rows in of.items()} for of in counts)
        yield judged_part(what, "above", 0.0, np.array([x[seed] - y[seed] for seed in x if seed in y]))


def _over_contexts(contexts: Iterable[dict[int, int]]) -> dict[int, list[int]]:
    """seed -> rows, of the seeds that all contexts have."""
    found = list(contexts)
    return {seed: [of[seed] for of in found] for seed in found[0] if all(seed in of for of in found)}


_SN, _SEED = "Miyato et al. 2018", "widely repeated"
_PRIMARY, _OUTCOME, _MECHANISM = FAMILIES
CLAIMS = (
    Claim("C1", "SN keeps the spectral norm of the weight that is used near 1.", f"{_SN}, C.1", _MECHANISM, "sigma",
          _c1),
    Claim("C2", "SN flattens the discriminator.", f"{_SN}, section 2", _MECHANISM, "steepness", _c2),
    Claim("C3", "Without a constraint sigmas grow; the penalty slows them.", "Yoshida & Miyato 2017", _MECHANISM,
          "sigma", _c3),
    Claim("C4", "Raw weights grow faster under SN.", f"{_SN}, section 3", _MECHANISM, "sigma", _c4),
    Claim("C5", "SN keeps the generator's gradients from exploding and vanishing.", "Lin et al. 2021", _OUTCOME,
          "gradients", _c5),
    Claim("C6", "SN is robust to the optimizer's settings.", f"{_SN}, Fig. 1", _OUTCOME, "distance", _c6, True),
    Claim("C7a", "SN makes training more stable: fewer failures.", _SEED, _PRIMARY, "causes", _c7a),
    Claim("C7b", "SN makes training more stable: less spread over seeds.", _SEED, _PRIMARY, "distance", _c7b, True),
    Claim("C8", "SN improves the quality of samples over DCGAN.", f"{_SN}, Table 2", _OUTCOME, "distance", _c8, True),
    Claim("C9", "One power iteration is enough.", f"{_SN}, section 2.1", _OUTCOME, "distance", _c9, True),
    Claim("C10", "SN finds more modes of stacked MNIST.", _SEED, _OUTCOME, "coverage", _c10),
    Claim("C11", "Spectral norm does not eliminate the need for batch norm.", _SEED, _OUTCOME, "distance", _c11, True),
    Claim("C12", "SN costs at most 1.2 x the step time and the penalty no more, a gradient penalty at least 1.4 x.",
          f"{_SN}, Fig. 10", _MECHANISM, "", _c12),
    Claim("C13", "SN mitigates mode collapse.", _SEED, _OUTCOME, "coverage", _c13),
    Claim("C14a", "Without batch norm, SN fails less than no constraint.", "the sceptic", _OUTCOME, "causes", _c14a),
    Claim("C14b", "SN without batch norm fails less than DCGAN with batch norm.", "the sceptic", _OUTCOME, "causes",
          _c14b),
    Claim("C15", "SN does not decay late in training.", _SEED, _OUTCOME, "distance", _c15, True),
    Claim("C16", "SN learns no more slowly than DCGAN.", _SEED, _OUTCOME, "distance", _c16),
    Claim("C17", "SN widens the range of learning rates that work.", f"{_SN}, Fig. 1", _OUTCOME, "distance", _c17),
)  # fmt: skip
_SPANNING = ("C6", "C17")  # judged over contexts that differ in the optimizer's settings
NAMED = {"C7a": "failures", "C7b": "spread", "C14a": "C14", "C14b": "C14"}  # what the study's file names a context of
_UNNAMED = "a context that the study's file names (primary: {C14: ..})"
_COLUMNS = [
    *("claim", "context", "family", "statement", "verdict", "reason", "p", "p_adjusted", "p_contradicted"),
    *("p_contradicted_adjusted", "evidence", "expected", "threshold", "effect", "low", "high", "n", "p_part"),
    *("part", "part_reason", "decides", "seeds", "source", "figure"),
]


@dataclass
class _Judged:
    claim: Claim
    context: str
    family: str
    parts: list[Part]
    other_view: list[Part]
    quality: str = "fd"
    adjusted: float = np.nan
    adjusted_against: float = np.nan

    @cached_property
    def deciding(self) -> list[Part]:
        return [part for part in self.parts if part.decides]

    @property
    def tested(self) -> bool:
        return bool(self.deciding) and all(part.tested for part in self.deciding)

    @property
    def p(self) -> float:
        """Of the intersection-union test: the largest of its parts'."""
        return max(part.p for part in self.deciding) if self.tested else np.nan

    @property
    def p_against(self) -> float:
        """That any part is the other way round: as many times the smallest as there are parts."""
        smallest = min((part.p_against for part in self.deciding), default=np.nan)
        return min(1.0, len(self.deciding) * smallest) if self.tested else np.nan

    @property
    def verdict(self) -> tuple[str, str]:
        """With the reason, if it is one that the numbers do not show."""
        if lacking := list(dict.fromkeys(part.untested for part in self.deciding if part.untested)):
            return "not tested", "; ".join(lacking)
        if refused := list(dict.fromkeys(part.refused for part in self.deciding if part.refused)):
            return "refused", "; ".join(refused)
        decided = {
            "supported": self.adjusted <= LEVEL and all(part.holds for part in self.deciding),
            "contradicted": self.adjusted_against <= LEVEL and any(part.opposite for part in self.deciding),
        }
        verdict = next((name for name, is_so in decided.items() if is_so), "inconclusive")
        if verdict != "inconclusive" and any(opposed(*pair, verdict) for pair in self._views(verdict)):
            return "depends on the view", f"{verdict} by {self.quality}, the other way round by fd_pixels"
        return verdict, ""

    def _views(self, verdict: str) -> list[tuple[Part, Part]]:
        pairs = [(part, other) for part, other in zip(self.parts, self.other_view, strict=False) if part.decides]
        return pairs if verdict == "supported" else [pair for pair in pairs if pair[0].opposite]


def judge(study: Study, summary: pd.DataFrame) -> pd.DataFrame:
    """`judge_runs` of a study; `summary` is of `summarize`. Runs that are not over are left out."""
    names = [name for name in study.runs if name not in summary or name == "run_id"]
    planned = {run_id: i for i, run_id in enumerate(study.runs["run_id"])}  # of equals the first decides
    summary = summary.sort_values("run_id", key=lambda ids: ids.map(planned), kind="stable")
    runs = summary.merge(study.runs[names], on="run_id", how="left")
    return judge_runs(runs[runs["state"].isin(OVER)], study.primary, study.bench)


def judge_runs(runs: pd.DataFrame, primary: Mapping[str, str], bench: Path | None = None) -> pd.DataFrame:
    """One row for each part of each claim in each context, in the order of CLAIMS.

    `runs`: one row per run that has ended, with the columns of `summarize` and those that say what the run is: context,
    arm, its parameters, seed, and the fields that contexts differ in. `primary`: outcome -> context, as the study's
    file names them; a study of one context needs none.

    `verdict` is the claim's, `reason` what is missing or why it is refused, `part` that part's alone. `p` is the
    largest of the parts' (intersection-union test), `p_contradicted` the smallest, times their number, of the other
    direction; each is adjusted within its family: Holm over the primary claims, Benjamini-Hochberg over the outcomes of
    all contexts, and apart over mechanism and cost; p_contradicted over these two together, without which some claim is
    contradicted in 6.2 % of the studies in which nothing differs. What is refused or not tested is in no family. Claims
    that go by quality are judged by what their runs are judged by, fd as a rule, and if that is not fd_pixels shown by
    fd_pixels as well: where that view of a part that decides has the opposite direction, the claim `depends on the
    view`.
    """
    judged = []
    if runs.empty:
        return pd.DataFrame(columns=_COLUMNS)
    for claim, cell, family in _to_judge(runs.reset_index(drop=True), primary, bench):
        parts = list(claim.parts(cell))
        has_two_views = claim.by_quality and cell.terms.sight != "pixels"
        others = list(claim.parts(replace(cell, view="_pixels"))) if has_two_views else []
        judged.append(_Judged(claim, cell.context, family, parts, others, cell.terms.quality))
    tested = [of for of in judged if of.tested]
    for family in FAMILIES:
        own = [of for of in tested if of.family == family]
        for of, p in zip(own, adjust(family, [of.p for of in own]), strict=True):
            of.adjusted = p
    for families in (FAMILIES[:1], FAMILIES[1:]):
        own = [of for of in tested if of.family in families]
        for of, p in zip(own, adjust(families[0], [of.p_against for of in own]), strict=True):
            of.adjusted_against = p
    order = [claim.id for claim in CLAIMS]
    judged.sort(key=lambda of: order.index(of.claim.id))
    return pd.DataFrame([row for of in judged for row in _rows(of)], columns=_COLUMNS)


def adjust(family: str, p: list[float]) -> list[float]:
    return (holm if family == _PRIMARY else benjamini_hochberg)(np.array(p)).tolist()


def _rows(of: _Judged) -> Iterator[tuple[Any, ...]]:
    claim, (verdict, reason) = of.claim, of.verdict
    again = [replace(part, decides=False) for part in of.other_view if part.decides and not part.untested]
    shown = [*of.parts, *again]
    for part in shown:
        yield (
            claim.id, of.context, of.family, claim.statement, verdict, reason, of.p, of.adjusted, of.p_against,
            of.adjusted_against, part.what, part.expected, part.threshold, *part.interval, part.n, part.p, part.verdict,
            part.untested or part.refused, part.decides, part.seeds or part.n, claim.source, claim.figure,
        )  # fmt: skip


def _to_judge(runs: pd.DataFrame, primary: Mapping[str, str], bench: Path | None) -> Iterator[tuple[Claim, _Cell, str]]:
    table = _Table(runs)
    contexts = dict(zip(runs["context"], runs["dataset"], strict=True))
    cells = [
        _Cell(table, context, dataset, terms=terms_in(runs, context), classes=_classes(runs, context))
        for context, dataset in contexts.items()
    ]
    for claim in CLAIMS:
        if claim.id == "C12":
            yield claim, _Cell(table, "", "", bench=bench), claim.family
        elif claim.id in _SPANNING:
            yield from ((claim, cell, claim.family) for cell in _spanning(table, widely=claim.id == "C6"))
        else:
            named = primary.get(NAMED.get(claim.id, ""), next(iter(contexts)) if len(contexts) == 1 else "")
            if claim.id in NAMED and named not in contexts and (named or claim.id.startswith("C14")):
                lacks = f"a run of {named} that has ended" if named else _UNNAMED
                parts = [Part(claim.statement, untested=f"needs {lacks}")]
                yield claim._replace(parts=lambda cell, parts=parts: parts), _Cell(table, named, ""), claim.family
            for cell in cells:
                if claim.id.startswith("C14") and cell.context != named:
                    continue
                secondary = claim.family == _PRIMARY and cell.context != named
                yield claim, cell, _OUTCOME if secondary else claim.family


def terms_in(runs: pd.DataFrame, context: str) -> Terms:
    """What things are called in a context, if its runs say what judges them."""
    of = runs[runs["context"] == context]
    return terms_of(zip(of["dataset"], of["judge"], strict=True)) if "judge" in of else OURS


def _classes(runs: pd.DataFrame, context: str) -> int:
    of = runs[runs["context"] == context].iloc[0]
    return int(of["classes"]) if "classes" in of else classes_of(of["dataset"])


def _spanning(table: _Table, widely: bool) -> Iterator[_Cell]:
    """Groups of contexts that differ in nothing but the optimizer's settings; not `widely`: in the learning rate."""
    free = _OPTIMIZER if widely else ("setting", "lr")
    fields = [name for name in CONTEXT_FIELDS if name in table.runs]
    groups: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for context, of in table.runs.drop_duplicates("context").set_index("context").iterrows():
        key = tuple(of[name] for name in fields if name not in free)
        groups.setdefault(key, {})[str(context)] = of[fields].to_dict()
    fixed = [
        name for name in fields if name not in free and len({_value(key, fields, free, name) for key in groups}) > 1
    ]
    for contexts in groups.values():
        first = next(iter(contexts.values()))
        words = [f"{name} {first[name]}" for name in fixed if name not in ("dataset", "data_sha256")]
        moving = "the optimizer's settings" if widely else "learning rates"
        of = table.runs[table.runs["context"] == next(iter(contexts))].iloc[0]
        data = str(of.get("data_name", first.get("dataset", "")))
        label = ", ".join([data, f"over {moving}", *words])
        settings = {context: _setting_words(of, contexts.values()) for context, of in contexts.items()}
        lrs = {float(of["lr"]): context for context, of in contexts.items() if "lr" in of}
        terms = terms_in(table.runs, next(iter(contexts)))
        yield _Cell(table, label, str(first.get("dataset", "")), settings, dict(sorted(lrs.items())), terms=terms)


def _value(key: tuple[Any, ...], fields: list[str], free: tuple[str, ...], name: str) -> Any:
    return key[[other for other in fields if other not in free].index(name)]


def _setting_words(of: Mapping[str, Any], among: Iterable[Mapping[str, Any]]) -> str:
    """The setting's letter, or the values that differ."""
    if of.get("setting", "custom") != "custom":
        return f"setting {of['setting']}"
    among = list(among)
    names = [name for name in _OPTIMIZER[1:] if name in of and len({other[name] for other in among}) > 1]
    return ", ".join(f"{name} {of[name]:g}" for name in names)


def opposed(part: Part, other: Part, verdict: str) -> bool:
    """Whether the other view of a part that is supported, or contradicted, has the opposite direction.

    Of an equality: whether it holds in one view only, or is broken in opposite directions.
    """
    _, low, high = other.interval
    if other.n < APPROXIMATE_BELOW or np.isnan([low, high]).any():
        return False
    directions = (part.interval.estimate - part.none) * (other.interval.estimate - part.none)
    if part.expected != "within":
        return directions < 0
    return other.opposite if verdict == "supported" else other.holds or (other.opposite and directions < 0)
