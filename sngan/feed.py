"""What the steps of a run read: indices of real images and latents, laid out on the device before they are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sngan.config import InputError, RunConfig
from sngan.data import ImageData, Order, normalized
from sngan.streams import Normal, Source, numpy_generator, torch_generator

_MOST_BYTES = 16 * 2**20  # that one stream's block takes, at most
_Draws = dict[str, Tensor]


@cache
def _artists() -> ThreadPoolExecutor:
    """The threads that draw while steps are made: torch and numpy let other threads run meanwhile."""
    return ThreadPoolExecutor(4, thread_name_prefix="draws")


class Feed:
    """Full batches of real images in [-1, 1] and latents, of the seed's streams `data`, `z_d` and `z_g`.

    A step reads them at positions that lie on the device, so that the same program may be replayed; `turn` comes before
    each step, and brings the next `block` steps when those before are used up. Values and states are those of one draw
    after the other, whatever the block: a state may be loaded for any other block and device. Blocks of more than one
    step are drawn by threads of the CPU before they are needed, in pinned memory for CUDA, and copied without waiting
    for what the device is at.

    An epoch's remainder is joined to the next permutation. Deviation: the notebook's ragged last batch.
    `further`: other sources, of which there is a draw for each update of the discriminator, too.
    Raises InputError if a batch is larger than the data set.
    """

    def __init__(
        self, config: RunConfig, data: ImageData, dtype: torch.dtype, block: int = 1,
        further: Mapping[str, Source] | None = None,
    ) -> None:  # fmt: skip
        n_images, device = len(data.images), data.images.device
        if config.batch_size > n_images:
            raise InputError(f"batch_size {config.batch_size} is larger than {data.name}'s {n_images} images")
        self.images, self._dtype = data.images, dtype
        latents = (config.batch_size, config.z_dim)
        self._sources: dict[str, Source] = {
            "data": Order(n_images, config.batch_size, numpy_generator(config.seed, "data")),
            **{name: Normal(torch_generator(config.seed, name), latents, dtype) for name in ("z_d", "z_g")},
            **(further or {}),
        }
        self._per_step = dict.fromkeys(self._sources, config.n_dis) | {"z_g": 1}
        step_bytes = config.n_dis * config.batch_size * max(config.z_dim * dtype.itemsize, 8)
        self._size = max(1, min(block, _MOST_BYTES // step_bytes))
        cuda = device.type == "cuda"
        self._hosts = [self._block("cpu", pinned=cuda) for _ in range(2 if self._size > 1 else 1)]
        self._copied = [
            torch.cuda.Event(blocking=True) if cuda else None for _ in self._hosts
        ]  # the host's block may be filled again
        self._here = self._block(device) if self._size > 1 or device.type != "cpu" else self._hosts[0]
        self._at_d, self._at_g = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self.made = self._drawn = self._left = 0  # steps since the state that was loaded; drawn for; not made yet
        self.wanted: int | None = None  # the fewest steps made that `state` may be asked for; None: `made`
        self._starts: deque[tuple[int, dict[str, Any]]] = deque()  # states of the sources before a block
        self._next: Future[None] | None = None
        self._turns = 0

    def _block(self, device: torch.device | str, pinned: bool = False) -> _Draws:
        return {
            name: torch.empty(
                (self._size * self._per_step[name], *source.shape), dtype=source.dtype, device=device, pin_memory=pinned
            )
            for name, source in self._sources.items()
        }

    def real(self) -> Tensor:
        """(N, C, side, side), of the discriminator's update whose turn it is."""
        return normalized(self.images[self._at(self._here["data"], self._at_d)], self._dtype)

    def z_d(self) -> Tensor:
        """(N, z_dim), of the discriminator's update whose turn it is."""
        return self.of_update("z_d")

    def of_update(self, name: str) -> Tensor:
        """What a source drew for the discriminator's update whose turn it is."""
        return self._at(self._here[name], self._at_d)

    def z_g(self) -> Tensor:
        """(N, z_dim), of the generator's update."""
        return self._at(self._here["z_g"], self._at_g)

    @staticmethod
    def _at(block: Tensor, position: Tensor) -> Tensor:
        return block.index_select(0, position)[0]

    def next_d(self) -> None:
        self._at_d.add_(1)

    def next_g(self) -> None:
        self._at_g.add_(1)

    def turn(self) -> None:
        """Before every step."""
        if not self._left:
            i = self._turns % len(self._hosts)
            self._wait()
            if self._drawn == self.made:  # nothing was drawn ahead
                self._draw(i)
            if self._here is not self._hosts[i]:
                for name, block in self._here.items():
                    block.copy_(self._hosts[i][name], non_blocking=True)
            if event := self._copied[i]:
                event.record()
            self.rewind()
            self._left, self._turns = self._size, self._turns + 1
            if self._size > 1:
                self._next = _artists().submit(self._draw, self._turns % len(self._hosts))
        self._left -= 1
        self.made += 1

    def rewind(self) -> None:
        """To the start of the block."""
        self._at_d.zero_()
        self._at_g.zero_()

    def _wait(self) -> None:
        """Until nothing is being drawn."""
        if self._next:
            self._next.result()
            self._next = None

    def _draw(self, i: int) -> None:
        if event := self._copied[i]:
            event.synchronize()
        if self._size > 1:
            wanted = self.made if self.wanted is None else self.wanted
            while len(self._starts) > 1 and self._starts[1][0] <= wanted:
                self._starts.popleft()
            self._starts.append((self._drawn, self._states()))
        for name, source in self._sources.items():
            for out in self._hosts[i][name]:
                source.fill(out)
        self._drawn += self._size

    def _states(self) -> dict[str, Any]:
        return {name: source.state() for name, source in self._sources.items()}

    def _load(self, states: dict[str, Any]) -> None:
        for name, source in self._sources.items():
            source.load_state(states[name])

    def state(self, made: int | None = None) -> dict[str, Any]:
        """The streams', as if nothing had been drawn that was not read in the first `made` steps; default: all.

        Of an earlier step than the last only with blocks of several steps, and from `wanted` on.
        """
        self._wait()
        made, ahead = self.made if made is None else made, self._states()
        if made == self._drawn:
            return ahead
        begun, states = next(start for start in reversed(self._starts) if start[0] <= made)
        self._load(states)
        for name, source in self._sources.items():
            unused = torch.empty(source.shape, dtype=source.dtype)
            for _ in range((made - begun) * self._per_step[name]):
                source.fill(unused)
        found = self._states()
        self._load(ahead)
        return found

    def load_state(self, states: dict[str, Any]) -> None:
        """Nothing may be reading the blocks."""
        self._wait()
        self._load(states)
        self.made = self._drawn = self._left = 0
        self._starts.clear()
