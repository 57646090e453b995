"""What was measured at the end of the runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from others import own_images

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


def test_samples_have_the_columns_that_their_judge_can_tell(tmp_path: Path) -> None:
    first = ["context", "arm", "n"]
    pixels = own_images(tmp_path, ("a", 0, "pixels"))
    frame = measured.quality(pixels)
    assert list(frame) == [*first, "fd_pixels", "fd_pixels_low", "fd_pixels_high"]
    ends = pixels.history.groupby(["arm", "seed"])["eval/fd"].last()["sn"]
    sn, reals, trivial = (frame.set_index("arm").loc[name] for name in ("sn", "real against real", "trivial sampler"))
    assert sn[["n", "fd_pixels", "fd_pixels_low"]].tolist() == [3, ends.median(), ends.min()]
    assert (reals["fd_pixels"], trivial["fd_pixels"]) == (0.5, 160)
    inception = measured.quality(own_images(tmp_path, ("a", 0, "inception")))
    assert list(inception)[3:8] == ["FID", "FID_low", "FID_high", "fd_pixels", "KID"]
    assert not {"fd", "kd", "modes", "mode_kl", "effective_modes"} & set(inception)
    assert inception.set_index("arm").loc["trivial sampler", "FID"] == 40
    mixed = measured.quality(own_images(tmp_path, ("a", 0, "pixels"), ("b", 3, "labels"))).set_index(["context", "arm"])
    of_pixels = mixed.loc[("folder aaaaaaaa, judge pixels", "sn")]
    assert np.isnan(of_pixels["fd"])
    assert of_pixels[["n", "fd_pixels"]].tolist() == [3, ends.median()]
    assert mixed.loc[("folder bbbbbbbb, judge labels", "sn"), "fd_pixels"] == pytest.approx(ends.median())


def test_a_protocol_says_of_pixels_what_there_is(tmp_path: Path) -> None:
    (row,) = measured.protocols(own_images(tmp_path, ("a", 0, "pixels"))).to_dict("records")
    assert not [name for name in row if "feature_net_" in name or name in ("k", "n_features", "trivial_fd")]
    assert (row["real_against_real_fd_pixels"], row["trivial_fd_pixels"], row["runs"]) == (0.5, 160, 6)
    (row,) = measured.protocols(own_images(tmp_path, ("a", 0, "inception"))).to_dict("records")
    assert (row["real_against_real_FID"], row["trivial_FID"]) == (0.3, 40)
