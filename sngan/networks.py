"""A caller's own generator and discriminator, checked before anything of them is changed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from sngan.arms import ARMS, VOID
from sngan.config import InputError, RunConfig
from sngan.constraints import CONSTRAINTS
from sngan.data import ImageData
from sngan.feed import Feed
from sngan.measure import input_gradient_norms
from sngan.spectral import raw_weight, weight_layers
from sngan.values import submodules

Networks = tuple[nn.Module, nn.Module]
"""G: latents (N, z_dim) -> images (N, C, side, side) in [-1, 1]; D: images -> N logits"""

_LARGE = 1e4  # what latents are multiplied by to see whether images stay in [-1, 1]
_ROUNDING = 1e-3  # by which they may leave it


def check_networks(config: RunConfig, data: ImageData, networks: Any) -> None:
    """Raises InputError for networks with which `train` cannot do what it says, and says what would be right.

    Copies of them run as in training, on a batch of the run's size, and as they are measured. Nothing of the networks
    changes, nor any random state.
    """
    if not isinstance(networks, tuple | list) or [isinstance(n, nn.Module) for n in networks] != [True, True]:
        several = networks if isinstance(networks, tuple | list) else [networks]
        kinds = ", ".join(type(network).__name__ for network in several[:4]) or "none"
        raise InputError(f"networks: expected a tuple of two modules, (G, D), got {kinds}")
    G, D = networks
    for name, network in (("G", G), ("D", D)):
        _check_parameters(name, network)
    if shared := {*G.parameters()} & {*D.parameters()}:
        names = [name for name, parameter in D.named_parameters() if parameter in shared]
        raise InputError(f"G and D share parameters, D's {', '.join(names)}: each must have its own")
    _check_layers(config, D)
    cuda = [data.images.device] if data.images.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come again when it is done
        with _reported("the networks cannot be copied, on which they are checked without changing them"):
            G, D = copy.deepcopy((G, D))
        _try(config, data, G, D)


def _check_parameters(name: str, network: nn.Module) -> None:
    """Raises InputError for parameters that are none yet, that are no real numbers, or of which none is trained."""
    for path, part in network.named_modules():
        if isinstance(part, LazyModuleMixin):
            raise InputError(f"layer {path!r} of {name} ({type(part).__name__}) is lazy and has no weights yet: run "
                             f"{name} once before, or give the layer its sizes")  # fmt: skip
    with _reported(f"{name} cannot be trained"):
        submodules(network)
    for path, parameter in network.named_parameters():
        if parameter.is_meta or not parameter.is_floating_point():
            what = "has no values (device meta)" if parameter.is_meta else f"is of type {parameter.dtype}"
            raise InputError(f"parameter {path!r} of {name} {what}; all must be real floating-point numbers")
        if not parameter.isfinite().all():
            raise InputError(f"parameter {path!r} of {name} is not finite: initialize it before")
    if not any(parameter.requires_grad for parameter in network.parameters()):
        none = "all of them have requires_grad False" if any(True for _ in network.parameters()) else "it has none"
        raise InputError(f"{name} has no parameter that can be trained: {none}")


def _check_layers(config: RunConfig, D: nn.Module) -> None:
    """Raises InputError for layers of D that the arm, or an instrument, cannot have."""
    arm, constraint = f"arm {config.arm}", CONSTRAINTS[ARMS[config.arm].constraint]
    layers = list(weight_layers(D))
    for name, layer in layers:
        where = f"layer {name!r} of D ({type(layer).__name__})"
        if not isinstance(raw_weight(layer), nn.Parameter):
            raise InputError(f"{where} has a weight that is no parameter: a hook computes it, as those of weight norm "
                             "and pruning do, or it is a buffer. Make it a plain one before")  # fmt: skip
        if constraint.of_weights and parametrize.is_parametrized(layer, "weight"):
            raise InputError(f"{where} has a weight that something else computes already, and {arm} must have plain "
                             "ones: give D as it was built, or call remove_spectral_norm(D) before")  # fmt: skip
        if constraint.divides and not raw_weight(layer).any():
            raise InputError(f"{where} has a weight of zero, and {arm} divides weights by a norm: initialize it")
    if constraint.of_weights and not layers:
        raise InputError(f"D has no Conv*, ConvTranspose* or Linear layer, and {arm} is about their weights; arms "
                         "dcgan and plain constrain nothing, gp and r1 the slope of any network")  # fmt: skip
    if not constraint.of_any_network:
        raise InputError(f"{arm} is for the networks of an architecture, whose rows say the sizes of the layers' "
                         "inputs; with networks of your own take sn, sn_svd or bsn")  # fmt: skip
    why = VOID.get((ARMS[config.arm].constraint, "batch"), "")
    norms = [name for name, part in D.named_modules() if isinstance(part, _BatchNorm)]
    if why and norms and config.void_combination == "refuse":
        raise InputError(f"{arm} means nothing with the batch norm in D ({', '.join(norms)}): {why}. Take another "
                         "one or none, or allow it: d_norm batch and void_combination allow")  # fmt: skip


def _try(config: RunConfig, data: ImageData, G: nn.Module, D: nn.Module) -> None:
    """One update without an optimizer, then what instruments do. Raises InputError for what fails, and wrong shapes."""
    device, dtype, layout = data.images.device, getattr(torch, config.dtype), layout_of(config)
    with _reported("the networks cannot be moved to the data's device and the run's precision"):
        for network in (G, D):
            network.to("cpu", dtype).train()
    with _reported(f"arm {config.arm} cannot be applied to D"):
        constraint = CONSTRAINTS[ARMS[config.arm].constraint](config, D)
    feed = Feed(config, data, dtype, further=constraint.sources())
    constraint.draw = feed.of_update
    feed.turn()
    for network in (G, D, constraint):
        move(network, device, layout)
    x_real, z = feed.real().to(memory_format=layout), feed.z_d()
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16", cache_enabled=False):
        x_fake = _images(config, G, z, x_real).to(dtype)
        logits = _logits(config, D, x_fake).to(dtype)
    with _reported("D's logits of G's images have no gradient for both networks"):
        (logits.sum() + constraint.weighted_penalty(x_real, x_fake.detach())).backward()
        for name, network in (("G", G), ("D", D)):
            if all(parameter.grad is None for parameter in network.parameters()):
                raise InputError(f"no parameter of {name} gets a gradient from D's logits of G's images: is something "
                                 "detached, or computed outside of torch?")  # fmt: skip
    for network in (G, D):
        network.eval()
    with torch.no_grad():
        images = _images(config, G, z[:2], x_real[:2])
        _check_range(_called("G", G, _LARGE * z[:2], config), f"latents {_LARGE:,.0f} times as large")
    _logits(config, D, images)
    with _reported("D's logits have no gradient with respect to its input"):
        input_gradient_norms(D, x_real[:2])


def _images(config: RunConfig, G: nn.Module, z: Tensor, x_real: Tensor) -> Tensor:
    """G's, in the real ones' shape and range. Raises InputError for others."""
    images = _called("G", G, z, config)
    if images.shape != x_real.shape:
        raise InputError(f"G makes {tuple(images.shape)} of latents {tuple(z.shape)}, and must make images as the "
                         f"data's, {tuple(x_real.shape)}")  # fmt: skip
    if not images.isfinite().all():
        raise InputError("G's images are not finite")
    _check_range(images, "standard normal latents")
    return images


def _check_range(images: Tensor, of: str) -> None:
    """Raises InputError for finite values outside of [-1, 1]."""
    values = images[images.isfinite()]
    if len(values) and values.abs().max() > 1 + _ROUNDING:
        raise InputError(f"G's images of {of} reach from {values.min().item():.3g} to {values.max().item():.3g}, and "
                         "real ones lie in [-1, 1]: let G end in nn.Tanh()")  # fmt: skip


def _logits(config: RunConfig, D: nn.Module, x: Tensor) -> Tensor:
    """D's, (N,). Raises InputError if it gives another number than one for each image, or not finite ones."""
    logits = _called("D", D, x, config)
    if logits.ndim == 0 or len(logits) != len(x) or logits.numel() != len(x):
        raise InputError(f"D makes {tuple(logits.shape)} of images {tuple(x.shape)}, and must make one logit for each, "
                         f"({len(x)},) or ({len(x)}, 1)")  # fmt: skip
    if not logits.isfinite().all():
        raise InputError(f"D's logits are not finite under arm {config.arm}")
    return logits.flatten()


def _called(name: str, network: nn.Module, x: Tensor, config: RunConfig) -> Tensor:
    """What a network makes of x. Raises InputError for what fails within it, and for what is no tensor of numbers."""
    what, mode = "latents" if name == "G" else "images", "train" if network.training else "eval"
    try:
        made = network(x)
    except Exception as error:
        hint = _first_layer(network, config) if name == "G" else ""
        if "view size" in str(error) and config.memory_format == "channels_last":
            hint += "; images are in channels_last here, and view() works with memory_format='contiguous' in RunConfig"
        raise InputError(f"{name} fails in {mode} mode on {what} {tuple(x.shape)}: {_said(error)}{hint}") from error
    if not isinstance(made, Tensor) or not made.is_floating_point():
        kind = str(made.dtype) if isinstance(made, Tensor) else type(made).__name__
        raise InputError(f"{name} must make one tensor of real floating-point numbers, and makes {kind}")
    return made


def _first_layer(G: nn.Module, config: RunConfig) -> str:
    """What G's first layer takes, if that is no z (N, z_dim)."""
    for name, layer in weight_layers(G):
        takes: Any = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
        hints = []
        if takes != config.z_dim:
            hints.append(f"z_dim={takes} in RunConfig gives it as many")
        if not isinstance(layer, nn.Linear):
            hints.append(f"nn.Unflatten(1, ({takes}, 1, 1)) makes pixels of z")
        where = f"; G's first layer {name!r} takes {takes} and z_dim is {config.z_dim}: "
        return f"{where}{', '.join(hints)}. networks are (G, D), in this order" if hints else ""
    return ""


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


@contextmanager
def _reported(what: str) -> Iterator[None]:
    """What is raised within becomes an InputError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {_said(error)}") from error


def layout_of(config: RunConfig) -> torch.memory_format:
    return torch.channels_last if config.memory_format == "channels_last" else torch.contiguous_format


def move(network: nn.Module, device: torch.device | str, layout: torch.memory_format) -> None:
    """Parameters and buffers, in place; those of images' kind, of four dimensions, in that layout."""
    network.to(device)
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.to(memory_format=layout)
