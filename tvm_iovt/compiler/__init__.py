"""`compile`: from a model file to a verified bundle."""

from tvm_iovt.compiler.compile import Compilation, compile_model
from tvm_iovt.compiler.options import CompileOptions

__all__ = ["Compilation", "CompileOptions", "compile_model"]
