"""Dropping branches one by one for as long as the accuracy stays within a budget."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm_iovt.errors import UsageError
from tvm_iovt.nn.branch_config import BranchConfig
from tvm_iovt.nn.deploy import branch_config, multi_branch_blocks
from tvm_iovt.nn.importance import BranchImportance, rank_branches

PREFERENCES = ("accuracy", "flops")


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningOptions:
    """How far to prune.

    Attributes:
        budget: Largest loss of accuracy against the reference, as a fraction: 0.005 is half a
            point.
        pool: How many of the least important branches are tried in a round.
        rounds: Most branches to drop.
        prefer: Which of the branches that the budget allows to drop goes first: `accuracy` for the
            one that leaves the best accuracy, `flops` for the one that saves most.

    Raises:
        UsageError: A number is out of range, or the preference is unknown.
    """

    budget: float = 0.02
    pool: int = 10
    rounds: int = 10
    prefer: str = "accuracy"

    def __post_init__(self) -> None:
        if not 0 <= self.budget <= 1:
            raise UsageError("The budget must be between 0 and 1", seen=str(self.budget))
        if self.pool < 1 or self.rounds < 1:
            raise UsageError(
                "pool and rounds must be at least 1", seen=f"{self.pool}, {self.rounds}"
            )
        if self.prefer not in PREFERENCES:
            raise UsageError(
                "Unknown preference for pruning",
                seen=repr(self.prefer),
                do=f"prefer one of {', '.join(PREFERENCES)}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningTrial:
    """One branch that was dropped on trial.

    Attributes:
        round: Counted from 1.
        candidate: The branch, with its scale and cost before the trial.
        accuracy: Of the network without it, as a fraction.
        accepted: Whether the network stays without it.
    """

    round: int
    candidate: BranchImportance
    accuracy: float
    accepted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What pruning came to.

    Attributes:
        reference_accuracy: What the budget is counted from, as a fraction.
        initial_accuracy: Of the network before pruning.
        accuracy: After it.
        config: The branches that are left.
        history: Every trial, in order.
        stopped: Why there was no further round.
    """

    reference_accuracy: float
    initial_accuracy: float
    accuracy: float
    config: BranchConfig
    history: tuple[PruningTrial, ...]
    stopped: str


def prune(
    model: Any,
    options: PruningOptions,
    *,
    input_shape: Sequence[int],
    accuracy: Callable[[Any], float],
    adapt: Callable[[Any], None] = lambda model: None,
    reference: float | None = None,
    progress: Callable[[PruningTrial], None] = lambda trial: None,
) -> tuple[Any, Pruning]:
    """Drops branches one by one while the accuracy is at least `reference - budget`.

    A round tries each of the least important branches (`importance.rank_branches`, anew each round)
    on a copy of the network; never the last one of a block. Of the copies within the budget, the
    one that `options.prefer` says becomes the network; of equal ones that without the less
    important branch. If there is none, pruning ends.

    The procedure is that of the code which the authors of the IoVT co-design (arXiv 2411.00838)
    published later (github.com/word-ky/codesign), with another bound. That code measures the drop
    of a round from the best accuracy so far, its text asks for `A >= A_ref - epsilon`. Here it is
    the latter: limits on the drop of each round would add up over the rounds. A network that misses
    the bound to begin with loses only branches whose absence brings it back.

    That code prefers accuracy, so it drops what matters least, not what costs most. Where branches
    are folded into one convolution anyway, that saves nothing until the largest one goes.

    Args:
        model: Left as it is.
        options: See `PruningOptions`.
        input_shape: `[N, C, H, W]`, for the FLOPs.
        accuracy: Fraction of right answers of a network, on images held out of training that are
            not those of the final test. Deterministic, for the result to be.
        adapt: Adapts a copy that has lost a branch, in place: `recalibration.recalibrate`, a short
            `scales.train_scales`, or both.
        reference: The accuracy to hold against; by default that of the model as it is given.
        progress: Called with every trial, once its round is decided.

    Returns:
        The pruned copy, and how it came about.

    Raises:
        UsageError: The model has no multi-branch block, or does not take such an input.
    """
    current = copy.deepcopy(model)
    config = branch_config(current)
    initial = best = accuracy(current)
    reference = initial if reference is None else reference
    if not math.isfinite(reference):
        raise UsageError("The reference accuracy is not a number", seen=str(reference))
    history: list[PruningTrial] = []
    stopped = f"{options.rounds} rounds are done"
    for number in range(1, options.rounds + 1):
        pool = _droppable(current, input_shape)[: options.pool]
        if not pool:
            stopped = "every block has one branch left"
            break
        winner, chosen, most, outcomes = None, -1, (-math.inf, -math.inf), []
        for index, candidate in enumerate(pool):
            trial = _without(current, candidate)
            adapt(trial)
            reached = accuracy(trial)
            outcomes.append(reached)
            saved = candidate.flops if options.prefer == "flops" else 0
            # The first of equal ones wins, which is the less important. NaN is never enough.
            if reached >= reference - options.budget and (saved, reached) > most:
                winner, chosen, most = trial, index, (saved, reached)
        for index, (candidate, reached) in enumerate(zip(pool, outcomes, strict=True)):
            outcome = PruningTrial(
                round=number, candidate=candidate, accuracy=reached, accepted=index == chosen
            )
            history.append(outcome)
            progress(outcome)
        if winner is None:
            stopped = "every candidate costs more than the budget"
            break
        current, best, config = winner, outcomes[chosen], branch_config(winner)
    return current, Pruning(
        reference_accuracy=reference,
        initial_accuracy=initial,
        accuracy=best,
        config=config,
        history=tuple(history),
        stopped=stopped,
    )


def _droppable(model: Any, input_shape: Sequence[int]) -> list[BranchImportance]:
    """The kept branches that are not the last one of their block, least important first."""
    blocks = multi_branch_blocks(model)
    ranked = rank_branches(model, input_shape)
    return [candidate for candidate in ranked if len(blocks[candidate.block].kept) > 1]


def _without(model: Any, candidate: BranchImportance) -> Any:
    trial = copy.deepcopy(model)
    block = multi_branch_blocks(trial)[candidate.block]
    block.keep(name for name in block.kept if name != candidate.branch)
    return trial
