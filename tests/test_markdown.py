"""The report as Markdown."""

import html
import re
from pathlib import Path
from typing import Any

import pytest
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


def _content(text: str) -> dict[str, Any]:
    """Of a report in which everything is called that."""
    return {
        "name": text, "asked": text, "question": text, "primary": text, "warnings": [text],
        "account": {"finished": 1}, "foreign": True, "total": 1, "reading": [], "tables": [], "thresholds": [],
        "opening": Opening([Said(text)], machines=text), "versions": {"torch": text},
        "command": f"sngan report {text}",
    }  # fmt: skip


def test_names_are_text_in_markdown() -> None:
    rendered = MarkdownIt().render(
        markdown(parts_of(_content(r"a <script>x</script> ![x](http://x.y/z) [b][c] `d` \ e"), []))
    )
    assert not re.search("<(script|img|a)[ >]", rendered)
    assert rendered.count(r"![x](http://x.y/z) [b][c] `d` \ e") == 9
    assert "<code>sngan report a &lt;script&gt;" in rendered


@pytest.mark.parametrize(
    "text",
    ["a$b$c", "**b** *c* __d__ _e_", "&#60;img>", "&lt;", "~~x~~", "# x", "> x", "- x", "1. x", "sn_dcgan", "-0.5"],
)
def test_names_keep_every_character_in_markdown(text: str) -> None:
    content = markdown(parts_of(_content(text), []))
    assert f"<p>{html.escape(text, quote=False)}</p>" in MarkdownIt().enable("strikethrough").render(content)
    assert "$" not in content.partition("Made by")[0].replace("\\$", "")  # which GitHub takes for a formula
