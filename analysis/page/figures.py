"""The figures of the report: which there are, what each shows, and a caption that says how to read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from analysis import failures, figure_data, measured
from analysis.comparisons import differences
from analysis.events import CAUSES
from analysis.page import plots
from analysis.stability import STATISTICS, compared
from analysis.stats import APPROXIMATE_BELOW
from analysis.study import Study
from analysis.terms import Terms
from analysis.variants import in_order, label_of
from sngan import quantities

_STRIPS = 20  # seeds of an arm that have a strip of their own


class Drawn(NamedTuple):
    """A figure, the name of its files, and what people read beside it."""

    file: str
    title: str
    caption: str
    figure: Figure


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
            return [f"{figure_data.RATIO}/{layer}" for layer in layers]
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
        "For reals against reals, all but the effective modes would be near 1, and those near the number of classes. "
        "One image repeated can be precise, but not varied.", 3,
    ),
    Curves(
        "sigma", "Spectral norms by layer",
        "Exact largest singular value of each layer's matrix: above, of the weight as used; below, of the raw "
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
        "between the dotted lines: 1, and the root of the number of windows over a pixel (2 for kernel 4 at stride "
        "2, 3 for kernel 3 at stride 1; 1 if the output is one pixel).", 0,
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
    if kind == figure_data.RATIO:
        return f"{layer}, operator norm over sigma"
    of = quantities.find(metric)
    assert of is not None
    words = f"{of.words}, {of.unit}" if of.unit else of.words
    return f"{layer}, {words}" if of.by_layer else words


def _is_log(metric: str, terms: Terms) -> bool:
    of = quantities.find(metric)
    return of is not None and of.axis == "log" and (terms.ratio or metric != "eval/fd")


def draw(study: Study, summary: pd.DataFrame, others: pd.DataFrame, look: plots.Look) -> Iterator[Drawn]:
    """All figures, context by context. `others`: failures under other thresholds, or nothing."""
    slugs = _slugs(study.runs["context"].unique())
    for context, history in study.history.groupby("context", sort=False) if _has_curves(study) else ():
        slug = "" if study.history["context"].nunique() == 1 else "-" + slugs[str(context)]
        yield from _Context(study, summary, str(context), history, look, slug).draw()
    yield from _failures(study, summary, others, look, slugs)
    yield from _differences(study, summary, look, slugs)


def _has_curves(study: Study) -> bool:
    """Another program's table may hold nothing but ends."""
    return not study.foreign or bool(study.history.groupby("context")["step"].nunique().gt(1).any())


@dataclass(frozen=True)
class _Context:
    """The figures of what was measured in one context."""

    study: Study
    summary: pd.DataFrame
    name: str
    history: pd.DataFrame
    look: plots.Look
    slug: str

    def draw(self) -> Iterator[Drawn]:
        layers = measured.layers_of(self.study, self.name)
        history = figure_data.with_ratios(self.history, layers)
        for kind in CURVES:
            yield from self._curves(kind, history, layers)
        yield from self._raw_and_used(layers)
        yield from self._sigma_strips(layers)
        yield from self._gradient_strips()
        yield from self._wall_time()
        yield from samples(self.study, self.name, self.slug)

    def _drawn(self, file: str, title: str, caption: str, figure: Figure) -> Drawn:
        return Drawn(file + self.slug, f"{title}: {self.name}", caption, figure)

    def _title(self, metric: str) -> str:
        return _title(metric, self.study.terms, self.study.foreign)

    def _curves(self, kind: Curves, history: pd.DataFrame, layers: Sequence[str]) -> Iterator[Drawn]:
        terms = self.study.terms
        metrics = [m for m in kind.metrics(layers) if m in history and history[m].notna().any()]
        if kind.file == "spectra":  # of a matrix with one row there is nothing to see
            metrics = [m for m in metrics if (history[m].dropna() != 1).any()]
        panels = {self._title(metric): of for metric, of in figure_data.curves(history, metrics).items()}
        if not panels:
            return
        bound = measured.bounds_of(self.study, self.name)
        marks = {self._title(f"{figure_data.RATIO}/{layer}"): (1.0, bound[layer]) for layer in bound}
        logarithmic = {self._title(metric) for metric in metrics if _is_log(metric, terms)}
        columns = min(kind.columns or max(len(layers), 1), len(panels))
        figure = plots.curves(panels, self.look, logarithmic, columns, marks=marks)
        file, title, caption = kind.said(terms, self.study.foreign)
        protocol = judged(self.study, self.name) if kind.file in ("distance", "coverage") else ""
        yield self._drawn(file, title, f"{caption} {protocol}{_seeds(history)}".strip(), figure)

    def _raw_and_used(self, layers: Sequence[str]) -> Iterator[Drawn]:
        if len(way := figure_data.raw_and_used(self.history, layers)):
            caption = (
                "The path of each arm, median over its seeds, from the start of training to the dot at its end. On the "
                "dotted diagonal the weight is used as it is; SN leaves it and stays at 1. "
                f"{_count(self.history)}"
            )
            figure = plots.raw_and_used(way, self.look)
            yield self._drawn("raw_used", "Raw against used spectral norm", caption, figure)

    def _sigma_strips(self, layers: Sequence[str]) -> Iterator[Drawn]:
        if strips := figure_data.sigma_strips(self.history, layers):
            caption = (
                "The same spectral norms of the weights as used, as strips over training: median over the seeds. One "
                f"scale for all layers, so that growth and differences between arms show. {_count(self.history)}"
            )
            figure = plots.over_time(strips, "sigma", self.look.step)
            yield self._drawn("strips", "Spectral norms over training", caption, figure)

    def _gradient_strips(self) -> Iterator[Drawn]:
        strips = figure_data.gradient_strips(self.history, self.summary, _STRIPS)
        labelled = {self.look.labels[variant]: strips[variant] for variant in self.look.order(strips)}
        if labelled:
            gradient = self.study.terms.grad_g if self.study.foreign else "the generator's gradient"
            caption = (
                f"A strip for each seed: the norm of {gradient}, in units of the reference (median over "
                "an early stretch of all arms of that seed). Dark strips are gradients that vanish; a strip that ends "
                "early is a run that ended early."
            )
            figure = plots.over_time(labelled, "gradient norm / reference", self.look.step)
            yield self._drawn("gradient_strips", "Gradient health by seed", caption, figure)

    def _wall_time(self) -> Iterator[Drawn]:
        if len(frame := figure_data.over_wall_time(self.history, self.study.runs)):
            caption = (
                "fd against the time that training took, where each run's wall time is spread evenly over its steps. "
                "Runs that trained beside others took longer than they would alone: for costs see `sngan bench`. "
                f"{judged(self.study, self.name)}{_seeds(self.history)}"
            )
            fd = _title("eval/fd", self.study.terms, foreign=False)
            figure = plots.curves({fd: frame}, self.look, {fd}, 1, "minutes of training")
            yield self._drawn("wall_time", "Quality against wall time", caption, figure)


def samples(study: Study, context: str, slug: str) -> Iterator[Drawn]:
    """All arms and seeds at the last step that they share, and one seed's arms through training."""
    runs = study.runs[study.runs["context"] == context]
    if not (grids := figure_data.sample_grids(study, runs)):
        return
    variants = in_order(pd.Series([variant for variant, _ in grids]))
    shared = sorted(set.intersection(*(set(found) for found in grids.values())))
    last = shared[-1] if shared else max(max(found) for found in grids.values())
    seeds = sorted({seed for _, seed in grids})[:5]
    chosen = {
        (label_of(v), f"seed {s}"): grids[v, s][last]
        for v in variants for s in seeds if last in grids.get((v, s), {})
    }  # fmt: skip
    if chosen:
        caption = f"The same 64 fixed latents of a seed in every arm, at step {last:,}. Rows: arms; columns: seeds."
        if len(seeds) < runs["seed"].nunique():
            caption += f" The first {len(seeds)} of {runs['seed'].nunique()} seeds."
        figure = plots.sample_matrix(chosen)
        yield Drawn("samples" + slug, f"Samples at step {last:,}: {context}", caption, figure)
    shared = sorted(set.intersection(*(set(found) for (_, seed), found in grids.items() if seed == seeds[0])))
    if len(shared) > 2:  # frozen results keep the steps of one seed only
        first = {
            (label_of(v), f"step {step:,}"): grids[v, seeds[0]][step]
            for v in variants for step in figure_data.spread_out(shared, 5) if (v, seeds[0]) in grids
        }  # fmt: skip
        caption = f"Seed {seeds[0]}: the same latents through training. Rows: arms; columns: steps."
        figure = plots.sample_matrix(first)
        yield Drawn("evolution" + slug, f"Samples through training: {context}", caption, figure)


def _failures(
    study: Study, summary: pd.DataFrame, others: pd.DataFrame, look: plots.Look, slugs: dict[str, str]
) -> Iterator[Drawn]:
    """What went wrong and when, in each context, and quality by context if there are several."""
    ended = summary[summary["failure"].notna()]
    causes = failures.causes(summary, study.foreign)
    for context, runs in ended.groupby("context", sort=False):
        slug = "" if ended["context"].nunique() == 1 else "-" + slugs[str(context)]
        n = ", ".join(f"{variant} {count}" for variant, count in runs["variant"].value_counts(sort=False).items())
        failed = runs["failure"].astype(bool).any()
        if failed or not study.foreign:
            caption = f"Runs of each arm by the cause of their first failure (what went wrong, above). Runs: {n}."
            names = list(failures.FOREIGN_CAUSES if study.foreign else CAUSES)
            figure = plots.causes(causes[causes["context"] == context], names)
            yield Drawn("causes" + slug, f"Causes of failure: {context}", caption, figure)
        if len(others):
            of = others[others["context"] == context].rename(columns={"arm": "variant"})
            caption = (
                "Share of each arm's runs that failed in any way, under other thresholds, one at a time: quality "
                "collapse is fd above this multiple of the best so far; healthy is fd below this share of the trivial "
                "sampler's; modes is the share of the classes that is enough. Level lines: the threshold does not "
                f"matter. Runs: {n}."
            )
            figure = plots.sensitivity(of.assign(share=of["failures"] / of["n"]), look)
            yield Drawn("sensitivity" + slug, f"Failures under other thresholds: {context}", caption, figure)
        if failed and not runs["last_step"].eq(0).all():
            curves = {str(variant): failures.survival_of(of).curve for variant, of in runs.groupby("variant")}
            caption = (
                "Share of runs without any failure up to a step (Kaplan-Meier, with 95 % bands; an arm without "
                f"failures has none). Runs: {n}."
            )
            yield Drawn("survival" + slug, f"Time to failure: {context}", caption, plots.survival(curves, look))
    if ended["context"].nunique() > 1 and ended["q_end"].notna().any():
        table = figure_data.robustness(ended)
        caption = (
            f"Median {study.terms.quality} at the end of each arm's runs that have one, in each context; numbers of "
            "different data sets cannot be compared."
        )
        figure = plots.matrix(table[look.order(table.columns)], f"median {study.terms.quality}")
        yield Drawn("robustness", "Settings and arms", caption, figure)


def _differences(study: Study, summary: pd.DataFrame, look: plots.Look, slugs: dict[str, str]) -> Iterator[Drawn]:
    """Paired differences by context: a panel per statistic, or of a results table a panel per data set."""
    frame, terms = differences(study, summary), study.terms
    if frame.empty:
        return
    titles = {
        name: f"{terms.fill(STATISTICS[name])} ({'lower' if sign > 0 else 'higher'} is better)"
        for name, sign in compared(terms).items() if (frame["statistic"] == name).any()
    }  # fmt: skip
    at_once = not _has_curves(study) and frame["context"].nunique() > 1
    if at_once:
        whole = f"{terms.scale}, by data set ({'higher' if terms.maximize else 'lower'} is better)"
        frame = frame[frame["statistic"] == terms.location].assign(statistic=lambda of: of["context"], context=whole)
        titles = {str(name): str(name) for name in frame["statistic"].unique()}
    for context, of in frame.groupby("context", sort=False):
        slug = "" if frame["context"].nunique() == 1 else "-" + slugs[str(context)]
        caption = (
            f"Each dot is one seed: the arm's statistic minus that of {of['baseline'].iloc[0]} with the same "
            f"{'seed' if study.foreign else 'initial weights, data order and latents'}. "
            + ("" if at_once else "Above each panel it says whether lower or higher is better. ")
            + ("A seed in which one of the two has no end has no dot." if study.foreign else
               "A seed in which one of the two has no end has gain 0, and no dot for other statistics.")
        )  # fmt: skip
        figure = plots.differences(of, titles, look)
        yield Drawn("differences" + slug, f"Paired differences: {context}", caption, figure)


def judged(study: Study, context: str) -> str:
    """The protocol of a context in two sentences: what belongs beside every number."""
    sentences = [
        f"{p.get('n_fake', 0):,} samples against {p.get('n_real', 0):,} reals in the features of "
        f"{p.get('feature_net')} (accuracy {p.get('feature_net_accuracy', float('nan')):.2%}, SHA-256 "
        f"{str(p.get('feature_net_sha256'))[:8]}), batch norm by its {p.get('batch_norm')}. Reals against reals have "
        f"an fd of {p.get('real_against_real', {}).get('fd', float('nan')):.3g}, the trivial sampler one of "
        f"{p.get('trivial_fd', float('nan')):.3g}. "
        for c, _, p in measured.protocols_of(study)
        if c == context
    ]
    return "".join(sentences)


def _count(history: pd.DataFrame) -> str:
    n = history.groupby("variant")["seed"].nunique()
    return f"Seeds per arm: {n.min()}" + (f" to {n.max()}." if n.nunique() > 1 else ".")


def _seeds(history: pd.DataFrame) -> str:
    n = history.groupby("variant")["seed"].nunique()
    count = f"{n.min()}" if n.nunique() == 1 else f"{n.min()} to {n.max()}"
    if n.max() == 1:
        return "One seed per arm: no band."
    line, band = ("centre", "its 95 % interval") if n.min() >= APPROXIMATE_BELOW else ("median", "their range")
    return f"Lines: {line} over {count} seeds; bands: {band}; drawn up to the step that half of the seeds reached."


def _slugs(names: Iterable[Any]) -> dict[str, str]:
    """Name -> part of a file's name: short, and another one for each."""
    slugs: dict[str, str] = {}
    for name in dict.fromkeys(map(str, names)):
        slug = "".join(c if c.isalnum() else "_" for c in name)
        if len(slug.encode()) > 100 or slug.lower() in {other.lower() for other in slugs.values()}:
            slug = f"{slug.encode()[:60].decode(errors='ignore')}-{len(slugs) + 1}"
        slugs[name] = slug
    return slugs
