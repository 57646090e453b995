"""The verdicts of a study seen differently: by other measures of quality, other ends, other thresholds of failure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.claims import NAMED, judge
from analysis.events import Thresholds
from analysis.failures import OTHER_THRESHOLDS
from analysis.stability import summarize
from analysis.study import Study

MAIN = "as planned"
_OTHER_QUALITY = ("fd_pixels", "kd")
_OTHER_ENDS = {"last half": 0.5, "last eighth": 0.125, "last evaluation": 0.0}


def verdicts(study: Study) -> pd.DataFrame:
    """One row per claim, context and view: verdict, reason, smallest p towards it; `flips` if it is not MAIN's.

    Views are MAIN, then each of these alone: quality by fd_pixels or kd, with everything that follows from quality
    (gain, health, collapse; the trivial sampler's score is that of the same measure); the end of a run as the last
    half, the last eighth or the last of its evaluations rather than the last quarter; and each of
    `failures.OTHER_THRESHOLDS`. Claims that no run has what they need for are left out.
    """
    frames = []
    for kind, view, seen, summary in _views(study):
        judged = at_every_rate(seen, summary)
        judged = judged[judged["verdict"] != "not tested"]
        frames.append(judged.drop_duplicates(["claim", "context"]).assign(kind=kind, view=view))
    table = pd.concat(frames, ignore_index=True)
    planned = table[table["view"] == MAIN].set_index(["claim", "context"])["verdict"]
    table = table[[key in planned.index for key in zip(table["claim"], table["context"], strict=True)]]
    usual = [planned[key] for key in zip(table["claim"], table["context"], strict=True)]
    columns = ["claim", "context", "kind", "view", "verdict", "reason", "p_adjusted", "p_contradicted_adjusted"]
    return table[columns].assign(flips=table["verdict"].to_numpy() != np.array(usual)).reset_index(drop=True)


def at_every_rate(study: Study, summary: pd.DataFrame) -> pd.DataFrame:
    """`claims.judge`, with the claims that are judged in one named context alone judged in all others as well.

    Those are adjusted as if the study's file had named that context; they answer what would have been said there.
    """
    judged = judge(study, summary)
    alone = [claim for claim in NAMED if (judged.loc[judged["claim"] == claim, "context"].nunique()) == 1]
    if not study.primary or not alone:
        return judged
    others = [judged]
    for context in study.runs["context"].unique():
        if any(context == study.primary.get(NAMED[claim]) for claim in alone):
            continue
        named = {**study.primary, **{NAMED[claim]: str(context) for claim in alone}}
        again = judge(replace(study, primary=named), summary)
        others.append(again[again["claim"].isin(alone)])
    return pd.concat(others, ignore_index=True)


def flips(table: pd.DataFrame) -> pd.DataFrame:
    """claim, context, verdict, and under how many `views` of `of` it is another: which, by verdict, in words."""
    rows = []
    for (claim, context), of in table.groupby(["claim", "context"], sort=False):
        others, changed = of[of["view"] != MAIN], of[of["flips"]]
        said = [f"{verdict}: {', '.join(each['view'])}" for verdict, each in changed.groupby("verdict", sort=False)]
        verdict = of.loc[of["view"] == MAIN, "verdict"].iloc[0]
        rows.append((claim, context, verdict, len(changed), len(others), "; ".join(said)))
    return pd.DataFrame(rows, columns=["claim", "context", "verdict", "flips", "of", "which"])


def _views(study: Study) -> Iterator[tuple[str, str, Study, pd.DataFrame]]:
    planned = summarize(study.history, study.runs, terms=study.terms)
    yield "", MAIN, study, planned
    for name in _OTHER_QUALITY:
        if (seen := _by(study, name)) is not None:
            yield "quality", f"by {name}", seen, summarize(seen.history, seen.runs, terms=seen.terms)
    for words, share in _OTHER_ENDS.items():
        yield "end", words, study, with_end(study, planned, share)
    usual = Thresholds()
    for name, values in OTHER_THRESHOLDS.items():
        for value in values:
            if not np.isclose(value, getattr(usual, name)):
                others = replace(usual, **{name: value})
                summary = summarize(study.history, study.runs, others, study.terms)
                yield "threshold", f"{name.replace('_', ' ')} {value:.2g}", study, summary


def _by(study: Study, name: str) -> Study | None:
    """The study as if its runs had been judged by this measure alone; None if it was not recorded."""
    if f"eval/{name}" not in study.history:
        return None
    sampler: Mapping[str, Any] = {run_id: of.get("trivial_sampler") or {} for run_id, of in study.protocols.items()}
    trivial = study.runs["run_id"].map(lambda run_id: sampler.get(run_id, {}).get(name)).astype(float)
    trivial = trivial.fillna(trivial.groupby(study.runs["context"]).transform("median"))
    history = study.history.assign(**{"eval/fd": study.history[f"eval/{name}"]})
    history = history.drop(columns="eval/fd_pixels", errors="ignore")
    return replace(study, history=history, runs=study.runs.assign(trivial_fd=trivial, trivial_fd_pixels=np.nan))


def with_end(study: Study, summary: pd.DataFrame, share: float) -> pd.DataFrame:
    """The summary with log quality and gain over the last `share` of a run's steps, at least its last evaluation."""
    scores = {"log_q_end": ("eval/fd", "trivial_fd"), "log_q_pixels_end": ("eval/fd_pixels", "trivial_fd_pixels")}
    gains = {"log_q_end": "gain", "log_q_pixels_end": "gain_pixels"}
    runs, summary = study.runs.set_index("run_id"), summary.set_index("run_id")
    for column, (metric, trivial) in scores.items():
        if metric not in study.history:
            continue
        at = study.history.loc[study.history[metric] > 0, ["run_id", "step", metric]]
        last = at["run_id"].map(summary["last_step"])
        late = (at["step"] > (1 - share) * last) | (at["step"] == at.groupby("run_id")["step"].transform("max"))
        logs = np.log(at.loc[late, metric]).groupby(at.loc[late, "run_id"]).mean()
        value = logs.reindex(summary.index).where(summary["ended"].eq(True))
        gain = (np.log(runs[trivial].reindex(summary.index).astype(float)) - value).clip(lower=0)
        summary[column] = value
        summary[gains[column]] = gain.where(summary["ended"].eq(True), summary[gains[column]])
    return summary.reset_index()
