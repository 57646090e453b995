"""What the arms do to the discriminator's weights, behind one set of hooks. A new constraint is a class, and a key."""

from __future__ import annotations

from torch import Tensor, nn

from sngan.config import RunConfig
from sngan.spectral import (
    SpectralPenalty,
    advance_power_iteration,
    apply_spectral_norm,
    hold_power_iteration,
    remove_spectral_norm,
    sigma_estimates,
)
from sngan.streams import layer_generators


class Constraint(nn.Module):
    """No constraint, and the hooks of all: the loop calls them, and does not know which constraint it has.

    It is made of an initialized D on the CPU, whose weights it may parametrize but not change. What a resumed run
    needs is in its state (buffers, or `get_extra_state`); D is none of its modules, and D's state has what belongs to
    D's layers. Everything random comes from named streams of the run's seed.
    """

    def __init__(self, config: RunConfig, D: nn.Module) -> None:
        super().__init__()
        self.config = config
        self._constrained = (D,)  # in a tuple, so that nn.Module does not register it

    @property
    def D(self) -> nn.Module:
        return self._constrained[0]

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


CONSTRAINTS: dict[str, type[Constraint]] = {
    "none": Constraint,
    "spectral_norm": SpectralNorm,
    "spectral_norm_penalty": SpectralNormPenalty,
}
