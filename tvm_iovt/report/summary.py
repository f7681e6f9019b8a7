"""Operators grouped by type: where the work and the traffic are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tvm_iovt.types import OpCost


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorGroup:
    """All operators of one type. Those of no known cost add nothing."""

    op: str
    operators: int
    flops: int
    bytes: int
    bytes_weights: int

    @property
    def intensity(self) -> float:
        """Arithmetic intensity in FLOPs a byte of the group as a whole."""
        return self.flops / self.bytes if self.bytes else 0.0


def moved_bytes(cost: OpCost) -> int:
    """Compulsory traffic of an operator: activations in and out, and weights."""
    return cost.bytes_in + cost.bytes_out + cost.bytes_weights


def is_unknown(cost: OpCost) -> bool:
    """Whether the operator could not be costed; such costs carry no dtype."""
    return cost.dtype == ""


def group_by_op(operators: Iterable[OpCost]) -> tuple[OperatorGroup, ...]:
    """Operators by type, those with the most FLOPs first, then those with the most traffic."""
    members: dict[str, list[OpCost]] = {}
    for cost in operators:
        members.setdefault(cost.op, []).append(cost)
    groups = (
        OperatorGroup(
            op=op,
            operators=len(costs),
            flops=sum(cost.flops for cost in costs),
            bytes=sum(map(moved_bytes, costs)),
            bytes_weights=sum(cost.bytes_weights for cost in costs),
        )
        for op, costs in members.items()
    )
    return tuple(sorted(groups, key=lambda g: (-g.flops, -g.bytes, -g.operators, g.op)))


def unknown_note(operators: Iterable[OpCost]) -> str:
    """A sentence about the operators without a known cost; empty if there are none."""
    count = sum(map(is_unknown, operators))
    if not count:
        return ""
    noun = "operator" if count == 1 else "operators"
    return f"{count} {noun} without a known cost (shape not static, or no formula): not counted."
