"""The call of TVM's ONNX importer, with its failures put in terms of the model's nodes."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import TYPE_CHECKING, Any

from tvm_iovt import _tvm
from tvm_iovt.errors import ModelError
from tvm_iovt.frontend.importer_forms import adapt_to_importer
from tvm_iovt.frontend.onnx_model import dimensions, graph_inputs

if TYPE_CHECKING:
    import onnx


def import_onnx(model: onnx.ModelProto, name: str) -> Any:
    """Relax `IRModule` of a static, simplified model; parameters are constants.

    Raises:
        ModelError: The importer cannot convert a node; the message names it.
    """
    from tvm.relax.frontend.onnx import from_onnx

    shapes = {v.name: [int(d) for d in dimensions(v) or ()] for v in graph_inputs(model)}
    try:
        # The importer prints the operator that it fails at; stdout belongs to --json.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # renamed inputs: the manifest keeps the model's names
            adapted = adapt_to_importer(model)
            return from_onnx(adapted, shape_dict=shapes, keep_params_in_input=False)
    except Exception as error:  # the importer raises whatever a converter stumbles over
        node = _failing_node(error)
        where = f" at node {node.name or node.output[0]} ({node.op_type})" if node else ""
        raise ModelError(
            f"TVM {_tvm.TVM_VERSION} cannot import {name}{where}",
            seen=f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:300]}"
            if str(error).strip()
            else type(error).__name__,
            do="fix all input shapes with --input-shape; if they are, replace that operator "
            "(or the form in which it is used) in the model",
        ) from error


def _failing_node(error: BaseException) -> onnx.NodeProto | None:
    """The ONNX node that the importer was converting, read from its stack frames.

    The importer's messages do not name it, and its loop variable is the only place that knows.
    """
    import onnx

    found = None
    trace = error.__traceback__
    while trace is not None:
        node = trace.tb_frame.f_locals.get("node")
        if isinstance(node, onnx.NodeProto):
            found = node
        trace = trace.tb_next
    return found
