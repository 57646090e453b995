"""Records -> one self-contained HTML page, the same tables as CSV, LaTeX and Markdown, figures, statistics.json."""

from __future__ import annotations

import base64
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import plots, tables
from analysis.claims import judge
from analysis.events import CAUSES, Thresholds
from analysis.load import Study, load, sound
from analysis.short import across_table, in_short
from analysis.stability import STATISTICS, compared, summarize
from analysis.stats import APPROXIMATE_BELOW, bands, binned
from analysis.tables import Table
from analysis.terms import Terms
from experiments.record import RESULTS, to_json, write_atomically
from experiments.study import JUDGED
from sngan import quantities
from sngan.arms import ARMS
from sngan.config import InputError

KINDS = ("png", "svg")
_Draw = Callable[[Figure, str, str, str], "Picture"]

READING = (
    "A run is one training. Its arm says what is done to the discriminator; its seed fixes initial weights, data order "
    "and latents, which the arms share: differences are paired.",
    "Seeds are the sample. Bands and intervals are over seeds, never over evaluations of one model; n stands beside "
    "every number.",
    "Runs that diverged or failed are counted, and rank worst in comparisons. Nothing is left out silently, and no run "
    "is given an fd that it did not have: quality is compared by the gain over a trivial sampler, which is 0 without "
    "an end.",
    "sigma is the exact largest singular value of a layer's weight matrix, not the power iteration's estimate. It is "
    "not the operator norm of the convolution.",
    "Verdicts come from thresholds that were fixed beforehand; inconclusive is the default.",
    "A loss of a GAN is no quality. Losses and gradients show how steadily a run trains; fd, coverage and modes say "
    "what it learned, in the features of a small classifier named below; and look at the samples.",
)

READING_FOREIGN = (
    "A run is one training. Runs of different arms with one seed are compared as pairs.",
    READING[1],
    "Runs that diverged or failed are counted, and rank worst in comparisons. Nothing is left out silently, and no run "
    "is given a quality that it did not have.",
    "An arm is called better only if the whole 95 % interval of the paired difference lies on that side and the "
    "adjusted p is at most 0.05; that nothing can be said is the default.",
)

_STRIPS = 20  # seeds of an arm that have a strip of their own
_FILM_BYTES = 5e6  # of PNG files; a third more in the page


@dataclass(frozen=True)
class Picture:
    """A figure of the report: what to see, and the same in words for those who do not see it."""

    file: str
    title: str
    caption: str
    data_uri: str
    kind: str = ""
    """what a claim's `figure` names: the file without its context"""

    @property
    def anchor(self) -> str:
        return f"figure-{self.file}"


@dataclass(frozen=True)
class Film:
    """The same latents of one seed through training: for each arm one image a step."""

    context: str
    seed: int
    steps: list[int]
    arms: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class Written:
    """A report: the page's path, and its parts in order: Markdown, and figures between."""

    page: Path
    parts: list[str | Picture]


def write_report(
    source: str | Path | Study, thresholds: Thresholds | None = None, kinds: Sequence[str] = KINDS
) -> Path:
    """`write` the report and return the page's path."""
    return write(source, thresholds, kinds).page


def write(source: str | Path | Study, thresholds: Thresholds | None = None, kinds: Sequence[str] = KINDS) -> Written:
    """Write the study's report into its folder's report/.

    `source`: a folder of records, or a Study that was loaded. `kinds` of the figures' files: png, svg, pdf. Runs whose
    metrics were changed after they ended are named and left out of every number. Of the same data the same bytes.
    Raises InputError where there are no records, one cannot be read, or a kind is not known.
    """
    study, thresholds = sound(source if isinstance(source, Study) else load(source)), thresholds or Thresholds()
    single = study.history.select_dtypes("float32").columns  # stored so; statistics are computed in double precision
    study = replace(study, history=study.history.astype(dict.fromkeys(single, float)))
    if unknown := set(kinds) - {"png", "svg", "pdf"}:
        raise InputError(f"figures as {', '.join(sorted(unknown))}: expected some of png, svg, pdf")
    out = study.folder / "report"
    for sub in ("tables", "figures"):
        (out / sub).mkdir(parents=True, exist_ok=True)
    planned = {run_id: i for i, run_id in enumerate(study.runs["run_id"])}
    summary = summarize(study.history, study.runs, thresholds, study.terms)
    summary = summary.sort_values("run_id", key=lambda ids: ids.map(planned), ignore_index=True)
    variants = study.runs["variant"]
    if study.foreign:
        look = plots.foreign_look(tables.against(variants, study.baseline), study.terms.step)
    else:
        look = plots.look_of(variants)
    shown, others, short, judged = (_foreign if study.foreign else _ours)(study, summary, thresholds)
    draw = functools.partial(_picture, out=out / "figures", kinds=kinds)
    pictures = _pictures(study, summary, others, look, draw)
    for table in shown:
        write_atomically(out / "tables" / f"{table.file}.csv", table.frame.to_csv(index=False))
        write_atomically(out / "tables" / f"{table.file}.tex", table.latex())
    content = _content(study, shown, thresholds, short)
    write_atomically(out / "index.html", rendered(content, pictures, film(study)))
    parts = _parts(content, pictures)
    write_atomically(out / "report.md", _markdown(parts))
    by_name = {table.file: _records(table.frame) for table in shown}
    statistics = {
        "schema": 3,
        "study": study.name,
        "account": {name: n for name, n in study.account.to_dict().items() if n or not study.foreign},
        "quality_name": study.terms.quality,
        "quality_better": study.terms.better,
        **judged,
        **{name: records for name, records in by_name.items() if name != "account"},
        "runs": by_name["runs_statistics"],
        "account_table": by_name["account"],
    }
    write_atomically(out / "statistics.json", to_json(statistics, indent=1) + "\n")
    return Written(out / "index.html", parts)


_Made = tuple[list[Table], pd.DataFrame, list[str], dict[str, Any]]
"""Tables, failures under other thresholds, the result in short, and what statistics.json has beside the tables."""


def _ours(study: Study, summary: pd.DataFrame, thresholds: Thresholds) -> _Made:
    claims, sensitivity = judge(study, summary), tables.sensitivity_table(study, thresholds)
    shown = [tables.account_table(study), tables.reach_table(claims), tables.verdicts_table(claims)]
    shown += [tables.arms_table(summary), tables.failures_table(summary), tables.paired_failures_table(summary)]
    shown += [sensitivity, tables.rates_table(study, summary), tables.tuned_table(study, summary)]
    shown += [tables.quality_table(study), tables.protocol_table(study), tables.sigma_table(study)]
    shown += [tables.operator_table(study), tables.lipschitz_table(study)]
    shown += tables.statistics_tables(study, summary, tables.compare_arms(study, summary))
    shown += [tables.interactions_table(study, summary), tables.power_table(summary), tables.evidence_table(claims)]
    shown += [tables.operating_table(), tables.calibration_table(), tables.runs_table(study)]
    judged = {"extra": study.extra, "primary": dict(study.primary), "thresholds": asdict(thresholds)}
    return shown, sensitivity.frame, [], judged | {"claims": _records(claims)}


def _foreign(study: Study, summary: pd.DataFrame, _: Thresholds) -> _Made:
    """What can be said of another program's runs: the papers' claims are of our arms, thresholds of our evaluations."""
    comparisons, across = tables.compare_arms(study, summary), across_table(study, summary)
    shown = [tables.account_table(study), tables.arms_table(summary, study.terms), across]
    if summary["failure"].eq(True).any():
        shown += [tables.failures_table(summary, foreign=True), tables.paired_failures_table(summary, study.baseline)]
    shown += [*tables.statistics_tables(study, summary, comparisons), tables.interactions_table(study, summary)]
    shown += [tables.runs_table(study), tables.calibration_table()]
    short = in_short(study, summary, comparisons, across.frame)
    judged = {"short": short, "warnings": list(study.warnings)}
    return [table for table in shown if len(table.frame)], pd.DataFrame(), short, judged


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON, which knows no infinity: as in the CSV the words inf and -inf."""
    return [
        {name: str(value) if isinstance(value, float) and np.isinf(value) else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]


def rendered(content: dict[str, Any], pictures: list[Picture], frames: Film | None) -> str:
    """The page; the first table is the account."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html.j2").render(**content, pictures=pictures, film=frames)


def film(study: Study) -> Film | None:
    """One seed's sample grids at the steps that its arms share; None where there are none.

    Of the first context and the first seed that most of its arms have; at most as many steps as fit the page.
    """
    for context, runs in study.runs.groupby("context", sort=False):
        for seed in sorted(runs["seed"].unique(), key=lambda s: -(runs["seed"] == s).sum()):
            grids = _grids(study, runs[runs["seed"] == seed])
            shared = sorted(set.intersection(*map(set, grids.values()))) if grids else []
            if len(shared) < 2:
                continue
            size = max(len(grid.read_bytes()) for found in grids.values() for grid in found.values())
            most = max(int(_FILM_BYTES / (size * len(grids))), 2)
            steps = [shared[i] for i in np.unique(np.linspace(0, len(shared) - 1, most).round().astype(int))]
            variants = plots.in_order(pd.Series([variant for variant, _ in grids]))
            arms = [(plots.label_of(v), [_png_uri(grids[v, seed][step].read_bytes()) for step in steps])
                    for v in variants]  # fmt: skip
            return Film(str(context), int(seed), steps, arms)
    return None


def _grids(study: Study, runs: pd.DataFrame) -> dict[tuple[str, int], Mapping[int, Any]]:
    """(variant, seed) -> step -> PNG, of the runs that have some."""
    grids = {(run.variant, run.seed): study.samples.get(run.run_id, {}) for run in runs.itertuples()}
    return {key: found for key, found in grids.items() if found}


def _png_uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


_RATIO = "conv_over_matrix"  # of the operator norm to the matrix's sigma, by layer


class Curves(NamedTuple):
    """A figure of curves over training: the quantities that name it, and how they are to be read.

    `columns` of panels; 0: as many as there are layers.
    """

    file: str
    title: str
    caption: str
    columns: int

    def metrics(self, layers: Sequence[str]) -> list[str]:
        if self.file == "bound":
            return [f"{_RATIO}/{layer}" for layer in layers]
        return [name for of in quantities.shown("figure", self.file) for name in of.names(layers)]

    def said(self, terms: Terms, foreign: bool) -> tuple[str, str, str]:
        """File, title and caption; of another program's runs in its own words."""
        side = f"{terms.better.capitalize()} is better."
        if self.file == "distance":
            return ("quality", terms.quality, side) if foreign else (self.file, self.title, side)
        return self.file, self.title, "" if foreign else self.caption


CURVES = (
    Curves("losses", "Losses", "The discriminator's and the generator's loss.", 2),
    Curves("distance", "Distance of samples from the data", "", 2),
    Curves(
        "coverage", "Quality and variety of samples",
        "Of reals against reals all but the effective modes would be near 1, and these near the number of classes. "
        "One image repeated can be precise, but not varied.", 3,
    ),
    Curves(
        "sigma", "Spectral norms by layer",
        "Exact largest singular value of each layer's matrix; above of the weight as used, below of the raw "
        "parameter. Spectral normalization holds the upper ones at 1.", 0,
    ),
    Curves(
        "pull", "Pull of the penalty by layer",
        "How hard the penalty pulls at each layer's largest singular direction, in units of the pull of the loss "
        "without it: above 1 the penalty is the stronger.", 0,
    ),
    Curves(
        "operators", "Operator norms by layer",
        "Largest factor by which each convolution, at its stride and input size, stretches an input. Compare with the "
        "matrix's largest singular value above: where that one is held at 1, this one is not.", 0,
    ),
    Curves(
        "bound", "Operator norm against its bound",
        "How much more the convolution stretches an input than its matrix's sigma says. The theorem allows what lies "
        "between the dotted lines: 1, and the root of how many windows overlap at a pixel (2 for kernel 4 at stride "
        "2, 3 for kernel 3 at stride 1; 1 where the output is one pixel).", 0,
    ),
    Curves(
        "spectra", "Shape of the spectra",
        "Of the raw parameter's singular values s: stable rank sum s^2 / max s^2, effective rank exp of the entropy "
        "of s^2, and the share of s above half the largest. Low: few directions carry the layer.", 0,
    ),
    Curves(
        "steepness", "How steep the discriminator is",
        "Bounds of its Lipschitz constant from above and below, and the mean norm of its gradient with respect to "
        "images.", 2,
    ),
    Curves("gradients", "Gradient norms", "Euclidean norm over all of a network's gradients, mean over updates.", 2),
)  # fmt: skip


def _title(metric: str, terms: Terms, foreign: bool) -> str:
    """A panel's: the quantity in words, or what another program calls it."""
    named = {"loss/d": terms.loss_d, "loss/g": terms.loss_g, "grad_norm/g": terms.grad_g, "eval/fd": terms.quality}
    if foreign and metric in named:
        return named[metric]
    kind, _, layer = metric.partition("/")
    if kind == _RATIO:
        return f"{layer}, operator norm over sigma"
    of = quantities.find(metric)
    assert of is not None
    words = f"{of.words}, {of.unit}" if of.unit else of.words
    return f"{layer}, {words}" if of.by_layer else words


def _is_log(metric: str, terms: Terms) -> bool:
    of = quantities.find(metric)
    return of is not None and of.axis == "log" and (terms.ratio or metric != "eval/fd")


def _pictures(
    study: Study, summary: pd.DataFrame, others: pd.DataFrame, look: plots.Look, draw: _Draw
) -> list[Picture]:
    """`others`: failures under other thresholds, or nothing."""
    pictures, terms, slugs = [], study.terms, _slugs(study.runs["context"].unique())
    curves = not study.foreign or study.history.groupby("context")["step"].nunique().gt(1).any()
    for context, history in study.history.groupby("context", sort=False) if curves else ():
        slug = "" if study.history["context"].nunique() == 1 else "-" + slugs[str(context)]
        layers = tables.layers_of(study, str(context))
        measured = [layer for layer in layers if f"sigma_conv/{layer}" in history]
        ratios = {f"{_RATIO}/{of}": history[f"sigma_conv/{of}"] / history[f"sigma/{of}"] for of in measured}
        history = pd.concat([history, pd.DataFrame(ratios, history.index)], axis=1)
        bound = tables.bounds_of(study, str(context))
        marks = {_title(f"{_RATIO}/{layer}", terms, study.foreign): (1.0, bound[layer]) for layer in bound}
        for kind in CURVES:
            metrics = [m for m in kind.metrics(layers) if m in history and history[m].notna().any()]
            if kind.file == "spectra":  # of a matrix with one row there is nothing to see
                metrics = [m for m in metrics if (history[m].dropna() != 1).any()]
            if not metrics:
                continue
            rows = binned(history, metrics)
            panels = {_title(metric, terms, study.foreign): bands(rows, metric) for metric in metrics}
            panels = {name: frame for name, frame in panels.items() if len(frame)}
            if panels:
                logarithmic = {_title(metric, terms, study.foreign) for metric in metrics if _is_log(metric, terms)}
                columns = min(kind.columns or max(len(layers), 1), len(panels))
                figure = plots.curves(panels, look, logarithmic, columns, marks=marks)
                judged = tables.judged(study, str(context)) if kind.file in ("distance", "coverage") else ""
                file, title, caption = kind.said(terms, study.foreign)
                caption = f"{caption} {judged}{_seeds(history)}".strip()
                pictures.append(draw(figure, file + slug, f"{title}: {context}", caption))
        if len(way := _raw_and_used(history, layers)):
            caption = (
                "The way of each arm, median over its seeds, from the start of training to the dot at its end. On the "
                f"dotted diagonal the weight is used as it is; SN leaves it for the level 1. {_count(history)}"
            )
            figure = plots.raw_and_used(way, look)
            pictures.append(draw(figure, "raw_used" + slug, f"Raw against used spectral norm: {context}", caption))
        if strips := _sigma_strips(history, layers):
            figure = plots.over_time(strips, "sigma", look.step)
            caption = (
                "The same spectral norms of the weights as used, as strips over training: median over the seeds. One "
                f"scale for all layers, so that growth and differences between arms show. {_count(history)}"
            )
            pictures.append(draw(figure, "strips" + slug, f"Spectral norms over training: {context}", caption))
        if strips := _gradient_strips(history, summary, look):
            gradient = terms.grad_g if study.foreign else "the generator's gradient"
            caption = (
                f"A strip for each seed: the norm of {gradient}, in units of the reference (median over "
                "an early stretch of all arms of that seed). Dark strips are gradients that vanish; a row that breaks "
                "off is a run that did."
            )
            figure = plots.over_time(strips, "gradient norm / reference", look.step)
            pictures.append(draw(figure, "gradient_strips" + slug, f"Gradient health by seed: {context}", caption))
        if len(frame := _over_wall_time(history, study.runs)):
            caption = (
                "fd against the time that training took, where each run's wall time is spread evenly over its steps. "
                "Runs that trained beside others took longer than they would alone: for costs see `sngan bench`. "
                f"{tables.judged(study, str(context))}{_seeds(history)}"
            )
            fd = _title("eval/fd", terms, foreign=False)
            figure = plots.curves({fd: frame}, look, {fd}, 1, "minutes of training")
            pictures.append(draw(figure, "wall_time" + slug, f"Quality against wall time: {context}", caption))
        pictures += _sample_pictures(study, str(context), slug, draw)
    pictures += _failure_pictures(study, summary, others, look, draw)
    if len(frame := _paired_differences(study, summary)):
        titles = {
            name: f"{terms.fill(STATISTICS[name])} ({'less' if sign > 0 else 'more'} is better)"
            for name, sign in compared(terms).items() if (frame["statistic"] == name).any()
        }  # fmt: skip
        by = "context"
        if not curves and frame["context"].nunique() > 1:  # a results table: a panel per data set
            frame = frame[frame["statistic"] == terms.location].assign(statistic=lambda of: of["context"], all="all")
            titles, by = {str(name): str(name) for name in frame["context"].unique()}, "all"
        for context, of in frame.groupby(by, sort=False):
            slug = "" if frame[by].nunique() == 1 else "-" + slugs[str(context)]
            if by == "all":
                context = f"{terms.scale}, by data set ({'more' if terms.maximize else 'less'} is better)"
            caption = (
                f"Each dot is one seed: the arm's statistic minus that of {of['baseline'].iloc[0]} with the same "
                f"{'seed' if study.foreign else 'initial weights, data order and latents'}. "
                + ("" if by == "all" else "Above each panel it says whether less or more is better. ")
                + ("A seed in which one of the two has no end has no dot." if study.foreign else
                   "A seed in which one of the two has no end has gain 0, and by all else no dot.")
            )  # fmt: skip
            figure = plots.differences(of, titles, look)
            pictures.append(draw(figure, "differences" + slug, f"Paired differences: {context}", caption))
    return pictures


def _sigma_strips(history: pd.DataFrame, layers: list[str]) -> dict[str, pd.DataFrame]:
    """Layer -> variants x steps of the median sigma."""
    rows = binned(history, [f"sigma/{layer}" for layer in layers])
    found = {}
    for layer in layers:
        table = rows.pivot_table(index="variant", columns="step", values=f"sigma/{layer}", aggfunc="median")
        if len(table):  # without the arms that have no sigma
            found[layer] = table.loc[plots.in_order(pd.Series(table.index))]
    return found


def _raw_and_used(history: pd.DataFrame, layers: list[str]) -> pd.DataFrame:
    """layer, variant, step, raw, used: medians over seeds."""
    layers = [layer for layer in layers if f"sigma_raw/{layer}" in history]
    names = [f"{kind}/{layer}" for kind in ("sigma_raw", "sigma") for layer in layers]
    if not names or history[names].isna().all().any():
        return pd.DataFrame()
    medians = binned(history, names).groupby(["variant", "step"])[names].median().reset_index()
    return pd.concat(
        [
            medians[["variant", "step"]].assign(
                layer=layer, raw=medians[f"sigma_raw/{layer}"], used=medians[f"sigma/{layer}"]
            )
            for layer in layers
        ],
        ignore_index=True,
    )


def _gradient_strips(history: pd.DataFrame, summary: pd.DataFrame, look: plots.Look) -> dict[str, pd.DataFrame]:
    """Label of a variant -> seeds x steps of the generator's gradient norm, relative to the reference of the seed."""
    if "grad_norm/g" not in history:
        return {}
    references = summary.set_index("run_id")["grad_g_reference"].astype(float)
    relative = history["grad_norm/g"] / history["run_id"].map(references)
    rows = binned(history[[name for name in history if "/" not in name]].assign(relative=relative), ["relative"])
    rows = rows[(rows["relative"] > 0) & (rows["seed"].isin(sorted(rows["seed"].unique())[:_STRIPS]))]
    return {
        look.labels[v]: rows[rows["variant"] == v].pivot_table(index="seed", columns="step", values="relative")
        for v in look.order(rows["variant"])
    }


def _over_wall_time(history: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """`bands` of fd whose step is in minutes: of each variant the median time a step took its runs."""
    if "eval/fd" not in history or history["eval/fd"].isna().all():
        return pd.DataFrame()
    own = runs[runs["run_id"].isin(history["run_id"]) & (runs["step"] > 0)]
    minutes = (own["wall_seconds"].astype(float) / own["step"] / 60).groupby(own["variant"]).median()
    frame = bands(binned(history, ["eval/fd"]), "eval/fd")
    return frame.assign(step=frame["step"] * frame["variant"].map(minutes)).dropna(subset="step")


def _failure_pictures(
    study: Study, summary: pd.DataFrame, others: pd.DataFrame, look: plots.Look, draw: _Draw
) -> list[Picture]:
    """What went wrong and when, in each context, and quality by context if there are several."""
    pictures, over, slugs = [], summary[summary["failure"].notna()], _slugs(study.runs["context"].unique())
    failures = tables.failures_table(summary, study.foreign).frame
    for context, runs in over.groupby("context", sort=False):
        slug = "" if over["context"].nunique() == 1 else "-" + slugs[str(context)]
        n = ", ".join(f"{variant} {count}" for variant, count in runs["variant"].value_counts(sort=False).items())
        caption = f"Runs of each arm by the cause of their first failure (what went wrong, above). Runs: {n}."
        failed = runs["failure"].astype(bool).any()
        if failed or not study.foreign:
            causes = list(tables.FOREIGN_CAUSES if study.foreign else CAUSES)
            figure = plots.causes(failures[failures["context"] == context], causes)
            pictures.append(draw(figure, "causes" + slug, f"Causes of failure: {context}", caption))
        if len(others):
            of = others[others["context"] == context].rename(columns={"arm": "variant"})
            caption = (
                "Share of each arm's runs that failed in any way, under other thresholds, one at a time: quality "
                "collapse is fd above so many times the best so far; healthy is fd below this share of the trivial "
                "sampler's; modes is the share of the classes that is enough. Level lines: the threshold does not "
                f"matter. Runs: {n}."
            )
            figure = plots.sensitivity(of.assign(share=of["failures"] / of["n"]), look)
            pictures.append(draw(figure, "sensitivity" + slug, f"Failures under other thresholds: {context}", caption))
        if failed and not runs["last_step"].eq(0).all():
            curves = {variant: tables.survival_of(of).curve for variant, of in runs.groupby("variant")}
            caption = (
                "Share of runs without any failure up to a step (Kaplan-Meier, with 95 % bands; an arm without "
                f"failures has none). Runs: {n}."
            )
            figure = plots.survival(curves, look)
            pictures.append(draw(figure, "survival" + slug, f"Time to failure: {context}", caption))
    if over["context"].nunique() > 1 and over["q_end"].notna().any():
        table = over.pivot_table(index="context", columns="variant", values="q_end", aggfunc="median", sort=False)
        caption = (
            f"Median {study.terms.quality} at the end of each arm's runs that have one, in each context; numbers of "
            "different data sets do not compare."
        )
        figure = plots.matrix(table[look.order(table.columns)], f"median {study.terms.quality}")
        pictures.append(draw(figure, "robustness", "Settings and arms", caption))
    return pictures


def _paired_differences(study: Study, summary: pd.DataFrame) -> pd.DataFrame:
    frames, signs = [pd.DataFrame()], compared(study.terms)
    for context, statistic, scores, baseline in tables.scores_of(study, summary):
        table = signs[statistic] * scores.replace(np.inf, np.nan).pivot(index="seed", columns="arm", values="score")
        delta = table.drop(columns=baseline).sub(table[baseline], axis=0)
        frame = delta.melt(ignore_index=False, var_name="variant", value_name="difference").reset_index()
        frames.append(frame.assign(context=context, statistic=statistic, baseline=baseline).dropna())
    return pd.concat(frames, ignore_index=True)


def _sample_pictures(study: Study, context: str, slug: str, draw: _Draw) -> list[Picture]:
    """All arms and seeds at the last step that they share, and one seed's arms through training."""
    runs = study.runs[study.runs["context"] == context]
    if not (grids := _grids(study, runs)):
        return []
    variants = plots.in_order(pd.Series([variant for variant, _ in grids]))
    shared = sorted(set.intersection(*(set(found) for found in grids.values())))
    last = shared[-1] if shared else max(max(found) for found in grids.values())
    seeds = sorted({seed for _, seed in grids})[:5]
    chosen = {
        (plots.label_of(v), f"seed {s}"): grids[v, s][last]
        for v in variants for s in seeds if last in grids.get((v, s), {})
    }  # fmt: skip
    pictures = []
    if chosen:
        caption = f"The same 64 fixed latents of a seed in every arm, at step {last:,}. Rows: arms; columns: seeds."
        if len(seeds) < runs["seed"].nunique():
            caption += f" The first {len(seeds)} of {runs['seed'].nunique()} seeds."
        figure = plots.sample_matrix(chosen)
        pictures.append(draw(figure, "samples" + slug, f"Samples at step {last:,}: {context}", caption))
    shared = sorted(set.intersection(*(set(found) for (_, seed), found in grids.items() if seed == seeds[0])))
    if len(shared) > 2:  # frozen results keep the steps of one seed only
        steps = [shared[i] for i in np.unique(np.linspace(0, len(shared) - 1, 5).round().astype(int))]
        first = {
            (plots.label_of(v), f"step {step:,}"): grids[v, seeds[0]][step]
            for v in variants for step in steps if (v, seeds[0]) in grids
        }  # fmt: skip
        caption = f"Seed {seeds[0]}: the same latents through training. Rows: arms; columns: steps."
        figure = plots.sample_matrix(first)
        pictures.append(draw(figure, "evolution" + slug, f"Samples through training: {context}", caption))
    return pictures


def _picture(figure: Figure, file: str, title: str, caption: str, out: Path, kinds: Sequence[str]) -> Picture:
    drawn = {kind: plots.rendered(figure, kind) for kind in ("png", *sorted(set(kinds) - {"png"}))}
    for kind in kinds:
        write_atomically(out / f"{file}.{kind}", drawn[kind])
    return Picture(file, title, caption, _png_uri(drawn["png"]), file.partition("-")[0])


def _content(study: Study, shown: list[Table], thresholds: Thresholds, short: Sequence[str] = ()) -> dict[str, Any]:
    runs = study.runs
    seeds = runs.groupby(["context", "variant"])["seed"].nunique()
    versions = {
        "code": ", ".join(f"{c}{' with changes' if d else ''}" for c, d in _distinct(runs, "git_commit", "git_dirty")),
        "torch": ", ".join(v for (v,) in _distinct(runs, "torch")),
        "devices": ", ".join(v for (v,) in _distinct(runs, "device_name")),
        "training version": ", ".join(str(int(v)) for (v,) in _distinct(runs, "training_version")),
        "seeds per arm": f"{seeds.min()}" if seeds.nunique() == 1 else f"{seeds.min()} to {seeds.max()}",
    }
    problems = runs.loc[(runs["state"] != "finished") | (runs["damage"] != ""), ["run_id", "state", "step"]]
    reasons = [runs.loc[problems.index, name].fillna("") for name in ("error", "damage")]
    problems["error"] = [", ".join(filter(None, pair)) for pair in zip(*reasons, strict=True)]
    judged = Counter(context for context, _, _ in tables.protocols_of(study))
    trained = runs.loc[runs["state"].isin(RESULTS), "training_version"].dropna().astype(int)
    return {
        "mixed_protocols": [context for context, count in judged.items() if count > 1],
        "mixed_versions": sorted(set(trained)) if trained.nunique() > 1 else [],
        "name": study.name,
        "question": study.description,
        "account": study.account.to_dict(),
        "total": len(runs),
        "extra": study.extra,
        "problems": problems.to_dict("records"),
        "primary": _primary(study),
        "short": short,
        "warnings": list(study.warnings),
        "foreign": study.foreign,
        "few_seeds": int(seeds.min()) if seeds.min() < APPROXIMATE_BELOW else 0,
        "tables": shown,
        "evidenced": {claim for table in shown if table.file == "evidence" for claim in table.frame["claim"]},
        "thresholds": [] if study.foreign else thresholds.table(),
        "reading": READING_FOREIGN if study.foreign else READING,
        "versions": {key: value for key, value in versions.items() if value},
        "arms": [
            {"slug": arm, "label": ARMS[arm].label, "source": ARMS[arm].source}
            for arm in ARMS if (runs["arm"] == arm).any() and not study.foreign
        ],
        "command": study.command or f"sngan report {study.name}",
    }  # fmt: skip


def _primary(study: Study) -> str:
    """In which contexts the primary outcomes are judged, and who said so."""
    if study.foreign:
        return ""
    contexts = list(study.runs["context"].unique())
    if not study.primary and len(contexts) == 1:
        return "The primary outcomes, failures and spread over seeds of sn_dcgan against dcgan, have one context here."
    if not study.primary:
        return (
            "The study's file names no context for the primary outcomes (primary: {failures: .., spread: ..}): so none "
            "of its claims is primary, failures and spread are judged among the others, and C14 is not judged."
        )
    said = "; ".join(f"{JUDGED[outcome]}: {context}" for outcome, context in study.primary.items())
    rest = ", ".join(outcome for outcome in JUDGED if outcome not in study.primary)
    return (
        f"Named beforehand, in the study's file, are the contexts in which it judges {said}. What a launched or frozen "
        "study has named stays." + (f" No context is named for {rest}." if rest and len(contexts) > 1 else "")
    )


def _markdown(parts: list[str | Picture]) -> str:
    return "\n".join(
        part
        if isinstance(part, str)
        else f"![{_plain(part.title)}](figures/{part.file}.png)\n\n{_plain(part.caption)}\n"
        for part in parts
    )


def _parts(content: dict[str, Any], pictures: list[Picture]) -> list[str | Picture]:
    """The report as Markdown, with its figures between."""
    states = ", ".join(f"{count} {state}" for state, count in content["account"].items() if count)
    head = [
        f"# {_plain(content['name'])}",
        "",
        content["question"],
        "",
        *(f"{'' if i else '**In short.** '}{_plain(text)}\n" for i, text in enumerate(content["short"])),
        *(f"Note: {_plain(text)}.\n" for text in content["warnings"]),
        f"{content['total']} {'runs' if content['foreign'] else 'planned runs'}: {states}.",
        "",
        *([content["primary"], ""] if content["primary"] else []),
        "## How to read this page",
        "",
        *(f"{i}. {text}" for i, text in enumerate(content["reading"], start=1)),
        "",
    ]
    lines = []
    for table in content["tables"]:
        lines += [f"## {table.title}", "", _plain(table.caption), ""]
        if table.frame.empty:
            lines += [f"Nothing to show: this needs {table.needs}.", ""]
            continue
        lines += ["| " + " | ".join(map(_markdown_cell, table.heads())) + " |", "|" + "---|" * table.shown.shape[1]]
        lines += [f"| {' | '.join(map(_markdown_cell, row))} |" for row in table.cells()]
        lines.append("")
    if content["thresholds"]:
        lines += ["## Thresholds", "", "| name | value | what it decides |", "|---|---|---|"]
    lines += [f"| {name} | {value} | {_markdown_cell(meaning)} |" for name, value, meaning in content["thresholds"]]
    lines += ["", "## Versions and how to rebuild", ""]
    lines += [f"- {key}: {value}" for key, value in content["versions"].items()]
    lines += ["", f"Made by `{content['command']}`.", ""]
    return ["\n".join(head), *pictures, "\n".join(lines)]


def _markdown_cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """One line that Markdown takes for text, whatever names it holds."""
    return " ".join(text.split()).replace("<", "&lt;")


def _distinct(runs: pd.DataFrame, *columns: str) -> list[tuple[Any, ...]]:
    return list(runs[list(columns)].dropna().drop_duplicates().itertuples(index=False, name=None))


def _count(history: pd.DataFrame) -> str:
    n = history.groupby("variant")["seed"].nunique()
    return f"Seeds per arm: {n.min()}" + (f" to {n.max()}." if n.nunique() > 1 else ".")


def _seeds(history: pd.DataFrame) -> str:
    n = history.groupby("variant")["seed"].nunique()
    count = f"{n.min()}" if n.nunique() == 1 else f"{n.min()} to {n.max()}"
    if n.max() == 1:
        return "One seed per arm: no band."
    line, band = ("centre", "its 95 % interval") if n.min() >= APPROXIMATE_BELOW else ("median", "their range")
    return f"Lines: {line} over {count} seeds; bands: {band}; drawn as far as half of the seeds came."


def _slugs(names: Iterable[Any]) -> dict[str, str]:
    """Name -> part of a file's name: short, and another one for each."""
    slugs: dict[str, str] = {}
    for name in dict.fromkeys(map(str, names)):
        slug = "".join(c if c.isalnum() else "_" for c in name)
        if len(slug.encode()) > 100 or slug.lower() in {other.lower() for other in slugs.values()}:
            slug = f"{slug.encode()[:60].decode(errors='ignore')}-{len(slugs) + 1}"
        slugs[name] = slug
    return slugs
