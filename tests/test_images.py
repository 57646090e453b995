import io

import numpy as np
import torch
from PIL import Image

from experiments.images import grid_png


def test_grid_is_eight_by_eight_with_values_in_range() -> None:
    images = torch.linspace(-1, 1, 64)[:, None, None, None].expand(64, 1, 28, 28).clone()
    images[3, 0, 5, 5] = torch.nan
    grid = np.asarray(Image.open(io.BytesIO(grid_png(images))))
    assert grid.shape == (8 * 30 + 2, 8 * 30 + 2)
    assert grid[2 + 7 * 30, 2 + 7 * 30] == 255
    assert grid[2, 2] == 0
    assert grid[2 + 5, 2 + 3 * 30 + 5] == 0  # the non-finite pixel
