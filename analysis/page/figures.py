"""The figures of the report: which there are, what each shows, and a caption that says how to read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from analysis import failures, figure_data, measured, plots
from analysis.comparisons import differences
from analysis.events import meanings
from analysis.page import panels
from analysis.stability import STATISTICS, compared
from analysis.stats import APPROXIMATE_BELOW
from analysis.study import Study
from analysis.terms import OURS, Terms
from analysis.variants import in_order, label_of
from sngan import quantities

_STRIPS = 20  # seeds of an arm that have a strip of their own
_SEEDS_OF_SAMPLES = 5
SAMPLES = ("samples", "samples-all")  # kinds of figures that are bitmaps, which the page shows as films


class Drawn(NamedTuple):
    """A figure, the name of its files, and what people read beside it; of one context among several, its name.

    `kind`: the file's name without that of the context.
    """

    file: str
    title: str
    caption: str
    figure: Figure
    kind: str
    context: str = ""


class Curves(NamedTuple):
    """A figure of curves over training: the quantities that name it, and how they are to be read.

    `columns` of panels; 0: as many as there are layers. `compared`: all panels have one scale.
    """

    file: str
    title: str
    caption: str
    columns: int
    compared: bool = False

    def metrics(self, layers: Sequence[str]) -> list[str]:
        if self.file == "bound":
            return [f"{figure_data.RATIO}/{layer}" for layer in layers]
        return [name for of in quantities.shown("figure", self.file) for name in of.names(layers)]

    def said(self, terms: Terms, foreign: bool) -> tuple[str, str, str]:
        """File, title and caption; of another program's runs in its own words."""
        side = f"{terms.better.capitalize()} is better."
        if self.file == "distance":
            return ("quality", terms.quality, side) if foreign else (self.file, self.title, side)
        caption = self.caption
        if self.file == "coverage" and not terms.classes:
            caption = caption.replace(_OF_MODES, "all would be near 1.")
        return self.file, self.title, "" if foreign else caption


_OF_MODES = "all but the effective modes would be near 1, and those near the number of classes."
CURVES = (
    Curves("losses", "Losses", "The discriminator's and the generator's loss.", 2),
    Curves("distance", "Distance of samples from the data", "", 3),
    Curves(
        "coverage", "Quality and variety of samples",
        f"For reals against reals, {_OF_MODES} "
        "One image repeated can be precise, but not varied.", 3,
    ),
    Curves(
        "sigma", "Spectral norms by layer",
        "Exact largest singular value of each layer's matrix: of the weight as used, then of the raw parameter, on one "
        "scale. Spectral normalization holds the former at 1.", 0, True,
    ),
    Curves(
        "pull", "Pull of the penalty by layer",
        "How hard the penalty pulls at each layer's largest singular direction, in units of the pull of the loss "
        "without it: above 1 the penalty is the stronger.", 0,
    ),
    Curves(
        "weights", "What clipping and the orthonormal penalty do to the weights",
        "The share of a layer's weights that lie at the clipping bound, or beyond it before the first update; and how "
        "far a layer's rows (or columns, if these are fewer) are from being orthonormal.", 0,
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
        "steepness", "Steepness of the discriminator over training",
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
    if metric == "eval/fd" and terms.quality != OURS.quality and not foreign:
        return f"{terms.quality} (Frechet distance)"
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


class Material(NamedTuple):
    """What figures are drawn of, besides the study: run statistics, failures under other thresholds (or nothing), arms
    compared, failures paired by seed."""

    summary: pd.DataFrame
    others: pd.DataFrame
    compared: pd.DataFrame
    paired: pd.DataFrame


def draw(study: Study, material: Material, look: plots.Look, width: float = panels.WIDTH) -> Iterator[Drawn]:
    """All figures, context by context."""
    names = list(study.runs["context"].unique())
    slugs = _slugs(names) if len(names) > 1 else {str(names[0]): ""}
    contexts = [_Context(study, material, str(name), look, width, slugs[str(name)], len(names) > 1) for name in names]
    for context in contexts:
        yield from context.curves()
    yield from _forest(study, material, look, width, slugs)
    for context in contexts:
        yield from context.failures()
    yield from _differences(study, material.summary, look, width, slugs)
    ended = material.summary[material.summary["failure"].notna()]
    if ended["context"].nunique() > 1 and ended["q_end"].notna().any():
        table = figure_data.robustness(ended)
        caption = (
            f"Median {study.terms.quality} at the end of each arm's runs that have one, in each context; numbers of "
            "different data sets cannot be compared."
        )
        shown = table[look.order(table.columns)].rename(columns=look.labels)
        figure = panels.matrix(shown, f"median {study.terms.quality}", width)
        yield Drawn("robustness", "Settings and arms", caption, figure, "robustness")


def _has_curves(study: Study) -> bool:
    """Another program's table may hold nothing but ends."""
    return not study.foreign or bool(study.history.groupby("context")["step"].nunique().gt(1).any())


@dataclass(frozen=True)
class _Context:
    """The figures of what was measured in one context."""

    study: Study
    material: Material
    name: str
    look: plots.Look
    width: float
    slug: str
    several: bool

    @cached_property
    def terms(self) -> Terms:
        return self.study.terms_in(self.name)

    @cached_property
    def history(self) -> pd.DataFrame:
        return self.study.history[self.study.history["context"] == self.name]

    def curves(self) -> Iterator[Drawn]:
        if not _has_curves(self.study) or self.history.empty:
            return
        layers = measured.layers_of(self.study, self.name)
        history = figure_data.with_ratios(self.history, layers)
        for kind in CURVES:
            yield from self._curves(kind, history, layers)
        yield from self._gradient_strips()
        yield from self._wall_time()
        yield from samples(self.study, self.name, self.slug, self.width)

    def _drawn(self, kind: str, title: str, caption: str, figure: Figure) -> Drawn:
        return _in_context(kind, title, caption, figure, self.name if self.several else "", self.slug)

    def _title(self, metric: str) -> str:
        return _title(metric, self.terms, self.study.foreign)

    def _curves(self, kind: Curves, history: pd.DataFrame, layers: Sequence[str]) -> Iterator[Drawn]:
        terms = self.terms
        metrics = kind.metrics(layers)
        if kind.file == "spectra":  # of a matrix with one row there is nothing to see
            metrics = [m for m in metrics if m in history and (history[m].dropna() != 1).any()]
        found = figure_data.curves(history, metrics)
        if not found:
            return
        narrow = kind.compared and self.width < len(layers) * panels.NARROWEST
        if narrow:  # used and raw of a layer beside each other
            found = {name: found[name] for name in sorted(found, key=lambda name: layers.index(name.partition("/")[2]))}
        titles = {metric: self._title(metric) for metric in found}
        figure = panels.curves(
            {titles[metric]: of.bands for metric, of in found.items()},
            self.look,
            self.width,
            logarithmic={titles[metric] for metric in found if _is_log(metric, terms)},
            columns=2 if narrow else kind.columns or max(len(layers), 1),
            marks={titles[metric]: marks for metric, marks in self._marks(kind, layers).items() if metric in titles},
            seeds={titles[metric]: of.seeds for metric, of in found.items() if of.seeds is not None},
            compared=kind.compared,
        )
        file, title, caption = kind.said(terms, self.study.foreign)
        protocol = judged(self.study, self.name) if kind.file in ("distance", "coverage") else ""
        yield self._drawn(file, title, f"{caption} {protocol}{_seeds(history)}".strip(), figure)

    def _marks(self, kind: Curves, layers: Sequence[str]) -> dict[str, dict[str, float]]:
        """metric -> horizontal lines by name: what reals and the trivial sampler score, bounds of a theorem."""
        if kind.file == "bound":
            bound = measured.bounds_of(self.study, self.name)
            return {
                f"{figure_data.RATIO}/{layer}": {"lower bound": 1.0, "upper bound": bound[layer]}
                for layer in layers
                if layer in bound
            }
        protocols = [protocol for context, _, protocol in measured.protocols_of(self.study) if context == self.name]
        if kind.file != "distance" or len(protocols) != 1:
            return {}
        said = {"real_against_real": "reals", "trivial_sampler": "trivial sampler"}
        scores = {words: protocols[0].get(name) or {} for name, words in said.items()}
        scores["trivial sampler"] = {"fd": protocols[0].get("trivial_fd"), **scores["trivial sampler"]}
        recorded = {"fd": "fd_pixels"} if self.terms.sight == "pixels" else {}
        names = {metric: metric.removeprefix("eval/") for metric in kind.metrics(layers)}
        return {
            metric: {
                words: float(of[name]) for words, of in scores.items() if isinstance(of.get(name), int | float)
            }
            for metric, name in ((metric, recorded.get(name, name)) for metric, name in names.items())
        }  # fmt: skip

    def _gradient_strips(self) -> Iterator[Drawn]:
        strips = figure_data.gradient_strips(self.history, self.material.summary, _STRIPS)
        labelled = {self.look.labels[variant]: strips[variant] for variant in self.look.order(strips)}
        if labelled:
            gradient = self.study.terms.grad_g if self.study.foreign else "the generator's gradient"
            caption = (
                f"A strip for each seed: the norm of {gradient}, in units of the reference (median over "
                "an early stretch of all arms of that seed). Dark strips are gradients that vanish; a strip that ends "
                "early is a run that ended early."
            )
            figure = panels.strips(labelled, "gradient norm / reference", self.look.step, self.width)
            yield self._drawn("gradient_strips", "Gradient health by seed", caption, figure)

    def _wall_time(self) -> Iterator[Drawn]:
        if (of := figure_data.over_wall_time(self.history, self.study.runs)) is not None:
            caption = (
                f"{self.terms.quality} against the time that training took, where each run's wall time is spread "
                "evenly over its steps. "
                "Runs that trained beside others took longer than they would alone: for costs see `sngan bench`. "
                f"{judged(self.study, self.name)}{_seeds(self.history)}"
            )
            fd = self._title("eval/fd")
            figure = panels.curves(
                {fd: of.bands}, self.look, self.width, logarithmic={fd}, columns=1, x_label="minutes of training",
                seeds={} if of.seeds is None else {fd: of.seeds},
            )  # fmt: skip
            yield self._drawn("wall_time", "Quality against wall time", caption, figure)

    def failures(self) -> Iterator[Drawn]:
        """What went wrong and when; nothing where nothing did."""
        study, summary, terms = self.study, self.material.summary, self.terms
        runs = summary[summary["failure"].notna() & (summary["context"] == self.name)]
        n = ", ".join(f"{self.look.labels[v]} {count}" for v, count in runs["variant"].value_counts(sort=False).items())
        failed = runs["failure"].astype(bool).any()
        if failed:
            of = failures.causes(summary, study.foreign, terms)
            unseen = f" {terms.unseen}" if terms.unseen else ""
            caption = f"Runs of each arm by the cause of their first failure. Runs: {n}.{unseen}"
            names = list(failures.FOREIGN_CAUSES if study.foreign else meanings(terms))
            figure = panels.causes(of[of["context"] == self.name], names, self.look, self.width)
            yield self._drawn("causes", "Causes of failure", caption, figure)
        if failed and not runs["last_step"].eq(0).all():
            curves = {str(variant): failures.survival_of(of).curve for variant, of in runs.groupby("variant")}
            caption = (
                "Share of runs without any failure up to a step (Kaplan-Meier, with 95 % bands; an arm without "
                f"failures has none). Runs: {n}."
            )
            yield self._drawn("survival", "Time to failure", caption, panels.survival(curves, self.look, self.width))
        of = self.material.others
        of = of[of["context"] == self.name].rename(columns={"arm": "variant"}) if len(of) else of
        of = of[of.groupby("threshold")["failures"].transform("sum") > 0] if len(of) else of
        if len(of):
            modes = "; modes is the share of the classes that is enough" if terms.classes else ""
            caption = (
                "Share of each arm's runs that failed in any way, under other thresholds, one at a time: quality "
                f"collapse is {terms.quality} above this multiple of the best so far; healthy is {terms.quality} below "
                f"this share of the trivial sampler's{modes}. Level lines: the threshold does not matter. Runs: {n}."
            )
            figure = panels.sensitivity(of.assign(share=of["failures"] / of["n"]), self.look, self.width)
            yield self._drawn("sensitivity", "Failures under other thresholds", caption, figure)


def _in_context(kind: str, title: str, caption: str, figure: Figure, context: str, slug: str) -> Drawn:
    """A figure of one context among several, or of the only one, which needs no name."""
    return Drawn(
        f"{kind}-{slug}" if slug else kind, f"{title}: {context}" if context else title, caption, figure, kind, context
    )


def samples(study: Study, context: str, slug: str = "", width: float = panels.WIDTH) -> Iterator[Drawn]:
    """At the last step that they share: 16 large samples of every arm beside real images, and all arms and seeds."""
    runs = study.runs[study.runs["context"] == context]
    if not (grids := figure_data.sample_grids(study, runs)):
        return
    variants = in_order(pd.Series([variant for variant, _ in grids]))
    shared = sorted(set.intersection(*(set(found) for found in grids.values())))
    last = shared[-1] if shared else max(max(found) for found in grids.values())
    seeds = sorted({seed for _, seed in grids})[:_SEEDS_OF_SAMPLES]
    chosen = {
        (label_of(v), f"seed {s}"): grids[v, s][last]
        for v in variants for s in seeds if last in grids.get((v, s), {})
    }  # fmt: skip
    if chosen:
        title = f"Samples at step {last:,}"
        of = context if study.runs["context"].nunique() > 1 else ""
        seed = max((s for _, s in chosen), key=[s for _, s in chosen].count)  # the first that most arms have
        real = study.real_in(context)
        large: dict[str, Any] = {"real images": real} if real else {}
        large |= {label_of(v): chosen.get((label_of(v), seed)) for v in variants}
        caption = f"16 fixed latents of {seed}, the same in every arm{', beside real images' if real else ''}."
        yield _in_context(SAMPLES[0], title, caption, panels.large_samples(large, width), of, slug)
        caption = f"The same 64 fixed latents of a seed in every arm, at step {last:,}. Rows: arms; columns: seeds."
        if len(seeds) < runs["seed"].nunique():
            caption += f" The first {len(seeds)} of {runs['seed'].nunique()} seeds."
        yield _in_context(SAMPLES[1], f"All {title.lower()}", caption, panels.samples(chosen, width), of, slug)


_FOREST_ROWS = 60  # as many a page holds

_DIRECTION = {"lower": "\N{LEFTWARDS ARROW} lower is better", "higher": "higher is better \N{RIGHTWARDS ARROW}"}


def _forest(study: Study, material: Material, look: plots.Look, width: float, slugs: dict[str, str]) -> Iterator[Drawn]:
    """All paired differences at once; of very many contexts one by one."""
    terms = study.terms
    location = "gain" if (material.compared["statistic"] == "gain").any() else terms.location
    of_location = material.compared[material.compared["statistic"] == location]
    together = len(of_location) <= _FOREST_ROWS
    for context, against in [("", of_location)] if together else of_location.groupby("context", sort=False):
        paired = material.paired
        if context and len(paired):
            paired = paired[paired["context"] == context]
        found = figure_data.forest(against, paired, location, look)
        if not found:
            continue
        base = look.labels[[*against["baseline"], *paired["baseline"]][0]]
        titles = {
            "location": f"{'Gain' if location == 'gain' else terms.scale}, minus that of {base}",
            "failures": f"Share of seeds that fail, minus that of {base}",
            "spread": f"Spread over seeds, log2 of the ratio to {base}",
        }
        effects = [panels.Effects(titles[of.kind], _DIRECTION[of.better], of.rows) for of in found]
        words = {
            "location": f"{terms.scale} at the end of training",
            "failures": f"share of seeds in which the arm alone failed, minus that in which {base} alone did",
            "spread": "typical distance from the median",
        }
        if location == "gain":
            words["location"] = f"gain: log of the trivial sampler's {terms.quality} over the run's"
        caption = (
            f"Each arm against {base}, paired by seed; the number of pairs stands in brackets. Dots: the estimate; "
            f"bars: its 95 % interval; a hollow dot has none. Shown: {'; '.join(words[of.kind] for of in found)}."
        )
        yield _in_context(
            "forest", "Paired differences", caption, panels.forest(effects, look, width), str(context),
            slugs.get(str(context), ""),
        )  # fmt: skip


def _differences(
    study: Study, summary: pd.DataFrame, look: plots.Look, width: float, slugs: dict[str, str]
) -> Iterator[Drawn]:
    """Seed by seed: a panel per statistic and a figure per context, or of a results table a panel per data set."""
    frame, terms = differences(study, summary), study.terms
    if frame.empty:
        return
    titles = {
        name: f"{terms.fill(STATISTICS[name])} ({'lower' if sign > 0 else 'higher'} is better)"
        for name, sign in compared(terms).items() if (frame["statistic"] == name).any()
    }  # fmt: skip
    at_once = not _has_curves(study) and frame["context"].nunique() > 1
    if at_once:
        frame = frame[frame["statistic"] == terms.location].assign(statistic=lambda of: of["context"], context="")
        titles = {str(name): str(name) for name in frame["statistic"].unique()}
    several = frame["context"].nunique() > 1
    for context, of in frame.groupby("context", sort=False):
        caption = (
            f"Each dot is one seed: the arm's statistic minus that of {look.labels[of['baseline'].iloc[0]]} with the "
            f"same {'seed' if study.foreign else 'initial weights, data order and latents'}. "
            + (f"By data set: {terms.scale} ({terms.better} is better). " if at_once else
               "Above each panel it says whether lower or higher is better. ")
            + ("A seed in which one of the two has no end has no dot." if study.foreign else
               "A seed in which one of the two has no end has gain 0, and no dot for other statistics.")
        )  # fmt: skip
        frames = {title: of[of["statistic"] == name] for name, title in titles.items()}
        frames = {
            title: shown for title, shown in frames.items() if shown["difference"].abs().between(1e-9, 1e99).any()
        }
        if not frames:
            continue
        figure = panels.differences(frames, look, width)
        yield _in_context("differences", "Paired differences, seed by seed", caption, figure,
                          str(context) if several else "", slugs.get(str(context), "") if several else "")  # fmt: skip


def judged(study: Study, context: str) -> str:
    """The protocol of a context in two sentences: what belongs beside every number."""

    def number(of: dict[str, Any], name: str) -> float:
        return float("nan") if (value := of.get(name)) is None else value

    def by(of: dict[str, Any]) -> str:
        if terms.sight == "pixels":
            return f"by their pixels alone ({of.get('pixels')})"
        known = f"accuracy {number(of, 'feature_net_accuracy'):.2%}, " if terms.sight != "inception" else ""
        return f"in the features of {of.get('feature_net')} ({known}SHA-256 {str(of.get('feature_net_sha256'))[:8]})"

    terms = study.terms_in(context)
    name = "fd_pixels" if terms.sight == "pixels" else "fd"
    sentences = [
        f"{number(p, 'n_fake'):,} samples against {number(p, 'n_real'):,} reals {by(p)}, batch norm by its "
        f"{p.get('batch_norm')}. Reals against reals have an {terms.quality} of "
        f"{number(p.get('real_against_real', {}), name):.3g}, the trivial sampler one of "
        f"{number(p, 'trivial_fd') if name == 'fd' else number(p.get('trivial_sampler', {}), name):.3g}. "
        for c, _, p in measured.protocols_of(study)
        if c == context and "feature_net" in p
    ]
    return "".join(sentences)


def _seeds(history: pd.DataFrame) -> str:
    """What lines and bands are."""
    n = history.groupby("variant")["seed"].nunique()
    count = f"{n.min()}" if n.nunique() == 1 else f"{n.min()} to {n.max()}"
    if n.max() == 1:
        return "One seed per arm: no band."
    if figure_data.has_few_seeds(history):
        return f"Thin lines: each of {count} seeds; thick lines: their median."
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
