"""The statistics on simulated studies: within what is required, and what the report prints is what was simulated."""

import pandas as pd
import pytest

from analysis.calibration import CHECKS, TABLE, Check, frequency


def test_every_procedure_covers_and_holds_its_level() -> None:
    table = pd.read_csv(TABLE)
    outside = table[(table["value"] < table["required_low"]) | (table["value"] > table["required_high"])]
    assert outside.empty, outside.to_string()
    simulated = table[table["replicates"] > 0]
    assert (simulated["replicates"] >= 2000).all()
    assert {check.procedure for check in CHECKS} < set(table["procedure"])
    assert set(table["n"]) == {10, 20, 30}
    assert set(table["correlation"]) == {0.0, 0.3, 0.6}
    assert (table["measures"] == "power").sum() == 9


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.procedure)
def test_the_table_is_what_the_simulation_gives(check: Check) -> None:
    """The same seeds again, of one row; another version of numpy or scipy may move a replicate or two."""
    kept = pd.read_csv(TABLE).set_index(["procedure", "data", "n", "correlation"])["value"]
    data, correlation = check.data[-1], check.correlations[-1]
    expected = kept[check.procedure, data, 10, correlation]
    assert frequency(check, data, 10, correlation) == pytest.approx(expected, abs=0.002)
