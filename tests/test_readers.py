"""Every reader of files and texts that others may have written, and the same two hundred of them."""

import io
import json
import os
import pickle
import signal
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import small, write_study
from PIL import Image

from analysis.grids import opened
from analysis.load import load
from analysis.sources import formats, wandb_runs
from analysis.sources.columns import COLUMNS, Reading, parse_mapping
from analysis.sources.frozen import thaw
from analysis.sources.table import read as read_table
from experiments import checkpoint, final, ledger
from experiments.choice import Choice, with_values
from experiments.cli import wandb_filters
from experiments.gpu.merge import merge
from experiments.record import Record
from experiments.rows import readable_rows
from experiments.run import execute
from experiments.study import find, parse_seeds, read
from sngan import cache
from sngan.config import InputError
from sngan.files import parse_json, read_within

# --- two hundred files ---

_SCALARS = [
    *("null", "true", "-1", "0.5", "1e999", "-1e999", "NaN", "Infinity", "9" * 400, "9" * 4_000, "9" * 5_000),
    *('""', '"word"', '"\\u0000"', '"\\ud800"', '"\\u001b[31m"', '"../../../etc/passwd"', '"/dev/zero"', '"1e999"'),
]
_CONTAINERS = [
    *("[]", "{}", "[[]]", "[{}]", "[1, 2]", '{"a": {}}', '{"": null}', '[{"step": 1}, 2]', '{"step": 1, "step": 2}'),
    *("[" * 1_000 + "]" * 1_000, "[" * 20_000 + "]" * 20_000, '{"a":' * 20_000 + "1" + "}" * 20_000, "[" * 20_000),
]
_NAMES = (
    *("step", "state", "attempts", "schema", "parts", "plan", "study", "grows", "name", "method", "parameters"),
    *("seed", "trivial_fd", "real_against_real", "loss/d", "arm"),
)
_FIELDS = [
    json.dumps({name: 0})[:-2] + value + "}"
    for name in _NAMES
    for value in ("null", "1e999", "9" * 5_000, '"word"', "[[1]]", '{"a": []}', "[" * 10_000 + "]" * 10_000)
]
_LINES = [
    '{"step": 0}\n{"step": 1e999}\n',
    '{"step": 0}\n{"step": ' + "9" * 4_000 + "}\n",
    '{"step": 3}\n{"step": 2}\n',
    '{"step": 0, "loss/d": {"a": 1}}\n',
    '{"step": 0, "loss/d": "1"}\n',
    '{"step": 0, "x": ' + "[" * 100_000 + "\n",
    "arm,seed,quality\na,0,1\na,0,2\n",
    "arm,seed,quality\na,x,1\n",
    "arm,seed,quality\na,0,one\n",
    "arm,seed,seed,quality\na,0,0,1\n",
    'arm,seed,quality\n"a,0,1\n',
    "arm,seed,quality\n\x1b[31m,0,1\n=1+1,0,2\n",
    "arm\tseed\tquality\na\t0\n",
    "arm,seed,quality\na," + "9" * 5_000 + ",1\n",
    "\n\n\n",
    "name: a\nmethod: grid\nparameters: &a {seed: {values: [1, *a]}}\n",
    "name: a\nmethod: grid\nparameters: {lr: {value: 010}}\n",
    "name: a\nmethod: grid\nparameters: !!python/object/apply:os.system [true]\n",
    "name: a\nmethod: grid\nparameters: {seed: {value: 2026-11-28}}\n",
    "a: &a [1, 1]\nb: &b [*a, *a]\n" + "".join(f"c{i}: &c{i} [*{'b' if not i else f'c{i - 1}'}]\n" for i in range(99)),
    "%",
    "? [a]\n: b",
    "--- a\n--- b\n",
    "\t- a",
    "x" * 3_000_000,
]


def _zipped(name: str, content: bytes) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def _saved(content: object, **options: bool) -> bytes:
    torch.save(content, buffer := io.BytesIO(), **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def _png(side: int) -> bytes:
    Image.new("L", (side, 1)).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def _parquet(frame: pd.DataFrame) -> bytes:
    frame.to_parquet(buffer := io.BytesIO())
    return buffer.getvalue()


class _Runs:
    """What a pickle can do."""

    def __reduce__(self) -> tuple:
        return exec, ("raise SystemExit('code of a file was run')",)


_ITSELF: list[object] = []
_ITSELF.append(_ITSELF)
_TENFOLD: list[object] = [1]
for _ in range(30):
    _TENFOLD = [_TENFOLD] * 10
_BYTES = [
    *(b"", b"\0", b"\n", b"\xff\xfe\x00", b"\xef\xbb\xbf{}", '{"stép": 1}'.encode("latin-1"), b"{}\r\n", b"\x80\x04N."),
    *(b"PAR1", b"PAR1" * 9, b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x1f\x8b\x08" + bytes(9)),
    *(pickle.dumps(_Runs()), _zipped("a/data.pkl", pickle.dumps(_Runs())), _zipped("a/data.pkl", b"\x80\x02]q\0h\0a.")),
    *(_zipped("a", bytes(10**7)), _saved([1]), _saved({"config": {}}), _saved({"config": {}, "streams": {}})),
    *(_saved({"config": {}, "x": torch.ones(1).expand(10**6, 10**6)}), _saved({"config": {}, "x": _ITSELF})),
    *(_saved({"config": {}, "x": torch.eye(2).to_sparse()}), _saved({"config": {}, "x": _TENFOLD})),
    *(_saved({"config": {}, "x": torch.ones(2, device="meta")}), _saved({"config": {}, "x": torch.ones(2).bfloat16()})),
    _saved({"config": {}}, _use_new_zipfile_serialization=False),
    *(_png(9), _png(5_000), _png(9)[:-20]),
    *(_parquet(pd.DataFrame({"a": [1]})), _parquet(pd.DataFrame({"arm": ["a"], "seed": ["0"], "quality": [None]}))),
    _parquet(pd.DataFrame({"run_id": ["a"], "config": ["[" * 10_000], "status": ["1"], "protocol": [None]})),
]
FILES = [text.encode() for text in (*_SCALARS, *_CONTAINERS, *_FIELDS, *_LINES)] + _BYTES


def test_there_are_two_hundred() -> None:
    assert len(set(FILES)) == len(FILES) >= 200


# --- and those who read them ---


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Record:
    folder = tmp_path_factory.mktemp("readers")
    config = small(n_fake=40)
    execute(config, "single", folder, lambda message: None)
    return Record(folder / config.run_id)


def _status(record: Record) -> None:
    status = record.status()
    record.damage(status)
    record.last_step()


RECORD: dict[str, tuple[str, Callable[[Record], object]]] = {
    "status": ("status.json", _status),
    "protocol": ("protocol.json", Record.protocol),
    "configuration": ("config.json", Record.named_config),
    "metrics": ("metrics.jsonl", lambda record: (readable_rows(record.metrics_path), record.last_step())),
    "evaluations": ("evaluations.jsonl", lambda record: record.history()),
    "final weights": ("checkpoint.pt", lambda record: (final.said_by(record.checkpoint_path), _status(record))),
    "a checkpoint": ("checkpoint.pt", lambda record: checkpoint.read(record.checkpoint_path)),
    "a run of others": ("status.json", lambda record: load(record.folder.parent)),
    "a configuration of others": ("config.json", lambda record: load(record.folder.parent)),
    "a sample grid": ("samples/step-000030.png", lambda record: [opened(grid) for grid in record.grids().values()]),
}


@pytest.mark.parametrize("reader", RECORD)
def test_records(reader: str, finished: Record) -> None:
    name, call = RECORD[reader]
    path = finished.folder / name
    before = path.read_bytes()
    try:
        _feed(lambda content: (path.write_bytes(content), call(finished)))
    finally:
        path.write_bytes(before)


def _at(path: Path, call: Callable[[Path], object]) -> tuple[Path, Callable[[Path], object]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path, call


def _signed(path: Path) -> dict:
    """A manifest that says itself that nothing was changed."""
    content = parse_json(read_within(path, path.parent), "it")
    if isinstance(content, dict):
        path.write_text(json.dumps(content | {"sha256": ledger.fingerprint(content)}))
    return ledger.read_manifest(path.parent)


READERS: dict[str, Callable[[Path], tuple[Path, Callable[[Path], object]]]] = {
    "a study file": lambda tmp: _at(tmp / "a.yaml", read),
    "the file beside records": lambda tmp: _at(tmp / "a" / "study.yaml", lambda path: find("a", str(tmp))),
    "a manifest": lambda tmp: _at(tmp / "manifest.json", lambda path: ledger.read_manifest(tmp)),
    "a frozen study": lambda tmp: _at(tmp / "manifest.json", lambda path: thaw(tmp)),
    "a manifest, signed": lambda tmp: _at(tmp / "manifest.json", _signed),
    "settings of results": lambda tmp: _at(
        tmp / "experiments" / "results" / "a" / "data" / "study.json", lambda path: ledger.home("a")
    ),
    "a table of runs": lambda tmp: _at(tmp / "runs.parquet", ledger.table_of),
    "a cache": lambda tmp: _at(tmp / "kept", lambda path: (cache.read(path), cache.mapped(path, (3,)))),
    "reports of a GPU": lambda tmp: _at(tmp / "report.json", lambda path: merge([tmp], tmp / "results")),
    "archives of a GPU": lambda tmp: _at(tmp / "runs-0.tar", lambda path: merge([tmp], tmp / "results")),
    **{
        f"a table, {kind}": lambda tmp, kind=kind: _at(
            tmp / f"t.{kind}", lambda path: (formats.read(path, COLUMNS), read_table(path, Reading(), tmp))
        )
        for kind in ("csv", "tsv", "json", "jsonl", "parquet", "csv.gz", "csv.zip", "jsonl.xz", "csv.bz2")
    },
    "events": lambda tmp: _at(tmp / "events.out.tfevents.1", lambda path: formats.read(path, COLUMNS)),
}


@pytest.mark.parametrize("reader", READERS)
def test_files(reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path, call = READERS[reader](tmp_path)
    _feed(lambda content: (path.write_bytes(content), call(path)))


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file(reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that nobody writes to, a link to itself, a folder, a device without an end, and 40 GB of nothing.

    The latter are read as a table, and from the cache, which only this user can have written.
    """
    monkeypatch.chdir(tmp_path)
    path, call = READERS[reader](tmp_path)
    odd: list[Callable[[], object]] = [
        lambda: os.mkfifo(path),
        lambda: path.symlink_to(path),
        lambda: path.mkdir(),
        lambda: path.symlink_to("/dev/zero"),
        lambda: (path.touch(), os.truncate(path, 40 * 2**30)),
    ]
    for make in odd[:-1] if reader.startswith(("a table, ", "a cache", "events")) else odd:
        make()
        signal.alarm(60)  # ends the test where something waits
        try:
            with suppress(InputError):
                call(path)
        finally:
            signal.alarm(0)
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


TEXTS: dict[str, Callable[[str, Path], object]] = {
    "JSON": lambda text, tmp: parse_json(text, "it"),
    "seeds": lambda text, tmp: parse_seeds(text, "--seeds"),
    "a mapping": lambda text, tmp: parse_mapping(text),
    "a value": lambda text, tmp: with_values(read(write_study(tmp)), [f"lr={text}"]),
    "W&B's filters": lambda text, tmp: wandb_filters(text),
    "a study's name": lambda text, tmp: find(text, str(tmp)),
    "a folder": lambda text, tmp: Choice(have=(text,)).named(text, str(tmp)),
}


@pytest.mark.parametrize("reader", TEXTS)
def test_texts(reader: str, tmp_path: Path) -> None:
    _feed(lambda content: TEXTS[reader](content.decode(errors="surrogateescape"), tmp_path))


@pytest.mark.parametrize("kind", ["run", "config", "summary", "history"])
def test_what_wandb_holds(kind: str, finished: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the whole of a record, and as each value of a run's summary and configuration."""
    config = Record(finished.folder).config().identity() | {"run_id": finished.run_id, "study": "single"}
    summary = {"state": "finished", "status": {"step": 30, "attempts": []}, "protocol": {}, "study_file": ""}
    file = finished.folder.parent / "wandb" / "offline-run-1-a" / "run-a.wandb"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"")
    row = {"step": 0}
    for content in FILES:
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            continue
        for name in (None, *(config if kind == "config" else summary if kind == "summary" else ("step", "samples"))):
            odd = value if name is None else {name: value}
            said = [("config", {"update": config}), ("summary", {"update": summary}), ("history", {"item": row})]
            said.append((kind, {"update": odd, "item": odd, "config": odd, "start_time": value}))
            monkeypatch.setattr(wandb_runs, "inspected", lambda file, said=said: iter(said))
            _feed(lambda content: load(f"wandb-files:{finished.folder.parent}"), [content])


def _feed(call: Callable[[bytes], object], files: list[bytes] = FILES) -> None:
    """Each is read, or refused in words."""
    wrong = []
    for content in files:
        try:
            call(content)
        except InputError:
            continue
        except Exception as error:
            wrong.append(f"{content[:60]!r}: {error!r:.200}")
    if wrong:
        pytest.fail("\n".join([f"{len(wrong)} of {len(files)}", *wrong[:9]]), pytrace=False)
