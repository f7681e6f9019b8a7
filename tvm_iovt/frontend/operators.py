"""Which operators of a model cannot be imported, all of them at once and with their nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm_iovt.errors import ModelError

if TYPE_CHECKING:
    import onnx

# The importer has some of these, but the stages behind it need one straight-line data-flow graph.
CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsupportedOperator:
    """An operator that cannot be imported, at one node."""

    op: str
    domain: str
    node: str

    @property
    def qualified(self) -> str:
        """`domain.op`, or `op` in the default domain."""
        return f"{self.domain}.{self.op}" if self.domain not in ("", "ai.onnx") else self.op


def unsupported_operators(model: onnx.ModelProto) -> tuple[UnsupportedOperator, ...]:
    """Every node whose operator the importer does not have, in graph order, subgraphs included."""
    from tvm_iovt import _tvm

    known = _tvm.onnx_converters() | {"Constant"}
    return tuple(
        UnsupportedOperator(op=node.op_type, domain=node.domain, node=node.name or node.output[0])
        for node in _nodes(model.graph)
        if node.op_type in CONTROL_FLOW or node.op_type not in known
    )


def refuse_unsupported(model: onnx.ModelProto, name: str) -> None:
    """Raise one `ModelError` that lists all unsupported operators with their nodes."""
    found = unsupported_operators(model)
    if not found:
        return
    nodes: dict[str, list[str]] = defaultdict(list)
    for item in found:
        nodes[item.qualified].append(item.node)
    lines = [f"{op} ({len(names)}): {', '.join(names)}" for op, names in nodes.items()]
    raise ModelError(
        f"{name} uses {len(nodes)} operator{'s' * (len(nodes) > 1)} that cannot be compiled",
        seen="\n        ".join(lines),
        do="replace them in the model, or cut the graph before them (onnx.utils.extract_model) "
        "and run the rest in your program",
    )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)
            for subgraph in attribute.graphs:
                yield from _nodes(subgraph)
