"""What the figures show, as frames: computed here, drawn by `analysis.page.plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.stats import bands, binned
from analysis.study import Study
from analysis.variants import in_order

RATIO = "conv_over_matrix"
"""kind of a layer's operator norm over its matrix's sigma"""


def with_ratios(history: pd.DataFrame, layers: Sequence[str]) -> pd.DataFrame:
    """The rows with `RATIO` of the layers that have an operator norm."""
    measured = [layer for layer in layers if f"sigma_conv/{layer}" in history]
    ratios = {f"{RATIO}/{of}": history[f"sigma_conv/{of}"] / history[f"sigma/{of}"] for of in measured}
    return pd.concat([history, pd.DataFrame(ratios, history.index)], axis=1)


def curves(history: pd.DataFrame, metrics: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Metric -> `stats.bands` of it, of those that have any."""
    if not metrics:
        return {}
    rows = binned(history, list(metrics))
    found = {metric: bands(rows, metric) for metric in metrics}
    return {metric: frame for metric, frame in found.items() if len(frame)}


def raw_and_used(history: pd.DataFrame, layers: Sequence[str]) -> pd.DataFrame:
    """layer, variant, step, raw, used: medians over seeds."""
    layers = [layer for layer in layers if f"sigma_raw/{layer}" in history]
    names = [f"{kind}/{layer}" for kind in ("sigma_raw", "sigma") for layer in layers]
    if not names or history[names].isna().all().any():
        return pd.DataFrame()
    medians = binned(history, names).groupby(["variant", "step"])[names].median().reset_index()
    way = medians[["variant", "step"]]
    frames = [
        way.assign(layer=layer, raw=medians[f"sigma_raw/{layer}"], used=medians[f"sigma/{layer}"]) for layer in layers
    ]
    return pd.concat(frames, ignore_index=True)


def sigma_strips(history: pd.DataFrame, layers: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Layer -> variants x steps of the median sigma."""
    rows = binned(history, [f"sigma/{layer}" for layer in layers])
    found = {}
    for layer in layers:
        table = rows.pivot_table(index="variant", columns="step", values=f"sigma/{layer}", aggfunc="median")
        if len(table):  # without the arms that have no sigma
            found[layer] = table.loc[in_order(pd.Series(table.index))]
    return found


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


def over_wall_time(history: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """`bands` of fd whose step is in minutes: of each variant the median time that a step took its runs."""
    if "eval/fd" not in history or history["eval/fd"].isna().all():
        return pd.DataFrame()
    own = runs[runs["run_id"].isin(history["run_id"]) & (runs["step"] > 0)]
    minutes = (own["wall_seconds"].astype(float) / own["step"] / 60).groupby(own["variant"]).median()
    frame = bands(binned(history, ["eval/fd"]), "eval/fd")
    return frame.assign(step=frame["step"] * frame["variant"].map(minutes)).dropna(subset="step")


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
