"""What a source has of a study's runs -> tidy frames, and an account of the runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow

from analysis.history import history_of
from analysis.terms import OURS, Terms, sight_of, terms_of
from experiments.ledger import listed
from experiments.record import RESULTS, State, spent
from experiments.study import ARM_FIELDS, CONTEXT_FIELDS, contexts_of
from experiments.study import Study as Plan
from sngan.architectures import ARCHITECTURES
from sngan.config import TRAINING_VERSION, InputError, RunConfig
from sngan.datasets import classes_of

ATTEMPT = (
    *("device", "device_name", "threads", "torch", "wall_seconds", "exact", "git_commit", "git_tree"),
    *("git_dirty", "training_version", "wandb_url", "metrics_sha256"),
)
"""What is known of a run beside its configuration and its end, if anything is"""
STATES = [str(state) for state in State]
_ENDED = (*RESULTS, State.FAILED)


@dataclass(frozen=True)
class Study:
    """A study as it was found.

    `runs`: one row per planned run, with its state, step, error, identity fields, `damage` (what is wrong with the
    metrics of a run that ended; else empty), `variant` (the arm, with those of its parameters that differ within the
    study), `context` (data set and settings that variants are compared within), the last attempt's device and `exact`
    (False: it was resumed under other conditions), `started_at` and `ended_at` (of the first and the last attempt),
    `wall_seconds` of all attempts since its start, `data_name`, `classes` (number of the data's classes, 0 if it has no
    labels), and `trivial_fd` and `trivial_fd_pixels` (what the trivial sampler scores; of a run without protocol that
    of its context).
    `history`: one row per logged step, with run_id, dataset, arm, setting, seed, variant, context, step and the metrics
    (NaN if null or absent): `eval/*` as float64, the others as float32, in which the networks computed them, from
    every source of this program's runs. Of runs that are judged by their pixels alone `eval/fd` and `trivial_fd`
    are the fd_pixels, as `terms` say, and `eval/fd_pixels` and `trivial_fd_pixels` are absent: there is no second
    view of them (`as_recorded` gives the rows as they were written). `account`: number of runs in each state.
    `extra`: run ids on disk that the study does not plan; they are left out of all else. `protocols`: run id -> how
    its samples were judged, of the runs that say so. `bench`: where benchmarks' files lie. `samples`: run id ->
    step -> sample grid, a PNG file with `read_bytes`. `real`: `data_name` -> such a grid of its images. `found`:
    run id -> what the source has of the run, `plan`: the study's file. `folder`: of the records, or where a report
    of what has none belongs. `baseline`: the variant that others are compared with, if it is not the first;
    `command`: what makes the report, if it is not the usual one; `foreign`: whether the runs are another program's,
    `terms`: what it calls its quality, losses and steps (`terms_in`: in one context), `warnings`: what its table
    leaves in doubt.
    `primary`: outcome -> the context that it is judged in, of those that the study's file names.
    """

    name: str
    description: str
    folder: Path
    runs: pd.DataFrame
    history: pd.DataFrame
    account: pd.Series
    extra: list[str]
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    bench: Path | None = None
    samples: Mapping[str, Mapping[int, Any]] = field(default_factory=dict)
    baseline: str = ""
    command: str = ""
    foreign: bool = False
    terms: Terms = OURS
    warnings: Sequence[str] = ()
    found: Mapping[str, Found] = field(default_factory=dict)
    plan: str = ""
    primary: Mapping[str, str] = field(default_factory=dict)
    real: Mapping[str, Any] = field(default_factory=dict)

    def terms_in(self, context: str) -> Terms:
        """What things are called in one context, if its runs say what judges them."""
        runs = self.runs[self.runs["context"] == context]
        if self.foreign or "judge" not in runs:
            return self.terms
        return terms_of(zip(runs["dataset"], runs["judge"], strict=True))

    def real_in(self, context: str) -> Any:
        """A grid of real images of a context's data set; None if there is none."""
        runs = self.runs[self.runs["context"] == context]
        return self.real.get(runs["data_name" if "data_name" in runs else "dataset"].iloc[0])


class Found(NamedTuple):
    """What a source has of one run: status as in status.json, what is wrong with it, protocol, rows, sample grids, and
    a grid of real images or None.

    `rows()`: one row per logged step, and what is wrong with those that cannot be read. `evaluations()`: at each
    evaluation `class_counts` (samples by class) and `spectrum/<layer>` (singular values, float32), by `step`; of what
    W&B has, nothing.
    """

    status: dict[str, Any]
    damage: str
    protocol: dict[str, Any]
    rows: Callable[[], tuple[pd.DataFrame, str]]
    samples: Mapping[int, Any]
    evaluations: Callable[[], pyarrow.Table] = lambda: evaluation_table([])
    real: Any = None


def evaluation_table(rows: list[dict[str, Any]], where: str = "evaluations.jsonl") -> pyarrow.Table:
    """Rows of evaluations.jsonl with their types. Raises InputError if they are of others."""
    names = sorted({name for row in rows for name in row} - {"step", "class_counts"})
    kinds = {name: pyarrow.list_(pyarrow.float32()) for name in names}
    fields = {"step": pyarrow.int64(), "class_counts": pyarrow.list_(pyarrow.int32()), **kinds}
    try:
        return pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(fields.items()))
    except (pyarrow.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise InputError(f"{where} holds something else than lists of numbers ({error})") from error


def assemble(
    plan: Plan, folder: Path, found: dict[str, Found], extra: list[str] | None = None, cached: bool = False
) -> Study:
    """The frames of a plan's runs. `cached`: whether rows of results may be kept in `folder`."""
    planned = {config.run_id: config for config in plan.configs}
    if extra is None:
        extra = sorted(set(found) - set(planned))
    nothing = Found({"state": "missing", "step": 0, "attempts": []}, "", {}, lambda: (pd.DataFrame(), ""), {})
    found = {run_id: found.get(run_id, nothing) for run_id in planned}
    runs = pd.DataFrame([_run(config, found[run_id]) for run_id, config in planned.items()])
    runs = runs.assign(variant=_variants(list(planned.values())), context=_contexts(list(planned.values())))
    rows_of = {run_id: run.rows for run_id, run in found.items()}
    history, unreadable = history_of(runs, rows_of, folder if cached else None)
    damage = zip(runs["damage"], runs["run_id"].map(unreadable), strict=True)
    runs["damage"] = ["; ".join(text for text in texts if isinstance(text, str) and text) for texts in damage]
    protocols = {run_id: run.protocol for run_id, run in found.items() if run.protocol}
    for name, scores in _of_protocols(runs, protocols).items():
        runs[name] = runs["run_id"].map(scores).astype(float)
        runs[name] = runs[name].fillna(runs.groupby("context")[name].transform("median"))  # of runs without a protocol
    runs["classes"] = runs["classes"].fillna(runs["dataset"].map(classes_of)).astype(int)
    terms = terms_of((config.dataset, config.judge) for config in plan.configs)
    samples = {run_id: run.samples for run_id, run in found.items() if run.samples}
    real = {config.data_name: found[run_id].real for run_id, config in planned.items() if found[run_id].real}
    context_of = dict(zip(map(_context_key, plan.configs), runs["context"], strict=True))
    primary = {name: context_of[contexts_of(plan.configs, fields)[0]] for name, fields in plan.primary.items()}
    return Study(
        plan.name, plan.description, folder, runs, _by_quality(history, runs), _account(runs), extra, protocols,
        folder.parent / "bench", samples, terms=terms, found=found, plan=plan.text, primary=primary, real=real,
    )  # fmt: skip


def _of_protocols(runs: pd.DataFrame, protocols: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Column -> run id -> what the run's protocol says of it."""
    sampler = {run_id: protocol.get("trivial_sampler") or {} for run_id, protocol in protocols.items()}
    alone = set(_by_pixels_alone(runs)["run_id"])
    pixels = {run_id: scores.get("fd_pixels") for run_id, scores in sampler.items()}
    others = {run_id: protocol.get("trivial_fd") for run_id, protocol in protocols.items()}
    classes = {run_id: protocol.get("n_classes") for run_id, protocol in protocols.items()}
    return {
        "trivial_fd": {run_id: pixels[run_id] if run_id in alone else score for run_id, score in others.items()},
        "trivial_fd_pixels": {run_id: score for run_id, score in pixels.items() if run_id not in alone},
        "classes": {run_id: n for run_id, n in classes.items() if isinstance(n, int | float) and n >= 0},
    }


def _by_pixels_alone(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["judge"].map(sight_of) == "pixels"] if "judge" in runs else runs[:0]


def _by_quality(history: pd.DataFrame, runs: pd.DataFrame, back: bool = False) -> pd.DataFrame:
    """The rows with the quality of runs that are judged by their pixels alone as `eval/fd`, or `back`."""
    old, new = ("eval/fd", "eval/fd_pixels") if back else ("eval/fd_pixels", "eval/fd")
    own = history["run_id"].isin(_by_pixels_alone(runs)["run_id"])
    if old not in history or not history.loc[own, old].notna().any():
        return history
    history = history.copy()
    moved = history[old].where(own, history[new] if new in history else float("nan"))
    rest = history[old].mask(own)
    history = history.drop(columns=old).assign(**{new: moved}, **({old: rest} if rest.notna().any() else {}))
    metrics = sorted(name for name in history if "/" in name)
    return history[[*(name for name in history if "/" not in name), *metrics]]


def seen_differently(study: Study) -> list[str]:
    """By what each context is judged, if not all by the same: a sentence without its full stop, or none."""
    names = {str(context): study.terms_in(str(context)).quality for context in study.runs["context"].unique()}
    if len(set(names.values())) == 1:
        return []
    said = "; ".join(f"{context} by {name}" for context, name in names.items())
    return [f"not all contexts are judged by the same quality ({said}); where they stand together it is called fd"]


def as_recorded(study: Study) -> pd.DataFrame:
    """The study's rows with the names under which they were recorded."""
    return _by_quality(study.history, study.runs, back=True)


def _context_key(config: RunConfig) -> tuple[Any, ...]:
    return contexts_of([config], {})[0]


def sound(study: Study) -> Study:
    """Without the rows of runs that ended and have other metrics than they ended with: no result is made of them.

    Nor of those whose status was damaged, so that it is unknown whether they ended. What a killed or failed run left
    stays, as far as it is readable. `warnings` name what is left out.
    """
    runs = study.runs
    unknown = [run_id for run_id, found in study.found.items() if "damaged" in found.status]
    changed = runs[(runs["state"].isin(RESULTS) | runs["run_id"].isin(unknown)) & (runs["damage"] != "")]
    kept = study.history[~study.history["run_id"].isin(changed["run_id"])].reset_index(drop=True)
    named = [f"{run.run_id} ({run.damage})" for run in changed.itertuples()]
    line = f"no number is taken from {len(named)} of the results: {listed(named)}"
    return replace(study, history=kept, warnings=[*study.warnings, *([line] if named else [])])


def in_double(study: Study) -> Study:
    """With the history in double precision, in which statistics are computed; most of it is stored in single."""
    single = study.history.select_dtypes("float32").columns
    return replace(study, history=study.history.astype(dict.fromkeys(single, float)))


def reference_version(statuses: Iterable[Mapping[str, Any]]) -> Any:
    """The version of the training code whose results a study is made of: this program's if it has any.

    Else that of the most results, of equally many the latest. None if they do not say theirs.
    """
    versions = Counter(status.get("training_version") for status in statuses if status["state"] in _ENDED)
    if TRAINING_VERSION in versions or not versions:
        return TRAINING_VERSION
    return max(versions, key=lambda version: (versions[version], version or 0))


def of_one_version(study: Study) -> Study:
    """Without the results of other versions of the training code than `reference_version`: as if they were missing.

    Their rows are left out, and `warnings` name them.
    """
    if study.foreign:
        return study
    runs, sound_ones = study.runs, (found.status for found in study.found.values() if not found.damage)
    reference = reference_version(sound_ones)
    others = runs["state"].isin(_ENDED) & (runs["training_version"].fillna(0) != (reference or 0))
    others &= runs["damage"] == ""  # of which the version is as doubtful as all else, and which count for nothing
    lines = []
    if reference not in (None, TRAINING_VERSION):
        lines.append(f"all results are of version {reference} of the training code, this program is {TRAINING_VERSION}")
    if not others.any():
        return replace(study, warnings=[*study.warnings, *lines])
    runs = runs.copy()
    out = study.runs[others]
    for version, of in out.groupby(out["training_version"].fillna(0).astype(int)):
        reason = f"of version {version or 'unknown'} of the training code, not {reference or 'unknown'}"
        runs.loc[of.index, "error"] = [f"{state}, but {reason}" for state in of["state"]]
        results = "1 result is" if len(of) == 1 else f"{len(of)} results are"
        them = "it" if len(of) == 1 else "them"
        lines.append(f"{results} {reason}, and left out; --mixed takes {them} too: {listed(list(of['run_id']))}")
    runs.loc[others, "state"], ids = "missing", set(out["run_id"])
    return replace(
        study,
        runs=runs,
        history=study.history[~study.history["run_id"].isin(ids)].reset_index(drop=True),
        account=_account(runs),
        protocols={run_id: protocol for run_id, protocol in study.protocols.items() if run_id not in ids},
        samples={run_id: grids for run_id, grids in study.samples.items() if run_id not in ids},
        warnings=[*study.warnings, *lines],
    )


def _account(runs: pd.DataFrame) -> pd.Series:
    return runs["state"].value_counts().reindex(STATES, fill_value=0).rename("runs")


def _run(config: RunConfig, found: Found) -> dict[str, Any]:
    status = found.status
    attempt = status["attempts"][-1] if status["attempts"] else {}
    row = {"run_id": config.run_id, "state": str(status["state"]), "step": status["step"], "error": status.get("error")}
    row |= config.identity() | {"data_name": config.data_name, "damage": found.damage}
    row |= {name: attempt.get(name) for name in ("device", "device_name", "threads", "torch")}
    first = status["attempts"][0] if status["attempts"] else {}
    row |= {"started_at": first.get("started"), "ended_at": attempt.get("ended")}
    row |= {"wall_seconds": spent(status, "wall_seconds") or None, "exact": attempt.get("exact")}
    row |= {
        name: status.get(name)
        for name in ("git_commit", "git_tree", "git_dirty", "training_version", "wandb_url", "metrics_sha256")
    }
    return row | {"attempts": len(status["attempts"])}


def _variants(configs: list[RunConfig]) -> list[str]:
    """The arm, with the values of those of its parameters that differ between the study's runs of that arm."""
    arms = dict.fromkeys(config.arm for config in configs)
    differing = _differing(configs, lambda config: config.arm, {arm: list(ARM_FIELDS) for arm in arms})
    return [_label(config.arm, config, differing[config.arm]) for config in configs]


def _contexts(configs: list[RunConfig]) -> list[str]:
    """By what differs within the study: `lr 0.001`, `mnist, setting C`. Of one context the data set and the setting.

    The optimizer's settings by their letters if each has one, else by their values that differ; the judge if samples
    are not seen by the same kind of thing in all of them. Of a user's own images the start of their digest.
    """
    lettered = all(config.setting != "custom" for config in configs)
    alone = len({_context_key(config) for config in configs}) == 1
    several = len({config.data_name for config in configs}) > 1
    sights = len({sight_of(config.judge) for config in configs}) > 1
    shown = lettered and (alone or len({config.setting for config in configs}) > 1)

    def start(config: RunConfig) -> str:
        words = [config.data_name] if several or alone else []
        words += [f"judge {config.judge}"] if sights else []
        return ", ".join([*words, *([f"setting {config.setting}"] if shown else [])])

    names = [name for name in CONTEXT_FIELDS if name not in ("dataset", "data_sha256", "setting")]
    differing = _differing(configs, start, dict.fromkeys(map(start, configs), names))
    return [_label(start(config), config, differing[start(config)]) for config in configs]


def _differing(
    configs: list[RunConfig], group: Callable[[RunConfig], str], fields: dict[str, list[str]]
) -> dict[str, list[str]]:
    """Of each group those of its fields that have several values among its configurations."""
    values: dict[tuple[str, str], set[Any]] = {}
    for config in configs:
        of = group(config)
        for name in fields[of]:
            value = getattr(config, name)
            own = getattr(ARCHITECTURES[config.architecture], name, None)  # what the networks' row says needs no word
            values.setdefault((of, name), set()).add(None if value == own else value)
    return {of: [name for name in names if len(values[of, name]) > 1] for of, names in fields.items()}


def _label(start: str, config: RunConfig, names: list[str]) -> str:
    return ", ".join([*([start] if start else []), *(f"{name} {getattr(config, name)}" for name in names)])
