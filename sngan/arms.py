"""The arms. An arm is one row, and a class in `sngan.constraints` if its constraint is new. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Norm = Literal["batch", "none", "layer"]

DASHES: dict[Norm, tuple[float, ...]] = {"batch": (), "none": (4, 1.5), "layer": (1, 1)}
"""Norm of the discriminator -> lengths of strokes and gaps of its arms' lines; empty: a solid line"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What is done to the discriminator: its norm layer and its constraint.

    `label` is what tables and figures call it, `words` say what it is. `constraint` is a key of
    `sngan.constraints.CONSTRAINTS`. `parameters`: the fields of RunConfig that are this arm's own, each with its value
    if none is given, which never changes: a run's id does not tell it. `colour` is the arm's in every figure and in
    W&B: a hue for each constraint, with dashes for each norm.
    """

    label: str
    words: str
    norm: Norm
    constraint: str
    colour: str
    source: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dash(self) -> tuple[float, ...]:
        return DASHES[self.norm]

    @property
    def usual(self) -> dict[str, Any]:
        """What its runs hold, if nothing else is given, in the fields that say what is done to the discriminator."""
        return {"d_norm": "own", "norm_scale": PARAMETERS["norm_scale"], **self.parameters}


PARAMETERS: dict[str, Any] = {
    "penalty_weight": 0.01,
    "n_power_iterations": 1,
    "power_iteration": "per_forward",
    "clip_value": 0.01,
    "norm_scale": "fixed",
}
"""Fields of RunConfig that belong to some arms only, with their usual values; runs of other arms hold these, unused"""


def _usual(*names: str) -> dict[str, Any]:
    return {name: PARAMETERS[name] for name in names}


_MIYATO = "Miyato et al. 2018, arXiv 1802.05957"
_YOSHIDA = "Yoshida & Miyato 2017, arXiv 1705.10941"
_SPECTRAL_NORM = _usual("n_power_iterations", "power_iteration")
_PENALTY = _usual("penalty_weight", "n_power_iterations")

ARMS: dict[str, Arm] = {
    # The first six colours are of Okabe and Ito's palette. The others are as far from it, and from each other, as those
    # are, also for readers without red or green cones.
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
    "clip": Arm(
        label="clipping",
        words="weights clipped after every update, no batch norm",
        norm="none",
        constraint="weight_clipping",
        colour="#C3C784",
        source="Arjovsky et al. 2017, arXiv 1701.07875",
        parameters=_usual("clip_value"),
    ),
    "gp": Arm(
        label="GP",
        words="a penalty on the slope between real and generated images (WGAN-GP's), no batch norm",
        norm="none",
        constraint="gradient_penalty",
        colour="#BF6046",
        source="Gulrajani et al. 2017, arXiv 1704.00028",
        parameters={"penalty_weight": 10.0},
    ),
    "r1": Arm(
        label="R1",
        words="a penalty on the slope at real images, no batch norm",
        norm="none",
        constraint="r1",
        colour="#831F20",
        source="Mescheder et al. 2018, arXiv 1801.04406",
        parameters={"penalty_weight": 10.0},
    ),
    "wn": Arm(
        label="WN",
        words="weight normalization, no batch norm",
        norm="none",
        constraint="weight_norm",
        colour="#400F43",
        source="Salimans & Kingma 2016, arXiv 1602.07868; without the scale in " + _MIYATO,
        parameters=_usual("norm_scale"),
    ),
    "ln": Arm(
        label="LN",
        words="layer norm in the discriminator, no constraint",
        norm="layer",
        constraint="none",
        colour="#4C5C62",
        source="Ba et al. 2016, arXiv 1607.06450; without the scale in " + _MIYATO,
        parameters=_usual("norm_scale"),
    ),
    "ortho": Arm(
        label="orthonormal",
        words="orthonormal initial weights and a penalty on departures from orthonormality, no batch norm",
        norm="none",
        constraint="orthonormal",
        colour="#420B1A",
        source="Brock et al. 2017, arXiv 1609.07093",
        parameters={"penalty_weight": 1.0},
    ),
    "sn_svd": Arm(
        label="SN by SVD",
        words="spectral normalization by the exact singular value, no batch norm",
        norm="none",
        constraint="sn_svd",
        colour="#0D0692",
        source="the exact form of " + _MIYATO,
    ),
    "sn_conv": Arm(
        label="SN of convolutions",
        words="convolutions normalized by their operator norms, no batch norm",
        norm="none",
        constraint="sn_conv",
        colour="#1408F9",
        source="Farnia et al. 2019, arXiv 1811.07457",
        parameters=_SPECTRAL_NORM,
    ),
    "bsn": Arm(
        label="BSN",
        words="bidirectional spectral normalization, no batch norm",
        norm="none",
        constraint="bidirectional_sn",
        colour="#2D70FE",
        source="Lin et al. 2021, arXiv 2009.02773",
        parameters=_SPECTRAL_NORM,
    ),
    "sn_at_init": Arm(
        label="SN at init",
        words="initial weights spectrally normalized once, no constraint and no batch norm",
        norm="none",
        constraint="sn_at_init",
        colour="#4A99F8",
        source="the control of initialization",
    ),
}


_OF_ONE_IMAGE = (
    "its penalty is on the slope of D at one image, and batch norm makes every logit depend on the whole batch, so "
    "that there is no such slope (Gulrajani et al. 2017, section 4)"
)
VOID: dict[tuple[str, Norm], str] = {("gradient_penalty", "batch"): _OF_ONE_IMAGE, ("r1", "batch"): _OF_ONE_IMAGE}
"""(constraint, norm) that mean nothing together -> why"""
