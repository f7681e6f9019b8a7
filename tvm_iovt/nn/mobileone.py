"""MobileOne classifiers without squeeze-and-excitation: S0 to S3 (arXiv 2206.04040)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm_iovt.errors import UsageError
from tvm_iovt.nn.blocks import MobileOneBlock
from tvm_iovt.nn.torch_import import nn, torch

_STAGE_CHANNELS = (64, 128, 256, 512)
_STAGE_DEPTHS = (2, 8, 10, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MobileOneShape:
    """Width of a MobileOne network, and how often each convolution is there.

    Attributes:
        multipliers: Of the widths 64, 128, 256 and 512 of stages 1 to 4.
        conv_branches: Parallel copies of each convolution behind the stem.
    """

    multipliers: tuple[float, float, float, float]
    conv_branches: int = 1


MOBILEONE_SHAPES: dict[str, MobileOneShape] = {
    "S0": MobileOneShape(multipliers=(0.75, 1.0, 1.0, 2.0), conv_branches=4),
    "S1": MobileOneShape(multipliers=(1.5, 1.5, 2.0, 2.5)),
    "S2": MobileOneShape(multipliers=(1.5, 2.0, 2.5, 4.0)),
    "S3": MobileOneShape(multipliers=(2.0, 2.5, 3.0, 4.0)),
}


class MobileOne(nn.Module):  # type: ignore[misc]
    """`[N, in_channels, H, W]` to `[N, num_classes]` logits; H and W shrink 32 times.

    A stem, then pairs of a depthwise 3x3 and a pointwise block; the first pair of each stage
    halves height and width.
    """

    def __init__(
        self, shape: MobileOneShape, *, num_classes: int = 1000, in_channels: int = 3
    ) -> None:
        super().__init__()
        widths = [int(c * m) for c, m in zip(_STAGE_CHANNELS, shape.multipliers, strict=True)]
        channels = min(64, widths[0])
        self.stem = MobileOneBlock(in_channels, channels, stride=2)
        for stage, (depth, width) in enumerate(zip(_STAGE_DEPTHS, widths, strict=True), 1):
            blocks = []
            for position in range(depth):
                blocks.append(
                    MobileOneBlock(
                        channels,
                        channels,
                        stride=2 if position == 0 else 1,
                        groups=channels,
                        conv_branches=shape.conv_branches,
                    )
                )
                blocks.append(
                    MobileOneBlock(
                        channels, width, kernel_size=1, conv_branches=shape.conv_branches
                    )
                )
                channels = width
            self.add_module(f"stage{stage}", nn.Sequential(*blocks))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Linear(channels, num_classes)

    def forward(self, x: Any) -> Any:
        """Logits of the classes."""
        y = self.stage4(self.stage3(self.stage2(self.stage1(self.stem(x)))))
        return self.classify(torch.flatten(self.pool(y), 1))


def mobileone(name: str, *, num_classes: int = 1000, in_channels: int = 3) -> MobileOne:
    """A network of the paper by its name, `S0` to `S3`, with random weights.

    Raises:
        UsageError: There is no network of that name.
    """
    shape = MOBILEONE_SHAPES.get(name)
    if shape is None:
        raise UsageError(
            "Unknown MobileOne network",
            seen=repr(name),
            do=f"choose one of {', '.join(MOBILEONE_SHAPES)}",
        )
    return MobileOne(shape, num_classes=num_classes, in_channels=in_channels)
