"""Stand-ins for tests: tables of other programs, and an engine that starts no processes."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.sources.columns import Reading
from analysis.sources.table import read
from analysis.stability import summarize
from analysis.study import Found, Study, assemble
from analysis.synthetic import TRIVIAL, run_history
from experiments.engines.engine import Event, Job, train_job
from experiments.record import State
from experiments.study import Study as Plan
from sngan.config import TRAINING_VERSION, RunConfig
from sngan.quantities import EVALUATED, find, is_told

MAPPING = {"quality": "fid", "arm": "method", "loss": "d_loss", "step": "iteration"}


def some_table(seeds: int = 8, ratio: float = 0.5) -> pd.DataFrame:
    """Two methods, the second better by `ratio` at each step and seed; its last seed diverges."""
    random = np.random.default_rng(0)
    rows = []
    for seed in range(seeds):
        quality = 100 * np.exp(random.normal(0, 0.1, 12)).cumprod()
        for method, factor in (("base", 1.0), ("better, lr 1", ratio)):
            for i, fid in enumerate(quality * factor):
                lost = method != "base" and seed == seeds - 1 and i > 5
                rows.append({"method": method, "seed": seed, "iteration": 100 * i, "note": "x",
                             "fid": fid if i % 3 == 2 and not lost else math.nan,
                             "d_loss": math.nan if lost else 1.0})  # fmt: skip
    return pd.DataFrame(rows)


def summary_of(study: Study) -> pd.DataFrame:
    return summarize(study.history, study.runs, terms=study.terms)


def curve(quality: list[object], loss: list[object] | None = None, steps: list[int] | None = None) -> str:
    steps = steps or [100 * i for i in range(len(quality))]
    return "\n".join(f"a,0,{step},{q},{'' if loss is None else loss[i]}"
                     for i, (step, q) in enumerate(zip(steps, quality, strict=True)))  # fmt: skip


def results(better: float, arms: tuple[str, ...] = ("a", "b", "c"), sets: int = 1, n: int = 10) -> pd.DataFrame:
    """Scores around 1; of arm b and c more by `better`."""
    random = np.random.default_rng(3)
    table = pd.DataFrame([(arm, seed, f"d{i}") for i in range(sets) for arm in arms for seed in range(n)])
    score = 1 + 0.1 * random.normal(size=len(table)) + better * (table[0] != "a")
    return table.set_axis(["arm", "seed", "dataset"], axis=1).assign(score=score)


def read_text(folder: Path, text: str, name: str = "t.csv", **how: object) -> Study:
    path = folder / name
    path.write_text(text)
    return read(path, Reading(**how), folder / "out")  # type: ignore[arg-type]


def chart(metric: str = "FID", runs: tuple[str, ...] = ("dqn-seed1", "dqn-seed2", "ppo-seed1", "ppo-seed2")) -> str:
    """As W&B's page exports it: every run's metric with its limits, empty if only others have logged."""
    names = [f"{run} - {metric}{end}" for run in runs for end in ("", "__MIN", "__MAX")]
    lines = [",".join(f'"{name}"' for name in ["Step", *names])]
    for step in (0, 10, 20):
        cells = [f'"{step + i + 1}"' if (step + 10 * i) % 20 == 0 else '""' for i in range(len(runs)) for _ in range(3)]
        lines.append(",".join([f'"{step}"', *cells]))
    return "\n".join(lines)


OTHER = "\n".join(f"b,0,{100 * i},2,1" for i in range(10))
"""Of another run, which has every number in every row."""


class HereEngine:
    """Trains in this process, run after run: for tests of what a sweep chooses, not of how workers are kept."""

    retries_dead_workers = False

    def __init__(self, workers: int, devices: list[str]) -> None:
        self._jobs: list[Job] = []

    def has_capacity(self) -> bool:
        return not self._jobs

    def is_busy(self) -> bool:
        return bool(self._jobs)

    def submit(self, job: Job) -> None:
        self._jobs.append(job._replace(config=replace(job.config, device="cpu")))

    def poll(self, seconds: float) -> list[tuple[Job, Event]]:
        jobs, self._jobs = self._jobs, []
        events: list[tuple[Job, Event]] = []
        for job in jobs:
            done = train_job(job, lambda message, job=job: events.append((job, message)))
            events.append((job, done))
        return events

    def stop(self) -> None:
        pass


def own_images(
    folder: Path, *data: tuple[str, int, str], arms: tuple[str, ...] = ("dcgan", "sn"), seeds: int = 3,
    lrs: tuple[float, ...] = (2e-4,), states: tuple[State, ...] = (State.FINISHED,), **truth: float,
) -> Study:  # fmt: skip
    """A study of folders of a user's own images, finished, without training: `data` are digit of the digest, number of
    classes and judge of each. Runs have what their judge can tell; fd_pixels is four times what fd would be.
    """
    configs = [
        RunConfig(
            dataset="folder", data_sha256=digit * 64, channels=1, judge=judge, arm=arm, seed=seed, steps=3000, lr=lr
        )
        for digit, _, judge in data for arm in arms for seed in range(seeds) for lr in lrs
    ]  # fmt: skip
    classes = {digit * 64: n for digit, n, _ in data}
    found = {c.run_id: _found_of(c, classes[c.data_sha256], folder, states, truth) for c in configs}
    return assemble(Plan("own", "", configs, len(configs), ""), folder, found)


def _found_of(
    config: RunConfig, classes: int, folder: Path, states: tuple[State, ...], truth: dict[str, float]
) -> Found:
    told = {name for name in EVALUATED if (of := find(name)) and is_told(of, config.dataset, config.judge)}
    rows = run_history(config.arm, config.seed, truth)
    rows["eval/fd_pixels"] = 4 * rows["eval/fd"]
    if config.judge == "inception":
        rows["eval/fid"], rows["eval/kid"] = rows["eval/fd"], rows["eval/kd"]
        told |= {"eval/fid", "eval/kid"}
    rows = rows.loc[:, [name for name in rows if not name.startswith("eval/") or name in told]]
    trivial = {"fd": TRIVIAL, "fd_pixels": 4 * TRIVIAL, "kd": 1.0}
    reals = {"fd": 0.3, "fd_pixels": 0.5, "kd": 0.0}
    scores = [{k: v for k, v in of.items() if f"eval/{k}" in told} for of in (reals, trivial)]
    net = "none: samples are judged by their pixels alone" if config.judge == "pixels" else f"{config.judge}'s net"
    known = {"feature_net_sha256": "ab" * 32, "feature_net_accuracy": 0.99, "n_features": 128}
    protocol = {
        "feature_net": net, "n_fake": 60, "n_real": 60, "n_labels": 60, "k": 5, "n_classes": classes,
        "batch_norm": "running statistics", "pixels": "means of 2x2 pixels in [-1, 1], 196 numbers an image",
        **(dict.fromkeys(known, None) | {"n_features": 0} if config.judge == "pixels" else known),
        **({"feature_net_accuracy": None} if config.judge == "inception" else {}),
        **dict(zip(("real_against_real", "trivial_sampler"), scores, strict=True)),
        **({"trivial_fd": TRIVIAL} if "eval/fd" in told else {}),
    }  # fmt: skip
    state = states[config.seed % len(states)]
    attempt = {"device": "cpu", "device_name": "a machine", "wall_seconds": 60.0}
    status = {"state": state, "step": 3000, "error": None, "attempts": [attempt], "training_version": TRAINING_VERSION}
    return Found(status, "", protocol, lambda: (rows, ""), {}, real=folder / f"{config.data_sha256[0]}.png")
