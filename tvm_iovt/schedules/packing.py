"""Lowering of convolutions and matrix products to kernels on weights packed at compile time."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_iovt.schedules.border import NO_BORDER, bordered
from tvm_iovt.schedules.convolution import (
    Conv2d,
    border_of,
    conv2d_packed,
    depthwise_packed,
    matmul_packed,
    pack_depthwise_weights,
    pack_matrix,
    pack_weights,
    without_padding,
)
from tvm_iovt.schedules.layout_rules import TO_NCHW, TO_NHWC
from tvm_iovt.schedules.producers import Producers
from tvm_iovt.schedules.selection import Selector
from tvm_iovt.schedules.tensors import (
    array_of,
    constant,
    dtype_of,
    is_constant,
    op_name,
    permutation,
    shape_of,
)
from tvm_iovt.schedules.tiles import (
    ceil_div,
    contraction_tile,
    lanes_of,
    vector_width,
    window_cols,
)
from tvm_iovt.schedules.tvm_api import PyExprMutator, mutator, relax, te, tirx
from tvm_iovt.schedules.winograd import (
    WinogradPlan,
    conv2d_winograd,
    pack_winograd_weights,
)
from tvm_iovt.types import CpuSpec

_OUT_EWISE_FUSABLE = 4
"""Relax's operator pattern of a kernel that element-wise operators may follow."""


_MIN_ROWS_TO_PACK = 8
"""Rows of the left matrix from which packing the right one pays."""


def _pair(values: Any) -> tuple[int, int]:
    first, second = (int(v) for v in values)
    return first, second


@mutator
class PackWeights(PyExprMutator):  # type: ignore[misc]
    """Replaces float32 convolutions and matrix products with constant weights by TE kernels."""

    def __init__(self, mod: Any, cpu: CpuSpec, select: Selector) -> None:
        super().__init__(mod)
        self.cpu = cpu
        self.select = select
        self.producers = Producers(mod["main"])

    def visit_call_(self, call: Any) -> Any:
        """Rewrite one call, or leave it to the default legalisation."""
        image = call.args[0] if call.args else None
        call = self.visit_expr_post_order(call)
        name = op_name(call)
        if name not in ("relax.nn.conv2d", "relax.nn.conv2d_transpose", "relax.matmul"):
            return call
        if any(dtype_of(a) != "float32" for a in call.args):
            return call
        shapes = [shape_of(a) for a in call.args]
        if any(s is None or 0 in s for s in shapes) or dtype_of(call) not in ("", "float32"):
            return call
        if name == "relax.matmul":
            known = is_constant(call.args[1])
            return self._matmul(call) if known else self._matmul_of_activations(call)
        if not is_constant(call.args[1]):
            return call
        if str(call.attrs.data_layout) != "NHWC" or str(call.attrs.out_layout) != "NHWC":
            return call
        if name == "relax.nn.conv2d":
            return self._conv2d(call, alone=self.producers.made_for_one_consumer(image))
        return self._transposed(call)

    def _source(self, data: Any) -> tuple[Any, bool]:
        """The data, or the NCHW image that it is a transposition of; the kernel then reads that."""
        value: Any = self.lookup_binding(data) if isinstance(data, relax.Var) else None
        if op_name(value) == "relax.permute_dims" and permutation(value) == TO_NHWC:
            return value.args[0], True
        return data, False

    def _kernel(self, hint: str, build: Any, *args: Any) -> Any:
        return self.builder_.call_te(
            build,
            *args,
            primfunc_name_hint=hint,
            primfunc_attrs={"op_pattern": _OUT_EWISE_FUSABLE},
        )

    def _with_border(self, data: Any, conv: Conv2d, rows: int, cols: int) -> tuple[Any, Conv2d]:
        """The data with the zeros that `rows x cols` outputs need, made by its producer."""
        border = border_of(conv, rows, cols)
        if border == NO_BORDER:
            return data, conv

        def pad(image: Any) -> Any:
            return bordered(image, border)

        marked = self.builder_.call_te(pad, data, primfunc_name_hint="bordered")
        return self.builder_.emit(marked), without_padding(conv, border)

    def _conv2d(self, call: Any, *, alone: bool = False) -> Any:
        a = call.attrs
        weights = array_of(call.args[1])
        batch, rows, cols, channels = shape_of(call.args[0]) or (0, 0, 0, 0)
        top, left, bottom, right = (int(v) for v in a.padding)
        conv = Conv2d(
            batch=batch,
            in_size=(rows, cols),
            in_channels=channels,
            out_channels=weights.shape[0],
            kernel=_pair(weights.shape[2:]),
            strides=_pair(a.strides),
            padding=(top, left, bottom, right),
            dilation=_pair(a.dilation),
            groups=int(a.groups),
        )
        if conv.is_depthwise:
            return self._depthwise(call, conv, alone=alone)
        return self._dense(call, conv, alone=alone)

    def _dense(self, call: Any, conv: Conv2d, *, alone: bool) -> Any:
        weights = array_of(call.args[1])
        kernel = self.select(conv, weights)
        if isinstance(kernel, WinogradPlan):
            return self._winograd(call, conv, kernel, weights, alone=alone)
        tile = kernel
        packed = pack_weights(weights, conv.groups, tile.channels)
        data, channels_first = self._source(call.args[0])
        if channels_first and conv.kernel == (1, 1):
            data, channels_first = call.args[0], False
        if alone and conv.groups == 1 and not channels_first:
            height, width = conv.out_size
            rows = ceil_div(height, tile.rows) * tile.rows
            cols = ceil_div(width, tile.cols) * tile.cols
            data, conv = self._with_border(data, conv, rows, cols)

        def conv2d(image: Any, weight: Any) -> Any:
            return conv2d_packed(image, weight, conv, tile, channels_first=channels_first)

        return self._kernel("conv2d", conv2d, data, constant(packed, "float32"))

    def _winograd(
        self, call: Any, conv: Conv2d, plan: WinogradPlan, weights: np.ndarray, *, alone: bool
    ) -> Any:
        packed = pack_winograd_weights(weights, conv, plan)
        data, channels_first = self._source(call.args[0])
        if alone and not channels_first:
            data, conv = self._with_border(data, conv, *plan.canvas)

        def conv2d(image: Any, weight: Any) -> Any:
            return conv2d_winograd(image, weight, conv, plan, channels_first=channels_first)

        return self._kernel("conv2d_winograd", conv2d, data, constant(packed, "float32"))

    def _depthwise(self, call: Any, conv: Conv2d, *, alone: bool) -> Any:
        lanes = lanes_of(self.cpu)
        channels = conv.out_channels
        width = vector_width(channels, lanes)
        if channels // width > 2 * ceil_div(channels, lanes):
            channels, width = ceil_div(channels, lanes) * lanes, lanes
        packed = pack_depthwise_weights(array_of(call.args[1]), channels)
        data = call.args[0]
        height, breadth = conv.out_size
        cols = window_cols(breadth, conv.kernel[0] * conv.kernel[1], self.cpu)
        if alone and channels == conv.out_channels:
            covered = ceil_div(breadth, cols) * cols
            data, conv = self._with_border(data, conv, height, covered)

        def depthwise_conv2d(image: Any, weight: Any) -> Any:
            return depthwise_packed(image, weight, conv, cols, width)

        return self._kernel("depthwise_conv2d", depthwise_conv2d, data, constant(packed, "float32"))

    def _transposed(self, call: Any) -> Any:
        """Transposed convolution as a convolution over an image with zeros between the pixels.

        Where windows do not overlap (kernel = stride) every input pixel yields a block of outputs:
        a 1x1 convolution followed by a rearrangement, without any zeros.
        """
        a = call.attrs
        weights = array_of(call.args[1])
        in_channels, out_channels, *_ = weights.shape
        kernel, strides = _pair(weights.shape[2:]), _pair(a.strides)
        dilation, extra = _pair(a.dilation), _pair(a.output_padding)
        padding = tuple(int(v) for v in a.padding)
        batch, rows, cols, _ = shape_of(call.args[0]) or (0, 0, 0, 0)
        if kernel == strides and dilation == (1, 1) and extra == (0, 0) and not any(padding):
            pointwise = weights.transpose(2, 3, 1, 0).reshape(-1, in_channels, 1, 1)
            blocks = self.builder_.emit(
                self._conv2d(
                    self.builder_.normalize(
                        relax.op.nn.conv2d(
                            call.args[0],
                            constant(pointwise, "float32"),
                            data_layout="NHWC",
                            kernel_layout="OIHW",
                        )
                    )
                )
            )
            split = self.builder_.emit(
                relax.op.reshape(blocks, (batch, rows, cols, *kernel, out_channels))
            )
            placed = self.builder_.emit(relax.op.permute_dims(split, [0, 1, 3, 2, 4, 5]))
            return relax.op.reshape(
                placed, (batch, rows * kernel[0], cols * kernel[1], out_channels)
            )
        flipped = np.ascontiguousarray(weights[:, :, ::-1, ::-1].transpose(1, 0, 2, 3))
        spread = (
            (rows - 1) * strides[0] + 1 + extra[0],
            (cols - 1) * strides[1] + 1 + extra[1],
        )
        reach = tuple((kernel[i] - 1) * dilation[i] for i in (0, 1))
        conv = Conv2d(
            batch=batch,
            in_size=spread,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel=kernel,
            strides=(1, 1),
            padding=(
                reach[0] - padding[0],
                reach[1] - padding[1],
                reach[0] - padding[2],
                reach[1] - padding[3],
            ),
            dilation=dilation,
            groups=1,
        )
        image = self.builder_.emit(
            self.builder_.call_te(
                _spread_pixels, call.args[0], spread, strides, primfunc_name_hint="spread_pixels"
            )
        )
        tile = contraction_tile(*conv.out_size, out_channels, self.cpu)
        packed = pack_weights(flipped, 1, tile.channels)

        def conv2d_transpose(data: Any, weight: Any) -> Any:
            return conv2d_packed(data, weight, conv, tile)

        return self._kernel(
            "conv2d_transpose", conv2d_transpose, image, constant(packed, "float32")
        )

    def _matmul(self, call: Any) -> Any:
        weights = array_of(call.args[1])
        lead = (shape_of(call.args[0]) or ())[:-1]
        if weights.ndim != 2 or not lead:
            return call
        data = call.args[0]
        image = self._flattened_image(data)
        if image is not None:
            rows, cols, channels = (shape_of(image) or ())[1:]
            data = self.builder_.emit(relax.op.reshape(image, shape_of(data)))
            weights = weights.reshape(channels, rows, cols, -1).transpose(1, 2, 0, 3)
            weights = weights.reshape(rows * cols * channels, -1)
        depth, out_features = weights.shape
        tile = contraction_tile(1, lead[-1], out_features, self.cpu)
        packed = pack_weights(weights.T.reshape(out_features, depth, 1, 1), 1, tile.channels)

        def matmul(data: Any, weight: Any) -> Any:
            return matmul_packed(data, weight, out_features, tile)

        return self._kernel("matmul", matmul, data, constant(packed[:, 0, 0], "float32"))

    def _flattened_image(self, data: Any) -> Any | None:
        """The NHWC image whose NCHW form a matrix (N, C * H * W) is, if it is one.

        A dense layer can take its pixels in any order: its weights are put into that order.
        """
        flat: Any = self.lookup_binding(data) if isinstance(data, relax.Var) else None
        if op_name(flat) not in ("relax.reshape", "relax.flatten"):
            return None
        source = flat.args[0]
        moved: Any = self.lookup_binding(source) if isinstance(source, relax.Var) else None
        if op_name(moved) != "relax.permute_dims" or permutation(moved) != TO_NCHW:
            return None
        shape, matrix = shape_of(source), shape_of(data)
        if shape is None or matrix is None or len(shape) != 4:
            return None
        return moved.args[0] if matrix == (shape[0], shape[1] * shape[2] * shape[3]) else None

    def _matmul_of_activations(self, call: Any) -> Any:
        """A product of two activations: the right one is packed at run time, a linear pass."""
        left, right = shape_of(call.args[0]) or (), shape_of(call.args[1]) or ()
        if len(left) < 2 or left[:-2] != right[:-2] or left[-2] < _MIN_ROWS_TO_PACK:
            return call
        tile = contraction_tile(1, left[-2], right[-1], self.cpu)

        def matmul(data: Any, panels: Any) -> Any:
            return matmul_packed(data, panels, right[-1], tile)

        def pack(matrix: Any) -> Any:
            return pack_matrix(matrix, tile)

        panels = self.builder_.emit(
            self.builder_.call_te(pack, call.args[1], primfunc_name_hint="pack_matrix")
        )
        return self._kernel("matmul", matmul, call.args[0], panels)


def _spread_pixels(data: Any, size: tuple[int, int], strides: tuple[int, int]) -> Any:
    """NHWC image with zeros between (and after) its pixels."""
    batch, rows, cols, channels = data.shape
    zero = tirx.const(0, data.dtype)

    def element(n: Any, h: Any, w: Any, c: Any) -> Any:
        on_grid = tirx.all(
            h % strides[0] == 0,
            w % strides[1] == 0,
            h // strides[0] < rows,
            w // strides[1] < cols,
        )
        value = data(n, h // strides[0], w // strides[1], c)
        return tirx.if_then_else(on_grid, value, zero)

    return te.compute((batch, *size, channels), element, name="spread_pixels")


def pack_constant_weights(mod: Any, cpu: CpuSpec, select: Selector) -> Any:
    """Lower the convolutions and matrix products of `main` that have constant float32 weights.

    Args:
        mod: A module after `propagate_channels_last`.
        cpu: What the tiles are chosen for.
        select: Chooses the kernels of convolutions that are not depthwise.
    """
    packed = PackWeights(mod, cpu, select)
    function = packed.visit_expr(mod["main"])
    mod = packed.builder_.get()
    mod["main"] = function
    return relax.transform.DeadCodeElimination()(mod)
