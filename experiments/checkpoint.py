"""A run's checkpoint: everything that the rest of the run depends on, checked before it is believed."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from experiments.record import DIGESTS, Record, State
from sngan.config import TRAINING_VERSION, InputError, RunConfig, from_parameters
from sngan.files import write_atomically

_MOST_VALUES = 100_000  # in a checkpoint, of which a run's has some hundred
_RESUMED = {"step": int, "training_version": int, "data_sha256": str, "metrics_bytes": int, "metrics_sha256": str}


def write(record: Record, state: dict[str, Any], config: RunConfig, data_sha256: str) -> None:
    """Replace the run's checkpoint by this state of `train`; the one before stays beside it.

    It counts on the rows that were written before it, which are on the disk first.
    """
    rows = record.rows_on_disk()
    n_bytes, digest = rows[record.metrics_path.name]
    content = state | {
        "config": config.identity(),
        "training_version": TRAINING_VERSION,
        "data_sha256": data_sha256,
        "metrics_bytes": n_bytes,
        "metrics_sha256": digest,
        "rows": rows,
    }
    if "streams" not in state:  # final weights
        content |= record.digests()
    content["sha256"] = fingerprint(content)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    record.keep_previous_checkpoint()
    write_atomically(record.checkpoint_path, buffer.getbuffer())


def latest(
    record: Record, config: RunConfig, data_sha256: str, device: torch.device, say: Callable[[str], None]
) -> tuple[dict[str, Any] | None, list[str]]:
    """The state to resume from, and how what it was trained as differs from today.

    None if there is none that the record agrees with; `say` gets the reason, also of falling back to the checkpoint
    before. What differs is in words, empty as a rule: identity fields, training version, data.
    """
    for path in (record.checkpoint_path, record.previous_checkpoint_path):
        if not path.exists():
            continue
        try:
            state = read(path, device)
        except InputError as error:
            say(str(error))
            continue
        if "streams" not in state:
            continue  # final weights, of a run that was killed before it could say that it has ended
        penalty = state.pop("penalty", {})  # where the program's earlier versions kept a constraint's vectors
        state.setdefault("constraint", {f"penalty.{name}": vector for name, vector in penalty.items()})
        state["rows"], damaged = _rows_that_fit(state, record)
        if record.timing_path.name in damaged:  # no result depends on it
            say(f"{record.timing_path} was damaged: of its rows those stay that are readable")
        if others := [name for name in damaged if name != record.timing_path.name]:
            say(f"{path} does not fit the rows in {' and '.join(others)}")
            continue
        then = _completed(state["config"]) | {
            "TRAINING_VERSION": state["training_version"],
            "data": state["data_sha256"],
        }
        now = config.identity() | {"TRAINING_VERSION": TRAINING_VERSION, "data": data_sha256}
        differences = [f"{k} was {then.get(k)!r} and is {now[k]!r}" for k in now if then.get(k) != now[k]]
        return state, differences
    return None, []


def _rows_that_fit(state: dict[str, Any], record: Record) -> tuple[dict[str, int], list[str]]:
    """Name -> size of the files of rows that are what they were when the checkpoint was written; names of the others.

    The program's earlier versions knew of the metrics alone.
    """
    known = state.get("rows", {record.metrics_path.name: (state["metrics_bytes"], state["metrics_sha256"])})
    fitting = {name: size for name, (size, digest) in known.items() if record.has_rows(name, size, digest)}
    return fitting, [name for name in known if name not in fitting]


def outcome(record: Record, config: RunConfig) -> dict[str, Any] | None:
    """How the run ended, from its final weights: a part of its status. None if it has not ended, or they are damaged.

    For a run whose status.json was lost; only weights that fit configuration and metrics are believed.
    """
    try:
        final = read(record.checkpoint_path)
    except (FileNotFoundError, InputError):
        return None
    if "state" not in final or _completed(final["config"]) != config.identity():
        return None
    if final["metrics_sha256"] != record.metrics_sha256():
        return None
    return {
        "state": State(final["state"]),
        "step": final["step"],
        "error": final["reason"] or None,
        **{name: final[name] for name in DIGESTS if name in final},
        "training_version": final.get("training_version"),
    }


def read(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """A checkpoint's content. No code in it is run. Raises InputError if it is damaged or none of ours."""
    if path.exists() and not path.is_file():  # a pipe would never end
        raise InputError(f"{path} is not a file")
    try:
        n_bytes = _stored_bytes(path)
        content = torch.load(path, map_location=device, weights_only=True)
        _check(content, n_bytes)
        of_all_else = fingerprint(
            {k: v for k, v in content.items() if k != "sha256"} if type(content) is dict else None
        )
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever torch finds wrong with the file; also what is nested too deep
        raise InputError(f"{path} is not readable: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise InputError(f"{path} is not a checkpoint of a run")
    older = not {"sha256", "training_version"} & set(content)  # weights of a program that kept no more
    if content.pop("sha256", None) != of_all_else and not older:
        raise InputError(f"{path} is damaged: it does not hold what was written")
    lacking = [name for name, kind in _RESUMED.items() if not isinstance(content.get(name), kind)]
    if "streams" in content and lacking:
        raise InputError(f"{path} is no checkpoint to resume from: it lacks {', '.join(lacking)}")
    return content


def _stored_bytes(path: Path) -> int:
    """Raises ValueError for what torch.save has not written for years, or that holds more than its size."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        stored = archive.infolist()
    if any(one.compress_type != zipfile.ZIP_STORED for one in stored) or sum(one.file_size for one in stored) > size:
        raise ValueError("it is compressed, as no checkpoint is")
    return size


def _check(content: Any, n_bytes: int) -> None:
    """Raises ValueError for what a file of that size cannot hold by itself, and so would take all memory, or for ever.

    These are tensors of repeated, shared or absent values, and lists that contain each other or themselves.
    """
    values, n_values, left = [content], 0, 2 * n_bytes
    while values:
        value = values.pop()
        n_values += 1
        if isinstance(value, torch.Tensor):
            if value.layout != torch.strided or value.is_meta or value.is_quantized:
                raise ValueError(f"it holds a tensor of kind {value.layout} on {value.device}")
            left -= value.numel() * value.element_size()
        elif isinstance(value, dict):
            values += [*value, *value.values()]
        elif isinstance(value, list | tuple):
            values += value
        if n_values > _MOST_VALUES or len(values) > _MOST_VALUES or left < 0:
            raise ValueError("it holds more than it has room for")


def _completed(identity: dict[str, Any]) -> dict[str, Any]:
    """With the defaults of fields that the program did not have yet."""
    try:
        return from_parameters(identity).identity()
    except InputError:
        return identity


def fingerprint(content: Any) -> str:
    """SHA-256 over everything in nested dicts and lists, tensors by type, shape and bytes."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).numpy().tobytes())
        elif isinstance(value, dict):
            digest.update(f"{{{len(value)}}}".encode())
            for key, item in value.items():
                digest.update(repr(key).encode())
                add(item)
        elif isinstance(value, list | tuple):
            digest.update(f"[{len(value)}]".encode())
            for item in value:
                add(item)
        else:
            digest.update(repr(value).encode())

    add(content)
    return digest.hexdigest()
