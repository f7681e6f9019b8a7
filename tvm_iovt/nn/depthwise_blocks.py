"""Multi-branch blocks that are depthwise by definition: `channels` in, as many out."""

from __future__ import annotations

from tvm_iovt.errors import UsageError
from tvm_iovt.nn.blocks import Activation, require_odd, square
from tvm_iovt.nn.branch import Branch, ConvBranch, IdentityBranch
from tvm_iovt.nn.multi_branch import MultiBranch
from tvm_iovt.nn.torch_import import nn

DILATED_BRANCHES: dict[int, tuple[tuple[int, int], ...]] = {
    5: ((3, 1), (3, 2)),
    7: ((5, 1), (3, 2), (3, 3)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
}
"""Kernel size K of UniRepLKNet (arXiv 2311.15599): size k and dilation r of its small kernels.

Each spans `r * (k - 1) + 1 <= K` pixels.
"""


class RepDWBlock(MultiBranch):
    """RepViT's token mixer (arXiv 2307.09283): `norm(norm(dw3x3(x)) + dw1x1(x) + x)`.

    The 1x1 has a bias and no batch norm. With a stride there is no `identity`.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        activation: Activation = None,
    ) -> None:
        require_odd(kernel_size)
        branches: dict[str, Branch] = {
            square(kernel_size): ConvBranch(
                channels, channels, kernel_size, stride=stride, groups=channels
            ),
            "1x1": ConvBranch(
                channels, channels, 1, stride=stride, groups=channels, bias=True, norm=False
            ),
        }
        if stride == 1:
            branches["identity"] = IdentityBranch(channels, norm=False)
        super().__init__(
            branches,
            post_norm=nn.BatchNorm2d(channels),
            activation=activation and activation(),
        )


class DilatedReparamBlock(MultiBranch):
    """UniRepLKNet (arXiv 2311.15599): a large depthwise kernel and smaller dilated ones.

    Branches are named `13x13` and, with the dilation behind `d`, `3x3d5`; each has a batch norm.

    Args:
        channels: Of the input and the output.
        kernel_size: One of `DILATED_BRANCHES`.
        stride: Along both axes.
        activation: Makes the module that follows.

    Raises:
        UsageError: The kernel size is another one.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 13,
        stride: int = 1,
        activation: Activation = None,
    ) -> None:
        if kernel_size not in DILATED_BRANCHES:
            raise UsageError(
                "No dilated branches are known for this kernel size",
                seen=str(kernel_size),
                do=f"choose one of {', '.join(map(str, DILATED_BRANCHES))}",
            )
        branches = {
            square(kernel_size): ConvBranch(
                channels, channels, kernel_size, stride=stride, groups=channels
            )
        }
        for size, dilation in DILATED_BRANCHES[kernel_size]:
            branches[f"{square(size)}d{dilation}"] = ConvBranch(
                channels, channels, size, stride=stride, dilation=dilation, groups=channels
            )
        super().__init__(branches, activation=activation and activation())
