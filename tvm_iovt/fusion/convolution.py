"""Linear operators of a vision network in one normal form, and the two ways to combine them.

Convolutions, batch norms, per-channel scales, average pools, paddings, crops and the identity are
all instances of

    y[o, p] = bias[o, p] + sum of kernel[o, i, t] * x[i, p * stride + t * dilation - pad] over i, t

where `x` is zero outside its borders. `compose` applies one after another and `add` sums parallel
ones; every re-parameterization (RepVGG arXiv 2101.03697, ACNet 1908.03930, DBB 2103.13425,
MobileOne 2206.04040, RepViT 2307.09283, UniRepLKNet 2311.15599, QARepVGG 2212.01593) is a sequence
of these two. All arithmetic is float64: results agree with the original to about 1e-13.

The positions of the kernel's taps are kept exactly, so that branches need not be centred: a branch
with other paddings, a cropped input or a dilated kernel lands where it reads.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Pair = tuple[int, int]


class InexactError(Exception):
    """The operators cannot be combined without changing the result; the text is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Convolution:
    """A linear operator from `[N, I, H, W]` to `[N, O, H', W']`.

    Attributes:
        kernel: `[O, I / groups, kh, kw]`, float64.
        bias: `[O, 1, 1]`, or `[O, H', W']` when it differs from place to place.
        strides: Along height and width.
        padding: Zeros at the top, left, bottom and right; negative numbers crop.
        dilation: Distance between the kernel's taps, along height and width.
        groups: Number of independent slices of the channels.
    """

    kernel: Array
    bias: Array
    strides: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        assert self.kernel.ndim == 4, self.kernel.shape
        assert self.bias.ndim == 3, self.bias.shape
        assert self.bias.shape[0] == self.out_channels, (self.bias.shape, self.kernel.shape)
        assert self.out_channels % self.groups == 0, (self.out_channels, self.groups)

    @property
    def out_channels(self) -> int:
        """Channels of the result."""
        return int(self.kernel.shape[0])

    @property
    def in_channels(self) -> int:
        """Channels of the operand."""
        return int(self.kernel.shape[1]) * self.groups

    @property
    def size(self) -> Pair:
        """Taps along height and width."""
        return int(self.kernel.shape[2]), int(self.kernel.shape[3])

    @property
    def extent(self) -> Pair:
        """Pixels that the kernel spans along height and width."""
        (kh, kw), (dh, dw) = self.size, self.dilation
        return (kh - 1) * dh + 1, (kw - 1) * dw + 1

    @property
    def is_pointwise(self) -> bool:
        """Whether the kernel has a single tap."""
        return self.size == (1, 1)

    @property
    def has_bias(self) -> bool:
        """Whether the bias is not zero everywhere."""
        return bool(self.bias.any())

    @property
    def has_bias_map(self) -> bool:
        """Whether the bias differs from place to place."""
        return self.bias.shape[1:] != (1, 1)

    @property
    def is_identity(self) -> bool:
        """Whether the result is the operand."""
        if not self.is_pointwise or self.groups != self.out_channels or self.has_bias:
            return False
        unmoved = self.strides == (1, 1) and self.padding == (0, 0, 0, 0)
        return unmoved and self.in_channels == self.out_channels and bool((self.kernel == 1).all())

    def result_hw(self, hw: Pair) -> Pair:
        """Height and width of the result for an operand of that height and width."""
        top, left, bottom, right = self.padding
        height = (hw[0] + top + bottom - self.extent[0]) // self.strides[0] + 1
        width = (hw[1] + left + right - self.extent[1]) // self.strides[1] + 1
        return height, width

    def flops(self, result_hw: Pair) -> int:
        """FLOPs for one image, a multiply-add counted as two, zero taps included."""
        return 2 * self.kernel.size * math.prod(result_hw)


def identity(channels: int) -> Convolution:
    """The operator that returns its operand."""
    return scale(np.ones(channels), np.zeros(channels))


def scale(factor: npt.ArrayLike, shift: npt.ArrayLike) -> Convolution:
    """`x * factor + shift` with one number a channel."""
    factors = np.asarray(factor, np.float64)
    return Convolution(
        kernel=factors.reshape(-1, 1, 1, 1),
        bias=np.asarray(shift, np.float64).reshape(-1, 1, 1),
        groups=factors.size,
    )


def batch_norm(
    gamma: npt.ArrayLike,
    beta: npt.ArrayLike,
    mean: npt.ArrayLike,
    variance: npt.ArrayLike,
    epsilon: float,
) -> Convolution:
    """Batch normalization with its running statistics (arXiv 1502.03167), one number a channel.

    Raises:
        InexactError: A channel's variance plus epsilon is not positive, or a parameter is not
            finite.
    """
    g, b, m, v = (np.asarray(a, np.float64).reshape(-1) for a in (gamma, beta, mean, variance))
    if not all(np.isfinite(a).all() for a in (g, b, m, v)):
        raise InexactError("the batch norm has NaN or infinite parameters")
    if (v + epsilon <= 0).any():
        raise InexactError("the batch norm has a variance of zero and no epsilon")
    factor = g / np.sqrt(v + epsilon)
    return scale(factor, b - m * factor)


def pad(channels: int, padding: tuple[int, int, int, int]) -> Convolution:
    """Zeros around the operand: top, left, bottom, right; negative numbers crop."""
    return dataclasses.replace(identity(channels), padding=padding)


def average_pool(
    channels: int, size: Pair, strides: Pair, padding: tuple[int, int, int, int]
) -> Convolution:
    """Average over windows that count the padding."""
    return Convolution(
        kernel=np.full((channels, 1, *size), 1.0 / math.prod(size)),
        bias=np.zeros((channels, 1, 1)),
        strides=strides,
        padding=padding,
        groups=channels,
    )


def compose(first: Convolution, then: Convolution, middle_hw: Pair | None = None) -> Convolution:
    """`then(first(x))` as one operator.

    `then` pads the result of `first` with zeros, where `first` itself would go on to give its bias
    (and, if its kernel has several taps, more). A padded bias therefore becomes a bias that differs
    along the border: exact, at the price of a constant tensor.

    Args:
        first: Applied first.
        then: Applied to its result.
        middle_hw: Height and width of that result; needed only for a bias that is padded.

    Raises:
        InexactError: `then` pads (or crops) what `first` computes from several taps, the bias
            needs an unknown `middle_hw`, or the number of channels differs.
    """
    if then.in_channels != first.out_channels:
        raise InexactError(f"{first.out_channels} channels go into {then.in_channels}")
    if _is_affine(then):
        factor = then.kernel.reshape(-1, 1, 1)
        bias = first.bias * factor + then.bias
        return dataclasses.replace(first, kernel=first.kernel * factor[..., np.newaxis], bias=bias)
    pads = any(p > 0 for p in then.padding)
    if pads and not first.is_pointwise:
        raise InexactError("the second operator pads what the first computes from several pixels")
    if pads and any(p < 0 for p in first.padding):
        raise InexactError("the second operator pads what the first has cropped")
    if _is_affine(first):
        factors = first.kernel.reshape(then.groups, 1, -1, 1, 1)
        grouped = then.kernel.reshape(then.groups, -1, *then.kernel.shape[1:])
        return dataclasses.replace(
            then,
            kernel=(grouped * factors).reshape(then.kernel.shape),
            bias=_composed_bias(first, then, middle_hw),
        )
    groups = math.gcd(first.groups, then.groups)
    dilation, size = _composed_grid(first, then)
    kernel = np.zeros((then.out_channels, first.in_channels // groups, *size))
    inner, outer = regroup(first, groups).kernel, regroup(then, groups).kernel
    inner = inner.reshape(groups, -1, *inner.shape[1:])
    outer = outer.reshape(groups, -1, *outer.shape[1:])
    for row in range(then.size[0]):
        for column in range(then.size[1]):
            product = np.einsum("gom,gmihw->goihw", outer[..., row, column], inner, optimize=True)
            rows = _taps_of(first, row * then.dilation[0], 0, dilation[0])
            columns = _taps_of(first, column * then.dilation[1], 1, dilation[1])
            kernel[:, :, rows, columns] += product.reshape(-1, *product.shape[2:])
    (sh, sw), (top, left, bottom, right) = first.strides, then.padding
    moved = (sh * top, sw * left, sh * bottom, sw * right)
    padding = tuple(p + q for p, q in zip(first.padding, moved, strict=True))
    return Convolution(
        kernel=kernel,
        bias=_composed_bias(first, then, middle_hw),
        strides=(sh * then.strides[0], sw * then.strides[1]),
        padding=(padding[0], padding[1], padding[2], padding[3]),
        dilation=(dilation[0], dilation[1]),
        groups=groups,
    )


def composed_kernel_size(first: Convolution, then: Convolution) -> int:
    """Elements of the kernel that `compose` would make, without making it."""
    _, size = _composed_grid(first, then)
    groups = math.gcd(first.groups, then.groups)
    return then.out_channels * (first.in_channels // groups) * math.prod(size)


def add(operators: Sequence[Convolution]) -> Convolution:
    """The sum of operators that read one tensor and give tensors of one shape.

    Raises:
        InexactError: Strides or channels differ, or the operators do not end at the same place.
    """
    first = operators[0]
    if len({c.strides for c in operators}) > 1:
        raise InexactError("the strides differ")
    if len({(c.out_channels, c.in_channels) for c in operators}) > 1:
        raise InexactError("the numbers of channels differ")
    groups = math.gcd(*(c.groups for c in operators))
    slack = [_slack(c) for c in operators]
    for axis in (0, 1):
        if first.strides[axis] == 1 and len({s[axis] for s in slack}) > 1:
            raise InexactError("the branches give results of different sizes")
    axes = [_merge_axis(operators, axis, max(s[axis] for s in slack)) for axis in (0, 1)]
    kernel = np.zeros((first.out_channels, first.in_channels // groups, axes[0].taps, axes[1].taps))
    for operator in operators:
        (row, row_step), (column, column_step) = (axis.place(operator) for axis in axes)
        kh, kw = operator.size
        kernel[
            :,
            :,
            row : row + (kh - 1) * row_step + 1 : row_step,
            column : column + (kw - 1) * column_step + 1 : column_step,
        ] += regroup(operator, groups).kernel
    bias = sum((c.bias for c in operators[1:]), first.bias)
    return Convolution(
        kernel=kernel,
        bias=np.asarray(bias),
        strides=first.strides,
        padding=(axes[0].before, axes[1].before, axes[0].after, axes[1].after),
        dilation=(axes[0].dilation, axes[1].dilation),
        groups=groups,
    )


def added_kernel_size(operators: Sequence[Convolution]) -> int:
    """Elements of the kernel that `add` would make, without making it."""
    slack = [_slack(c) for c in operators]
    rows, columns = (_merge_axis(operators, axis, max(s[axis] for s in slack)) for axis in (0, 1))
    groups = math.gcd(*(c.groups for c in operators))
    first = operators[0]
    return first.out_channels * (first.in_channels // groups) * rows.taps * columns.taps


def negate(operator: Convolution) -> Convolution:
    """The operator with its result's sign changed."""
    return dataclasses.replace(operator, kernel=-operator.kernel, bias=-operator.bias)


def regroup(operator: Convolution, groups: int) -> Convolution:
    """The same operator with fewer groups; `groups` divides its own."""
    if groups == operator.groups:
        return operator
    assert operator.groups % groups == 0, (operator.groups, groups)
    merged = operator.groups // groups
    outputs, inputs = operator.out_channels // operator.groups, operator.kernel.shape[1]
    blocks = operator.kernel.reshape(groups, merged, outputs, inputs, *operator.size)
    kernel = np.zeros((groups, merged, outputs, merged, inputs, *operator.size))
    for block in range(merged):
        kernel[:, block, :, block] = blocks[:, block]
    shape = (operator.out_channels, merged * inputs, *operator.size)
    return dataclasses.replace(operator, kernel=kernel.reshape(shape), groups=groups)


def apply(operator: Convolution, x: npt.NDArray[Any]) -> Array:
    """The operator on `[N, I, H, W]`, in float64; for constants and as an oracle, not for speed."""
    top, left, bottom, right = (max(p, 0) for p in operator.padding)
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    crops = [max(-p, 0) for p in operator.padding]
    padded = padded[
        :,
        :,
        crops[0] : padded.shape[2] - crops[2],
        crops[1] : padded.shape[3] - crops[3],
    ]
    height, width = operator.result_hw((x.shape[2], x.shape[3]))
    groups = operator.groups
    grouped = padded.reshape(x.shape[0], groups, -1, *padded.shape[2:])
    kernel = operator.kernel.reshape(groups, -1, *operator.kernel.shape[1:])
    total = np.zeros((x.shape[0], groups, kernel.shape[1], height, width))
    for row in range(operator.size[0]):
        for column in range(operator.size[1]):
            y, z = row * operator.dilation[0], column * operator.dilation[1]
            window = grouped[
                :,
                :,
                :,
                y : y + (height - 1) * operator.strides[0] + 1 : operator.strides[0],
                z : z + (width - 1) * operator.strides[1] + 1 : operator.strides[1],
            ]
            total += np.einsum("goi,ngihw->ngohw", kernel[..., row, column], window, optimize=True)
    return np.asarray(total.reshape(x.shape[0], -1, height, width) + operator.bias)


def _is_affine(operator: Convolution) -> bool:
    """Whether each pixel of a channel is scaled and shifted alone, wherever it is."""
    unmoved = operator.strides == (1, 1) and operator.padding == (0, 0, 0, 0)
    alone = operator.kernel.shape[1] == 1 and operator.in_channels == operator.out_channels
    return operator.is_pointwise and alone and unmoved


def _composed_grid(first: Convolution, then: Convolution) -> tuple[Pair, Pair]:
    """Dilation and number of taps, along height and width, of one after the other."""
    (dy, kh), (dx, kw) = (
        _grid([sf * tap * dt + at * df for tap in range(kt) for at in range(kf)])
        for sf, kt, dt, kf, df in zip(
            first.strides, then.size, then.dilation, first.size, first.dilation, strict=True
        )
    )
    return (dy, dx), (kh, kw)


def _taps_of(first: Convolution, moved: int, axis: int, dilation: int) -> slice:
    """Where the taps of `first` lie in a composed kernel, for a reader `moved` pixels on."""
    begin = moved * first.strides[axis] // dilation
    step = max(first.dilation[axis] // dilation, 1)
    return slice(begin, begin + (first.size[axis] - 1) * step + 1, step)


def _composed_bias(first: Convolution, then: Convolution, middle_hw: Pair | None) -> Array:
    """The bias of `first` as `then` passes it on, and the bias of `then`."""
    if not first.has_bias:
        return then.bias
    moved = any(then.padding) or first.has_bias_map
    if not moved:
        groups = then.groups
        inputs = first.bias.reshape(groups, -1)
        sums = then.kernel.sum(axis=(2, 3)).reshape(groups, -1, inputs.shape[1])
        return np.asarray(np.einsum("goi,gi->go", sums, inputs).reshape(-1, 1, 1) + then.bias)
    if middle_hw is None:
        raise InexactError("the second operator pads a bias, and the image size is not static")
    middle = np.broadcast_to(first.bias, (first.out_channels, *middle_hw))
    bias = np.asarray(apply(then, middle[np.newaxis])[0])
    constant = bias[:, :1, :1]
    return constant.copy() if (bias == constant).all() else bias


def _slack(operator: Convolution) -> Pair:
    """By how many pixels the padded operand exceeds one window, without the operand's own size."""
    top, left, bottom, right = operator.padding
    return top + bottom - operator.extent[0], left + right - operator.extent[1]


@dataclass(frozen=True, slots=True)
class _Axis:
    """The taps of a merged kernel along one axis."""

    axis: int
    taps: int
    dilation: int
    before: int
    after: int

    def place(self, operator: Convolution) -> Pair:
        """The first tap of a branch in the merged kernel, and the step between its taps."""
        begin = self.before - operator.padding[self.axis]
        assert begin % self.dilation == 0
        step = max(operator.dilation[self.axis] // self.dilation, 1)
        return begin // self.dilation, step


def _merge_axis(operators: Sequence[Convolution], axis: int, slack: int) -> _Axis:
    # Offset of every tap from the pixel that an unpadded window begins at.
    offsets = [
        tap * c.dilation[axis] - c.padding[axis] for c in operators for tap in range(c.size[axis])
    ]
    # A kernel cannot begin behind that pixel, so cropped branches get taps of zero.
    lowest = min(0, *offsets)
    dilation, taps = _grid([offset - lowest for offset in (*offsets, lowest)])
    before = -lowest
    after = slack + (taps - 1) * dilation + 1 - before
    if after < 0:
        if dilation > 1:
            dilation, taps = 1, (taps - 1) * dilation + 1
        taps, after = taps - after, 0
    return _Axis(axis=axis, taps=taps, dilation=dilation, before=before, after=after)


def _grid(positions: Sequence[int]) -> Pair:
    """Step and number of taps of the coarsest grid from 0 that holds all positions."""
    step = math.gcd(*positions)
    if step == 0:
        return 1, 1
    return step, max(positions) // step + 1
