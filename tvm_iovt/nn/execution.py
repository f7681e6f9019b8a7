"""Blocks as the operators that an execution configuration says, to be exported and timed."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from tvm_iovt.errors import UsageError
from tvm_iovt.fusion.convolution import Convolution, identity
from tvm_iovt.nn.deploy import multi_branch_blocks
from tvm_iovt.nn.execution_table import Group, execution_config, legal_gammas
from tvm_iovt.nn.folding import normalised
from tvm_iovt.nn.multi_branch import MultiBranch, deployed_form
from tvm_iovt.nn.torch_import import nn, torch


class ExecutionBlock(nn.Module):  # type: ignore[misc]
    """`activation(sum of operators)`: what a `MultiBranch` computes in evaluation mode.

    Args:
        operators: Modules that read one tensor and give tensors of one shape.
        activation: What follows the sum.
    """

    def __init__(self, operators: list[Any], activation: Any) -> None:
        super().__init__()
        self.operators = nn.ModuleList(operators)
        self.activation = activation

    def forward(self, x: Any) -> Any:
        """Adds the results and activates."""
        first, *others = self.operators
        total = first(x)
        for operator in others:
            total = total + operator(x)
        return self.activation(total)


def execution_module(block: MultiBranch, gamma: int) -> Any:
    """A block with its kept branches as one operator for each group of the configuration.

    Batch norms, scales and the norm behind the sum are folded; the branches of a group are added up
    as `fusion.convolution.add` does. An identity alone is a depthwise 1x1 convolution with the
    factor and bias of its batch norm, or nothing at all if these are 1 and 0. (The published table
    runs it as a dense 1x1, at the cost of one.)

    Args:
        block: One that keeps 3x3, 1x1 and identity branches only.
        gamma: One of `legal_gammas(block.kept)`.

    Returns:
        An `ExecutionBlock` in evaluation mode, of the block's dtype and device.

    Raises:
        UsageError: The block keeps other branches, gamma is not of the branches that it keeps, or a
            branch cannot be folded.
    """
    config, legal = execution_config(gamma), legal_gammas(block.kept)
    if gamma not in legal:
        raise UsageError(
            f"Execution configuration {gamma} would change what the block computes",
            seen=f"it runs {', '.join(config.branches)}; the block keeps {', '.join(block.kept)}",
            do=f"choose one of {', '.join(map(str, legal))}",
        )
    like = next(block.parameters(), torch.zeros(()))
    operators = _operators(block, config.groups)
    modules = [
        nn.Identity()
        if operator.is_identity
        else deployed_form(operator, like=like, activation=nn.Identity())
        for operator in operators
    ]
    return ExecutionBlock(modules, copy.deepcopy(block.activation)).eval()


def execution_model(model: Any, gammas: Mapping[str, int]) -> Any:
    """A copy of a network in evaluation mode whose blocks are executed as configured.

    Args:
        model: A network with multi-branch blocks.
        gammas: The configuration of each block.

    Raises:
        UsageError: The blocks of the two differ, or as for `execution_module`.
    """
    blocks = multi_branch_blocks(model)
    if set(gammas) != set(blocks):
        missing, unknown = sorted(set(blocks) - set(gammas)), sorted(set(gammas) - set(blocks))
        raise UsageError(
            "The execution configurations are of another network",
            seen=f"not configured: {', '.join(missing) or 'none'}; "
            f"not in the model: {', '.join(unknown) or 'none'}",
        )
    # The copy takes the replacements in place of the blocks, wherever they are used.
    memo = {id(block): execution_module(block, gammas[name]) for name, block in blocks.items()}
    return copy.deepcopy(model, memo).eval()


def _operators(block: MultiBranch, groups: tuple[Group, ...]) -> list[Convolution]:
    """One operator for each group; together they add up to the block without its activation."""
    part = copy.deepcopy(block)
    operators = []
    for group in groups:
        part.keep(group)
        operators.append(part.convolution())
    if block.post_norm is None:
        return operators
    # Each has the norm's own bias, which the sum must have once.
    bias = normalised(identity(block.out_channels), block.post_norm).bias
    first, *others = operators
    return [first, *(dataclasses.replace(other, bias=other.bias - bias) for other in others)]
