"""Steps made ahead are the steps made one by one, bit for bit; and what a captured step must not do."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from conftest import FURTHER, ONE_EACH, small
from test_train import stored
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.checkpoint import fingerprint
from sngan import slot as slots
from sngan.arms import ARMS
from sngan.config import InputError, RunConfig
from sngan.constraints import CONSTRAINTS
from sngan.data import load
from sngan.slot import AHEAD, Ahead, Copy, Slot, key, next_stop, prepared, unmoved, warm_up
from sngan.state import Run
from sngan.train import Outcome, Steps, train, update

SIZES = {"steps": 80, "log_every": 7, "instrument_every": 20, "checkpoint_every": 15, "n_evaluations": 3, "seed": 5}
WAITING = [arm for arm, row in ARMS.items() if not CONSTRAINTS[row.constraint].capturable]
BRIEF = {"steps": 16, "checkpoint_every": 5, "n_evaluations": 1}
CUSTOM = {"setting": "custom", "lr": 1e-3, "beta1": 0.5, "beta2": 0.9}
DIVERGES = {"arm": "plain", "setting": "custom", "lr": 10.0, "beta1": 0.999, "beta2": 0.0, "n_dis": 1, "steps": 2000}
CHANGES = [
    {"arm": "sn_dcgan"},
    *(pytest.param({"arm": arm}, marks=pytest.mark.slow) for arm in ARMS if arm not in ("sn_dcgan", *FURTHER)),
    *({"arm": arm, **BRIEF} for arm in FURTHER),
    {"arm": "penalty", "n_dis": 3, **CUSTOM},
    DIVERGES,
    pytest.param({"arm": "sn", "power_iteration": "per_update", "precision": "float64"}, marks=pytest.mark.slow),
    pytest.param({"arm": "penalty", "precision": "bfloat16"}, marks=pytest.mark.slow),
    pytest.param({"arm": "dcgan", "batch_size": 700, "steps": 30}, marks=pytest.mark.slow),  # an epoch ends in a block
]

Seen = tuple[Outcome, list[str], dict[int, Tensor], list[dict[str, Any]]]


def watched(config: RunConfig, steps: Steps | None, resume: dict[str, Any] | None = None) -> Seen:
    """Outcome, rows, samples and states of checkpoints, of which two lie between rows."""
    rows, images, states = [], {}, []

    def log(row: dict[str, Any], samples: Tensor | None) -> None:
        rows.append(repr({key: value for key, value in row.items() if not key.startswith("time/")}))
        if samples is not None:
            images[row["step"]] = samples

    outcome = train(
        config, load("digits"), log, lambda state: states.append(stored(state)), resume,
        lambda step: step in ((15, 60, 70) if config.steps > 20 else (10,)), steps,
    )  # fmt: skip
    return outcome, rows, images, states


@pytest.mark.parametrize("changes", CHANGES, ids=lambda c: "-".join(map(str, c.values())))
def test_steps_made_ahead_are_those_made_one_by_one(changes: dict[str, Any]) -> None:
    """Rows, samples, checkpoints and final weights, of a run that diverges those of the step at which it did."""
    config = small(**SIZES | changes)
    here, ahead = watched(config, None), watched(config, Ahead(config, load("digits")))
    assert ahead[0] == here[0]
    assert ahead[0].state == ("diverged" if changes is DIVERGES else "finished")
    assert ahead[1] == here[1]
    assert ahead[2].keys() == here[2].keys()
    assert all(torch.equal(ahead[2][step], here[2][step]) for step in here[2])
    assert [fingerprint(state) for state in ahead[3]] == [fingerprint(state) for state in here[3]]
    for state in (state for state in ahead[3] if "streams" in state):
        resumed = watched(config, Ahead(config, load("digits")), state)
        assert resumed[1] == [row for row in here[1] if int(row.split(",")[0].split(":")[1]) > state["step"]]
        assert fingerprint(resumed[3][-1]) == fingerprint(here[3][-1])


def final(slot: Slot, config: RunConfig, others: list[Slot] = []) -> bytes:  # noqa: B006
    """All tensors of a run at its end, made in a slot while others make steps, too."""
    slot.begin(config, 0, Copy(config, load("digits")).whole())
    while slot.has_room() or not slot.has_shown_all():
        for other in [slot, *others]:
            if other.has_room():
                other.launch()
            else:
                other.show()
    return slot.state().tensors.numpy().tobytes()


def test_bits_do_not_depend_on_what_a_run_is_packed_with() -> None:
    """Alone, and among twelve of other arms and seeds."""
    config, data = small(arm="sn_dcgan", steps=40), load("digits")
    alone = final(Slot(config, data), config)
    others = []
    for seed, arm in zip(range(1, 12), itertools.cycle(ARMS)):
        other = small(arm=arm, seed=seed, steps=10_000)
        others.append(Slot(other, data))
        others[-1].begin(other, 0, Copy(other, data).whole())
    assert final(Slot(config, data), config, others) == alone


@pytest.mark.parametrize("arm", ONE_EACH)
def test_the_next_run_is_copied_into_the_same_tensors(arm: str) -> None:
    first, second, data = small(arm=arm, steps=30), small(arm=arm, seed=1, steps=45), load("digits")
    slot = Slot(first, data)
    addresses = [tensor.data_ptr() for tensor in slot._run.tensors()]
    final(slot, first)
    slot.end()
    assert final(slot, second) == final(Slot(second, data), second)
    slot.begin(first, 0, Copy(first, data).whole())  # left in the middle, with steps that nobody looked at
    slot.launch()
    slot.launch()
    assert not slot.has_room()
    assert final(slot, first) == final(Slot(first, data), first)
    assert [tensor.data_ptr() for tensor in slot._run.tensors()] == addresses


def test_it_is_never_further_ahead_than_it_keeps_states() -> None:
    config = small(steps=100, log_every=5)
    slot = Slot(config, load("digits"))
    assert not slot.has_room()  # no run
    slot.begin(config, 0, Copy(config, load("digits")).whole())
    launched, shown = 0, 0
    while shown < 100:
        while slot.has_room():
            launched += slot.launch()
        assert launched - shown <= 5 * AHEAD
        shown = slot.show().step
        slot.state()


def test_runs_of_one_program_differ_in_seed_and_length_alone() -> None:
    config = small()
    for name, value in {"seed": 1, "steps": 7, "n_fake": 60, "n_evaluations": 2, "instrument_every": 30}.items():
        assert key(small(**{name: value})) == key(config)
    for changes in ({"arm": "sn"}, {"lr": 1e-3}, {"batch_size": 8}, {"log_every": 5}, {"loss": "hinge"}, {"threads": 2},
                    {"memory_format": "contiguous"}, {"precision": "bfloat16"}):  # fmt: skip
        assert key(small(**changes)) != key(config), changes
    with pytest.raises(AssertionError):
        Slot(config, load("digits")).begin(small(arm="sn"), 0, Copy(config, load("digits")).whole())


def test_stops_are_rows_checkpoints_and_the_end() -> None:
    config, step, stops = small(steps=50, log_every=7, checkpoint_every=15), 0, []
    while step < 50:
        stops.append(step := next_stop(config, step))
    assert stops == [7, 14, 15, 21, 28, 30, 35, 42, 45, 49, 50]


def test_tf32_is_refused_where_there_is_none() -> None:
    config = small(precision="tf32")
    with pytest.raises(InputError, match="tf32 needs a CUDA device"):
        Slot(config, load("digits"))


# --- what a step may do, so that it can be captured ---


class Forbidden(TorchDispatchMode):
    """Raises at whatever waits for a device, draws, makes decisions on the CPU, or mixes devices."""

    NAMES = (
        *("local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique"),
        *("rand", "normal_", "bernoulli", "lift_fresh", "pin_memory", "linalg_eigh", "linalg_svd"),
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.lstrip("_")
        assert not any(name.startswith(word) for word in self.NAMES), name
        found = torch.utils._pytree.tree_leaves((args, kwargs or {}))
        devices = {str(item.device) for item in found if isinstance(item, Tensor)}
        devices |= {str(item) for item in found if isinstance(item, torch.device)}
        assert devices <= {"meta"}, (name, devices)
        return func(*args, **(kwargs or {}))


def on_meta(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run without numbers. Adam is torch's own, which has no such kernels: its steps are left out."""
    run = Run(config, load("digits").to("meta"))
    run.device = torch.device("cpu")  # autocast, which is off, knows no other
    for optimizer in (run.opt_d, run.opt_g):
        monkeypatch.setattr(optimizer, "step", lambda: None)
    return run


@pytest.mark.parametrize(
    "changes",
    [
        *({"arm": arm} for arm in ARMS if arm not in WAITING),
        {"arm": "sn", "power_iteration": "per_update"},
        {"arm": "sn_conv", "power_iteration": "per_update"},
        {"arm": "gp", "d_norm": "layer"},
        {"arm": "wn", "norm_scale": "learned"},
        {"arm": "penalty", "n_dis": 2, **CUSTOM},
        *({"arm": "penalty_dcgan", "loss": loss} for loss in ("hinge", "wasserstein", "least_squares")),
    ],
    ids=lambda c: "-".join(map(str, c.values())),
)
def test_a_step_is_a_program_on_tensors(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """No number is fetched, drawn, or made a tensor by Python (which neither meta tensors nor dispatch see)."""
    run = on_meta(small(**changes), monkeypatch)

    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a tensor is made of Python's numbers")

    with monkeypatch.context() as patch, Forbidden():
        for name in ("tensor", "as_tensor", "from_numpy", "scalar_tensor", "asarray"):
            patch.setattr(torch, name, forbidden)
        patch.setattr(Tensor, "new_tensor", forbidden)
        update(run)
        run.look()


@pytest.mark.parametrize(
    "bad",
    [
        lambda x: x + x.sum().item(),
        lambda x: x * torch.rand(3),
        lambda x: x[x > 0],
        lambda x: x + torch.ones(3),
        lambda x: x.new_tensor([1.0, 2.0, 3.0]) + x,
        lambda x: torch.linalg.svd(x[None].T @ x[None])[1],
        lambda x: x if x.any() else -x,
    ],
)
def test_the_guards_see_what_they_are_for(bad: Callable[[Tensor], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "update", update)
    monkeypatch.setattr("test_slot.update", lambda run: bad(torch.zeros(3, device="meta")))
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        test_a_step_is_a_program_on_tensors({"arm": "sn"}, monkeypatch)


@pytest.mark.parametrize("arm", [*ONE_EACH, *FURTHER])
def test_a_warm_up_moves_no_bit(arm: str) -> None:
    """Weights, u and v, batch norm's statistics, Adam, draws and window: in place, whatever happens inside."""
    config, data = small(arm=arm, log_every=1, seed=4), load("digits")
    run, quiet = (Run(config, data, block=8) for _ in range(2))
    for one in (run, quiet):
        one.turn()
        update(one)
        assert one.window
        one.window.clear()
    addresses = [tensor.data_ptr() for tensor in run.tensors()]
    for fails in (False, True):
        with pytest.raises(RuntimeError) if fails else nullcontext(), unmoved(run):
            run.turn()
            warm_up(run, lambda: update(run))
            assert any(not torch.equal(a, b) for a, b in zip(run.tensors(), quiet.tensors(), strict=True))
            if fails:
                raise RuntimeError("capture failed")
        assert all(torch.equal(a, b) for a, b in zip(run.tensors(), quiet.tensors(), strict=True))
    for one in (run, quiet):
        for _ in range(12):
            one.turn()
            update(one)
            assert one.window
            one.window.clear()
    assert all(torch.equal(a, b) for a, b in zip(run.tensors(), quiet.tensors(), strict=True))
    assert [tensor.data_ptr() for tensor in run.tensors()] == addresses


def test_where_capture_fails_the_step_runs_as_it_is_written_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA is faked: no stream, and a capture that raises."""
    waited = []

    def failing(run: Run, step: Callable[[], None], stream: Any) -> Any:
        raise RuntimeError("operation not permitted when\nstream is capturing")

    monkeypatch.setattr(slots, "captured", failing)
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    run, stream = Run(small(), load("digits")), object()
    step, program = prepared(run, stream, True, "")  # type: ignore[arg-type]
    assert program == ("eager", "capture failed: operation not permitted when stream is capturing")
    assert waited == [run.device]
    assert prepared(run, stream, False, "the process before died")[1] == ("eager", "the process before died")  # type: ignore[arg-type]
    (arm,) = WAITING  # an SVD is: it is not tried
    why = f"{arm} waits for the device in every step"
    assert prepared(Run(small(arm=arm), load("digits")), stream, True, "")[1] == ("eager", why)  # type: ignore[arg-type]
    before = [tensor.clone() for tensor in run.tensors()]
    run.turn()
    step()
    assert any(not torch.equal(a, b) for a, b in zip(before, run.tensors(), strict=True))
