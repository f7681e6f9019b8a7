import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from tvm_iovt.errors import UsageError  # noqa: E402
from tvm_iovt.fusion.convolution import Convolution, apply  # noqa: E402
from tvm_iovt.nn.blocks import QARepVGGBlock, RepVGGBlock  # noqa: E402
from tvm_iovt.nn.branch import ConvBranch, IdentityBranch, PoolBranch  # noqa: E402
from tvm_iovt.nn.multi_branch import MultiBranch, deployed_form  # noqa: E402


@pytest.fixture
def block(randomise):
    return randomise(RepVGGBlock(6, 6).double())


@pytest.fixture
def x():
    return torch.randn(2, 6, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_facts(block):
    assert (block.in_channels, block.out_channels, block.groups) == (6, 6, 1)
    assert block.kernel_size == (3, 3)
    assert block.stride == (1, 1)
    assert list(block.branches) == ["3x3", "1x1", "identity"]
    assert block.kept == ("3x3", "1x1", "identity")
    assert block.scales is None
    assert "kept=3x3+1x1+identity" in repr(block)


def test_dropped_branches_add_nothing_and_can_come_back(block, x):
    full = block(x)
    sums = {}
    block.activation = nn.Identity()
    for name in block.branches:
        block.keep([name])
        sums[name] = block(x)
    block.keep(["identity", "3x3"])
    assert block.kept == ("3x3", "identity")
    close(block(x), sums["3x3"] + sums["identity"])
    block.keep(iter(block.branches))
    block.activation = nn.ReLU()
    assert torch.equal(block(x), full)


def test_dropped_branch_is_left_alone_by_training(block, x):
    block.train()
    block.keep(["3x3"])
    before = copy.deepcopy(block.state_dict())
    block(x).sum().backward()
    assert block.branches["1x1"].conv.weight.grad is None
    after = block.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert set(before) - same == {
        f"branches.3x3.norm.{what}"
        for what in ("running_mean", "running_var", "num_batches_tracked")
    }


def test_deployed_is_one_convolution(block, x):
    deployed = block.deployed()
    convs = [m for m in deployed.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 1
    assert not any(isinstance(m, nn.BatchNorm2d) for m in deployed.modules())
    assert convs[0].weight.dtype == torch.float64
    assert (convs[0].kernel_size, convs[0].padding) == ((3, 3), (1, 1))
    assert not deployed.training
    close(deployed(x), block(x))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_deployed_keeps_the_dtype(dtype):
    block = RepVGGBlock(3, 4).to(getattr(torch, dtype))
    assert block.deployed()[0].weight.dtype == getattr(torch, dtype)


def test_deployed_owns_its_activation(x):
    block = RepVGGBlock(6, 6, activation=nn.PReLU).double()
    deployed = block.deployed()
    assert block.activation.training
    with torch.no_grad():
        block.activation.weight.fill_(9.0)
    assert deployed.activation.weight.item() == 0.25


def test_folding_in_training_mode_takes_running_statistics(block, x):
    expected = block(x)
    close(block.train().deployed()(x), expected)


def test_scales_begin_at_one_and_fold(block, x):
    before = block(x)
    block.enable_scales()
    assert list(block.scales) == list(block.branches)
    assert all(s.shape == () and s.dtype == torch.float64 for s in block.scales.values())
    assert torch.equal(block(x), before)
    with torch.no_grad():
        for factor, scale in zip((0.5, -2.0, 3.0), block.scales.values(), strict=True):
            scale.fill_(factor)
    scaled = block(x)
    assert not torch.allclose(scaled, before)
    close(block.deployed()(x), scaled)
    block.enable_scales()
    assert block.scales["1x1"].item() == -2.0
    block.absorb_scales()
    assert block.scales is None
    assert not any("scales" in name for name in block.state_dict())
    close(block(x), scaled)
    block.absorb_scales()
    close(block(x), scaled)


def test_scales_of_kept_branches_get_gradients(block, x):
    block.enable_scales()
    block.keep(["3x3", "identity"])
    block(x).square().sum().backward()
    assert block.scales["3x3"].grad.abs() > 0
    assert block.scales["identity"].grad.abs() > 0
    assert block.scales["1x1"].grad is None


def test_scale_of_a_raw_identity_stays(x, randomise):
    block = randomise(QARepVGGBlock(6, 6).double())
    block.enable_scales()
    with torch.no_grad():
        for scale in block.scales.values():
            scale.fill_(0.7)
    scaled = block(x)
    block.absorb_scales()
    assert list(block.scales) == ["identity"]
    close(block(x), scaled)
    close(block.deployed()(x), scaled)


def test_flops_of_a_branch(block):
    assert block.branch_flops("3x3", (7, 5)) == 2 * 6 * 6 * 9 * 35
    assert block.branch_flops("1x1", (7, 5)) == 2 * 6 * 6 * 35
    assert block.branch_flops("identity", (7, 5)) == 2 * 6 * 35
    assert RepVGGBlock(6, 4, stride=2).branch_flops("3x3", (7, 5)) == 2 * 6 * 4 * 9 * 12


@pytest.mark.parametrize("padding", [(0, 1, 2, 1), (-1, 0, 3, 2), (1, 1, 1, -1)])
def test_padding_that_a_conv2d_cannot_have(x, padding):
    generator = np.random.default_rng(0)
    operator = Convolution(
        kernel=generator.standard_normal((4, 6, 3, 3)),
        bias=generator.standard_normal((4, 1, 1)),
        padding=padding,
    )
    deployed = deployed_form(operator, like=x, activation=nn.Identity())
    assert isinstance(deployed[0], nn.ZeroPad2d)
    close(deployed(x), torch.from_numpy(apply(operator, x.numpy())))


def test_bias_that_a_conv2d_cannot_have(x):
    operator = Convolution(kernel=np.zeros((4, 6, 3, 3)), bias=np.zeros((4, 5, 3)))
    with pytest.raises(UsageError, match="differs from place to place"):
        deployed_form(operator, like=x, activation=nn.Identity())


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        ({}, "at least one branch"),
        ({"a.b": IdentityBranch(4)}, "must not be empty or hold a dot"),
        ({"": IdentityBranch(4)}, "must not be empty or hold a dot"),
        ({"a": IdentityBranch(4), "b": ConvBranch(4, 5, 1)}, "differ in the numbers of channels"),
        ({"a": IdentityBranch(4), "b": ConvBranch(5, 4, 1)}, "differ in the numbers of channels"),
        ({"a": IdentityBranch(4), "b": PoolBranch(4, 3, stride=2)}, "differ in the strides"),
        (
            {"a": IdentityBranch(4), "b": ConvBranch(4, 4, 3, padding=0)},
            "differ in the sizes of their results",
        ),
    ],
)
def test_branches_that_do_not_fit(branches, message):
    with pytest.raises(UsageError, match=message):
        MultiBranch(branches)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "at least one branch"),
        (["3x3", "5x5"], "no branch '5x5'"),
        (["3x3", "3x3"], "kept twice"),
    ],
)
def test_names_that_cannot_be_kept(block, names, message):
    with pytest.raises(UsageError, match=message):
        block.keep(names)
    assert block.kept == ("3x3", "1x1", "identity")


def test_flops_of_an_unknown_branch(block):
    with pytest.raises(UsageError, match="no branch '5x5'"):
        block.branch_flops("5x5", (7, 5))


def test_nan_names_the_branch(block):
    with torch.no_grad():
        block.branches["1x1"].conv.weight[0, 0] = float("nan")
    with pytest.raises(UsageError, match="Cannot fold 1x1") as info:
        block.convolution()
    assert "NaN" in info.value.seen
    block.keep(["3x3", "identity"])
    block.convolution()


def test_infinite_scale(block):
    block.enable_scales()
    with torch.no_grad():
        block.scales["3x3"].fill_(float("inf"))
    with pytest.raises(UsageError, match="Cannot fold 3x3") as info:
        block.deployed()
    assert "the scale" in info.value.seen


def test_variance_of_zero_without_epsilon():
    block = QARepVGGBlock(4, 4)
    block.post_norm.eps = 0.0
    block.post_norm.running_var.zero_()
    with pytest.raises(UsageError, match="Cannot fold post_norm") as info:
        block.convolution()
    assert "variance of zero" in info.value.seen
