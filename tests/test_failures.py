"""Failures against counts by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from others import own_images

from analysis import failures
from analysis.events import Thresholds
from analysis.stability import summarize


def outcomes(**failure_steps: list[float | None]) -> pd.DataFrame:
    """Runs of 100 steps by arm: the step at which each seed failed, None if it did not."""
    rows = [
        {"context": "c", "variant": arm, "seed": seed, "last_step": 100, "failure": step is not None,
         "failure_step": np.nan if step is None else step, "ended": True}
        for arm, steps in failure_steps.items() for seed, step in enumerate(steps)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_paired_failures_by_hand() -> None:
    """Seeds 0 to 7: sn fails in 0 alone, dcgan in 1 to 6, of which sn in 6 too and earlier; 7 has no dcgan."""
    summary = outcomes(dcgan=[None, 20, 30, 40, 50, 60, 70], sn=[90, None, None, None, None, None, 10, None])
    frame = failures.paired(summary).set_index("test")
    assert set(frame["arm"]) == {"sn"}
    assert set(frame["baseline"]) == {"dcgan"}
    assert set(frame["n_pairs"]) == {7}
    failure = frame.loc["failure (unconditional exact)"]
    assert (failure["seeds_that_differ"], failure["arm_worse"]) == (6, 1)
    assert failure["difference"] == pytest.approx(-4 / 7)
    assert failure["low"] < -4 / 7 < failure["high"]
    assert frame.loc["failure (McNemar)", "p"] == pytest.approx(2 * (1 + 6) / 2**6)
    assert failure["p"] < frame.loc["failure (McNemar)", "p"]
    first = frame.loc["first failure (sign test)"]
    assert (first["seeds_that_differ"], first["arm_worse"]) == (7, 2)
    assert first["p"] == pytest.approx(2 * (1 + 7 + 21) / 2**7)
    p = np.sort(frame["p"].to_numpy())
    adjusted = np.minimum.accumulate((p * 4 / np.array([1, 2, 3, 4]))[::-1])[::-1]
    assert np.sort(frame["p_adjusted"]) == pytest.approx(np.minimum(adjusted, 1))
    assert failures.paired(outcomes(sn=[None, 3])).empty


def test_what_cannot_be_seen_is_not_counted(tmp_path: Path) -> None:
    study = own_images(tmp_path, ("a", 0, "pixels"))
    found = failures.causes(summarize(study.history, study.runs, terms=study.terms), terms=study.terms)
    assert "mode collapse" not in found
    assert "never learned" in found
    others = failures.under_other_thresholds(study, Thresholds())
    assert set(others["threshold"]) == {"quality_collapse", "healthy"}
