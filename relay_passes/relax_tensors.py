"""What is known of a Relax tensor from its type."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import relax


def static_shape(value: Any) -> tuple[int | None, ...]:
    """Sizes along each axis, None where symbolic; empty when the rank is unknown."""
    shape = getattr(value.ty, "shape", None)
    if shape is None:
        return ()
    return tuple(int(size) if isinstance(size, tvm.tirx.IntImm) else None for size in shape)


def same_shape(left: Any, right: Any) -> bool:
    """Whether two tensors are known to have one shape, symbols included."""
    shapes = [getattr(value.ty, "shape", None) for value in (left, right)]
    return shapes[0] is not None and bool(tvm_ffi.structural_equal(*shapes, map_free_vars=False))


def rank(value: Any) -> int:
    """Number of axes; -1 if it is no tensor or not known."""
    return int(value.ty.ndim) if isinstance(value.ty, relax.TensorType) else -1


def op_name(call: Any) -> str:
    """Name of the called operator, e.g. `nn.conv2d`; of a TIR call, that of the function."""
    if call.op == tvm.ir.Op.get("relax.call_tir"):
        return str(call.args[0].name_hint).rstrip("0123456789")
    return str(call.op.name).removeprefix("relax.")
