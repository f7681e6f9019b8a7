"""Fixing the input shapes: everything behind the frontend is static."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from tvm_iovt.errors import ModelError, UsageError
from tvm_iovt.frontend.onnx_model import dimensions, graph_inputs

if TYPE_CHECKING:
    import onnx


def parse_input_shapes(options: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """`["x=1x3x320x320"]` -> `{"x": (1, 3, 320, 320)}`.

    Raises:
        UsageError: An option is not `NAME=D0xD1x...` with positive dimensions, or names an input
            twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for option in options:
        # Names may contain "=" and ":"; dimensions cannot.
        name, separator, text = option.rpartition("=")
        parts = text.lower().replace(",", "x").split("x")
        if not separator or not name or not all(p.isdigit() and int(p) > 0 for p in parts):
            raise UsageError(
                "An input shape could not be read",
                seen=f"--input-shape {option}",
                do="write NAME=D0xD1x..., for example --input-shape input=1x3x224x224",
            )
        if name in shapes:
            raise UsageError(f"--input-shape names {name!r} twice", do="give each input once")
        shapes[name] = tuple(int(p) for p in parts)
    return shapes


def fix_shapes(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """A copy of the model whose inputs have the given static shapes.

    Outputs and intermediate values lose their recorded shapes, so that shape inference derives
    them again.

    Raises:
        ModelError: A name is not an input, a shape contradicts the model's own, or an input stays
            dynamic.
    """
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    inputs = {value.name: value for value in graph_inputs(fixed)}
    for name in shapes:
        if name not in inputs:
            raise ModelError(
                f"The model has no input {name!r}",
                seen="inputs: " + ", ".join(map(_describe, inputs.values())),
                do="correct --input-shape",
            )
    for name, shape in shapes.items():
        declared = dimensions(inputs[name])
        if declared is not None and (
            len(declared) != len(shape)
            or any(isinstance(d, int) and d != s for d, s in zip(declared, shape, strict=True))
        ):
            raise ModelError(
                f"The shape given for {name!r} contradicts the model",
                seen=f"given {'x'.join(map(str, shape))}; the model says {_describe(inputs[name])}",
                do="give a shape with the same number of dimensions, and the fixed ones unchanged",
            )
        tensor_shape = inputs[name].type.tensor_type.shape
        del tensor_shape.dim[:]
        for size in shape:
            tensor_shape.dim.add().dim_value = size
    dynamic = [value for value in inputs.values() if not _is_static(value)]
    if dynamic:
        example = " ".join(f"--input-shape {v.name}={_example(v)}" for v in dynamic)
        raise ModelError(
            "The model has inputs of dynamic shape, and compiled code needs fixed ones",
            seen=", ".join(map(_describe, dynamic)),
            do=f"name the sizes you run with, for example {example}",
        )
    if shapes:
        del fixed.graph.value_info[:]
        for output in fixed.graph.output:
            output.type.tensor_type.ClearField("shape")
    return fixed


def refuse_contradictions(model: onnx.ModelProto, name: str) -> None:
    """Find the operator that the fixed shapes do not fit, if there is one.

    Raises:
        ModelError: The shapes inside the model contradict each other; the message names where.
    """
    import onnx

    # Only strict inference tells why a shape stays unknown.
    try:
        onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        # The first line is the cause, those below it are its consequences.
        cause = str(error).strip().splitlines()[0].rpartition("Inference error(s): ")[2]
        raise ModelError(
            f"The shapes inside {name} contradict each other",
            seen=cause[:300],
            do="check the sizes given with --input-shape against what the model accepts",
        ) from error


def _is_static(value: onnx.ValueInfoProto) -> bool:
    shape = dimensions(value)
    return shape is not None and all(isinstance(d, int) and d > 0 for d in shape)


def _describe(value: onnx.ValueInfoProto) -> str:
    shape = dimensions(value)
    return f"{value.name} " + ("of unknown rank" if shape is None else "x".join(map(str, shape)))


def _example(value: onnx.ValueInfoProto) -> str:
    shape = dimensions(value) or ("?", "?", "?", "?")
    filled = [
        str(d) if isinstance(d, int) and d > 0 else ("1" if axis == 0 else "224")
        for axis, d in enumerate(shape)
    ]
    return "x".join(filled)
