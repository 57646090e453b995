"""What a run is: optimizer settings, and the frozen configuration that gives a run its id. Imports no torch."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import numbers
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from sngan.architectures import ARCHITECTURES, fitting
from sngan.arms import ARMS, PARAMETERS, VOID, Norm
from sngan.datasets import DATASETS, GIVEN, JUDGES, OTHER_JUDGES, Dataset, named
from sngan.errors import InputError, shown, suggestion

TRAINING_VERSION = 5  # raised whenever the bits of a run change for an unchanged RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Optimizer settings: Adam's learning rate and moments, discriminator updates per generator update."""

    lr: float
    beta1: float
    beta2: float
    n_dis: int


# Source: Miyato et al. 2018, Table 1. C is also the notebook's.
SETTINGS: dict[str, Setting] = {
    "A": Setting(lr=1e-4, beta1=0.5, beta2=0.9, n_dis=5),
    "B": Setting(lr=1e-4, beta1=0.5, beta2=0.999, n_dis=1),
    "C": Setting(lr=2e-4, beta1=0.5, beta2=0.999, n_dis=1),
    "D": Setting(lr=1e-3, beta1=0.5, beta2=0.9, n_dis=5),
    "E": Setting(lr=1e-3, beta1=0.5, beta2=0.999, n_dis=5),
    "F": Setting(lr=1e-3, beta1=0.9, beta2=0.999, n_dis=5),
}
SETTING_FIELDS = ("lr", "beta1", "beta2", "n_dis")

# When a run's samples are healthy, and when they have lost modes afterwards
HEALTHY_FD = 0.5  # fd below this share of the trivial sampler's, and, unless there are many classes, enough modes
FEW_MODES = 0.5  # effective modes below this share of the classes; of many classes, of the run's own best
LARGE_MODE_KL = 0.5  # nats; not of many classes
LOW_DIVERSITY = 0.5  # not of many classes

if TYPE_CHECKING:  # a checker sees words, `_checked` and the command line the names that there are
    _Arm = _Setting = _Architecture = _Judge = str
else:
    _Arm, _Architecture = (Literal[tuple(table)] for table in (ARMS, ARCHITECTURES))
    _Setting, _Judge = Literal[(*SETTINGS, "custom")], Literal[(*JUDGES, *OTHER_JUDGES)]


_TABLES = {"arm": ARMS, "architecture": ARCHITECTURES}


def _field(default: Any, help: str, low: float = -math.inf, high: float = math.inf) -> Any:
    return field(default=default, metadata={"help": help, "low": low, "high": high})


def _by_row(values: dict[str, Any], help: str, low: float = -math.inf, high: float = math.inf) -> Any:
    """A field that a row of a table decides unless it is given; the help says which value is whose."""
    return _field(None, f"{help}; if not given, {_said(values)}", low, high)


def _said(values: dict[str, Any]) -> str:
    """Such as `0.01 (penalty_dcgan, penalty)`."""
    rows: dict[Any, list[str]] = {}
    for name, value in values.items():
        rows.setdefault(value, []).append(name)
    return ", ".join(f"{value} ({', '.join(names)})" for value, names in rows.items())


def _of_arms(parameter: str) -> dict[str, Any]:
    return {name: row.parameters[parameter] for name, row in ARMS.items() if parameter in row.parameters}


def _of_architectures(name: str) -> dict[str, Any]:
    return {architecture: getattr(row, name) for architecture, row in ARCHITECTURES.items()}


LARGEST = max(ARCHITECTURES, key=lambda name: ARCHITECTURES[name].side)
"""The networks of a user's own images, unless these are squares of other networks' size, or the run names some"""
_KINDS_OF_ARM = "; ".join(f"{name}: {row.words}" for name, row in ARMS.items())
_NETWORKS = "; ".join(f"{name}: {row.label}" for name, row in ARCHITECTURES.items())
_KINDS_OF_JUDGE = "; ".join(f"{name}: {words}" for name, words in OTHER_JUDGES.items())
_N_FAKE = _said({name: f"{row.n_fake:,}" for name, row in DATASETS.items() if row.n_fake})


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a run is: these fields change its numbers and make its id."""

    dataset: str = _field("digits", f"training images: {', '.join(named())}")
    arm: _Arm = _field("dcgan", f"what is done to the discriminator; {_KINDS_OF_ARM}")
    setting: _Setting = _field("C", "optimizer setting of Miyato et al. 2018, Table 1")
    seed: int = _field(0, "shared by the arms that are compared", 0, 2**32 - 1)
    steps: int = _field(23450, "generator updates (23,450 are 50 epochs of MNIST at batch 128)", 1, 1e9)
    lr: float = _field(None, "Adam's learning rate; if not given, the setting's", 1e-12, 10)
    beta1: float = _field(None, "Adam's beta1; if not given, the setting's", 0, 0.999999)
    beta2: float = _field(None, "Adam's beta2; if not given, the setting's", 0, 0.999999)
    n_dis: int = _field(None, "discriminator updates per generator update; if not given, the setting's", 1, 100)
    loss: Literal["bce", "hinge", "wasserstein", "least_squares"] = _field("bce", "adversarial loss")
    architecture: _Architecture = _field(None, f"networks; default: the first for the images' size; {_NETWORKS}")
    g_width: int = _by_row(_of_architectures("g_width"), "channels of the generator's last hidden layer", 1, 4096)
    d_width: int = _by_row(_of_architectures("d_width"), "channels of the discriminator's first layer", 1, 4096)
    z_dim: int = _by_row(_of_architectures("z_dim"), "latent dimensions", 1, 65536)
    batch_size: int = _field(128, "images per update", 2, 65536)
    init: Literal["notebook", "dcgan"] = _field(
        "notebook", "batch-norm scale from N(0, 0.02) (notebook) or N(1, 0.02) (dcgan)"
    )
    d_norm: Literal["own", "batch", "none", "layer"] = _field(
        "own", "norm between the discriminator's layers: the arm's own, or another with the arm's constraint"
    )
    norm_scale: Literal["fixed", "learned"] = _field(
        None, "gamma of layer norm and weight normalization: 1 (fixed), or learned; if not given, fixed"
    )
    void_combination: Literal["refuse", "allow"] = _field(
        "refuse", "whether a gradient penalty on a discriminator with batch norm, which means nothing, may be trained"
    )
    penalty_weight: float = _by_row(_of_arms("penalty_weight"), "lambda of the arm's penalty", 0, 1e6)
    clip_value: float = _by_row(_of_arms("clip_value"), "largest |weight| after clipping", 1e-9, 1e6)
    n_power_iterations: int = _by_row(_of_arms("n_power_iterations"), "rounds of power iteration", 1, 1000)
    power_iteration: Literal["per_forward", "per_update"] = _by_row(
        _of_arms("power_iteration"), "a round in every training forward, or one before each discriminator update"
    )
    precision: Literal["float32", "float64", "bfloat16", "tf32"] = _field(
        "float32",
        "arithmetic of the networks; bfloat16 and tf32 (on CUDA alone) apply to products in training, with "
        "parameters and the rest in float32",
    )
    log_every: int = _field(10, "steps between rows of the record", 1, 1e9)
    instrument_every: int = _field(100, "steps between rows with operator norms, spectra, input gradients", 1, 1e9)
    n_evaluations: int = _field(None, "evenly spaced evaluations; if not given, steps // 500, within 8..25", 1, 1e6)
    n_fake: int = _field(
        None, f"samples per evaluation; if not given, 5,000 for 10,000 steps or more, else 2,000; {_N_FAKE}", 20, 1e6
    )
    judge: _Judge = _field(
        None,
        "what judges samples: a data set's classifier, by the name of the data set, or one of the following; if not "
        f"given, the data set's own; for your own images labels if they have labels, else pixels; {_KINDS_OF_JUDGE}",
    )
    channels: int = _field(
        None, "for your own images: 1 (grey) or 3 (colour); if not given, 1 if all are stored as grey, else 3", 1, 3
    )
    data_sha256: str = _field("", "SHA-256 of your own images, which is computed if it is not given")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is executed: these fields change none of its numbers, but for their last bits."""

    device: str = _field("auto", "auto, cpu, cuda or cuda:N")
    threads: int = _field(
        0, "CPU threads per run, on which its last bits depend; 0 (not in a sweep): all cores", 0, 4096
    )
    memory_format: Literal["contiguous", "channels_last"] = _field("channels_last", "layout of images")
    checkpoint_every: int = _field(500, "steps between checkpoints, from which a killed run resumes", 1, 1e9)
    data_dir: str = _field("", "root of data sets; if not given, SNGAN_DATA, else the platform's cache folder")
    data_path: str = _field("", "where your own images are now, if not where folder:PATH or npz:PATH said")
    inception_weights: str = _field(
        "", "file of Inception's weights, as torch-fidelity reads it; if not given, SNGAN_INCEPTION"
    )
    wandb: Literal["auto", "online", "offline", "disabled"] = _field(
        "auto", "Weights & Biases; auto: online when logged in, else offline"
    )


@dataclass(frozen=True, kw_only=True)
class RunConfig(Execution, Identity):
    """One run: what it is, and how it is executed.

    The fields whose default is None are resolved on construction: lr, beta1, beta2 and n_dis from `setting`, the arm's
    parameters from its row, the architecture from the data set's images, widths and z_dim from the architecture,
    n_evaluations from `steps`, n_fake from `steps` and the data set. Afterwards every field holds a value. Of the data
    set `folder:PATH` or `npz:PATH` the name is `folder` or `npz` afterwards, `data_path` the path, `data_sha256` the
    digest of what is there, which makes the run's identity; the files are read for that unless the path ends in what
    they are (`sngan.given.Content.fragment`). Parameters
    that the arm does not use hold their usual values, whatever was given, so that equal runs are equal configurations.
    `dataclasses.replace` keeps what was resolved: for another arm, setting or data set make a new RunConfig.

    Raises InputError for a value of the wrong type, an unknown name, a number out of range, an architecture for
    images of another size, a norm with which the arm is another one, and one with which its constraint means nothing;
    and if a user's own images cannot be read.
    """

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            value = getattr(self, name)
            if value is not None or _FIELDS[name].default is not None:  # of others nothing means the usual value
                object.__setattr__(self, name, _checked(name, value, hint))
                _check_range(name, getattr(self, name))
        side = self._resolve_images()
        self._resolve_setting()
        self._resolve_norm()
        for name in unused_parameters(self):
            object.__setattr__(self, name, PARAMETERS[name])
        self._resolve_architecture(side)
        for name, value in self._defaults().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        self._resolve_judge()

    @property
    def norm(self) -> Norm:
        """Between the discriminator's layers."""
        return ARMS[self.arm].norm if self.d_norm == "own" else self.d_norm

    def _resolve_norm(self) -> None:
        arm, norm = ARMS[self.arm], self.norm
        if norm == arm.norm:
            object.__setattr__(self, "d_norm", "own")
        else:
            for name, other in ARMS.items():
                if (other.norm, other.constraint) == (norm, arm.constraint):
                    raise InputError(f"arm {self.arm} with d_norm {norm} is the arm {name}: give that one")
        why = VOID.get((arm.constraint, norm), "")
        if why and self.void_combination == "refuse":
            raise InputError(
                f"arm {self.arm} with d_norm {norm} means nothing: {why}. Use d_norm none or layer, or say "
                "void_combination allow to train it all the same"
            )
        if not why:
            object.__setattr__(self, "void_combination", "refuse")

    def _resolve_images(self) -> int:
        """Pixels a side of the data set's images, 0 if networks of any size will do. Reads a user's own."""
        from sngan import given  # Pillow is for them alone

        kind, colon, _ = self.dataset.partition(":")
        name = self.dataset if colon or self.data_sha256 or not self.data_path else f"{kind}:{self.data_path}"
        side = 0
        if given.is_given(name):
            found, path = given.look(name), str(given.named(name).path)
            if colon and self.data_path and os.path.abspath(self.data_path) != path:
                raise InputError(f"data_path {self.data_path}: dataset {name} names another path; give one of the two")
            if self.data_sha256 not in ("", found.sha256):
                raise InputError(f"dataset {name} is not the one whose SHA-256 is {self.data_sha256}")
            side = found.side if any(of.side == found.side for of in ARCHITECTURES.values()) else 0
            values = {"data_path": path, "data_sha256": found.sha256}
            usual = {"channels": found.channels, "judge": "labels" if found.classes else "pixels"}
            values |= {field: value for field, value in usual.items() if getattr(self, field) is None}
            if self.judge == "labels" and not found.classes:
                raise InputError(
                    f"judge labels: {name} has no labels. Put the images of each class into a folder of its own, or "
                    "add an array labels to the file; or use judge pixels"
                )
            for field, value in {"dataset": kind, **values}.items():
                object.__setattr__(self, field, value)
        elif kind not in GIVEN:
            side = DATASETS[kind].side
            if self.channels not in (None, DATASETS[kind].channels):
                raise InputError(f"channels: {kind} has {DATASETS[kind].channels}, not {self.channels}")
            for field in ("data_path", "data_sha256"):
                if getattr(self, field):
                    raise InputError(f"{field} is for images of your own, folder:PATH or npz:PATH, and not for {kind}")
        if self.channels == 2:
            raise InputError("channels: 2 is neither 1 (grey) nor 3 (colour)")
        return side

    def _resolve_judge(self) -> None:
        """`labels` of a data set with a classifier of its own is that."""
        if self.judge == "labels" and self.dataset in DATASETS:
            if not DATASETS[self.dataset].classifier:
                judge = DATASETS[self.dataset].judge
                raise InputError(
                    f"judge labels: {self.dataset} has too many classes for a classifier; use {judge} or pixels"
                )
            object.__setattr__(self, "judge", self.dataset)

    def _resolve_architecture(self, side: int) -> None:
        if not side:
            if self.architecture is None:
                object.__setattr__(self, "architecture", LARGEST)
            return
        try:
            default = fitting(side)
        except ValueError as error:
            raise InputError(f"{self.dataset} has images of {side} pixels a side, and {error}") from error
        if self.architecture is None:
            object.__setattr__(self, "architecture", default)
        if self.dataset in DATASETS and ARCHITECTURES[self.architecture].side != side:
            raise InputError(
                f"architecture {self.architecture} is for images of {ARCHITECTURES[self.architecture].side} pixels a "
                f"side, and {self.dataset} has {side}: {default} is for those"
            )

    def _defaults(self) -> dict[str, Any]:
        """What the rows of setting, data set, architecture and arm say of fields that are not given, and `steps`."""
        architecture = ARCHITECTURES[self.architecture]
        return {
            **(dataclasses.asdict(SETTINGS[self.setting]) if self.setting != "custom" else {}),
            "architecture": fitting(architecture.side) if self.dataset in DATASETS else LARGEST,
            **{name: getattr(architecture, name) for name in ("g_width", "d_width", "z_dim")},
            **PARAMETERS,
            **ARMS[self.arm].usual,
            "n_evaluations": default_evaluations(self.steps),
            "n_fake": default_n_fake(self.dataset, self.steps),
            "judge": DATASETS[self.dataset].judge if self.dataset in DATASETS else "pixels",
            "channels": DATASETS[self.dataset].channels if self.dataset in DATASETS else 3,
        }

    @property
    def dtype(self) -> str:
        """Name of the parameters', images' and losses' type: float32 also if products are in bfloat16 or TF32."""
        return "float64" if self.precision == "float64" else "float32"

    def _resolve_setting(self) -> None:
        """All four values, and the setting that they are: `custom` if they are none of the table's."""
        given = {name: getattr(self, name) for name in SETTING_FIELDS if getattr(self, name) is not None}
        if self.setting == "custom":
            missing = [name for name in SETTING_FIELDS if name not in given]
            if missing:
                raise InputError(f"setting custom needs {', '.join(SETTING_FIELDS)}; missing: {', '.join(missing)}")
            values = given
        else:
            values = dataclasses.asdict(SETTINGS[self.setting]) | given
        same = [letter for letter, setting in SETTINGS.items() if dataclasses.asdict(setting) == values]
        object.__setattr__(self, "setting", same[0] if same else "custom")
        for name in SETTING_FIELDS:
            object.__setattr__(self, name, values[name])

    def under(self, execution: Execution) -> RunConfig:
        """The same run with these execution fields; a user's own images stay where they are if those name no place."""
        fields = {name: getattr(execution, name) for name in EXECUTION_FIELDS}
        path = (execution.data_path if self.dataset in GIVEN else "") or self.data_path
        return dataclasses.replace(self, **fields | {"data_path": path})

    def identity(self) -> dict[str, Any]:
        """Every identity field, in order of declaration: what config.json holds."""
        return {name: getattr(self, name) for name in IDENTITY_FIELDS}

    def execution(self) -> dict[str, Any]:
        """Every execution field: recorded per attempt in status.json."""
        return {name: getattr(self, name) for name in EXECUTION_FIELDS}

    @property
    def run_id(self) -> str:
        """`dataset-arm-setting-sNN-hash`; the hash is over the identity fields that differ from their defaults.

        The defaults of fields that are resolved are what they are resolved to: a named setting adds only its letter
        to the hash, an arm only its name.
        """
        defaults = {name: _FIELDS[name].default for name in IDENTITY_FIELDS} | self._defaults()
        differing = {name: value for name, value in self.identity().items() if value != defaults[name]}
        canonical = json.dumps(differing, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
        return f"{self.dataset}-{self.arm}-{self.setting}-s{self.seed:02d}-{digest}"

    @property
    def cell(self) -> str:
        """The run's name without its seed: runs of one cell differ only in their seed."""
        twin = dataclasses.replace(self, seed=0)
        return twin.run_id.replace("-s00-", "-")

    @property
    def data_name(self) -> str:
        """Of the data set, as people tell it from others: of a user's own images with the start of their digest."""
        return f"{self.dataset} {self.data_sha256[:8]}" if self.data_sha256 else self.dataset

    @property
    def row(self) -> Dataset:
        """Its data set's row, as the run's judge sees it; of a user's own images one of what the run says."""
        known = DATASETS.get(self.dataset)
        if known and self.judge == known.judge:
            return known
        each = self.judge in JUDGES and DATASETS[self.judge].channels < self.channels
        if known:
            return dataclasses.replace(known, judge=self.judge, each_channel=each)
        return Dataset(
            channels=self.channels, side=self.side, classes=0, loader="given", has_test=False, judge=self.judge,
            each_channel=each, licence=f"{GIVEN[self.dataset]} of the user's, on terms that this program does not know",
        )  # fmt: skip

    @property
    def side(self) -> int:
        """Pixels of an image, across and down."""
        return ARCHITECTURES[self.architecture].side

    @property
    def quality(self) -> str:
        """Of `eval/*` the one by which the run's samples are as good as they are."""
        return "fd_pixels" if self.judge == "pixels" else "fd"

    @property
    def n_compared(self) -> int:
        """How many of the n_fake samples distances are measured by (at most as many as there are real images)."""
        return min(self.n_fake, self.row.n_compared or self.n_fake)

    def has_row(self, step: int) -> bool:
        return step % self.log_every == 0 or step == self.steps

    def has_instruments(self, step: int) -> bool:
        """Whether the row at `step` has every instrument: the first one at or after each `instrument_every` steps."""
        before = (step - 1) // self.log_every * self.log_every  # the row before
        return step in (0, self.steps) or step // self.instrument_every > before // self.instrument_every

    def evaluation_steps(self) -> list[int]:
        """Steps with an evaluation and a sample grid: n_evaluations evenly spaced, plus one at 2 % of the run.

        Rounded to the nearest row of the record, so that a short run has fewer.
        """
        shares = [0.02, *((i + 1) / self.n_evaluations for i in range(self.n_evaluations - 1))]
        rows = {round(share * self.steps / self.log_every) * self.log_every for share in shares}
        return sorted({step for step in rows if 0 < step < self.steps} | {self.steps})


def default_evaluations(steps: int) -> int:
    """steps // 500, clamped to 8..25."""
    return min(max(steps // 500, 8), 25)


def default_n_fake(dataset: str, steps: int) -> int:
    """What the data set's row says, else 5,000 for runs of 10,000 steps or more and 2,000 for shorter ones."""
    return (dataset in DATASETS and DATASETS[dataset].n_fake) or (5_000 if steps >= 10_000 else 2_000)


_FIELDS = {f.name: f for f in dataclasses.fields(RunConfig)}
HELP = {name: f.metadata["help"] for name, f in _FIELDS.items()}
"""Field -> what it is, as the command line says it"""
IDENTITY_FIELDS = tuple(f.name for f in dataclasses.fields(Identity))
EXECUTION_FIELDS = tuple(f.name for f in dataclasses.fields(Execution))


_hints = functools.cache(get_type_hints)  # they take most of the time in which a configuration is made


def _checked(name: str, value: Any, hint: Any) -> Any:
    """The value in the field's type, numpy's numbers included; an integer is taken for a float."""
    if name == "dataset" and (not isinstance(value, str) or value.partition(":")[0] not in GIVEN):
        if isinstance(value, str) and re.search(r"[:/\\]", value):
            raise InputError(f"dataset: {shown(value)} is not one of {', '.join(named())}; a folder of images is "
                             "folder:PATH, a file of arrays npz:PATH")  # fmt: skip
        hint = Literal[tuple(DATASETS)]
    if get_origin(hint) is Literal:
        choices = named() if name == "dataset" else tuple(_TABLES.get(name, ())) or get_args(hint)  # rows added since
        if value not in choices:
            raise InputError(f"{name}: {shown(value)} is not one of {', '.join(choices)}{suggestion(value, choices)}")
        return value
    kind = {int: numbers.Integral, float: numbers.Real}.get(hint, hint)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(f"{name}: expected {hint.__name__}, got {shown(value)} ({type(value).__name__})")
    try:
        return hint(value)
    except OverflowError as error:
        raise InputError(f"{name}: the number is too large") from error


def _check_range(name: str, value: Any) -> None:
    metadata = _FIELDS[name].metadata
    low, high = metadata.get("low", -math.inf), metadata.get("high", math.inf)
    if isinstance(value, int | float) and not low <= value <= high:
        shown = "the number" if isinstance(value, int) and abs(value) > 1e100 else repr(value)
        raise InputError(f"{name}: {shown} is out of range; it must be from {_plain(low)} to {_plain(high)}")


def _plain(number: float) -> str:
    return f"{number:,.0f}" if number == int(number) else f"{number:g}"


def from_parameters(parameters: dict[str, Any]) -> RunConfig:
    """A RunConfig from a flat mapping. Raises InputError for a name that is not one of its fields."""
    for name in parameters:
        if name not in _FIELDS:
            raise InputError(
                f"unknown parameter {shown(name)}{suggestion(name, _FIELDS)} (known: {', '.join(IDENTITY_FIELDS)})"
            )
    return RunConfig(**parameters)


def unused_parameters(config: RunConfig) -> set[str]:
    """Names of the arm parameters that the run does not use."""
    used = {*ARMS[config.arm].parameters, *(["norm_scale"] if config.norm == "layer" else [])}
    return set(PARAMETERS) - used


def ignored(config: RunConfig) -> set[str]:
    """Names of the fields on which nothing in the run depends."""
    is_void = (ARMS[config.arm].constraint, config.norm) in VOID
    return unused_parameters(config) | (set() if is_void else {"void_combination"})


def users(parameter: str) -> str:
    """The arms that have a parameter, in words."""
    if parameter == "void_combination":
        return ", ".join(f"{name} with {norm} norm" for name, row in ARMS.items() for constraint, norm in VOID
                         if row.constraint == constraint)  # fmt: skip
    names = [name for name, row in ARMS.items() if parameter in row.parameters]
    return ", ".join([*names, *(["any arm with layer norm"] if parameter == "norm_scale" else [])])
