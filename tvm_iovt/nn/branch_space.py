"""The branch configurations that a network may take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_iovt.errors import UsageError
from tvm_iovt.nn.branch_config import BranchConfig
from tvm_iovt.nn.branch_costs import BranchKey
from tvm_iovt.nn.deploy import multi_branch_blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchSpace:
    """Every combination of one choice for each block.

    Attributes:
        choices: Block name and the sets of branches that it may keep, blocks in the network's
            order.

    Raises:
        UsageError: There is no block, a block has no choice, or a choice keeps no branch.
    """

    choices: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]

    def __post_init__(self) -> None:
        if not self.choices:
            raise UsageError("A space of branch configurations needs at least one block")
        for block, sets in self.choices:
            if not sets or not all(sets):
                raise UsageError(
                    f"Block {block} has no choice, or one without a branch", seen=repr(sets)
                )

    def __len__(self) -> int:
        """Number of configurations."""
        return math.prod(len(sets) for _, sets in self.choices)

    def __iter__(self) -> Iterator[BranchConfig]:
        """All of them, the choice of the last block changing fastest."""
        blocks = [block for block, _ in self.choices]
        for kept in itertools.product(*(sets for _, sets in self.choices)):
            yield BranchConfig(kept=tuple(zip(blocks, kept, strict=True)))

    def __contains__(self, config: object) -> bool:
        """Whether a configuration is one of them; the order of branches plays no role."""
        if not isinstance(config, BranchConfig) or len(config.kept) != len(self.choices):
            return False
        return all(
            block == name and set(kept) in [set(one) for one in sets]
            for (block, kept), (name, sets) in zip(config.kept, self.choices, strict=True)
        )

    def full(self) -> BranchConfig:
        """The choice with most branches in each block."""
        return BranchConfig(kept=tuple((block, max(sets, key=len)) for block, sets in self.choices))

    def smallest(self, costs: Mapping[BranchKey, int]) -> BranchConfig:
        """The configuration of least FLOPs.

        Args:
            costs: FLOPs of each branch, from `branch_costs`.
        """

        def cheapest(block: str, sets: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
            return min(sets, key=lambda kept: sum(costs[block, branch] for branch in kept))

        return BranchConfig(
            kept=tuple((block, cheapest(block, sets)) for block, sets in self.choices)
        )

    def draw(self, generator: np.random.Generator) -> BranchConfig:
        """A random one, all being equally likely."""
        return BranchConfig(
            kept=tuple(
                (block, sets[int(generator.integers(len(sets)))]) for block, sets in self.choices
            )
        )

    def sample(self, count: int, seed: int) -> tuple[BranchConfig, ...]:
        """Different random configurations, always the same ones for a seed.

        Raises:
            UsageError: There are not as many.
        """
        if not 0 <= count <= len(self):
            raise UsageError(
                f"Cannot sample {count} branch configurations", seen=f"a space of {len(self)}"
            )
        generator = np.random.default_rng(seed)
        # In a small space, drawing until all differ would take long.
        if 2 * count > len(self):
            order = generator.permutation(len(self))[:count]
            every = list(self)
            return tuple(every[int(index)] for index in order)
        found: dict[BranchConfig, None] = {}
        while len(found) < count:
            found[self.draw(generator)] = None
        return tuple(found)


def branch_space(model: Any, *, required: Collection[str] = ()) -> BranchSpace:
    """All sets of at least one branch in each multi-branch block of a model.

    Args:
        model: The network; what its blocks keep at present plays no role.
        required: Branches that a block never drops if it has them.

    Raises:
        UsageError: The model has no multi-branch block, or no block has a required branch.
    """
    blocks = {name: tuple(block.branches) for name, block in multi_branch_blocks(model).items()}
    unknown = set(required) - {branch for branches in blocks.values() for branch in branches}
    if unknown:
        raise UsageError(
            f"No block has a branch {min(unknown)!r}",
            seen="; ".join(f"{name}: {', '.join(branches)}" for name, branches in blocks.items()),
        )
    return BranchSpace(
        choices=tuple((name, _subsets(branches, required)) for name, branches in blocks.items())
    )


def _subsets(branches: tuple[str, ...], required: Collection[str]) -> tuple[tuple[str, ...], ...]:
    needed = {branch for branch in branches if branch in required}
    return tuple(
        subset
        for size in range(1, len(branches) + 1)
        for subset in itertools.combinations(branches, size)
        if needed <= set(subset)
    )
