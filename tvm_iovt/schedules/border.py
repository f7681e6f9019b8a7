"""Results with a border of zeros: a kernel pads for its consumer by writing into a larger buffer.

A sliding window over an image needs zeros around it. Copying the image to make room takes as long
as a depthwise convolution itself. Where a kernel makes the image for one consumer only, it writes
the image into the middle of a larger buffer instead, and zeros around it.

The marker `bordered` stands for that in the tensor expressions: as an element-wise operator it is
fused into the kernel before it. `write_inside` takes it out before scheduling, `fill_border` adds
the zeros afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm_iovt.schedules.tvm_api import SBlock, SBlockRealize, te, tirx, tvm

_KEY = "tvm_iovt.border"
_NAME = "bordered"
_ELEMENTWISE = 0
"""Relax's operator pattern."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Border:
    """Zeros around NHWC images.

    Attributes:
        top: Rows before the image.
        left: Columns before it.
        bottom: Rows after it.
        right: Columns after it.
    """

    top: int
    left: int
    bottom: int
    right: int


NO_BORDER = Border(top=0, left=0, bottom=0, right=0)


def bordered(image: Any, border: Border) -> Any:
    """The marker: an NHWC image with a border of zeros."""
    batch, rows, cols, channels = (int(extent) for extent in image.shape)
    shape = (batch, rows + border.top + border.bottom, cols + border.left + border.right, channels)
    zero = tirx.const(0, image.dtype)

    def element(n: Any, h: Any, w: Any, c: Any) -> Any:
        inside = tirx.all(
            h >= border.top,
            h < border.top + rows,
            w >= border.left,
            w < border.left + cols,
        )
        return tirx.if_then_else(inside, image(n, h - border.top, w - border.left, c), zero)

    attrs = {_KEY: [border.top, border.left, border.bottom, border.right]}
    return te.compute(shape, element, name=_NAME, attrs=attrs)


def fuse_like_elementwise(mod: Any) -> Any:
    """A module whose markers count as element-wise operators when operators are fused.

    To be called after TVM has classified the operators, which sees an injective one.
    """
    functions = dict(mod.functions.items())
    for var, function in functions.items():
        if isinstance(function, tirx.PrimFunc) and _is_marker(function):
            functions[var] = function.with_attr("op_pattern", _ELEMENTWISE)
    return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)


def _is_marker(function: Any) -> bool:
    block = _block_of(function.body.block.body)
    return block is not None and _KEY in block.annotations


def write_inside(function: Any) -> tuple[Any, Border] | None:
    """A fused function whose last step is the marker, with the step before writing in its place.

    Args:
        function: An unscheduled PrimFunc.

    Returns:
        A function that writes the inside of its result only, and the border that is left to fill.
        None if the function has no marker, or the step before it cannot be redirected.
    """
    root = function.body.block
    steps = list(root.body.seq) if isinstance(root.body, tirx.SeqStmt) else []
    if len(steps) < 2:
        return None
    blocks = [_block_of(step) for step in steps]
    marker = blocks[-1]
    if None in blocks or _KEY not in marker.annotations:
        return None
    image, result = marker.reads[0].source, marker.writes[0].source
    top, left, bottom, right = (int(v) for v in marker.annotations[_KEY])
    border = Border(top=top, left=left, bottom=bottom, right=right)
    last = _redirected(steps[-2], image, result, border)
    if last is None or any(_reads(step, image) for step in steps[:-1]):
        return None
    body = tirx.SeqStmt([*steps[:-2], last]) if len(steps) > 2 else last
    kept = [buffer for buffer in root.alloc_buffers if not buffer.same_as(image)]
    return _with_root(function, body, kept), border


def fill_border(function: Any, border: Border, lanes: int) -> Any:
    """A scheduled function of `write_inside` that also fills the border.

    Args:
        function: The function; the border is that of its last parameter.
        border: What to fill.
        lanes: Elements to store at a time, where that divides the channels.
    """
    result = function.params[-1]
    root = function.body.block
    body = tirx.SeqStmt([_zeros(result, border, lanes), *_statements(root.body)])
    return _with_root(function, body, list(root.alloc_buffers))


def _block_of(step: Any) -> Any:
    while isinstance(step, tirx.For):
        step = step.body
    return step.block if isinstance(step, SBlockRealize) else None


def _reads(step: Any, buffer: Any) -> bool:
    return any(region.source.same_as(buffer) for region in _block_of(step).reads)


def _redirected(step: Any, image: Any, result: Any, border: Border) -> Any | None:
    """The loops of an element-wise step, writing to `result` inside the border."""
    block = _block_of(step)
    if not isinstance(block.body, tirx.BufferStore) or block.init is not None:
        return None
    if len(block.writes) != 1 or not block.writes[0].source.same_as(image):
        return None
    n, h, w, c = block.body.indices
    indices = [n, h + border.top, w + border.left, c]
    written = SBlock(
        block.iter_vars,
        block.reads,
        [tvm.ir.TensorRegion(result, [_point(i) for i in indices], block.writes[0].ty)],
        block.name_hint,
        tirx.BufferStore(result, block.body.value, indices),
        annotations=block.annotations,
    )

    def rebuilt(node: Any) -> Any:
        if isinstance(node, tirx.For):
            return tirx.For(node.loop_var, node.min, node.extent, node.kind, rebuilt(node.body))
        return SBlockRealize(list(node.iter_values), node.predicate, written)

    return rebuilt(step)


def _point(index: Any) -> Any:
    return tvm.ir.Range.from_min_extent(index, 1)


def _zeros(result: Any, border: Border, lanes: int) -> Any:
    """Loops that store zeros around the image."""
    batch, height, width, channels = (int(extent) for extent in result.shape)
    inside = (height - border.bottom, width - border.right)
    parts = [
        ((0, border.top), (0, width)),
        ((inside[0], height), (0, width)),
        ((border.top, inside[0]), (0, border.left)),
        ((border.top, inside[0]), (inside[1], width)),
    ]
    while channels % lanes:
        lanes //= 2
    loops = [
        _fill(result, [(0, batch), rows, cols], channels, lanes)
        for rows, cols in parts
        if rows[0] < rows[1] and cols[0] < cols[1]
    ]
    return tirx.SeqStmt(loops) if len(loops) > 1 else loops[0]


def _fill(result: Any, ranges: list[tuple[int, int]], channels: int, lanes: int) -> Any:
    variables = [tirx.Var(name, "int64") for name in ("n", "h", "w", "c")]
    *outer, c = variables
    zero = tirx.const(0, result.dtype)
    if lanes > 1:
        value, last = tirx.Broadcast(zero, lanes), tirx.Ramp(c * lanes, 1, lanes)
    else:
        value, last = zero, c
    stores: Any = tirx.BufferStore(result, value, [*outer, last])
    extents = [*ranges, (0, channels // lanes)]
    for variable, (low, high) in reversed(list(zip(variables, extents, strict=True))):
        stores = tirx.For(variable, low, high - low, tirx.stmt.ForKind.SERIAL, stores)
    return stores


def _statements(body: Any) -> list[Any]:
    return list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]


def _with_root(function: Any, body: Any, alloc_buffers: list[Any]) -> Any:
    root = function.body.block
    block = SBlock(
        root.iter_vars,
        root.reads,
        root.writes,
        root.name_hint,
        body,
        alloc_buffers=alloc_buffers,
        annotations=root.annotations,
    )
    return function.with_body(SBlockRealize([], tirx.const(True, "bool"), block))
