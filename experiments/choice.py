"""Which runs of a study a command is about: other seeds or values than its file's, and what is frozen elsewhere."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from tyro.conf import UseAppendAction, arg

from experiments import study as studies
from experiments.ledger import Ledger, folders_of, largest_plan, ledger_of, planned_in, read_manifest
from experiments.record import runs_root
from experiments.study import Study
from sngan.config import EXECUTION_FIELDS, IDENTITY_FIELDS, InputError, RunConfig, ignored, shown, suggestion, users
from sngan.datasets import DATASETS, GIVEN

_REAL = {field.name for field in dataclasses.fields(RunConfig) if field.type == "float"}


@dataclass(frozen=True)
class Choice:
    """Options of the commands that take a study."""

    seeds: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(metavar="0..19", help="these seeds instead of those that the study's file lists"),
    ] = ()
    set: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(metavar="NAME=VALUE[,..]", help="other values of a parameter, recorded as a study of its own"),
    ] = ()
    have: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="DIR", help="count the runs that are frozen in DIR too")
    ] = ()
    mixed: Annotated[bool, arg(help="count results of other versions of the training code too")] = False

    def find(self, name: str, runs_dir: str = "") -> Study:
        """The study as this command takes it; by its name with a larger plan, if one is frozen, and by a file as it is.

        Raises InputError as `studies.find`, and for a wrong choice.
        """
        whole = self.named(name, runs_dir)
        return self.of(largest_plan(whole, self.folders(name, name)) if studies.is_name(name) else whole)

    def of(self, study: Study) -> Study:
        """The study with the seeds and values that were chosen."""
        if self.set:
            study = with_values(study, self.set)
        return with_seeds(study, studies.parse_seeds(",".join(self.seeds), "--seeds")) if self.seeds else study

    def named(self, name: str, runs_dir: str) -> Study:
        """The whole study, which may be known by what is frozen of it alone. Raises InputError as `studies.find`."""
        try:
            return studies.find(name, runs_dir)
        except InputError:
            for folder in self.folders(name, name):
                if read_manifest(folder)["study"] == name:
                    return planned_in(folder)
            raise

    def elsewhere(self, given: str, runs_dir: str) -> str:
        """A line if the study's name and its file, here or with the records, stand for different runs, or nothing."""
        whole, every = self.named(given, runs_dir), Choice(have=self.have)
        name, launched = whole.name, runs_root(runs_dir) / whole.name / "study.yaml"
        places = {name: "the name", f"{name}.yaml": "the file", str(launched): "the file with the records"}
        own = {config.run_id for config in every.find(given, runs_dir).configs}
        found, seen = [], [own]
        for place, what in places.items():
            if place != given and (studies.is_name(place) or Path(place).is_file()):
                with suppress(InputError):  # no study of that name
                    other = every.find(place, runs_dir)
                    ids = {config.run_id for config in other.configs}
                    if other.name == name and ids not in seen:
                        also = f"of which {len(ids & own)} are among these"
                        found.append(f"{what} {place} stands for {len(ids)} runs, {also}")
                    seen.append(ids)
        return f"note: {given} plans {len(own)} runs, but {'; '.join(found)}" if found else ""

    def folders(self, given: str, name: str) -> list[Path]:
        """Where runs of the study of that name, and of the one that it was made of, are frozen, of those that count."""
        names = dict.fromkeys((name, studies.name_of(given)))
        return folders_of([name for name in names if studies.is_name(name)], self.have)

    def ledger(self, given: str, study: Study) -> Ledger:
        """What is frozen of the study: in the folder that grows with it, or with the one it was made of, and in DIR."""
        return ledger_of(study, self.folders(given, study.name), self.mixed)

    def words(self) -> list[str]:
        """These options as they are typed."""
        seeds = [word for seeds in self.seeds for word in ("--seeds", seeds)]
        values = [word for value in self.set for word in ("--set", value)]
        have = [word for folder in self.have for word in ("--have", folder)]
        return [*seeds, *values, *have, *(["--mixed"] if self.mixed else [])]


def with_seeds(study: Study, seeds: Sequence[int]) -> Study:
    """The study's runs with these seeds. Its text, which is kept beside the runs, stays the whole file."""
    content = _content(study, "--seeds")
    if (cells := study.cells // len({config.seed for config in study.configs}) * len(seeds)) > studies.MOST_CELLS:
        raise InputError(f"--seeds: the grid has {cells:,} cells; at most {studies.MOST_CELLS:,} are possible")
    chosen = _parsed(_seeded(content, seeds), "--seeds")
    others = {config.run_id for config in study.configs} - {config.run_id for config in chosen.configs}
    return dataclasses.replace(chosen, text=study.text, not_chosen=frozenset(others))


def enlarged(study: Study) -> Study:
    """The study with a text that plans all of its runs: the file's, and the seeds that it does not list."""
    if not study.text:
        return study
    known = studies.parse(study.text)
    if {config.run_id for config in study.configs} <= {config.run_id for config in known.configs}:
        return study
    seeds = dict.fromkeys(config.seed for config in (*known.configs, *study.configs))
    content = _seeded(_content(study, "--seeds"), sorted(seeds))
    return dataclasses.replace(study, text=_parsed(content, "--seeds").text)


def _seeded(content: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    parameters = content["parameters"]
    first = {} if "seed" in parameters else {"seed": None}  # whole seeds come first
    return content | {"parameters": first | parameters | {"seed": {"values": list(seeds)}}}


def with_values(study: Study, settings: Sequence[str]) -> Study:
    """The study with other values of parameters, such as `lr=0.001` or `arm=sn,dcgan`, under a name of its own.

    Of the contexts that its file names for primary outcomes those stay that are still one context of the grid.
    """
    content = _content(study, "--set")
    values: dict[str, list[Any]] = {}
    for setting in settings:
        name, equals, text = (part.strip() for part in setting.partition("="))
        if not name or not equals or not text:
            raise InputError(f"--set {setting!r}: expected NAME=VALUE, such as lr=0.001")
        _check_parameter(name)
        if name in values:
            raise InputError(f"--set: {name} is given twice")
        parts = re.split(rf",(?=\s*(?:{'|'.join([*DATASETS, *GIVEN])})\b)" if name == "dataset" else ",", text)
        values[name] = [_value(name, part.strip(), setting) for part in parts]
    parameters = content["parameters"] | {name: _spec(found) for name, found in values.items()}
    said = ", ".join(f"{name} {' and '.join(map(str, found))}" for name, found in sorted(values.items()))
    name = _own_name(study.name, values)
    command = content.get("command", [])
    if "--study" in command:
        i = command.index("--study") + 1
        command = [*command[:i], name, *command[i + 1 :]]
    changed = content | {"name": name, "parameters": parameters} | ({"command": command} if command else {})
    changed["description"] = f"{study.description} Of {study.name}, with {said}.".strip()
    changed.pop("controller", None)
    changed.pop("primary", None)
    found = _parsed(changed, f"--set {' '.join(settings)}")
    for field in values:
        if all(field in ignored(config) for config in found.configs):
            raise InputError(f"--set {field}: no arm of {study.name} has it (it belongs to {users(field)})")
    primary = {what: at for what, at in study.primary.items() if len(studies.contexts_of(found.configs, at)) == 1}
    if not primary:
        return found
    return _parsed(changed | {"controller": {"type": "cloud", "primary": primary}}, "--set")


def _check_parameter(name: str) -> None:
    if name == "seed":
        raise InputError("--set seed: give --seeds, which keeps the study's name")
    if name in EXECUTION_FIELDS:
        raise InputError(f"--set {name}: it changes no numbers, and is an option of sweep: --{name.replace('_', '-')}")
    if name not in IDENTITY_FIELDS:
        raise InputError(
            f"--set {name}: not a parameter{suggestion(name, IDENTITY_FIELDS)} (known: {', '.join(IDENTITY_FIELDS)})"
        )


def _value(name: str, text: str, setting: str) -> Any:
    if name == "dataset":
        return text
    if "=" in text:
        raise InputError(f"--set {setting!r}: one parameter each; repeat --set for {text}")
    try:
        value = studies.scalar(text)
    except InputError as error:
        why = " ".join(str(error).split())
        raise InputError(f"--set {shown(setting)}: {shown(text)} is neither a number nor a word: {why}") from error
    with suppress(OverflowError):  # too large, as is said later
        return float(value) if type(value) is int and name in _REAL else value  # 1 and 1.0 are one study
    return value


def _spec(values: list[Any]) -> dict[str, Any]:
    return {"value": values[0]} if len(values) == 1 else {"values": values}


def _own_name(name: str, values: dict[str, list[Any]]) -> str:
    """Such as mnist-short-lr-0.001; equal values, in whatever order, give equal names. Own images by their digest."""
    parts = (f"{field}-{'-'.join(sorted(map(studies.short, found)))}" for field, found in sorted(values.items()))
    whole = re.sub(r"[^A-Za-z0-9._-]", "_", "-".join([name, *parts]))
    if len(whole) <= 64:
        return whole
    return f"{whole[:55]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _content(study: Study, option: str) -> dict[str, Any]:
    if not study.text:
        raise InputError(f"{option}: {study.name} are single runs, without a study file whose grid could be changed")
    return studies.content_of(study.text)


def _parsed(content: dict[str, Any], option: str) -> Study:
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    try:
        return studies.parse(text)
    except InputError as error:
        raise InputError(f"{option}: {error}") from error
