"""Files as people have them -> a table of texts: CSV, JSON lines, Parquet, TensorBoard's event files, W&B's export.

Every cell is the text that the file has, so that the names in it stay as they are written; an empty text is a cell
that is not there.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import pandas as pd
import pyarrow
from pyarrow import compute, parquet
from pyarrow import csv as arrow_csv

from sngan.config import InputError
from sngan.files import visible

_DELIMITERS = (",", ";", "\t")
_ENCODINGS = ("utf-8", "utf-16")
_JSON = (".jsonl", ".ndjson", ".json")
_COMPRESSED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_ROOM, _MOST_TIMES = 2**26, 200  # that a compressed file may unpack to: so many bytes, and so many times its size
_UNREADABLE = (
    *(OSError, ValueError, EOFError, RuntimeError),  # RuntimeError: nested too deep, or encrypted
    *(zipfile.BadZipFile, lzma.LZMAError, zlib.error, pyarrow.ArrowException),
)


def name_of(path: Path) -> str:
    """What a table is called: its file's name without what says its format."""
    formats = r"(\.(csv|tsv|txt|jsonl|ndjson|json|parquet|pq))?(\.(gz|bz2|zip|xz|zst))?$"
    whole = str(path) if "\0" in str(path) else os.path.realpath(path)  # of a loop of links: itself
    name = visible(os.fsencode(os.path.basename(whole)).decode(errors="backslashreplace"))
    name = re.sub(formats, "", name, flags=re.IGNORECASE) or name
    try:
        os.fsencode(name)
    except UnicodeEncodeError:  # it will be a folder's name, too
        return ascii(name)[1:-1]
    return name


class Cells(NamedTuple):
    """`columns` of the file in their order; of a large one `frame` has those that were wanted. `notes`: what is
    doubtful."""

    frame: pd.DataFrame
    columns: list[str]
    notes: tuple[str, ...] = ()


def read(path: Path, wanted: Collection[str]) -> Cells:
    """The table in a file, or of the event files in a folder.

    CSV (commas, semicolons or tabs; UTF-8, or UTF-16 with its mark) and JSON lines (nested names are joined with dots,
    null is nothing), both also compressed (gz, bz2, xz, zip), an array of JSON objects, Parquet, and TensorBoard's
    scalars: a row per step, the tags as columns, and `run`, the folder. Raises InputError if it cannot be read as what
    its name says.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except (OSError, ValueError) as error:  # ValueError: a null byte
        why = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise InputError(f"cannot read {visible(str(path))}: {why}") from error
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        raise InputError(f"cannot read {path}: it is not a file")
    if path.is_dir() or "tfevents" in path.name:
        return _events(path)
    if set(map(str.lower, path.suffixes)) & {*_JSON}:
        return _json(path)
    if path.suffix.lower() in (".parquet", ".pq"):
        return _parquet(path, wanted)
    return _csv(path, wanted)


def _open(path: Path) -> IO[bytes]:
    """The file, decompressed; reading raises ValueError where that is far more than the file itself has."""
    suffix = path.suffix.lower()
    if suffix == ".zst":
        raise ValueError("it is compressed with Zstandard, which is not read here: unpack it first")
    if suffix == ".zip":
        archive = zipfile.ZipFile(path)
        if not (names := [name for name in archive.namelist() if not name.endswith("/")]):
            raise ValueError("the archive is empty")
        file: Any = archive.open(names[0])
    elif suffix in _COMPRESSED:
        file = _COMPRESSED[suffix](path, "rb")
    else:
        return path.open("rb")
    return io.BufferedReader(_Unpacked(file, _ROOM + _MOST_TIMES * path.stat().st_size))


class _Unpacked(io.RawIOBase):
    """What a compressed file holds, up to so many bytes."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file, self._left = file, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._file.read(len(buffer))
        self._left -= len(content)
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {_MOST_TIMES} times its size; unpack it first if that is meant")
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


def _csv(path: Path, wanted: Collection[str]) -> Cells:
    try:
        encoding, delimiter, header = _dialect(path)
        with _open(path) as file:
            blank = next(i for i, line in enumerate(io.TextIOWrapper(file, encoding)) if line.strip("\ufeff\r\n"))
        columns = [name.strip() for name in header]
        chosen = [i for i, name in enumerate(columns) if name in wanted]
        if _is_chart(columns) or not chosen:
            chosen = list(range(len(columns)))
        places = list(map(str, range(len(columns))))  # names may be there twice
        with _open(path) as file:
            table = arrow_csv.read_csv(
                file,
                arrow_csv.ReadOptions(
                    column_names=places, skip_rows=blank, skip_rows_after_names=1, encoding=encoding, block_size=2**24
                ),
                arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                arrow_csv.ConvertOptions(
                    column_types=dict.fromkeys(places, pyarrow.string()), include_columns=[places[i] for i in chosen]
                ),
            )
    except _UNREADABLE as error:
        said = " ".join(str(error).split())  # pandas' parser errors are ValueErrors
        if isinstance(error, UnicodeError) or "UTF8" in said:
            said = "it is neither UTF-8 nor UTF-16"
        raise InputError(f"cannot read {path} as CSV with a header: {said}") from error
    return Cells(table.to_pandas().set_axis([columns[i] for i in chosen], axis=1), columns)


def _dialect(path: Path) -> tuple[str, str, list[str]]:
    """Encoding, delimiter and header: the delimiter that parts the header into most."""
    for encoding in _ENCODINGS:
        headers = {}
        try:
            for delimiter in _DELIMITERS:
                with _open(path) as file:
                    read_one = pd.read_csv(
                        file, header=None, nrows=1, dtype=str, na_filter=False, sep=delimiter, encoding=encoding
                    )
                headers[delimiter] = read_one.iloc[0].tolist()
        except UnicodeError:
            if encoding == _ENCODINGS[-1]:
                raise
            continue
        delimiter = max(_DELIMITERS, key=lambda delimiter: len(headers[delimiter]))
        return encoding, delimiter, headers[delimiter]
    raise AssertionError


def _json(path: Path) -> Cells:
    kinds: dict[str, Any] = {name: str for name in ("parse_int", "parse_float", "parse_constant")}
    kinds["object_pairs_hook"] = _once
    try:
        with _open(path) as file:
            text = file.read().decode("utf-8-sig")
        if text.lstrip().startswith("["):
            found = _parsed(text, kinds)
        else:
            found = [_line(i, line, kinds) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]
    except _UNREADABLE as error:
        raise InputError(f"cannot read {path} as JSON lines, one object per line: {error}") from error
    rows = []
    for i, row in enumerate(found, start=1):
        if not isinstance(row, dict):
            raise InputError(f"cannot read {path}: object {i} is {type(row).__name__}, not one of names and values")
        rows.append(dict(_flat(row)))
    frame = pd.DataFrame(rows, dtype=str).fillna("")
    return Cells(frame, list(frame))


def _line(i: int, line: str, kinds: dict[str, Any]) -> Any:
    try:
        return _parsed(line, kinds)
    except ValueError as error:
        raise ValueError(f"line {i}: {error}") from error


def _parsed(text: str, kinds: dict[str, Any]) -> Any:
    found = json.loads(text, **kinds)
    if "\\u" in text:  # half a character, of which there are two for some
        json.dumps(found, ensure_ascii=False).encode()
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON in which no name is there twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def _flat(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            yield prefix + name, value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _parquet(path: Path, wanted: Collection[str]) -> Cells:
    try:
        with path.open("rb") as file:  # Arrow takes no path that is not UTF-8
            whole = parquet.ParquetFile(file)
            columns = whole.schema_arrow.names
            chosen = [name for name in columns if name in wanted] or columns
            if twice := [name for name in chosen if chosen.count(name) > 1]:
                raise InputError(f"{path} has {chosen.count(twice[0])} columns called {twice[0]!r}: rename all but one")
            table = whole.read(columns=chosen)
        texts = {name: compute.fill_null(table[name].cast(pyarrow.string()), "").to_pandas() for name in chosen}
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"cannot read {path} as Parquet: {error}") from error
    return Cells(pd.DataFrame(texts), columns)


def _events(path: Path) -> Cells:
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        raise InputError(f"{path}: event files need TensorBoard's reader: pip install -e '.[tensorboard]'") from error
    files = [path] if path.is_file() else sorted(path.rglob("*tfevents*"))
    if not files:
        raise InputError(f"{path} is a folder without TensorBoard's event files (*tfevents*)")
    frames, empty = [], []
    for file in files if path.is_file() else sorted({file.parent for file in files}):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0, "tensors": 0}).Reload()
        logged: dict[int, dict[str, str]] = {}
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                logged.setdefault(event.step, {})[_tag(tag)] = repr(float(event.value))
        for tag in events.Tags()["tensors"]:
            for event in events.Tensors(tag):
                value = make_ndarray(event.tensor_proto)
                if value.ndim == 0 and value.dtype.kind in "fiu":
                    logged.setdefault(event.step, {})[_tag(tag)] = repr(value.item())
        name = file.parent.name if path.is_file() else str(file.relative_to(path))
        rows = [{"run": os.path.basename(os.path.realpath(path)) if name == "." else name, "step": str(step), **row}
                for step, row in sorted(logged.items())]  # fmt: skip
        if rows:
            frames.append(pd.DataFrame(rows, dtype=str))
        else:
            empty.append(name)
    if not frames:
        raise InputError(f"{path}: its event files hold no scalars")
    frame = pd.concat(frames, ignore_index=True).fillna("")
    notes = (f"without any scalar, so not among the runs: {', '.join(empty)}",) if empty else ()
    return Cells(frame, list(frame), notes)


def _tag(tag: str) -> str:
    """A tag's column; what names the run and the step is not replaced by a tag."""
    return f"{tag} (tag)" if tag in ("run", "step") else tag


def _is_chart(columns: list[str]) -> bool:
    """Whether these are the columns of a chart that W&B's page exported: `Step`, and `<run> - <metric>` with limits."""
    return len(columns) > 1 and all(" - " in name for name in columns[1:])


def chart(cells: Cells, metrics: Collection[str]) -> Cells:
    """W&B's export of a chart as rows of `run`, the chart's axis and the metrics; any other table as it is.

    If `metrics` names none, and every run has one, they are taken for one metric, whatever they are called. Raises
    InputError if two runs have one name, which W&B allows.
    """
    if not _is_chart(cells.columns):
        return cells
    axis, *names = cells.columns
    shown = [name for name in names if not (name.endswith(("__MIN", "__MAX")) and name[:-5] in names)]
    places: dict[str, dict[str, int]] = {}
    for name, (run, metric) in zip(shown, _split(shown, metrics), strict=True):
        if metric in places.setdefault(run, {}):
            raise InputError(f"two runs of this W&B chart are called {run!r}: rename one, or export them apart")
        places[run][metric] = cells.columns.index(name)
    called = [metric for of in places.values() for metric in of]
    usual, notes = max(called, key=called.count), ()
    if not metrics and len(called) == len(places) and len(set(called)) > 1:
        others = ", ".join(map(repr, sorted(set(called) - {usual})))
        notes = (f"what some runs call {others} is taken for {usual!r}: each run of this chart has one metric",)
        places = {run: {usual: next(iter(of.values()))} for run, of in places.items()}
    frames = []
    for run, of in places.items():
        rows = cells.frame.iloc[:, [0, *of.values()]].set_axis([axis, *of], axis=1)
        logged = (rows[list(of)] != "").any(axis=1)
        frames.append(rows[logged].assign(run=run))
    frame = pd.concat(frames, ignore_index=True).fillna("")
    return Cells(frame, list(frame), notes)


def _split(names: list[str], metrics: Collection[str]) -> list[tuple[str, str]]:
    """Each `<run> - <metric>` in its two parts, of which either may hold ` - `.

    The metric is one of `metrics`; else it is what the names with the same last part share from there back.
    """
    groups: dict[str, list[list[str]]] = {}
    for name in names:
        parts = name.split(" - ")
        groups.setdefault(parts[-1], []).append(parts)
    shared = {}
    for last, group in groups.items():
        n = 1
        while len(group) > 1 and len({tuple(parts[-n - 1 :]) for parts in group}) == 1 and min(map(len, group)) > n + 1:
            n += 1
        shared[last] = n
    found = []
    for name in names:
        parts = name.split(" - ")
        n = shared[parts[-1]]
        metric = next((m for m in metrics if name.endswith(f" - {m}")), " - ".join(parts[-n:]))
        found.append((name.removesuffix(f" - {metric}"), metric))
    return found
