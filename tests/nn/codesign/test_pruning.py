import copy
import math

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from tvm_iovt.errors import UsageError  # noqa: E402
from tvm_iovt.nn.blocks import RepVGGBlock  # noqa: E402
from tvm_iovt.nn.deploy import branch_config, multi_branch_blocks  # noqa: E402
from tvm_iovt.nn.pruning import PruningOptions, prune  # noqa: E402
from tvm_iovt.nn.recalibration import recalibrate  # noqa: E402
from tvm_iovt.nn.training import evaluate  # noqa: E402

SHAPE = (1, 4, 6, 6)


def two_blocks():
    return nn.Sequential(RepVGGBlock(4, 4), RepVGGBlock(4, 4))


def worth(costs):
    """An accuracy that a dropped branch lowers by its cost, 0 unless it is named."""

    def accuracy(model):
        dropped = [
            (name, branch)
            for name, block in multi_branch_blocks(model).items()
            for branch in block.branches
            if branch not in block.kept
        ]
        return 1 - sum(costs.get(key, 0.0) for key in dropped)

    return accuracy


def accepted(result):
    return [(t.candidate.block, t.candidate.branch) for t in result.history if t.accepted]


def test_drops_add_up_against_the_reference():
    # Each costs less than the budget, so a bound for each round would let all of them go.
    every = {(block, branch): 0.03 for block in "01" for branch in ("3x3", "1x1", "identity")}
    _, result = prune(
        two_blocks(), PruningOptions(budget=0.07), input_shape=SHAPE, accuracy=worth(every)
    )
    assert len(accepted(result)) == 2
    assert result.accuracy == pytest.approx(0.94)
    assert result.accuracy >= result.reference_accuracy - 0.07
    assert result.stopped == "every candidate costs more than the budget"
    assert [t.round for t in result.history if not t.accepted][-1] == 3


def test_best_candidate_of_a_round_goes():
    costs = {("0", "3x3"): 0.02, ("1", "3x3"): 0.01, ("0", "1x1"): 0.005, ("1", "1x1"): 0.03}
    _, result = prune(
        two_blocks(), PruningOptions(budget=0.5, pool=3), input_shape=SHAPE, accuracy=worth(costs)
    )
    # The pool is refilled: the 1x1 of block 1 only comes in when that of block 0 has gone.
    pools = [
        [(t.candidate.block, t.candidate.branch) for t in result.history if t.round == number]
        for number in (1, 2)
    ]
    assert pools == [
        [("0", "3x3"), ("1", "3x3"), ("0", "1x1")],
        [("0", "3x3"), ("1", "3x3"), ("1", "1x1")],
    ]
    assert accepted(result)[:2] == [("0", "1x1"), ("1", "3x3")]


def test_most_saving_candidate_within_the_budget_goes():
    costs = {("0", "3x3"): 0.2, ("1", "3x3"): 0.02, ("0", "1x1"): 0.01, ("1", "1x1"): 0.005}
    options = PruningOptions(budget=0.04, prefer="flops", rounds=3)
    _, result = prune(two_blocks(), options, input_shape=SHAPE, accuracy=worth(costs))
    # The 3x3 of block 0 costs too much; of the two 1x1 that save alike, block 1's hurts less.
    assert accepted(result) == [("1", "3x3"), ("1", "1x1"), ("0", "1x1")]
    assert result.accuracy == pytest.approx(0.965)


def test_equal_accuracy_takes_the_less_important():
    _, result = prune(two_blocks(), PruningOptions(), input_shape=SHAPE, accuracy=lambda m: 1.0)
    assert accepted(result) == [("0", "3x3"), ("1", "3x3"), ("0", "1x1"), ("1", "1x1")]


def test_last_branch_is_never_tried():
    smaller, result = prune(
        two_blocks(), PruningOptions(rounds=50), input_shape=SHAPE, accuracy=lambda m: 1.0
    )
    assert str(result.config) == "identity *2"
    assert branch_config(smaller) == result.config
    assert result.stopped == "every block has one branch left"
    assert all(block.kept for block in multi_branch_blocks(smaller).values())


def test_rounds_limit():
    _, result = prune(
        two_blocks(), PruningOptions(rounds=2), input_shape=SHAPE, accuracy=lambda m: 1.0
    )
    assert len(accepted(result)) == 2
    assert result.stopped == "2 rounds are done"


def test_model_is_left_alone_and_adapted_copy_is_returned():
    model = two_blocks()
    before = copy.deepcopy(model.state_dict())
    calls = []

    def adapt(trial):
        calls.append(trial)
        with torch.no_grad():
            trial[0].branches["1x1"].conv.weight.add_(1)

    smaller, result = prune(
        model,
        PruningOptions(rounds=3),
        input_shape=SHAPE,
        accuracy=worth({}),
        adapt=adapt,
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert branch_config(model) == branch_config(two_blocks())
    # Adaptations build on each other: one a round that was accepted.
    torch.testing.assert_close(
        smaller[0].branches["1x1"].conv.weight, before["0.branches.1x1.conv.weight"] + 3
    )
    assert len(calls) == len(result.history)


def test_given_reference():
    costs = {("0", "3x3"): 0.02, ("1", "3x3"): 0.02}
    options = PruningOptions(budget=0.03, pool=2)
    _, from_own = prune(two_blocks(), options, input_shape=SHAPE, accuracy=worth(costs))
    _, from_higher = prune(
        two_blocks(), options, input_shape=SHAPE, accuracy=worth(costs), reference=1.015
    )
    assert len(accepted(from_own)) > len(accepted(from_higher)) == 0
    assert from_higher.initial_accuracy == from_higher.accuracy == 1.0


def test_nan_is_never_accepted():
    _, result = prune(
        two_blocks(),
        PruningOptions(),
        input_shape=SHAPE,
        accuracy=lambda m: 1.0 if str(branch_config(m)) == "3x3+1x1+identity *2" else math.nan,
    )
    assert not accepted(result)
    with pytest.raises(UsageError, match="not a number"):
        prune(two_blocks(), PruningOptions(), input_shape=SHAPE, accuracy=lambda m: math.nan)


def test_trained_network_respects_the_budget_and_repeats(trained, data, unseen):
    options = PruningOptions(budget=0.05, pool=4, rounds=6)
    results = [
        prune(
            trained(),
            options,
            input_shape=(1, 1, 8, 8),
            accuracy=lambda trial: evaluate(trial, unseen),
            adapt=lambda trial: recalibrate(trial, data, batch_size=32),
        )
        for _ in range(2)
    ]
    (smaller, first), (_, second) = results
    assert first == second
    assert accepted(first)
    assert evaluate(smaller, unseen) == first.accuracy >= first.reference_accuracy - 0.05
    assert all(t.accuracy >= first.reference_accuracy - 0.05 for t in first.history if t.accepted)


@pytest.mark.parametrize(
    "wrong",
    [
        {"budget": -0.1},
        {"budget": 2.0},
        {"budget": math.nan},
        {"pool": 0},
        {"rounds": 0},
        {"prefer": "speed"},
    ],
)
def test_wrong_options(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        PruningOptions(**wrong)
