"""The notebook for who comes from the course: executed, and committed as it was executed."""

import os
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbclient import NotebookClient

NOTEBOOK = ROOT / "analysis" / "examples" / "spectral_normalization.ipynb"


def test_it_is_committed_with_what_it_shows() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    said = "".join(output.get("text", "") for output in outputs)
    assert "sn_dcgan: 3 of 3 seeds below 1.05" in said
    assert str(ROOT) not in NOTEBOOK.read_text()
    assert NOTEBOOK.stat().st_size < 1_000_000


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTEBOOK_STEPS", "40")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOK, 4)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()  # raises CellExecutionError with the cell and its traceback
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "SN-DCGAN: finished after 40 steps" in said
    assert "sn_dcgan: 3 of 3 seeds below 1.05" in said
