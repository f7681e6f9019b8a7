"""Which kernel computes a convolution: predicted from the CPU's description, no device needed.

A `Selector` decides for one layer. `predict` counts vector operations; measurements on a device
(`tvm_iovt.tuning.kernel_choice`) give a selector that looks its answers up.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tvm_iovt.schedules.convolution import Conv2d
from tvm_iovt.schedules.tiles import Tile, contraction_tile, group_lanes, ranked_tiles
from tvm_iovt.schedules.winograd import WinogradPlan
from tvm_iovt.schedules.winograd_plan import (
    OUTPUTS,
    direct_cycles,
    is_accurate,
    is_possible,
    ranked_plans,
    winograd_plan,
)
from tvm_iovt.types import CpuSpec

Kernel = Tile | WinogradPlan
"""A direct convolution with its register tile, or a Winograd convolution."""

_WORTH_DIRECT, _WORTH_WINOGRAD = 1.3, 1.6
"""Kernels that are predicted to take this many times as long as the best are not measured. Measured
on Zen 4: direct kernels rank within 10 % as predicted; Winograd ones, which depend on how weights
stream from memory, were off by up to 1.7 times."""

_KIND = 2
"""Direct candidates of one kind at most, and Winograd candidates with tiles of the predicted size;
of other sizes, which take long to build, there is one each."""

_DIRECT_NAME = re.compile(r"direct (\d+)x(\d+)x(\d+)x(\d+)")
_WINOGRAD_NAME = re.compile(r"winograd F(?P<outputs>\d+) .*")

Selector = Callable[[Conv2d, np.ndarray], Kernel]
"""From the geometry and the OIHW weights of a convolution that is not depthwise to its kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A kernel worth measuring.

    Attributes:
        kernel: The kernel.
        cycles: Predicted cycles; comparable between candidates of one convolution only.
    """

    kernel: Kernel
    cycles: float

    @property
    def name(self) -> str:
        """Short and unique among the candidates of one convolution."""
        return kernel_name(self.kernel)


def kernel_name(kernel: Kernel) -> str:
    """Short name of a kernel; equal names mean equal kernels for one convolution and CPU."""
    if isinstance(kernel, Tile):
        return f"direct {kernel.rows}x{kernel.cols}x{kernel.vectors}x{kernel.lanes}"
    tile = kernel.tile
    rows, cols = kernel.tiles
    whole = " whole" if kernel.whole_input else ""
    return (
        f"winograd F{kernel.outputs[0]} {rows}x{cols}/{kernel.band_rows} "
        f"{tile.cols}x{tile.vectors}x{tile.lanes}{whole}"
    )


def predict(conv: Conv2d, weights: np.ndarray, cpu: CpuSpec, *, winograd: bool = True) -> Kernel:
    """The kernel with the fewest predicted cycles.

    Args:
        conv: A convolution that is not depthwise.
        weights: Its weights, OIHW float32: they decide how large Winograd tiles may be.
        cpu: The CPU it runs on.
        winograd: Whether Winograd's algorithm may be used.
    """
    if winograd:
        plan = winograd_plan(conv, weights, cpu)
        if plan is not None:
            return plan
    return contraction_tile(*conv.out_size, _group_channels(conv), cpu, _lanes(conv, cpu))


def candidates(
    conv: Conv2d, weights: np.ndarray, cpu: CpuSpec, *, winograd: bool = True, count: int = 6
) -> tuple[Candidate, ...]:
    """Kernels worth measuring, the predicted one first.

    The best direct kernel is always among them: it is what the others are checked against.

    Args:
        conv: A convolution that is not depthwise.
        weights: OIHW float32.
        cpu: The CPU it runs on.
        winograd: Whether Winograd's algorithm may be used.
        count: How many at most, direct and Winograd together; at least 2.
    """
    direct = direct_cycles(conv, cpu)
    tiles = ranked_tiles(*conv.out_size, _group_channels(conv), cpu, _lanes(conv, cpu))
    best = tiles[0][0]
    found = [Candidate(kernel=tile, cycles=direct * best / score) for score, tile in tiles]
    if winograd:
        for outputs in OUTPUTS:
            plans = ranked_plans(conv, cpu, outputs)[:count]
            found += [Candidate(kernel=plan, cycles=cycles) for cycles, plan in plans]
    predicted = predict(conv, weights, cpu, winograd=winograd)
    first = [c for c in found if c.kernel == predicted]
    if first[0] != found[0]:
        first.append(found[0])
    least = min(c.cycles for c in first)
    rest = [c for c in found if c not in first and c.cycles <= least * _worth(c.kernel)]
    accurate: dict[int, bool] = {}
    for candidate in _varied(sorted(rest, key=lambda c: c.cycles), first):
        if len(first) >= count:
            break
        kernel = candidate.kernel
        if isinstance(kernel, WinogradPlan):
            outputs = kernel.outputs[0]
            if outputs not in accurate:
                accurate[outputs] = is_accurate(weights, conv, outputs)
            if not accurate[outputs]:
                continue
        first.append(candidate)
    return tuple(first)


def kernel_named(
    name: str, conv: Conv2d, weights: np.ndarray, cpu: CpuSpec, *, winograd: bool = True
) -> Kernel | None:
    """The kernel of that name, the inverse of `kernel_name`; costs less than `candidates`.

    Args:
        name: From `kernel_name`, possibly of another version of this program.
        conv: A convolution that is not depthwise.
        weights: OIHW float32.
        cpu: The CPU it runs on.
        winograd: Whether Winograd's algorithm may be used.

    Returns:
        None if there is no such kernel for this convolution on this CPU: an unknown name, a tile
        that does not fit, or a Winograd plan that is too inaccurate for these weights.
    """
    found = _DIRECT_NAME.fullmatch(name)
    if found is not None:
        rows, cols, vectors, lanes = map(int, found.groups())
        tile = Tile(rows=rows, cols=cols, vectors=vectors, lanes=lanes)
        tiles = ranked_tiles(*conv.out_size, _group_channels(conv), cpu, _lanes(conv, cpu))
        return tile if any(known == tile for _, known in tiles) else None
    found = _WINOGRAD_NAME.fullmatch(name)
    if found is None or not winograd or not is_possible(conv):
        return None
    outputs = int(found["outputs"])
    for _, plan in ranked_plans(conv, cpu, outputs):
        if kernel_name(plan) == name:
            return plan if is_accurate(weights, conv, outputs) else None
    return None


def _worth(kernel: Kernel) -> float:
    return _WORTH_DIRECT if isinstance(kernel, Tile) else _WORTH_WINOGRAD


def _kind(kernel: Kernel) -> tuple[int, ...]:
    """Direct kernels that only differ in the shape of the tile's pixels hardly differ in time."""
    if isinstance(kernel, Tile):
        return kernel.vectors, kernel.lanes
    return kernel.outputs[:1]


def _varied(ranked: list[Candidate], first: list[Candidate]) -> list[Candidate]:
    """The same, but the best of each kind before the second, and few of one kind."""
    seen = Counter(_kind(candidate.kernel) for candidate in first)
    predicted = _kind(first[0].kernel)
    keyed = []
    for candidate in ranked:
        kind = _kind(candidate.kernel)
        seen[kind] += 1
        both = isinstance(candidate.kernel, Tile) or kind == predicted
        if seen[kind] <= (_KIND if both else 1):
            keyed.append((seen[kind], candidate.cycles, candidate))
    return [candidate for *_, candidate in sorted(keyed, key=lambda item: item[:2])]


def _group_channels(conv: Conv2d) -> int:
    return conv.out_channels // conv.groups


def _lanes(conv: Conv2d, cpu: CpuSpec) -> int | None:
    return group_lanes(_group_channels(conv), cpu) if conv.groups > 1 else None
