"""Users of a shared server: the latency of a network by its cut and its part of the server."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_iovt.errors import IovtError


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
