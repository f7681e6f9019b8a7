"""Users of a shared server: the latency of a network by its cut and its part of the server."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm_iovt.errors import IovtError
from tvm_iovt.partition.evaluate import Evaluator
from tvm_iovt.partition.lmos import split_placement
from tvm_iovt.partition.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A network that may use the server.

    Attributes:
        name: For messages.
        latency_s: Seconds of a frame by cut and units of the server, `latency_s[cut][units]`, from
            zero units on; infinite where they do not suffice.

    Raises:
        IovtError: There are no cuts, rows differ in length, or a time is negative or NaN.
    """

    name: str
    latency_s: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        lengths = {len(row) for row in self.latency_s}
        if len(lengths) != 1 or 0 in lengths:
            raise IovtError(f"The latencies of {self.name} do not fit together", seen=f"{lengths}")
        if not all(entry >= 0 for row in self.latency_s for entry in row):
            raise IovtError(f"{self.name} has a latency that is negative or NaN")

    @property
    def units(self) -> int:
        """The most units that it has latencies for."""
        return len(self.latency_s[0]) - 1

    def best_cut(self, units: int) -> int:
        """The cut of the least latency with exactly so many units; the first of equals."""
        column = [row[units] for row in self.latency_s]
        return column.index(min(column))

    def table(self) -> tuple[float, ...]:
        """Least latency by units that may be used; never rises."""
        found: list[float] = []
        for units in range(self.units + 1):
            least = min(row[units] for row in self.latency_s)
            found.append(min(least, found[-1]) if found else least)
        return tuple(found)

    @classmethod
    def of_parts(
        cls,
        name: str,
        edge_s: Sequence[float],
        transfer_s: Sequence[float],
        server_s: Sequence[float],
        *,
        units: int,
        speedup: Callable[[int], float] = float,
    ) -> User:
        """A user from the parts of its latency, each by cut.

        Args:
            name: For messages.
            edge_s: Seconds on its own device.
            transfer_s: Seconds to the server and back; 0 for the cut that leaves it out.
            server_s: Seconds of the rest on one unit of the server; 0 likewise.
            units: That the server has.
            speedup: Of a number of units over one unit; by default the number.

        Raises:
            IovtError: The cuts do not fit together, or a speedup or a time is not valid.
        """
        if not len(edge_s) == len(transfer_s) == len(server_s):
            raise IovtError(
                f"The cuts of {name} do not fit together",
                seen=f"{len(edge_s)}, {len(transfer_s)} and {len(server_s)} of them",
            )
        factors = [math.nan, *(float(speedup(count)) for count in range(1, units + 1))]
        if not all(factor > 0 for factor in factors[1:]):
            raise IovtError(f"The server's units do not speed {name} up", seen=f"{factors[1:]}")
        rows = []
        for edge, transfer, server in zip(edge_s, transfer_s, server_s, strict=True):
            without = math.inf if server else edge + transfer
            rows.append((without, *(edge + transfer + server / factor for factor in factors[1:])))
        return cls(name=name, latency_s=tuple(rows))

    @classmethod
    def of_problem(
        cls,
        name: str,
        problem: Problem,
        *,
        edge: int = 0,
        server: int = 1,
        units: int,
        speedup: Callable[[int], float] = float,
    ) -> User:
        """A user that cuts its network between two devices of a planning problem.

        Cut `p` is that before unit `p`; the last one leaves the server out. A cut that either
        device's memory or abilities forbid has infinite latency.

        Args:
            name: For messages.
            problem: The network and the devices; times of the server are those of one unit of it.
            edge: Index of the user's device.
            server: Index of the server.
            units: That the server has.
            speedup: As for `of_parts`.

        Raises:
            IovtError: The devices are not two of the problem's, or a speedup is not positive.
        """
        evaluator = Evaluator(problem)
        parts = []
        for position in range(len(problem.graph.units) + 1):
            placement = split_placement(problem, edge, server, position)
            evaluation = evaluator.evaluate(placement)
            stages = evaluation.prediction.stages
            compute_s = dict.fromkeys((edge, server), 0.0) | {
                device: stage.compute_s
                for device, stage in zip(placement.devices, stages, strict=True)
            }
            fixed_s = math.inf if evaluation.obstacle else evaluation.prediction.transfer_s
            if server in placement.devices:  # handing a frame over gets no faster with units
                fixed_s += stages[-1].overhead_s
                compute_s[server] -= stages[-1].overhead_s
            parts.append((compute_s[edge], fixed_s, compute_s[server]))
        edge_s, transfer_s, server_s = zip(*parts, strict=True)
        return cls.of_parts(name, edge_s, transfer_s, server_s, units=units, speedup=speedup)
