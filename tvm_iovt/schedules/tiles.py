"""Register tiles: how many outputs one pass of the inner loop keeps in SIMD registers.

A tile of `rows x cols` output pixels by `vectors` SIMD registers of output channels needs
`T * v + v + 1` registers (accumulators, weights, one broadcast) with `T = rows * cols`. A tile that
breaks the rule spills accumulators in the inner loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_iovt.types import CpuSpec

FMA_LATENCY_TIMES_PORTS = 8
"""Independent accumulators that keep the multiply-add units busy (4 cycles x 2 units)."""

SERIAL_OPERATIONS = 20_000
"""Kernels with fewer scalar operations stay serial: waking the thread pool costs microseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A register tile.

    Attributes:
        rows: Output rows.
        cols: Output columns.
        vectors: SIMD registers of output channels.
        lanes: Elements of one SIMD register.
    """

    rows: int
    cols: int
    vectors: int
    lanes: int

    @property
    def channels(self) -> int:
        """Output channels of the tile: the width of one packed weight panel."""
        return self.vectors * self.lanes

    @property
    def registers(self) -> int:
        """SIMD registers that the inner loop needs."""
        pixels = self.rows * self.cols
        return pixels * self.vectors + self.vectors + 1


def lanes_of(cpu: CpuSpec, dtype_bits: int = 32) -> int:
    """Elements of one SIMD register of `cpu`."""
    return max(1, cpu.vector_bits // dtype_bits)


def ceil_div(a: int, b: int) -> int:
    """`a / b` rounded up."""
    return -(-a // b)


def largest_divisor(extent: int, limit: int) -> int:
    """Largest divisor of `extent` that is at most `limit` (at least 1)."""
    return next(d for d in range(max(1, min(extent, limit)), 0, -1) if extent % d == 0)


def vector_width(extent: int, lanes: int) -> int:
    """Widest power of two that divides `extent`, at most `lanes`: the width to store with."""
    width = 1
    while width * 2 <= lanes and extent % (width * 2) == 0:
        width *= 2
    return width


def contraction_tile(height: int, width: int, channels: int, cpu: CpuSpec) -> Tile:
    """The register tile for a convolution or matrix product.

    Every tile that obeys the register rule is scored by the share of useful multiply-adds (tiles
    that stick out of the output compute zeros) times the share of issue slots that the multiply-
    adds get (a step of T * v multiply-adds loads v weight vectors and T broadcasts).

    Args:
        height: Output rows.
        width: Output columns.
        channels: Output channels of one group.
        cpu: Supplies the vector width and the number of registers.
    """
    lanes = lanes_of(cpu)
    best: tuple[tuple[float, int, int], Tile] | None = None
    for vectors in range(1, min(8, ceil_div(channels, lanes)) + 1):
        for cols in range(1, min(width, 30) + 1):
            for rows in _row_candidates(height, width, cols):
                tile = Tile(rows=rows, cols=cols, vectors=vectors, lanes=lanes)
                if tile.registers > cpu.vector_registers:
                    continue
                score = _efficiency(tile, height, width, channels)
                # Equal scores: few rows keep the padded rows shared, few vectors the code small.
                key = (round(score, 3), -rows, cols)
                if best is None or key > best[0]:
                    best = (key, tile)
    if best is None:
        return Tile(rows=1, cols=1, vectors=1, lanes=lanes)
    return best[1]


def _row_candidates(height: int, width: int, cols: int) -> tuple[int, ...]:
    # Several rows only pay where a whole row is too short to hide the latency of the additions.
    if cols != width or width > 8:
        return (1,)
    return tuple(r for r in range(1, min(height, 16) + 1) if height % r == 0)


def _efficiency(tile: Tile, height: int, width: int, channels: int) -> float:
    pixels = tile.rows * tile.cols
    covered = (
        ceil_div(height, tile.rows)
        * tile.rows
        * ceil_div(width, tile.cols)
        * tile.cols
        * ceil_div(channels, tile.channels)
        * tile.channels
    )
    useful = height * width * channels / covered
    multiply_adds = pixels * tile.vectors
    loads = tile.vectors + pixels / 2
    issue = multiply_adds / max(multiply_adds + 0.15 * loads, FMA_LATENCY_TIMES_PORTS)
    return useful * issue


def window_cols(width: int, taps: int, cpu: CpuSpec) -> int:
    """Output columns that a sliding-window kernel (depthwise, pooling) computes at a time.

    The accumulators leave room for the weights of the window and the input vector.
    """
    room = max(1, min(8, (cpu.vector_registers - min(taps, 9) - 2)))
    exact = largest_divisor(width, room)
    return exact if exact * 2 > room or exact == width else min(room, width)
