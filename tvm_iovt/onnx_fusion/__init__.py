"""The fusion rules on ONNX models: a folded network goes back into an ONNX file."""

from tvm_iovt.onnx_fusion.fuse_model import fuse_onnx

__all__ = ["fuse_onnx"]
