"""One run's curves -> its stability statistics. Pure functions of the history."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from analysis.events import CAUSES, Columns, Thresholds, evaluated, find_events, healthy_from
from sngan.config import InputError

ROLLING_STEPS = 201  # width of the rolling medians
VANISHING, EXPLODING, SPIKE = (
    0.01,
    100.0,
    5.0,
)  # gradient norms, in units of the reference; a spike, of the rolling median
_END_ROWS = 3

STATISTICS = {  # column -> what it says
    "q_end": "fd at the end (median of the last three evaluations; of failed runs the trivial sampler's)",
    "log_q_end": "log of fd at the end",
    "log_q_pixels_end": "log of fd_pixels at the end (the other view; otherwise as fd)",
    "q_best": "lowest fd",
    "quality_degradation": "log of fd at the end over the lowest",
    "quality_oscillation": "mean |change of log fd| between evaluations, second half",
    "kd_end": "kd at the end (median of the last three evaluations)",
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
    "grad_x_p99": "log of the 99th percentile over rows of the largest |dD/dx|",
    "grad_x_max": "log of the largest |dD/dx|",
    "lipschitz_product": "log of the product of operator norms and gains at the end",
    "lipschitz_empirical": "log of the largest |dD/dx| at the end",
    "tightness": "largest |dD/dx| over the product, at the end",
    "stable_rank": "stable rank at the end, mean over layers",
}
LOWER_IS_BETTER = (
    *("log_q_end", "log_q_pixels_end", "quality_degradation", "quality_oscillation"),
    *(f"loss_{network}_{kind}" for network in "dg" for kind in ("degradation", "oscillation", "roughness")),
    *("grad_g_vanishing", "grad_g_exploding", "grad_g_spikes"),
)
OVER = ("finished", "diverged", "failed")
_OUTCOME = ["healthy_step", "failure", "cause", "failure_step", "imputed", "notes"]


def summarize(
    history: pd.DataFrame, runs: pd.DataFrame | None = None, thresholds: Thresholds | None = None
) -> pd.DataFrame:
    """One row a run: run_id, dataset, arm, setting, seed, last_step, the columns of STATISTICS, and what became of it.

    `history` has a row per logged step with run_id, dataset, arm, setting, seed, step and metrics; rows may come
    in any order, of two rows of one step the last counts, None counts as NaN. `runs` has a row per planned run with
    run_id, state and, where it is known, `trivial_fd` (the trivial sampler's fd): those of `analysis.load`. Its runs
    without rows are in the result too. Without it every run counts as finished.

    - `failure`: whether any event happened (`analysis.events`), None for a run that is not over; `cause` and
      `failure_step` are those of the first, `healthy_step` the first evaluation at which it was healthy.
    - `q_end` of a run that diverged or failed, or lacks three evaluations, is the trivial sampler's: `imputed`. Where
      that is not known, it is the median of what evaluations a finished run has. `log_q_pixels_end` likewise, by
      `eval/fd_pixels` and `trivial_fd_pixels`; health and events go by fd and modes alone.
    - `notes` say why a number is NaN or imputed.

    A statistic whose metric is absent, or that a run is too short or not positive enough for, is NaN. The common
    reference of the gradient norms is the median over steps 100 to 600 (5 to 25 % of runs shorter than 2,400 steps)
    of all runs of the same data set, setting and seed. Raises InputError for missing key columns, a row without step,
    or a metric that is no number.

    Source: S1 and S5 to S8. Deviation: rows hold means over `log_every` steps, so shares are of rows; spikes and
    explosions are judged by the rows' maxima where they are recorded.
    """
    keys = ["run_id", "dataset", "arm", "setting", "seed"]
    if missing := [name for name in [*keys, "step"] if name not in history]:
        raise InputError(f"history lacks the columns {', '.join(missing)}")
    keys += [name for name in ("variant", "context") if name in history]
    if history["step"].isna().any():
        raise InputError(f"{history['step'].isna().sum()} rows have no step")
    metrics = [name for name in history if "/" in name]
    try:
        history = history.astype(dict.fromkeys(metrics, float))
    except (TypeError, ValueError) as error:
        raise InputError(f"a metric is no number: {error}") from error
    history = history.drop_duplicates(["run_id", "step"], keep="last").sort_values(["run_id", "step"], kind="stable")
    references = gradient_references(history)
    thresholds = thresholds or Thresholds()
    outcomes = {} if runs is None else {run["run_id"]: run for run in runs.to_dict("records")}
    rows = []
    for identity, run in _by_run(history, keys):
        row = identity | {"last_step": int(run["step"][-1])}
        for loss in ("loss/d", "loss/g"):
            row |= _loss_statistics(loss.replace("/", "_"), run, loss)
        reference = references.get(row["run_id"], np.nan)
        row |= _gradient_statistics(run, reference) | _lipschitz_statistics(run)
        rows.append(row | _outcome(run, row, outcomes.pop(row["run_id"], {}), reference, thresholds))
    for run in outcomes.values():  # without a row
        row = {name: run[name] for name in keys} | {"last_step": 0}
        rows.append(row | _outcome({"step": np.empty(0)}, row, run, np.nan, thresholds))
    return pd.DataFrame(rows, columns=[*keys, "last_step", *STATISTICS, *_OUTCOME, "grad_g_reference"])


def _by_run(history: pd.DataFrame, keys: list[str]) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Identity and columns of each run; `history` is in order of runs and steps. Metrics that a run lacks are left
    out."""
    columns = {name: history[name].to_numpy() for name in history if name == "step" or "/" in str(name)}
    ids = history["run_id"].to_numpy()
    begins = np.flatnonzero(np.append(ids[:1] == ids[:1], ids[1:] != ids[:-1]))
    identities = history.iloc[begins][keys].to_dict("records")
    for identity, begin, end in zip(identities, begins, [*begins[1:], len(ids)][: len(begins)], strict=True):
        run = {name: values[begin:end] for name, values in columns.items()}
        yield identity, {name: v for name, v in run.items() if name == "step" or not np.isnan(v).all()}


def first_events(history: pd.DataFrame, runs: pd.DataFrame, thresholds: Thresholds) -> pd.DataFrame:
    """run_id, variant, context, seed, cause and step of the first event of each run that is over; None without one."""
    rows, references = [], gradient_references(history)
    ordered = history.sort_values(["run_id", "step"], kind="stable")
    columns = {identity["run_id"]: run for identity, run in _by_run(ordered, ["run_id"])}
    for run in runs[runs["state"].isin(OVER)].to_dict("records"):
        trained = columns.get(run["run_id"], {"step": np.empty(0)})
        cause, step = _first_event(trained, run, references.get(run["run_id"], np.nan), thresholds)
        rows.append(
            {name: run[name] for name in ("run_id", "variant", "context", "seed")} | {"cause": cause, "step": step}
        )
    return pd.DataFrame(rows, columns=["run_id", "variant", "context", "seed", "cause", "step"])


def _first_event(
    run: Columns, planned: dict[str, Any], reference: float, thresholds: Thresholds
) -> tuple[str | None, float]:
    classes, trivial = classes_of(str(planned["dataset"])), _number(planned.get("trivial_fd"))
    events = find_events(run, planned.get("state", "finished"), classes, trivial, reference, thresholds)
    first = min(events, key=lambda event: (event[1], list(CAUSES).index(event[0])), default=(None, np.nan))
    return first[0], float(first[1])


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)


def classes_of(dataset: str) -> int:
    """Number of classes that the samples of a data set can hit."""
    return 1000 if dataset == "stacked_mnist" else 10


def _outcome(
    run: Columns, row: dict[str, Any], planned: dict[str, Any], reference: float, thresholds: Thresholds
) -> dict[str, Any]:
    """Quality at the end, and the first event."""
    state, trivial = planned.get("state", "finished"), _number(planned.get("trivial_fd"))
    classes, notes = classes_of(str(row["dataset"])), []
    at = evaluated(run)
    q = at["eval/fd"]
    result: dict[str, Any] = {"q_best": float(q.min()) if len(q) else np.nan, "imputed": False}
    over = state in OVER
    cause, step = _first_event(run, {"dataset": row["dataset"], **planned}, reference, thresholds)
    result |= {"failure": cause is not None if over else None, "cause": cause, "failure_step": step}
    healthy = healthy_from(at, classes, trivial, thresholds)
    result["healthy_step"] = np.nan if healthy is None else healthy
    lost = state in ("diverged", "failed") or cause == "divergence"
    if not over:
        notes.append(f"{state}: no end")
    elif lost or not len(q) or (len(q) < _END_ROWS and np.isfinite(trivial)):
        result |= {"q_end": trivial, "imputed": True}
        result["log_q_pixels_end"] = _log(_number(planned.get("trivial_fd_pixels")))
        notes.append(f"fd at the end is the trivial sampler's: {state if lost else f'{len(q)} evaluations'}")
        if not np.isfinite(trivial):
            notes.append("which is not known")
    else:
        result["q_end"] = float(np.median(q[-_END_ROWS:]))
        if len(q) < _END_ROWS:
            notes.append(f"fd at the end is of {len(q)} evaluation{'s' if len(q) > 1 else ''}")
        if "eval/kd" in at:
            result["kd_end"] = float(np.median(at["eval/kd"][-_END_ROWS:]))
        if "eval/fd_pixels" in at:
            result["log_q_pixels_end"] = _log(np.median(at["eval/fd_pixels"][-_END_ROWS:]))
    if over and not np.isfinite(trivial):
        notes.append("whether it learned is not known: no trivial sampler's fd")
    end = result.get("q_end", np.nan)
    if end > 0:
        result["log_q_end"] = float(np.log(end))
        if result["q_best"] > 0:
            result["quality_degradation"] = float(np.log(end / result["q_best"]))
    if len(q) and q.min() > 0 and len(late := np.log(q[at["step"] >= run["step"][-1] / 2])) > 1:
        result["quality_oscillation"] = float(np.abs(np.diff(late)).mean())
    return result | {"notes": "; ".join(notes)}


def _lipschitz_statistics(run: Columns) -> dict[str, float]:
    result = {}
    steepest = _known(run, "lipschitz/empirical")
    if len(steepest) and steepest.max() > 0:
        result |= {"grad_x_p99": _log(np.percentile(steepest, 99)), "grad_x_max": _log(steepest.max())}
        result["lipschitz_empirical"] = _log(steepest[-1])
        if len(products := _known(run, "lipschitz/product")):
            result["lipschitz_product"] = _log(products[-1])
            result["tightness"] = float(steepest[-1] / products[-1]) if products[-1] else np.nan
    ranks = [_known(run, name)[-1] for name in run if name.startswith("stable_rank/")]
    return result | ({"stable_rank": float(np.mean(ranks))} if ranks else {})


def _known(run: Columns, name: str) -> np.ndarray:
    values = run.get(name, np.empty(0))
    return values[~np.isnan(values)]


def _log(value: float) -> float:
    return float(np.log(value)) if value > 0 else np.nan


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


def _loss_statistics(name: str, run: Columns, metric: str) -> dict[str, float]:
    values = _known(run, metric)
    if not len(values):
        return {}
    steps = run["step"][~np.isnan(run[metric])]
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


def _gradient_statistics(run: Columns, reference: float) -> dict[str, float]:
    norms = _known(run, "grad_norm/g")
    if not len(norms) or not reference > 0:
        return {}
    known = ~np.isnan(run["grad_norm/g"])
    steps, peaks = run["step"][known], run.get("grad_norm/g_max", run["grad_norm/g"])[known]
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
