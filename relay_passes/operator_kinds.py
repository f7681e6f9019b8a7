"""Kind, window and FLOPs of a unit's main operator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

from relay_passes.operator_roles import ELEMENTWISE, elements, shape_of
from relay_passes.relax_tensors import op_name
from relay_passes.straight_line import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What is known of an operator.

    Attributes:
        name: One of `cost_graph.KINDS`.
        flops: Of the operator alone.
        kernel: Extents of its window; empty without one.
        strides: Of the window.
        groups: Of a convolution.
        adds: Whether it sums products, so that it can start from a bias for free.
        selects: Whether it reads no more of its first operand than it writes.
    """

    name: str
    flops: int = 0
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    groups: int = 1
    adds: bool = False
    selects: bool = False

    @property
    def windowed(self) -> bool:
        """Whether kernels of it have a loop nest that a view behind it would not fit."""
        return self.adds or bool(self.kernel)


_TRANSCENDENTAL, _DIVISION = 8, 4

_MOVES = frozenset(
    (
        *("broadcast_to", "concat", "dynamic_strided_slice", "flip", "gather_elements"),
        *("gather_nd", "index_tensor", "layout_transform", "nn.pad", "nn.pixel_shuffle"),
        *("one_hot", "pad", "permute_dims", "repeat", "scatter_elements", "scatter_nd"),
        *("slice_scatter", "split", "stack", "strided_slice", "take", "tile", "tril", "triu"),
    )
)
_SELECTS = frozenset(
    (
        *("dynamic_strided_slice", "gather_elements", "gather_nd", "index_tensor"),
        *("strided_slice", "take"),
    )
)

# FLOPs an element of the first operand.
_REDUCTIONS: dict[str, int] = {
    **dict.fromkeys(("argmax", "argmin", "cumprod", "cumsum", "max", "mean", "median"), 1),
    **dict.fromkeys(("min", "prod", "sum"), 1),
    **dict.fromkeys(("std", "variance"), 4),
    "nn.log_softmax": _TRANSCENDENTAL + 4,
    "nn.softmax": _TRANSCENDENTAL + _DIVISION + 3,  # maximum, subtract, exp, sum, divide
    # Mean, centre, square and sum (2), normalise, scale, shift.
    **dict.fromkeys(("nn.group_norm", "nn.instance_norm", "nn.layer_norm"), 7),
    "nn.rms_norm": 4,
}


def kind_of(node: Node) -> Kind:
    """What is known of a node's operator; its FLOPs are 0 if nothing is.

    Raises:
        ModelError: A tensor has no static shape.
    """
    value = node.value
    if not isinstance(value, relax.Call):
        return Kind(name="move")
    name = op_name(value)
    if name in ELEMENTWISE:
        return Kind(name="elementwise", flops=ELEMENTWISE[name] * elements(value))
    if name in _MOVES or node.role == "view":
        return Kind(name="move", selects=name in _SELECTS)
    if name in _REDUCTIONS:
        return Kind(name="reduce", flops=_REDUCTIONS[name] * elements(node.reads[0]))
    read = _READERS.get(name.rstrip("123d"), _READERS.get(name, _other))
    return read(node)


def _convolution(node: Node) -> Kind:
    attrs = node.value.attrs
    kernel, (_, inputs) = _kernel(node, "OI")
    groups = int(attrs.groups)
    # Each element of the result is a dot product with one filter.
    flops = 2 * elements(node.value) * inputs * math.prod(kernel)
    if groups > 1:
        name = "depthwise" if inputs == 1 else "grouped"
    else:
        name = "pointwise" if math.prod(kernel) == 1 else "conv"
    return Kind(
        name=name,
        flops=flops,
        kernel=kernel,
        strides=tuple(int(s) for s in attrs.strides),
        groups=groups,
        adds=True,
    )


def _transposed(node: Node) -> Kind:
    attrs = node.value.attrs
    kernel, (_, outputs) = _kernel(node, "IO")
    return Kind(
        name="transposed",
        # Each element of the operand is scattered through one filter.
        flops=2 * elements(node.reads[0]) * outputs * math.prod(kernel),
        kernel=kernel,
        strides=tuple(int(s) for s in attrs.strides),
        groups=int(attrs.groups),
        adds=True,
    )


def _kernel(node: Node, channels: str) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Extents of the window, and those of the two axes of channels."""
    layout = str(node.value.attrs.kernel_layout)
    shape = dict(zip(layout, shape_of(node.reads[1]), strict=True))
    first, second = (shape.pop(axis) for axis in channels)
    return tuple(shape[axis] for axis in "DHW" if axis in shape), (first, second)


def _matmul(node: Node) -> Kind:
    # Batch axes broadcast into the result, which counts them.
    terms = shape_of(node.reads[0])[-1]
    return Kind(name="matmul", flops=2 * elements(node.value) * terms, adds=True)


def _pool(node: Node) -> Kind:
    attrs = node.value.attrs
    kernel = tuple(int(size) for size in attrs.pool_size)
    return Kind(
        name="reduce" if _is_global(node, kernel) else "pool",
        flops=elements(node.value) * math.prod(kernel),
        kernel=kernel,
        strides=tuple(int(s) for s in attrs.strides),
    )


def _is_global(node: Node, kernel: tuple[int, ...]) -> bool:
    """Whether one window covers the image."""
    axes = [axis for axis, letter in enumerate(str(node.value.attrs.layout)) if letter in "DHW"]
    image = [shape_of(node.reads[0])[axis] for axis in axes]
    result = [shape_of(node.value)[axis] for axis in axes]
    return math.prod(result) == 1 and list(kernel) == image


def _adaptive_pool(node: Node) -> Kind:
    axes = [axis for axis, letter in enumerate(str(node.value.attrs.layout)) if letter in "DHW"]
    whole = all(shape_of(node.value)[axis] == 1 for axis in axes)
    return Kind(name="reduce" if whole else "pool", flops=elements(node.reads[0]))


def _resize(node: Node) -> Kind:
    # A multiply-add a tap: 2 taps along every resized axis for linear, 4 for cubic.
    taps = {"linear": 2, "cubic": 4}.get(str(node.value.attrs.method), 0)
    sizes = zip(shape_of(node.reads[0]), shape_of(node.value), strict=True)
    axes = sum(before != after for before, after in sizes)
    if not taps or not axes:
        return Kind(name="move")
    return Kind(name="other", flops=2 * elements(node.value) * taps**axes)


def _other(_node: Node) -> Kind:
    return Kind(name="other")


_READERS: dict[str, Callable[[Node], Kind]] = {
    "nn.conv": _convolution,
    "nn.conv1d_transpose": _transposed,
    "nn.conv2d_transpose": _transposed,
    "nn.conv3d_transpose": _transposed,
    "matmul": _matmul,
    "nn.avg_pool": _pool,
    "nn.max_pool": _pool,
    "nn.adaptive_avg_pool": _adaptive_pool,
    "image.resize": _resize,
}


def tir_flops(function: Any) -> int:
    """FLOPs of a TIR function; 0 if TVM cannot tell."""
    from tvm.s_tir.analysis import estimate_tir_flops

    try:
        return int(estimate_tir_flops(tvm.IRModule({"main": function})))
    except Exception:  # TVM raises plain and unrelated classes for what it cannot analyse
        return 0
