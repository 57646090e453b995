"""What was measured at the end of the runs: quality of samples, spectral and operator norms, gradients."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from analysis.stability import SIGMA_TOLERANCE
from analysis.study import Study, as_recorded
from analysis.variants import groups
from sngan import quantities
from sngan.architectures import ARCHITECTURES, bounds, layer_names

_QUALITY = tuple(of.pattern.removeprefix("eval/") for of in quantities.shown("table", "quality"))


def quality(study: Study) -> pd.DataFrame:
    """How good and varied the samples are at the end, between what reals and the trivial sampler score.

    Columns are those of what some judge of the study can tell; of FID and KID by these names.
    """
    main = main_of(study)
    rows, beside = [], [name for name in _told(study) if name != main]
    recorded = as_recorded(study)
    for (context, variant), history in groups(recorded) if any(f"eval/{of}" in recorded for of in MAIN) else ():
        last = history.groupby("seed").last()  # of every column its last value
        own = [f"eval/{name}" for name in (main, *beside) if f"eval/{name}" in last]
        value = last[f"eval/{main}"].dropna() if f"eval/{main}" in last else pd.Series(dtype=float)
        row = {"context": context, "arm": variant, "n": len(value) or int(last[own].notna().any(axis=1).sum())}
        row |= {main: value.median(), f"{main}_low": value.min(), f"{main}_high": value.max()}
        row |= {name: last[f"eval/{name}"].median() for name in beside if f"eval/{name}" in last}
        rows.append(row)
    for context, _, protocol in protocols_of(study):
        for name in ("real_against_real", "trivial_sampler"):
            scores = protocol.get(name, {})
            rows.append(
                {"context": context, "arm": name.replace("_", " ")} | {key: scores.get(key) for key in (main, *beside)}
            )
    frame = pd.DataFrame(rows, columns=["context", "arm", "n", main, f"{main}_low", f"{main}_high", *beside])
    return frame.rename(columns=_OF_INCEPTION) if study.terms.sight == "inception" else frame


MAIN = ("fd", "fd_pixels")
"""What runs are judged by, as it is recorded"""
_OF_INCEPTION = {"fd": "FID", "fd_low": "FID_low", "fd_high": "FID_high", "kd": "KID", "trivial_fd": "trivial_FID"}
_NOT_OF_PIXELS = ("feature_net_sha256", "feature_net_accuracy", "n_features", "n_labels", "k")


def main_of(study: Study) -> str:
    """What the runs are judged by, as it is recorded; fd if they are not all judged by their pixels alone."""
    return "fd_pixels" if study.terms.sight == "pixels" else "fd"


def _told(study: Study) -> list[str]:
    """What some judge of the study can tell, of the table's quantities."""
    if "judge" not in study.runs:
        return list(_QUALITY)
    judges = set(zip(study.runs["dataset"], study.runs["judge"], strict=True))
    shown = quantities.shown("table", "quality")
    return [of.pattern.removeprefix("eval/") for of in shown if any(quantities.is_told(of, *by) for by in judges)]


def protocols_of(study: Study) -> list[tuple[str, int, dict[str, Any]]]:
    """(context, number of runs, protocol) of each distinct protocol."""
    context_of = study.runs.set_index("run_id")["context"]
    found = Counter(
        (context_of[run_id], json.dumps(protocol, sort_keys=True)) for run_id, protocol in study.protocols.items()
    )
    return [(context, runs, json.loads(protocol)) for (context, protocol), runs in found.items()]


def protocols(study: Study) -> pd.DataFrame:
    """How samples were judged: a row per context, or more if its runs were judged differently."""
    rows = []
    for context, runs, protocol in protocols_of(study):
        row = {"context": context, "runs": runs} | {k: v for k, v in protocol.items() if not isinstance(v, dict)}
        terms = study.terms_in(context)
        if terms.sight == "pixels":
            row = {name: value for name, value in row.items() if name not in _NOT_OF_PIXELS}
            row["trivial_fd_pixels"] = protocol.get("trivial_sampler", {}).get("fd_pixels")
            row["real_against_real_fd_pixels"] = protocol.get("real_against_real", {}).get("fd_pixels")
            rows.append(row)
            continue
        if terms.sight == "inception":
            row = {_OF_INCEPTION.get(name, name): value for name, value in row.items()}
        name = "FID" if terms.sight == "inception" else "fd"
        rows.append(row | {f"real_against_real_{name}": protocol.get("real_against_real", {}).get("fd")})
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["context", "runs"])


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


def sigmas(study: Study) -> pd.DataFrame:
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
    measured = [f"{kind}{end}" for kind in kinds for end in ("", "_low", "_high")]
    columns = ["context", "arm", "layer", "n", *measured, "share_above_1.05"]
    return pd.DataFrame(rows, columns=columns)


def operators(study: Study) -> pd.DataFrame:
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
    operator = ["sigma_conv", "sigma_conv_low", "sigma_conv_high", "bound"]
    columns = ["context", "arm", "layer", "n", *operator, *beside]
    return pd.DataFrame(rows, columns=columns)


def lipschitz(study: Study) -> pd.DataFrame:
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
    columns = [f"{name}{end}" for name in (*found, "tightness") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["context", "arm", "n", *columns])
