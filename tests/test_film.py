"""The sample grids within the page: each once, aligned, beside real images, and never more than fits."""

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from others import own_images
from PIL import Image
from test_report import synthetic

from analysis.page.film import Film, films
from analysis.study import Study

SIDE = 8 * 30 + 2


def grid(folder: Path, name: str, noise: float = 0.0, mode: str = "L") -> Path:
    """64 images of 28 x 28, each of its own grey, with a border of 2."""
    pixels, rng = np.zeros((SIDE, SIDE), np.uint8), np.random.default_rng(0)
    for i in range(64):
        row, column = divmod(i, 8)
        cell = 3 * i + noise * rng.normal(size=(28, 28))
        pixels[2 + 30 * row : 30 + 30 * row, 2 + 30 * column : 30 + 30 * column] = np.clip(cell, 0, 255)
    path = folder / f"{name}.png"
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def study_of(samples: dict[str, dict[int, Any]], real: Path | None = None, seeds: int = 3) -> Study:
    states = {(arm, seed): "finished" for arm in ("dcgan", "sn") for seed in range(seeds)}
    study = synthetic(states)
    study.runs["dataset"] = "mnist"
    return replace(study, samples=samples, real={"mnist": real} if real else {})


def shown(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("L"))


def stills(film: Film) -> dict[tuple[str, int, int], str]:
    return {(label, still.seed, still.step): still.uri for label, of in film.arms for still in of}


def test_a_grid_of_another_shape_is_shown_whole(tmp_path: Path) -> None:
    png, other = grid(tmp_path, "a"), tmp_path / "other.png"
    Image.open(png).crop((0, 0, SIDE, SIDE // 2)).save(other)
    (film,) = films(study_of({"dcgan-0": {0: png}, "sn-0": {0: other}}, png))
    assert not film.cuttable


def test_every_seed_can_be_chosen_and_every_step_seen(tmp_path: Path) -> None:
    png = grid(tmp_path, "a")
    (film,) = films(study_of({f"{a}-{s}": {0: png, 10: png} for a in ("dcgan", "sn") for s in range(3)}, png))
    assert set(stills(film)) == {(a, s, t) for a in ("DCGAN", "SN") for s in range(3) for t in (0, 10)}
    assert (film.seeds, film.latents, film.all_seeds, film.cuttable) == ([0, 1, 2], 64, 3, True)
    pixels = shown(film.real)
    assert pixels.shape == (SIDE, SIDE)  # native: scaled by the page
    assert np.abs(pixels.astype(int) - np.asarray(Image.open(png))).max() <= 9  # sixteen greys
    assert film.width == SIDE
    assert [label for label, _ in film.arms] == ["DCGAN", "SN"]
    first = film.initial(film.arms[0][1])
    assert first is not None
    assert (first.seed, first.step) == (0, 10)


def test_a_run_that_ended_early_shows_its_own_last_grid(tmp_path: Path) -> None:
    png = grid(tmp_path, "a")
    (film,) = films(study_of({"dcgan-0": dict.fromkeys(range(0, 300, 10), png), "sn-0": {0: png, 25: png}}))
    assert ("SN", 0, 25) in stills(film)
    assert film.real == ""
    assert film.seeds == [0]


@pytest.mark.parametrize("seeds", [20, 60])
def test_many_runs_fit_the_page_with_all_their_seeds(seeds: int, tmp_path: Path) -> None:
    """A grid is cut to its first sixteen latents, all at one size, and only the first seed has many steps."""
    png = grid(tmp_path, "a", noise=40)
    runs = {f"{a}-{s}": dict.fromkeys(range(0, 201, 10), png) for a in ("dcgan", "sn") for s in range(seeds)}
    (film,) = films(study_of(runs, png, seeds))
    total = sum(map(len, stills(film).values()))
    assert total < 1.34 * min(700_000 + 4_000 * 2 * seeds, 1_900_000) * 1.05
    assert film.seeds == list(range(seeds))
    steps = {s: {t for _, seed, t in stills(film) if seed == s} for s in (0, 1)}
    assert len(steps[0]) >= 5
    assert 200 in steps[0] & steps[1]
    if film.latents == 16:
        side = 4 * 30 + 2
        assert shown(film.real).shape == (side, side)
        assert {shown(uri).shape for uri in stills(film).values()} == {(side, side)}
        whole = np.asarray(Image.open(png)).astype(int)
        assert np.abs(shown(film.real) - whole[:side, :side]).max() <= 9


class Bytes:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def read_bytes(self) -> bytes:
        return self.content


def test_only_what_is_a_png_comes_into_the_page(tmp_path: Path) -> None:
    png, jpeg, colour = grid(tmp_path, "a"), io.BytesIO(), grid(tmp_path, "c", mode="RGB")
    Image.new("L", (8, 8)).save(jpeg, format="JPEG")
    secret, huge = tmp_path / "secret.png", io.BytesIO()
    secret.write_text("root:x:0:0")
    Image.new("1", (5000, 10)).save(huge, format="PNG")
    samples = {
        "dcgan-0": {0: png, 1: secret, 2: Bytes(jpeg.getvalue()), 3: Bytes(huge.getvalue()), 4: tmp_path / "none"}
    }
    (film,) = films(study_of(samples | {"sn-0": {0: colour}}, secret))
    assert set(stills(film)) == {("DCGAN", 0, 0), ("SN", 0, 0)}
    assert film.real == ""
    assert films(study_of({"dcgan-0": {0: secret}})) == []
    assert films(study_of({})) == []


def test_every_folder_has_its_own_real_images(tmp_path: Path) -> None:
    png = {digit: grid(tmp_path, digit, noise) for digit, noise in (("a", 0.0), ("b", 40.0))}
    study = own_images(tmp_path, ("a", 0, "pixels"), ("b", 0, "pixels"))
    samples = {run.run_id: {0: png["a"]} for run in study.runs.itertuples()}
    a, b = films(replace(study, samples=samples))
    assert (a.context, b.context) == ("folder aaaaaaaa", "folder bbbbbbbb")
    assert a.real != b.real
    assert np.abs(shown(b.real).astype(int) - np.asarray(Image.open(png["b"]))).max() <= 9
