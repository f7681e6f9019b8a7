"""What each branch of a network costs, with the sizes that the image has at its block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tvm_iovt.errors import UsageError
from tvm_iovt.nn.deploy import multi_branch_blocks
from tvm_iovt.nn.evaluation_mode import evaluation_mode
from tvm_iovt.nn.torch_import import torch

Shape = tuple[int, int, int, int]

BranchKey = tuple[str, str]
"""Name of a block and of one of its branches."""


def block_input_shapes(model: Any, input_shape: Sequence[int]) -> dict[str, tuple[Shape, ...]]:
    """The shapes that each multi-branch block is called with, one a call.

    Nothing is computed: only shapes go through the model.

    Args:
        model: Takes one floating-point tensor.
        input_shape: `[N, C, H, W]`.

    Returns:
        `[N, C, H, W]` of each call by the name of the block; none for a block that is not called.

    Raises:
        UsageError: The model does not take an input of that shape.
    """
    blocks = multi_branch_blocks(model)
    names = {block: name for name, block in blocks.items()}
    found: dict[str, list[Shape]] = {name: [] for name in blocks}

    def note(module: Any, inputs: tuple[Any, ...]) -> None:
        count, channels, height, width = inputs[0].shape
        found[names[module]].append((count, channels, height, width))

    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    dtype = next((t.dtype for t in meta.values() if t.is_floating_point()), torch.float32)
    hooks = [block.register_forward_pre_hook(note) for block in blocks.values()]
    try:
        with evaluation_mode(model):
            image = torch.empty(tuple(input_shape), dtype=dtype, device="meta")
            torch.func.functional_call(model, meta, (image,))
    except RuntimeError as error:
        raise UsageError(
            f"The model does not take an input of shape {list(input_shape)}",
            seen=str(error).strip().splitlines()[0],
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return {name: tuple(shapes) for name, shapes in found.items()}


def branch_costs(model: Any, input_shape: Sequence[int]) -> dict[BranchKey, int]:
    """FLOPs of every branch, kept or not, for one image; see `MultiBranch.branch_flops`.

    Args:
        model: Takes one floating-point tensor.
        input_shape: `[N, C, H, W]`; the batch size plays no role.

    Raises:
        UsageError: The model does not take an input of that shape.
    """
    costs: Counter[BranchKey] = Counter()
    shapes = block_input_shapes(model, input_shape)
    for block, module in multi_branch_blocks(model).items():
        for branch in module.branches:
            calls = [module.branch_flops(branch, (h, w)) for _, _, h, w in shapes[block]]
            costs[block, branch] = sum(calls)
    return dict(costs)
