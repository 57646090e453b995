"""Which runs failed, by which cause, when, under which thresholds, and against which."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.events import CAUSES, Thresholds, meanings
from analysis.inference import (
    Survival,
    log_rank_p,
    mcnemar_p,
    order_counts,
    order_p,
    paired_rates_interval,
    paired_rates_p,
    survival,
)
from analysis.stability import failures_under
from analysis.stats import APPROXIMATE_BELOW, benjamini_hochberg, rate_interval
from analysis.study import STATES, Study
from analysis.terms import OURS, Terms
from analysis.variants import against, groups
from experiments.record import RESULTS

FOREIGN_CAUSES = {"error": CAUSES["error"], "divergence": "a loss or the quality is not finite, or the table says so"}

OTHER_THRESHOLDS = {"quality_collapse": (1.5, 2.0, 3.0), "healthy": (0.25, 0.5, 0.75), "modes": (1 / 3, 1 / 2, 2 / 3)}
"""at which failures are counted too"""


def account(study: Study) -> pd.DataFrame:
    """Runs of each variant by state, with the failure rate over the runs that ended."""
    rows = []
    for (context, variant), runs in groups(study.runs):
        counts = runs["state"].value_counts().reindex(STATES, fill_value=0)
        bad, ended = counts["diverged"] + counts["failed"], counts[["finished", "diverged", "failed"]].sum()
        rate = rate_interval(int(bad), int(ended))
        row = {"context": context, "arm": variant, "planned": len(runs)} | counts.to_dict()
        rows.append(row | {"failure_rate": rate.estimate, "low": rate.low, "high": rate.high})
    states = [s for s in STATES if not study.foreign or s in RESULTS or s == "failed"]
    columns = ["context", "arm", *([] if study.foreign else ["planned"]), *states, "failure_rate", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def causes(summary: pd.DataFrame, foreign: bool = False, terms: Terms = OURS) -> pd.DataFrame:
    """Runs by the cause of their first event, and when it came. Of another program's runs two causes can be told."""
    rows, causes = [], FOREIGN_CAUSES if foreign else meanings(terms)
    for (context, variant), runs in groups(summary[summary["failure"].notna()]):
        row = {"context": context, "arm": variant, "n": len(runs), "none": int((~runs["failure"].astype(bool)).sum())}
        row |= {cause: int((runs["cause"] == cause).sum()) for cause in causes}
        row["healthy"] = int(runs["healthy_step"].notna().sum())
        row["median_first_healthy"] = float(runs["healthy_step"].astype(float).fillna(np.inf).median())
        row["without_end"] = int((~runs["ended"].astype(bool)).sum())
        mean = survival_of(runs).mean
        row |= {"mean_steps_without": mean.estimate, "low": mean.low, "high": mean.high}
        rows.append(row)
    columns = ["context", "arm", "n", "none", *causes]
    if not foreign:
        columns += ["healthy", "median_first_healthy", "without_end"]
    return pd.DataFrame(rows, columns=[*columns, "mean_steps_without", "low", "high"])


def under_other_thresholds(study: Study, thresholds: Thresholds) -> pd.DataFrame:
    """Failures of each arm under other thresholds that decide something: one at a time, `thresholds` for the others."""
    decide = {name for name, _, _ in thresholds.table(study.terms)}
    others = {
        (name, value): replace(thresholds, **{name: value})
        for name, of in OTHER_THRESHOLDS.items() if name in decide for value in of
    }  # fmt: skip
    distinct = list(dict.fromkeys(others.values()))
    found, rows = failures_under(study.history, study.runs, distinct), []
    for (context, variant), runs in groups(found):
        for (name, value), of in others.items():
            failures = int(runs[distinct.index(of)].sum())
            rows.append((context, variant, name, value, failures, len(runs)))
    return pd.DataFrame(rows, columns=["context", "arm", "threshold", "value", "failures", "n"])


def paired(summary: pd.DataFrame, named: str = "") -> pd.DataFrame:
    """Each arm against the baseline: which failed, and which failed first, seed by seed."""
    columns = ["arm", "n_pairs", "test", "seeds_that_differ", "arm_worse", "difference", "low", "high", "p"]
    rows = [pd.DataFrame(columns=["context", "arm", "baseline", *columns[1:], "p_adjusted"])]
    for context, runs in summary[summary["failure"].notna()].groupby("context", sort=False):
        by_arm = {variant: of.drop_duplicates("seed").set_index("seed") for variant, of in runs.groupby("variant")}
        baseline, *arms = against(runs["variant"], named)
        if named and baseline != named:
            continue
        tests = []
        for arm in arms:
            seeds = by_arm[arm].index.intersection(by_arm[baseline].index)
            x, y = (_times(by_arm[of].loc[seeds]) for of in (arm, baseline))
            n, only_x, only_y = len(seeds), int((x[1] & ~y[1]).sum()), int((y[1] & ~x[1]).sum())
            differing = (only_x + only_y, only_x)
            interval, nothing = paired_rates_interval(only_x, only_y, n), [np.nan] * 3
            tests.append((arm, n, "failure (unconditional exact)", *differing, *interval, paired_rates_p(x[1], y[1])))
            tests.append((arm, n, "failure (McNemar)", *differing, *nothing, mcnemar_p(x[1], y[1])))
            first, told = order_counts(x, y)
            tests.append((arm, n, "first failure (sign test)", told, first, *nothing, order_p(x, y)))
            curves = log_rank_p(*(_times(by_arm[of]) for of in (arm, baseline)))
            tests.append((arm, n, "time to failure (log-rank, unpaired)", np.nan, np.nan, *nothing, curves))
        frame = pd.DataFrame(tests, columns=columns)
        frame.insert(0, "context", context)
        frame.insert(2, "baseline", baseline)
        frame.loc[frame["n_pairs"] < APPROXIMATE_BELOW, "p"] = np.nan
        if len(frame):
            rows.append(frame.assign(p_adjusted=benjamini_hochberg(frame["p"].to_numpy(float))))
    return pd.concat(rows[1:], ignore_index=True) if len(rows) > 1 else rows[0]


def _times(runs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Step of the failure, or to which the run was seen, and whether it failed; rows of `summarize`."""
    failed = runs["failure"].fillna(False).astype(bool).to_numpy()
    at = np.where(failed, runs["failure_step"].astype(float), runs["last_step"].astype(float))
    if "healthy_step" in runs:  # what never was healthy has no time without failure, whatever ended it
        never = failed & runs["healthy_step"].isna().to_numpy() & runs["healthy_end"].notna().to_numpy()
        at = np.where(never, 0.0, at)
    return at, failed


def survival_of(runs: pd.DataFrame) -> Survival:
    """Kaplan-Meier over the rows of `summarize`; runs that have not ended are censored where they stand."""
    return survival(*_times(runs), float(runs["last_step"].max()) if len(runs) else 0.0)
