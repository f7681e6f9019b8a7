"""A straight-line Relax function as a graph of its bindings, aliases and tuples looked through.

What is computed from constants alone, and views of the function's inputs, are *replicated*: they
cost nothing, so whoever reads them gets its own.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax

from relay_passes.operator_roles import Role, role_of
from relay_passes.rewriter import is_call
from tvm_iovt.errors import ModelError


@dataclass(frozen=True, eq=False)
class Node:
    """A binding of a tensor (or of a tuple of tensors, which only its items read).

    Attributes:
        index: Its place in the function.
        var: What it is bound to.
        value: The expression.
        reads: Variables and constants that it reads, aliases resolved, in the order of arguments.
        role: What it is to a compiler that fuses.
        replicated: Whether it costs nothing and needs no unit of work.
    """

    index: int
    var: Any
    value: Any
    reads: tuple[Any, ...]
    role: Role
    replicated: bool = False


@dataclass(frozen=True, eq=False)
class StraightLine:
    """A function: its parameters, nodes in the order of the bindings, and results.

    Attributes:
        params: Its parameters.
        nodes: Its bindings without aliases and tuples.
        outputs: Variables and constants that it returns, in order.
        returns_tuple: Whether they are returned as a tuple.
        aliases: What variables that are no nodes stand for.
    """

    params: tuple[Any, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Any, ...]
    returns_tuple: bool
    aliases: Mapping[Any, Any]

    @functools.cached_property
    def node_of(self) -> dict[Any, Node]:
        """Nodes by their variables."""
        return {node.var: node for node in self.nodes}

    @functools.cached_property
    def readers(self) -> dict[Any, tuple[Node, ...]]:
        """Nodes that read a variable, in order, each once."""
        found: dict[Any, dict[int, Node]] = {}
        for node in self.nodes:
            for read in node.reads:
                if isinstance(read, relax.Var):
                    found.setdefault(read, {})[node.index] = node
        return {var: tuple(nodes.values()) for var, nodes in found.items()}

    def is_constant(self, value: Any) -> bool:
        """Whether a variable or constant depends on no parameter."""
        node = self.node_of.get(value) if isinstance(value, relax.Var) else None
        return not isinstance(value, relax.Var) or (
            node is not None and node.replicated and all(map(self.is_constant, node.reads))
        )

    def sources(self, value: Any) -> tuple[Any, ...]:
        """The parameters and nodes with work that a value comes from through replicated nodes."""
        node = self.node_of.get(value) if isinstance(value, relax.Var) else None
        if not isinstance(value, relax.Var):
            return ()
        if node is None or not node.replicated:
            return (value,)
        return tuple(source for read in node.reads for source in self.sources(read))


def straight_line(function: Any) -> StraightLine:
    """Read a Relax function.

    Raises:
        ModelError: It branches, calls other Relax functions, or computes with other things than
            tensors.
    """
    aliases: dict[Any, Any] = {}
    nodes: list[Node] = []
    kept = [_resolved(e, aliases) for e in _returned(function, aliases, nodes)]
    outputs = tuple(kept)
    for output in outputs:
        if not isinstance(output.ty, relax.TensorType):
            raise _unreadable(f"it returns {output.ty}")
    return StraightLine(
        params=tuple(function.params),
        nodes=tuple(nodes),
        outputs=outputs,
        returns_tuple=not isinstance(function.ret_ty, relax.TensorType),
        aliases=aliases,
    )


def _returned(function: Any, aliases: dict[Any, Any], nodes: list[Node]) -> tuple[Any, ...]:
    """Fills aliases and nodes from the bindings; the results."""
    constants: set[Any] = set()
    free: set[Any] = set(function.params)
    norms: set[Any] = set()
    for block in function.body.blocks:
        for binding in block.bindings:
            if not isinstance(binding, relax.VarBinding):
                raise _unreadable(f"a {type(binding).__name__} binding")
            value = _resolved(binding.value, aliases)
            if isinstance(value, (relax.Var, relax.Tuple, tvm.ir.GenericConst)):
                aliases[binding.var] = value
                continue
            reads = tuple(_tensors(value, aliases))
            role = role_of(value, reads)
            if role == "item" and reads[0] in norms and int(value.index) == 0:
                role = "elementwise"  # of a batch norm, the first item is the result
            if all(not isinstance(r, relax.Var) or r in constants for r in reads):
                constants.add(binding.var)
            elif role == "view" and all(r in free for r in reads):
                free.add(binding.var)
            if is_call(value, "relax.nn.batch_norm"):
                norms.add(binding.var)
            nodes.append(
                Node(
                    index=len(nodes),
                    var=binding.var,
                    value=value,
                    reads=reads,
                    role=role,
                    replicated=binding.var in constants or binding.var in free,
                )
            )
    result = _resolved(function.body.body, aliases)
    return tuple(result.fields) if isinstance(result, relax.Tuple) else (result,)


def _resolved(expr: Any, aliases: Mapping[Any, Any]) -> Any:
    """An expression without aliases at its top."""
    if isinstance(expr, relax.Var):
        return aliases.get(expr, expr)
    if isinstance(expr, relax.TupleGetItem):
        whole = _resolved(expr.tuple_value, aliases)
        if isinstance(whole, relax.Tuple):
            return _resolved(whole.fields[int(expr.index)], aliases)
    return expr


def _tensors(value: Any, aliases: Mapping[Any, Any]) -> Iterator[Any]:
    """Variables and constants that an expression reads, in order."""
    if isinstance(value, relax.TupleGetItem):
        yield _resolved(value.tuple_value, aliases)
        return
    if not isinstance(value, relax.Call):
        raise _unreadable(f"{type(value).__name__} is bound")
    if not isinstance(value.op, tvm.ir.Op):
        raise _unreadable(f"it calls {value.op}", "a partitioned module is read stage by stage")
    pending = list(reversed(value.args))
    while pending:
        argument = _resolved(pending.pop(), aliases)
        if isinstance(argument, relax.Tuple):
            pending += reversed(argument.fields)
        elif isinstance(argument, (relax.Var, tvm.ir.GenericConst)):
            yield argument
        elif isinstance(argument, (relax.Call, relax.Function, relax.If)):
            raise _unreadable("it has nested expressions", "run relax.transform.Normalize first")


def _unreadable(seen: str, do: str = "") -> ModelError:
    return ModelError(
        "The network cannot be divided: it is not a sequence of operators on tensors",
        seen=seen,
        do=do or "export the model without control flow and with static shapes",
    )
