"""The program that trains a run, kept for W&B's "code" as it was when the run began."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]  # or where the packages are installed
_PACKAGES = ("sngan", "experiments", "analysis")


def program_files() -> list[Path]:
    """The packages' Python files from `CHECKOUT` on: those that git knows, or else all that are not hidden."""
    listed = subprocess.run(
        ["git", "-C", CHECKOUT, "ls-files", "-z", "--", *_PACKAGES], capture_output=True, text=True, check=False
    ).stdout.split("\0") if (CHECKOUT / ".git").exists() and shutil.which("git") else []  # fmt: skip
    found = [Path(name) for name in listed if name.endswith(".py")]
    if not found:
        found = [path.relative_to(CHECKOUT) for package in _PACKAGES for path in (CHECKOUT / package).rglob("*.py")]
    kept = (path for path in found if not any(part.startswith(".") for part in path.parts))
    return sorted(path for path in kept if (CHECKOUT / path).is_file())


def snapshot(folder: Path) -> Path | None:
    """A copy of the program within `folder`, named by its digest; runs of the same program share it.

    None if it cannot be written: what W&B lacks of the code hinders no run.
    """
    with suppress(OSError):
        contents = {path: (CHECKOUT / path).read_bytes() for path in program_files()}
        digest = hashlib.sha256()
        for path, content in contents.items():
            digest.update(f"{path.as_posix()}\0{len(content)}\0".encode() + content)
        place = folder / digest.hexdigest()[:16]
        if place.is_dir():
            return place
        beside = folder / f".{place.name}-{os.getpid()}"
        for path, content in contents.items():
            (beside / path).parent.mkdir(parents=True, exist_ok=True)
            (beside / path).write_bytes(content)
        with suppress(OSError):  # another run has just done the same
            beside.rename(place)
        shutil.rmtree(beside, ignore_errors=True)
        return place if place.is_dir() else None
    return None
