"""W&B, the mirror of the record: one W&B run per run. Its trouble costs one warning and never a training."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sngan.config import InputError, RunConfig

if TYPE_CHECKING:
    import wandb

PROJECT = "sngan"
MODES = ("online", "offline", "disabled")


def resolve_mode(wanted: str) -> str:
    """`online`, `offline` or `disabled`: what was asked for, else WANDB_MODE, else online when logged in.

    Raises InputError for a WANDB_MODE that is none of these.
    """
    if wanted in MODES:
        return wanted
    if mode := os.environ.get("WANDB_MODE"):
        mode = {"dryrun": "offline", "run": "online", "shared": "online"}.get(mode, mode)
        if mode not in MODES:
            raise InputError(f"the environment's WANDB_MODE is {mode!r}; expected one of {', '.join(MODES)}")
        return mode
    try:
        import wandb

        logged_in = wandb.login(prompt=False, verify=False)
    except Exception as error:  # broken credentials must not end a training
        print(f"warning: W&B cannot tell whether you are logged in, working offline: {error}", file=sys.stderr)
        logged_in = False
    return "online" if logged_in else "offline"


class Tracker:
    """One W&B run, open until `finish`. After the first error it warns, stops mirroring, and raises nothing.

    `mode` as from `resolve_mode`; the attribute is the mode that it came to. The W&B run's id is
    `<study>-<run id>`, its name the run id, its group the cell (the run without its seed); its config is flat:
    identity fields, `study` and `run_id`. Under a W&B agent the id is the server's; runs are then matched by config.
    """

    def __init__(
        self, config: RunConfig, study: str, folder: Path, mode: str, tags: list[str], warn: Callable[[str], None]
    ) -> None:
        self._run: wandb.Run | None = None
        self.mode = "disabled"
        self._warn: Callable[[str], None] | None = warn
        if mode == "disabled":
            return
        for attempt in dict.fromkeys([mode, "offline"]):
            self._guarded(f"start {attempt}", lambda attempt=attempt: self._start(config, study, folder, attempt, tags))
            if self._run:
                self.mode = attempt
                break

    def _start(self, config: RunConfig, study: str, folder: Path, mode: str, tags: list[str]) -> None:
        import wandb

        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            dir=folder,
            id=f"{study}-{config.run_id}",
            name=config.run_id,
            group=config.cell,
            job_type="train",
            tags=tags,
            config=config.identity() | {"study": study, "run_id": config.run_id},
            mode=mode,  # type: ignore[arg-type]
            resume="allow" if mode == "online" else None,  # offline W&B cannot know the past
            reinit="finish_previous",
            settings=wandb.Settings(silent=True, console="off", init_timeout=60, disable_code=True),
        )
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        self._run = run

    @property
    def url(self) -> str | None:
        return self._run.url if self._run and not self._run.offline else None

    def log(self, row: dict[str, Any], images: dict[str, Path]) -> None:
        """One call per row, with all its keys; `images` are PNG files by key."""
        if run := self._run:
            self._guarded("log", lambda: run.log(row | _images(images, row["step"])))

    def finish(self, summary: dict[str, Any], exit_code: int) -> None:
        if run := self._run:
            self._guarded("finish", lambda: (run.summary.update(summary), run.finish(exit_code=exit_code)))
        self._run = None

    def _guarded(self, what: str, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            if self._warn:
                self._warn(f"W&B could not {what}: {error}. The training goes on, its record is complete")
            self._warn = None
            run, self._run = self._run, None
            if run:
                with suppress(Exception):
                    run.finish(exit_code=1)


def _images(images: dict[str, Path], step: int) -> dict[str, Any]:
    import wandb

    return {key: wandb.Image(str(path), caption=f"step {step}") for key, path in images.items()}
