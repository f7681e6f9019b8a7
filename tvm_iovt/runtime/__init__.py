"""Load a bundle and run it, with TVM's runtime library alone.

Neither the compiler nor torch nor onnx is imported, so this works on a board that has only
`apache-tvm-ffi`, numpy and `libtvm_runtime.so`.
"""

from tvm_iovt.runtime.executor import Executor, load, why_not_here

__all__ = ["Executor", "load", "why_not_here"]
