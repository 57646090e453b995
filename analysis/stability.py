"""One run's curves -> its stability statistics. Pure functions of the history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import checked
from analysis.events import Columns, Thresholds, evaluated, find_events, healthy_at, healthy_from
from analysis.terms import OURS, Terms
from experiments.record import State
from sngan.config import InputError, shown
from sngan.datasets import classes_of

ROLLING_STEPS, ROLLING_ROWS = 201, 11  # width of the rolling medians, and the fewest rows that they hold
VANISHING, EXPLODING = 0.01, 100.0  # gradient norms, in units of the reference
SPIKE = 5.0  # gradient norm, in units of the rolling median
SIGMA_TOLERANCE = 1.05
GROWTH_FROM_UPDATES = 500  # of D: from there the growth of norms is counted
_END_EVALUATIONS, _END_ROWS = 3, 3  # the fewest evaluations of an end; rows of a loss's

STATISTICS = {  # column -> what it says, in the words of `Terms`
    "gain": "gain over the trivial sampler: log of its {q} over {q} at the end, at least 0; 0 without an end",
    "gain_pixels": "the same by fd_pixels",
    "q_end": "{q} at the end ({mean} over the last quarter of the evaluations)",
    "log_q_end": "log of {q} at the end",
    "log_q_pixels_end": "log of fd_pixels at the end",
    "q_line": "{q} at the end by a line through the {scale} of that quarter",
    "q_sd": "sd of {scale} about that line",
    "q_middle": "mean {scale} between a third and a half of the run",
    "q_best": "{best} {q}",
    "late_change": "mean {scale} of the last quarter minus that of the third",
    "late_change_pixels": "the same by fd_pixels",
    "quality_degradation": "how far {scale} at the end is from its best (noise alone makes it positive)",
    "quality_oscillation": "mean |change of {scale}| between evaluations, second half",
    "kd_end": "kd at the end (mean over the last quarter of the evaluations)",
    "coverage_end": "coverage at the end (mean over the last quarter)",
    "modes_end": "classes hit at the end (mean over the last quarter)",
    "effective_modes_end": "effective modes at the end (mean over the last quarter)",
    "effective_modes_low": "lowest effective modes of the second half",
    "loss_d_end": "{loss_d} at the end (median of the last three rows)",
    "loss_d_best": "lowest value of {loss_d}",
    "loss_d_degradation": "log of {loss_d} at the end over its lowest",
    "loss_d_oscillation": "mean |change of the log of {loss_d}| between rows, second half",
    "loss_d_roughness": "roughness of {loss_d} (MAD about its rolling median, relative)",
    "loss_g_end": "{loss_g} at the end (median of the last three rows)",
    "loss_g_best": "lowest value of {loss_g}",
    "loss_g_degradation": "log of {loss_g} at the end over its lowest",
    "loss_g_oscillation": "mean |change of the log of {loss_g}| between rows, second half",
    "loss_g_roughness": "roughness of {loss_g} (MAD about its rolling median, relative)",
    "grad_g_spikes": "rows per 1,000 steps with {grad_g} above 5 x its rolling median",
    "grad_g_p1": "log of the 1st percentile of the norm of {grad_g} over its own median, after 5 % of the run",
    "grad_g_vanishing": "share of rows with {grad_g} below 0.01 x the reference",
    "grad_g_exploding": "share of rows with {grad_g} above 100 x the reference",
    "grad_x_p99": "log of the 99th percentile over rows of the largest |dD/dx|",
    "grad_x_p99_late": "the same over the last quarter of the run",
    "grad_x_max": "log of the largest |dD/dx|",
    "lipschitz_product": "log of the product of operator norms and gains at the end",
    "lipschitz_empirical": "log of the largest |dD/dx| at the end",
    "tightness": "largest |dD/dx| over the product, at the end",
    "stable_rank": "stable rank at the end, mean over layers",
    "sigma_share": f"share of layer-rows whose used sigma is above {SIGMA_TOLERANCE}, from the first update of D on",
    "sigma_max": "log of the largest used sigma at the end",
    "sigma_growth": f"its rise since update {GROWTH_FROM_UPDATES} of D",
    "sigma_conv_max": "largest operator norm of a convolution at the end",
    "weight_growth": f"log growth of the raw weights' norm since update {GROWTH_FROM_UPDATES} of D, mean over layers",
}
COMPARED = {  # statistic -> 1 if lower is better, -1 if higher is
    "gain": -1, "gain_pixels": -1, "log_q_end": 1, "late_change": 1, "quality_oscillation": 1,
    **{f"loss_{network}_{kind}": 1 for network in "dg" for kind in ("degradation", "oscillation", "roughness")},
    "grad_g_spikes": 1, "grad_g_p1": -1,
}  # fmt: skip


def compared(terms: Terms) -> dict[str, int]:
    """COMPARED, for a quality of other terms."""
    if terms.ratio:
        return COMPARED
    sign = -1 if terms.maximize else 1
    rest = {name: 1 for name in COMPARED if name not in ("gain", "gain_pixels", "log_q_end", "late_change")}
    return {"q_end": sign, "late_change": sign, **rest, "grad_g_p1": -1}


WITHOUT_END = {  # what a run without an end counts for; of the others among COMPARED it ranks worst
    **dict.fromkeys(("gain", "gain_pixels", "coverage_end", "modes_end"), 0.0),
    **dict.fromkeys(("effective_modes_end", "effective_modes_low"), 0.0),
    **dict.fromkeys(("late_change", "late_change_pixels", "grad_g_spikes"), np.inf),
    "grad_g_p1": -np.inf,
}
OUTCOME = ("ended", "healthy_step", "healthy_end", "failure", "cause", "failure_step", "causes", "notes")
OVER = ("finished", "diverged", "failed")
_AXES = ("step", "d_updates")
_NUMBERS_OF_A_RUN = ("trivial_fd", "trivial_fd_pixels", "lost_step", "classes")


def summarize(
    history: pd.DataFrame, runs: pd.DataFrame | None = None, thresholds: Thresholds | None = None, terms: Terms = OURS
) -> pd.DataFrame:
    """One row per run: run_id, dataset, arm, setting, seed, last_step, STATISTICS, and what became of it.

    `history` has a row per logged step with run_id, dataset, arm, setting, seed, step and metrics; rows may come
    in any order, of two rows of one step the last counts, None counts as NaN. `runs` has a row per planned run with
    run_id, state and, if they are known, `trivial_fd` (the trivial sampler's fd) and `lost_step` (from which step a
    diverged run was lost; NaN: it was not; None: the rows tell) and `classes` (number of the data's classes, 0 if it
    has no labels; else the data set's): those of `analysis.load`. Its runs without rows are in the result too, with
    dataset, arm, setting and seed if they are there.
    Without it every run counts as finished. `terms`: which side of quality is better, and whether it is compared by
    ratio or by difference.

    - `failure`: whether any event happened (`analysis.events`), None for a run that is not over; `causes` are all of
      them with their steps, `cause` and `failure_step` the first; `healthy_step` is the first evaluation at which it
      was healthy, `healthy_end` whether it was at the last one, without having collapsed, diverged or failed; None if
      that is not known.
    - `ended`: whether the run has an end, which a run that diverged or failed has not, whatever came first. No run is
      given an fd that it did not have: without an end `q_end` is NaN and `gain` 0. A run that ended has the fd of its
      last quarter, of at least three evaluations or of all it has. Where the trivial sampler's fd is not known there
      is no gain.
    - `notes` say why a number is NaN.

    A statistic whose metric is absent, or that a run is too short or not positive enough for, is NaN. The common
    reference of the gradient norms is the median over steps 100 to 600 (5 to 25 % of runs shorter than 2,400 steps)
    of all runs of the same context (data set and setting, if there is no such column) and seed. Raises InputError for
    missing key columns, a row without step, a step that is no whole number, a metric that is no number, an unknown
    state, or a run that `runs` has twice.

    Source: S1 and S5 to S8. Deviation: rows hold means over `log_every` steps, so shares are of rows; spikes and
    explosions are judged by the rows' maxima if they are recorded.
    """
    history, keys = _checked(history)
    outcomes = {} if runs is None else _planned(runs, keys)
    thresholds = checked.instance(Thresholds() if thresholds is None else thresholds, Thresholds, "thresholds")
    terms = checked.instance(terms, Terms, "terms")
    references = gradient_references(history)
    rows = []
    for identity, run in _by_run(history, keys):
        row = identity | {"last_step": int(run["step"][-1])}
        for loss in ("loss/d", "loss/g"):
            row |= _loss_statistics(loss.replace("/", "_"), run, loss)
        reference = references.get(row["run_id"], np.nan)
        row |= _gradient_statistics(run, reference) | _lipschitz_statistics(run) | _norm_statistics(run)
        rows.append(row | _outcome(run, row, outcomes.pop(row["run_id"], {}), reference, thresholds, terms))
    for run in outcomes.values():  # without a row
        row = {name: run.get(name) for name in keys} | {"last_step": 0}
        rows.append(row | _outcome({"step": np.empty(0)}, row, run, np.nan, thresholds, terms))
    return pd.DataFrame(rows, columns=[*keys, "last_step", *STATISTICS, *OUTCOME, "grad_g_reference"])


def _checked(history: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """One row per run and step, in order, and the columns that identify a run."""
    keys = ["run_id", "dataset", "arm", "setting", "seed"]
    history = checked.frame(history, "history", [*keys, "step"])
    keys += [name for name in ("variant", "context") if name in history]
    if history["step"].isna().any():
        raise InputError(f"{history['step'].isna().sum()} rows have no step")
    measured = [name for name in _measured(history) if history[name].dtype != float]
    history = history.assign(
        **{name: checked.names(history[name], name, all_there=name == "run_id") for name in keys},
        **{name: checked.numbers(history[name], name) for name in measured},
        step=checked.steps(history["step"], "step"),
    )
    history = history.drop_duplicates(["run_id", "step"], keep="last")
    try:
        return history.sort_values(["run_id", "step"], kind="stable"), keys
    except TypeError as error:
        raise InputError("run_id: expected names that have an order, such as text") from error


def _planned(runs: pd.DataFrame, keys: list[str]) -> dict[Any, dict[str, Any]]:
    """run_id -> what `runs` says of the run. What is None is not known."""
    runs = checked.frame(runs, "runs", ("run_id", "state"))
    for name in ("state", *keys):
        if name in runs:
            checked.names(runs[name], name, all_there=name in ("run_id", "state"))
    if len(twice := runs[runs["run_id"].duplicated()]):
        raise InputError(f"runs: {shown(twice.iloc[0]['run_id'])} is there more than once")
    for state in dict.fromkeys(runs["state"]):
        checked.one_of(state, map(str, State), "state", "those of a run")
    if "lost_step" in runs:
        checked.steps(runs["lost_step"].dropna(), "lost_step")
    planned = {run["run_id"]: run for run in runs.to_dict("records")}
    for run in planned.values():
        known = [name for name in _NUMBERS_OF_A_RUN if run.get(name) is not None]
        run |= {name: checked.number(run[name], name) for name in known}
    return planned


def _measured(history: pd.DataFrame) -> list[str]:
    return [name for name in history if isinstance(name, str) and ("/" in name or name == "d_updates")]


def _by_run(history: pd.DataFrame, keys: list[str]) -> Iterator[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Identity and columns of each run; `history` is in order of runs and steps. Metrics that a run lacks are left
    out."""
    columns = {name: history[name].to_numpy() for name in ("step", *_measured(history))}
    ids = history["run_id"].to_numpy()
    begins = np.flatnonzero(np.append(ids[:1] == ids[:1], ids[1:] != ids[:-1]))
    identities = history.iloc[begins][keys].to_dict("records")
    for identity, begin, end in zip(identities, begins, [*begins[1:], len(ids)][: len(begins)], strict=True):
        run = {name: values[begin:end] for name, values in columns.items()}
        yield identity, {name: v for name, v in run.items() if name in _AXES or not np.isnan(v).all()}


def failures_under(history: pd.DataFrame, runs: pd.DataFrame, others: Sequence[Thresholds]) -> pd.DataFrame:
    """variant, context, and for each of `others`, by its place, whether the run failed: the runs that ended."""
    rows, references = [], gradient_references(history)
    ordered = history.sort_values(["run_id", "step"], kind="stable")
    columns = {identity["run_id"]: run for identity, run in _by_run(ordered, ["run_id"])}
    for run in runs[runs["state"].isin(OVER)].to_dict("records"):
        trained = columns.get(run["run_id"], {"step": np.empty(0)})
        of = (trained, run, references.get(run["run_id"], np.nan))
        failed = {i: bool(_events_of(*of, thresholds)) for i, thresholds in enumerate(others)}
        rows.append({"variant": run["variant"], "context": run["context"]} | failed)
    return pd.DataFrame(rows, columns=["variant", "context", *range(len(others))])


def _events_of(
    run: Columns, planned: dict[str, Any], reference: float, thresholds: Thresholds
) -> list[tuple[str, int]]:
    classes, trivial = _classes(planned, planned["dataset"]), _number(planned.get("trivial_fd"))
    lost = planned.get("lost_step")
    return find_events(run, planned.get("state", "finished"), classes, trivial, reference, thresholds, lost)


def _classes(planned: dict[str, Any], dataset: Any) -> int:
    known = _number(planned.get("classes"))
    return classes_of(str(dataset)) if np.isnan(known) else int(known)


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)


def _outcome(
    run: Columns, row: dict[str, Any], planned: dict[str, Any], reference: float, thresholds: Thresholds, terms: Terms
) -> dict[str, Any]:
    """What became of the run, and its quality at the end."""
    state, trivial = planned.get("state", "finished"), _number(planned.get("trivial_fd"))
    classes, notes = _classes(planned, row["dataset"]), []
    at = evaluated(run)
    q, last = at["eval/fd"], int(row["last_step"])
    best = q.max if terms.maximize else q.min
    result: dict[str, Any] = {"q_best": float(best()) if len(q) else np.nan}
    late = q[(at["step"] >= last / 2) & np.isfinite(q)]
    if len(late) > 1 and (late.min() > 0 or not terms.ratio):
        late = np.log(late) if terms.ratio else late
        result["quality_oscillation"] = float(np.abs(np.diff(late)).mean())
    healthy = healthy_from(at, classes, trivial, thresholds)
    result["healthy_step"] = np.nan if healthy is None else healthy
    if state not in OVER:
        return result | dict.fromkeys(("ended", "failure", "cause", "healthy_end")) | {"notes": f"{state}: no end"}
    events = _events_of(run, {"dataset": row["dataset"], **planned}, reference, thresholds)
    causes = [cause for cause, _ in events]
    ended = not {"divergence", "error"} & set(causes)
    result |= {"ended": ended, "failure": bool(events), "causes": "; ".join(f"{c} at {step:,}" for c, step in events)}
    result |= dict(zip(("cause", "failure_step"), events[0] if events else (None, np.nan), strict=True))
    good = healthy_at(at, classes, trivial, thresholds)
    lost = set(causes) - {"D saturation"}
    known = np.isfinite(trivial) and (len(good) or not ended)
    result["healthy_end"] = bool(len(good) and good[-1] and not lost) if known else None
    if not np.isfinite(trivial) and "lost_step" not in planned:
        notes.append("whether it learned is not known: no trivial sampler's " + terms.quality)
    if not ended:
        notes.append("no end")
        scored = {"gain": trivial, "gain_pixels": _number(planned.get("trivial_fd_pixels"))}
        result |= {name: 0.0 for name, of_trivial in scored.items() if np.isfinite(of_trivial)}
        return result | {"notes": "; ".join(notes)}
    result |= _quality(at, "eval/fd", last, terms) | _samples_statistics(at, last)
    result["gain"] = _gain(trivial, result.get("log_q_end", np.nan))
    if terms.location in result and len(q) > 1:
        of_best = float(np.log(result["q_best"])) if terms.ratio else result["q_best"]
        fall = result[terms.location] - of_best
        result["quality_degradation"] = -fall if terms.maximize else fall
    if len(q) < _END_EVALUATIONS:
        notes.append(
            f"{len(q)} evaluation{'s' if len(q) != 1 else ''}"
            if len(q)
            else f"no evaluation: no {terms.quality} at the end"
        )
    if "eval/fd_pixels" in at:
        pixels = _quality(at, "eval/fd_pixels", last, OURS)
        result |= {"log_q_pixels_end": pixels.get("log_q_end"), "late_change_pixels": pixels.get("late_change")}
        result["gain_pixels"] = _gain(_number(planned.get("trivial_fd_pixels")), pixels.get("log_q_end", np.nan))
    return result | {"notes": "; ".join(notes)}


def _gain(trivial: float, log_q: float) -> float:
    return max(0.0, float(np.log(trivial) - log_q)) if np.isfinite(trivial) and np.isfinite(log_q) else np.nan


def _end(steps: np.ndarray, last: int) -> np.ndarray:
    """Which evaluations are the end: those of the run's last quarter, at least three."""
    late = steps > 0.75 * last
    return late if late.sum() >= _END_EVALUATIONS else np.arange(len(steps)) >= len(steps) - _END_EVALUATIONS


def _quality(at: Columns, metric: str, last: int, terms: Terms) -> dict[str, float]:
    """S1, S5 and the parts of S2 of one quality, on its scale: of a logarithm's of positive values only."""
    known = ~np.isnan(at[metric])
    steps, q = at["step"][known], at[metric][known]
    if not len(q) or (terms.ratio and q.min() <= 0):
        return {}
    level, late = np.log(q) if terms.ratio else q, _end(steps, last)
    back = np.exp if terms.ratio else float
    end = float(level[late].mean())
    result = {"q_end": float(back(end) if late.sum() > 1 else q[late][0]), terms.location: end}
    before = (steps > last / 2) & ~late
    if before.any():
        result["late_change"] = end - float(level[before].mean())
    middle = (steps > last / 3) & (steps <= last / 2)
    if middle.any():
        result["q_middle"] = float(level[middle].mean())
    if late.sum() >= _END_EVALUATIONS:
        x, y = steps[late] - steps[-1], level[late]
        slope, at_end = np.polyfit(x, y, 1)
        result["q_line"] = float(back(at_end))
        result["q_sd"] = float(np.sqrt(((y - at_end - slope * x) ** 2).sum() / (len(y) - 2)))
    return result


def _samples_statistics(at: Columns, last: int) -> dict[str, float]:
    names = {"kd_end": "eval/kd", "coverage_end": "eval/coverage", "modes_end": "eval/modes",
             "effective_modes_end": "eval/effective_modes"}  # fmt: skip
    late = _end(at["step"], last)
    result = {name: float(at[metric][late].mean()) for name, metric in names.items() if metric in at and late.any()}
    if "eval/effective_modes" in at and len(half := at["eval/effective_modes"][at["step"] >= last / 2]):
        result["effective_modes_low"] = float(half.min())
    return result


def _norm_statistics(run: Columns) -> dict[str, float]:
    """What is measured of D's norms, over the rows that the run has: to its last one, if it diverged too."""
    updates = run.get("d_updates", run["step"])
    result: dict[str, float] = {}
    if sigmas := [values for name, values in run.items() if name.startswith("sigma/")]:
        table = np.array(sigmas).T
        if len(trained := table[updates >= 1]):
            result["sigma_share"] = float((~(trained <= SIGMA_TOLERANCE)).mean())  # what is not finite is above, too
        largest, since = table.max(axis=1), updates >= GROWTH_FROM_UPDATES
        ends = largest[np.isfinite(largest)]
        result["sigma_max"] = _log(ends[-1]) if len(ends) else np.nan
        if len(grown := largest[since & np.isfinite(largest)]) > 1:
            result["sigma_growth"] = _log(grown[-1]) - _log(grown[0])
    if norms := [values for name, values in run.items() if name.startswith("sigma_conv/")]:
        largest = np.array(norms).T.max(axis=1)
        if len(known := largest[np.isfinite(largest)]):
            result["sigma_conv_max"] = float(known[-1])
    if weights := [values for name, values in run.items() if name.startswith("weight_norm/")]:
        table = np.log(np.array(weights).T[updates >= GROWTH_FROM_UPDATES])
        table = table[np.isfinite(table).all(axis=1)]
        if len(table) > 1:
            result["weight_growth"] = float((table[-1] - table[0]).mean())
    return result


def _lipschitz_statistics(run: Columns) -> dict[str, float]:
    result = {}
    steepest = _known(run, "lipschitz/empirical")
    if len(steepest) and steepest.max() > 0:
        result |= {"grad_x_p99": _log(np.percentile(steepest, 99)), "grad_x_max": _log(steepest.max())}
        late = run["lipschitz/empirical"][run["step"] > 0.75 * run["step"][-1]]
        if len(late := late[~np.isnan(late)]):
            result["grad_x_p99_late"] = _log(np.percentile(late, 99))
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
    if not len(norms):
        return {}
    known = ~np.isnan(run["grad_norm/g"])
    steps, peaks = run["step"][known], run.get("grad_norm/g_max", run["grad_norm/g"])[known]
    spikes = peaks > SPIKE * rolling_median(norms, steps)
    result = {"grad_g_spikes": float(1000 * spikes.sum() / steps[-1]) if steps[-1] else np.nan}
    settled = norms[steps > 0.05 * steps[-1]]
    if len(settled) and np.median(settled) > 0:
        with np.errstate(divide="ignore"):
            result["grad_g_p1"] = float(np.log(np.percentile(settled, 1) / np.median(settled)))
    if reference > 0:
        result["grad_g_vanishing"] = float((norms < VANISHING * reference).mean())
        result["grad_g_exploding"] = float((peaks > EXPLODING * reference).mean())
        result["grad_g_reference"] = float(reference)
    return result


def rolling_median(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Centred median over the rows that cover ROLLING_STEPS steps, at least ROLLING_ROWS; shorter at the ends."""
    spacing = float(np.median(np.diff(steps))) if len(steps) > 1 else 1.0
    window = max(ROLLING_ROWS, round(ROLLING_STEPS / spacing) | 1)  # odd, so that it has a centre
    return pd.Series(values).rolling(window, center=True, min_periods=1).median().to_numpy()
