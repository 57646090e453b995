"""What was measured at the end of the runs."""

from dataclasses import replace
from pathlib import Path

import pytest

from analysis import measured
from analysis.load import load
from analysis.measured import bounds_of
from experiments.run import execute
from experiments.study import read
from sngan.architectures import ARCHITECTURES, Layer


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
    contexts = [f"architecture {name}" for name in ("dcgan28", "other")]
    assert list(study.runs["context"]) == contexts
    for table in (measured.sigmas(study), measured.operators(study)):
        assert list(zip(table["context"], table["layer"], table["n"], strict=True)) == [
            *((contexts[0], layer, 1) for layer in ("conv1", "conv2", "conv3")),
            *((contexts[1], layer, 1) for layer in ("conv10", "conv2", "last")),
        ]
    assert bounds_of(study, contexts[1]) == {"conv10": 2, "conv2": 3, "last": 1}
