"""A network as planners see it: units of work, and the tensors that pass between them.

A *unit* is a group of operators that the compiler makes one kernel of (a convolution with its bias,
activation and residual, say); cutting inside of one would cost more than it could save. Units are
in a topological order: a tensor's consumers come after its producer.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

from tvm_iovt.errors import IovtError
from tvm_iovt.types import TensorSpec

KINDS = (
    "conv",  # dense convolution with a kernel larger than 1x1
    "pointwise",  # 1x1 convolution
    "depthwise",  # one filter (or few) a channel
    "grouped",  # other grouped convolutions
    "transposed",  # transposed convolution
    "matmul",
    "pool",  # windows
    "reduce",  # over whole axes: global pooling, softmax, norms
    "elementwise",
    "move",  # copies: concatenate, split, pad, transpose, resize by copying
    "other",
)
"""What `Unit.kind` can be; the members of one have times of one law."""

INPUT = -1
"""Producer of the network's inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit of work. A multiply-add counts as two FLOPs.

    Attributes:
        index: Its place in the topological order.
        name: Of its main operator, as in the model file.
        operators: Names of all of its operators.
        kind: One of `KINDS`.
        flops: Of all of its operators.
        bytes_in: Activations that it reads from other units, each tensor once.
        bytes_out: Activations that others, or the caller, read.
        bytes_weights: Its constants; they are traffic, too.
        dtype: Of its arithmetic.
        shape_in: Of the main operator's first input, NCHW for images.
        shape_out: Of the unit's first output.
        kernel: Height and width of the window; empty without one.
        strides: Of the window; empty without one.
        groups: Of a convolution.
    """

    index: int
    name: str
    operators: tuple[str, ...]
    kind: str
    flops: int
    bytes_in: int
    bytes_out: int
    bytes_weights: int
    dtype: str = "float32"
    shape_in: tuple[int, ...] = ()
    shape_out: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    groups: int = 1

    @property
    def nbytes(self) -> int:
        """Compulsory traffic, weights included."""
        return self.bytes_in + self.bytes_out + self.bytes_weights

    @property
    def intensity(self) -> float:
        """Arithmetic intensity in FLOPs a byte (Roofline, doi 10.1145/1498765.1498785)."""
        return self.flops / self.nbytes if self.nbytes else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A tensor that passes between units, from the caller, or to it.

    Attributes:
        spec: Its name in the graph, shape and dtype.
        producer: Index of the unit that makes it; `INPUT` for the network's inputs.
        consumers: Indices of the units that read it, increasing.
        is_output: Whether the caller gets it.
    """

    spec: TensorSpec
    producer: int
    consumers: tuple[int, ...]
    is_output: bool = False

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return self.spec.nbytes


@dataclass(frozen=True, kw_only=True)  # without slots: crossing_bytes is kept
class CostGraph:
    """Units in topological order, and the edges between them.

    Raises:
        IovtError: An edge names a unit that does not exist, or points backwards.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/cost-graph/1"

    units: tuple[Unit, ...]
    edges: tuple[Edge, ...]

    def __post_init__(self) -> None:
        for index, unit in enumerate(self.units):
            if unit.index != index:
                raise IovtError(
                    "The units of a cost graph are out of order", seen=f"{unit.index} at {index}"
                )
        for edge in self.edges:
            ends = (edge.producer, *edge.consumers)
            if list(ends) != sorted(set(ends)) or ends[0] < -1 or ends[-1] >= len(self.units):
                raise IovtError(
                    f"The edge {edge.spec.name} of a cost graph is wrong",
                    seen=f"from unit {edge.producer} to {edge.consumers} of {len(self.units)}",
                )

    def crossing(self, before: Collection[int]) -> tuple[Edge, ...]:
        """The tensors that leave a set of units that is closed under predecessors.

        The network's inputs are made before the first unit, and its outputs are read behind the
        last one: an output travels with the frame to the end.
        """
        inside = before if isinstance(before, (set, frozenset)) else frozenset(before)
        return tuple(
            edge
            for edge in self.edges
            if (edge.producer == INPUT or edge.producer in inside)
            and (edge.is_output or any(unit not in inside for unit in edge.consumers))
        )

    @functools.cached_property
    def crossing_bytes(self) -> tuple[int, ...]:
        """Bytes that pass position `p`, between units `p - 1` and `p`; `p` from 0 to the end."""
        steps = [0] * (len(self.units) + 2)
        for edge in self.edges:
            first = edge.producer + 1
            last = len(self.units) if edge.is_output else max(edge.consumers, default=edge.producer)
            if last >= first:
                steps[first] += edge.nbytes
                steps[last + 1] -= edge.nbytes
        totals = []
        running = 0
        for step in steps[: len(self.units) + 1]:
            running += step
            totals.append(running)
        return tuple(totals)

    def position_after(self, name: str) -> int:
        """The position behind the unit with an operator of that name.

        Raises:
            IovtError: There is none; names the nearest.
        """
        import difflib

        for unit in self.units:
            if name == unit.name or name in unit.operators:
                return unit.index + 1
        names = [unit.name for unit in self.units]
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names[:3]
        raise IovtError(
            f"The network has no operator {name!r} to cut behind",
            seen=f"{len(names)} units; the nearest names: {', '.join(near)}",
            do="`tvm-iovt plan MODEL -v` lists them",
        )
