import json
import os
from pathlib import Path

import pytest

from analysis.bench import bench_report
from experiments.signals import stop_on_signals


@pytest.mark.slow
def test_bench_of_the_report_measures_time_and_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.json"
    assert bench_report(out, as_json=False, sizes=((12, 20, 40),)) == 0
    (row,) = json.loads(out.read_text())["rows"].values()
    assert row["again_seconds"] > 0
    assert row["seconds"] > 0
    assert 1e8 < row["peak_memory_bytes"] < 4e9
    assert "12 runs x 20 rows x 40 keys" in capsys.readouterr().out


def test_a_signal_ends_the_report_that_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, pid = tmp_path / "python", tmp_path / "pid"
    program.write_text(f"#!/bin/sh\necho $$ > {pid}\nsleep 0.3\nkill -TERM $PPID\nexec sleep 100\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    with stop_on_signals(), pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        bench_report(tmp_path / "report.json", as_json=False, sizes=((2, 3, 40),))
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
