"""torch, or an error that says how to install it: torch is an optional dependency."""

from __future__ import annotations

from tvm_iovt.errors import UsageError

try:
    import torch
    from torch import nn
except ImportError as error:
    raise UsageError(
        "Multi-branch networks need the Python package torch",
        seen=str(error),
        do='pip install "tvm-iovt[torch]"',
    ) from error

__all__ = ["nn", "torch"]
