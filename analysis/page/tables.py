"""The tables of the report: frames with a title, and a caption that says how to read them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis import by_arm, comparisons, failures
from analysis.claims import LEVEL
from analysis.events import Thresholds
from analysis.events import meanings as meanings_of_causes
from analysis.stability import OUTCOME, SIGMA_TOLERANCE, STATISTICS
from analysis.stats import APPROXIMATE_BELOW, SPREAD_FROM
from analysis.study import STATES, Study
from analysis.terms import OURS, Terms
from analysis.variants import label_of, labelled
from sngan.files import visible


@dataclass(frozen=True)
class Column:
    """A column as people read it: its head, its cells; `ends`: heads of the limits that stand in brackets."""

    name: str
    head: str
    cells: list[str]
    numeric: bool
    ends: tuple[str, str] | None = None

    @cached_property
    def style(self) -> str:
        """Of the page: text, text in long lines, or what has no place to break."""
        if self.numeric:
            return ""
        if max((len(word) for cell in self.cells for word in cell.split()), default=0) > _WORD:
            return "t id"
        return "t long" if self.name in _LINE else "t"

    @cached_property
    def width(self) -> float:
        """Characters that it needs at least; of text as many as let its lines be read."""
        longest = max((len(cell) for cell in self.cells), default=0)
        head = _BOLD * max(map(len, self.head.split()), default=0) + _ARROW
        return max(longest if self.numeric else min(longest, _LINE.get(self.name, 18)), head) + _GAP


_LINE = {"run_id": 22, "statement": 28, "evidence": 34, "reason": 24, "meaning": 44, "error": 30, "refused": 26}
_WORD = 20  # characters of the longest that stays whole
_GAP, _ARROW, _BOLD = 2.5, 1.6, 1.1  # characters between columns, of a head's arrow, and how much wider it is
_PAGE = 104  # characters that a page of 1,000 pixels holds
_KEYS = ("context", "arm", "layer", "statistic", "claim", "threshold", "run_id", "procedure")


@dataclass(frozen=True)
class Table:
    """A table of the report; `file` is its CSV's name.

    The CSV has all of the frame. People read the `rows` of it, without what is empty, and limits in brackets beside
    their estimate. `counts`: columns that are left out if they count nothing anywhere.
    """

    file: str
    title: str
    caption: str
    frame: pd.DataFrame
    quality: str = "q"  # what the q of its columns is called where people read it
    rows: pd.Series | None = None
    counts: Sequence[str] = ()
    ours: bool = True  # whether arms have labels

    @cached_property
    def shown(self) -> pd.DataFrame:
        """Rows and columns that say something; the context is left out if there is only one."""
        frame = self.frame if self.rows is None else self.frame[self.rows]
        said = [name for name in frame if not frame[name].isna().all() and not frame[name].eq("").all()]
        if "context" in said and self.frame["context"].nunique() == 1:
            said.remove("context")
        return frame[[name for name in said if name not in self.counts or frame[name].ne(0).any()]]

    @property
    def is_empty(self) -> bool:
        """Whether no row or no column of it says anything."""
        return not len(self.shown) or self.shown.columns.empty

    @cached_property
    def columns(self) -> list[Column]:
        frame, names, result = self.shown, list(self.shown), []
        while names:
            name, *names = names
            numeric = _is_number(frame[name])
            ends = _limits(name, names) if numeric else None
            of = [frame[column] for column in (name, *(ends or ()))]
            whole = all(map(_is_whole, of))
            if ends is None:
                cells = [self._cell(name, value, whole) for value in frame[name]]
                result.append(Column(name, self._head(name), cells, numeric))
                continue
            names = names[2:]
            cells = [interval(*values, whole) for values in zip(*of, strict=True)]
            result.append(Column(name, self._head(name), cells, True, (self._head(ends[0]), self._head(ends[1]))))
        return result

    def _head(self, name: str) -> str:
        return re.sub(r"^q ", lambda _: f"{self.quality} ", str(name).replace("_", " "))

    def _cell(self, name: str, value: Any, whole: bool) -> str:
        text = written(value, whole)
        if not self.ours or not isinstance(value, str) or name in ("run_id", "error", "wandb_url"):
            return text
        return label_of(text) if name in ("arm", "baseline") and text in self._variants else labelled(text)

    @cached_property
    def _variants(self) -> set[str]:
        return {v for name in ("arm", "baseline") if name in self.frame for v in self.frame[name] if isinstance(v, str)}

    @property
    def said(self) -> str:
        """The caption, with the arms' labels."""
        return labelled(self.caption) if self.ours else self.caption

    def blocks(self) -> list[list[Column]]:
        """The columns as tables that fit a page's width, in each of them those that name its rows."""
        keys = [column for i, column in enumerate(self.columns) if column.name in _KEYS and i < 3]
        keys = keys[:1] if keys and keys[0].name == "run_id" else keys
        rest = [column for column in self.columns if column not in keys]
        room = _PAGE - sum(column.width for column in keys)
        result: list[list[Column]] = [[]]
        for column in rest:
            if result[-1] and sum(of.width for of in result[-1]) + column.width > room:
                result.append([])
            result[-1].append(column)
        return [[*keys, *of] for of in result]

    def heads(self) -> list[str]:
        """Names of the columns as people read them."""
        return [column.head for column in self.columns]

    def cells(self) -> list[list[str]]:
        """Row by row, as people read them."""
        return [list(row) for row in zip(*(column.cells for column in self.columns), strict=True)]

    def contexts(self) -> list[str]:
        """Of each row that people read, if it is of one context among several; else empty."""
        return [str(value) for value in self.shown["context"]] if "context" in self.shown else [""] * len(self.shown)

    def csv(self) -> str:
        """All columns. A text that a spreadsheet would take for a formula begins with an apostrophe."""
        texts = self.frame.select_dtypes(exclude=["number", "bool"]).map(_no_formula)
        return self.frame.assign(**texts).rename(columns=_no_formula).to_csv(index=False)

    def latex(self) -> str:
        """A tabular with booktabs' rules, of the cells as the page shows them."""
        sides = "".join("r" if column.numeric else "l" for column in self.columns)
        return pd.DataFrame(self.cells(), columns=self.heads()).to_latex(index=False, escape=True, column_format=sides)


def _no_formula(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    is_formula = value.startswith(("\t", "\r")) or value.lstrip().startswith(tuple("=+-@＝＋－＠"))
    return f"'{visible(value)}" if is_formula else visible(value)


def _is_number(values: pd.Series) -> bool:
    return all(isinstance(v, int | float | np.number) and not isinstance(v, bool | np.bool) for v in values.dropna())


def _limits(name: str, following: Sequence[str]) -> tuple[str, str] | None:
    """The two columns that follow, if they are the limits of this one."""
    if len(following) < 2 or name.endswith(("low", "high")):
        return None
    low, high = following[:2]
    pair = low.endswith("low") and high == low.removesuffix("low") + "high"
    return (low, high) if pair else None


def _is_whole(values: pd.Series) -> bool:
    """Whether a column counts: all its numbers are whole."""
    numbers = [float(v) for v in values.dropna() if isinstance(v, float | np.floating) and np.isfinite(v)]
    return all(number.is_integer() for number in numbers)


def interval(value: Any, low: Any, high: Any, whole: bool = False) -> str:
    """An estimate with its limits in brackets, if it has both."""
    text, limits = written(value, whole), [written(limit, whole) for limit in (low, high)]
    return f"{text} [{', '.join(limits)}]" if text and all(limits) else text


def written(value: Any, whole: bool = False) -> str:
    """A value as people read it: three digits, nothing for what is missing. `whole`: of numbers that count."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, bool | np.bool):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        if np.isinf(value) or value == 0:
            return f"{value:g}".removeprefix("-0") or "0"
        if 999.5 <= abs(value) < 1e7 or (whole and abs(value) < 1e7):
            return f"{value:,.0f}"
        return f"{value:#.3g}".removesuffix(".")
    return f"{value:,}" if isinstance(value, int | np.integer) else str(value)


def _quality(terms: Terms) -> str:
    """How to read what samples score."""
    noise = "noise with each pixel's own mean and spread {} than {}. "
    elsewhere = noise.format("may have a lower fd_pixels", "samples that people recognize")
    scale = (
        "Two rows give the scale: what reals score against other reals, and a sampler that knows each pixel's mean and "
        "spread and nothing else. A run that diverged or failed counts with the last evaluation that it had."
    )
    if terms.sight == "pixels":
        return (
            "Of each run's last evaluation: median and range over n seeds. fd_pixels (Frechet distance) compares the "
            "means of 2x2 pixels of samples and of real images, which is all that samples are judged by: classes, "
            f"precision and coverage are not known. It can be fooled: {elsewhere}{scale}"
        )
    where, names = "the classifier that the next table names; they are not FID", ("fd", "kd")
    fooled = "Each can be fooled: noise and grey backgrounds hardly move fd; "
    fooled += noise.format("has a lower fd_pixels", "legible digits on grey")
    if terms.sight == "inception":
        where, names, fooled = "Inception", ("FID", "KID"), f"It can be fooled: {elsewhere}"
    modes = (
        "modes: classes hit (modes_5: at least five times), effective_modes: exp of the entropy over classes, "
        "mode_kl: from the data's classes, in nats; "
    )
    return (
        f"Of each run's last evaluation: the median over n seeds, of {names[0]} also the range. {names[0]} (Frechet "
        f"distance) and {names[1]} (kernel distance, unbiased: it may be negative) compare samples with real images in "
        f"the features of {where}. fd_pixels compares the means of 2x2 pixels instead. {fooled}"
        "precision and density: whether samples lie among the reals, which noise does as well; recall and "
        f"coverage: whether all reals are near some sample; {modes if terms.classes else ''}"
        f"diversity: mean distance between samples over that between reals. {scale}"
    )


def _protocol(terms: Terms) -> str:
    """How to read in which way samples were judged."""
    neighbours = "; precision, recall, density, coverage use the k-th neighbour."
    ends = {
        "pixels": ". Only pixels are compared; there is no classifier.",
        "inception": f"{neighbours} Inception is known by the SHA-256 of its weights.",
        "classifier": f"{neighbours} The classifier is known by its accuracy on images that it was not trained on and "
        "by the SHA-256 of its weights.",
    }
    modes = ", modes n_labels samples" if terms.classes else ""
    return (
        "The same for every run of a data set and number of samples; numbers of different protocols cannot be "
        f"compared. Distances use n_real reals and n_fake samples{modes}; "
        f"the generator's batch norm uses its running statistics{ends[terms.sight or 'classifier']}"
    )


_TEXTS: dict[str, tuple[str, str | Callable[[Terms], str]]] = {
    "reach": (
        "What this study can decide",
        "Whether a study of this size can be expected to decide a claim if it is true: the share of simulated studies "
        "with 10 and with 20 seeds in which it was supported. In these SN halves the spread of log fd (sd .30 to .15), "
        "fails in 5 instead of 30 % of its runs and has an fd of 8 instead of 10 (C11: 10 against 8 with batch norm), "
        "with heavy tails and pairs correlated .3; it has 2 spikes instead of 4, lowest gradients e^.4 higher, modes "
        "8.5 instead of 8, a late change of -.1, |dD/dx| e^-.5, C6 with a setting that costs the others 2.5 x, C17 "
        "with failures of .05 to .6 instead of .1 to .9 over four rates. n: the most paired seeds of a part, before "
        "any is left out. A claim that is out of reach and inconclusive has not been answered either way.",
    ),
    "operating": (
        "How often verdicts mislead or miss an effect",
        "The whole machinery of claims, families and verdicts on simulated studies: the share of studies in which any "
        "claim is supported, or any contradicted, if nothing differs (arms are exchangeable, with heavy tails, "
        "failures and correlated pairs; claims of one arm, of equality and of speed have their thresholds as truth), "
        "and the power of each claim in its first context if what is claimed is true. low and high: 95 % interval "
        "of the share.",
    ),
    "paired_failures": (
        "Failures compared, paired by seed",
        "Of the seeds in which one arm failed and the other did not, or in which it can be told which failed first: "
        "how many were the arm's. difference: of the shares of seeds in which one alone failed, with the interval that "
        "inverts the unconditional exact test (Suissa and Shuster); below zero the arm is the steadier one. McNemar's "
        "test, which needs one more seed to see the same, stands beside it. The log-rank test compares the arms' "
        "curves over all their seeds. p adjusted by Benjamini-Hochberg over the context.",
    ),
    "tuned": (
        "Each arm at its own best learning rate",
        "Beside the comparison at equal settings: each arm at the learning rate of its best median gain over the first "
        "half of the seeds, judged on the others, which had no part in the choice. shift: gain of the arm minus that "
        "of the baseline at its own best, per seed; above zero the arm is better. n: seeds that judge. Description, "
        f"not one of the claims; with fewer than {APPROXIMATE_BELOW} seeds that judge nothing is tested.",
    ),
    "rates": (
        "Learning rates that work",
        "At how many of the learning rates that were tried a run of the arm and seed ends healthy, and the largest of "
        "them; empty if there is none.",
    ),
    "power": (
        "Power of the test of spread",
        "The second primary question is whether sn_dcgan spreads less over seeds than dcgan. Power of its test (paired "
        "Brown-Forsythe) to find a spread twice as large, on normal data with the correlation between paired seeds "
        "that was found (0 if it is not known), at the levels 0.05 and 0.025 (Holm over two primary tests), by a "
        "seeded simulation; and the number of seeds that 80 % power at 0.025 would need. n_pairs: seeds in which "
        f"neither arm failed, of which the test needs {SPREAD_FROM}.",
    ),
    "calibration": (
        "How far the statistics can be trusted",
        "The procedures of this report on simulated studies whose truth is known: how often 95 % intervals cover it, "
        "how often tests at 5 % err if nothing differs, and the power of the test of spread. Lowest and highest "
        "over normal, heavy-tailed (t with 3 degrees of freedom) and, if meaningful, lognormal, "
        "contaminated and tied data and failed runs, and over correlations 0, 0.3 and 0.6 of paired seeds. Widths are "
        "in robust standard deviations; their required_low is the width for normal data with a known spread. The test "
        "of spread tells typical distances from the median apart, not standard deviations: two shapes with equal ones "
        "are rejected as often as is said. Replicates 0: enumerated.",
    ),
    "quality": ("Samples at the end", _quality),
    "protocol": ("How samples were judged", _protocol),
    "sigma": (
        "Spectral norms at the end",
        "Exact largest singular value of each discriminator layer's matrix at the run's last row: of the weight the "
        "forward pass uses (sigma) and of the parameter itself (sigma_raw); median over n seeds, low and high are "
        f"their range. The last column is the share of rows, from the first update of the discriminator on, whose "
        f"sigma exceeds {SIGMA_TOLERANCE}.",
    ),
    "operators": (
        "Operator norms and spectra at the end",
        "sigma_conv: operator norm of the convolution at its stride and input size, a lower bound within about 0.1 %; "
        "it lies between sigma and a multiple of it that kernel and stride decide (bound), so a sigma of 1 does not "
        "make the layer 1-Lipschitz. sigma_bn: the matrix's sigma with the gain of the batch norm that follows. "
        "Stable rank, effective rank and the share of singular values above half the largest are of the raw "
        "parameter. Medians over n seeds, low and high are the range.",
    ),
    "provenance": (
        "Where runs were trained",
        "The device, threads and PyTorch of each run's last attempt; the version of the training code, its tree (equal "
        "git trees of sngan/ are equal code) and the commit of the whole program; when the first attempt started and "
        "the last one ended (UTC). exact: whether the bits are those of a run that was never stopped; false if it "
        "resumed on another device, with other threads or another PyTorch.",
    ),
    "devices": (
        "Whether outcomes differ by device",
        "Failures (their rate) and gain of the runs on each further device against those on the device with the most "
        "runs, in the cells (context and arm) that have runs of both: n runs of so many seeds on either side. "
        "difference: mean over the cells, weighted by how many runs they have of both. p: two-sided permutation test "
        "over seeds (a seed whose runs are of both devices counts on both sides), if both sides have at least five; "
        "adjusted by Holm over the table.",
    ),
    "lipschitz": (
        "How steep the discriminator is",
        "product: of the layers' operator norms and batch-norm gains, an upper bound (none with layer norm, whose gain "
        "has no bound); empirical: the largest norm of dD/dx over real, generated and interpolated images, a lower "
        "bound; tightness: empirical over product. D in eval mode: batch norm uses its running statistics, which mix "
        "real and generated images. Median and range over n seeds.",
    ),
}
"""name -> title, and caption, if it is the same of every study but for what quality is called"""


def of(name: str, frame: pd.DataFrame, terms: Terms = OURS) -> Table:
    """The table of that name."""
    title, caption = _TEXTS[name]
    return Table(name, title, terms.said(caption) if isinstance(caption, str) else caption(terms), frame)


def account(study: Study) -> Table:
    caption = (
        f"Every {'run' if study.foreign else 'planned run'} is counted. The failure rate is that of diverged and "
        "failed runs among those that ended, with its exact (Clopper-Pearson) 95 % interval"
        + ("." if study.foreign else "; collapses of finished runs are counted further below.")
    )
    return Table("account", "Account of runs", caption, failures.account(study), counts=STATES)


def verdicts(claims: pd.DataFrame, terms: Terms = OURS) -> Table:
    """One row per claim and context."""
    views = (
        f"Depends on the view: one of these two by {terms.quality}, and the opposite direction by fd_pixels. "
        if terms.sight != "pixels" else ""
    )  # fmt: skip
    caption = (
        "What the papers claim, tested one by one. A claim's parts are tested together (intersection-union test: its p "
        "is the largest of theirs). Supported: every part lies beyond a threshold that was fixed beforehand with its "
        f"whole interval, and the claim's adjusted p is at most {LEVEL:g}. Contradicted: a part lies on the other side "
        f"of no effect, with a p that is adjusted in the same way. {views}Refused: there is a number, but it would "
        "mislead, for the reason that is given. Not tested: what is named is missing, or there are fewer than "
        f"{APPROXIMATE_BELOW} paired seeds. Everything else is inconclusive. The two p belong to the two verdicts, "
        "adjusted by Holm over the two primary claims, by Benjamini-Hochberg over the outcomes of all contexts, and "
        "separately over mechanism and cost. "
        "Benjamini-Hochberg bounds the expected share of false ones among the verdicts, not the chance that there is "
        "one, which is up to .12 if half of the claims are true. p of contradiction is adjusted over outcome, "
        "mechanism and cost together. The evidence table has every part."
    )
    columns = [
        *("claim", "context", "family", "statement", "verdict", "reason", "p_supported", "p_contradicted"),
        *("source", "figure"),
    ]
    frame = claims.drop_duplicates(["claim", "context"]).drop(columns="p_contradicted")
    frame = frame.rename(columns={"p_adjusted": "p_supported", "p_contradicted_adjusted": "p_contradicted"})[columns]
    return Table("verdicts", "Verdicts", caption, frame, rows=frame["verdict"] != "not tested")


def evidence(claims: pd.DataFrame) -> Table:
    """One row for each part of a claim."""
    caption = (
        "Effects per seed: their Hodges-Lehmann centre with the interval that inverts the signed rank test; of "
        "failures the difference of the shares of seeds in which one arm alone failed, with the interval that inverts "
        "the unconditional exact test; of spread the ratio of typical distances from the median, with the interval "
        "that inverts the paired Brown-Forsythe test. 95 % intervals, of equality 90 %. expected: above or below the "
        "threshold, or within (equality: inside +- threshold, by two one-sided tests). p: of the part, in the expected "
        "direction; the adjusted p is the claim's (see Verdicts). verdict is the part's alone: it holds, the opposite "
        "holds, or it is open. Parts that do not decide are shown as well. n: paired seeds, for spread those in "
        "which neither arm failed."
    )
    frame = claims.loc[claims["evidence"] != ""].drop(columns=["p", "verdict", "reason"])
    frame = frame.rename(columns={"p_part": "p", "part": "verdict", "part_reason": "reason"})
    columns = [
        *("claim", "context", "evidence", "decides", "n", "effect", "low", "high", "expected", "threshold", "p"),
        *("verdict", "reason"),
    ]
    return Table("evidence", "Evidence", caption, frame[columns], rows=frame["effect"].notna())


def arms(summary: pd.DataFrame, terms: Terms = OURS) -> Table:
    """Location, spread and failures of each arm, over the runs that ended."""
    frame = by_arm.arms(summary, terms)
    gain = (
        "gain: log of the trivial sampler's {q} over the run's, at least 0, and 0 for a run without an end (it "
        "diverged or failed): the Hodges-Lehmann centre over n runs with the 95 % interval that inverts the signed "
        "rank test. "
    )
    said = (
        "{q} at the end is the {mean} over the last quarter of the evaluations. Over all n runs, of which a run "
        f"without an end counts for {terms.worst:g}: the Hodges-Lehmann centre with the 95 % interval that inverts the "
        "signed rank test, the median, and the interquartile mean (iqm). Over the runs that have an end: their median "
        "({q} ended), mean and standard deviation, as they are usually printed. "
    )
    if "q_line" in frame.dropna(axis=1, how="all"):
        said += (
            "{q} line: the median of the values that a line through that quarter has at the end, which does not lag; "
            "order: differs, if it puts the arm at another place. "
        )
    said += (
        "Spread of {scale} at the end among the n steady runs without any failure: standard deviation, 1.4826 MAD, and "
        "the 10 to 90 % range of {q}; sd ended: of all that ended. "
    )
    if "sd_persistent" in frame.dropna(axis=1, how="all"):
        said += (
            "Of this, sd within run is the part between evaluations, about the line; sd persistent is what stays "
            "with a seed: the root of the covariance over seeds with the mean {scale} between a third and a half of "
            "the run, at least 0. "
        )
    what = "any of the events in the next table" if terms.sight else "an error or a divergence"
    said += (
        f"A failure is {what}; its rate has the exact interval. Below {APPROXIMATE_BELOW} seeds intervals of location "
        "are approximate."
    )
    caption = terms.fill(gain + said if "gain" in frame else said)
    if not terms.sight:  # what a table without curves cannot have
        frame = frame.dropna(axis=1, how="all")
        frame = frame if "q_line" in frame else frame.drop(columns="order", errors="ignore")
    title = "Quality, spread and failures by arm"
    return Table("arms", title, caption, frame, terms.quality)


def causes(summary: pd.DataFrame, foreign: bool = False, terms: Terms = OURS) -> Table:
    """Runs by the cause of their first event, and when it came."""
    of = failures.FOREIGN_CAUSES if foreign else meanings_of_causes(terms)
    said = "; ".join(f"{cause}: {meaning}" for cause, meaning in of.items())
    caption = f"By the first event of each run. {said}. "
    if not foreign:
        caption += (
            "without_end: diverged or failed at any time, whatever came first; the table of runs has every event. "
            "healthy: runs that ever were, and the median step of the first healthy evaluation (never: infinite). "
        )
    caption += f"{terms.unseen} " if terms.unseen else ""
    caption += (
        "The last columns: mean number of steps without failure, up to the end of the longest run (restricted mean of "
        f"the Kaplan-Meier curve){'' if foreign else '; a run that never was healthy has none'}."
    )
    frame = failures.causes(summary, foreign, terms)
    rows = pd.Series(bool((frame["none"] < frame["n"]).any()), frame.index)
    return Table("failures", "What went wrong", caption, frame, rows=rows, counts=[*of, "without_end"])


def sensitivity(study: Study, thresholds: Thresholds) -> Table:
    """Failures of each arm under other thresholds."""
    terms = study.terms
    enough = "; and where a third, half and two thirds of the modes are enough" if terms.classes else ""
    used = [thresholds.quality_collapse, thresholds.healthy, *([thresholds.modes] if terms.classes else [])]
    *first, last = [f"{value:g}" for value in used]
    caption = (
        f"Runs with any event where quality collapse is {terms.quality} above 1.5, 2 and 3 times the best so far; "
        f"{'' if terms.classes else 'and '}where healthy is below a quarter, half and three quarters of the trivial "
        f"sampler's {terms.quality}{enough}. The others are unchanged. Everywhere else {', '.join(first)} and {last} "
        "are used."
    )
    frame = failures.under_other_thresholds(study, thresholds)
    rows = pd.Series(bool(frame["failures"].any()), frame.index)
    return Table("sensitivity", "Failures under other thresholds", caption, frame, rows=rows)


def paired_failures(frame: pd.DataFrame) -> Table:
    """Of the seeds in which one of two arms failed. `frame`: of `failures.paired`."""
    told = frame["seeds_that_differ"].astype(float).gt(0) | frame["p"].astype(float).lt(1)
    return replace(of("paired_failures", frame), rows=told)


def interactions(study: Study, summary: pd.DataFrame) -> Table:
    """Whether the difference between two arms is another one in another context of the same data set."""
    terms = study.terms
    what = f"{terms.scale[:1].upper()}{terms.scale[1:]}, turned so that higher is better" if study.foreign else (
        "Gain over the trivial sampler"
    )  # fmt: skip
    caption = (
        f"{what}: the arm minus the baseline in one context, minus the same in another "
        "(against), per seed. Below zero the arm loses more by the change. Hodges-Lehmann centre with 95 % interval; p "
        "by the permutation of signs, adjusted by Benjamini-Hochberg."
    )
    return Table("interactions", "Arm by setting", caption, comparisons.interactions(study, summary))


def meanings(terms: Terms) -> Mapping[str, str]:
    """What each statistic says, in words."""
    return {name: terms.fill(text) for name, text in STATISTICS.items()}


def statistics(study: Study, summary: pd.DataFrame) -> Table:
    """Every statistic by arm."""
    frame = by_arm.statistics(summary)
    frame = frame.assign(meaning=frame["statistic"].map(meanings(study.terms)))
    caption = (
        "Median and range over the n runs that have the statistic: for quality at the end, the runs with an end; "
        "for the others, also diverged and failed runs, up to the step that they reached."
    )
    return Table("statistics", "Stability statistics by arm", caption, frame)


def paired(study: Study, compared: pd.DataFrame) -> Table:
    """Arms compared. `compared`: of `comparisons.compare_arms`."""
    by_gain = "gain" in set(compared["statistic"])
    without = "has gain 0, and ranks worst by every other statistic" if by_gain else "ranks worst"
    floor = "one has gain 0" if by_gain else "one has no end"
    caption = (
        "Hodges-Lehmann shift, arm minus baseline, with 95 % interval and Wilcoxon signed rank p, adjusted by "
        "Benjamini-Hochberg over the arms and contexts of a statistic; better says which side is the better one. A run "
        f"without an end {without}; n pairs are the seeds in which both arms have the statistic; at floor is the share "
        f"of pairs in which {floor}, shift both ended the shift among the n both ended seeds in which both have an "
        "end. prob improvement: the chance that a run of the arm is better than one of the baseline. spread ratio: "
        f"typical distance from the median, arm over baseline (paired Brown-Forsythe), among the n spread seeds in "
        f"which neither failed; tested from {SPREAD_FROM} on. refused: why a comparison would mislead. Fewer than "
        f"{APPROXIMATE_BELOW} pairs are described, not tested."
    )
    frame = compared.assign(meaning=compared["statistic"].map(meanings(study.terms)))
    return Table("comparisons", "Arms compared, paired by seed", caption, frame)


def runs_statistics(study: Study, summary: pd.DataFrame) -> Table:
    """Every statistic of every run."""
    columns = [name for name in ("context", "variant", "seed") if name in summary]
    outcome = [name for name in OUTCOME if not study.foreign or not name.startswith("healthy")]
    frame = summary[["run_id", *columns, "last_step", *by_arm.present(summary), *outcome]]
    caption = (
        "Every statistic of every run, and what became of it: whether it has an end; "
        + ("" if study.foreign else "the first evaluation at which it was healthy, and whether it was at the last; ")
        + "the first failure and all of them with their steps; what is not known, and why."
    )
    title, frame = "Stability statistics by run", frame.rename(columns={"variant": "arm"})
    return Table("runs_statistics", title, caption, frame, quality=study.terms.quality)


def across(study: Study, summary: pd.DataFrame) -> Table:
    """Arms over all data sets."""
    caption = (
        "Over all data sets. {q} iqm: interquartile mean of {q} over all n runs of all data sets at once, which means "
        "something only if the data sets share a scale (normalized scores). prob improvement: the chance that a run of "
        "the arm is better than one of the baseline, ties half, mean over the shared data sets; it needs no scale. "
        "Runs are not paired here. Intervals: 95 % percentile bootstrap over the runs within each data set, 2,000 "
        "draws. p: signed rank test over data sets of that chance against one half, from "
        f"{APPROXIMATE_BELOW} of them on; p adjusted by Benjamini-Hochberg over the arms."
    )
    caption, frame = study.terms.fill(caption), comparisons.across(study, summary)
    return Table("across", "Over data sets", caption, frame, study.terms.quality)


def runs(study: Study) -> Table:
    """Every run."""
    columns = ["run_id", "context", "variant", "seed", "state", "step", "error"]
    if not study.foreign:
        columns += ["wall_seconds", "wandb_url"]
    frame = study.runs[columns].rename(columns={"variant": "arm"})
    return Table("runs", "Runs", "Every run, with the reason if it did not finish.", frame)
