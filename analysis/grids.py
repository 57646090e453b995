"""Pictures that came with runs, and may be anything: only what is a PNG of a grid's size is believed."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image, UnidentifiedImageError

from sngan.config import InputError

_MOST_PIXELS = 4096  # of a side
_COLUMNS, _KEPT, _PADDING = 8, 4, 2  # latents in a row of a grid, and of one that is cut; pixels between them

ALL, FEW = _COLUMNS**2, _KEPT**2


def opened(grid: Any) -> Image.Image | None:
    """The picture in what has `read_bytes`, such as a path, and nothing else of that file.

    None if that is no PNG, damaged, too large to be a grid, or unavailable.
    """
    try:
        image = Image.open(io.BytesIO(grid.read_bytes()), formats=["PNG"])
        if max(image.size) > _MOST_PIXELS:
            return None
        image.load()
    except (OSError, SyntaxError, ValueError, InputError, UnidentifiedImageError, Image.DecompressionBombError):
        return None  # SyntaxError is Pillow's for a broken PNG
    image.info.clear()  # comments, colour profiles
    return image


def few_of(image: Image.Image) -> Image.Image:
    """The first 16 of a grid's 64 images, 4 x 4; what is no grid of 8 x 8 stays whole."""
    if (image.width - _PADDING) % _COLUMNS or image.width != image.height:
        return image
    side = (image.width - _PADDING) // _COLUMNS * _KEPT + _PADDING
    return image.crop((0, 0, side, side))
