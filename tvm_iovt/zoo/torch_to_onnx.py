"""A torch classifier as an ONNX file with its preprocessing and class names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tvm_iovt.types import Preprocess


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
    from tvm_iovt.nn.export import export_onnx

    export_onnx(
        model, out, input_shape, training_form=training_form, preprocess=preprocess, labels=labels
    )
