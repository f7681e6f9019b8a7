"""What the fusion rules made, as Relax calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from relay_passes.relax_constants import Array, constant_of, finite
from relay_passes.relax_graph import RelaxGraph
from tvm_iovt.fusion.convolution import Convolution
from tvm_iovt.fusion.rules import Fusion


def write_fusion(graph: RelaxGraph, fusion: Fusion, emit: Callable[[Any], Any]) -> Any:
    """The expression that replaces the fused operators.

    Args:
        graph: The graph that the rule saw.
        fusion: Made by a rule.
        emit: Binds an expression to a new variable.

    Raises:
        InexactError: A fused weight is too large for the operator's type.
    """
    call: Any = fusion.carrier.node
    dtype = str(call.args[1].ty.dtype)
    total = fusion.convolution
    if fusion.carrier.kind == "conv2d_transpose":
        weight = _scaled_transpose(graph, call, total, dtype)
        result = relax.Call(call.op, [call.args[0], weight], call.attrs)
    elif fusion.carrier.kind == "dense":
        matrix = constant_of(total.kernel[:, :, 0, 0].T, dtype)
        result = relax.op.matmul(fusion.source, matrix)
    else:
        order = ["OIHW".index(axis) for axis in call.attrs.kernel_layout]
        result = relax.op.nn.conv2d(
            fusion.source,
            constant_of(total.kernel.transpose(order), dtype),
            strides=total.strides,
            padding=total.padding,
            dilation=total.dilation,
            groups=total.groups,
            data_layout=call.attrs.data_layout,
            kernel_layout=call.attrs.kernel_layout,
            out_layout=call.attrs.out_layout,
            out_dtype=call.attrs.out_dtype,
        )
    if total.has_bias:
        dense = fusion.carrier.kind == "dense"
        bias = total.bias.reshape(1, -1) if dense else _to_layout(total.bias, graph.layout)
        result = relax.op.add(emit(result), constant_of(bias, dtype))
    for term in fusion.rest:
        combine = relax.op.add if term.sign > 0 else relax.op.subtract
        result = combine(emit(result), term.value)
    return result


def _to_layout(bias: Array, layout: str) -> Array:
    return bias[np.newaxis] if layout == "NCHW" else bias.transpose(1, 2, 0)[np.newaxis]


def _scaled_transpose(graph: RelaxGraph, call: Any, affine: Convolution, dtype: str) -> Any:
    """The weight of a transposed convolution with its output channels scaled."""
    layout, groups = call.attrs.kernel_layout, int(call.attrs.groups)
    weight = graph.constant(call.args[1])
    assert weight is not None
    kernel = finite(weight).transpose([layout.index(axis) for axis in "IOHW"])
    inputs, outputs = kernel.shape[:2]
    factor = affine.kernel.reshape(groups, 1, outputs, 1, 1)
    scaled = kernel.reshape(groups, inputs // groups, outputs, *kernel.shape[2:]) * factor
    order = ["IOHW".index(axis) for axis in layout]
    return constant_of(scaled.reshape(kernel.shape).transpose(order), dtype)
