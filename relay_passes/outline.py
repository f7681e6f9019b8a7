"""Some nodes of a function as a function of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tvm import relax

from relay_passes.straight_line import Node, StraightLine


def outline(
    builder: Any,
    name: str,
    line: StraightLine,
    nodes: Iterable[Node],
    inputs: Sequence[tuple[str, Any]],
    outputs: Sequence[tuple[str, Any]],
    attrs: dict[str, Any],
) -> Any:
    """Add a function that computes some nodes of another one.

    Constants stay what they are; replicated nodes that these nodes need are copied along.

    Args:
        builder: `relax.BlockBuilder` of the module to add it to.
        name: Of the function.
        line: The function that the nodes are of.
        nodes: What to compute.
        inputs: Names of the parameters, and the variables of `line` that they stand for.
        outputs: Names and values (of `line`) to return: a tensor if it is one, else a tuple.
        attrs: Attributes of the function.

    Returns:
        Its `GlobalVar`.
    """
    params = [relax.Var(label, value.ty) for label, value in inputs]
    here = {value: param for (_, value), param in zip(inputs, params, strict=True)}
    given = frozenset(here)
    labels = {value: label for label, value in outputs if isinstance(value, relax.Var)}
    needed = _with_replicated(line, nodes, [value for _, value in outputs], given)
    with builder.function(name, params, attrs=attrs):
        with builder.dataflow():
            for node in needed:
                expr = builder.normalize(moved(node.value, here, line))
                if node.var in labels:
                    var = relax.Var(labels[node.var], node.var.ty)
                else:
                    var = relax.DataflowVar(node.var.name, node.var.ty)
                builder.emit_normalized(relax.VarBinding(var, expr))
                here[node.var] = var
        results = [moved(value, here, line) for _, value in outputs]
        made = builder.emit_func_output(
            results[0] if len(results) == 1 else builder.normalize(relax.Tuple(results))
        )
    return made


def moved(expr: Any, here: dict[Any, Any], line: StraightLine) -> Any:
    """An expression of `line` with its variables replaced by those of another function."""
    if isinstance(expr, relax.Var):
        if expr in here:
            return here[expr]
        alias = line.aliases.get(expr)
        return expr if alias is None else moved(alias, here, line)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([moved(field, here, line) for field in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(moved(expr.tuple_value, here, line), int(expr.index))
    if isinstance(expr, relax.Call):
        arguments = [moved(argument, here, line) for argument in expr.args]
        return relax.Call(expr.op, arguments, expr.attrs, expr.ty_args)
    return expr


def _with_replicated(
    line: StraightLine, nodes: Iterable[Node], outputs: Sequence[Any], given: frozenset[Any]
) -> list[Node]:
    needed = {node.index: node for node in nodes}
    pending = [read for node in needed.values() for read in node.reads]
    pending += outputs
    while pending:
        value = pending.pop()
        node = line.node_of.get(value) if isinstance(value, relax.Var) else None
        if node is None or not node.replicated or node.index in needed or value in given:
            continue
        needed[node.index] = node
        pending += node.reads
    return [needed[index] for index in sorted(needed)]
