import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from tvm_iovt.errors import UsageError  # noqa: E402
from tvm_iovt.nn.blocks import (  # noqa: E402
    ACBlock,
    DiverseBranchBlock,
    MobileOneBlock,
    QARepVGGBlock,
    RepVGGBlock,
)
from tvm_iovt.nn.deploy import deploy, model_flops, multi_branch_blocks  # noqa: E402
from tvm_iovt.nn.networks import digit_network, mobileone, repvgg  # noqa: E402
from tvm_iovt.nn.repvgg import REPVGG_SHAPES  # noqa: E402

# Million parameters in training form and deployed, as published with the networks.
REPVGG_PARAMETERS = {
    "A0": (9.11, 8.31),
    "A1": (14.09, 12.79),
    "A2": (28.21, 25.50),
    "B0": (15.82, 14.34),
    "B1": (57.42, 51.83),
    "B1g2": (45.78, 41.36),
    "B1g4": (39.97, 36.13),
    "B2": (89.02, 80.32),
    "B2g4": (61.76, 55.78),
    "B3": (123.09, 110.96),
    "B3g4": (83.83, 75.63),
}
# Million parameters and multiply-adds, deployed: table 9 of arXiv 2206.04040.
MOBILEONE_SIZES = {"S0": (2.1, 275), "S1": (4.8, 825), "S2": (7.8, 1299), "S3": (10.1, 1896)}


def count(model, kind):
    return sum(isinstance(module, kind) for module in model.modules())


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def relative_error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


def test_repvgg_a0(randomise):
    model = randomise(repvgg("A0").double())
    assert (count(model, nn.Conv2d), count(model, nn.BatchNorm2d)) == (44, 61)
    deployed = deploy(model)
    assert (count(deployed, nn.Conv2d), count(deployed, nn.BatchNorm2d)) == (22, 0)
    assert parameters(model) == 9_108_968
    assert parameters(deployed) == 8_309_384
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert relative_error(deployed(x), model(x)) <= 1e-10
        assert relative_error(deployed.float()(x.float()).double(), model(x)) <= 1e-4


@pytest.mark.parametrize("name", REPVGG_SHAPES)
def test_repvgg_has_the_published_size(name):
    with torch.device("meta"):
        model = repvgg(name)
    blocks = multi_branch_blocks(model).values()
    assert len(blocks) == 28 if name[0] == "B" else 22
    assert [block.stride for block in blocks].count((2, 2)) == 5
    training, deployed = REPVGG_PARAMETERS.get(name, (None, None))
    if training is None:
        return
    assert parameters(model) / 1e6 == pytest.approx(training, abs=0.005)
    folded = parameters(model.classify) + sum(
        block.out_channels * (block.in_channels // block.groups * 9 + 1) for block in blocks
    )
    assert folded / 1e6 == pytest.approx(deployed, abs=0.01)


def test_repvgg_groups_are_in_every_other_block():
    with torch.device("meta"):
        blocks = list(multi_branch_blocks(repvgg("B1g4")).values())
    assert [block.groups for block in blocks] == [1, *((1, 4) * 13), 1]


def test_repvgg_a0_flops():
    with torch.device("meta"):
        model = repvgg("A0")
    # 1.52 G multiply-adds are published for the training form.
    assert model_flops(model, (1, 3, 224, 224)) / 2e9 == pytest.approx(1.52, abs=0.01)


@pytest.mark.parametrize(
    "block", [RepVGGBlock, QARepVGGBlock, MobileOneBlock, ACBlock, DiverseBranchBlock]
)
def test_repvgg_of_other_blocks(block, randomise):
    model = randomise(digit_network(block, width=4, num_classes=7, in_channels=3).double())
    x = torch.randn(2, 3, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert model(x).shape == (2, 7)
        assert relative_error(deploy(model)(x), model(x)) <= 1e-10
    with torch.device("meta"):
        blocks = multi_branch_blocks(repvgg("A0", block=block, num_classes=5))
    assert len(blocks) == 22
    assert all(isinstance(found, block) for found in blocks.values())


@pytest.mark.parametrize("name", MOBILEONE_SIZES)
def test_mobileone_has_the_published_size(name):
    deployed = deploy(mobileone(name))
    assert count(deployed, nn.Conv2d) == 1 + 2 * (2 + 8 + 10 + 1)
    million_parameters, million_macs = MOBILEONE_SIZES[name]
    assert parameters(deployed) / 1e6 == pytest.approx(million_parameters, abs=0.05)
    assert model_flops(deployed, (1, 3, 224, 224)) / 2e6 == pytest.approx(million_macs, abs=1)


def test_mobileone_s0(randomise):
    model = randomise(mobileone("S0", num_classes=11).double())
    assert all(
        sum(name.endswith(("_0", "_1", "_2", "_3")) for name in block.branches) == 4
        for name, block in multi_branch_blocks(model).items()
        if name != "stem"
    )
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert model(x).shape == (1, 11)
        assert relative_error(deploy(model)(x), model(x)) <= 1e-10


@pytest.mark.parametrize(("make", "known"), [(repvgg, "B1g4"), (mobileone, "S3")])
def test_unknown_name_lists_the_known_ones(make, known):
    with pytest.raises(UsageError, match="Unknown") as info:
        make("a0")
    assert known in info.value.do
