import dataclasses
import hashlib
import json

import numpy as np
import pytest

from sngan.architectures import ARCHITECTURES
from sngan.arms import ARMS, VOID
from sngan.config import SETTINGS, InputError, RunConfig, from_parameters
from sngan.datasets import DATASETS


def test_id_is_readable_and_hashes_what_differs_from_the_defaults() -> None:
    config = RunConfig(dataset="mnist", arm="sn_dcgan", seed=3)
    canonical = json.dumps({"arm": "sn_dcgan", "dataset": "mnist", "seed": 3}, separators=(",", ":"))
    assert config.run_id == f"mnist-sn_dcgan-C-s03-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"


def test_execution_fields_do_not_rename_a_run() -> None:
    config = RunConfig(seed=1)
    moved = dataclasses.replace(config, device="cpu", threads=3, data_dir="x", wandb="offline")
    assert moved.run_id == config.run_id


def test_parameters_that_an_arm_does_not_use_are_dropped() -> None:
    assert RunConfig(arm="dcgan", penalty_weight=0.3) == RunConfig(arm="dcgan")
    assert RunConfig(arm="penalty", penalty_weight=0.3).run_id != RunConfig(arm="penalty").run_id


# Miyato et al. 2018, Table 1
@pytest.mark.parametrize(
    ("setting", "values"),
    [("A", (1e-4, 0.5, 0.9, 5)), ("B", (1e-4, 0.5, 0.999, 1)), ("C", (2e-4, 0.5, 0.999, 1)),
     ("D", (1e-3, 0.5, 0.9, 5)), ("E", (1e-3, 0.5, 0.999, 5)), ("F", (1e-3, 0.9, 0.999, 5))],
)  # fmt: skip
def test_settings_are_the_papers(setting: str, values: tuple[float, ...]) -> None:
    config = RunConfig(setting=setting)  # type: ignore[arg-type]
    assert (config.lr, config.beta1, config.beta2, config.n_dis) == values
    assert set(SETTINGS) == set("ABCDEF")


def test_one_of_the_four_beside_the_setting_makes_it_custom() -> None:
    config = RunConfig(setting="C", lr=1e-3)
    assert (config.setting, config.lr, config.beta1, config.n_dis) == ("custom", 1e-3, 0.5, 1)
    assert RunConfig(setting="C", lr=2e-4).setting == "C"  # the setting's own value is no change
    assert RunConfig(setting="custom", lr=1e-4, beta1=0.5, beta2=0.999, n_dis=1) == RunConfig(setting="B")


def test_numbers_of_numpy_are_numbers() -> None:
    config = RunConfig(seed=np.int64(3), lr=np.float32(0.5), steps=np.int32(7))  # type: ignore[arg-type]
    assert config == RunConfig(seed=3, lr=0.5, steps=7)
    assert json.loads(json.dumps(config.identity())) == config.identity()


def test_identity_survives_json() -> None:
    config = RunConfig(arm="penalty", penalty_weight=0.1, lr=1e-3, steps=777)
    assert from_parameters(json.loads(json.dumps(config.identity()))).run_id == config.run_id


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"arm": "sndcgan"}, "did you mean 'sn_dcgan'"),
        ({"stepz": 3}, "did you mean 'steps'"),
        ({"steps": 0}, "out of range"),
        ({"steps": "many"}, "expected int"),
        ({"seed": True}, "expected int"),
        ({"lr": float("nan")}, "out of range"),
        ({"lr": 10**400}, "too large"),
        ({"steps": 10**400}, "out of range"),
        ({"threads": -1}, "threads: -1 is out of range"),
        ({"arm": "dcgan", "penalty_weight": -1.0}, "out of range"),  # though dcgan has no penalty
        ({"setting": "custom", "lr": 0.1}, "missing: beta1, beta2, n_dis"),
    ],
)
def test_mistakes_are_named(parameters: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_parameters(parameters)


def test_evaluations_are_evenly_spaced_with_one_early() -> None:
    steps = RunConfig(steps=10_000, n_evaluations=20).evaluation_steps()
    assert steps == [200, *range(500, 10_001, 500)]


def test_values_that_ids_do_not_tell_are_what_they_were() -> None:
    """A run's id leaves out what is as its rows say: recorded runs would be taken for others if a value changed."""
    networks = ("architecture", "g_width", "d_width", "z_dim")
    for arm, parameters in {
        "penalty": {"penalty_weight": 0.01, "n_power_iterations": 1},
        "penalty_dcgan": {"penalty_weight": 0.01, "n_power_iterations": 1},
        "sn": {"n_power_iterations": 1, "power_iteration": "per_forward"},
        "sn_dcgan": {"n_power_iterations": 1, "power_iteration": "per_forward"},
    }.items():
        assert ARMS[arm].parameters == parameters
        config = RunConfig(arm=arm)
        assert tuple(getattr(config, name) for name in networks) == ("dcgan28", 64, 16, 64)


def test_combinations_that_mean_nothing_are_refused_with_the_reason_or_allowed_in_words() -> None:
    void = [arm for arm, row in ARMS.items() if (row.constraint, "batch") in VOID]
    assert void == ["gp", "r1"]
    for arm in void:
        with pytest.raises(InputError, match=rf"arm {arm} with d_norm batch means nothing: .* depend on the whole ba"):
            RunConfig(arm=arm, d_norm="batch")
        allowed = RunConfig(arm=arm, d_norm="batch", void_combination="allow")
        assert from_parameters(allowed.identity()) == allowed
        assert RunConfig(arm=arm, d_norm="layer").run_id != RunConfig(arm=arm).run_id != allowed.run_id
    assert RunConfig(arm="clip", void_combination="allow") == RunConfig(arm="clip")  # there is nothing to allow


def test_a_norm_with_which_an_arm_is_another_one_is_refused() -> None:
    for arm, d_norm, other in (("dcgan", "none", "plain"), ("sn", "batch", "sn_dcgan"), ("plain", "layer", "ln")):
        with pytest.raises(InputError, match=f"arm {arm} with d_norm {d_norm} is the arm {other}: give that one"):
            RunConfig(arm=arm, d_norm=d_norm)
    for arm, row in ARMS.items():
        assert RunConfig(arm=arm, d_norm=row.norm) == RunConfig(arm=arm)


def test_the_scale_of_a_norm_belongs_to_those_who_have_one() -> None:
    for parameters in ({"arm": "ln"}, {"arm": "wn"}, {"arm": "sn", "d_norm": "layer"}):
        assert RunConfig(**parameters, norm_scale="learned") != RunConfig(**parameters)
    for arm in ("dcgan", "sn", "gp"):
        assert RunConfig(arm=arm, norm_scale="learned") == RunConfig(arm=arm)


def test_rows_that_are_added_in_a_session_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARMS, "mine", dataclasses.replace(ARMS["penalty"], parameters={"penalty_weight": 3.0}))
    monkeypatch.setitem(DATASETS, "tiny", dataclasses.replace(DATASETS["digits"], side=13))
    config = RunConfig(arm="mine")
    assert (config.penalty_weight, config.run_id[:13]) == (3.0, "digits-mine-C")
    with pytest.raises(InputError, match="tiny has images of 13 pixels a side, and no architecture has 13"):
        RunConfig(dataset="tiny")
    rows = ARCHITECTURES["dcgan28"]
    up = (*rows.generator[:2], rows.generator[2]._replace(channels="image", norm=False, activation="tanh"))
    small = dataclasses.replace(rows, side=13, z_dim=5, generator=up, discriminator=rows.discriminator[1:])
    monkeypatch.setitem(ARCHITECTURES, "small", small)
    config = RunConfig(dataset="tiny")
    assert (config.architecture, config.z_dim, config.side) == ("small", 5, 13)
    with pytest.raises(InputError, match="dcgan28 is for images of 28 pixels a side, and tiny has 13: small is for"):
        RunConfig(dataset="tiny", architecture="dcgan28")
