"""A small classifier of multi-branch blocks for 28x28 images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm_iovt.nn.blocks import RepVGGBlock
from tvm_iovt.nn.multi_branch import MultiBranch
from tvm_iovt.nn.torch_import import nn, torch


class DigitNetwork(nn.Module):  # type: ignore[misc]
    """`[N, in_channels, 28, 28]` to `[N, num_classes]` logits.

    Five blocks, global average pooling, a linear layer.

    Args:
        block: Called with `(in_channels, out_channels, stride=)` for every block.
        width: Channels of the first two blocks; the other three have twice as many.
        num_classes: Length of the result.
        in_channels: Channels of the image.
    """

    def __init__(
        self,
        block: Callable[..., MultiBranch] = RepVGGBlock,
        *,
        width: int = 16,
        num_classes: int = 10,
        in_channels: int = 1,
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            block(in_channels, width, stride=2),
            block(width, width, stride=1),
            block(width, 2 * width, stride=2),
            block(2 * width, 2 * width, stride=1),
            block(2 * width, 2 * width, stride=1),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Linear(2 * width, num_classes)

    def forward(self, x: Any) -> Any:
        """Logits of the classes."""
        return self.classify(torch.flatten(self.pool(self.blocks(x)), 1))


def digit_network(
    block: Callable[..., MultiBranch] = RepVGGBlock,
    *,
    width: int = 16,
    num_classes: int = 10,
    in_channels: int = 1,
) -> DigitNetwork:
    """A `DigitNetwork` with random weights."""
    return DigitNetwork(block, width=width, num_classes=num_classes, in_channels=in_channels)
