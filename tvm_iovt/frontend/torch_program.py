"""torch.export programs (`.pt2`) as input, when torch is installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tvm_iovt import _tvm
from tvm_iovt.errors import ModelError, UsageError
from tvm_iovt.frontend.network import Arrays, Network
from tvm_iovt.frontend.onnx_model import sha256
from tvm_iovt.types import TensorSpec


def load_torch_program(path: Path, input_shapes: Mapping[str, tuple[int, ...]]) -> Network:
    """Import a file written by `torch.export.save`.

    Raises:
        ModelError: torch is missing, the file is not an exported program, its shapes are dynamic,
            or it uses an operator that the importer does not have.
    """
    if input_shapes:
        raise UsageError(
            "--input-shape has no effect on a torch.export program",
            do="export the program with static example inputs of the wanted shape",
        )
    if not path.is_file():
        raise ModelError(f"Cannot read the model {path}", seen="no such file")
    try:
        import torch
    except ImportError as error:
        raise ModelError(
            f"{path.name} is a torch.export program, and torch is not installed",
            do='pip install "tvm-iovt[torch]"',
        ) from error
    try:
        program = torch.export.load(str(path))
    except Exception as error:  # zip, pickle and schema errors of many classes
        raise ModelError(
            f"{path} is not a torch.export program",
            seen=f"{type(error).__name__}: {str(error)[:200]}",
            do="write it with torch.export.save(torch.export.export(model, inputs), path)",
        ) from error
    return _import(program, path)


def _import(program: Any, path: Path) -> Network:
    import torch
    from tvm.relax.frontend.torch import from_exported_program

    try:
        module = from_exported_program(program, keep_params_as_input=False)
    except Exception as error:  # the importer raises assertion and key errors alike
        raise ModelError(
            f"TVM {_tvm.TVM_VERSION} cannot import {path.name}",
            seen=f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:300]}",
            do="replace the operator, or export the model as ONNX",
        ) from error
    signature = program.graph_signature
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    inputs = tuple(_spec(name, values[name]) for name in signature.user_inputs)
    outputs = tuple(_spec(name, values[name]) for name in signature.user_outputs)

    def reference(arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        with torch.no_grad():
            tensors = [torch.from_numpy(np.ascontiguousarray(arrays[s.name])) for s in inputs]
            results = program.module()(*tensors)
        flat = results if isinstance(results, (tuple, list)) else (results,)
        return {spec.name: t.numpy() for spec, t in zip(outputs, flat, strict=True)}

    return Network(
        name=path.stem,
        sha256=sha256(path),
        module=module,
        inputs=inputs,
        outputs=outputs,
        operators=(),
        decisions=(),
        reference=reference,
        reference_name=f"torch {torch.__version__}",
    )


def _spec(name: str, value: Any) -> TensorSpec:
    shape = getattr(value, "shape", None)
    if shape is None or not all(isinstance(size, int) for size in shape):
        raise ModelError(
            f"The shape of {name!r} is not static",
            seen=str(shape),
            do="export the program with static example inputs",
        )
    return TensorSpec(
        name=name, shape=tuple(int(s) for s in shape), dtype=str(value.dtype).removeprefix("torch.")
    )
