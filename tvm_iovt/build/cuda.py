"""Compiling networks for NVIDIA GPUs on any machine, with or without a GPU.

with compiling_for("sm_87"), target:
    executable = relax.build(lower_for_cuda(module, target)[0], target, relax_pipeline=None)
executable.export_library(path, fcompile=find_linker(cpu).fcompile())
check_embedded(path, "sm_87")
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tvm_iovt.build.cuda_binary import check_embedded, embedded_archs
from tvm_iovt.build.cuda_compiler import CudaCompiler, check_arch, compilers, find_compiler
from tvm_iovt.build.cuda_driver import enable_codegen
from tvm_iovt.errors import ToolchainError

__all__ = [
    "CudaCompiler",
    "check_arch",
    "check_embedded",
    "compilers",
    "compiling_for",
    "embedded_archs",
    "enable_codegen",
    "find_compiler",
]

_CALLBACK = "tvm_callback_cuda_compile"


@contextlib.contextmanager
def compiling_for(arch: str, *, prefer: str = "") -> Iterator[CudaCompiler]:
    """Make TVM compile CUDA kernels to machine code for one architecture within the context.

    It changes the whole process (TVM's compile callback, environment variables for worker
    processes that use TVM's own callback), so contexts for different architectures must not
    overlap in time. Everything is put back on exit.

    Args:
        arch: The architecture, e.g. `sm_87`; never guessed.
        prefer: `nvcc` or `nvrtc` to allow only that one.

    Yields:
        The compiler in use.

    Raises:
        TargetError: `arch` is not the name of an architecture.
        ToolchainError: Kernels cannot be compiled for it on this machine, or one of them failed.
    """
    check_arch(arch)
    compiler = find_compiler(arch, prefer=prefer)
    enable_codegen()
    import tvm_ffi

    failures: list[ToolchainError] = []

    def compile_kernels(source: str) -> bytearray:
        try:
            return bytearray(compiler.compile(source, arch))
        except ToolchainError as error:
            failures.append(error)
            raise

    previous = tvm_ffi.get_global_func(_CALLBACK, allow_missing=True)
    tvm_ffi.register_global_func(_CALLBACK, compile_kernels, override=True)
    try:
        with _environment(compiler):
            yield compiler
    except Exception as error:
        # On its way through C++ the error would lose its class and gain a C++ backtrace.
        if failures and error is not failures[0]:
            raise failures[0] from None
        raise
    finally:
        if previous is None:
            tvm_ffi.remove_global_func(_CALLBACK)
        else:
            tvm_ffi.register_global_func(_CALLBACK, previous, override=True)


@contextlib.contextmanager
def _environment(compiler: CudaCompiler) -> Iterator[None]:
    changes = {"TVM_CUDA_COMPILE_MODE": compiler.kind, "TVM_CUDA_NVCC_NO_FAST_MATH": "1"}
    if compiler.path:
        folder = str(Path(compiler.path).parent)
        path = os.environ.get("PATH", "")
        if folder not in path.split(os.pathsep):
            changes["PATH"] = f"{folder}{os.pathsep}{path}"
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
