"""A torch model as an ONNX file that is checked before it exists under its name."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm_iovt.atomic_write import write_atomically
from tvm_iovt.errors import ModelError, UsageError
from tvm_iovt.images import write_metadata
from tvm_iovt.nn.evaluation_mode import evaluation_mode
from tvm_iovt.nn.torch_import import torch
from tvm_iovt.types import Preprocess

OPSET = 17
DYNAMO_OPSET = 18
"""The oldest that the newer exporter writes."""
RTOL = 1e-3
ATOL = 1e-4
"""ONNX Runtime against torch, float32: sums run in another order, and the logits are around 10."""


def export_onnx(
    model: Any,
    path: Path,
    input_shape: Sequence[int],
    *,
    training_form: bool,
    dynamo: bool = False,
    preprocess: Preprocess | None = None,
    labels: tuple[str, ...] = (),
) -> None:
    """Exports a `torch.nn.Module` in evaluation mode, with `input` and `output` as names.

    Args:
        model: Takes one float32 tensor and returns one. Its mode is left as it was.
        path: The file to write; replaced only by a file that passed the check.
        input_shape: The fixed shape of the input.
        training_form: Keep BatchNormalization nodes and every kept branch as they are; otherwise
            batch norms are folded and the graph is simplified, branches remaining parallel. For
            one convolution a block, export `deploy(model)`.
        dynamo: Use the exporter that is built on `torch.export`, which always folds batch norms.
            Needs the package onnxscript; writes opset 18 instead of 17.
        preprocess: Stored in the file's metadata, if given.
        labels: Class names, stored beside it.

    Raises:
        ModelError: The exporter refuses the model, or ONNX Runtime and torch disagree about it.
        UsageError: The file cannot be written, onnxscript is missing, the model does not take the
            input or has several outputs, or the options exclude each other.
    """
    import onnx
    import onnxruntime

    if training_form and dynamo:
        raise UsageError(
            "The newer ONNX exporter cannot keep the training form",
            seen="training_form and dynamo",
            do="leave one of them out",
        )
    if labels and preprocess is None:
        raise UsageError("Class names are only stored beside a preprocessing", do="pass preprocess")
    sample = torch.from_numpy(
        np.random.default_rng(0).standard_normal(tuple(input_shape), dtype=np.float32)
    )
    with evaluation_mode(model), warnings.catch_warnings():
        # The exporter's remarks are about itself; whether the result is right is checked below.
        warnings.simplefilter("ignore")
        expected = _output(model, sample)
        try:
            proto = _dynamo(model, sample) if dynamo else _torchscript(model, sample, training_form)
        except torch.onnx.OnnxExporterError as error:
            raise ModelError(
                "torch cannot export this model to ONNX", seen=str(error).strip().splitlines()[0]
            ) from error
    if training_form:
        _unshare_initializers(proto)
    else:
        import onnxslim

        proto = onnxslim.slim(proto)
    if preprocess is not None:
        write_metadata(proto, preprocess, labels)
    onnx.checker.check_model(proto)
    content = proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {"input": sample.numpy()})
    if not np.allclose(actual, expected, rtol=RTOL, atol=ATOL):
        raise ModelError(
            f"The exported {path.name} does not compute what the torch model computes",
            seen=f"difference up to {np.abs(actual - expected).max():.2g} "
            f"(rtol {RTOL:g}, atol {ATOL:g})",
            do="try another version of torch; 2.13 is known to work",
        )
    write_atomically(path, content)


def _output(model: Any, sample: Any) -> Any:
    try:
        output = model(sample)
    except RuntimeError as error:
        raise UsageError(
            f"The model does not take an input of shape {list(sample.shape)}",
            seen=str(error).strip().splitlines()[0],
        ) from error
    if not isinstance(output, torch.Tensor):
        raise UsageError("Only models with one output are exported", seen=type(output).__name__)
    return output.numpy()


def _torchscript(model: Any, sample: Any, training_form: bool) -> Any:
    import onnx

    mode = torch.onnx.TrainingMode.PRESERVE if training_form else torch.onnx.TrainingMode.EVAL
    stream = io.BytesIO()
    torch.onnx.export(
        model,
        (sample,),
        stream,
        input_names=["input"],
        output_names=["output"],
        opset_version=OPSET,
        training=mode,
        do_constant_folding=not training_form,
        dynamo=False,
    )
    return onnx.load_from_string(stream.getvalue())


def _dynamo(model: Any, sample: Any) -> Any:
    try:
        program = torch.onnx.export(
            model,
            (sample,),
            input_names=["input"],
            output_names=["output"],
            opset_version=DYNAMO_OPSET,
            dynamo=True,
            verbose=False,
        )
    except ImportError as error:
        raise UsageError(
            "The newer ONNX exporter needs the Python package onnxscript",
            seen=str(error),
            do="pip install onnxscript",
        ) from error
    return program.model_proto


def _unshare_initializers(proto: Any) -> None:
    """Gives every node its own copy of its parameters.

    The exporter merges parameters of equal value and puts Identity nodes in their place. The
    biases of parallel branches are always equal: they start at zero and get the same gradients.
    """
    initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in [n for n in proto.graph.node if n.op_type == "Identity"]:
        if node.input[0] in initializers:
            copy = proto.graph.initializer.add()
            copy.CopyFrom(initializers[node.input[0]])
            copy.name = node.output[0]
            proto.graph.node.remove(node)
