"""Grids of samples as PNG, and films of them as GIF."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor


def grid_png(images: Tensor) -> bytes:
    """PNG of images (64, C, side, side) in [-1, 1] as a grid of 8 columns; non-finite pixels are black."""
    from torchvision.utils import make_grid  # slow to import; the parent of a sweep draws nothing

    grid = make_grid(images.detach().cpu().float(), nrow=8, padding=2, normalize=True, value_range=(-1, 1))
    pixels = np.nan_to_num(grid.mul(255).round().permute(1, 2, 0).numpy()).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels if images.shape[1] == 3 else pixels[:, :, 0]).save(buffer, format="PNG")
    return buffer.getvalue()


def film_of(frames: Sequence[Path]) -> io.BytesIO:
    """The PNG files as a GIF, four per second."""
    images = [Image.open(path) for path in frames]
    film = io.BytesIO()
    images[0].save(film, format="GIF", save_all=True, append_images=images[1:], duration=250, loop=0)
    film.seek(0)
    return film
