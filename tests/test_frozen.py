"""Frozen results: the same study as its records, grown by parts that never change, and no study if a byte has."""

import hashlib
import io
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pytest
import torch
from conftest import ROOT, refrozen, rewrite_end, small, trained, write_study
from others import own_images
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load as load_safetensors

from analysis.load import load
from analysis.page.report import write_report
from analysis.sources import frozen as freezing
from analysis.sources.frozen import freeze, thaw
from analysis.study import Study
from experiments.export import discriminator_weights, networks
from experiments.ledger import fingerprint
from experiments.record import Record, run_folders
from experiments.run import execute
from experiments.study import read
from sngan.config import TRAINING_VERSION, InputError


def kept_weights(folder: Path) -> Callable[[str], bytes | None]:
    return lambda run_id: discriminator_weights(Record(folder / run_id))


def result_ids(folder: Path) -> list[str]:
    runs = load(folder).runs
    return list(runs.loc[runs["state"].isin(["finished", "diverged"]), "run_id"])


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def frozen(mixed_study: Path, tmp_path: Path) -> Path:
    return freeze(load(mixed_study), tmp_path / "frozen", kept_weights(mixed_study)).folder


def test_what_ended_comes_back_as_it_was(frozen: Path, mixed_study: Path) -> None:
    study, again, ids = load(mixed_study), thaw(frozen), result_ids(mixed_study)
    assert len(ids) == 4
    for frame in ("runs", "history"):
        one, other = (getattr(s, frame) for s in (study, again))
        one, other = (f[f["run_id"].isin(ids)].reset_index(drop=True) for f in (one, other))
        pd.testing.assert_frame_equal(other[list(one)], one, check_dtype=frame == "history")
    assert again.account["missing"] == len(study.runs) - 4
    assert again.protocols == {run_id: study.protocols[run_id] for run_id in ids}
    assert (again.name, again.description, again.plan) == (study.name, study.description, study.plan)
    for run_id in ids:
        found, expected = again.found[run_id], study.found[run_id]
        assert found.evaluations().equals(expected.evaluations())
        assert found.evaluations().num_rows > 0
        attempts = [{name: a[name] for name in a if name != "data_dir"} for a in expected.status["attempts"]]
        assert found.status == expected.status | {"attempts": attempts}


def test_numbers_are_single_precision_from_every_source_but_quality_and_counts(frozen: Path, mixed_study: Path) -> None:
    run_id = result_ids(mixed_study)[0]
    rows = Record(mixed_study / run_id).rows()
    for study in (load(mixed_study), thaw(frozen)):
        history = study.history[study.history["run_id"] == run_id]
        kinds = {name: str(history[name].dtype) for name in history if "/" in name}
        assert {kind for name, kind in kinds.items() if name.startswith("eval/")} == {"float64"}
        assert {kind for name, kind in kinds.items() if not name.startswith("eval/")} == {"float32"}
        assert {str(history[name].dtype) for name in ("step", "d_updates", "images_seen")} == {"int64"}
        assert list(history["loss/g"])[1:] == [float(np.float32(row["loss/g"])) for row in rows[1:]]
        assert list(history["eval/fd"].dropna()) == [row["eval/fd"] for row in rows if "eval/fd" in row]


def test_weights_and_grids_of_a_cells_first_seeds_are_kept(tmp_path: Path) -> None:
    path = write_study(tmp_path, seed=[0, 1, 2, 3], arm="sn_dcgan", steps=20, log_every=2, n_evaluations=10)
    folder = trained(path, tmp_path)
    kept = freeze(load(folder), tmp_path / "frozen", kept_weights(folder)).folder
    (part,) = (kept / "parts").iterdir()
    for config in read(path).configs:
        weights, grids = (
            part / f"weights/{config.run_id}.safetensors",
            sorted((part / "samples" / config.run_id).glob("*")),
        )
        assert weights.exists() == (config.seed < 3)
        real = part / "samples" / config.run_id / "real.png"
        assert real.exists() == (config.seed == 0)  # once for the data set
        grids = [path for path in grids if path != real]
        assert len(grids) == {0: 8, 1: 1, 2: 1, 3: 0}[config.seed]
        if config.seed < 3:
            assert grids[-1].name == "step-000020.png"
            assert grids[0].name == ("step-000002.png" if config.seed == 0 else "step-000020.png")
            found, D = load_safetensors(weights.read_bytes()), networks(Record(folder / config.run_id))[1]
            assert set(found) == set(D.state_dict())
            assert all(torch.equal(found[name], value) for name, value in D.state_dict().items())
            original = Image.open(folder / config.run_id / "samples" / grids[-1].name)
            pixels = np.asarray(Image.open(io.BytesIO(grids[-1].read_bytes())).convert("L")).astype(int)
            assert np.abs(pixels - np.asarray(original)).max() <= 9  # sixteen greys
    assert "digits" in load(f"frozen:{kept}").real


def test_a_frozen_study_that_has_all_its_grids_still_gets_the_real_images(tmp_path: Path) -> None:
    path = write_study(tmp_path, seed=[0, 1, 2, 3], arm="sn_dcgan", steps=10)
    folder = trained(path, tmp_path, lambda config: config.seed < 3)
    for config in read(path).configs[:3]:
        (folder / config.run_id / "samples" / "real.png").unlink()
    kept = freeze(load(folder), tmp_path / "frozen").folder
    assert load(f"frozen:{kept}").real == {}
    trained(path, tmp_path)
    freeze(load(folder), kept)
    assert set(load(f"frozen:{kept}").real) == {"digits"}


def test_it_grows_by_parts_that_never_change(tmp_path: Path) -> None:
    path = write_study(tmp_path, seed=[0, 1, 2], arm=["dcgan", "sn"], steps=10)
    folder = trained(path, tmp_path, lambda config: config.seed == 0)
    first = freeze(load(folder), tmp_path / "frozen")
    assert (first.planned, first.before, first.added, first.parts) == (6, 0, 2, 1)
    before = files_of(first.folder)
    trained(path, tmp_path)
    second = freeze(load(folder), first.folder)
    assert (second.before, second.added, second.parts) == (2, 4, 1)
    after = files_of(first.folder)
    assert {name for name in before if after[name] != before[name]} == {"manifest.json"}
    names = [name.split("/")[1] for name in after if name.endswith("runs.parquet")]
    for name in names:  # named by its digest
        contents = sorted((n.split("/", 2)[2], after[n]) for n in after if n.startswith(f"parts/{name}/"))
        files = {file: hashlib.sha256(content).hexdigest() for file, content in contents}
        assert hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16] == name
    third = freeze(load(folder), first.folder)
    assert (third.before, third.added, third.parts) == (6, 0, 0)
    assert files_of(first.folder) == after
    both, records = thaw(first.folder), load(folder)
    pd.testing.assert_frame_equal(both.history, records.history)
    assert both.account["finished"] == 6


def test_a_part_of_the_plan_that_ran_elsewhere_adds_its_runs_and_not_its_plan(tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "some").mkdir()
    first = trained(write_study(tmp_path / "all", seed=[0, 1, 2], steps=10), tmp_path / "a", lambda c: c.seed == 0)
    kept = freeze(load(first), tmp_path / "frozen").folder
    second = trained(write_study(tmp_path / "some", seed=[2], steps=10), tmp_path / "b")
    assert freeze(load(second), kept).added == 1
    study = thaw(kept)
    assert (study.account["finished"], study.account["missing"], study.extra) == (2, 1, [])
    (tmp_path / "other").mkdir()
    other = trained(write_study(tmp_path / "other", seed=[2, 3], steps=10), tmp_path / "c", lambda c: c.seed == 3)
    with pytest.raises(InputError, match="each have runs that the other lacks"):
        freeze(load(other), kept)
    another = trained(write_study(tmp_path, "another", seed=[0], steps=10), tmp_path / "d")
    with pytest.raises(InputError, match="holds the study tiny, not another"):
        freeze(load(another), kept)
    more = trained(write_study(tmp_path / "all", seed=[0, 1, 2, 3], steps=10), tmp_path / "a", lambda c: False)
    freeze(load(more), kept)
    assert thaw(kept).account["missing"] == 2


def test_a_part_that_would_be_too_large_is_split_between_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_study(tmp_path, seed=[1, 0, 2], arm=["dcgan", "sn"], steps=10)
    folder = trained(path, tmp_path)
    whole = freeze(load(folder), tmp_path / "whole")
    monkeypatch.setattr(freezing, "PART_BYTES", whole.added_bytes - 1)
    split = freeze(load(folder), tmp_path / "split")
    seeds = [
        {thaw_seed["seed"] for thaw_seed in map(json.loads, parquet.read_table(part)["config"].to_pylist())}
        for part in sorted((split.folder / "parts").glob("*/runs.parquet"))
    ]
    assert sorted(map(sorted, seeds)) in ([[0], [1], [2]], [[0], [1, 2]], [[0, 1], [2]])
    assert split.parts == len(seeds) > 1
    pd.testing.assert_frame_equal(thaw(split.folder).history, load(folder).history)


def test_a_killed_freeze_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_study(tmp_path, seed=[0, 1], steps=10)
    folder = trained(path, tmp_path, lambda config: config.seed == 0)
    kept = freeze(load(folder), tmp_path / "frozen").folder
    trained(path, tmp_path)

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    for where in ("fingerprint", "in_few_greys", "write_atomically"):  # after the part, before it, and within
        with monkeypatch.context() as patch:
            patch.setattr(freezing, where, killed)
            with pytest.raises(KeyboardInterrupt):
                freeze(load(folder), kept)
        assert thaw(kept).account["finished"] == 1
        assert not (kept / "parts" / ".tmp").exists()
    assert freeze(load(folder), kept).added == 1
    assert thaw(kept).account["finished"] == 2
    assert not [name for name in files_of(kept) if ".tmp" in name]


def test_what_is_not_frozen_is_named_and_no_outcome_is(
    mixed_study: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    changed = next(path for path in mixed_study.glob("*-dcgan-*/protocol.json") if "s00" in path.parent.name)
    changed.write_text(changed.read_text() + "\n")
    code, output, _ = command("report", mixed_study, "--freeze", tmp_path / "frozen", "--no-report")
    assert code == 0
    assert "3 of 6 runs frozen, 3 of them now (1 part" in output
    assert "not ended yet: 1" in output
    assert f"not frozen: {changed.parent.name}: protocol.json was changed after the run ended" in output
    failed = next(line for line in output.splitlines() if "is to be retried" in line)
    assert "dcgan" in failed
    assert not re.search("diverged|finished|fd|loss", output)
    assert not (mixed_study / "report").exists()
    assert set(thaw(tmp_path / "frozen").found) >= set(result_ids(mixed_study)) - {changed.parent.name}


def test_before_anything_ended_there_is_an_empty_study_that_grows(tmp_path: Path) -> None:
    folder = trained(write_study(tmp_path, seed=[0, 1], steps=10), tmp_path, lambda config: False)
    (config, _) = read(folder / "study.yaml").configs
    record = Record(folder / config.run_id)
    record.start_over(config)
    record.write_status({"state": "interrupted", "step": 0, "error": "stopped", "attempts": []})
    first = freeze(load(folder), tmp_path / "frozen")
    assert (first.not_ended, first.added, first.parts) == (2, 0, 0)
    with pytest.raises(InputError, match="nothing is frozen in"):
        thaw(first.folder)
    assert freeze(load(trained(tmp_path / "tiny.yaml", tmp_path)), first.folder).added == 2


def test_parts_do_not_depend_on_what_else_lay_there(tmp_path: Path) -> None:
    """Not on runs whose rows are in the cache only, nor on those that still train: equal runs give equal bytes."""
    folder = trained(write_study(tmp_path, seed=[0], arm=["dcgan", "sn"], steps=10), tmp_path)
    load(folder)  # both are in the cache
    batch_norm = next(folder.glob("*-dcgan-*"))
    shutil.move(batch_norm, tmp_path / "elsewhere")
    with_cache = freeze(load(folder), tmp_path / "with")
    (folder / ".history.cache").unlink()
    assert files_of(freeze(load(folder), tmp_path / "without").folder) == files_of(with_cache.folder)


def test_single_runs_come_back_in_their_order(tmp_path: Path) -> None:
    for arm in ("plain", "dcgan"):
        execute(small(arm=arm, steps=10), "single", tmp_path / "single", lambda message: None)
        freeze(load(tmp_path / "single"), tmp_path / "frozen")
    one, other = load(tmp_path / "single"), thaw(tmp_path / "frozen")
    assert list(one.runs["run_id"]) == list(other.runs["run_id"])
    pd.testing.assert_frame_equal(one.history, other.history)


def test_weights_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    folder = trained(write_study(tmp_path, seed=[0, 1], steps=10), tmp_path)
    checkpoint = sorted(folder.glob("*/checkpoint.pt"))[0]
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    found = freeze(load(folder), tmp_path / "frozen", kept_weights(folder))
    assert found.without_weights == [checkpoint.parent.name]
    assert found.added == 2


def another_result(record: Record, **conditions: object) -> None:
    """The run's record, as if another training had given other numbers under these conditions."""
    row = json.dumps(record.rows()[-1] | {"loss/g": 1.25})
    record.metrics_path.write_text("\n".join([*record.metrics_path.read_text().splitlines()[:-1], row]) + "\n")
    attempts = [attempt | conditions for attempt in record.status()["attempts"]]
    rewrite_end(record, record.status() | record.digests() | {"attempts": attempts})


def last_loss(study: Study, run_id: str) -> float:
    return study.history.loc[study.history["run_id"] == run_id, "loss/g"].iloc[-1]


def test_another_result_of_a_frozen_run_is_left_out_unless_it_replaces_it(frozen: Path, mixed_study: Path) -> None:
    before, run_id = files_of(frozen), result_ids(mixed_study)[0]
    loss = last_loss(thaw(frozen), run_id)
    back = shutil.copytree(mixed_study, mixed_study.parent / "back")
    another_result(Record(mixed_study / run_id), device_name="NVIDIA H100")
    again = freeze(load(mixed_study), frozen, kept_weights(mixed_study))
    (text,) = [text for text in again.left_out if run_id in text]
    assert "is frozen with another result" in text
    assert "--replace freezes this one in its place" in text
    assert "NVIDIA H100" in text
    assert (again.added, again.replaced, files_of(frozen)) == (0, 0, before)
    again = freeze(load(mixed_study), frozen, kept_weights(mixed_study), replace=True)
    assert (again.added, again.replaced, again.parts) == (0, 1, 1)
    assert "4 of 6 runs frozen, 0 of them now, 1 replaced (1 part" in str(again)
    after, study = files_of(frozen), thaw(frozen)
    assert {name for name in before if after[name] != before[name]} == {"manifest.json"}
    assert (last_loss(study, run_id), study.account["finished"] + study.account["diverged"]) == (1.25, 4)
    assert Counter(i for part in json.loads(after["manifest.json"])["parts"].values() for i in part["runs"]) == Counter(
        result_ids(mixed_study)
    )
    assert study.runs.set_index("run_id").loc[run_id, "device_name"] == "NVIDIA H100"
    again = freeze(load(back), frozen, replace=True)  # and back, to a part that is there already
    assert (again.replaced, last_loss(thaw(frozen), run_id)) == (1, loss)


@pytest.mark.parametrize("replace", [False, True])
def test_a_result_that_contradicts_a_frozen_one_is_an_error(frozen: Path, mixed_study: Path, replace: bool) -> None:
    before, run_id = files_of(frozen), result_ids(mixed_study)[0]
    another_result(Record(mixed_study / run_id))
    with pytest.raises(InputError, match=rf"{run_id} is in .*frozen \(metrics .* and in .*tiny.* with different bits"):
        freeze(load(mixed_study), frozen, replace=replace)
    assert files_of(frozen) == before


def test_a_result_of_another_version_is_not_frozen_beside_others_unless_mixed(
    mixed_study: Path, tmp_path: Path
) -> None:
    first, second, *_ = result_ids(mixed_study)
    other = Record(mixed_study / second)
    rewrite_end(other, other.status() | {"training_version": TRAINING_VERSION - 1})
    folder = tmp_path / "frozen"
    found = freeze(load(mixed_study), folder)
    assert [text for text in found.left_out if "of version" in text] == [
        f"{second} is of version {TRAINING_VERSION - 1} of the training code, not {TRAINING_VERSION}: "
        "--mixed freezes it too"
    ]
    assert found.added == 3
    assert freeze(load(mixed_study), folder, mixed=True).added == 1
    assert thaw(folder).runs.set_index("run_id")["training_version"][[first, second]].tolist() == [
        TRAINING_VERSION, TRAINING_VERSION - 1
    ]  # fmt: skip


def test_two_freezes_at_once_add_both_their_runs(tmp_path: Path) -> None:
    """Real processes, of two machines' folders into one."""
    path, folders = write_study(tmp_path, seed=[0, 1], steps=10), []
    for i in (0, 1):
        (tmp_path / str(i)).mkdir()
        folders.append(trained(path, tmp_path / str(i), lambda config, i=i: config.seed == i))
    command = "import sys; from pathlib import Path; from analysis.load import load; " \
              "from analysis.sources.frozen import freeze; freeze(load(sys.argv[1]), Path(sys.argv[2]))"  # fmt: skip
    for folder in folders:
        load(folder)
    processes = [subprocess.Popen([sys.executable, "-c", command, str(folder), str(tmp_path / "kept")], cwd=ROOT)
                 for folder in folders]  # fmt: skip
    assert [process.wait(120) for process in processes] == [0, 0]
    assert thaw(tmp_path / "kept").account["finished"] == 2


_KILLED = """
import os, signal, sys
from pathlib import Path
from analysis.load import load
from analysis.sources.frozen import freeze

def hook(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

study = load(sys.argv[1])
sys.addaudithook(hook)
freeze(study, Path(sys.argv[2]))
"""


def test_a_freeze_killed_as_the_manifest_moves_into_place_is_made_good_by_the_next(tmp_path: Path) -> None:
    """A real process and a real SIGKILL, of the first freeze into a folder and of a further one."""
    path = write_study(tmp_path, seed=[0, 1], steps=10)
    folder = trained(path, tmp_path, lambda config: config.seed == 0)
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "study.json").write_text('{"grows": true}')
    for finished in (1, 2):
        arguments = [sys.executable, "-c", _KILLED, folder, kept, "manifest.json"]
        assert subprocess.run(arguments, cwd=ROOT, check=False).returncode == -signal.SIGKILL
        assert list(kept.glob(".manifest.json.*.tmp"))
        assert (kept / "manifest.json").exists() == (finished == 2)
        assert freeze(load(folder), kept).added == 1
        assert thaw(kept).account["finished"] == finished
        assert not [name for name in files_of(kept) if ".tmp" in name]
        trained(path, tmp_path)


def test_what_is_frozen_in_another_folder_is_added_without_its_records(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    """As of two contributors, who each froze a part: the parts are copied, byte for byte."""
    path, folders = write_study(tmp_path, seed=[0, 1, 2], steps=10), []
    whole = trained(path, tmp_path)
    for seeds in ({0}, {0, 1}, {2}):
        folders.append(tmp_path / f"of-{min(seeds)}-{len(seeds)}")
        some = shutil.copytree(whole, tmp_path / f"{folders[-1].name}-records" / "tiny")
        for record in run_folders(some):
            if record.config().seed not in seeds:
                shutil.rmtree(record.folder)
        freeze(load(some), folders[-1], kept_weights(some))
    into, *others = folders
    have = [word for folder in others for word in ("--have", folder)]
    arguments = ("report", path, "--runs-dir", tmp_path / "none", "--freeze", into, "--no-report")
    code, output, errors = command(*arguments, *have)
    assert (code, "3 of 3 runs frozen, 2 of them now (2 parts" in output) == (0, True), output + errors
    pd.testing.assert_frame_equal(thaw(into).history, load(whole).history)
    for other in others:
        parts = {name: content for name, content in files_of(other).items() if name != "manifest.json"}
        assert parts.items() <= files_of(into).items()
    before = files_of(into)
    output = command(*arguments, *have)[1]
    assert ("3 of 3 runs frozen, 0 of them now" in output, "not frozen:" in output) == (True, False)
    assert files_of(into) == before
    refrozen(others[1], lambda status: status | {"metrics_sha256": "0" * 64, "training_version": 1})
    code, output, _ = command(*arguments, "--have", others[1])
    assert (code, f"in {others[1]} is frozen with another result" in output) == (0, True)
    assert files_of(into) == before
    first = ("--have", others[0], "--have", others[1])
    arguments = (*arguments[:-3], "--freeze", tmp_path / "apart", "--no-report")
    output = command(*arguments, *first)[1]
    assert f"in {others[1]} is of version 1 of the training code, not {TRAINING_VERSION}: --mixed freezes" in output
    assert "3 of 3 runs frozen, 1 of them now" in command(*arguments, *first, "--mixed")[1]


def test_a_freeze_stopped_at_any_write_leaves_the_old_or_the_new_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before and after each file is written or moved; the next freeze then adds what this one did not."""
    path = write_study(tmp_path, seed=[0, 1], steps=10, n_evaluations=1)
    folder = trained(path, tmp_path, lambda config: config.seed == 0)
    kept = freeze(load(folder), tmp_path / "kept", kept_weights(folder)).folder
    trained(path, tmp_path)
    study, states = load(folder), Counter()
    moves = {"replace": os.replace, "rmtree": shutil.rmtree, "write_atomically": freezing.write_atomically}
    where = {"replace": freezing.os, "rmtree": freezing.shutil, "write_atomically": freezing}
    for i in itertools.count():
        copy, count = shutil.copytree(kept, tmp_path / f"kept{i}"), itertools.count()

        def stopping(move: Callable[..., object], i: int = i, count: Iterator[int] = count) -> Callable[..., object]:
            def moved(*arguments: object, **named: object) -> object:
                number = next(count)
                if number == i // 2 and not i % 2:
                    raise KeyboardInterrupt
                result = move(*arguments, **named)
                if number == i // 2:
                    raise KeyboardInterrupt
                return result

            return moved

        with monkeypatch.context() as patch:
            for name, move in moves.items():
                patch.setattr(where[name], name, stopping(move))
            try:
                freeze(study, copy, kept_weights(folder))
                break
            except KeyboardInterrupt:
                pass
        states[thaw(copy).account["finished"]] += 1
        freeze(study, copy, kept_weights(folder))
        assert thaw(copy).account["finished"] == 2
        assert not [name for name in files_of(copy) if ".tmp" in name]
    assert i > 12
    assert set(states) == {1, 2}
    assert states[2] <= 2  # the manifest's own replacement is the last


def test_older_parts_lack_what_came_later(frozen: Path, mixed_study: Path) -> None:
    """A metric and a field of a configuration that a part does not have: missing, and the default; ids stay valid."""
    part = next((frozen / "parts").iterdir())
    manifest = json.loads((frozen / "manifest.json").read_text())
    history = pd.read_parquet(part / "history.parquet").drop(columns=["grad_norm/g", "eval/fd_pixels"])
    runs = pd.read_parquet(part / "runs.parquet")
    runs["config"] = [json.dumps({k: v for k, v in json.loads(c).items() if k != "init"}) for c in runs["config"]]
    history.to_parquet(part / "history.parquet")
    runs.to_parquet(part / "runs.parquet")
    for name in ("history.parquet", "runs.parquet"):
        manifest["parts"][part.name]["files"][name] = hashlib.sha256((part / name).read_bytes()).hexdigest()
    manifest["sha256"] = freezing.fingerprint(manifest)
    (frozen / "manifest.json").write_text(json.dumps(manifest))
    study = thaw(frozen)
    assert "grad_norm/g" not in study.history or study.history["grad_norm/g"].isna().all()
    assert set(study.found) >= set(result_ids(mixed_study))
    assert set(study.runs.loc[study.runs["state"] != "missing", "init"]) == {"notebook"}


@pytest.mark.slow
def test_the_report_of_frozen_data_is_the_same_bytes(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    """But for the pictures of samples, of which fewer are kept."""
    folder = trained(write_study(tmp_path, seed=[0, 1], arm=["dcgan", "sn"], steps=60), tmp_path)
    kept = tmp_path / "kept"
    code, output, errors = command("report", folder, "--freeze", kept, "--figures", "svg,pdf")
    assert code == 0, errors
    assert f"{kept}: 4 of 4 runs frozen" in output
    assert command("report", "--from", kept, "--figures", "svg,pdf")[0] == 0
    files = [path for path in (folder / "report").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".html", ".md", ".json", ".csv", ".tex", ".svg", ".pdf"}
    for path in files:
        if path.suffix != ".html" and not path.name.startswith(("samples", "evolution")):
            assert path.read_bytes() == (kept / "report" / path.relative_to(folder / "report")).read_bytes(), path


@pytest.mark.slow
def test_the_frozen_demo_gives_the_statistics_that_were_recorded(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    """A real study of 9 runs: what today's code makes of its data, against what is kept beside them."""
    results = ROOT / "experiments" / "results" / "demo"
    data = shutil.copytree(results / "data", tmp_path / "data")
    code, _, errors = command("report", "--from", data, "--figures", "svg")
    assert code == 0, errors
    found = json.loads((data / "report" / "statistics.json").read_text())
    kept = json.loads((results / "statistics.json").read_text())
    assert differences(found, kept) == []
    for name in ("arms", "failures", "quality", "sigma", "operators", "lipschitz", "paired_failures"):
        table = pd.read_csv(data / "report" / "tables" / f"{name}.csv")
        rows = pd.DataFrame(kept[name]).fillna(math.nan).infer_objects()
        pd.testing.assert_frame_equal(table, rows[list(table)], check_dtype=False, rtol=1e-6)
    figures = {path.stem for path in (data / "report" / "figures").glob("*.svg")}
    assert {row["figure"] for row in kept["claims"]} - {"", "causes"} < figures  # no run failed
    page = (data / "report" / "index.html").read_text()
    drawn = figures - {"samples", "samples-all"}  # the film shows these
    assert set(re.findall(r'<figure id="figure-([^"]*)"', page)) == drawn
    assert all(f">{row['run_id']}</td>" in page for row in kept["runs"])


def differences(x: object, y: object, where: str = "") -> list[str]:
    """Where two JSON values differ by more than the rounding of another machine."""
    if isinstance(x, dict) and isinstance(y, dict):
        missing = [f"{where}/{key}" for key in set(x) ^ set(y)]
        return missing + [d for key in set(x) & set(y) for d in differences(x[key], y[key], f"{where}/{key}")]
    if isinstance(x, list) and isinstance(y, list):
        if len(x) != len(y):
            return [f"{where}: {len(x)} and {len(y)} entries"]
        return [d for i, pair in enumerate(zip(x, y, strict=True)) for d in differences(*pair, f"{where}/{i}")]
    if isinstance(x, float) and isinstance(y, float | int):
        return [] if math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-9) else [f"{where}: {x} and {y}"]
    return [] if x == y else [f"{where}: {x!r} and {y!r}"]


def test_a_changed_byte_is_named(frozen: Path) -> None:
    for name in ("parts/*/history.parquet", "parts/*/runs.parquet", "parts/*/weights/*"):
        path = next(frozen.glob(name))
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(InputError, match=f"{re.escape(path.name)} is not what was frozen"):
            thaw(frozen)
        path.write_bytes(content)
    manifest = frozen / "manifest.json"
    content = manifest.read_text()
    manifest.write_text(content.replace("Which is which?", "Which is whim?"))
    with pytest.raises(InputError, match=r"manifest\.json is not what was frozen"):
        thaw(frozen)
    manifest.write_text(content)
    next(frozen.glob("parts/*/samples/*/*.png")).unlink()
    with pytest.raises(InputError, match="is missing"):
        thaw(frozen)


def test_no_file_is_read_that_the_manifest_does_not_list(frozen: Path, tmp_path: Path) -> None:
    """Of a folder of someone else's, whose grids may be links to the reader's pictures."""
    before = {run_id: set(grids) for run_id, grids in thaw(frozen).samples.items()}
    private = tmp_path / "private.png"
    Image.new("L", (8, 8), 200).save(private)
    real = next(frozen.glob("parts/*/samples/*/real.png"))
    for number, folder in enumerate(frozen.glob("parts/*/samples/*")):
        (folder / f"step-{number:06d}.png").symlink_to(private)
        if not (folder / "real.png").exists():
            (folder / "real.png").symlink_to(private)
    study = thaw(frozen)
    assert {run_id: set(grids) for run_id, grids in study.samples.items()} == before
    assert list(study.real.values()) == [real]
    grid = next(iter(next(iter(study.samples.values())).values()))
    grid.rename(tmp_path / "grid.png")
    grid.symlink_to(tmp_path / "grid.png")  # the bytes are those of the manifest
    with pytest.raises(InputError, match="leads out of the folder"):
        thaw(frozen)


DEEP = "[" * 100_000 + "]" * 100_000


def _with_digests(folder: Path) -> None:
    """As a hostile author would freeze what lies there."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, part in manifest["parts"].items():
        part["files"] = {
            f: hashlib.sha256((folder / "parts" / name / f).read_bytes()).hexdigest() for f in part["files"]
        }
    (folder / "manifest.json").write_text(json.dumps(manifest | {"sha256": fingerprint(manifest)}))


@pytest.mark.parametrize("value", [DEEP, "{", "[]", "3", None])
@pytest.mark.parametrize("column", ["config", "status", "protocol"])
def test_what_no_run_writes_is_named_though_its_digest_fits(
    column: str, value: str | None, frozen: Path, command: Callable
) -> None:
    (path, *_) = frozen.glob("parts/*/runs.parquet")
    table = parquet.read_table(path).to_pylist()
    table[0][column] = value
    parquet.write_table(pyarrow.Table.from_pylist(table), path)
    _with_digests(frozen)
    for arguments in (("report", f"frozen:{frozen}"), ("plan", "demo", "--have", frozen)):
        code, _, errors = command(*arguments)
        assert (code, f"runs.parquet, {column} of {table[0]['run_id']}" in errors) == (2, True), errors


@pytest.mark.parametrize("name", ["runs", "history", "evaluations"])
def test_what_is_no_table_is_named_though_its_digest_fits(name: str, frozen: Path, command: Callable) -> None:
    (path, *_) = frozen.glob(f"parts/*/{name}.parquet")
    parquet.write_table(parquet.read_table(path).drop_columns("run_id"), path)
    for words in ("expected one column of words each: run_id", "is not readable as Parquet"):
        _with_digests(frozen)
        code, _, errors = command("report", f"frozen:{frozen}")
        assert (code, f"{name}.parquet" in errors, words in errors) == (2, True, True), errors
        path.write_bytes(b"PAR1")


@pytest.mark.parametrize("plan", ["a: " + DEEP, "a: [", "\n".join(" " * i + "a:" for i in range(3000))])
def test_a_plan_that_is_no_yaml_is_named(plan: str, frozen: Path, command: Callable) -> None:
    manifest = json.loads((frozen / "manifest.json").read_text()) | {"plan": plan}
    (frozen / "manifest.json").write_text(json.dumps(manifest | {"sha256": fingerprint(manifest)}))
    code, _, errors = command("report", f"frozen:{frozen}")
    assert (code, "manifest.json, plan: not valid YAML" in errors) == (2, True)


def test_no_table_is_read_elsewhere(frozen: Path, tmp_path: Path) -> None:
    manifest = json.loads((frozen / "manifest.json").read_text())
    (name, part) = next(iter(manifest["parts"].items()))
    elsewhere = shutil.copytree(frozen / "parts" / name, tmp_path / "elsewhere")
    lacking = {file: digest for file, digest in part["files"].items() if file != "history.parquet"}
    (frozen / "parts" / name / "history.parquet").unlink()
    (frozen / "parts" / name / "history.parquet").symlink_to(elsewhere / "history.parquet")
    for parts in ({str(elsewhere): {"runs": part["runs"], "files": {}}}, {name: part | {"files": lacking}}):
        changed = manifest | {"parts": parts}
        (frozen / "manifest.json").write_text(json.dumps(changed | {"sha256": fingerprint(changed)}))
        with pytest.raises(InputError, match="is no part of a frozen study"):
            thaw(frozen)


def test_of_another_folder_nothing_is_taken_over_that_its_manifest_does_not_list(tmp_path: Path) -> None:
    path = write_study(tmp_path, seed=[0, 1], steps=10)
    one, two = (trained(path, tmp_path / str(seed), lambda config, seed=seed: config.seed == seed) for seed in (0, 1))
    other = freeze(load(two), tmp_path / "other").folder
    (part,) = (other / "parts").iterdir()
    (tmp_path / "private").write_text("private")
    (part / "samples" / "notes").symlink_to(tmp_path / "private")
    into = freeze(load(one), tmp_path / "into", also=[other]).folder
    assert (into / "parts" / part.name / "runs.parquet").exists()
    assert not list(into.rglob("notes"))


def test_mistakes_are_named(frozen: Path, mixed_study: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(InputError, match="is not empty, and no frozen study"):
        freeze(load(mixed_study), tmp_path / "other")
    (tmp_path / "theirs" / "parts" / "engine").mkdir(parents=True)
    with pytest.raises(InputError, match="is not empty, and no frozen study"):
        freeze(load(mixed_study), tmp_path / "theirs")
    assert (tmp_path / "theirs" / "parts" / "engine").is_dir()
    with pytest.raises(InputError, match=r"manifest\.json is missing"):
        thaw(tmp_path / "nowhere")
    manifest = frozen / "manifest.json"
    content = json.loads(manifest.read_text())
    next(iter(content["parts"].values()))["files"]["../../../x"] = "0"
    manifest.write_text(json.dumps(content | {"sha256": freezing.fingerprint(content)}))
    with pytest.raises(InputError, match="leads out of the folder"):
        thaw(frozen)
    for text, message in (
        ("{", "not readable"),
        ("[]", "schema"),
        ('{"runs.parquet": "0"}', "schema 1, expected 2"),
        ('{"schema": 2, "study": "a", "plan": "", "parts": {"a": 3}}', "not the manifest"),
    ):
        manifest.write_text(text)
        with pytest.raises(InputError, match=message):
            thaw(frozen)


def test_a_report_can_be_made_of_a_loaded_study(mixed_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import analysis.page.report as report

    monkeypatch.setattr(report.figures, "draw", lambda *_: [])  # the figures take most of the time
    assert write_report(load(mixed_study)) == mixed_study / "report" / "index.html"


def test_contexts_that_were_named_stay_named(mixed_study: Path, tmp_path: Path) -> None:
    """A copy that was launched before its file named them has the same runs, and does not take the names away."""
    path, folder = mixed_study / "study.yaml", tmp_path / "frozen"
    before = path.read_text()
    path.write_text(before + "primary: {spread: {dataset: digits}}\n")
    named = load(mixed_study)
    freeze(named, folder)
    path.write_text(before)
    unnamed = load(mixed_study)
    assert unnamed.primary == {}
    freeze(unnamed, folder)
    assert thaw(folder).primary == named.primary == {"spread": "digits, setting C"}
    path.write_text(before + "primary: {failures: {dataset: digits}}\n")
    with pytest.raises(InputError, match="what is judged is named once, beforehand"):
        freeze(load(mixed_study), folder)
    assert thaw(folder).primary == named.primary
    again = tmp_path / "again"
    freeze(unnamed, again)
    freeze(named, again)
    assert thaw(again).primary == named.primary


def test_fd_pixels_is_frozen_under_its_name_and_comes_back_as_quality(tmp_path: Path) -> None:
    study = own_images(tmp_path / "own", ("a", 0, "pixels"), ("b", 3, "labels"))
    folder = freeze(study, tmp_path / "kept").folder
    (part,) = (folder / "parts").iterdir()
    rows = parquet.read_table(part / "history.parquet").to_pandas()
    pixels = rows["run_id"].isin(study.runs.loc[study.runs["judge"] == "pixels", "run_id"])
    assert rows.loc[pixels, "eval/fd"].isna().all()
    assert rows.loc[pixels, "eval/fd_pixels"].notna().any()
    again = thaw(folder)
    pd.testing.assert_frame_equal(
        again.history.sort_values(["run_id", "step"], ignore_index=True),
        study.history.sort_values(["run_id", "step"], ignore_index=True),
    )
    assert again.terms_in("folder aaaaaaaa, judge pixels").quality == "fd_pixels"


def test_no_place_on_this_machine_is_frozen(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", images=np.zeros((60, 28, 28), np.uint8))
    study = write_study(tmp_path, dataset=f"'npz:{tmp_path / 'own.npz'}'", steps=2, n_fake=40)
    folder = freeze(load(trained(study, tmp_path)), tmp_path / "kept").folder
    runs = parquet.read_table(next((folder / "parts").iterdir()) / "runs.parquet").to_pylist()
    attempts = [attempt for run in runs for attempt in json.loads(run["status"])["attempts"]]
    assert attempts
    for attempt in attempts:
        assert "data_dir" not in attempt
        assert "own.npz" not in json.dumps(attempt)
