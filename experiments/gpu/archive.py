"""Finished runs in a few files that are whole up to wherever they are cut off.

runs-0.tar, runs-1.tar, ..: members `STUDY/study.yaml`, the whole plan, and `STUDY/RUN.tar.xz`, one for each run: its
record without checkpoint and timing, the last sample grid, and D's final weights as a safetensors file. A member is
written at once and flushed to the disk, so a cut loses the last one at most.
"""

from __future__ import annotations

import io
import lzma
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from experiments.export import WEIGHTS, discriminator_weights
from experiments.record import RESULTS, Record
from experiments.study import parse
from sngan.config import InputError
from sngan.files import MOST_BYTES

_DAMAGE = (tarfile.TarError, lzma.LZMAError, EOFError, OSError, ValueError, KeyError)  # what wrong bytes raise
MOST, BYTES = 6, 10 * 2**20  # archives, and of each
_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)/(study\.yaml|[A-Za-z0-9][A-Za-z0-9._-]*\.tar\.xz)")
_FILES = re.compile(r"[a-z]+\.(json|jsonl|safetensors)|samples/step-\d+\.png")


class Archives:
    """The archives of one folder, written one after the other; `full` if a run no longer fits."""

    def __init__(self, folder: Path, study: str, plan: str) -> None:
        self._folder, self._study, self._plan = folder, study, plan.encode()
        self._number, self.full = -1, False
        self.runs: dict[str, list[str]] = {}  # by archive

    def add(self, record: Record) -> None:
        """Append a run that ended, unless that would make a seventh archive."""
        content = packed(record)
        path = self._path()
        if path is None or path.stat().st_size + len(content) + 1024 > BYTES:
            if self._number + 1 == MOST:
                self.full = True
                return
            self._number += 1
            path = self._folder / f"runs-{self._number}.tar"
            append(path, f"{self._study}/study.yaml", self._plan)
        append(path, f"{self._study}/{record.run_id}.tar.xz", content)
        self.runs.setdefault(path.name, []).append(record.run_id)

    def _path(self) -> Path | None:
        return self._folder / f"runs-{self._number}.tar" if self._number >= 0 else None


def packed(record: Record) -> bytes:
    """The run's files, each as it is, as a compressed tar file."""
    kept = [record.config_path, record.protocol_path, record.metrics_path, record.evaluations_path]
    kept += [record.folder / "status.json", *sorted(record.samples_path.glob("step-*.png"))[-1:]]
    files = {str(path.relative_to(record.folder)): path.read_bytes() for path in kept if path.exists()}
    if weights := discriminator_weights(record):
        files[WEIGHTS] = weights
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        for name, content in files.items():
            tar.addfile(header(name, content), io.BytesIO(content))
    return buffer.getvalue()


def header(name: str, content: bytes) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    return header


def append(path: Path, name: str, content: bytes) -> None:
    """One member, without the zeros that end a tar file: readers take the file's end for them."""
    padding = b"\0" * (-len(content) % tarfile.BLOCKSIZE)
    with open(path, "ab") as file:
        file.write(header(name, content).tobuf() + content + padding)
        file.flush()
        os.fsync(file.fileno())


def unpack(archive: Path, runs_dir: Path) -> Iterator[str]:
    """Unpack an archive's runs as records below `runs_dir`; yields a line on whatever is not as it was written.

    Runs that are there already stay. Files of other names than a record's are never written.
    """
    if not archive.is_file():
        yield f"{archive.name} is not a file, and is left out"
        return
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                found = _NAME.fullmatch(member.name)
                content = tar.extractfile(member) if member.isreg() else None
                if not found or content is None:
                    yield f"{archive.name}: {member.name!r} is no run's, and is left out"
                elif note := _place(runs_dir / found[1], found[2], content.read()):
                    yield f"{archive.name}: {note}"
            if tar.offset != archive.stat().st_size:
                raise tarfile.ReadError("within the header of a run")
    except _DAMAGE as error:
        yield f"{archive.name} is cut off: what follows its last whole run is lost ({error})"


def _place(study_folder: Path, name: str, content: bytes) -> str:
    """Write a member's content; what is wrong with it, if something is."""
    study_folder.mkdir(parents=True, exist_ok=True)
    if name == "study.yaml":
        return _place_plan(study_folder / name, content.decode())
    run_id = name.removesuffix(".tar.xz")
    folder = study_folder / run_id
    if folder.exists():
        return f"{run_id} is there already, and stays as it is"
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:xz") as tar:
            members = [member for member in tar if member.isreg() and _FILES.fullmatch(member.name)]
            if large := [member.name for member in members if member.size > MOST_BYTES]:
                return f"{run_id} has more than {MOST_BYTES:,} bytes in {large[0]}, and is left out"
            contents = {member.name: tar.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    except _DAMAGE as error:
        return f"{run_id} is damaged, and left out ({error})"
    folder.mkdir()
    for file, held in contents.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(held)
    if _is_result(Record(folder)):
        return ""
    shutil.rmtree(folder)
    return f"{run_id} is not what its status says, and left out"


def _is_result(record: Record) -> bool:
    """Whether it is the whole record of the run that it is named after, which ended."""
    try:
        config, status = record.config(), record.status()
    except InputError:
        return False
    return config.run_id == record.run_id and status["state"] in RESULTS and not record.damage(status)


def _place_plan(path: Path, text: str) -> str:
    """Write a study's plan, unless one with more runs is there; what is wrong with it, if something is."""
    try:
        n_runs = len(parse(text).configs)
    except (InputError, yaml.YAMLError) as error:
        return f"the plan of {path.parent.name} is left out ({error})"
    if not path.exists() or n_runs > len(parse(path.read_text()).configs):
        path.write_text(text)
    return ""
