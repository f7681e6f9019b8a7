"""Sending shapes, and nothing else, through a torch model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm_iovt.errors import UsageError
from tvm_iovt.nn.evaluation_mode import evaluation_mode
from tvm_iovt.nn.torch_import import torch


def run_shapes(model: Any, input_shape: Sequence[int], hooks: Sequence[Any]) -> None:
    """Calls a model on tensors without content; what is wanted of it, its hooks note.

    Args:
        model: Takes one floating-point tensor.
        input_shape: `[N, C, H, W]`.
        hooks: Handles of the hooks registered for this run; they are removed.

    Raises:
        UsageError: The model does not take an input of that shape.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    dtype = next((t.dtype for t in shapes.values() if t.is_floating_point()), torch.float32)
    try:
        with evaluation_mode(model):
            image = torch.empty(tuple(input_shape), dtype=dtype, device="meta")
            torch.func.functional_call(model, shapes, (image,))
    except RuntimeError as error:
        raise UsageError(
            f"The model does not take an input of shape {list(input_shape)}",
            seen=str(error).strip().splitlines()[0],
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
