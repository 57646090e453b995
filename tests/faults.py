"""Faults done to real records, many times, and what becomes of them: `python tests/faults.py [--tries N] [--only 1,5]`.

A try survives if results have the bytes of an undisturbed run, or the fault is named, no number that comes from damaged
data is reported, and no command ends in a traceback or by a signal. Anything else is lost.
"""

from __future__ import annotations

import argparse
import base64
import errno
import io
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from conftest import ROOT, SMALL, refrozen, small, wait_for, write_study
from others import HereEngine
from PIL import Image

from analysis.events import Thresholds
from analysis.load import load
from analysis.page import figures, report
from analysis.page.content import content_of
from analysis.study import of_one_version, sound
from experiments import checkpoint, record
from experiments.cli import main as sngan_main
from experiments.engines import local
from experiments.ledger import fingerprint
from experiments.record import DIGESTS, Record, State, readable_rows
from experiments.run import execute

FIELDS = {"steps": 60, "log_every": 4, "n_evaluations": 4}
EXECUTION = {"threads": 1, "device": "cpu", "wandb": "disabled", "checkpoint_every": 15}
OTHER, VICTIM = (small(arm=arm, **FIELDS).run_id for arm in ("dcgan", "sn"))
RESULT_FILES = dict(zip(("metrics.jsonl", "config.json", "protocol.json", "evaluations.jsonl"), DIGESTS, strict=True))
NAMED = re.compile(r"(metrics|evaluations|timing)\.jsonl|(status|config|protocol|manifest)\.json|checkpoint|version \d")
MARKER, MAGENTA = "MARKER-7f3a91", (255, 0, 255)
SECONDS = 120  # that a command may take


class Try(NamedTuple):
    """`where` groups the tries of a row, `what` says enough to do it again; `loss` is empty if it survived."""

    where: str
    what: str
    loss: str


# --- commands, each in a process of its own ---


class Ended(NamedTuple):
    code: int  # negative: the signal that ended it
    out: str
    err: str

    @property
    def bad(self) -> str:
        """The traceback's last line, or the signal; nothing of a command that ended as a command does."""
        if self.code < 0:
            return f"ended by {signal.Signals(-self.code).name}"
        text = self.err + self.out
        if "Traceback (most recent call last)" not in text:
            return ""
        lines = [line for line in text[text.rindex("Traceback (most") :].splitlines()[1:] if line[:1].strip()]
        return f"traceback: {lines[0][:150]}" if lines else "traceback"


class Process(NamedTuple):
    pid: int
    folder: Path


def start(program: Callable[[], object]) -> Process:
    """A copy of this process, which has everything imported, runs the program and ends."""
    folder = Path(tempfile.mkdtemp(prefix="sngan-command-"))
    sys.stdout.flush()
    if pid := os.fork():
        return Process(pid, folder)
    code = 1
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
        program()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def finish(process: Process) -> Ended:
    deadline = time.monotonic() + SECONDS
    while not (found := os.waitpid(process.pid, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(process.pid, signal.SIGKILL)
            found = os.waitpid(process.pid, 0)
            break
        time.sleep(0.005)
    out, err = ((process.folder / name).read_text(errors="replace") for name in ("out", "err"))
    shutil.rmtree(process.folder)
    return Ended(os.waitstatus_to_exitcode(found[1]), out, err)


def sngan(*arguments: object) -> Ended:
    return finish(start(lambda: sngan_main([str(argument) for argument in arguments])))


def options(fields: Mapping[str, object]) -> list[str]:
    return [word for name, value in fields.items() for word in (f"--{name.replace('_', '-')}", str(value))]


# --- records ---


def content(one: Record) -> dict[str, bytes]:
    """What a run leaves that no fault may change without a word."""
    paths = [one.folder / name for name in RESULT_FILES]
    return {path.name: path.read_bytes() for path in [*paths, *one.samples_path.glob("*.png")] if path.exists()}


def differing(one: Record, truth: Mapping[str, bytes]) -> str:
    """Names of the files that are not those of the undisturbed run."""
    now = content(one)
    return ", ".join(sorted(name for name in now.keys() | truth if now.get(name) != truth.get(name)))


class Bench:
    """Undisturbed records, a killed run, and copies of both to be harmed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = write_study(root, "tiny", arm=["dcgan", "sn"], seed=[0], **FIELDS)
        self.finished, self.killed, self.now = root / "finished", root / "killed", root / "now"
        for arm in ("dcgan", "sn"):  # here, so that the copies of this process have read everything before
            execute(replace(small(arm=arm, **FIELDS), **EXECUTION), "tiny", root / "warm", lambda message: None)
        self.seconds = self.quiet(self.finished)
        self.truth = {run_id: content(Record(self.finished / "tiny" / run_id)) for run_id in (OTHER, VICTIM)}
        self.view = json.loads(self.look(self.finished).out)
        shutil.copytree(self.finished, self.killed)
        shutil.rmtree(self.killed / "tiny" / VICTIM)
        finish(start(lambda: (break_at(Record, "append", 14, dies, "after"), sngan_main(self.train(self.killed)))))

    def quiet(self, runs: Path) -> float:
        """The study, undisturbed; returns the seconds of one run."""
        assert sngan(*self.sweep(runs)).code == 0
        shutil.rmtree(runs / "tiny" / VICTIM)
        begun = time.monotonic()
        assert sngan(*self.train(runs)).code == 0
        return time.monotonic() - begun

    def sweep(self, runs: Path) -> list[str]:
        execution = {name: EXECUTION[name] for name in ("wandb", "device", "checkpoint_every")}
        return ["sweep", str(self.path), *options(execution), "--runs-dir", str(runs)]

    def train(self, runs: Path) -> list[str]:
        return ["train", *options(SMALL | FIELDS | EXECUTION | {"arm": "sn", "study": "tiny", "runs_dir": runs})]

    def copy(self, of: Path) -> Record:
        """The victim in a fresh copy, `self.now`."""
        shutil.rmtree(self.now, ignore_errors=True)
        shutil.copytree(of, self.now)
        return Record(self.now / "tiny" / VICTIM)

    def empty(self) -> Record:
        shutil.rmtree(self.now, ignore_errors=True)
        self.now.mkdir()
        return Record(self.now / "tiny" / VICTIM)

    def look(self, runs: Path) -> Ended:
        """What an analysis gets, as JSON: damage, columns and rows of each run."""
        return finish(start(lambda: print(json.dumps(viewed(runs / "tiny")))))

    def status(self) -> Ended:
        return sngan("status", self.path, "--json", "--runs-dir", self.now)


def viewed(folder: Path) -> dict[str, Any]:
    study = sound(of_one_version(load(folder)))
    content_of(study, [], Thresholds())
    runs = {}
    for row in study.runs.to_dict("records"):
        runs[row["run_id"]] = {str(name): word(value) for name, value in row.items()}
    for run_id, rows in study.history.groupby("run_id"):
        numbers = rows.select_dtypes("number").dropna(axis=1, how="all").astype(float)
        runs[run_id]["rows"] = numbers[sorted(numbers)].to_csv(index=False)
    return {"warnings": list(study.warnings), "runs": runs}


def word(value: Any) -> str | None:
    """Of a number the same, whatever its column holds beside it."""
    if pd.isna(value):
        return None
    return f"{value:.17g}" if isinstance(value, int | float) else str(value)


# --- what must hold ---


def first(*losses: str) -> str:
    return next(filter(None, losses), "")


def wrong(truth: dict[str, Any], look: Ended, said: str) -> str:
    """What is reported that is not so, or missing, and not named; `said` by other commands."""
    if look.code:
        return "" if NAMED.search(look.err) else f"a report is refused, and says only: {look.err.strip()[-150:]}"
    view = json.loads(look.out)
    for run_id, expected in truth["runs"].items():
        now = view["runs"][run_id]
        words = " ".join([*map(str, view["warnings"]), now["damage"] or "", now["error"] or "", said])
        named, counts = bool(NAMED.search(words)), now["state"] in ("finished", "diverged")
        changed = {
            n: f"{expected[n]} -> {now.get(n)}"
            for n in expected
            if n not in ("rows", "metrics_sha256") and expected[n] != now.get(n)
        }
        if now.get("rows") != expected["rows"]:
            if not named:
                return "rows are missing without a word" if "rows" not in now else "other rows without a word"
            if "rows" in now and counts:
                return "other rows count, though the fault is named"
        if changed and not named:
            return f"without a word: {', '.join(changed)}"
        if counts and not now["damage"]:
            numbers = [n for n in changed if n not in ("attempts", "error") and now.get(n) is not None]
            if numbers:
                return f"named, and yet reported: {', '.join(numbers)}"
    return ""


def stamps(one: Record) -> list[int | None]:
    paths = (one.metrics_path, one.evaluations_path, one.checkpoint_path)
    return [path.stat().st_mtime_ns if path.exists() else None for path in paths]


def run_all(commands: Mapping[str, Callable[[], Ended]]) -> tuple[dict[str, Ended], str]:
    """How each ended, as far as the first that ended badly, and that one."""
    ended: dict[str, Ended] = {}
    for name, command in commands.items():
        ended[name] = command()
        if ended[name].bad:
            return ended, f"{name}: {ended[name].bad}"
    return ended, ""


def still_finished(bench: Bench, one: Record, freeze: bool = False) -> str:
    """Of a finished record to which something was done: nothing trained again, nothing reported that is not so."""
    before = stamps(one)
    frozen = {"freeze": lambda: sngan("report", one.folder.parent, "--freeze", bench.now / "frozen", "--no-report")}
    commands = {"load": lambda: bench.look(bench.now), "status": bench.status, **(frozen if freeze else {})}
    commands |= {"sweep": lambda: sngan(*bench.sweep(bench.now)), "load after the sweep": commands["load"]}
    ended, bad = run_all(commands)
    return bad or first(
        "it is trained again" if stamps(one) != before else "",
        wrong(bench.view, ended["load"], reasons(ended["status"])),
        wrong(bench.view, ended["load after the sweep"], reasons(ended["status"]) + ended["sweep"].err),
    )


def reasons(status: Ended) -> str:
    """What `status --json` says beside states, or its error."""
    if status.code:
        return status.err
    found = json.loads(status.out)
    return " ".join(str(text) for run in found["runs"] for text in (run["error"], run["next"])) + str(found["notes"])


def well_resumed(bench: Bench, one: Record, at_least: int = 0) -> str:
    """Of an interrupted record to which something was done: the sweep ends it with the right bytes, or names it."""
    commands = {"load": lambda: bench.look(bench.now), "status": bench.status}
    commands |= {"sweep": lambda: sngan(*bench.sweep(bench.now)), "status after the sweep": bench.status}
    ended, bad = run_all(commands)
    if bad:
        return bad
    now, names = one.status(), differing(one, bench.truth[one.run_id])
    if not names and now["state"].is_result:
        steps = [[row["step"] for row in readable_rows(path)[0]] for path in (one.timing_path, timing(bench))]
        resumed = now["attempts"][-1]["resumed_from"] if now["attempts"] else 0
        return first(
            "rows of timing.jsonl are missing or doubled without a word"
            if steps[0] != steps[1] and one.timing_path.name not in ended["sweep"].err
            else "",
            f"work is thrown away: resumed from step {resumed}, not {at_least}" if resumed < at_least else "",
        )
    said = ended["sweep"].err + reasons(ended["status after the sweep"])
    if not NAMED.search(said):
        return f"{now['state']} without a word of it, other bytes: {names}"
    return f"named, but counted with other bytes: {names}" if now["state"].is_result and not one.damage(now) else ""


def timing(bench: Bench) -> Path:
    return Record(bench.finished / "tiny" / VICTIM).timing_path


def ends_well(bench: Bench, line: list[str], names: tuple[str, ...] = (VICTIM,)) -> str:
    """The same command again: it ends, and with the bytes of an undisturbed run."""
    ended = sngan(*line)
    records = [Record(bench.now / "tiny" / name) for name in names]
    return first(
        ended.bad,
        f"the same command again ends with {ended.code}: {ended.err.strip()[-150:]}" if ended.code else "",
        *(f"state {state}" for one in records if (state := one.status()["state"]) is not State.FINISHED),
        *(f"other bytes: {files}" for one in records if (files := differing(one, bench.truth[one.run_id]))),
    )


# --- rows ---


def seeded(row: int, tries: int) -> Iterator[tuple[int, random.Random]]:
    return ((i, random.Random(f"{row}.{i}")) for i in range(tries))


def kills(bench: Bench, tries: int) -> Iterator[Try]:
    """`kill -9` of `sngan train` or `sngan sweep` at random moments, one to three times, then the same again"""
    for i, rng in seeded(1, tries):
        name, line = rng.choice([("train", bench.train(bench.now)), ("sweep", bench.sweep(bench.now))])
        bench.empty()
        delays, bad = [], ""
        for _ in range(rng.randint(1, 3)):
            process = start(lambda line=line: sngan_main(line))
            delays.append(round(rng.uniform(0, 0.9 * bench.seconds), 3))
            time.sleep(delays[-1])
            os.kill(process.pid, signal.SIGKILL)
            finish(process)
            bad = bad or bench.status().bad
        names = (OTHER, VICTIM) if name == "sweep" else (VICTIM,)
        yield Try(name, f"try {i}, after {delays} s", first(bad, ends_well(bench, line, names)))


def signals(bench: Bench, tries: int) -> Iterator[Try]:
    """SIGTERM, SIGINT or SIGHUP to `sngan train` at a random moment: exit code 3, `interrupted`; then the same again"""
    for i, rng in seeded(2, tries):
        number = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)[i % 3]
        loss, late = "", True
        while late:
            one = bench.empty()
            process = start(lambda: sngan_main(bench.train(bench.now)))
            wait_for((one.folder / "status.json").exists)
            time.sleep(delay := rng.uniform(0, 0.6 * bench.seconds))
            os.kill(process.pid, number)
            ended, state = finish(process), one.status()["state"]
            late = ended.code == 0 and state is State.FINISHED
            right = ended.code == 3 and state is State.INTERRUPTED
            loss = first(ended.bad, "" if right else f"exit code {ended.code}, state {state}")
        again = ends_well(bench, bench.train(bench.now))
        yield Try(number.name, f"try {i}, {delay:.2f} s after status.json is there", first(loss, again))


def workers(bench: Bench, tries: int) -> Iterator[Try]:
    """`kill -9` of the worker of a real `sngan sweep` once in each run, at a random row; the sweep continues"""
    folder = bench.root / "workers"
    folder.mkdir()
    path = write_study(folder, "many", arm=["sn"], seed=list(range(tries)), **FIELDS)
    line = [sys.executable, "-m", "experiments", "sweep", str(path), *bench.sweep(folder)[2:], "--workers", "1"]
    with open(folder / "errors", "wb") as errors:
        sweep = subprocess.Popen(line, stdout=errors, stderr=errors, env=os.environ | {"PYTHONPATH": str(ROOT)})
    configs = [small(arm="sn", seed=seed, **FIELDS) for seed in range(tries)]
    waiting = {config.run_id: random.Random(f"3.{i}").randint(1, 13) for i, config in enumerate(configs)}
    killed: dict[str, int] = {}
    while sweep.poll() is None:
        for run_id, rows in list(waiting.items()):
            metrics = folder / "many" / run_id / "metrics.jsonl"
            if metrics.exists() and metrics.read_bytes().count(b"\n") >= rows:
                killed[run_id] = waiting.pop(run_id)
                for pid in worker_of(sweep.pid):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    said = (folder / "errors").read_text()
    for config in configs:
        execute(replace(config, **EXECUTION), "many", folder / "quiet", lambda message: None)
        one, truth = Record(folder / "many" / config.run_id), content(Record(folder / "quiet" / config.run_id))
        status, files = one.status(), differing(one, truth)
        loss = first(
            Ended(sweep.returncode, said, "").bad,
            f"the sweep ends with {sweep.returncode}" if sweep.returncode else "",
            f"state {status['state']}" if status["state"] is not State.FINISHED else "",
            f"{len(status['attempts'])} attempts" if len(status["attempts"]) != 2 else "",
            f"other bytes: {files}" if files else "",
        )
        yield Try("worker", f"{config.run_id} after {killed.get(config.run_id)} rows", loss)


def worker_of(sweep: int) -> list[int]:
    children = Path(f"/proc/{sweep}/task/{sweep}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def raises(error: BaseException) -> Callable[[], None]:
    def now() -> None:
        raise error

    return now


WRITES: dict[str, tuple[tuple[Any, str], ...]] = {
    "append of a row": ((Record, "append"),),
    "atomic write": ((record, "write_atomically"), (checkpoint, "write_atomically")),
    "fsync": ((os, "fsync"),),
    "rename": ((os, "replace"),),
}
CRASHES: dict[str, Callable[[], None]] = {
    "disk full": raises(OSError(errno.ENOSPC, "No space left on device")),
    "I/O error": raises(OSError(errno.EIO, "Input/output error")),
    "SystemExit": raises(SystemExit(1)),
    "kill -9": dies,
}


def break_at(
    owner: Any, name: str, k: int, crash: Callable[[], None], when: str, calls: Iterator[int] | None = None
) -> None:
    """From now on in this process the k-th call crashes: before it, after it, or (torn) in the middle of a row."""
    real, calls = getattr(owner, name), calls or itertools.count(1)

    def broken(*arguments: Any, **named: Any) -> Any:
        if next(calls) != k:
            return real(*arguments, **named)
        if when != "before":
            real(*arguments, **named)
        if when == "torn":
            os.truncate(path := arguments[0].metrics_path, path.stat().st_size - 40)
        return crash()

    setattr(owner, name, broken)


def n_writes(bench: Bench) -> dict[str, int]:
    """How often an undisturbed run does each."""
    calls = {what: itertools.count(1) for what in WRITES}

    def counted() -> None:
        for what, places in WRITES.items():
            for owner, name in places:
                break_at(owner, name, 0, dies, "before", calls[what])
        bench.empty()
        execute(small(arm="sn", **FIELDS, checkpoint_every=15), "tiny", bench.now / "tiny", lambda message: None)
        print(json.dumps({what: next(of) - 1 for what, of in calls.items()}))

    return json.loads(finish(start(counted)).out)


def crashes(bench: Bench, tries: int) -> Iterator[Try]:
    """an OSError, SystemExit or `kill -9` at a random one of the run's writes, before or after it; then resumed"""
    numbers = n_writes(bench)
    for i, rng in seeded(4, tries):
        what, crash = list(WRITES)[i % 4], list(CRASHES)[i // 4 % 4]
        when = rng.choice(["before", "after"] + ["torn"] * ("append" in what))
        k = rng.randint(1, numbers[what])

        def program(what: str = what, crash: str = crash, when: str = when, k: int = k) -> None:
            calls = itertools.count(1)
            for owner, name in WRITES[what]:
                break_at(owner, name, k, CRASHES[crash], when, calls)
            sngan_main(bench.train(bench.now))

        bench.empty()
        ended = finish(start(program))
        bad = "" if crash == "kill -9" else ended.bad
        bad = bad or bench.status().bad
        yield Try(what, f"{crash} {when} call {k}", first(bad, ends_well(bench, bench.train(bench.now))))


# what is done to a file: each returns what it did, for the one who does it again


def flip(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    place, bit = rng.randrange(len(data)), rng.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {place} of {len(data)} flipped, which was {chr(data[place] ^ 1 << bit)!r}"


def digit(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    place = rng.choice([i for i, byte in enumerate(data) if chr(byte).isdigit() and byte < 128])
    before, data[place] = data[place], ord(rng.choice([d for d in "0123456789" if ord(d) != data[place]]))
    path.write_bytes(data)
    around = bytes(data[max(0, place - 30) : place + 1]).decode(errors="replace")
    return f"digit {chr(before)} at byte {place} changed to {chr(data[place])}: ..{around!r}"


def cut(path: Path, rng: random.Random) -> str:
    size = rng.randrange(1, path.stat().st_size)
    os.truncate(path, size)
    return f"cut to {size} bytes"


def emptied(path: Path, rng: random.Random) -> str:
    path.write_bytes(b"")
    return "emptied"


def deleted(path: Path, rng: random.Random) -> str:
    path.unlink()
    return "deleted"


HARM = (flip, digit, cut, emptied, deleted)


def edited(**changes: Callable[[Any], Any]) -> Callable[[Path, random.Random], str]:
    """One of these fields of status.json set to something else that could stand there."""

    def edit(path: Path, rng: random.Random) -> str:
        status, name = json.loads(path.read_text()), rng.choice(list(changes))
        before, status[name] = status.get(name), changes[name](status.get(name))
        path.write_text(json.dumps(status, indent=2) + "\n")
        return f"{name} changed from {before!r} to {status[name]!r}"

    return edit


def other_digest(digest: str) -> str:
    return ("0" if digest[0] != "0" else "1") + digest[1:]


STATUS_FIELDS = {
    "step": edited(step=lambda step: step - 20),
    "training_version": edited(training_version=lambda version: version - 1),
    "state": edited(state=lambda state: "diverged"),
    "state, not a result": edited(state=lambda state: random.choice(["failed", "interrupted", "running", "missing"])),
    "digests": edited(**dict.fromkeys(DIGESTS, other_digest)),
    "digests, removed": edited(**dict.fromkeys(DIGESTS, lambda digest: None)),
    "error": edited(error=lambda error: "non-finite: loss/d"),
}


def harmed_results(bench: Bench, tries: int) -> Iterator[Try]:
    """a bit flipped, a digit changed, cut, emptied or deleted, in a file of a FINISHED record; then read and swept"""
    harms: list[tuple[str, str, Callable[[Path, random.Random], str] | None]] = []
    harms += [(name, name, None) for name in (*RESULT_FILES, "status.json", "checkpoint.pt", "timing.jsonl")]
    harms += [("rows that are kept", "../.history.cache", None)]
    harms += [(f"status.json: {field}", "status.json", edit) for field, edit in STATUS_FIELDS.items()]
    for where, name, edit in harms:
        for i, rng in seeded(5, tries if edit is None else max(4, tries // 3)):
            one = bench.copy(bench.finished)
            random.seed(i)
            did = (edit or HARM[i % 5])(one.folder / name, rng)
            loss = still_finished(bench, one, name == "evaluations.jsonl")  # which nothing else reads
            if name == "checkpoint.pt":
                sampled = sngan("sample", one.folder)
                silent = not sampled.code and HARM[i % 5] in (cut, emptied, deleted)
                loss = first(loss, sampled.bad, "its samples are made without a word" if silent else "")
            yield Try(where, did, loss)


KEPT = {
    "checkpoint.pt": 30,
    "metrics.jsonl": 0,
    "timing.jsonl": 0,
    "evaluations.jsonl": 0,
}  # resumes from there or later


def harmed_killed(bench: Bench, tries: int) -> Iterator[Try]:
    """the same in a file of a run that was KILLED at step 52 and has checkpoints of steps 30 and 45; then swept"""
    names = (*RESULT_FILES, "timing.jsonl", "status.json", "checkpoint.pt", "checkpoint-previous.pt")
    for name in names:
        for i, rng in seeded(6, tries):
            one = bench.copy(bench.killed)
            did = HARM[i % 5](one.folder / name, rng)
            yield Try(name, did, well_resumed(bench, one, KEPT.get(name, 45)))


# --- hostile content ---


def line(text: str) -> Callable[[bytes, str, random.Random], bytes]:
    """Adds a line, somewhere; KEY stands for a name that the file has."""

    def add(data: bytes, key: str, rng: random.Random) -> bytes:
        lines = data.splitlines(keepends=True)
        at = rng.randint(0, len(lines))
        new = text.replace("KEY", key).encode("latin-1") + b"\n"
        return b"".join([*lines[:at], new, *lines[at:]])

    return add


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


LINES = {
    "nested 10,000 deep": line(f'{{"step": 58, "KEY": {nested(10_000)}}}'),
    "nested 100,000 deep": line(f'{{"step": 58, "KEY": {nested(100_000)}}}'),
    "a new name, nested 10,000 deep": line(f'{{"step": 58, "new": {nested(10_000)}}}'),
    "a new name, nested 100,000 deep": line(f'{{"step": 58, "new": {nested(100_000)}}}'),
    "a nested object": line('{"step": 58, "KEY": {"a": {"b": [1]}}}'),
    "a string": line('{"step": 58, "KEY": "high"}'),
    "NaN": line('{"step": 58, "KEY": NaN}'),
    "a number of 400 digits": line(f'{{"step": 58, "KEY": 1{"0" * 400}}}'),
    "a number of 5,000 digits": line(f'{{"step": 58, "KEY": 1{"0" * 5000}}}'),
    "a step of 30 digits": line(f'{{"step": 1{"0" * 30}}}'),
    "a step twice": line('{"step": 32, "KEY": 9}'),
    "a negative step": line('{"step": -4, "KEY": 9}'),
    "a fractional step": line('{"step": 32.5, "KEY": 9}'),
    "invalid UTF-8": line('{"step": 58, "\xff\xfe": 9}'),
    "a line of 10 MB": line(f'{{"step": 58, "KEY": "{"x" * 10_000_000}"}}'),
    "an empty object": line("{}"),
    "a byte order mark": lambda data, key, rng: b"\xef\xbb\xbf" + data,
    "CRLF": lambda data, key, rng: data.replace(b"\n", b"\r\n"),
}
KEYS = {"metrics.jsonl": "loss/d", "evaluations.jsonl": "class_counts"}


def typed(value: Any) -> Callable[[bytes, str, random.Random], bytes]:
    def change(data: bytes, key: str, rng: random.Random) -> bytes:
        fields = json.loads(data)
        fields[rng.choice(list(fields))] = value
        return json.dumps(fields, indent=2).encode() + b"\n"

    return change


DOCUMENTS: dict[str, Callable[[bytes, str, random.Random], bytes]] = {
    "nested 10,000 deep": lambda data, key, rng: nested(10_000).encode(),
    "nested 100,000 deep": lambda data, key, rng: nested(100_000).encode(),
    "a field nested 100,000 deep": lambda data, key, rng: data.replace(b": ", b": " + nested(100_000).encode(), 1),
    "empty": lambda data, key, rng: b"",
    "a list": lambda data, key, rng: b"[1]",
    "null": lambda data, key, rng: b"null",
    "invalid UTF-8": lambda data, key, rng: data.replace(b'": ', b'\xff\xfe": ', 1),
    "a field that is a list": typed([]),
    "a field that is an object": typed({"a": {}}),
    "a field that is null": typed(None),
    "a field that is a word": typed("word"),
    "a field of 400 digits": typed(10**400),
    "a byte order mark": lambda data, key, rng: b"\xef\xbb\xbf" + data,
    "CRLF": lambda data, key, rng: data.replace(b"\n", b"\r\n"),
}


def hostile(bench: Bench, tries: int) -> Iterator[Try]:
    """hostile lines or documents in finished and killed runs; read, reported, swept. `digests fit`: as if ours"""
    files = {name: LINES for name in KEYS} | dict.fromkeys(("status.json", "config.json", "protocol.json"), DOCUMENTS)
    number = itertools.count()
    for name, edits in files.items():
        kinds = ["finished", *(["finished, digests fit"] if name in RESULT_FILES else []), "killed"]
        for kind, (what, edit), (_, rng) in itertools.product(kinds, edits.items(), list(seeded(7, tries))):
            one = bench.copy(bench.killed if kind == "killed" else bench.finished)
            path = one.folder / name
            path.write_bytes(edit(path.read_bytes(), KEYS.get(name, ""), random.Random(rng.random())))
            if "fit" in kind:
                status = one.status()
                one.write_status(status | {digest: one.digests()[digest] for digest in DIGESTS})
            told = sngan("report", bench.now / "tiny").bad if next(number) % 20 == 3 else ""
            loss = well_resumed(bench, one) if kind == "killed" else still_finished(bench, one, name in KEYS)
            yield Try(f"{name}, {kind}", what, first(f"report: {told}" if told else "", loss))


# --- links ---


def marked(path: Path) -> dict[str, bytes]:
    """What a link may lead to: a text, and the file's like with a mark in it."""
    if path.suffix == ".png":
        buffer = io.BytesIO()
        Image.new("RGB", Image.open(path).size, MAGENTA).save(buffer, "PNG")
        return {"a marked picture": buffer.getvalue()}
    found = {"a marked text": f"{MARKER}\n".encode()}
    if path.suffix == ".jsonl":
        found["the same with a mark"] = path.read_bytes().replace(b'{"step"', f'{{"{MARKER}": 1.0, "step"'.encode())
    elif path.name == "status.json":
        found["the same with a mark"] = re.sub(rb'"device_name": "[^"]*"', mark("device_name"), path.read_bytes())
    elif path.name == "protocol.json":
        found["the same with a mark"] = re.sub(rb'"feature_net": "[^"]*"', mark("feature_net"), path.read_bytes())
    elif path.name == "config.json":
        found["the same with a mark"] = path.read_bytes().replace(b"{", f'{{"{MARKER}": "{MARKER}",'.encode(), 1)
    return found


def mark(name: str) -> bytes:
    return f'"{name}": "{MARKER}"'.encode()


def link(path: Path, data: bytes, outside: Path) -> None:
    outside.write_bytes(data)
    path.unlink()
    path.symlink_to(outside)


def leaked(report: Path) -> str:
    """The file of a report in which the mark, or a pixel of its colour, is; nothing if there is none."""
    for path in (path for path in sorted(report.rglob("*")) if path.is_file()):
        data = path.read_bytes()
        pictures = [data] if path.suffix == ".png" else []
        for encoded in re.findall(rb"data:image/png;base64,\s*([A-Za-z0-9+/=\s]+)", data):
            pictures.append(base64.b64decode(encoded))
        if MARKER.encode() in data:
            return f"the marked text is in report/{path.relative_to(report)}"
        if any(map(is_marked, pictures)):
            return f"the marked picture is in report/{path.relative_to(report)}"
    return ""


def is_marked(png: bytes) -> bool:
    colours = Image.open(io.BytesIO(png)).convert("RGB").getcolors(2**24) or []
    return any(colour == MAGENTA and number > 100 for number, colour in colours)


def links(bench: Bench, tries: int) -> Iterator[Try]:
    """a symbolic link out of the folder in place of a file; neither a mark nor a picture behind it is in the report"""
    names = (*RESULT_FILES, "timing.jsonl", "status.json", "samples/step-000060.png", "samples/real.png")
    places = [(name, of) for name in names for of in ("finished", "killed")]
    places.remove(("samples/step-000060.png", "killed"))
    for _ in range(tries):
        for name, of in places:
            kinds = marked(getattr(bench, of) / "tiny" / VICTIM / name)
            for what, data in kinds.items():
                if of == "killed" and (what == "a marked text" or name.endswith("real.png")):
                    continue
                one = bench.copy(getattr(bench, of))
                shutil.rmtree(bench.now / "tiny" / OTHER)
                link(one.folder / name, data, bench.root / "outside")
                ended = sngan("report", bench.now / "tiny", "--figures", "png")
                yield Try(
                    f"a {of} record", f"{name} -> {what}", first(leaked(bench.now / "tiny" / "report"), ended.bad)
                )
        yield from frozen_links(bench)


def frozen_links(bench: Bench) -> Iterator[Try]:
    """In a frozen folder, with the manifest as it was, or made to fit what the link leads to."""
    fresh, folder = bench.root / "fresh", bench.root / "frozen"
    if not fresh.exists():
        sngan("report", bench.finished / "tiny", "--freeze", fresh, "--no-report")
    part = next((fresh / "parts").iterdir()).relative_to(fresh)
    picture = f"{part}/samples/{VICTIM}/step-000060.png"
    texts = [f"{part}/{name}.parquet" for name in ("runs", "history", "evaluations")]
    for name, fits in [*((n, False) for n in ("manifest.json", texts[0], picture)), (texts[0], True), (picture, True)]:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(fresh, folder)
        path = folder / name
        if fits and name == texts[0]:
            refrozen(folder, status=lambda status: status | {"attempts": [{"device_name": MARKER}]})
            link(path, path.read_bytes(), bench.root / "outside")
        else:
            link(path, next(iter(marked(path).values())), bench.root / "outside")
        if fits and name == picture:
            manifest = json.loads((folder / "manifest.json").read_text())
            digest = record.hashlib.sha256(path.read_bytes()).hexdigest()
            manifest["parts"][part.name]["files"][str(Path(name).relative_to(part))] = digest
            (folder / "manifest.json").write_text(json.dumps(manifest | {"sha256": fingerprint(manifest)}))
        ended = sngan("report", f"frozen:{folder}", "--figures", "png")
        where = "a frozen folder" + (", digests fit" if fits else "")
        yield Try(where, f"{Path(name).name} -> a mark", first(leaked(folder / "report"), ended.bad))


def full_disks(bench: Bench, tries: int) -> Iterator[Try]:
    """a disk of 30 to 1,500 kB that fills up; when there is room, the same with `--retry failed`"""
    if os.geteuid() or shutil.which("mount") is None:
        return
    for i, rng in seeded(9, tries):
        bench.empty()
        size = int(30 * 50 ** rng.random())
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", bench.now]).returncode:
            return  # mounts are forbidden here
        try:
            line = [*bench.sweep(bench.now), "--retry", "failed"]
            ended, status = sngan(*line), bench.status()
            subprocess.run(["mount", "-o", "remount,size=100m", bench.now], check=True)
            loss = first(ended.bad, status.bad, ends_well(bench, line, (OTHER, VICTIM)))
        finally:
            subprocess.run(["umount", bench.now], check=True)
        yield Try("disk", f"try {i}, {size} kB", loss)


# row -> (function, tries at each place)
ROWS: dict[int, tuple[Callable[[Bench, int], Iterator[Try]], int]] = {
    1: (kills, 20), 2: (signals, 18), 3: (workers, 6), 4: (crashes, 48), 5: (harmed_results, 8),
    6: (harmed_killed, 8), 7: (hostile, 1), 8: (links, 1), 9: (full_disks, 10),
}  # fmt: skip


def table(found: Mapping[int, list[Try]]) -> str:
    lines = ["| | what is done | where | tries | survived | lost |", "|---|---|---|---|---|---|"]
    for row, tries in found.items():
        what = str(ROWS[row][0].__doc__)
        if not tries:
            lines.append(f"| {row} | {what} | not possible here | 0 | | |")
        for where, number in Counter(one.where for one in tries).items():
            lost = sum(one.where == where and bool(one.loss) for one in tries)
            lines.append(f"| {row} | {what} | {where} | {number} | {number - lost} | {lost} |")
            what = ""
    return "\n".join(lines)


def losses(found: Mapping[int, list[Try]]) -> str:
    """Each distinct loss of a place once, with the first try that had it."""
    seen: dict[tuple[int, str, str], list[Try]] = defaultdict(list)
    for row, tries in found.items():
        for one in filter(lambda one: one.loss, tries):
            seen[row, one.where, re.sub(r"\d+", "#", one.loss)].append(one)
    return "\n".join(f"- {k[0]}, {k[1]} ({len(of)}): {of[0].what}: {of[0].loss}" for k, of in seen.items())


def gathered(row: int, bench: Bench, tries: int) -> list[Try]:
    """The row's tries; those before an error of this script, or Ctrl-C, are shown all the same."""
    found, (function, usual) = [], ROWS[row]
    try:
        for one in function(bench, tries or usual):
            found.append(one)
    except (Exception, KeyboardInterrupt):
        found.append(Try("this script", "", " ".join(traceback.format_exc().split())[-300:]))
    return found


def cpu_seconds() -> float:
    return sum(os.times()[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tries", type=int, default=0, help="tries of each place of a row; default: a row's own")
    parser.add_argument("--only", default=",".join(map(str, ROWS)), help="rows, such as 1,5")
    parser.add_argument("--json", default="", help="also write every try there")
    given = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(("WANDB_", "SNGAN_"))]:
        del os.environ[name]
    local.LocalEngine = HereEngine  # sweeps train in their own process; the real ones are commands of their own
    draw = figures.draw  # a report's figures of numbers take two thirds of its time
    report.figures.draw = lambda *given: [one for one in draw(*given) if one.kind == "samples"]
    torch.set_num_threads(1)
    found: dict[int, list[Try]] = {}
    with tempfile.TemporaryDirectory(prefix="sngan-faults-") as root:
        os.environ["XDG_CACHE_HOME"] = f"{root}/cache"
        bench = Bench(Path(root))
        for row in map(int, given.only.split(",")):
            begun, busy = time.monotonic(), cpu_seconds()
            found[row] = gathered(row, bench, given.tries)
            took = f"{time.monotonic() - begun:.0f} s, {cpu_seconds() - busy:.0f} s of a core"
            print(f"row {row}: {len(found[row])} tries, {took}", file=sys.stderr, flush=True)
    print(table(found), losses(found), sep="\n\n")
    if given.json:
        everything = [{"row": row, **one._asdict()} for row, tries in found.items() for one in tries]
        Path(given.json).write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
