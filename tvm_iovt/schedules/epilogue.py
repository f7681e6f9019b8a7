"""Fusing what follows a reduction into the loops that compute it."""

from __future__ import annotations

from typing import Any

from tvm_iovt.schedules.loops import extent_of
from tvm_iovt.schedules.template import (
    blocks,
    inline_all_but,
    is_reduction,
    name_of,
    output_block,
    spatial_extents,
)
from tvm_iovt.schedules.tiles import Tile, vector_width

PADDED = "padded"
"""Name of the block that makes the zero-padded input."""

MAX_DIRECT_STORES = 64
"""Stores of a tile to unroll: with more, the tile goes through a buffer."""


def padded_block(schedule: Any) -> Any | None:
    """The block that makes the zero-padded input, or None."""
    return next((b for b in blocks(schedule) if name_of(schedule, b) == PADDED), None)


def isolate_epilogue(schedule: Any, block: Any, keep: list[Any], *, fuse: bool = True) -> Any:
    """Reduce what follows `block` to one block that reads its result.

    Everything element-wise is inlined. Without anything to inline into, a copy to the result is
    made.

    Args:
        schedule: The schedule.
        block: The reduction.
        keep: Producers that must not be inlined.
        fuse: False keeps the epilogue apart, for epilogues that are not a crop of the tile.

    Returns:
        The block to write the tile with: the whole epilogue if its iteration space is (a crop of)
        that of `block`, else a plain copy, and the epilogue has loops of its own.
    """
    output = output_block(schedule)
    if name_of(schedule, output) == name_of(schedule, block):
        return schedule.cache_write(block, 0, "local")
    inline_all_but(schedule, [block, output, *keep])
    own, last = spatial_extents(schedule, block), spatial_extents(schedule, output)
    consumers = [name_of(schedule, c) for c in schedule.get_consumers(block)]
    if (
        fuse
        and consumers == [name_of(schedule, output)]
        and not is_reduction(schedule, output)
        and len(own) == len(last)
        and all(b <= a for a, b in zip(own, last, strict=True))
    ):
        return output
    return schedule.cache_write(block, 0, "local")


def store_tile(schedule: Any, block: Any, final: Any, depth: int, at: Any, tile: Tile) -> list[Any]:
    """Move `final` under loop `at` and make its loops vector stores.

    The accumulators live in registers only if every access to them has constant indices after
    unrolling. Where the vector width does not divide the channels the store would unroll into too
    many narrow pieces, so the tile is first copied, whole vectors at a time, to a small buffer.

    Args:
        schedule: The schedule.
        block: The reduction, its loops already ordered.
        final: The block that consumes it.
        depth: Number of loops outside the tile.
        at: The innermost of those.
        tile: The register tile.

    Returns:
        The blocks that are now scheduled.
    """
    channels = spatial_extents(schedule, final)[-1]
    width = vector_width(channels, tile.lanes)
    stores = tile.rows * tile.cols * (tile.channels // width)
    done = [final]
    unroll = True
    if stores > MAX_DIRECT_STORES:
        copy = schedule.cache_write(block, 0, "local")
        schedule.set_scope(copy, 0, "local")
        schedule.reverse_compute_at(copy, at)
        _vector_loops(schedule, copy, depth, tile.lanes, unroll=True)
        done.append(copy)
        unroll = False
    else:
        schedule.set_scope(block, 0, "local")
    schedule.reverse_compute_at(final, at)
    _vector_loops(schedule, final, depth, width, unroll=unroll)
    return done


def _vector_loops(schedule: Any, block: Any, depth: int, width: int, *, unroll: bool) -> None:
    loops = schedule.get_loops(block)[depth:]
    if not loops:
        return
    *rest, last = loops
    if width > 1 and extent_of(schedule, last) % width == 0:
        last, inner = schedule.split(last, [None, width])
        schedule.vectorize(inner)
    if unroll:
        for loop in (*rest, last):
            schedule.unroll(loop)
