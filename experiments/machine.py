"""What the machine is and grants: devices, cores, memory, and the commit of the code that runs on it."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import io
import os
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from sngan.config import InputError


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_memory() -> None:
    """Keep what the process frees for what it allocates next, if the C library is glibc; no bit depends on it.

    Else each block of more than 32 MB, and the heap's end, goes back to the system at once: at batch 128 a step then
    waits for 8,000 page faults, a tenth of its time.
    """
    with suppress(OSError, AttributeError):  # no glibc
        c_library = ctypes.CDLL(None)
        mmap_threshold, trim_threshold = -3, -1  # of malloc.h
        c_library.mallopt(mmap_threshold, 2**30)
        c_library.mallopt(trim_threshold, 2**31 - 1)


def peak_memory_bytes(device: torch.device | None = None) -> int:
    """Of the allocator of a CUDA device; otherwise the largest resident size that this process had so far."""
    if device and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError, StopIteration):  # Linux; there getrusage counts what the parent had when it started this
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resolve_device(device: str) -> torch.device:
    """The torch device of `auto`, `cpu`, `cuda` or `cuda:N`. Raises InputError for one that is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
    except (RuntimeError, ValueError, OverflowError):
        resolved = None
    if resolved is None or resolved.type not in ("cpu", "cuda") or (resolved.type == "cpu" and device != "cpu"):
        raise InputError(f"device {device!r} is not known; expected auto, cpu, cuda or cuda:N")
    if resolved.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        resolved = torch.device("cuda", resolved.index or 0)
        if resolved.index >= count:
            raise InputError(f"device {device!r} is not there: this machine has {count} CUDA devices; try --device cpu")
    return resolved


def prepare_cuda() -> None:
    """Before CUDA starts in this process: cuBLAS that gives the same bits twice, and streams that do not wait."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")


def limit_memory(device: str, fraction: float) -> None:
    """Let this process have at most this part of a CUDA device's memory: runs that share it do not starve each other.

    Does nothing if `device` resolves to the CPU, or for a fraction of 1.
    """
    if fraction < 1 and (resolved := resolve_device(device)).type == "cuda":
        torch.cuda.set_per_process_memory_fraction(fraction, resolved)


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with open("/proc/cpuinfo") if Path("/proc/cpuinfo").exists() else io.StringIO() as lines:
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@functools.lru_cache
def git_state() -> dict[str, Any]:
    """Commit of the code that runs, and whether the checkout differs from it, None outside a checkout; and `git_tree`.

    That is what `git rev-parse COMMIT:sngan` prints for the training code as it stands, in a checkout or not: equal
    trees are equal code, whatever else changed between two commits.
    """
    root = Path(__file__).parents[1]
    tree = _tree(root / "sngan").hex() if (root / "sngan").is_dir() else None
    if not (root / ".git").exists():
        return {"git_commit": None, "git_tree": tree, "git_dirty": None}
    changes = _git("status", "--porcelain")
    dirty = None if changes is None else bool(changes)
    return {"git_commit": _git("rev-parse", "HEAD"), "git_tree": tree, "git_dirty": dirty}


def _tree(folder: Path) -> bytes:
    """The SHA-1 that git gives a folder without links; Python's caches and empty folders are no part of it."""

    def sha1(kind: str, content: bytes) -> bytes:
        return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).digest()

    entries = []
    for path in folder.iterdir():
        if path.is_dir() and path.name != "__pycache__" and (tree := _tree(path)) != sha1("tree", b""):
            entries.append((path.name + "/", "40000", tree))  # git sorts a folder as if it ended with a slash
        elif path.is_file():
            mode = "100755" if path.stat().st_mode & 0o100 else "100644"
            entries.append((path.name, mode, sha1("blob", path.read_bytes())))
    lines = (f"{mode} {name.removesuffix('/')}\0".encode() + digest for name, mode, digest in sorted(entries))
    return sha1("tree", b"".join(lines))


@functools.lru_cache
def git_tag() -> str:
    """The tag of the code's commit, or nothing."""
    return (_git("describe", "--tags", "--exact-match") if git_state()["git_commit"] else None) or ""


def _git(*arguments: str) -> str | None:
    """What git prints; None if it fails or is not there."""
    try:
        command = ["git", "-C", str(Path(__file__).parents[1]), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
