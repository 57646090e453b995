"""What a study plans and what is on disk: the tables of `sngan plan` and `sngan status`. Imports no torch."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.console import Group
from rich.live import Live
from rich.table import Column, Table

from experiments.display import Console, duration
from experiments.ledger import NOTHING, Kept, Ledger, contradict, said, same_bits
from experiments.record import (
    FROZEN,
    RESULTS,
    Record,
    State,
    recorded_configs,
    run_folders,
    runs_root,
    shown_state,
    spent,
    to_json,
)
from experiments.study import Study
from sngan.architectures import YARDSTICK, discriminator, generator, sized
from sngan.config import TRAINING_VERSION, RunConfig, unused_parameters
from sngan.datasets import DATASETS

_WORDS, _WORD = ("about", "reason"), 8  # columns of a table that may take several lines; the least of a word's width
_WATCHED = (State.RUNNING, State.FAILED, State.INTERRUPTED)

# One thread of a 2-core AMD EPYC with AVX-512, two workers at once: 35 ms at 2.1 GFLOP, 101 ms at 8.4 GFLOP per step.
_SECONDS_A_STEP, _SECONDS_A_GFLOP = 0.012, 0.0107
_SECONDS_A_PAIR = 6e-8  # of samples whose features are compared in an evaluation
_INCEPTION = 5_700_000_000  # multiplications for one image


def plan(study: Study, runs_dir: str, as_json: bool, frozen: Ledger = NOTHING) -> int:
    """Print the study's runs with state and estimated time on one CPU core. Starts nothing. Returns 0."""
    folder = runs_root(runs_dir) / study.name
    records = {config.run_id: Record(folder / config.run_id) for config in study.configs}
    statuses = {run_id: record.status() for run_id, record in records.items()}
    states = {run_id: shown_state(found, run_id in frozen.runs) for run_id, found in statuses.items()}
    measured = _measured(study, statuses, frozen)
    costs = {c.run_id: measured.get(_but_for_the_seed(c.identity())) or _estimated(c) for c in study.configs}
    seconds = {run_id: cost.seconds for run_id, cost in costs.items()}
    evaluation_share = sum(cost.evaluation_seconds for cost in costs.values()) / sum(seconds.values())
    ended = (*RESULTS, State.FAILED, FROZEN)
    left = sum(seconds[run_id] for run_id, state in states.items() if state not in ended)
    extra = _extra(study, folder)
    if as_json:
        runs = [
            {
                "run_id": c.run_id,
                "state": states[c.run_id],
                "frozen": c.run_id in frozen.runs,
                "estimated_seconds": seconds[c.run_id],
                "evaluation_seconds": costs[c.run_id].evaluation_seconds,
                **c.identity(),
            }
            for c in study.configs
        ]
        summary = {"study": study.name, "cells": study.cells, "states": Counter(states.values())}
        summary |= {"frozen": len(frozen.runs), "records": str(folder), "notes": list(frozen.notes)}
        summary |= {"core_seconds_left": left, "evaluation_share": evaluation_share}
        print(to_json(summary | {"runs": runs, "extra": extra}, indent=2))
        return 0
    varying = _varying(study.configs)
    table = runs_table(states, *varying, "steps", "about", "state")
    for c in study.configs:
        unused = unused_parameters(c)
        cells = ["" if name in unused else str(getattr(c, name)) for name in varying]
        state = _in_words(states[c.run_id], c.run_id in frozen.runs)
        table.add_row(c.run_id, *cells, f"{c.steps:,}", duration(seconds[c.run_id]), state)
    console = to_stdout()
    console.print(study.description, soft_wrap=not console.is_terminal)  # a terminal would break words
    console.print(fitted(table))
    console.print(_summary(study, states))
    console.print(f"about {duration(left)} of one CPU core left ({_basis(measured)})")
    console.print(f"evaluation of samples: about {evaluation_share:.1%} of the time")
    console.print(f"recorded under: {folder}")
    _print_notes(console, extra, statuses.values(), frozen)
    return 0


def status(
    study: Study, given: str, runs_dir: str, as_json: bool, frozen: Ledger = NOTHING, options: Sequence[str] = (),
    listed: Container[str] = (*State, FROZEN),
) -> int:  # fmt: skip
    """Print the account of runs: state, step and reason of those in a state `listed`, what to do next. Returns 0.

    `given` is the study as the user named it, and `options` are those given beside, for the commands that are shown.
    """
    folder = runs_root(runs_dir) / study.name
    launch = command("sweep", given, runs_dir, options)
    runs, statuses = [], []
    for c in study.configs:
        record = Record(folder / c.run_id)
        statuses.append(found := record.status())
        runs.append(_told(c, record, found, frozen.runs.get(c.run_id), launch))
    states = {run["run_id"]: run["state"] for run in runs}
    extra = _extra(study, folder)
    if as_json:
        account = {state: list(states.values()).count(state) for state in (*State, FROZEN)}
        summary = {"study": study.name, "account": account, "frozen": len(frozen.runs), "notes": list(frozen.notes)}
        shown = [run for run in runs if run["state"] in listed]
        print(to_json(summary | {"runs": shown, "extra": extra}, indent=2))
        return 0
    console = to_stdout()
    if any(state in listed for state in states.values()):
        console.print(_listing([run for run in runs if run["state"] in listed]))
    console.print(_summary(study, states))
    for (state, what), number in Counter((run["state"], run["next"]) for run in runs if run["next"]).items():
        console.print(f"{number} {state}: {what}")
    _print_notes(console, extra, statuses, frozen)
    return 0


def _listing(runs: Sequence[Mapping[str, Any]]) -> Table:
    table = runs_table([run["run_id"] for run in runs], "state", "step", "of", "reason")
    for run in runs:
        state = _in_words(run["state"], run["frozen"])
        step = "" if run["step"] is None else f"{run['step']:,}"
        table.add_row(run["run_id"], state, step, f"{run['steps']:,}", run["error"] or "")
    return fitted(table)


def watch(study: Study, runs_dir: str, frozen: Ledger, every: float = 2.0) -> None:
    """Show the runs that are running, failed or interrupted, and how many are in each state, until all have ended.

    On a terminal the table is refreshed in place; elsewhere a line is printed whenever the numbers change.
    """
    folder, console, said = runs_root(runs_dir) / study.name, to_stdout(), ""
    with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        while True:
            found = [(c, record := Record(folder / c.run_id), record.status()) for c in study.configs]
            states = {c.run_id: shown_state(status, c.run_id in frozen.runs) for c, _, status in found}
            summary = _summary(study, states)
            shown = [_told(*of, frozen.runs.get(of[0].run_id), "") for of in found if states[of[0].run_id] in _WATCHED]
            if live:
                live.update(Group(summary, _listing(shown) if shown else ""), refresh=True)
            elif summary != said:
                console.print(summary)
            said = summary
            if all(state in (*RESULTS, State.FAILED, FROZEN) for state in states.values()):
                return
            time.sleep(every)


def _told(config: RunConfig, record: Record, found: dict[str, Any], kept: Kept | None, launch: str) -> dict[str, Any]:
    """What status says of a run; of a frozen one without a result here no more than that."""
    state = shown_state(found, kept is not None)
    run = {"run_id": config.run_id, "state": state, "frozen": kept is not None}
    if kept and state == FROZEN:
        beside = "" if found["state"] is State.MISSING else f"{found['state']} here at step {found['step']:,}"
        # nothing that tells how it ended
        return run | {"step": None, "steps": config.steps, "error": beside or None, "attempts": None, "next": None}
    damage, other = record.damage(found), ""
    if kept and found["state"].is_result and not damage and not same_bits(kept.status, found):
        how = "which this one contradicts" if contradict(kept.status, found) else "which counts"
        other = f"another result is frozen in {kept.folder} ({said(kept.status)}), {how}"
    reason = "; ".join(filter(None, (found.get("error"), damage, other)))
    run |= {"step": found["step"], "steps": config.steps, "error": reason or None, "attempts": len(found["attempts"])}
    return run | {"next": None if kept else _next(record, found, damage, launch)}


def _in_words(state: str, is_frozen: bool) -> str:
    return f"{state}, {FROZEN}" if is_frozen and state != FROZEN else state


def command(name: str, study: str, runs_dir: str, options: Sequence[str] = ()) -> str:
    """`sngan name study`, as it is typed, for the same runs."""
    return shlex.join(["sngan", name, study, *options, *(["--runs-dir", runs_dir] if runs_dir else [])])


def _next(record: Record, found: dict[str, Any], damage: str, launch: str) -> str | None:
    """What to do about a run with this status, or nothing."""
    state = found["state"]
    if "damaged" in found and state == State.INTERRUPTED:
        return f"{launch} writes its status again, from the final weights if it has ended, and else resumes the run"
    if (
        state == State.INTERRUPTED
        and found.get("training_version") != TRAINING_VERSION
        and os.path.exists(record.checkpoint_path)
    ):
        return (
            f"begun with other training code (version {found.get('training_version')}, this is {TRAINING_VERSION}): "
            f"resume all the same with {launch} --force, or move the folder out of the study to train from the start"
        )
    if state.is_result and (version := found.get("training_version")) not in (None, TRAINING_VERSION) and not damage:
        return (
            f"of version {version} of the training code, and a report of version {TRAINING_VERSION} leaves it out, "
            f"unless --mixed; if you move its folder out of the study, {launch} trains it again"
        )
    if damage:
        return f"it does not count as a result; move its folder out of the study, and {launch} trains it from the start"
    if state in (State.MISSING, State.INTERRUPTED):
        return f"{'start' if state == State.MISSING else 'resume'} with {launch}"
    return f"retry with {launch} --retry failed" if state == State.FAILED else None


def step_flop(config: RunConfig) -> float:
    """Floating point operations that one step needs, from the multiplications of G and D.

    As convolutions are defined: `sngan.convolutions.toom_cook` needs fewer.
    """
    g_products = _g_products(config)
    d_layers = discriminator(config.architecture, config.channels, config.d_width)
    d_products = sum(layer.multiplications for layer in d_layers)
    # a backward pass costs two forward passes; the G step differentiates D's input only
    passes_g, passes_d = config.n_dis + 3, 6 * config.n_dis + 2
    return 2.0 * config.batch_size * (passes_g * g_products + passes_d * d_products)


def _g_products(config: RunConfig) -> int:
    """Multiplications of G for one image."""
    layers = generator(config.architecture, config.z_dim, config.channels, config.g_width)
    return sum(layer.multiplications for layer in layers)


def evaluation_flop(config: RunConfig) -> float:
    """Floating point operations of the networks in one evaluation: G's and the yardstick's."""
    return 2.0 * config.n_fake * (_g_products(config) + _judging(config))


def _judging(config: RunConfig) -> int:
    """Multiplications of what judges samples, for one image."""
    if config.judge == "pixels":
        return 0
    if config.judge == "inception":
        return _INCEPTION
    judge = DATASETS.get(config.judge, config.row)  # a classifier of the images' own labels sees them as they are
    yardstick = sized(YARDSTICK, judge.channels, judge.side, width=1, logits=judge.classes or 1)
    return config.row.judged_channels * sum(layer.multiplications for layer in yardstick)


def evaluation_seconds(config: RunConfig) -> float:
    """A rough time of one evaluation on one CPU core."""
    # channels that are judged one by one have as many features each, and Inception has 2,048 for a yardstick's 64
    views = {"pixels": 0, "inception": 32}.get(config.judge, config.row.judged_channels)
    pairs = config.n_compared**2 * (1 + views) / 2
    return _SECONDS_A_GFLOP * evaluation_flop(config) / 1e9 + _SECONDS_A_PAIR * pairs


def step_seconds(config: RunConfig) -> float:
    """A rough step time on one CPU core."""
    return (1 + config.n_dis) / 2 * _SECONDS_A_STEP + _SECONDS_A_GFLOP * step_flop(config) / 1e9


class _Cost(NamedTuple):
    seconds: float  # of a whole run
    evaluation_seconds: float  # of those


def _estimated(config: RunConfig) -> _Cost:
    evaluating = len(config.evaluation_steps()) * evaluation_seconds(config)
    return _Cost(config.steps * step_seconds(config) + evaluating, evaluating)


def _measured(study: Study, statuses: dict[str, dict[str, Any]], frozen: Ledger) -> dict[str, _Cost]:
    """Medians over each cell's finished runs, here or else frozen, of whatever seeds."""
    runs = [(config.identity(), statuses[config.run_id]) for config in study.configs]
    kept = [run for run_id, run in frozen.runs.items() if not statuses[run_id]["state"].is_result]
    found: dict[str, list[_Cost]] = {}
    for identity, status in [*runs, *((run.identity, run.status) for run in (*kept, *frozen.beside))]:
        if status["state"] == State.FINISHED and (seconds := spent(status, "wall_seconds")):
            cost = _Cost(seconds, spent(status, "evaluation_seconds"))
            found.setdefault(_but_for_the_seed(identity), []).append(cost)
    return {cell: _Cost(*map(median, zip(*costs, strict=True))) for cell, costs in found.items()}


def _but_for_the_seed(identity: dict[str, Any]) -> str:
    return to_json({name: identity[name] for name in sorted(identity) if name != "seed"})


def _basis(measured: dict[str, _Cost]) -> str:
    return "from this study's finished runs if a cell has some" if measured else "a rough estimate before any run"


def _summary(study: Study, states: dict[str, str]) -> str:
    count = Counter(states.values())
    parts = ", ".join(f"{count[state]} {state}" for state in (*State, FROZEN) if count[state])
    return f"{study.cells} cells, {len(study.configs)} runs: {parts}"


def _varying(configs: list[RunConfig]) -> list[str]:
    """Identity fields that differ between the runs, beside those that the run's id shows."""
    shown = {"dataset", "arm", "setting", "seed", "steps", "n_evaluations"}
    identities = [c.identity() for c in configs]
    used = [set(i) - unused_parameters(c) for i, c in zip(identities, configs, strict=True)]
    fields = [name for name in identities[0] if name not in shown]
    return [n for n in fields if len({i[n] for i, u in zip(identities, used, strict=True) if n in u}) > 1]


def _extra(study: Study, folder: Path) -> list[dict[str, Any]]:
    """Runs on disk that are not in the study: shown, left out of everything, never deleted.

    `error`, if it cannot be told which run one was: why, such as a damaged configuration.
    """
    planned = {config.run_id for config in study.configs} | study.not_chosen
    extra = [record for record in run_folders(folder) if record.run_id not in planned]
    wrong = recorded_configs(folder)[1] if extra else {}
    return [
        {"run_id": record.run_id, "state": record.status()["state"]}
        | ({"error": wrong[record.run_id]} if record.run_id in wrong else {})
        for record in extra
    ]


def other_versions(statuses: Iterable[dict[str, Any]]) -> str:
    """A line on results of training code whose bits differ from this one's, or nothing."""
    over = [found.get("training_version") for found in statuses if found["state"] in RESULTS]
    others = [str(version or "unknown") for version in over if version != TRAINING_VERSION]
    if not others:
        return ""
    return (
        f"{len(others)} of {len(over)} results are of version {', '.join(sorted(set(others)))} of the training code, "
        f"this is {TRAINING_VERSION}: a report takes the results of one version, this one's if there are any, unless "
        "--mixed; arms with the same seed but different versions are paired only up to rounding"
    )


def _print_notes(
    console: Console, extra: list[dict[str, Any]], statuses: Iterable[dict[str, Any]], frozen: Ledger
) -> None:
    for folder, count in Counter(kept.folder for kept in frozen.runs.values()).items():
        console.print(f"frozen in {folder}: {count}")
    for note in frozen.notes:
        console.print(note)
    for run in extra:
        why = f": {run['error']}" if "error" in run else ""
        console.print(f"extra, not in the study: {run['run_id']} ({run['state']}){why}")
    if note := other_versions(statuses):
        console.print(note)


def runs_table(run_ids: Collection[str], *names: str) -> Table:
    """A narrow terminal folds every column but the run ids, which are there to be copied."""
    run = Column("run", min_width=max(map(len, run_ids)), no_wrap=True)
    return Table(run, *(Column(name, overflow="fold") for name in names), box=None, pad_edge=False)


def fitted(table: Table) -> Table:
    """Numbers and states stay whole as long as there is room: headings and words fold first."""
    for column in table.columns[1:]:
        cells = [str(cell) for cell in column.cells]
        if column.header in _WORDS:
            cells = [word[:_WORD] for cell in cells for word in cell.split()]
        column.min_width = max(map(len, cells), default=0)
    return table


def to_stdout() -> Console:
    return Console(
        highlight=False, markup=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200
    )
