"""What the arms do to the discriminator's weights, behind one set of hooks. A new constraint is a class, and a key."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from sngan.architectures import discriminator
from sngan.config import RunConfig
from sngan.divisors import EstimatedNorm, ExactSigma, LinearMap, UnitRows, convolution_map, matrix_map
from sngan.sigma import matrix_sigma, standing_still
from sngan.spectral import (
    SpectralPenalty,
    advance_power_iteration,
    apply_spectral_norm,
    as_matrix,
    hold_power_iteration,
    matrix_dim,
    raw_weight,
    remove_spectral_norm,
    sigma_estimates,
    weight_layers,
)
from sngan.streams import Source, Uniform, layer_generators, torch_generator


class Constraint(nn.Module):
    """No constraint, and the hooks of all: the loop calls them, and does not know which constraint it has.

    It is made of an initialized D on the CPU, whose weights it may parametrize, but not change unless it `initializes`.
    What a resumed run needs is in its state (buffers, or `get_extra_state`); D is none of its modules, and D's state
    has what belongs to D's layers. Everything random comes from named streams of the run's seed.
    """

    initializes = False  # initial weights of its own, made of those that arms of the seed share
    capturable = True  # a CUDA graph can hold it: nothing in it waits for the device
    of_weights = False  # it acts on weights of convolutions and linear layers: D must have some
    divides = False  # these weights by a norm of theirs, which must not be zero
    of_any_network = True  # it needs to know no more of D than its layers

    def __init__(self, config: RunConfig, D: nn.Module) -> None:
        super().__init__()
        self.config, self.dtype = config, getattr(torch, config.dtype)
        self.draw: Callable[[str], Tensor] = {}.__getitem__
        """of the name of one of `sources`: what was drawn for this update. The run says how"""
        self._constrained = (D,)  # in a tuple, so that nn.Module does not register it

    @property
    def D(self) -> nn.Module:
        return self._constrained[0]

    def sources(self) -> dict[str, Source]:
        """Streams of its own, by name, of which there is a draw for each update of D."""
        return {}

    def before_update(self) -> None:
        """Before the forward passes of each update of D."""

    def weighted_penalty(self, x_real: Tensor, x_fake: Tensor) -> Tensor:
        """What is added to D's loss, () with its weight. Images (N, C, H, W) are those of the update, in [-1, 1]."""
        return x_real.new_zeros(())

    def after_update(self) -> None:
        """After the optimizer's step of each update of D: projections."""

    def readings(self) -> dict[str, Tensor]:
        """What the record gets, by metric, each a () tensor; nothing moves.

        `sigma_estimate/<layer>` is used in place of the instruments' own power iteration.
        """
        return {}

    def remove(self) -> None:
        """Leave D with plain weights, and the outputs that it has in eval mode."""


class SpectralNorm(Constraint):
    """Every weight divided by its sigma, of the power iteration. Source: Miyato et al. 2018, Algorithm 1.

    The iteration moves in every training forward, as torch's does, or as in Algorithm 1 once before each update of D.
    """

    of_weights = divides = True

    def __init__(self, config: RunConfig, D: nn.Module) -> None:
        super().__init__(config, D)
        apply_spectral_norm(D, config.n_power_iterations, layer_generators(config.seed))
        if config.power_iteration == "per_update":
            hold_power_iteration(D)

    def before_update(self) -> None:
        if self.config.power_iteration == "per_update":
            advance_power_iteration(self.D, self.config.n_power_iterations)

    def readings(self) -> dict[str, Tensor]:
        return {f"sigma_estimate/{name}": sigma for name, sigma in sigma_estimates(self.D).items()}

    def remove(self) -> None:
        remove_spectral_norm(self.D)


class SpectralNormPenalty(Constraint):
    """(penalty_weight / 2) sum sigma^2 in D's loss. Source: Yoshida & Miyato 2017."""

    of_weights = True

    def __init__(self, config: RunConfig, D: nn.Module) -> None:
        super().__init__(config, D)
        self.penalty = SpectralPenalty(D, config.n_power_iterations, layer_generators(config.seed))

    def weighted_penalty(self, x_real: Tensor, x_fake: Tensor) -> Tensor:
        return self.config.penalty_weight * self.penalty()

    def readings(self) -> dict[str, Tensor]:
        estimates = self.penalty.sigma_estimates()
        ratios = self.penalty.task_ratios(self.config.penalty_weight)
        readings = {f"sigma_estimate/{name}": sigma for name, sigma in estimates.items()}
        return readings | {f"penalty_ratio/{name}": ratio for name, ratio in ratios.items()}


class Divided(Constraint):
    """Every weight divided by a norm of it, which a module on the layer computes: its `norm` and its `advance`."""

    of_weights = divides = True

    def divisor(self, name: str, layer: nn.Module) -> nn.Module:
        raise NotImplementedError

    def __init__(self, config: RunConfig, D: nn.Module) -> None:
        super().__init__(config, D)
        self._divisors = {}  # no modules of this one: they are D's
        for name, layer in weight_layers(D):
            self._divisors[name] = layer, self.divisor(name, layer)
            parametrize.register_parametrization(layer, "weight", self._divisors[name][1])

    def readings(self) -> dict[str, Tensor]:
        with torch.no_grad():
            return {
                f"sigma_estimate/{name}": of.norm(raw_weight(layer)) for name, (layer, of) in self._divisors.items()
            }

    def remove(self) -> None:
        remove_parametrizations(self.D)


class ExactSpectralNorm(Divided):
    """By the matrix's singular value, exact: what the power iteration of Miyato et al. 2018 estimates."""

    capturable = False

    def divisor(self, name: str, layer: nn.Module) -> nn.Module:
        return ExactSigma(matrix_dim(layer))


class Estimated(Divided):
    """By norms of power iterations, which move as SpectralNorm's do."""

    start = 15  # rounds, as torch's spectral norm has

    def maps(self, name: str, layer: nn.Module) -> list[LinearMap]:
        raise NotImplementedError

    def divisor(self, name: str, layer: nn.Module) -> nn.Module:
        rounds = self.config.n_power_iterations if self.config.power_iteration == "per_forward" else 0
        generator = layer_generators(self.config.seed)(name)
        return EstimatedNorm(raw_weight(layer).detach(), self.maps(name, layer), rounds, self.start, generator)

    def before_update(self) -> None:
        if self.config.power_iteration == "per_update":
            for layer, of in self._divisors.values():
                of.advance(raw_weight(layer), self.config.n_power_iterations)


class ConvolutionNorm(Estimated):
    """By the operator norm of the layer as it runs, its stride, padding and input size included.

    Source: Farnia et al. 2019. A dense layer's is its matrix's.
    """

    start = 200  # singular values of convolutions lie close together
    of_any_network = False  # but the sizes of the layers' inputs, which the architecture's rows say

    def maps(self, name: str, layer: nn.Module) -> list[LinearMap]:
        rows = discriminator(self.config.architecture, self.config.channels, self.config.d_width)
        (side,) = (row.side_in for row in rows if row.layer.name == name)
        return [convolution_map(layer, side) if isinstance(layer, nn.Conv2d) else matrix_map(raw_weight(layer))]


class BidirectionalNorm(Estimated):
    """By (sigma(out x in kh kw) + sigma(in x out kh kw)) / 2. Source: Lin et al. 2021."""

    def maps(self, name: str, layer: nn.Module) -> list[LinearMap]:
        return [matrix_map(raw_weight(layer), dim) for dim in (0, 1)]


class WeightNorm(Constraint):
    """Every output's weights of norm 1, or of a learned norm, torch's own. Source: Salimans & Kingma 2016."""

    of_weights = divides = True

    def __init__(self, config: RunConfig, D: nn.Module) -> None:
        super().__init__(config, D)
        for _, layer in weight_layers(D):
            if config.norm_scale == "learned":
                weight_norm(layer, dim=matrix_dim(layer))
            else:
                parametrize.register_parametrization(layer, "weight", UnitRows(matrix_dim(layer)))

    def remove(self) -> None:
        remove_parametrizations(self.D)


class WeightClipping(Constraint):
    """The layers' weights clipped to +-clip_value after every update; biases and batch norm never.

    Source: Arjovsky et al. 2017, Algorithm 1. Deviation: biases are not clipped.
    """

    of_weights = True

    @torch.no_grad()
    def after_update(self) -> None:
        for _, layer in weight_layers(self.D):
            raw_weight(layer).clamp_(-self.config.clip_value, self.config.clip_value)

    def readings(self) -> dict[str, Tensor]:
        bound = self.config.clip_value * (1 - 1e-6)
        return {
            f"clipped/{name}": (raw_weight(layer).detach().abs() >= bound).double().mean()
            for name, layer in weight_layers(self.D)
        }


class GradientPenalty(Constraint):
    """penalty_weight E(|dD/dx| - 1)^2 at random points between a real and a generated image.

    Source: Gulrajani et al. 2017, Algorithm 1. In the parameters' type whatever the precision of the other products.
    """

    def sources(self) -> dict[str, Source]:
        generator = torch_generator(self.config.seed, "gradient_penalty")
        return {"gradient_penalty": Uniform(generator, (self.config.batch_size, 1, 1, 1), self.dtype)}

    def weighted_penalty(self, x_real: Tensor, x_fake: Tensor) -> Tensor:
        share = self.draw("gradient_penalty")  # (N, 1, 1, 1) in [0, 1)
        slopes = input_gradients(self.D, share * x_real + (1 - share) * x_fake).norm(dim=1)
        return self.config.penalty_weight * (slopes - 1).square().mean()


class R1(Constraint):
    """(penalty_weight / 2) E|dD/dx|^2 at the real images. Source: Mescheder et al. 2018.

    Deviation: a forward pass of its own, in the parameters' type.
    """

    def weighted_penalty(self, x_real: Tensor, x_fake: Tensor) -> Tensor:
        return self.config.penalty_weight / 2 * input_gradients(self.D, x_real).square().sum(1).mean()


def input_gradients(D: nn.Module, x: Tensor) -> Tensor:
    """dD/dx of every image (N, C, H, W), as (N, C H W), differentiable in D's parameters."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(D(x).sum(), x, create_graph=True)
    return gradient.flatten(1)


class Orthonormal(Constraint):
    """penalty_weight sum over layers |M - I|^2, with M the smaller of WW' and W'W; initial weights have M = I.

    Those are the orthonormal matrices nearest to what was drawn. Source: Brock et al. 2017; Miyato et al. 2018.
    Deviation: the squares of M - I are summed up and not its absolute values, of the smaller of the two products.
    """

    initializes = of_weights = True

    @torch.no_grad()
    def __init__(self, config: RunConfig, D: nn.Module) -> None:
        super().__init__(config, D)
        for _, layer in weight_layers(D):
            matrix = as_matrix(raw_weight(layer), matrix_dim(layer))
            left, _, right = torch.linalg.svd(matrix.double(), full_matrices=False)
            rows = raw_weight(layer).movedim(matrix_dim(layer), 0)
            rows.copy_((left @ right).view_as(rows))

    def weighted_penalty(self, x_real: Tensor, x_fake: Tensor) -> Tensor:
        return self.config.penalty_weight * torch.stack([*self._gaps().values()]).sum()

    @torch.no_grad()
    def readings(self) -> dict[str, Tensor]:
        return {f"orthonormal_gap/{name}": gap.sqrt() for name, gap in self._gaps().items()}

    def _gaps(self) -> dict[str, Tensor]:
        return {name: orthonormal_gap(raw_weight(of), matrix_dim(of)) for name, of in weight_layers(self.D)}


def orthonormal_gap(weight: Tensor, dim: int = 0) -> Tensor:
    """|M - I|^2 of the matrix (shape[dim], rest), (): zero if, and only if, rows, or columns, are orthonormal."""
    matrix = as_matrix(weight, dim)
    smaller = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return (smaller - torch.eye(len(smaller), dtype=weight.dtype, device=weight.device)).square().sum()


class SpectralNormAtInit(Constraint):
    """Initial weights divided once by their exact sigma: what spectral normalization does at step 0, and no more."""

    initializes = of_weights = divides = True

    @torch.no_grad()
    def __init__(self, config: RunConfig, D: nn.Module) -> None:
        super().__init__(config, D)
        for _, layer in weight_layers(D):
            raw_weight(layer).div_(matrix_sigma(raw_weight(layer), matrix_dim(layer)))


def remove_parametrizations(D: nn.Module) -> None:
    """Leave every layer the weight that it uses in eval mode, as a plain parameter."""
    for _, layer in weight_layers(D):
        with standing_still(layer):
            weight = layer.weight.detach().clone()  # type: ignore[operator,union-attr]
            parametrize.remove_parametrizations(layer, "weight")
        layer.weight = nn.Parameter(weight)


CONSTRAINTS: dict[str, type[Constraint]] = {
    "none": Constraint,
    "spectral_norm": SpectralNorm,
    "spectral_norm_penalty": SpectralNormPenalty,
    "weight_clipping": WeightClipping,
    "gradient_penalty": GradientPenalty,
    "r1": R1,
    "weight_norm": WeightNorm,
    "orthonormal": Orthonormal,
    "sn_svd": ExactSpectralNorm,
    "sn_conv": ConvolutionNorm,
    "bidirectional_sn": BidirectionalNorm,
    "sn_at_init": SpectralNormAtInit,
}
