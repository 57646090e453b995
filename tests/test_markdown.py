"""The report as Markdown."""

import re
from pathlib import Path


def test_markdown_has_every_table_and_no_broken_row(page: Path) -> None:
    text = (page.parent / "report.md").read_text()
    assert "6 planned runs: 3 finished, 1 diverged, 1 failed, 1 missing." in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        lines = block.splitlines()
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(columns) == 1, lines[0]
    for image in re.findall(r"^!\[.*\]\((.*)\)$", text, re.MULTILINE):
        assert (page.parent / image).is_file()
