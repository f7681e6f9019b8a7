"""The reference that compiled code is compared with: ONNX Runtime on the original model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from tvm_iovt.errors import ModelError
from tvm_iovt.frontend.network import Arrays

if TYPE_CHECKING:
    import onnx


class OnnxReference:
    """Runs an ONNX model with ONNX Runtime on the CPU.

    The session is made on the first call, so that a compilation that fails early does not pay
    for it.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._session: Any = None

    @staticmethod
    def name() -> str:
        """`onnxruntime <version>`."""
        from importlib import metadata

        return f"onnxruntime {metadata.version('onnxruntime')}"

    def __call__(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Outputs by name.

        Raises:
            ModelError: ONNX Runtime cannot load or run the model.
        """
        import onnxruntime

        try:
            if self._session is None:
                options = onnxruntime.SessionOptions()
                options.log_severity_level = 3  # its warnings concern its own optimisations
                # Quantized operators in integer arithmetic, as it runs them on ARM. On x86 it
                # would emulate int8 activations in float32, where rounding depends on the order
                # of summation and is amplified from layer to layer.
                options.add_session_config_entry("session.qdqisint8allowed", "1")
                self._session = onnxruntime.InferenceSession(
                    self._model.SerializeToString(), options, providers=["CPUExecutionProvider"]
                )
            names = [output.name for output in self._session.get_outputs()]
            values = self._session.run(names, dict(inputs))
        except Exception as error:  # its own exception classes share no base of their own
            raise ModelError(
                "ONNX Runtime, the reference, cannot run this model",
                seen=str(error).strip().splitlines()[0][:300],
                do="check the model with `tvm-iovt inspect`; --no-verify compiles it unchecked",
            ) from error
        return dict(zip(names, values, strict=True))


def load_reference(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> OnnxReference:
    """The reference of a model file, with its inputs fixed to `shapes`.

    Raises:
        ModelError: The file cannot be read, or the shapes do not fit it.
    """
    from tvm_iovt.frontend.batch_norm import normalize_batch_norms
    from tvm_iovt.frontend.onnx_model import load_onnx
    from tvm_iovt.frontend.shapes import fix_shapes

    model = fix_shapes(load_onnx(path), shapes)
    normalize_batch_norms(model)
    return OnnxReference(model)
