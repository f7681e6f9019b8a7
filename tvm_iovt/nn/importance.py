"""Which branches a network could do without: the order in which pruning tries them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm_iovt.errors import UsageError
from tvm_iovt.nn.branch_costs import branch_costs
from tvm_iovt.nn.scales import branch_scales


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchImportance:
    """What a branch gives for what it costs.

    Attributes:
        block: Name of the block.
        branch: Name of the branch.
        scale: Its trained factor.
        flops: For one image.
    """

    block: str
    branch: str
    scale: float
    flops: int

    @property
    def importance(self) -> float:
        """`|scale|` for each GFLOP."""
        return abs(self.scale) / (self.flops / 1e9)


def rank_branches(model: Any, input_shape: Sequence[int]) -> tuple[BranchImportance, ...]:
    """The kept branches, least important first; ties in the network's order.

    The importance is that of the code which the authors of the IoVT co-design (arXiv 2411.00838)
    published later (github.com/word-ky/codesign), `|scale| / (FLOPs / 1e9)`, with the FLOPs of
    `MultiBranch.branch_flops` at the size that the image has at each block. (That code takes 112,
    56, 28 and 14 pixels for the stages of RepVGG, twice the true 56, 28, 14 and 7: its FLOPs are
    four times too many each, which leaves the order as it is. It counts `4 * C * H * W` for an
    identity, ours are `2 * C * H * W`.)

    Args:
        model: With trained factors, see `scales.train_scales`; a missing one counts as 1.
        input_shape: `[N, C, H, W]`.

    Raises:
        UsageError: The model has no multi-branch block, does not take such an input, or does not
            call a block.
    """
    costs = branch_costs(model, input_shape)
    found = []
    for (block, branch), scale in branch_scales(model).items():
        if costs[block, branch] == 0:
            raise UsageError(f"The model does not call its block {block}")
        flops = costs[block, branch]
        found.append(BranchImportance(block=block, branch=branch, scale=scale, flops=flops))
    return tuple(sorted(found, key=lambda one: one.importance))
