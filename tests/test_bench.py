import json
from pathlib import Path

import pytest

from analysis.bench import bench_report


@pytest.mark.slow
def test_bench_of_the_report_measures_time_and_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.json"
    assert bench_report(out, as_json=False, sizes=((12, 20, 40),)) == 0
    (row,) = json.loads(out.read_text())["rows"].values()
    assert row["again_seconds"] > 0
    assert row["seconds"] > 0
    assert 1e8 < row["peak_memory_bytes"] < 4e9
    assert "12 runs x 20 rows x 40 keys" in capsys.readouterr().out
