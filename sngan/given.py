"""A user's own images, a folder of files or an `.npz` of arrays: what they are, and as bytes of one size. No torch."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import re
import stat
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sngan import cache
from sngan.datasets import GIVEN
from sngan.errors import InputError, shown
from sngan.files import read_file

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")  # others are not opened
_OF_NO_FORMAT = (  # images all the same, so they are not passed over
    *(".heic", ".heif", ".jxl", ".psd", ".ico", ".svg", ".tga", ".pcx", ".eps", ".exr", ".hdr"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
)
_ARRAYS = (("images", "labels"), ("train_images", "train_labels"), ("x_train", "y_train"), ("arr_0", "arr_1"))
_GREY = {"1", "L", "LA", "I", "I;16", "I;16B", "I;16L"}  # Pillow's modes without colour
_FRAGMENT = re.compile(r"#sha256=([0-9a-f]{64}),channels=([13]),classes=(\d{1,9}),side=(\d{1,5})$")
_MOST_NAMED = 20  # files of an error
_RULE = 1  # raised when the bytes that are made of a file change
_THREADS, _SAY_EVERY, _FIRST = 4, 10.0, 3.0
_GREATEST = 4_000_000_000  # bytes of one file
Say = Callable[[str], None]


def to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


@dataclass(frozen=True)
class Content:
    """What the images are, whatever size they are brought to.

    `sha256`: of a folder of its images' relative names and bytes, of an `.npz` of its bytes. `channels`: 1 if all are
    stored as grey, else 3. `classes`: of their labels, 0 if they have none. `side`: pixels a side if all are squares of
    one size, else 0. `n`: how many there are, 0 if that is not known.
    """

    sha256: str
    channels: int
    classes: int
    side: int
    n: int = 0

    def fragment(self) -> str:
        """What a name ends in to say all this where the images need not be at hand."""
        return f"#sha256={self.sha256},channels={self.channels},classes={self.classes},side={self.side}"


class Named(NamedTuple):
    """`folder:PATH` or `npz:PATH` in its parts, and the content that the name says, if it does."""

    kind: str
    path: Path
    content: Content | None


def is_given(name: object) -> bool:
    """Whether it is the name of a user's own images, with a path."""
    return isinstance(name, str) and name.partition(":")[0] in GIVEN and ":" in name


def named(name: str) -> Named:
    """Raises InputError if there is no path, or it cannot be one."""
    kind, _, rest = name.partition(":")
    found = _FRAGMENT.search(rest)
    place = rest[: found.start()] if found else rest
    if not place or "\0" in place:
        raise InputError(f"dataset {shown(name)}: expected {kind}:PATH, {GIVEN[kind]}")
    content = Content(found[1], *map(int, found.groups()[1:])) if found else None
    return Named(kind, Path(os.path.abspath(os.path.expanduser(place))), content)


def look(name: str, say: Say = to_stderr) -> Content:
    """What the images are that a name such as `folder:PATH` stands for: as it says, or else as they are found there.

    Every file is read once, and what was found is kept in the platform's cache folder until a name, size or time of
    change differs. Raises InputError for what is no such folder or file, if it holds no images, and if some of its
    images cannot be read, which are named (the first 20) and counted.
    """
    kind, path, content = named(name)
    return content or (_look_at_folder if kind == "folder" else _look_at_arrays)(path, say)


def present(name: str, say: Say = to_stderr) -> Content:
    """What images are there now. Raises InputError as `look` does, and if the name says another content."""
    kind, path, said = named(name)
    try:
        content = look(f"{kind}:{path}", say)
    except InputError as error:
        if said and not path.exists():
            raise InputError(f"{error}. If the images have moved, --data-path says where they are now") from error
        raise
    if said and said.sha256 != content.sha256:
        raise InputError(
            f"{path} has changed: the SHA-256 of its content is {content.sha256[:16]}.., not {said.sha256[:16]}.. as "
            "it was. Bring back what it was, or start a study of another name with what it is now"
        )
    return content


def read(name: str, side: int, channels: int = 0, say: Say = to_stderr) -> tuple[np.ndarray, np.ndarray, Content]:
    """Images (N, channels, side, side) uint8, their labels (N,) int64, 0 if they have none, and what they are.

    `channels`: 0 for those that the images have; 3 of a grey image are equal, 1 of a colour image is its luma
    (ITU-R 601). Of each image the largest square around its centre is taken, and brought to `side` pixels by Pillow's
    bicubic filter, which averages when it shrinks an image; one of that size stays as it is. Before that an image is
    turned as its EXIF orientation says, laid on white where it is transparent, and 16 bits are rounded to 8. Of an
    animation it is the first picture. Images are in the order of their paths; the label is the first folder below the
    one that is given, if every image lies in one of several.

    Made once, and then mapped from the platform's cache folder. Raises InputError as `look` does, and if the content is
    not the one that the name says.
    """
    kind, path, _ = named(name)
    content = present(name, say)
    channels = channels or content.channels
    make = _read_folder if kind == "folder" else _read_arrays
    key = f"{kind}-{content.sha256[:16]}-{channels}x{side}-{_RULE}-{Image.__version__}"
    store = cache.folder("images") / key
    shape = (content.n, channels, side, side)
    images, labels = cache.mapped(store, shape), cache.read(store.with_suffix(".labels"))
    if images is None or labels is None or len(labels) != 8 * content.n:
        images, of = make(path, side, channels, say)
        if len(images) != content.n:
            raise InputError(f"{path} changed while it was read; wait until all is there, and start again")
        cache.write(store, np.ascontiguousarray(images).data)
        cache.write(store.with_suffix(".labels"), np.ascontiguousarray(of).tobytes())
        if (kept := cache.mapped(store, shape)) is not None:
            images = kept
        return images, of, content
    return images, np.frombuffer(labels, np.int64).copy(), content


# --- a folder of files ---


class _File(NamedTuple):
    path: Path
    relative: str
    stamp: tuple[int, ...]


def _files(folder: Path) -> tuple[list[_File], dict[str, str]]:
    """The files in a folder and its folders, in the order of their paths, hidden ones left out; and what is none.

    Links are followed, of folders to each once. Raises InputError if it is no folder that can be listed.
    """
    try:
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise InputError(f"{folder} is not a folder; give the one that the images are in, or npz:PATH for arrays")
        os.listdir(folder)
    except FileNotFoundError:
        raise InputError(f"there is no folder {folder}; folder:PATH needs one that holds images") from None
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}") from error
    found, wrong, seen = [], {}, set()
    _formats()  # before several threads ask for them

    def refused(error: OSError) -> None:
        wrong[os.path.relpath(error.filename or folder, folder)] = f"a folder that cannot be read: {error.strerror}"

    for place, folders, names in os.walk(folder, onerror=refused, followlinks=True):
        here = os.stat(place)
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(place, name)
            relative = path.relative_to(folder).as_posix()
            if name.startswith("."):
                continue
            try:
                of = path.stat()
            except OSError as error:
                wrong[relative] = "a link that leads nowhere" if path.is_symlink() else str(error.strerror)
                continue
            if stat.S_ISREG(of.st_mode):
                found.append(_File(path, relative, (of.st_size, of.st_mtime_ns, of.st_ctime_ns, of.st_ino)))
            elif _is_named_as_image(name):
                wrong[relative] = "not a file"
    return sorted(found, key=lambda file: os.fsencode(file.relative)), wrong


def _is_named_as_image(name: str) -> bool:
    suffix = Path(name).suffix.lower()
    return suffix in _OF_NO_FORMAT or Image.registered_extensions().get(suffix, "") in FORMATS


class _Seen(NamedTuple):
    """What a file is: `sha256` of its bytes, `kind` grey or colour, `size`; empty if it is no image, and names none."""

    sha256: str = ""
    kind: str = ""
    size: tuple[int, int] = (0, 0)
    wrong: str = ""


def _see(file: _File) -> _Seen:
    """Of an image its digest, and what its header says."""
    try:
        content = _bytes(file.path)
        with _opened(content) as image:
            kind = "grey" if image.mode in _GREY else "colour"
            return _Seen(hashlib.sha256(content).hexdigest(), kind, image.size)
    except Exception as error:  # Pillow raises what it likes
        if isinstance(error, UnidentifiedImageError) and not _is_named_as_image(file.relative):
            return _Seen()
        return _Seen(wrong=_why(error, file.path))


def _bytes(path: Path) -> bytes:
    """Of a file. Raises InputError for one that is too large, and what `read_file` raises."""
    content = read_file(path, _GREATEST + 1)
    if len(content) > _GREATEST:
        raise InputError(f"{path} has more than {_GREATEST:,} bytes, which are not read")
    return content


@functools.cache
def _formats() -> list[str]:
    """Of FORMATS those that this Pillow was built with, which it looks for when it is first asked."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=_formats())


def _why(error: BaseException, path: Path) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels; make it smaller"
    if isinstance(error, UnidentifiedImageError):
        return "empty" if not path.stat().st_size else "no image in a format that is known"
    return " ".join(str(error).replace(str(path), "it").split()) or type(error).__name__


def _look_at_folder(folder: Path, say: Say) -> Content:
    files, wrong = _files(folder)
    listing = hashlib.sha256(
        repr([_RULE, *((f.relative, f.stamp) for f in files), sorted(wrong)]).encode(errors="surrogateescape")
    )
    kept = cache.folder("images") / f"folder-{listing.hexdigest()[:32]}.json"
    with suppress(ValueError, TypeError):
        return Content(**json.loads(cache.read(kept) or b""))
    seen = _each(_see, files, partial(_progress, say, f"reading {folder}"))
    wrong |= {file.relative: of.wrong for file, of in zip(files, seen, strict=True) if of.wrong}
    images = [(file, of) for file, of in zip(files, seen, strict=True) if of.sha256]
    if wrong:  # then all of them in one error, those too that only decoding shows
        _decoded([file for file, _ in images], 8, 3, lambda done, of: None, folder, wrong)
    if not images:
        others = f"; none of its {len(files):,} files is an image" if files else ""
        raise InputError(f"{folder} holds no images{others} (known formats: {', '.join(FORMATS)})")
    sizes = {of.size for _, of in images}
    width, height = next(iter(sizes))
    content = Content(
        sha256=hashlib.sha256(
            "".join(f"{of.sha256}  {file.relative}\n" for file, of in images).encode(errors="surrogateescape")
        ).hexdigest(),
        channels=3 if any(of.kind == "colour" for _, of in images) else 1,
        classes=len(_classes([file.relative for file, _ in images])),
        side=width if len(sizes) == 1 and width == height else 0,
        n=len(images),
    )
    if (others := len(files) - len(images)) > 0:
        say(f"{folder}: {others:,} of {len(files):,} files are not images, and are left out")
    cache.write(kept, json.dumps(asdict(content)).encode())
    return content


def _classes(names: Sequence[str]) -> list[str]:
    """The folders that the images lie in, if each lies in one and these are several; else none."""
    found = {name.partition("/")[0] if "/" in name else "" for name in names}
    return sorted(found) if len(found) > 1 and "" not in found else []


def _read_folder(folder: Path, side: int, channels: int, say: Say) -> tuple[np.ndarray, np.ndarray]:
    files, wrong = _files(folder)
    images = files
    if not all(_is_named_as_image(file.relative) for file in files):
        seen = _each(_see, files, partial(_progress, say, f"reading {folder}"))
        images = [file for file, of in zip(files, seen, strict=True) if of.sha256 or of.wrong]
    decoded = _decoded(images, side, channels, partial(_progress, say, f"decoding {folder}"), folder, wrong)
    names = [file.relative for file in images]
    places = {name: i for i, name in enumerate(_classes(names))}
    return decoded, np.array([places.get(name.partition("/")[0], 0) for name in names], np.int64)


def _decoded(
    files: Sequence[_File], side: int, channels: int, tell: Callable[[int, int], None], folder: Path,
    wrong: dict[str, str],
) -> np.ndarray:  # fmt: skip
    """Images (N, channels, side, side) uint8. Raises InputError that names all that cannot be read, `wrong` as well."""
    out = np.empty((len(files), channels, side, side), np.uint8)

    def decode(of: tuple[int, _File]) -> str:
        i, file = of
        try:
            with _opened(_bytes(file.path)) as image:
                out[i] = _bytes_of(image, side, channels)
        except Exception as error:  # Pillow raises what it likes
            return _why(error, file.path)
        return ""

    found = _each(decode, list(enumerate(files)), tell)
    wrong = wrong | {file.relative: why for file, why in zip(files, found, strict=True) if why}
    if wrong:
        some = sorted(wrong.items())[:_MOST_NAMED]
        named = "; ".join(f"{name} ({why})".replace("\n", " ") for name, why in some)
        more = f"; and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        what = "1 image" if len(wrong) == 1 else f"{len(wrong):,} images"
        them = "it" if len(wrong) == 1 else "them"
        raise InputError(
            f"{what} of {folder} cannot be read: {named}{more}. Repair {them} (or convert {them} to one of "
            f"{', '.join(FORMATS)}), or move {them} elsewhere"
        )
    return out


def _bytes_of(image: Image.Image, side: int, channels: int) -> np.ndarray:
    """(channels, side, side) uint8, as `read` says."""
    is_16_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    clear = image.info.get("transparency")
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers, of which black and white are not known")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if not is_16_bit:
            raise ValueError("pixels are 32-bit integers, of which black and white are not known")
        values = np.where(values == clear, 65535, values) if isinstance(clear, int) else values
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    image = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(side, side, channels).transpose(2, 0, 1)


def _each(do: Callable[[Any], Any], things: Sequence[Any], tell: Callable[[int, int], None]) -> list[Any]:
    """What it gives of each, in their order, by several threads: Pillow decodes while others run."""
    with warnings.catch_warnings(), ThreadPoolExecutor(_THREADS, thread_name_prefix="images") as threads:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a large photograph; the error stays
        return list(_told(threads.map(do, things), len(things), tell))


def _told(results: Iterator[Any], n: int, tell: Callable[[int, int], None]) -> Iterator[Any]:
    said = time.monotonic() - _SAY_EVERY + _FIRST
    for done, result in enumerate(results, start=1):
        yield result
        if done < n and time.monotonic() - said > _SAY_EVERY:
            said = time.monotonic()
            tell(done, n)


def _progress(say: Say, what: str, done: int, n: int) -> None:
    say(f"{what}: {done:,} of {n:,} files")


# --- a file of arrays ---


def _look_at_arrays(path: Path, say: Say) -> Content:
    content = _content_of(path)
    digest = hashlib.sha256(content).hexdigest()
    images, labels = _arrays(content, path)
    sides = set(images.shape[1:3])
    classes = int(labels.max()) + 1 if labels is not None else 0
    side = sides.pop() if len(sides) == 1 else 0
    return Content(digest, images.shape[3], classes if classes > 1 else 0, side, len(images))


def _content_of(path: Path) -> bytes:
    if path.is_dir():
        raise InputError(f"{path} is not a file, but a folder: for a folder of images give folder:PATH")
    try:
        return _bytes(path)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}; npz:PATH needs one that numpy.savez has written") from None


def _arrays(content: bytes, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Images (N, height, width, channels) uint8 and labels (N,) int64, or None. Raises InputError."""
    try:
        if not zipfile.is_zipfile(io.BytesIO(content)) and not content.startswith(b"\x93NUMPY"):
            raise ValueError("it is no zip file of arrays")
        file = np.load(io.BytesIO(content), allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        name, of_labels = next(((a, b) for a, b in _ARRAYS if a in file.files), ("", ""))
        if not name:
            raise ValueError(f"it holds {', '.join(file.files[:10]) or 'nothing'}")
        images, labels = file[name], file[of_labels] if of_labels in file.files else None
        if not all(isinstance(array, np.ndarray) for array in (images, images if labels is None else labels)):
            raise ValueError(f"{name} or {of_labels} is no array")
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError, MemoryError) as error:
        names = ", ".join(name for name, _ in _ARRAYS)
        raise InputError(
            f"{path} is no .npz file with images: {' '.join(str(error).split())}. Expected one of the arrays {names} "
            "(and whole numbers as labels), as numpy.savez(PATH, images=.., labels=..) writes them"
        ) from error
    return _checked_images(images, f"{path}: {name}"), _checked_labels(labels, len(images), f"{path}: {of_labels}")


def _checked_images(images: np.ndarray, what: str) -> np.ndarray:
    if images.dtype != np.uint8:
        raise InputError(
            f"{what} are {images.dtype}; expected uint8 from 0 to 255, such as (255 * x).round().astype('uint8') of "
            "numbers from 0 to 1"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[3] not in (1, 3) or not images.size:
        raise InputError(
            f"{what} have the shape {images.shape}; expected (N, height, width), (N, height, width, 1 or 3) or "
            "(N, 1 or 3, height, width), and at least one image"
        )
    return images


def _checked_labels(labels: np.ndarray | None, n: int, what: str) -> np.ndarray | None:
    if labels is None:
        return None
    if labels.ndim == 2 and labels.shape[1] == 1:  # as in MedMNIST and in Keras's CIFAR-10
        labels = labels[:, 0]
    whole = np.issubdtype(labels.dtype, np.integer) or labels.dtype == bool
    if labels.shape != (n,) or not whole:
        raise InputError(
            f"{what} have the shape {labels.shape} and the type {labels.dtype}; expected {n} whole numbers, one for "
            "each image"
        )
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)  # in their order, from 0, without gaps


def _read_arrays(path: Path, side: int, channels: int, say: Say) -> tuple[np.ndarray, np.ndarray]:
    images, labels = _arrays(_content_of(path), path)
    labels = np.zeros(len(images), np.int64) if labels is None else labels
    if images.shape[1:] == (side, side, channels):
        return images.transpose(0, 3, 1, 2), labels
    out = np.empty((len(images), channels, side, side), np.uint8)

    def fit(i: int) -> None:
        out[i] = _bytes_of(Image.fromarray(images[i] if images.shape[3] == 3 else images[i, ..., 0]), side, channels)

    _each(fit, range(len(images)), partial(_progress, say, f"resizing {path}"))
    return out, labels
