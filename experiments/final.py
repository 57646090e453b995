"""What the final weights of a run say of it, read without torch: how it ended, and its files' digests."""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

_MOST_BYTES = 2**22
_MOST = 2**63  # of a number
_DAMAGE = (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, pickle.UnpicklingError, EOFError, ValueError,
           TypeError, KeyError, IndexError, AttributeError, RecursionError, MemoryError, OverflowError)  # fmt: skip


class _Reader(pickle.Unpickler):
    """Of PyTorch's files all but the tensors, which are None. No other object is made, and no code is run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _no_tensor
        if module == "torch" and name.endswith("Storage"):
            return None
        raise pickle.UnpicklingError(f"{module}.{name} is nothing that final weights hold")

    def persistent_load(self, pid: Any) -> None:
        return None


def _no_tensor(*arguments: Any) -> None:
    return None


def said_by(path: Path) -> dict[str, Any]:
    """How the run ended, in words and whole numbers, in the names of its status.

    Empty for any other file, such as a checkpoint to resume from, and if the file is damaged: its CRC-32 is checked.
    """
    if not path.is_file():  # a pipe would never end
        return {}
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            if archive.getinfo(name).file_size > _MOST_BYTES:
                return {}
            content = _Reader(io.BytesIO(archive.read(name))).load()
    except _DAMAGE:
        return {}
    if not isinstance(content, dict) or "state" not in content or "streams" in content:
        return {}
    said = {name: value for name, value in content.items() if _is_plain(value)}
    return said | {"error": said.pop("reason", None) or None}


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and abs(value) < _MOST)
