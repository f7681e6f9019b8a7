"""What a schedule template is, and the questions about a PrimFunc that templates ask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from tvm_iovt.types import CpuSpec

REDUCE = 2
"""`IterVar` type of a reduction axis."""

_RECOMPUTE_LIMIT = 2
"""How often inlining may compute an element that a buffer would hold."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A template does not apply.

    Attributes:
        reason: Why, in terms of the loops and blocks of the function.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Match:
    """A template applies.

    Attributes:
        block: Name of the block that the template is about.
        detail: What is special about this match, for the decision log.
    """

    block: str
    detail: str


class Template(Protocol):
    """A way to schedule one family of PrimFuncs.

    `match` looks at an unscheduled function; `apply` rewrites it in place. `apply` may raise: the
    caller then starts over with the next template.
    """

    name: str

    def match(self, schedule: Any) -> Match | Refusal:
        """Whether the template can schedule the function `main` of `schedule`, or why not."""
        ...

    def apply(self, schedule: Any, match: Match, cpu: CpuSpec) -> None:
        """Schedule the function in place."""
        ...


def blocks(schedule: Any) -> list[Any]:
    """The blocks under the root, in program order."""
    return list(schedule.get_child_blocks(schedule.get_sblock("root")))


def name_of(schedule: Any, block: Any) -> str:
    """The name of a block."""
    return str(schedule.get(block).name_hint)


def is_reduction(schedule: Any, block: Any) -> bool:
    """Whether a block has a reduction axis."""
    return any(int(var.iter_type) == REDUCE for var in schedule.get(block).iter_vars)


def spatial_extents(schedule: Any, block: Any) -> list[int]:
    """Extents of the spatial axes of a block."""
    return [
        int(var.dom.extent) for var in schedule.get(block).iter_vars if int(var.iter_type) != REDUCE
    ]


def reduce_extents(schedule: Any, block: Any) -> list[int]:
    """Extents of the reduction axes of a block."""
    return [
        int(var.dom.extent) for var in schedule.get(block).iter_vars if int(var.iter_type) == REDUCE
    ]


def volume(extents: Iterable[int]) -> int:
    """Product of extents."""
    result = 1
    for extent in extents:
        result *= extent
    return result


def value_of(schedule: Any, choice: Any) -> int:
    """The number that a choice stands for: itself, or the value of a sampled variable."""
    return choice if isinstance(choice, int) else int(schedule.get(choice))


def annotation(schedule: Any, block: Any, key: str) -> Any:
    """Value of a block annotation, or None."""
    return schedule.get(block).annotations.get(key)


def annotated_block(schedule: Any, key: str, value: str) -> Any | None:
    """The block whose annotation `key` is `value`, or None."""
    for block in blocks(schedule):
        found = annotation(schedule, block, key)
        if found is not None and str(found) == value:
            return block
    return None


def output_block(schedule: Any) -> Any:
    """The single block that writes the result.

    Raises:
        ValueError: The function has several results.
    """
    (block,) = schedule.get_output_blocks(schedule.get_sblock("root"))
    return block


def inline_all_but(schedule: Any, keep: list[Any]) -> None:
    """Inline every element-wise block into its consumers, except those named in `keep`.

    A block with fewer elements than its consumer stays, so that nothing is computed repeatedly.
    """
    kept = {name_of(schedule, block) for block in keep}
    for block in blocks(schedule):
        if name_of(schedule, block) in kept or is_reduction(schedule, block):
            continue
        consumers = schedule.get_consumers(block)
        own = volume(spatial_extents(schedule, block))
        if not consumers or any(
            volume(spatial_extents(schedule, c)) > own * _RECOMPUTE_LIMIT for c in consumers
        ):
            continue
        if any(is_reduction(schedule, c) for c in consumers):
            continue
        schedule.compute_inline(block)
