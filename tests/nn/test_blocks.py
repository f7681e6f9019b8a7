import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from tvm_iovt.errors import UsageError  # noqa: E402
from tvm_iovt.fusion.convolution import apply  # noqa: E402
from tvm_iovt.nn.blocks import (  # noqa: E402
    ACBlock,
    DiverseBranchBlock,
    MobileOneBlock,
    QARepVGGBlock,
    RepVGGBlock,
)
from tvm_iovt.nn.depthwise_blocks import (  # noqa: E402
    DILATED_BRANCHES,
    DilatedReparamBlock,
    RepDWBlock,
)

DENSE = (RepVGGBlock, QARepVGGBlock, MobileOneBlock, ACBlock, DiverseBranchBlock)
FAMILIES = (*DENSE, RepDWBlock, DilatedReparamBlock)


@st.composite
def blocks(draw, family):
    """A block of the family with any channels, groups, stride and kernel that it takes."""
    stride = draw(st.sampled_from((1, 2)))
    if family is RepDWBlock:
        size = draw(st.sampled_from((3, 5)))
        return RepDWBlock(draw(st.integers(1, 20)), kernel_size=size, stride=stride)
    if family is DilatedReparamBlock:
        size = draw(st.sampled_from(sorted(DILATED_BRANCHES)))
        return DilatedReparamBlock(draw(st.integers(1, 9)), kernel_size=size, stride=stride)
    options = {"kernel_size": draw(st.sampled_from((3, 5, 7))), "stride": stride}
    if family is MobileOneBlock:
        options["conv_branches"] = draw(st.integers(1, 4))
        options["kernel_size"] = draw(st.sampled_from((1, 3, 5)))
    channels = draw(st.integers(1, 20))
    shape = draw(st.sampled_from(("square", "other", "grouped", "depthwise")))
    if shape == "other":
        return family(channels, draw(st.integers(1, 20)), **options)
    if shape == "grouped":
        return family(2 * channels, 2 * draw(st.integers(1, 10)), groups=2, **options)
    return family(channels, channels, groups=channels if shape == "depthwise" else 1, **options)


def relative_error(found, expected):
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_block_is_its_one_convolution(family, data, randomise):
    block = data.draw(blocks(family))
    seed = data.draw(st.integers(0, 2**20))
    hw = data.draw(st.tuples(st.integers(1, 15), st.integers(1, 15)))
    kept = data.draw(st.sets(st.sampled_from(list(block.branches)), min_size=1))
    block = randomise(block.double(), seed)
    block.activation = nn.Identity()  # it would hide errors where the sum is negative
    block.keep(kept)
    generator = torch.Generator().manual_seed(seed)
    if data.draw(st.booleans()):
        block.enable_scales()
        for scale in block.scales.values():
            nn.init.normal_(scale, generator=generator)
    x = torch.randn(2, block.in_channels, *hw, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        expected = block(x)
        assert relative_error(
            torch.from_numpy(apply(block.convolution(), x.numpy())), expected
        ) <= (1e-10)
        deployed = block.deployed()
        assert relative_error(deployed(x), expected) <= 1e-10
        assert relative_error(deployed.float()(x.float()).double(), expected) <= 1e-4
        assert relative_error(block.float()(x.float()).double(), expected) <= 1e-4
        assert relative_error(block.deployed()(x.float()).double(), expected) <= 1e-4
    assert sum(isinstance(module, nn.Conv2d) for module in deployed.modules()) == 1
    assert len(list(deployed)) == 2


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("family", DENSE)
def test_result_has_the_size_of_the_stride(family, stride, groups):
    y = family(6, 6, stride=stride, groups=groups)(torch.zeros(2, 6, 9, 7))
    assert y.shape == (2, 6, 9 // stride + stride - 1, 7 // stride + stride - 1)


@pytest.mark.parametrize("family", DENSE)
def test_full_deployment_has_the_kernel_and_groups_of_the_block(family):
    block = family(6, 12, kernel_size=5, stride=2, groups=3)
    conv = block.deployed()[0]
    assert (conv.kernel_size, conv.stride, conv.padding) == ((5, 5), (2, 2), (2, 2))
    assert (conv.groups, conv.dilation) == (3, (1, 1))
    assert conv.kernel_size == block.kernel_size
    assert conv.stride == block.stride
    assert conv.groups == block.groups


@pytest.mark.parametrize("size", sorted(DILATED_BRANCHES))
def test_dilated_kernels_fit_into_the_large_one(size):
    assert all(r * (k - 1) + 1 <= size for k, r in DILATED_BRANCHES[size])
    conv = DilatedReparamBlock(3, kernel_size=size).deployed()[0]
    assert conv.kernel_size == (size, size)
    assert conv.groups == 3


@pytest.mark.parametrize(
    ("block", "branches"),
    [
        (lambda: RepVGGBlock(8, 8), "3x3 1x1 identity"),
        (lambda: RepVGGBlock(8, 8, kernel_size=5), "5x5 1x1 identity"),
        (lambda: RepVGGBlock(8, 4), "3x3 1x1"),
        (lambda: RepVGGBlock(8, 8, stride=2), "3x3 1x1"),
        (lambda: QARepVGGBlock(8, 8), "3x3 1x1 identity"),
        (lambda: MobileOneBlock(8, 8), "3x3 1x1 identity"),
        (
            lambda: MobileOneBlock(8, 8, conv_branches=3, groups=8),
            "3x3_0 3x3_1 3x3_2 1x1 identity",
        ),
        (lambda: MobileOneBlock(8, 8, kernel_size=1), "1x1 identity"),
        (lambda: MobileOneBlock(8, 4, kernel_size=1, conv_branches=2), "1x1_0 1x1_1"),
        (lambda: ACBlock(8, 8), "3x3 3x1 1x3"),
        (lambda: DiverseBranchBlock(8, 8), "3x3 1x1 1x1_3x3 1x1_avg"),
        (lambda: DiverseBranchBlock(8, 8, groups=8), "3x3 1x1_3x3 avg"),
        (lambda: RepDWBlock(8), "3x3 1x1 identity"),
        (lambda: RepDWBlock(8, stride=2), "3x3 1x1"),
        (lambda: DilatedReparamBlock(8), "13x13 5x5d1 7x7d2 3x3d3 3x3d4 3x3d5"),
    ],
)
def test_branches_of_the_families(block, branches):
    assert list(block().branches) == branches.split()


def test_depthwise_diverse_branch_block_doubles_inside():
    assert DiverseBranchBlock(8, 8, groups=8).branches["1x1_3x3"].first.out_channels == 16
    assert DiverseBranchBlock(8, 8, groups=4).branches["1x1_3x3"].first.out_channels == 8


@pytest.mark.parametrize("groups", [1, 4])
def test_inner_1x1_of_the_diverse_branch_block_begins_as_the_identity(groups):
    conv = DiverseBranchBlock(8, 8, groups=groups).branches["1x1_3x3"].first.conv
    x = torch.randn(1, 8, 3, 3)
    torch.testing.assert_close(conv(x)[:, :, 1:-1, 1:-1], x)


def _norm(norm, x):
    return functional.batch_norm(
        x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    )


@torch.no_grad()
def test_formulas_of_the_papers(randomise):
    x = torch.randn(2, 6, 7, 5, generator=torch.Generator().manual_seed(0))

    def conv(branch, groups=1):
        weight = branch.conv.weight
        return functional.conv2d(
            x, weight, branch.conv.bias, padding=weight.shape[-1] // 2, groups=groups
        )

    block = randomise(RepVGGBlock(6, 6))
    b3, b1, bi = block.branches.values()
    expected = _norm(b3.norm, conv(b3)) + _norm(b1.norm, conv(b1)) + _norm(bi.norm, x)
    torch.testing.assert_close(block(x), expected.relu())

    block = randomise(QARepVGGBlock(6, 6))
    b3, b1, _ = block.branches.values()
    expected = _norm(block.post_norm, _norm(b3.norm, conv(b3)) + conv(b1) + x)
    torch.testing.assert_close(block(x), expected.relu())

    block = randomise(RepDWBlock(6))
    b3, b1, _ = block.branches.values()
    assert b1.conv.bias is not None
    expected = _norm(block.post_norm, _norm(b3.norm, conv(b3, 6)) + conv(b1, 6) + x)
    torch.testing.assert_close(block(x), expected)

    block = randomise(MobileOneBlock(6, 6, groups=6, conv_branches=2))
    first, second, b1, bi = block.branches.values()
    expected = sum(_norm(b.norm, conv(b, 6)) for b in (first, second, b1)) + _norm(bi.norm, x)
    torch.testing.assert_close(block(x), expected.relu())

    block = randomise(ACBlock(6, 6))
    b33, b31, b13 = block.branches.values()
    expected = sum(
        _norm(b.norm, functional.conv2d(x, b.conv.weight, padding=padding))
        for b, padding in ((b33, (1, 1)), (b31, (1, 0)), (b13, (0, 1)))
    )
    torch.testing.assert_close(block(x), expected.relu())


@torch.no_grad()
def test_formula_of_dilated_kernels(randomise):
    block = randomise(DilatedReparamBlock(4, kernel_size=7).double())
    kernel = np.zeros((4, 7, 7))
    bias = np.zeros(4)
    for branch, rate in zip(block.branches.values(), (1, 1, 2, 3), strict=True):
        norm, weight = branch.norm, branch.conv.weight[:, 0].numpy()
        factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).numpy()
        begin = 3 - rate * (weight.shape[-1] // 2)
        taps = slice(begin, 7 - begin, rate)
        kernel[:, taps, taps] += weight * factor[:, None, None]
        bias += norm.bias.numpy() - norm.running_mean.numpy() * factor
    found = block.convolution()
    np.testing.assert_allclose(found.kernel[:, 0], kernel, atol=1e-12)
    np.testing.assert_allclose(found.bias.reshape(-1), bias, atol=1e-12)


@pytest.mark.parametrize("family", [*DENSE, RepDWBlock])
def test_even_kernels_are_refused(family):
    channels = (4,) if family is RepDWBlock else (4, 4)
    with pytest.raises(UsageError, match="must be odd"):
        family(*channels, kernel_size=4)


@pytest.mark.parametrize("family", [ACBlock, DiverseBranchBlock])
def test_kernel_without_surroundings_is_refused(family):
    with pytest.raises(UsageError, match="at least 3"):
        family(4, 4, kernel_size=1)


def test_unknown_dilated_kernel():
    with pytest.raises(UsageError, match="No dilated branches") as info:
        DilatedReparamBlock(4, kernel_size=3)
    assert "5, 7, 9" in info.value.do


def test_no_copies():
    with pytest.raises(UsageError, match="conv_branches must be positive"):
        MobileOneBlock(4, 4, conv_branches=0)


@pytest.mark.parametrize("family", DENSE)
def test_groups_that_do_not_divide(family):
    with pytest.raises(UsageError, match="groups"):
        family(4, 6, groups=4)


@torch.no_grad()
def test_formula_of_the_diverse_branch_block(randomise):
    # Its 1x1 branches as the paper computes them: padded behind the norm.
    x = torch.randn(2, 4, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    block = randomise(DiverseBranchBlock(4, 6, activation=None).double())
    b3, b1, b13, bavg = block.branches.values()

    def padded(branch):
        ring = _norm(branch.norm, torch.zeros(1, branch.out_channels, 1, 1, dtype=x.dtype))
        inside = _norm(branch.norm, functional.conv2d(x, branch.conv.weight))
        return functional.pad(inside - ring, (1, 1, 1, 1)) + ring

    expected = _norm(b3.norm, functional.conv2d(x, b3.conv.weight, padding=1))
    expected += _norm(b1.norm, functional.conv2d(x, b1.conv.weight))
    expected += _norm(b13.then.norm, functional.conv2d(padded(b13.first), b13.then.conv.weight))
    expected += _norm(bavg.then.norm, functional.avg_pool2d(padded(bavg.first), 3, 1))
    torch.testing.assert_close(block(x), expected)
