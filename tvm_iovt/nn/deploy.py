"""The multi-branch blocks of a network: finding, configuring, counting and replacing them."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

from tvm_iovt.errors import UsageError
from tvm_iovt.nn.branch import Branch
from tvm_iovt.nn.branch_config import BranchConfig
from tvm_iovt.nn.multi_branch import MultiBranch
from tvm_iovt.nn.shape_run import run_shapes
from tvm_iovt.nn.torch_import import nn


def multi_branch_blocks(model: Any) -> dict[str, MultiBranch]:
    """The blocks by their qualified names, in the order in which the network registers them.

    A block that is itself the model has the empty name.
    """
    return {
        name: module for name, module in model.named_modules() if isinstance(module, MultiBranch)
    }


def branch_config(model: Any) -> BranchConfig:
    """The branches that each block keeps at present.

    Raises:
        UsageError: The model has no multi-branch block.
    """
    blocks = multi_branch_blocks(model)
    if not blocks:
        raise UsageError("The model has no multi-branch block")
    return BranchConfig(kept=tuple((name, block.kept) for name, block in blocks.items()))


def apply_branch_config(model: Any, config: BranchConfig) -> None:
    """Lets every block keep what the configuration says; on an error nothing changes.

    Raises:
        UsageError: The blocks of the two differ, or a block has no branch of that name.
    """
    blocks = multi_branch_blocks(model)
    named = {name for name, _ in config.kept}
    if named != set(blocks):
        missing, unknown = sorted(set(blocks) - named), sorted(named - set(blocks))
        raise UsageError(
            "The branch configuration is of another network",
            seen=f"not configured: {', '.join(missing) or 'none'}; "
            f"not in the model: {', '.join(unknown) or 'none'}",
        )
    before = {name: block.kept for name, block in blocks.items()}
    try:
        for name, branches in config.kept:
            blocks[name].keep(branches)
    except UsageError:
        for name, kept in before.items():
            blocks[name].keep(kept)
        raise


def deploy(model: Any) -> Any:
    """A copy in evaluation mode in which every block is one convolution and its activation.

    Deploying a deployed model copies it.

    Raises:
        UsageError: A block cannot be folded: see `MultiBranch.convolution`. The message names it.
    """
    deployed: dict[MultiBranch, Any] = {}
    for name, block in multi_branch_blocks(model).items():
        try:
            deployed[block] = block.deployed()
        except UsageError as error:
            raise UsageError(
                f"Cannot deploy block {name or type(block).__name__}",
                seen=f"{error.what}: {error.seen}",
                do=error.do,
            ) from error
    # The copy takes the replacements in place of the blocks, wherever they are used.
    memo = {id(block): replacement for block, replacement in deployed.items()}
    return copy.deepcopy(model, memo).eval()


def model_flops(model: Any, input_shape: Sequence[int]) -> int:
    """FLOPs of the kept branches, convolutions and linear layers for one image.

    Counted as `MultiBranch.branch_flops` counts: a multiply-add is two, batch norms behind a
    convolution, additions, activations and pools between blocks are nothing. Nothing is computed:
    only shapes go through the model.

    Args:
        model: Takes one floating-point tensor.
        input_shape: `[N, C, H, W]`; the batch size plays no role.

    Raises:
        UsageError: The model does not take an input of that shape.
    """
    total = 0

    def count(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal total
        if isinstance(module, Branch):
            total += module.flops(tuple(inputs[0].shape[2:]))
        elif isinstance(module, nn.Linear):
            total += 2 * module.weight.numel() * math.prod(output.shape[1:-1])
        else:
            total += 2 * module.weight.numel() * math.prod(output.shape[2:])

    hooks = [module.register_forward_hook(count) for module in dict.fromkeys(_counted(model))]
    run_shapes(model, (1, *input_shape[1:]), hooks)
    return total


def _counted(module: Any) -> list[Any]:
    """Branches of blocks, and the convolutions and linear layers outside of them."""
    if isinstance(module, MultiBranch):
        return list(module.branches.values())
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        return [module]
    return [found for child in module.children() for found in _counted(child)]
