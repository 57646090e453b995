"""What is carried to a machine without a network."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from experiments.gpu import kit
from sngan.config import InputError


def test_what_is_carried_needs_nothing_else() -> None:
    there = {re.sub(r"[-_.]+", "-", name) for name in kit.on_the_machine()}
    for name in kit.CARRIED:
        for requirement in importlib.metadata.requires(name) or []:
            wanted, _, marker = requirement.partition(";")
            if "extra" in marker or "python_version < '3.1" in marker:
                continue
            assert re.split(r"[^A-Za-z0-9._-]", wanted)[0].lower().replace("_", "-") in there, requirement
    assert not {"wandb", "wandb-workspaces", "ray", "tyro", "platformdirs"} & (there - set(kit.CARRIED))


def test_what_starts_the_check_needs_the_standard_library_alone() -> None:
    """It runs before the kit is unpacked."""
    seen: set[str] = set()

    def follow(module: str) -> None:
        path = ROOT / f"{module.replace('.', '/')}.py"
        if module in seen or not path.exists():
            return
        seen.add(module)
        for node in ast.parse(path.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in (*sys.stdlib_module_names, "experiments", "sngan"), f"{module}: {name}"
                follow(name)

    follow("experiments.gpu.check")
    assert "sngan.config" in seen


def test_too_much_to_travel_is_an_error(tmp_path: Path) -> None:
    mib = 2**20
    assert "10.0 MiB; with the working tree 40.0 of 60 MiB" in kit.checked_size(tmp_path, 10 * mib, 30 * mib)
    with pytest.raises(InputError, match="the kit may have 20 MiB"):
        kit.checked_size(tmp_path, 21 * mib, mib)
    with pytest.raises(InputError, match="too much to travel"):
        kit.checked_size(tmp_path, 15 * mib, 46 * mib)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="something else than a kit"):
        kit.make(tmp_path)
    with pytest.raises(InputError, match="something else than a kit"):
        kit.make(tmp_path / "mine.txt")
    with pytest.raises(InputError, match="there is no folder"):
        kit.make(tmp_path / "nowhere" / "kit")
    assert (tmp_path / "mine.txt").exists()
