"""Studies with a known truth: what they depend on."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.calibration import DESIGNS
from analysis.synthetic import outcomes, run_history
from sngan.architectures import layer_names
from sngan.arms import ARMS
from sngan.quantities import find


def test_another_arm_moves_no_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws go by an arm's name, not by its place."""
    before = {arm: run_history(arm, 3, {"fd_sd": 0.3}) for arm in ARMS}
    monkeypatch.setitem(ARMS, "aaa", replace(ARMS["plain"], label="first in order"))
    for arm, history in before.items():
        pd.testing.assert_frame_equal(run_history(arm, 3, {"fd_sd": 0.3}), history)
    first, second = (run_history(arm, 3, {})["eval/fd"].to_numpy() for arm in ("aaa", "plain"))
    assert not np.allclose(first, second)


def test_histories_hold_quantities_of_the_networks_that_there_are() -> None:
    history = run_history("sn", 0, {})
    assert [name for name in history if find(name) is None] == []
    assert {name.partition("/")[2] for name in history if name.startswith("sigma/")} == set(layer_names("dcgan28"))


def test_arms_without_a_parameter_have_none() -> None:
    runs = outcomes(np.random.default_rng(0), 7, DESIGNS[0].truths)
    for arm, of in runs.groupby("arm"):
        for name in ("penalty_weight", "n_power_iterations"):
            assert of[name].notna().all() == (name in ARMS[str(arm)].parameters)
