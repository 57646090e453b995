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
import tarfile
from collections.abc import Iterator
from pathlib import Path

from experiments.export import WEIGHTS, discriminator_weights
from experiments.record import RESULTS, Record

_DAMAGE = (tarfile.TarError, lzma.LZMAError, EOFError, OSError, ValueError)  # what reading raises where bytes are wrong
MOST, BYTES = 6, 10 * 2**20  # archives, and of each
_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)/(study\.yaml|[A-Za-z0-9][A-Za-z0-9._-]*\.tar\.xz)")
_FILES = re.compile(r"[a-z]+\.(json|jsonl|safetensors)|samples/step-\d+\.png")


class Archives:
    """The archives of one folder, written one after the other; `full` where a run no longer fits."""

    def __init__(self, folder: Path, study: str, plan: str) -> None:
        self._folder, self._study, self._plan = folder, study, plan.encode()
        self._number, self.full = -1, False
        self.runs: dict[str, list[str]] = {}  # by archive

    def add(self, record: Record) -> None:
        """Append a run that ended, unless that would make a seventh archive."""
        content = _packed(record)
        path = self._path()
        if path is None or path.stat().st_size + len(content) + 1024 > BYTES:
            if self._number + 1 == MOST:
                self.full = True
                return
            self._number += 1
            path = self._folder / f"runs-{self._number}.tar"
            _append(path, f"{self._study}/study.yaml", self._plan)
        _append(path, f"{self._study}/{record.run_id}.tar.xz", content)
        self.runs.setdefault(path.name, []).append(record.run_id)

    def _path(self) -> Path | None:
        return self._folder / f"runs-{self._number}.tar" if self._number >= 0 else None


def _packed(record: Record) -> bytes:
    """The run's files, each as it is, as a compressed tar file."""
    kept = [record.config_path, record.protocol_path, record.metrics_path, record.evaluations_path]
    kept += [record.folder / "status.json", *sorted(record.samples_path.glob("step-*.png"))[-1:]]
    files = {str(path.relative_to(record.folder)): path.read_bytes() for path in kept if path.exists()}
    if weights := discriminator_weights(record):
        files[WEIGHTS] = weights
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        for name, content in files.items():
            tar.addfile(_header(name, content), io.BytesIO(content))
    return buffer.getvalue()


def _header(name: str, content: bytes) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    return header


def _append(path: Path, name: str, content: bytes) -> None:
    """One member, without the zeros that end a tar file: readers take the file's end for them."""
    padding = b"\0" * (-len(content) % tarfile.BLOCKSIZE)
    with open(path, "ab") as file:
        file.write(_header(name, content).tobuf() + content + padding)
        file.flush()
        os.fsync(file.fileno())


def unpack(archive: Path, runs_dir: Path) -> Iterator[str]:
    """Unpack an archive's runs as records below `runs_dir`; yields a line on whatever is not as it was written.

    Runs that are there already stay. Files of other names than a record's are never written.
    """
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                found = _NAME.fullmatch(member.name)
                content = tar.extractfile(member)
                if not found or content is None:
                    yield f"{archive.name}: {member.name!r} is no run's, and is left out"
                elif note := _place(runs_dir / found[1], found[2], content.read()):
                    yield f"{archive.name}: {note}"
    except _DAMAGE as error:
        yield f"{archive.name} is cut off: what follows its last whole run is lost ({error})"


def _place(study_folder: Path, name: str, content: bytes) -> str:
    """Write a member's content; what is wrong with it, if something is."""
    study_folder.mkdir(parents=True, exist_ok=True)
    if name == "study.yaml":
        (study_folder / name).write_bytes(content)
        return ""
    run_id = name.removesuffix(".tar.xz")
    folder = study_folder / run_id
    if folder.exists():
        return f"{run_id} is there already, and stays as it is"
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            files = {member.name: tar.extractfile(member) for member in tar if _FILES.fullmatch(member.name)}
            contents = {name: file.read() for name, file in files.items() if file}
    except _DAMAGE as error:
        return f"{run_id} is damaged, and left out ({error})"
    for file, held in contents.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(held)
    record = Record(folder)
    status = record.status()
    if status["state"] in RESULTS and not record.damage(status):
        return ""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    return f"{run_id} is not what its status says, and left out"
