"""Frozen data give the same study, the same page, and nothing where a byte has changed."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from analysis.freeze import freeze, thaw
from analysis.load import load
from analysis.report import write_report
from sngan.config import InputError


@pytest.fixture
def frozen(mixed_study: Path, tmp_path: Path) -> Path:
    return freeze(load(mixed_study), tmp_path / "frozen").parent


def test_frames_come_back_as_they_were(frozen: Path, mixed_study: Path) -> None:
    study, again = load(mixed_study), thaw(frozen)
    pd.testing.assert_frame_equal(again.runs, study.runs)
    pd.testing.assert_frame_equal(again.history, study.history)
    pd.testing.assert_series_equal(again.account, study.account)
    for name in ("name", "description", "extra", "protocols"):
        assert getattr(again, name) == getattr(study, name)


@pytest.mark.slow
def test_the_report_of_frozen_data_is_the_same_bytes(
    mixed_study: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    kept = tmp_path / "kept"
    code, output, errors = command("report", mixed_study, "--freeze", kept, "--figures", "svg,pdf")
    assert code == 0, errors
    assert str(kept / "manifest.json") in output
    assert command("report", "--from", kept, "--figures", "svg,pdf")[0] == 0
    files = [path for path in (mixed_study / "report").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".html", ".md", ".json", ".csv", ".tex", ".svg", ".pdf"}
    for path in files:
        assert path.read_bytes() == (kept / "report" / path.relative_to(mixed_study / "report")).read_bytes(), path


@pytest.mark.slow
def test_the_frozen_demo_gives_the_statistics_that_were_recorded(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    """A real study of 9 runs: what today's code makes of its data, against what is kept beside them."""
    results = ROOT / "experiments" / "results" / "demo"
    data = shutil.copytree(results / "data", tmp_path / "data")
    code, _, errors = command("report", "--from", data, "--figures", "svg")
    assert code == 0, errors
    found = json.loads((data / "report" / "statistics.json").read_text())
    kept = json.loads((results / "statistics.json").read_text())
    assert differences(found, kept) == []
    for name in ("arms", "failures", "quality", "sigma", "operators", "lipschitz", "paired_failures"):
        table = pd.read_csv(data / "report" / "tables" / f"{name}.csv")
        rows = pd.DataFrame(kept[name]).fillna(math.nan).infer_objects()
        pd.testing.assert_frame_equal(table, rows[list(table)], check_dtype=False, rtol=1e-6)
    figures = {path.stem for path in (data / "report" / "figures").glob("*.svg")}
    assert {row["figure"] for row in kept["claims"]} - {""} < figures
    page = (data / "report" / "index.html").read_text()
    assert set(re.findall(r'<figure id="figure-([^"]*)"', page)) == figures
    assert all(f"<td>{row['run_id']}</td>" in page for row in kept["runs"])


def differences(x: object, y: object, where: str = "") -> list[str]:
    """Where two JSON values differ by more than the rounding of another machine."""
    if isinstance(x, dict) and isinstance(y, dict):
        missing = [f"{where}/{key}" for key in set(x) ^ set(y)]
        return missing + [d for key in set(x) & set(y) for d in differences(x[key], y[key], f"{where}/{key}")]
    if isinstance(x, list) and isinstance(y, list):
        if len(x) != len(y):
            return [f"{where}: {len(x)} and {len(y)} entries"]
        return [d for i, pair in enumerate(zip(x, y, strict=True)) for d in differences(*pair, f"{where}/{i}")]
    if isinstance(x, float) and isinstance(y, float | int):
        return [] if math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-9) else [f"{where}: {x} and {y}"]
    return [] if x == y else [f"{where}: {x!r} and {y!r}"]


def test_frozen_statistics_are_those_of_the_report(mixed_study: Path, tmp_path: Path) -> None:
    """Of a run whose metrics were changed after it ended nothing is told, here as there."""
    metrics = next(path for path in mixed_study.glob("*-dcgan-*/metrics.jsonl") if "s00" in path.parent.name)
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:-2]))
    folder = freeze(load(mixed_study), tmp_path / "frozen").parent
    frozen = pd.read_parquet(folder / "statistics.parquet").set_index("run_id").loc[metrics.parent.name]
    assert frozen["last_step"] == 0
    assert np.isnan(frozen["loss_d_end"])


def test_a_changed_byte_is_named(frozen: Path) -> None:
    for name in ("history.parquet", "runs.parquet", "study.json"):
        path = frozen / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(InputError, match=f"{name} is not what was frozen"):
            thaw(frozen)
        path.write_bytes(content)
    next(frozen.glob("*/samples/*.png")).unlink()
    with pytest.raises(InputError, match="is missing"):
        thaw(frozen)


def test_mistakes_are_named(frozen: Path, mixed_study: Path, tmp_path: Path, command: Callable) -> None:
    with pytest.raises(InputError, match="is not empty"):
        freeze(load(mixed_study), frozen)
    with pytest.raises(InputError, match=r"manifest\.json is missing"):
        thaw(tmp_path / "nowhere")
    manifest = frozen / "manifest.json"
    files = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(files | {"../x": "0"}))
    with pytest.raises(InputError, match="leads out of the folder"):
        thaw(frozen)
    manifest.write_text("[]")
    with pytest.raises(InputError, match="not readable"):
        thaw(frozen)
    for arguments, message in (
        ([], "give a study, or --from"),
        ([mixed_study, "--from", frozen], "give a study, or --from"),
        ([mixed_study, "--figures", "gif"], "expected some of png, svg, pdf"),
    ):
        code, _, errors = command("report", *arguments)
        assert code == 2
        assert message in errors


def test_a_report_can_be_made_of_a_loaded_study(mixed_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import analysis.report as report

    monkeypatch.setattr(report, "_pictures", lambda *_: [])  # the figures take most of the time
    assert write_report(load(mixed_study)) == mixed_study / "report" / "index.html"
