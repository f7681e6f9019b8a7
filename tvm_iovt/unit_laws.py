"""What the time of a unit depends on: one law for each kind of kernel, and how to fit it.

A law is a sum of terms with coefficients that are never negative: seconds of arithmetic at the
peak, of traffic at the speed of the nearest cache, of weights, of lanes and tiles that stay empty.
Each term is a time that the device would need if nothing else limited it, so a coefficient is a
factor of some units, whatever the device, and a law that was fitted to some sizes stays sensible
far away from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tvm_iovt.cost_graph import Unit
from tvm_iovt.types import Roof

TERMS = 12
"""Of each law."""

_TILE = 8
"""Largest tile that Winograd kernels read along an axis, with the border of the window."""

_WINOGRAD = ("conv", "grouped")
_PRODUCTS = ("conv", "pointwise", "grouped", "transposed", "matmul")
_DTYPE_FALLBACK = "float32"
_BYTES = ("int8", "uint8")

_FALLBACKS = {
    "conv 3x3/1": ("conv",),
    "conv 3x3/2": ("conv",),
    "conv": ("conv 3x3/2", "pointwise"),
    "pointwise": ("conv", "matmul"),
    "depthwise": ("pool", "grouped"),
    "grouped": ("conv", "depthwise"),
    "transposed": ("conv", "pointwise"),
    "matmul": ("pointwise",),
    "pool": ("depthwise", "elementwise"),
    "reduce": ("elementwise", "pool"),
    "elementwise": ("move", "pool"),
    "move": ("elementwise", "pool"),
    "other": ("elementwise", "move"),
}
"""What a law that was not fitted is taken from, nearest first."""


def law_of(unit: Unit) -> str:
    """Name of the law that a unit follows, its type before it if not float32.

    3x3 convolutions have laws of their own, as Winograd's algorithm computes most of them. Units
    that read or write bytes convert them, whatever they compute in, and are `int8`.
    """
    kind = unit.kind
    if kind == "conv" and unit.kernel == (3, 3) and _stride(unit) <= 2:
        kind = f"conv 3x3/{_stride(unit)}"
    dtype = "int8" if unit.dtype in _BYTES or has_bytes(unit) else unit.dtype
    return kind if dtype == _DTYPE_FALLBACK else f"{dtype} {kind}"


def laws_like(name: str) -> tuple[str, ...]:
    """The law of that name, and those to take instead, nearest first."""
    dtype, _, kind = name.rpartition(" ") if not name.startswith("conv ") else ("", "", name)
    if " conv 3x3/" in name:
        dtype, _, rest = name.partition(" ")
        kind = rest
    found = [kind]
    for like in _FALLBACKS.get(kind, ()):
        found += [like, *_FALLBACKS.get(like, ())]
    kinds = tuple(dict.fromkeys(found))
    typed = tuple(f"{dtype} {kind}" for kind in kinds) if dtype else ()
    return (*typed, *kinds)


def arithmetic_of(unit: Unit) -> str:
    """The type that a unit computes in: activations of a byte each are multiplied as bytes.

    In the graph of a quantized model a convolution is one of float32 between conversions; kernels
    take the conversions in. Depthwise ones have no use for products of bytes, and widen them.
    """
    if unit.dtype != _DTYPE_FALLBACK or unit.kind not in _PRODUCTS:
        return unit.dtype
    return "int8" if has_bytes(unit) else unit.dtype


def has_bytes(unit: Unit) -> bool:
    """Whether a unit of float32 reads or writes activations of a byte each."""
    if unit.dtype != _DTYPE_FALLBACK:
        return False
    read, written = math.prod(unit.shape_in), math.prod(unit.shape_out)
    return 0 < unit.bytes_in < 2 * read or 0 < unit.bytes_out < 2 * written


def weight_bytes(unit: Unit) -> float:
    """Of a unit's constants, as its kernel reads them: bytes, where it multiplies bytes.

    In the graph of a quantized model they are whole numbers in float32.
    """
    narrow = unit.dtype == _DTYPE_FALLBACK and arithmetic_of(unit) == "int8"
    return unit.bytes_weights / 4 if narrow else float(unit.bytes_weights)


def peak_of(roof: Roof, dtype: str) -> float:
    """FLOPs a second in a type, or in float32 if nobody knows better."""
    peaks = {peak.dtype: peak.flops_per_s for peak in roof.peaks}
    return peaks.get("int8" if dtype in ("uint8", "int32") else dtype) or peaks["float32"]


def least_flops(unit: Unit) -> float:
    """FLOPs that no algorithm in use falls below.

    Winograd's `F(m, r)` takes `m + r - 1` multiplications for `m` outputs along an axis instead of
    `m r`. With a stride, an axis is the sum of as many shorter filters, one for each phase.
    """
    if unit.kind not in _WINOGRAD or len(unit.kernel) != 2 or arithmetic_of(unit) not in _FLOATS:
        return float(unit.flops)
    share = 1.0
    for taps, stride in zip(unit.kernel, unit.strides or (1, 1), strict=False):
        share *= _least_share(taps, stride)
    return share * unit.flops


_FLOATS = ("float32", "float16", "bfloat16")


def _least_share(taps: int, stride: int) -> float:
    phases = [len(range(first, taps, stride)) for first in range(stride)]
    multiplications = 0.0
    for phase in phases:
        if phase:
            outputs = max(_TILE + 1 - phase, 1)
            multiplications += (outputs + phase - 1) / outputs
    return min(multiplications / taps, 1.0)


def compulsory_bytes(unit: Unit) -> float:
    """Traffic that no kernel avoids: of what it reads, only what its windows touch."""
    read = float(unit.bytes_in)
    if unit.kernel and unit.strides:
        for taps, stride in zip(unit.kernel, unit.strides, strict=False):
            read *= min(taps / stride, 1.0)
    return read + unit.bytes_out + weight_bytes(unit)


def may_vanish(unit: Unit) -> bool:
    """Whether a unit may become a part of a neighbour's kernel, or a view, and take no time."""
    return unit.kind in ("move", "elementwise", "other")


def terms(unit: Unit, roof: Roof, lanes: int, cache_bytes: int) -> np.ndarray:
    """The terms of a unit's law, in seconds.

    Args:
        unit: The unit.
        roof: Of the threads that run it.
        lanes: Numbers in a vector register.
        cache_bytes: Of the cache that one core has for itself.
    """
    peak, cache = peak_of(roof, arithmetic_of(unit)), _cache_speed(roof)
    work_s = unit.flops / peak
    depth, channels = _channels(unit.shape_in), _channels(unit.shape_out)
    per_group = max(depth // max(unit.groups, 1), 1)
    height, width = _size(unit.shape_out)
    own = max(channels // unit.groups, 1) if unit.kind == "grouped" else channels
    empty_lanes = math.ceil(own / lanes) * lanes / own - 1
    weights = weight_bytes(unit)
    if arithmetic_of(unit) in _FLOATS and not has_bytes(unit):
        tile = 4 if unit.kind == "conv" else 1
        tiles = math.ceil(height / tile) * math.ceil(width / tile)
        beside_s = work_s * min(tiles * tile**2 / (height * width) - 1, 1.25)
    else:  # no tiles; but conversions, in float32
        beside_s = (unit.flops - _product_flops(unit, per_group)) / peak_of(roof, "float32")
    spilled = max(weights - cache_bytes / 2, 0.0)
    far = max(unit.bytes_in + unit.bytes_out - cache_bytes, 0.0)
    if has_bytes(unit):
        far = 0.0  # maps of bytes are seldom that large: too few samples to tell it from the rest
    return np.array(
        [
            1e-6,
            work_s,
            work_s / per_group,
            work_s / max(channels, 1),
            work_s * min(empty_lanes, 4.0),
            beside_s,
            work_s / math.sqrt(height * width),
            unit.bytes_in / cache,
            unit.bytes_out / cache,
            weights / cache,
            spilled / cache,
            far / cache,
        ]
    )


def _product_flops(unit: Unit, per_group: int) -> float:
    """FLOPs of a unit's convolution or product alone."""
    if unit.kind not in (*_PRODUCTS, "depthwise"):
        return 0.0
    outputs = math.prod(unit.shape_in if unit.kind == "transposed" else unit.shape_out)
    taps = math.prod(unit.kernel) * per_group
    return min(2.0 * outputs * taps, unit.flops)


def fit_law(rows: np.ndarray, seconds: Sequence[float], launch_s: float) -> tuple[float, ...]:
    """Coefficients, none negative, with the least relative errors.

    Args:
        rows: Terms of each sample, see `terms`.
        seconds: Measured.
        launch_s: That every kernel takes beside its law.

    Returns:
        One coefficient for each term.
    """
    return fit_laws(rows, seconds, launch_s)[0]


def fit_laws(
    rows: np.ndarray, seconds: Sequence[float], launch_s: float
) -> tuple[tuple[float, ...], np.ndarray]:
    """As `fit_law`, and what each sample is predicted as by a fit to all the others."""
    measured = np.asarray(seconds, np.float64)
    wanted = np.maximum(measured - launch_s, 0.02 * measured)
    weights = 1.0 / measured
    found = np.zeros(rows.shape[1])
    for _ in range(_ROUNDS):  # towards the least absolute errors, which few odd samples do not move
        found = _non_negative(rows * weights[:, None], wanted * weights)
        error = np.abs(rows @ found - wanted) / measured
        weights = 1.0 / measured / np.sqrt(np.maximum(error, 0.03))
    predicted = np.empty_like(measured)
    for left_out in range(len(measured)):
        rest = np.arange(len(measured)) != left_out
        others = _non_negative((rows * weights[:, None])[rest], (wanted * weights)[rest])
        others = _with_their_sum(others, rows[rest], wanted[rest])
        predicted[left_out] = rows[left_out] @ others + launch_s
    found = _with_their_sum(found, rows, wanted)
    return tuple(float(c) for c in found), predicted


def _with_their_sum(coefficients: np.ndarray, rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """A law whose predictions add up to what was measured, but for samples that it misses by half.

    Least relative errors come out low, and plans add up units: all of them by a few percent.
    """
    predicted = rows @ coefficients
    near = np.abs(predicted - wanted) <= 0.5 * wanted
    total = float(predicted[near].sum())
    factor = float(wanted[near].sum()) / total if total > 0 else 1.0
    return coefficients * factor


_ROUNDS = 6
_RIDGE = 1e-3
_MODEST = 1e-5
"""Weight of a coefficient's square: a term that hardly shows in any sample does not get thousands
to explain a disturbance with, which would be far off wherever the term does show."""


def _non_negative(rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Least squares without negative coefficients, slightly ridged (Lawson and Hanson 1974)."""
    scale = np.sqrt((rows**2).sum(axis=0))
    scale[scale == 0] = 1.0
    scaled = rows / scale
    normal = scaled.T @ scaled + np.diag(_RIDGE + _MODEST / scale**2)
    right = scaled.T @ wanted
    found = np.zeros(rows.shape[1])
    active = np.zeros(rows.shape[1], bool)
    for _ in range(3 * rows.shape[1]):
        gradient = np.where(active, -np.inf, right - normal @ found)
        best = int(np.argmax(gradient))
        if gradient[best] <= 1e-10:
            break
        active[best] = True
        while True:
            trial = np.zeros_like(found)
            trial[active] = np.linalg.solve(normal[np.ix_(active, active)], right[active])
            negative = active & (trial <= 0)
            if not negative.any():
                found = trial
                break
            step = np.min(found[negative] / (found[negative] - trial[negative]))
            found = found + step * (trial - found)
            active &= found > 1e-14
            found[~active] = 0.0
    coefficients: np.ndarray = found / scale
    return coefficients


def _cache_speed(roof: Roof) -> float:
    return roof.cache_bandwidth_bytes_per_s or 4 * roof.bandwidth_bytes_per_s


def _channels(shape: Sequence[int]) -> int:
    if not shape:
        return 1
    return max(shape[1] if len(shape) in (3, 4, 5) else shape[-1], 1)


def _size(shape: Sequence[int]) -> tuple[int, int]:
    """Height and width of an image, rows of a matrix."""
    if len(shape) >= 4:
        return max(shape[-2], 1), max(shape[-1], 1)
    return 1, max(math.prod(shape[:-1]) if shape else 1, 1)


def _stride(unit: Unit) -> int:
    return max(unit.strides) if unit.strides else 1
