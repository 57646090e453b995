"""One run's curves -> its stability statistics. Pure functions of the history."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sngan.config import InputError

ROLLING_STEPS = 201  # width of the rolling medians
VANISHING, EXPLODING, SPIKE = (
    0.01,
    100.0,
    5.0,
)  # gradient norms, in units of the reference; a spike, of the rolling median
_END_ROWS = 3

STATISTICS = {  # column -> what it says; of all of them lower is better, except *_end and *_best of a GAN's losses
    "loss_d_end": "D's loss at the end (median of the last three rows)",
    "loss_d_best": "lowest loss of D",
    "loss_d_degradation": "log of D's loss at the end over its lowest",
    "loss_d_oscillation": "mean |change of log D loss| between rows, second half",
    "loss_d_roughness": "roughness of D's loss (MAD about its rolling median, relative)",
    "loss_g_end": "G's loss at the end (median of the last three rows)",
    "loss_g_best": "lowest loss of G",
    "loss_g_degradation": "log of G's loss at the end over its lowest",
    "loss_g_oscillation": "mean |change of log G loss| between rows, second half",
    "loss_g_roughness": "roughness of G's loss (MAD about its rolling median, relative)",
    "grad_g_vanishing": "share of rows with G's gradient below 0.01 x the reference",
    "grad_g_exploding": "share of rows with G's gradient above 100 x the reference",
    "grad_g_spikes": "rows per 1,000 steps with G's gradient above 5 x its rolling median",
}


def summarize(history: pd.DataFrame) -> pd.DataFrame:
    """One row a run: run_id, dataset, arm, setting, seed, last_step and the columns of STATISTICS.

    `history` has a row per logged step with run_id, dataset, arm, setting, seed, step and metrics; rows may come
    in any order, of two rows of one step the last counts, None counts as NaN. A statistic whose metric is absent, or
    that a run is too short or not positive enough for, is NaN. The common reference of the gradient norms is the
    median over steps 100 to 600 (5 to 25 % of runs shorter than 2,400 steps) of all runs of the same data set,
    setting and seed. Raises InputError for missing key columns, a row without step, or a metric that is no number.

    Source: S1, S5 and S6 on the losses, S7 on gradient norms. Deviation: rows hold means over `log_every` steps,
    so shares are of rows; spikes and explosions are judged by the rows' maxima where they are recorded.
    """
    keys = ["run_id", "dataset", "arm", "setting", "seed"]
    if missing := [name for name in [*keys, "step"] if name not in history]:
        raise InputError(f"history lacks the columns {', '.join(missing)}")
    keys += [name for name in ("variant", "context") if name in history]
    if history["step"].isna().any():
        raise InputError(f"{history['step'].isna().sum()} rows have no step")
    metrics = [name for name in ("loss/d", "loss/g", "grad_norm/g", "grad_norm/g_max") if name in history]
    try:
        history = history.astype(dict.fromkeys(metrics, float))
    except (TypeError, ValueError) as error:
        raise InputError(f"a metric is no number: {error}") from error
    history = history.drop_duplicates(["run_id", "step"], keep="last").sort_values(["run_id", "step"], kind="stable")
    references = gradient_references(history)
    rows = []
    for identity, run in history.groupby(keys, sort=False, dropna=False):
        row = dict(zip(keys, identity, strict=True)) | {"last_step": int(run["step"].iloc[-1])}
        for loss in ("loss/d", "loss/g"):
            row |= _loss_statistics(loss.replace("/", "_"), run, loss)
        reference = references.get(row["run_id"], np.nan)
        rows.append(row | _gradient_statistics(run, reference))
    return pd.DataFrame(rows, columns=[*keys, "last_step", *STATISTICS, "grad_g_reference"])


def gradient_references(history: pd.DataFrame) -> dict[str, float]:
    """run_id -> median of `grad_norm/g` early in training, over all runs of its data set, setting and seed."""
    if "grad_norm/g" not in history:
        return {}
    references: dict[str, float] = {}
    shared = ["context" if "context" in history else "setting", "dataset", "seed"]
    for _, group in history.groupby(shared, sort=False, dropna=False):
        last = group["step"].max()
        low, high = (100, 600) if last >= 2400 else (0.05 * last, 0.25 * last)
        early = group.loc[group["step"].between(low, high), "grad_norm/g"]
        references |= dict.fromkeys(group["run_id"].unique(), early.median())
    return references


def _loss_statistics(name: str, run: pd.DataFrame, metric: str) -> dict[str, float]:
    values = run[metric].dropna().to_numpy() if metric in run else np.empty(0)
    if not len(values):
        return {}
    steps = run.loc[run[metric].notna(), "step"].to_numpy()
    end, best = float(np.median(values[-_END_ROWS:])), float(values.min())
    result = {f"{name}_end": end, f"{name}_best": best}
    if best > 0:  # Wasserstein losses have no logarithm
        result[f"{name}_degradation"] = float(np.log(end / best))
        half = np.log(values[steps >= steps[-1] / 2])
        if len(half) > 1:
            result[f"{name}_oscillation"] = float(np.abs(np.diff(half)).mean())
    smooth = rolling_median(values, steps)
    if (smooth > 0).all():
        relative = (values - smooth) / smooth
        result[f"{name}_roughness"] = float(np.median(np.abs(relative - np.median(relative))))
    return result


def _gradient_statistics(run: pd.DataFrame, reference: float) -> dict[str, float]:
    if "grad_norm/g" not in run or not reference > 0:
        return {}
    rows = run.dropna(subset="grad_norm/g")
    norms, steps = rows["grad_norm/g"].to_numpy(), rows["step"].to_numpy()
    if not len(norms):
        return {}
    peaks = rows["grad_norm/g_max"].to_numpy() if "grad_norm/g_max" in rows else norms
    spikes = peaks > SPIKE * rolling_median(norms, steps)
    return {
        "grad_g_vanishing": float((norms < VANISHING * reference).mean()),
        "grad_g_exploding": float((peaks > EXPLODING * reference).mean()),
        "grad_g_spikes": float(1000 * spikes.sum() / steps[-1]) if steps[-1] else np.nan,
        "grad_g_reference": float(reference),
    }


def rolling_median(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Centred median over the rows that cover ROLLING_STEPS steps, at least three; shorter at the ends."""
    spacing = float(np.median(np.diff(steps))) if len(steps) > 1 else 1.0
    window = max(3, round(ROLLING_STEPS / spacing) | 1)  # odd, so that it has a centre
    return pd.Series(values).rolling(window, center=True, min_periods=1).median().to_numpy()
