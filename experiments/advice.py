"""What an error means for a run and for those after it, in one line."""

from __future__ import annotations

import errno
import os

import torch

from sngan.config import RunConfig


def explain(error: BaseException, config: RunConfig) -> str:
    """One line: what went wrong; for a lack of memory also which run, and what to change."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if nothing_can_be_written(error):
        return f"{text}: free some space (or make the folder writable), then resume it with sngan sweep --retry failed"
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
        return (
            f"out of memory in {config.run_id} (batch_size {config.batch_size}, g_width {config.g_width}): use a "
            f"smaller batch_size or width, or fewer workers. {text}"
        )
    return text


def nothing_can_be_written(error: BaseException) -> str:
    """The reason if an error says that no further run can be written either, else nothing."""
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno in numbers else ""
