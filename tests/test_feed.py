"""What steps read is what the named streams draw one after the other, at every place where it may be taken up again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import small
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sngan.config import InputError, RunConfig
from sngan.data import ImageData, Order
from sngan.feed import Feed
from sngan.streams import Normal, Source, numpy_generator, torch_generator


def numbered(n: int, device: str = "cpu") -> ImageData:
    images = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 1, 28, 28)
    return ImageData("numbered", images, torch.zeros(n), "").to(device)


def made(feed: Feed, config: RunConfig) -> dict[str, list[Tensor]]:
    """What a step reads: as many real batches and latents as it has updates."""
    feed.turn()
    read: dict[str, list[Tensor]] = {"real": [], "z_d": []}
    for _ in range(config.n_dis):
        read["real"].append(feed.real())
        read["z_d"].append(feed.z_d())
        feed.next_d()
    read["z_g"] = [feed.z_g()]
    feed.next_g()
    return read


class Single:
    """The streams, drawn one after the other."""

    def __init__(self, config: RunConfig, n_images: int, dtype: torch.dtype) -> None:
        shape = (config.batch_size, config.z_dim)
        self.n_dis = config.n_dis
        self.sources: dict[str, Source] = {
            "data": Order(n_images, config.batch_size, numpy_generator(config.seed, "data")),
            "z_d": Normal(torch_generator(config.seed, "z_d"), shape, dtype),
            "z_g": Normal(torch_generator(config.seed, "z_g"), shape, dtype),
        }

    def step(self) -> dict[str, list[Tensor]]:
        read = {name: [self.draw(name) for _ in range(1 if name == "z_g" else self.n_dis)] for name in self.sources}
        pixels = [(chosen.double() / 127.5 - 1) for chosen in read.pop("data")]
        return read | {"real": pixels}

    def draw(self, name: str) -> Tensor:
        out = torch.empty(self.sources[name].shape, dtype=self.sources[name].dtype)
        self.sources[name].fill(out)
        return out

    def state(self) -> dict[str, Any]:
        return {name: source.state() for name, source in self.sources.items()}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


def agree(read: dict[str, list[Tensor]], expected: dict[str, list[Tensor]]) -> bool:
    real = [batch[:, 0, 0, 0].double() for batch in read["real"]]
    return all(torch.allclose(a, b, rtol=0, atol=1e-6) for a, b in zip(real, expected["real"], strict=True)) and all(
        same(a, b) for name in ("z_d", "z_g") for a, b in zip(read[name], expected[name], strict=True)
    )


SIZES = [  # multiples of 16 numbers, which torch draws by vectors, and others
    {}, {"precision": "float64"}, {"batch_size": 3, "z_dim": 5}, {"batch_size": 7, "z_dim": 1}, {"batch_size": 50},
    {"setting": "custom", "lr": 1e-4, "beta1": 0.5, "beta2": 0.9, "n_dis": 3},
]  # fmt: skip


@pytest.mark.parametrize("changes", SIZES, ids=str)
@pytest.mark.parametrize("block", [1, 2, 7])
def test_values_and_states_are_those_of_single_draws(changes: dict[str, Any], block: int) -> None:
    config = small(seed=3, **changes)
    dtype = getattr(torch, config.dtype)
    feed, single = Feed(config, numbered(50), dtype, block), Single(config, 50, dtype)
    for _ in range(16):
        assert same(feed.state(), single.state())
        assert agree(made(feed, config), single.step())


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 8))
def test_it_resumes_under_another_block_size(steps: list[int], block: int) -> None:
    config = small(batch_size=4)
    single = Single(config, 50, torch.float32)
    state = single.state()
    for n in steps:
        feed = Feed(config, numbered(50), torch.float32, block)
        feed.load_state(state)
        assert all(agree(made(feed, config), single.step()) for _ in range(n))
        state, block = feed.state(), block % 8 + 1
        assert same(state, feed.state())  # a look moves nothing
        assert same(state, single.state())


def test_the_state_of_an_earlier_step_is_there_as_long_as_it_is_wanted() -> None:
    config = small(batch_size=4)
    feed, single = Feed(config, numbered(50), torch.float32, 3), Single(config, 50, torch.float32)
    states = []
    feed.wanted = 0
    for _ in range(20):
        states.append(single.state())
        single.step()
        made(feed, config)
    for n in (0, 1, 2, 3, 11, 19):
        assert same(feed.state(n), states[n]), n
    assert agree(made(feed, config), single.step())
    feed.wanted = 18
    for _ in range(6):
        assert agree(made(feed, config), single.step())
    assert same(feed.state(18), states[18])
    with pytest.raises(StopIteration):
        feed.state(3)  # nobody wanted it


def test_what_was_read_stays_as_it_is() -> None:
    config = small()
    feed = Feed(config, numbered(50), torch.float32, 2)
    taken = [made(feed, config)["z_g"][0] for _ in range(5)]
    kept = [t.clone() for t in taken]
    for _ in range(5):
        made(feed, config)
    assert all(torch.equal(a, b) for a, b in zip(taken, kept, strict=True))


def test_the_values_are_those_of_the_named_streams() -> None:
    config = small(batch_size=16, seed=3)
    read = made(Feed(config, numbered(50), torch.float32), config)
    for name in ("z_d", "z_g"):
        assert torch.equal(read[name][0], torch.randn(16, config.z_dim, generator=torch_generator(3, name)))


def test_every_image_once_an_epoch_and_batches_always_full() -> None:
    config = small(batch_size=16, seed=3)
    feed = Feed(config, numbered(50), torch.float64, 4)
    pixels = torch.cat([made(feed, config)["real"][0][:, 0, 0, 0] for _ in range(25)])  # 8 epochs
    drawn = ((pixels + 1) * 127.5).round().long().tolist()
    assert [sorted(drawn[i : i + 50]) for i in range(0, 400, 50)] == [list(range(50))] * 8
    assert not np.array_equal(drawn[:50], drawn[50:100])


def test_too_large_a_batch_is_refused() -> None:
    with pytest.raises(InputError, match="larger than numbered's 50 images"):
        Feed(small(batch_size=51), numbered(50), torch.float32)
