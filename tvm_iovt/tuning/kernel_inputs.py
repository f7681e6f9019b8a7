"""Inputs for kernels that are checked and timed without their network."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import ml_dtypes  # noqa: F401  # makes NumPy know bfloat16 and the float8 types
import numpy as np

from tvm_iovt.schedules.template import blocks, is_reduction, reduce_extents, volume
from tvm_iovt.schedules.tvm_api import Schedule, tvm

NORMAL, POSITIVE = "normal", "positive"
"""How floats are drawn: standard normal, or uniform in [0.5, 1.5] for functions that give infinity
or no number for others (logarithms, roots, quotients)."""

DRAWS = (NORMAL, POSITIVE)

_SMALL = 2
"""Wide integers are below this: they may be indices, of which nobody knows the bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """A parameter of a PrimFunc.

    Attributes:
        shape: Of the buffer.
        dtype: NumPy's name.
        scale: Floats are multiplied by it, so that sums of their products are near 1.
    """

    shape: tuple[int, ...]
    dtype: str
    scale: float = 1.0


def arguments_of(function: Any) -> tuple[Argument, ...]:
    """The parameters of an unscheduled PrimFunc, in order, outputs included."""
    scales = _scales(function)
    return tuple(
        Argument(
            shape=tuple(int(extent) for extent in parameter.shape),
            dtype=str(parameter.dtype),
            scale=scales.get(i, 1.0),
        )
        for i, parameter in enumerate(function.params)
    )


def draw(arguments: tuple[Argument, ...], how: str, key: str) -> tuple[np.ndarray, ...]:
    """An array for each argument; equal arguments, ways and keys give equal arrays.

    Args:
        arguments: Inputs.
        how: One of `DRAWS`.
        key: Of the workload.
    """
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    rng = np.random.default_rng(seed)
    return tuple(_array(argument, how, rng) for argument in arguments)


def _array(argument: Argument, how: str, rng: np.random.Generator) -> np.ndarray:
    dtype = np.dtype(argument.dtype)
    if dtype == np.bool_:
        return rng.integers(0, 2, argument.shape).astype(np.bool_)
    if dtype.kind in "iu":
        if dtype.itemsize > 1:
            return rng.integers(0, _SMALL, argument.shape, dtype)
        span = np.iinfo(dtype)
        return rng.integers(span.min, span.max, argument.shape, dtype, endpoint=True)
    if how == POSITIVE:
        return rng.uniform(0.5, 1.5, argument.shape).astype(dtype)
    values = rng.standard_normal(argument.shape, np.float32)
    values *= np.float32(argument.scale)
    return values.astype(dtype)


def _scales(function: Any) -> dict[int, float]:
    """Scales of the weights, by position: what a sum of n products reads is 1 / sqrt(n)."""
    schedule = Schedule(tvm.IRModule({"main": function}))
    try:
        found = blocks(schedule)
    except Exception:  # TVM raises plain and unrelated classes; there are loops only
        return {}
    parameters = list(schedule.mod["main"].params)
    scales: dict[int, float] = {}
    for block in found:
        if not is_reduction(schedule, block):
            continue
        read = [region.source for region in schedule.get(block).reads]
        if len(read) == 1:
            continue
        scale = 1 / math.sqrt(volume(reduce_extents(schedule, block)))
        for position, parameter in enumerate(parameters):
            if position > 0 and any(parameter.same_as(source) for source in read):
                scales[position] = min(scale, scales.get(position, 1.0))
    return scales
