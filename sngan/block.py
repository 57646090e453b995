"""Copies of many tensors in one piece of memory, so that one transfer moves them all."""

from __future__ import annotations

import torch
from torch import Tensor

_ALIGNED = 16  # bytes: of the widest loads that a GPU's copies use


class Block:
    """Room for copies of tensors, which must be dense, on `device`: the same bytes wherever their like are copied.

    `bytes` is all of it, uint8 (n,); `pinned`: in memory that a GPU copies to and from while the CPU works.
    """

    def __init__(self, tensors: list[Tensor], device: torch.device | str, pinned: bool = False) -> None:
        starts, size = [], 0
        for tensor in tensors:
            starts.append(size)
            size += -(-tensor.numel() * tensor.element_size() // _ALIGNED) * _ALIGNED
        self.bytes = torch.zeros(size, dtype=torch.uint8, device=device, pin_memory=pinned)
        views = [
            self.bytes[start : start + tensor.numel() * tensor.element_size()]
            .view(tensor.dtype)
            .as_strided(tensor.shape, tensor.stride())
            for start, tensor in zip(starts, tensors, strict=True)
        ]
        self._groups: list[tuple[list[int], list[Tensor]]] = []  # of one type each: only such are copied at once
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            of_type = [i for i, tensor in enumerate(tensors) if tensor.dtype is dtype]
            self._groups.append((of_type, [views[i] for i in of_type]))

    @torch.no_grad()
    def take(self, tensors: list[Tensor]) -> None:
        """Their values, into the block."""
        for of_type, views in self._groups:
            torch._foreach_copy_(views, [tensors[i] for i in of_type], non_blocking=True)  # type: ignore[attr-defined]

    @torch.no_grad()
    def give(self, tensors: list[Tensor]) -> None:
        """The block's values, into tensors like those that it is for."""
        for of_type, views in self._groups:
            torch._foreach_copy_([tensors[i] for i in of_type], views, non_blocking=True)  # type: ignore[attr-defined]
