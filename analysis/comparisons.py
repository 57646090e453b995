"""Arms compared: paired by seed within a context, over contexts, over learning rates, over data sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.claims import location_refusal, spread_refusal
from analysis.inference import sign_flip_p, stratified_bootstrap
from analysis.stability import compared
from analysis.stats import (
    APPROXIMATE_BELOW,
    SPREAD_FROM,
    benjamini_hochberg,
    compare,
    iqm,
    location_interval,
    signed_rank_p,
    subtract,
)
from analysis.study import Study
from analysis.terms import Terms
from analysis.variants import against, in_order
from experiments.study import CONTEXT_FIELDS


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

    Lower scores are better: a statistic of which higher is has its sign turned. A run without an end ranks worst; its
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


def differences(study: Study, summary: pd.DataFrame) -> pd.DataFrame:
    """Per seed each arm's statistic minus the baseline's: context, statistic, seed, variant, difference, baseline."""
    frames, signs = [pd.DataFrame()], compared(study.terms)
    for context, statistic, scores, baseline in scores_of(study, summary):
        table = signs[statistic] * scores.replace(np.inf, np.nan).pivot(index="seed", columns="arm", values="score")
        delta = table.drop(columns=baseline).sub(table[baseline], axis=0)
        frame = delta.melt(ignore_index=False, var_name="variant", value_name="difference").reset_index()
        frames.append(frame.assign(context=context, statistic=statistic, baseline=baseline).dropna())
    return pd.concat(frames, ignore_index=True)


def interactions(study: Study, summary: pd.DataFrame) -> pd.DataFrame:
    """Whether the difference between two arms is another one in another context of the same data set.

    Each arm is judged against the first of the study's contexts in which it and the baseline have runs.
    """
    rows, terms = [], study.terms
    over = summary[summary["failure"].notna()]
    level = over[terms.location].astype(float) * (1 if terms.maximize else -1) if study.foreign else over["gain"]
    over = over.assign(level=level)
    name = over["run_id"].map(study.runs.set_index("run_id")["data_name"]) if "data_name" in study.runs else None
    for dataset, runs in over.groupby("dataset" if name is None else name.rename("dataset"), sort=False):
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
    frame = pd.DataFrame(rows, columns=columns)
    frame["p_adjusted"] = benjamini_hochberg(frame["p"].to_numpy(float))
    return frame


def _by_rate(study: Study, summary: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(what they share, runs with `lr`) of the runs that ended in contexts that differ in nothing but the rate."""
    if "lr" not in study.runs:
        return []
    keys = [name for name in CONTEXT_FIELDS if name in study.runs and name not in ("lr", "setting")]
    runs = summary[summary["failure"].notna()].merge(study.runs[["run_id", "lr"]], on="run_id")
    words = study.runs.set_index("run_id")[keys].astype(str)
    if "data_name" in study.runs:  # with the start of the digest of a user's own images
        words = words.assign(dataset=study.runs.set_index("run_id")["data_name"]).drop(
            columns="data_sha256", errors="ignore"
        )
        keys = list(words)
    words = words.loc[:, [name for name in keys if name == "dataset" or words[name].nunique() > 1]]
    shared = words.agg(
        lambda row: ", ".join(row.iloc[:1].tolist() + [f"{n} {v}" for n, v in row.iloc[1:].items()]), axis=1
    )
    runs["shared"] = runs["run_id"].map(shared)
    return [(str(name), of) for name, of in runs.groupby("shared", sort=False) if of["lr"].nunique() > 1]


def tuned(study: Study, summary: pd.DataFrame) -> pd.DataFrame:
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
    return pd.concat(frames[1:], ignore_index=True) if len(frames) > 1 else frames[0]


def rates(study: Study, summary: pd.DataFrame) -> pd.DataFrame:
    """Of each arm and seed, at which learning rates it worked."""
    rows = []
    for over, runs in _by_rate(study, summary):
        for variant in in_order(runs["variant"]):
            for seed, of in runs[runs["variant"] == variant].groupby("seed"):
                healthy = of[of["healthy_end"].eq(True)]
                largest = healthy["lr"].max() if len(healthy) else np.nan
                rows.append((over, variant, seed, of["lr"].nunique(), len(healthy), largest))
    return pd.DataFrame(rows, columns=["over", "arm", "seed", "rates", "healthy_rates", "largest_healthy_lr"])


def across(study: Study, summary: pd.DataFrame) -> pd.DataFrame:
    """Arms over all data sets, as in `rliable`: interquartile mean, and probability of improvement."""
    terms, rows = study.terms, []
    over = summary[summary["failure"].notna() & (summary[terms.location].notna() | summary["ended"].eq(False))]
    level = np.where(over["ended"].eq(True), over["q_end"].astype(float), terms.worst)
    by_arm = {
        arm: {context: of["q"].to_numpy() for context, of in runs.groupby("context", sort=False)}
        for arm, runs in over.assign(q=level).groupby("variant")
    }
    order = against(over["variant"], study.baseline) if over["context"].nunique() > 1 else []
    for arm in order:
        of, base = by_arm[arm], by_arm[order[0]]
        row = {"arm": arm, "data_sets": len(of), "n": sum(map(len, of.values()))}
        pooled = stratified_bootstrap(_pooled_iqm, *of.values())
        row |= dict(zip(("q_iqm", "iqm_low", "iqm_high"), pooled, strict=True))
        shared = [context for context in of if context in base]
        if arm != order[0] and shared:
            pairs = [group for context in shared for group in (of[context], base[context])]
            found = stratified_bootstrap(lambda *groups: _chances(groups, terms).mean(axis=0), *pairs)
            row |= {"baseline": order[0], "shared": len(shared)}
            row |= dict(zip(("prob_improvement", "prob_low", "prob_high"), found, strict=True))
            if len(shared) >= APPROXIMATE_BELOW:
                row["p"] = signed_rank_p(_chances(pairs, terms) - 0.5)
        rows.append(row)
    columns = [
        *("arm", "data_sets", "n", "q_iqm", "iqm_low", "iqm_high", "baseline", "shared"),
        *("prob_improvement", "prob_low", "prob_high", "p"),
    ]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(p_adjusted=benjamini_hochberg(frame["p"].to_numpy(float)))


def _pooled_iqm(*groups: np.ndarray) -> np.ndarray:
    """(.., n) each -> (..): of all groups' values at once."""
    return iqm(np.concatenate(groups, axis=-1))


def _chances(groups: Sequence[np.ndarray], terms: Terms) -> np.ndarray:
    """For each pair of groups, (.., n) and (.., m), P(a value of the first is better than one of the second), ties
    half: (pairs, ..)."""
    sides = [(y, x) if terms.maximize else (x, y) for x, y in zip(groups[::2], groups[1::2], strict=True)]
    of_pairs = ((x[..., :, None], y[..., None, :]) for x, y in sides)
    return np.array([((x < y).mean(axis=(-2, -1)) + (x <= y).mean(axis=(-2, -1))) / 2 for x, y in of_pairs])
