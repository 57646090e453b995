"""What came back from a GPU, merged into the results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from analysis.load import load
from analysis.sources.frozen import thaw
from experiments.gpu import archive
from experiments.gpu.archive import unpack
from experiments.gpu.merge import merge
from experiments.record import RESULTS, Record
from sngan.config import InputError


def a_report(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    report = {"started": "2026-01-01T00:00:00", "device": "NVIDIA H100 80GB HBM3", "rehearsal": False, "phases": {}}
    (folder / "report.json").write_text(json.dumps(report | changes))
    return folder


def test_merging_freezes_the_runs_and_keeps_the_reports(
    archived: tuple[Path, list[Record]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, records = archived
    first, second = a_report(path.parent), a_report(tmp_path / "later", started="2026-01-02T00:00:00")
    (second / path.name).write_bytes(path.read_bytes()[:-700])  # the same runs, without the last
    for _ in range(2):
        merge([second, first], tmp_path / "results")
        frozen = thaw(tmp_path / "results" / "tiny" / "data")
        ended = {r.run_id for r in records if "-penalty-" not in r.run_id}  # which is not planned
        assert set(frozen.runs["run_id"][frozen.runs["state"].isin(RESULTS)]) == ended
        reports = json.loads((tmp_path / "results" / "gpu" / "nvidia-h100-80gb-hbm3.json").read_text())
        assert [report["started"] for report in reports] == ["2026-01-01T00:00:00", "2026-01-02T00:00:00"]
    out = capsys.readouterr().out
    assert "is there already, and stays as it is" in out
    assert "cut off" in out
    ours, theirs = load(records[0].folder.parent).history, frozen.history
    for run_id in ended:
        mine, other = (frame[frame["run_id"] == run_id].reset_index(drop=True) for frame in (ours, theirs))
        assert mine["eval/fd"].equals(other["eval/fd"])
        assert mine["step"].tolist() == other["step"].tolist()


def test_a_folder_that_check_did_not_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"neither report.json nor archives"):
        merge([tmp_path], tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("content", [None, "", "[]", '{"started": "now"}'])
def test_runs_are_frozen_whatever_the_report_is(
    content: str | None, archived: tuple[Path, list[Record]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = archived
    if content is not None:
        (path.parent / "report.json").write_text(content)
    merge([path.parent], tmp_path / "results")
    assert (tmp_path / "results" / "tiny" / "data" / "manifest.json").exists()
    out = capsys.readouterr().out
    assert "report.json is left out" in out
    assert re.search(r"digits-penalty-C-s00-\w+ is not in the plan of tiny, and is left out", out)


def test_the_larger_plan_counts(tmp_path: Path) -> None:
    plans = [
        f"name: tiny\nmethod: grid\nparameters:\n  seed: {{values: {seeds}}}\n" for seeds in ([0], [0, 1, 2], [0, 1])
    ]
    for plan in plans:
        archive.append(tmp_path / "runs-0.tar", "tiny/study.yaml", plan.encode())
    assert not list(unpack(tmp_path / "runs-0.tar", tmp_path / "back"))
    assert (tmp_path / "back" / "tiny" / "study.yaml").read_text() == plans[1]
