"""What a signal does to a run in training, and to everything else: real signals to this process."""

import signal
import time

import pytest

from experiments import signals
from experiments.signals import stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_outside_a_training_a_signal_ends_things_at_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match=number.name), stop_on_signals():
        signal.raise_signal(number)
    assert signal.getsignal(number) == before


def test_in_a_training_the_first_asks_and_the_second_ends() -> None:
    with stop_on_signals(), signals.gracefully():
        assert signals.requested() == ""
        signal.raise_signal(signal.SIGTERM)
        assert signals.requested() == "SIGTERM"
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
            signal.raise_signal(signal.SIGINT)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    with stop_on_signals(), signals.gracefully():
        assert signals.requested() == ""  # of the run before


def test_after_the_time_of_grace_what_does_not_look_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "GRACE_SECONDS", 0.05)
    with stop_on_signals(), signals.gracefully():
        signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(KeyboardInterrupt, match="SIGUSR1"):
            time.sleep(30)
