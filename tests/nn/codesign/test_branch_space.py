import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tvm_iovt.errors import UsageError  # noqa: E402
from tvm_iovt.nn.branch_config import BranchConfig  # noqa: E402
from tvm_iovt.nn.branch_costs import block_input_shapes, branch_costs  # noqa: E402
from tvm_iovt.nn.branch_space import BranchSpace, branch_space  # noqa: E402
from tvm_iovt.nn.deploy import apply_branch_config, branch_config, model_flops  # noqa: E402

SHAPE = (1, 1, 28, 28)
SMALL = BranchSpace(choices=(("a", (("x",), ("y",), ("x", "y"))), ("b", (("x",), ("x", "z")))))


def test_every_configuration_is_legal_and_different(network):
    model = network()
    space = branch_space(model)
    every = list(space)
    assert len(space) == len(every) == len(set(every)) == 3 * 7 * 3 * 7 * 7
    for config in every[:: len(every) // 50]:
        apply_branch_config(model, config)
        assert branch_config(model) == config
        assert config in space


def test_order_of_enumeration():
    kept = [(c.kept_in("a"), c.kept_in("b")) for c in SMALL]
    assert kept[:3] == [(("x",), ("x",)), (("x",), ("x", "z")), (("y",), ("x",))]


def test_full_and_smallest(network):
    model = network()
    space, costs = branch_space(model), branch_costs(model, SHAPE)
    assert space.full() == branch_config(model)
    smallest = space.smallest(costs)
    flops = {}
    for config in (smallest, *space.sample(15, 3)):
        apply_branch_config(model, config)
        flops[config] = model_flops(model, SHAPE)
    assert min(flops, key=flops.get) == smallest
    assert str(smallest) == "1x1, identity, 1x1, identity *2"


def test_costs_are_those_of_the_network(network):
    model = network()
    linear = 2 * 8 * 3
    assert sum(branch_costs(model, SHAPE).values()) == model_flops(model, SHAPE) - linear
    assert branch_costs(model, (5, *SHAPE[1:])) == branch_costs(model, SHAPE)


def test_sizes_of_the_image_at_each_block(network):
    shapes = block_input_shapes(network(), (2, 1, 27, 30))
    assert shapes == {
        "blocks.0": ((2, 1, 27, 30),),
        "blocks.1": ((2, 4, 14, 15),),
        "blocks.2": ((2, 4, 14, 15),),
        "blocks.3": ((2, 8, 7, 8),),
        "blocks.4": ((2, 8, 7, 8),),
    }


def test_block_that_is_called_twice_costs_twice(network):
    block = network().blocks[1]
    once = branch_costs(torch.nn.Sequential(block), (1, 4, 6, 6))
    twice = branch_costs(torch.nn.Sequential(block, block), (1, 4, 6, 6))
    assert twice == {key: 2 * flops for key, flops in once.items()}


def test_wrong_input(network):
    with pytest.raises(UsageError, match="does not take an input"):
        branch_costs(network(), (1, 3, 28, 28))


def test_required_branches_stay(network):
    space = branch_space(network(), required=("3x3",))
    assert len(space) == 2 * 4 * 2 * 4 * 4
    assert all("3x3" in kept for config in space for _, kept in config.kept)
    partly = branch_space(network(), required=("identity",))
    assert len(partly) == 3 * 4 * 3 * 4 * 4


def test_unknown_required_branch(network):
    with pytest.raises(UsageError, match="no block has a branch '5x5'".capitalize()):
        branch_space(network(), required=("5x5",))


@pytest.mark.parametrize("count", [0, 1, 3, 6])
def test_samples_differ_and_depend_on_the_seed_alone(count):
    sample = SMALL.sample(count, 4)
    assert len(set(sample)) == count
    assert all(config in SMALL for config in sample)
    assert SMALL.sample(count, 4) == sample


def test_other_seed_other_samples(network):
    space = branch_space(network())
    assert space.sample(5, 0) != space.sample(5, 1)


def test_draws_reach_everything():
    generator = np.random.default_rng(0)
    assert {SMALL.draw(generator) for _ in range(200)} == set(SMALL)


def test_more_samples_than_configurations():
    with pytest.raises(UsageError, match="Cannot sample 7"):
        SMALL.sample(7, 0)


def test_membership():
    assert BranchConfig(kept=(("a", ("y", "x")), ("b", ("x",)))) in SMALL
    assert BranchConfig(kept=(("a", ("x",)), ("b", ("z",)))) not in SMALL
    assert BranchConfig(kept=(("a", ("x",)),)) not in SMALL
    assert "a" not in SMALL


@pytest.mark.parametrize("choices", [(), (("a", ()),), (("a", (("x",), ())),)])
def test_empty_choices(choices):
    with pytest.raises(UsageError):
        BranchSpace(choices=choices)
