"""The command line: help, notes, JSON, exit codes, and mistakes that cost a line and not a traceback."""

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pandas as pd
import pytest
from conftest import ROOT, small, trained, write_study

from analysis.page.report import Written
from analysis.study import Study
from experiments.cli import records_of, wandb_filters
from experiments.record import Record, State, run_folders
from experiments.run import execute
from sngan import __version__
from sngan.config import TRAINING_VERSION, InputError
from sngan.datasets import DATASETS

COMMANDS = ("train", "study", "plan", "sweep", "status", "report", "sample", "export", "fid", "bench", "yardstick")


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str, command: Callable) -> None:
    code, output, _ = command(name, "--help")
    assert code == 0
    assert f"usage: sngan {name}" in output
    assert "--runs-dir" in output


def test_help_names_every_command(command: Callable) -> None:
    code, output, _ = command("--help")
    assert code == 0
    assert all(name in output for name in COMMANDS)


MISTAKES = [
    ([], "Missing subcommand"),
    (["trian"], "train"),
    (["train", "--arm", "sngan"], "sngan"),
    (["train", "--dataset", "cifar10"], "cifar10"),
    (["train", "--steps", "0"], "steps"),
    (["train", "--steps", "many"], "many"),
    (["train", "--seed", "-1"], "seed"),
    (["train", "--lr", "nan"], "lr"),
    (["train", "--setting", "G"], "G"),
    (["train", "--setting", "custom", "--lr", "0.1"], "beta1"),
    (["train", "--stepz", "3"], "stepz"),
    (["train", "--batch-size", "1"], "batch_size"),
    (["train", "--device", "cuda:9", "--steps", "1"], "is not there"),
    (["train", "--device", "tpu", "--steps", "1"], "expected auto, cpu"),
    (["train", "--study", "../x", "--steps", "1"], "not usable"),
    (["train", "--wandb", "maybe"], "maybe"),
    (["plan"], "STUDY"),
    (["plan", "mnist-smok"], "did you mean 'mnist-smoke'"),
    (["plan", "none.yaml"], "none.yaml"),
    (["sweep", "demo", "--workers", "-1"], "--workers"),
    (["sweep", "demo", "--threads", "0"], "--threads"),
    (["sweep", "demo", "--devices", "a,b"], "numbers"),
    (["sweep", "demo", "--devices", "7"], "is not there"),
    (["sweep", "demo", "--devices", "0", "--device", "cpu"], "not both"),
    (["sweep", "demo", "--threads", "5000"], "threads: 5000 is out of range"),
    (["train", "--device", "cpu:5", "--steps", "1"], "expected auto, cpu"),
    (["bench", "--seconds", "inf"], "--seconds"),
    (["status", "nothing"], "nothing"),
    (["report", "nothing"], "nothing"),
    (["report", "a/b"], "a/b"),
    (["sample", "nothing"], "no run 'nothing'"),
    (["export", "nothing"], "no run 'nothing'"),
    (["fid", "nothing"], "no run 'nothing'"),
    (["fid"], "name a run"),
    (["bench", "--seconds", "0"], "--seconds"),
    (["bench", "--device", "cuda:9"], "is not there"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(a) or "nothing" for a, _ in MISTAKES])
def test_a_mistake_gives_code_2_and_names_itself(
    arguments: list[str], message: str, command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, output, errors = command(*arguments)
    assert code == 2
    assert message in output + errors
    assert "Traceback" not in output + errors
    assert not (tmp_path / "runs").exists()  # and starts nothing


def test_mnist_without_files_and_network_says_where_they_go(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    code, _, errors = command("train", "--dataset", "mnist", "--data-dir", tmp_path / "data", "--steps", 1,
                              "--runs-dir", tmp_path / "runs")  # fmt: skip
    assert code == 2
    assert "train-images-idx3-ubyte" in errors
    assert str(tmp_path / "data" / "MNIST" / "raw") in errors
    assert not (tmp_path / "runs").exists()


def test_damaged_records_are_named(command: Callable, tmp_path: Path) -> None:
    path = write_study(tmp_path)
    folder = tmp_path / "tiny" / small().run_id
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(small().identity()))
    (folder / "status.json").write_text("{")
    code, output, _ = command("status", path, "--runs-dir", tmp_path)
    assert code == 0
    assert str(folder / "status.json") in output
    (folder / "status.json").write_text('{"state": "finished", "step": 3, "attempts": []}')
    (folder / "metrics.jsonl").write_text('{"step": 0}\nnonsense\n{}\n')
    assert command("report", "tiny", "--runs-dir", tmp_path)[0] == 0
    assert "metrics.jsonl, line 2" in (tmp_path / "tiny" / "report" / "index.html").read_text()
    code, _, errors = command("sample", folder)
    assert code == 2
    assert "has no weights" in errors


def test_trouble_with_files_is_one_line_that_names_them(command: Callable, tmp_path: Path) -> None:
    path = write_study(tmp_path, steps=10)
    file = tmp_path / "file"
    file.write_text("")
    runs = tmp_path / "runs"
    record = Record(runs / "tiny" / small(steps=10).run_id)
    common = ["--steps", 10, "--batch-size", 16, "--g-width", 8, "--n-fake", 100, "--wandb", "disabled", "--study",
              "tiny"]  # fmt: skip
    assert command("train", *common, "--runs-dir", runs)[0] == 0
    (runs / "tiny" / "report").write_text("")
    (record.folder / "export").write_text("")
    shutil.rmtree(record.samples_path)
    for arguments, named in (
        (["train", *common, "--runs-dir", file], file),
        (["sweep", path, "--workers", 1, "--wandb", "disabled", "--runs-dir", file], file),
        (["report", "tiny", "--runs-dir", runs], runs / "tiny" / "report"),
        (["export", record.folder], record.folder / "export"),
        (["sample", record.folder], record.samples_path),
        (["plan", "x" * 300 + ".yaml"], "File name too long"),
    ):
        code, output, errors = command(*arguments)
        assert code == 2, arguments
        assert str(named) in errors
        assert "Traceback" not in output + errors
        assert len(errors.strip().splitlines()) <= 2, errors  # sweep says first what it is about to do
    (record.folder / "status.json").unlink()
    (record.folder / "status.json").mkdir()
    code, output, _ = command("status", path, "--runs-dir", runs)
    assert code == 0  # the other runs have theirs
    assert f"{record.folder / 'status.json'} is not a file" in output


def test_a_full_disk_under_the_output_is_no_traceback(sngan: Callable) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, which Linux has")
    command = [sys.executable, "-m", "experiments", "status", "demo"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("sngan: ")
    assert "Traceback" not in done.stderr


def test_a_report_is_of_the_study_of_that_name_before_the_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "tiny", tmp_path / "runs" / "tiny"):
        folder.mkdir(parents=True)
        write_study(folder, "study")
        assert records_of("tiny", "").resolve() == folder
    assert records_of("./tiny", "").resolve() == tmp_path / "tiny"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "give a study, a folder, frozen:DIR"),
        ("tiny --from frozen", "give one source: SOURCE and --from were given"),
        ("frozen:x --csv y.csv", "give one source: SOURCE and --csv were given"),
        ("tiny --source wandb", "--source wandb and --project belong together"),
        ("tiny --project a/b", "--source wandb and --project belong together"),
        ("frozen:x --source wandb --project a/b", "it goes with a study or its folder alone"),
        ("table:x.csv --source wandb-files", "it goes with a study or its folder alone"),
        ("--source wandb-files", "give the study too"),
        ("--source wandb --project a/b", "give the study too"),
        ("--source wandb-files --csv x.csv", "it goes with a study or its folder alone"),
        ("wandb-file:x", "is no source of runs; did you mean 'wandb-files'?"),
        (
            "tables:x.csv",
            "expected a study, a folder, frozen:DIR, table:FILE.csv, wandb:ENTITY/PROJECT, wandb-files:DIR",
        ),
        ("frozen:", "says no place: write frozen:DIR"),
        ("frozen:nowhere", "manifest.json is missing"),
        ("table:nowhere.csv", "there is no such file"),
        ("wandb-files:nowhere", "no W&B files at nowhere"),
        ("nowhere", "no study 'nowhere'"),
        ("frozen:x --freeze y", "--freeze keeps the records of a study"),
        ("--csv x.csv --freeze y", "--freeze keeps the records of a study"),
        ("tiny --no-report", "--no-report is for --freeze alone"),
        ("tiny --map arm=x", "they need table:FILE or wandb:ENTITY/PROJECT"),
        ("frozen:x --run-name x", "they need table:FILE or wandb:ENTITY/PROJECT"),
        ("wandb:a/b --maximize", "--maximize is for tables"),
        ("frozen:x --baseline sn", "--baseline is for tables"),
        ("wandb-files:x --filter lr=1", "it needs wandb:ENTITY/PROJECT"),
        ("table:x.csv --publish", "--publish is for studies of this program"),
    ],
)
def test_sources_and_options_that_do_not_go_together(
    arguments: str, message: str, command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = command("report", *arguments.split())
    assert code == 2
    assert message in errors


def test_a_source_is_the_same_in_one_word_and_by_its_older_flags(
    mixed_study: Path, tmp_path: Path, command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"{arm},{seed},{seed + 1}\n" for arm in "ab" for seed in range(3)]
    (tmp_path / "mine.csv").write_text("arm,seed,quality\n" + "".join(rows))
    freeze = ("--freeze", tmp_path / "kept", "--no-report")
    assert command("report", mixed_study, *freeze)[0] == 0
    taken: list[Study] = []
    monkeypatch.setattr("analysis.page.report.write", lambda of, **how: taken.append(of) or Written(of.folder, []))
    for new, old in (
        (["frozen:kept"], ["--from", "kept"]),
        (["table:mine.csv"], ["--csv", "mine.csv"]),
        ([mixed_study], ["tiny", "--source", "local", "--runs-dir", mixed_study.parent]),
    ):
        taken.clear()
        for arguments in (new, old):
            code, _, errors = command("report", *arguments)
            assert code == 0, errors
        one, other = taken
        pd.testing.assert_frame_equal(one.runs, other.runs)
        pd.testing.assert_frame_equal(one.history, other.history)
        assert (one.folder.resolve(), one.terms, one.command) == (other.folder.resolve(), other.terms, other.command)


def test_train_prints_its_folder_and_is_done_once(command: Callable, tmp_path: Path) -> None:
    arguments = ["train", "--steps", 20, "--batch_size=16", "--g-width", 8, "--penalty_weight=0.1", "--n-fake", 100,
                 "--wandb", "disabled", "--device", "cpu", "--threads", 1, "--runs-dir", tmp_path]  # fmt: skip
    code, output, errors = command(*arguments)
    config = small(steps=20)
    assert code == 0
    assert output.strip() == str(tmp_path / "single" / config.run_id)
    assert (
        "dcgan has no penalty_weight, which is left out (it belongs to penalty_dcgan, penalty, gp, r1, ortho)" in errors
    )
    assert Record(tmp_path / "single" / config.run_id).status()["state"] == "finished"
    code, output, _ = command(*arguments)
    assert code == 0
    assert "is finished already; nothing to do" in output


def test_a_failed_run_gives_code_1_and_a_diverged_one_code_0(command: Callable, tmp_path: Path) -> None:
    common = ["--g-width", 8, "--n-fake", 100, "--wandb", "disabled", "--device", "cpu", "--threads", 1, "--runs-dir",
              tmp_path]  # fmt: skip
    for attempts in (1, 2):  # a failed run is retried
        assert command("train", "--batch-size", 1800, *common)[0] == 1
        (record,) = run_folders(tmp_path / "single")
        assert len(record.status()["attempts"]) == attempts
    code, _, errors = command("train", "--arm", "plain", "--batch-size", 16, "--lr", 10, "--beta1", 0.999,
                              "--beta2", 0, *common)  # fmt: skip
    assert code == 0
    assert "diverged" in errors


@pytest.mark.slow
def test_a_sweep_says_how_to_learn_why_runs_failed(command: Callable, tmp_path: Path) -> None:
    path = write_study(tmp_path)
    arguments = (path, "--runs-dir", tmp_path / "runs")
    record = Record(tmp_path / "runs" / "tiny" / small().run_id)
    record.folder.mkdir(parents=True)
    record.write_status({"state": "failed", "step": 3, "error": "it broke", "attempts": []})
    code, output, _ = command("sweep", *arguments)
    assert code == 1
    assert f"what can be done: sngan status {path} --runs-dir {tmp_path / 'runs'}" in output
    assert f"retry failed runs: sngan sweep {path} --runs-dir {tmp_path / 'runs'} --retry failed" in output
    assert "retry with sngan sweep" in command("status", *arguments)[1]


@pytest.mark.slow
def test_a_yardstick_by_one_command(command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of fewer epochs than the shipped one has: 25 are enough for its accuracy."""
    row = DATASETS["digits"]
    assert row.classifier
    monkeypatch.setitem(DATASETS, "digits", replace(row, classifier=replace(row.classifier, epochs=25)))
    out = tmp_path / "new.safetensors"
    code, output, errors = command("yardstick", "digits", "--out", out)
    assert code == 0
    assert "epoch 25 of 25" in errors
    accuracy, sha256 = re.search(r"accuracy ([\d.]+), .* SHA-256 (\w+)", output).groups()  # type: ignore[union-attr]
    assert float(accuracy) >= 0.98
    assert sha256 == hashlib.sha256(out.read_bytes()).hexdigest()


UNWRITABLE: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a link to a pipe": lambda path: (os.mkfifo(path.with_name("pipe")), path.symlink_to("pipe")),
    "a file in a folder's place": lambda path: path.parent.joinpath("file").write_text(""),
    "no folder for files": lambda path: None,
}


@pytest.mark.parametrize("kind", UNWRITABLE)
@pytest.mark.parametrize("command_of", ["yardstick", "partial", "bench", "bench --report", "export", "freeze"])
def test_an_output_that_cannot_be_written_is_refused_at_once(
    kind: str, command_of: str, command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what is there stays."""
    for name in ("sngan.yardstick.train_weights", "experiments.bench.loop.bench", "analysis.bench.bench_report",
                 "experiments.release.release", "analysis.load.load"):  # fmt: skip
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("begins"))
    (tmp_path / "out").mkdir()
    there = {
        "partial": "x.partial", "bench": "x.json", "bench --report": "x.json", "export": "x.zip",
        "freeze": "manifest.json",
    }.get(command_of, "x")  # fmt: skip
    folder = {"a file in a folder's place": tmp_path / "out" / "file" / "new", "no folder for files": Path("/proc/new")}
    path = folder.get(kind, tmp_path / "out") / there
    UNWRITABLE[kind](tmp_path / "out" / there)
    before = {found: found.lstat() for found in (tmp_path / "out").iterdir()}
    out = (
        path.parent if command_of == "freeze" else path.with_suffix("") if command_of in ("partial", "export") else path
    )
    arguments = {
        "yardstick": ["yardstick", "digits", "--out", out],
        "partial": ["yardstick", "digits", "--out", out],
        "bench": ["bench", "--out", out],
        "bench --report": ["bench", "--report", "--out", out],
        "export": ["export", write_study(tmp_path), "--out", out],
        "freeze": ["report", write_study(tmp_path), "--no-report", "--freeze", out],
    }[command_of]
    code, _, errors = command(*arguments, "--runs-dir", tmp_path / "runs")
    assert code == 2
    assert re.fullmatch(r"sngan: /.* (is not replaced: name a file|cannot be written: .*)\n", errors)
    assert {found: found.lstat() for found in (tmp_path / "out").iterdir()} == before


def test_bench_names_a_folder_of_records_that_is_none(command: Callable, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    for more in ([], ["--report"], ["--out", tmp_path / "runs"]):
        code, _, errors = command("bench", *more, "--runs-dir", tmp_path / "runs")
        assert (code, errors.endswith(f"cannot be written: {tmp_path / 'runs'} is not a folder\n")) == (2, True)


def test_weights_that_could_not_be_written_at_the_end_are_not_lost(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = DATASETS["digits"]
    assert row.classifier
    changed = replace(row.classifier, epochs=1, lowest_accuracy=0.0)
    monkeypatch.setitem(DATASETS, "digits", replace(row, classifier=changed))
    out = tmp_path / "new" / "x"
    with monkeypatch.context() as patch:
        patch.setattr("sngan.files.write_atomically", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        assert command("yardstick", "digits", "--out", out)[::2] == (2, ANY)
    code, _, errors = command("yardstick", "digits", "--out", out)
    assert code == 0
    assert errors == "yardstick for digits: continues after epoch 1 of 1\n"
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["plan", "mnist-core"], ["status", "demo"]])
def test_what_should_be_quick_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom experiments.cli import main\n"
        f"try:\n    main({[*arguments]!r})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'wandb', 'pandas', 'torchvision', 'sklearn', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False,
                          env={"SNGAN_RUNS": str(tmp_path), "PATH": ""})  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_what_is_interrupted_loads_nothing_on_its_way_out() -> None:
    """A second Ctrl-C would meet it in the middle of an import."""
    code = (
        "import sys; from experiments import cli\n"
        "cli.run = lambda arguments: cli.INTERRUPTED; before = set(sys.modules)\n"
        "try: cli.main([])\n"
        "except SystemExit as ended: assert (ended.code, set(sys.modules) - before) == (3, set()), sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_sngan_and_the_module_are_one_program() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"sngan": "experiments.cli:main"}
    assert "from experiments.cli import main" in (ROOT / "experiments" / "__main__.py").read_text()


def test_filters() -> None:
    assert wandb_filters("") == {}
    assert wandb_filters("lr=0.001,arm=sn") == {"config.lr": 0.001, "config.arm": "sn"}
    assert wandb_filters('{"tags": "v1"}') == {"tags": "v1"}
    cases = [("lr", "neither"), ("a=[", "neither"), ("steps=010", "neither"), ("{", "JSON"), (9999 * '{"a":', "JSON")]
    for wrong, says in cases:
        with pytest.raises(InputError, match=says):
            wandb_filters(wrong)


def stopped_train(command: Callable, tmp_path: Path) -> str:
    """The last line of errors of a short training that a signal stops, but for the command that it ends with."""
    line = ["train", "--steps", 30, "--batch-size", 16, "--g-width", 8, "--n-fake", 100, "--threads", 1]
    line += ["--device", "cpu", "--wandb", "disabled", "--runs-dir", tmp_path / "my runs"]
    code, _, errors = command(*line)
    assert code == 3, errors
    said, typed, again = errors.splitlines()[-1].partition(": sngan ")
    assert shlex.split(again) == (list(map(str, line)) if typed else [])
    return re.sub(r"after \d+ s", "after 1 s", said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_training_says_what_the_same_command_does(
    number: signal.Signals, command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While data are read, before the first checkpoint, in the training, and when the run has ended already."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    record = Record(tmp_path / "my runs" / "single" / small().run_id)

    def stop(*_: object, **__: object) -> None:
        signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr("sngan.data.load", stop)
        said = stopped_train(command, tmp_path)
    assert said == "interrupted after 1 s, before the training began; the same command starts it"
    assert not record.folder.exists()
    with monkeypatch.context() as patch:
        patch.setattr(Record, "write_protocol", stop)
        said = stopped_train(command, tmp_path)
    assert said == (
        "interrupted at step 0 of 30 after 1 s; the same command starts over, as there is no checkpoint yet"
    )
    with monkeypatch.context() as patch:
        append = Record.append
        patch.setattr(Record, "append", lambda *arguments: (append(*arguments), stop()))
        said = stopped_train(command, tmp_path)
    assert said == "interrupted at step 0 of 30 after 1 s; the same command resumes it from its checkpoint"
    with monkeypatch.context() as patch:
        patch.setattr("experiments.tracking.tracker.Tracker.finish", stop)
        said = stopped_train(command, tmp_path)
    assert said == f"interrupted after 1 s; {record.run_id} is finished all the same"
    signal.signal(signal.SIGHUP, before)


def test_a_sweep_that_is_interrupted_while_it_prepares_says_so(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sngan.data.load", lambda *_: signal.raise_signal(signal.SIGTERM))
    path = write_study(tmp_path)
    line = ["sweep", path, "--device", "cpu", "--wandb", "disabled", "--runs-dir", tmp_path]
    code, _, errors = command(*line)
    assert code == 3
    said, _, again = errors.splitlines()[-1].partition(": sngan ")
    assert re.fullmatch(r"interrupted after \d+ s; the same command continues", said)
    assert shlex.split(again) == list(map(str, line))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("torn", [False, True])
def test_every_command_that_is_interrupted_says_so_in_one_line(
    torn: bool, number: signal.Signals, command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the library that was being imported went on without what it lacks."""

    def stop(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            if not torn:
                raise
            raise AttributeError("module 'numpy' has no attribute 'multiply'") from None

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    monkeypatch.setattr("experiments.account.status", stop)
    assert command("status", "demo") == (3, "", f"sngan: interrupted ({number.name})\n")
    signal.signal(signal.SIGHUP, before)


def test_what_is_sampled_or_exported_is_a_run_or_a_word_says_what_it_is(command: Callable, tmp_path: Path) -> None:
    folder = trained(write_study(tmp_path, seed=[0, 1]), tmp_path)
    one, other = sorted(path for path in folder.iterdir() if path.is_dir())
    for of, wrong in (
        (folder, f"a folder of 2 runs (name one, such as {one})"),
        (folder.parent, "a folder without checkpoint.pt or config.json or metrics.jsonl or status.json"),
        (folder / "study.yaml", "a file"),
    ):
        code, _, errors = command("sample", of)
        assert code == 2
        assert f"no run {str(of)!r}: {wrong}, neither a run's folder nor a run id below" in errors
    (folder / "study.yaml").unlink()
    assert command("export", folder)[:2] == (0, f"{folder}/weights: 1 runs, and as one file {folder}/weights.zip\n")
    renamed = one.rename(folder / "mine")
    for name in ("sample", "export"):
        code, _, errors = command(name, renamed)
        assert (code, errors.count(f"is the configuration of {one.name}: a copied or renamed folder?")) == (0, 1)
    assert json.loads((renamed / "export" / "export.json").read_text())["run_id"] == one.name
    (other / "config.json").unlink()
    assert command("sample", other) == (2, "", f"sngan: {other} holds no run: config.json is missing\n")


def test_versions(command: Callable) -> None:
    code, output, _ = command("--version")
    assert (code, output) == (0, f"sngan {__version__}, version {TRAINING_VERSION} of the training code\n")


def test_a_study_file_is_written_and_never_over_another(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("study", "new", "mine")[:2] == (0, "mine.yaml\nedit it, then: sngan plan mine.yaml\n")
    assert "28 runs" in command("plan", "mine.yaml")[1]
    assert command("study", "new", "mine")[0] == 2
    assert "take another name" in command("study", "new", "demo")[2]
    assert "did you mean the file mine.yaml?" in command("plan", "mine")[2]
    assert command("study", "wandb", "mine.yaml")[1] == "mine.wandb.yaml\nwandb sweep --project sngan mine.wandb.yaml\n"
    assert "28 runs" in command("plan", "mine.wandb.yaml")[1]


def test_a_file_and_a_name_that_plan_different_runs_say_so(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text((ROOT / "experiments" / "studies" / "demo.yaml").read_text())
    assert command("plan", path, "--runs-dir", tmp_path)[2] == ""
    path.write_text(path.read_text().replace("[0, 1, 2]", "[0, 1]"))
    assert (
        "plans 6 runs, but the name demo stands for 9 runs, of which 6 are among these"
        in (command("plan", path, "--runs-dir", tmp_path)[2])
    )
    (tmp_path / "demo").mkdir()
    path.rename(tmp_path / "demo" / "study.yaml")
    assert "demo plans 9 runs, but the file with the records" in command("plan", "demo", "--runs-dir", tmp_path)[2]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo" / "study.yaml").rename(path)
    assert "demo plans 9 runs, but the file demo.yaml stands for 6" in command("plan", "demo")[2]


def test_failed_runs_alone_are_listed(command: Callable, tmp_path: Path) -> None:
    path, configs = (
        write_study(tmp_path, arm=["dcgan", "sn"], steps=10),
        [small(arm=arm, steps=10) for arm in ("dcgan", "sn")],
    )
    execute(configs[0], "tiny", tmp_path / "tiny", lambda message: None)
    record = Record(tmp_path / "tiny" / configs[1].run_id)
    record.start_over(configs[1])
    record.write_status({"state": State.FAILED, "step": 3, "error": "out of luck", "attempts": []})
    _, output, _ = command("status", path, "--failed", "--runs-dir", tmp_path)
    assert "out of luck" in output
    assert configs[0].run_id not in output
    assert "1 finished, 1 failed" in output
    _, output, _ = command("status", path, "--watch", "--runs-dir", tmp_path)  # all have ended: it does not wait
    assert output.strip() == "2 cells, 2 runs: 1 finished, 1 failed"
    assert command("status", path, "--watch", "--failed", "--runs-dir", tmp_path)[0] == 2


def test_the_beginning_of_an_id_is_enough(command: Callable, tmp_path: Path) -> None:
    for seed in (0, 10):
        execute(small(seed=seed, steps=10), "tiny", tmp_path / "tiny", lambda message: None)
    code, output, _ = command("sample", "digits-dcgan-C-s10", "--runs-dir", tmp_path)
    assert code == 0
    assert small(seed=10, steps=10).run_id in output
    code, _, errors = command("sample", "digits-dcgan", "--runs-dir", tmp_path)
    assert code == 2
    assert "begins the ids of 2 runs" in errors
