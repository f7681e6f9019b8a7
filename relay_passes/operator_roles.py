"""What an operator is to a compiler that fuses: the start of a kernel, its tail, or nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from tvm import relax

from relay_passes.relax_tensors import op_name, static_shape
from tvm_iovt.errors import ModelError

Role = Literal["anchor", "elementwise", "view", "item"]
"""A kernel's main operator; one that is computed where its operand is; one that only renames
elements; a tensor of a tuple."""

_DIVISION, _TRANSCENDENTAL = 4, 8


def _named(*groups: str) -> tuple[str, ...]:
    return tuple(name for group in groups for name in group.split())


ELEMENTWISE: dict[str, int] = {
    # Nothing is computed.
    "astype": 0,
    **dict.fromkeys(
        _named(
            "abs add bitwise_and bitwise_not bitwise_or bitwise_xor ceil equal floor greater",
            "greater_equal isfinite isinf isnan left_shift less less_equal logical_and",
            "logical_not logical_or logical_xor maximum minimum multiply negative nn.relu",
            "not_equal right_shift round sign square subtract trunc where",
        ),
        1,
    ),
    **dict.fromkeys(_named("clip nn.leakyrelu nn.prelu nn.relu6 nn.batch_norm dequantize"), 2),
    **dict.fromkeys(_named("divide floor_divide floor_mod mod sqrt"), _DIVISION),
    "rsqrt": 2 * _DIVISION,
    **dict.fromkeys(
        _named(
            "acos acosh asin asinh atan atan2 atanh cos cosh erf exp log nn.softplus power",
            "sigmoid sin sinh tan tanh",
        ),
        _TRANSCENDENTAL,
    ),
    "quantize": 5,  # scale, round, add the zero point, two bounds
    "nn.silu": _TRANSCENDENTAL + 1,
    "nn.selu": _TRANSCENDENTAL + 2,
    "nn.gelu": _TRANSCENDENTAL + 4,
    "nn.gelu_tanh": _TRANSCENDENTAL + 8,
}
"""FLOPs an element, weighed as McMahon's Livermore Fortran Kernels (UCRL-53745, 1986) do."""

VIEWS = frozenset(_named("reshape flatten expand_dims squeeze"))


def role_of(value: Any, reads: Sequence[Any]) -> Role:
    """The role of an expression that reads those tensors."""
    if isinstance(value, relax.TupleGetItem):
        return "item"
    name = op_name(value)
    if name in VIEWS or (name == "permute_dims" and moves_nothing(value)):
        return "view"
    if name in ELEMENTWISE and (
        name == "nn.batch_norm" or elements(value) == max(map(elements, reads), default=0)
    ):
        return "elementwise"
    return "anchor"


def moves_nothing(permutation: Any) -> bool:
    """Whether a `permute_dims` leaves the order of the elements: only axes of one element move."""
    shape = static_shape(permutation.args[0])
    axes = permutation.attrs.axes
    order = list(range(len(shape)))[::-1] if axes is None else [int(a) % len(shape) for a in axes]
    longer = [axis for axis in order if shape[axis] != 1]
    return longer == sorted(longer)


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of a tensor; of a tuple, that of its first item.

    Raises:
        ModelError: It is not static.
    """
    shape = static_shape(first_item(value))
    if None in shape or (not shape and first_item(value).ty.ndim != 0):
        raise ModelError(
            "The network cannot be divided: it has tensors without a static shape",
            seen=f"{first_item(value).ty}",
            do="fix the shapes of the inputs",
        )
    return tuple(size for size in shape if size is not None)


class _Typed:
    def __init__(self, ty: Any) -> None:
        self.ty = ty


def first_item(value: Any) -> Any:
    """Something of the type of a tensor, or of a tuple's first item."""
    ty = value.ty
    while isinstance(ty, relax.TupleType):
        ty = ty.fields[0]
    if not isinstance(ty, relax.TensorType):
        raise ModelError(
            "The network cannot be divided: it computes with other things than tensors",
            seen=f"{value.ty}",
            do="fix the shapes of the inputs, so that shapes become constants",
        )
    return _Typed(ty)


def elements(value: Any) -> int:
    """Number of elements of a tensor or of a tuple's first item."""
    return math.prod(shape_of(value))
