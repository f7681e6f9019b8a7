"""Constants of an ONNX graph: initializers, Constant nodes, and other views of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_iovt.onnx_fusion.attributes import attributes, is_default
from tvm_iovt.onnx_fusion.graph_index import GraphIndex

Array = npt.NDArray[Any]

_VIEWS = frozenset({"Identity", "Transpose", "Reshape", "Unsqueeze"})


class Constants:
    """Reads the constants of a graph when they are asked for."""

    def __init__(self, index: GraphIndex) -> None:
        self._index = index
        self._overridable = index.overridable

    def holder(self, name: str) -> str | None:
        """The initializer or the output of a Constant node that holds a value; None if none does.

        Looks through Identity, Transpose, Reshape and Unsqueeze.
        """
        if name in self._overridable:
            return None
        if name in self._index.initializers:
            return name
        node = self._index.producer(name)
        if node is None or not is_default(node):
            return None
        if node.op_type == "Constant":
            return name if _constant_value(node) is not None else None
        if node.op_type in _VIEWS:
            if any(self.holder(other) is None for other in filter(None, node.input[1:])):
                return None
            return self.holder(node.input[0])
        return None

    def is_view(self, node: Any) -> bool:
        """Whether a node only gives another view of a constant."""
        return (
            node.op_type in _VIEWS and is_default(node) and self.holder(node.output[0]) is not None
        )

    def element_type(self, name: str) -> int:
        """Number of a constant's type in `TensorProto`."""
        holder = self.holder(name)
        assert holder is not None, name
        if holder in self._index.initializers:
            return int(self._index.initializers[holder].data_type)
        return int(_constant_value(self._index.producer(holder)).data_type)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a constant."""
        if name in self._index.initializers:
            return tuple(self._index.initializers[name].dims)
        return self.array(name).shape

    def array(self, name: str) -> Array:
        """A constant, in its own type."""
        from onnx import numpy_helper

        if name in self._index.initializers:
            return np.asarray(numpy_helper.to_array(self._index.initializers[name]))
        node = self._index.producer(name)
        if node.op_type == "Constant":
            return np.asarray(numpy_helper.to_array(_constant_value(node)))
        array, given = self.array(node.input[0]), attributes(node)
        if node.op_type == "Transpose":
            return np.transpose(array, given.get("perm"))
        if node.op_type == "Reshape":
            sizes = [int(size) for size in self.array(node.input[1])]
            if not given.get("allowzero", 0):
                sizes = [array.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
            return np.reshape(array, sizes)
        if node.op_type == "Unsqueeze":
            axes = given["axes"] if "axes" in given else self.array(node.input[1])
            return np.expand_dims(array, tuple(int(axis) for axis in axes))
        return array


def _constant_value(node: Any) -> Any:
    """The tensor of a Constant node; None for sparse ones and strings."""
    from onnx import TensorProto, helper

    for attribute in node.attribute:
        if attribute.name == "value":
            return attribute.t
        value = helper.get_attribute_value(attribute)
        kind = TensorProto.FLOAT if "float" in attribute.name else TensorProto.INT64
        if attribute.name in ("value_float", "value_int"):
            return helper.make_tensor("", kind, [], [value])
        if attribute.name in ("value_floats", "value_ints"):
            return helper.make_tensor("", kind, [len(value)], list(value))
    return None
