"""The loader of exported networks makes every pair of networks that there is."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import small
from safetensors.torch import load_file, save_file

from experiments import standalone
from experiments.export import export
from experiments.record import Record
from experiments.run import execute
from sngan.architectures import ARCHITECTURES
from sngan.arms import ARMS


@pytest.mark.parametrize(("arm", "precision"), [("sn_dcgan", "float64"), *((arm, "float32") for arm in ARMS)])
def test_every_arm_loads_and_gives_the_numbers_of_its_export(arm: str, precision: str, tmp_path: Path) -> None:
    config = small(arm=arm, precision=precision, steps=1)
    execute(config, "single", tmp_path, lambda message: None)
    folder = export(Record(tmp_path / config.run_id))
    assert standalone.check(folder) < 1e-6
    generator, discriminator = standalone.load(folder)
    images = generator(torch.randn(3, config.z_dim, dtype=getattr(torch, precision)))
    assert images.shape == (3, config.channels, config.side, config.side)
    assert images.dtype == getattr(torch, precision)
    assert discriminator(images).shape == (3,)
    assert (folder / "load.py").read_text() == Path(standalone.__file__).read_text()


def test_every_architecture_is_of_layers_that_the_loader_knows() -> None:
    kinds = {layer.kind for row in ARCHITECTURES.values() for layer in (*row.generator, *row.discriminator)}
    assert {{"conv": "Conv2d", "deconv": "ConvTranspose2d", "dense": "Linear"}[kind] for kind in kinds} <= set(
        standalone.KINDS
    )


def test_an_unknown_layer_is_named(tmp_path: Path) -> None:
    layers = {"generator": [{"name": "x", "kind": "__import__", "arguments": {}}], "discriminator": []}
    (tmp_path / "export.json").write_text(json.dumps({"layers": layers}))
    with pytest.raises(ValueError, match="x: unknown kind of layer '__import__'"):
        standalone.load(tmp_path)


def test_a_weight_that_is_not_finite_is_no_equal(tmp_path: Path) -> None:
    config = small(steps=1)
    execute(config, "single", tmp_path, lambda message: None)
    folder = export(Record(tmp_path / config.run_id))
    weights = load_file(folder / "generator.safetensors")
    next(weight for weight in weights.values() if weight.ndim == 4)[0, 0, 0, 0] = torch.nan
    save_file(weights, folder / "generator.safetensors")
    assert standalone.check(folder) == math.inf
    content = json.loads((folder / "export.json").read_text())
    content["probe"] = {name: [None] * 2 for name in content["probe"]}  # of a run that diverged
    (folder / "export.json").write_text(json.dumps(content))
    assert standalone.check(folder) == 0
    (folder / "generator.safetensors").write_bytes(b"broken")
    command = [sys.executable, folder / "load.py", folder]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
