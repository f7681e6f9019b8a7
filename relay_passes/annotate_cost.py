"""Work and traffic of every unit, written to the function that they are of.

    Given:
        def main(%x): ...
    Result:
        def main(%x): ...   # with attr tvm_iovt.costs = "{units: [...], edges: [...]}"

The code stays as it is. See `unit_grouping` for what a unit is; FLOPs are those of the textbook
algorithm (a multiply-add is two, a bias is free), bytes are the compulsory traffic: each tensor
that enters or leaves a unit once, and its constants. What stays inside of a unit is no traffic.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax

from relay_passes.module_pass import module_pass
from relay_passes.operator_kinds import kind_of, tir_flops
from relay_passes.operator_roles import first_item, shape_of
from relay_passes.relax_constants import numpy_dtype
from relay_passes.straight_line import Node, StraightLine, straight_line
from relay_passes.unit_grouping import Group, group_units, op_name_of
from tvm_iovt.cost_graph import INPUT, CostGraph, Edge, Unit
from tvm_iovt.errors import ModelError
from tvm_iovt.types import TensorSpec, from_json, to_json

COSTS = "tvm_iovt.costs"
"""Attribute of an annotated function: its `CostGraph` as JSON text."""

OUTPUTS = "tvm_iovt.outputs"
"""Attribute of an annotated function: names of what it returns, as JSON text."""

_IMPORTER_NAME = re.compile(r"(lv|gv)\d*")


@module_pass("AnnotateCost")
class AnnotateCost:
    """Attaches the `CostGraph` of `main` to it.

    Args:
        inputs: What the model calls its inputs, in order; by default the parameters' names.
        outputs: What the model calls its outputs, in order; by default the variables' names.
    """

    def __init__(
        self,
        inputs: Sequence[TensorSpec] | None = None,
        outputs: Sequence[TensorSpec] | None = None,
    ) -> None:
        self._inputs = inputs
        self._outputs = outputs

    def transform_module(self, mod: Any, _ctx: Any) -> Any:
        """Annotate `main` of `mod`; a former annotation is replaced.

        Raises:
            ModelError: `main` is missing, or cannot be divided into units.
        """
        units = units_of(mod, self._inputs, self._outputs)
        main = main_of(mod)
        annotated = main.with_attr(COSTS, json.dumps(to_json(units.graph)))
        names = json.dumps([spec.name for spec in units.outputs])
        functions = dict(mod.functions.items())
        functions[mod.get_global_var("main")] = annotated.with_attr(OUTPUTS, names)
        return tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)


def read_costs(mod: Any) -> CostGraph:
    """What `AnnotateCost` attached to `main`.

    Raises:
        ModelError: It is not annotated.
        IovtError: The annotation is of another version.
    """
    return from_json(CostGraph, json.loads(attached(mod, COSTS)))


def cost_graph(
    mod: Any,
    inputs: Sequence[TensorSpec] | None = None,
    outputs: Sequence[TensorSpec] | None = None,
) -> CostGraph:
    """The units of `main` and the tensors between them; arguments and errors of `AnnotateCost`."""
    return units_of(mod, inputs, outputs).graph


def attached(mod: Any, attribute: str) -> str:
    """The text of an attribute that `AnnotateCost` attaches to `main`.

    Raises:
        ModelError: It is not annotated.
    """
    attrs = main_of(mod).attrs
    if attrs is None or attribute not in attrs:
        raise ModelError(
            "The module has no costs", seen=f"`main` without {attribute}", do="run AnnotateCost()"
        )
    return str(attrs[attribute])


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
    names = _Names()
    _check("inputs", inputs, line.params)
    _check("outputs", outputs, line.outputs)
    in_specs = _specs(line, line.params, inputs, names)
    named: dict[Any, str] = {v: s.name for v, s in zip(line.params, in_specs, strict=True)}
    if outputs is not None:  # what the model calls its outputs, nothing else may be called
        out_specs = _specs(line, line.outputs, outputs, names)
        _name_outputs(line, out_specs, named)
    for node in line.nodes:
        if node.var not in named:
            named[node.var] = names.unique(_own_name(node.var, line))
    if outputs is None:
        out_specs = _named_specs(line, named, names)
    owner = {node.var: index for index, group in enumerate(groups) for node in group.nodes}
    edges, tensors = _edges(line, owner, len(groups), in_specs, out_specs, named)
    units = tuple(
        _unit(mod, index, group, line, edges, tensors, named) for index, group in enumerate(groups)
    )
    graph = CostGraph(units=units, edges=tuple(edges))
    return Units(line, groups, graph, tuple(tensors), in_specs, out_specs)


class _Names:
    """Hands out unique names: `a`, `a~2`, `a~3`."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def unique(self, name: str) -> str:
        found, number = name, self._next.get(name, 2)
        while found in self._taken:
            found, number = f"{name}~{number}", number + 1
        self._taken.add(found)
        self._next[name] = number
        return found


def _name_outputs(line: StraightLine, specs: Sequence[TensorSpec], named: dict[Any, str]) -> None:
    for value, spec in zip(line.outputs, specs, strict=True):
        node = line.node_of.get(value) if isinstance(value, relax.Var) else None
        if node is not None and not node.replicated:
            named.setdefault(value, spec.name)


def _named_specs(
    line: StraightLine, named: dict[Any, str], names: _Names
) -> tuple[TensorSpec, ...]:
    """Outputs by the names of their tensors; inputs, constants and second ones by new names."""
    specs: list[TensorSpec] = []
    for value in line.outputs:
        own = isinstance(value, relax.Var) and value in line.node_of
        again = own and named[value] in {spec.name for spec in specs}
        fresh = not own or again or line.node_of[value].replicated
        name = names.unique(_own_name(value, line)) if fresh else named[value]
        specs.append(_spec(name, value))
    return tuple(specs)


def _check(what: str, specs: Sequence[TensorSpec] | None, values: Sequence[Any]) -> None:
    if specs is not None:
        have = [shape_of(value) for value in values]
        if [spec.shape for spec in specs] != have:
            raise ModelError(
                f"The {what} are not those of the module",
                seen=f"given {'; '.join(map(str, specs))}; the module has shapes {have}",
            )


def _specs(
    line: StraightLine, values: Sequence[Any], given: Sequence[TensorSpec] | None, names: _Names
) -> tuple[TensorSpec, ...]:
    labels = [s.name for s in given] if given is not None else [_own_name(v, line) for v in values]
    return tuple(
        _spec(names.unique(label), value) for label, value in zip(labels, values, strict=True)
    )


def _own_name(value: Any, line: StraightLine) -> str:
    """The model's name for a value if there is one, else its operator's."""
    if not isinstance(value, relax.Var):
        return "constant"
    node = line.node_of.get(value)
    return model_name(value) or ("" if node is None else short_name(node)) or str(value.name)


def _spec(name: str, value: Any) -> TensorSpec:
    return TensorSpec(name=name, shape=shape_of(value), dtype=str(first_item(value).ty.dtype))


def short_name(node: Node) -> str:
    """Name of a node's operator without its module: `conv2d`."""
    return op_name_of(node).split(".")[-1] or "item"


def model_name(var: Any) -> str:
    """The model's name for a variable; empty for one that the importer numbered."""
    name = str(var.name)
    return "" if _IMPORTER_NAME.fullmatch(name) else name


def _edges(
    line: StraightLine,
    owner: dict[Any, int],
    count: int,
    in_specs: Sequence[TensorSpec],
    out_specs: Sequence[TensorSpec],
    named: dict[Any, str],
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
    for value, spec in zip(line.params, in_specs, strict=True):
        readers = tuple(sorted(consumers.get(value, ())))
        edges.append(Edge(spec=spec, producer=INPUT, consumers=readers))
        tensors.append(value)
    outputs = frozenset(v for v in line.outputs if v in owner)
    leaving = [
        n.var for n in line.nodes if n.var in outputs or (n.var in owner and n.var in consumers)
    ]
    for var in sorted(leaving, key=lambda v: owner[v]):
        readers = tuple(sorted(consumers.get(var, ())))
        spec = _spec(named[var], var)
        edges.append(
            Edge(spec=spec, producer=owner[var], consumers=readers, is_output=var in outputs)
        )
        tensors.append(var)
    taken = {edge.spec.name for edge in edges}
    for value, spec in zip(line.outputs, out_specs, strict=True):
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
    named: dict[Any, str],
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
