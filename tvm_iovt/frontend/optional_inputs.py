"""Optional inputs in one form: absent.

Exporters of opset 11 and 12 write an empty tensor where Resize has no `roi`, `scales` or `sizes`;
newer ones leave the input out, and TVM's importer knows only that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx


def drop_empty_inputs(model: onnx.ModelProto) -> None:
    """Remove empty constants from the optional inputs of Resize nodes, in place."""
    empty = {t.name for t in model.graph.initializer if np.prod(t.dims, dtype=np.int64) == 0}
    for node in model.graph.node:
        if node.op_type != "Resize" or node.domain not in ("", "ai.onnx"):
            continue
        kept = ["" if name in empty else name for name in node.input]
        while kept and not kept[-1]:
            kept.pop()
        node.input[:] = kept
