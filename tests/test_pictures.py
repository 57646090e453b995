"""Figures and samples as files."""

from pathlib import Path

from analysis.load import load
from analysis.page.figures import samples
from analysis.page.pictures import save
from analysis.page.report import KINDS
from experiments.record import run_folders


def test_files_that_no_run_wrote_do_not_hinder_the_report(mixed_study: Path, tmp_path: Path) -> None:
    folder = next(record for record in run_folders(mixed_study) if record.status()["state"] == "finished").samples_path
    (folder / "step-later.png").write_text("")
    (folder / "step-000060.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    drawn = samples(load(mixed_study), "digits, setting C", "")
    pictures = [save(figure, tmp_path, KINDS) for figure in drawn]
    assert [picture.file for picture in pictures] == ["samples", "evolution"]
    assert "step 60" in pictures[0].title
