"""Networks for the tests of the fusion passes, and what these have in common.

Each network is written once, against `Net`, and exists as an ONNX model, which ONNX Runtime can run
as well, and as a Relax module of any layout and type.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from tvm_iovt.frontend.reference import OnnxReference
from tvm_iovt.types import Decision

CONV, TRANSPOSED, DENSE = "relax.nn.conv2d", "relax.nn.conv2d_transpose", "relax.matmul"
BATCH_NORM, ADD = "relax.nn.batch_norm", "relax.add"


class Net(ABC):
    """Operators with random weights; `x` and what they return are opaque."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def weight(self, *shape: int) -> np.ndarray:
        return self.random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))

    def norm(self, channels: int) -> list[np.ndarray]:
        """Gamma, beta, mean, variance."""
        random = self.random
        gamma = random.uniform(0.5, 1.5, channels) * random.choice([-1, 1], channels)
        beta, mean = random.standard_normal((2, channels))
        return [gamma, beta, mean, random.uniform(0.5, 2, channels)]

    def conv(
        self,
        x: Any,
        inputs: int,
        outputs: int,
        size: int | tuple[int, int] = 3,
        *,
        stride: int = 1,
        padding: int | tuple[int, int, int, int] | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> Any:
        """A convolution, padded to keep the size unless told otherwise."""
        size = (size, size) if isinstance(size, int) else size
        if padding is None:
            rows, columns = ((k - 1) * dilation // 2 for k in size)
            padding = (rows, columns, rows, columns)
        elif isinstance(padding, int):
            padding = (padding,) * 4
        weight = self.weight(outputs, inputs // groups, *size)
        offset = self.random.standard_normal(outputs) if bias else None
        return self.conv_of(x, weight, offset, stride, padding, dilation, groups)

    def conv_bn(self, x: Any, inputs: int, outputs: int, *arguments: Any, **keywords: Any) -> Any:
        return self.bn(self.conv(x, inputs, outputs, *arguments, **keywords), outputs)

    def bn(self, x: Any, channels: int) -> Any:
        return self.bn_of(x, self.norm(channels))

    def sum(self, *terms: Any) -> Any:
        total = terms[0]
        for term in terms[1:]:
            total = self.add(total, term)
        return total

    @abstractmethod
    def conv_of(self, x, weight, bias, stride, padding, dilation, groups) -> Any: ...

    @abstractmethod
    def bn_of(self, x, parameters) -> Any: ...

    @abstractmethod
    def add(self, a: Any, b: Any) -> Any: ...

    @abstractmethod
    def relu(self, x: Any) -> Any: ...

    @abstractmethod
    def avg_pool(self, x: Any, size: int = 3, *, stride: int = 1, padding: int = 0) -> Any:
        """An average that counts its padding."""


Body = Callable[[Net, Any], Any]


class OnnxNet(Net):
    """Nodes of an ONNX graph; values are names."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, array: Any) -> str:
        array = np.asarray(array)
        name = f"constant{len(self.constants)}"
        self.constants[name] = array.astype(np.float32) if array.dtype == np.float64 else array
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def conv_of(self, x, weight, bias, stride, padding, dilation, groups) -> str:
        constants = [self.constant(a) for a in (weight, bias) if a is not None]
        return self.node(
            "Conv",
            x,
            *constants,
            strides=[stride] * 2,
            pads=list(padding),
            dilations=[dilation] * 2,
            group=groups,
        )

    def bn_of(self, x: str, parameters: list[np.ndarray]) -> str:
        return self.node("BatchNormalization", x, *map(self.constant, parameters), epsilon=1e-3)

    def add(self, a: str, b: str) -> str:
        return self.node("Add", a, b)

    def relu(self, x: str) -> str:
        return self.node("Relu", x)

    def avg_pool(self, x: str, size: int = 3, *, stride: int = 1, padding: int = 0) -> str:
        return self.node(
            "AveragePool",
            x,
            kernel_shape=[size] * 2,
            strides=[stride] * 2,
            pads=[padding] * 4,
            count_include_pad=1,
        )


def onnx_model(body: Body, shape: tuple[int | str, ...], seed: int = 0) -> onnx.ModelProto:
    """A body of one input `x` as a float32 model with the output `y`."""
    net = OnnxNet(seed)
    result = body(net, "x")
    net.nodes.append(helper.make_node("Identity", [result], ["y"]))
    graph = helper.make_graph(
        net.nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in net.constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return onnx.shape_inference.infer_shapes(model)


class RelaxNet(Net):
    """Bindings of a Relax function; values are variables."""

    def __init__(
        self,
        builder: relax.BlockBuilder,
        layout: str = "NCHW",
        dtype: str = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.builder, self.layout, self.dtype = builder, layout, dtype
        self.kernel_layout = {"NCHW": "OIHW", "NHWC": "HWIO"}[layout]

    def const(self, array: Any) -> Any:
        kind = ml_dtypes.bfloat16 if self.dtype == "bfloat16" else self.dtype
        return relax.const(np.ascontiguousarray(np.asarray(array).astype(kind)), self.dtype)

    def channels(self, array: Any) -> Any:
        """One number a channel, as a constant that broadcasts over images."""
        shape = {"NCHW": (1, -1, 1, 1), "NHWC": (1, 1, 1, -1)}[self.layout]
        return self.const(np.asarray(array, np.float64).reshape(shape))

    def emit(self, expr: Any) -> Any:
        return self.builder.emit(expr)

    def call(self, op: str, *arguments: Any, **attributes: Any) -> Any:
        """`relax.op.OP` of the arguments, bound to a variable."""
        function: Any = relax.op
        for part in op.split("."):
            function = getattr(function, part)
        return self.emit(function(*arguments, **attributes))

    def conv_of(self, x, weight, bias, stride, padding, dilation, groups) -> Any:
        order = ["OIHW".index(axis) for axis in self.kernel_layout]
        result = self.call(
            "nn.conv2d",
            x,
            self.const(weight.transpose(order)),
            strides=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            data_layout=self.layout,
            kernel_layout=self.kernel_layout,
        )
        return result if bias is None else self.add(result, self.channels(bias))

    def bn_of(self, x, parameters, **attributes) -> Any:
        attributes = {
            "axis": self.layout.index("C"),
            "epsilon": 1e-3,
            "training": False,
        } | attributes
        constants = [self.const(p) for p in parameters]
        normed = self.call("nn.batch_norm", x, *constants, **attributes)
        return self.emit(relax.TupleGetItem(normed, 0))

    def add(self, a: Any, b: Any) -> Any:
        return self.call("add", a, b)

    def relu(self, x: Any) -> Any:
        return self.call("nn.relu", x)

    def avg_pool(self, x: Any, size: int = 3, *, stride: int = 1, padding: int = 0) -> Any:
        return self.call(
            "nn.avg_pool2d",
            x,
            pool_size=(size, size),
            strides=(stride, stride),
            padding=padding,
            count_include_pad=True,
            layout=self.layout,
        )


def relax_module(
    body: Callable[..., Any],
    *shapes: tuple[Any, ...],
    layout: str = "NCHW",
    dtype: str = "float32",
    seed: int = 0,
    dataflow: bool = True,
) -> tvm.IRModule:
    """A body as a Relax module; it gets a `RelaxNet` and an input for each shape, NCHW."""
    builder = relax.BlockBuilder()
    order = ["NCHW".index(axis) for axis in layout]
    inputs = [
        relax.Var(
            f"x{i}",
            relax.TensorType([shape[a] for a in order] if len(shape) == 4 else shape, dtype),
        )
        for i, shape in enumerate(shapes)
    ]

    def make() -> Any:
        result = body(RelaxNet(builder, layout, dtype, seed), *inputs)
        return relax.Tuple(result) if isinstance(result, (tuple, list)) else result

    with builder.function("main", inputs):
        if dataflow:
            with builder.dataflow():
                output = builder.emit_output(make())
        else:
            output = builder.emit(make())
        builder.emit_func_output(output)
    return builder.get()


# What the tests look at.


def canonical(mod: tvm.IRModule) -> tvm.IRModule:
    sequence = [relax.transform.CanonicalizeBindings(), relax.transform.DeadCodeElimination()]
    return tvm.transform.Sequential(sequence)(mod)


def assert_equal(found: tvm.IRModule, expected: tvm.IRModule) -> None:
    """Structural equality, constants included, whatever variables are bound in between."""
    tvm.ir.assert_structural_equal(canonical(found), canonical(expected))


def calls(mod: tvm.IRModule, function: str = "main") -> list[Any]:
    found: list[Any] = []

    def visit(expr: Any) -> None:
        if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
            found.append(expr)

    relax.analysis.post_order_visit(mod[function], visit)
    return found


def operators(mod: tvm.IRModule, function: str = "main") -> list[str]:
    return [call.op.name for call in calls(mod, function)]


def count(mod: tvm.IRModule, op: str) -> int:
    return operators(mod).count(op)


def virtual_machine(mod: tvm.IRModule) -> relax.VirtualMachine:
    """To run a module on this machine.

    Most of the time goes into code for a few numbers: LLVM need not optimise it, nor kernels check
    shapes that the module is well-formed in.
    """
    target = tvm.target.Target({"kind": "llvm", "opt-level": 0})
    with tvm.transform.PassContext(config={"tirx.disable_assert": True}):
        return relax.VirtualMachine(tvm.compile(mod, target), tvm.cpu())


def run(mod: tvm.IRModule, *arrays: np.ndarray) -> list[np.ndarray]:
    machine = virtual_machine(mod)
    result = machine["main"](*[tvm.runtime.tensor(a) for a in arrays])
    return [result.numpy()] if hasattr(result, "numpy") else [r.numpy() for r in result]


def inputs_of(mod: tvm.IRModule, batch: int = 2) -> list[np.ndarray]:
    """Random numbers for the parameters of `main`; symbolic sizes become `batch`."""
    random = np.random.default_rng(99)
    arrays = []
    for parameter in mod["main"].params:
        shape = [int(d) if isinstance(d, tvm.tirx.IntImm) else batch for d in parameter.ty.shape]
        arrays.append(random.standard_normal(shape).astype(str(parameter.ty.dtype)))
    return arrays


def assert_close(found: list[np.ndarray], expected: list[np.ndarray], rtol: float = 1e-4) -> None:
    """Largest difference relative to the largest number."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        difference = np.abs(a.astype(np.float64) - b.astype(np.float64)).max()
        assert difference <= rtol * np.abs(b.astype(np.float64)).max()


def assert_same_results(
    after: tvm.IRModule, before: tvm.IRModule, rtol: float = 1e-4, batch: int = 2
) -> None:
    arrays = inputs_of(before, batch)
    assert_close(run(after, *arrays), run(before, *arrays), rtol)


def assert_matches_reference(mod: tvm.IRModule, model: onnx.ModelProto, batch: int = 2) -> None:
    """The results of a module against ONNX Runtime on the model that it was imported from."""
    (x,) = inputs_of(mod, batch)
    assert_close(run(mod, x), [OnnxReference(model)({"x": x})["y"]])


def fuse(
    transform: Any, mod: tvm.IRModule, time: Any = None
) -> tuple[tvm.IRModule, list[Decision]]:
    decisions: list[Decision] = []
    after = transform(decisions.append, time)(mod)
    return after, decisions


def assert_idempotent(transform: Any, mod: tvm.IRModule) -> None:
    once = transform()(mod)
    assert_equal(transform()(once), once)


def refusals(decisions: list[Decision]) -> list[str]:
    return [d.reason for d in decisions if not d.applied]


def assert_left_alone(transform: Any, mod: tvm.IRModule, reason: str, time: Any = None) -> None:
    """Nothing is fused, and one of the refusals says why."""
    after, decisions = fuse(transform, mod, time)
    assert not [d for d in decisions if d.applied]
    assert any(reason in refusal for refusal in refusals(decisions)), decisions
    assert_equal(after, mod)
