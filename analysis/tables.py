"""The tables of the report: study and statistics -> frames with a title, and a caption that says how to read them."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis import calibration, plots
from analysis.claims import LEVEL, location_refusal, spread_refusal
from analysis.events import CAUSES, Thresholds
from analysis.inference import (
    Survival,
    log_rank_p,
    mcnemar_p,
    order_counts,
    order_p,
    paired_rates_interval,
    paired_rates_p,
    seeds_needed,
    sign_flip_p,
    spread_power,
    survival,
)
from analysis.load import Study
from analysis.stability import OUTCOME, SIGMA_TOLERANCE, STATISTICS, compared, failures_under
from analysis.stats import (
    APPROXIMATE_BELOW,
    SPREAD_FROM,
    benjamini_hochberg,
    compare,
    location_interval,
    rate_interval,
    signed_rank_p,
    subtract,
)
from analysis.terms import OURS, Terms
from experiments.record import RESULTS, STATES
from experiments.study import CONTEXT_FIELDS
from sngan import quantities
from sngan.architectures import ARCHITECTURES, bounds, layer_names

_QUALITY = tuple(of.pattern.removeprefix("eval/") for of in quantities.shown("table", "quality"))

FOREIGN_CAUSES = {"error": CAUSES["error"], "divergence": "a loss or the quality is not finite, or the table says so"}

OTHER_THRESHOLDS = {
    "quality_collapse": (1.5, 2.0, 3.0),
    "healthy": (0.25, 0.5, 0.75),
    "modes": (1 / 3, 1 / 2, 2 / 3),
}
"""at which failures are counted too"""


@dataclass(frozen=True)
class Table:
    """A table of the report; `file` is its CSV's name."""

    file: str
    title: str
    caption: str
    frame: pd.DataFrame
    needs: str = "records that hold it"  # where there are no rows
    quality: str = "q"  # what the q of its columns is called where people read it

    @cached_property
    def shown(self) -> pd.DataFrame:
        """Without the context where there is only one; the CSV has it always."""
        single = "context" in self.frame and self.frame["context"].nunique() == 1
        return self.frame.drop(columns="context") if single else self.frame

    def heads(self) -> list[str]:
        """Names of the columns as people read them."""
        plain = [str(name).replace("_", " ") for name in self.shown]
        return [re.sub(r"^q ", lambda _: f"{self.quality} ", name) for name in plain]

    def cells(self) -> list[list[str]]:
        return [[_text(value) for value in row] for row in self.shown.itertuples(index=False)]

    def latex(self) -> str:
        """A tabular with booktabs' rules, of the cells as the page shows them."""
        return pd.DataFrame(self.cells(), columns=self.heads()).to_latex(index=False, escape=True)


def verdicts_table(claims: pd.DataFrame) -> Table:
    """One row a claim and context."""
    caption = (
        "What the papers claim, tested one by one. A claim's parts are tested together (intersection-union test: its p "
        "is the largest of theirs). Supported: every part lies beyond a threshold that was fixed beforehand with its "
        f"whole interval, and the claim's adjusted p is at most {LEVEL:g}. Contradicted: a part lies on the other side "
        "of no effect, with a p that is adjusted in the same way. Depends on the view: one of these two by fd, and the "
        "opposite direction by fd_pixels. Refused: a number there is, and it would mislead, for the reason that is "
        f"given. Not tested: what is named is missing, or there are fewer than {APPROXIMATE_BELOW} paired seeds. "
        "Everything else is inconclusive. The two p are of either verdict, adjusted by Holm over the two primary "
        "claims, by Benjamini-Hochberg over the outcomes of all contexts, and apart over mechanism and cost. "
        "Benjamini-Hochberg bounds the expected share of false ones among the verdicts, not the chance that there is "
        "one, which is up to .12 where half of the claims are true. p of contradiction is adjusted over outcome, "
        "mechanism and cost together. The evidence table has every part."
    )
    columns = [
        *("claim", "context", "family", "statement", "verdict", "reason", "p_supported", "p_contradicted"),
        *("source", "figure"),
    ]
    frame = claims.drop_duplicates(["claim", "context"]).drop(columns="p_contradicted")
    frame = frame.rename(columns={"p_adjusted": "p_supported", "p_contradicted_adjusted": "p_contradicted"})[columns]
    return Table("verdicts", "Verdicts", caption, frame, "runs that are over")


def evidence_table(claims: pd.DataFrame) -> Table:
    """One row for each part of a claim."""
    caption = (
        "Effects per seed: their Hodges-Lehmann centre with the interval that inverts the signed rank test; of "
        "failures the difference of the shares of seeds in which one arm alone failed, with the interval that inverts "
        "the unconditional exact test; of spread the ratio of typical distances from the median, with the interval "
        "that inverts the paired Brown-Forsythe test. 95 % intervals, of equality 90 %. expected: above or below the "
        "threshold, or within (equality: inside +- threshold, by two one-sided tests). p: of the part, in the expected "
        "direction; adjusted is the claim's (see the verdicts). verdict is the part's alone: it holds, the opposite "
        "holds, or it is open. What does not decide is shown beside the claim. n: paired seeds, of spread those in "
        "which neither arm failed."
    )
    frame = claims.loc[claims["evidence"] != ""].drop(columns=["p", "verdict", "reason"])
    frame = frame.rename(columns={"p_part": "p", "part": "verdict", "part_reason": "reason"})
    columns = [
        *("claim", "context", "evidence", "decides", "n", "effect", "low", "high", "expected", "threshold", "p"),
        *("verdict", "reason"),
    ]
    return Table("evidence", "Evidence", caption, frame[columns], "runs that are over")


def reach_table(claims: pd.DataFrame) -> Table:
    """What this study can decide, before it is read what it did decide."""
    found = _operating()
    power = found[(found["claim"] != "any") & (found["verdict"] == "supported")].set_index(["claim", "n"])
    rows = []
    for claim, of in claims.groupby("claim", sort=False):
        n = int(of.loc[of["decides"].astype(bool), "seeds"].max())
        at = {f"power_at_{size}": float(power["share"].get((claim, size), np.nan)) for size in (10, 20)}  # type: ignore[arg-type]
        here = at["power_at_20"] if n >= 20 else at["power_at_10"] if n >= 10 else np.nan
        if (of["verdict"] == "not tested").all():
            reach = "no: " + "; ".join(dict.fromkeys(of["reason"]))
        elif n < 10:
            reach = f"hardly: {n} seeds, fewer than 10"
        elif np.isnan(here):
            reach = "its power is not known"
        else:
            reach = "yes" if here >= 0.8 else f"in {here:.0%} of such studies" if here >= 0.5 else f"no: {here:.0%}"
        rows.append({"claim": claim, "statement": of["statement"].iloc[0], "n": n, **at, "decidable": reach})
    caption = (
        "Whether a study of this size can be expected to decide a claim if it is true: the share of simulated studies "
        "with 10 and with 20 seeds in which it was supported. In these SN halves the spread of log fd (sd .30 to .15), "
        "fails in 5 instead of 30 % of its runs and has an fd of 8 instead of 10 (C11: 10 against 8 with batch norm), "
        "with heavy tails and pairs correlated .3; and spikes 2 instead of 4, the lowest gradients e^.4 higher, modes "
        "8.5 instead of 8, a late change of -.1, |dD/dx| e^-.5, C6 with a setting that costs the others 2.5 x, C17 "
        "with failures of .05 to .6 instead of .1 to .9 over four rates. n: the most paired seeds of a part, before "
        "any is left out. A claim that is out of reach and inconclusive has not been answered either way."
    )
    columns = ["claim", "statement", "n", "power_at_10", "power_at_20", "decidable"]
    return Table(
        "reach", "What this study can decide", caption, pd.DataFrame(rows, columns=columns), "runs that are over"
    )


def operating_table() -> Table:
    """How often whole studies come to verdicts, where the truth is known."""
    caption = (
        "The whole machinery of claims, families and verdicts on simulated studies: the share of studies in which any "
        "claim is supported, or any contradicted, where nothing differs (arms are exchangeable, with heavy tails, "
        "failures and correlated pairs; claims of one arm, of equality and of speed have their thresholds as truth), "
        "and the power of each claim in its first context where what is claimed is true. low and high: 95 % interval "
        "of the share."
    )
    return Table("operating", "How often verdicts mislead, and how often they find", caption, _operating())


def _operating() -> pd.DataFrame:
    return pd.read_csv(calibration.OPERATING)


def arms_table(summary: pd.DataFrame, terms: Terms = OURS) -> Table:
    """Location, spread and failures of each arm, over the runs that are over."""
    rows, back = [], np.exp if terms.ratio else np.asarray
    over = summary[summary["failure"].notna()]
    for (context, variant), runs in groups(over):
        ended, failed = (runs[name].astype(bool).to_numpy() for name in ("ended", "failure"))
        level = np.where(ended, runs[terms.location].astype(float), terms.worst)
        level = level[~np.isnan(level)]
        steady, having = runs[~failed], runs[ended]
        row = {"context": context, "arm": variant, "n": len(runs), "ended": int(ended.sum())}
        if runs["gain"].notna().any():
            gain = location_interval(runs["gain"].dropna().to_numpy(float))[0]
            row |= dict(zip(("gain", "gain_low", "gain_high"), gain, strict=True))
        row |= dict(zip(("q_centre", "q_low", "q_high"), back(location_interval(level)[0]), strict=True))
        row |= {"q_median": _median_of(pd.Series(back(level))), "q_iqm": float(iqm(back(level)))}
        row |= {"q_ended": _median_of(having["q_end"]), "q_line": _median_of(having["q_line"])}
        ends = having["q_end"].dropna().to_numpy(float)
        row |= {"q_mean": float(ends.mean()) if len(ends) else np.nan, "q_mean_sd": _sd(ends)}
        rate = rate_interval(int(failed.sum()), len(runs))
        row |= {
            "failures": int(failed.sum()),
            "failure_rate": rate.estimate,
            "rate_low": rate.low,
            "rate_high": rate.high,
        }
        of = steady[terms.location].dropna().to_numpy(float)
        row |= {"n_steady": len(of), "sd": _sd(of), "mad": _mad(of)}
        row |= dict(zip(("q_10", "q_90"), back(np.quantile(of, [0.1, 0.9])) if len(of) else [np.nan] * 2, strict=True))
        row["sd_ended"] = _sd(having[terms.location].dropna().to_numpy(float))
        within = having["q_sd"].dropna().to_numpy(float)
        row["sd_within_run"] = float(np.sqrt((within**2).mean())) if len(within) else np.nan
        row["sd_persistent"] = _persistent(steady, terms)
        rows.append(row)
    frame = pd.DataFrame(rows, columns=list(rows[0]) if rows else ["context", "arm", "n"])
    if len(frame):
        by = frame.groupby("context")[["q_ended", "q_line"]].rank()
        frame.insert(frame.columns.get_loc("q_line") + 1, "order", np.where(  # type: ignore[arg-type]
            by["q_ended"].eq(by["q_line"]) | by.isna().any(axis=1), "same", "differs"))  # fmt: skip
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
            "order: differs, where it puts the arm at another place. "
        )
    said += (
        "Spread of {scale} at the end among the n steady runs without any failure: standard deviation, 1.4826 MAD, and "
        "the 10 to 90 % range of {q}; sd ended: of all that ended. "
    )
    if "sd_persistent" in frame.dropna(axis=1, how="all"):
        said += (
            "Of it sd within run is from evaluation to evaluation, about the line, and sd persistent is what stays "
            "with a seed: the root of the covariance over seeds with the mean {scale} between a third and a half of "
            "the run, at least 0. "
        )
    what = "any of the events in the next table" if terms is OURS else "an error or a divergence"
    said += (
        f"A failure is {what}; its rate has the exact interval. Below {APPROXIMATE_BELOW} seeds intervals of location "
        "are approximate."
    )
    caption = terms.fill(gain + said if "gain" in frame else said)
    if terms is not OURS:  # what a table without curves cannot have
        frame = frame.dropna(axis=1, how="all")
        frame = frame if "q_line" in frame else frame.drop(columns="order", errors="ignore")
    title = "Quality, spread and failures by arm"
    return Table("arms", title, caption, frame, "runs that are over", terms.quality)


def iqm(values: np.ndarray) -> Any:
    """Interquartile mean of (.., n): of the middle half, a quarter of the values (rounded down) cut off at each end.

    Source: Agarwal et al. 2021. A run without an end is an infinite value, and is cut off as one.
    """
    n = values.shape[-1]
    return np.sort(values, axis=-1)[..., n // 4 : n - n // 4].mean(axis=-1) if n else np.nan


def _median_of(values: pd.Series) -> float:
    return float(values.astype(float).median()) if len(values) else np.nan


def _sd(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else np.nan


def _mad(values: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values)))) if len(values) > 1 else np.nan


def _persistent(runs: pd.DataFrame, terms: Terms) -> float:
    both = runs[["q_middle", terms.location]].astype(float).dropna()
    return float(np.sqrt(max(both.cov().iloc[0, 1], 0))) if len(both) > 2 else np.nan


def failures_table(summary: pd.DataFrame, foreign: bool = False) -> Table:
    """Runs by the cause of their first event, and when it came. Of another program's runs two causes can be told."""
    rows, causes = [], FOREIGN_CAUSES if foreign else CAUSES
    for (context, variant), runs in groups(summary[summary["failure"].notna()]):
        row = {"context": context, "arm": variant, "n": len(runs), "none": int((~runs["failure"].astype(bool)).sum())}
        row |= {cause: int((runs["cause"] == cause).sum()) for cause in causes}
        row["healthy"] = int(runs["healthy_step"].notna().sum())
        row["median_first_healthy"] = float(runs["healthy_step"].astype(float).fillna(np.inf).median())
        row["without_end"] = int((~runs["ended"].astype(bool)).sum())
        mean = survival_of(runs).mean
        row |= {"mean_steps_without": mean.estimate, "low": mean.low, "high": mean.high}
        rows.append(row)
    said = "; ".join(f"{cause}: {meaning}" for cause, meaning in causes.items())
    caption = f"By the first event of each run. {said}. "
    columns = ["context", "arm", "n", "none", *causes]
    if not foreign:
        caption += (
            "without_end: diverged or failed at any time, whatever came first; the table of runs has every event. "
            "healthy: runs that ever were, and the median step of the first healthy evaluation, never being infinite. "
        )
        columns += ["healthy", "median_first_healthy", "without_end"]
    caption += (
        "The last columns: mean number of steps without failure, up to the end of the longest run (restricted mean of "
        f"the Kaplan-Meier curve){'' if foreign else '; a run that never was healthy has none'}."
    )
    columns += ["mean_steps_without", "low", "high"]
    frame = pd.DataFrame(rows, columns=columns)
    return Table("failures", "What went wrong", caption, frame, "runs that are over")


def sensitivity_table(study: Study, thresholds: Thresholds) -> Table:
    """Failures of each arm under other thresholds."""
    others = {
        (name, value): replace(thresholds, **{name: value}) for name, of in OTHER_THRESHOLDS.items() for value in of
    }
    distinct = list(dict.fromkeys(others.values()))
    found, rows = failures_under(study.history, study.runs, distinct), []
    for (context, variant), runs in groups(found):
        for (name, value), of in others.items():
            failures = int(runs[distinct.index(of)].sum())
            rows.append((context, variant, name, value, failures, len(runs)))
    caption = (
        "Runs with any event where quality collapse is fd above 1.5, 2 and 3 times the best so far; where healthy is "
        "below a quarter, half and three quarters of the trivial sampler's fd; and where a third, half and two thirds "
        f"of the modes are enough. The others stay. Everywhere else {thresholds.quality_collapse:g}, "
        f"{thresholds.healthy:g} and {thresholds.modes:g} are used."
    )
    frame = pd.DataFrame(rows, columns=["context", "arm", "threshold", "value", "failures", "n"])
    return Table("sensitivity", "Failures under other thresholds", caption, frame, "runs that are over")


def paired_failures_table(summary: pd.DataFrame, named: str = "") -> Table:
    """Each arm against the baseline: which failed, and which failed first, seed by seed."""
    columns = ["arm", "n_pairs", "test", "seeds_that_differ", "arm_worse", "difference", "low", "high", "p"]
    rows = [pd.DataFrame(columns=["context", "arm", "baseline", *columns[1:], "p_adjusted"])]
    for context, runs in summary[summary["failure"].notna()].groupby("context", sort=False):
        by_arm = {variant: of.drop_duplicates("seed").set_index("seed") for variant, of in runs.groupby("variant")}
        baseline, *arms = against(runs["variant"], named)
        if named and baseline != named:
            continue
        tests = []
        for arm in arms:
            seeds = by_arm[arm].index.intersection(by_arm[baseline].index)
            x, y = (_times(by_arm[of].loc[seeds]) for of in (arm, baseline))
            n, only_x, only_y = len(seeds), int((x[1] & ~y[1]).sum()), int((y[1] & ~x[1]).sum())
            differing = (only_x + only_y, only_x)
            interval, nothing = paired_rates_interval(only_x, only_y, n), [np.nan] * 3
            tests.append((arm, n, "failure (unconditional exact)", *differing, *interval, paired_rates_p(x[1], y[1])))
            tests.append((arm, n, "failure (McNemar)", *differing, *nothing, mcnemar_p(x[1], y[1])))
            first, told = order_counts(x, y)
            tests.append((arm, n, "first failure (sign test)", told, first, *nothing, order_p(x, y)))
            curves = log_rank_p(*(_times(by_arm[of]) for of in (arm, baseline)))
            tests.append((arm, n, "time to failure (log-rank, unpaired)", np.nan, np.nan, *nothing, curves))
        frame = pd.DataFrame(tests, columns=columns)
        frame.insert(0, "context", context)
        frame.insert(2, "baseline", baseline)
        frame.loc[frame["n_pairs"] < APPROXIMATE_BELOW, "p"] = np.nan
        if len(frame):
            rows.append(frame.assign(p_adjusted=benjamini_hochberg(frame["p"].to_numpy(float))))
    caption = (
        "Of the seeds in which one arm failed and the other did not, or in which it can be told which failed first: "
        "how many were the arm's. difference: of the shares of seeds in which one alone failed, with the interval that "
        "inverts the unconditional exact test (Suissa and Shuster); below zero the arm is the steadier one. McNemar's "
        "test, which needs one more seed to see the same, stands beside it. The log-rank test compares the arms' "
        "curves over all their seeds. p adjusted by Benjamini-Hochberg over the context."
    )
    needs = "at least two arms with runs that are over"
    frame = pd.concat(rows[1:], ignore_index=True) if len(rows) > 1 else rows[0]
    return Table("paired_failures", "Failures compared, paired by seed", caption, frame, needs)


def interactions_table(study: Study, summary: pd.DataFrame) -> Table:
    """Whether the difference between two arms is another one in another context of the same data set.

    Each arm is judged against the first of the study's contexts in which it and the baseline have runs.
    """
    rows, terms = [], study.terms
    over = summary[summary["failure"].notna()]
    level = over[terms.location].astype(float) * (1 if terms.maximize else -1) if study.foreign else over["gain"]
    over = over.assign(level=level)
    for dataset, runs in over.groupby("dataset", sort=False):
        scores = runs.pivot_table(index="seed", columns=["context", "variant"], values="level", aggfunc="last")
        baseline, *arms = against(runs["variant"], study.baseline)
        for arm in arms:
            both = [c for c in study.runs["context"].unique() if {(c, arm), (c, baseline)} <= set(scores)]
            for context in both[1:]:
                keys = [(c, v) for c in (context, both[0]) for v in (arm, baseline)]
                there, there_base, here, here_base = (scores[key] for key in keys)
                effects = ((there - there_base) - (here - here_base)).dropna().to_numpy(float)
                effect = location_interval(effects)[0]
                p = sign_flip_p(effects) if len(effects) >= APPROXIMATE_BELOW else np.nan
                rows.append((dataset, context, both[0], arm, baseline, len(effects), *effect, p))
    columns = ["dataset", "in", "against", "arm", "baseline", "n", "effect", "low", "high", "p"]
    what = f"{terms.scale[:1].upper()}{terms.scale[1:]}, turned so that more is better" if study.foreign else (
        "Gain over the trivial sampler"
    )  # fmt: skip
    caption = (
        f"{what}: the arm minus the baseline in one context, minus the same in another "
        "(against), per seed. Below zero the arm loses more by the change. Hodges-Lehmann centre with 95 % interval; p "
        "by the permutation of signs, adjusted by Benjamini-Hochberg."
    )
    frame = pd.DataFrame(rows, columns=columns)
    frame["p_adjusted"] = benjamini_hochberg(frame["p"].to_numpy(float))
    return Table("interactions", "Arm by setting", caption, frame, "two contexts of one data set, with the same arms")


def against(variants: pd.Series, baseline: str) -> list[str]:
    """The distinct variants, first of them the baseline: the named one, or else the first in order."""
    order = plots.in_order(variants)
    return sorted(order, key=lambda variant: variant != baseline)


def _by_rate(study: Study, summary: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(what they share, runs with `lr`) of the runs that are over in contexts that differ in nothing but the rate."""
    if "lr" not in study.runs:
        return []
    keys = [name for name in CONTEXT_FIELDS if name in study.runs and name not in ("lr", "setting")]
    runs = summary[summary["failure"].notna()].merge(study.runs[["run_id", "lr"]], on="run_id")
    words = study.runs.set_index("run_id")[keys].astype(str)
    words = words.loc[:, [name for name in keys if name == "dataset" or words[name].nunique() > 1]]
    shared = words.agg(
        lambda row: ", ".join(row.iloc[:1].tolist() + [f"{n} {v}" for n, v in row.iloc[1:].items()]), axis=1
    )
    runs["shared"] = runs["run_id"].map(shared)
    return [(str(name), of) for name, of in runs.groupby("shared", sort=False) if of["lr"].nunique() > 1]


def tuned_table(study: Study, summary: pd.DataFrame) -> Table:
    """Each arm at its own best learning rate, which the first half of the seeds chose and the second half judges."""
    columns = [
        *("over", "arm", "lr", "chosen_by", "baseline", "baseline_lr", "n", "gain_median", "shift", "low", "high"),
        *("p", "p_adjusted"),
    ]
    frames = [pd.DataFrame(columns=columns)]
    for over, runs in _by_rate(study, summary):
        seeds = sorted(runs["seed"].unique())
        chosen_by = seeds[: len(seeds) // 2]
        best, kept = {}, {}
        for variant, of in runs.groupby("variant", sort=False):
            medians = of[of["seed"].isin(chosen_by)].groupby("lr")["gain"].median().dropna()
            if len(medians):
                best[variant] = medians.idxmax()
                judged = of[(of["lr"] == best[variant]) & ~of["seed"].isin(chosen_by)]
                kept[variant] = judged.set_index("seed")["gain"].astype(float).dropna()
        order = [v for v in against(runs["variant"], study.baseline) if v in kept]
        rows = []
        for variant in order:
            base = order[0]
            pairs = pd.concat([kept[variant], kept[base]], axis=1, join="inner").to_numpy()
            d = pairs[:, 0] - pairs[:, 1] if variant != base else np.empty(0)
            n = len(pairs) if variant != base else len(kept[base])
            row = (over, variant, best[variant], f"{len(chosen_by)} seeds", base, best[base], n)
            p = signed_rank_p(d) if len(d) >= APPROXIMATE_BELOW else np.nan
            rows.append((*row, kept[variant].median(), *location_interval(d)[0], p, np.nan))
        frame = pd.DataFrame(rows, columns=columns)
        frames.append(frame.assign(p_adjusted=benjamini_hochberg(frame["p"].to_numpy(float))))
    caption = (
        "Beside the comparison at equal settings: each arm at the learning rate of its best median gain over the first "
        "half of the seeds, judged on the others, which had no part in the choice. shift: gain of the arm minus that "
        "of the baseline at its own best, per seed; above zero the arm is better. n: seeds that judge. Description, "
        f"not one of the claims; fewer than {APPROXIMATE_BELOW} seeds that judge do not test."
    )
    frame = pd.concat(frames[1:], ignore_index=True) if len(frames) > 1 else frames[0]
    return Table("tuned", "Each arm at its own best learning rate", caption, frame, "two learning rates")


def rates_table(study: Study, summary: pd.DataFrame) -> Table:
    """Of each arm and seed, at which learning rates it worked."""
    rows = []
    for over, runs in _by_rate(study, summary):
        for variant in plots.in_order(runs["variant"]):
            for seed, of in runs[runs["variant"] == variant].groupby("seed"):
                healthy = of[of["healthy_end"].eq(True)]
                largest = healthy["lr"].max() if len(healthy) else np.nan
                rows.append((over, variant, seed, of["lr"].nunique(), len(healthy), largest))
    caption = (
        "At how many of the learning rates that were tried a run of the arm and seed ends healthy, and the largest of "
        "them; empty if there is none."
    )
    frame = pd.DataFrame(rows, columns=["over", "arm", "seed", "rates", "healthy_rates", "largest_healthy_lr"])
    return Table("rates", "Learning rates that work", caption, frame, "two learning rates")


def _times(runs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Step of the failure, or to which the run was seen, and whether it failed; rows of `summarize`."""
    failed = runs["failure"].fillna(False).astype(bool).to_numpy()
    at = np.where(failed, runs["failure_step"].astype(float), runs["last_step"].astype(float))
    if "healthy_step" in runs:  # what never was healthy has no time without failure, whatever ended it
        never = failed & runs["healthy_step"].isna().to_numpy() & runs["healthy_end"].notna().to_numpy()
        at = np.where(never, 0.0, at)
    return at, failed


def survival_of(runs: pd.DataFrame) -> Survival:
    """Kaplan-Meier over the rows of `summarize`; runs that are not over are censored where they stand."""
    return survival(*_times(runs), float(runs["last_step"].max()) if len(runs) else 0.0)


def power_table(summary: pd.DataFrame) -> Table:
    """Power of the primary test of spread with the seeds and the correlation that were found."""
    rows = []
    over = summary[summary["failure"].notna()] if len(summary) else summary
    for context, runs in over.groupby("context", sort=False) if len(over) else ():
        steady = runs[~runs["failure"].astype(bool)]
        table = steady.pivot_table(index="seed", columns="variant", values="log_q_end", aggfunc="last")
        if not {"sn_dcgan", "dcgan"} <= set(runs["variant"]):
            continue
        pairs = table.reindex(columns=["sn_dcgan", "dcgan"]).dropna()
        varies = len(pairs) > 2 and (pairs.std() > 0).all()
        correlation = round(float(pairs.corr().iloc[0, 1]), 2) if varies else 0.0
        row = {"context": context, "n_pairs": len(pairs), "correlation": correlation if varies else np.nan}
        row |= {f"power_at_{level:g}": spread_power(len(pairs), correlation, level=level) for level in (0.05, 0.025)}
        row["seeds_for_80_percent"] = seeds_needed(correlation, level=0.025) or np.nan
        rows.append(row)
    caption = (
        "The second primary question is whether sn_dcgan spreads less over seeds than dcgan. Power of its test (paired "
        "Brown-Forsythe) to find a spread twice as large, on normal data with the correlation between paired seeds "
        "that was found (0 where it is not known), at the levels 0.05 and 0.025 (Holm over two primary tests), by a "
        "seeded simulation; and the number of seeds that 80 % power at 0.025 would need. n_pairs: seeds in which "
        f"neither arm failed, of which the test needs {SPREAD_FROM}."
    )
    columns = ["context", "n_pairs", "correlation", "power_at_0.05", "power_at_0.025", "seeds_for_80_percent"]
    frame = pd.DataFrame(rows, columns=columns)
    return Table("power", "Power of the test of spread", caption, frame, "runs of sn_dcgan and dcgan")


def calibration_table() -> Table:
    """What `analysis.calibration` found: the range over kinds of data and correlations, by procedure and n."""
    found = pd.read_csv(calibration.TABLE)
    keys = ["procedure", "measures", "n"]
    of = found.groupby(keys, sort=False)
    frame = of.agg(lowest=("value", "min"), highest=("value", "max"), required_low=("required_low", "min"),
                   required_high=("required_high", "max"), conditions=("value", "size"),
                   replicates=("replicates", "max")).reset_index()  # fmt: skip
    caption = (
        "The procedures of this report on simulated studies whose truth is known: how often 95 % intervals cover it, "
        "how often tests at 5 % err where nothing differs, and the power of the test of spread. Lowest and highest "
        "over normal, heavy-tailed (t with 3 degrees of freedom) and, where that means something, lognormal, "
        "contaminated and tied data and failed runs, and over correlations 0, 0.3 and 0.6 of paired seeds. Widths are "
        "in robust standard deviations; their required_low is the width for normal data with a known spread. The test "
        "of spread tells typical distances from the median apart, not standard deviations: two shapes with equal ones "
        "are rejected as often as is said. Replicates 0: enumerated."
    )
    return Table("calibration", "How far the statistics can be trusted", caption, frame)


def account_table(study: Study) -> Table:
    """Runs of each variant by state, with the failure rate over the runs that ended."""
    rows = []
    for (context, variant), runs in groups(study.runs):
        counts = runs["state"].value_counts().reindex(STATES, fill_value=0)
        bad, ended = counts["diverged"] + counts["failed"], counts[["finished", "diverged", "failed"]].sum()
        rate = rate_interval(int(bad), int(ended))
        row = {"context": context, "arm": variant, "planned": len(runs)} | counts.to_dict()
        rows.append(row | {"failure_rate": rate.estimate, "low": rate.low, "high": rate.high})
    caption = (
        f"Every {'run' if study.foreign else 'planned run'} is counted. The failure rate is that of diverged and "
        "failed runs among those that ended, with its exact (Clopper-Pearson) 95 % interval"
        + ("." if study.foreign else "; collapses of finished runs are counted further below.")
    )
    states = [s for s in STATES if not study.foreign or s in RESULTS or s == "failed"]
    columns = ["context", "arm", *([] if study.foreign else ["planned"]), *states, "failure_rate", "low", "high"]
    return Table("account", "Account of runs", caption, pd.DataFrame(rows, columns=columns))


def quality_table(study: Study) -> Table:
    """How good and varied the samples are at the end, between what reals and the trivial sampler score."""
    rows, beside = [], [name for name in _QUALITY if name != "fd"]
    for (context, variant), history in groups(study.history) if "eval/fd" in study.history else ():
        last = history.groupby("seed").last()  # of every column its last value
        fd = last["eval/fd"].dropna()
        row = {"context": context, "arm": variant, "n": len(fd)}
        row |= {"fd": fd.median(), "fd_low": fd.min(), "fd_high": fd.max()}
        row |= {name: last[f"eval/{name}"].median() for name in beside if f"eval/{name}" in last}
        rows.append(row)
    for context, _, protocol in protocols_of(study):
        for name in ("real_against_real", "trivial_sampler"):
            scores = protocol.get(name, {})
            rows.append(
                {"context": context, "arm": name.replace("_", " ")} | {key: scores.get(key) for key in _QUALITY}
            )
    caption = (
        "Of each run's last evaluation: the median over n seeds, of fd also the range. fd (Frechet distance) and kd "
        "(kernel distance, unbiased: it may be negative) compare samples with real images in the features of the "
        "classifier that the next table names; they are no FID. fd_pixels compares the means of 2x2 pixels instead. "
        "Each can be fooled: noise and grey backgrounds hardly move fd; noise with each pixel's own mean and spread "
        "has a lower fd_pixels than legible digits on grey. precision and density: whether samples lie among the "
        "reals, which noise does as well; recall and coverage: whether all reals are near some sample; modes: classes "
        "hit (modes_5: at least five times), effective_modes: exp of the entropy over classes, mode_kl: from the "
        "data's classes, in nats; "
        "diversity: mean distance between samples over that between reals. Two rows give the scale: what reals score "
        "against other reals, and a sampler that knows each pixel's mean and spread and nothing else. A run that "
        "diverged or failed counts with the last evaluation that it had."
    )
    columns = ["context", "arm", "n", "fd", "fd_low", "fd_high", *beside]
    return Table("quality", "Samples at the end", caption, pd.DataFrame(rows, columns=columns))


def protocol_table(study: Study) -> Table:
    """How samples were judged: a row per context, or more where its runs were judged differently."""
    rows = []
    for context, runs, protocol in protocols_of(study):
        row = {"context": context, "runs": runs} | {k: v for k, v in protocol.items() if not isinstance(v, dict)}
        rows.append(row | {"real_against_real_fd": protocol.get("real_against_real", {}).get("fd")})
    caption = (
        "The same for every run of a data set and number of samples; numbers of different protocols cannot be "
        "compared. "
        "Distances use n_real reals and n_fake samples, modes n_labels samples; the generator's batch norm uses its "
        "running statistics; k is the neighbour of precision, recall, density and coverage. The classifier is known by "
        "its accuracy on images that it was not trained on and by the SHA-256 of its weights."
    )
    return Table(
        "protocol",
        "How samples were judged",
        caption,
        pd.DataFrame(rows) if rows else pd.DataFrame(columns=["context", "runs"]),
    )


def judged(study: Study, context: str) -> str:
    """The protocol of a context in two sentences: what belongs beside every number."""
    sentences = [
        f"{p.get('n_fake', 0):,} samples against {p.get('n_real', 0):,} reals in the features of "
        f"{p.get('feature_net')} (accuracy {p.get('feature_net_accuracy', np.nan):.2%}, SHA-256 "
        f"{str(p.get('feature_net_sha256'))[:8]}), batch norm by its {p.get('batch_norm')}. Reals against reals have "
        f"an fd of {p.get('real_against_real', {}).get('fd', np.nan):.3g}, the trivial sampler one of "
        f"{p.get('trivial_fd', np.nan):.3g}. "
        for c, _, p in protocols_of(study)
        if c == context
    ]
    return "".join(sentences)


def protocols_of(study: Study) -> list[tuple[str, int, dict[str, Any]]]:
    """(context, number of runs, protocol) of each distinct protocol."""
    context_of = study.runs.set_index("run_id")["context"]
    found = Counter(
        (context_of[run_id], json.dumps(protocol, sort_keys=True)) for run_id, protocol in study.protocols.items()
    )
    return [(context, runs, json.loads(protocol)) for (context, protocol), runs in found.items()]


def layers_of(study: Study, context: str, kind: str = "sigma") -> list[str]:
    """D's layers in a context that have such a quantity: in forward order if its networks are known."""
    found = [name.removeprefix(f"{kind}/") for name in study.history if name.startswith(f"{kind}/")]
    known = _architecture_of(study, context)
    return [layer for layer in layer_names(known) if layer in found] if known else found


def bounds_of(study: Study, context: str) -> dict[str, float]:
    """Layer -> its operator norm over its sigma, at most, in the networks of a context; empty if they are unknown."""
    known = _architecture_of(study, context)
    return bounds(known) if known else {}


def _architecture_of(study: Study, context: str) -> str:
    runs = study.runs[study.runs["context"] == context]
    names = set(runs["architecture"]) if "architecture" in runs else set()
    return names.pop() if len(names) == 1 and names <= set(ARCHITECTURES) else ""


def _middle(name: str, values: pd.Series) -> dict[str, float]:
    """Median and range over seeds, as columns."""
    return {name: values.median(), f"{name}_low": values.min(), f"{name}_high": values.max()}


def sigma_table(study: Study) -> Table:
    """Exact spectral norms of D's layers at the last row of each run: median and range over seeds."""
    rows, kinds = [], [of.kind for of in quantities.shown("table", "sigma")]
    for (context, variant), history in groups(study.history):
        last = history.groupby("seed").tail(1)
        late = history[history["d_updates"] >= 1] if "d_updates" in history else history[:0]
        for layer in layers_of(study, context):
            late_values = late[f"sigma/{layer}"].dropna()
            row = {"context": context, "arm": variant, "layer": layer, "n": int(last[f"sigma/{layer}"].count())}
            for kind in kinds:
                row |= _middle(kind, last.get(f"{kind}/{layer}", pd.Series(dtype=float)))
            row["share_above_1.05"] = (late_values > SIGMA_TOLERANCE).mean() if len(late_values) else np.nan
            rows.append(row)
    caption = (
        "Exact largest singular value of each discriminator layer's matrix at the run's last row: of the weight the "
        "forward pass uses (sigma) and of the parameter itself (sigma_raw); median over n seeds, low and high are "
        f"their range. The last column is the share of rows, from the first update of the discriminator on, whose "
        f"sigma exceeds {SIGMA_TOLERANCE}."
    )
    measured = [f"{kind}{end}" for kind in kinds for end in ("", "_low", "_high")]
    columns = ["context", "arm", "layer", "n", *measured, "share_above_1.05"]
    return Table("sigma", "Spectral norms at the end", caption, pd.DataFrame(rows, columns=columns))


def operator_table(study: Study) -> Table:
    """What a layer does as it runs, and the shape of its spectrum, at the last row that has it."""
    rows, beside = [], [of.kind for of in quantities.shown("table", "operators") if of.kind != "sigma_conv"]
    for (context, variant), history in groups(study.history):
        last, bound = history.groupby("seed").last(), bounds_of(study, context)  # of every column its last value
        for layer in layers_of(study, context, "sigma_conv"):
            values = last[f"sigma_conv/{layer}"].dropna()
            row = {"context": context, "arm": variant, "layer": layer, "n": len(values)}
            row |= _middle("sigma_conv", values)
            row["bound"] = bound.get(layer, np.nan) * last[f"sigma/{layer}"].median()
            for name in beside:
                row[name] = last[f"{name}/{layer}"].median() if f"{name}/{layer}" in last else np.nan
            rows.append(row)
    caption = (
        "sigma_conv: operator norm of the convolution at its stride and input size, a lower bound within about 0.1 %; "
        "it lies between sigma and a multiple of it that kernel and stride decide (bound), so a sigma of 1 does not "
        "make the layer 1-Lipschitz. sigma_bn: the matrix's sigma with the gain of the batch norm that follows. "
        "Stable rank, effective rank and the share of singular values above half the largest are of the raw "
        "parameter. Medians over n seeds, low and high are the range."
    )
    operator = ["sigma_conv", "sigma_conv_low", "sigma_conv_high", "bound"]
    columns = ["context", "arm", "layer", "n", *operator, *beside]
    return Table("operators", "Operator norms and spectra at the end", caption, pd.DataFrame(rows, columns=columns))


def lipschitz_table(study: Study) -> Table:
    """Bounds of D's Lipschitz constant from both sides, at the last row that has them."""
    found = {of.pattern.partition("/")[2]: of.pattern for of in quantities.shown("table", "lipschitz")}
    kinds = {name: metric for name, metric in found.items() if metric in study.history}
    rows = []
    for (context, variant), history in groups(study.history) if kinds else ():
        last = history.groupby("seed").last().dropna(subset=list(kinds.values()), how="all")
        row = {"context": context, "arm": variant, "n": len(last)}
        for name, metric in kinds.items():
            row |= _middle(name, last[metric])
        if {"product", "empirical"} <= set(kinds):
            row |= _middle("tightness", last[kinds["empirical"]] / last[kinds["product"]])
        rows.append(row)
    caption = (
        "product: of the layers' operator norms and batch-norm gains, an upper bound; empirical: the largest norm of "
        "dD/dx over real, generated and interpolated images, a lower bound; tightness: empirical over product. D in "
        "eval mode: batch norm uses its running statistics, which mix real and generated images. Median and range "
        "over n seeds."
    )
    columns = [f"{name}{end}" for name in (*found, "tightness") for end in ("", "_low", "_high")]
    frame = pd.DataFrame(rows, columns=["context", "arm", "n", *columns])
    return Table("lipschitz", "How steep the discriminator is", caption, frame)


def compare_arms(study: Study, summary: pd.DataFrame) -> pd.DataFrame:
    """`stats.compare` of every statistic within every context, with what more belongs to the comparison of quality.

    A shift is arm minus baseline in the statistic's own direction, of which `better` says which side is the good one.
    p is adjusted over the arms and contexts of a statistic. `at_floor`: share of pairs in which an arm is no better
    than the trivial sampler, or has no end; `shift_both_ended` and `n_both_ended`: the shift among the seeds in which
    both arms have an end. `refused`: why the comparison of location or spread would mislead.
    """
    frames, signs = [], compared(study.terms)
    for context, statistic, scores, baseline in scores_of(study, summary):
        frame = compare(scores[["arm", "seed", "score", "failed"]], baseline)
        few = frame["n_pairs"] < APPROXIMATE_BELOW
        frame.loc[few, ["p_location", "p_adjusted"]] = np.nan
        frame.insert(0, "context", context)
        frame.insert(1, "statistic", statistic)
        by_arm = {arm: of.set_index("seed") for arm, of in scores.groupby("arm")}
        more = [
            _beside(by_arm[arm], by_arm[baseline], row, statistic) for arm, row in frame.set_index("arm").iterrows()
        ]
        frame = frame.join(pd.DataFrame(more, columns=_BESIDE))
        if signs[statistic] < 0:
            names = ["shift", "shift_low", "shift_high", "shift_both_ended"]
            frame[names] = -frame[["shift", "shift_high", "shift_low", "shift_both_ended"]] + 0.0  # no negative zero
        frame.insert(frame.columns.get_loc("shift"), "better", "lower" if signs[statistic] > 0 else "higher")  # type: ignore[arg-type]
        frames.append(frame)
    if not frames:
        return pd.DataFrame(columns=["context", "statistic", "arm", "baseline", *_BESIDE])
    result = pd.concat(frames, ignore_index=True)
    by_statistic = result.groupby("statistic", sort=False)["p_location"]
    return result.assign(p_adjusted=by_statistic.transform(lambda p: benjamini_hochberg(p.to_numpy(float))))


_BESIDE = ["at_floor", "shift_both_ended", "n_both_ended", "refused"]
_QUALITY_STATISTICS = ("gain", "gain_pixels", "log_q_end", "q_end", "late_change")


def _beside(x: pd.DataFrame, y: pd.DataFrame, row: pd.Series, statistic: str) -> tuple[float, float, float, str]:
    seeds = x.index.intersection(y.index)
    x, y = x.loc[seeds], y.loc[seeds]
    if not len(seeds):
        return np.nan, np.nan, np.nan, ""
    floor, both = (0.0 if statistic.startswith("gain") else np.inf), (x["ended"] & y["ended"]).to_numpy()
    quality = statistic in _QUALITY_STATISTICS
    at_floor = float(((x["score"] == floor) | (y["score"] == floor)).mean()) if quality else np.nan
    shift = location_interval(subtract(x["score"].to_numpy(), y["score"].to_numpy())[both])[0].estimate
    healthy = tuple(int(of["healthy"].sum()) for of in (x, y))
    names, refused = (str(row.name), str(row["baseline"])), []
    if x["healthy"].notna().all() and y["healthy"].notna().all():
        if quality:
            refused.append(location_refusal(dict(zip(names, ((count, len(seeds)) for count in healthy), strict=True))))
        if row["n_spread"] >= SPREAD_FROM:
            failed = tuple(int(of["failed"].sum()) for of in (x, y))
            said = spread_refusal(row["spread_ratio"], names, len(seeds), failed, healthy)
            refused.append(f"spread: {said}" if said else "")
    return at_floor, shift if quality else np.nan, float(both.sum()), "; ".join(filter(None, refused))


def scores_of(study: Study, summary: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame, str]]:
    """(context, statistic, frame with arm, seed, score, failed, ended, healthy, baseline) of what can be compared.

    Of scores less is better: where more of the statistic is, its sign is turned. A run without an end ranks worst; its
    gain is 0. Quality is compared by the gain over the trivial sampler, or if that sampler is unknown by the quality
    itself. `healthy`: whether it ever was; None, not known.
    """
    result = []
    keyed = summary.set_index("run_id")
    over = study.runs[study.runs["state"].isin(["finished", "diverged", "failed"])]
    for context, runs in over.groupby("context", sort=False):
        baseline, *arms = against(runs["variant"], study.baseline)
        if not arms or (study.baseline and baseline != study.baseline):
            continue
        of = keyed.loc[runs["run_id"]]
        ended = of["ended"].eq(True).to_numpy()
        known = of["healthy_end"].notna() | np.isfinite(of["healthy_step"].astype(float))
        common = {
            "arm": runs["variant"].to_numpy(), "seed": runs["seed"].to_numpy(), "ended": ended,
            "failed": of["failure"].eq(True).to_numpy(),
            "healthy": np.where(known, np.isfinite(of["healthy_step"].astype(float)), None),
        }  # fmt: skip
        by_gain = bool(of["gain"].notna().any())
        for statistic, sign in compared(study.terms).items():
            values = of[statistic].to_numpy(float)
            if (statistic == "log_q_end" and by_gain) or not (np.isfinite(values[ended]).any() or not ended.any()):
                continue
            if statistic.startswith("gain") and np.isnan(values).all():
                continue
            values = sign * np.where(ended, values, 0.0 if statistic.startswith("gain") else sign * np.inf)
            scores = pd.DataFrame({**common, "score": values}).dropna(subset="score")
            scores["score"] += 0.0  # no negative zero
            if baseline in set(scores["arm"]) and scores["arm"].nunique() > 1:
                result.append((context, statistic, scores, baseline))
    return result


def statistics_tables(study: Study, summary: pd.DataFrame, comparisons: pd.DataFrame) -> list[Table]:
    rows = []
    present = [name for name in STATISTICS if summary[name].notna().any()]
    meanings = {name: study.terms.fill(text) for name, text in STATISTICS.items()}
    over = summary[summary["failure"].notna()]
    for (context, variant), runs in groups(over):
        for name in present:
            values = runs[name].astype(float).dropna()
            row = {"context": context, "arm": variant, "statistic": name, "n": len(values)}
            row |= {"median": values.median(), "low": values.min(), "high": values.max()}
            rows.append(row | {"meaning": meanings[name]})
    columns = ["context", "arm", "statistic", "n", "median", "low", "high", "meaning"]
    per_arm = Table(
        "statistics",
        "Stability statistics by arm",
        "Median and range over the n runs that have the statistic: those of quality at the end over runs with an end, "
        "the others of diverged and failed runs up to where they came.",
        pd.DataFrame(rows, columns=columns),
        "runs that are over",
    )
    by_gain = "gain" in set(comparisons["statistic"])
    without = "has gain 0, and ranks worst by all else" if by_gain else "ranks worst"
    floor = "one has gain 0" if by_gain else "one has no end"
    paired = Table(
        "comparisons",
        "Arms compared, paired by seed",
        "Hodges-Lehmann shift, arm minus baseline, with 95 % interval and Wilcoxon signed rank p, adjusted by "
        "Benjamini-Hochberg over the arms and contexts of a statistic; better says which side is the better one. A run "
        f"without an end {without}; n pairs are the seeds in which both arms have the statistic; at floor is the share "
        f"of pairs in which {floor}, shift both ended the shift among the n both ended seeds in which both have an "
        "end. prob improvement: the chance that a run of the arm is better than one of the baseline. spread ratio: "
        f"typical distance from the median, arm over baseline (paired Brown-Forsythe), among the n spread seeds in "
        f"which neither failed; tested from {SPREAD_FROM} on. refused: why a comparison would mislead. Fewer than "
        f"{APPROXIMATE_BELOW} pairs describe, they do not test.",
        comparisons.assign(meaning=comparisons["statistic"].map(meanings)),
        "at least two arms with runs that ended",
    )
    columns = [name for name in ("context", "variant", "seed") if name in summary]
    outcome = [name for name in OUTCOME if not study.foreign or not name.startswith("healthy")]
    per_run = Table(
        "runs_statistics",
        "Stability statistics by run",
        "Every statistic of every run, and what became of it: whether it has an end; "
        + ("" if study.foreign else "the first evaluation at which it was healthy, and whether it was at the last; ")
        + "the first failure and all of them with their steps; what is not known, and why.",
        summary[["run_id", *columns, "last_step", *present, *outcome]].rename(columns={"variant": "arm"}),
        quality=study.terms.quality,
    )
    return [per_arm, paired, per_run]


def runs_table(study: Study) -> Table:
    columns = [
        "run_id",
        "context",
        "variant",
        "seed",
        "state",
        "step",
        "error",
        "wall_seconds",
        "device_name",
    ]
    columns = columns[:-2] if study.foreign else [*columns, "torch", "git_commit", "git_dirty", "wandb_url"]
    frame = study.runs[columns].rename(columns={"variant": "arm"})
    return Table("runs", "Runs", "Every run, with the reason if it did not finish.", frame)


def groups(frame: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """((context, variant), rows) in the order of contexts and of the arm table."""
    return [
        ((str(context), variant), of[of["variant"] == variant])
        for context, of in frame.groupby("context", sort=False)
        for variant in plots.in_order(of["variant"])
    ]


def _text(value: Any) -> str:
    """A cell as people read it: four significant digits, nothing for what is missing."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
