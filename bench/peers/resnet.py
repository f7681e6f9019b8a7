"""ResNet-18 and ResNet-50 (doi 10.1109/CVPR.2016.90) in torch, the stride in the 3x3 convolution.

torchvision is not used: a build of it that does not match the installed torch fails at import.
"""

from __future__ import annotations

from typing import Any

from torch import nn

_CHANNELS = (64, 128, 256, 512)


class Residual(nn.Module):  # type: ignore[misc]
    """`relu(f(x) + x)`, x through a 1x1 convolution where its shape does not fit."""

    def __init__(self, layers: list[Any], shortcut: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.shortcut = shortcut

    def forward(self, x: Any) -> Any:
        return nn.functional.relu(self.layers(x) + self.shortcut(x))


def resnet18(classes: int = 1000) -> Any:
    return _network((2, 2, 2, 2), expansion=1, classes=classes)


def resnet50(classes: int = 1000) -> Any:
    return _network((3, 4, 6, 3), expansion=4, classes=classes)


def _network(repeats: tuple[int, ...], *, expansion: int, classes: int) -> Any:
    layers = [*_conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for stage, (channels, count) in enumerate(zip(_CHANNELS, repeats, strict=True)):
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(_block(inputs, channels, stride, expansion))
            inputs = channels * expansion
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def _block(inputs: int, channels: int, stride: int, expansion: int) -> Any:
    outputs = channels * expansion
    if expansion == 1:
        layers = [*_conv(inputs, channels, 3, stride), nn.ReLU(), *_conv(channels, channels, 3)]
    else:
        layers = [*_conv(inputs, channels, 1), nn.ReLU(), *_conv(channels, channels, 3, stride)]
        layers += [nn.ReLU(), *_conv(channels, outputs, 1)]
    fits = inputs == outputs and stride == 1
    return Residual(
        layers, nn.Identity() if fits else nn.Sequential(*_conv(inputs, outputs, 1, stride))
    )


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[Any]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]
