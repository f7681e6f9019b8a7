from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tvm_iovt.fusion import convolution as algebra
from tvm_iovt.fusion.convolution import Convolution, InexactError, Pair, add, compose, identity

GROUPS = (1, 2, 4)
few = settings(max_examples=40, deadline=None)


def oracle(operator: Convolution, x: np.ndarray) -> np.ndarray:
    """The definition in the module's docstring, one output pixel and one tap at a time."""
    height, width = operator.result_hw((x.shape[2], x.shape[3]))
    outputs = operator.out_channels // operator.groups
    inputs = operator.kernel.shape[1]
    y = np.zeros((x.shape[0], operator.out_channels, height, width))
    taps = list(itertools.product(range(operator.size[0]), range(operator.size[1])))
    for o, p, q in itertools.product(range(operator.out_channels), range(height), range(width)):
        group = o // outputs
        for a, b in taps:
            row = p * operator.strides[0] + a * operator.dilation[0] - operator.padding[0]
            column = q * operator.strides[1] + b * operator.dilation[1] - operator.padding[1]
            if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                pixel = x[:, group * inputs : (group + 1) * inputs, row, column]
                y[:, o, p, q] += pixel @ operator.kernel[o, :, a, b]
    return y + operator.bias


def random_operator(
    seed: int,
    inputs: int,
    outputs: int,
    *,
    size: Pair = (3, 3),
    groups: int = 1,
    bias: bool = True,
    **geometry: object,
) -> Convolution:
    random = np.random.default_rng(seed)
    return Convolution(
        kernel=random.standard_normal((outputs, inputs // groups, *size)),
        bias=random.standard_normal((outputs, 1, 1)) * bias,
        groups=groups,
        **geometry,  # type: ignore[arg-type]
    )


def image(seed: int, channels: int, hw: Pair) -> np.ndarray:
    return np.random.default_rng(seed + 1000).standard_normal((2, channels, *hw))


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
paddings = st.tuples(*[st.integers(-2, 3)] * 4)
positive = st.tuples(*[st.integers(0, 3)] * 4)
sizes_hw = st.tuples(st.integers(5, 10), st.integers(5, 10))


@st.composite
def operators(
    draw: st.DrawFn,
    inputs: int,
    outputs: int,
    *,
    size: st.SearchStrategy[Pair] = pairs,
    padding: st.SearchStrategy[tuple[int, int, int, int]] = paddings,
) -> Convolution:
    return random_operator(
        draw(st.integers(0, 9999)),
        inputs,
        outputs,
        size=draw(size),
        groups=draw(st.sampled_from(GROUPS)),
        bias=draw(st.booleans()),
        strides=draw(pairs),
        padding=draw(padding),
        dilation=draw(pairs),
    )


# One operator.


@few
@given(operators(4, 8), sizes_hw)
def test_apply_is_the_definition(operator, hw) -> None:
    assume(min(operator.result_hw(hw)) > 0)
    x = image(0, 4, hw)
    np.testing.assert_allclose(algebra.apply(operator, x), oracle(operator, x), atol=1e-12)


def test_sizes_of_the_result() -> None:
    def size(hw, kernel=(3, 3), **geometry):
        return random_operator(0, 2, 2, size=kernel, **geometry).result_hw(hw)

    assert size((8, 8)) == (6, 6)
    assert size((8, 7), padding=(1, 1, 1, 1), strides=(2, 2)) == (4, 4)
    assert size((9, 9), padding=(0, 1, 2, 0), dilation=(2, 1)) == (7, 8)
    assert size((9, 9), kernel=(1, 2), padding=(-1, -2, -3, 0)) == (5, 6)


def test_flops_count_a_multiply_add_as_two() -> None:
    operator = random_operator(0, 4, 6, groups=2)
    assert operator.flops((5, 7)) == 2 * 6 * 2 * 9 * 35


def test_only_the_identity_is_the_identity() -> None:
    same = identity(3)
    x = image(0, 3, (4, 5))
    np.testing.assert_array_equal(algebra.apply(same, x), x)
    assert same.is_identity
    others = [
        algebra.scale([1, 1, 2], [0, 0, 0]),
        algebra.scale([1, 1, 1], [0, 1, 0]),
        algebra.pad(3, (1, 0, 0, 0)),
        dataclasses.replace(same, strides=(1, 2)),
        Convolution(kernel=np.ones((3, 3, 1, 1)), bias=np.zeros((3, 1, 1))),
        Convolution(kernel=np.ones((6, 1, 1, 1)), bias=np.zeros((6, 1, 1)), groups=3),
        Convolution(kernel=np.ones((3, 1, 3, 1)), bias=np.zeros((3, 1, 1)), groups=3),
    ]
    assert not any(operator.is_identity for operator in others)


def test_scale_has_one_number_a_channel() -> None:
    x = image(1, 3, (2, 2))
    factor, shift = np.array([2.0, -1.0, 0.0]), np.array([0.5, 0.0, 3.0])
    expected = x * factor[:, None, None] + shift[:, None, None]
    np.testing.assert_allclose(algebra.apply(algebra.scale(factor, shift), x), expected)


def test_batch_norm_is_its_formula() -> None:
    random = np.random.default_rng(0)
    gamma, beta, mean = random.standard_normal((3, 4))
    variance = random.uniform(0.1, 2, 4)
    operator = algebra.batch_norm(gamma, beta, mean, variance, 1e-3)
    x = image(2, 4, (3, 3))
    g, b, m, v = (a[:, None, None] for a in (gamma, beta, mean, variance))
    expected = g * (x - m) / np.sqrt(v + 1e-3) + b
    np.testing.assert_allclose(algebra.apply(operator, x), expected, atol=1e-13)


@pytest.mark.parametrize("parameter", range(4))
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_batch_norm_with_a_parameter_that_is_not_finite_is_refused(parameter, value) -> None:
    parameters = [np.ones(3) for _ in range(4)]
    parameters[parameter][1] = value
    with pytest.raises(InexactError, match="NaN"):
        algebra.batch_norm(*parameters, 1e-5)


@pytest.mark.parametrize(("variance", "epsilon"), [(0.0, 0.0), (-1e-3, 1e-5)])
def test_batch_norm_without_a_variance_is_refused(variance, epsilon) -> None:
    with pytest.raises(InexactError, match="variance"):
        algebra.batch_norm([1, 1], [0, 0], [0, 0], [1, variance], epsilon)


def test_variance_of_zero_is_fine_with_an_epsilon() -> None:
    operator = algebra.batch_norm([1.0], [0.0], [0.0], [0.0], 1e-4)
    assert operator.kernel.item() == pytest.approx(100)


def test_average_pool_counts_its_padding() -> None:
    pool = algebra.average_pool(1, (3, 3), (1, 1), (1, 1, 1, 1))
    found = algebra.apply(pool, np.full((1, 1, 3, 3), 9.0))[0, 0]
    np.testing.assert_allclose(found, [[4, 6, 4], [6, 9, 6], [4, 6, 4]])


def test_padding_and_cropping_are_inverse() -> None:
    x = image(3, 2, (4, 5))
    padded = algebra.apply(algebra.pad(2, (1, 2, 0, 3)), x)
    assert padded.shape == (2, 2, 5, 10)
    np.testing.assert_array_equal(algebra.apply(algebra.pad(2, (-1, -2, 0, -3)), padded), x)


@few
@given(st.integers(0, 99), st.sampled_from([(4, 4), (4, 2), (4, 1), (2, 1), (8, 2)]))
def test_fewer_groups_are_the_same_operator(seed, groups) -> None:
    before, after = groups
    operator = random_operator(seed, 8, 16, groups=before, padding=(1, 1, 1, 1))
    regrouped = algebra.regroup(operator, after)
    assert regrouped.groups == after
    assert regrouped.kernel.shape == (16, 8 // after, 3, 3)
    x = image(seed, 8, (4, 4))
    np.testing.assert_allclose(algebra.apply(regrouped, x), algebra.apply(operator, x), atol=1e-12)


def test_negation() -> None:
    operator = random_operator(4, 2, 3)
    x = image(4, 2, (5, 5))
    expected = -algebra.apply(operator, x)
    np.testing.assert_array_equal(algebra.apply(algebra.negate(operator), x), expected)


# One after another.


def assert_composes(first: Convolution, then: Convolution, hw: Pair) -> Convolution:
    middle = first.result_hw(hw)
    total = compose(first, then, middle)
    x = image(5, first.in_channels, hw)
    expected = algebra.apply(then, algebra.apply(first, x))
    # A convolution cannot crop, so a fused operator is written without negative paddings.
    for form in (total, add([total])):
        assert form.result_hw(hw) == expected.shape[2:]
        np.testing.assert_allclose(algebra.apply(form, x), expected, rtol=0, atol=1e-10)
    assert min(add([total]).padding) >= 0
    return total


@few
@given(operators(4, 8), operators(8, 4, padding=st.tuples(*[st.integers(-2, 0)] * 4)), sizes_hw)
def test_composition_without_padding_between(first, then, hw) -> None:
    assume(min(first.result_hw(hw)) > 0 and min(then.result_hw(first.result_hw(hw))) > 0)
    assert_composes(first, then, hw)


@few
@given(
    operators(4, 8, size=st.just((1, 1)), padding=positive),
    operators(8, 4),
    sizes_hw,
)
def test_composition_of_a_pointwise_operator_with_a_padded_one(first, then, hw) -> None:
    assume(min(then.result_hw(first.result_hw(hw))) > 0)
    assert_composes(first, then, hw)


@few
@given(operators(8, 4), st.booleans(), sizes_hw)
def test_composition_of_a_scale_keeps_the_groups(then, shifted, hw) -> None:
    assume(min(then.result_hw(hw)) > 0)
    first = algebra.scale(np.arange(8) - 3, np.arange(8) * shifted)
    total = assert_composes(first, then, hw)
    assert (total.groups, total.padding, total.dilation) == (
        then.groups,
        then.padding,
        then.dilation,
    )


@few
@given(operators(4, 4), operators(4, 4), sizes_hw)
def test_whatever_is_not_refused_is_exact(first, then, hw) -> None:
    assume(min(first.result_hw(hw)) > 0 and min(then.result_hw(first.result_hw(hw))) > 0)
    padded = max(then.padding) > 0
    if padded and (not first.is_pointwise or min(first.padding) < 0):
        with pytest.raises(InexactError, match="pads what the first"):
            compose(first, then, first.result_hw(hw))
        return
    assert_composes(first, then, hw)


@few
@given(
    st.integers(0, 99),
    st.sampled_from([(4, 4), (1, 4), (4, 1), (2, 4), (1, 1)]),
    st.integers(1, 2),
)
def test_groups_of_a_composition_are_the_common_ones(seed, groups, multiplier) -> None:
    first = random_operator(seed, 8, 8 * multiplier, groups=groups[0])
    then = random_operator(seed + 1, 8 * multiplier, 4, groups=groups[1])
    assert assert_composes(first, then, (7, 6)).groups == math.gcd(*groups)


def test_three_in_a_row() -> None:
    parts = [
        random_operator(1, 3, 6, size=(1, 1)),
        random_operator(2, 6, 6, groups=3, padding=(1, 0, 2, 1)),
        random_operator(3, 6, 2, size=(2, 3), strides=(2, 1)),
    ]
    x = image(6, 3, (9, 8))
    expected, total = algebra.apply(parts[0], x), parts[0]
    for part in parts[1:]:
        total = compose(total, part, expected.shape[2:])
        expected = algebra.apply(part, expected)
    np.testing.assert_allclose(algebra.apply(total, x), expected, atol=1e-10)


def test_several_taps_under_padding_are_refused() -> None:
    first, then = random_operator(1, 2, 2), random_operator(2, 2, 2, padding=(0, 1, 0, 0))
    with pytest.raises(InexactError, match="pads what the first computes from several pixels"):
        compose(first, then, (6, 6))


def test_padding_what_was_cropped_is_refused() -> None:
    with pytest.raises(InexactError, match="cropped"):
        compose(algebra.pad(2, (-1, -1, -1, -1)), random_operator(2, 2, 2, padding=(1,) * 4))


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(InexactError, match="4 channels go into 2"):
        compose(random_operator(1, 2, 4), random_operator(2, 2, 2))


class TestPaddedBias:
    """Padding is zero where the first operator would go on with its bias."""

    first = random_operator(1, 3, 4, size=(1, 1))
    then = random_operator(2, 4, 5, padding=(1, 1, 1, 1))

    def test_it_becomes_a_map_that_differs_along_the_border(self) -> None:
        total = assert_composes(self.first, self.then, (6, 7))
        assert total.has_bias_map
        assert total.bias.shape == (5, 6, 7)
        inside = total.bias[:, 1:-1, 1:-1]
        np.testing.assert_allclose(inside, np.broadcast_to(inside[:, :1, :1], inside.shape))
        assert not np.allclose(total.bias[:, 0], total.bias[:, 1])

    def test_the_image_size_must_be_known(self) -> None:
        with pytest.raises(InexactError, match="not static"):
            compose(self.first, self.then)

    def test_without_a_bias_the_image_size_does_not_matter(self) -> None:
        first = random_operator(1, 3, 4, size=(1, 1), bias=False)
        assert not compose(first, self.then).has_bias_map

    def test_without_padding_the_image_size_does_not_matter(self) -> None:
        total = compose(self.first, dataclasses.replace(self.then, padding=(0,) * 4))
        assert not total.has_bias_map

    def test_a_map_that_is_the_same_everywhere_is_no_map(self) -> None:
        # Windows of which none reaches the border.
        cropped = dataclasses.replace(self.then, padding=(-1,) * 4)
        assert not compose(self.first, cropped, (6, 7)).has_bias_map

    def test_a_map_goes_through_what_follows(self) -> None:
        total = compose(self.first, self.then, (6, 7))
        for after in (
            algebra.scale(np.arange(5), np.ones(5)),
            random_operator(7, 5, 5, size=(1, 1), strides=(2, 2)),
            random_operator(8, 5, 2, size=(2, 2)),
        ):
            assert_composes(total, after, (6, 7))

    def test_a_map_adds_to_the_bias_of_another_branch(self) -> None:
        total = compose(self.first, self.then, (6, 7))
        other = random_operator(9, 3, 5, size=(1, 1))
        assert_adds([total, other], (6, 7))


# Next to one another.


def assert_adds(branches: list[Convolution], hw: Pair) -> Convolution:
    total = add(branches)
    x = image(7, branches[0].in_channels, hw)
    expected = sum(algebra.apply(branch, x) for branch in branches)
    assert total.result_hw(hw) == expected.shape[2:]
    assert min(total.padding) >= 0
    np.testing.assert_allclose(algebra.apply(total, x), expected, rtol=0, atol=1e-10)
    return total


@st.composite
def parallel(draw: st.DrawFn) -> tuple[list[Convolution], Pair]:
    """Operators of one stride whose results have one size, wherever they read."""
    hw, strides = draw(sizes_hw), draw(pairs)
    result = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    branches = []
    for _ in range(draw(st.integers(2, 4))):
        size, dilation = draw(pairs), draw(pairs)
        begin = (draw(st.integers(-2, 3)), draw(st.integers(-2, 3)))
        end = [
            # A stride leaves up to stride - 1 pixels over at the end.
            (result[axis] - 1) * strides[axis]
            + (size[axis] - 1) * dilation[axis]
            + 1
            - hw[axis]
            - begin[axis]
            + draw(st.integers(0, strides[axis] - 1))
            for axis in (0, 1)
        ]
        branches.append(
            random_operator(
                draw(st.integers(0, 9999)),
                4,
                8,
                size=size,
                dilation=dilation,
                strides=strides,
                groups=draw(st.sampled_from(GROUPS)),
                padding=(*begin, *end),
            )
        )
    return branches, hw


@few
@given(parallel())
def test_branches_add_wherever_they_read(case) -> None:
    branches, hw = case
    # Cropping more than the image is the one thing that has no result.
    assume(all(hw[0] + min(b.padding[0], 0) + min(b.padding[2], 0) > 0 for b in branches))
    assume(all(hw[1] + min(b.padding[1], 0) + min(b.padding[3], 0) > 0 for b in branches))
    assert_adds(branches, hw)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("hw", [(6, 6), (7, 5)])
def test_repvgg_branches_are_one_3x3(stride, groups, hw) -> None:
    strides = (stride, stride)
    branches = [
        random_operator(1, 8, 8, groups=groups, strides=strides, padding=(1,) * 4),
        random_operator(2, 8, 8, size=(1, 1), groups=groups, strides=strides),
    ]
    if stride == 1:
        branches.append(identity(8))
    total = assert_adds(branches, hw)
    assert (total.size, total.padding, total.groups) == ((3, 3), (1, 1, 1, 1), groups)


def test_acnet_branches_stay_within_the_square_kernel() -> None:
    branches = [
        random_operator(1, 3, 4, padding=(1, 1, 1, 1)),
        random_operator(2, 3, 4, size=(1, 3), padding=(0, 1, 0, 1)),
        random_operator(3, 3, 4, size=(3, 1), padding=(1, 0, 1, 0)),
    ]
    assert assert_adds(branches, (5, 6)).size == (3, 3)


def test_dilation_is_kept_where_the_taps_allow() -> None:
    dilated = random_operator(1, 4, 4, dilation=(2, 2), padding=(2, 2, 2, 2))
    total = assert_adds([dilated, random_operator(2, 4, 4, size=(1, 1)), identity(4)], (7, 7))
    assert (total.size, total.dilation) == ((3, 3), (2, 2))


def test_dilated_branches_lie_in_a_large_dense_kernel() -> None:
    # UniRepLKNet: 13x13, and k = (5, 7, 3, 3, 3) at r = (1, 2, 3, 4, 5), depthwise.
    branches = [
        random_operator(
            seed, 4, 4, size=(k, k), groups=4, dilation=(r, r), padding=(r * (k - 1) // 2,) * 4
        )
        for seed, (k, r) in enumerate([(13, 1), (5, 1), (7, 2), (3, 3), (3, 4), (3, 5)])
    ]
    total = assert_adds(branches, (15, 14))
    assert (total.size, total.dilation, total.groups) == ((13, 13), (1, 1), 4)


def test_branches_of_two_dilations_meet_on_a_common_grid() -> None:
    branches = [
        random_operator(1, 2, 2, dilation=(2, 2), padding=(2,) * 4),
        random_operator(2, 2, 2, dilation=(4, 4), padding=(4,) * 4),
    ]
    total = assert_adds(branches, (9, 9))
    assert (total.size, total.dilation) == ((5, 5), (2, 2))
    odd = random_operator(3, 2, 2, dilation=(3, 3), padding=(3,) * 4)
    assert add([*branches, odd]).dilation == (1, 1)


def test_cropped_branch_joins_an_unpadded_one() -> None:
    # 3x3 without padding, and a 1x1 on the input less one pixel all round.
    crop = algebra.pad(4, (-1, -1, -1, -1))
    small = compose(crop, random_operator(2, 4, 4, size=(1, 1)))
    total = assert_adds([random_operator(1, 4, 4), small], (7, 8))
    assert (total.size, total.padding) == ((3, 3), (0, 0, 0, 0))


def test_groups_of_a_sum_are_the_common_ones() -> None:
    branches = [random_operator(i, 8, 8, size=(1, 1), groups=g) for i, g in enumerate((8, 4, 2))]
    assert assert_adds(branches, (3, 3)).groups == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"strides": (2, 1)}, "strides"),
        ({"padding": (1, 1, 1, 0)}, "different sizes"),
        ({"dilation": (2, 2)}, "different sizes"),
        ({"kernel": np.ones((2, 4, 3, 3)), "bias": np.ones((2, 1, 1))}, "channels"),
        ({"kernel": np.ones((4, 2, 3, 3))}, "channels"),
    ],
)
def test_branches_that_do_not_match_are_refused(changes, reason) -> None:
    first = random_operator(1, 4, 4, padding=(1, 1, 1, 1))
    with pytest.raises(InexactError, match=reason):
        add([first, dataclasses.replace(first, **changes)])


@few
@given(operators(4, 4), sizes_hw)
def test_one_branch_is_itself(operator, hw) -> None:
    assume(min(operator.result_hw(hw)) > 0)
    assert_adds([operator], hw)


def test_a_branch_and_its_negative_vanish() -> None:
    operator = random_operator(1, 4, 4)
    total = add([operator, algebra.negate(operator)])
    assert not total.kernel.any()
    assert not total.has_bias
