import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

from tvm_iovt.errors import UsageError  # noqa: E402
from tvm_iovt.fusion.convolution import InexactError, apply  # noqa: E402
from tvm_iovt.nn.branch import (  # noqa: E402
    ConvBranch,
    IdentityBranch,
    PoolBranch,
    SequentialBranch,
)

BRANCHES = {
    "3x3": lambda: ConvBranch(6, 4, 3),
    "without norm": lambda: ConvBranch(6, 4, 3, norm=False),
    "bias": lambda: ConvBranch(6, 4, 3, bias=True),
    "bias without norm": lambda: ConvBranch(6, 4, 3, bias=True, norm=False),
    "strides": lambda: ConvBranch(6, 4, 5, stride=(2, 1), groups=2),
    "asymmetric": lambda: ConvBranch(6, 6, (1, 5), groups=6),
    "dilated": lambda: ConvBranch(6, 4, 3, dilation=3, stride=2),
    "dilations": lambda: ConvBranch(6, 4, (3, 2), dilation=(2, 3), padding=(2, 1)),
    "identity": lambda: IdentityBranch(6),
    "raw identity": lambda: IdentityBranch(6, norm=False),
    "pool": lambda: PoolBranch(6, 3),
    "raw pool": lambda: PoolBranch(6, (3, 5), stride=2, norm=False),
    "1x1 then 3x3": lambda: SequentialBranch(
        ConvBranch(6, 8, 1, padding=1, groups=2), ConvBranch(8, 4, 3, padding=0, stride=2)
    ),
    "1x1 then pool": lambda: SequentialBranch(
        ConvBranch(6, 4, 1, padding=1), PoolBranch(4, 3, padding=0)
    ),
    "1x1 then raw pool": lambda: SequentialBranch(
        ConvBranch(6, 4, 1, padding=1), PoolBranch(4, 3, padding=0, norm=False)
    ),
    "3x3 then 3x3": lambda: SequentialBranch(
        ConvBranch(6, 8, 3, padding=2, stride=2), ConvBranch(8, 4, 3, padding=0, stride=2)
    ),
    "biases": lambda: SequentialBranch(
        ConvBranch(6, 8, 1, padding=2, bias=True, norm=False),
        ConvBranch(8, 4, 5, padding=0, bias=True, norm=False),
    ),
}


@pytest.fixture(params=BRANCHES)
def branch(request, randomise):
    return randomise(BRANCHES[request.param]().double())


def image(branch, hw=(11, 8)):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, branch.in_channels, *hw, dtype=torch.float64, generator=generator)


def test_branch_is_its_convolution(branch):
    x = image(branch)
    with torch.no_grad():
        expected = branch(x).numpy()
    operator = branch.convolution()
    assert operator.kernel.dtype == np.float64
    found = apply(operator, x.numpy())
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-10 * np.abs(expected).max()
    # The bias is one number a channel: no branch needs a map along the border.
    assert not operator.has_bias_map


def test_facts_agree_with_the_result(branch):
    y = branch(image(branch))
    assert branch.result_hw((11, 8)) == tuple(y.shape[2:])
    assert branch.out_channels == y.shape[1]
    operator = branch.convolution()
    assert operator.extent == branch.extent
    assert operator.strides == branch.stride
    assert operator.padding == branch.padding * 2
    assert operator.groups == branch.groups


def test_multiply(branch):
    x = image(branch)
    with torch.no_grad():
        before = branch(x)
        possible = branch.multiply(torch.tensor(-1.5, dtype=torch.float64))
        after = branch(x)
    assert possible == bool(list(branch.parameters()))
    torch.testing.assert_close(after, -1.5 * before if possible else before)


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("3x3", 2 * 6 * 4 * 9 * 88),
        ("strides", 2 * 3 * 4 * 25 * 6 * 8),
        ("asymmetric", 2 * 6 * 5 * 88),
        ("identity", 2 * 6 * 88),
        ("raw identity", 2 * 6 * 88),
        ("pool", 2 * 6 * 9 * 88),
        ("1x1 then 3x3", 2 * 3 * 8 * 13 * 10 + 2 * 8 * 4 * 9 * 6 * 4),
    ],
)
def test_flops(name, flops):
    assert BRANCHES[name]().flops((11, 8)) == flops


@pytest.mark.parametrize("second", ["3x3", "avg"])
def test_padding_before_the_1x1_is_what_the_paper_pads(second, randomise):
    # arXiv 2103.13425 pads behind the first norm, with what that norm gives for zeros.
    then = ConvBranch(5, 7, 3, padding=0) if second == "3x3" else PoolBranch(5, 3, padding=0)
    branch = randomise(SequentialBranch(ConvBranch(4, 5, 1, padding=1), then).double())
    x = image(branch)
    conv, norm = branch.first.conv, branch.first.norm
    with torch.no_grad():
        middle = norm(functional.conv2d(x, conv.weight))
        ring = norm(torch.zeros(1, 5, 1, 1, dtype=torch.float64))
        padded = ring.expand(2, 5, 13, 10).clone()
        padded[:, :, 1:-1, 1:-1] = middle
        torch.testing.assert_close(branch(x), then(padded), rtol=1e-12, atol=1e-12)
        # Zeros there would be another function.
        zeros = then(functional.pad(middle, (1, 1, 1, 1)))
        assert (branch(x) - zeros).abs().max() > 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvBranch(0, 4, 3), "in_channels must be positive"),
        (lambda: ConvBranch(4, -1, 3), "out_channels must be positive"),
        (lambda: ConvBranch(4, 4, 3, groups=0), "groups must be positive"),
        (lambda: ConvBranch(4, 6, 3, groups=4), "groups of a convolution must divide"),
        (lambda: ConvBranch(4, 4, 0), "kernel_size must be positive"),
        (lambda: ConvBranch(4, 4, (3, 0)), "kernel_size must be positive"),
        (lambda: ConvBranch(4, 4, 3, stride=0), "stride must be positive"),
        (lambda: ConvBranch(4, 4, 3, dilation=0), "dilation must be positive"),
        (lambda: ConvBranch(4, 4, 3, padding=-1), "padding must not be negative"),
        (lambda: PoolBranch(4, 3, padding=2), "at most half"),
        (lambda: PoolBranch(0, 3), "channels must be positive"),
        (lambda: IdentityBranch(0), "channels must be positive"),
        (lambda: SequentialBranch(ConvBranch(4, 4, 1), ConvBranch(4, 4, 3)), "must not pad"),
        (
            lambda: SequentialBranch(ConvBranch(4, 5, 1), ConvBranch(4, 4, 1)),
            "in sequence do not fit",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def spoil(tensor, value):
    with torch.no_grad():
        tensor.view(-1)[1] = value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", ["conv.weight", "conv.bias", "norm.weight", "norm.bias", "norm.running_mean"]
)
def test_values_that_are_not_finite(name, value):
    branch = ConvBranch(4, 4, 3, bias=True)
    spoil(branch.state_dict()[name], value)
    with pytest.raises(InexactError, match="NaN or infinite"):
        branch.convolution()


def test_variance_of_zero_needs_epsilon():
    branch = IdentityBranch(4)
    spoil(branch.norm.running_var, 0.0)
    branch.convolution()
    branch.norm.eps = 0.0
    with pytest.raises(InexactError, match="variance of zero"):
        branch.convolution()


def test_norm_without_running_statistics():
    branch = ConvBranch(4, 4, 3)
    branch.norm = torch.nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(InexactError, match="no running statistics"):
        branch.convolution()


def test_norm_without_weights_of_its_own():
    branch = ConvBranch(4, 4, 3).double().eval()
    branch.norm = torch.nn.BatchNorm2d(4, affine=False).double().eval()
    branch.norm.running_mean.fill_(0.5)
    x = image(branch)
    with torch.no_grad():
        expected = branch(x).numpy()
    np.testing.assert_allclose(apply(branch.convolution(), x.numpy()), expected, atol=1e-12)
