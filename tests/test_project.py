"""The project as a whole: who imports whom, what the wheel holds, what is never committed."""

import ast
import graphlib
import importlib.metadata
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGES = ("sngan", "experiments", "analysis")
TABLES = ("sngan.arms", "sngan.architectures", "sngan.datasets", "sngan.quantities")
NAMED_TUPLES = ("_replace", "_asdict", "_fields")
SHARED = ("sngan.config", "sngan.files", "sngan.cache")


def imports(path: Path) -> set[str]:
    """Full names of all modules that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = str(node.module)
            names |= {f"{module}.{alias.name}" if module in PACKAGES else module for alias in node.names}
    return names


def imported_at_once(path: Path) -> set[str]:
    """Top-level names of the modules that a file imports when it is imported itself."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    return names


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_no_module_imports_itself_through_others() -> None:
    """No circle, be it through imports within functions."""
    files = {module_of(path): path for package in PACKAGES for path in modules(package)}

    def ours(path: Path) -> set[str]:
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        return {name for name in found if name in files and files[name].stem != "__init__"}

    graph = {name: ours(path) for name, path in files.items()}
    assert graph["analysis.load"] >= {"analysis.sources.records", "analysis.study"}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_private_names_stay_within_their_module() -> None:
    """Not imported, not read from a module that was, and not patched by their name."""
    for path in [*(p for package in PACKAGES for p in modules(package)), *sorted((ROOT / "tests").glob("*.py"))]:
        tree, ours = ast.parse(path.read_text()), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in PACKAGES:
                ours |= {alias.asname or alias.name for alias in node.names}
        found = [name for name in ours if re.match("_[a-z]", name)]
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ours:
                found += [node.attr] if re.match("_[a-z]", node.attr) and node.attr not in NAMED_TUPLES else []
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
                words = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                found += [word for word in words if re.match("_[a-z]", word.rpartition(".")[2])]
        assert not found, path


SPANNING = {  # tests of what several modules do together
    *(
        "engines",
        "examples",
        "foreign",
        "gpu",
        "hostile",
        "readers",
        "for_students",
        "readmes",
        "page",
        "planted",
        "project",
        "resume",
        "wandb_server",
    )
}
TESTED_TOGETHER = {  # modules whose tests are in one of those, or in the named file
    **dict.fromkeys(("engine", "local", "on_ray", "packed", "server"), "engines"), "checkpoint": "resume",
    "phases": "check", "messages": "display", "errors": "config",
}  # fmt: skip


def test_every_module_has_its_tests_in_a_file_of_its_name() -> None:
    stems = {p.stem for package in PACKAGES for p in modules(package)} - {"__init__", "__main__"}
    files = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    assert stems - files == TESTED_TOGETHER.keys()
    assert files - stems == SPANNING
    assert set(TESTED_TOGETHER.values()) <= files


def test_no_function_is_longer_than_a_screen() -> None:
    for path in (p for package in PACKAGES for p in modules(package)):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path.stem}.{node.name}"


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).glob("**/*.py"))


@pytest.mark.parametrize(
    "path", [p for package in PACKAGES for p in modules(package)], ids=lambda p: f"{p.parent.name}.{p.stem}"
)
def test_import_direction(path: Path) -> None:
    package, found = path.relative_to(ROOT).parts[0], imports(path)
    ours = {name for name in found if name.split(".")[0] in PACKAGES}
    others = {name.split(".")[0] for name in found - ours}
    if others & {"wandb", "wandb_workspaces"}:
        assert path.relative_to(ROOT).parts[:2] in {("experiments", "tracking"), ("analysis", "sources")}
        assert not imported_at_once(path) & {"wandb", "wandb_workspaces"}  # but in functions
    if package == "sngan":
        assert all(name.startswith("sngan.") for name in ours)
        assert not others & {"tyro", "argparse", "rich", "pandas", "yaml"}
    if package == "analysis":
        assert not others & {"torch", "torchvision"}
        allowed = ("analysis.", *(f"experiments.{name}" for name in ("study", "record", "ledger")), *SHARED, *TABLES)
        assert all(name.startswith(allowed) for name in ours)
    if package == "experiments" and path.stem != "cli":
        assert not any(name.startswith("analysis") for name in ours)


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        *((module, "torch numpy pandas") for module in (*TABLES, "sngan.config")),
        ("sngan.train, sngan.sigma, sngan.data", "wandb experiments analysis"),
        ("analysis.load, analysis.stability, analysis.stats, analysis.page.report", "torch torchvision wandb"),
        ("experiments.cli, analysis.sources", "torch numpy pandas wandb"),
    ],
)
def test_what_a_module_loads(modules: str, forbidden: str) -> None:
    code = (
        f"import sys, {modules}; found = {{m.split('.')[0] for m in sys.modules}} & set({forbidden.split()});"
        "sys.exit(', '.join(found) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- what is delivered ---


@pytest.mark.slow
def test_the_built_wheel_works_outside_the_clone(tmp_path: Path) -> None:
    """In an environment that has the locked dependencies and, of this project, the wheel alone."""
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file() and name.split("/")[0] in (*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    quiet = {**os.environ, "PYTHONPATH": "", "SNGAN_RUNS": str(tmp_path / "runs")}
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=source, env=quiet, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "experiments/studies/demo.yaml",
        "analysis/page/report.html.j2",
        "sngan/yardsticks/mnist.safetensors",
    } <= held
    assert not [name for name in held if name.startswith("tests") or "/results/" in name]

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip())
    # a path added by a .pth file serves packages, but its own .pth files (our editable install) are not read
    here = subprocess.run([sys.executable, "-c", where], capture_output=True, text=True, check=True).stdout
    (site / "dependencies.pth").write_text(here)
    install = ["uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, wheel]
    subprocess.run([sys.executable, "-m", *install], check=True, env=quiet)
    sngan = tmp_path / "venv" / "bin" / "sngan"

    def run(*arguments: str) -> str:
        done = subprocess.run([sngan, *arguments], cwd=tmp_path, env=quiet, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    used = subprocess.run([python, "-c", "import experiments; print(experiments.__file__)"], cwd=tmp_path, env=quiet,
                          capture_output=True, text=True, check=True).stdout  # fmt: skip
    assert Path(used.strip()).is_relative_to(site)
    for package in PACKAGES:  # a user's own, which do not hide ours from the command
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise RuntimeError('this is the user's own')")
    assert "9 cells, 9 runs: 9 missing" in run("plan", "demo")
    train = ["train", "--dataset", "digits", "--steps", "20", "--batch-size", "16", "--g-width", "8", "--n-fake", "99"]
    folder = Path(run(*train, "--wandb", "disabled", "--device", "cpu").strip())
    assert (tmp_path / folder / "checkpoint.pt").is_file()
    assert Path(run("report", "single").strip()).name == "index.html"


def test_the_parts_need_torch_numpy_and_scipy_alone(tmp_path: Path) -> None:
    """In an environment that has these three, and what they require themselves."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    (site,) = tmp_path.glob("lib/python*/site-packages")
    for name in required("torch", "numpy", "scipy"):
        for file in importlib.metadata.files(name) or []:
            there = Path(importlib.metadata.distribution(name).locate_file(file.parts[0]))
            if file.parts[0] not in ("..", "__pycache__") and not (site / there.name).exists():
                (site / there.name).symlink_to(there)
    code = (
        "import torch; from torch import nn; from sngan.spectral import *; from sngan.sigma import *; "
        "from sngan.metrics import *; D = apply_spectral_norm(nn.Linear(4, 3)); log_sigmas(remove_spectral_norm(D)); "
        "prdc(torch.rand(9, 2), torch.rand(9, 2)); import importlib.util; "
        "assert not any(map(importlib.util.find_spec, ['pandas', 'wandb', 'torchvision', 'yaml', 'rich', 'sklearn']))"
    )
    clean = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([tmp_path / "bin" / "python", "-c", code], cwd=tmp_path, env=clean, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


def required(*names: str) -> set[str]:
    """These distributions, and all that they require here."""
    found, left = set(), list(names)
    while left:
        name = left.pop()
        if name in found:
            continue
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        left += [re.split(r"[^A-Za-z0-9._-]", line)[0] for line in lines if "extra ==" not in line]
    return found


def test_nothing_is_committed_that_belongs_to_one_machine() -> None:
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in files.split("\0") if name and (ROOT / name).is_file()]
    assert not [name for name in names if name.endswith((".pt", ".gz", ".wandb")) or name.startswith("runs/")]
    forbidden = re.compile(
        "|".join(["pypi" + r"\.org", "python" + "hosted", "/ro" + "ot/", "/ho" + "me/", "/wo" + "rk/"])
    )
    for name in names:
        text = (ROOT / name).read_bytes().decode(errors="ignore")
        assert name.endswith((".png", ".svg")) or not forbidden.search(text), name


def test_the_lock_has_a_hash_for_every_package_and_no_index() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    packages = re.findall(r"^[a-z0-9][^\s=]*==\S+.*?(?=^[a-z0-9]|\Z)", lock, re.MULTILINE | re.DOTALL)
    assert len(packages) > 40
    assert all("--hash=sha256:" in package for package in packages)
    assert "index" not in re.sub(r"^[a-z0-9-]*index[a-z0-9-]*==.*$", "", lock, flags=re.MULTILINE)
