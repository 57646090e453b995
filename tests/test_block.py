"""Copies of tensors in one piece of memory."""

import torch
from torch import nn

from sngan.block import Block


def tensors(seed: int) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    layer = nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)
    norm = nn.BatchNorm2d(3)
    return [*layer.parameters(), *norm.buffers(), torch.randn(7).double(), torch.randn(()), torch.zeros(0)]


def test_values_go_in_and_out_in_place_whatever_their_types_and_layouts() -> None:
    ours, theirs = tensors(0), tensors(1)
    ours[4].fill_(3)  # of whole numbers
    addresses = [t.data_ptr() for t in theirs]
    block, other = Block(ours, "cpu"), Block(theirs, "cpu")
    block.take(ours)
    other.bytes.copy_(block.bytes)  # one transfer
    other.give(theirs)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert [t.data_ptr() for t in theirs] == addresses
    assert theirs[0].is_contiguous(memory_format=torch.channels_last)


def test_equal_tensors_have_equal_layouts_and_a_first_part_lies_first() -> None:
    ours = tensors(0)
    block, first = Block(ours, "cpu"), Block(ours[:3], "cpu")
    block.take(ours)
    first.take(ours[:3])
    assert torch.equal(block.bytes[: len(first.bytes)], first.bytes)
    assert len(Block(ours, "meta").bytes) == len(block.bytes)
