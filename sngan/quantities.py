"""What is recorded: a row for each kind of number, with its words, unit, axis and direction, and where it is shown.

Everything that names, draws or summarizes a number of the record reads this table. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Literal, NamedTuple

from sngan.datasets import DATASETS

LAYER = "<layer>"


class Quantity(NamedTuple):
    """One kind of number.

    `pattern` is its name in the record; `<layer>` stands for each of the discriminator's layers. `recorded`: in every
    `row`, in the first at or after each `instrument_every` steps (`instruments`), at an `evaluation`, then also as
    a `list` in evaluations.jsonl or an `image`, in timing.jsonl (`timing`), or of the whole run in status.json
    (`status`). `constraints`, `norms`: of arms with one of these; `judges`: of runs that one of these judges; empty: of
    all. `needs`: what else the judge must have: `features`, or knowledge of the data's own `classes`.

    It is shown in the W&B workspace under `section`, in the report's `figure`, or in a column of its `table`; `unshown`
    says why it is in none of these. `better` is the good direction, if there is one. `summary`: what W&B's summary
    says of it, if not the last value. `training`: a run in which it is not finite has diverged.
    """

    pattern: str
    words: str
    unit: str = ""
    recorded: Literal["row", "instruments", "evaluation", "timing", "list", "image", "status"] = "row"
    axis: Literal["linear", "log"] = "linear"
    better: Literal["lower", "higher", ""] = ""
    section: str = ""
    figure: str = ""
    table: str = ""
    unshown: str = ""
    summary: str = ""
    training: bool = False
    constraints: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    judges: tuple[str, ...] = ()
    needs: Literal["features", "classes", ""] = ""

    @property
    def kind(self) -> str:
        """The name without its layer."""
        return self.pattern.removesuffix("/" + LAYER)

    @property
    def by_layer(self) -> bool:
        return self.pattern.endswith(LAYER)

    def names(self, layers: Iterable[str]) -> list[str]:
        """Its names in a record of networks with these layers."""
        return [self.pattern.replace(LAYER, layer) for layer in layers] if self.by_layer else [self.pattern]


_LOSSES, _NORMS, _GRADIENTS = "Losses", "Spectral norms", "Gradients and Lipschitz"
_QUALITY, _SAMPLES, _COST = "Sample quality", "Samples", "Cost"
SECTIONS = (_LOSSES, _NORMS, _GRADIENTS, _QUALITY, _SAMPLES, _COST)
"""of the workspace, in order"""
_HIGH, _LOW, _BOTH = "max,last", "min,last", "min,max,last"
_Q, _L = Quantity, LAYER

# fmt: off
QUANTITIES = (
    _Q("step", "completed generator updates", unshown="it is the axis of everything else"),
    _Q("d_updates", "updates of the discriminator", unshown="n_dis times the step"),
    _Q("images_seen", "real images that the discriminator saw", unshown="batch_size times d_updates"),
    _Q("loss/d", "loss of the discriminator", training=True, section=_LOSSES, figure="losses"),
    _Q("loss/g", "loss of the generator", training=True, section=_LOSSES, figure="losses"),
    _Q("loss/d_adversarial", "adversarial part of the discriminator's loss", training=True, section=_LOSSES),
    _Q("loss/d_penalty", "weighted penalty in the discriminator's loss", training=True, section=_LOSSES),
    _Q("loss/d_real", "loss of real images", training=True, unshown="a part of loss/d_adversarial"),
    _Q("loss/d_fake", "loss of generated images", training=True, unshown="a part of loss/d_adversarial"),
    _Q("logit/real", "mean logit of real images", training=True, section=_LOSSES, summary=_BOTH),
    _Q("logit/fake", "mean logit of generated images", training=True, section=_LOSSES, summary=_BOTH),
    _Q("logit/max_abs", "largest |logit|", training=True, summary=_BOTH, unshown="an event (divergence) if it is huge"),
    _Q("accuracy/d_real", "share of real images taken for real", section=_LOSSES),
    _Q("accuracy/d_fake", "share of generated images taken for generated", section=_LOSSES),
    _Q("grad_norm/d", "gradient norm of the discriminator", axis="log", training=True, summary=_BOTH,
       section=_GRADIENTS, figure="gradients"),
    _Q("grad_norm/d_min", "the smallest since the row before", axis="log", training=True, summary=_BOTH,
       unshown="beside grad_norm/d, for those who look closer"),
    _Q("grad_norm/d_max", "the largest since the row before", axis="log", training=True, summary=_BOTH,
       unshown="beside grad_norm/d, for those who look closer"),
    _Q("grad_norm/g", "gradient norm of the generator", axis="log", training=True, summary=_BOTH,
       section=_GRADIENTS, figure="gradients"),
    _Q("grad_norm/g_min", "the smallest since the row before", axis="log", training=True, summary=_BOTH,
       unshown="beside grad_norm/g, for those who look closer"),
    _Q("grad_norm/g_max", "the largest since the row before", axis="log", training=True, summary=_BOTH,
       unshown="the statistic grad_g_spikes is made of it"),
    _Q(f"sigma/{_L}", "weight as used", axis="log", summary=_HIGH, section=_NORMS, figure="sigma", table="sigma"),
    _Q(f"sigma_raw/{_L}", "raw parameter", axis="log", summary=_HIGH, section=_NORMS, figure="sigma", table="sigma"),
    _Q(f"sigma_estimate/{_L}", "the power iteration's value", axis="log", unshown="an estimate of what sigma is"),
    _Q(f"weight_norm/{_L}", "Euclidean norm of the raw parameter", axis="log", training=True,
       unshown="the statistic weight_growth is made of it"),
    _Q(f"penalty_ratio/{_L}", "pull of the penalty over that of the loss", axis="log", section=_NORMS, figure="pull",
       constraints=("spectral_norm_penalty",)),
    _Q(f"orthonormal_gap/{_L}", "distance of WW' (or W'W) from the identity", axis="log", section=_NORMS,
       figure="weights", constraints=("orthonormal",)),
    _Q(f"clipped/{_L}", "share of weights at the bound or beyond", section=_NORMS, figure="weights",
       constraints=("weight_clipping",)),
    _Q(f"sigma_conv/{_L}", "operator norm", recorded="instruments", axis="log", summary=_HIGH,
       section=_NORMS, figure="operators", table="operators"),
    _Q(f"sigma_bn/{_L}", "matrix with the gain of the batch norm", recorded="instruments", axis="log",
       table="operators", norms=("batch",)),
    _Q(f"stable_rank/{_L}", "stable rank", recorded="instruments", figure="spectra", table="operators"),
    _Q(f"effective_rank/{_L}", "effective rank", recorded="instruments", figure="spectra", table="operators"),
    _Q(f"spectrum_share/{_L}", "share above half", recorded="instruments", figure="spectra", table="operators"),
    _Q("lipschitz/product", "product of norms and gains (upper bound)", recorded="instruments", axis="log",
       summary=_HIGH, section=_GRADIENTS, figure="steepness", table="lipschitz", norms=("batch", "none")),
    _Q("lipschitz/empirical", "largest |dD/dx| found (lower bound)", recorded="instruments", axis="log",
       summary=_HIGH, section=_GRADIENTS, figure="steepness", table="lipschitz"),
    _Q("grad_x/real", "mean |dD/dx|, real images", recorded="instruments", axis="log", summary=_HIGH,
       section=_GRADIENTS, figure="steepness"),
    _Q("grad_x/fake", "mean |dD/dx|, fake images", recorded="instruments", axis="log", summary=_HIGH,
       section=_GRADIENTS, figure="steepness"),
    _Q("grad_x/interpolated", "mean |dD/dx|, interpolated images", recorded="instruments", axis="log", summary=_HIGH,
       section=_GRADIENTS, figure="steepness"),
    _Q("grad_x/real_max", "largest |dD/dx|, real images", recorded="instruments", axis="log", summary=_HIGH,
       unshown="the largest of the three is lipschitz/empirical"),
    _Q("grad_x/fake_max", "largest |dD/dx|, fake images", recorded="instruments", axis="log", summary=_HIGH,
       unshown="the largest of the three is lipschitz/empirical"),
    _Q("grad_x/interpolated_max", "largest |dD/dx|, interpolated images", recorded="instruments", axis="log",
       summary=_HIGH, unshown="the largest of the three is lipschitz/empirical"),
    _Q("eval/fd", "fd (Frechet distance)", recorded="evaluation", training=True, axis="log", better="lower",
       summary=_LOW, section=_QUALITY, figure="distance", table="quality", needs="features"),
    _Q("eval/fd_pixels", "fd_pixels", recorded="evaluation", training=True, axis="log", better="lower",
       summary=_LOW, section=_QUALITY, figure="distance", table="quality"),
    _Q("eval/kd", "kd (kernel distance)", recorded="evaluation", training=True, axis="log", better="lower",
       summary=_LOW, section=_QUALITY, table="quality", needs="features"),
    _Q("eval/kd_error", "standard error of kd", recorded="evaluation", training=True, better="lower", summary=_LOW,
       unshown="kept beside kd for whoever compares single runs by it", needs="features"),
    _Q("eval/precision", "precision", recorded="evaluation", training=True, better="higher", summary=_HIGH,
       section=_QUALITY, figure="coverage", table="quality", needs="features"),
    _Q("eval/recall", "recall", recorded="evaluation", training=True, better="higher", summary=_HIGH,
       section=_QUALITY, figure="coverage", table="quality", needs="features"),
    _Q("eval/density", "density", recorded="evaluation", training=True, better="higher", summary=_HIGH,
       section=_QUALITY, figure="coverage", table="quality", needs="features"),
    _Q("eval/coverage", "coverage", recorded="evaluation", training=True, better="higher", summary=_HIGH,
       section=_QUALITY, figure="coverage", table="quality", needs="features"),
    _Q("eval/modes", "classes hit", recorded="evaluation", training=True, better="higher", summary=_HIGH,
       table="quality", needs="classes"),
    _Q("eval/modes_5", "classes hit by at least five samples", recorded="evaluation", training=True, better="higher",
       summary=_HIGH, table="quality", needs="classes"),
    _Q("eval/effective_modes", "effective modes", recorded="evaluation", training=True, better="higher",
       summary=_HIGH, section=_QUALITY, figure="coverage", table="quality", needs="classes"),
    _Q("eval/mode_kl", "KL of the classes", unit="nats", recorded="evaluation", training=True, axis="log",
       better="lower", summary=_LOW, section=_QUALITY, figure="distance", table="quality", needs="classes"),
    _Q("eval/diversity", "diversity", recorded="evaluation", training=True, better="higher", summary=_HIGH,
       section=_QUALITY, figure="coverage", table="quality", needs="features"),
    _Q("class_counts", "samples by class", recorded="list", needs="classes",
       unshown="a histogram on the run's page in W&B"),
    _Q(f"spectrum/{_L}", "singular values of the raw parameter", recorded="list",
       unshown="histograms on the run's page in W&B"),
    _Q("samples", "images of the fixed latents", recorded="image", section=_SAMPLES),
    _Q("real", "real images", recorded="image", section=_SAMPLES),
    _Q("evolution", "film of the sample grids", recorded="image", unshown="on the run's page in W&B"),
    _Q("time/step_seconds", "time of a step", unit="s", recorded="timing", better="lower", section=_COST),
    _Q("time/images_per_second", "real images per second", unit="1/s", recorded="timing", better="higher",
       section=_COST),
    _Q("time/evaluation_seconds", "time of an evaluation", unit="s", recorded="timing", better="lower",
       unshown="`sngan plan` shows its share"),
    _Q("wall_seconds", "time of the run", unit="s", recorded="status", better="lower", section=_COST),
    _Q("peak_memory_bytes", "largest memory", unit="bytes", recorded="status", better="lower", section=_COST),
)
OF_INCEPTION = (
    _Q("eval/fid", "FID", recorded="evaluation", training=True, axis="log", better="lower", summary=_LOW,
       section=_QUALITY, judges=("inception",)),
    _Q("eval/kid", "KID", recorded="evaluation", training=True, axis="log", better="lower", summary=_LOW,
       section=_QUALITY, judges=("inception",)),
)
"""What is recorded beside QUANTITIES if Inception judges"""
# fmt: on

EVALUATED = tuple(of.pattern for of in QUANTITIES if of.recorded == "evaluation")
"""What an evaluation scores, whoever judges, as far as the judge can tell"""


def knows_classes(dataset: str, judge: str) -> bool:
    """Whether a run's judge knows the classes of its data, so that modes are counted."""
    return judge == "labels" or (dataset in DATASETS and judge == DATASETS[dataset].judge)


def is_told(of: Quantity, dataset: str, judge: str) -> bool:
    """Whether the judge of a run on this data set can tell it."""
    if of.judges and judge not in of.judges:
        return False
    return {"features": judge != "pixels", "classes": knows_classes(dataset, judge)}.get(of.needs, True)


@cache
def find(name: str) -> Quantity | None:
    """The row of a number's name in the record, such as sigma/conv2; None if there is none."""
    by_layer = f"{name.partition('/')[0]}/{LAYER}"
    return next((of for of in (*QUANTITIES, *OF_INCEPTION) if of.pattern in (name, by_layer)), None)


def is_training(name: str) -> bool:
    """Whether a run in which this number is not finite has diverged."""
    return (of := find(name)) is not None and of.training


def shown(place: Literal["section", "figure", "table"], name: str) -> list[Quantity]:
    """What is shown there, in the table's order."""
    return [of for of in (*QUANTITIES, *OF_INCEPTION) if getattr(of, place) == name]
