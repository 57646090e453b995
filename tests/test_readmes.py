"""What the READMEs promise: commands, links, tables, snippets and the tree of files are those of the code."""

import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import wandb
import yaml
from conftest import ROOT, small
from PIL import Image
from torch import nn

from analysis.answer import with_answer
from experiments.cli import parse
from experiments.export import export
from experiments.record import Record
from experiments.run import execute
from experiments.study import find
from experiments.study import parse as parse_study
from sngan import __version__
from sngan.architectures import ARCHITECTURES
from sngan.arms import ARMS
from sngan.datasets import DATASETS, JUDGES
from sngan.sigma import log_sigmas
from sngan.spectral import apply_spectral_norm

PACKAGES = ("sngan", "experiments", "analysis")
NAMES = ("README.md", *(f"{package}/README.md" for package in PACKAGES), "CONTRIBUTING.md", "CHANGELOG.md")
TEXTS = {name: (ROOT / name).read_text() for name in NAMES}
ALL = "\n".join(TEXTS.values())


def shown_commands() -> list[str]:
    """Every `sngan ..` that is shown: lines of shell blocks, and code in tables and text."""
    blocks = re.findall(r"```sh\n(.*?)```", ALL, re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`(sngan [^`]+)`", ALL)
    return sorted(
        {line for line in [*lines, *inline] if line.startswith("sngan ") and not line.endswith(("--version", "--help"))}
    )


@pytest.mark.parametrize("line", shown_commands())
def test_commands_are_understood(line: str) -> None:
    parse(["demo" if word == "STUDY" else word for word in shlex.split(line)[1:]])


def test_commands_for_own_images_are_understood_where_these_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photographs").mkdir()
    pixels = np.zeros((3, 28, 28), np.uint8)
    Image.fromarray(pixels[0]).save(tmp_path / "photographs" / "a.png")
    np.savez(tmp_path / "images.npz", images=pixels)
    (block,) = re.findall(r"```bash\n(.*?)```", TEXTS["sngan/README.md"], re.DOTALL)
    commands = [parse(shlex.split(line)[1:]) for line in block.splitlines()]
    assert [command.config.dataset for command in commands] == ["folder", "npz"]  # type: ignore[attr-defined]


def test_every_command_is_shown() -> None:
    table = TEXTS["experiments/README.md"].split("## Commands")[1].split("##")[0]
    shown = re.findall(r"^\| `sngan (\w+)", table, re.MULTILINE)
    assert shown == [
        *("train", "study", "plan", "sweep", "status", "dashboard", "report", "sample", "export", "fid", "bench",
          "yardstick"),
    ]  # fmt: skip
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:`|^)make ([a-z-]+)", ALL, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\((?!http)([^)]+)\)", TEXTS[name]):
        path, _, place = link.partition("#")
        there = (ROOT / name).parent / path if path else ROOT / name
        assert there.exists(), link
        if place:
            headings = re.findall(r"^#+ (.*)", there.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert place in slugs, link


def test_the_first_screen_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 110


@pytest.mark.parametrize("package", PACKAGES)
def test_the_file_tree_is_the_tree(package: str) -> None:
    tree = TEXTS[f"{package}/README.md"].split("## Files")[1].split("```")[1]
    files = {path.name for path in (ROOT / package).glob("**/*.py")} - {"__init__.py", "__main__.py"}
    assert set(re.findall(r"[a-z_0-9]+\.py\b", tree)) == files


def arms_table() -> list[str]:
    rows = ["| arm | norm in D | constraint on D | its parameters | source |", "|---|---|---|---|---|"]
    for name, arm in ARMS.items():
        parameters = ", ".join(f"`{field}` {value}" for field, value in arm.parameters.items())
        rows.append(f"| `{name}` | {arm.norm} | `{arm.constraint}` | {parameters} | {arm.source} |")
    return rows


def architectures_table() -> list[str]:
    rows = ["| networks | for images | z | widths of G, D | what | source |", "|---|---|---|---|---|---|"]
    for name, row in ARCHITECTURES.items():
        cells = (f"`{name}`", f"{row.side} x {row.side}", str(row.z_dim), f"{row.g_width}, {row.d_width}")
        rows.append(f"| {' | '.join(cells)} | {row.label} | {row.source} |")
    return rows


def yardsticks_table() -> list[str]:
    rows = ["| yardstick | judges | accuracy | on | weights, SHA-256 |", "|---|---|---|---|---|"]
    for name in JUDGES:
        row = DATASETS[name].classifier
        assert row
        judged = [f"each channel of `{other}`" if of.each_channel else f"`{other}`"
                  for other, of in DATASETS.items() if of.judge == name]  # fmt: skip
        held_out = "the test images" if DATASETS[name].has_test else "a seeded fifth, held out"
        if not row.sha256:
            accuracy, weights = f"at least {100 * row.lowest_accuracy:.0f} %, or it is refused", "trained on first use"
        else:
            size = (ROOT / "sngan" / "yardsticks" / f"{name}.safetensors").stat().st_size
            accuracy, weights = f"{100 * row.accuracy:.2f} %", f"{size / 1000:.0f} kB, `{row.sha256[:8]}..`"
        rows.append(f"| `{name}` | {', '.join(judged)} | {accuracy} | {held_out} | {weights} |")
    return rows


@pytest.mark.parametrize("table", [arms_table, architectures_table, yardsticks_table])
def test_tables_are_the_codes(table: Callable[[], list[str]]) -> None:
    """SNGAN_UPDATE_SNAPSHOTS=1 writes the code's; a table is known by its first line."""
    path, expected = ROOT / "sngan" / "README.md", table()
    before, _, rest = path.read_text().partition(expected[0] + "\n")
    found = re.match(r"(\|.*\n)*", rest)
    assert rest
    assert found
    if os.environ.get("SNGAN_UPDATE_SNAPSHOTS"):
        path.write_text(before + "\n".join(expected) + "\n" + rest[found.end() :])
    else:
        assert [expected[0], *found.group().splitlines()] == expected


def test_the_answer_is_that_of_the_frozen_study() -> None:
    """SNGAN_UPDATE_SNAPSHOTS=1 writes it."""
    path = ROOT / "README.md"
    expected = with_answer(path.read_text())
    if os.environ.get("SNGAN_UPDATE_SNAPSHOTS"):
        path.write_text(expected)
    else:
        assert path.read_text() == expected


SNIPPETS = re.findall(r"```python\n(.*?)```", ALL, re.DOTALL)


@pytest.mark.filterwarnings("ignore:apply_spectral_norm divides")
@pytest.mark.parametrize("snippet", SNIPPETS)
def test_python_runs(snippet: str) -> None:
    exec(compile(snippet, "README.md", "exec"), {})


def of_ten_lines(word: str) -> str:
    """The snippet with this word."""
    (snippet,) = [snippet for snippet in SNIPPETS if word in snippet]
    assert len(snippet.splitlines()) <= 10
    return snippet


def test_what_spectral_norm_leaves_is_printed_as_shown(capsys: pytest.CaptureFixture) -> None:
    snippet = of_ten_lines("unconstrained_weights(")
    with pytest.warns(UserWarning, match=r"leaves '1.self_attn.in_proj_weight' \(.*'2.weight_ih_l0' and '2.weight_hh"):
        exec(compile(snippet, "README.md", "exec"), {})
    assert f"\n# {capsys.readouterr().out}" in snippet


@pytest.fixture
def log_to() -> Callable:
    """The function that a snippet shows."""
    found: dict = {}
    exec(compile(of_ten_lines("def log_to("), "README.md", "exec"), found)
    return found["log_to"]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_sigmas_are_logged_to_tensorboard(log_to: Callable, tmp_path: Path) -> None:
    D = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    with pytest.importorskip("torch.utils.tensorboard").SummaryWriter(tmp_path) as writer:
        for step in (3, 4):
            log_to(D, step, writer)
    expected = {f"sigma/{name}": [(step, pytest.approx(s)) for step in (3, 4)] for name, s in log_sigmas(D).items()}
    assert scalars(tmp_path) == expected


def test_sigmas_are_logged_to_wandb(log_to: Callable, tmp_path: Path) -> None:
    D = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    with wandb.init(mode="offline", dir=tmp_path) as run:
        for step in (3, 4):
            run.log({"loss": 1}, step)
            log_to(D, step, run)
        run.log({}, 5)  # a step is written when the next one begins
        found = {name: run.summary[name] for name in ("_step", "loss", "sigma/0", "sigma/1")}
    sigmas = {f"sigma/{name}": pytest.approx(sigma) for name, sigma in log_sigmas(D).items()}
    assert found == {"_step": 4, "loss": 1, **sigmas}


def test_sigmas_are_logged_to_lightnings_loggers(log_to: Callable) -> None:
    """Stand-ins with the method that Lightning's have, which need not be installed."""
    logged: list = []
    loggers = [SimpleNamespace(log_metrics=lambda *of, to=to: logged.append((to, *of))) for to in "ab"]
    D = nn.Sequential(nn.Linear(4, 3))
    log_to(D, 7, *loggers)
    assert logged == [(to, {"sigma/0": log_sigmas(D)["0"]}, 7) for to in "ab"]


@pytest.mark.filterwarnings("ignore")  # Lightning's own, of workers and the like
def test_sigmas_are_logged_by_lightning(log_to: Callable, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    (shown,) = re.findall(r"`(LambdaCallback\([^`]*)`", ALL)
    callback = eval(shown, {"log_to": log_to, "LambdaCallback": lightning.callbacks.LambdaCallback})

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.D = apply_spectral_norm(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1)))

        def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
            return self.D(batch).mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.D.parameters(), 0.1)

    loggers = [lightning.loggers.TensorBoardLogger(tmp_path, name, version=0) for name in ("one", "other")]
    options = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", logger=loggers, callbacks=[callback], **options)
    trainer.fit(module := Module(), torch.utils.data.DataLoader(torch.randn(6, 4)))
    for name in ("one", "other"):
        found = scalars(tmp_path / name / "version_0")
        assert [step for step, _ in found["sigma/D.1"]] == [6, 12]
        assert found["sigma/D.0"][-1][1] == pytest.approx(log_sigmas(module)["D.0"])


def test_an_export_is_loaded_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = re.findall(r"```python no-run\n(.*?)```", ALL, re.DOTALL)
    config = small(steps=10, z_dim=find("demo").configs[0].z_dim)
    execute(config, "demo", tmp_path / "runs" / "demo", lambda message: None)
    folder = export(Record(tmp_path / "runs" / "demo" / config.run_id))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    exec(compile(snippet.replace("RUN", config.run_id), "README.md", "exec"), found)
    assert found["images"].shape == (64, 1, 28, 28)


def test_study_files_are_studies() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", ALL, re.DOTALL)
    assert len(text.splitlines()) <= 10
    assert len(parse_study(text).configs) == 28


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert f"## {__version__}" in TEXTS["CHANGELOG.md"]
