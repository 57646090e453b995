"""What a row of the record is made of. Measured after the step, in eval mode; no measurement moves the run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from sngan import quantities
from sngan.config import RunConfig
from sngan.constraints import Constraint
from sngan.convolutions import ConvTranspose2d
from sngan.data import ImageData, normalized
from sngan.losses import THRESHOLDS
from sngan.models import Discriminator
from sngan.sigma import ConvSigma, batch_norm_gain, log_sigmas, matrix_sigma, singular_values, spectrum, standing_still
from sngan.spectral import SpectralPenalty, as_matrix, matrix_dim, raw_weight, sigma_estimates, weight_layers
from sngan.streams import layer_generators, normal, numpy_generator, torch_generator

N_SAMPLES = 64  # images of a sample grid
N_POINTS = 64  # images of each kind at which D's gradient with respect to its input is measured
# they stretch nothing, in eval mode
_CONTRACTIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout2d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONVOLUTIONS = tuple(of.forward for of in (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, ConvTranspose2d))
_CHAINS = (nn.Sequential.forward, Discriminator.forward)

_D_KEYS = (
    *("loss/d", "loss/d_adversarial", "loss/d_penalty", "loss/d_real", "loss/d_fake"),
    *("logit/real", "logit/fake", "logit/max_abs", "accuracy/d_real", "accuracy/d_fake", "grad_norm/d"),
)
_G_KEYS = ("loss/g", "grad_norm/g")


def gradient_norm(network: nn.Module) -> Tensor:
    """Euclidean norm over all gradients of a network, a () tensor."""
    return torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])


class Window:
    """Scalars of the updates since the previous row; they stay on the device until `means` fetches them once.

    An update writes them at a position that lies on the device, too, so that the same program may be replayed.
    """

    def __init__(self, config: RunConfig, device: torch.device | str) -> None:
        self._config, self.steps = config, 0
        dtype = getattr(torch, config.dtype)
        # one row per D update, in the order of _D_KEYS, and one per G update, in that of _G_KEYS
        self._d = torch.zeros(config.log_every * config.n_dis, len(_D_KEYS), dtype=dtype, device=device)
        self._g = torch.zeros(config.log_every, len(_G_KEYS), dtype=dtype, device=device)
        self._at_d, self._at_g = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))

    @torch.no_grad()
    def add_d(
        self,
        D: nn.Module,
        losses: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],  # total, adversarial, penalty, real, fake
        logits_real: Tensor,
        logits_fake: Tensor,
    ) -> None:
        largest = torch.maximum(logits_real.abs().max(), logits_fake.abs().max())
        threshold = THRESHOLDS.get(self._config.loss, 0.0)
        # shares of the batch on the right side
        accuracies = ((logits_real > threshold).to(largest).mean(), (logits_fake < threshold).to(largest).mean())
        logits = (logits_real.mean(), logits_fake.mean(), largest)
        row = torch.stack([*losses, *logits, *accuracies, gradient_norm(D)])
        self._d.index_copy_(0, self._at_d, row[None])
        self._at_d.add_(1)

    @torch.no_grad()
    def add_g(self, G: nn.Module, loss_g: Tensor) -> None:
        self._g.index_copy_(0, self._at_g, torch.stack([loss_g, gradient_norm(G)])[None])
        self._at_g.add_(1)

    def clear(self) -> None:
        self.steps = 0
        self._at_d.zero_()
        self._at_g.zero_()

    def tensors(self) -> list[Tensor]:
        return [self._d, self._g]

    def _rows(self) -> tuple[Tensor, Tensor]:
        return self._d[: self.steps * self._config.n_dis], self._g[: self.steps]

    def state(self) -> dict[str, list[Tensor]]:
        d, g = (rows.clone() for rows in self._rows())
        return {"d": list(d), "g": list(g)}

    def load_state(self, state: dict[str, list[Tensor]]) -> None:
        self.clear()
        self.steps = len(state["g"])
        for rows, values in zip(self._rows(), (state["d"], state["g"]), strict=True):
            for row, value in zip(rows, values, strict=True):
                row.copy_(value)
        self._at_d.fill_(len(state["d"]))
        self._at_g.fill_(len(state["g"]))

    def means(self) -> dict[str, float]:
        """Means over the window; of `logit/max_abs` the maximum, of `grad_norm/*` also both extremes."""
        row: dict[str, float] = {}
        for keys, rows in zip((_D_KEYS, _G_KEYS), self._rows(), strict=True):
            values = rows.double().cpu().numpy()  # (updates, keys)
            for key, column in zip(keys, values.T, strict=True):
                if key == "logit/max_abs":
                    row[key] = float(column.max())
                    continue
                row[key] = float(column.mean())
                if key.startswith("grad_norm/"):
                    row[f"{key}_min"], row[f"{key}_max"] = float(column.min()), float(column.max())
        if self._config.loss not in THRESHOLDS:
            del row["accuracy/d_real"], row["accuracy/d_fake"]
        return row


class Instruments:
    """Spectral norms of D's layers, D's gradients with respect to images, and the fixed latents' images.

    `sigma_estimate/<layer>` is the power iteration's running value u'Wv: the constraint's if it reads one, else of an
    instrument's own vectors (stream `power_iteration/<layer>`), advanced one round per row. `sigma_conv` is a lower
    bound within 1e-6 of a singular value; of a dense layer it is its sigma. It is there only for layers that run as
    torch's do, a convolution on inputs of one size. `lipschitz/product` is there only if D is a chain (see `links`) and
    the gain of everything in it is known (that of a layer norm has no bound). The points of `grad_x` are the same all
    through a run and in all arms of a seed (stream `instruments`): 64 real images, the images of 64 latents, and
    random points between the two. Batch norm uses its running statistics, which mix real and fake images.
    """

    def __init__(self, config: RunConfig, G: nn.Module, D: nn.Module, constraint: Constraint, data: ImageData) -> None:
        self._config, self._G, self._D, self._constraint = config, G, D, constraint
        device = next(G.parameters()).device  # the data's, or a CPU for a copy of networks
        self._layers = dict(weight_layers(D))
        self._probe = None
        if self._layers and not any(key.startswith("sigma_estimate/") for key in constraint.readings()):
            self._probe = SpectralPenalty(D, generator=layer_generators(config.seed))
        dtype = getattr(torch, config.dtype)
        self._z = normal((N_SAMPLES, config.z_dim), torch_generator(config.seed, "samples"), dtype, device)
        chosen = numpy_generator(config.seed, "instruments").integers(len(data.images), size=N_POINTS)
        self._x_real = normalized(data.images[torch.from_numpy(chosen).to(data.images.device)].to(device), dtype)
        generator = torch_generator(config.seed, "instruments")
        self._z_points = normal((N_POINTS, config.z_dim), generator, dtype, device)
        self._mixture = torch.rand(N_POINTS, 1, 1, 1, generator=generator, dtype=dtype).to(device)
        seen = _input_shapes(D, self._x_real[:2])
        self._operators = {
            name: operator
            for name, layer in self._layers.items()
            if (operator := _operator(layer, seen[name], torch_generator(config.seed, f"instruments/{name}")))
        }
        self._dense = {name for name, layer in self._layers.items() if _runs_as(layer, (nn.Linear.forward,))}
        self._norms = _norms(D, self._layers, seen)
        once = all(len(seen[name]) == 1 for name in self._layers)
        self._has_product = once and _has_bound(D, {*self._operators, *self._dense}, self._norms)

    def state(self) -> dict[str, Any]:
        """What the next rows depend on: the vectors of the power iterations that are the instruments' own."""
        probe = self._probe.state_dict() if self._probe else {}
        return {"operators": {name: o.vector for name, o in self._operators.items()}, "probe": probe}

    def load_state(self, state: dict[str, Any]) -> None:
        for name, operator in self._operators.items():
            operator.vector = state["operators"][name].cpu()
        if self._probe:
            self._probe.load_state_dict(state["probe"])

    def row(self, step: int, window: dict[str, float]) -> dict[str, Any]:
        d_updates = step * self._config.n_dis
        row: dict[str, Any] = {"step": step, "d_updates": d_updates, "images_seen": d_updates * self._config.batch_size}
        row |= window
        used, readings = log_sigmas(self._D), self._constraint.readings()
        if self._probe is not None:
            with standing_still(self._D):
                self._probe.advance()
                estimates = self._probe.sigma_estimates() | sigma_estimates(self._D)
            readings |= {f"sigma_estimate/{name}": sigma for name, sigma in estimates.items()}
        for name, layer in self._layers.items():
            raw = raw_weight(layer).detach()
            row[f"sigma/{name}"] = used[name]
            row[f"sigma_raw/{name}"] = matrix_sigma(raw, matrix_dim(layer)).item()
            row[f"sigma_estimate/{name}"] = readings.pop(f"sigma_estimate/{name}").item()
            row[f"weight_norm/{name}"] = raw.double().norm().item()
        row |= {key: reading.item() for key, reading in readings.items()}
        if self._config.has_instruments(step):
            row |= self._operator_norms(used) | self._input_gradients()
        return row

    def _operator_norms(self, used: dict[str, float]) -> dict[str, float]:
        row, product = {}, 1.0
        for name, layer in self._layers.items():
            if name in self._operators or name in self._dense:
                row[f"sigma_conv/{name}"] = self._operators[name]().item() if name in self._operators else used[name]
                product *= row[f"sigma_conv/{name}"]
            if name in self._norms:
                gain = batch_norm_gain(self._norms[name])
                with standing_still(layer):
                    weight = as_matrix(layer.weight.detach().double(), matrix_dim(layer))  # type: ignore[union-attr,operator]
                row[f"sigma_bn/{name}"] = matrix_sigma(gain[:, None] * weight).item()
                product *= gain.abs().max().item()
            shape = spectrum(raw_weight(layer), matrix_dim(layer))
            row[f"stable_rank/{name}"] = shape.stable_rank
            row[f"effective_rank/{name}"] = shape.effective_rank
            row[f"spectrum_share/{name}"] = shape.share
        return row | ({"lipschitz/product": product} if self._has_product else {})

    def _input_gradients(self) -> dict[str, float]:
        row = {}
        with evaluating(self._G, self._D):
            with torch.no_grad():
                x_fake = self._G(self._z_points)
            mixed = self._mixture * self._x_real + (1 - self._mixture) * x_fake
            for kind, x in (("real", self._x_real), ("fake", x_fake), ("interpolated", mixed)):
                norms = input_gradient_norms(self._D, x)
                row[f"grad_x/{kind}"], row[f"grad_x/{kind}_max"] = norms.mean().item(), norms.max().item()
        return row | {"lipschitz/empirical": max(value for key, value in row.items() if key.endswith("_max"))}

    def spectra(self) -> dict[str, list[float]]:
        """`spectrum/<layer>`: every singular value of the raw parameter, largest first."""
        return {
            f"spectrum/{name}": singular_values(raw_weight(layer), matrix_dim(layer)).tolist()
            for name, layer in self._layers.items()
        }

    @torch.no_grad()
    def samples(self) -> Tensor:
        """Images (64, C, side, side) in [-1, 1] of the fixed latents, batch norm by its running statistics."""
        with evaluating(self._G):
            return self._G(self._z)


def input_gradient_norms(D: nn.Module, x: Tensor) -> Tensor:
    """|dD/dx| of every image (N, C, H, W), (N,) float64; no gradient of D's parameters is touched.

    Per image only in eval mode: batch norm in train mode mixes the images of a batch.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(D(x).sum(), x)
    return gradient.flatten(1).double().norm(dim=1)


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Eval mode, and train mode again."""
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for network in networks:
            network.train()


@torch.no_grad()
def _input_shapes(D: nn.Module, x: Tensor) -> dict[str, list[tuple[int, ...]]]:
    """layer -> (C, height, width), or another shape of one input, at each of its calls when D sees x.

    () for a call with further arguments, such as the size that shall come out of a transposed convolution.
    """
    seen: dict[str, list[tuple[int, ...]]] = {name: [] for name, _ in weight_layers(D)}

    def remember(name: str) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            given = [*inputs, *named.values()]
            seen[name].append(tuple(given[0].shape[1:]) if len(given) == 1 else ())

        return hook

    hooks = [layer.register_forward_pre_hook(remember(name), with_kwargs=True) for name, layer in weight_layers(D)]
    try:
        with evaluating(D):
            D(x)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def links(network: nn.Module) -> list[nn.Module]:
    """What a network runs, each on what the one before gives: of nn.Sequential, and of D as built here, all parts.

    Of anything else nobody knows what it runs: it is one link.
    """
    if not _runs_as(network, _CHAINS):
        return [network]
    return [link for part in network._modules.values() if part is not None for link in links(part)]


def _runs_as(module: nn.Module, forwards: tuple[Any, ...]) -> bool:
    """Whether the module's forward pass is one of these functions; a parametrized module has its class's."""
    return type(module).forward in forwards and "forward" not in vars(module)


def _operator(layer: nn.Module, seen: list[tuple[int, ...]], generator: torch.Generator) -> ConvSigma | None:
    """Of a convolution that runs as torch's and whose inputs (C, ..) are all of one size; None of other layers."""
    if len({*seen}) == 1 and _runs_as(layer, _CONVOLUTIONS):
        with suppress(ValueError):  # there was no batch dimension
            return ConvSigma(layer, seen[0][1:], generator)
    return None


def _norms(D: nn.Module, layers: dict[str, nn.Module], seen: dict[str, list[tuple[int, ...]]]) -> dict[str, nn.Module]:
    """layer -> the batch norm that scales its outputs; of layers that are called once, and see vectors or images."""
    followers, norms = dict(itertools.pairwise(links(D))), {}
    for name, layer in layers.items():
        norm, once = followers.get(layer), [len(shape) for shape in seen[name]] == [raw_weight(layer).ndim - 1]
        if once and type(norm) in _BATCH_NORMS and getattr(norm, "running_var", None) is not None:
            norms[name] = norm
    return norms


def _has_bound(D: nn.Module, measured: set[str], norms: dict[str, nn.Module]) -> bool:
    """Whether all that D runs is a layer of known norm, a batch norm right after one, or stretches nothing."""
    layers = {layer: name for name, layer in weight_layers(D)}
    rest = [link for link in links(D) if layers.get(link) not in measured]
    behind = [link for link in rest if type(link) in _BATCH_NORMS]
    if len(behind) != len(norms):  # one stands elsewhere
        return False
    return all(
        type(link) in (*_BATCH_NORMS, *_CONTRACTIONS) or (type(link) is nn.LeakyReLU and abs(link.negative_slope) <= 1)
        for link in rest
    )


@torch.no_grad()
def magnitudes(*networks: nn.Module) -> Tensor:
    """Sum of the absolute values of each parameter, in order: not finite if one of them is not."""
    return torch.stack(torch._foreach_norm([p.detach() for n in networks for p in n.parameters()], 1))  # type: ignore[attr-defined]


def non_finite(row: dict[str, Any], samples: Tensor | None, parameters: dict[str, float]) -> str:
    """The first of the training's keys with non-finite values, or of the parameters that hold some; empty if none.

    `parameters`: the magnitude of each, by its name.
    """
    keys = [key for key, value in row.items() if quantities.is_training(key) and not math.isfinite(value)]
    if samples is not None and not samples.isfinite().all():
        keys.append("samples")
    keys = keys or [name for name, magnitude in parameters.items() if not math.isfinite(magnitude)]
    return ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
