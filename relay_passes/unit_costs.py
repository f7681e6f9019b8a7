"""Work and traffic of each unit of a network, and the tensors between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax

from relay_passes.operator_kinds import kind_of, tir_flops
from relay_passes.operator_roles import first_item, shape_of
from relay_passes.relax_constants import numpy_dtype
from relay_passes.straight_line import Node, StraightLine, straight_line
from relay_passes.unit_grouping import Group, group_units, op_name_of
from relay_passes.unit_names import Names, model_name, name_tensors, spec_of
from tvm_iovt.cost_graph import INPUT, CostGraph, Edge, Unit
from tvm_iovt.errors import ModelError
from tvm_iovt.types import TensorSpec


@dataclass(frozen=True, eq=False)
class Units:
    """A function, its units, and which is which.

    Attributes:
        line: The function.
        groups: Nodes of each unit, in the order of `graph.units`.
        graph: The units and the tensors between them.
        tensors: The tensor of each edge of `graph`: a variable, or the value of an output that no
            unit computes.
        inputs: The function's parameters as the model calls them.
        outputs: What it returns as the model calls it.
    """

    line: StraightLine
    groups: tuple[Group, ...]
    graph: CostGraph
    tensors: tuple[Any, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def units_of(
    mod: Any, inputs: Sequence[TensorSpec] | None, outputs: Sequence[TensorSpec] | None
) -> Units:
    """The units of `main` with all that is known of them; see `AnnotateCost`."""
    line = straight_line(main_of(mod))
    groups = group_units(line)
    if not groups:
        raise ModelError("The network cannot be divided: it has no operators", seen="constants")
    names = name_tensors(line, inputs, outputs)
    owner = {node.var: index for index, group in enumerate(groups) for node in group.nodes}
    edges, tensors = _edges(line, owner, len(groups), names)
    units = tuple(
        _unit(mod, index, group, line, edges, tensors, names.of)
        for index, group in enumerate(groups)
    )
    graph = CostGraph(units=units, edges=tuple(edges))
    return Units(line, groups, graph, tuple(tensors), names.inputs, names.outputs)


def main_of(mod: Any) -> Any:
    """The Relax function `main`.

    Raises:
        ModelError: There is none.
    """
    functions = {var.name_hint: function for var, function in mod.functions.items()}
    main = functions.get("main")
    if not isinstance(main, relax.Function):
        raise ModelError(
            "The module has no Relax function main", seen=", ".join(functions) or "no functions"
        )
    return main


def _edges(
    line: StraightLine,
    owner: dict[Any, int],
    count: int,
    names: Names,
) -> tuple[list[Edge], list[Any]]:
    consumers: dict[Any, set[int]] = {}
    for node in line.nodes:
        for read in node.reads if node.var in owner else ():
            for source in line.sources(read):
                if owner.get(source) != owner[node.var]:
                    consumers.setdefault(source, set()).add(owner[node.var])
    # Results that no unit computes (inputs, constants, views of inputs) come with the last unit.
    foreign = [v for v in line.outputs if v not in owner]
    for value in foreign:
        for source in line.sources(value):
            consumers.setdefault(source, set()).add(count - 1)
    edges, tensors = [], []
    for value, spec in zip(line.params, names.inputs, strict=True):
        readers = tuple(sorted(consumers.get(value, ())))
        edges.append(Edge(spec=spec, producer=INPUT, consumers=readers))
        tensors.append(value)
    outputs = frozenset(v for v in line.outputs if v in owner)
    leaving = [
        n.var for n in line.nodes if n.var in outputs or (n.var in owner and n.var in consumers)
    ]
    for var in sorted(leaving, key=lambda v: owner[v]):
        readers = tuple(sorted(consumers.get(var, ())))
        spec = spec_of(names.of[var], var)
        edges.append(
            Edge(spec=spec, producer=owner[var], consumers=readers, is_output=var in outputs)
        )
        tensors.append(var)
    taken = {edge.spec.name for edge in edges}
    for value, spec in zip(line.outputs, names.outputs, strict=True):
        if value not in owner or spec.name not in taken:  # foreign, or returned a second time
            producer = owner.get(value, count - 1)
            edges.append(Edge(spec=spec, producer=producer, consumers=(), is_output=True))
            tensors.append(value)
    return edges, tensors


def _unit(
    mod: Any,
    index: int,
    group: Group,
    line: StraightLine,
    edges: Sequence[Edge],
    tensors: Sequence[Any],
    named: Mapping[Any, str],
) -> Unit:
    anchor = group.anchor
    kind = kind_of(anchor)
    made = [t for t, edge in zip(tensors, edges, strict=True) if edge.producer == index]
    weights: dict[Any, int] = {}
    for node in group.nodes:
        for read in node.reads:
            if line.is_constant(read):
                weights[read] = _nbytes(read)
    bytes_in = 0
    for tensor, edge in zip(tensors, edges, strict=True):
        if index in edge.consumers:
            selected = kind.selects and tensor in line.sources(anchor.reads[0])
            bytes_in += min(_nbytes(tensor), _nbytes(anchor.value)) if selected else _nbytes(tensor)
    known = (node for node in (anchor, *group.nodes) if model_name(node.var))
    return Unit(
        index=index,
        name=named[next(known, anchor).var],
        operators=tuple(named[node.var] for node in group.nodes),
        kind=kind.name,
        flops=sum(_flops(mod, node, line) for node in group.nodes),
        bytes_in=bytes_in,
        bytes_out=sum(_nbytes(value) for value in made if not _is_view_of(value, made, line)),
        bytes_weights=sum(weights.values()),
        dtype=str(first_item(anchor.reads[0] if anchor.reads else anchor.value).ty.dtype),
        shape_in=shape_of(anchor.reads[0]) if anchor.reads else (),
        shape_out=shape_of(made[0] if made else anchor.value),
        kernel=kind.kernel,
        strides=kind.strides,
        groups=kind.groups,
    )


def _flops(mod: Any, node: Node, line: StraightLine) -> int:
    if node.role in ("view", "item"):
        return 0
    if op_name_of(node) in ("add", "subtract") and any(map(line.is_constant, node.reads)):
        before = [line.node_of.get(read) for read in node.reads if not line.is_constant(read)]
        if before and before[0] is not None and kind_of(before[0]).adds:
            return 0  # the sums start from the bias
    flops = kind_of(node).flops
    if not flops and isinstance(node.value, relax.Call) and is_tir(node.value):
        return tir_flops(mod[node.value.args[0]])
    return flops


def is_tir(call: Any) -> bool:
    """Whether a call is of a TIR function."""
    return bool(call.op == tvm.ir.Op.get("relax.call_tir"))


def _is_view_of(value: Any, others: Sequence[Any], line: StraightLine) -> bool:
    """Whether a tensor shares its memory with another one of these."""
    node = line.node_of.get(value) if isinstance(value, relax.Var) else None
    if node is None or node.role != "view":
        return False
    return node.reads[0] in others or _is_view_of(node.reads[0], others, line)


def _nbytes(value: Any) -> int:
    typed = first_item(value)
    itemsize = np.dtype(numpy_dtype(str(typed.ty.dtype))).itemsize
    return math.prod(shape_of(value)) * int(itemsize)
