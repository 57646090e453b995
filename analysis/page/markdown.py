"""The report as Markdown, with its figures between."""

from __future__ import annotations

import re
from typing import Any

from analysis.page.opening import Opening
from analysis.page.pictures import Picture


def markdown(parts: list[str | Picture]) -> str:
    return "\n".join(
        part
        if isinstance(part, str)
        else f"![{_plain(part.title)}](figures/{part.file}.png)\n\n{_plain(part.caption)}\n"
        for part in parts
    )


def parts_of(content: dict[str, Any], pictures: list[Picture]) -> list[str | Picture]:
    """The report as Markdown, with its figures between."""
    states = ", ".join(f"{count} {state}" for state, count in content["account"].items() if count)
    opening = content["opening"]
    head = [
        f"# {_plain(content['name'])}",
        "",
        *([_plain(content["asked"]), ""] if content["asked"] else []),
        *_short(opening, paragraph=not content["foreign"]),
        *(f"Note: {_plain(text)}.\n" for text in content["warnings"]),
    ]
    lines = [
        "## About this study",
        "",
        _plain(content["question"]),
        "",
        f"{content['total']} {'runs' if content['foreign'] else 'planned runs'}: {states}.",
        "",
        *([_plain(content["primary"]), ""] if content["primary"] else []),
        *([_plain(opening.machines), ""] if opening.machines else []),
        "## How to read this page",
        "",
        *(f"{i}. {text}" for i, text in enumerate(content["reading"], start=1)),
        "",
    ]
    for table in content["tables"]:
        lines += [f"## {table.title}", "", _plain(table.said), ""]
        lines += ["| " + " | ".join(map(_markdown_cell, table.heads())) + " |", "|" + "---|" * len(table.columns)]
        lines += [f"| {' | '.join(map(_markdown_cell, row))} |" for row in table.cells()]
        lines.append("")
    if content["thresholds"]:
        lines += ["## Thresholds", "", "| name | value | what it decides |", "|---|---|---|"]
    lines += [f"| {name} | {value} | {_markdown_cell(meaning)} |" for name, value, meaning in content["thresholds"]]
    lines += ["", "## Versions and how to rebuild", ""]
    lines += [f"- {_plain(key)}: {_plain(str(value))}" for key, value in content["versions"].items()]
    lines += ["", f"Made by {_code(content['command'])}.", ""]
    return ["\n".join(head), *pictures, "\n".join(lines)]


def _short(opening: Opening, paragraph: bool) -> list[str]:
    """What the page says first, as a paragraph or one sentence at a time, and the verdicts."""
    texts = [_plain(said.text) for said in opening.said]
    said = [" ".join(texts)] if paragraph else texts
    lines = [f"{line.mark} {_plain(line.text)}" for line in opening.decided]
    return [f"**In short.** {said[0]}\n", *(f"{text}\n" for text in [*said[1:], *lines])]


def _markdown_cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


_MEANT = re.compile(r"[\\`*$~]|(?<![^\W_])_|_(?![^\W_])|(?<=\])[(\[:]|^[#>+-](?=[ #])|(?<=^\d)[.)](?= )")


def _plain(text: str) -> str:
    """One line that Markdown takes for text: no HTML, images, links, formulas or emphasis, whatever names it holds."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return _MEANT.sub(r"\\\g<0>", line)


def _code(text: str) -> str:
    """One line of code, between more backticks than it holds in a row."""
    line = " ".join(text.split())
    ticks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    room = " " if "`" in line else ""
    return f"{ticks}{room}{line}{room}{ticks}"
