"""What a study of a given size can decide, and how far its statistics can be trusted, by simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis import calibration
from analysis.inference import seeds_needed, spread_power


def reach(claims: pd.DataFrame) -> pd.DataFrame:
    """What this study can decide, before it is read what it did decide. `claims`: of `claims.judge`."""
    found = operating()
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
    return pd.DataFrame(rows, columns=["claim", "statement", "n", "power_at_10", "power_at_20", "decidable"])


def operating() -> pd.DataFrame:
    """How often whole studies come to verdicts, if the truth is known."""
    return pd.read_csv(calibration.OPERATING)


def spread(summary: pd.DataFrame) -> pd.DataFrame:
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
    columns = ["context", "n_pairs", "correlation", "power_at_0.05", "power_at_0.025", "seeds_for_80_percent"]
    return pd.DataFrame(rows, columns=columns)


def calibrated() -> pd.DataFrame:
    """What `analysis.calibration` found: the range over kinds of data and correlations, by procedure and n."""
    of = pd.read_csv(calibration.TABLE).groupby(["procedure", "measures", "n"], sort=False)
    return of.agg(lowest=("value", "min"), highest=("value", "max"), required_low=("required_low", "min"),
                  required_high=("required_high", "max"), conditions=("value", "size"),
                  replicates=("replicates", "max")).reset_index()  # fmt: skip
