"""The table of arms, what follows from a row, and that nothing else knows them by name."""

import re
from dataclasses import replace

import matplotlib.colors
import numpy as np
import pytest
from conftest import ROOT

from sngan.arms import ARMS, DASHES, PARAMETERS
from sngan.config import IDENTITY_FIELDS, RunConfig, unused_parameters
from sngan.constraints import CONSTRAINTS


def test_every_arm_has_a_constraint_and_fields_for_its_parameters() -> None:
    assert {arm.constraint for arm in ARMS.values()} <= set(CONSTRAINTS)
    assert {name for arm in ARMS.values() for name in arm.parameters} == set(PARAMETERS) <= set(IDENTITY_FIELDS)
    assert len({arm.colour for arm in ARMS.values()}) == len({arm.label for arm in ARMS.values()}) == len(ARMS)


def test_arms_are_told_apart_by_colour_and_norms_by_dashes() -> None:
    """Colours by their distance in CIELAB, with all cones and without red or green ones (Machado et al. 2009)."""
    values = np.array([matplotlib.colors.to_rgb(arm.colour) for arm in ARMS.values()])
    linear = np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    protanopia = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    deuteranopia = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    for seen in (np.eye(3), np.array(protanopia), np.array(deuteranopia)):
        x, y, z = np.cbrt(np.clip(linear @ seen.T, 0, 1) @ to_xyz.T / [0.9505, 1, 1.089]).T
        lab = np.stack([116 * y, 500 * (x - y), 200 * (y - z)], axis=1)
        distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[np.triu_indices(len(lab), 1)]
        assert distances.min() > 15  # 2 is just seen
    assert {arm.norm: arm.dash for arm in ARMS.values()} == DASHES
    assert len(set(DASHES.values())) == len(DASHES) == 3


def test_each_further_arm_differs_from_plain_in_one_thing() -> None:
    assert list(ARMS)[6:] == ["clip", "gp", "r1", "wn", "ln", "ortho", "sn_svd", "sn_conv", "bsn", "sn_at_init"]
    for name in list(ARMS)[6:]:
        assert (ARMS[name].norm == "none") == (ARMS[name].constraint != "none")
    assert len({(arm.norm, arm.constraint) for arm in ARMS.values()}) == len(ARMS)
    assert {arm.constraint for arm in ARMS.values()} == set(CONSTRAINTS)


@pytest.mark.parametrize("arm", ARMS)
def test_parameters_are_those_of_the_row_and_of_other_arms_there_are_none(arm: str) -> None:
    config, row = RunConfig(arm=arm), ARMS[arm].parameters
    assert {name: getattr(config, name) for name in row} == row
    unused = unused_parameters(config)
    assert unused == set(PARAMETERS) - set(row)
    assert RunConfig(arm=arm, **dict.fromkeys(unused & {"n_power_iterations"}, 7)) == config
    assert config.run_id == RunConfig(arm=arm, **row).run_id  # the row's own values change nothing


def test_an_arm_has_its_own_rows_values_and_its_id_tells_others(monkeypatch: pytest.MonkeyPatch) -> None:
    before = RunConfig(arm="penalty", penalty_weight=10.0).run_id
    monkeypatch.setitem(ARMS, "penalty", replace(ARMS["penalty"], parameters={"penalty_weight": 10.0}))
    strong = RunConfig(arm="penalty")
    assert strong.penalty_weight == 10.0
    assert strong.run_id == RunConfig(arm="penalty", penalty_weight=10.0).run_id != before
    assert RunConfig(arm="penalty", penalty_weight=0.01).run_id != strong.run_id


def test_tests_choose_arms_by_constraint_and_norm() -> None:
    """Never by how a name begins: the next arm may be called anything."""
    by_name = re.compile(
        r"""arm\w*(\[[^]]*\])?\.(startswith|endswith)\(|["'](sn|penalty|plain|dcgan)["'] in \w*arm\b"""
    )
    for path in (ROOT / "tests").glob("*.py"):
        assert not by_name.search(path.read_text()), path
