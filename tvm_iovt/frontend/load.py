"""`load_network`: the one way from a model file to a `Network`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tvm_iovt.errors import ModelError
from tvm_iovt.frontend.network import Network
from tvm_iovt.types import Decision

_ONNX_SUFFIXES = (".onnx", "")
_TORCH_SUFFIXES = (".pt2",)


def load_network(path: Path, input_shapes: Mapping[str, tuple[int, ...]]) -> Network:
    """Read, fix, simplify and import a model.

    Args:
        path: An `.onnx` file, or a `.pt2` file written by `torch.export.save`.
        input_shapes: Static shapes for inputs that the model leaves open, by input name.

    Raises:
        ModelError: The model cannot be read or imported; the message names the cause.
    """
    if path.suffix in _TORCH_SUFFIXES:
        from tvm_iovt.frontend.torch_program import load_torch_program

        return load_torch_program(path, input_shapes)
    if path.is_file() and path.suffix not in _ONNX_SUFFIXES and not _looks_like_onnx(path):
        raise ModelError(
            f"{path} is not a model that can be read",
            seen=f"a {path.suffix} file",
            do="give an .onnx file, or a .pt2 file from torch.export.save",
        )
    return _load_onnx_network(path, input_shapes)


def _looks_like_onnx(path: Path) -> bool:
    # A serialised ModelProto begins with field 1 (ir_version), a varint.
    with path.open("rb") as stream:
        return stream.read(1) == b"\x08"


def _load_onnx_network(path: Path, input_shapes: Mapping[str, tuple[int, ...]]) -> Network:
    import onnx

    from tvm_iovt import images
    from tvm_iovt.frontend.arithmetic import arithmetic
    from tvm_iovt.frontend.batch_norm import normalize_batch_norms
    from tvm_iovt.frontend.costs import operator_costs
    from tvm_iovt.frontend.importer_forms import modernize
    from tvm_iovt.frontend.onnx_model import (
        graph_inputs,
        load_onnx,
        refuse_large,
        sha256,
        tensor_spec,
    )
    from tvm_iovt.frontend.operator_names import name_operators
    from tvm_iovt.frontend.operators import refuse_unsupported
    from tvm_iovt.frontend.reference import OnnxReference
    from tvm_iovt.frontend.shapes import fix_shapes, refuse_contradictions
    from tvm_iovt.frontend.simplify import simplify
    from tvm_iovt.frontend.to_relax import import_onnx

    decisions: list[Decision] = []
    original = load_onnx(path)
    refuse_large(original, path.name)
    refuse_unsupported(original, path.name)
    static = fix_shapes(original, input_shapes)
    decisions += normalize_batch_norms(static)
    static = onnx.shape_inference.infer_shapes(static, data_prop=True)
    modern, notes = modernize(static)
    decisions += notes
    slim, notes = simplify(modern)
    decisions += notes
    slim = onnx.shape_inference.infer_shapes(slim, data_prop=True)
    try:
        module = name_operators(import_onnx(slim, path.name), slim)
    except ModelError:
        refuse_contradictions(static, path.name)
        raise
    preprocess, labels = images.read_metadata(original)
    return Network(
        name=path.stem,
        sha256=sha256(path),
        module=module,
        inputs=tuple(tensor_spec(value) for value in graph_inputs(slim)),
        outputs=tuple(tensor_spec(value) for value in slim.graph.output),
        operators=operator_costs(slim),
        decisions=tuple(decisions),
        reference=OnnxReference(static),
        reference_name=OnnxReference.name(),
        arithmetic=arithmetic(slim),
        preprocess=preprocess,
        labels=labels,
    )
