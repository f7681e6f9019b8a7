"""Which branches each multi-branch block of a network keeps. Needs no torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tvm_iovt.errors import UsageError

FUSION_MODES = ("none", "3x3_1x1", "3x3_identity", "full")
"""Branches that go into the deployed 3x3 convolution in the IoVT co-design (arXiv 2411.00838).

`none` is the 3x3 branch alone; in every mode but `full` the other branches are dropped, which
changes the function of the network.
"""

_MODE_BRANCHES = {
    "none": ("3x3",),
    "3x3_1x1": ("3x3", "1x1"),
    "3x3_identity": ("3x3", "identity"),
    "full": ("3x3", "1x1", "identity"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchConfig:
    """The branches kept in each block.

    Attributes:
        kept: Block name and names of its branches, blocks in the network's order.

    Raises:
        UsageError: There is no block, a block keeps nothing, or a name occurs twice.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/branch-config/1"

    kept: tuple[tuple[str, tuple[str, ...]], ...]

    def __post_init__(self) -> None:
        if not self.kept:
            raise UsageError("A branch configuration needs at least one block")
        blocks = [block for block, _ in self.kept]
        if len(set(blocks)) < len(blocks):
            raise UsageError("A branch configuration names a block twice", seen=", ".join(blocks))
        for block, branches in self.kept:
            if not branches:
                raise UsageError(
                    f"Block {block} keeps no branch", do="keep at least one branch in each block"
                )
            if len(set(branches)) < len(branches):
                raise UsageError(f"Block {block} keeps a branch twice", seen=", ".join(branches))

    def kept_in(self, block: str) -> tuple[str, ...]:
        """Names of the branches that a block keeps.

        Raises:
            UsageError: There is no such block.
        """
        for name, branches in self.kept:
            if name == block:
                return branches
        raise UsageError(
            f"The branch configuration has no block {block}",
            seen=", ".join(name for name, _ in self.kept),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: `{"schema": ..., "kept": {block: [branch, ...], ...}}`."""
        return {"schema": self.SCHEMA, "kept": {block: list(names) for block, names in self.kept}}

    @classmethod
    def from_json(cls, data: Any) -> BranchConfig:
        """The inverse of `to_json`.

        Raises:
            UsageError: The schema is another one, or a value has the wrong form.
        """
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema != cls.SCHEMA:
            raise UsageError(
                "This is not a branch configuration that this version can read",
                seen=f"schema {schema!r}; this version reads {cls.SCHEMA!r}",
                do="use the tvm-iovt version that wrote it",
            )
        kept = data.get("kept")
        unknown = set(data) - {"schema", "kept"}
        if unknown:
            raise UsageError(
                "The branch configuration has unknown fields", seen=", ".join(sorted(unknown))
            )
        if not isinstance(kept, dict):
            raise UsageError("`kept` of a branch configuration is no object", seen=repr(kept))
        for block, branches in kept.items():
            if not isinstance(branches, list) or not all(isinstance(b, str) for b in branches):
                raise UsageError(
                    f"The branches of block {block} are no list of names", seen=repr(branches)
                )
        return cls(kept=tuple((block, tuple(branches)) for block, branches in kept.items()))

    def __str__(self) -> str:
        """Runs of equal blocks: `3x3+1x1, 3x3+1x1+identity *4, 3x3`."""
        runs = [
            ("+".join(branches), len(list(run)))
            for branches, run in itertools.groupby(self.kept, key=lambda item: item[1])
        ]
        return ", ".join(text if count == 1 else f"{text} *{count}" for text, count in runs)


def mode_config(blocks: Mapping[str, Sequence[str]], mode: str) -> BranchConfig:
    """One fusion mode in every block.

    Args:
        blocks: Names of the branches of each block, among `3x3`, `1x1` and `identity`. A block
            without a branch of the mode keeps the others: a missing identity adds nothing.
        mode: One of `FUSION_MODES`.

    Raises:
        UsageError: The mode is unknown, or a block has no `3x3` branch or has other branches.
    """
    wanted = _MODE_BRANCHES.get(mode)
    if wanted is None:
        raise UsageError(
            "Unknown fusion mode", seen=repr(mode), do=f"choose one of {', '.join(FUSION_MODES)}"
        )
    for block, branches in blocks.items():
        if "3x3" not in branches or not set(branches) <= set(_MODE_BRANCHES["full"]):
            raise UsageError(
                "Fusion modes are defined for 3x3, 1x1 and identity branches only",
                seen=f"block {block} with {', '.join(branches)}",
            )
    return BranchConfig(
        kept=tuple(
            (block, tuple(name for name in branches if name in wanted))
            for block, branches in blocks.items()
        )
    )
