"""Plan and status: what is done, what is missing, how long it takes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small, write_study

from experiments.account import evaluation_flop, evaluation_seconds, step_flop
from experiments.record import Record
from sngan import models
from sngan.config import TRAINING_VERSION, RunConfig
from sngan.losses import adversarial_d, adversarial_g
from sngan.state import build
from sngan.yardstick import Classifier, load_yardstick


def test_plan_and_status_as_tables_and_json(command: Callable, tmp_path: Path) -> None:
    path = write_study(tmp_path, arm=["dcgan", "penalty"], penalty_weight=[0.01, 0.1])
    code, output, _ = command("plan", path, "--runs-dir", tmp_path)
    assert code == 0
    assert "4 cells, 3 runs: 3 missing" in output
    plan = json.loads(command("plan", path, "--json", "--runs-dir", tmp_path)[1])
    assert (plan["cells"], len(plan["runs"]), plan["states"]) == (4, 3, {"missing": 3})
    evaluating = sum(run["evaluation_seconds"] for run in plan["runs"])
    assert 0 < plan["evaluation_share"] == evaluating / sum(run["estimated_seconds"] for run in plan["runs"]) < 1
    assert f"evaluation of samples: about {plan['evaluation_share']:.1%} of the time" in output
    assert plan["core_seconds_left"] == pytest.approx(sum(run["estimated_seconds"] for run in plan["runs"]))
    status = json.loads(command("status", path, "--json", "--runs-dir", tmp_path)[1])
    assert status["account"]["missing"] == len(status["runs"]) == 3
    assert not (tmp_path / "tiny").exists()


def test_what_evaluations_took_is_what_the_plan_says(command: Callable, tmp_path: Path) -> None:
    path = write_study(tmp_path)
    record = Record(tmp_path / "tiny" / small().run_id)
    record.folder.mkdir(parents=True)
    attempt = {"wall_seconds": 50, "evaluation_seconds": 10.0}
    record.write_status({"state": "finished", "step": 30, "error": None, "attempts": [attempt]})
    assert json.loads(command("plan", path, "--json", "--runs-dir", tmp_path)[1])["evaluation_share"] == 0.2


def test_runs_of_other_training_code_are_named_with_what_can_be_done(
    command: Callable, mixed_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("tiny", "--runs-dir", mixed_study.parent)
    assert "training code" not in command("status", *arguments)[1]
    begun = Record(mixed_study / small(arm="sn", seed=2, steps=60).run_id)
    shutil.copytree(mixed_study / small(arm="sn", steps=60).run_id, begun.folder)
    begun.write_status(begun.status() | {"state": "interrupted"})
    shutil.copy(begun.checkpoint_path, begun.previous_checkpoint_path)  # as if it were not over
    monkeypatch.setattr("experiments.account.TRAINING_VERSION", 99)
    for name in ("plan", "status"):
        output = command(name, *arguments)[1]
        assert f"4 of 4 results are of version {TRAINING_VERSION} of the training code, this is 99" in output
    launch = f"sngan sweep tiny --runs-dir {mixed_study.parent}"
    assert f"version {TRAINING_VERSION}, this is 99): resume all the same with {launch} --force" in output
    assert f"resume with {launch}" not in output


def test_a_status_without_time_is_no_obstacle_to_planning(command: Callable, tmp_path: Path) -> None:
    path = write_study(tmp_path)
    record = Record(tmp_path / "tiny" / small().run_id)
    record.folder.mkdir(parents=True)
    record.write_status({"state": "finished", "step": 30, "error": None, "attempts": [{}, {"wall_seconds": "long"}]})
    assert command("plan", path, "--runs-dir", tmp_path)[0] == 0


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """torch's own counter, on torch's own layers, which need more multiplications than ours."""
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.setattr(models, "ConvTranspose2d", torch.nn.ConvTranspose2d)
    return FlopCounterMode(display=False)


def test_flop_of_a_step_are_those_that_torch_counts(counted: Any) -> None:
    """Without batch norm's share, which it does not count either."""
    config = RunConfig(arm="plain", batch_size=8)
    G, D, _ = build(config, "cpu")
    with counted as counter:
        with torch.no_grad():
            fake = G(torch.randn(8, config.z_dim))
        adversarial_d("bce", D(torch.rand(8, 1, 28, 28)), D(fake))[0].backward()
        D.requires_grad_(False)
        adversarial_g("bce", D(G(torch.randn(8, config.z_dim)))).backward()
    assert step_flop(config) == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize("dataset", ["mnist", "stacked_mnist"])
def test_flop_of_an_evaluation_are_those_that_torch_counts(dataset: str, counted: Any) -> None:
    config = RunConfig(dataset=dataset, n_fake=20)  # type: ignore[arg-type]
    G, _, _ = build(config, "cpu")
    with counted as counter, torch.no_grad():
        load_yardstick(dataset).embed(G(torch.randn(20, config.z_dim)))
    assert evaluation_flop(config) == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_what_judges_is_counted(counted: Any) -> None:
    def at(judge: str) -> float:
        return evaluation_flop(RunConfig(dataset="cifar10", judge=judge, n_fake=20))

    def made(network: torch.nn.Module, x: torch.Tensor) -> float:
        with counted as counter, torch.no_grad():
            network(x)
        return counter.get_total_flops()

    G, _, _ = build(RunConfig(dataset="cifar10"), "cpu")
    assert at("pixels") == pytest.approx(made(G, torch.randn(20, 128)), rel=0.05)
    for judge, network, x in (
        ("cifar10", Classifier(3, 32, 10), torch.rand(20, 3, 32, 32)),
        ("mnist", Classifier(1, 28, 10), torch.rand(60, 1, 28, 28)),  # one channel after the other
    ):
        assert at(judge) - at("pixels") == pytest.approx(made(network.eval(), x), rel=0.05)
    assert at("inception") - at("pixels") == pytest.approx(20 * 2 * 5.7e9, rel=0.05)  # Szegedy et al. 2015
    judges = ("pixels", "cifar10", "mnist", "inception")
    seconds = [evaluation_seconds(RunConfig(dataset="cifar10", judge=judge)) for judge in judges]
    assert seconds == sorted(set(seconds))
