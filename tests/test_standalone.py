"""The loader of exported networks makes every pair of networks that there is."""

import json
from pathlib import Path

import pytest
import torch
from conftest import small

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
