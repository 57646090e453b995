"""A study file (a valid W&B sweep file) -> the list of runs that answers its question."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError

from experiments.record import recorded_configs, runs_root
from sngan.arms import ARMS, PARAMETERS
from sngan.config import EXECUTION_FIELDS, IDENTITY_FIELDS, InputError, RunConfig, from_parameters, shown, suggestion
from sngan.datasets import named

BUNDLED = Path(__file__).parent / "studies"
_TOP_LEVEL = (
    *("name", "description", "program", "command", "method", "metric", "parameters", "project", "entity"),
    *("controller", "primary"),
)
JUDGED = {
    "failures": "whether sn_dcgan fails less than dcgan (C7a)",
    "spread": "whether sn_dcgan spreads less over seeds than dcgan (C7b)",
    "C14": "whether sn fails less than plain and dcgan",
}
"""What a study's file may name the one context of, beforehand; the first two are the primary outcomes."""
ARM_FIELDS = ("d_norm", *PARAMETERS)
"""What else than the arm says what is done to the discriminator"""
CONTEXT_FIELDS = tuple(n for n in IDENTITY_FIELDS if n not in {"arm", "seed", "void_combination", *ARM_FIELDS})
"""Runs that differ in none of these share a context."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NUMBER = re.compile(
    r"[-+]?(0|[1-9]\d*|(\d+\.\d*|\.\d+)(e[-+]?\d+)?|\d+e[-+]?\d+|\.inf)|\.nan", re.ASCII | re.IGNORECASE
)
_RANGE = re.compile(r"(\d{1,10})(?:\.\.(\d{1,10}))?", re.ASCII)
_MOST_SEEDS = 100_000
_MERGE = "tag:yaml.org,2002:merge"
_DEEPEST = 50  # levels of a study file
_MOST_CHARACTERS = 300_000  # of a study file, its anchors written out
MOST_CELLS = 100_000


@dataclass(frozen=True)
class Study:
    """A question and its grid: `configs` are the distinct runs of the `cells` grid points, in grid order.

    `primary`: name of JUDGED -> the fields that say in which context it is judged, such as {"lr": 0.03}. `not_chosen`:
    ids of the file's runs that a command leaves out, such as with --seeds.
    """

    name: str
    description: str
    configs: list[RunConfig]
    cells: int
    text: str  # the file as it was read; empty if there is none
    primary: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_chosen: frozenset[str] = frozenset()


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 1e-3 is a number (as in YAML 1.2), and what has two readings is an error.

    So is a key given twice, a number such as 010 (in YAML 1.1 an 8) or 1:30 (a 90), an anchor that contains itself, and
    anchors that make more of a file than a file may hold.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._checked: set[yaml.Node] = set()
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > _DEEPEST:
            mark = self.peek_event().start_mark
            raise ComposerError(None, None, f"nested more than {_DEEPEST} levels deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def get_single_data(self) -> Any:
        node = self.get_single_node()
        if node is not None and _expanded(node, {}) > _MOST_CHARACTERS:
            raise yaml.constructor.ConstructorError(
                None, None, f"its anchors expand to more than {_MOST_CHARACTERS:,} characters", node.start_mark
            )
        return None if node is None else self.construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self._check_keys(node)
        return super().construct_mapping(node, deep)

    def _check_keys(self, node: yaml.Node) -> None:
        """Of a mapping and all that are merged into it, before PyYAML merges them. Raises ConstructorError."""
        if not isinstance(node, yaml.MappingNode) or node in self._checked:
            return
        self._checked.add(node)
        seen = set()
        for key_node, value in node.value:
            key = _MERGE if key_node.tag == _MERGE else self.construct_object(key_node, deep=True)
            if key == _MERGE:
                for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    self._check_keys(merged)
            if isinstance(key, Hashable):  # others are refused by PyYAML
                if key in seen:
                    key = "<<" if key == _MERGE else key
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {shown(key)} is given twice", node.start_mark
                    )
                seen.add(key)

    def _number(self, node: yaml.ScalarNode) -> int | float:
        text = str(self.construct_scalar(node))
        if not _NUMBER.fullmatch(text):
            raise yaml.constructor.ConstructorError(
                None, None, f"{shown(text)} is not the same number to every reader of YAML: write a decimal number, "
                "or in quotes as a word", node.start_mark
            )  # fmt: skip
        number = super().construct_yaml_float if node.tag.endswith("float") else super().construct_yaml_int
        return number(node)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+0123456789.")
)
for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader._number)


def _expanded(node: yaml.Node, known: dict[yaml.Node, float]) -> float:
    """Characters of a node with every anchor written out, and one per node; infinitely many if it contains itself."""
    if node not in known:
        known[node] = math.inf  # until it is known: who asks is inside
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            children = itertools.chain.from_iterable(children)
        own = len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        known[node] = 1 + own + sum(_expanded(child, known) for child in children)
    return known[node]


def check_name(name: object) -> str:
    """A study's name is a folder's name. Raises InputError for anything that could be something else."""
    if not isinstance(name, str):
        raise InputError(f"study name {shown(name)} is not text to YAML: write it in quotes")
    if not is_name(name):
        raise InputError(
            f"study name {shown(name)} is not usable: it must start with a letter or digit, hold at most 64 letters, "
            "digits, dots, dashes and underscores, and not end in .yaml or .yml"
        )
    return name


def is_name(text: str) -> bool:
    """Whether it can be a study's name, and is not the path of a file."""
    return bool(_NAME.fullmatch(text)) and not text.endswith((".yaml", ".yml"))


def name_of(given: str) -> str:
    """The name of a study that is given as that, or as the path of its file."""
    return read(Path(given)).name if given.endswith((".yaml", ".yml")) else given


def bundled_names() -> list[str]:
    return sorted(path.stem for path in BUNDLED.glob("*.yaml"))


def find(study: str, runs_dir: str = "") -> Study:
    """A study by the path of its YAML file, by the name of a bundled one, or as it was launched in the runs folder.

    Raises InputError if there is none, or its file is wrong.
    """
    if study.endswith((".yaml", ".yml")):
        return read(Path(study))
    check_name(study)
    for path in (BUNDLED / f"{study}.yaml", runs_root(runs_dir) / study / "study.yaml"):
        if os.path.lexists(path):
            return read(path)
    if found := recorded(runs_root(runs_dir) / study):
        return found
    names = bundled_names()
    here = [path.name for path in (Path(f"{study}.yaml"), Path(f"{study}.yml")) if path.is_file()]
    meant = f"; did you mean the file {here[0]}?" if here else suggestion(study, names)
    raise InputError(f"no study {study!r}{meant} (bundled: {', '.join(names)}; or the path of a YAML file)")


def recorded(folder: Path) -> Study | None:
    """The runs that are recorded there, of `sngan train`, which leaves no study file; None if there are none.

    Raises InputError if none of them can be read.
    """
    configs, wrong = recorded_configs(folder)
    if wrong and not configs:
        raise InputError(f"no run of {folder.name} can be read: {next(iter(wrong.values()))}")
    return single_runs(folder.name, configs) if configs else None


def single_runs(name: str, configs: Iterable[RunConfig]) -> Study:
    """What has no study file: its runs are all that there are, by their ids."""
    by_id = {config.run_id: config for config in configs}
    return Study(name, "Single runs.", [by_id[run_id] for run_id in sorted(by_id)], len(by_id), "")


def read(path: Path) -> Study:
    """Raises InputError that names the file and what is wrong in it."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"cannot read the study file {path}: it is not a file")
        with path.open(encoding="utf-8") as file:
            text = file.read(_MOST_CHARACTERS + 1)
        if len(text) > _MOST_CHARACTERS:
            raise InputError(f"{path} has more than {_MOST_CHARACTERS:,} characters, which is no study file")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the study file {path}: {error}") from error
    try:
        return parse(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def content_of(text: str) -> dict[str, Any]:
    """The mapping that a study file holds, not yet checked. Raises InputError if it is no YAML, or holds none."""
    content = scalar(text)
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise InputError(f"expected a mapping with name, description and parameters, got {found}")
    return content


def scalar(text: str) -> Any:
    """A value as it would stand in a study file. Raises InputError if it is no YAML."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as a number of 5,000 digits
        raise InputError(f"not valid YAML: {error}") from error
    except (KeyError, AttributeError, TypeError) as error:  # as PyYAML's constructors raise them
        raise InputError(f"not valid YAML: a value does not fit the tag that it is given ({error})") from error


def parse(text: str) -> Study:
    """A study from the text of its file. Raises InputError.

    Where the file names a user's own images by their path, the study's text says as well what they are, so that it can
    be read, and compared with what is there, wherever it goes.
    """
    content = content_of(text)
    for key in content:
        if key not in _TOP_LEVEL:
            meant = "; put it under parameters" if key in IDENTITY_FIELDS else suggestion(key, _TOP_LEVEL)
            raise InputError(f"unknown key {shown(key)}{meant} (known: {', '.join(_TOP_LEVEL)})")
    if "name" not in content:
        raise InputError("name is missing: a study needs one, which names the folder of its records")
    name = check_name(content["name"])
    if content.get("method", "grid") != "grid":
        raise InputError(f"method: expected grid, got {shown(content['method'])}")
    command = content.get("command", [])
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        raise InputError(f"command: expected a list of words, got {shown(command)}")
    if "--study" in command and command[command.index("--study") + 1 :][:1] != [name]:
        raise InputError(f"command: --study must be followed by the study's name {name!r}")
    description = content.get("description", "")
    if not isinstance(description, str):
        raise InputError(f"description: expected text, got {shown(description)}; write it in quotes")
    grid = {key: _values(key, spec) for key, spec in _parameters(content).items()}
    if (known := [_known(value) for value in grid.get("dataset", [])]) != grid.get("dataset", []):
        text, grid["dataset"] = _with_datasets(text, content, dict(zip(grid["dataset"], known, strict=True))), known
    cells = math.prod(map(len, grid.values()))
    if cells > MOST_CELLS:
        raise InputError(f"the grid has {cells:,} cells; at most {MOST_CELLS:,} are possible")
    configs: dict[str, RunConfig] = {}
    for cell in itertools.product(*grid.values()):
        config = from_parameters(dict(zip(grid, cell, strict=True)))
        configs.setdefault(config.run_id, config)
    found = list(configs.values())
    return Study(name, " ".join(description.split()), found, cells, text, _primary(content, found))


def _with_datasets(text: str, content: dict[str, Any], names: dict[Any, Any]) -> str:
    """The file's text with other names of data sets: in their places if that is what YAML reads, else all of it."""
    values = list(names.values())
    spec = {"value": values[0]} if len(values) == 1 else {"values": values}
    content = content | {"parameters": content["parameters"] | {"dataset": spec}}
    changed = text
    for old, new in names.items():
        changed = changed.replace(str(old), str(new)) if old != new and text.count(str(old)) == 1 else changed
    with suppress(InputError):
        found = content_of(changed)
        if _values("dataset", found["parameters"].get("dataset")) == values and all(
            found[key] == content[key] for key in content if key != "parameters"
        ):
            return changed
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def _known(dataset: Any) -> Any:
    """The name of a data set, of a user's own images with what they are, for which they are read."""
    from sngan import given  # Pillow is for them alone

    if not given.is_given(dataset) or given.named(dataset).content:
        return dataset
    kind, path, _ = given.named(dataset)
    return f"{kind}:{path}{given.look(dataset).fragment()}"


def short(value: Any) -> str:
    """A value as a part of a name; a user's own images by the start of their digest, wherever they are."""
    from sngan import given  # Pillow is for them alone

    if not given.is_given(value):
        return str(value)
    return f"{given.named(value).kind}-{given.look(value).sha256[:8]}"


def parse_seeds(text: str, where: str) -> list[int]:
    """`0..19`, `3`, or several of them with commas between. Raises InputError that begins with `where`."""
    seeds: list[int] = []
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < 2**32 or last - first >= _MOST_SEEDS:
            raise InputError(f"{where} {shown(text)}: expected a range such as 0..19, or numbers such as 0,2,5..7")
        seeds += range(first, last + 1)
    if len(set(seeds)) < len(seeds):
        raise InputError(f"{where} {shown(text)}: a seed is named twice")
    return seeds


def is_for_wandb(study: Study) -> bool:
    """Whether W&B takes the study's file as it is."""
    content = content_of(study.text)
    in_words = all(
        isinstance(spec, dict) and spec.get("values", [spec.get("value")]) == _values(key, spec)  # no range of seeds
        for key, spec in content["parameters"].items()
    )
    return in_words and {"program", "command", "method"} <= set(content) and "primary" not in content


def for_wandb(study: Study) -> str:
    """The study's file as a sweep file of W&B, which leaves out nothing that has a usual value.

    Raises InputError for single runs, which have no file.
    """
    if not study.text:
        raise InputError(f"{study.name} are single runs, without a study file")
    content = content_of(study.text)
    values = {key: _values(key, spec) for key, spec in content["parameters"].items()}
    quality = "fd_pixels" if all(config.quality == "fd_pixels" for config in study.configs) else "fd"
    full = {
        "name": study.name,
        "description": study.description,
        "program": "experiments/__main__.py",
        "command": ["${env}", "${interpreter}", "-m", "experiments", "train", "--study", study.name, "${args}"],
        "metric": {"name": f"eval/{quality}", "goal": "minimize"},
        **content,
        "method": "grid",
        "parameters": {key: {"value": v[0]} if len(v) == 1 else {"values": v} for key, v in values.items()},
    }
    if primary := full.pop("primary", None):
        full["controller"] = {"type": "cloud", "primary": primary}
    return yaml.safe_dump(full, sort_keys=False, allow_unicode=True, width=100)


def template(name: str) -> str:
    """A study file of that name with comments, for whoever writes one. Raises InputError if it can be no name."""
    arms = ", ".join(ARMS)
    return f"""\
# A study: the runs that answer one question, all combinations of the values below. Then
#   sngan plan {name}.yaml      # lists its runs and about how long they take; starts nothing
#   sngan sweep {name}.yaml     # trains what is missing; stop it and restart it at any time
#   sngan report {name}         # statistics, figures, tables
name: {_in_yaml(check_name(name))}
description: "Is training with spectral normalization more stable at a high learning rate? Expected: yes."
parameters: # a value or a list each; `sngan train --help` lists all parameters
  seed: 0..6 # arms share initial weights, data order and latents per seed; below 7 seeds no claim is decided
  arm: [dcgan, sn_dcgan] # of {arms}
  lr: [0.0002, 0.002]
  dataset: digits # of {", ".join(named())}
  steps: 1000
  batch_size: 16
"""


def _in_yaml(name: str) -> str:
    """In quotes if YAML would take it for something else than text, as 2026 or no."""
    with suppress(InputError):  # 010, which has two readings
        if scalar(name) == name:
            return name
    return f'"{name}"'


def _primary(content: dict[str, Any], configs: list[RunConfig]) -> dict[str, dict[str, Any]]:
    """Of `primary`, or of `controller: {type: cloud, primary: ..}`: W&B's schema of a sweep file has no room elsewhere.

    Raises InputError for an unknown outcome or field, and for what is not one context of the grid.
    """
    controller = content.get("controller") or {}
    if not isinstance(controller, dict) or not set(controller) <= {"type", "primary"}:
        raise InputError(f"controller: expected {{type: cloud, primary: {{..}}}}, got {shown(controller)}")
    if "primary" in content and "primary" in controller:
        raise InputError("primary is given twice: at the top and in controller")
    primary = content.get("primary", controller.get("primary", {}))
    if not isinstance(primary, dict):
        raise InputError(f"primary: expected a mapping such as {{failures: {{lr: 0.03}}}}, got {shown(primary)}")
    for outcome, context in primary.items():
        if outcome not in JUDGED:
            known = "; ".join(f"{name}: {meaning}" for name, meaning in JUDGED.items())
            raise InputError(f"primary: unknown outcome {shown(outcome)}{suggestion(outcome, JUDGED)} ({known})")
        if not isinstance(context, dict) or not context:
            raise InputError(
                f"primary: {outcome}: expected a mapping of fields such as {{lr: 0.03}}, got {shown(context)}"
            )
        for name in context:
            if name not in CONTEXT_FIELDS:
                raise InputError(
                    f"primary: {outcome}: {shown(name)} makes no context{suggestion(name, CONTEXT_FIELDS)}; "
                    f"known are {', '.join(CONTEXT_FIELDS)}"
                )
        found = contexts_of(configs, context)
        if len(found) != 1:
            said = ", ".join(f"{name} {value!r}" for name, value in context.items())
            raise InputError(
                f"primary: {outcome}: {said} is {len(found)} contexts of the grid; name the fields and values of one"
            )
    return primary


def check_primary(before: Study, now: Study, where: str) -> None:
    """Raises InputError if a study that has named its primary contexts would have other ones, or none."""
    if before.primary and now.primary != before.primary:
        raise InputError(
            f"primary: the study {before.name} at {where} has named {before.primary}, and this file names "
            f"{now.primary or 'none'}: what is judged is named once, beforehand; name the same, or give the study "
            "another name"
        )


def contexts_of(configs: list[RunConfig], fields: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The distinct contexts, as values of CONTEXT_FIELDS, of the runs that have these values."""
    chosen = [config for config in configs if all(getattr(config, name) == value for name, value in fields.items())]
    return list(dict.fromkeys(tuple(getattr(config, name) for name in CONTEXT_FIELDS) for config in chosen))


def _parameters(content: dict[str, Any]) -> dict[str, Any]:
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise InputError("the grid is empty: parameters must give at least one field a value, or a list of values")
    for key in parameters:
        if key in EXECUTION_FIELDS:
            raise InputError(f"{key} does not belong in a study, it changes no numbers: give it on the command line")
    return parameters


def _values(key: str, spec: Any) -> list[Any]:
    """Of one value, a list of values, W&B's `{value: ..}` or `{values: [..]}`; seeds also as ranges, `0..4`."""
    if isinstance(spec, dict) and (len(spec) != 1 or next(iter(spec)) not in ("value", "values")):
        raise InputError(f"{key}: expected a value, a list, {{value: ..}} or {{values: [..]}}, got {shown(spec)}")
    values = spec
    if isinstance(spec, dict):
        values = [spec["value"]] if "value" in spec else spec["values"]
        if not isinstance(values, list) and not (key == "seed" and isinstance(values, str)):
            raise InputError(f"{key}: values must be a list, got {shown(values)}")
    values = values if isinstance(values, list) else [values]
    if key == "seed" and any(isinstance(value, str) for value in values):
        return parse_seeds(",".join(map(str, values)), key)
    if not values:
        raise InputError(f"{key}: the grid is empty: values must be a list with at least one entry, got []")
    seen: set[Any] = set()
    for value in values:
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise InputError(f"{key}: {shown(value)} is not a number or a word")
        if isinstance(value, str) and _RANGE.fullmatch(value) and ".." in value:
            raise InputError(f"{key}: {shown(value)}: only seeds can be a range; list the values")
        if value in seen:
            raise InputError(f"{key}: the value {shown(value)} is listed twice, which would be a duplicate run")
        seen.add(value)
    return values
