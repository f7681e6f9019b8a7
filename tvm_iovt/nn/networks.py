"""The networks of the package by their constructors; each has a module of its own."""

from __future__ import annotations

from tvm_iovt.nn.detector import SmallDetector, small_detector
from tvm_iovt.nn.digit_network import DigitNetwork, digit_network
from tvm_iovt.nn.mobileone import MobileOne, mobileone
from tvm_iovt.nn.repvgg import RepVGG, repvgg

__all__ = [
    "DigitNetwork",
    "MobileOne",
    "RepVGG",
    "SmallDetector",
    "digit_network",
    "mobileone",
    "repvgg",
    "small_detector",
]
