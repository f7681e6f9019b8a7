"""What an ONNX file contains, without compiling it."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_iovt.frontend.operators import UnsupportedOperator
from tvm_iovt.types import OpCost

if TYPE_CHECKING:
    import onnx

    from tvm_iovt.frontend.costs import Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolicTensor:
    """An input or output; `shape` holds numbers and symbols, None when the rank is unknown."""

    name: str
    shape: tuple[int | str, ...] | None
    dtype: str

    @property
    def is_static(self) -> bool:
        """Whether every dimension is a number."""
        return self.shape is not None and all(isinstance(size, int) for size in self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInspection:
    """An ONNX model at a glance.

    Attributes:
        name: Of the file, without its suffix.
        sha256: Digest of the file.
        size_bytes: Size of the file.
        opset: Version of the default operator domain.
        producer: The program that wrote the file, with its version.
        inputs: What the caller feeds.
        outputs: What the model returns.
        operators: Cost of each operator; without static input shapes, most are unknown.
        totals: Sums over the operators; None while an input is dynamic.
        parameters: Elements of the model's constants.
        unsupported: Operators that cannot be compiled.
    """

    SCHEMA: typing.ClassVar[str] = "tvm-iovt/inspection/1"

    name: str
    sha256: str
    size_bytes: int
    opset: int
    producer: str
    inputs: tuple[SymbolicTensor, ...]
    outputs: tuple[SymbolicTensor, ...]
    operators: tuple[OpCost, ...]
    totals: Totals | None
    parameters: int
    unsupported: tuple[UnsupportedOperator, ...]


def inspect_model(path: Path, input_shapes: Mapping[str, tuple[int, ...]]) -> ModelInspection:
    """Read an ONNX file and count what it contains.

    Args:
        path: The file.
        input_shapes: Static shapes for inputs that the model leaves open. Without any, a dynamic
            model is described as it is.

    Raises:
        ModelError: The file cannot be read, or the shapes do not fit the model.
    """
    from tvm_iovt.frontend.costs import is_unknown, operator_costs, parameter_count, totals
    from tvm_iovt.frontend.onnx_model import (
        graph_inputs,
        load_onnx,
        opset_version,
        refuse_large,
        sha256,
    )
    from tvm_iovt.frontend.operators import unsupported_operators
    from tvm_iovt.frontend.shapes import fix_shapes, refuse_contradictions

    model = load_onnx(path)
    refuse_large(model, path.name)
    if input_shapes:
        model = fix_shapes(model, input_shapes)
    costs = operator_costs(model)
    if input_shapes and any(map(is_unknown, costs)):
        refuse_contradictions(model, path.name)
    inputs = tuple(map(_tensor, graph_inputs(model)))
    return ModelInspection(
        name=path.stem,
        sha256=sha256(path),
        size_bytes=path.stat().st_size,
        opset=opset_version(model),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        inputs=inputs,
        outputs=_outputs(model),
        operators=costs,
        totals=totals(costs, model) if all(value.is_static for value in inputs) else None,
        parameters=parameter_count(model),
        unsupported=unsupported_operators(model),
    )


def _outputs(model: onnx.ModelProto) -> tuple[SymbolicTensor, ...]:
    import onnx

    # Fixing the inputs clears the recorded shapes of the outputs; inference fills them again.
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    return tuple(map(_tensor, inferred.graph.output))


def _tensor(value: onnx.ValueInfoProto) -> SymbolicTensor:
    import onnx

    from tvm_iovt.frontend.onnx_model import dimensions

    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "unknown"
        return SymbolicTensor(name=value.name, shape=None, dtype=kind.removesuffix("_type"))
    elem_type = value.type.tensor_type.elem_type
    dtype = onnx.TensorProto.DataType.Name(elem_type).lower()
    if elem_type not in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
        dtype = onnx.helper.tensor_dtype_to_np_dtype(elem_type).name
    return SymbolicTensor(name=value.name, shape=dimensions(value), dtype=dtype)
