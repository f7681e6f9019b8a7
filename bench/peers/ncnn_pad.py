"""The one operator of the measured networks that pnnx leaves unconverted for ncnn: ONNX's Pad.

A network with it could not be loaded, though ncnn has such a layer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_LOWEST = -3.4e38
"""ncnn reads no infinity; below every activation will do."""


def convert_pads(ncnn_param: str, pnnx_param: str) -> str:
    """ncnn's text of a network with its `Pad` lines as `Padding` layers.

    Args:
        ncnn_param: What pnnx wrote for ncnn; a `Pad` in it has lost its amounts.
        pnnx_param: What pnnx wrote for itself, which has them.
    """
    amounts = {
        name: (pads.split(","), float(value))
        for name, pads, value in re.findall(
            r"^Pad +(\S+) .*?pads=\(([-\d,]+)\) value=(\S+)", pnnx_param, re.MULTILINE
        )
    }
    lines = []
    for line in ncnn_param.splitlines():
        fields = line.split()
        if fields[0] == "Pad" and fields[1] in amounts:
            line = _padding(fields, *amounts[fields[1]])
        lines.append(line)
    return "\n".join(lines) + "\n"


def _padding(fields: Sequence[str], pads: Sequence[str], value: float) -> str:
    """ONNX pads NCHW: begins, then ends; ncnn has top, bottom, left, right, mode, value."""
    _, _, top, left, _, _, bottom, right = pads
    constant = max(value, _LOWEST)
    arguments = f"0={top} 1={bottom} 2={left} 3={right} 4=0 5={constant:e}"
    return f"{'Padding':24} {' '.join(fields[1:])} {arguments}"
