"""Draws ahead of need are the draws of one after the other, at every place where they may be taken up again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sngan.data import Order
from sngan.streams import Ahead, Normal, Source, numpy_generator, torch_generator

SHAPES = (
    (128, 64),
    (16, 64),
    (3, 5),
    (7,),
    (1, 1),
)  # multiples of 16 numbers, which torch draws by vectors, and others


def normals(shape: tuple[int, ...], dtype: torch.dtype) -> Normal:
    return Normal(torch_generator(3, "z_d"), shape, dtype)


def order(n_images: int, batch_size: int) -> Order:
    return Order(n_images, batch_size, numpy_generator(3, "data"))


SOURCES: list[Callable[[], Source]] = [
    *(lambda s=shape, t=dtype: normals(s, t) for shape in SHAPES for dtype in (torch.float32, torch.float64)),
    *(lambda n=n, b=b: order(n, b) for n, b in ((50, 16), (16, 16), (17, 3))),
]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("make", SOURCES)
@pytest.mark.parametrize("block", [1, 2, 7])
def test_values_and_states_are_those_of_single_draws(make: Callable[[], Source], block: int) -> None:
    single, ahead = make(), Ahead(make(), "cpu", block)
    for _ in range(16):
        assert same(ahead.state(), single.state())
        out = torch.empty(single.shape, dtype=single.dtype)
        single.fill(out)
        assert torch.equal(next(ahead), out)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 8))
def test_it_resumes_under_another_block_size(steps: list[int], block: int) -> None:
    single, state = normals((4, 4), torch.float32), normals((4, 4), torch.float32).state()
    for n in steps:
        ahead = Ahead(normals((4, 4), torch.float32), "cpu", block)
        ahead.load_state(state)
        for _ in range(n):
            out = torch.empty(4, 4)
            single.fill(out)
            assert torch.equal(next(ahead), out)
        state, block = ahead.state(), block % 8 + 1
        assert same(state, ahead.state())  # a look moves nothing


def test_what_was_handed_out_stays_as_it_is() -> None:
    ahead = Ahead(normals((4, 4), torch.float32), "cpu", 2)
    taken = [next(ahead) for _ in range(5)]
    kept = [t.clone() for t in taken]
    for _ in range(5):
        next(ahead)
    assert all(torch.equal(a, b) for a, b in zip(taken, kept, strict=True))


def test_the_values_are_those_of_the_named_stream() -> None:
    first = next(Ahead(normals((128, 64), torch.float32), "cpu"))
    assert torch.equal(first, torch.randn(128, 64, generator=torch_generator(3, "z_d")))
