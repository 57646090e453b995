"""A trained run's networks for use elsewhere: sample grids, and safetensors without the constraint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from experiments import checkpoint, standalone
from experiments.images import grid_png
from experiments.record import Record, to_json
from sngan.arms import ARMS
from sngan.config import InputError, from_parameters
from sngan.constraints import Constraint
from sngan.files import write_atomically
from sngan.measure import N_SAMPLES
from sngan.state import build, unconstrained
from sngan.streams import torch_generator

WEIGHTS = "discriminator.safetensors"  # of a run that came here in an archive


def networks(record: Record) -> tuple[nn.Module, nn.Module]:
    """The run's final G and D on the CPU, in eval mode.

    Raises InputError if it has no weights (yet), or the checkpoint is not one of this run.
    """
    return _trained(record)[:2]


def _trained(record: Record) -> tuple[nn.Module, nn.Module, Constraint]:
    """`networks`, and what constrains D."""
    config = record.config()
    try:
        state = checkpoint.read(record.checkpoint_path)
    except FileNotFoundError as error:
        raise InputError(
            f"{record.run_id} has no weights: it is {record.status()['state']}, and weights are kept when it has ended"
        ) from error
    try:  # fields that the program did not have yet when it was saved take their defaults
        own = from_parameters(state["config"]) == config
    except (KeyError, TypeError, InputError):
        own = False
    if not own:
        raise InputError(f"{record.checkpoint_path} is not a checkpoint of the run that config.json describes")
    G, D, constraint = build(config, "cpu")
    try:
        G.load_state_dict(state["G"])
        D.load_state_dict(state["D"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{record.checkpoint_path} does not hold the run's networks: {error}") from error
    return G.eval(), D.eval(), constraint


def discriminator_weights(record: Record) -> bytes | None:
    """D's final weights as trained (raw parameters, u and v, batch norm), as a safetensors file; None without any.

    From the checkpoint, else from the file of an archived run, which has none.
    """
    try:
        _, D = networks(record)
    except InputError:
        kept = record.folder / WEIGHTS
        return kept.read_bytes() if kept.exists() and not record.checkpoint_path.exists() else None
    return save({key: value.contiguous() for key, value in D.state_dict().items()})


@torch.no_grad()
def write_samples(record: Record, seed: int = 0) -> Path:
    """64 samples of new latents (stream `sample` of `seed`) into <run>/samples/sample.png."""
    if not 0 <= seed < 2**32:
        raise InputError(f"seed: {seed} is out of range; it must be from 0 to 4,294,967,295")
    config = record.config()
    G, _ = networks(record)
    generator = torch_generator(seed, "sample")  # `samples` are the latents that the run itself drew
    z = torch.randn(N_SAMPLES, config.z_dim, generator=generator, dtype=getattr(torch, config.dtype))
    return record.write_sample("sample.png", grid_png(G(z)))


@torch.no_grad()
def export(record: Record) -> Path:
    """<run>/export/{generator,discriminator}.safetensors, export.json and load.py; the constraint is removed.

    The discriminator's outputs on fixed images are checked to be those of the trained network. load.py makes the
    networks from these files without this program. Returns the folder.
    """
    config = record.config()
    G, D, constraint = _trained(record)
    dtype, image = getattr(torch, config.dtype), (config.channels, config.side, config.side)
    probe = torch.rand(16, *image, generator=torch_generator(0, "instruments"), dtype=dtype) * 2 - 1
    before = D(probe)
    constraint.remove()
    D_plain = unconstrained(config)[1].eval()
    D_plain.load_state_dict(D.state_dict())  # raises if anything else is left of D
    difference = D_plain(probe).sub(before).abs().max().item()
    tolerance = 1e-5 * max(1.0, before.abs().max().item())
    if not difference <= tolerance and before.isfinite().all():
        raise RuntimeError(f"{record.run_id}: without its constraint the discriminator differs by {difference}")
    out = record.folder / "export"
    out.mkdir(exist_ok=True)
    shapes = {}
    for name, network in (("generator", G), ("discriminator", D_plain)):
        tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
        shapes[name] = {key: list(value.shape) for key, value in tensors.items()}
        write_atomically(out / f"{name}.safetensors", save(tensors))
    description = {
        "run_id": config.run_id,
        "config": config.identity(),
        "input": {"generator": ["N", config.z_dim], "discriminator": ["N", *image], "images": "in [-1, 1]"},
        "spectral_norm": "removed",
        "constraint": ARMS[config.arm].constraint,  # what D was trained under, and is no part of it now
        "largest_difference": difference,
        "layers": {"generator": _layers(G), "discriminator": _layers(D_plain)},
        "probe": standalone.probe(G, D_plain, config.z_dim, dtype),  # load.py compares with it
        "tensors": shapes,
    }
    write_atomically(out / "export.json", to_json(description, indent=2) + "\n")
    write_atomically(out / "load.py", Path(standalone.__file__).read_text(encoding="utf-8"))
    return out


_ARGUMENTS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: ("in_channels", "out_channels", "kernel_size", "stride", "padding"),
    nn.ConvTranspose2d: ("in_channels", "out_channels", "kernel_size", "stride", "padding"),
    nn.Linear: ("in_features", "out_features"),
    nn.BatchNorm2d: ("num_features", "eps"),
    nn.GroupNorm: ("num_groups", "num_channels", "eps"),
    nn.LeakyReLU: ("negative_slope",),
    nn.Unflatten: ("dim", "unflattened_size"),
    **dict.fromkeys((nn.ReLU, nn.Tanh, nn.Flatten), ()),
}
"""Kind of layer -> what makes one like it"""


def _layers(network: nn.Module) -> list[dict[str, Any]]:
    """The layers of a sequential network as load.py makes them again. Raises KeyError for an unknown kind."""
    layers = []
    for name, layer in network.named_children():
        kind = next(kind for kind in _ARGUMENTS if isinstance(layer, kind))
        arguments = {argument: getattr(layer, argument) for argument in _ARGUMENTS[kind]}
        layers.append({"name": name, "kind": kind.__name__, "arguments": arguments})
    return layers
