"""A torch classifier as an ONNX file that is checked before it exists under its name."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tvm_iovt.atomic_write import write_atomically
from tvm_iovt.errors import ModelError
from tvm_iovt.images import write_metadata
from tvm_iovt.types import Preprocess

OPSET = 17
RTOL = 1e-3
ATOL = 1e-4
"""ONNX Runtime against torch, float32: sums run in another order, and the logits are around 10."""


def write_onnx(
    model: Any,
    out: Path,
    *,
    input_shape: tuple[int, ...],
    preprocess: Preprocess,
    labels: tuple[str, ...],
    training_form: bool = False,
) -> None:
    """Exports a `torch.nn.Module` in evaluation mode, with `input` and `output` as names.

    Args:
        model: Takes one float32 tensor and returns one.
        out: The file to write; replaced only by a file that passed the check.
        input_shape: The fixed shape of the input.
        preprocess: Stored in the file's metadata.
        labels: Class names, stored in the file's metadata.
        training_form: Keep BatchNormalization nodes and parallel branches as they are; otherwise
            they are folded and the graph is simplified.

    Raises:
        ModelError: ONNX Runtime and torch disagree about the exported model.
        UsageError: The file cannot be written.
    """
    import onnx
    import onnxruntime
    import torch

    mode = torch.onnx.TrainingMode.PRESERVE if training_form else torch.onnx.TrainingMode.EVAL
    sample = torch.from_numpy(
        np.random.default_rng(0).standard_normal(input_shape, dtype=np.float32)
    )
    stream = io.BytesIO()
    model = model.eval()
    with torch.no_grad(), warnings.catch_warnings():
        # The exporter's remarks are about itself; whether the result is right is checked below.
        warnings.simplefilter("ignore")
        expected = model(sample).numpy()
        torch.onnx.export(
            model,
            (sample,),
            stream,
            input_names=["input"],
            output_names=["output"],
            opset_version=OPSET,
            training=mode,
            do_constant_folding=not training_form,
            dynamo=False,  # the newer exporter always folds BatchNormalization away
        )
    proto = onnx.load_from_string(stream.getvalue())
    if training_form:
        _unshare_initializers(proto)
    else:
        import onnxslim

        proto = onnxslim.slim(proto)
    write_metadata(proto, preprocess, labels)
    onnx.checker.check_model(proto)
    content = proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {"input": sample.numpy()})
    if not np.allclose(actual, expected, rtol=RTOL, atol=ATOL):
        raise ModelError(
            f"The exported {out.name} does not compute what the torch model computes",
            seen=f"difference up to {np.abs(actual - expected).max():.2g} "
            f"(rtol {RTOL:g}, atol {ATOL:g})",
            do="try another version of torch; 2.13 is known to work",
        )
    write_atomically(out, content)


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
