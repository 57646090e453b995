"""Histories and studies with a known truth, without training: for statistics, claims and benchmarks of the analysis."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from analysis.study import ATTEMPT, STATES, Study
from experiments.record import Record, to_json
from experiments.study import read
from sngan.architectures import layer_names
from sngan.arms import ARMS
from sngan.config import RunConfig

TRIVIAL = 40.0
_NOT_SAID = dict.fromkeys((*ATTEMPT, "started_at", "ended_at", "error"))


def run_history(
    arm: str, seed: int, truth: Mapping[str, float], steps: int = 3000, every: int = 100, draw: int = 0
) -> pd.DataFrame:
    """Rows of a run: losses and gradients of a steady training, and what `truth` says of its end.

    `truth`: fd (at the end), fd_sd (of its logarithm over seeds, besides 0.1 that arms share), late (log change of fd
    over the last quarter), sigma, sigma_conv, growth (log, of the raw weights), sigma_growth (log, of the used ones),
    steepness (log, of dD/dx), spikes (share of rows), vanishing (share), coverage, modes, failure (probability of
    collapse), slow (how many times later it learns).
    """
    of_seed, own = np.random.default_rng(seed), np.random.default_rng([seed, zlib.crc32(arm.encode()), draw])
    shared = 0.1 * of_seed.standard_normal()
    step = np.arange(0, steps + 1, every)
    n, t = len(step), step / steps
    z = own.standard_normal(8)
    rows = pd.DataFrame({"step": step, "d_updates": step, "images_seen": 16 * step})
    for name, level in (("loss/d", 0.6), ("loss/g", 0.9)):
        rows[name] = level * (1 + 0.02 * own.standard_normal(n))
    rows.loc[0, ["loss/d", "loss/g"]] = np.nan
    norm = 1 + 0.05 * own.standard_normal(n)
    norm[own.random(n) < truth.get("vanishing", 0)] = 1e-3
    rows["grad_norm/g"] = norm
    rows["grad_norm/g_max"] = norm * np.where(own.random(n) < truth.get("spikes", 0), 9.0, 1.1)
    grown = 1 + 0.02 * z[0]
    for layer in layer_names(RunConfig().architecture):
        rows[f"sigma/{layer}"] = truth.get("sigma", 1.0) * np.exp(truth.get("sigma_growth", 0.0) * grown * (t - 1))
        rows[f"sigma_raw/{layer}"] = rows[f"sigma/{layer}"]
        rows[f"weight_norm/{layer}"] = np.exp(truth.get("growth", 0.0) * grown * t)
        rows[f"sigma_conv/{layer}"] = truth.get("sigma_conv", 1.0) * (1 + 0.1 * t + 0.01 * z[1])
    rows["lipschitz/product"] = 10.0
    rows["lipschitz/empirical"] = truth.get("tightness", 0.2) * 10 * np.exp(truth.get("steepness", 0.0) + 0.02 * z[2])
    fd = np.exp(np.log(truth.get("fd", 10.0)) + shared + truth.get("fd_sd", 0.1) * z[3])
    curve = fd + (90 - fd) * np.exp(-12 * t / truth.get("slow", 1.0))
    curve = curve * np.exp((truth.get("late", 0.0) + 0.02 * z[6]) * (t > 0.75))
    if own.random() < truth.get("failure", 0):
        curve[-6:] = 4 * fd
    rows["eval/fd"] = curve
    rows["eval/kd"] = curve / 50
    rows["eval/effective_modes"] = np.minimum(truth.get("modes", 8.5) + 0.05 * z[4], 10)
    rows["eval/mode_kl"], rows["eval/diversity"] = 0.05, 0.9
    rows["eval/coverage"] = truth.get("coverage", 0.5) + 0.02 * z[5]
    rows["eval/modes"] = 10.0
    return rows


def study(
    folder: Path, truths: Mapping[str, Mapping[str, float]], seeds: int = 20, dataset: str = "mnist",
    settings: Mapping[str, float] | None = None,
) -> Study:  # fmt: skip
    """A study of these arms in memory; `settings`: name -> factor on fd of all arms but sn's.

    An arm may stand there with a parameter: `sn, n_power_iterations 2`.
    """
    runs, histories = [], []
    for setting, factor in (settings or {"C": 1.0}).items():
        for variant, truth in truths.items():
            arm, *parameters = variant.split(", ")
            given = {name: json.loads(value) for name, value in (of.split(" ") for of in parameters)}
            for seed in range(seeds):
                config = RunConfig(dataset=dataset, arm=arm, seed=seed, setting=setting, steps=3000, **given)  # type: ignore[arg-type]
                own = {**truth, "fd": truth.get("fd", 10.0) * (1.0 if arm == "sn" else factor)}
                keys = {"run_id": config.run_id, "dataset": dataset, "arm": arm, "setting": setting, "seed": seed,
                        "variant": variant, "context": f"{dataset}, setting {setting}"}  # fmt: skip
                of_variant = int.from_bytes(variant.encode(), "big") % 2**32 if given else 0
                histories.append(run_history(arm, seed, own, draw=of_variant).assign(**keys))
                runs.append({**config.identity(), **keys, **_NOT_SAID, "state": "finished", "step": 3000, "damage": "",
                             "attempts": 1, "trivial_fd": TRIVIAL, "trivial_fd_pixels": np.nan})  # fmt: skip
    frame = pd.DataFrame(runs)
    account = frame["state"].value_counts().reindex(STATES, fill_value=0)
    return Study("synthetic", "", folder, frame, pd.concat(histories, ignore_index=True), account, [],
                 bench=folder.parent / "bench")  # fmt: skip


VARIANTS: tuple[tuple[str, dict[str, float]], ...] = (
    *((arm, {}) for arm in ("dcgan", "sn_dcgan", "plain")),
    *(("sn", {"n_power_iterations": n}) for n in (1, 2, 5)),
    *((arm, {"penalty_weight": weight}) for arm in ("penalty_dcgan", "penalty") for weight in (0.01, 0.1)),
)
"""Arms with their parameters, of a simulated study"""


@dataclass(frozen=True)
class Truth:
    """Of an arm in a simulated study: centres over seeds, spreads, and what share of its runs fails."""

    fd: float = 10.0
    fd_sd: float = 0.3
    failure: float = 0.2
    late: float = 0.0
    healthy_step: float = 1000.0
    spikes: float = 4.0
    p1: float = -1.0
    modes: float = 8.0
    coverage: float = 0.5
    sigma_share: float = 0.05
    sigma_growth: float = float(np.log(1.1))
    sigma_max: float = 0.5
    steepness: float = 0.0
    growth: float = 0.3


def outcomes(
    rng: np.random.Generator, seeds: int, truths: Callable[[str, Mapping[str, float], int], Truth],
    contexts: int = 2, degrees: float = 3.0, correlation: float = 0.3, dataset: str = "mnist",
) -> pd.DataFrame:  # fmt: skip
    """The statistics of a simulated study's runs, as `claims.judge_runs` reads them; no history is made.

    `truths(arm, parameters, context)`: what is true of its runs. Contexts differ in the learning rate. Noise is
    Student's t of the degrees, scaled to unit variance, and the arms of a seed share a part of it. Of the runs that
    fail a third diverges, a third collapses (fd x 4, few modes) and a third never learns.
    """
    scale = np.sqrt(degrees / (degrees - 2))
    varied = sorted({name for _, parameters in VARIANTS for name in parameters})
    frames = []
    for context in range(contexts):
        shared = rng.standard_t(degrees, (len(fields(Truth)) + 2, seeds)) / scale
        for arm, parameters in VARIANTS:
            of = truths(arm, parameters, context)
            own = rng.standard_t(degrees, shared.shape) / scale
            z = iter(np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own)
            share = stats.t.cdf(next(z) * scale, degrees)
            failed = share < of.failure
            kind = np.where(failed, rng.integers(3, size=seeds), -1)  # diverged, collapsed, never learned
            ended, collapsed, never = kind != 0, kind == 1, kind == 2
            log_q = np.log(of.fd) + of.fd_sd * next(z)
            log_q = np.where(never, np.log(0.8 * TRIVIAL) + 0.05 * next(z), log_q + np.log(4) * collapsed)
            modes = np.clip(of.modes + 0.5 * next(z), 1, 10) * np.where(collapsed | never, 0.3, 1)
            spikes = rng.poisson(of.spikes * np.exp(0.3 * next(z)))
            frames.append(
                pd.DataFrame({
                    "dataset": dataset, "context": f"{dataset}, lr {context}", "lr": 0.001 * (context + 1),
                    "setting": "custom", "arm": arm, "seed": np.arange(seeds), "state": "finished",
                    "trivial_fd": TRIVIAL, **{name: (ARMS[arm].parameters | parameters).get(name) for name in varied},
                    "ended": ended, "failure": failed, "healthy_end": ~failed,
                    "healthy_step": np.where(never, np.nan, of.healthy_step * np.exp(0.3 * next(z))),
                    "log_q_end": np.where(ended, log_q, np.nan),
                    "gain": np.where(ended, np.maximum(0, np.log(TRIVIAL) - log_q), 0.0),
                    "late_change": of.late + 0.1 * next(z), "grad_g_spikes": spikes,
                    "grad_g_p1": of.p1 + 0.3 * next(z), "effective_modes_low": modes, "effective_modes_end": modes,
                    "modes_end": np.clip(np.round(100 * modes), 0, 1000),
                    "coverage_end": of.coverage + 0.05 * next(z),
                    "sigma_share": of.sigma_share + 0.02 * next(z), "sigma_growth": of.sigma_growth + 0.2 * next(z),
                    "sigma_max": of.sigma_max + 0.2 * next(z), "grad_x_p99_late": of.steepness + 0.3 * next(z),
                    "weight_growth": of.growth + 0.1 * next(z),
                })
            )  # fmt: skip
    frame = pd.concat(frames, ignore_index=True)
    return frame.assign(run_id=frame.index.astype(str))


def write_records(folder: Path, runs: int, rows: int, keys: int = 40, steps: int = 20_000) -> Path:
    """A study's folder with finished runs of the six arms, as many rows each and keys a row; returns it."""
    folder.mkdir(parents=True)
    arms = [arm for arm in ARMS if arm in dict(VARIANTS)]
    per_arm = -(-runs // len(arms))
    grid = {
        "dataset": ["mnist"],
        "arm": arms,
        "seed": list(range(per_arm)),
        "steps": [steps],
        "log_every": [steps // rows],
    }
    lines = [f"name: {folder.name}", "method: grid", "parameters:"]
    lines += [f"  {name}: {{values: {json.dumps(values)}}}" for name, values in grid.items()]
    (folder / "study.yaml").write_text("\n".join(lines) + "\n")
    for config in read(folder / "study.yaml").configs[:runs]:
        truth = {"fd": 8.0 + 4 * (config.arm == "plain"), "fd_sd": 0.2, "failure": 0.1}
        history = run_history(config.arm, config.seed, truth, steps, steps // rows)
        for i in range(keys - history.shape[1] + 1):
            history[f"grad_x/extra{i}"] = np.round(np.random.default_rng(i).random(len(history)), 6)
        evaluated = history["step"] % (steps // 20) == 0
        history.loc[~evaluated, [name for name in history if name.startswith("eval/")]] = np.nan
        record = Record(folder / config.run_id)
        record.start_over(config)
        text = "\n".join(to_json({k: v for k, v in row.items() if v == v}) for row in history.to_dict("records")) + "\n"
        record.metrics_path.write_text(text)
        record.write_protocol({"trivial_fd": TRIVIAL, "n_fake": 2000})
        record.write_status({"state": "finished", "step": steps, "error": None, "attempts": [{"wall_seconds": 1.0}],
                             "metrics_sha256": record.metrics_sha256()})  # fmt: skip
    return folder
