"""The program as W&B's "code" has it: what trained the run, wherever files are by then."""

from pathlib import Path

import pytest
from conftest import ROOT

from experiments.tracking import source
from experiments.tracking.source import program_files, snapshot


def test_all_modules_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {path.relative_to(ROOT) for name in ("sngan", "analysis") for path in (ROOT / name).rglob("*.py")}
    assert expected <= set(program_files())
    assert {path.suffix for path in program_files()} == {".py"}
    for name in ("sngan/a.py", "sngan/.hidden/b.py", "experiments/c.txt", "other/d.py"):  # as in site-packages
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1")
    monkeypatch.setattr(source, "CHECKOUT", tmp_path)
    assert program_files() == [Path("sngan/a.py")]


def test_it_is_kept_as_it_was_and_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "program" / "sngan" / "a.py"
    program.parent.mkdir(parents=True)
    program.write_text("x = 1")
    monkeypatch.setattr(source, "CHECKOUT", tmp_path / "program")
    first = snapshot(tmp_path / "code")
    assert first == snapshot(tmp_path / "code")
    program.write_text("x = 2")
    second = snapshot(tmp_path / "code")
    assert first
    assert second
    assert [(place / "sngan" / "a.py").read_text() for place in (first, second)] == ["x = 1", "x = 2"]
    assert sorted((tmp_path / "code").iterdir()) == sorted([first, second])
    (tmp_path / "file").write_text("")
    assert snapshot(tmp_path / "file" / "code") is None
