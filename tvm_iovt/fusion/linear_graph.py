"""What the fusion rules need to know of a graph, whatever its format.

A rule sees values (opaque handles), the linear operator that computes each, and how many readers
each has. Relax modules and ONNX models each implement `LinearGraph` once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Protocol

from tvm_iovt.fusion.convolution import Convolution, Pair, compose

Value = Hashable

AFFINE = frozenset({"batch_norm", "scale", "shift"})
"""Kinds that act on each channel alone."""

SPATIAL = frozenset({"conv2d", "avg_pool2d", "pad", "crop"})
"""Kinds on images that are convolutions of some kernel."""

CARRIERS = frozenset({"conv2d", "conv2d_transpose", "dense"})
"""Kinds with weights, which a fused operator can be written as."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearOperator:
    """An operator with constant parameters that is linear in its one operand.

    Attributes:
        kind: One of `AFFINE`, `SPATIAL` or `CARRIERS`.
        name: For messages.
        operand: What it reads.
        result: What it computes.
        node: The graph's own representation.
        weight: Identity of the constant that holds the weights of a carrier.
        convolution: Its normal form; a `dense` layer is one of 1x1 images. Raises `InexactError`
            when it has none. A `conv2d_transpose` has none at all: only what follows it can be
            folded in.
    """

    kind: str
    name: str
    operand: Value
    result: Value
    node: Any
    convolution: Callable[[], Convolution]
    weight: Hashable = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """Why a value is not the result of a linear operator.

    Attributes:
        reason: In the user's terms, e.g. `nn.relu lies between`.
        name: Name of the operator, empty for an input of the graph.
        kind: That of a linear operator, if the operator could be one: `batch_norm`.
        operands: What the operator reads, constants left out.
    """

    reason: str
    name: str = ""
    kind: str = ""
    operands: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True)
class Term:
    """One operand of a sum."""

    value: Value
    sign: int = 1


class LinearGraph(Protocol):
    """A graph as the rules see it."""

    canonical: frozenset[tuple[str, ...]]
    """Kinds, last operator first, in which the format writes a carrier with its bias."""

    def operator(self, value: Value) -> LinearOperator | Blocked:
        """The linear operator that computes a value, or why there is none."""
        ...

    def terms(self, value: Value) -> tuple[Term, ...] | Blocked | None:
        """The operands when the value is a sum of tensors of one shape; None if it is no sum."""
        ...

    def reader(self, value: Value) -> Value | None:
        """The result of the operator that alone reads a value; None if several do, or none."""
        ...

    def name(self, value: Value) -> str:
        """What a value is called in messages."""
        ...

    def uses(self, value: Value) -> int:
        """How many operators read a value; being a result of the graph counts as one."""
        ...

    def weight_uses(self, weight: Hashable) -> int:
        """How many operators read a constant."""
        ...

    def image_hw(self, value: Value) -> Pair | None:
        """Height and width of an image; (1, 1) for a vector, None when they are not static."""
        ...

    def element_bytes(self, value: Value) -> int:
        """Bytes of one element."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Linear operators, the last one first, each of which alone reads the one after it.

    Attributes:
        value: Result of the first operator.
        operators: May be empty.
        blocked: Why it ends.
    """

    value: Value
    operators: tuple[LinearOperator, ...]
    blocked: Blocked = field(default_factory=lambda: Blocked(reason=""))

    def source(self, depth: int) -> Value:
        """What the first `depth` operators read."""
        return self.operators[depth - 1].operand if depth else self.value


def walk(graph: LinearGraph, value: Value) -> Chain:
    """The chain that ends in `value`, as far back as it goes."""
    operators: list[LinearOperator] = []
    at = value
    while True:
        if operators and graph.uses(at) > 1:
            reason = f"the input of {operators[-1].name} has another consumer"
            return Chain(value=value, operators=tuple(operators), blocked=Blocked(reason=reason))
        found = graph.operator(at)
        if isinstance(found, Blocked):
            return Chain(value=value, operators=tuple(operators), blocked=found)
        operators.append(found)
        at = found.operand


def while_affine(operators: tuple[LinearOperator, ...]) -> tuple[LinearOperator, ...]:
    """The operators at the end of a chain that act on channels."""
    return tuple(takewhile(lambda operator: operator.kind in AFFINE, operators))


def composed(graph: LinearGraph, operators: tuple[LinearOperator, ...]) -> Convolution:
    """A chain as one operator.

    Raises:
        InexactError: It cannot be one, see `compose`.
    """
    total = operators[-1].convolution()
    for operator in reversed(operators[:-1]):
        total = compose(total, operator.convolution(), graph.image_hw(operator.operand))
    return total


def ancestors(graph: LinearGraph, value: Value, limit: int) -> Iterator[tuple[Value, str]]:
    """Values that `value` depends on through first operands, each with what stands in the way.

    That is the reason of the first operator on the way which is not linear.
    """
    obstacle = ""
    for _ in range(limit):
        if graph.uses(value) > 1 and not obstacle:
            obstacle = "the output of the branch has another consumer"
        found = graph.operator(value)
        if isinstance(found, Blocked):
            obstacle = obstacle or found.reason
            if not found.operands:
                return
            value = found.operands[0]
        else:
            value = found.operand
        yield value, obstacle
