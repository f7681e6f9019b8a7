"""What shared memories allow: by hand, and what no cache can keep, byte by byte."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

import pytest

from tvm_iovt.cost_graph import CostGraph, Unit
from tvm_iovt.partition.contention import shared_memories
from tvm_iovt.partition.evaluate import evaluate
from tvm_iovt.partition.placement import Placement
from tvm_iovt.partition.problem import Device, Problem, Route


def unit(index: int, weights: int, **changes: object) -> Unit:
    plain = Unit(
        index=index,
        name=f"u{index}",
        operators=(),
        kind="matmul",
        dtype="int8",
        flops=1,
        bytes_in=100,
        bytes_out=50,
        bytes_weights=weights,
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def problem_of(
    units: Sequence[Unit], *, seconds: float = 10.0, **devices: dict[str, object]
) -> Problem:
    return Problem(
        graph=CostGraph(units=tuple(units), edges=()),
        devices=tuple(Device(name=name, **kw) for name, kw in devices.items()),  # type: ignore
        unit_s=((seconds,) * len(units),) * len(devices),
        routes=((Route(),) * (len(devices) + 1),) * (len(devices) + 1),
    )


BOARD = {"memory_group": "board", "shared_bandwidth_bytes_per_s": 100.0}


def memory_s(problem: Problem, placement: Placement) -> float:
    return evaluate(problem, placement).prediction.memory_s


def test_stages_of_one_memory_are_added_up_and_others_are_not() -> None:
    units = (unit(0, 0), unit(1, 850), unit(2, 2850))
    problem = problem_of(units, seconds=25.0, cpu=BOARD, gpu=BOARD, server={})
    both = evaluate(problem, Placement.of_cuts((1, 0), (2,), 3)).prediction
    assert both.memory_s == pytest.approx(11.5 + 25)  # 30 s of traffic in a stage of 25 s
    assert both.period_s == pytest.approx(50)  # of the first stage
    apart = evaluate(problem, Placement.of_cuts((0, 2), (2,), 3)).prediction
    assert apart.memory_s == 0
    alone = evaluate(problem, Placement.whole(0, 3)).prediction
    assert (alone.memory_s, alone.period_s) == (0, 75)


def test_a_memory_sets_the_period_where_its_stages_take_turns() -> None:
    units = [unit(index, 1850) for index in range(2)]
    problem = problem_of(units, seconds=15.0, cpu=BOARD, gpu=BOARD)
    two = evaluate(problem, Placement.of_cuts((0, 1), (1,), 2)).prediction
    assert (two.memory_s, two.period_s) == (pytest.approx(30), pytest.approx(30))


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"memory_group": "board", "shared_bandwidth_bytes_per_s": 200.0}, 15.0),  # the higher one
        ({"memory_group": "board", "shared_bandwidth_bytes_per_s": 0.0}, 0.0),  # nobody knows
        ({"memory_group": "other", "shared_bandwidth_bytes_per_s": 100.0}, 0.0),
        ({"memory_group": "", "shared_bandwidth_bytes_per_s": 100.0}, 0.0),
    ],
)
def test_the_bandwidth_is_what_the_memory_can_do(other: dict[str, object], expected: float) -> None:
    problem = problem_of([unit(0, 1350), unit(1, 1350)], seconds=99.0, a=BOARD, b=other)
    found = memory_s(problem, Placement.of_cuts((0, 1), (1,), 2))
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("cache_bytes", "nbytes"),
    [
        (0, 500 + 400 + 2 * (100 + 50)),
        (40, 860 + 2 * (60 + 10)),
        (80, 820 + 2 * 20),
        (700, 200),  # of the weights, of the whole stage
        (900, 0),
    ],
)
def test_what_the_cache_keeps_does_not_count(cache_bytes: int, nbytes: float) -> None:
    cached = {**BOARD, "cache_bytes": cache_bytes}
    problem = problem_of(
        [unit(0, 500), unit(1, 400), unit(2, 1000)], seconds=99.0, a=cached, b=BOARD
    )
    found = memory_s(problem, Placement.of_cuts((0, 1), (2,), 3))
    assert found == pytest.approx((nbytes + 1150) / 100)


def test_only_what_windows_touch_counts_and_nothing_of_what_may_vanish() -> None:
    strided = unit(0, 0, kind="pool", kernel=(1, 1), strides=(2, 2), bytes_out=0)
    gone = unit(1, 0, kind="move")
    problem = problem_of([strided, gone, unit(2, 0)], seconds=99.0, a=BOARD, b=BOARD)
    assert memory_s(problem, Placement.of_cuts((0, 1), (2,), 3)) == pytest.approx(0.25 + 1.5)


def least_traffic(units: Sequence[tuple[int, int, int]], cache: int, frames: int) -> int:
    """Least bytes to memory and back, of units with (read, written, weights), by search.

    Every unit reads fresh activations, all of its weights, and writes. What is in the cache when it
    starts need not be read; of what it wrote, what is in the cache when it ends is read from there
    by the next one and never written. Caches that know the future are tried in all ways.
    """
    states: dict[tuple[int, ...], int] = {(0,) * (len(units) + 1): 0}
    for _ in range(frames):
        for index, (read, written, weights) in enumerate(units):
            following: dict[tuple[int, ...], int] = {}
            for state, cost in states.items():
                passed, kept = state[-1], state[:-1]
                cost += max(read - passed, 0) + weights - kept[index]
                for left in range(min(written, cache) + 1):
                    may_stay = [weights if i == index else bytes_ for i, bytes_ in enumerate(kept)]
                    for weights_left in _fillings(may_stay, cache - left):
                        key = (*weights_left, left)
                        now = cost + written - left
                        following[key] = min(following.get(key, now), now)
            states = following
    return min(states.values())


def _fillings(most: Sequence[int], room: int) -> list[tuple[int, ...]]:
    if not most:
        return [()]
    return [
        (first, *rest)
        for first in range(min(most[0], room) + 1)
        for rest in _fillings(most[1:], room - first)
    ]


def test_no_cache_does_with_less() -> None:
    """Against the best of all caches, over some frames, on small numbers."""
    rng = random.Random(3)
    met = 0
    for _ in range(60):
        cache = rng.randrange(5)
        sizes = [
            (rng.randrange(5), rng.randrange(5), rng.randrange(5))
            for _ in range(rng.randrange(1, 4))
        ]
        units = [
            unit(i, weights, bytes_in=read, bytes_out=written)
            for i, (read, written, weights) in enumerate(sizes)
        ]
        problem = problem_of(
            [*units, unit(len(units), 0)],
            seconds=1e9,
            a={**BOARD, "cache_bytes": cache, "shared_bandwidth_bytes_per_s": 1.0},
            b={**BOARD, "shared_bandwidth_bytes_per_s": 1.0},
        )
        bound = shared_memories(problem).traffic[0].seconds(range(len(units)), 1e9)
        first, more = least_traffic(sizes, cache, 1), least_traffic(sizes, cache, 4)
        steady = (more - first) / 3
        assert steady >= bound - 1e-9
        met += bound > 0 and steady <= bound + 1e-9
    assert met > 5
