"""Records -> one self-contained HTML page, the same tables as CSV, LaTeX and Markdown, figures, statistics.json."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd

from analysis import comparisons, failures, measured, plots, power, provenance
from analysis.claims import judge
from analysis.events import Thresholds
from analysis.load import load
from analysis.page import figures, opening, panels, tables
from analysis.page.content import content_of
from analysis.page.film import Film, films
from analysis.page.markdown import markdown, parts_of
from analysis.page.pictures import Picture, save, write_files
from analysis.page.short import in_short
from analysis.page.tables import Table
from analysis.stability import summarize
from analysis.study import Study, in_double, of_one_version, seen_differently, sound
from analysis.variants import against
from experiments.record import to_json
from sngan.config import InputError
from sngan.files import visible, write_atomically

KINDS = ("png", "svg")


@dataclass(frozen=True)
class Written:
    """A report: the page's path, and its parts in order: Markdown, and figures between."""

    page: Path
    parts: list[str | Picture]


def write_report(
    source: str | Path | Study,
    thresholds: Thresholds | None = None,
    kinds: Sequence[str] = KINDS,
    width: float = panels.WIDTH,
) -> Path:
    """`write` the report and return the page's path."""
    return write(source, thresholds, kinds, width).page


def write(
    source: str | Path | Study,
    thresholds: Thresholds | None = None,
    kinds: Sequence[str] = KINDS,
    width: float = panels.WIDTH,
) -> Written:
    """Write the study's report into its folder's report/.

    `source`: as of `analysis.load.load`, whose results are taken of one version of the training code, or a Study that
    was loaded, which is taken as it is (`analysis.study.of_one_version`). `kinds` of the figures: png, svg, pdf;
    `width`: the files', in inches. Runs whose metrics were changed after they ended are named and left out of every
    number. Of the same data the same bytes. Raises InputError if there are no runs, one cannot be read, a kind is not
    known, or the width is out of range.
    """
    study = sound(source if isinstance(source, Study) else of_one_version(load(source)))
    thresholds = Thresholds() if thresholds is None else thresholds
    study = replace(in_double(study), warnings=[*study.warnings, *seen_differently(study)])
    if unknown := set(kinds) - {"png", "svg", "pdf"}:
        raise InputError(f"figures as {', '.join(sorted(unknown))}: expected some of png, svg, pdf")
    if not (math.isfinite(width) and 2 <= width <= 20):
        raise InputError(f"a figure width of {width:g} inches: expected 2 to 20, such as 3.25, 5.5 or 6.75")
    out = study.folder / "report"
    for sub in ("tables", "figures"):
        (out / sub).mkdir(parents=True, exist_ok=True)
    planned = {run_id: i for i, run_id in enumerate(study.runs["run_id"])}
    summary = summarize(study.history, study.runs, thresholds, study.terms)
    summary = summary.sort_values("run_id", key=lambda ids: ids.map(planned), ignore_index=True)
    found = (_foreign if study.foreign else _ours)(study, summary, thresholds)
    own = width == panels.WIDTH  # else the page's figures are not the files'
    drawn = figures.draw(study, found.material, _look(study))
    pictures = [save(figure, out / "figures", kinds if own else ()) for figure in drawn]
    for figure in () if own else figures.draw(study, found.material, _look(study), width):
        write_files(figure, out / "figures", kinds)
    for table in found.tables:
        write_atomically(out / "tables" / f"{table.file}.csv", table.csv())
        write_atomically(out / "tables" / f"{table.file}.tex", visible(table.latex()))
    content = content_of(study, found.tables, thresholds, found.first, pictures)
    write_atomically(out / "index.html", visible(rendered(content, films(study))))
    parts = parts_of(content, pictures)
    write_atomically(out / "report.md", visible(markdown(parts)))
    write_atomically(out / "statistics.json", to_json(_statistics(study, found), indent=1) + "\n")
    return Written(out / "index.html", parts)


def _look(study: Study) -> plots.Look:
    variants = study.runs["variant"]
    if study.foreign:
        return plots.foreign_look(against(variants, study.baseline), study.terms.step)
    return plots.look_of(variants)


class _Found(NamedTuple):
    """What a report says: what the page says first, its tables, what figures are drawn of, and what only
    statistics.json has."""

    first: opening.Opening
    tables: list[Table]
    material: figures.Material
    beside: dict[str, Any]


def _ours(study: Study, summary: pd.DataFrame, thresholds: Thresholds) -> _Found:
    terms = study.terms
    claims, sensitivity = judge(study, summary), tables.sensitivity(study, thresholds)
    by_device = provenance.devices(study, summary)
    compared, paired = comparisons.compare_arms(study, summary), failures.paired(summary)
    arms, sigma = tables.arms(summary, terms), tables.of("sigma", measured.sigmas(study))
    shown = [
        tables.account(study),
        tables.of("reach", power.reach(claims), terms),
        tables.verdicts(claims, terms),
        arms,
        tables.causes(summary, terms=terms),
        tables.paired_failures(paired),
        sensitivity,
        tables.of("rates", comparisons.rates(study, summary)),
        tables.of("tuned", comparisons.tuned(study, summary)),
        tables.of("quality", measured.quality(study), terms),
        tables.of("protocol", measured.protocols(study), terms),
        sigma,
        tables.of("operators", measured.operators(study)),
        tables.of("lipschitz", measured.lipschitz(study)),
        tables.statistics(study, summary),
        tables.paired(study, compared),
        tables.runs_statistics(study, summary),
        tables.interactions(study, summary),
        tables.of("power", power.spread(summary)),
        tables.evidence(claims),
        tables.of("operating", power.operating()),
        tables.of("calibration", power.calibrated()),
        tables.of("devices", by_device),
        tables.of("provenance", provenance.provenance(study)),
        tables.runs(study),
    ]
    said = opening.paragraph(study, arms.frame, sigma.frame, claims)
    machines = provenance.machines(study, summary, by_device)
    first = opening.Opening(said, opening.verdict_lines(claims), opening.untested(claims), machines)
    beside = {
        "short": [sentence.text for sentence in first.said],
        "verdict_lines": [line.text for line in first.lines],
        "machines": machines,
        "warnings": list(study.warnings),
        "extra": study.extra,
        "primary": dict(study.primary),
        "thresholds": {name: value for name, value, _ in thresholds.table(terms)},
    }
    material = figures.Material(summary, sensitivity.frame, compared, paired)
    return _Found(first, shown, material, beside | {"claims": _records(claims)})


def _foreign(study: Study, summary: pd.DataFrame, _: Thresholds) -> _Found:
    """What can be said of another program's runs: the papers' claims are of our arms, thresholds of our evaluations."""
    compared, across = comparisons.compare_arms(study, summary), tables.across(study, summary)
    paired = failures.paired(summary, study.baseline)
    shown = [tables.account(study), tables.arms(summary, study.terms), across]
    if summary["failure"].eq(True).any():
        shown += [tables.causes(summary, foreign=True), tables.paired_failures(paired)]
    shown += [tables.statistics(study, summary), tables.paired(study, compared)]
    shown += [tables.runs_statistics(study, summary), tables.interactions(study, summary)]
    shown += [tables.runs(study), tables.of("calibration", power.calibrated())]
    short = in_short(study, summary, compared, across.frame)
    about = [opening.runs(study)]
    if study.runs["context"].nunique() == 1:
        about.append(opening.quality(study, shown[1].frame))
    beside = {"about": about, "short": short, "warnings": list(study.warnings)}
    shown = [replace(table, ours=False) for table in shown if len(table.frame)]
    said = opening.Opening([opening.Said(text) for text in (*about, *short)])
    return _Found(said, shown, figures.Material(summary, pd.DataFrame(), compared, paired), beside)


def _statistics(study: Study, found: _Found) -> dict[str, Any]:
    """statistics.json: every table's rows by its name."""
    by_name = {table.file: _records(table.frame) for table in found.tables}
    return {
        "schema": 3,
        "study": study.name,
        "account": {name: n for name, n in study.account.to_dict().items() if n or not study.foreign},
        "quality_name": study.terms.quality,
        "quality_better": study.terms.better,
        **found.beside,
        **{name: records for name, records in by_name.items() if name != "account"},
        "runs": by_name["runs_statistics"],
        "account_table": by_name["account"],
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON, which knows no infinity: as in the CSV the words inf and -inf."""
    return [
        {name: str(value) if isinstance(value, float) and np.isinf(value) else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]


def rendered(content: dict[str, Any], shown: Sequence[Film]) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(**content, films=shown)
