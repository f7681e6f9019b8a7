from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import relay_passes
from tvm_iovt import _tvm, targets
from tvm_iovt.cost_graph import Unit
from tvm_iovt.frontend.load import load_network
from tvm_iovt.probe.quantized_chain import SCALE, QuantizedChain
from tvm_iovt.schedules.cpu import fuse_for_cpu
from tvm_iovt.stages.graph import annotate
from tvm_iovt.unit_laws import law_of

CHANNELS, SIZE = 16, 20


def chain() -> tuple[Any, list[Unit]]:
    """A strided convolution, a depthwise one, and one that adds the first one's result."""
    net = QuantizedChain((1, 3, SIZE, SIZE), np.random.default_rng(1))
    x = net.conv(net.input, CHANNELS, 3, 2)
    y = net.conv(x, CHANNELS, 3, groups=CHANNELS)
    module = net.finish(net.conv(y, CHANNELS, 1, residual=x))
    return module, net.units


def qdq_model(make_model: Any) -> onnx.ModelProto:
    """The same network as a quantized model has it."""
    rng = np.random.default_rng(2)
    constants = {
        "s": np.float32(SCALE),
        "zero": np.int8(0),
        "low": np.int8(-128),
        "sw": np.full(CHANNELS, 0.01, np.float32),
        "zw": np.zeros(CHANNELS, np.int8),
        "sb": np.full(CHANNELS, 0.01 * SCALE, np.float32),
        "zb": np.zeros(CHANNELS, np.int32),
    }
    nodes = []

    def bytes_of(value: str, zero: str) -> str:
        nodes.append(helper.make_node("QuantizeLinear", [value, "s", zero], [f"{value}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{value}_q", "s", zero], [f"{value}_"]))
        return f"{value}_"

    def conv(name: str, value: str, depth: int, zero: str, **attributes: Any) -> str:
        kernel = 3 if attributes["pads"][0] else 1
        shape = (CHANNELS, depth, kernel, kernel)
        constants[f"{name}_w"] = rng.integers(-127, 128, shape).astype(np.int8)
        constants[f"{name}_b"] = rng.integers(-500, 500, CHANNELS).astype(np.int32)
        for part in "wb":
            inputs = [f"{name}_{part}", f"s{part}", f"z{part}"]
            outputs = [f"{name}_{part}f"]
            nodes.append(helper.make_node("DequantizeLinear", inputs, outputs, axis=0))
        inputs = [value, f"{name}_wf", f"{name}_bf"]
        nodes.append(helper.make_node("Conv", inputs, [name], name=name, **attributes))
        return bytes_of(name, zero)

    first = conv("c1", bytes_of("x", "zero"), 3, "low", pads=[1] * 4, strides=[2, 2])
    second = conv("c2", first, 1, "low", pads=[1] * 4, group=CHANNELS)
    third = conv("c3", second, CHANNELS, "zero", pads=[0] * 4)
    nodes.append(helper.make_node("Add", [first, third], ["a"]))
    shape = [1, CHANNELS, SIZE // 2, SIZE // 2]
    last = bytes_of("a", "zero")
    return make_model(nodes, {"x": [1, 3, SIZE, SIZE]}, {last: shape}, constants)


def test_units_are_those_of_a_quantized_model(make_model: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(qdq_model(make_model), path)
    module, _ = annotate(load_network(path, {}), (targets.load("host"),), "auto")
    expected = relay_passes.read_costs(module).units
    _, found = chain()
    assert [law_of(unit) for unit in found] == [
        "int8 elementwise", "int8 conv 3x3/2", "int8 depthwise", "int8 pointwise",
        "int8 elementwise",
    ]  # fmt: skip
    facts = ("kind", "dtype", "flops", "bytes_in", "bytes_out", "shape_in", "shape_out")
    facts += ("kernel", "strides", "groups")
    for mine, theirs in zip(found, expected, strict=True):
        for fact in facts:
            assert getattr(mine, fact) == getattr(theirs, fact), (mine.name, fact)
        # A zero point of none, or a scale that is shared, is a constant less.
        assert mine.bytes_weights == pytest.approx(theirs.bytes_weights, abs=32)


@pytest.mark.parametrize(("target", "kernels"), [("raspberry-pi-5", 3), ("raspberry-pi-4", 0)])
def test_bytes_are_multiplied_where_there_are_instructions(target: str, kernels: int) -> None:
    spec = targets.load(target)
    module, _ = chain()
    fused = fuse_for_cpu(module, spec.cpu, _tvm.tvm_target(spec))
    names = [var.name_hint for var in fused.functions]
    assert sum("int8_" in name for name in names) == kernels, names


def test_results_use_the_range_of_bytes() -> None:
    net = QuantizedChain((1, 3, 8, 8), np.random.default_rng(3))
    x = net.conv(net.input, 16, 3)
    x = net.conv(net.attention(x, 8), 16, 3, activation="hardswish")
    x = net.conv(x, 16, 3, activation="none", residual=x)
    module = net.finish(x, net.matmul(net.global_mean(x), 12))
    executable = _tvm.relax.build(module, "llvm")
    machine = _tvm.relax.VirtualMachine(executable, _tvm.tvm.cpu())
    image = np.random.default_rng(4).standard_normal((1, 3, 8, 8), np.float32)
    for result in machine["main"](_tvm.tvm.runtime.tensor(image)):
        steps = np.unique(np.round(result.numpy() / SCALE))
        assert len(steps) > 8
        assert np.mean(np.abs(result.numpy() / SCALE) > 126) < 0.3
