"""What each branch of a network costs, with the sizes that the image has at its block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tvm_iovt.nn.deploy import multi_branch_blocks
from tvm_iovt.nn.shape_run import run_shapes

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

    hooks = [block.register_forward_pre_hook(note) for block in blocks.values()]
    run_shapes(model, input_shape, hooks)
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
