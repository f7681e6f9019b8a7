"""Softmax and its logarithm as tensor expressions.

Along the last axis every row goes through small buffers: it is padded to whole vectors with minus
infinity, whose exponential is zero, reduced to one vector, and that by a tree.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from tvm_iovt.schedules.row_wise import ROW_KEY, VECTOR, padded_row, reduced_row
from tvm_iovt.schedules.transcendental import exp, log, real
from tvm_iovt.schedules.tvm_api import te, tirx, topi

_SHORT_ROW = 4
"""Rows of fewer elements are not worth a vector."""

Expression = Callable[..., Any]


def _other_axis(x: Any, axis: int) -> tuple[Any, Any, Any, Expression]:
    def position(*i: Any) -> tuple[Any, ...]:
        return tuple(0 if k == axis else v for k, v in enumerate(i))

    largest = topi.max(x, axis=axis, keepdims=True)
    powers = te.compute(x.shape, lambda *i: exp(x(*i) - largest(*position(*i))), name="powers")
    total = topi.sum(powers, axis=axis, keepdims=True)
    return largest, powers, total, position


def _rows(x: Any) -> tuple[Any, Any, Any, Expression]:
    scores = padded_row(x, float("-inf"))
    largest = reduced_row(scores, te.max, tirx.max, "largest")
    powers = te.compute(scores.shape, lambda *i: exp(scores(*i) - largest(*i[:-1])), name="powers")
    total = reduced_row(powers, te.sum, operator.add, "total")
    return largest, powers, total, lambda *i: i[:-1]


def _is_row(x: Any, axis: int) -> bool:
    return bool(axis == len(x.shape) - 1 and int(x.shape[-1]) >= _SHORT_ROW)


def softmax(x: Any, axis: int) -> Any:
    """Softmax of a float32 tensor along `axis`."""
    row = _is_row(x, axis)
    _, powers, total, position = _rows(x) if row else _other_axis(x, axis)
    inverse = te.compute(total.shape, lambda *i: real(1.0) / total(*i), name="inverse")
    return te.compute(
        x.shape,
        lambda *i: powers(*i) * inverse(*position(*i)),
        name="softmax",
        attrs={ROW_KEY: VECTOR} if row else {},
    )


def log_softmax(x: Any, axis: int) -> Any:
    """Logarithm of the softmax of a float32 tensor along `axis`."""
    row = _is_row(x, axis)
    largest, _, total, position = _rows(x) if row else _other_axis(x, axis)
    shift = te.compute(total.shape, lambda *i: largest(*i) + log(total(*i)), name="shift")
    return te.compute(
        x.shape,
        lambda *i: x(*i) - shift(*position(*i)),
        name="log_softmax",
        attrs={ROW_KEY: VECTOR} if row else {},
    )
