"""What was found out about one network, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from contestants import BASE, Contestant
from paired import Blocks, Latency, Ratio, latency, ratio
from runtimes import Array

WRONG = 1e-2
"""Outputs that differ by more, relative to the largest number, are no float32 result."""


@dataclass(frozen=True)
class Measured:
    """One network with one number of threads.

    Attributes:
        threads: Threads of every contestant.
        blocks: What was measured, by contestant and round.
        latencies: By contestant.
        ratios: Ours, and each variant of ours, over every other contestant: `[ours][other]`.
        relative: Every contestant over the base runtime.
    """

    threads: int
    blocks: dict[str, Blocks]
    latencies: dict[str, Latency]
    ratios: dict[str, dict[str, Ratio]]
    relative: dict[str, Ratio]


@dataclass
class NetworkResult:
    """Everything about one network.

    Attributes:
        name: Of the network.
        differences: Largest difference from the reference by contestant, relative to the largest
            number of that output.
        precisions: What each contestant says it computes in.
        failures: Why contestants are missing.
        measured: By number of threads.
    """

    name: str
    differences: dict[str, float] = field(default_factory=dict)
    precisions: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    measured: dict[int, Measured] = field(default_factory=dict)


def measured(
    blocks: Mapping[str, Blocks], contestants: Sequence[Contestant], threads: int
) -> Measured:
    ours = [c.name for c in contestants if c.is_ours and c.name in blocks]
    return Measured(
        threads=threads,
        blocks=dict(blocks),
        latencies={name: latency(found, threads) for name, found in blocks.items()},
        ratios={
            one: {
                other: ratio(blocks[one], blocks[other], threads)
                for other in blocks
                if other != one
            }
            for one in ours
        },
        relative={name: ratio(found, blocks[BASE], threads) for name, found in blocks.items()}
        if BASE in blocks
        else {},
    )


def fastest_peer(
    found: Measured, contestants: Sequence[Contestant], differences: Mapping[str, float]
) -> str:
    """The fastest float32 runtime beside ours whose outputs are right; empty if there is none."""
    times = {
        c.name: found.latencies[c.name].median_s
        for c in contestants
        if c.is_peer and not c.is_ours and c.name in found.latencies
        if differences.get(c.name, 0.0) <= WRONG
    }
    return min(times, key=times.__getitem__, default="")


def unfit(outputs: Sequence[Array], reference: Sequence[Array]) -> str:
    """Why outputs cannot be compared with the reference's; empty if they can."""
    for output, expected in zip(outputs, reference, strict=True):
        # Some runtimes drop the batch dimension.
        if output.size != expected.size:
            return f"an output has the shape {output.shape} instead of {expected.shape}"
        if not np.isfinite(output).all():
            return "an output contains NaN or infinity"
    return ""


def largest_difference(outputs: Sequence[Array], reference: Sequence[Array]) -> float:
    """Over all outputs, relative to the largest number of each."""
    worst = 0.0
    for output, expected in zip(outputs, reference, strict=True):
        if expected.size:
            difference = np.abs(output.ravel() - expected.ravel().astype(np.float64)).max()
            worst = max(worst, float(difference / max(np.abs(expected).max(), 1e-30)))
    return worst
