"""Runs that ended, told to W&B from their records: again, or for the first time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from experiments.record import Record
from experiments.tracking.tracker import Tracker
from sngan.config import InputError, RunConfig


def send(
    config: RunConfig, study: str, record: Record, mode: str, status: dict[str, Any], warn: Callable[[str], None]
) -> Tracker:
    """Tell W&B a run that has ended, which the caller has claimed; rows that its server has are not sent again.

    Offline W&B's files are written anew, and those of before are set aside. The tracker says to which mode it came,
    and what went wrong.
    """
    summary = summary_of(status, record)
    tracker = Tracker(
        config, study, record.folder.parent, mode, [study], warn, record.history, record.last_step(), summary
    )
    tracker.finish(status["state"], summary, record if status["state"].is_result else None)
    return tracker


def summary_of(status: dict[str, Any], record: Record) -> dict[str, Any]:
    """What W&B's summary says of a run: the end state, how samples are judged, and what reading back needs."""
    attempt = status["attempts"][-1] if status["attempts"] else {}
    kept = {key: value for key, value in status.items() if key not in ("traceback", "wandb_url")}
    study_file = record.folder.parent / "study.yaml"
    try:
        protocol = record.protocol()
    except InputError:  # the record says so wherever it is read
        protocol = {}
    return {
        **{key: status.get(key) for key in ("state", "error", "metrics_sha256")},
        **{key: attempt.get(key) for key in ("wall_seconds", "peak_memory_bytes")},
        "device": attempt.get("device_name"),
        "status": kept,
        "protocol": protocol,
        "study_file": study_file.read_text(encoding="utf-8") if study_file.exists() else "",
    }
