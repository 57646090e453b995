"""Histories and studies with a known truth, without training: for statistics, claims and benchmarks of the analysis."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.load import Study
from experiments.record import Record, to_json
from experiments.study import read
from sngan.config import ARMS, RunConfig

TRIVIAL = 40.0
LAYERS = ("conv1", "conv2", "conv3")


def run_history(arm: str, seed: int, truth: Mapping[str, float], steps: int = 3000, every: int = 100) -> pd.DataFrame:
    """Rows of a run: losses and gradients of a steady training, and what `truth` says of its end.

    `truth`: fd (at the end), fd_sd (of its logarithm over seeds, besides 0.1 that arms share), sigma, sigma_conv,
    growth (log, of the raw weights), sigma_growth (log, of the used ones), spikes (share of rows), vanishing (share),
    coverage, modes, failure (probability of collapse).
    """
    of_seed, own = np.random.default_rng(seed), np.random.default_rng([seed, sorted(ARMS).index(arm)])
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
    for layer in LAYERS:
        rows[f"sigma/{layer}"] = truth.get("sigma", 1.0) * np.exp(truth.get("sigma_growth", 0.0) * grown * (t - 1))
        rows[f"sigma_raw/{layer}"] = rows[f"sigma/{layer}"]
        rows[f"weight_norm/{layer}"] = np.exp(truth.get("growth", 0.0) * grown * t)
        rows[f"sigma_conv/{layer}"] = truth.get("sigma_conv", 1.0) * (1 + 0.1 * t + 0.01 * z[1])
    rows["lipschitz/product"] = 10.0
    rows["lipschitz/empirical"] = truth.get("tightness", 0.2) * 10 * np.exp(0.02 * z[2])
    fd = np.exp(np.log(truth.get("fd", 10.0)) + shared + truth.get("fd_sd", 0.1) * z[3])
    curve = fd + (90 - fd) * np.exp(-12 * t)
    if own.random() < truth.get("failure", 0):
        curve[-6:] = 4 * fd
    rows["eval/fd"] = curve
    rows["eval/kd"] = curve / 50
    rows["eval/effective_modes"] = np.minimum(truth.get("modes", 9.0) + 0.05 * z[4], 10)
    rows["eval/mode_kl"], rows["eval/diversity"] = 0.05, 0.9
    rows["eval/coverage"] = truth.get("coverage", 0.5) + 0.02 * z[5]
    rows["eval/modes"] = 10.0
    return rows


def study(
    folder: Path, truths: Mapping[str, Mapping[str, float]], seeds: int = 20, dataset: str = "mnist",
    settings: Mapping[str, float] | None = None,
) -> Study:  # fmt: skip
    """A study of these arms in memory; `settings`: name -> factor on fd of all arms but sn's."""
    runs, histories = [], []
    for setting, factor in (settings or {"C": 1.0}).items():
        for arm, truth in truths.items():
            for seed in range(seeds):
                config = RunConfig(dataset=dataset, arm=arm, seed=seed, setting=setting, steps=3000)  # type: ignore[arg-type]
                own = {**truth, "fd": truth.get("fd", 10.0) * (1.0 if arm == "sn" else factor)}
                keys = {"run_id": config.run_id, "dataset": dataset, "arm": arm, "setting": setting, "seed": seed,
                        "variant": arm, "context": f"{dataset}, setting {setting}"}  # fmt: skip
                histories.append(run_history(arm, seed, own).assign(**keys))
                runs.append({**keys, "state": "finished", "step": 3000, "error": None, "damage": "",
                             "trivial_fd": TRIVIAL})  # fmt: skip
    frame = pd.DataFrame(runs)
    account = frame["state"].value_counts()
    return Study("synthetic", "", folder, frame, pd.concat(histories, ignore_index=True), account, [],
                 bench=folder.parent / "bench")  # fmt: skip


def write_records(folder: Path, runs: int, rows: int, keys: int = 40, steps: int = 20_000) -> Path:
    """A study's folder with finished runs of the six arms, as many rows each and keys a row; returns it."""
    folder.mkdir(parents=True)
    per_arm = -(-runs // len(ARMS))
    grid = {
        "dataset": ["mnist"],
        "arm": list(ARMS),
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
