"""What no claim foresaw: seen in the first seeds of `mnist-short`, and tested in the seeds that were held back.

Each was written down, with its test and its direction, before a held-back seed or any verdict was looked at
(experiments/LOG.md). p is one-sided, in the direction that was written down, and adjusted by Holm over the six.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import fisher_exact

from analysis.claims import LEVEL
from analysis.inference import holm, paired_rates_interval, paired_rates_p
from analysis.stats import Interval, location_interval, rate_interval, signed_rank_p, subtract

LOOKED_AT = range(7)
"""seeds; all others are held back"""
FEWEST = 5
"""held-back seeds below which nothing is tested: of five that agree the one-sided signed rank p is 0.03"""
EARLY, TOO_RIGHT = (100, 200), 0.9  # steps, and D's mean accuracy on generated images over them
FLAT = float(np.log(1e-4))  # of |dD/dx|
WITH_BATCH_NORM = ("dcgan", "sn_dcgan", "penalty_dcgan, penalty_weight 0.01")
HIGH = ("lr 0.02", "lr 0.03")
WORKS = "lr 0.005"  # where all arms with batch norm learn
_PENALTY, _PENALTY_DCGAN = "penalty, penalty_weight 0.1", "penalty_dcgan, penalty_weight 0.1"


class Effect(NamedTuple):
    """In some seeds: estimate with its interval, number of seeds or runs that it is of, p in its direction."""

    interval: Interval
    n: int
    of: str
    p: float


@dataclass(frozen=True)
class Observation:
    """What was seen; its `parts` are what has to hold, each with the direction that the test goes in."""

    id: str
    statement: str
    figure: str
    parts: tuple[tuple[str, Callable[[pd.DataFrame], Effect]], ...]


def with_early_accuracy(summary: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """The summary with `early_accuracy`: of D on generated images, the mean over the rows of steps EARLY."""
    early = history[(history["step"] > EARLY[0]) & (history["step"] <= EARLY[1])]
    means = early.groupby("run_id")["accuracy/d_fake"].mean()
    return summary.assign(early_accuracy=summary["run_id"].map(means).astype(float))


def replicate(summary: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """One row per part of each observation: in LOOKED_AT, and in the seeds that were held back.

    `summary` of `summarize`, with variant and context; runs that are not over are left out. Columns id, statement,
    part, figure, `seen` (the estimate in LOOKED_AT), effect, low, high, n, of, p of the held-back seeds, `p_adjusted`
    of the observation (the largest of its parts', by Holm) and `verdict`: held, not shown, or too few seeds.
    """
    summary = with_early_accuracy(summary[summary["failure"].notna()], history)
    looked_at = summary["seed"].isin(LOOKED_AT)
    rows = [
        (of, words, effect(summary[looked_at]), effect(summary[~looked_at]))
        for of in OBSERVATIONS for words, effect in of.parts
    ]  # fmt: skip
    largest = {of.id: max(held.p for other, _, _, held in rows if other is of) for of in OBSERVATIONS}
    adjusted = dict(zip(largest, holm(np.array(list(largest.values()))), strict=True))
    return pd.DataFrame(
        [
            (of.id, of.statement, words, of.figure, seen.interval.estimate, *held.interval, held.n, held.of, held.p,
             adjusted[of.id], _verdict(adjusted[of.id]))
            for of, words, seen, held in rows
        ],
        columns=["id", "statement", "part", "figure", "seen", "effect", "low", "high", "n", "of", "p", "p_adjusted",
                 "verdict"],
    )  # fmt: skip


def _verdict(p: float) -> str:
    return "too few seeds" if np.isnan(p) else "held" if p <= LEVEL else "not shown"


def _values(runs: pd.DataFrame, variant: str, contexts: Iterable[str], column: str) -> pd.DataFrame:
    """A table of seeds by contexts, NaN where a run is missing."""
    of = runs[(runs["variant"] == variant) & runs["context"].isin(list(contexts))]
    return of.pivot_table(index="seed", columns="context", values=column, aggfunc="first", dropna=False)


def _signed_rank(differences: np.ndarray, side: str, of: str = "seeds") -> Effect:
    d = np.asarray(differences, float)
    d = d[~np.isnan(d)]
    few = len(d) < FEWEST
    interval = Interval(np.nan, np.nan, np.nan) if not len(d) else location_interval(d)[0]
    return Effect(interval, len(d), of, np.nan if few else signed_rank_p(d, side))


def _paired(column: str, arm: str, other: str, side: str) -> Callable[[pd.DataFrame], Effect]:
    """arm - other at `WORKS`, per seed."""

    def effect(runs: pd.DataFrame) -> Effect:
        x, y = (_values(runs, variant, [WORKS], column) for variant in (arm, other))
        seeds = x.index.intersection(y.index)
        x, y = (of.loc[seeds].to_numpy(float)[:, 0] if len(seeds) else np.empty(0) for of in (x, y))
        return _signed_rank(subtract(x, y), side)

    return effect


def fated(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that the first observation is of, with `told`: whether the rule says that they fail."""
    of = runs[runs["variant"].isin(WITH_BATCH_NORM) & runs["context"].isin(HIGH)]
    return of.assign(told=of["early_accuracy"] > TOO_RIGHT, failed=of["failure"].astype(bool))


def fate_by_seed_p(runs: pd.DataFrame, draws: int = 5000) -> float:
    """p of the first observation's rule where the runs of a seed count as one: whole seeds are permuted.

    Within each arm and learning rate what the rule says of a seed is held against the outcome of another one, the same
    in all of them: the share of permutations in which the rule is right at least as often. NaN without a seed.
    """
    of = fated(runs)
    tables = [of.pivot_table(index="seed", columns=["variant", "context"], values=name, aggfunc="first")
              for name in ("told", "failed")]  # fmt: skip
    told, failed = (table.dropna().to_numpy(bool) for table in tables)
    if not len(told) or told.shape != failed.shape:
        return float("nan")
    rng, right = np.random.default_rng(0), (told == failed).sum()
    found = sum(int((told[rng.permutation(len(told))] == failed).sum() >= right) for _ in range(draws))
    return (1 + found) / (1 + draws)


def _fate(runs: pd.DataFrame) -> Effect:
    of = fated(runs)
    right = int((of["told"] == of["failed"]).sum())
    if of["seed"].nunique() < FEWEST:
        return Effect(Interval(np.nan, np.nan, np.nan), len(of), "runs", np.nan)
    table = pd.crosstab(of["told"], of["failed"]).reindex(index=[True, False], columns=[True, False], fill_value=0)
    return Effect(rate_interval(right, len(of)), len(of), "runs", float(fisher_exact(table, "greater").pvalue))


def _diverged(runs: pd.DataFrame) -> Effect:
    """Number of learning rates at which a run diverged, plain - sn, of the seeds that have all."""
    runs = runs.assign(diverged=runs["causes"].str.contains("divergence").astype(float))
    contexts = list(runs["context"].unique())
    counts = [_values(runs, variant, contexts, "diverged").dropna().sum(axis=1) for variant in ("plain", "sn")]
    seeds = counts[0].index.intersection(counts[1].index)
    return _signed_rank((counts[0].loc[seeds] - counts[1].loc[seeds]).to_numpy(float), "greater")


def _dead(runs: pd.DataFrame) -> Effect:
    """Share of learning rates at which D's slope has vanished, minus one half."""
    flat = runs.assign(flat=(runs["grad_x_p99_late"] < FLAT).astype(float))
    shares = _values(flat, _PENALTY, flat["context"].unique(), "flat").dropna().mean(axis=1)
    effect = _signed_rank(shares.to_numpy(float) - 0.5, "greater")
    return effect._replace(interval=Interval(*(value + 0.5 for value in effect.interval)))


def _fewer_failures(runs: pd.DataFrame) -> Effect:
    failed = runs.assign(failed=runs["failure"].astype(float))
    x, y = (_values(failed, variant, HIGH[:1], "failed") for variant in (_PENALTY_DCGAN, "dcgan"))
    seeds = x.index.intersection(y.index)
    if len(seeds) < FEWEST:
        return Effect(Interval(np.nan, np.nan, np.nan), len(seeds), "seeds", np.nan)
    a, b = (of.loc[seeds].to_numpy(float)[:, 0] == 1 for of in (x, y))
    only, other = int((a & ~b).sum()), int((b & ~a).sum())
    p = paired_rates_p(a, b) / 2 if only < other else 1.0
    return Effect(paired_rates_interval(only, other, len(seeds)), len(seeds), "seeds", p)


def _log_first_healthy(arm: str, other: str) -> Callable[[pd.DataFrame], Effect]:
    effect = _paired("log_healthy", arm, other, "greater")

    def of(runs: pd.DataFrame) -> Effect:
        steps = runs["healthy_step"].astype(float).fillna(np.inf)
        return effect(runs.assign(log_healthy=np.log(steps)))

    return of


OBSERVATIONS = (
    Observation(
        "O1", "With batch norm a run's fate is decided within 200 steps.", "fate",
        (("share of runs at lr 0.02 and 0.03 that fail if, and only if, D is right about more than 90 % of the "
          "generated images in steps 101 to 200", _fate),),
    ),
    Observation(
        "O2", "Without batch norm SN removes divergence.", "failures",
        (("number of learning rates at which a run diverges, `plain` - `sn`", _diverged),),
    ),
    Observation(
        "O3", "A penalty of 0.1 without batch norm kills the discriminator.", "slopes",
        (("share of learning rates at which the slope of D ends below 1e-4, against one half", _dead),),
    ),
    Observation(
        "O4", "With batch norm the same penalty fails least, and draws worse.", "failures",
        (("share of seeds in which `penalty_dcgan` 0.1 alone fails at lr 0.02, minus that of `dcgan` alone",
          _fewer_failures),
         ("gain at lr 0.005, `penalty_dcgan` 0.1 - `dcgan`", _paired("gain", _PENALTY_DCGAN, "dcgan", "less"))),
    ),
    Observation(
        "O5", "SN delays the first digits.", "delay",
        (("log step of the first healthy evaluation at lr 0.005, `sn_dcgan` - `dcgan`",
          _log_first_healthy("sn_dcgan", "dcgan")),
         ("the same, `sn` - `plain`", _log_first_healthy("sn", "plain"))),
    ),
    Observation(
        "O6", "Where no constraint is needed, SN without batch norm is behind.", "delay",
        (("gain at lr 0.005, `sn` - `plain`", _paired("gain", "sn", "plain", "less")),),
    ),
)  # fmt: skip
