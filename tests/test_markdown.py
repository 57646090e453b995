"""The report as Markdown."""

import re
from pathlib import Path

from markdown_it import MarkdownIt

from analysis.page.markdown import markdown, parts_of
from analysis.page.opening import Opening, Said


def test_markdown_has_every_table_and_no_broken_row(page: Path) -> None:
    text = (page.parent / "report.md").read_text()
    assert "6 planned runs: 3 finished, 1 diverged, 1 failed, 1 missing." in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        lines = block.splitlines()
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(columns) == 1, lines[0]
    for image in re.findall(r"^!\[.*\]\((.*)\)$", text, re.MULTILINE):
        assert (page.parent / image).is_file()


def test_names_are_text_in_markdown() -> None:
    hostile = r"a <script>x</script> ![x](http://x.y/z) [b][c] `d` \ e"
    content = {
        "name": hostile, "asked": hostile, "question": hostile, "primary": hostile, "warnings": [hostile],
        "account": {"finished": 1}, "foreign": True, "total": 1, "reading": [], "tables": [], "thresholds": [],
        "opening": Opening([Said(hostile)], machines=hostile), "versions": {"torch": hostile},
        "command": f"sngan report {hostile}",
    }  # fmt: skip
    html = MarkdownIt().render(markdown(parts_of(content, [])))
    assert not re.search("<(script|img|a)[ >]", html)
    assert html.count(r"![x](http://x.y/z) [b][c] `d` \ e") == 9
    assert "<code>sngan report a &lt;script&gt;" in html
