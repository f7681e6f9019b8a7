"""An ONNX graph as the fusion rules see it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any

from tvm_iovt.frontend.onnx_model import opset_version
from tvm_iovt.fusion.convolution import Pair
from tvm_iovt.fusion.linear_graph import Blocked, LinearOperator, Term
from tvm_iovt.onnx_fusion import operators
from tvm_iovt.onnx_fusion.attributes import is_default, node_name, operator_name
from tvm_iovt.onnx_fusion.constants import Constants
from tvm_iovt.onnx_fusion.graph_index import GraphIndex
from tvm_iovt.onnx_fusion.value_types import ValueType, infer_value_types

if TYPE_CHECKING:
    import onnx

_ELEMENT_BYTES = {"FLOAT": 4, "FLOAT16": 2, "BFLOAT16": 2, "DOUBLE": 8}
_SIGNS = {"Add": 1, "Sub": -1, "Sum": 1}


class OnnxGraph:
    """The main graph of a model; values are the names of tensors.

    Identity nodes are looked through: a value goes by the name that its first holder has.

    An addition of one number a channel is called a `scale`: Conv, ConvTranspose and Gemm hold such
    a bias themselves, so it is to be folded into them. Only an addition of a map, which they
    cannot hold, is a `shift`, and that behind a convolution is canonical.

    Args:
        model: Is edited by `replace` and `finish`.
    """

    canonical: frozenset[tuple[str, ...]] = frozenset(
        {("shift", "conv2d"), ("shift", "conv2d_transpose")}
    )

    def __init__(self, model: onnx.ModelProto) -> None:
        self.opset = opset_version(model)
        self._types = infer_value_types(model)
        self.index = GraphIndex(model)
        self.constants = Constants(self.index)

    # What the rules ask.

    def operator(self, value: Any) -> LinearOperator | Blocked:
        """See `LinearGraph`."""
        return operators.read(self, value)

    def terms(self, value: Any) -> tuple[Term, ...] | Blocked | None:
        """See `LinearGraph`."""
        node = self.index.producer(value)
        if node is None or node.op_type not in _SIGNS or not is_default(node):
            return None
        operands = [self.source(name) for name in node.input]
        if len(operands) < 2 or any(self.constants.holder(o) is not None for o in operands):
            return None
        shapes = {self.type(operand).shape for operand in operands}
        (shape,) = shapes if len(shapes) == 1 else (None,)
        if shape is None or len(shape) not in (2, 4):
            known = None not in shapes
            reason = "the operands have different shapes" if known else "a shape is not known"
            return Blocked(reason=reason, name=node_name(node), operands=tuple(operands))
        signs = [1] + [_SIGNS[node.op_type]] * (len(operands) - 1)
        return tuple(Term(o, sign) for o, sign in zip(operands, signs, strict=True))

    def reader(self, value: Any) -> str | None:
        """See `LinearGraph`."""
        if self.uses(value) != 1:
            return None
        node = next(self._leaf_readers(value), None)
        return str(node.output[0]) if node is not None else None

    def name(self, value: Any) -> str:
        """See `LinearGraph`."""
        node = self.index.producer(value)
        return node_name(node) if node is not None else str(value)

    def uses(self, value: Any) -> int:
        """See `LinearGraph`; a subgraph that reads the value counts, too."""
        outside = sum(map(self.index.outside_uses, self._same(value)))
        return outside + sum(1 for _ in self._leaf_readers(value))

    def weight_uses(self, weight: Hashable) -> int:
        """See `LinearGraph`; weights are named by what holds them."""
        assert isinstance(weight, str)
        count = self.index.outside_uses(weight)
        for reader in self.index.readers(weight):
            is_view = self.constants.is_view(reader)
            count += self.weight_uses(reader.output[0]) if is_view else 1
        return count

    def image_hw(self, value: Any) -> Pair | None:
        """See `LinearGraph`."""
        shape = self.type(value).shape
        if shape is None or len(shape) not in (2, 4):
            return None
        if len(shape) == 2:
            return 1, 1
        height, width = shape[2:]
        return (height, width) if height is not None and width is not None else None

    def element_bytes(self, value: Any) -> int:
        """See `LinearGraph`."""
        return _ELEMENT_BYTES.get(self.element_name(value), 4)

    # What reading and writing operators needs.

    def type(self, value: str) -> ValueType:
        """Shape and type of a value; unknown ones have neither."""
        return self._types.get(value, ValueType(None, 0))

    def element_name(self, value: str) -> str:
        """`FLOAT`, `INT64` and so on; `UNDEFINED` if it is not known."""
        from onnx import TensorProto

        return str(TensorProto.DataType.Name(self.type(value).element))

    def source(self, value: str) -> str:
        """The value that Identity nodes pass on under this name."""
        node = self.index.producer(value)
        while node is not None and node.op_type == "Identity" and is_default(node):
            value = node.input[0]
            node = self.index.producer(value)
        return value

    def values(self) -> Iterator[str]:
        """The first results of all operators in topological order, while the graph is edited."""
        for node in tuple(self.index.nodes):
            value = node.output[0] if node.output else ""
            if value and self.index.is_alive(node) and self.source(value) == value:
                yield value

    def blocked(self, node: Any, reason: str) -> Blocked:
        """Why a node is not linear, with the values that it reads."""
        operands = tuple(
            self.source(name) for name in node.input if name and self.constants.holder(name) is None
        )
        kind = "batch_norm" if node.op_type == "BatchNormalization" else ""
        return Blocked(reason=reason, name=node_name(node), kind=kind, operands=operands)

    def lies_between(self, node: Any) -> Blocked:
        """A node that is never linear."""
        return self.blocked(node, f"{operator_name(node)} lies between")

    def replace(self, value: str, nodes: list[Any]) -> None:
        """Put nodes, the last of which computes `value`, at the place of its operator."""
        self.index.replace(self.index.producer(value), nodes)
        for node in nodes[:-1]:
            # Parts of a sum of tensors of one shape.
            self._types[node.output[0]] = self.type(value)

    def finish(self) -> None:
        """Write the edits to the model."""
        self.index.finish()

    def _same(self, value: str) -> Iterator[str]:
        """The names of a value."""
        yield value
        for reader in self.index.readers(value):
            if reader.op_type == "Identity" and is_default(reader):
                yield from self._same(reader.output[0])

    def _leaf_readers(self, value: str) -> Iterator[Any]:
        for name in self._same(value):
            for reader in self.index.readers(name):
                if reader.op_type != "Identity" or not is_default(reader):
                    yield reader
