"""Whole modules: what is rounded, what stays exact, and what is stored how."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from relay_passes import graph_passes
from tvm_iovt import host_cpu
from tvm_iovt.errors import TargetError, UsageError
from tvm_iovt.frontend.reference import OnnxReference
from tvm_iovt.schedules.cpu import lower_for_cpu
from tvm_iovt.schedules.dot_instructions import BF16, VNNI
from tvm_iovt.types import CpuSpec

needs_bf16 = pytest.mark.skipif(
    BF16.feature not in host_cpu.flags(), reason=f"this CPU has no {BF16.feature}"
)
needs_vnni = pytest.mark.skipif(
    VNNI.feature not in host_cpu.flags(), reason=f"this CPU has no {VNNI.feature}"
)


@pytest.fixture(scope="session")
def cpu(cpus: dict[str, CpuSpec]) -> CpuSpec:
    return dataclasses.replace(cpus["avx512"], features=(BF16.feature, VNNI.feature))


class Model:
    """A graph under construction; every method returns the name of its result."""

    def __init__(self, *shape: int) -> None:
        self.rng = np.random.default_rng(3)
        self.shape, self.nodes, self.constants = shape, [], {}

    def constant(self, value: Any) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def weight(self, *shape: int) -> np.ndarray:
        scale = 1 / np.sqrt(np.prod(shape[1:]))
        return (self.rng.standard_normal(shape) * scale).astype(np.float32)

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, **attributes: Any) -> str:
        groups = attributes.get("group", 1)
        w = self.constant(self.weight(outputs, inputs // groups, kernel, kernel))
        b = self.constant(self.weight(outputs, 1).reshape(-1))
        return self.node("Conv", x, w, b, pads=[kernel // 2] * 4, **attributes)

    def quantize(self, x: str, scale: float, zero: Any) -> str:
        """Quantized and back."""
        s, z = self.constant(np.float32(scale)), self.constant(zero)
        q = self.node("QuantizeLinear", x, s, z)
        return self.node("DequantizeLinear", q, s, z)

    def dequantized(self, shape: tuple[int, ...], axis: int = 0) -> tuple[str, np.ndarray]:
        """int8 weights with a scale for each output."""
        w = self.constant(self.rng.integers(-128, 128, shape).astype(np.int8))
        scale = self.rng.uniform(0.001, 0.02, shape[axis]).astype(np.float32)
        zeros = self.constant(np.zeros(shape[axis], np.int8))
        return self.node("DequantizeLinear", w, self.constant(scale), zeros, axis=axis), scale

    def build(self, *outputs: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "test",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        return onnx.shape_inference.infer_shapes(model)


class Lowered:
    """A model lowered for a CPU, compiled for this machine."""

    def __init__(self, model: onnx.ModelProto, cpu: CpuSpec, precision: str, target: Any) -> None:
        self.model, self.target = model, target
        module = tvm.transform.Sequential(graph_passes())(from_onnx(model))
        self.module, self.decisions = lower_for_cpu(module, cpu, target, precision)

    @property
    def kernels(self) -> dict[str, Any]:
        functions = self.module.functions.items()
        return {v.name_hint: f for v, f in functions if isinstance(f, tvm.tirx.PrimFunc)}

    def named(self, part: str) -> list[str]:
        return [name for name in self.kernels if part in name]

    def stored(self) -> list[str]:
        """Types of what the kernels write."""
        return sorted(str(f.params[-1].dtype) for f in self.kernels.values())

    def run(self, build: Callable[[Any, Any], Any], scale: float) -> tuple[Any, Any]:
        assert not any("failed" in d.reason for d in self.decisions), self.decisions
        (value,) = self.model.graph.input
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        x = (np.random.default_rng(5).standard_normal(shape) * scale).astype(np.float32)
        machine = relax.VirtualMachine(build(self.module, self.target), tvm.cpu())
        found = machine["main"](tvm.runtime.tensor(x))
        found = [found] if hasattr(found, "numpy") else list(found)
        expected = OnnxReference(self.model)({"x": x})
        return [f.numpy() for f in found], list(expected.values())


@pytest.fixture(scope="session")
def lowered(cpu: CpuSpec, host: Any) -> Callable[..., Lowered]:
    return lambda model, precision="fp32", cpu=cpu: Lowered(model, cpu, precision, host)


def assert_rounded(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Within what a few roundings to 8 bits cost, and not more exact than they allow."""
    for ours, theirs in zip(found, expected, strict=True):
        error = np.abs(ours - theirs).max() / np.abs(theirs).max()
        assert 1e-6 < error < 2e-2


def residual() -> onnx.ModelProto:
    m = Model(1, 3, 14, 14)
    stem = m.node("Relu", m.conv("x", 3, 32, 3, strides=[2, 2]))
    branch = m.conv(m.node("Relu", m.conv(stem, 32, 32, 3)), 32, 32, 3)
    total = m.node("Relu", m.node("Add", branch, stem))
    pooled = m.node("Flatten", m.node("GlobalAveragePool", m.conv(total, 32, 40, 1)))
    return m.build(m.node("Gemm", pooled, m.constant(m.weight(10, 40)), transB=1))


@needs_bf16
def test_a_residual_network_in_bf16(lowered, build) -> None:
    net = lowered(residual(), "bf16")
    assert len(net.named("bf16_conv2d")) == 4
    assert len(net.named("bf16_matmul")) == 1
    assert_rounded(*net.run(build, 1.0))
    # Stem, branch, sum and pooled image; nothing is narrowed or widened on its own.
    assert net.stored().count("uint16") == 4
    assert not [name for name in net.kernels if name.startswith(("bf16_load", "bf16_store"))]


@needs_bf16
def test_what_is_also_an_output_keeps_its_float32(lowered, build) -> None:
    m = Model(1, 16, 8, 8)
    inner = m.node("Relu", m.conv("x", 16, 16, 1))
    net = lowered(m.build(inner, m.conv(inner, 16, 24, 3)), "bf16")
    found, expected = net.run(build, 1.0)
    assert_rounded(found, expected)
    assert (found[0].view(np.uint32) & 0xFFFF).any()


@needs_bf16
def test_depthwise_and_pooling_stay_in_float32(lowered, build) -> None:
    m = Model(1, 8, 12, 12)
    expanded = m.node("Relu", m.conv("x", 8, 48, 1))
    filtered = m.conv(expanded, 48, 48, 3, group=48)
    pooled = m.node("MaxPool", filtered, kernel_shape=[2, 2], strides=[2, 2])
    net = lowered(m.build(m.node("Softmax", m.conv(pooled, 48, 20, 1), axis=1)), "bf16")
    assert len(net.named("bf16_depthwise_conv2d")) == 1
    assert_rounded(*net.run(build, 1.0))


@needs_bf16
def test_groups_too_small_for_a_register_stay_in_float32(lowered, build) -> None:
    m = Model(1, 32, 9, 9)
    small = m.conv("x", 32, 32, 3, group=8)
    net = lowered(m.build(m.conv(small, 32, 64, 3, group=2)), "bf16")
    assert len(net.named("bf16_conv2d")) == 1
    assert_rounded(*net.run(build, 1.0))


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_a_cpu_without_the_instructions_is_refused(precision: str, lowered, cpus) -> None:
    with pytest.raises(TargetError, match=f"cannot compute in {precision}"):
        lowered(residual(), precision, cpus["avx512"])


def test_llvm_must_be_told_of_the_feature_too(cpu: CpuSpec) -> None:
    """It would end the process at an instruction that the target does not have."""
    target = tvm.target.Target({"kind": "llvm", "mcpu": "skylake-avx512"})
    with pytest.raises(TargetError) as error:
        Lowered(residual(), cpu, "bf16", target)
    assert "mcpu skylake-avx512" in error.value.seen
    assert "+avx512bf16" in error.value.do
    assert not Lowered(quantized(np.int8, 3), cpu, "fp32", target).named("int8")


def test_fp32_rounds_nothing(lowered) -> None:
    assert not lowered(residual(), "fp32").named("bf16")


def quantized(activation: type, zero: int, *, depthwise: bool = True) -> onnx.ModelProto:
    """Convolutions, depthwise, residual sum and Gemm, as onnxruntime's quantizer writes them."""
    m = Model(1, 3, 12, 12)

    def conv(x: str, inputs: int, outputs: int, kernel: int, group: int = 1) -> str:
        w, scale = m.dequantized((outputs, inputs // group, kernel, kernel))
        bias = m.constant(m.rng.integers(-500, 500, outputs).astype(np.int32))
        zeros = m.constant(np.zeros(outputs, np.int32))
        b = m.node("DequantizeLinear", bias, m.constant(np.float32(0.05) * scale), zeros, axis=0)
        return m.node("Conv", x, w, b, pads=[kernel // 2] * 4, group=group)

    def requantized(x: str) -> str:
        return m.quantize(x, 0.05, activation(zero))

    a = requantized(conv(requantized("x"), 3, 24, 3))
    b = requantized(conv(a, 24, 24, 3, group=24)) if depthwise else a
    c = requantized(conv(b, 24, 24, 1))
    total = requantized(m.node("Add", a, c))
    pooled = m.node("Flatten", requantized(m.node("GlobalAveragePool", total)))
    w, _ = m.dequantized((10, 24))
    return m.build(requantized(m.node("Gemm", requantized(pooled), w, transB=1)))


@needs_vnni
@pytest.mark.parametrize(
    ("activation", "zero"),
    [(np.int8, -128), (np.int8, 90), (np.uint8, 255)],
)
def test_quantized_networks_are_bit_exact(activation, zero, lowered, build, cpus) -> None:
    """With the result of whole numbers in float32, which is exact, on a CPU without VNNI."""
    model = quantized(activation, zero)
    net = lowered(model)
    assert len(net.named("int8_conv2d")) == 2
    assert len(net.named("int8_depthwise_conv2d")) == 1
    assert len(net.named("int8_matmul")) == 1
    found, _ = net.run(build, 3.0)
    expected, _ = lowered(model, cpu=cpus["avx512"]).run(build, 3.0)
    assert np.unique(expected[0]).size > 3
    np.testing.assert_array_equal(found[0], expected[0])
    # Signed activations are stored unsigned, as the instruction wants them.
    assert "int8" not in net.stored()
    assert "uint8" in net.stored()


@needs_vnni
def test_bf16_leaves_quantized_convolutions_exact(lowered, build) -> None:
    model = quantized(np.int8, 3, depthwise=False)
    found, expected = (lowered(model, p).run(build, 3.0)[0] for p in ("bf16", "fp32"))
    np.testing.assert_array_equal(found[0], expected[0])


@needs_vnni
@pytest.mark.parametrize("activation", [np.int8, np.uint8])
@pytest.mark.parametrize("outputs", [16, 20])
def test_a_quantized_convolution_equals_the_reference(activation, outputs, lowered, build) -> None:
    m = Model(1, 6, 9, 9)
    w, _ = m.dequantized((outputs, 6, 3, 3))
    x = m.quantize("x", 0.031, activation(9))
    y = m.node("Conv", x, w, pads=[1] * 4, strides=[2, 2])
    found, expected = lowered(m.build(m.quantize(y, 0.0771, activation(5)))).run(build, 1.0)
    np.testing.assert_array_equal(found[0], expected[0])


@needs_vnni
def test_weights_beyond_8_bits_stay_in_float32(lowered, build) -> None:
    """uint8 weights with a zero point have differences up to 255."""
    m = Model(1, 4, 6, 6)
    x = m.quantize("x", 0.053, np.int8(4))
    w = m.constant(m.rng.integers(0, 256, (16, 4, 3, 3)).astype(np.uint8))
    w = m.node("DequantizeLinear", w, m.constant(np.float32(0.0117)), m.constant(np.uint8(20)))
    y = m.quantize(m.node("Conv", x, w, pads=[1] * 4), 0.213, np.int8(0))
    net = lowered(m.build(y))
    assert not net.named("int8")
    with pytest.raises(UsageError, match="Nothing in the model can be computed in 8-bit"):
        lowered(net.model, "int8")
    found, expected = net.run(build, 1.0)
    np.testing.assert_array_equal(found[0], expected[0])
