"""W&B's terminal viewer on a study's files, under names that a person can tell apart."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from experiments.record import recorded_configs
from sngan.config import IDENTITY_FIELDS, SETTING_FIELDS, InputError, RunConfig, unused_parameters

_FOLDER = re.compile(r"(?:offline-)?run-(\d{8}_\d{6})-(.+)")
_ROOM = 20  # the viewer lists folders by the first 40 characters of their names, of which `run-<date>_<time>-` is half
_LOOK_SECONDS = 5.0  # for runs that started since


def view_offline(folder: Path) -> int:
    """Open W&B's terminal viewer on the study's W&B files; without a terminal say how. Returns its exit code.

    Its list names runs by their folders, of which it shows the beginning: it is given a folder of links with names
    that begin with what differs. Raises InputError if W&B has no files there.
    """
    files = folder / "wandb"
    if not any(files.glob("*run-*/run-*.wandb")):
        raise InputError(f"no W&B runs at {files}: train with --wandb offline, or log in to see the workspace online")
    viewer = Path(sys.executable).with_name("wandb")
    if not sys.stdout.isatty():
        print(shlex.join([str(viewer), "leet", str(files)]))
        return 0
    with tempfile.TemporaryDirectory(prefix="sngan-") as place:
        link(files, Path(place))
        process = subprocess.Popen([viewer, "leet", place])
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(_LOOK_SECONDS)
                link(files, Path(place))
        finally:  # a signal to this program ends the viewer: at SIGINT W&B's command ends what it started, too
            process.send_signal(signal.SIGINT)
            process.wait()


def link(files: Path, place: Path) -> None:
    """In `place` a folder for each of W&B's in `files`, of whose run it has the name; those that are there stay."""
    named = names(list(recorded_configs(files.parent)[0]))
    for folder in files.glob("*run-*"):
        found = _FOLDER.fullmatch(folder.name)
        if not found or not (content := next(folder.glob("run-*.wandb"), None)):
            continue
        time, run_id = found[1], found[2].removeprefix(f"{files.parent.name}-")
        name = named.get(run_id, run_id)
        there = place / f"run-{time}-{name}"
        if not there.exists():
            there.mkdir()
            (there / f"run-{name}.wandb").symlink_to(content.absolute())
            (there / "files").symlink_to((folder / "files").absolute())


def names(configs: Sequence[RunConfig]) -> dict[str, str]:
    """Run id -> seed, what differs between the runs, and arm; no two have the same first 20 characters."""
    used = {config.run_id: _telling(config) for config in configs}
    fields = [name for name in IDENTITY_FIELDS if name not in ("arm", "seed")]
    differing = [name for name in fields if len({of[name] for of in used.values() if name in of}) > 1]
    for most in (None, 3):  # letters of each word of an arm
        named = {}
        for run_id, of in used.items():
            values = [_in_short(of[name]) for name in differing if name in of]
            named[run_id] = "-".join([f"s{of['seed']:02d}", *values, _cut(str(of["arm"]), most)])
        if len({name[:_ROOM] for name in named.values()}) == len(named):
            return named
    return {run_id: f"{run_id.rpartition('-')[2]}-{name}" for run_id, name in named.items()}  # its hash


def _telling(config: RunConfig) -> dict[str, object]:
    """The identity without what the arm does not use, or the setting says."""
    implied = unused_parameters(config) | (set(SETTING_FIELDS) if config.setting != "custom" else set())
    return {name: value for name, value in config.identity().items() if name not in implied}


def _in_short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cut(arm: str, most: int | None) -> str:
    return "_".join(word[:most] for word in arm.split("_"))
