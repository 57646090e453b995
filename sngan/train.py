"""Training: the SN-GAN paper's algorithm (`update`), step after step (`train`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sngan.config import RunConfig
from sngan.data import ImageData
from sngan.losses import adversarial_d, adversarial_g
from sngan.measure import Window
from sngan.observer import Log, Observer, Unobserved
from sngan.precision import check_precision, products
from sngan.state import Run


def update(run: Run, window: Window | None) -> None:
    """One step: n_dis updates of the discriminator, and one of the generator.

    Source: Miyato et al. 2018, section 4 and Algorithm 1. `window` takes down what is logged.
    """
    config, G, D, constraint = run.config, run.G, run.D, run.constraint
    for _ in range(config.n_dis):
        x_real = next(run.batches).to(memory_format=run.layout)  # (N, C, side, side) in [-1, 1]
        with torch.no_grad():
            x_fake = run.forward(G, next(run.z_d))  # of latents (N, z_dim)
        constraint.before_update()
        logits_fake = run.forward(D, x_fake)  # before the real ones: each forward may move the constraint's vectors
        logits_real = run.forward(D, x_real)
        adversarial, d_real, d_fake = adversarial_d(config.loss, logits_real, logits_fake)
        penalty = constraint.weighted_penalty(x_real, x_fake)
        loss_d = adversarial + penalty
        minimize(run.opt_d, loss_d)
        constraint.after_update()
        if window:
            window.add_d(D, (loss_d, adversarial, penalty, d_real, d_fake), logits_real, logits_fake)
    with frozen(D):
        loss_g = adversarial_g(config.loss, run.forward(D, run.forward(G, next(run.z_g))))
        minimize(run.opt_g, loss_g)
    if window:
        window.add_g(G, loss_g)


def minimize(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """No gradients for the network's parameters: the G step needs those of its input only."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


class Outcome(NamedTuple):
    """How a training ended: `finished` or `diverged`, after `step` generator updates, and why."""

    state: str
    step: int
    reason: str = ""


def train(
    config: RunConfig,
    data: ImageData,
    log: Log | None,
    save: Callable[[dict[str, Any]], None] | None = None,
    resume: dict[str, Any] | None = None,
    due: Callable[[int], bool] | None = None,
) -> Outcome:
    """Train one run on the device of `data` and return how it ended.

    `log(row, samples)` gets each row of the record, with `time/*`, and at evaluations also `eval/*` and the fixed
    latents' images (64, C, side, side) in [-1, 1]. With None nothing is measured (and no divergence noticed); the bits
    of the run are the same. Non-finite numbers end the run as `diverged`.

    `save(state)` gets G, D and the outcome when the run has ended, and after every step for which `due(step)` is true
    everything that the rest of the run depends on; an exception of `save` ends the training. With such a state as
    `resume` the run resumes from there, and gives the bits that it would have given (on the same device, threads and
    layout). States hold tensors, numbers, strings, lists and dicts.

    Raises InputError for precision `tf32` on a CPU.
    """
    check_precision(config.precision, data.images.device)
    run = Run(config, data)
    observer = Observer(run, data, log) if log else Unobserved()
    outcome = Outcome("finished", config.steps)
    for step in range(_begun(run, observer, resume) + 1, config.steps + 1):
        with products("tf32" if config.precision == "tf32" else "ieee"):
            update(run, observer.window)
        if bad := observer.after(step):
            outcome = Outcome("diverged", step, f"non-finite: {bad}")
            break
        if save and due and due(step) and step < config.steps:
            save({"step": step, **run.state(), **observer.state()})
    if save:
        save(outcome._asdict() | {"G": run.G.state_dict(), "D": run.D.state_dict()})
    return outcome


def _begun(run: Run, observer: Observer | Unobserved, state: dict[str, Any] | None) -> int:
    """The step that the run is at: that of the state, or 0."""
    if state is None:
        observer.begin()
        return 0
    run.load_state(state)
    observer.load_state(state)
    return state["step"]
