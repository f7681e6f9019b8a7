"""The branches of multi-branch blocks, each a torch module that is also one convolution.

Every branch is linear in evaluation mode, so it equals one `Convolution`; the block adds those up.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from tvm_iovt.errors import UsageError
from tvm_iovt.fusion.convolution import Convolution, Pair, average_pool, compose, identity
from tvm_iovt.nn.arguments import padding_of, pair, require_positive
from tvm_iovt.nn.folding import float64, normalised
from tvm_iovt.nn.torch_import import nn, torch


class Branch(nn.Module, ABC):  # type: ignore[misc]
    """A linear module from `[N, in_channels, H, W]` to `[N, out_channels, H', W']`.

    Attributes:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        extent: Pixels that the kernel spans along height and width, dilation included.
        stride: Along height and width.
        padding: Zeros on either side of height and width.
        groups: Independent slices of the channels.
    """

    in_channels: int
    out_channels: int
    extent: Pair
    stride: Pair
    padding: Pair
    groups: int

    @abstractmethod
    def convolution(self) -> Convolution:
        """The branch as one convolution in float64, with the running statistics of its norms.

        Raises:
            InexactError: A parameter is not finite, a norm has no running statistics, or its
                variance plus epsilon is zero.
        """

    @abstractmethod
    def flops(self, input_hw: Pair) -> int:
        """FLOPs for one image of that height and width, a multiply-add counted as two.

        A batch norm behind a convolution or a pool counts nothing, since it folds into it.
        """

    @abstractmethod
    def multiply(self, factor: Any) -> bool:
        """Multiplies the parameters so that the result is `factor` times the old one.

        Args:
            factor: A scalar tensor.

        Returns:
            Whether that was possible: a branch without parameters is left as it is.
        """

    def result_hw(self, input_hw: Pair) -> Pair:
        """Height and width of the output for an input of that height and width."""
        height, width = (
            (size + 2 * pad - extent) // stride + 1
            for size, pad, extent, stride in zip(
                input_hw, self.padding, self.extent, self.stride, strict=True
            )
        )
        return height, width


class ConvBranch(Branch):
    """A convolution, followed by a batch norm unless `norm` is false.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps along both axes, or along height and width.
        stride: Along both axes, or along height and width.
        padding: On both sides of an axis; by default as much as keeps the size of the image at a
            stride of 1 and an odd kernel.
        dilation: Distance between taps.
        groups: Independent slices of the channels.
        bias: Whether the convolution has a bias of its own.
        norm: Whether a batch norm follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: int | Pair | None = None,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = False,
        norm: bool = True,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise UsageError(
                "The groups of a convolution must divide its channels",
                seen=f"{groups} groups, {in_channels} channels in, {out_channels} out",
            )
        size, steps = pair(kernel_size, "kernel_size"), pair(dilation, "dilation")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.stride = pair(stride, "stride")
        self.extent = (size[0] - 1) * steps[0] + 1, (size[1] - 1) * steps[1] + 1
        self.padding = padding_of(padding, self.extent)
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            size,
            self.stride,
            self.padding,
            steps,
            groups,
            bias=bias,
        )
        self.norm = nn.BatchNorm2d(out_channels) if norm else None

    def forward(self, x: Any) -> Any:
        """Convolves and normalises."""
        y = self.conv(x)
        return y if self.norm is None else self.norm(y)

    def convolution(self) -> Convolution:
        """See `Branch`."""
        (ph, pw), (dh, dw) = self.padding, self.conv.dilation
        bias = np.zeros(self.out_channels)
        if self.conv.bias is not None:
            bias = float64(self.conv.bias, "the bias of the convolution")
        plain = Convolution(
            kernel=float64(self.conv.weight, "the weight of the convolution"),
            bias=bias.reshape(-1, 1, 1),
            strides=self.stride,
            padding=(ph, pw, ph, pw),
            dilation=(dh, dw),
            groups=self.groups,
        )
        return normalised(plain, self.norm)

    def flops(self, input_hw: Pair) -> int:
        """See `Branch`."""
        return 2 * int(self.conv.weight.numel()) * math.prod(self.result_hw(input_hw))

    def multiply(self, factor: Any) -> bool:
        """See `Branch`."""
        return _multiply_module(self.conv if self.norm is None else self.norm, factor)


class IdentityBranch(Branch):
    """The input itself, through a batch norm unless `norm` is false.

    Its FLOPs are `2 * C * H * W` either way: a factor and an addition for every element.
    """

    def __init__(self, channels: int, *, norm: bool = True) -> None:
        super().__init__()
        require_positive(channels=channels)
        self.in_channels = self.out_channels = self.groups = channels
        self.extent = self.stride = (1, 1)
        self.padding = (0, 0)
        self.norm = nn.BatchNorm2d(channels) if norm else None

    def forward(self, x: Any) -> Any:
        """The input, normalised."""
        return x if self.norm is None else self.norm(x)

    def convolution(self) -> Convolution:
        """See `Branch`."""
        return normalised(identity(self.in_channels), self.norm)

    def flops(self, input_hw: Pair) -> int:
        """See `Branch`."""
        return 2 * self.in_channels * math.prod(input_hw)

    def multiply(self, factor: Any) -> bool:
        """See `Branch`."""
        return _multiply_module(self.norm, factor)


class PoolBranch(Branch):
    """The average over a window, padding counted, followed by a batch norm unless `norm` is false.

    Counting the padding makes the average the same linear operator at the border as inside.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int | Pair,
        *,
        stride: int | Pair = 1,
        padding: int | Pair | None = None,
        norm: bool = True,
    ) -> None:
        super().__init__()
        require_positive(channels=channels)
        self.in_channels = self.out_channels = self.groups = channels
        self.extent = pair(kernel_size, "kernel_size")
        self.stride = pair(stride, "stride")
        self.padding = padding_of(padding, self.extent)
        if any(2 * p > size for p, size in zip(self.padding, self.extent, strict=True)):
            raise UsageError(
                "The padding of a pool must be at most half of its window",
                seen=f"padding {self.padding}, window {self.extent}",
            )
        self.pool = nn.AvgPool2d(self.extent, self.stride, self.padding, count_include_pad=True)
        self.norm = nn.BatchNorm2d(channels) if norm else None

    def forward(self, x: Any) -> Any:
        """Averages and normalises."""
        y = self.pool(x)
        return y if self.norm is None else self.norm(y)

    def convolution(self) -> Convolution:
        """See `Branch`."""
        (ph, pw) = self.padding
        pool = average_pool(self.in_channels, self.extent, self.stride, (ph, pw, ph, pw))
        return normalised(pool, self.norm)

    def flops(self, input_hw: Pair) -> int:
        """See `Branch`."""
        taps = math.prod(self.extent)
        return 2 * taps * self.out_channels * math.prod(self.result_hw(input_hw))

    def multiply(self, factor: Any) -> bool:
        """See `Branch`."""
        return _multiply_module(self.norm, factor)


class SequentialBranch(Branch):
    """One branch after another, as in the Diverse Branch Block (arXiv 2103.13425).

    All padding belongs to the first: were the second to pad with zeros, the border would miss the
    bias that the first has everywhere, and no single convolution would compute that.

    Args:
        first: Applied to the input; usually 1x1, padded for the kernel of `then`.
        then: Applied to its result, without padding.

    Raises:
        UsageError: `then` pads, or does not take the channels that `first` gives.
    """

    def __init__(self, first: Branch, then: Branch) -> None:
        super().__init__()
        if any(then.padding):
            raise UsageError(
                "The second of two convolutions in sequence must not pad",
                seen=f"padding {then.padding}",
                do="give the padding to the first",
            )
        if first.out_channels != then.in_channels:
            raise UsageError(
                "Two convolutions in sequence do not fit",
                seen=f"{first.out_channels} channels go into {then.in_channels}",
            )
        self.first, self.then = first, then
        self.in_channels, self.out_channels = first.in_channels, then.out_channels
        self.groups = math.gcd(first.groups, then.groups)
        self.padding = first.padding
        self.stride = first.stride[0] * then.stride[0], first.stride[1] * then.stride[1]
        self.extent = (
            first.extent[0] + (then.extent[0] - 1) * first.stride[0],
            first.extent[1] + (then.extent[1] - 1) * first.stride[1],
        )

    def forward(self, x: Any) -> Any:
        """Applies one after the other."""
        return self.then(self.first(x))

    def convolution(self) -> Convolution:
        """See `Branch`."""
        return compose(self.first.convolution(), self.then.convolution())

    def flops(self, input_hw: Pair) -> int:
        """See `Branch`."""
        return self.first.flops(input_hw) + self.then.flops(self.first.result_hw(input_hw))

    def multiply(self, factor: Any) -> bool:
        """See `Branch`."""
        return self.then.multiply(factor) or self.first.multiply(factor)


def _multiply_module(module: Any, factor: Any) -> bool:
    """Multiplies weight and bias in place; whether there is a module."""
    if module is None:
        return False
    with torch.no_grad():
        module.weight.mul_(factor)
        if module.bias is not None:
            module.bias.mul_(factor)
    return True
