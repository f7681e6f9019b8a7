"""A digit classifier of multi-branch blocks in training form.

The blocks are those of RepVGG (doi 10.1109/CVPR46437.2021.01352).
Each block adds the batch-normalised results of a 3x3 convolution, a 1x1 convolution and, where the
shape allows, its own input. The exported graph keeps every branch and every BatchNormalization, so
that merging them is visible work for the compiler.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CLASSES = 10
INPUT_SHAPE = (1, 1, 28, 28)


class MultiBranchBlock(nn.Module):  # type: ignore[misc]
    """`relu(bn(conv3x3(x)) + bn(conv1x1(x)) [+ bn(x)])` on `[N, C, H, W]`.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: 1, or 2 to halve height and width. The identity branch exists for a stride of 1 and
            equal channels.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv3x3 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn3x3 = nn.BatchNorm2d(out_channels)
        self.conv1x1 = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.bn1x1 = nn.BatchNorm2d(out_channels)
        has_identity = stride == 1 and in_channels == out_channels
        self.bn_identity = nn.BatchNorm2d(in_channels) if has_identity else None
        self.relu = nn.ReLU()

    def forward(self, x: Any) -> Any:
        """Sums the branches and rectifies."""
        y = self.bn3x3(self.conv3x3(x)) + self.bn1x1(self.conv1x1(x))
        if self.bn_identity is not None:
            y = y + self.bn_identity(x)
        return self.relu(y)


class DigitClassifier(nn.Module):  # type: ignore[misc]
    """`[N, 1, 28, 28]` to `[N, 10]` logits: five blocks, global average pooling, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            MultiBranchBlock(1, 16, stride=2),
            MultiBranchBlock(16, 16),
            MultiBranchBlock(16, 32, stride=2),
            MultiBranchBlock(32, 32),
            MultiBranchBlock(32, 32),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Linear(32, CLASSES)

    def forward(self, x: Any) -> Any:
        """Logits of the ten digits."""
        return self.classify(torch.flatten(self.pool(self.blocks(x)), 1))
