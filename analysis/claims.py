"""What the papers claim, each with the statistic, the threshold fixed beforehand, and the verdict of a study.

A claim is a conjunction: every part of it has an effect per seed, with an interval over seeds, and must lie beyond its
threshold. Inconclusive is the default; below 7 paired seeds nothing can be supported or contradicted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.inference import MARGIN, equality_p, holm, mcnemar_p, trend_p
from analysis.load import Study
from analysis.stats import (
    APPROXIMATE_BELOW,
    Interval,
    benjamini_hochberg,
    location_interval,
    rate_interval,
    signed_rank_p,
    spread_ratio,
)

LEVEL = 0.05
SIGMA_TOLERANCE, SIGMA_FROM_UPDATES = 1.05, 500
VERDICTS = ("supported", "contradicted", "depends on the view", "inconclusive", "not tested")
_ON_QUALITY = ("C6", "C7", "C8", "C9", "C11")
_VIEWS = ("log_q_end", "log_q_pixels_end")  # of quality: fd decides, fd_pixels must not say the opposite
_NAN = Interval(np.nan, np.nan, np.nan)


class Claim(NamedTuple):
    id: str
    statement: str
    source: str
    primary: bool
    figure: str  # of the report
    evidence: Callable[[_Cell], Iterator[Evidence]]


@dataclass(frozen=True)
class Evidence:
    """One part of a claim: an effect over paired seeds against a threshold fixed beforehand."""

    what: str
    expected: str
    """`above`, `below` or `within` (equality: within +-threshold)"""
    threshold: float
    interval: Interval
    n: int
    p: float
    """of the effect against the threshold, in the direction that is expected, two-sided; of equality TOST's"""
    zero: float = 0.0
    """no effect: beyond it on the other side the claim is contradicted"""
    p_adjusted: float = np.nan
    supplementary: bool = False
    """shown beside the claim's parts, and without a say in its verdict"""

    @property
    def verdict(self) -> str:
        """By the interval; supported only where the adjusted p agrees."""
        _, low, high = self.interval
        if self.n < APPROXIMATE_BELOW or np.isnan([low, high]).any():
            return "not tested" if self.n < APPROXIMATE_BELOW else "inconclusive"
        t = self.threshold
        supported = {"above": low > t, "below": high < t, "within": -t < low and high < t}[self.expected]
        contradicted = {"above": high < self.zero, "below": low > self.zero, "within": low > t or high < -t}
        if supported and self.p_adjusted <= LEVEL:
            return "supported"
        return "contradicted" if contradicted[self.expected] else "inconclusive"


@dataclass(frozen=True)
class _Cell:
    """What a claim is tested on: one context of a study, and the study for what spans contexts."""

    context: str
    dataset: str
    runs: pd.DataFrame  # of `summarize`: the context's runs that are over
    rows: dict[str, pd.DataFrame]  # of the history, by run
    study_runs: pd.DataFrame  # of all contexts
    bench: Path | None
    variants: list[str]
    quality: str = _VIEWS[0]

    def scores(self, column: str) -> pd.DataFrame:
        """Seeds x variants of a statistic."""
        return self.runs.pivot_table(index="seed", columns="variant", values=column, aggfunc="last", dropna=False)

    def paired(self, column: str, arm: str, other: str) -> np.ndarray:
        """arm - other per seed that has both."""
        table = self.scores(column)
        if not {arm, other} <= set(table):
            return np.empty(0)
        pairs = table[[arm, other]].dropna().astype(float)
        return (pairs[arm] - pairs[other]).to_numpy()

    def per_seed(self, arm: str, value: Callable[[pd.DataFrame], float]) -> pd.Series:
        """A number from the rows of each seed of an arm that finished."""
        finished = self.runs[(self.runs["variant"] == arm) & (self.runs["state"] == "finished")]
        pairs = zip(finished["seed"], finished["run_id"], strict=True)
        return pd.Series({seed: value(self.rows[run]) for seed, run in pairs if run in self.rows}, dtype=float).dropna()


def _against(what: str, expected: str, threshold: float, effects: np.ndarray, zero: float = 0.0) -> Evidence:
    effects = np.asarray(effects, float)
    interval = location_interval(effects)[0]
    p = equality_p(effects, threshold) if expected == "within" else signed_rank_p(effects - threshold)
    return Evidence(what, expected, threshold, interval, len(effects), p, zero)


# --- C1 to C13 ---


def _layers(history: pd.DataFrame, prefix: str) -> list[str]:
    return [name for name in history if name.startswith(prefix + "/") and history[name].notna().any()]


def _end(rows: pd.DataFrame, name: str) -> float:
    values = rows[name].dropna() if name in rows else ()
    return float(values.iloc[-1]) if len(values) else np.nan


def _start(rows: pd.DataFrame, name: str) -> float:
    values = rows[name].dropna() if name in rows else ()
    return float(values.iloc[0]) if len(values) else np.nan


def _c1(cell: _Cell) -> Iterator[Evidence]:
    def share(rows: pd.DataFrame) -> float:
        if "d_updates" not in rows:
            return np.nan
        late = rows.loc[rows["d_updates"] >= SIGMA_FROM_UPDATES, _layers(rows, "sigma")].to_numpy()
        return float((late > SIGMA_TOLERANCE).mean()) if late.size else np.nan

    for arm in ("sn", "sn_dcgan"):
        what = f"share of layer-rows of {arm} with sigma > {SIGMA_TOLERANCE}, after {SIGMA_FROM_UPDATES} D updates"
        yield _against(what, "below", 0.05, cell.per_seed(arm, share).to_numpy(), zero=0.05)


def _c2(cell: _Cell) -> Iterator[Evidence]:
    def largest(rows: pd.DataFrame) -> pd.Series:
        return rows[_layers(rows, "sigma_conv")].max(axis=1).dropna()

    def rise(rows: pd.DataFrame) -> float:
        norms = largest(rows)
        late = norms[rows.loc[norms.index, "step"] >= 500]
        return float(norms.iloc[-1] - late.iloc[0]) if len(late) > 1 else np.nan

    def tightness(rows: pd.DataFrame) -> float:
        return _end(rows, "lipschitz/empirical") / _end(rows, "lipschitz/product")

    ends = cell.per_seed("sn", lambda rows: float(largest(rows).iloc[-1]) if len(largest(rows)) else np.nan)
    yield _against("largest operator norm of sn's convolutions at the end", "above", 1.05, ends.to_numpy(), 1.0)
    yield _against("its rise since step 500", "above", 0.0, cell.per_seed("sn", rise).to_numpy())
    steepest = cell.per_seed("sn", tightness).to_numpy()
    yield _against("steepest gradient over the product of norms", "below", 0.5, steepest, 1.0)


def _log_max_sigma(rows: pd.DataFrame, row: int = -1) -> float:
    values = rows[_layers(rows, "sigma")].dropna(how="all").max(axis=1)
    return float(np.log(values.iloc[row])) if len(values) and values.iloc[row] > 0 else np.nan


def _c3(cell: _Cell) -> Iterator[Evidence]:
    def growth(rows: pd.DataFrame) -> float:
        return _log_max_sigma(rows) - _log_max_sigma(rows, 0)

    yield _against("log growth of plain's largest sigma", "above", 0.0, cell.per_seed("plain", growth).to_numpy())
    penalties = sorted((v for v in cell.variants if v.split(",")[0] == "penalty"), key=_weight)
    order = ["plain", *penalties, "sn"]
    table = pd.DataFrame({arm: cell.per_seed(arm, _log_max_sigma) for arm in order}).dropna()
    falls = (table["plain"] - table["sn"]).to_numpy() / (len(order) - 1)
    what = f"fall of log largest sigma from arm to arm: {', '.join(order)} (Page)"
    evidence = _against(what, "above", 0.0, falls)
    yield replace(evidence, p=trend_p(-table), n=len(table) if penalties else 0)


def _weight(variant: str) -> float:
    words = variant.split("penalty_weight ")
    return float(words[1].split(",")[0]) if len(words) > 1 else 0.0


def _c4(cell: _Cell) -> Iterator[Evidence]:
    def growth(rows: pd.DataFrame) -> float:
        names = _layers(rows, "weight_norm")
        return float(np.mean([np.log(_end(rows, n) / _start(rows, n)) for n in names])) if names else np.nan

    for arm in ("sn", "sn_dcgan"):
        what = f"log growth of the raw weight norm of {arm}, mean over layers"
        yield _against(what, "above", 0.0, cell.per_seed(arm, growth).to_numpy())


_PAIRS = (("sn", "plain"), ("sn_dcgan", "dcgan"))


def _c5(cell: _Cell) -> Iterator[Evidence]:
    kinds = {"grad_g_spikes": "spikes per 1,000 steps", "grad_g_vanishing": "share of rows below 0.01 x the reference"}
    for column, name in kinds.items():
        for arm, other in _PAIRS:
            yield _against(f"{name} of G's gradient: {arm} - {other}", "below", 0.0, cell.paired(column, arm, other))


def _c6(cell: _Cell) -> Iterator[Evidence]:
    of = cell.study_runs[cell.study_runs["dataset"] == cell.dataset]
    table = of.pivot_table(index="seed", columns=["setting", "variant"], values=cell.quality, aggfunc="last")
    for arm in ("dcgan", "plain"):
        keys = [(setting, v) for v in (arm, "sn") for setting in ("E", "C")]
        effects = np.empty(0)
        if set(keys) <= set(table):
            hard, easy, sn_hard, sn_easy = (table[key] for key in keys)
            effects = ((hard - easy) - (sn_hard - sn_easy)).dropna().to_numpy()
        what = f"log fd in setting E over C, of {arm} minus of sn"
        yield _against(what, "above", float(np.log(1.5)), effects)


def _c7(cell: _Cell) -> Iterator[Evidence]:
    arm, other = "sn_dcgan", "dcgan"
    failures = cell.scores("failure")
    n, only, p, interval = 0, "no seed", np.nan, _NAN
    if {arm, other} <= set(failures):
        pairs = failures[[arm, other]].dropna().astype(bool)
        n, x, y = len(pairs), pairs[arm].to_numpy(), pairs[other].to_numpy()
        differing = int((x != y).sum())
        only, p = f"{differing} of {n}", mcnemar_p(x, y)
        if differing:
            interval = rate_interval(int((x & ~y).sum()), differing, 1 - LEVEL / 2)
    what = f"share of {arm} among seeds in which one arm failed ({only} seeds; exact McNemar)"
    yield Evidence(what, "below", 0.5, interval, n, p, zero=0.5)
    table = cell.scores(cell.quality)
    ratio, p, n = _NAN, np.nan, 0
    if {arm, other} <= set(table):
        both = table[[arm, other]].dropna().astype(float)
        n = len(both)
        ratio, p = spread_ratio(both[arm].to_numpy(), both[other].to_numpy(), 1 - LEVEL / 2)
    yield Evidence(f"spread of log fd at the end, {arm} / {other}", "below", 1.0, ratio, n, p, zero=1.0)
    penalties = sorted((v for v in cell.variants if v.split(",")[0] == "penalty_dcgan"), key=_weight, reverse=True)
    if penalties and {arm, other} <= set(table):
        order = [arm, *penalties, other]
        log_q = table[order].astype(float)
        for what, ordered in (("distance of log fd from the arm's median", (log_q - log_q.median()).abs()),
                              ("failures", failures[order].astype(float))):  # fmt: skip
            complete = ordered.dropna()  # Page's test alone would be content with the two ends
            steps = complete.diff(axis=1).iloc[:, 1:].to_numpy().T
            weakest = min(steps, key=lambda step: np.nan_to_num(location_interval(step)[0].low, nan=-np.inf))
            what = f"weakest step of the rise of {what}: {', '.join(order)} (p: Page's trend)"
            yield replace(_against(what, "above", 0.0, weakest), p=trend_p(complete), supplementary=True)


def _c8(cell: _Cell) -> Iterator[Evidence]:
    yield _against("log fd at the end: dcgan - sn", "above", MARGIN, cell.paired(cell.quality, "dcgan", "sn"))
    yield _against("log fd at the end: sn - plain", "within", MARGIN, cell.paired(cell.quality, "sn", "plain"))
    if cell.dataset == "mnist":
        effects = cell.paired(cell.quality, "sn_dcgan", "dcgan")
        yield _against("log fd at the end: sn_dcgan - dcgan", "within", MARGIN, effects)


def _c9(cell: _Cell) -> Iterator[Evidence]:
    several = [v for v in cell.variants if v.startswith("sn, n_power_iterations") and not v.endswith(" 1")]
    one = next((v for v in cell.variants if v == "sn, n_power_iterations 1"), "sn")
    for other in [*several, "sn_svd"] if several else ["sn_svd"]:
        yield _against(f"log fd at the end: {one} - {other}", "within", MARGIN, cell.paired(cell.quality, one, other))


def _c10(cell: _Cell) -> Iterator[Evidence]:
    if cell.dataset == "stacked_mnist":
        for width in sorted({v.partition(",")[2] for v in cell.variants}):
            arm, other = ("sn" + "," * bool(width) + width, "dcgan" + "," * bool(width) + width)
            modes = [cell.per_seed(a, lambda rows: _median_end(rows, "eval/modes")) for a in (arm, other)]
            yield _against(f"modes hit: {arm} - {other}", "above", 0.0, (modes[0] - modes[1]).dropna().to_numpy())


def _median_end(rows: pd.DataFrame, name: str) -> float:
    values = rows[name].dropna() if name in rows else pd.Series(dtype=float)
    return float(values.iloc[-3:].median()) if len(values) >= 3 else np.nan


def _c11(cell: _Cell) -> Iterator[Evidence]:
    yield _against("log fd at the end: sn - sn_dcgan", "above", 0.0, cell.paired(cell.quality, "sn", "sn_dcgan"))

    def rest(rows: pd.DataFrame) -> float:
        return float(np.log(_end(rows, "lipschitz/empirical") / _end(rows, "sigma/conv3")))

    ratios = cell.per_seed("penalty_dcgan", rest) - cell.per_seed("dcgan", rest)
    what = "log of the steepest gradient over sigma(conv3): penalty_dcgan - dcgan"
    yield _against(what, "within", MARGIN, ratios.dropna().to_numpy())


def _c12(cell: _Cell) -> Iterator[Evidence]:
    """From the benchmarks' files: their interval is from the fastest to the slowest of the rounds."""
    found = []
    for path in sorted(cell.bench.glob("*.json")) if cell.bench else ():
        try:
            found.append(json.loads(path.read_text())["rows"])
        except (ValueError, KeyError, TypeError, OSError):
            continue  # not a benchmark's file
    for arm, other, limit in (("sn", "plain", 1.2), ("penalty", "sn", 1.0)):
        ratios = [
            rows[arm]["step_seconds"] / rows[other]["step_seconds"] for rows in found if {arm, other} <= set(rows)
        ]
        what = f"step time, {arm} / {other} ({len(ratios)} benchmarks)"
        yield _against(what, "below", limit, np.array(ratios), zero=limit)


def _c13(cell: _Cell) -> Iterator[Evidence]:
    for metric in ("coverage", "effective_modes"):
        for arm, other in _PAIRS:
            ends = [cell.per_seed(a, lambda rows, m=metric: _median_end(rows, f"eval/{m}")) for a in (arm, other)]
            effects = (ends[0] - ends[1]).dropna().to_numpy()
            yield _against(f"{metric} at the end: {arm} - {other}", "above", 0.0, effects)


_SN, _SEED = "Miyato et al. 2018", "widely repeated"
CLAIMS = (
    Claim("C1", "SN keeps the spectral norm of the weight that is used near 1.", f"{_SN}, C.1", False, "sigma", _c1),
    Claim("C2", "Yet the discriminator is not 1-Lipschitz by its layers.", f"{_SN}, section 2", False,
          "operators", _c2),
    Claim("C3", "Without a constraint sigmas grow; the penalty slows them, SN holds them.", "Yoshida & Miyato 2017",
          False, "sigma", _c3),
    Claim("C4", "Under SN the raw weights grow.", f"{_SN}, section 3", False, "sigma", _c4),
    Claim("C5", "SN keeps the generator's gradients from exploding and vanishing.", "Lin et al. 2021", False,
          "gradients", _c5),
    Claim("C6", "SN is robust to the learning rate.", f"{_SN}, Fig. 1", False, "distance", _c6),
    Claim("C7", "SN makes training steadier: fewer failures, less spread over seeds.", _SEED, True, "distance", _c7),
    Claim("C8", "SN improves the quality of samples over DCGAN.", f"{_SN}, Table 2", False, "distance", _c8),
    Claim("C9", "One power iteration is enough.", f"{_SN}, section 2.1", False, "distance", _c9),
    Claim("C10", "SN finds more modes of stacked MNIST.", _SEED, False, "coverage", _c10),
    Claim("C11", "Spectral norm does not eliminate the need for batch norm.", _SEED, False, "distance", _c11),
    Claim("C12", "SN costs little: at most 1.2 x the step time, and the penalty no more.", f"{_SN}, Fig. 10", False,
          "", _c12),
    Claim("C13", "SN mitigates mode collapse.", _SEED, False, "coverage", _c13),
)  # fmt: skip
_COLUMNS = ["claim", "context", "statement", "verdict", "evidence", "expected", "threshold", "effect", "low", "high",
            "n", "p", "p_adjusted", "part", "source", "figure"]  # fmt: skip


def judge(study: Study, summary: pd.DataFrame) -> pd.DataFrame:
    """One row for each part of each claim in each context, in the order of CLAIMS. `summary` is of `summarize`.

    `verdict` is the claim's, `part` that part's. `p_adjusted` is Holm's over the two primary parts and
    Benjamini-Hochberg's over all others of a context; the primary parts have 97.5 % intervals, the others 95 %.
    Of C7, whether the penalty lies between is shown beside the verdict and does not decide it. Parts on quality are
    shown by fd_pixels as well, with p values adjusted among themselves: where that view of a part that decides has the
    opposite direction, the claim `depends on the view`.
    Runs that are not over are left out; failed ones count by the rules of `summarize`.
    """
    rows = []
    states = study.runs.set_index("run_id")["state"]
    runs = summary.assign(state=summary["run_id"].map(states))
    runs = runs[runs["state"].isin(["finished", "diverged", "failed"])]
    for context, of in runs.groupby("context", sort=False):
        history = study.history[study.history["context"] == context]
        rows_of = {str(run_id): own for run_id, own in history.groupby("run_id", sort=False)}
        variants = list(of["variant"].unique())
        cell = _Cell(str(context), str(of["dataset"].iloc[0]), of, rows_of, runs, study.bench, variants)
        found = [(claim, list(claim.evidence(cell))) for claim in CLAIMS]
        pixels = replace(cell, quality=_VIEWS[1])
        again = [(claim, list(claim.evidence(pixels)) if claim.id in _ON_QUALITY else parts) for claim, parts in found]
        for (claim, parts), (_, others) in zip(_adjusted(found), _adjusted(again), strict=True):
            verdict = conclude([part.verdict for part in parts if not part.supplementary])
            pairs = _on_quality(parts, others)
            decided = [pair for pair in pairs if pair[0].verdict == verdict in ("supported", "contradicted")]
            if any(_opposed(*pair) for pair in decided):
                verdict = "depends on the view"
            shown = [replace(other, what=f"{other.what}, by fd_pixels", supplementary=True) for _, other in pairs]
            parts = [*parts, *shown]
            for part in parts or [Evidence("", "", np.nan, _NAN, 0, np.nan)]:
                row = (claim.id, context, claim.statement, verdict, part.what, part.expected, part.threshold)
                row += (*part.interval, part.n, part.p, part.p_adjusted)
                rows.append((*row, part.verdict if parts else "not tested", claim.source, claim.figure))
    return pd.DataFrame(rows, columns=_COLUMNS)


def _on_quality(parts: list[Evidence], others: list[Evidence]) -> list[tuple[Evidence, Evidence]]:
    """The parts that decide a claim and depend on the distance that quality is measured by, under both of them."""
    pairs = zip(parts, others, strict=True)
    estimates = [(part, other, part.interval.estimate - other.interval.estimate) for part, other in pairs]
    return [(part, other) for part, other, gap in estimates if not part.supplementary and abs(gap) > 0]  # NaN: none


def _opposed(part: Evidence, other: Evidence) -> bool:
    """Whether the other view of a part that is supported, or contradicted, has the opposite direction.

    Of an equality: whether it holds in one view only, or is broken in opposite directions.
    """
    _, low, high = other.interval
    if other.n < APPROXIMATE_BELOW or np.isnan([low, high]).any():
        return False
    directions = (part.interval.estimate - part.zero) * (other.interval.estimate - part.zero)
    if part.expected != "within":
        return directions < 0
    holds, broken = -part.threshold < low and high < part.threshold, low > part.threshold or high < -part.threshold
    return broken if part.verdict == "supported" else holds or (broken and directions < 0)


def conclude(parts: list[str]) -> str:
    """A claim's verdict: contradicted where a part is, supported where all are, not tested where none could be."""
    if "contradicted" in parts:
        return "contradicted"
    if not parts or set(parts) == {"not tested"}:
        return "not tested"
    return "supported" if set(parts) == {"supported"} else "inconclusive"


def _adjusted(found: list[tuple[Claim, list[Evidence]]]) -> list[tuple[Claim, list[Evidence]]]:
    def family(primary: bool) -> dict[tuple[str, int], float]:
        p = {
            (c.id, i): part.p for c, parts in found for i, part in enumerate(parts)
            if (c.primary and not part.supplementary) == primary
        }  # fmt: skip
        tested = {key: value for key, value in p.items() if not np.isnan(value)}
        values = np.array(list(tested.values()))
        if not len(values):
            return {}
        adjusted = holm(values) if primary else benjamini_hochberg(values)
        return dict(zip(tested, adjusted, strict=True))

    adjusted = family(True) | family(False)
    return [
        (claim, [replace(part, p_adjusted=adjusted.get((claim.id, i), np.nan)) for i, part in enumerate(parts)])
        for claim, parts in found
    ]
