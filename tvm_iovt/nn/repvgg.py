"""RepVGG classifiers (arXiv 2101.03697), of any dense multi-branch block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm_iovt.errors import UsageError
from tvm_iovt.nn.blocks import RepVGGBlock
from tvm_iovt.nn.multi_branch import MultiBranch
from tvm_iovt.nn.torch_import import nn, torch

_STAGE_CHANNELS = (64, 128, 256, 512)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepVGGShape:
    """Depth, width and groups of a RepVGG network: tables 2 and 3 of the paper.

    Attributes:
        depths: Blocks of stages 1 to 4.
        multipliers: Of the widths 64, 128, 256 and 512 of these stages.
        groups: Of every other block of stages 1 to 4, beginning with the second.
    """

    depths: tuple[int, int, int, int]
    multipliers: tuple[float, float, float, float]
    groups: int = 1

    @property
    def channels(self) -> tuple[int, ...]:
        """Widths of stages 0 to 4."""
        widths = [int(c * m) for c, m in zip(_STAGE_CHANNELS, self.multipliers, strict=True)]
        return min(64, widths[0]), *widths


_A, _B = (2, 4, 14, 1), (4, 6, 16, 1)
_B1, _B2, _B3 = (2.0, 2.0, 2.0, 4.0), (2.5, 2.5, 2.5, 5.0), (3.0, 3.0, 3.0, 5.0)

REPVGG_SHAPES: dict[str, RepVGGShape] = {
    "A0": RepVGGShape(depths=_A, multipliers=(0.75, 0.75, 0.75, 2.5)),
    "A1": RepVGGShape(depths=_A, multipliers=(1.0, 1.0, 1.0, 2.5)),
    "A2": RepVGGShape(depths=_A, multipliers=(1.5, 1.5, 1.5, 2.75)),
    "B0": RepVGGShape(depths=_B, multipliers=(1.0, 1.0, 1.0, 2.5)),
    "B1": RepVGGShape(depths=_B, multipliers=_B1),
    "B1g2": RepVGGShape(depths=_B, multipliers=_B1, groups=2),
    "B1g4": RepVGGShape(depths=_B, multipliers=_B1, groups=4),
    "B2": RepVGGShape(depths=_B, multipliers=_B2),
    "B2g2": RepVGGShape(depths=_B, multipliers=_B2, groups=2),
    "B2g4": RepVGGShape(depths=_B, multipliers=_B2, groups=4),
    "B3": RepVGGShape(depths=_B, multipliers=_B3),
    "B3g2": RepVGGShape(depths=_B, multipliers=_B3, groups=2),
    "B3g4": RepVGGShape(depths=_B, multipliers=_B3, groups=4),
}


class RepVGG(nn.Module):  # type: ignore[misc]
    """`[N, in_channels, H, W]` to `[N, num_classes]` logits; H and W shrink 32 times.

    Args:
        shape: Depth, width and groups.
        num_classes: Length of the result.
        in_channels: Channels of the image.
        block: Called with `(in_channels, out_channels, stride=, groups=)` for every block.
    """

    def __init__(
        self,
        shape: RepVGGShape,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        block: Callable[..., MultiBranch] = RepVGGBlock,
    ) -> None:
        super().__init__()
        channels, *widths = shape.channels
        self.stem = block(in_channels, channels, stride=2, groups=1)
        index = 1
        for stage, (depth, width) in enumerate(zip(shape.depths, widths, strict=True), 1):
            blocks = []
            for position in range(depth):
                blocks.append(
                    block(
                        channels,
                        width,
                        stride=2 if position == 0 else 1,
                        groups=shape.groups if index % 2 == 0 else 1,
                    )
                )
                channels = width
                index += 1
            self.add_module(f"stage{stage}", nn.Sequential(*blocks))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Linear(channels, num_classes)

    def forward(self, x: Any) -> Any:
        """Logits of the classes."""
        y = self.stage4(self.stage3(self.stage2(self.stage1(self.stem(x)))))
        return self.classify(torch.flatten(self.pool(y), 1))


def repvgg(
    name: str,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    block: Callable[..., MultiBranch] = RepVGGBlock,
) -> RepVGG:
    """A network of the paper by its name, `A0` to `B3g4`, with random weights.

    Raises:
        UsageError: There is no network of that name.
    """
    shape = REPVGG_SHAPES.get(name)
    if shape is None:
        raise UsageError(
            "Unknown RepVGG network",
            seen=repr(name),
            do=f"choose one of {', '.join(REPVGG_SHAPES)}",
        )
    return RepVGG(shape, num_classes=num_classes, in_channels=in_channels, block=block)
