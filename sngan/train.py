"""Training: the SN-GAN paper's algorithm (`update`), step after step (`train`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sngan.config import InputError, RunConfig
from sngan.data import ImageData
from sngan.losses import adversarial_d, adversarial_g
from sngan.networks import Networks
from sngan.observer import Log, Observer, Unobserved
from sngan.precision import check_precision
from sngan.state import Run


def update(run: Run) -> None:
    """One step: n_dis updates of the discriminator, and one of the generator.

    A program on the run's tensors: it draws, fetches and makes nothing on the CPU, so that CUDA may capture it once and
    replay it. Source: Miyato et al. 2018, section 4 and Algorithm 1. The window takes down what is logged.
    """
    config, G, D, constraint, feed, window = run.config, run.G, run.D, run.constraint, run.feed, run.window
    for _ in range(config.n_dis):
        x_real = feed.real().to(memory_format=run.layout)  # (N, C, side, side) in [-1, 1]
        with torch.no_grad():
            x_fake = run.forward(G, feed.z_d())  # of latents (N, z_dim)
        constraint.before_update()
        logits_fake = run.logits(x_fake)  # before the real ones: each forward may move the constraint's vectors
        logits_real = run.logits(x_real)
        adversarial, d_real, d_fake = adversarial_d(config.loss, logits_real, logits_fake)
        penalty = constraint.weighted_penalty(x_real, x_fake)
        loss_d = adversarial + penalty
        minimize(run.opt_d, loss_d)
        constraint.after_update()
        feed.next_d()
        if window:
            window.add_d(D, (loss_d, adversarial, penalty, d_real, d_fake), logits_real, logits_fake)
    with frozen(D):
        loss_g = adversarial_g(config.loss, run.logits(run.forward(G, feed.z_g())))
        minimize(run.opt_g, loss_g)
    feed.next_g()
    if window:
        window.add_g(G, loss_g)


def minimize(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """No gradients for the network's parameters: the G step needs those of its input only."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


class Outcome(NamedTuple):
    """How a training ended: `finished` or `diverged`, after `step` generator updates, and why."""

    state: str
    step: int
    reason: str = ""


class Steps(Protocol):
    """Whoever makes a run's steps: `Here` one after the other, others ahead of those who look."""

    @property
    def run(self) -> Run:
        """That is trained, or a copy that shows what it is after a step."""
        ...

    def begin(self, at: int) -> Iterator[int]:
        """From step `at` and the state that `run` has: each step that can be looked at, as soon as it can be."""
        ...

    def settle(self) -> None:
        """Let all of `run` be as after the last step that was shown; a copy may lack what no row needs before."""
        ...

    def clock(self) -> float:
        """Seconds that the steps so far took, in any place where nothing is measured."""
        ...

    def end(self) -> None:
        """Nobody looks any more; `run` stays as it is."""
        ...


class Here:
    """Steps made in this process on the device of the data, each when the one before was looked at."""

    def __init__(
        self, config: RunConfig, data: ImageData, observed: bool = True, networks: Networks | None = None
    ) -> None:
        self.run, self.clock = Run(config, data, observed, networks=networks), time.perf_counter

    def begin(self, at: int) -> Iterator[int]:
        for step in range(at + 1, self.run.config.steps + 1):
            self.run.turn()
            with self.run.products():
                update(self.run)
            yield step

    def settle(self) -> None: ...

    def end(self) -> None: ...


def train(
    config: RunConfig,
    data: ImageData,
    log: Log | None = None,
    save: Callable[[dict[str, Any]], None] | None = None,
    resume: dict[str, Any] | None = None,
    due: Callable[[int], bool] | None = None,
    steps: Steps | None = None,
    networks: Networks | None = None,
) -> Outcome:
    """Train one run and return how it ended.

    `log(row, samples)` gets each row of the record, with `time/*`, and at evaluations also `eval/*` and the fixed
    latents' images (64, C, side, side) in [-1, 1]. With None nothing is measured (and no divergence noticed); the bits
    of the run are the same.

    `save(state)` gets G, D and the outcome when the run has ended, and after every step for which `due(step)` is true
    everything that the rest of the run depends on; an exception of `save` ends the training. With such a state as
    `resume` the run resumes from there, and gives the bits that it would have given (on the same device, threads and
    layout). States hold tensors, numbers, strings, lists and dicts. Non-finite numbers end the run as `diverged`.

    `steps` makes the steps, and shows those that it likes, so that `due` is not asked for others; default: they are
    made here, on the device of `data`, one by one. Samples are judged on the device of `data`.

    `networks` are a generator and a discriminator of your own, in place of those of the architecture. G maps latents
    (N, z_dim) to images (N, C, side, side) in [-1, 1] of the data's C and side, D maps these to N logits, (N,), (N, 1)
    or (N, 1, 1, 1). They are trained in place, with the weights that they come with: neither `init` nor the streams of
    a seed's initial weights have a part in it, nor have the widths and the arm's norm, which is whatever you built. The
    arm's constraint is put on D, and stays there: of arms with spectral normalization `remove_spectral_norm(D)` takes
    it off. Both are moved to the device of the data, to the config's precision and memory format, and to train mode.
    To resume, give networks as they were built, not those that were trained. What they draw themselves, such as
    dropout's masks, comes from torch's global generator, which no state holds. Samples of another size than the
    yardstick of `config.dataset` knows are judged by their pixels alone, unless another judge is named. What cannot be
    known of a D is absent from the rows, as `lipschitz/product` of one that is no chain (`nn.Sequential`).

    Raises InputError for precision `tf32` on a CPU; for networks that are not as described above, share parameters,
    have none to train, or do not go with the arm (they are left as they were); and for `networks` with `steps`.
    """
    if steps is None:
        check_precision(config.precision, data.images.device)
        steps = Here(config, data, log is not None, networks)
    elif networks is not None:
        raise InputError("networks go with steps that are made here: whoever makes the steps has networks already")
    run = steps.run
    observer = Observer(run, data, log, steps.clock) if log else Unobserved()
    outcome = Outcome("finished", config.steps)
    try:
        for step in steps.begin(_begun(run, observer, resume, networks is not None)):
            if bad := observer.after(step):
                outcome = Outcome("diverged", step, f"non-finite: {bad}")
                break
            if save and due and due(step) and step < config.steps:
                steps.settle()
                save({"step": step, **run.state(), **observer.state()})
        steps.settle()
    finally:
        steps.end()
    if save:
        save(outcome._asdict() | {"G": run.G.state_dict(), "D": run.D.state_dict()})
    return outcome


def _begun(run: Run, observer: Observer | Unobserved, state: dict[str, Any] | None, own: bool) -> int:
    """The step that the run is at: that of the state, or 0. Raises InputError for one of other networks of a caller."""
    if state is None:
        observer.begin()
        return 0
    try:
        run.load_state(state)
        observer.load_state(state)
    except (RuntimeError, KeyError) as error:
        if not own:
            raise
        raise InputError(f"the state to resume from is of other networks, or of another arm: {error}") from error
    return state["step"]
