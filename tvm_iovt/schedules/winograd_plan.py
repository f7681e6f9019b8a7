"""Which convolutions Winograd serves, and with which tiles: a count of vector operations.

All costs are cycles of a core that starts one vector operation a cycle; only their ratios matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from tvm_iovt.schedules.convolution import Conv2d
from tvm_iovt.schedules.tiles import (
    Tile,
    ceil_div,
    contraction_tile,
    fits,
    issue_share,
    lanes_of,
    useful_share,
    vector_width,
    vector_widths,
)
from tvm_iovt.schedules.winograd import WinogradPlan
from tvm_iovt.schedules.winograd_transform import (
    axis,
    combination_operations,
    matrix,
    transform_weights,
)
from tvm_iovt.types import CpuSpec

OUTPUTS = (2, 4, 6)
"""Sizes of tiles to consider, F(2) to F(6)."""

MAX_INPUTS = 9
"""Outputs and taps of one phase together: larger transforms cost more than they save."""

KERNELS = (3, 5)
"""Kernel extents that Winograd is considered for."""

MIN_CHANNELS = 8
"""Input and output channels below which the transforms never pay."""

MAX_ERROR = 3e-5
"""Largest deviation from the direct convolution, relative to the largest output. Direct sums in
float32 are off by some 1e-6; deep networks amplify that tenfold, and verification has 1e-3."""

GAIN = 0.92
"""Winograd must be predicted to take less than this share of the direct convolution's time."""

LARGER_TILE_GAIN = 0.9
"""A larger tile, less accurate, must take less than this share of the smaller one's time."""

_STREAM_BYTES_PER_CYCLE = 16.0
"""Weights that do not stay in a core's cache, while arithmetic goes on beside."""

_EXPOSED = 0.5
"""Share of the time of streaming that arithmetic does not hide."""

_MEMORY_BYTES_PER_CYCLE = {"x86_64": 8.0, "aarch64": 3.0, "armv7l": 3.0}
"""What all cores together read from memory: a Raspberry Pi 4 streams 5.5 GB/s at 1.8 GHz, a server
core of Zen 4 30 GB/s at 3.7 GHz."""

_LAST_LEVEL_BYTES = {"x86_64": 8 << 20}
"""Share of a last-level cache in which the weights of a layer may stay from image to image; boards
have none."""

_PANEL_READ = 0.25
"""Cycles that a vector of weights costs each time it is read, beside the issue slot."""

_CACHE_SHARE = 0.75
"""Share of the level-2 cache that a band may fill."""

_SAMPLE_TILES = 16


def winograd_plan(conv: Conv2d, weights: np.ndarray, cpu: CpuSpec) -> WinogradPlan | None:
    """The best plan that beats the direct convolution, by count; None if none does.

    A plan whose rounding error on these weights is above `MAX_ERROR` is not taken.

    Args:
        conv: The convolution.
        weights: OIHW.
        cpu: Vector width, registers, caches and cores.
    """
    max_outputs = OUTPUTS[-1]
    while True:
        plan = _winograd_plan(conv, cpu, max_outputs)
        if plan is None or is_accurate(weights, conv, plan.outputs[0]):
            return plan
        max_outputs = plan.outputs[0] - 1


def is_accurate(weights: np.ndarray, conv: Conv2d, outputs: int) -> bool:
    """Whether Winograd's rounding error on a layer's weights is within `MAX_ERROR`.

    Never for weights that are whole numbers beyond one: those come from quantized networks, whose
    sums have to be exact, as they are in a direct convolution.
    """
    if np.abs(weights).max(initial=0) > 1 and np.array_equal(weights, np.rint(weights)):
        return False
    return winograd_error(weights, outputs, conv.strides[0]) <= MAX_ERROR


def ranked_plans(
    conv: Conv2d, cpu: CpuSpec, outputs: int
) -> tuple[tuple[float, WinogradPlan], ...]:
    """All plans with tiles of `outputs x outputs` and their cycles, the fastest first.

    Empty if the convolution has not the form, or the tile is too large for it.
    """
    if not is_possible(conv) or not _has_points(conv, outputs):
        return ()
    found = [(winograd_cycles(conv, plan, cpu), plan) for plan in plans(conv, cpu, outputs)]
    return tuple(sorted(found, key=lambda item: item[0]))


def _has_points(conv: Conv2d, outputs: int) -> bool:
    return outputs + ceil_div(conv.kernel[0], conv.strides[0]) <= MAX_INPUTS


@lru_cache(maxsize=1024)
def _winograd_plan(conv: Conv2d, cpu: CpuSpec, max_outputs: int) -> WinogradPlan | None:
    if not is_possible(conv):
        return None
    limit = GAIN * direct_cycles(conv, cpu)
    best: WinogradPlan | None = None
    for outputs in (m for m in OUTPUTS if m <= max_outputs and _has_points(conv, m)):
        for plan in plans(conv, cpu, outputs):
            cycles = winograd_cycles(conv, plan, cpu)
            if cycles < limit:
                best, limit = plan, cycles
        limit *= LARGER_TILE_GAIN if best is not None and best.outputs[0] == outputs else 1
    return best


def is_possible(conv: Conv2d) -> bool:
    """Whether a convolution has the form that Winograd is for."""
    return (
        conv.kernel[0] == conv.kernel[1]
        and conv.kernel[0] in KERNELS
        and conv.strides[0] == conv.strides[1] <= 2
        and conv.dilation == (1, 1)
        and conv.groups == 1
        and min(conv.in_channels, conv.out_channels) >= MIN_CHANNELS
    )


def plans(conv: Conv2d, cpu: CpuSpec, outputs: int) -> Iterator[WinogradPlan]:
    """All sensible plans with tiles of `outputs x outputs`."""
    rows, cols = (ceil_div(extent, outputs) for extent in conv.out_size)
    for tile_rows in (rows, rows + 1):
        for tile_cols in (cols, cols + 1):
            for band_rows in (b for b in range(1, tile_rows + 1) if tile_rows % b == 0):
                count = band_rows * tile_cols
                for tile in _tiles(count, conv.out_channels, cpu):
                    for whole_input in (False, True):
                        yield WinogradPlan(
                            outputs=(outputs, outputs),
                            tiles=(tile_rows, tile_cols),
                            band_rows=band_rows,
                            tile=tile,
                            whole_input=whole_input,
                        )


def _tiles(count: int, out_channels: int, cpu: CpuSpec) -> Iterator[Tile]:
    for lanes in vector_widths(out_channels, cpu):
        for vectors in range(1, min(6, ceil_div(out_channels, lanes)) + 1):
            for cols in (c for c in range(1, cpu.vector_registers) if count % c == 0):
                tile = Tile(rows=1, cols=cols, vectors=vectors, lanes=lanes)
                if fits(tile, cpu):
                    yield tile


def direct_cycles(conv: Conv2d, cpu: CpuSpec) -> float:
    """Cycles of the direct convolution on all cores."""
    height, width = conv.out_size
    tile = contraction_tile(height, width, conv.out_channels, cpu)
    operations = (
        conv.batch * height * width * conv.out_channels * conv.in_channels * conv.kernel[0]
    ) * conv.kernel[1]
    share = useful_share(tile, height, width, conv.out_channels) * issue_share(tile)
    weights_bytes = 4 * conv.out_channels * conv.in_channels * conv.kernel[0] * conv.kernel[1]
    return _with_memory(operations / lanes_of(cpu) / share / cpu.cores, weights_bytes, cpu)


def winograd_cycles(conv: Conv2d, plan: WinogradPlan, cpu: CpuSpec) -> float:
    """Cycles of a plan on all cores: products, transforms, and weights that stream past.

    The transforms load and store what they work on. A band whose tensors overflow the level-2
    cache is charged for moving them once more.
    """
    transform = axis(plan.outputs[0], conv.kernel[0], conv.strides[0])
    tile, positions = plan.tile, transform.products**2
    panels = ceil_div(conv.out_channels, tile.channels)
    out_channels = panels * tile.channels
    bands = conv.batch * plan.tiles[0] // plan.band_rows
    tiles = bands * plan.band_tiles
    # A vector of half the width counts half, as it does in the direct convolution.
    share = tile.lanes / lanes_of(cpu)
    in_vectors = conv.in_channels / vector_width(conv.in_channels, lanes_of(cpu))
    out_vectors = share * (out_channels // tile.lanes)
    products = positions * tiles * conv.in_channels * out_vectors / issue_share(tile)
    data = (
        combination_operations(transform.data) * (transform.inputs + transform.products)
        + transform.inputs**2
        + positions
    )
    result = (
        combination_operations(transform.result) * (transform.products + plan.outputs[0])
        + 2 * positions
        + plan.outputs[0] ** 2
    )
    # Every register tile reads its panel of weights again, from a cache.
    reads = positions * tiles / tile.cols * conv.in_channels * out_vectors
    cycles = products + _PANEL_READ * reads + tiles * (in_vectors * data + out_vectors * result)

    band_bytes = 4 * positions * plan.band_tiles * (conv.in_channels + tile.channels)
    weights_bytes = 4 * positions * conv.in_channels * out_channels
    budget = _CACHE_SHARE * cpu.l2_bytes
    streamed = float(weights_bytes)
    # What stays in the level-2 cache is read again four times as fast.
    again = 1.0 if weights_bytes + band_bytes > budget else 0.25
    streamed += again * weights_bytes * (bands - 1)
    if band_bytes > budget:
        streamed += band_bytes * panels * bands
    if plan.whole_input and bands > 1:
        streamed += 2 * band_bytes * bands
    cycles += _EXPOSED * streamed / _STREAM_BYTES_PER_CYCLE

    tasks = bands * panels if plan.whole_input else bands
    waves = ceil_div(tasks, cpu.cores)
    return _with_memory(cycles * waves / tasks, weights_bytes, cpu)


def _with_memory(cycles: float, weights_bytes: int, cpu: CpuSpec) -> float:
    """Cycles with the time that it takes to get the weights from memory, which cores share."""
    read_bytes = max(0, weights_bytes - _LAST_LEVEL_BYTES.get(cpu.arch, 0))
    memory = read_bytes / _MEMORY_BYTES_PER_CYCLE.get(cpu.arch, 3.0)
    return max(cycles, memory) + _EXPOSED * min(cycles, memory)


def winograd_error(weights: np.ndarray, outputs: int, stride: int) -> float:
    """Measured error of Winograd in float32 for a layer, relative to its largest output.

    Random tiles of rectified normal numbers, as activations are, go through both algorithms.

    Args:
        weights: OIHW, square kernel.
        outputs: Size of the tiles.
        stride: Of the convolution.

    Returns:
        The largest absolute deviation from the direct convolution in float64, divided by the
        largest absolute output.
    """
    taps = int(weights.shape[2])
    transform = axis(outputs, taps, stride)
    rng = np.random.default_rng(0)
    image = rng.standard_normal(
        (_SAMPLE_TILES, weights.shape[1], transform.inputs, transform.inputs)
    )
    image = np.maximum(image, 0).astype(np.float32)
    data = matrix(transform.data).astype(np.float32)
    result = matrix(transform.result).astype(np.float32)
    u = transform_weights(weights, transform, transform).astype(np.float32)
    v = data @ image @ data.T
    products = np.matmul(v.transpose(2, 3, 0, 1), u.transpose(2, 3, 1, 0))
    actual = result @ np.ascontiguousarray(products.transpose(2, 3, 0, 1)) @ result.T
    windows = np.lib.stride_tricks.sliding_window_view(image, (taps, taps), axis=(2, 3))
    windows = windows[:, :, ::stride, ::stride]
    columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, weights[0].size)
    exact = columns.astype(np.float64) @ weights.reshape(len(weights), -1).T.astype(np.float64)
    expected = exact.reshape(_SAMPLE_TILES, outputs, outputs, -1).transpose(0, 3, 1, 2)
    scale = float(np.abs(expected).max())
    return float(np.abs(actual - expected).max()) / scale if scale else 0.0
