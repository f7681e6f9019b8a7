"""Multi-branch blocks of dense and grouped convolutions, as their papers define them.

All take `(in_channels, out_channels)` and the options `kernel_size`, `stride`, `groups` and
`activation` (a class or function that makes the module; none for no activation), and give
`[N, out_channels, ceil(H / stride), ceil(W / stride)]`. Kernel sizes are odd. An identity branch
exists for a stride of 1 and equal channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm_iovt.errors import UsageError
from tvm_iovt.nn.branch import Branch, ConvBranch, IdentityBranch, PoolBranch, SequentialBranch
from tvm_iovt.nn.multi_branch import MultiBranch
from tvm_iovt.nn.torch_import import nn

Activation = Callable[[], Any] | None


class RepVGGBlock(MultiBranch):
    """RepVGG (arXiv 2101.03697): `3x3`, `1x1` and `identity`, a batch norm in each."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        activation: Activation = nn.ReLU,
    ) -> None:
        require_odd(kernel_size)
        branches: dict[str, Branch] = {
            square(kernel_size): ConvBranch(
                in_channels, out_channels, kernel_size, stride=stride, groups=groups
            ),
            "1x1": ConvBranch(in_channels, out_channels, 1, stride=stride, groups=groups),
        }
        if has_identity(in_channels, out_channels, stride):
            branches["identity"] = IdentityBranch(in_channels)
        super().__init__(branches, activation=activation and activation())


class QARepVGGBlock(MultiBranch):
    """QARepVGG (arXiv 2212.01593): only the `3x3` has its own batch norm, one follows the sum.

    The weights of the deployed convolution then have no outliers, which INT8 needs.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        activation: Activation = nn.ReLU,
    ) -> None:
        require_odd(kernel_size)
        branches: dict[str, Branch] = {
            square(kernel_size): ConvBranch(
                in_channels, out_channels, kernel_size, stride=stride, groups=groups
            ),
            "1x1": ConvBranch(
                in_channels, out_channels, 1, stride=stride, groups=groups, norm=False
            ),
        }
        if has_identity(in_channels, out_channels, stride):
            branches["identity"] = IdentityBranch(in_channels, norm=False)
        super().__init__(
            branches,
            post_norm=nn.BatchNorm2d(out_channels),
            activation=activation and activation(),
        )


class MobileOneBlock(MultiBranch):
    """MobileOne (arXiv 2206.04040): the kxk `conv_branches` times, `1x1` and `identity`.

    The copies are called `3x3_0`, `3x3_1` and so on, a single one `3x3`. Used depthwise
    (`groups=in_channels`) and pointwise (`kernel_size=1`, which has no further 1x1).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        conv_branches: int = 1,
        activation: Activation = nn.ReLU,
    ) -> None:
        require_odd(kernel_size)
        if conv_branches < 1:
            raise UsageError("conv_branches must be positive", seen=str(conv_branches))
        copies = [""] if conv_branches == 1 else [f"_{index}" for index in range(conv_branches)]
        branches: dict[str, Branch] = {
            square(kernel_size) + copy: ConvBranch(
                in_channels, out_channels, kernel_size, stride=stride, groups=groups
            )
            for copy in copies
        }
        if kernel_size > 1:
            branches["1x1"] = ConvBranch(in_channels, out_channels, 1, stride=stride, groups=groups)
        if has_identity(in_channels, out_channels, stride):
            branches["identity"] = IdentityBranch(in_channels)
        super().__init__(branches, activation=activation and activation())


class ACBlock(MultiBranch):
    """ACNet (arXiv 1908.03930): `3x3`, `3x1` and `1x3`, a batch norm in each."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        activation: Activation = nn.ReLU,
    ) -> None:
        require_odd(kernel_size, least=3)
        sizes = ((kernel_size, kernel_size), (kernel_size, 1), (1, kernel_size))
        branches = {
            f"{height}x{width}": ConvBranch(
                in_channels, out_channels, (height, width), stride=stride, groups=groups
            )
            for height, width in sizes
        }
        super().__init__(branches, activation=activation and activation())


class DiverseBranchBlock(MultiBranch):
    """DBB (arXiv 2103.13425): `3x3`, `1x1`, `1x1_3x3` and `1x1_avg`, batch norms throughout.

    Depthwise (as many groups as channels) there is no `1x1`, the pool has no convolution before it
    (`avg`), and the 1x1 of `1x1_3x3` doubles the channels; otherwise it keeps their number and
    begins as the identity.

    The 1x1 convolutions pad for the operator behind them. Their batch norms therefore see the
    padded ring in training too; the paper pads behind the norm, with the value that it gives to
    zeros, which is the same function with other statistics.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        activation: Activation = nn.ReLU,
    ) -> None:
        require_odd(kernel_size, least=3)
        ring = kernel_size // 2
        size = square(kernel_size)
        depthwise = groups == in_channels == out_channels
        inner = 2 * in_channels if depthwise else in_channels
        before = ConvBranch(in_channels, inner, 1, padding=ring, groups=groups)
        if not depthwise:
            nn.init.dirac_(before.conv.weight, groups)
        branches: dict[str, Branch] = {
            size: ConvBranch(in_channels, out_channels, kernel_size, stride=stride, groups=groups)
        }
        if not depthwise:
            branches["1x1"] = ConvBranch(in_channels, out_channels, 1, stride=stride, groups=groups)
        branches[f"1x1_{size}"] = SequentialBranch(
            before,
            ConvBranch(inner, out_channels, kernel_size, stride=stride, padding=0, groups=groups),
        )
        if depthwise:
            branches["avg"] = PoolBranch(out_channels, kernel_size, stride=stride)
        else:
            branches["1x1_avg"] = SequentialBranch(
                ConvBranch(in_channels, out_channels, 1, padding=ring, groups=groups),
                PoolBranch(out_channels, kernel_size, stride=stride, padding=0),
            )
        super().__init__(branches, activation=activation and activation())


def has_identity(in_channels: int, out_channels: int, stride: int) -> bool:
    """Whether the input can be added to the output."""
    return stride == 1 and in_channels == out_channels


def square(kernel_size: int) -> str:
    """Name of a branch by its kernel, e.g. `3x3`."""
    return f"{kernel_size}x{kernel_size}"


def require_odd(kernel_size: int, *, least: int = 1) -> None:
    """Raises a `UsageError` for a kernel that has no centre or is too small for the block."""
    if kernel_size < least or kernel_size % 2 == 0:
        raise UsageError(
            f"The kernel of this block must be odd and at least {least}", seen=str(kernel_size)
        )
