from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from tvm_iovt.onnx_fusion.fuse_model import fuse_onnx
from tvm_iovt.types import Decision


class Net:
    """Builds a graph; every method returns the name of what it computes."""

    def __init__(self, seed: int = 0, dtype: type = np.float32) -> None:
        self.random = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, value, name: str = "") -> str:
        name = name or f"k{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def numbers(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        return (self.random.standard_normal(shape) * scale).astype(self.dtype)

    def node(self, op: str, *inputs: str, name: str = "", **attributes) -> str:
        output = f"{name or op.lower()}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op, list(inputs), [output], name or output, **attributes)
        )
        return output

    def conv(self, x, inputs, outputs, size=3, *, group=1, bias=False, pads=None, **attributes):
        kh, kw = (size, size) if isinstance(size, int) else size
        pads = [kh // 2, kw // 2, kh // 2, kw // 2] if pads is None else pads
        shape = (outputs, inputs // group, kh, kw)
        operands = [x, self.constant(self.numbers(*shape, scale=(inputs * kh * kw) ** -0.5))]
        if bias:
            operands.append(self.constant(self.numbers(outputs)))
        if "auto_pad" not in attributes:
            attributes["pads"] = pads
        return self.node("Conv", *operands, group=group, **attributes)

    def bn(self, x, channels, **attributes):
        parameters = (
            self.random.uniform(0.5, 1.5, channels),
            self.random.standard_normal(channels),
            self.random.standard_normal(channels) * 0.3,
            self.random.uniform(0.5, 1.5, channels),
        )
        names = [self.constant(p.astype(self.dtype)) for p in parameters]
        return self.node("BatchNormalization", x, *names, **attributes)

    def conv_bn(self, x, inputs, outputs, size=3, **attributes):
        return self.bn(self.conv(x, inputs, outputs, size, **attributes), outputs)

    def add(self, *terms):
        total = terms[0]
        for term in terms[1:]:
            total = self.node("Add", total, term)
        return total

    def model(
        self,
        outputs: str | list[str],
        shape=(2, 4, 8, 8),
        *,
        opset: int = 17,
        ir_version: int = 8,
        extra_inputs: dict | None = None,
        out_shape=None,
    ) -> onnx.ModelProto:
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        inputs = {"x": shape, **(extra_inputs or {})}
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info(n, kind, s) for n, s in inputs.items()],
            [
                helper.make_tensor_value_info(
                    n, kind, self.constants[n].shape if n in self.constants else out_shape
                )
                for n in ([outputs] if isinstance(outputs, str) else outputs)
            ],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.example", 1)],
        )
        model.ir_version = ir_version
        inferred = onnx.shape_inference.infer_shapes(model).graph.output
        for output, known in zip(model.graph.output, inferred, strict=True):
            output.CopyFrom(known)  # the checker wants shapes, symbolic ones if need be
        return model


@dataclass(frozen=True)
class Outcome:
    """A fused model and what was decided."""

    model: onnx.ModelProto
    decisions: tuple[Decision, ...]

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(node.op_type for node in self.model.graph.node))

    @property
    def refusals(self) -> str:
        return "; ".join(d.reason for d in self.decisions if not d.applied)


def _run(model, *, shape=None, seed=3):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Its own fusions would be compared as well; that of Pad and AveragePool fails on some sizes.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    random = np.random.default_rng(seed)
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    feeds = {
        i.name: random.standard_normal(shape or i.shape).astype(types.get(i.type, np.float64))
        for i in session.get_inputs()
    }
    return session.run(None, feeds)


def _fuse(model, time=None, *, tolerance=1e-4, shape=None, check=True) -> Outcome:
    before = model.SerializeToString(deterministic=True)
    decisions: list[Decision] = []
    fused = fuse_onnx(model, time=time, on_decision=decisions.append)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(fused, full_check=check)
    again = fuse_onnx(fused, time=time)
    assert again.SerializeToString(deterministic=True) == fused.SerializeToString(
        deterministic=True
    )
    if check:
        pairs = zip(_run(model, shape=shape), _run(fused, shape=shape), strict=True)
        for expected, actual in pairs:
            assert actual.shape == expected.shape
            assert actual.dtype == expected.dtype
            scale = np.abs(expected.astype(np.float64)).max()
            assert np.abs(actual.astype(np.float64) - expected).max() <= tolerance * scale
    return Outcome(fused, tuple(decisions))


@pytest.fixture
def net() -> Callable[..., Net]:
    return Net


@pytest.fixture
def fuse() -> Callable[..., Outcome]:
    """Fuses, and checks what always holds: validity, equal outputs, and that twice is once."""
    return _fuse


@pytest.fixture
def refuse(fuse) -> Callable[..., str]:
    """Fuses a model that must stay as it is, byte by byte; returns the reasons."""

    def refused(model, time=None, **options) -> str:
        outcome = fuse(model, time, **options)
        same = outcome.model.SerializeToString(deterministic=True)
        assert same == model.SerializeToString(deterministic=True)
        return outcome.refusals

    return refused
