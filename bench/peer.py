"""ONNX Runtime as the peer of the benchmarks: one thread, everything else as it comes."""

from __future__ import annotations

import onnx
import onnxruntime


def one_thread_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
