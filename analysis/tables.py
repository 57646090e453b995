"""The tables of the report: study and statistics -> frames with a title, and a caption that says how to read them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis import calibration, plots
from analysis.claims import SIGMA_FROM_UPDATES, SIGMA_TOLERANCE
from analysis.events import CAUSES, Thresholds
from analysis.inference import (
    Survival,
    iqm_intervals,
    log_rank_p,
    mcnemar_p,
    order_counts,
    order_p,
    sd_interval,
    seeds_needed,
    sign_flip_p,
    spread_power,
    survival,
)
from analysis.load import Study
from analysis.stability import LOWER_IS_BETTER, STATISTICS, first_events
from analysis.stats import APPROXIMATE_BELOW, benjamini_hochberg, compare, location_interval, rate_interval
from experiments.record import STATES

_QUALITY = (
    *("fd", "fd_pixels", "kd", "precision", "recall", "density", "coverage"),
    *("modes", "modes_5", "effective_modes", "mode_kl", "diversity"),
)


COLLAPSE_FACTORS = (1.5, 2.0, 3.0)
"""thresholds of quality collapse at which failures are counted too"""

BOUND = {"conv1": 2.0, "conv2": 2.0, "conv3": 1.0}
"""Operator norm over the matrix's sigma, at most, of architecture dcgan28's layers: sqrt(c_h c_w) with c = 4 / 2 at
kernel 4 and stride 2; 1 where the output is one pixel."""


@dataclass(frozen=True)
class Table:
    """A table of the report; `file` is its CSV's name."""

    file: str
    title: str
    caption: str
    frame: pd.DataFrame
    needs: str = "records that hold it"  # where there are no rows

    @cached_property
    def shown(self) -> pd.DataFrame:
        """Without the context where there is only one; the CSV has it always."""
        single = "context" in self.frame and self.frame["context"].nunique() == 1
        return self.frame.drop(columns="context") if single else self.frame

    def cells(self) -> list[list[str]]:
        return [[_text(value) for value in row] for row in self.shown.itertuples(index=False)]

    def latex(self) -> str:
        """A tabular with booktabs' rules, of the cells as the page shows them."""
        names = [str(name).replace("_", " ") for name in self.shown]
        return pd.DataFrame(self.cells(), columns=names).to_latex(index=False, escape=True)


def verdicts_table(claims: pd.DataFrame) -> Table:
    """One row a claim and context."""
    frame = claims.drop_duplicates(["claim", "context"])
    caption = (
        "What the papers claim, tested one by one. Supported: every part of the claim lies beyond a threshold that was "
        "fixed beforehand, with its interval over seeds and its adjusted p. Contradicted: a part lies wholly on the "
        "other side of no effect. Depends on the view: one of these two, but by fd_pixels in the opposite direction. "
        "Not tested: the study lacks the arms, or has fewer than "
        f"{APPROXIMATE_BELOW} paired seeds. Everything else is inconclusive. The evidence table has every part."
    )
    shown = frame[["claim", "context", "statement", "verdict", "source", "figure"]]
    return Table("verdicts", "Verdicts", caption, shown, "runs that are over")


def evidence_table(claims: pd.DataFrame) -> Table:
    """One row for each part of a claim."""
    columns = ["claim", "context", "evidence", "n", "effect", "low", "high", "expected", "threshold", "p", "p_adjusted"]
    caption = (
        "Effects per seed: their Hodges-Lehmann centre with the interval that inverts the signed rank test (97.5 % for "
        "the two primary parts of C7, else 95 %). expected: above or below the threshold, or within (equality: inside "
        "+- threshold, TOST). p against the threshold; adjusted by Holm for the primary parts, by Benjamini-Hochberg "
        "for all others. n: paired seeds."
    )
    frame = claims.loc[claims["evidence"] != "", [*columns, "part"]].rename(columns={"part": "verdict"})
    return Table("evidence", "Evidence", caption, frame, "runs that are over")


def arms_table(summary: pd.DataFrame) -> Table:
    """Location, spread and failures of each arm, over the runs that are over."""
    rows = []
    for (context, variant), runs in groups(summary[summary["failure"].notna()]):
        log_q = runs["log_q_end"].dropna().to_numpy(float)
        measured = runs.loc[~runs["imputed"].astype(bool), "log_q_end"].dropna().to_numpy(float)
        iqm = iqm_intervals(pd.DataFrame({"q": log_q}))["q"]
        sd = sd_interval(log_q)
        failed = int(runs["failure"].astype(bool).sum())
        rate = rate_interval(failed, len(runs))
        row = {"context": context, "arm": variant, "n": len(runs), "imputed": int(runs["imputed"].sum())}
        row |= {"fd_iqm": np.exp(iqm.estimate), "fd_low": np.exp(iqm.low), "fd_high": np.exp(iqm.high)}
        row |= {"fd_median": np.exp(np.median(log_q)) if len(log_q) else np.nan}
        row |= {"fd_median_measured": np.exp(np.median(measured)) if len(measured) else np.nan}
        row |= {"sd_log_fd": sd.estimate, "sd_low": sd.low, "sd_high": sd.high}
        row["mad_log_fd"] = 1.4826 * np.median(np.abs(log_q - np.median(log_q))) if len(log_q) else np.nan
        row |= dict(zip(("fd_10", "fd_90"), np.exp(np.quantile(log_q, [0.1, 0.9])), strict=True)) if len(log_q) else {}
        row |= {"failures": failed, "failure_rate": rate.estimate, "rate_low": rate.low, "rate_high": rate.high}
        rows.append(row)
    caption = (
        "fd at the end of each run (median of its last three evaluations; of a run that diverged or failed that of "
        "the trivial sampler: imputed). Interquartile mean of its logarithm over n seeds, with a bootstrap-t interval; "
        "the median with and without imputed runs; spread of the logarithm: standard deviation with Bonett's interval, "
        "1.4826 MAD, and the 10 to 90 % range. A failure is any of the events in the next table; its rate has the "
        f"exact interval. Below {APPROXIMATE_BELOW} seeds the intervals are approximate."
    )
    return Table("arms", "Quality, spread and failures by arm", caption, pd.DataFrame(rows), "runs that are over")


def failures_table(summary: pd.DataFrame) -> Table:
    """Runs by the cause of their first event, and when it came."""
    rows = []
    for (context, variant), runs in groups(summary[summary["failure"].notna()]):
        row = {"context": context, "arm": variant, "n": len(runs), "none": int((~runs["failure"].astype(bool)).sum())}
        row |= {cause: int((runs["cause"] == cause).sum()) for cause in CAUSES}
        mean = survival_of(runs).mean
        row |= {"mean_steps_without": mean.estimate, "low": mean.low, "high": mean.high}
        rows.append(row)
    causes = "; ".join(f"{cause}: {meaning}" for cause, meaning in CAUSES.items())
    caption = (
        f"By the first event of each run. {causes}. The last columns: mean number of steps without failure, up to the "
        "end of the longest run (restricted mean of the Kaplan-Meier curve)."
    )
    return Table("failures", "What went wrong", caption, pd.DataFrame(rows), "runs that are over")


def sensitivity_table(study: Study, thresholds: Thresholds) -> Table:
    """Failures of each arm under other thresholds of quality collapse."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for factor in COLLAPSE_FACTORS:
        failures = first_events(study.history, study.runs, replace(thresholds, quality_collapse=factor))
        for (context, variant), runs in groups(failures):
            row = rows.setdefault((context, variant), {"context": context, "arm": variant, "n": len(runs)})
            row[f"failures_at_{factor:g}"] = int(runs["cause"].notna().sum())
    caption = (
        "Runs with any event where quality collapse is fd above 1.5, 2 and 3 times the best so far; the other "
        f"thresholds stay, and {thresholds.quality_collapse:g} is used everywhere else."
    )
    frame = pd.DataFrame(list(rows.values()))
    return Table("sensitivity", "Failures under other thresholds", caption, frame, "runs that are over")


def paired_failures_table(summary: pd.DataFrame) -> Table:
    """Each arm against the first: which failed, and which failed first, seed by seed."""
    rows = []
    for context, runs in summary[summary["failure"].notna()].groupby("context", sort=False):
        by_arm = {variant: of.drop_duplicates("seed").set_index("seed") for variant, of in runs.groupby("variant")}
        baseline, *arms = plots.in_order(runs["variant"])
        tests = []
        for arm in arms:
            seeds = by_arm[arm].index.intersection(by_arm[baseline].index)
            x, y = (_times(by_arm[of].loc[seeds]) for of in (arm, baseline))
            only_x, only_y = int((x[1] & ~y[1]).sum()), int((y[1] & ~x[1]).sum())
            counts = {"failure": (only_x, only_x + only_y), "first failure": order_counts(x, y)}
            p = {"failure": mcnemar_p(x[1], y[1]), "first failure": order_p(x, y)}
            for what, (of_arm, differing) in counts.items():
                share = rate_interval(of_arm, differing)
                tests.append((arm, len(seeds), what, differing, of_arm, *share, p[what]))
            curves = log_rank_p(*(_times(by_arm[of]) for of in (arm, baseline)))
            tests.append((arm, len(seeds), "time to failure (log-rank, unpaired)", *[np.nan] * 5, curves))
        columns = ["arm", "n_pairs", "test", "seeds_that_differ", "arm_worse", "share", "low", "high", "p"]
        frame = pd.DataFrame(tests, columns=columns)
        frame.insert(0, "context", context)
        frame.insert(2, "baseline", baseline)
        rows.append(frame.assign(p_adjusted=benjamini_hochberg(frame["p"].to_numpy(float))))
    caption = (
        "Of the seeds in which one arm failed and the other did not (exact McNemar), or in which it can be told which "
        "failed first (sign test): how many were the arm's, as a share with its exact interval; below one half the "
        "arm is the steadier one. The log-rank test compares the arms' curves over all their seeds. p adjusted by "
        "Benjamini-Hochberg over the context."
    )
    needs = "at least two arms with runs that are over"
    frame = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()
    return Table("paired_failures", "Failures compared, paired by seed", caption, frame, needs)


def interactions_table(study: Study, summary: pd.DataFrame) -> Table:
    """Whether the difference between two arms is another one in another context of the same data set.

    Each arm is judged against the first of the study's contexts in which it and the baseline have runs.
    """
    rows = []
    over = summary[summary["failure"].notna()]
    for dataset, runs in over.groupby("dataset", sort=False):
        scores = runs.pivot_table(index="seed", columns=["context", "variant"], values="log_q_end", aggfunc="last")
        baseline, *arms = plots.in_order(runs["variant"])
        for arm in arms:
            both = [c for c in study.runs["context"].unique() if {(c, arm), (c, baseline)} <= set(scores)]
            for context in both[1:]:
                keys = [(c, v) for c in (context, both[0]) for v in (arm, baseline)]
                there, there_base, here, here_base = (scores[key] for key in keys)
                effects = ((there - there_base) - (here - here_base)).dropna().to_numpy(float)
                effect = location_interval(effects)[0]
                rows.append((dataset, context, both[0], arm, baseline, len(effects), *effect, sign_flip_p(effects)))
    columns = ["dataset", "in", "against", "arm", "baseline", "n", "effect", "low", "high", "p"]
    caption = (
        "Log of fd at the end: the arm minus the baseline in one context, minus the same in another (against), per "
        "seed. Above zero the arm loses more by the change. Hodges-Lehmann centre with 95 % interval; p by the "
        "permutation of signs, adjusted by Benjamini-Hochberg."
    )
    frame = pd.DataFrame(rows, columns=columns)
    frame["p_adjusted"] = benjamini_hochberg(frame["p"].to_numpy(float))
    return Table("interactions", "Arm by setting", caption, frame, "two contexts of one data set, with the same arms")


def _times(runs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Step of the failure, or to which the run was seen, and whether it failed; rows of `summarize`."""
    failed = runs["failure"].fillna(False).astype(bool).to_numpy()
    return np.where(failed, runs["failure_step"].astype(float), runs["last_step"].astype(float)), failed


def survival_of(runs: pd.DataFrame) -> Survival:
    """Kaplan-Meier over the rows of `summarize`; runs that are not over are censored where they stand."""
    return survival(*_times(runs), float(runs["last_step"].max()) if len(runs) else 0.0)


def power_table(summary: pd.DataFrame) -> Table:
    """Power of the primary test of spread with the seeds and the correlation that were found."""
    rows = []
    over = summary[summary["failure"].notna()] if len(summary) else summary
    for context, runs in over.groupby("context", sort=False) if len(over) else ():
        table = runs.pivot_table(index="seed", columns="variant", values="log_q_end", aggfunc="last")
        if not {"sn_dcgan", "dcgan"} <= set(table):
            continue
        pairs = table[["sn_dcgan", "dcgan"]].dropna()
        varies = len(pairs) > 2 and (pairs.std() > 0).all()
        correlation = round(float(pairs.corr().iloc[0, 1]), 2) if varies else 0.0
        row = {"context": context, "n_pairs": len(pairs), "correlation": correlation if varies else np.nan}
        row |= {f"power_at_{level:g}": spread_power(len(pairs), correlation, level=level) for level in (0.05, 0.025)}
        row["seeds_for_80_percent"] = seeds_needed(correlation, level=0.025) or np.nan
        rows.append(row)
    caption = (
        "The primary question is whether sn_dcgan spreads less over seeds than dcgan. Power of its test (paired "
        "Brown-Forsythe) to find a spread twice as large, on normal data with the correlation between paired seeds "
        "that was found (0 where it is not known), at the levels 0.05 and 0.025 (Holm over two primary tests), by a "
        "seeded simulation; and the number of seeds that 80 % power at 0.025 would need. Five seeds cannot reach p < "
        "0.05 at all."
    )
    return Table("power", "What this design can show", caption, pd.DataFrame(rows), "runs of sn_dcgan and dcgan")


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
        "over normal, heavy-tailed (t with 3 degrees of freedom) and, where that means something, tied data and "
        "failed runs, and over correlations 0, 0.3 and 0.6 of paired seeds. Replicates 0: enumerated."
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
        "Every planned run is counted. The failure rate is that of diverged and failed runs among those that "
        "ended, with its exact (Clopper-Pearson) 95 % interval; collapses of finished runs are counted further below."
    )
    return Table("account", "Account of runs", caption, pd.DataFrame(rows))


def quality_table(study: Study) -> Table:
    """How good and varied the samples are at the end, between what reals and the trivial sampler score."""
    rows = []
    for (context, variant), history in groups(study.history) if "eval/fd" in study.history else ():
        last = history.groupby("seed").last()  # of every column its last value
        fd = last["eval/fd"].dropna()
        row = {"context": context, "arm": variant, "n": len(fd)}
        row |= {"fd": fd.median(), "fd_low": fd.min(), "fd_high": fd.max()}
        row |= {name: last[f"eval/{name}"].median() for name in _QUALITY[1:] if f"eval/{name}" in last}
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
    return Table("quality", "Samples at the end", caption, pd.DataFrame(rows))


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
    return Table("protocol", "How samples were judged", caption, pd.DataFrame(rows))


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


def sigma_table(study: Study) -> Table:
    """Exact spectral norms of D's layers at the last row of each run: median and range over seeds."""
    rows = []
    layers = [name.removeprefix("sigma/") for name in study.history if name.startswith("sigma/")]
    for (context, variant), history in groups(study.history):
        last = history.groupby("seed").tail(1)
        late = history[history["d_updates"] >= SIGMA_FROM_UPDATES] if "d_updates" in history else history[:0]
        for layer in layers:
            used = last[f"sigma/{layer}"].dropna()
            raw = last[f"sigma_raw/{layer}"].dropna() if f"sigma_raw/{layer}" in last else used[:0]
            late_values = late[f"sigma/{layer}"].dropna()
            row = {"context": context, "arm": variant, "layer": layer, "n": len(used)}
            row |= {"sigma": used.median(), "sigma_low": used.min(), "sigma_high": used.max()}
            row |= {"sigma_raw": raw.median(), "sigma_raw_low": raw.min(), "sigma_raw_high": raw.max()}
            row["share_above_1.05"] = (late_values > SIGMA_TOLERANCE).mean() if len(late_values) else np.nan
            rows.append(row)
    caption = (
        "Exact largest singular value of each discriminator layer's matrix at the run's last row: of the weight the "
        "forward pass uses (sigma) and of the parameter itself (sigma_raw); median over n seeds, low and high are "
        f"their range. The last column is the share of rows after {SIGMA_FROM_UPDATES} discriminator updates whose "
        f"sigma exceeds {SIGMA_TOLERANCE}."
    )
    return Table("sigma", "Spectral norms at the end", caption, pd.DataFrame(rows))


def operator_table(study: Study) -> Table:
    """What a layer does as it runs, and the shape of its spectrum, at the last row that has it."""
    rows = []
    layers = [name.removeprefix("sigma_conv/") for name in study.history if name.startswith("sigma_conv/")]
    for (context, variant), history in groups(study.history) if layers else ():
        last = history.groupby("seed").last()  # of every column its last value
        for layer in layers:
            values = last[f"sigma_conv/{layer}"].dropna()
            row = {"context": context, "arm": variant, "layer": layer, "n": len(values)}
            row |= {"sigma_conv": values.median(), "sigma_conv_low": values.min(), "sigma_conv_high": values.max()}
            row["bound"] = BOUND.get(layer, np.nan) * last[f"sigma/{layer}"].median()
            for name in ("sigma_bn", "stable_rank", "effective_rank", "spectrum_share"):
                row[name] = last[f"{name}/{layer}"].median() if f"{name}/{layer}" in last else np.nan
            rows.append(row)
    caption = (
        "sigma_conv: operator norm of the convolution at its stride and input size, a lower bound within about 0.1 %; "
        "it lies between sigma and a multiple of it that kernel and stride decide (bound), so a sigma of 1 does not "
        "make the layer 1-Lipschitz. sigma_bn: the matrix's sigma with the gain of the batch norm that follows. "
        "Stable rank, effective rank and the share of singular values above half the largest are of the raw "
        "parameter. Medians over n seeds, low and high are the range."
    )
    return Table("operators", "Operator norms and spectra at the end", caption, pd.DataFrame(rows))


def lipschitz_table(study: Study) -> Table:
    """Bounds of D's Lipschitz constant from both sides, at the last row that has them."""
    rows = []
    kinds = {"product": "lipschitz/product", "empirical": "lipschitz/empirical"}
    for (context, variant), history in groups(study.history) if set(kinds.values()) <= set(study.history) else ():
        last = history.groupby("seed").last().dropna(subset=list(kinds.values()))
        values = {kind: last[metric] for kind, metric in kinds.items()}
        values["tightness"] = values["empirical"] / values["product"]
        row = {"context": context, "arm": variant, "n": len(last)}
        for kind, of in values.items():
            row |= {kind: of.median(), f"{kind}_low": of.min(), f"{kind}_high": of.max()}
        rows.append(row)
    caption = (
        "product: of the layers' operator norms and batch-norm gains, an upper bound; empirical: the largest norm of "
        "dD/dx over real, generated and interpolated images, a lower bound; tightness: empirical over product. D in "
        "eval mode: batch norm uses its running statistics, which mix real and generated images. Median and range "
        "over n seeds."
    )
    return Table("lipschitz", "How steep the discriminator is", caption, pd.DataFrame(rows))


def compare_arms(study: Study, summary: pd.DataFrame) -> pd.DataFrame:
    """`stats.compare` of every statistic within every context; a failed or diverged run's score is +inf."""
    frames = [pd.DataFrame()]
    for context, statistic, scores, baseline in scores_of(study, summary):
        frame = compare(scores, baseline)
        frame.insert(0, "context", context)
        frame.insert(1, "statistic", statistic)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def scores_of(study: Study, summary: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame, str]]:
    """(context, statistic, frame with arm, seed, score, baseline) of everything that can be compared."""
    result = []
    keyed = summary.set_index("run_id")
    ended = study.runs[study.runs["state"].isin(["finished", "diverged", "failed"])]
    for context, runs in ended.groupby("context", sort=False):
        variants = plots.in_order(runs["variant"])
        if len(variants) < 2:
            continue
        baseline = study.baseline if study.baseline in variants else variants[0]
        for statistic in LOWER_IS_BETTER:
            values = keyed[statistic].reindex(runs["run_id"]).to_numpy()
            scores = pd.DataFrame({"arm": runs["variant"], "seed": runs["seed"], "score": values})
            lost = runs["state"] != "finished"
            imputed = statistic == "log_q_end" and np.isfinite(scores["score"])  # by the trivial sampler's
            scores.loc[lost & ~imputed, "score"] = np.inf
            measured = np.isfinite(scores["score"]).any() or not (runs["state"] == "finished").any()
            scores = scores.dropna()  # a finished run that the statistic is not defined for: its pair is left out
            if measured and baseline in set(scores["arm"]) and scores["arm"].nunique() > 1:
                result.append((context, statistic, scores, baseline))
    return result


def statistics_tables(study: Study, summary: pd.DataFrame, comparisons: pd.DataFrame) -> list[Table]:
    rows = []
    present = [name for name in STATISTICS if summary[name].notna().any()]
    for (context, variant), runs in groups(summary):
        for name in present:
            values = runs[name].dropna()
            row = {"context": context, "arm": variant, "statistic": STATISTICS[name], "n": len(values)}
            rows.append(row | {"median": values.median(), "low": values.min(), "high": values.max()})
    per_arm = Table(
        "statistics",
        "Stability statistics by arm",
        "Median and range over n seeds of each run's statistic, diverged and failed runs up to where they came.",
        pd.DataFrame(rows),
    )
    shown = comparisons.assign(statistic=comparisons["statistic"].map(STATISTICS)) if len(comparisons) else comparisons
    against = Table(
        "comparisons",
        "Arms compared, paired by seed",
        "Hodges-Lehmann shift of the arm against the baseline (below zero: the arm is the steadier one), with 95 % "
        "interval and Wilcoxon signed rank p, adjusted by Benjamini-Hochberg over the arms of a statistic; spread "
        "ratio by the paired Brown-Forsythe test. Failed and diverged runs rank worst; n_pairs are the seeds in which "
        "both arms have the statistic. "
        f"Fewer than {APPROXIMATE_BELOW} pairs describe, they do not test.",
        shown,
        "at least two arms with runs that ended",
    )
    per_run = Table(
        "runs_statistics",
        "Stability statistics by run",
        "S1, S5 and S6 on the losses, S7 on the generator's gradient norm.",
        summary[["run_id", "last_step", *present]],
    )
    return [per_arm, against, per_run]


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
    frame = study.runs[[*columns, "torch", "git_commit", "git_dirty", "wandb_url"]].rename(columns={"variant": "arm"})
    return Table("runs", "Runs", "Every planned run, with the reason where it did not finish.", frame)


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
