"""Random planning problems, and every placement of one, counted by hand.

The enumeration shares no code with the planners: it walks all sequences of stages.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from tvm_iovt.cost_graph import INPUT, CostGraph, Edge, Unit
from tvm_iovt.partition.problem import Device, Problem, Route
from tvm_iovt.types import Link, TensorSpec


def _unit(index: int, rng: random.Random) -> Unit:
    return Unit(
        index=index,
        name=f"u{index}",
        operators=(f"op{index}",),
        kind="conv",
        dtype="int8",  # of weights, too: all of their bytes are read
        flops=rng.randrange(20),
        bytes_in=rng.randrange(6),
        bytes_out=rng.randrange(6),
        bytes_weights=rng.choice((0, rng.randrange(20))),
    )


def _edge(
    name: str, rng: random.Random, producer: int, readers: Sequence[int], output: bool
) -> Edge:
    size = rng.choice((0, *range(1, 9)))  # zero bytes: a tensor without elements
    spec = TensorSpec(name=name, shape=(size,), dtype="uint8")
    return Edge(spec=spec, producer=producer, consumers=tuple(sorted(readers)), is_output=output)


def _chain_edges(units: int, rng: random.Random) -> Iterator[Edge]:
    for producer in range(INPUT, units):
        readers = {producer + 1} if producer + 1 < units else set()
        if rng.random() < 0.3:  # a residual
            readers |= {u for u in range(producer + 2, units) if rng.random() < 0.3}
        output = producer == units - 1 or rng.random() < 0.1
        yield _edge(f"t{producer}", rng, producer, tuple(readers), output)


def _graph_edges(units: int, rng: random.Random) -> Iterator[Edge]:
    density = rng.choice((0.15, 0.3, 0.6))
    for producer in range(INPUT, units):
        for tensor in range(rng.choice((1, 1, 1, 2))):
            near = [u for u in range(producer + 1, min(producer + 4, units))]
            readers = tuple(u for u in near if rng.random() < density * 2)
            output = rng.random() < (0.1 if readers else 0.8)
            yield _edge(f"t{producer}.{tensor}", rng, producer, readers, output)


def _route(rng: random.Random, start: str, end: str) -> Route:
    hops = rng.choice((0, 1, 1, 1, 2))
    return Route(
        hops=tuple(
            Link(
                src=start,
                dst=end,
                bytes_per_s=rng.choice((0.5, 1.0, 2.0, 8.0)),
                latency_s=rng.choice((0.0, 0.0, rng.random() * 4)),
            )
            for _ in range(hops)
        )
    )


def _faster(route: Route, factor: float) -> Route:
    return Route(
        hops=tuple(
            dataclasses.replace(
                hop, bytes_per_s=hop.bytes_per_s * factor, latency_s=hop.latency_s / factor
            )
            for hop in route.hops
        )
    )


def _sharing(devices: Sequence[Device], rng: random.Random) -> tuple[Device, ...]:
    """The devices with memories that some of them share, mostly slow ones."""
    rates = {group: rng.choice((1.0, 4.0, 8.0, 16.0, 40.0)) for group in "ab"}
    both = rng.random() < 0.4
    return tuple(
        dataclasses.replace(
            device,
            memory_group=rng.choice("ab") if both else rng.choice(("a", "a", "a", "")),
            shared_bandwidth_bytes_per_s=rng.choice((1.0, 1.0, 0.5)) * rates["ab"[i % 2]]
            if rng.random() < 0.9
            else rates["a"],
            cache_bytes=rng.choice((0, 0, 3, 10, 30)),
        )
        for i, device in enumerate(devices)
    )


def _problem(
    seed: int,
    *,
    units: int,
    devices: int,
    chain: bool,
    limits: bool = True,
    gaps: bool = True,
    sharing: bool = False,
) -> Problem:
    rng = random.Random(seed)
    edges = _chain_edges(units, rng) if chain else _graph_edges(units, rng)
    graph = CostGraph(units=tuple(_unit(i, rng) for i in range(units)), edges=tuple(edges))
    scarce = limits and rng.random() < 0.5
    missing = 0.1 if gaps and rng.random() < 0.3 else 0.0

    def seconds(speed: float) -> float:
        return math.inf if rng.random() < missing else rng.choice((0.0, 1.0, rng.random())) * speed

    names = [f"d{i}" for i in range(devices)] + ["home"]
    problem = Problem(
        graph=graph,
        devices=tuple(
            Device(
                name=names[i],
                memory_bytes=rng.choice((0, rng.randrange(20, 150))) if scarce else 0,
                active_w=rng.uniform(0.5, 9),
                stage_s=rng.choice((0.0, rng.random())),
            )
            for i in range(devices)
        ),
        unit_s=tuple(
            tuple(seconds(speed) for _ in range(units))
            for speed in (rng.choice((1.0, 3.0, rng.uniform(0.5, 9))) for _ in range(devices))
        ),
        routes=tuple(tuple(Route() if a == b else _route(rng, a, b) for b in names) for a in names),
    )
    if not sharing:
        return problem
    rng = random.Random(~seed)
    return dataclasses.replace(
        problem,
        devices=_sharing(problem.devices, rng),
        routes=tuple(
            tuple(_faster(way, rng.choice((5, 50))) for way in ways) for ways in problem.routes
        ),
    )


@dataclass(frozen=True, slots=True)
class Counted:
    """A feasible placement and what it takes."""

    devices: tuple[int, ...]
    latency: float
    throughput: float
    memory: float
    energy: float
    busy: float = 0.0
    """Seconds of the memory that is busy longest; of one that a single stage uses, too."""


class _Enumeration:
    def __init__(self, problem: Problem, prefixes_only: bool) -> None:
        self.problem = problem
        self.units = range(len(problem.graph.units))
        self.edges = [(e.nbytes, e.producer, e.consumers, e.is_output) for e in problem.graph.edges]
        if prefixes_only:
            self.sets = [frozenset(range(count)) for count in range(len(self.units) + 1)]
        else:
            every = itertools.chain.from_iterable(
                itertools.combinations(self.units, count) for count in range(len(self.units) + 1)
            )
            self.sets = [s for s in map(frozenset, every) if self.closed(s)]
        self.bytes = {s: self.crossing(s) for s in self.sets}
        self.larger = {s: [b for b in self.sets if s < b] for s in self.sets}
        self.stages: dict[tuple[frozenset[int], frozenset[int], int], tuple[float, int, float]] = {}
        self.rates = self.memories()

    def memories(self) -> dict[str, float]:
        """Bytes a second of the memories that are known to all devices that have them."""
        found: dict[str, list[float]] = {}
        for device in self.problem.devices:
            found.setdefault(device.memory_group, []).append(device.shared_bandwidth_bytes_per_s)
        return {group: max(rates) for group, rates in found.items() if group and min(rates)}

    def moved(self, own: frozenset[int], device: int, seconds: float) -> float:
        """Seconds that a stage keeps the memory of its device busy."""
        limits = self.problem.devices[device]
        rate = self.rates.get(limits.memory_group, math.inf)
        units = [self.problem.graph.units[u] for u in own]
        nbytes = max(sum(unit.bytes_weights for unit in units) - limits.cache_bytes, 0)
        for unit in units:
            nbytes += max(unit.bytes_in - limits.cache_bytes, 0)
            nbytes += max(unit.bytes_out - limits.cache_bytes, 0)
        return min(nbytes / rate, seconds)

    def closed(self, inside: frozenset[int]) -> bool:
        return not any(
            producer != INPUT and producer not in inside and not inside.isdisjoint(consumers)
            for _, producer, consumers, _ in self.edges
        )

    def crossing(self, inside: frozenset[int]) -> int:
        total = 0
        for nbytes, producer, consumers, output in self.edges:
            made = producer == INPUT or producer in inside
            if made and (output or not inside.issuperset(consumers)):
                total += nbytes
        return total

    def stage(
        self, done: frozenset[int], then: frozenset[int], device: int
    ) -> tuple[float, int, float]:
        """Seconds, infinite where it does not fit; bytes; seconds of a shared memory."""
        key = (done, then, device)
        if key not in self.stages:
            own = then - done
            units = self.problem.graph.units
            whole = len(own) == len(self.units)  # which is called, and no stage of a pipeline
            seconds = 0.0 if whole else self.problem.devices[device].stage_s
            seconds += sum(self.problem.unit_s[device][u] for u in own)
            memory = sum(units[u].bytes_weights for u in own)
            memory += max(units[u].bytes_in + units[u].bytes_out for u in own)
            memory += 2 * self.bytes[done] + 2 * self.bytes[then]
            limit = self.problem.devices[device].memory_bytes
            fits = not limit or memory <= limit
            busy = self.moved(own, device, seconds)
            self.stages[key] = seconds if fits else math.inf, memory, busy
        return self.stages[key]

    def hops(self, start: int, end: int, nbytes: int) -> list[float]:
        if not nbytes:
            return [0.0]
        ways = self.problem.routes[start][end].hops
        return [hop.latency_s + nbytes / hop.bytes_per_s for hop in ways] or [0.0]

    def walk(
        self,
        done: frozenset[int],
        devices: tuple[int, ...],
        sums: tuple[float, float, int, float, tuple[float, ...]],
    ) -> Iterator[Counted]:
        latency, period, memory, energy, busy = sums
        home = self.problem.home
        if len(done) == len(self.units):
            sent = self.hops(devices[-1], home, self.bytes[done])
            shared: dict[str, float] = {}
            for device, seconds in zip(devices, busy, strict=True):
                group = self.problem.devices[device].memory_group
                shared[group] = shared.get(group, 0.0) + (seconds if group else 0.0)
            busiest = max(shared.values())
            yield Counted(
                devices, latency + sum(sent), max(period, busiest, *sent), memory, energy, busiest
            )
            return
        for device in range(home):
            if device in devices:
                continue
            moved = self.hops(devices[-1] if devices else home, device, self.bytes[done])
            for then in self.larger[done]:
                seconds, needed, moving = self.stage(done, then, device)
                if seconds == math.inf:
                    continue
                now = (
                    latency + sum(moved) + seconds,
                    max(period, seconds, *moved),
                    max(memory, needed),
                    energy + seconds * self.problem.devices[device].active_w,
                    (*busy, moving),
                )
                yield from self.walk(then, (*devices, device), now)


def _enumerate(problem: Problem, *, prefixes_only: bool = False) -> list[Counted]:
    walk = _Enumeration(problem, prefixes_only).walk(frozenset(), (), (0.0, 0.0, 0, 0.0, ()))
    return list(walk)


@pytest.fixture(scope="session")
def make_problem() -> Callable[..., Problem]:
    """`make_problem(seed, units=, devices=, chain=, limits=, gaps=, sharing=)`.

    With `limits` some devices have little memory, with `gaps` some units cannot run on some, with
    `sharing` some wait for the memory of others.
    """
    return _problem


@pytest.fixture(scope="session")
def all_placements() -> Callable[..., list[Counted]]:
    """Every feasible placement of a problem; only along its order with `prefixes_only`."""
    return _enumerate


def _along(counted: Sequence[Counted], order: Sequence[int]) -> list[Counted]:
    place = {device: index for index, device in enumerate(order)}
    kept = []
    for one in counted:
        places = [place.get(device, -1) for device in one.devices]
        if min(places) >= 0 and places == sorted(places):
            kept.append(one)
    return kept


@pytest.fixture(scope="session")
def along_order() -> Callable[[Sequence[Counted], Sequence[int]], list[Counted]]:
    """Those placements that use devices in an order, each of them or not."""
    return _along
