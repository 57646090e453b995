"""What a signal does to a run in training, and to everything else."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

GRACE_SECONDS = 8.0  # of ten that a cluster, or the sweep, gives a run that it stops
FROM_THE_TERMINAL = {signal.SIGINT, signal.SIGHUP}
"""Ctrl-C and a lost connection: all processes of a sweep get these, and the parent decides"""


class _Stop:
    """What a signal does: while a run trains it asks for a checkpoint first, otherwise it ends things at once.

    So does a second signal, and the alarm that the first one sets: a long evaluation does not see the request. A hangup
    is never such a second one, as the shell sends it and then the kernel; and none is in a worker, as a signal to the
    whole group comes once more from its parent, which kills a worker that takes too long.
    """

    def __init__(self) -> None:
        self.requested = ""  # the signal's name
        self.ask_parent: Callable[[], str] | None = None
        self._graceful = False

    def __call__(self, signum: int, frame: object) -> None:
        first, self.requested = not self.requested, self.requested or signal.Signals(signum).name
        if signum == signal.SIGHUP:
            signal.signal(signum, _ignore)
        if not first and (signum == signal.SIGHUP or (self.ask_parent and signum != signal.SIGALRM)):
            return
        if not (first and self._graceful):
            raise KeyboardInterrupt(self.requested)
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


def _ignore(signum: int, frame: object) -> None:
    """Unlike SIG_IGN, it is not inherited by programs that are started."""


_stop = _Stop()
gracefully = _stop.gracefully


def requested() -> str:
    """The signal that this process got and that asks it to stop, or nothing."""
    return _stop.requested


def cause() -> str:
    """What stops a run: in a worker the signal that its parent got, if there was one."""
    return (_stop.ask_parent and _stop.ask_parent()) or _stop.requested


def stopped_by(name: str) -> str:
    """What the record says of a run that this stopped."""
    return f"stopped by a signal ({name})"


@contextmanager
def stop_on_signals(ask_parent: Callable[[], str] | None = None) -> Iterator[None]:
    """SIGINT (Ctrl-C), SIGTERM, SIGHUP and SIGUSR1 (a cluster's notice of preemption) raise KeyboardInterrupt.

    A run in training writes a checkpoint before, if it can within 8 seconds. Where SIGHUP is ignored, as by nohup, it
    stays ignored. `ask_parent` is for a worker, which leaves SIGINT and SIGHUP to its parent: the signal that the
    parent got, or nothing.
    """
    numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM}
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        numbers.remove(signal.SIGHUP)
    _stop.requested, _stop.ask_parent = "", ask_parent
    handlers = {number: signal.SIG_IGN if ask_parent and number in FROM_THE_TERMINAL else _stop for number in numbers}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        _stop.ask_parent = None
        for number, handler in before.items():
            if signal.getsignal(number) is not _ignore:  # a hangup may come again
                signal.signal(number, handler)


@contextmanager
def out_of_reach() -> Iterator[None]:
    """A process that is started meanwhile never gets what a terminal sends to the whole process group.

    It need not be ready: while it still imports, such a signal would end it, or print a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FROM_THE_TERMINAL)  # inherited
    try:
        resource_tracker.ensure_running()  # else the first start of a process starts it, which unblocks SIGINT
        signal.pthread_sigmask(signal.SIG_BLOCK, FROM_THE_TERMINAL)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
