"""The ways to execute the branches of a RepVGG block. Needs no torch.

The 14 configurations gamma are those of the code that the authors of the IoVT co-design (arXiv
2411.00838) published later (github.com/word-ky/codesign). Pruning decides which branches are left;
gamma decides only how these run, so it never changes what the block computes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tvm_iovt.errors import UsageError

BRANCHES = ("3x3", "1x1", "identity")
"""The branches that the table is about."""

Group = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionConfig:
    """Branches by the convolution that computes them.

    Attributes:
        gamma: Number in the table, 0 to 13.
        groups: Branches of each operator; the results of the operators are added.
    """

    gamma: int
    groups: tuple[Group, ...]

    @property
    def branches(self) -> Group:
        """All branches, in the order of `BRANCHES`."""
        return tuple(name for name in BRANCHES if any(name in group for group in self.groups))

    def __str__(self) -> str:
        """E.g. `(3x3+1x1) | identity`: fused ones in brackets, operators between bars."""
        return " | ".join(
            group[0] if len(group) == 1 else f"({'+'.join(group)})" for group in self.groups
        )


_GROUPS: tuple[tuple[Group, ...], ...] = (
    (("3x3",),),
    (("1x1",),),
    (("identity",),),
    (("3x3",), ("1x1",)),
    (("3x3", "1x1"),),
    (("3x3",), ("identity",)),
    (("3x3", "identity"),),
    (("1x1",), ("identity",)),
    (("1x1", "identity"),),
    (("3x3",), ("1x1",), ("identity",)),
    (("3x3", "1x1"), ("identity",)),
    (("3x3", "identity"), ("1x1",)),
    (("1x1", "identity"), ("3x3",)),
    (("3x3", "1x1", "identity"),),
)

EXECUTION_CONFIGS = tuple(
    ExecutionConfig(gamma=gamma, groups=groups) for gamma, groups in enumerate(_GROUPS)
)
"""All 14, by gamma."""


def execution_config(gamma: int) -> ExecutionConfig:
    """The configuration of that number.

    Raises:
        UsageError: It is not 0 to 13.
    """
    if not 0 <= gamma < len(EXECUTION_CONFIGS):
        raise UsageError(
            "There is no such execution configuration",
            seen=str(gamma),
            do=f"choose gamma from 0 to {len(EXECUTION_CONFIGS) - 1}",
        )
    return EXECUTION_CONFIGS[gamma]


def legal_gammas(kept: Collection[str]) -> tuple[int, ...]:
    """The configurations whose branches are exactly those that a block keeps.

    Args:
        kept: Names of branches, at least one.

    Raises:
        UsageError: A branch is not among `BRANCHES`, or there is none.
    """
    unknown = [name for name in kept if name not in BRANCHES]
    if unknown or not kept:
        raise UsageError(
            "Execution configurations are defined for 3x3, 1x1 and identity branches only",
            seen=f"a block with {', '.join(kept) or 'no branch'}",
        )
    return tuple(c.gamma for c in EXECUTION_CONFIGS if set(c.branches) == set(kept))


def legality_mask(kept: Collection[str]) -> tuple[bool, ...]:
    """For each gamma, whether `legal_gammas` has it.

    Raises:
        UsageError: As for `legal_gammas`.
    """
    legal = legal_gammas(kept)
    return tuple(config.gamma in legal for config in EXECUTION_CONFIGS)
