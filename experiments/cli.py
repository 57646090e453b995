"""The `sngan` command. Every import that costs time waits for the command that needs it."""

from __future__ import annotations

import dataclasses
import functools
import glob
import importlib.util
import os
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from experiments import record
from experiments import study as studies
from experiments.choice import Choice, enlarged
from experiments.ledger import MANIFEST, largest_plan
from experiments.output import outlive_readers
from experiments.record import State
from experiments.tracking import client
from sngan import __version__
from sngan.architectures import ARCHITECTURES
from sngan.config import HELP, TRAINING_VERSION, Execution, InputError, RunConfig, ignored, shown, users
from sngan.datasets import DATASETS, GIVEN, JUDGES
from sngan.files import check_folder, check_writable

DONE, SOME_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 3

_LIKE_THE_NOTEBOOKS = tuple(
    name for name in JUDGES if (DATASETS[name].channels, DATASETS[name].side) == (1, ARCHITECTURES["dcgan28"].side)
)
if TYPE_CHECKING:
    from experiments.display import Display
    from experiments.engines.engine import Engine

    _Judge = _Grey = str
else:
    _Judge, _Grey = Literal[JUDGES], Literal[_LIKE_THE_NOTEBOOKS]
_Study = Annotated[str, arg(metavar="STUDY", help="a bundled study's name, or the path of a YAML file")]
_RunsDir = Annotated[str, arg(help="folder of all records; if not given, SNGAN_RUNS, else ./runs")]
_Json = Annotated[bool, arg(help="print JSON", name="json")]
_Force = Annotated[bool, arg(help="resume from a checkpoint of other data or another version; this is recorded")]
_SOURCES = (
    "a study's name or its folder of records; frozen:DIR, what --freeze kept; wandb:ENTITY/PROJECT on W&B's server; "
    "wandb-files:DIR, W&B's files beside the records; table:FILE, anyone's runs as CSV, JSON lines, Parquet, "
    "TensorBoard's event files or a chart that W&B exported"
)
_Choice = Annotated[OmitArgPrefixes[Choice], arg(name="")]
_Run = Annotated[str, arg(metavar="RUN", help="a run's id, an unambiguous beginning of it, or its folder")]


_ALL = Choice()


@dataclass(frozen=True)
class Train:
    """Train one run.

    Exit codes: 0 done (diverged included), 1 failed, 2 wrong usage, 3 interrupted.
    """

    config: Annotated[OmitArgPrefixes[RunConfig], arg(name="")]
    study: Annotated[str, arg(help="name of the study that the run is recorded under")] = "single"
    force: _Force = False
    runs_dir: _RunsDir = ""

    def run(self, typed: str) -> int:
        """`typed`: the command that this is."""
        start = time.monotonic()
        folder = record.runs_root(self.runs_dir) / studies.check_name(self.study)
        try:
            return self._train(folder)
        except KeyboardInterrupt:
            run, seconds = record.Record(folder / self.config.run_id), time.monotonic() - start
            _to_stderr(self._interrupted(run, seconds, typed))
            return INTERRUPTED

    def _train(self, folder: Path) -> int:
        from experiments.display import Display
        from experiments.machine import cores
        from experiments.run import Policy, execute, prepared

        config = self.config
        if not config.threads:
            config = dataclasses.replace(config, threads=cores())
        _show_images(config)
        prepared(config, _to_stderr)  # a download has a bar of its own
        with Display(total=1) as display:
            result = execute(config, self.study, folder, display.show, Policy(redo_failed=True, force=self.force))
        if result.state is State.RUNNING:
            raise InputError(f"{config.run_id} is being trained by another process")
        if not result.ran:
            print(f"{config.run_id} is {result.state} already; nothing to do")
        print(folder / config.run_id)
        return SOME_FAILED if result.state is State.FAILED else DONE

    def _interrupted(self, run: record.Record, seconds: float, typed: str) -> str:
        """What a signal has left of the run, and what the same command does next."""
        from experiments.display import duration

        status, after = run.status(), f"after {duration(seconds)}"
        if status["state"].is_result:
            return f"interrupted {after}; {run.run_id} is {status['state']} all the same"
        if status["state"] != State.INTERRUPTED:
            return f"interrupted {after}, before the training began; the same command starts it: {typed}"
        how = (
            "resumes it from its checkpoint"
            if run.checkpoint_path.exists()
            else "starts over, as there is no checkpoint yet"
        )
        at = f"step {status['step']:,} of {self.config.steps:,}"
        return f"interrupted at {at} {after}; the same command {how}: {typed}"


@dataclass(frozen=True)
class StudyFile:
    """Write a study file: `new`, a short one with comments, to edit; `wandb`, an existing study as a W&B sweep file."""

    what: Positional[Annotated[Literal["new", "wandb"], arg(metavar="new|wandb")]]
    study: Positional[
        Annotated[str, arg(metavar="NAME|STUDY", help="new: the study's name; wandb: a study or its file")]
    ]
    out: Annotated[str, arg(metavar="FILE", help="if not given, NAME.yaml or STUDY.wandb.yaml here")] = ""
    runs_dir: _RunsDir = ""

    def run(self) -> int:
        from sngan.files import write_atomically

        if self.what == "new":
            name = self.study.removesuffix(".yaml").removesuffix(".yml")
            if name in studies.bundled_names():
                raise InputError(f"{name} is a study of this program: take another name")
            path, text, how = Path(self.out or f"{name}.yaml"), studies.template(name), "edit it, then: sngan plan"
        else:
            study = studies.find(self.study, self.runs_dir)
            path, text, how = (
                Path(self.out or f"{study.name}.wandb.yaml"),
                studies.for_wandb(study),
                "wandb sweep --project sngan",
            )
        if path.suffix not in (".yaml", ".yml"):
            raise InputError(f"--out {path}: a study file's name ends in .yaml")
        if path.exists():
            raise InputError(f"{path} is there already: give --out another name")
        check_writable(path)
        write_atomically(path, text)
        print(f"{path}\n{how} {shlex.quote(str(path))}")
        return DONE


@dataclass(frozen=True)
class Plan:
    """Show a study's runs, what is done, what is missing and about how long it takes. Starts nothing."""

    study: Positional[_Study]
    choice: _Choice = Choice()
    runs_dir: _RunsDir = ""
    as_json: _Json = False

    def run(self) -> int:
        from experiments.account import plan

        study = self.choice.find(self.study, self.runs_dir)
        if other := self.choice.elsewhere(self.study, self.runs_dir):
            _to_stderr(other)
        return plan(study, self.runs_dir, self.as_json, self.choice.ledger(self.study, study))


@dataclass(frozen=True)
class Sweep:
    """Train the runs that a study lacks; after any interruption the same command resumes them.

    Exit codes: 0 done (diverged included), 1 some runs failed, 2 wrong usage, 3 interrupted.
    """

    study: Positional[_Study]
    choice: _Choice = Choice()
    workers: Annotated[int, arg(help="runs at once; 0: one per core, or --pack, or --per-gpu, per CUDA device")] = 0
    engine: Annotated[
        Literal["auto", "local", "packed", "ray"],
        arg(
            help="local: processes here; packed: many runs share a GPU's process; ray: tasks of a Ray cluster; auto: "
            "packed on CUDA devices unless --per-gpu is given, else local"
        ),
    ] = "auto"
    pack: Annotated[
        int, arg(help="for packed: runs at once per device, at most 24; 0: as measured, on a CPU one per core")
    ] = 0
    address: Annotated[str, arg(help="running Ray cluster: auto, or HOST:PORT; if not given, start one here")] = ""
    shard: Annotated[str, arg(help="i/n: train only the i-th of n parts of the runs, counted from 0")] = ""
    execution: Annotated[OmitArgPrefixes[Execution], arg(name="")] = Execution(threads=1)
    devices: Annotated[str, arg(help="CUDA devices for the workers, such as 0,1")] = ""
    per_gpu: Annotated[int, arg(help="runs that share a CUDA device, each with an equal part of its memory")] = 1
    retry: Annotated[Literal["none", "failed"], arg(help="failed: retry failed runs")] = "none"
    retries: Annotated[int, arg(help="maximum retries per run, including after its worker was killed")] = 1
    force: _Force = False
    runs_dir: _RunsDir = ""

    def run(self, typed: str) -> int:
        """`typed`: the command that this is."""
        from experiments.display import duration

        start = time.monotonic()
        try:
            return self._sweep()
        except KeyboardInterrupt:
            after = duration(time.monotonic() - start)
            _to_stderr(f"interrupted after {after}; the same command continues: {typed}")
            return INTERRUPTED

    def _sweep(self) -> int:
        from experiments.account import other_versions
        from experiments.display import Display, duration
        from experiments.engines.sweep import check_images, pending, shard, sweep
        from experiments.run import Policy

        self._check()
        study = self.choice.find(self.study, self.runs_dir)
        ledger = self.choice.ledger(self.study, study)
        if self.shard:
            study = shard(study, self.shard)
        if not study.configs:
            print(f"{study.name}: no runs in part {self.shard}")
            return DONE
        devices = self._devices() if self.engine != "ray" else []
        folder = record.runs_root(self.runs_dir) / study.name
        policy = Policy(redo_failed=self.retry == "failed", force=self.force, retries=self.retries)
        execution = dataclasses.replace(self.execution, wandb=client.resolve_mode(self.execution.wandb))
        study.configs[0].under(execution)  # a wrong value is an error at once
        if execution.data_path and not any(config.dataset in GIVEN for config in study.configs):
            raise InputError(f"--data-path: {study.name} trains on no images of your own, folder:PATH or npz:PATH")
        check_images(study, folder)
        todo = pending(study, folder, policy, ledger.runs)
        self._prepare(todo, devices)
        with Display(total=len(todo)) as display:
            part = f" of part {self.shard}" if self.shard else ""
            where = ", ".join(devices) or f"Ray{' at ' * bool(self.address)}{self.address}"
            kept = sum(config.run_id in ledger.runs for config in study.configs)
            frozen = f", {kept} frozen" if kept else ""
            display.say(f"{study.name}: {len(study.configs)} runs{part}{frozen}, {len(todo)} to do, on {where}")
            for note in ledger.notes:
                display.say(f"warning: {note}")
            if note := other_versions(record.Record(folder / config.run_id).status() for config in study.configs):
                display.say(f"warning: {note}")
            open_engine = functools.partial(self._open_engine, devices, todo, display)
            account = sweep(study, folder, display, open_engine, execution, policy, 1 / self.per_gpu, ledger.runs)
        return self._told(account, folder, duration(display.seconds))

    def _prepare(self, todo: list[RunConfig], devices: list[str]) -> None:
        """What the runs need is there, once and before the workers want it. Raises InputError if it cannot be."""
        from experiments.run import prepared
        from sngan.precision import check_precision

        for precision in {config.precision for config in todo}:
            for device in devices:
                check_precision(precision, device)
        fields = ("dataset", "data_sha256", "side", "channels", "judge")
        unlike = {tuple(getattr(config, name) for name in fields): config for config in todo}
        for config in unlike.values():
            config = config.under(self.execution)
            _show_images(config)
            prepared(config, _to_stderr)

    def _told(self, account: Mapping[str, int], folder: Path, time: str) -> int:
        """Print what has become of the runs, and what can be done; the exit code."""
        from experiments.account import command

        states = ", ".join(f"{account[state]} {state}" for state in (*State, record.FROZEN) if account[state])
        print(f"{folder.name}: {states} after {time}")
        print(f"records: {folder}")
        if account[State.FAILED] or account[State.MISSING] or account["refused"]:
            same = self.study, self.runs_dir, self.choice.words()
            print(f"why, and what can be done: {command('status', *same)}")
            if account[State.FAILED]:
                print(f"retry failed runs: {command('sweep', *same)} --retry failed")
            return SOME_FAILED
        return INTERRUPTED if account[State.INTERRUPTED] or account[State.RUNNING] else DONE

    def _open_engine(self, devices: list[str], todo: list[RunConfig], display: Display, jobs: int) -> Engine:
        fits = self.engine == "auto" and self.per_gpu == 1
        if self.engine == "packed" or (fits and (self.pack or devices[0] != "cpu")):
            from experiments.engines.packed import PackedEngine

            config = todo[0].under(self.execution)
            engine = PackedEngine(jobs, config, devices, self.pack, self.workers)
            if engine.note:
                display.say(engine.note)
            return engine
        if self.engine != "ray":
            from experiments.engines.local import LocalEngine
            from experiments.machine import cores

            workers = self.workers or (len(devices) * self.per_gpu if devices[0] != "cpu" else cores())
            return LocalEngine(min(workers, jobs), devices)
        if not self.address:  # Ray's servers then listen on 127.0.0.1 only, as they do on macOS
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        from experiments.engines.on_ray import RayEngine

        return RayEngine(self.address, self.workers, self.execution, self.per_gpu, self.retries)

    def _check(self) -> None:
        """Raises InputError for options that are out of range, or not for this engine."""
        if self.workers < 0 or self.execution.threads < 1 or self.per_gpu < 1 or self.retries < 0:
            raise InputError("--workers and --retries must be at least 0, --threads and --per-gpu at least 1")
        if self.devices and self.execution.device != "auto":
            raise InputError("give --device or --devices, not both")
        if not 0 <= self.pack <= 24:
            raise InputError("--pack must be from 0 to 24: a CUDA device has no more streams of its own")
        if self.pack and self.engine in ("local", "ray"):
            raise InputError("--pack is for --engine packed")
        if self.per_gpu > 1 and (self.pack or self.engine == "packed"):
            raise InputError("give --pack for --engine packed, or --per-gpu for --engine local, not both")
        if self.engine != "ray":
            if self.address:
                raise InputError("--address is that of a Ray cluster: it needs --engine ray")
            return
        if importlib.util.find_spec("ray") is None:
            raise InputError("Ray is not installed; it is an extra: pip install 'sngan[ray]'")
        if self.devices or self.execution.device not in ("auto", "cpu", "cuda"):
            raise InputError("Ray chooses the devices itself: --device must be auto, cpu or cuda, without --devices")

    def _devices(self) -> list[str]:
        import torch

        from experiments.engines.local import check_devices
        from experiments.machine import resolve_device

        if self.devices:
            names = check_devices(self.devices)
        elif self.execution.device == "auto" and torch.cuda.device_count() > 1:
            names = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        else:
            names = [self.execution.device]
        return [str(resolve_device(name)) for name in names]


@dataclass(frozen=True)
class Status:
    """List a study's runs with their states, steps and reasons."""

    study: Positional[_Study]
    choice: _Choice = Choice()
    failed: Annotated[bool, arg(help="list only the failed runs")] = False
    watch: Annotated[bool, arg(help="refresh the listing every 2 seconds until all runs have ended; Ctrl-C leaves")] = (
        False
    )
    check_wandb: Annotated[bool, arg(help="compare the records with what W&B has, metric by metric")] = False
    send_wandb: Annotated[
        bool, arg(help="send W&B what it lacks of the records; if not logged in, write its offline files again")
    ] = False
    runs_dir: _RunsDir = ""
    as_json: _Json = False

    def run(self) -> int:
        from experiments.account import status, watch

        study = self.choice.find(self.study, self.runs_dir)
        given = {"--failed": self.failed, "--watch": self.watch, "--check-wandb": self.check_wandb,
                 "--send-wandb": self.send_wandb}  # fmt: skip
        if sum(given.values()) > 1:
            raise InputError(f"give one of {', '.join(option for option, is_given in given.items() if is_given)}")
        if self.watch and self.as_json:
            raise InputError("--watch shows numbers as they change, which is no JSON: give --json without it")
        if self.check_wandb:
            return self._check_wandb(study.name)
        if self.send_wandb:
            return self._send_wandb(study)
        ledger = self.choice.ledger(self.study, study)
        if self.watch:
            watch(study, self.runs_dir, ledger)
            return DONE
        listed = [State.FAILED] if self.failed else [*State, record.FROZEN]
        return status(study, self.study, self.runs_dir, self.as_json, ledger, self.choice.words(), listed)

    def _check_wandb(self, name: str) -> int:
        """Exit code 1 if W&B has something else than the records."""
        from analysis.load import load
        from analysis.mirror import differences, mirrors
        from experiments.display import counting

        recorded = load(record.runs_root(self.runs_dir) / name)
        with counting("runs read from W&B") as tell:
            texts, compared = differences(recorded, mirrors(recorded, tell))
        if self.as_json:
            print(record.to_json({"study": name, "compared": compared, "differences": texts}, indent=2))
        else:
            print("\n".join([*texts, f"{compared} runs compared with W&B: {len(texts)} differences"]))
        return SOME_FAILED if texts else DONE

    def _send_wandb(self, study: studies.Study) -> int:
        """Exit code 1 if a run could not be sent, or may not be."""
        from experiments.display import counting
        from experiments.tracking.sending import send_study

        mode = client.resolve_mode("auto")
        if mode == "disabled":
            raise InputError("--send-wandb: the environment's WANDB_MODE is disabled; set it to online or offline")
        folder = record.runs_root(self.runs_dir) / study.name
        with counting("runs told to W&B") as tell:
            sent = send_study(study, folder, mode, tell)
        if self.as_json:
            print(record.to_json({"study": study.name, "mode": mode, **sent._asdict()}, indent=2))
        else:
            sync = f"cd {shlex.quote(str(folder))} && wandb sync --yes"
            how = "sent to W&B" if mode == "online" else f"written for W&B (offline: `{sync}` sends them)"
            print("\n".join([*sent.not_sent, f"{len(sent.sent)} runs {how}, {len(sent.not_sent)} not"]))
        return SOME_FAILED if sent.not_sent else DONE


@dataclass(frozen=True)
class Dashboard:
    """Show a study's runs in W&B: online, create or update its workspace; else open W&B's viewer in the terminal."""

    study: Positional[_Study]
    wandb: Annotated[Literal["auto", "online", "offline"], arg(help="auto: online when logged in, else offline")] = (
        "auto"
    )
    runs_dir: _RunsDir = ""

    def run(self) -> int:
        from experiments.tracking.dashboard import save_workspace
        from experiments.tracking.viewer import view_offline

        study = studies.find(self.study, self.runs_dir)
        if client.resolve_mode(self.wandb) == "online":
            print(save_workspace(study))
            return DONE
        return view_offline(record.runs_root(self.runs_dir) / study.name)


@dataclass(frozen=True)
class Report:
    """Statistics, figures, tables and one self-contained HTML page of a study's runs, or of anyone's."""

    target: Positional[Annotated[str, arg(metavar="[SOURCE]", help=_SOURCES)]] = ""
    freeze: Annotated[str, arg(metavar="DIR", help="also add the runs that ended to what is frozen there")] = ""
    report: Annotated[bool, arg(help="--no-report: only --freeze, which prints counts and computes no outcomes")] = True
    map: Annotated[str, arg(metavar="NAME=COLUMN,..", help="what the columns mean, such as quality=fid,arm=method")] = (
        ""
    )
    run_name: Annotated[
        str, arg(metavar="REGEX", help="takes arm and seed from the runs' names: '(?P<arm>.+)-seed(?P<seed>[0-9]+)'")
    ] = ""
    maximize: Annotated[bool, arg(help="for tables: higher values of quality are better")] = False
    baseline: Annotated[str, arg(help="for tables: the arm to compare the others with")] = ""
    filter: Annotated[str, arg(help="select W&B's runs by FIELD=VALUE,.. of their configuration, or W&B's JSON")] = ""
    replace: Annotated[
        bool, arg(help="where a frozen result differs from the one recorded here, take the latter; also for --freeze")
    ] = False
    choice: _Choice = Choice()
    figures: Annotated[str, arg(help="formats of the figures' files: some of png,svg,pdf")] = "png,svg"
    figure_width: Annotated[
        float, arg(help="inches of the files, whose text has 8 points: 3.25 for a column, 5.5 or 6.75 for a page")
    ] = 6.75
    publish: Annotated[bool, arg(help="also create or update the same report on W&B")] = False
    frozen: Annotated[str, arg(name="from", metavar="DIR", help="the same as frozen:DIR")] = ""
    csv: Annotated[str, arg(metavar="FILE", help="the same as table:FILE")] = ""
    source: Annotated[
        Literal["local", "wandb-files", "wandb"],
        arg(help="with a study's name: the same as wandb-files:DIR, or with --project as wandb:ENTITY/PROJECT"),
    ] = "local"
    project: Annotated[str, arg(metavar="ENTITY/PROJECT", help="for --source wandb")] = ""
    runs_dir: _RunsDir = ""

    def run(self) -> int:
        from analysis.sources import kind_of

        source, name = self._source()
        self._check(kind_of(source)[0])
        if self.freeze:
            check_writable(Path(self.freeze) / MANIFEST)
            recorded = self._recorded(source, together=False)[0]
            self._freeze(recorded)
            for text in recorded.warnings if not self.report else ():  # else the report has them
                _to_stderr(f"warning: {recorded.name}: {text}")
        if not self.report:
            return DONE
        from analysis.page.report import write
        from analysis.study import of_one_version, sound

        study = self._load(source, name)
        study = study if self.choice.mixed else of_one_version(study)
        for text in sound(study).warnings:
            print(f"warning: {study.name}: {text}", file=sys.stderr)
        report = write(study, kinds=[kind.strip() for kind in self.figures.split(",")], width=self.figure_width)
        print(report.page)
        if self.publish:
            from experiments.tracking.dashboard import publish

            print(publish(f"sngan {study.name}", study.name, report.parts))
        return DONE

    def _source(self) -> tuple[str, str]:
        """The source as one word, whichever way it was given, and the study's name if W&B is asked for one."""
        from analysis.sources import kind_of

        if (self.source == "wandb") != bool(self.project):
            raise InputError("--source wandb and --project belong together: or write wandb:ENTITY/PROJECT")
        given = {"SOURCE": self.target, "--from": self.frozen, "--csv": self.csv}
        named = [option for option, value in given.items() if value]
        if self.source == "local":
            if len(named) != 1:
                wanted = "a study, a folder, frozen:DIR, wandb:ENTITY/PROJECT, wandb-files:DIR or table:FILE"
                raise InputError(f"give one source: {' and '.join(named)} were given" if named else f"give {wanted}")
            return {"--from": f"frozen:{self.frozen}", "--csv": f"table:{self.csv}"}.get(named[0], self.target), ""
        if self.frozen or self.csv or kind_of(self.target)[0]:
            raise InputError("--source says where a study's runs are: it goes with a study or its folder alone")
        if not self.target and not (self.project and (self.map or self.run_name)):
            raise InputError("give the study too: the report is made from its runs on W&B")
        if self.project:
            return f"wandb:{self.project}", studies.name_of(self.target)
        folder = Path(self.target)
        folder = folder if folder.name == "wandb" else folder / "wandb"
        return f"wandb-files:{folder if folder.is_dir() else records_of(self.target, self.runs_dir, self.choice)}", ""

    def _check(self, kind: str) -> None:
        """Raises InputError for options that do not go with a source of this kind."""
        foreign = kind == "table" or (kind == "wandb" and bool(self.map or self.run_name))
        if self.publish and foreign:
            raise InputError("--publish is for studies of this program: their runs are on W&B")
        if self.publish and client.resolve_mode("auto") != "online":
            raise InputError("--publish needs W&B's server: log in with `wandb login`")
        if (self.map or self.run_name) and kind not in ("table", "wandb"):
            raise InputError(
                "--map and --run-name say what a table holds: they need table:FILE or wandb:ENTITY/PROJECT"
            )
        if self.baseline and not foreign:
            raise InputError("--baseline is for tables; a study's baseline is the first of its arms")
        if self.maximize and not foreign:
            raise InputError("--maximize is for tables; a study's quality is fd, of which lower is better")
        if self.filter and kind != "wandb":
            raise InputError("--filter chooses among W&B's runs: it needs wandb:ENTITY/PROJECT")
        if self.freeze and kind:
            raise InputError("--freeze keeps the records of a study: it goes with a study or a folder of records alone")
        if kind and (self.choice.seeds or self.choice.set or self.choice.have or self.replace):
            raise InputError(
                "--seeds, --set, --have and --replace go with a study or a folder of records alone (of frozen runs: "
                "STUDY --have DIR)"
            )
        if not self.report and (not self.freeze or self.publish):
            raise InputError("--no-report is for --freeze alone")

    def _freeze(self, study: Any) -> None:
        from analysis.sources.frozen import freeze
        from experiments.display import counting
        from experiments.export import discriminator_weights

        with counting("runs read") as tell:
            weights = lambda run_id: discriminator_weights(record.Record(study.folder / run_id))  # noqa: E731
            also = [Path(folder) for folder in self.choice.have]
            print(freeze(study, Path(self.freeze), weights, tell, self.replace, self.choice.mixed, also))

    def _recorded(self, target: str, together: bool) -> tuple[Any, bool]:
        """The chosen runs of a study or a folder, and whether they are not simply those of the records.

        `together`: with what is frozen.
        """
        from analysis.load import load
        from analysis.sources.together import read
        from experiments.account import command

        folder = records_of(target, self.runs_dir, self.choice)
        frozen = self.choice.folders(target, target)
        if not (self.choice.seeds or self.choice.set or (together and frozen) or (self.freeze and self.choice.have)):
            return load(folder), False
        launched = folder / "study.yaml"
        plan = studies.read(launched) if launched.exists() else self.choice.named(target, self.runs_dir)
        into = [Path(self.freeze)] if self.freeze and (Path(self.freeze) / MANIFEST).exists() else []
        plan = enlarged(self.choice.of(largest_plan(plan, [*frozen, *into])))
        if self.choice.set:
            folder, frozen = folder.with_name(plan.name), self.choice.folders(target, plan.name)
        launch = command("sweep", target, self.runs_dir, self.choice.words())
        empty = not together and bool(self.choice.have)  # what is frozen elsewhere can be added without any records
        have = frozen if together else []
        return read(plan, folder, have, self.replace, self.choice.mixed, None if empty else launch), True

    def _load(self, source: str, name: str) -> Any:
        from analysis.load import load
        from analysis.sources import kind_of
        from analysis.sources.columns import Reading, parse_mapping
        from experiments.display import counting

        kind, place = kind_of(source)
        reading = Reading(parse_mapping(self.map), self.baseline, self.maximize, self.run_name)
        if not kind:
            study, chosen = self._recorded(place, together=True)
            words = [place, *self.choice.words(), *(["--replace"] if self.replace else [])]
            return dataclasses.replace(study, command=shlex.join(["sngan", "report", *words])) if chosen else study
        if kind != "wandb":
            return load(source, runs_dir=self.runs_dir, reading=reading)
        with counting(f"runs read from {place}") as tell:
            return load(source, name, wandb_filters(self.filter), self.runs_dir, tell, reading)


def records_of(target: str, runs_dir: str, choice: Choice = _ALL) -> Path:
    """The folder of records of the study of that name, or else that folder itself. Raises InputError for neither."""
    name = studies.name_of(target)
    root, itself = record.runs_root(runs_dir), Path(name)
    candidates = [root / name, itself] if itself.name == name else [itself]
    with_records = [f for f in candidates if (f / "study.yaml").is_file() or record.run_folders(f)]
    if not with_records and itself.name == name:
        choice.named(target, runs_dir)  # raises, with the nearest names, if there is no such study
    return with_records[0] if with_records else root / studies.check_name(name)


@dataclass(frozen=True)
class Sample:
    """Draw a grid of new samples from a run's generator into <run>/samples/sample.png."""

    target: Positional[_Run]
    seed: Annotated[int, arg(help="seed of the latents")] = 0
    runs_dir: _RunsDir = ""

    def run(self) -> int:
        from experiments.export import write_samples

        print(write_samples(_named_run(self.target, self.runs_dir), self.seed))
        return DONE


@dataclass(frozen=True)
class Export:
    """Write networks as safetensors, spectral norm removed, with a loader that needs only torch and safetensors.

    Of a run into <run>/export/; of a study one finished seed per cell, with licences and metadata for an archive, into
    a folder and one ZIP file.
    """

    target: Positional[Annotated[str, arg(metavar="RUN|STUDY", help="a run id or folder, or a study")]]
    seed: Annotated[
        int | None, arg(metavar="INT", help="for a study: this seed; if not given, each cell's smallest that finished")
    ] = None
    out: Annotated[
        str, arg(metavar="DIR", help="for a study: output folder; if not given, weights in its folder of records")
    ] = ""
    runs_dir: _RunsDir = ""

    def run(self) -> int:
        from experiments.export import export

        study, folder = self._study()
        if not study:
            if self.seed is not None or self.out:
                raise InputError("--seed and --out are for the export of a whole study")
            print(export(_named_run(self.target, self.runs_dir)))
            return DONE
        from experiments.display import counting
        from experiments.release import release

        out = Path(self.out or folder / "weights").resolve()
        if not out.name:
            raise InputError("--out / is not a folder of its own: name one in another folder")
        check_writable(out.with_name(f"{out.name}.zip"))
        with counting("cells read") as tell:
            done = release(study, folder, out, self.seed, tell)
        for run_id, why in ({} if study.text else record.recorded_configs(folder)[1]).items():
            _to_stderr(f"warning: {run_id} is left out: {why}")
        for cell in done.without:
            print(f"no finished run with weights here: {cell}")
        print(f"{done.folder}: {len(done.run_ids)} runs, and as one file {done.archive}")
        return DONE

    def _study(self) -> tuple[studies.Study | None, Path]:
        """The study that is named, and its folder of records; no study if it is a run.

        Raises InputError for neither.
        """
        folder, root = Path(self.target), record.runs_root(self.runs_dir)
        if record.is_run(folder):
            return None, folder
        if (folder / "study.yaml").exists():
            return studies.read(folder / "study.yaml"), folder
        if found := studies.recorded(folder):
            return found, folder
        try:
            study = studies.find(self.target, self.runs_dir)
        except InputError as error:
            if list(root.glob(f"*/{glob.escape(self.target)}*/config.json")) or not studies.is_name(self.target):
                return None, folder
            raise InputError(f"no run {self.target!r} below {root}, and {error}") from error
        return study, root / study.name


@dataclass(frozen=True)
class Fid:
    """Judge the final generators of runs by FID and KID, beside fd, kd and fd_pixels of the same samples.

    It needs torch-fidelity, an extra (pip install -e '.[fid]'), and a file of Inception's weights, which is never
    downloaded. Real images and the trivial sampler give the scale; over three runs or more, rank correlations say
    whether the distances order them in the same way.
    """

    targets: Positional[
        Annotated[tuple[str, ...], arg(metavar="RUN [RUN ..]", help="ids of runs, their beginnings, or folders")]
    ]
    inception_weights: Annotated[
        str, arg(metavar="FILE", help="torch-fidelity's weights-inception-2015-12-05-6726825d.pth; if not given, "
                 "SNGAN_INCEPTION")
    ] = ""  # fmt: skip
    n: Annotated[int, arg(help="samples of each run; 0: as many as its evaluations compare. FID should have more than "
                          "2,048")] = 0  # fmt: skip
    device: Annotated[str, arg(help=HELP["device"])] = "auto"
    data_dir: Annotated[str, arg(help=HELP["data_dir"])] = ""
    data_path: Annotated[str, arg(help="where your own images are, if not where the runs had them")] = ""
    runs_dir: _RunsDir = ""
    as_json: _Json = False

    def run(self) -> int:
        if not self.targets:
            raise InputError("name a run: its id, the beginning of one, or its folder")
        runs = [_named_run(target, self.runs_dir) for target in self.targets]
        from experiments.bridge import fid

        weights = self.inception_weights or os.environ.get("SNGAN_INCEPTION", "")
        return fid(runs, weights, self.n, self.device, self.data_dir, self.as_json, self.data_path)


@dataclass(frozen=True)
class Bench:
    """Measure the loop against the notebook's, the arms against each other, and what the instruments cost."""

    dataset: Annotated[_Grey, arg(help="training images of the notebook's size and channels")] = "digits"
    batch_size: Annotated[int, arg(help=HELP["batch_size"])] = 128
    threads: Annotated[int, arg(help=HELP["threads"])] = 0
    device: Annotated[str, arg(help=HELP["device"])] = "auto"
    data_dir: Annotated[str, arg(help=HELP["data_dir"])] = ""
    seconds: Annotated[float, arg(help="about how long all rows together may take; at least 60")] = 60.0
    rounds: Annotated[
        int, arg(help="rounds, in each of which every row is measured once; the median over them is printed")
    ] = 7
    report: Annotated[
        bool, arg(help="measure the report instead, over up to 1,000 synthetic runs; takes 5 minutes")
    ] = False
    out: Annotated[str, arg(help="JSON file to write; if not given, bench/<machine>.json in the runs folder")] = ""
    runs_dir: _RunsDir = ""
    as_json: _Json = False

    def run(self) -> int:
        out = Path(self.out) if self.out else record.runs_root(self.runs_dir) / "bench"
        (check_writable if out.suffix == ".json" else check_folder)(out)
        if self.report:
            from analysis.bench import bench_report

            return bench_report(out, self.as_json)
        from experiments.bench.loop import bench

        return bench(
            self.dataset, self.batch_size, self.threads, self.device, self.data_dir, self.seconds, self.rounds, out,
            self.as_json,
        )  # fmt: skip


@dataclass(frozen=True)
class Yardstick:
    """Train the small classifier whose features judge a data set's samples; print its accuracy and SHA-256.

    The weights are part of the package. This command shows how they came to be; no run uses the file that it writes.
    """

    dataset: Positional[_Judge]
    threads: Annotated[
        int, arg(help="CPU threads, on which the bits depend; the shipped weights were trained with one")
    ] = 1
    data_dir: Annotated[str, arg(help=HELP["data_dir"])] = ""
    out: Annotated[str, arg(help="file to write; if not given, yardsticks/DATASET.safetensors in the runs folder")] = ""
    runs_dir: _RunsDir = ""

    def run(self) -> int:
        import hashlib

        import torch

        from sngan import cache
        from sngan.files import write_atomically
        from sngan.yardstick import train_weights

        if not 1 <= self.threads <= 4096:
            raise InputError(f"--threads must be from 1 to 4096, got {self.threads}")
        torch.set_num_threads(self.threads)
        path = Path(self.out or record.runs_root(self.runs_dir) / "yardsticks" / f"{self.dataset}.safetensors")
        check_writable(path)
        check_writable(keep := path.with_name(f"{path.name}.partial"))
        content, accuracy = train_weights(self.dataset, self.data_dir, _to_stderr, keep=keep)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
        cache.remove(keep)
        print(f"{path}: accuracy {accuracy:.4f}, {len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")
        return DONE


_COMMANDS = {
    "study" if c is StudyFile else c.__name__.lower(): c
    for c in (Train, StudyFile, Plan, Sweep, Status, Dashboard, Report, Sample, Export, Fid, Bench, Yardstick)
}


def main(arguments: list[str] | None = None) -> None:
    """Run `sngan` with the command line, or with `arguments`; exits: 0 done, 1 failed, 2 bad input, 3 interrupted."""
    outlive_readers()
    code = run(sys.argv[1:] if arguments is None else arguments)
    if code == INTERRUPTED:
        signal.signal(signal.SIGHUP, lambda *_: None)  # which may follow another signal; it has been heeded
        exec("")  # Python, as `python -m`, would end with 130 if the signal came while an import executed some text
    if code == INTERRUPTED and client.is_busy():  # W&B's client would hold the process; what it has is on disk
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def parse(arguments: list[str]) -> Any:
    """The command that the arguments say, not yet run. Exits with code 2 if they are wrong."""
    with warnings.catch_warnings(), _without_colours():
        warnings.filterwarnings("ignore", message="The field .* is annotated", module="tyro")
        return tyro.extras.subcommand_cli_from_dict(
            _COMMANDS,  # type: ignore[arg-type]
            prog="sngan",
            description="Train, compare and judge GANs whose discriminators are kept stable in different ways. "
            "`sngan --version` prints the version.",
            args=arguments,
        )


@contextmanager
def _without_colours() -> Iterator[None]:
    """tyro asks for the terminal's name: its colours would be shown as text, which is all that our streams write."""
    before = os.environ.get("TERM")
    os.environ["TERM"] = "dumb"
    try:
        yield
    finally:
        del os.environ["TERM"]
        os.environ.update({} if before is None else {"TERM": before})


def run(arguments: list[str]) -> int:
    from experiments.signals import requested, stop_on_signals

    if arguments[:1] == ["--version"]:
        print(f"sngan {__version__}, version {TRAINING_VERSION} of the training code")
        return DONE
    try:
        command = parse(arguments)
        if isinstance(command, Train):
            _note_unused(command.config, arguments)
        with stop_on_signals():
            takes = [shlex.join(["sngan", *arguments])] if isinstance(command, Train | Sweep) else []
            code = command.run(*takes)
            sys.stdout.flush()
        return code
    except InputError as error:
        print(f"sngan: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt as stopped:
        _to_stderr(f"sngan: interrupted{f' ({stopped})' if str(stopped) else ''}")
        return INTERRUPTED
    except OSError as error:  # a file in a folder's place, no permission, a full disk
        print(f"sngan: {error}", file=sys.stderr)
        _discard_output()
        return BAD_INPUT
    except Exception:
        if not requested():
            raise
        _to_stderr(f"sngan: interrupted ({requested()})")  # within an import that went on, torn
        return INTERRUPTED


def _discard_output() -> None:
    """What is still in the buffer cannot be written; without this Python would complain on its way out."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _note_unused(config: RunConfig, arguments: list[str]) -> None:
    given = {a.split("=")[0].removeprefix("--").replace("-", "_") for a in arguments if a.startswith("--")}
    for name in sorted(given & ignored(config)):
        print(f"note: {config.arm} has no {name}, which is left out (it belongs to {users(name)})", file=sys.stderr)


def wandb_filters(text: str) -> dict[str, Any]:
    """W&B's filters from its JSON, or from FIELD=VALUE of a run's configuration, separated by commas."""
    from sngan.files import parse_json

    if text.startswith("{"):
        return parse_json(text, "--filter")
    try:
        pairs = dict(part.split("=", 1) for part in text.split(",") if part)
        return {f"config.{name.strip()}": studies.scalar(value) for name, value in pairs.items()}
    except ValueError as error:  # InputError too
        raise InputError(f"--filter {shown(text)} is neither FIELD=VALUE,FIELD=VALUE nor JSON: {error}") from error


def _named_run(target: str, runs_dir: str) -> record.Record:
    """The run, with a word if its folder's name is not its own: its networks are what the configuration there says."""
    run = record.find_run(target, runs_dir)
    if other := run.misnamed(run.config()):
        _to_stderr(f"warning: {other}")
    return run


def _show_images(config: RunConfig) -> None:
    """A line on what a user's own images are taken for."""
    if config.dataset not in GIVEN or not config.data_path:
        return
    from sngan import given

    known = given.Content(config.data_sha256, config.channels, 0, 0)
    content = given.present(f"{config.dataset}:{config.data_path}{known.fragment()}", _to_stderr)
    labels = f"{content.classes} classes" if content.classes else "no labels"
    if not content.classes and config.dataset == "folder":
        labels += " (these are the folders in which all images lie, if they are several)"
    kind = {1: "grey", 3: "colour"}[config.channels]
    _to_stderr(
        f"{config.data_path}: {content.n:,} images, {labels}; trained on as {kind} of {config.side}x{config.side} "
        f"pixels, samples judged by {config.judge}"
    )


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
