"""W&B as people look at it: a study's workspace and report on its server."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from experiments.study import Study
from experiments.tracking import client
from sngan.architectures import layer_names
from sngan.arms import ARMS
from sngan.config import InputError, RunConfig
from sngan.quantities import OF_INCEPTION, QUANTITIES, SECTIONS, Quantity, is_told

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2.interface as wr
    import wandb_workspaces.workspaces as ws


class Figure(Protocol):
    """A figure of the local report."""

    @property
    def file(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def caption(self) -> str: ...
    @property
    def png(self) -> bytes: ...


def workspace(study: Study, entity: str, project: str) -> ws.Workspace:
    """The study's W&B workspace: the same study gives the same, so that saving it again replaces it.

    Runs of the study only, grouped by arm (and by what else the study varies, except seeds), a line for the median
    over seeds with a band for their range; x axis `step`; arms in the report's colours.
    """
    import wandb_workspaces.expr as expr
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces.workspaces import internal

    grouped = groups(study.configs)
    paths = {tuple(str(getattr(config, name)) for name in grouped): config.arm for config in study.configs}
    sections = [_about(study), *(_section(title, _panels(study.configs, title)) for title in SECTIONS)]
    view = ws.Workspace(
        entity=entity,
        project=project,
        name=f"sngan {study.name}",
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=100, group_by_prefix="first"),
        runset_settings=ws.RunsetSettings(
            filters=[expr.Config("study") == study.name],
            groupby=[expr.Config(name) for name in grouped],
            group_colors={ws.GroupPath(*path): ARMS[arm].colour for path, arm in paths.items()},
            order=[expr.Ordering(expr.Config("arm")), expr.Ordering(expr.Config("seed"))],
            pinned_columns=[
                *("run:displayName", "run:state", "summary:state", "config:arm.value", "config:seed.value"),
                *("summary:step", f"summary:eval/{_quality(study.configs)}.last", "summary:error"),
            ],
        ),
    )
    view._internal_name = internal._url_query_str_to_internal_name(_stable(study.name))
    view._internal_runset_id = _stable(study.name, "runs")
    for section in view.sections:
        for i, panel in enumerate(section.panels):
            panel._id = _stable(study.name, section.name, str(i))  # type: ignore[union-attr]
    return view


def save_workspace(study: Study) -> str:
    """Create the study's workspace on W&B, or replace it, and return its URL. Raises InputError if W&B refuses."""
    import wandb
    from wandb_workspaces.workspaces import internal

    with _Refusal("save the workspace"):
        entity, project = _place()
        view = workspace(study, entity, project)
        try:
            view._internal_id = internal.View.from_name(entity, project, view._internal_name).id
        except ValueError as error:  # no such project, or no such workspace in it
            if "Project" in str(error):
                wandb.Api().create_project(project, entity)
        return view.save().url


def publish(title: str, study: str, parts: Iterable[str | Figure]) -> str:
    """Create the W&B report of this title, or replace it, and return its URL.

    `parts`: Markdown and figures, in order. Figures are logged to a W&B run of their own, `<study>-report`, because a
    W&B report shows images of runs. At the end stand the study's runs. Raises InputError if W&B refuses.
    """
    import wandb
    import wandb_workspaces.reports.v2.interface as wr

    parts = list(parts)
    with _Refusal("publish the report"):
        entity, project = _place()
        run_id = f"{study}-report"
        _log_figures(run_id, study, project, [part for part in parts if not isinstance(part, str)])
        report = wr.Report(
            entity=entity,
            project=project,
            title=title,
            description=f"Made by `sngan report {study} --publish`.",
            blocks=report_blocks(study, run_id, parts, entity, project),
            width="fluid",
        )
        found = [old.id for old in wandb.Api().reports(f"{entity}/{project}") if old.display_name == title]
        report.id = found[0] if found else ""
        return report.save().url


def report_blocks(study: str, run_id: str, parts: Iterable[str | Figure], entity: str, project: str) -> list[Any]:
    """W&B's blocks of a report's parts. Empty `entity` and `project` ask no server."""
    import wandb_workspaces.expr as expr
    import wandb_workspaces.reports.v2.interface as wr

    def grid(panels: list[Any], filters: Any, hidden: bool, **kwargs: Any) -> wr.PanelGrid:
        runs = wr.Runset(entity=entity, project=project, filters=[filters], **kwargs)
        runs._id = _stable(study, str(filters))
        return wr.PanelGrid(runsets=[runs], panels=panels, hide_run_sets=hidden)

    blocks: list[Any] = [wr.TableOfContents()]
    for part in parts:
        if isinstance(part, str):
            blocks += _text_blocks(part)
            continue
        panel = wr.MediaBrowser(
            title=part.title, media_keys=[f"figures/{part.file}"], num_columns=1, layout=wr.Layout(w=24, h=16)
        )
        panel._id = _stable(study, part.file)
        blocks += [wr.H3(part.title), grid([panel], expr.Metric("ID") == run_id, hidden=True), wr.P(part.caption)]
    table = wr.RunComparer(diff_only="split", layout=wr.Layout(w=24, h=10))
    table._id = _stable(study, "runs")
    runs = grid([table], expr.Config("study") == study, hidden=False, name=study, groupby=["config.arm"])
    return [*blocks, wr.H1("Runs on W&B"), runs]


def _about(study: Study) -> ws.Section:
    import wandb_workspaces.reports.v2.interface as wr
    import wandb_workspaces.workspaces as ws

    arms = dict.fromkeys(config.arm for config in study.configs)
    listed = "\n".join(f"- `{arm}`: {ARMS[arm].words} ({ARMS[arm].source})" for arm in arms)
    text = f"{study.description}\n\n{listed}\n\nLines: median over seeds; bands: their range. Never compare losses of "
    text += "different arms as if they were qualities: see Sample quality, and look at the samples."
    panel = wr.MarkdownPanel(markdown=text, layout=wr.Layout(w=24, h=8))
    return ws.Section("How to read", [panel], is_open=True, layout_settings=ws.SectionLayoutSettings(columns=1, rows=1))


def _section(title: str, panels: list[Any]) -> ws.Section:
    import wandb_workspaces.workspaces as ws

    columns = 1 if title == "Samples" else 3
    layout = ws.SectionLayoutSettings(columns=columns, rows=-(-len(panels) // columns))
    settings = ws.SectionPanelSettings(x_axis="step")
    return ws.Section(title, panels, is_open=title != "Cost", layout_settings=layout, panel_settings=settings)


def _panels(configs: Sequence[RunConfig], section: str) -> list[Any]:
    """What the section shows, in the order of the quantities; of arms with a constraint only if the study has some, and
    what a judge of the study can tell."""
    layers = dict.fromkeys(layer for config in configs for layer in layer_names(config.architecture))
    constraints = {ARMS[config.arm].constraint for config in configs}
    judges = {(config.dataset, config.judge) for config in configs}
    shown = [
        of for of in (*QUANTITIES, *OF_INCEPTION) if of.section == section
        and (not of.constraints or constraints & {*of.constraints}) and any(is_told(of, *by) for by in judges)
    ]  # fmt: skip
    return [_panel(of, name) for of in shown for name in of.names(layers)]


def _quality(configs: Sequence[RunConfig]) -> str:
    """By which quality runs are listed: fd, if they are not all judged by something else."""
    found = {"fid" if config.judge == "inception" else config.quality for config in configs}
    return found.pop() if len(found) == 1 else "fd"


def _panel(quantity: Quantity, name: str) -> Any:
    import wandb_workspaces.reports.v2.interface as wr

    if quantity.recorded == "image":
        return wr.MediaBrowser(title=name, media_keys=[name], mode="grid", grid_x_axis="step", grid_y_axis="run")
    over_seeds: dict[str, Any] = {"groupby_aggfunc": "median", "groupby_rangefunc": "minmax"}
    better = f" ({quantity.better} is better)" if quantity.better else ""
    title = f"{name.partition('/')[2]}: {quantity.words}" if quantity.by_layer else f"{name}{better}"
    if quantity.recorded == "status":
        return wr.BarPlot(title=title, metrics=[name], orientation="h", title_x=quantity.unit or None, **over_seeds)
    return wr.LinePlot(
        title=title, x="step", y=[name], title_x="step", title_y=quantity.unit or None,
        log_y=True if quantity.axis == "log" else None, max_runs_to_show=100, **over_seeds,
    )  # fmt: skip


def groups(configs: Sequence[RunConfig]) -> list[str]:
    """`arm`, and the fields without which runs that differ in more than their seed would be one group."""
    groups = ["arm", *(name for name in ("dataset", "setting") if len({getattr(c, name) for c in configs}) > 1)]
    cells: dict[tuple[Any, ...], dict[str, set[Any]]] = {}
    for config in configs:
        found = cells.setdefault(tuple(getattr(config, name) for name in groups), {})
        for name, value in config.identity().items():
            found.setdefault(name, set()).add(value)
    varying = {name for found in cells.values() for name, values in found.items() if len(values) > 1}
    return groups + [name for name in configs[0].identity() if name in varying - {"seed"}]


def _text_blocks(text: str) -> list[Any]:
    """Markdown, its headings as W&B's, for the table of contents."""
    import wandb_workspaces.reports.v2.interface as wr

    blocks: list[Any] = []
    for paragraph in text.split("\n\n"):
        level = len(paragraph) - len(paragraph.lstrip("#"))
        if "\n" not in paragraph and 1 <= level <= 3:
            blocks.append((wr.H1, wr.H2, wr.H3)[level - 1](paragraph.lstrip("# ")))
        elif paragraph.strip():
            blocks.append(wr.MarkdownBlock(paragraph))
    return blocks


def _log_figures(run_id: str, study: str, project: str, figures: Sequence[Figure]) -> None:
    import wandb

    with tempfile.TemporaryDirectory() as folder:
        settings = wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True)
        with wandb.init(
            project=project, dir=folder, id=run_id, name=run_id, job_type="report", resume="allow",
            config={"report_of": study}, settings=settings,
        ) as run:  # fmt: skip
            images = {}
            for figure in figures:
                path = Path(folder) / f"{figure.file}.png"
                path.write_bytes(figure.png)
                images[f"figures/{figure.file}"] = wandb.Image(str(path), caption=figure.title)
            run.log(images)


def _place() -> tuple[str, str]:
    """(entity, project) of this user's runs."""
    import wandb

    return os.environ.get("WANDB_ENTITY") or str(wandb.Api().default_entity), client.project()


def _stable(*words: str) -> str:
    """A short name that stays the same: W&B's own are random."""
    return hashlib.sha256("/".join(words).encode()).hexdigest()[:11]


class _Refusal:
    """W&B's errors, of many kinds, as InputError."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, InputError):
            raise InputError(f"W&B could not {self._what}: {' '.join(str(error).split())}") from error
