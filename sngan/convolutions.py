"""The networks' convolutions: torch's, but those written out as matrix products at which its CPU kernels lose time.

oneDNN comes to 80 to 90 % of the machine's matrix rate in float32 if there are many channels. It comes to 5 % where
an image comes out, which are the generator's last layer and the gradient of the discriminator's first, to 20 % from one
pixel, and in bfloat16 to half in a transposed convolution's gradients. The generator's second layer, more than half of
a step, is computed with a third of the multiplications (`toom_cook`). On other devices, and for other shapes, torch's
own code runs. Gradients of all orders work; `torch.func` does not.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_FEW = 4  # channels of an image
_POINTS = (0.0, 0.5, -0.5, 2.0, -2.0)  # and infinity: of the sets that were tried the one that rounds least
_SIDE = len(_POINTS) + 1


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`; the gradient of its input differs by rounding."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        overlaps = self.kernel_size[0] % self.stride[0] == 0
        if input.requires_grad and weight.shape[1] <= _FEW and overlaps and _is_simple(self, input):
            return _ConvolutionOfImages.apply(*_lowered(input, weight, bias), self.stride[0])  # type: ignore[return-value]
        return super()._conv_forward(input, weight, bias)


class ConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d`; values and gradients differ by rounding."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is not None or not _is_simple(self, input):
            return super().forward(input, output_size)
        x, weight, bias = _lowered(input, self.weight, self.bias)
        if _suits_toom_cook(self, x):
            image = toom_cook(x, weight)
            return image if bias is None else image + bias[:, None, None]
        if input.shape[2:] == (1, 1):
            return _from_one_pixel(x, weight, bias)
        if weight.shape[1] <= _FEW or x.dtype == torch.bfloat16:
            return _TransposedConvolution.apply(x, weight, bias, self.stride[0])  # type: ignore[return-value]
        return super().forward(input)


def _is_simple(layer: nn.Conv2d | nn.ConvTranspose2d, input: Tensor) -> bool:
    """On a CPU, square, without padding, dilation and groups."""
    (kernel, width), (stride, across) = layer.kernel_size, layer.stride
    return (
        input.device.type == "cpu" and input.ndim == 4
        and layer.padding == layer.output_padding == (0, 0) and layer.dilation == (1, 1) and layer.groups == 1
        and kernel == width and stride == across
    )  # fmt: skip


def _suits_toom_cook(layer: nn.ConvTranspose2d, x: Tensor) -> bool:
    """Where six points a side are just enough, and the type is fine enough for their differences."""
    (kernel, _), side = layer.kernel_size, tuple(x.shape[2:])
    return (
        layer.stride == (1, 1) and 1 < kernel < _SIDE and side == (_SIDE + 1 - kernel,) * 2
        and x.shape[1] == layer.in_channels and x.dtype in (torch.float32, torch.float64)
    )  # fmt: skip


def _lowered(*tensors: Tensor | None) -> list[Any]:
    """In the type that autocast computes convolutions in, if it is on."""
    if not torch.is_autocast_enabled("cpu"):
        return list(tensors)
    dtype = torch.get_autocast_dtype("cpu")
    return [t.to(dtype) if t is not None and t.dtype == torch.float32 else t for t in tensors]


def _from_one_pixel(z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """z (N, C, 1, 1), weight (C, c, k, k) -> (N, c, k, k) in channels_last: one matrix product."""
    inputs, outputs, height, width = weight.shape
    product = z.flatten(1) @ weight.permute(0, 2, 3, 1).reshape(inputs, -1)
    image = product.view(len(z), height, width, outputs)
    return (image if bias is None else image + bias).permute(0, 3, 1, 2)


def toom_cook(x: Tensor, weight: Tensor) -> Tensor:
    """The transposed convolution of stride 1 of x (N, C, h, h) with weight (C, c, 7 - h, 7 - h): (N, c, 6, 6).

    It multiplies polynomials in two variables, of h and k = 7 - h coefficients in each: both are evaluated at 6 points
    a side and multiplied point by point, and the product's coefficients are found from its values (Toom 1963, Cook
    1966; for networks Lavin & Gray 2016, section 4). These are 36 matrix products of N x C by C x c instead of h^2 k^2,
    which are 144 for h = 3 and k = 4; with what evaluation and interpolation multiply it comes to a third.

    Deviation: it rounds more. For 256 channels in float32 the error is 1.5e-6 of the norm, of the values and of both
    gradients; the plain sum's is 1e-7 to 8e-7. One infinite pixel makes all of its image NaN.
    """
    (inputs, outputs, kernel, _), n = weight.shape, len(x)
    of_x, of_weight, to_image = (x.new_tensor(matrix) for matrix in at_points(kernel))
    values = of_x @ x.permute(0, 2, 3, 1).reshape(n, (_SIDE + 1 - kernel) ** 2, inputs)
    weights = of_weight @ weight.permute(0, 2, 3, 1).reshape(inputs, kernel * kernel, outputs)
    products = values.transpose(0, 1) @ weights.transpose(0, 1)  # one for every point
    image = to_image @ products.transpose(0, 1)
    return image.view(n, _SIDE, _SIDE, outputs).permute(0, 3, 1, 2)


@cache  # of arrays: a tensor would keep the mode and the device of the first call
def at_points(kernel: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of h^2 and of k^2 coefficients at 36 points, and the product's coefficients from its values."""

    def values(coefficients: int) -> np.ndarray:
        return np.vstack([np.vander(_POINTS, coefficients, increasing=True), np.eye(coefficients)[-1]])

    of_x, of_weight, to_image = values(_SIDE + 1 - kernel), values(kernel), np.linalg.inv(values(_SIDE))
    return np.kron(of_x, of_x), np.kron(of_weight, of_weight), np.kron(to_image, to_image)


def overlap_add(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """The transposed convolution of x (N, C, h, w) with weight (C, c, k, k): (N, c, (h - 1) stride + k, ..).

    One product gives every pixel's window; windows that lie k / stride apart, a whole number, share no pixel, so that
    few sums remain. They are of float32 or wider.
    """
    inputs, outputs, kernel, _ = weight.shape
    n, _, height, width = x.shape
    m = kernel // stride
    windows = weight.reshape(inputs, outputs, m, stride, m, stride).permute(0, 2, 4, 3, 5, 1).reshape(inputs, -1)
    product = x.permute(0, 2, 3, 1).reshape(-1, inputs) @ windows
    wide = torch.promote_types(product.dtype, torch.float32)
    product = product.to(wide).view(n, height, width, m, m, stride, stride, outputs)
    image = product.new_zeros(n, height + m - 1, stride, width + m - 1, stride, outputs)
    for p in range(m):
        for q in range(m):
            image[:, p : p + height, :, q : q + width] += product[:, :, :, p, q].transpose(2, 3)
    image = image.view(n, (height + m - 1) * stride, (width + m - 1) * stride, outputs)
    return image.permute(0, 3, 1, 2).to(x.dtype)


class _TransposedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.with_bias = stride, bias is not None
        if weight.shape[1] <= _FEW and weight.shape[2] % stride == 0:
            image = overlap_add(x, weight, stride)
            return image.clone() if bias is None else image + bias[:, None, None]  # no view: it may be changed in place
        return nn.functional.conv_transpose2d(x, weight, bias, stride)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        if weight.shape[1] <= _FEW or not any(wanted):
            return *_gradients(gradient, x, weight, ctx, transposed=True, wanted=wanted), None
        inputs, outputs, kernel, _ = weight.shape
        n, _, height, width = x.shape
        # the window of every pixel of x, as a row in the order of k, k, c, which is that of channels_last
        windows = gradient.unfold(2, kernel, ctx.stride).unfold(3, kernel, ctx.stride).permute(0, 2, 3, 4, 5, 1)
        rows = windows.reshape(n * height * width, kernel * kernel * outputs)
        of_x = of_weight = of_bias = None
        if wanted[0]:
            of_x = rows @ weight.permute(2, 3, 1, 0).reshape(-1, inputs)
            of_x = of_x.view(n, height, width, inputs).permute(0, 3, 1, 2)
        if wanted[1]:
            of_weight = x.permute(0, 2, 3, 1).reshape(-1, inputs).t() @ rows
            of_weight = of_weight.view(inputs, kernel, kernel, outputs).permute(0, 3, 1, 2)
        if wanted[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None


class _ConvolutionOfImages(torch.autograd.Function):
    """A convolution of few channels whose input wants a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.with_bias = stride, bias is not None
        return nn.functional.conv2d(x, weight, bias, stride)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = overlap_add(gradient, weight, ctx.stride)
            unseen = (0, x.shape[3] - of_x.shape[3], 0, x.shape[2] - of_x.shape[2])  # the last rows, where none fits
            of_x = nn.functional.pad(of_x, unseen)
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
