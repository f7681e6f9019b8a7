import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from tvm_iovt.errors import UsageError  # noqa: E402
from tvm_iovt.nn.blocks import DiverseBranchBlock, QARepVGGBlock, RepVGGBlock  # noqa: E402
from tvm_iovt.nn.branch_config import BranchConfig, mode_config  # noqa: E402
from tvm_iovt.nn.deploy import (  # noqa: E402
    apply_branch_config,
    branch_config,
    deploy,
    model_flops,
    multi_branch_blocks,
)
from tvm_iovt.nn.evaluation_mode import evaluation_mode  # noqa: E402
from tvm_iovt.nn.networks import digit_network  # noqa: E402


@pytest.fixture
def model(randomise):
    return randomise(digit_network(width=5).double())


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 1, 28, 28, dtype=torch.float64, generator=generator)


def count(model, kind):
    return sum(isinstance(module, kind) for module in model.modules())


def test_blocks_by_name_in_order(model):
    blocks = multi_branch_blocks(model)
    assert list(blocks) == [f"blocks.{index}" for index in range(5)]
    assert all(isinstance(block, RepVGGBlock) for block in blocks.values())
    assert list(multi_branch_blocks(blocks["blocks.0"])) == [""]


@pytest.mark.parametrize("block", [RepVGGBlock, QARepVGGBlock, DiverseBranchBlock])
def test_deployed_computes_the_same_with_one_convolution_a_block(block, x, randomise):
    model = randomise(digit_network(block, width=5).double())
    deployed = deploy(model)
    assert count(deployed, nn.Conv2d) == 5
    assert count(deployed, nn.BatchNorm2d) == 0
    torch.testing.assert_close(deployed(x), model(x), rtol=1e-10, atol=1e-10)
    assert list(deployed.state_dict())[:2] == ["blocks.0.conv.weight", "blocks.0.conv.bias"]


def test_float32(x, randomise):
    model = randomise(digit_network(width=5))
    with torch.no_grad():
        expected, found = model(x.float()), deploy(model)(x.float())
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_original_is_untouched(model, x):
    model.train()
    modes = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    deployed = deploy(model)
    assert not any(module.training for module in deployed.modules())
    with torch.no_grad():
        deployed.classify.weight.zero_()
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert len(multi_branch_blocks(model)) == 5


def test_deploying_twice_changes_nothing(model, x):
    once = deploy(model)
    twice = deploy(once)
    assert not multi_branch_blocks(once)
    assert twice is not once
    assert str(twice) == str(once)
    assert torch.equal(twice(x), once(x))


def test_block_used_twice_stays_shared(randomise):
    block = RepVGGBlock(4, 4)
    model = randomise(nn.Sequential(block, nn.Sequential(block)).double())
    deployed = deploy(model)
    assert deployed[0] is deployed[1][0]
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(deployed(x), model(x), rtol=1e-10, atol=1e-10)


def test_model_that_is_a_block(randomise):
    block = randomise(RepVGGBlock(4, 4).double())
    deployed = deploy(block)
    assert count(deployed, nn.Conv2d) == 1
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(deployed(x), block(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mode", ["none", "3x3_1x1", "3x3_identity", "full"])
def test_deployed_fusion_mode(model, x, mode):
    blocks = {name: tuple(block.branches) for name, block in multi_branch_blocks(model).items()}
    full = model(x)
    apply_branch_config(model, mode_config(blocks, mode))
    torch.testing.assert_close(deploy(model)(x), model(x), rtol=1e-10, atol=1e-10)
    assert torch.equal(model(x), full) == (mode == "full")


def test_deploy_names_the_block_that_cannot_be_folded(model):
    with torch.no_grad():
        model.blocks[3].branches["1x1"].norm.bias[0] = float("inf")
    with pytest.raises(UsageError, match=r"Cannot deploy block blocks\.3") as info:
        deploy(model)
    assert "1x1" in info.value.seen
    assert "infinite" in info.value.seen


def test_config_round_trip(model):
    full = branch_config(model)
    assert full.kept_in("blocks.1") == ("3x3", "1x1", "identity")
    model.blocks[1].keep(["identity"])
    config = branch_config(model)
    assert config.kept_in("blocks.1") == ("identity",)
    apply_branch_config(model, full)
    assert branch_config(model) == full
    apply_branch_config(model, BranchConfig.from_json(config.to_json()))
    assert branch_config(model) == config


def test_config_of_another_network(model):
    other = branch_config(nn.Sequential(RepVGGBlock(1, 1), RepVGGBlock(1, 1)))
    with pytest.raises(UsageError, match="another network") as info:
        apply_branch_config(model, other)
    assert "blocks.4" in info.value.seen


def test_config_with_an_unknown_branch_changes_nothing(model):
    before = branch_config(model)
    kept = [("blocks.0", ("3x3",)), ("blocks.1", ("5x5",))]
    kept += [(f"blocks.{index}", ("3x3",)) for index in (2, 3, 4)]
    with pytest.raises(UsageError, match="no branch '5x5'"):
        apply_branch_config(model, BranchConfig(kept=tuple(kept)))
    assert branch_config(model) == before


def test_model_without_blocks():
    with pytest.raises(UsageError, match="no multi-branch block"):
        branch_config(nn.Conv2d(1, 1, 1))


def test_flops(model):
    shapes = [(1, 5, 14), (5, 5, 14), (5, 10, 7), (10, 10, 7), (10, 10, 7)]
    full = sum(2 * (9 + 1) * i * o * hw * hw + 2 * (i == o) * i * hw * hw for i, o, hw in shapes)
    linear = 2 * 10 * 10
    assert model_flops(model, (1, 1, 28, 28)) == full + linear
    assert model_flops(model, (8, 1, 28, 28)) == full + linear
    fused = sum(2 * 9 * i * o * hw * hw for i, o, hw in shapes)
    assert model_flops(deploy(model), (1, 1, 28, 28)) == fused + linear
    for block in model.blocks:
        block.keep(["1x1"])
    assert model_flops(model, (1, 1, 28, 28)) == fused // 9 + linear


def test_flops_are_those_of_the_branches(randomise):
    block = DiverseBranchBlock(4, 6, stride=2)
    sums = sum(block.branch_flops(name, (9, 7)) for name in block.branches)
    assert model_flops(block, (1, 4, 9, 7)) == sums


def test_flops_of_a_block_used_twice():
    block = RepVGGBlock(4, 4)
    once = model_flops(block, (1, 4, 5, 5))
    assert model_flops(nn.Sequential(block, nn.Sequential(block)), (1, 4, 5, 5)) == 2 * once


def test_counting_leaves_the_model_alone(model):
    model.train()
    model.blocks[0].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model_flops(model, (1, 1, 28, 28))
    assert model.training
    assert not model.blocks[0].training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_flops_for_an_input_that_does_not_fit(model):
    with pytest.raises(UsageError, match="does not take an input of shape"):
        model_flops(model, (1, 3, 28, 28))
    assert not any(module._forward_hooks for module in model.modules())


def test_evaluation_mode_ends_with_an_error(model):
    model.train()
    model.blocks[2].eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(ZeroDivisionError), evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()
