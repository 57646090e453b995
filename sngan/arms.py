"""The arms. An arm is one row, and a class in `sngan.constraints` if its constraint is new. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Norm = Literal["batch", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What is done to the discriminator: its norm layer and its constraint.

    `label` is what tables and figures call it, `words` say what it is. `constraint` is a key of
    `sngan.constraints.CONSTRAINTS`. `parameters`: the fields of RunConfig that are this arm's own, each with its value
    if none is given, which never changes: a run's id does not tell it. `colour` is the arm's in every figure and in
    W&B.
    """

    label: str
    words: str
    norm: Norm
    constraint: str
    colour: str
    source: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


PARAMETERS: dict[str, Any] = {"penalty_weight": 0.01, "n_power_iterations": 1, "power_iteration": "per_forward"}
"""Fields of RunConfig that belong to some arms only, with their usual values; runs of other arms hold these, unused"""


def _usual(*names: str) -> dict[str, Any]:
    return {name: PARAMETERS[name] for name in names}


_MIYATO = "Miyato et al. 2018, arXiv 1802.05957"
_YOSHIDA = "Yoshida & Miyato 2017, arXiv 1705.10941"
_SPECTRAL_NORM = _usual("n_power_iterations", "power_iteration")
_PENALTY = _usual("penalty_weight", "n_power_iterations")

ARMS: dict[str, Arm] = {  # colours: Okabe and Ito's palette, which colour-blind readers tell apart
    "dcgan": Arm(
        label="DCGAN",
        words="DCGAN, batch norm in the discriminator",
        norm="batch",
        constraint="none",
        colour="#000000",
        source="Radford et al. 2016, arXiv 1511.06434",
    ),
    "sn_dcgan": Arm(
        label="SN-DCGAN",
        words="DCGAN with spectral normalization",
        norm="batch",
        constraint="spectral_norm",
        colour="#0072B2",
        source=_MIYATO + ", on the DCGAN with its batch norm kept",
        parameters=_SPECTRAL_NORM,
    ),
    "penalty_dcgan": Arm(
        label="penalty-DCGAN",
        words="DCGAN with a penalty on spectral norms",
        norm="batch",
        constraint="spectral_norm_penalty",
        colour="#D55E00",
        source=_YOSHIDA,
        parameters=_PENALTY,
    ),
    "plain": Arm(
        label="plain",
        words="no batch norm, no constraint",
        norm="none",
        constraint="none",
        colour="#999999",
        source="the control",
    ),
    "sn": Arm(
        label="SN",
        words="spectral normalization, no batch norm",
        norm="none",
        constraint="spectral_norm",
        colour="#56B4E9",
        source=_MIYATO,
        parameters=_SPECTRAL_NORM,
    ),
    "penalty": Arm(
        label="penalty",
        words="a penalty on spectral norms, no batch norm",
        norm="none",
        constraint="spectral_norm_penalty",
        colour="#E69F00",
        source=_YOSHIDA,
        parameters=_PENALTY,
    ),
}
