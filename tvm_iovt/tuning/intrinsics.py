"""Importing TVM's tensor intrinsics in a second instead of twenty.

MetaSchedule imports them whenever it makes a context. Each intrinsic is parsed with a look at the
stack of Python frames, source lines included, and those of GPUs are many.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable
from typing import Any

_PACKAGE = "tvm.s_tir.tensor_intrin"
_NOT_FOR_CPUS = ("cuda", "rocm", "hexagon", "metal", "riscv_cpu", "adreno", "trn")


def import_intrinsics(*, gpu: bool) -> None:
    """Import them, those of GPUs only if they are needed.

    Args:
        gpu: Whether this process tunes for a GPU. It cannot begin to after a call without it.
    """
    if _PACKAGE in sys.modules:
        return
    import tvm.s_tir

    original = inspect.stack
    inspect.stack = _without_lines(original)
    try:
        if not gpu:
            for name in _NOT_FOR_CPUS:
                full = f"{_PACKAGE}.{name}"
                sys.modules.setdefault(full, types.ModuleType(full))
        import tvm.s_tir.tensor_intrin  # noqa: F401
    finally:
        inspect.stack = original


def _without_lines(stack: Callable[..., Any]) -> Any:
    """`inspect.stack` that never reads source lines, which takes nearly all of its time."""

    def quick(context: int = 1) -> Any:
        return stack(0)

    return quick
