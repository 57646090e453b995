"""float32 is float32 on CUDA too: the flags that decide it are read at the moment that counts. No GPU is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small, write_study

from experiments.run import execute
from sngan import train as training
from sngan.config import InputError, RunConfig
from sngan.data import load
from sngan.measure import Instruments
from sngan.precision import check_precision, set_products
from sngan.state import build
from sngan.train import train
from sngan.yardstick import Classifier


def flags() -> tuple[str, str]:
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _as_torch_starts() -> Iterator[None]:
    set_products("tf32")
    torch.backends.cudnn.deterministic = False
    yield
    set_products("ieee")
    torch.backends.cudnn.deterministic = True


def test_after_build_float32_is_float32_and_repeatable() -> None:
    assert flags() == ("tf32", "tf32")
    build(small(), "cpu")
    assert flags() == ("ieee", "ieee")
    assert torch.backends.cudnn.deterministic


def seen_in_a_run(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[tuple[str, str]]]:
    """The flags while networks train, while rows are made, while the yardstick looks."""
    seen: dict[str, set[tuple[str, str]]] = {"steps": set(), "rows": set(), "yardstick": set()}

    def note(place: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kw: (seen[place].add(flags()), function(*args, **kw))[1]

    monkeypatch.setattr(training, "check_precision", lambda *_: None)  # as if the device were a CUDA device
    monkeypatch.setattr(training, "minimize", note("steps", training.minimize))
    monkeypatch.setattr(Instruments, "row", note("rows", Instruments.row))
    monkeypatch.setattr(Classifier, "features", note("yardstick", Classifier.features))
    train(config, load("digits"), lambda row, samples: None)
    return seen


@pytest.mark.parametrize(("precision", "steps"), [("float32", "ieee"), ("bfloat16", "ieee"), ("tf32", "tf32")])
def test_only_the_steps_of_a_tf32_run_use_it(precision: str, steps: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = seen_in_a_run(small(precision=precision, steps=4, log_every=2), monkeypatch)
    assert seen == {"steps": {(steps, steps)}, "rows": {("ieee", "ieee")}, "yardstick": {("ieee", "ieee")}}
    assert flags() == ("ieee", "ieee")


def test_a_tf32_run_that_fails_leaves_float32_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        assert flags() == ("tf32", "tf32")
        raise RuntimeError("within a step")

    monkeypatch.setattr(training, "check_precision", lambda *_: None)
    monkeypatch.setattr(training, "minimize", fail)
    with pytest.raises(RuntimeError, match="within a step"):
        train(small(precision="tf32"), load("digits"), None)
    assert flags() == ("ieee", "ieee")


def test_real_images_are_judged_in_float32_before_any_network_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference of a process's first run, which all its runs share, is made before `build`."""
    from sngan import evaluate

    seen = []
    features = Classifier.features
    monkeypatch.setattr(Classifier, "features", lambda self, x: (seen.append(flags()), features(self, x))[1])
    monkeypatch.setattr(evaluate, "references", {})
    evaluate.Evaluation(small(), load("digits"))
    assert set(seen) == {("ieee", "ieee")}
    assert flags() == ("tf32", "tf32")  # what the process had


def test_tf32_is_refused_on_a_cpu(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    check_precision("tf32", "cuda:1")
    message = "precision tf32 needs a CUDA device, and the device is cpu"
    config = small(precision="tf32")
    with pytest.raises(InputError, match=message):
        train(config, load("digits"), None)
    with pytest.raises(InputError, match=message):
        execute(config, "single", tmp_path, lambda message: None)
    assert not list(tmp_path.iterdir())
    path = write_study(tmp_path, precision=["float32", "tf32"])
    for line in (
        ("train", "--dataset", "digits", "--steps", 2, "--precision", "tf32", "--device", "cpu"),
        ("sweep", path, "--device", "cpu"),
    ):
        code, out, err = command(*line, "--runs-dir", tmp_path / "runs", "--wandb", "disabled")
        assert (code, out) == (2, "")
        assert message in err
        assert "use precision float32 there" in err


def test_tf32_is_a_run_of_its_own() -> None:
    """With an id of its own, and parameters in float32."""
    config = small()
    assert config.run_id != small(precision="tf32").run_id
    assert small(precision="tf32").dtype == "float32"
