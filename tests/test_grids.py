"""Pictures that came with runs, and may be anything."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from analysis.grids import few_of, opened


def png(size: tuple[int, int] = (8, 8), kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, size[::-1], dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind, **options)
    return buffer.getvalue()


def test_only_a_png_of_a_grids_size_is_one(tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    path.write_bytes(png())
    assert opened(path).size == (8, 8)  # type: ignore[union-attr]
    cut, others = png((64, 64))[:200], [png(kind=kind) for kind in ("JPEG", "GIF", "TIFF")]
    for content in (b"", b"text", cut, png((5000, 1)), *others):
        path.write_bytes(content)
        assert opened(path) is None
    path.unlink()
    assert opened(path) is None
    assert opened(tmp_path) is None


def test_nothing_but_the_picture_is_taken_over(tmp_path: Path) -> None:
    words = PngImagePlugin.PngInfo()
    words.add_text("Comment", "marker")
    path = tmp_path / "grid.png"
    path.write_bytes(png(pnginfo=words, icc_profile=b"marker") + b"marker")
    image = opened(path)
    assert image
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert b"marker" not in buffer.getvalue()


def test_few_are_the_first_sixteen_of_a_grid_and_all_of_anything_else() -> None:
    whole = Image.open(io.BytesIO(png((242, 242))))  # 8 x 8 images of 28 pixels with 2 between them
    few = few_of(whole)
    assert few.size == (122, 122)
    assert np.array_equal(np.asarray(few), np.asarray(whole)[:122, :122])
    for size in ((100, 40), (122, 62), (482, 242)):  # as of 4 or 16 columns
        assert few_of(Image.open(io.BytesIO(png(size)))).size == size
