"""What a bare CUDA machine without a network lacks: wheels of a few packages, and MNIST's files, in one folder.

`make gpu-kit`. The machine has Python 3.12 and the packages of machine.txt, PyTorch with CUDA among them, but not this
project's tyro and platformdirs. W&B is not carried: runs there are made with `--wandb disabled`.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from experiments.output import outlive_readers
from sngan.config import InputError

ROOT = Path(__file__).parents[2]
FOLDER = Path(".gpu-kit")  # ignored by git
CARRIED = ("docstring-parser", "platformdirs", "tyro", "typeguard")  # pure Python: a wheel is unpacked, not installed
_PYTHON = "3.12"  # of the machine
_MIB = 2**20
KIT_MIB, TOGETHER_MIB = 20, 60


def on_the_machine() -> set[str]:
    """Names of the packages that the machine has, and of those that are carried."""
    return {*Path(__file__).with_name("machine.txt").read_text().split(), *CARRIED}


def make(folder: Path, data_dir: str = "") -> str:
    """Write the kit, or replace it, and return a line on its size. The wheels are requirements.lock's, by their hashes.

    Raises InputError if MNIST or a wheel is unavailable, if the kit exceeds 20 MiB, if the kit and the
    working tree, which travel together, exceed 60 MiB, and if the folder holds something else than a kit.
    """
    from sngan.data import data_root, load  # needs what the kit brings

    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - {"wheels", "data"}):
        raise InputError(f"{folder} holds something else than a kit: name a new folder")
    if not folder.absolute().parent.is_dir():
        raise InputError(f"there is no folder {folder.absolute().parent} to put {folder.name} into")
    load("mnist", data_dir)  # makes sure that the files are there, and MNIST's
    raw = Path("MNIST") / "raw"
    with tempfile.TemporaryDirectory(dir=folder.absolute().parent, prefix=f"{folder.name}-") as temporary:
        made = Path(temporary) / "kit"  # with the usual permissions, which a temporary folder does not have
        (made / "wheels").mkdir(parents=True)
        _download_wheels(made)
        (made / "data" / raw).mkdir(parents=True)
        for path in sorted((data_root(data_dir) / raw).glob("*-ubyte")):
            (made / "data" / raw / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
        line = checked_size(folder, _size(made), tree_bytes())
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made, folder)
    return line


def checked_size(folder: Path, kit: int, tree: int) -> str:
    line = f"{folder}: {kit / _MIB:.1f} MiB; with the working tree {(kit + tree) / _MIB:.1f} of {TOGETHER_MIB} MiB"
    if kit > KIT_MIB * _MIB:
        raise InputError(f"{line}: the kit may have {KIT_MIB} MiB")
    if kit + tree > TOGETHER_MIB * _MIB:
        raise InputError(
            f"{line}: too much to travel. Move large files out of the working tree, or have git ignore them"
        )
    return line


def _download_wheels(folder: Path) -> None:
    lock = (ROOT / "requirements.lock").read_text()
    pinned = {name: re.search(rf"^{name}==(?:.*\\\n)*.*\n", lock, re.MULTILINE) for name in CARRIED}
    if missing := [name for name, found in pinned.items() if not found]:
        raise InputError(f"requirements.lock does not pin {', '.join(missing)}")
    requirements = folder / "wheels.txt"
    requirements.write_text("".join(found.group() for found in pinned.values() if found))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--only-binary=:all:", "--python-version", _PYTHON, "--require-hashes",
               "--requirement", requirements, "--dest", folder / "wheels"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"pip cannot download the wheels of {', '.join(CARRIED)}: {done.stderr.strip()}")
    requirements.unlink()


def tree_bytes() -> int:
    """Size of the files of the working tree that git does not ignore."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate", "-z"]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise InputError(f"what travels is unknown outside a git checkout: {done.stderr.decode().strip()}")
    names = done.stdout.split(b"\0")
    paths = [ROOT / name.decode() for name in names if name]
    return sum(path.lstat().st_size for path in paths if path.exists())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def unpack(kit: Path, folder: Path) -> dict[str, str]:
    """Unpack a kit; the environment variables with which a process finds what was in it."""
    for wheel in sorted((kit / "wheels").glob("*.whl")):
        zipfile.ZipFile(wheel).extractall(folder / "site")
    for path in sorted((kit / "data").rglob("*.gz")):
        target = folder / path.relative_to(kit).with_suffix("")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(gzip.decompress(path.read_bytes()))
    return {"PYTHONPATH": str(folder / "site"), "SNGAN_DATA": str(folder / "data")}


def hide_what_the_machine_lacks(folder: Path, carried: bool) -> Path:
    """For a rehearsal: a folder for PYTHONPATH in which the modules that the machine lacks raise ImportError.

    With `carried` also those of a kit, which then has to come before.
    """
    known = {_normalized(name) for name in on_the_machine() - (set(CARRIED) if carried else set())} | {"sngan"}
    folder.mkdir(parents=True)
    for module, packages in importlib.metadata.packages_distributions().items():
        if module.isidentifier() and not known & set(map(_normalized, packages)):
            (folder / f"{module}.py").write_text(f'raise ImportError("{module} is not on the machine")\n')
    return folder


def _normalized(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.gpu.kit", description=__doc__)
    parser.add_argument(
        "--data-dir", default="", help="root of data sets; default: SNGAN_DATA, else the platform's cache"
    )
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write; default: %(default)s")
    arguments = parser.parse_args()
    try:
        print(make(arguments.out, arguments.data_dir))
    except InputError as error:
        sys.exit(f"gpu-kit: {error}")


if __name__ == "__main__":
    outlive_readers()
    main()
