"""Blocks exported by either exporter of torch, folded in the graph, against torch's own folding."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
tvm = pytest.importorskip("tvm")

from torch import nn  # noqa: E402
from tvm import relax  # noqa: E402

from relay_passes import Reparameterize  # noqa: E402
from tvm_iovt.frontend.load import load_network  # noqa: E402
from tvm_iovt.nn.blocks import (  # noqa: E402
    ACBlock,
    DiverseBranchBlock,
    MobileOneBlock,
    QARepVGGBlock,
    RepVGGBlock,
)
from tvm_iovt.nn.deploy import deploy  # noqa: E402
from tvm_iovt.nn.depthwise_blocks import DilatedReparamBlock, RepDWBlock  # noqa: E402
from tvm_iovt.nn.export import export_onnx  # noqa: E402
from tvm_iovt.nn.networks import repvgg  # noqa: E402
from tvm_iovt.onnx_fusion import fuse_onnx  # noqa: E402

FAMILIES = {
    "RepVGG": lambda c, s: RepVGGBlock(c, c, stride=s),
    "RepVGG, 2 groups": lambda c, s: RepVGGBlock(c, c, stride=s, groups=2),
    "QARepVGG": lambda c, s: QARepVGGBlock(c, c, stride=s),
    "MobileOne, depthwise": lambda c, s: MobileOneBlock(c, c, stride=s, groups=c),
    "MobileOne, pointwise": lambda c, s: MobileOneBlock(c, c + 4, kernel_size=1),
    "ACNet": lambda c, s: ACBlock(c, c, stride=s),
    "DBB": lambda c, s: DiverseBranchBlock(c, c, stride=s),
    "DBB, depthwise": lambda c, s: DiverseBranchBlock(c, c, stride=s, groups=c),
    "RepViT": lambda c, s: RepDWBlock(c, stride=s),
    "UniRepLKNet": lambda c, s: DilatedReparamBlock(c, kernel_size=9, stride=s),
}


class Network(nn.Module):
    """Two blocks between convolutions, so that channels and borders matter."""

    def __init__(self, family: str, channels: int, stride: int) -> None:
        super().__init__()
        self.first = FAMILIES[family](channels, stride)
        width = self.first.out_channels
        self.second = FAMILIES[family](width, 1)

    def forward(self, x):
        return self.second(self.first(x))


def convolutions(module) -> list:
    """The calls of conv2d in a Relax module; no other operator with weights may be left."""
    counts, calls = Counter(), []

    def visit(expr) -> None:
        if isinstance(expr, relax.Call):
            counts[expr.op.name] += 1
            if expr.op.name == "relax.nn.conv2d":
                calls.append(expr)

    relax.analysis.post_order_visit(module["main"], visit)
    assert not {name for name in counts if "batch_norm" in name or "pool" in name}, counts
    return calls


def reference(path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x})[0]


def run(module, x: np.ndarray) -> np.ndarray:
    machine = relax.VirtualMachine(tvm.compile(module, "llvm"), tvm.cpu())
    return machine["main"](tvm.runtime.tensor(x)).numpy()


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    # A block may rectify everything to zero.
    return float(np.abs(found - expected).max() / (np.abs(expected).max() or 1.0))


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_convolution_a_block(family: str, stride: int, dynamo: bool, randomise, tmp_path):
    if dynamo:
        pytest.importorskip("onnxscript")
    model = randomise(Network(family, 12, stride))
    path, shape = tmp_path / "block.onnx", (1, 12, 15, 11)
    export_onnx(model, path, shape, training_form=not dynamo, dynamo=dynamo)
    folded = Reparameterize()(load_network(path, {}).module)
    assert len(convolutions(folded)) == 2
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    expected = reference(path, x)
    assert relative_error(run(folded, x), expected) <= 1e-4

    fused = fuse_onnx(onnx.load(path), time=None)
    kinds = Counter(node.op_type for node in fused.graph.node)
    assert kinds["Conv"] == 2
    assert set(kinds) <= {"Conv", "Relu"}
    onnx.save(fused, tmp_path / "fused.onnx")
    assert relative_error(reference(tmp_path / "fused.onnx", x), expected) <= 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_and_torch_fold_to_the_same_weights(family: str, randomise, tmp_path):
    model = randomise(Network(family, 10, 1))
    path = tmp_path / "block.onnx"
    export_onnx(model, path, (1, 10, 9, 9), training_form=True)
    folded = convolutions(Reparameterize()(load_network(path, {}).module))
    deployed = [m for m in deploy(model).modules() if isinstance(m, nn.Conv2d)]
    for call, conv in zip(folded, deployed, strict=True):
        ours, theirs = call.args[1].value.numpy(), conv.weight.detach().numpy()
        # Both are float64 sums that are rounded to float32 once; where a batch norm follows the
        # sum, the graph rounds before it, too.
        np.testing.assert_allclose(ours, theirs, rtol=3e-7, atol=3e-7 * np.abs(theirs).max())
        assert [int(s) for s in call.attrs.strides] == list(conv.stride)
        assert int(call.attrs.groups) == conv.groups


@settings(max_examples=10, deadline=None)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    channels=st.sampled_from([2, 6, 14, 18]),
    stride=st.integers(1, 2),
    height=st.integers(9, 17),
    width=st.integers(9, 17),
    seed=st.integers(0, 1000),
)
def test_any_shape(family, channels, stride, height, width, seed, randomise, tmp_path_factory):
    model = randomise(Network(family, channels, stride), seed)
    path = tmp_path_factory.mktemp("block") / "block.onnx"
    shape = (1, channels, height, width)
    export_onnx(model, path, shape, training_form=True)
    folded = Reparameterize()(load_network(path, {}).module)
    assert len(convolutions(folded)) == 2
    x = np.random.default_rng(seed).standard_normal(shape, np.float32)
    assert relative_error(run(folded, x), reference(path, x)) <= 1e-4


def test_repvgg_a0_folds_to_22_convolutions_in_seconds(tmp_path):
    path = tmp_path / "a0.onnx"
    export_onnx(repvgg("A0"), path, (1, 3, 64, 64), training_form=True)
    kinds = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert (kinds["Conv"], kinds["BatchNormalization"]) == (44, 61)
    module = load_network(path, {}).module
    began_s = time.perf_counter()
    folded = Reparameterize()(module)
    took_s = time.perf_counter() - began_s
    assert len(convolutions(folded)) == 22
    assert took_s < 5
