"""MobileNetV2 (doi 10.1109/CVPR.2018.00474) with the parameter names of torchvision.

torchvision itself is not used: a build of it that does not match the installed torch fails at
import.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

# Expansion factor, output channels, repeats, stride of the first repeat: table 2 of the paper.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):  # type: ignore[misc]
    """Expand with a 1x1 convolution, filter depthwise, project back; add the input if it fits."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers = [_conv_bn_relu6(in_channels, hidden, kernel=1)] if expansion != 1 else []
        layers += [
            _conv_bn_relu6(hidden, hidden, stride=stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.adds_input = stride == 1 and in_channels == out_channels

    def forward(self, x: Any) -> Any:
        """`[N, in_channels, H, W]` to `[N, out_channels, H / stride, W / stride]`."""
        y = self.conv(x)
        return x + y if self.adds_input else y


class MobileNetV2(nn.Module):  # type: ignore[misc]
    """`[N, 3, 224, 224]` to `[N, classes]` logits."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        channels = 32
        layers = [_conv_bn_relu6(3, channels, stride=2)]
        for expansion, out_channels, repeats, first_stride in _STAGES:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                layers.append(InvertedResidual(channels, out_channels, stride, expansion))
                channels = out_channels
        layers.append(_conv_bn_relu6(channels, 1280, kernel=1))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x: Any) -> Any:
        """Logits of the classes."""
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


def _conv_bn_relu6(
    in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1, groups: int = 1
) -> Any:
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(),
    )
