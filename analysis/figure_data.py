"""What the figures show, as frames: computed here, drawn by `analysis.plots` and `analysis.page.panels`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.plots import Look
from analysis.stats import bands, binned
from analysis.study import Study

RATIO = "conv_over_matrix"
"""kind of a layer's operator norm over its matrix's sigma"""


def with_ratios(history: pd.DataFrame, layers: Sequence[str]) -> pd.DataFrame:
    """The rows with `RATIO` of the layers that have an operator norm."""
    measured = [layer for layer in layers if f"sigma_conv/{layer}" in history]
    ratios = {f"{RATIO}/{of}": history[f"sigma_conv/{of}"] / history[f"sigma/{of}"] for of in measured}
    return pd.concat([history, pd.DataFrame(ratios, history.index)], axis=1)


_ROUNDING = 1e-9  # what is smaller is no effect
_BINS = 100  # a panel is no more points wide
_SEED_BY_SEED = 6  # seeds, below which every seed has its own line


class Curve(NamedTuple):
    """A metric's `stats.bands`, and for few seeds also the values of each: columns variant, seed, step, value."""

    bands: pd.DataFrame
    seeds: pd.DataFrame | None


def curves(history: pd.DataFrame, metrics: Sequence[str]) -> dict[str, Curve]:
    """Metric -> its curves, of those that are ever anything but 0."""
    metrics = [metric for metric in metrics if metric in history and (history[metric].dropna() != 0).any()]
    if not metrics:
        return {}
    rows = binned(history, metrics, _BINS)
    found = {metric: bands(rows, metric) for metric in metrics}
    return {metric: Curve(frame, _seed_by_seed(rows, metric)) for metric, frame in found.items() if len(frame)}


def has_few_seeds(history: pd.DataFrame) -> bool:
    """Whether every seed has a line of its own: there are several, and fewer than six of every variant."""
    return 1 < history.groupby("variant")["seed"].nunique().max() < _SEED_BY_SEED


def _seed_by_seed(rows: pd.DataFrame, metric: str) -> pd.DataFrame | None:
    if not has_few_seeds(rows):
        return None
    values = rows.rename(columns={metric: "value"})[["variant", "seed", "step", "value"]]
    return values.dropna(subset="value").reset_index(drop=True)


def gradient_strips(history: pd.DataFrame, summary: pd.DataFrame, most: int) -> dict[str, pd.DataFrame]:
    """Variant -> seeds x steps of the generator's gradient norm, relative to the reference of the seed.

    Of the first `most` seeds.
    """
    if "grad_norm/g" not in history:
        return {}
    references = summary.set_index("run_id")["grad_g_reference"].astype(float)
    relative = history["grad_norm/g"] / history["run_id"].map(references)
    rows = binned(history[[name for name in history if "/" not in name]].assign(relative=relative), ["relative"])
    rows = rows[(rows["relative"] > 0) & (rows["seed"].isin(sorted(rows["seed"].unique())[:most]))]
    return {
        str(variant): of.pivot_table(index="seed", columns="step", values="relative")
        for variant, of in rows.groupby("variant", sort=False)
    }


def over_wall_time(history: pd.DataFrame, runs: pd.DataFrame) -> Curve | None:
    """fd by minutes: each variant's steps times the median time that a step took its runs. None if it is not known."""
    found = curves(history, ["eval/fd"]).get("eval/fd")
    own = runs[runs["run_id"].isin(history["run_id"]) & (runs["step"] > 0)]
    minutes = (own["wall_seconds"].astype(float) / own["step"] / 60).groupby(own["variant"]).median()

    def timed(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(step=frame["step"] * frame["variant"].map(minutes)).dropna(subset="step")

    if found is None or (bands_ := timed(found.bands)).empty:
        return None
    return Curve(bands_, timed(found.seeds) if found.seeds is not None else None)


class Forest(NamedTuple):
    """Effects against the baseline: columns context (empty if there is one), row, variant, effect, low, high; which
    side is better, `lower` or `higher`, and what they are of: `location`, `failures` or `spread`."""

    kind: str
    better: str
    rows: pd.DataFrame


def forest(compared: pd.DataFrame, paired: pd.DataFrame, location: str, look: Look) -> list[Forest]:
    """Differences of location, of failures and of spread (as log2 of the ratio), paired by seed, arm by arm.

    `compared`: of `comparisons.compare_arms`, whose statistic `location` counts; `paired`: of `failures.paired`. Kinds
    without an effect are left out, and so are failures if no run failed.
    """
    at = compared[compared["statistic"] == location]
    several = at["context"].nunique() > 1
    count = {(r.context, r.arm): r.n_pairs for r in at.itertuples()}

    def rows(frame: pd.DataFrame, names: tuple[str, str, str]) -> pd.DataFrame:
        found = []
        for row in frame.to_dict("records"):
            n = count.get((row["context"], row["arm"]), row["n_pairs"])
            effects = dict(zip(("effect", "low", "high"), (float(row[name]) for name in names), strict=True))
            names_ = {"context": row["context"] if several else "", "row": f"{look.labels[row['arm']]} ({n})"}
            found.append({**names_, "variant": row["arm"], **effects})
        return pd.DataFrame(found, columns=["context", "row", "variant", "effect", "low", "high"])

    panels = []
    if len(at):
        panels.append(Forest("location", at["better"].iloc[0], rows(at, ("shift", "shift_low", "shift_high"))))
    failed = paired[paired["test"].str.startswith("failure (unconditional")] if len(paired) else paired
    if len(failed) and failed["seeds_that_differ"].astype(float).gt(0).any():
        panels.append(Forest("failures", "lower", rows(failed, ("difference", "low", "high"))))
    names = ["spread_ratio", "spread_low", "spread_high"]
    if len(at) and at["spread_ratio"].gt(0).any():
        with np.errstate(divide="ignore"):
            ratios = at.assign(**{name: np.log2(at[name].astype(float)) for name in names})
        panels.append(Forest("spread", "lower", rows(ratios, (names[0], names[1], names[2]))))
    return [panel for panel in panels if (panel.rows["effect"].abs() > _ROUNDING).any()]


def robustness(summary: pd.DataFrame) -> pd.DataFrame:
    """Contexts x variants of the median quality at the end."""
    return summary.pivot_table(index="context", columns="variant", values="q_end", aggfunc="median", sort=False)


def sample_grids(study: Study, runs: pd.DataFrame) -> dict[tuple[str, int], Mapping[int, Any]]:
    """(variant, seed) -> step -> PNG, of the runs that have some."""
    grids = {(run.variant, run.seed): study.samples.get(run.run_id, {}) for run in runs.itertuples()}
    return {key: found for key, found in grids.items() if found}


def spread_out(values: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, from the first to the last at equal distances."""
    return [values[i] for i in np.unique(np.linspace(0, len(values) - 1, most).round().astype(int))]
