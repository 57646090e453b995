"""What a signal does to a run in training, and to everything else."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

GRACE_SECONDS = 8.0  # of ten that a cluster, or the sweep, gives a run that it stops


class _Stop:
    """What a signal does: while a run trains it asks for a checkpoint first, otherwise it ends things at once.

    So does a second signal, and the alarm that the first one sets: a long evaluation does not see the request.
    """

    def __init__(self) -> None:
        self.requested = ""  # the signal's name
        self._graceful = False

    def __call__(self, signum: int, frame: object) -> None:
        if not self._graceful or self.requested:
            raise KeyboardInterrupt(self.requested or signal.Signals(signum).name)
        self.requested = signal.Signals(signum).name
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)

    @contextmanager
    def gracefully(self) -> Iterator[None]:
        """A run trains: the first signal only asks it to stop."""
        self.requested, self._graceful = "", True
        try:
            yield
        finally:
            self._graceful = False
            if self.requested:
                signal.setitimer(signal.ITIMER_REAL, 0)


_stop = _Stop()
gracefully = _stop.gracefully


def requested() -> str:
    """The signal that asks the run in training to stop, or nothing."""
    return _stop.requested


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """SIGINT (Ctrl-C), SIGTERM and SIGUSR1 (a cluster's notice of preemption) raise KeyboardInterrupt.

    A run in training writes a checkpoint before, if it can within 8 seconds.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM)
    before = {number: signal.signal(number, _stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
