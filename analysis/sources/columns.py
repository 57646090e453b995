"""What the columns of anyone's table mean, as its owner says, and what to advise if they do not.

What columns mean is said by a mapping; a column that already has the name needs no mention. Names (arm, dataset,
setting, state) are texts, as they are written: `1`, `1.0` and `01` are three arms.

| name | | what |
|---|---|---|
| `arm` | required | what is compared |
| `seed` | required | whole numbers; runs of different arms with one seed are pairs |
| `quality` | required | lower is better, and positive; or higher is better (`maximize`) |
| `step` | if a run has several rows | training step |
| `loss`, `loss_g` | | of D and of G, or any two losses |
| `grad_g` | | norm of G's gradient |
| `dataset`, `setting` | | runs that differ there are not compared |
| `state` | | `finished`, `diverged`, `failed` |
| `run` | | a run's name, of which a regular expression's groups `arm`, `seed` (`dataset`, `setting`) are parts |
"""

from __future__ import annotations

import csv
import io
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sngan.config import InputError, shown, suggestion

METRICS = {"quality": "eval/fd", "loss": "loss/d", "loss_g": "loss/g", "grad_g": "grad_norm/g"}
REQUIRED = ("arm", "seed", "quality")
NAMES = ("arm", "dataset", "setting", "state")
COLUMNS = (*("arm", "seed", "step", "dataset", "setting", "state", "run"), *METRICS)
IN_NAME = ("arm", "seed", "dataset", "setting")
_LESS = (
    *("fid", "kid", "fd", "kd", "mmd", "loss", "error", "err", "mse", "rmse", "mae", "perplexity", "ppl", "nll"),
    *("bpd", "regret"),
)
_MORE = (
    *("accuracy", "acc", "is", "inception", "reward", "rewards", "return", "returns", "score", "scores", "recall"),
    *("coverage", "precision", "density", "f1", "auc", "auroc", "psnr", "ssim", "success", "win", "bleu", "rew", "iou"),
)
_MAY_BE_NEGATIVE = ("kid", "kd", "mmd")  # estimates of distances without bias
_CALLED = {  # what columns are often called, in any case
    "arm": ("arm", "method", "algorithm", "algo", "model", "variant", "approach", "agent", "optimizer"),
    "seed": ("seed", "random_seed", "trial", "replicate", "repeat", "run"),
    "step": (
        *("step", "iteration", "iterations", "iter", "it", "epoch", "kimg", "global_step", "timestep", "timesteps"),
        *("total_timesteps", "env_step", "frame", "frames", "update", "updates"),
    ),
    "quality": (
        *("quality", "fid", "kid", "fd", "kd", "is", "inception_score", "accuracy", "acc", "test_accuracy"),
        *("episode_return", "episode_reward", "return", "reward", "score", "error"),
    ),
    "loss": ("loss", "d_loss", "loss_d", "loss_discriminator", "discriminator_loss"),
    "loss_g": ("loss_g", "g_loss", "loss_generator", "generator_loss"),
    "grad_g": ("grad_g", "grad_norm_g", "g_grad_norm"),
    "dataset": ("dataset", "task", "env", "environment", "env_id", "env_name", "game", "domain"),
    "setting": ("setting",),
    "state": ("state",),
    "run": ("run", "run_name", "experiment"),
}
RUN_NAMES = (r"(?P<arm>.+?)[-_ /.]*(?:seed|s)[-_ =]?(?P<seed>\d+)$", r"(?P<arm>.+?)[-_ /.](?P<seed>\d+)$")


class Reading(NamedTuple):
    """How a table is to be read: its columns' meaning, the arm to compare with, which side of quality is better.

    `implied`: what columns mean by the kind of file, unless the mapping says otherwise.
    """

    mapping: Mapping[str, str] = {}
    baseline: str = ""
    maximize: bool = False
    run_name: str = ""
    implied: Mapping[str, str] = {}

    @property
    def is_foreign(self) -> bool:
        """Whether it says what columns or names mean, which of this program's own runs is known."""
        return bool(self.mapping or self.run_name)

    def arguments(self) -> str:
        """As arguments of `sngan report`."""
        options = {"--map": written(self.mapping), "--run-name": self.run_name, "--baseline": self.baseline}
        said = [f" {option} {shlex.quote(value)}" for option, value in options.items() if value]
        return "".join(said) + (" --maximize" if self.maximize else "")


AS_NAMED = Reading()
"""Columns mean what they are called."""


def parse_mapping(text: str) -> dict[str, str]:
    """`quality=fid,arm=method` -> {"quality": "fid", "arm": "method"}; a part that holds a comma is quoted, as in CSV.

    Raises InputError for a name that means nothing here.
    """
    try:
        parts = [part.partition("=") for part in next(csv.reader([text], skipinitialspace=True), []) if part.strip()]
    except csv.Error as error:
        raise InputError(f"--map {shown(text)}: {error}") from error
    pairs = [(name.strip(), column.strip()) for name, _, column in parts]
    for values, what in zip(zip(*pairs, strict=True), ("name", "column"), strict=False):
        if twice := [value for value in values if value and values.count(value) > 1]:
            raise InputError(f"--map {text!r}: the {what} {twice[0]!r} appears twice")
    for name, column in pairs:
        if name not in COLUMNS:
            known = f"{', '.join(COLUMNS)}{suggestion(name, COLUMNS)}"
            raise InputError(f"--map {text!r}: {name!r} is none of {known}; write NAME=COLUMN,..")
        if not column:
            raise InputError(f"--map {text!r}: {name} lacks its column; write {name}=COLUMN")
    return dict(pairs)


def written(mapping: Mapping[str, str]) -> str:
    """A mapping as `parse_mapping` reads it."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([f"{known}={column}" for known, column in mapping.items()])
    return line.getvalue() if mapping else ""


def advice(reading: Reading, missing: list[str], columns: list[str], names: list[str]) -> str:
    """What to write so that a table with these columns, and runs of these names, can be read."""
    if not columns:
        return "it has no columns"
    said = _guessed(reading, missing, columns, names)
    options = [f"--map {shlex.quote(written(said))}"] if said else []
    rest = [f"{known}=COLUMN" for known in missing if known not in said]
    if reading.run_name:
        options.append(f"--run-name {shlex.quote(reading.run_name)}")
    elif "arm=COLUMN" in rest and (names or "run" in said):
        fitting = [pattern for pattern in RUN_NAMES if names and all(re.search(pattern, text) for text in names)]
        rest = [text for text in rest if text not in ("arm=COLUMN", "seed=COLUMN")]
        if fitting:
            options.append(f"--run-name {shlex.quote(fitting[0])}")
        else:
            of = repr(names[0]) if names else "a run's name"
            rest.append(f"--run-name, a regular expression that says which part of {of} is arm and which is seed")
    if reading.baseline:
        options.append(f"--baseline {shlex.quote(reading.baseline)}")
    if reading.maximize or _side({**reading.implied, **said}.get("quality", "")) == "more":
        options.append("--maximize")
    if not said and not options:
        return f"try {rest[-1]}" if names else "say which with --map NAME=COLUMN,.."
    return f"try {' '.join(options)}" + (f", with {', '.join(rest)}" if rest else "")


def _guessed(reading: Reading, missing: list[str], columns: list[str], names: list[str]) -> dict[str, str]:
    """The reading's mapping, as far as it names columns that are there, and what else is called as it often is."""
    plain: dict[str, str] = {}
    for text in reversed(columns):
        plain[re.split(r"[/.]", text)[-1].strip().lower()] = text
    plain |= {re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_"): text for text in reversed(columns)}
    if names and not all(text.isdecimal() for text in names):
        plain.pop("run", None)  # is no number of a run
    said = {known: text for known, text in reading.mapping.items() if text in columns}
    for known, called in _CALLED.items():
        if known in said or known in reading.implied or (known in columns and known not in missing):
            continue
        fitting = [plain[text] for text in called if text in plain and plain[text] not in said.values()]
        if known == "quality" and not fitting:
            fitting = [text for text in columns if _side(text) and text not in said.values()]
        if fitting and fitting[0] != known:
            said[known] = fitting[0]
    return said


def _words(name: str) -> list[str]:
    parts = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name).lower()
    return [re.sub(r"(?<=[a-z])\d+[a-z]*$", "", part) or part for part in re.split(r"[^a-z0-9]+", parts) if part]


def may_be_negative(quality: str) -> bool:
    """Whether a quality of that name is an estimate that may be below zero although lower is better."""
    return bool({*_words(quality)} & {*_MAY_BE_NEGATIVE})


def _side(quality: str) -> str:
    """Which side of a quality of that name is usually better: less, more, or nothing is known."""
    words = _words(quality)
    if {*words} & {*_LESS}:
        return "less"
    known = {*_MORE} - ({"is"} if words[-1:] != ["is"] else set())  # a word, but for the score's name
    return "more" if {*words} & known else ""


def quality_doubts(quality: str, maximize: bool) -> Iterable[str]:
    side = _side(quality)
    if side == "more" and not maximize:
        yield f"of a quality called {quality!r} more is usually better, and it is read as if less were: see --maximize"
    if side == "less" and maximize:
        yield f"of a quality called {quality!r} less is usually better, and --maximize says that more is"
