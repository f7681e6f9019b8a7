"""A small anchor-free object detector of multi-branch blocks.

Every cell of three feature maps predicts class scores and the distances to the edges of its box
(FCOS, arXiv 1904.01355); coarser maps are added into finer ones (arXiv 1612.03144).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

from tvm_iovt.errors import UsageError
from tvm_iovt.nn.blocks import MobileOneBlock, RepVGGBlock
from tvm_iovt.nn.detections import DETECTOR_STRIDES
from tvm_iovt.nn.multi_branch import MultiBranch
from tvm_iovt.nn.torch_import import nn, torch

_PRIOR = 0.01
"""Score of every class before training (arXiv 1708.02002): almost all cells are background."""


class DetectorHead(nn.Module):  # type: ignore[misc]
    """`[N, channels, H, W]` to `[N, H * W, classes + 4]`, for one level.

    A depthwise and a pointwise multi-branch block, then a 1x1 convolution.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.depthwise = MobileOneBlock(channels, channels, groups=channels)
        self.pointwise = MobileOneBlock(channels, channels, kernel_size=1)
        self.predict = nn.Conv2d(channels, num_classes + 4, 1)
        nn.init.constant_(self.predict.bias[:num_classes], math.log(_PRIOR / (1 - _PRIOR)))

    def forward(self, x: Any) -> Any:
        """Logits of the classes, then the raw distances, for each cell row by row."""
        y = self.predict(self.pointwise(self.depthwise(x)))
        return y.flatten(2).transpose(1, 2)


class SmallDetector(nn.Module):  # type: ignore[misc]
    """`[N, in_channels, H, W]` to `[N, cells, num_classes + 4]`; H and W are multiples of 32.

    The cells are those of strides 8, 16 and 32, in that order; `detections.decode` makes boxes of
    them. Each holds the scores of the classes, 0 to 1, and the distances in pixels from its centre
    to the left, top, right and bottom edges of the box.

    Args:
        num_classes: Kinds of objects.
        width: Channels at stride 2; 2, 4, 8 and 8 times as many follow.
        in_channels: Channels of the image.
        block: Called with `(in_channels, out_channels, stride=)` for every block of the backbone.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        width: int = 16,
        in_channels: int = 3,
        block: Callable[..., MultiBranch] = RepVGGBlock,
    ) -> None:
        super().__init__()
        if num_classes < 1 or width < 1:
            raise UsageError(
                "A detector needs at least one class and one channel",
                seen=f"{num_classes} classes, width {width}",
            )
        self.num_classes = num_classes
        widths = [factor * width for factor in (1, 2, 4, 8, 8)]
        self.stem = nn.Sequential(
            block(in_channels, widths[0], stride=2), block(widths[0], widths[1], stride=2)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(block(before, after, stride=2), block(after, after, stride=1))
            for before, after in itertools.pairwise(widths[1:])
        )
        neck = widths[2]
        self.lateral = nn.ModuleList(
            MobileOneBlock(channels, neck, kernel_size=1) for channels in widths[2:]
        )
        self.heads = nn.ModuleList(DetectorHead(neck, num_classes) for _ in DETECTOR_STRIDES)

    def logits_and_distances(self, x: Any) -> tuple[Any, Any]:
        """`[N, cells, num_classes]` logits and `[N, cells, 4]` distances in pixels, for training.

        Raises:
            UsageError: Height or width is no multiple of 32.
        """
        if x.shape[2] % DETECTOR_STRIDES[-1] or x.shape[3] % DETECTOR_STRIDES[-1]:
            raise UsageError(
                f"Height and width must be multiples of {DETECTOR_STRIDES[-1]}",
                seen=f"{x.shape[2]}x{x.shape[3]}",
            )
        y = self.stem(x)
        levels = []
        for stage, lateral in zip(self.stages, self.lateral, strict=True):
            y = stage(y)
            levels.append(lateral(y))
        for fine in (1, 0):
            coarse = nn.functional.interpolate(levels[fine + 1], scale_factor=2.0, mode="nearest")
            levels[fine] = levels[fine] + coarse
        logits, distances = [], []
        for level, head, stride in zip(levels, self.heads, DETECTOR_STRIDES, strict=True):
            cells = head(level)
            logits.append(cells[..., : self.num_classes])
            distances.append(nn.functional.softplus(cells[..., self.num_classes :]) * stride)
        return torch.cat(logits, 1), torch.cat(distances, 1)

    def forward(self, x: Any) -> Any:
        """Scores and distances of every cell."""
        logits, distances = self.logits_and_distances(x)
        return torch.cat([torch.sigmoid(logits), distances], 2)


def small_detector(
    num_classes: int,
    *,
    width: int = 16,
    in_channels: int = 3,
    block: Callable[..., MultiBranch] = RepVGGBlock,
) -> SmallDetector:
    """A `SmallDetector` with random weights."""
    return SmallDetector(num_classes, width=width, in_channels=in_channels, block=block)
