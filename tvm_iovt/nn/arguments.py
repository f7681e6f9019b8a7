"""Arguments of convolutions, checked. Needs no torch."""

from __future__ import annotations

from tvm_iovt.errors import UsageError
from tvm_iovt.fusion.convolution import Pair


def pair(value: int | Pair, what: str) -> Pair:
    """One number for both axes, or one for each.

    Raises:
        UsageError: A number is not positive.
    """
    both = (value, value) if isinstance(value, int) else value
    if len(both) != 2 or min(both) < 1:
        raise UsageError(f"{what} must be positive", seen=repr(value))
    return both


def padding_of(value: int | Pair | None, extent: Pair) -> Pair:
    """Zeros on either side of both axes; by default as many as keep the size of odd kernels.

    Raises:
        UsageError: A number is negative.
    """
    if value is None:
        return extent[0] // 2, extent[1] // 2
    both = (value, value) if isinstance(value, int) else value
    if len(both) != 2 or min(both) < 0:
        raise UsageError("padding must not be negative", seen=repr(value))
    return both


def require_positive(**numbers: int) -> None:
    """Raises a `UsageError` that names the first number below 1."""
    for name, number in numbers.items():
        if number < 1:
            raise UsageError(f"{name} must be positive", seen=str(number))
