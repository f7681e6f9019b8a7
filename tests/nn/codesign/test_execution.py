from collections import Counter

import onnx
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from tvm_iovt.errors import UsageError  # noqa: E402
from tvm_iovt.nn.blocks import ACBlock, QARepVGGBlock, RepVGGBlock  # noqa: E402
from tvm_iovt.nn.deploy import branch_config, multi_branch_blocks  # noqa: E402
from tvm_iovt.nn.execution import execution_model, execution_module  # noqa: E402
from tvm_iovt.nn.execution_table import EXECUTION_CONFIGS, legal_gammas  # noqa: E402
from tvm_iovt.nn.export import export_onnx  # noqa: E402

# Operators of each configuration: kernel sizes of its convolutions; every further one costs an Add.
KERNELS = {
    0: [3],
    1: [1],
    2: [1],
    3: [1, 3],
    4: [3],
    5: [1, 3],
    6: [3],
    7: [1, 1],
    8: [1],
    9: [1, 1, 3],
    10: [1, 3],
    11: [1, 3],
    12: [1, 3],
    13: [3],
}


def configured(block, gamma):
    block.keep(EXECUTION_CONFIGS[gamma].branches)
    return block


@pytest.mark.parametrize("kind", [RepVGGBlock, QARepVGGBlock])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("gamma", range(14))
def test_equals_the_block(kind, groups, gamma, randomise):
    block = configured(randomise(kind(6, 6, groups=groups).double()), gamma)
    block.enable_scales()
    with torch.no_grad():
        for index, name in enumerate(block.scales):
            block.scales[name].fill_(0.5 - index)
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = block(x)
        found = execution_module(block, gamma)(x)
        one = block.deployed()(x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found, one, rtol=1e-10, atol=1e-10)
    assert expected.abs().max() > 0.1


@pytest.mark.parametrize("gamma", range(14))
def test_exported_graph_has_these_operators(gamma, randomise, tmp_path):
    block = configured(randomise(RepVGGBlock(4, 4)), gamma)
    path = tmp_path / "block.onnx"
    export_onnx(execution_module(block, gamma), path, (1, 4, 6, 6), training_form=False)
    graph = onnx.load(str(path)).graph
    found = Counter(node.op_type for node in graph.node)
    assert found == Counter(
        {"Conv": len(KERNELS[gamma]), "Add": len(KERNELS[gamma]) - 1, "Relu": 1}
    )
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    kernels = [shapes[node.input[1]] for node in graph.node if node.op_type == "Conv"]
    assert sorted(shape[-1] for shape in kernels) == KERNELS[gamma]


def test_identity_alone_is_depthwise(randomise):
    block = configured(randomise(RepVGGBlock(4, 4)), 2)
    (operator,) = execution_module(block, 2).operators
    assert (operator.conv.groups, operator.conv.kernel_size) == (4, (1, 1))


def test_bare_identity_is_nothing(randomise):
    block = randomise(QARepVGGBlock(4, 4))
    block.post_norm = None
    module = execution_module(configured(block, 2), 2)
    assert [type(operator) for operator in module.operators] == [nn.Identity]
    x = torch.randn(1, 4, 3, 3)
    assert torch.equal(module(x), torch.relu(x))


@pytest.mark.parametrize("gamma", range(14))
def test_gamma_of_other_branches_is_refused(gamma, randomise):
    block = randomise(RepVGGBlock(4, 4))
    for other in EXECUTION_CONFIGS:
        block.keep(other.branches)
        if gamma in legal_gammas(block.kept):
            continue
        with pytest.raises(UsageError, match="would change what the block computes") as caught:
            execution_module(block, gamma)
        assert ", ".join(map(str, legal_gammas(block.kept))) in caught.value.do


def test_block_is_left_alone(randomise):
    block = randomise(RepVGGBlock(4, 4)).train()
    execution_module(block, 9)
    assert block.kept == ("3x3", "1x1", "identity")
    assert block.training


@pytest.mark.parametrize("block", [ACBlock(4, 4), RepVGGBlock(4, 4, kernel_size=5)])
def test_other_blocks(block):
    with pytest.raises(UsageError, match="3x3, 1x1 and identity branches only"):
        execution_module(block, 9)


def test_weights_that_are_not_finite(randomise):
    block = randomise(RepVGGBlock(4, 4))
    with torch.no_grad():
        block.branches["1x1"].conv.weight.fill_(torch.inf)
    with pytest.raises(UsageError, match="Cannot fold"):
        execution_module(block, 9)


def test_network_with_a_configuration_for_each_block(network, randomise):
    model = randomise(network().double())
    x = torch.randn(2, 1, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gammas = dict(zip(multi_branch_blocks(model), (3, 10, 4, 12, 9), strict=True))
    executed = execution_model(model, gammas)
    with torch.no_grad():
        torch.testing.assert_close(executed(x), model(x), rtol=1e-10, atol=1e-10)
    assert not multi_branch_blocks(executed)
    convolutions = [m for m in executed.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 2 + 2 + 1 + 2 + 3
    assert len(branch_config(model).kept) == 5


def test_network_with_wrong_blocks(network):
    with pytest.raises(UsageError, match="another network") as caught:
        execution_model(network(), {"blocks.0": 3, "other": 3})
    assert "blocks.1" in caught.value.seen
    assert "not in the model: other" in caught.value.seen
