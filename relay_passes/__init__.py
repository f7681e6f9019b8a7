"""Relax passes for vision networks, one a file, each usable on its own in any TVM program.

>>> import relay_passes
>>> mod = relay_passes.RestoreClip()(mod)

The folder is named for Relay, which left TVM in 0.20; the passes are written for its successor.
"""

from relay_passes.dequantize_after_conv import DequantizeAfterConv
from relay_passes.pipeline import cleanup_passes
from relay_passes.restore_clip import RestoreClip

__all__ = ["DequantizeAfterConv", "RestoreClip", "cleanup_passes"]
