"""The workspace and the report that are built for W&B.

Not proven here: how W&B's own pages draw them.
"""

import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from conftest import ROOT, train_offline, write_study

from analysis.page import figures
from analysis.page.report import Picture, write
from experiments.study import bundled_names, find, read
from experiments.tracking.dashboard import groups, report_blocks, workspace
from sngan.arms import ARMS

SNAPSHOTS = Path(__file__).parent / "snapshots"
PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


def spec(view: Any) -> dict[str, Any]:
    return view._to_model().spec.model_dump(by_alias=True, exclude_none=True, mode="json")


def panels(view: ws.Workspace) -> dict[str, list[Any]]:
    return {section.name: section.panels for section in view.sections}


def assert_snapshot(name: str, content: dict[str, Any]) -> None:
    """SNGAN_UPDATE_SNAPSHOTS=1 writes what is there now; then look at the difference."""
    path, text = SNAPSHOTS / name, json.dumps(content, indent=1, sort_keys=True) + "\n"
    if os.environ.get("SNGAN_UPDATE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def test_the_workspace_shows_what_the_study_is_about() -> None:
    view = workspace(find("mnist-core"), "someone", "sngan")
    shown = panels(view)
    assert list(shown) == [
        *("How to read", "Losses", "Spectral norms", "Gradients and Lipschitz", "Sample quality", "Samples", "Cost"),
    ]  # fmt: skip
    lines = [panel for section in shown.values() for panel in section if isinstance(panel, wr.LinePlot)]
    assert {panel.x for panel in lines} == {"step"}
    assert {(panel.groupby_aggfunc, panel.groupby_rangefunc) for panel in lines} == {("median", "minmax")}
    norms, layers = [panel.y[0] for panel in shown["Spectral norms"]], ("conv1", "conv2", "conv3")
    kinds = ("sigma", "sigma_raw", "penalty_ratio", "sigma_conv")
    assert norms == [f"{kind}/{layer}" for kind in kinds for layer in layers]
    assert [panel.media_keys for panel in shown["Samples"]] == [["samples"], ["real"]]
    (runs,) = spec(view)["section"]["runSets"]
    assert [(f["key"]["name"], f["op"], f["value"]) for f in runs["filters"]["filters"]] == [
        ("study", "=", "mnist-core")
    ]
    assert runs["grouping"] == [{"section": "config", "name": "arm.value"}]
    colours = view.runset_settings.group_colors
    arms = {config.arm for config in find("mnist-core").configs}
    assert {path.segments: colour for path, colour in colours.items()} == {(a,): ARMS[a].colour for a in arms}
    for arm in arms:
        assert f"`{arm}`" in shown["How to read"][0].markdown


def test_a_study_without_a_penalty_has_no_panel_of_its_pull(tmp_path: Path) -> None:
    study = read(write_study(tmp_path, arm=["dcgan", "sn"]))
    norms = [panel.y[0] for panel in panels(workspace(study, "e", "p"))["Spectral norms"]]
    assert "sigma/conv1" in norms
    assert not [name for name in norms if name.startswith("penalty_ratio/")]


def test_every_logged_metric_of_a_panel_exists(tmp_path: Path) -> None:
    """Against the rows of a real run; the summary's are W&B's own to tell."""
    record = train_offline(tmp_path, arm="penalty_dcgan", steps=100)
    rows = [row for row, _ in record.history()]
    logged = {key for row in rows for key in row} | {"samples", "real"}
    for section in panels(workspace(find("demo"), "e", "p")).values():
        for panel in section:
            names = getattr(panel, "y", None) or getattr(panel, "media_keys", [])
            assert set(names) <= logged


@pytest.mark.parametrize("name", bundled_names())
def test_every_study_has_the_same_workspace_twice(name: str) -> None:
    study = find(name)
    view = workspace(study, "someone", "sngan")
    assert spec(view) == spec(workspace(study, "someone", "sngan"))
    model = view._to_model()
    again = ws.Workspace._from_model(type(model).model_validate(model.model_dump(by_alias=False)))
    assert spec(again) == spec(view)


def test_runs_that_differ_in_more_than_arm_and_seed_are_groups_of_their_own(tmp_path: Path) -> None:
    study = read(
        write_study(tmp_path, arm=["dcgan", "penalty"], seed=[0, 1], setting=["C", "E"], penalty_weight=[0.1, 1])
    )
    assert groups(study.configs) == ["arm", "setting", "penalty_weight"]
    view = workspace(study, "e", "p")
    assert len(view.runset_settings.group_colors) == 2 * 1 + 2 * 2
    assert groups(find("demo").configs) == ["arm"]


def test_snapshots() -> None:
    assert_snapshot("workspace-demo.json", spec(workspace(find("demo"), "someone", "sngan")))
    parts = ["# demo\n\nA question.\n\n## Verdicts\n\n| claim | verdict |\n|---|---|\n| C1 | supported |",
             Picture("losses", "Losses", "Lines: median.", PNG, "losses")]  # fmt: skip
    report = wr.Report(
        project="sngan", entity="someone", title="t", blocks=report_blocks("demo", "demo-report", parts, "", "")
    )
    content = spec(report)
    assert_snapshot("report-demo.json", content)
    model = report._to_model()
    assert spec(wr.Report._from_model(model)) == content


def test_the_results_say_what_the_workspace_holds() -> None:
    """A list for those who have no account; SNGAN_UPDATE_SNAPSHOTS=1 writes it."""
    view = workspace(find("mnist-core"), "someone", "sngan")
    lines = [
        f"W&B workspace of mnist-core: x axis step, runs grouped by {', '.join(groups(find('mnist-core').configs))}"
    ]
    for section in view.sections[1:]:
        lines += ["", section.name]
        for panel in section.panels:
            names = getattr(panel, "y", None) or getattr(panel, "media_keys", None) or panel.metrics
            axis = ", logarithmic" if getattr(panel, "log_y", None) else ""
            lines.append(f"  {panel.title}: {type(panel).__name__} of {', '.join(names)}{axis}")
    path, text = ROOT / "experiments" / "results" / "wandb" / "workspace.txt", "\n".join(lines) + "\n"
    if os.environ.get("SNGAN_UPDATE_SNAPSHOTS"):
        path.write_text(text)
    assert path.read_text() == text


def test_the_published_parts_are_the_local_report(mixed_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = figures.draw
    monkeypatch.setattr(figures, "draw", lambda *of: itertools.islice(draw(*of), 4))  # they take most of the time
    written = write(mixed_study, kinds=["png"])
    blocks = report_blocks("tiny", "tiny-report", written.parts, "", "")
    text = "\n".join(block.text for block in blocks if isinstance(block, wr.MarkdownBlock))
    local = (mixed_study / "report" / "report.md").read_text()
    tables = [line for line in local.splitlines() if line.startswith("|")]
    assert len(tables) > 50
    assert [line for line in text.splitlines() if line.startswith("|")] == tables
    pictures = [part for part in written.parts if isinstance(part, Picture)]
    grids = [block for block in blocks if isinstance(block, wr.PanelGrid)]
    assert [grid.panels[0].media_keys for grid in grids[:-1]] == [[f"figures/{p.file}"] for p in pictures]
    assert len(pictures) == len(list((mixed_study / "report" / "figures").glob("*.png")))
    headings = [block.text for block in blocks if isinstance(block, wr.H1 | wr.H2)]
    assert headings == [line.lstrip("# ") for line in local.splitlines() if re.match(r"##? ", line)] + ["Runs on W&B"]


@pytest.mark.parametrize(
    ("judges", "column", "first"),
    [
        (["pixels"], "fd_pixels", ["eval/fd_pixels"]),
        (["digits"], "fd", ["eval/fd", "eval/fd_pixels", "eval/kd"]),
        (["inception"], "fid", ["eval/fd", "eval/fd_pixels", "eval/kd"]),
        (["pixels", "digits"], "fd", ["eval/fd", "eval/fd_pixels", "eval/kd"]),
    ],
)
def test_quality_is_what_the_studys_judges_can_tell(
    judges: list[str], column: str, first: list[str], tmp_path: Path
) -> None:
    view = workspace(read(write_study(tmp_path, judge=judges)), "e", "p")
    assert f"summary:eval/{column}.last" in view.runset_settings.pinned_columns
    shown = [panel.y[0] for panel in panels(view)["Sample quality"]]
    assert shown[:3] == first
    assert ("eval/fid" in shown) == ("inception" in judges)
    assert ("eval/effective_modes" in shown) == ("digits" in judges)
