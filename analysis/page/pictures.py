"""Figures as files, and as images within the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import escape
from PIL import Image

from analysis.page import panels
from analysis.page.figures import SAMPLES, Drawn
from sngan.files import write_atomically

_COLOURS = 64  # of a bitmap within the page


@dataclass(frozen=True)
class Picture:
    """A figure of the report: what to see, and the same in words for those who do not see it.

    `png` is the file's content, `markup` what stands in the page: an SVG or a smaller bitmap. `kind` is what a claim's
    `figure` names: the file without its context, which is named if there are several.
    """

    file: str
    title: str
    caption: str
    png: bytes = field(repr=False)
    markup: str = field(default="", repr=False)
    kind: str = ""
    context: str = ""

    @property
    def anchor(self) -> str:
        return f"figure-{self.file}"


def write_files(drawn: Drawn, folder: Path, kinds: Sequence[str]) -> dict[str, bytes]:
    """Write a figure as `kinds` of files, and return their contents."""
    content = {kind: panels.rendered(drawn.figure, kind) for kind in kinds}
    for kind in kinds:
        write_atomically(folder / f"{drawn.file}.{kind}", content[kind])
    return content


def save(drawn: Drawn, folder: Path, kinds: Sequence[str]) -> Picture:
    """Write a figure as `kinds` of files, and make what stands in the page of it."""
    content = write_files(drawn, folder, kinds)
    content |= {kind: panels.rendered(drawn.figure, kind) for kind in ("png", "svg") if kind not in content}
    words, png = f"{drawn.title}. {drawn.caption}", content["png"]
    markup = "" if drawn.kind in SAMPLES else _within_page(drawn.file, content["svg"], png, words)
    return Picture(drawn.file, drawn.title, drawn.caption, png, markup, drawn.kind, drawn.context)


def _within_page(name: str, svg: bytes, png: bytes, words: str) -> str:
    """The figure as SVG, or as a bitmap if that is smaller."""
    buffer = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.quantize(_COLOURS).save(buffer, format="PNG", optimize=True)
    drawn = panels.inline(svg, f"in-{name}", str(escape(words)))
    if len(drawn) <= len(bitmap := png_uri(buffer.getvalue())):
        return drawn
    return f'<img src="{bitmap}" width="{image.width // 2}" height="{image.height // 2}" alt="{escape(words)}">'


def png_uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()
