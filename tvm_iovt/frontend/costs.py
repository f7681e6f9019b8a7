"""Work and memory traffic of every operator of an ONNX graph with static shapes.

The counts feed a roofline model (Williams, Waterman, Patterson 2009, doi 10.1145/1498765.1498785):
FLOPs are those of the textbook algorithm, whatever the implementation (Winograd, FFT) does, and
bytes are the compulsory traffic, every tensor crossing the memory bus once.

FLOPs of the elementary operations follow McMahon's Livermore Fortran Kernels (UCRL-53745, 1986):
add, subtract, multiply, compare 1; divide and square root 4; exponential and the other
transcendental functions 8. A bias is free, because the accumulator starts at it instead of at zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import onnx
from onnx import shape_inference

from tvm_iovt.types import OpCost

_DIVISION = 4
_TRANSCENDENTAL = 8


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


MULTIPLY_ADD_OPS = frozenset(
    {
        "Conv",
        "ConvInteger",
        "ConvTranspose",
        "Gemm",
        "MatMul",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
    }
)
"""Operators made of multiply-adds alone: their FLOPs are twice their MACs."""

VIEW_OPS = frozenset(
    {
        "Dropout",  # the identity at inference
        "Flatten",
        "Identity",
        "Reshape",
        "Shape",
        "Size",
        "Squeeze",
        "Unsqueeze",
    }
)
"""Operators that a compiler resolves without touching the elements."""

# Copies of elements: traffic and no arithmetic.
_MOVE_OPS = frozenset(
    {
        "Cast",
        "CastLike",
        "Concat",
        "ConstantOfShape",
        "DepthToSpace",
        "Expand",
        "EyeLike",
        "Gather",
        "GatherElements",
        "GatherND",
        "Pad",
        "Range",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Tile",
        "Transpose",
    }
)

# These read only as much of their first input as they write.
_SELECTING_OPS = frozenset({"Gather", "GatherElements", "GatherND", "Slice"})

# FLOPs an output element.
_ELEMENTWISE: dict[str, int] = {
    **dict.fromkeys(
        _names(
            "Abs And Add BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil Equal "
            "Floor Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Mul Neg Not Or Relu "
            "Round Sign Sub Trilu Where Xor"
        ),
        1,
    ),
    **dict.fromkeys(_names("Clip LeakyRelu PRelu Shrink ThresholdedRelu"), 2),
    **dict.fromkeys(_names("Div Mod Reciprocal Sqrt"), _DIVISION),
    **dict.fromkeys(
        _names(
            "Acos Acosh Asin Asinh Atan Atanh Cos Cosh Erf Exp Log Pow Sigmoid Sin Sinh "
            "Softplus Tan Tanh"
        ),
        _TRANSCENDENTAL,
    ),
    **dict.fromkeys(_names("Celu Elu Selu"), _TRANSCENDENTAL + 2),  # exp, subtract, scale
    "Softsign": _DIVISION + 2,
    "HardSigmoid": 4,  # multiply, add, two bounds
    "HardSwish": 5,  # HardSigmoid and a multiply
    "Swish": _TRANSCENDENTAL + 1,
    "Gelu": _TRANSCENDENTAL + 4,  # x/2 * (1 + erf(x / sqrt 2))
    "Mish": 2 * _TRANSCENDENTAL + 1,  # x * tanh(softplus(x))
    "BatchNormalization": 2,  # folded to a scale and a shift at inference
    "QuantizeLinear": 5,  # scale, round, add the zero point, two bounds
    "DynamicQuantizeLinear": 7,  # and the minimum and maximum of the input
    "DequantizeLinear": 2,  # subtract the zero point, scale
    "Softmax": _TRANSCENDENTAL + _DIVISION + 3,  # maximum, subtract, exp, sum, divide
    "LogSoftmax": _TRANSCENDENTAL + 4,  # maximum, subtract, exp, sum, subtract
    "Hardmax": 2,
    # Mean, centre, square and sum (2), normalise, scale, shift.
    **dict.fromkeys(_names("GroupNormalization InstanceNormalization LayerNormalization"), 7),
    "MeanVarianceNormalization": 5,
    "RMSNormalization": 4,  # square and sum (2), normalise, scale
    "LpNormalization": 2 + _DIVISION,
}

# FLOPs an input element.
_REDUCTIONS: dict[str, int] = {
    **dict.fromkeys(
        _names(
            "ArgMax ArgMin CumSum GlobalAveragePool GlobalMaxPool ReduceMax ReduceMean "
            "ReduceMin ReduceProd ReduceSum ReduceLogSum"
        ),
        1,
    ),
    **dict.fromkeys(_names("GlobalLpPool ReduceL1 ReduceL2 ReduceSumSquare"), 2),
    "ReduceLogSumExp": _TRANSCENDENTAL + 1,
}

# The arithmetic happens in the type of the first input, not in that of the output.
_INPUT_TYPED_OPS = frozenset(
    _names(
        "ArgMax ArgMin ConvInteger DynamicQuantizeLinear Equal Greater GreaterOrEqual "
        "IsInf IsNaN Less LessOrEqual MatMulInteger QuantizeLinear"
    )
)

_NONDETERMINISTIC_OPS = frozenset(
    _names("Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike")
)

_BITS_OF_PACKED_TYPES = {
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    getattr(onnx.TensorProto, "FLOAT4E2M1", -1): 4,
}


@dataclass(frozen=True, slots=True)
class _Tensor:
    shape: tuple[int, ...]
    elem_type: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        bits = _BITS_OF_PACKED_TYPES.get(self.elem_type)
        if bits is None:
            bits = 8 * onnx.helper.tensor_dtype_to_np_dtype(self.elem_type).itemsize
        return (self.elements * bits + 7) // 8

    @property
    def dtype(self) -> str:
        return str(onnx.helper.tensor_dtype_to_np_dtype(self.elem_type).name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over a graph.

    Attributes:
        operators: Number of operators.
        unknown: Operators whose cost is not known; nothing below includes them.
        flops: FLOPs of one inference.
        macs: Multiply-adds of convolutions and matrix products.
        parameters: Elements of the model's constants, `int64` excluded: those are shapes and
            axes.
        bytes: Compulsory memory traffic when no two operators are fused.
    """

    operators: int
    unknown: int
    flops: int
    macs: int
    parameters: int
    bytes: int


def operator_costs(model: onnx.ModelProto) -> tuple[OpCost, ...]:
    """Count FLOPs and bytes of every node, in the order of the graph.

    `Constant` nodes are not operators. An operator that reads constants only is folded by the
    compiler and costs nothing; its result is a weight of the operators that read it, in its own
    dtype. An operator that cannot be costed (a shape that is not static, control flow, an operator
    without a formula here) has zero cost and the empty string as its dtype; see `is_unknown`.

    Args:
        model: A model of less than 2 GB whose input shapes are fixed.

    Returns:
        One `OpCost` a node; `index` is the position in `model.graph.node` and `name` the node's
        name, or that of its first output if it has none.
    """
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    tensors = _tensors(graph)
    constants = {initializer.name for initializer in graph.initializer}
    costs = []
    for index, node in enumerate(graph.node):
        if node.op_type == "Constant":
            constants.update(node.output)
            continue
        cost, constant = _node_cost(index, node, tensors, constants)
        costs.append(cost)
        if constant:
            constants.update(node.output)
    return tuple(costs)


def is_unknown(cost: OpCost) -> bool:
    """Whether `operator_costs` could not cost the operator."""
    return cost.dtype == ""


def totals(costs: Sequence[OpCost], model: onnx.ModelProto) -> Totals:
    """Sum the costs of a model's operators and count its parameters."""
    return Totals(
        operators=len(costs),
        unknown=sum(map(is_unknown, costs)),
        flops=sum(cost.flops for cost in costs),
        macs=sum(cost.flops // 2 for cost in costs if cost.op in MULTIPLY_ADD_OPS),
        parameters=parameter_count(model),
        bytes=sum(cost.bytes_in + cost.bytes_out + cost.bytes_weights for cost in costs),
    )


def parameter_count(model: onnx.ModelProto) -> int:
    """Elements of the initializers and `Constant` nodes, shapes and axes (`int64`) excluded."""
    held = list(model.graph.initializer)
    held += [
        attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    ]
    return sum(
        math.prod(tensor.dims) for tensor in held if tensor.data_type != onnx.TensorProto.INT64
    )


def _tensors(graph: onnx.GraphProto) -> dict[str, _Tensor]:
    """Every tensor whose shape is static, by name."""
    tensors = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
            continue
        dims = kind.shape.dim
        if all(dim.HasField("dim_value") for dim in dims) and _is_numeric(kind.elem_type):
            tensors[value.name] = _Tensor(tuple(dim.dim_value for dim in dims), kind.elem_type)
    for initializer in graph.initializer:
        if _is_numeric(initializer.data_type):
            tensors[initializer.name] = _Tensor(tuple(initializer.dims), initializer.data_type)
    return tensors


def _is_numeric(elem_type: int) -> bool:
    return elem_type not in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING)


def _node_cost(
    index: int, node: onnx.NodeProto, tensors: dict[str, _Tensor], constants: set[str]
) -> tuple[OpCost, bool]:
    """The cost of a node, and whether its outputs are constants."""
    name = node.name or next(filter(None, node.output), node.op_type)
    standard = node.domain in ("", "ai.onnx")
    op = node.op_type if standard else f"{node.domain}.{node.op_type}"
    used = list(dict.fromkeys(filter(None, node.input)))
    made = list(filter(None, node.output))

    # MaxPool's indices, Dropout's mask and the like are optional and may lack a shape.
    output = tensors.get(made[0]) if made else None
    known = output is not None and all(tensor in tensors for tensor in used)
    constant = known and _is_constant(node, used, constants)
    flops = 0
    if known and not constant and op not in VIEW_OPS:
        counted = _flops(node, tensors) if standard else None
        known, flops = counted is not None, counted or 0
    if output is None or not known:
        shape = output.shape if output is not None else ()
        return _cost(index, name, op, dtype="", shape_out=shape), False

    typed = tensors[used[0]] if op in _INPUT_TYPED_OPS else output
    if constant or op in VIEW_OPS:
        return _cost(index, name, op, dtype=typed.dtype, shape_out=output.shape), constant

    bytes_out = sum(tensors[tensor].nbytes for tensor in made if tensor in tensors)
    sizes = {tensor: tensors[tensor].nbytes for tensor in used}
    if op in _SELECTING_OPS:
        sizes[used[0]] = min(sizes[used[0]], bytes_out)
    return _cost(
        index,
        name,
        op,
        flops=flops,
        bytes_in=sum(size for tensor, size in sizes.items() if tensor not in constants),
        bytes_out=bytes_out,
        bytes_weights=sum(size for tensor, size in sizes.items() if tensor in constants),
        dtype=typed.dtype,
        shape_out=output.shape,
    ), False


def _cost(
    index: int,
    name: str,
    op: str,
    *,
    dtype: str,
    shape_out: tuple[int, ...],
    flops: int = 0,
    bytes_in: int = 0,
    bytes_out: int = 0,
    bytes_weights: int = 0,
) -> OpCost:
    return OpCost(
        index=index,
        name=name,
        op=op,
        flops=flops,
        bytes_in=bytes_in,
        bytes_out=bytes_out,
        bytes_weights=bytes_weights,
        dtype=dtype,
        shape_out=shape_out,
    )


def _is_constant(node: onnx.NodeProto, used: Iterable[str], constants: set[str]) -> bool:
    if node.op_type in _NONDETERMINISTIC_OPS:
        return False
    # The shape of a tensor is a constant even when the tensor is not.
    return node.op_type in ("Shape", "Size") or (
        bool(node.input) and all(tensor in constants for tensor in used)
    )


def _flops(node: onnx.NodeProto, tensors: dict[str, _Tensor]) -> int | None:
    """FLOPs of a standard operator whose shapes are known; None without a formula."""
    op = node.op_type
    inputs = [tensors[tensor] if tensor else None for tensor in node.input]
    output = tensors[next(filter(None, node.output))]
    if op in _MOVE_OPS:
        return 0
    if op in _ELEMENTWISE:
        return _ELEMENTWISE[op] * output.elements
    if op in ("Max", "Mean", "Min", "Sum"):
        return max(len(inputs) - 1, 0) * output.elements
    first = inputs[0] if inputs else None
    if first is None:
        return None
    if op in _REDUCTIONS:
        return _REDUCTIONS[op] * first.elements
    formula = _FORMULAS.get(op)
    if formula is None:
        return None
    try:
        return formula(node, inputs, first, output)
    except (IndexError, ValueError):
        # Declared shapes of a rank that the operator does not allow.
        return None


_Formula = Callable[[onnx.NodeProto, "list[_Tensor | None]", _Tensor, _Tensor], int]


def _conv(
    node: onnx.NodeProto, inputs: list[_Tensor | None], first: _Tensor, output: _Tensor
) -> int:
    # The weight is [out, in / groups, *kernel]: every output element is a dot product with one
    # filter, whatever the stride, the dilation or the number of groups.
    weight = _required(inputs, 3 if node.op_type == "QLinearConv" else 1)
    return 2 * output.elements * math.prod(weight.shape[1:])


def _conv_transpose(
    node: onnx.NodeProto, inputs: list[_Tensor | None], first: _Tensor, output: _Tensor
) -> int:
    # The weight is [in, out / groups, *kernel]: every input element is scattered through it.
    weight = _required(inputs, 1)
    return 2 * first.elements * math.prod(weight.shape[1:])


def _gemm(
    node: onnx.NodeProto, inputs: list[_Tensor | None], first: _Tensor, output: _Tensor
) -> int:
    return 2 * output.elements * first.shape[0 if _int_attribute(node, "transA", 0) else 1]


def _matmul(
    node: onnx.NodeProto, inputs: list[_Tensor | None], first: _Tensor, output: _Tensor
) -> int:
    # Batch axes broadcast into the output, so the output already counts them.
    return 2 * output.elements * first.shape[-1]


def _pool(
    node: onnx.NodeProto, inputs: list[_Tensor | None], first: _Tensor, output: _Tensor
) -> int:
    kernel = _attribute(node, "kernel_shape")
    return output.elements * math.prod(kernel.ints if kernel is not None else ())


def _local_response(
    node: onnx.NodeProto, inputs: list[_Tensor | None], first: _Tensor, output: _Tensor
) -> int:
    # Squares summed over a window of channels, scale and shift, power, divide.
    window = _int_attribute(node, "size", 1)
    return output.elements * (2 * window + 2 + _TRANSCENDENTAL + _DIVISION)


def _resize(
    node: onnx.NodeProto, inputs: list[_Tensor | None], first: _Tensor, output: _Tensor
) -> int:
    # One multiply-add a tap: 2 taps along every resized axis for linear (4 a pixel for bilinear),
    # 4 for cubic; nearest only copies.
    mode = _attribute(node, "mode")
    taps = {b"linear": 2, b"cubic": 4}.get(mode.s if mode is not None else b"nearest", 0)
    axes = sum(a != b for a, b in zip(first.shape, output.shape, strict=True))
    return 2 * output.elements * taps**axes if taps and axes else 0


_FORMULAS: dict[str, _Formula] = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "QLinearConv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "AveragePool": _pool,
    "LpPool": _pool,
    "MaxPool": _pool,
    "LRN": _local_response,
    "Resize": _resize,
    "Upsample": _resize,
}


def _required(inputs: list[_Tensor | None], position: int) -> _Tensor:
    tensor = inputs[position]
    if tensor is None:
        raise IndexError(position)
    return tensor


def _attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto | None:
    return next((attribute for attribute in node.attribute if attribute.name == name), None)


def _int_attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    attribute = _attribute(node, name)
    return default if attribute is None else int(attribute.i)
