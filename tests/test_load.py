import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import HOSTILE, ROOT, small, write_study

from analysis.events import Thresholds
from analysis.load import load
from analysis.measured import bounds_of
from analysis.page import tables
from analysis.page.content import content_of
from analysis.sources import records
from analysis.study import STATES, assemble
from experiments.record import Record, run_folders
from experiments.run import execute
from experiments.study import find, read
from sngan.architectures import ARCHITECTURES, Layer
from sngan.config import InputError


def test_every_planned_run_is_accounted_for(mixed_study: Path) -> None:
    study = load(mixed_study)
    expected = {"finished": 3, "diverged": 1, "failed": 1, "interrupted": 0, "running": 0, "missing": 1}
    assert study.account.to_dict() == expected
    assert list(study.account.index) == list(STATES)
    runs = study.runs.set_index(["arm", "seed"])
    assert len(runs) == 6
    assert runs.loc[("sn", 2), "state"] == "missing"
    assert runs.loc[("sn", 2), "attempts"] == 0
    assert runs.loc[("dcgan", 2), "error"] == HOSTILE
    assert runs.loc[("dcgan", 0), "batch_size"] == 16
    assert study.extra == [small(arm="penalty", steps=60).run_id]
    assert "penalty" not in set(study.runs["arm"]) | set(study.history["arm"])


def test_history_is_the_rows_on_disk(mixed_study: Path) -> None:
    study = load(mixed_study)
    for record in run_folders(mixed_study):
        if record.run_id in study.extra:
            continue
        found = study.history[study.history["run_id"] == record.run_id]
        lines = [line for line in record.metrics_path.read_text().splitlines() if line.endswith("}")]
        assert len(found) == len(lines)  # a torn last line is no row
        for row, line in zip(found.to_dict("records"), lines, strict=True):
            for key, value in json.loads(line).items():
                kept = value if value is None or key.startswith("eval/") else float(np.float32(value))
                assert row[key] == kept or (kept is None and np.isnan(row[key]))
    assert study.history.loc[study.history["step"] == 0, "loss/d"].isna().all()  # absent stays missing
    assert study.history["step"].dtype == study.history["seed"].dtype == np.int64
    assert (study.history["context"] == "digits, setting C").all()


def test_metrics_that_a_run_did_not_end_with_are_named(mixed_study: Path) -> None:
    assert set(load(mixed_study).runs["damage"]) == {""}
    changed, missing = (
        Record(mixed_study / small(steps=60).run_id),
        Record(mixed_study / small(steps=60, seed=1).run_id),
    )
    with open(changed.metrics_path, "a") as file:
        file.write('{"step": 70}\n')
    missing.metrics_path.unlink()
    damage = load(mixed_study).runs.set_index("run_id")["damage"]
    assert damage[changed.run_id] == "metrics.jsonl was changed after the run ended"
    assert damage[missing.run_id] == "metrics.jsonl is missing"
    assert (damage != "").sum() == 2
    problems = {run["run_id"]: run["error"] for run in content_of(load(mixed_study), [], Thresholds())["problems"]}
    assert {run_id: problems[run_id] for run_id in (changed.run_id, missing.run_id)} == dict(damage[damage != ""])


def test_a_metric_that_is_no_number_is_named_with_its_file(mixed_study: Path) -> None:
    record = Record(mixed_study / small(steps=60).run_id)
    record.metrics_path.write_text('{"step": 0, "loss/d": "high"}\n')
    study = load(mixed_study)
    assert "a metric is no number" in study.runs.set_index("run_id").loc[record.run_id, "damage"]


def test_variants_name_the_parameters_that_differ_and_contexts_the_settings(tmp_path: Path) -> None:
    folder = tmp_path / "wide"
    folder.mkdir()
    path = write_study(tmp_path, "wide", arm=["dcgan", "penalty"], penalty_weight=[0.01, 0.1], n_dis=[1, 2], steps=10)
    (folder / "study.yaml").write_text(path.read_text())
    execute(small(steps=10), "wide", folder, lambda message: None)
    runs = load(folder).runs
    assert set(runs["variant"]) == {"dcgan", "penalty, penalty_weight 0.01", "penalty, penalty_weight 0.1"}
    assert set(runs["context"]) == {"digits, setting C", "digits, setting custom"}
    assert (runs.groupby("context").size() == 3).all()


def test_a_folder_without_a_study_file_is_all_its_runs(tmp_path: Path) -> None:
    for seed in (0, 1):
        execute(small(seed=seed, steps=10), "single", tmp_path / "single", lambda message: None)
    study = load(str(tmp_path / "single"))
    assert (study.name, study.account["finished"], study.extra) == ("single", 2, [])


def test_where_there_is_nothing_the_message_says_what_to_do(tmp_path: Path, mixed_study: Path) -> None:
    with pytest.raises(InputError, match="train first with `sngan sweep demo`"):
        load(tmp_path / "demo")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no run has started there"):
        load(tmp_path / "empty")


def test_analysis_imports_no_torch_and_no_wandb() -> None:
    code = (
        "import sys, analysis.load, analysis.stability, analysis.stats, analysis.page.plots, analysis.page.report;"
        "sys.exit(', '.join({'torch', 'wandb', 'torchvision'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_results_are_read_once(mixed_study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second look reads what is no result yet; a changed or new run is read, and a damaged cache not believed."""
    read, real = [], records.rows
    monkeypatch.setattr(records, "rows", lambda path: (read.append(path.parent.name), real(path))[1])
    first = load(mixed_study)
    results = set(first.runs.loc[first.runs["state"].isin(["finished", "diverged"]), "run_id"])
    assert len(read) == 6

    def again(expected: set[str]) -> None:
        read.clear()
        pd.testing.assert_frame_equal(load(mixed_study).history, first.history)
        assert set(read) & results == expected

    again(set())
    cache = mixed_study / ".history.cache"
    content, rng = cache.read_bytes(), random.Random(0)
    for _ in range(30):
        place = rng.randrange(len(content))
        cache.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :])
        pd.testing.assert_frame_equal(load(mixed_study).history, first.history)
    cache.unlink()
    again(results)
    record = Record(mixed_study / sorted(results)[0])
    record.metrics_path.write_bytes(record.metrics_path.read_bytes().replace(b'"loss/d": 0.', b'"loss/d": 9.'))
    read.clear()
    changed = load(mixed_study)
    assert set(read) & results == {record.run_id}
    assert (changed.runs["damage"] != "").sum() == 1
    assert not changed.history.equals(first.history)


def test_the_contexts_that_a_studys_file_names_are_found(tmp_path: Path) -> None:
    plan = find("mnist-short")
    study = assemble(plan, tmp_path, {})
    assert study.primary == {
        "failures": "mnist, setting custom, lr 0.03", "spread": "mnist, setting custom, lr 0.005",
        "C14": "mnist, setting custom, lr 0.01",
    }  # fmt: skip
    assert set(study.primary.values()) < set(study.runs["context"])
    assert set(assemble(find("paper-settings"), tmp_path, {}).primary.values()) == {"mnist, setting C"}


def test_networks_of_two_kinds_are_two_contexts_with_their_own_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named by the architecture alone: the widths that come with it need no word."""
    layers = (
        Layer("conv10", "conv", 1, kernel=4, stride=2, norm=True, activation="leaky_relu"),
        Layer("conv2", "conv", 2, kernel=3, norm=True, activation="leaky_relu"),
        Layer("last", "dense", "logit"),
    )
    other = replace(ARCHITECTURES["dcgan28"], g_width=8, d_width=4, z_dim=8, discriminator=layers)
    monkeypatch.setitem(ARCHITECTURES, "other", other)
    folder = tmp_path / "study"
    folder.mkdir()
    lines = ["name: study", "method: grid", "parameters:", "  dataset: {value: digits}", "  steps: {value: 10}"]
    lines += ["  architecture: {values: [dcgan28, other]}", "  batch_size: {value: 16}", "  n_fake: {value: 50}"]
    (folder / "study.yaml").write_text("\n".join(lines) + "\n")
    for config in read(folder / "study.yaml").configs:
        config = replace(config, threads=1, device="cpu", wandb="disabled")
        assert execute(config, "study", folder, lambda message: None).state == "finished"
    study = load(folder)
    contexts = [f"digits, setting C, architecture {name}" for name in ("dcgan28", "other")]
    assert list(study.runs["context"]) == contexts
    for table in (tables.sigmas(study).frame, tables.operators(study).frame):
        assert list(zip(table["context"], table["layer"], table["n"], strict=True)) == [
            *((contexts[0], layer, 1) for layer in ("conv1", "conv2", "conv3")),
            *((contexts[1], layer, 1) for layer in ("conv10", "conv2", "last")),
        ]
    assert bounds_of(study, contexts[1]) == {"conv10": 2, "conv2": 3, "last": 1}
