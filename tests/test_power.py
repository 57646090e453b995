"""What a study can decide, and how far its statistics can be trusted."""

import pandas as pd

from analysis import power
from analysis.calibration import OPERATING, TABLE


def test_claims_out_of_reach_are_named_with_their_power() -> None:
    kept = pd.read_csv(OPERATING)
    share = kept[kept["claim"] != "any"].set_index(["claim", "n"])["share"]
    judged = pd.DataFrame(
        [("C7b", 20, "inconclusive", ""), ("C8", 20, "supported", ""), ("C9", 0, "not tested", "needs sn with ..")],
        columns=["claim", "n", "verdict", "reason"],
    ).assign(decides=True, statement="..", context="c", seeds=lambda of: of["n"])
    frame = power.reach(judged).set_index("claim")
    assert frame.loc["C7b", "power_at_20"] == share["C7b", 20] < 0.5
    assert frame.loc["C7b", "decidable"].startswith("no: ")
    assert frame.loc["C9", "decidable"] == "no: needs sn with .."
    assert (
        power.reach(judged.assign(seeds=8)).set_index("claim").loc["C8", "decidable"]
        == "hardly: 8 seeds, fewer than 10"
    )
    tuned = power.operating()
    assert len(tuned) == len(kept)


def test_calibration_is_the_range_of_what_was_simulated() -> None:
    frame = power.calibrated()
    kept = pd.read_csv(TABLE)
    assert frame["conditions"].sum() == len(kept)
    row = frame[(frame["procedure"] == "spread ratio") & (frame["n"] == 10)].iloc[0]
    of = kept[(kept["procedure"] == "spread ratio") & (kept["n"] == 10)]["value"]
    assert (row["lowest"], row["highest"]) == (of.min(), of.max())
