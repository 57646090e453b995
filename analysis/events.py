"""What went wrong in a run, when, and by which rule. Pure functions of the history."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from analysis.terms import OURS, Terms
from sngan.config import FEW_MODES, HEALTHY_FD, LARGE_MODE_KL, LOW_DIVERSITY
from sngan.datasets import MANY, is_many

CAUSES = {  # in the order that decides if two begin at the same step
    "error": "the program failed",
    "divergence": "a loss, a logit, a weight or a sample is not finite, or a logit is huge",
    "never learned": "no evaluation had an fd below half the trivial sampler's and, for up to "
    f"{MANY} classes, effective modes of at least half of them; it counts from step 0 and rules out other causes",
    "mode collapse": "too few modes, classes far from the data's, or samples too much alike, after it was healthy",
    "quality collapse": "the distance from the data rose above a multiple of the best so far, after it was healthy",
    "D saturation": "D was right about nearly all images, and G's gradient nearly vanished",
}


def _threshold(default: float, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Thresholds:
    """When something counts as an event. The report shows what other values of the three that matter would give."""

    logit: float = _threshold(1e4, "divergence: |logit| above it")
    healthy: float = _threshold(
        HEALTHY_FD,
        f"healthy: fd below this share of the trivial sampler's and, for up to {MANY} classes, enough effective modes",
    )
    modes: float = _threshold(
        FEW_MODES,
        f"mode collapse: effective modes below this share of the classes, also needed for health; for more than {MANY} "
        "classes, below this share of the run's own best",
    )
    mode_kl: float = _threshold(LARGE_MODE_KL, f"mode collapse: KL of the classes above it, nats; up to {MANY} classes")
    diversity: float = _threshold(LOW_DIVERSITY, f"mode collapse: diversity below it; up to {MANY} classes")
    quality_collapse: float = _threshold(2.0, "quality collapse: fd above this multiple of the best so far")
    accuracy: float = _threshold(0.99, "D saturation: D's accuracy on real and on fake above it")
    gradient: float = _threshold(0.01, "D saturation: G's gradient norm below this share of the reference")
    saturation_steps: int = _threshold(500, "D saturation: for at least this many steps")
    sustained: int = _threshold(2, "evaluations that a collapse must last, unless it lasts to the final one")

    def table(self, terms: Terms = OURS) -> list[tuple[str, float, str]]:
        """(name, value, what it decides) of those that decide something of runs with these terms."""
        told = {"modes": terms.classes, "mode_kl": terms.classes, "diversity": terms.sees_alike}
        shown = [f for f in fields(self) if told.get(f.name, True)]
        return [(f.name, getattr(self, f.name), _said(f.metadata["meaning"], terms)) for f in shown]


def meanings(terms: Terms = OURS) -> dict[str, str]:
    """What each cause means, of those that can be seen in runs with these terms."""
    said = {cause: _said(meaning, terms) for cause, meaning in CAUSES.items()}
    if not terms.classes:
        said["mode collapse"] = "samples too much alike, after it was healthy"
    return {cause: meaning for cause, meaning in said.items() if cause != "mode collapse" or terms.sees_alike}


_OF_MODES = (  # what is said of classes, and is left out where they are not known
    f" and, for up to {MANY} classes, effective modes of at least half of them",
    f" and, for up to {MANY} classes, enough effective modes",
    f"; up to {MANY} classes",
)


def _said(meaning: str, terms: Terms) -> str:
    for text in () if terms.classes else _OF_MODES:
        meaning = meaning.replace(text, "")
    return terms.said(meaning)


Columns = Mapping[str, np.ndarray]
"""A run's rows in order of steps, by metric; NaN if a row has none."""


def find_events(
    run: Columns,
    state: str,
    classes: int,
    trivial: float,
    reference: float,
    thresholds: Thresholds,
    lost: float | None = None,
) -> list[tuple[str, int]]:
    """(cause, step at which it begins) of every kind of event in a run, by CAUSES' names; the first one names it.

    `run` has `step` and metrics; `state` as in the account, empty if it is not known; `classes`: number of the
    data's classes; `trivial`: the trivial sampler's fd, NaN if it is not known, so that whether the run was ever
    healthy is not known either; `reference`: of G's gradient norm; `lost`: the step of a divergence that is known
    already, NaN if there was none; None: the rows tell. A run that was never healthy has `never learned`,
    from step 0, and no other event; whether it learned is known of finished runs only.
    """
    found = _events(run, state, classes, trivial, reference, thresholds, lost)
    return sorted(found, key=lambda event: (event[1], list(CAUSES).index(event[0])))


def _events(
    run: Columns, state: str, classes: int, trivial: float, reference: float, thresholds: Thresholds, lost: float | None
) -> Iterator[tuple[str, int]]:
    step = run["step"]
    last = int(step[-1]) if len(step) else 0
    if state == "failed":
        yield "error", last
    known = None if lost is None or np.isnan(lost) else int(lost)
    diverged = _divergence(run, thresholds) if lost is None else known
    if diverged is not None or state == "diverged":
        yield "divergence", last if diverged is None else diverged
    at = evaluated(run)
    healthy = healthy_from(at, classes, trivial, thresholds)
    if healthy is not None:
        after = at["step"] >= healthy
        far = at["eval/fd"] > thresholds.quality_collapse * np.minimum.accumulate(at["eval/fd"])
        since = {name: values[after] for name, values in at.items()}
        for cause, bad in (("mode collapse", _few_modes(since, classes, thresholds)), ("quality collapse", far[after])):
            begin = _sustained(since["step"], bad, thresholds.sustained)
            if begin is not None:
                yield cause, begin
    elif state in ("finished", "") and len(at["step"]) and np.isfinite(trivial) and diverged is None:
        yield "never learned", 0
        return
    saturated = _saturation(run, reference, thresholds)
    if saturated is not None:
        yield "D saturation", saturated


def evaluated(run: Columns) -> dict[str, np.ndarray]:
    """`step` and eval/* of the rows with an evaluation of finite samples."""
    fd = run.get("eval/fd", np.full(len(run["step"]), np.nan))
    known = ~np.isnan(fd)
    names = ["step", *(name for name in run if name.startswith("eval/"))]
    return {"eval/fd": fd[known]} | {name: run[name][known] for name in names}


def healthy_from(evaluations: Columns, classes: int, trivial: float, thresholds: Thresholds) -> int | None:
    """Step of the first evaluation at which the run was healthy; None if it never was, or that is not known."""
    return _first(evaluations["step"], healthy_at(evaluations, classes, trivial, thresholds))


def healthy_at(evaluations: Columns, classes: int, trivial: float, thresholds: Thresholds) -> np.ndarray:
    """Whether the run was healthy, at each evaluation. Of many classes the distance alone decides."""
    good = evaluations["eval/fd"] < thresholds.healthy * trivial
    if not is_many(classes) and "eval/effective_modes" in evaluations:
        good &= evaluations["eval/effective_modes"] >= thresholds.modes * classes
    return good


def _divergence(run: Columns, thresholds: Thresholds) -> int | None:
    """The first step with a loss or a quality that is not finite, or a huge logit. Step 0 comes before the first loss.

    A loss that is missing is not finite if no more comes, for longer than ever between two that are there.
    """
    trained = run["step"] > 0
    bad = np.isinf(run.get("eval/fd", np.zeros(len(trained))))
    for name in ("loss/d", "loss/g", "logit/max_abs"):
        if name in run:
            values = run[name]
            bad |= np.isinf(values) | (_lost(np.isnan(values) & trained))
    if "logit/max_abs" in run:
        bad |= run["logit/max_abs"] > thresholds.logit
    return _first(run["step"], bad & trained)


def _lost(missing: np.ndarray) -> np.ndarray:
    """Where values are missing to the end, if for longer than between two that are there."""
    known = np.flatnonzero(~missing)
    last = int(known[-1]) if len(known) else -1
    lost = np.arange(len(missing)) > last
    return lost if lost.sum() >= max(np.diff(known), default=1) else np.zeros(len(missing), bool)


def _few_modes(evaluations: Columns, classes: int, thresholds: Thresholds) -> np.ndarray:
    bad = np.zeros(len(evaluations["step"]), bool)
    if (modes := evaluations.get("eval/effective_modes")) is not None:
        bad |= modes < thresholds.modes * (np.fmax.accumulate(modes) if is_many(classes) else classes)
    if not is_many(classes):
        if "eval/mode_kl" in evaluations:
            bad |= evaluations["eval/mode_kl"] > thresholds.mode_kl
        if "eval/diversity" in evaluations:
            bad |= evaluations["eval/diversity"] < thresholds.diversity
    return bad


def _sustained(steps: np.ndarray, bad: np.ndarray, times: int) -> int | None:
    """Where `bad` first holds so many times in a row, or where the stretch that reaches the end begins."""
    streak = 0
    for i, is_bad in enumerate(bad):
        streak = streak + 1 if is_bad else 0
        if streak == times:
            return int(steps[i - times + 1])
    return int(steps[len(bad) - streak]) if streak else None


def _saturation(run: Columns, reference: float, thresholds: Thresholds) -> int | None:
    names = ("accuracy/d_real", "accuracy/d_fake", "grad_norm/g")
    if not set(names) <= set(run) or not np.isfinite(reference):
        return None
    real, fake, gradient = (run[name] for name in names)
    known = ~np.isnan(real + fake + gradient)
    right = (real > thresholds.accuracy) & (fake > thresholds.accuracy)
    saturated, steps = (right & (gradient < thresholds.gradient * reference))[known], run["step"][known]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], saturated, [False]])))
    for begin, end in zip(edges[::2], edges[1::2] - 1, strict=True):
        if steps[end] - steps[begin] >= thresholds.saturation_steps:
            return int(steps[begin])
    return None


def _first(steps: np.ndarray, bad: np.ndarray) -> int | None:
    return int(steps[bad.argmax()]) if bad.any() else None
