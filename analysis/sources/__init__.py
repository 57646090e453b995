"""Where runs come from: records, W&B, anyone's table, frozen results. Each gives an `analysis.study.Study`."""

from __future__ import annotations

from pathlib import Path

from sngan.config import InputError, suggestion

KINDS = {"frozen": "DIR", "table": "FILE.csv", "wandb": "ENTITY/PROJECT", "wandb-files": "DIR"}
"""what a source starts with, and what comes after its colon; any other is a folder of records"""


def kind_of(source: str | Path) -> tuple[str, str]:
    """(one of `KINDS`, or nothing for records; what comes after its colon). Raises InputError for another kind."""
    if isinstance(source, Path):
        return "", str(source)
    kind, colon, place = source.partition(":")
    if colon and kind in KINDS:
        if not place:
            raise InputError(f"{source!r} says no place: write {kind}:{KINDS[kind]}")
        return kind, place
    if colon and not Path(source).exists():
        known = ", ".join(f"{name}:{place}" for name, place in KINDS.items())
        near = suggestion(kind, KINDS)
        raise InputError(f"{source!r} is no source of runs{near}: expected a study, a folder, {known}")
    return "", source
