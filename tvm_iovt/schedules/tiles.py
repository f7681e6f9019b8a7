"""Register tiles: how many outputs one pass of the inner loop keeps in SIMD registers.

A tile of `rows x cols` output pixels by `vectors` SIMD registers of output channels needs
`T * v + v + 1` registers (accumulators, weights, one broadcast) with `T = rows * cols`. A tile that
breaks the rule spills accumulators in the inner loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_iovt.types import CpuSpec

MIN_ACCUMULATORS = 8
"""Independent accumulators that keep the multiply-add units busy (4 cycles x 2 units)."""

LOAD_COST = 1.5
"""Issue time of a load in multiply-adds. Measured on Zen 4 with 256-bit vectors: a tile of 14 x 1,
with a broadcast for every multiply-add, runs at 64 % of the peak, one of 4 x 3 at 90 %."""

MAX_ROWS = 4
"""Output rows of a tile at most; more only add addresses."""

_HALF_VECTOR_SHARE = 0.95
"""Speed with half-width vectors, which take more instructions. Measured on Zen 4: 24 channels run
at 108 instead of 80 GFLOP/s, 40 channels at 112 instead of 92, of 117."""

_IN_ORDER = frozenset({"cortex-a35", "cortex-a53", "cortex-a55", "cortex-a510"})
"""64-bit CPUs for which LLVM unrolls the inner loop and loads ahead."""

_LOADED_AHEAD = 5
"""Registers that it takes for that."""

_CROP_PENALTY = 0.8
"""Relative speed of a grouped convolution whose epilogue runs apart from the tile."""

SERIAL_OPERATIONS = 200_000
"""Multiply-adds of a kernel below which it stays serial: 3 microseconds of a desktop core, as long
as it takes to wake the thread pool."""


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


def fits(tile: Tile, cpu: CpuSpec) -> bool:
    """Whether LLVM keeps the inner loop of a tile in registers, as disassembled code shows."""
    needed = tile.registers
    if cpu.arch == "armv7l":
        # Its fused multiply-add takes no single lane: LLVM loads all the broadcasts ahead.
        needed += tile.rows * tile.cols - 1
    elif cpu.mcpu in _IN_ORDER:
        needed += _LOADED_AHEAD
    elif cpu.arch == "x86_64" and cpu.vector_bits == 128 and tile.vectors > 1:
        needed += 1  # SSE multiplies and adds apart, and the product takes a register
    return needed <= cpu.vector_registers


def largest_divisor(extent: int, limit: int) -> int:
    """Largest divisor of `extent` that is at most `limit` (at least 1)."""
    return next(d for d in range(max(1, min(extent, limit)), 0, -1) if extent % d == 0)


def balance(tasks: int, cores: int) -> float:
    """Share of the cores' time that equal tasks fill, each given whole to one core."""
    return tasks / (ceil_div(tasks, cores) * cores)


def balanced_divisor(extent: int, limit: int, cores: int, others: int = 1) -> int:
    """The divisor of `extent`, at most `limit`, that cuts it into the best-balanced tasks.

    Args:
        extent: What is cut.
        limit: Largest piece.
        cores: That share the tasks.
        others: Tasks that each piece consists of.

    Returns:
        The size of a piece: among equally balanced ones the largest.
    """
    divisors = [d for d in range(1, max(1, min(extent, limit)) + 1) if extent % d == 0]
    return max(divisors, key=lambda d: (balance(extent // d * others, cores), d))


def vector_width(extent: int, lanes: int) -> int:
    """Widest power of two that divides `extent`, at most `lanes`: the width to store with."""
    width = 1
    while width * 2 <= lanes and extent % (width * 2) == 0:
        width *= 2
    return width


def group_lanes(channels: int, cpu: CpuSpec) -> int:
    """SIMD lanes to use for a group of `channels` output channels.

    Narrow vectors that divide a small group waste no more than wide ones that stick out of it, and
    leave nothing to crop.
    """
    lanes = lanes_of(cpu)
    narrow = vector_width(channels, lanes)
    padded = channels / (ceil_div(channels, lanes) * lanes)
    return narrow if narrow / lanes >= _CROP_PENALTY * padded else lanes


def contraction_tile(
    height: int, width: int, channels: int, cpu: CpuSpec, lanes: int | None = None
) -> Tile:
    """The register tile for a convolution or matrix product.

    Every tile that obeys the register rule is scored by the share of useful multiply-adds (tiles
    that stick out of the output compute zeros) times the share of issue slots that the multiply-
    adds get (a step of T * v multiply-adds loads v weight vectors and T broadcasts).

    Args:
        height: Output rows.
        width: Output columns.
        channels: Output channels of one group.
        cpu: Supplies the vector width and the number of registers.
        lanes: Elements of a vector; by default all that fit, or half of them where that wastes
            less.
    """
    return ranked_tiles(height, width, channels, cpu, lanes)[0][1]


def ranked_tiles(
    height: int, width: int, channels: int, cpu: CpuSpec, lanes: int | None = None
) -> tuple[tuple[float, Tile], ...]:
    """The tiles that `contraction_tile` chooses from with their scores, the best first.

    The arguments are those of `contraction_tile`.
    """
    widths = (lanes,) if lanes else vector_widths(channels, cpu)
    found: list[tuple[tuple[float, float, int, int, int], float, Tile]] = []
    for lanes, vectors in (
        (width, count)
        for width in widths
        for count in range(1, min(8, ceil_div(channels, width)) + 1)
    ):
        for rows in (r for r in range(1, min(height, MAX_ROWS) + 1) if height % r == 0):
            for cols in range(1, min(width, cpu.vector_registers) + 1):
                tile = Tile(rows=rows, cols=cols, vectors=vectors, lanes=lanes)
                if not fits(tile, cpu):
                    break
                score = useful_share(tile, height, width, channels) * issue_share(tile)
                if lanes < widths[0]:
                    score *= _HALF_VECTOR_SHARE
                tasks = ceil_div(height, rows) * ceil_div(channels, tile.channels)
                if height * width == 1:  # memory sets the pace: all cores should read
                    score *= balance(tasks, cpu.cores)
                panels = ceil_div(channels, tile.channels)
                # Equal scores: one panel writes whole pixels, few rows share the padded rows
                # better, wide tiles are fewer.
                key = (round(score, 2), round(balance(tasks, cpu.cores), 2), -panels, -rows, cols)
                found.append((key, score, tile))
    if not found:
        return ((1.0, Tile(rows=1, cols=1, vectors=1, lanes=widths[0])),)
    return tuple(
        (score, tile) for _, score, tile in sorted(found, key=lambda f: f[0], reverse=True)
    )


def vector_widths(channels: int, cpu: CpuSpec) -> tuple[int, ...]:
    """Elements of a vector to consider: CPUs with 512-bit registers take two halves at a time."""
    lanes = lanes_of(cpu)
    halves = cpu.vector_bits == 512 and channels % lanes
    return (lanes, lanes // 2) if halves else (lanes,)


def useful_share(tile: Tile, height: int, width: int, channels: int) -> float:
    """Share of a tile's multiply-adds that compute something inside the output."""
    covered = (
        height
        * ceil_div(width, tile.cols)
        * tile.cols
        * ceil_div(channels, tile.channels)
        * tile.channels
    )
    useful = height * width * channels / covered
    if width % tile.cols:
        useful *= 1 - 2 / (channels + 2)  # the input is copied to make room for the last tile
    return useful


def issue_share(tile: Tile) -> float:
    """Share of issue slots that go to multiply-adds in the inner loop of a tile."""
    pixels = tile.rows * tile.cols
    multiply_adds = pixels * tile.vectors
    loads = tile.vectors + pixels
    busy = max(multiply_adds + loads / 8, LOAD_COST * loads, MIN_ACCUMULATORS)
    return multiply_adds / busy


def window_cols(width: int, taps: int, cpu: CpuSpec) -> int:
    """Output columns that a sliding-window kernel (depthwise, pooling) computes at a time.

    The accumulators leave room for the weights of the window and the input vector.
    """
    held = min(taps, 9)
    if cpu.arch == "aarch64" and taps + 6 <= cpu.vector_registers:
        held = taps  # LLVM holds all of them; x86 instead reads them as operands of the arithmetic
    room = max(1, min(8, cpu.vector_registers - held - 2))
    if cpu.arch == "armv7l":  # LLVM loads ahead there: with more, half of the code is spills
        room = 3 if taps <= 9 else 2
    exact = largest_divisor(width, room)
    return exact if exact * 2 > room or exact == width else min(room, width)
