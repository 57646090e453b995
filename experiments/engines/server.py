"""The process that makes the steps of every run on one device, and what a run's worker sees of it."""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import torch

from experiments.machine import device_name, keep_memory, prepare_cuda
from experiments.output import outlive_readers
from experiments.signals import out_of_reach
from sngan.config import RunConfig
from sngan.data import ImageData, load_images
from sngan.slot import Copy, Program, Shown, Slot, State, key

MOST = 24  # slots of a device: CUDA has 32 streams, and what further ones were named would be shared
SIZES = (1, 2, 4, 8, 12, 18, 24)  # numbers of slots that are tried
_WORTH = 1.1  # more slots must make so much more steps per second
_POLL_SECONDS, _IDLE_SECONDS = 0.0002, 0.05  # while somebody waits for the device, and while nobody does
_ENDLESS = 1_000_000  # steps of a run that is only timed
_LAST_SECONDS = 12.0  # in which workers that were told to stop fetch their states


def _send(connection: Connection, message: Any) -> None:
    """As one piece: `connection.send` would pass on tensors as files of shared memory."""
    connection.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))


def _receive(connection: Connection) -> Any:
    return pickle.loads(connection.recv_bytes())


def _sendable(error: Exception) -> Exception:
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:  # of a library, with more arguments than it keeps
        return RuntimeError(f"{type(error).__name__}: {error}")


class StepsLost(Exception):
    """The process that made a run's steps ended: the run resumes from its last checkpoint."""


@dataclass(frozen=True)
class Where:
    """Where a run's steps are made: the address of a server, and the device that it has."""

    address: str
    device: str
    device_name: str


class Server:
    """A process that makes steps on `device`, for workers that come to `where.address`.

    With `graphs=False` it captures none, and `why` says why. Its start takes seconds: `wait` for it.
    """

    def __init__(self, device: str, threads: int, graphs: bool = True, why: str = "") -> None:
        # a socket's path has at most 107 characters
        short = len(tempfile.gettempdir()) < 80
        address = str(Path(tempfile.mkdtemp(prefix="sngan-", dir=None if short else "/tmp")) / "steps")
        context = multiprocessing.get_context("spawn")
        self._control, theirs = context.Pipe()
        arguments = (address, device, threads, graphs, why, theirs)
        self.process: SpawnProcess = context.Process(target=_serve, args=arguments, daemon=True)
        with out_of_reach():
            self.process.start()
        theirs.close()
        self._address, self._device = address, device

    def wait(self) -> Where:
        """Until it can be used. Raises StepsLost if it does not start."""
        return Where(self._address, self._device, self._ask(None))

    def measure(self, config: RunConfig, most: int) -> dict[int, float]:
        """Number of slots -> steps per second of all together, for runs like this one. Raises StepsLost if it ends."""
        return self._ask((config, most))

    def _ask(self, question: Any) -> Any:
        try:
            _send(self._control, question)
            answer = _receive(self._control)
        except (EOFError, OSError) as error:
            self.process.join(1)
            raise StepsLost(f"the process for {self._device} ended (exit code {self.process.exitcode})") from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def stop(self, seconds: float) -> None:
        self._control.close()
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        shutil.rmtree(Path(self._address).parent, ignore_errors=True)


def _serve(address: str, device: str, threads: int, graphs: bool, why: str, control: Connection) -> None:
    outlive_readers()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):  # the workers' runs end first
        signal.signal(number, signal.SIG_IGN)
    prepare_cuda()
    keep_memory()
    torch.set_num_threads(threads)
    listener = Listener(address, "AF_UNIX", backlog=64, authkey=multiprocessing.current_process().authkey)
    try:
        _Serving(listener, torch.device(device), graphs, why, control).run()
    finally:
        listener.close()
        shutil.rmtree(Path(address).parent, ignore_errors=True)  # whoever started it may be gone


class _Serving:
    """Within the process: one thread makes all steps, in turn, and answers whoever waits."""

    def __init__(self, listener: Listener, device: torch.device, graphs: bool, why: str, control: Connection) -> None:
        self._listener, self._device, self._graphs, self._why, self._control = listener, device, graphs, why, control
        self._slots: list[Slot] = []  # with a run and without; longest unused first
        self._workers: dict[Connection, Slot | None] = {}
        self._asking: set[Connection] = set()  # they wait for their next stop
        self._errors: dict[Slot, Exception] = {}  # of slots that cannot go on
        self._new: SimpleQueue[Connection] = SimpleQueue()
        self._data: dict[tuple[Any, ...], ImageData] = {}
        self._parent = multiprocessing.parent_process()
        self._ends_at = float("inf")

    def run(self) -> None:
        threading.Thread(target=self._accept, daemon=True).start()
        while not (self._is_over() and not self._workers) and time.monotonic() < self._ends_at:
            with suppress(Empty):
                while True:
                    self._workers[self._new.get_nowait()] = None
            moved = False
            for slot in [slot for slot in self._slots if slot.has_room()]:
                self._launch(slot)
                moved = True
                self._answer()
            self._answer()
            sources = [*self._workers, *([] if self._control.closed else [self._control])]
            seconds = 0 if moved else _POLL_SECONDS if self._asking else _IDLE_SECONDS
            for connection in wait(sources, seconds):
                self._hear(connection)  # type: ignore[arg-type]

    def _launch(self, slot: Slot) -> None:
        try:
            slot.launch()
        except torch.AcceleratorError:  # nothing more can be done in this process
            raise
        except Exception as error:  # such as no memory for an eager step
            slot.end()
            self._errors[slot] = error
            self._slots.remove(slot)

    def _is_over(self) -> bool:
        """Whether nobody will come any more: those that are here may fetch their states."""
        assert self._parent
        over = self._control.closed or not self._parent.is_alive()
        if over and self._ends_at == float("inf"):
            self._ends_at = time.monotonic() + _LAST_SECONDS
        return over

    def _accept(self) -> None:
        while Path(self._listener.address).exists():  # type: ignore[arg-type]
            with suppress(OSError, EOFError, multiprocessing.AuthenticationError):
                self._new.put(self._listener.accept())

    def _hear(self, connection: Connection) -> None:
        try:
            question = _receive(connection)
        except (EOFError, OSError):
            self._leave(connection)
            return
        try:
            answer = self._done(connection, question)
        except torch.AcceleratorError:  # nothing more can be done in this process
            raise
        except Exception as error:
            answer = _sendable(error)
        if answer is not None:
            try:
                _send(connection, answer)
            except OSError:
                self._leave(connection)

    def _done(self, connection: Connection, question: Any) -> Any:
        """What to answer; None: later."""
        if connection is self._control:
            return self._measure(*question) if question else device_name(self._device)
        if isinstance(question, _Begin):
            return self._begin(connection, question)
        slot = self._workers[connection]
        assert slot
        if question == "state":
            return slot.state()
        self._asking.add(connection)
        return None

    def _leave(self, connection: Connection) -> None:
        connection.close()
        self._asking.discard(connection)
        slot = self._workers.pop(connection, None)
        if slot and not self._errors.pop(slot, None):
            slot.end()
            self._slots.remove(slot)
            self._slots.append(slot)

    def _answer(self) -> None:
        for connection in list(self._asking):
            slot = self._workers[connection]
            assert slot
            if slot in self._errors or slot.is_ready():
                self._asking.discard(connection)
                try:
                    self._show(connection, slot)
                except OSError:
                    self._leave(connection)

    def _show(self, connection: Connection, slot: Slot) -> None:
        if error := self._errors.get(slot):
            _send(connection, _sendable(error))
            return
        shown = slot.show()
        _send(connection, (shown.step, shown.seconds, shown.in_window, shown.of_samples is not None))
        for part in (shown.of_rows, shown.of_samples):
            if part is not None:
                connection.send_bytes(part.numpy())  # type: ignore[arg-type]

    def _begin(self, connection: Connection, question: _Begin) -> tuple[Program, int]:
        config = question.config
        slot = next((s for s in self._slots if not s.config and s.key == key(config)), None) or self._make(config)
        tensors = torch.frombuffer(bytearray(question.tensors), dtype=torch.uint8)
        slot.begin(config, question.at, State(tensors, question.streams, question.window))
        self._workers[connection] = slot
        return slot.program, slot.memory_bytes

    def _make(self, config: RunConfig) -> Slot:
        if len(self._slots) >= MOST and (idle := next((slot for slot in self._slots if not slot.config), None)):
            self._slots.remove(idle)
            del idle  # its memory is free for the next
        slot = Slot(config, self._images(config), self._graphs, self._why)
        self._slots.append(slot)
        return slot

    def _images(self, config: RunConfig) -> ImageData:
        name = config.dataset, config.data_dir, config.data_sha256, config.side, config.channels
        if name not in self._data:
            self._data[name] = load_images(config).to(self._device)
        return self._data[name]

    def _measure(self, config: RunConfig, most: int) -> dict[int, float]:
        """Slots are added as long as that is worth it; those that were made are used later."""
        found: dict[int, float] = {}
        state = Copy(config, self._images(config)).whole()
        for size in [size for size in SIZES if size <= most]:
            try:
                while len(self._slots) < size:
                    self._make(config)
            except torch.OutOfMemoryError:
                if not found:
                    raise
                break
            found[size] = steps_per_second(self._slots, config, state)
            if len(found) > 1 and found[size] < _WORTH * max(rate for n, rate in found.items() if n < size):
                break
        return found


def steps_per_second(slots: list[Slot], config: RunConfig, state: State, seconds: float = 0.5) -> float:
    """Of all slots together, nobody looking at what they show."""

    def make(until: float) -> int:
        n = 0
        while not n or time.perf_counter() < until:
            for slot in slots:
                if not slot.has_room():
                    slot.show()
                n += slot.launch()
        for slot in slots:
            while not slot.has_shown_all():
                slot.show()
        return n

    config = dataclasses.replace(config, steps=_ENDLESS)
    for slot in slots:
        slot.begin(config, 0, state)
    make(0.0)
    begin = time.perf_counter()
    n = make(begin + seconds)
    rate = n / (time.perf_counter() - begin)
    for slot in slots:
        slot.end()
    return rate


@dataclass(frozen=True)
class _Begin:
    config: RunConfig
    at: int
    tensors: bytes
    streams: dict[str, Any]
    window: dict[str, Any]


class Remote:
    """Steps that a server makes, seen in a run's worker: `sngan.train.Steps`. `data` are on the CPU.

    Raises StepsLost when the server ends, and what it says of an error of its own.
    """

    def __init__(self, where: Where, config: RunConfig, data: ImageData) -> None:
        self.run, self._where = Copy(config, data), where
        self.program: Program | None = None  # until it has begun
        self.memory_bytes = 0
        self._connection: Connection | None = None

    def clock(self) -> float:
        return self.run.seconds

    def begin(self, at: int) -> Iterator[int]:
        config, state = self.run.config, self.run.whole()
        try:
            self._connection = Client(self._where.address, "AF_UNIX", authkey=multiprocessing.current_process().authkey)
        except OSError as error:
            raise self._lost() from error
        tensors = state.tensors.numpy().tobytes()
        self.program, self.memory_bytes = self._ask(_Begin(config, at, tensors, state.streams, state.window))
        step = at
        while step < config.steps:
            step, seconds, in_window, samples = self._ask("next")
            of_rows = self._received()
            self.run.show(Shown(step, seconds, in_window, of_rows, self._received() if samples else None))
            yield step

    def _ask(self, question: Any) -> Any:
        assert self._connection
        try:
            _send(self._connection, question)
            answer = _receive(self._connection)
        except (EOFError, OSError) as error:
            raise self._lost() from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _received(self) -> torch.Tensor:
        assert self._connection
        try:
            return torch.frombuffer(bytearray(self._connection.recv_bytes()), dtype=torch.uint8)
        except (EOFError, OSError) as error:
            raise self._lost() from error

    def _lost(self) -> StepsLost:
        return StepsLost(f"the process that made its steps on {self._where.device} ended")

    def settle(self) -> None:
        self.run.settle(self._ask("state"))

    def end(self) -> None:
        if self._connection:
            self._connection.close()
