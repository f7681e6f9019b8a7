"""Which units run where: a sequence of stages, each with a device of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tvm_iovt.cost_graph import INPUT, CostGraph
from tvm_iovt.errors import IovtError, UsageError
from tvm_iovt.partition.problem import Problem
from tvm_iovt.types import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Stages in the order in which they run.

    Attributes:
        stages: Of each, the index of its device and the indices of its units, increasing.
    """

    stages: tuple[tuple[int, tuple[int, ...]], ...]

    @property
    def devices(self) -> tuple[int, ...]:
        """The devices in the order in which they run."""
        return tuple(device for device, _ in self.stages)

    @classmethod
    def of_cuts(cls, devices: Sequence[int], cuts: Sequence[int], units: int) -> Placement:
        """Cut the topological order at positions; each cut lies before the unit of its number."""
        ends = (0, *cuts, units)
        return cls(
            stages=tuple(
                (device, tuple(range(ends[k], ends[k + 1]))) for k, device in enumerate(devices)
            )
        )

    @classmethod
    def whole(cls, device: int, units: int) -> Placement:
        """All units on one device."""
        return cls.of_cuts((device,), (), units)


def bits(members: Iterable[int]) -> int:
    """A set of small numbers as the bits of one."""
    mask = 0
    for member in members:
        mask |= 1 << member
    return mask


def predecessors(graph: CostGraph) -> list[int]:
    """Of each unit, the units whose tensors it reads, as bits."""
    masks = [0] * len(graph.units)
    for edge in graph.edges:
        if edge.producer != INPUT:
            for unit in edge.consumers:
                masks[unit] |= 1 << edge.producer
    return masks


def check(placement: Placement, devices: int, before: Sequence[int]) -> None:
    """Refuse what is no placement.

    Args:
        placement: The stages.
        devices: How many devices there are.
        before: Of each unit, its predecessors; see `predecessors`.

    Raises:
        IovtError: A device runs two stages or does not exist, a stage is empty, a unit is missing
            or there twice, or a stage reads what only a later one makes.
    """

    def refuse(seen: str) -> IovtError:
        return IovtError("These stages do not make the network", seen=seen)

    used = placement.devices
    if len(set(used)) != len(used) or not set(used) <= set(range(devices)):
        raise refuse(f"devices {used} of {devices}, each for one stage")
    listed = sorted(unit for _, units in placement.stages for unit in units)
    if listed != list(range(len(before))):
        raise refuse(f"{len(listed)} units in the stages, {len(before)} in the network")
    done = 0
    for index, (_, units) in enumerate(placement.stages):
        if not units:
            raise refuse(f"stage {index} has no units")
        done |= bits(units)
        for unit in units:
            if before[unit] & ~done:
                raise refuse(f"unit {unit} of stage {index} reads what a later stage makes")


def plan_stages(problem: Problem, placement: Placement) -> tuple[Stage, ...]:
    """The stages of a plan, with the tensors that each takes and makes.

    A stage's inputs are what its units read and do not make; its outputs are what it makes for
    later stages or the caller. A tensor that only passes by is in neither.
    """
    graph = problem.graph
    made = []
    for index, (device, units) in enumerate(placement.stages):
        own = frozenset(units)
        read = [e for e in graph.edges if e.producer not in own and not own.isdisjoint(e.consumers)]
        left = [
            e
            for e in graph.edges
            if e.producer in own and (e.is_output or any(u not in own for u in e.consumers))
        ]
        made.append(
            Stage(
                index=index,
                target=problem.devices[device].name,
                units=tuple(graph.units[unit].name for unit in units),
                inputs=tuple(edge.spec for edge in read),
                outputs=tuple(edge.spec for edge in left),
            )
        )
    return tuple(made)


def placement_of(problem: Problem, stages: Sequence[Stage]) -> Placement:
    """The placement that a plan's stages stand for: the inverse of `plan_stages`.

    A stage without units is the whole network.

    Raises:
        UsageError: A stage names a unit or a target that the problem does not have, or its units
            make no placement.
    """
    devices = {device.name: index for index, device in enumerate(problem.devices)}
    units = {unit.name: unit.index for unit in problem.graph.units}
    if len(units) != len(problem.graph.units):
        raise IovtError(
            "Units of one name cannot be told apart in a plan",
            seen=f"{len(problem.graph.units)} units, {len(units)} names",
        )
    found = []
    for stage in stages:
        unknown = [name for name in stage.units if name not in units]
        if unknown or stage.target not in devices:
            raise UsageError(
                f"Stage {stage.index} of the plan does not fit this network and these targets",
                seen=f"no unit {unknown[0]!r}" if unknown else f"no target {stage.target!r}",
                do="plan the network again, or name the units that `tvm-iovt plan -v` lists",
            )
        own = sorted(units[name] for name in stage.units) or range(len(units))
        found.append((devices[stage.target], tuple(own)))
    placement = Placement(stages=tuple(found))
    try:
        check(placement, len(devices), predecessors(problem.graph))
    except IovtError as error:
        raise UsageError(
            error.what, seen=error.seen, do="every unit in one stage, in the order of the network"
        ) from error
    return placement
