"""Reading Relax expressions: constants, shapes, types."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_iovt.schedules.tvm_api import GenericConst, relax, tirx, tvm


def is_constant(expr: Any) -> bool:
    """Whether an expression is a tensor constant."""
    return isinstance(expr, GenericConst) and isinstance(expr.ty, relax.TensorType)


def array_of(constant: Any) -> np.ndarray:
    """The value of a tensor constant."""
    return np.asarray(constant.value.numpy())


def constant(value: np.ndarray, dtype: str) -> Any:
    """A Relax constant."""
    return relax.const(np.asarray(value, dtype, order="C"), dtype)


def shape_of(expr: Any) -> tuple[int, ...] | None:
    """The static shape of a tensor expression, or None."""
    ty = expr.ty
    if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
        return None
    values = list(ty.shape.values)
    if not all(isinstance(v, tirx.IntImm) for v in values):
        return None
    return tuple(int(v) for v in values)


def dtype_of(expr: Any) -> str:
    """The data type of a tensor expression, empty for other expressions."""
    return str(expr.ty.dtype) if isinstance(expr.ty, relax.TensorType) else ""


def op_name(expr: Any) -> str:
    """`relax.add` for a call of that operator, empty for anything else."""
    if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
        return str(expr.op.name)
    return ""


def permutation(call: Any) -> tuple[int, ...] | None:
    """The axes of a call of `relax.permute_dims`; None reverses them."""
    axes = call.attrs.axes
    return None if axes is None else tuple(int(v) for v in axes)
