"""A user's own images against what Pillow and numpy say of them by other ways, and what is none refused."""

import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import small
from PIL import Image
from test_data import in_time

from experiments.choice import with_values
from experiments.study import parse
from sngan import given
from sngan.config import Execution, InputError, RunConfig
from sngan.data import load, load_images
from sngan.given import Content, look, named, read

RNG = np.random.default_rng(0)


def photograph(height: int = 40, width: int = 50, channels: int = 3) -> np.ndarray:
    """A picture of smooth colours, (height, width, channels) or (height, width) uint8."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(a * x / width + b * y / height + c) for a, b, c in RNG.uniform(1, 6, (channels, 3))]
    picture = np.round(127.5 + 127.5 * np.stack(waves, 2)).astype(np.uint8)
    return picture if channels > 1 else picture[..., 0]


def folder_of(path: Path, n: int = 3, **sizes: int) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.fromarray(photograph(**sizes)).save(path / f"{i:03d}.png")
    return path


def only(folder: Path, side: int = 32, channels: int = 0) -> np.ndarray:
    """The one image that is there, (C, side, side)."""
    images, _, content = read(f"folder:{folder}", side, channels)
    assert len(images) == content.n == 1
    return images[0]


def fitted(picture: Image.Image, side: int) -> np.ndarray:
    """The square around the centre, brought to a size: Pillow's crop and resize, in two steps."""
    width, height = picture.size
    least = min(width, height)
    left, top = (width - least) / 2, (height - least) / 2
    box = (left, top, left + least, top + least)
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC, box)).astype(int)


# --- what is made of an image ---


@pytest.mark.parametrize(("height", "width"), [(40, 50), (50, 40), (41, 41), (20, 25), (32, 32), (300, 33), (1, 7)])
def test_the_square_around_the_centre_is_brought_to_the_size(height: int, width: int, tmp_path: Path) -> None:
    picture = photograph(height, width)
    Image.fromarray(picture).save(tmp_path / "a.png")
    found = only(tmp_path)
    assert found.shape == (3, 32, 32)
    expected = fitted(Image.fromarray(picture), 32)
    np.testing.assert_allclose(found.transpose(1, 2, 0).astype(int), expected, atol=1)
    if (height, width) == (32, 32):
        np.testing.assert_array_equal(found.transpose(1, 2, 0), picture)


def test_making_smaller_averages(tmp_path: Path) -> None:
    """A checkerboard of single pixels becomes grey, and does not stay black or white."""
    Image.fromarray((np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)).save(tmp_path / "a.png")
    inside = only(tmp_path)[0, 2:-2, 2:-2].astype(int)
    assert abs(inside - 127.5).max() < 4


def saved(make: Callable[[Image.Image], Image.Image], name: str = "a.png", **options: Any) -> Callable[[Path], None]:
    return lambda folder: make(Image.fromarray(photograph(32, 32))).save(folder / name, **options)


MODES = {
    "RGB": (saved(lambda image: image), 3),
    "L": (saved(lambda image: image.convert("L")), 1),
    "1": (saved(lambda image: image.convert("1")), 1),
    "LA": (saved(lambda image: image.convert("LA")), 1),
    "RGBA": (saved(lambda image: image.convert("RGBA")), 3),
    "P": (saved(lambda image: image.convert("P", palette=Image.Palette.ADAPTIVE)), 3),
    "a GIF": (saved(lambda image: image, "a.gif"), 3),
    "CMYK": (saved(lambda image: image.convert("CMYK"), "a.tif"), 3),
    "YCbCr": (saved(lambda image: image.convert("YCbCr"), "a.tif"), 3),
    "JPEG": (saved(lambda image: image, "a.JPG", quality=95), 3),
    "WEBP": (saved(lambda image: image, "a.webp", lossless=True), 3),
    "BMP": (saved(lambda image: image, "a.bmp"), 3),
    "PPM": (saved(lambda image: image, "a.ppm"), 3),
    "no suffix": (saved(lambda image: image, "a", format="PNG"), 3),
    "another suffix": (saved(lambda image: image, "a.jpeg", format="PNG"), 3),
}


@pytest.mark.parametrize("kind", MODES)
def test_any_mode_and_format_is_grey_or_colour(kind: str, tmp_path: Path) -> None:
    make, channels = MODES[kind]
    make(tmp_path)
    (path,) = tmp_path.iterdir()
    assert look(f"folder:{tmp_path}").channels == channels
    for wanted, mode in ((1, "L"), (3, "RGB")):
        with Image.open(path) as image:
            expected = np.asarray(image.convert(mode)).reshape(32, 32, wanted).transpose(2, 0, 1)
        np.testing.assert_array_equal(only(tmp_path, channels=wanted), expected)


def test_grey_among_colour_is_colour_of_three_equal_channels(tmp_path: Path) -> None:
    grey = photograph(32, 32, channels=1)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(photograph(32, 32)).save(tmp_path / "b.png")
    images, _, content = read(f"folder:{tmp_path}", 32)
    assert content.channels == 3
    np.testing.assert_array_equal(images[0], np.stack([grey] * 3))


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    picture = np.dstack([photograph(32, 32), np.full((32, 32), 255, np.uint8)])
    picture[:16, :, 3] = 0
    picture[16:20, :, 3] = 128
    Image.fromarray(picture).save(tmp_path / "a.png")
    found, colours = only(tmp_path).transpose(1, 2, 0).astype(int), picture[..., :3].astype(int)
    assert (found[:16] == 255).all()
    np.testing.assert_allclose(found[16:20], colours[16:20] * 128 / 255 + 255 - 128, atol=1)
    np.testing.assert_array_equal(found[20:], colours[20:])


def test_a_transparent_colour_of_a_palette_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (32, 32))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((5, 5), 1)
    image.save(tmp_path / "a.png", transparency=0)
    found = only(tmp_path)
    assert found[:, 0, 0].tolist() == [255, 255, 255]
    assert found[:, 5, 5].tolist() == [0, 0, 255]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bits_are_rounded_to_8_and_not_cut_off(name: str, tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 1024).reshape(32, 32).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    found = only(tmp_path)
    assert found.shape == (1, 32, 32)
    np.testing.assert_allclose(found[0], values / 257, atol=0.51)


def turned(picture: np.ndarray, orientation: int) -> np.ndarray:
    """How a picture is stored that is to be shown as `picture`: each turn and mirror undone, by numpy."""
    undo = {
        1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud, 5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, 1), 7: lambda x: np.rot90(x, 2).transpose(1, 0, 2), 8: lambda x: np.rot90(x, -1),
    }  # fmt: skip
    return np.ascontiguousarray(undo[orientation](picture))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_as_their_exif_says(orientation: int, tmp_path: Path) -> None:
    picture = photograph(32, 32)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(turned(picture, orientation)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(only(tmp_path).transpose(1, 2, 0), picture)


def test_of_an_animation_it_is_the_first_picture(tmp_path: Path) -> None:
    first, second = Image.new("L", (32, 32), 10), Image.new("L", (32, 32), 200)
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert (only(tmp_path, channels=1) == 10).all()


# --- which files, in which order, with which labels ---


def test_images_come_in_the_order_of_their_paths_and_folders_are_labels(tmp_path: Path) -> None:
    for i, name in enumerate(["dogs/b.png", "cats/2.png", "cats/10.png", "dogs/old/a.png"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (32, 32), i).save(tmp_path / name)
    images, labels, content = read(f"folder:{tmp_path}", 32)
    assert images[:, 0, 0, 0].tolist() == [2, 1, 0, 3]  # cats/10, cats/2, dogs/b, dogs/old/a
    assert (labels.tolist(), content.classes) == ([0, 0, 1, 1], 2)


@pytest.mark.parametrize("beside", ["c.png", "cats/c.png"])
def test_one_folder_or_images_beside_folders_are_no_labels(beside: str, tmp_path: Path) -> None:
    folder_of(tmp_path / "cats")
    if beside == "c.png":
        folder_of(tmp_path / "dogs")
    shutil.copy(tmp_path / "cats" / "000.png", tmp_path / beside)
    _, labels, content = read(f"folder:{tmp_path}", 28)
    assert (content.classes, set(labels.tolist())) == (0, {0})


def test_files_that_are_no_images_are_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder_of(tmp_path, 2)
    (tmp_path / "notes.txt").write_text("a.png")
    (tmp_path / "Thumbs.db").write_bytes(b"\0" * 100)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    (tmp_path / ".hidden.png").write_bytes(b"no image")
    (tmp_path / ".thumbs").mkdir()
    (tmp_path / ".thumbs" / "a.png").write_bytes(b"no image")
    assert look(f"folder:{tmp_path}").n == 2
    assert f"{tmp_path}: 3 of 5 files are not images, and are left out" in capsys.readouterr().err


def test_links_are_followed_and_folders_that_contain_themselves_end(tmp_path: Path) -> None:
    elsewhere = folder_of(tmp_path / "elsewhere", 2)
    folder = folder_of(tmp_path / "images", 1)
    (folder / "link.png").symlink_to(elsewhere / "000.png")
    (folder / "more").symlink_to(elsewhere)
    (folder / "again").symlink_to(folder)
    with in_time():
        images, _, _ = read(f"folder:{folder}", 28)
    assert len(images) == 4  # its own, the link's, and the two of the folder
    assert len(read(f"folder:{elsewhere}", 28)[0]) == 2
    (tmp_path / "way").symlink_to(folder)
    assert look(f"folder:{tmp_path / 'way'}") == look(f"folder:{folder}")


def test_all_that_cannot_be_read_is_named_in_one_error(tmp_path: Path) -> None:
    folder_of(tmp_path, 3)
    content = (tmp_path / "000.png").read_bytes()
    (tmp_path / "truncated.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.webp").write_bytes(b"")
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "gone.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    Image.fromarray(np.zeros((9, 9), np.float32)).save(tmp_path / "float.tiff")
    with in_time(), pytest.raises(InputError) as caught:
        read(f"folder:{tmp_path}", 28)
    said = str(caught.value)
    assert said.startswith(f"7 images of {tmp_path} cannot be read: ")
    for name, why in {
        "empty.webp": "empty", "float.tiff": "pixels are floating-point numbers", "pipe.png": "not a file",
        "gone.png": "a link that leads nowhere", "photo.heic": "no image in a format that is known",
        "text.jpg": "no image", "truncated.png": "truncated",
    }.items():  # fmt: skip
        assert f"{name} ({why}" in said or f"{name} (image file is {why}" in said, (name, said)
    assert "000.png" not in said
    assert "Repair them (or convert them to one of PNG, JPEG, " in said
    assert said.endswith("or move them elsewhere")


def test_of_many_that_cannot_be_read_some_are_named_and_all_counted(tmp_path: Path) -> None:
    for i in range(30):
        (tmp_path / f"{i:02d}.png").write_text("no image")
    with pytest.raises(InputError, match=r"30 images of .*00\.png .*19\.png .*; and 10 more"):
        look(f"folder:{tmp_path}")


def test_truncated_images_alone_are_found_when_they_are_decoded(tmp_path: Path) -> None:
    folder_of(tmp_path, 3)
    content = (tmp_path / "001.png").read_bytes()
    (tmp_path / "001.png").write_bytes(content[:-200])
    with pytest.raises(InputError, match=r"1 image of .* cannot be read: 001\.png .*Repair it .* or move it"):
        load(f"folder:{tmp_path}")


NO_FOLDER: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing there": (lambda path: None, "there is no folder {path}; folder:PATH needs one that holds images"),
    "a file": (lambda path: path.write_text("x"), "{path} is not a folder"),
    "an empty folder": (Path.mkdir, "{path} holds no images (known formats: PNG, JPEG, "),
    "only text": (
        lambda path: (path.mkdir(), (path / "a.txt").write_text("x")),
        "{path} holds no images; none of its 1 files is an image",
    ),
    "a link that leads nowhere": (lambda path: path.symlink_to("none"), "there is no folder {path}"),
}


@pytest.mark.parametrize("kind", NO_FOLDER)
def test_what_is_no_folder_of_images_is_refused(kind: str, tmp_path: Path) -> None:
    make, message = NO_FOLDER[kind]
    make(tmp_path / "images")
    with pytest.raises(InputError) as caught:
        RunConfig(dataset=f"folder:{tmp_path / 'images'}")
    assert message.format(path=tmp_path / "images") in str(caught.value)


@pytest.mark.parametrize("name", ["folder:", "npz:", "folder:a\0b"])
def test_a_path_is_needed(name: str) -> None:
    with pytest.raises(InputError, match=rf"expected {name.partition(':')[0]}:PATH, a f"):
        RunConfig(dataset=name)


def test_one_image_is_an_image_but_not_enough_to_train_on(tmp_path: Path, sngan: Callable[..., Any]) -> None:
    folder_of(tmp_path / "images", 1)
    assert load(f"folder:{tmp_path / 'images'}").images.shape == (1, 3, 32, 32)
    done = sngan("train", "--dataset", f"folder:{tmp_path / 'images'}", "--wandb", "disabled")
    assert done.returncode == 2
    assert f"{tmp_path / 'images'} has 1 image; for a batch of 128 at least 128 are needed" in done.stderr
    assert "1 images, no labels (these are the folders" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


# --- identity and cache ---


def test_the_identity_is_the_content_wherever_it_is(tmp_path: Path) -> None:
    first = folder_of(tmp_path / "first")
    shutil.copytree(first, tmp_path / "second")
    a, b = (RunConfig(dataset=f"folder:{tmp_path / name}") for name in ("first", "second"))
    assert a.run_id == b.run_id
    assert (a.dataset, a.data_path, b.data_path) == ("folder", str(first), str(tmp_path / "second"))
    assert "path" not in json.dumps(a.identity())
    (tmp_path / "second" / "notes.txt").write_text("no image")
    assert RunConfig(dataset=f"folder:{tmp_path / 'second'}").run_id == a.run_id
    for change in (
        lambda: (tmp_path / "second" / "000.png").rename(tmp_path / "second" / "zzz.png"),
        lambda: Image.fromarray(photograph()).save(tmp_path / "second" / "001.png"),
        lambda: (tmp_path / "second" / "002.png").unlink(),
    ):
        before = RunConfig(dataset=f"folder:{tmp_path / 'second'}").run_id
        change()
        assert RunConfig(dataset=f"folder:{tmp_path / 'second'}").run_id != before


def test_a_configuration_from_a_record_needs_no_images(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images")
    config = RunConfig(dataset=f"folder:{folder}", arm="sn", channels=1, architecture="dcgan28")
    shutil.rmtree(folder)
    again = RunConfig(**json.loads(json.dumps(config.identity())))
    assert (again.run_id, again.channels, again.side, again.judge) == (config.run_id, 1, 28, "pixels")
    with pytest.raises(InputError, match="it is not known where the images are; give folder:PATH"):
        load_images(again)


def test_images_that_have_changed_are_not_trained_on(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images")
    config = RunConfig(dataset=f"folder:{folder}")
    assert len(load_images(config).images) == 3
    Image.fromarray(photograph()).save(folder / "000.png")
    load.cache_clear()
    with pytest.raises(InputError, match=r"has changed: the SHA-256 of its content is .* Bring back what it was"):
        load_images(config)


def test_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = f"folder:{folder_of(tmp_path / 'images')}"
    images, labels, content = read(name, 28)
    images, labels = images.copy(), labels.copy()
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("a file is opened again"))
    again = read(name, 28)
    np.testing.assert_array_equal(again[0], images)
    assert (again[1].tolist(), again[2]) == (labels.tolist(), content)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for path in (tmp_path / "cache").rglob("folder-*"):  # damaged: made again
        path.write_bytes(path.read_bytes()[:-1] + b"\7")
    np.testing.assert_array_equal(read(name, 28)[0], images)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")  # where nothing can be kept
    np.testing.assert_array_equal(read(name, 28)[0], images)


def test_a_study_says_what_the_images_are(tmp_path: Path) -> None:
    """So that its file can be read where they are not."""
    folder = folder_of(tmp_path / "images")
    text = f"name: mine\nparameters: {{dataset: 'folder:{folder}', arm: [sn, dcgan], seed: 0..1}}\n"
    study = parse(text)
    assert {config.data_path for config in study.configs} == {str(folder)}
    shutil.rmtree(folder)
    again = parse(study.text)
    assert [config.run_id for config in again.configs] == [config.run_id for config in study.configs]
    assert again.text == study.text
    with pytest.raises(InputError, match="there is no folder"):
        parse(text)


def test_what_a_name_says_is_read_from_it(tmp_path: Path) -> None:
    content = Content("0" * 64, 3, 12, 28)
    name = f"folder:{tmp_path}/a#b,c{content.fragment()}"
    assert named(name) == ("folder", tmp_path / "a#b,c", content)
    assert look(name) == content
    config = RunConfig(dataset=name)
    assert (config.judge, config.architecture, config.channels) == ("labels", "dcgan28", 3)
    assert named("folder:~/x").path == Path.home() / "x"
    assert named("folder:x").path == Path.cwd() / "x"


@pytest.mark.parametrize(("side", "architecture"), [(28, "dcgan28"), (32, "sndcgan32"), (64, "sndcgan32")])
def test_networks_are_those_of_the_images_size_or_the_largest(side: int, architecture: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", height=side, width=side)
    assert RunConfig(dataset=f"folder:{folder}").architecture == architecture
    assert load(f"folder:{folder}").images.shape[-1] == {"dcgan28": 28, "sndcgan32": 32}[architecture]
    other = RunConfig(dataset=f"folder:{folder}", architecture="dcgan28")
    assert (other.side, other.z_dim, load_images(other).images.shape[-1]) == (28, 64, 28)
    assert other.run_id != RunConfig(dataset=f"folder:{folder}", architecture="sndcgan32").run_id


WRONG_FIELDS = {
    "another path": ({"data_path": "elsewhere"}, "data_path elsewhere: dataset folder:"),
    "two channels": ({"channels": 2}, "channels: 2 is neither 1"),
    "labels that are none": ({"judge": "labels"}, "has no labels. Put the images of each class into a folder"),
    "another digest": ({"data_sha256": "0" * 64}, "is not the one whose SHA-256 is 000"),
    "an unknown judge": ({"judge": "imagenet"}, "judge: 'imagenet' is not one of digits, mnist"),
}


@pytest.mark.parametrize("kind", WRONG_FIELDS)
def test_fields_that_the_images_contradict_are_refused(kind: str, tmp_path: Path) -> None:
    fields, message = WRONG_FIELDS[kind]
    with pytest.raises(InputError) as caught:
        RunConfig(dataset=f"folder:{folder_of(tmp_path / 'images')}", **fields)  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize("fields", [{"channels": 3}, {"data_sha256": "0" * 64}, {"data_path": "x"}])
def test_fields_of_own_images_are_none_of_other_data_sets(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(fields))):
        RunConfig(dataset="mnist", **fields)


# --- arrays ---


def write_npz(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return f"npz:{path}"


PICTURES = RNG.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("names", [("images", "labels"), ("train_images", "train_labels"), ("x_train", "y_train"),
                                   ("arr_0", "arr_1")])  # fmt: skip
@pytest.mark.parametrize("column", [False, True])
def test_arrays_are_read_as_they_are(names: tuple[str, str], column: bool, tmp_path: Path) -> None:
    of = np.arange(6) % 3
    name = write_npz(tmp_path / "a.npz", **dict(zip(names, (PICTURES, of[:, None] if column else of), strict=True)))
    images, labels, content = read(name, 32)
    np.testing.assert_array_equal(images, PICTURES.transpose(0, 3, 1, 2))
    assert (labels.tolist(), content.classes, content.side) == (of.tolist(), 3, 32)
    assert load(name).labels.tolist() == of.tolist()


@pytest.mark.parametrize(
    ("arrays", "shape"),
    [
        (PICTURES.transpose(0, 3, 1, 2), (6, 3, 32, 32)),
        (PICTURES[..., 0], (6, 1, 32, 32)),
        (PICTURES[..., :1], (6, 1, 32, 32)),
        (PICTURES[:, :28, :28], (6, 3, 28, 28)),
        (PICTURES[:, :20], (6, 3, 32, 32)),
    ],
)
def test_arrays_of_any_layout_are_fitted(arrays: np.ndarray, shape: tuple[int, ...], tmp_path: Path) -> None:
    assert load(write_npz(tmp_path / "a.npz", images=arrays)).images.shape == shape


def pickled(path: Path) -> None:
    np.savez(path, images=np.array([{}], dtype=object), allow_pickle=True)


NO_ARRAYS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing there": (lambda path: None, "there is no file {path}; npz:PATH needs one that numpy.savez has written"),
    "text": (lambda path: path.write_text("x"), "{path} is no .npz file with images: "),
    "a folder": (Path.mkdir, "{path} is not a file, but a folder: for a folder of images give folder:PATH"),
    "a picture": (
        lambda path: Image.new("L", (9, 9)).save(path, "PNG"),
        "images: it is no zip file of arrays. Expected",
    ),
    "no array": (lambda path: zipfile.ZipFile(path, "w").writestr("images", "x"), "images or labels is no array"),
    "a pipe": (os.mkfifo, "{path} is not a file"),
    "another array": (lambda path: np.savez(path, faces=PICTURES), "it holds faces. Expected one of the arrays images"),
    "a single array": (lambda path: save_npy(path), "it holds a single array"),
    "truncated": (lambda path: (np.savez(path, images=PICTURES), os.truncate(path, 900)), "is no .npz file"),
    "pickled": (pickled, "is no .npz file with images: Object arrays cannot be loaded"),
    "floats": (lambda path: np.savez(path, images=PICTURES / 255), "are float64; expected uint8 from 0 to 255"),
    "two dimensions": (lambda path: np.savez(path, images=PICTURES[0, 0]), "have the shape (32, 3); expected (N, "),
    "four channels": (
        lambda path: np.savez(path, images=np.zeros((3, 9, 9, 4), np.uint8)),
        "have the shape (3, 9, 9, 4)",
    ),
    "no images": (lambda path: np.savez(path, images=PICTURES[:0]), "and at least one image"),
    "too few labels": (lambda path: np.savez(path, images=PICTURES, labels=np.arange(5)), "expected 6 whole numbers"),
    "labels in words": (lambda path: np.savez(path, images=PICTURES, labels=np.array(list("abcdef"))), "whole numbers"),
}


def save_npy(path: Path) -> None:
    np.save(buffer := io.BytesIO(), PICTURES)
    path.write_bytes(buffer.getvalue())


@pytest.mark.parametrize("kind", NO_ARRAYS)
def test_what_holds_no_images_is_refused(kind: str, tmp_path: Path) -> None:
    make, message = NO_ARRAYS[kind]
    make(path := tmp_path / "a.npz")
    with in_time(), pytest.raises(InputError) as caught:
        RunConfig(dataset=f"npz:{path}")
    assert message.format(path=path) in str(caught.value)


@pytest.mark.parametrize(
    ("given_labels", "expected", "classes"),
    [([7, 3, 3, 7, 3, 3], [1, 0, 0, 1, 0, 0], 2), ([1, 2, 3, 1, 2, 3], [0, 1, 2] * 2, 3), ([5] * 6, [0] * 6, 0),
     ([-1, 1, -1, 1, 119, 1], [0, 1, 0, 1, 2, 1], 3), ([True, False] * 3, [1, 0] * 3, 2)],
)  # fmt: skip
def test_labels_are_as_many_as_differ(
    given_labels: list[int], expected: list[int], classes: int, tmp_path: Path
) -> None:
    """In their order, without gaps, so that there are no classes without images."""
    name = write_npz(tmp_path / "a.npz", images=PICTURES, labels=np.array(given_labels))
    _, labels, content = read(name, 32)
    assert (labels.tolist(), content.classes) == (expected, classes)
    assert RunConfig(dataset=name).judge == ("labels" if classes else "pixels")
    assert load(name).classes == classes


def test_32_bit_integers_are_not_taken_for_16(tmp_path: Path) -> None:
    Image.fromarray(np.arange(1024, dtype=np.int32).reshape(32, 32)).save(tmp_path / "a.tif")
    with pytest.raises(
        InputError, match=r"a\.tif \(pixels are 32-bit integers, of which black and white are not known\)"
    ):
        read(f"folder:{tmp_path}", 32)


def test_a_transparent_grey_of_16_bits_is_white(tmp_path: Path) -> None:
    values = np.full((32, 32), 1000, np.uint16)
    values[:5] = 50_000
    Image.fromarray(values).save(tmp_path / "a.png", transparency=1000)
    assert np.unique(only(tmp_path)).tolist() == [195, 255]


def test_images_are_read_again_when_they_have_changed(tmp_path: Path) -> None:
    """In a process that has read them before."""
    name = f"folder:{folder_of(tmp_path / 'images')}"
    before = load(name)
    assert load(name) is before
    Image.new("RGB", (40, 40), "white").save(tmp_path / "images" / "000.png")
    after = load(name)
    assert (after.images[0] == 255).all()
    assert after.digest != before.digest


def test_a_study_whose_images_have_changed_does_not_become_another(tmp_path: Path, sngan: Callable[..., Any]) -> None:
    folder = folder_of(tmp_path / "images", 50, height=28, width=28)
    study = tmp_path / "own.yaml"
    study.write_text(
        f"# mine\nname: own\nparameters:\n  dataset: folder:{folder}\n  steps: 2\n  batch_size: 16\n  g_width: 8\n"
        "  n_fake: 40\n"
    )
    command = ("sweep", study, "--workers", 1, "--wandb", "disabled", "--runs-dir", tmp_path / "runs")
    done = sngan(*command)
    assert done.returncode == 0, done.stderr
    assert f"{folder}: 50 images, no labels" in done.stderr
    kept = tmp_path / "runs" / "own" / "study.yaml"
    assert kept.read_text().startswith("# mine\nname: own\n")  # the file as it was, with what the images are
    assert "#sha256=" in kept.read_text()
    Image.new("RGB", (28, 28), "white").save(folder / "000.png")
    done = sngan(*command)
    assert done.returncode == 2
    assert f"{folder} has changed since the study own was launched" in done.stderr
    moved = folder.rename(tmp_path / "moved")
    by_name = ("sweep", "own", *command[2:])
    done = sngan(*by_name)
    assert done.returncode == 0, done.stderr  # nothing is to do
    shutil.rmtree(next(path for path in kept.parent.iterdir() if path.name.startswith("folder-")))
    done = sngan(*by_name)
    assert done.returncode == 2
    assert "there is no folder" in done.stderr
    assert "If the images have moved, --data-path says where they are now" in done.stderr
    done = sngan(*by_name, "--data-path", moved)
    assert done.returncode == 2
    assert "has changed: the SHA-256" in done.stderr


def test_values_of_set_may_be_paths(tmp_path: Path) -> None:
    first, second = folder_of(tmp_path / "a, b=c"), folder_of(tmp_path / "d e")
    several = parse("name: x\nparameters: {arm: [sn, dcgan]}")
    study = with_values(several, [f"dataset=folder:{first},folder:{second},digits"])
    assert {config.data_path for config in study.configs} == {str(first), str(second), ""}
    assert len(study.configs) == 6
    one, other = (with_values(several, [f"dataset=folder:{path}"]) for path in (first, second))
    assert one.name != other.name
    assert re.fullmatch(r"x-dataset-folder-[0-9a-f]{8}", one.name)


def test_fields_are_dropped_from_no_run(tmp_path: Path) -> None:
    """Other data sets have the ids that they had before a user's own could be named."""
    assert small().run_id == "digits-dcgan-C-s00-b4e881b8"
    assert (
        RunConfig(dataset="mnist", arm="sn", judge="mnist", channels=1).run_id
        == RunConfig(dataset="mnist", arm="sn").run_id
    )
    assert given.is_given(f"folder:{tmp_path}")
    assert not given.is_given("folder")


def test_labels_of_arrays_are_a_part_of_the_identity(tmp_path: Path) -> None:
    one, other = (write_npz(tmp_path / f"{i}.npz", images=PICTURES, labels=(np.arange(6) + i) % 2) for i in (0, 1))
    assert RunConfig(dataset=one).run_id != RunConfig(dataset=other).run_id
    assert load(one).digest != load(other).digest  # by which references and classifiers are kept


def test_labels_of_a_folder_are_a_part_of_the_identity(tmp_path: Path) -> None:
    for i, name in enumerate(["cats/a.png", "cats/b.png", "dogs/c.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (32, 32), i).save(tmp_path / name)
    before = RunConfig(dataset=f"folder:{tmp_path}").run_id
    (tmp_path / "cats" / "b.png").rename(tmp_path / "dogs" / "b.png")  # the images keep their order
    assert RunConfig(dataset=f"folder:{tmp_path}").run_id != before


@pytest.mark.parametrize("channels", [1, 3])
def test_the_channels_of_a_run_are_what_it_is_trained_on(channels: int, tmp_path: Path) -> None:
    config = RunConfig(dataset=f"folder:{folder_of(tmp_path / 'images')}", channels=channels)
    assert load_images(config).images.shape == (3, channels, 32, 32)


def test_own_images_stay_where_they_are_in_a_sweep(tmp_path: Path) -> None:
    config = RunConfig(dataset=f"folder:{folder_of(tmp_path / 'images')}")
    assert config.under(Execution(threads=1)).data_path == config.data_path
    assert config.under(Execution(data_path="elsewhere")).data_path == "elsewhere"
    assert RunConfig().under(Execution(data_path="elsewhere")).data_path == ""


def test_a_file_that_changes_in_place_is_seen_again(tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"
    Image.new("L", (32, 32), 1).save(path)
    before = look(f"folder:{tmp_path}")
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\7")
    assert look(f"folder:{tmp_path}").sha256 != before.sha256


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_are_what_files_of_the_same_pictures_are(channels: int, tmp_path: Path) -> None:
    pictures = np.stack([photograph(40, 50, channels) for _ in range(3)])
    (tmp_path / "files").mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "files" / f"{i}.png")
    expected, _, _ = read(f"folder:{tmp_path / 'files'}", 32)
    last = pictures.reshape(3, 40, 50, channels)
    for i, images in enumerate((last, last.transpose(0, 3, 1, 2))):
        np.testing.assert_array_equal(read(write_npz(tmp_path / f"{i}.npz", images=images), 32)[0], expected)


def test_16_bits_of_the_other_byte_order(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 1024).reshape(32, 32).astype(">u2")
    Image.frombytes("I;16B", (32, 32), values.tobytes()).save(tmp_path / "a.tif")
    assert look(f"folder:{tmp_path}").channels == 1
    np.testing.assert_allclose(only(tmp_path)[0], values / 257, atol=0.51)


def test_formats_that_run_programs_are_not_opened(tmp_path: Path) -> None:
    folder_of(tmp_path, 1)
    Image.new("RGB", (32, 32)).save(tmp_path / "c", format="EPS")  # which Pillow would give to Ghostscript
    assert look(f"folder:{tmp_path}").n == 1


def test_a_kind_and_a_path_are_the_name(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images")
    assert RunConfig(dataset="folder", data_path=str(folder)) == RunConfig(dataset=f"folder:{folder}")


@pytest.mark.parametrize("name", ["./images", "Folder:images", "folders:images"])
def test_a_path_alone_is_answered_with_what_would_be_right(name: str) -> None:
    with pytest.raises(InputError, match="a folder of images is folder:PATH, a file of arrays npz:PATH"):
        RunConfig(dataset=name)
