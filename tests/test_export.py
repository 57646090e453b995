import io
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from experiments.export import export, networks, write_samples
from experiments.record import Record
from experiments.run import execute
from sngan.arms import ARMS
from sngan.config import InputError
from sngan.models import Discriminator, Generator


def trained(folder: Path, **changes: object) -> Record:
    config = small(**changes)
    assert execute(config, "single", folder, lambda message: None).state == "finished"
    return Record(folder / config.run_id)


@pytest.mark.parametrize("arm", ARMS)
def test_exported_weights_in_plain_networks_give_the_trained_outputs(tmp_path: Path, arm: str) -> None:
    record = trained(tmp_path, arm=arm)
    out = export(record)
    G, D = networks(record)
    x, z = torch.rand(8, 1, 28, 28) * 2 - 1, torch.randn(8, 64)
    config = record.config()
    plain_g = Generator(config.z_dim, config.channels, config.g_width)
    plain_d = Discriminator(config.channels, config.d_width, ARMS[arm].norm)
    plain_g.load_state_dict(load_file(out / "generator.safetensors"))
    plain_d.load_state_dict(load_file(out / "discriminator.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(plain_d.eval()(x), D(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(plain_g.eval()(z), G(z))


def test_exported_sn_weights_have_sigma_near_one(tmp_path: Path) -> None:
    tensors = load_file(export(trained(tmp_path, arm="sn", n_power_iterations=20)) / "discriminator.safetensors")
    weights = [w for w in tensors.values() if w.ndim == 4]
    assert [np.linalg.svd(w.flatten(1), compute_uv=False)[0] for w in weights] == pytest.approx([1] * 3, abs=0.05)


def test_samples_are_a_grid_that_depends_on_the_seed(tmp_path: Path) -> None:
    record = trained(tmp_path, init="dcgan")  # the notebook's small gains still give one grey image after 30 steps
    first = np.asarray(Image.open(write_samples(record, seed=1)))
    assert first.shape == (242, 242)
    assert record.samples_path / "sample.png" == write_samples(record, seed=2)
    assert not np.array_equal(first, np.asarray(Image.open(record.samples_path / "sample.png")))
    assert np.array_equal(first, np.asarray(Image.open(write_samples(record, seed=1))))


def test_a_run_without_weights_is_refused(tmp_path: Path) -> None:
    record = trained(tmp_path)
    record.checkpoint_path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="not readable"):
        export(record)
    record.checkpoint_path.unlink()
    with pytest.raises(InputError, match="has no weights"):
        export(record)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    record, other = trained(tmp_path), trained(tmp_path, arm="sn")
    own = record.checkpoint_path.read_bytes()
    for content, message in (
        (other.checkpoint_path.read_bytes(), "not a checkpoint of the run"),
        (saved([1, 2]), "not a checkpoint of a run"),
        (saved({"config": record.config().identity(), "G": {}}), "does not hold the run's networks"),
    ):
        record.checkpoint_path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            networks(record)
    record.checkpoint_path.write_bytes(own)
    networks(record)


def test_a_checkpoint_of_an_older_program_lacks_fields_that_have_defaults_now(tmp_path: Path) -> None:
    record = trained(tmp_path)
    state = torch.load(record.checkpoint_path, weights_only=True)
    del state["config"]["instrument_every"], state["sha256"], state["training_version"]
    record.checkpoint_path.write_bytes(saved(state))
    networks(record)


def saved(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def test_new_samples_are_not_those_that_the_run_drew(tmp_path: Path) -> None:
    record = trained(tmp_path, init="dcgan", seed=1)
    drawn = np.asarray(Image.open(record.samples_path / "step-000030.png"))
    assert not np.array_equal(drawn, np.asarray(Image.open(write_samples(record, seed=1))))


def test_networks_are_in_eval_mode(tmp_path: Path) -> None:
    assert not any(module.training for network in networks(trained(tmp_path)) for module in nn.Module.modules(network))
