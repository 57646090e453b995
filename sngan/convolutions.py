"""The networks' convolutions: torch's, with those products written out at which its CPU kernels are slow.

oneDNN reaches 80 to 90 % of the machine's matrix rate where there are many channels, and 5 % where an image comes out:
the generator's last layer, and the gradient of the discriminator's first. Those are one matrix product each, whose
results are added up where windows overlap. On other devices, and for other shapes, torch's own code runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_FEW = 4  # channels of an image


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`; same values, and gradients that differ by rounding."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.requires_grad and weight.shape[1] <= _FEW and _is_simple(self, input):
            return _ConvolutionOfImages.apply(input, weight, bias, self.stride[0])  # type: ignore[return-value]
        return super()._conv_forward(input, weight, bias)


class ConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d`; values and gradients differ by rounding."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is None and _is_simple(self, input):
            if input.shape[2:] == (1, 1):
                return _from_one_pixel(input, self.weight, self.bias)
            if self.weight.shape[1] <= _FEW:
                return _ConvolutionToImages.apply(input, self.weight, self.bias, self.stride[0])  # type: ignore[return-value]
        return super().forward(input, output_size)


def _is_simple(layer: nn.Conv2d | nn.ConvTranspose2d, input: Tensor) -> bool:
    """On a CPU, square, without padding, dilation and groups, with a kernel that is a multiple of the stride."""
    (kernel, width), (stride, across) = layer.kernel_size, layer.stride
    return (
        input.device.type == "cpu" and input.ndim == 4
        and layer.padding == layer.output_padding == (0, 0) and layer.dilation == (1, 1) and layer.groups == 1
        and kernel == width and stride == across and (kernel % stride == 0 or input.shape[2:] == (1, 1))
    )  # fmt: skip


def _from_one_pixel(z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """z (N, C, 1, 1), weight (C, c, k, k) -> (N, c, k, k) in channels_last: one matrix product."""
    inputs, outputs, height, width = weight.shape
    product = z.flatten(1) @ weight.permute(0, 2, 3, 1).reshape(inputs, -1)
    image = product.view(len(z), height, width, outputs)
    return (image if bias is None else image + bias).permute(0, 3, 1, 2)


def overlap_add(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """The transposed convolution of x (N, C, h, w) with weight (C, c, k, k): (N, c, (h - 1) stride + k, ..).

    One product gives every pixel's window; windows that lie k / stride apart share no pixel, so that few sums remain.
    """
    inputs, outputs, kernel, _ = weight.shape
    n, _, height, width = x.shape
    m = kernel // stride
    windows = weight.view(inputs, outputs, m, stride, m, stride).permute(0, 2, 4, 3, 5, 1).reshape(inputs, -1)
    product = x.permute(0, 2, 3, 1).reshape(-1, inputs) @ windows
    product = product.view(n, height, width, m, m, stride, stride, outputs)
    image = x.new_zeros(n, height + m - 1, stride, width + m - 1, stride, outputs)
    for p in range(m):
        for q in range(m):
            image[:, p : p + height, :, q : q + width] += product[:, :, :, p, q].transpose(2, 3)
    return image.view(n, (height + m - 1) * stride, (width + m - 1) * stride, outputs).permute(0, 3, 1, 2)


class _ConvolutionToImages(torch.autograd.Function):
    """A transposed convolution to few channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.with_bias = stride, bias is not None
        image = overlap_add(x, weight, stride)
        return image if bias is None else image + bias[:, None, None]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        return *_gradients(gradient, x, weight, ctx, transposed=True, wanted=ctx.needs_input_grad[:3]), None


class _ConvolutionOfImages(torch.autograd.Function):
    """A convolution of few channels whose input wants a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.with_bias = stride, bias is not None
        return torch.nn.functional.conv2d(x, weight, bias, stride)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = overlap_add(gradient, weight, ctx.stride)
            unseen = (0, x.shape[3] - of_x.shape[3], 0, x.shape[2] - of_x.shape[2])  # the last rows, where none fits
            of_x = torch.nn.functional.pad(of_x, unseen)
        wanted = (False, *ctx.needs_input_grad[1:3])
        return of_x, *_gradients(gradient, x, weight, ctx, transposed=False, wanted=wanted)[1:], None


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, ctx: Any, transposed: bool, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Of input, weight and bias, by torch."""
    if not any(wanted):
        return None, None, None
    bias_size = [weight.shape[1 if transposed else 0]] if ctx.with_bias else None
    stride, none, one = [ctx.stride] * 2, [0, 0], [1, 1]
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, bias_size, stride, none, one, transposed, none, 1, list(wanted)
    )
