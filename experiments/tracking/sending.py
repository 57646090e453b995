"""Runs that ended, told to W&B from their records: again, or for the first time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from experiments.record import Record, State, recorded_configs
from experiments.study import Study
from experiments.tracking.tracker import Tracker
from sngan.config import InputError, RunConfig
from sngan.files import read_within


class Sent(NamedTuple):
    """Run ids that W&B was told, and a line on each run that it was not told, and why."""

    sent: list[str]
    not_sent: list[str]


def send_study(study: Study, folder: Path, mode: str, tell: Callable[[int, int], None]) -> Sent:
    """Tell W&B every run of the study that has ended or failed, from its record in `folder`.

    An interrupted run is sent when it resumes; runs whose record was damaged are named. If W&B's server fails, the
    runs that are left are not tried. `tell(done, total)` reports progress.
    """
    records = [(config, Record(folder / config.run_id)) for config in study.configs]
    ended = [(config, record) for config, record in records if _has_ended(record)]
    wrong = {} if study.text else recorded_configs(folder)[1]
    sent, not_sent = [], [f"{run_id}: {why}" for run_id, why in wrong.items()]
    for done, (config, record) in enumerate(ended, start=1):
        trouble, mode_now = _send_one(config, study.name, record, mode)
        if trouble:
            not_sent.append(f"{config.run_id}: {trouble}")
        else:
            sent.append(config.run_id)
        tell(done, len(ended))
        if mode_now != mode:
            not_sent += [f"{config.run_id}: not tried" for config, _ in ended[done:]]
            break
    return Sent(sent, not_sent)


def _has_ended(record: Record) -> bool:
    status = record.status()
    return status["state"].is_result or status["state"] is State.FAILED or "damaged" in status


def _send_one(config: RunConfig, study: str, record: Record, mode: str) -> tuple[str, str]:
    """What went wrong, or nothing; the mode that W&B's client came to."""
    with record.claim() as mine:
        if not mine:
            return "another process has it", mode
        status = record.status(claimed=True)
        if damage := status.get("damaged") or record.damage(status):
            return damage, mode
        try:
            tracker = send(config, study, record, mode, status, lambda text: None)
        except InputError as error:  # rows that cannot be read
            return str(error), mode
        return tracker.error or "", tracker.mode


def send(
    config: RunConfig, study: str, record: Record, mode: str, status: dict[str, Any], warn: Callable[[str], None]
) -> Tracker:
    """Tell W&B a run that has ended, which the caller has claimed: its rows from the first that its server lacks.

    Offline, W&B's files are written again, and those of before are set aside. The tracker says to which mode it came,
    and what went wrong.
    """
    summary = summary_of(status, record)
    tracker = Tracker(
        config, study, record.folder.parent, mode, [study], warn, record.history, record.last_step(), summary,
        look_back=True,
    )  # fmt: skip
    tracker.finish(status["state"], summary, record if status["state"].is_result else None)
    return tracker


def summary_of(status: dict[str, Any], record: Record) -> dict[str, Any]:
    """What W&B's summary says of a run: the end state, how samples are judged, and what reading back needs."""
    attempt = status["attempts"][-1] if status["attempts"] else {}
    kept = {key: value for key, value in status.items() if key not in ("traceback", "wandb_url")}
    study_file = record.folder.parent / "study.yaml"
    protocol, plan = {}, b""
    with suppress(InputError):  # the record says so wherever it is read
        protocol = record.protocol()
    with suppress(FileNotFoundError, InputError):
        plan = read_within(study_file, study_file.parent)
    return {
        **{key: status.get(key) for key in ("state", "error", "metrics_sha256")},
        **{key: attempt.get(key) for key in ("wall_seconds", "peak_memory_bytes")},
        "device": attempt.get("device_name"),
        "status": kept,
        "protocol": protocol,
        "study_file": plan.decode("utf-8", errors="replace"),
    }
