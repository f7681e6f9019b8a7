import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from tvm_iovt import bundle
from tvm_iovt.cli.inspect import inspect
from tvm_iovt.errors import BundleError, ModelError, UsageError
from tvm_iovt.json_codec import from_json, to_json
from tvm_iovt.types import (
    CpuSpec,
    Decision,
    Deployment,
    FileRecord,
    Library,
    Manifest,
    OpCost,
    PartitionPlan,
    Stage,
    TargetSpec,
    TensorSpec,
    Tolerance,
)


def invoke(*arguments):
    """Output of the command; errors of ours are raised, as `main` expects them."""
    result = CliRunner().invoke(inspect, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def save_model(path, *, batch=1, nodes=None, opset=17):
    nodes = nodes or [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first_conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"], name="first_relu"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4, 8, 8])],
        [numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "w")],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.example", 1)]
    model = helper.make_model(
        graph, opset_imports=opsets, producer_name="tests", producer_version="1"
    )
    model.ir_version = 8
    onnx.save(model, path)
    return path


@pytest.fixture
def saved(tmp_path):
    return save_model(tmp_path / "net.onnx")


def test_model(saved):
    text = invoke(saved)
    for expected in ("net", "opset", "17", "tests 1", "1x3x8x8", "1x4x8x8", "float32"):
        assert expected in text
    assert "6.9 kMAC" in text  # 4*8*8 outputs, 27 multiply-adds each
    assert "first_conv" not in text
    assert text.isascii()
    assert "imports all" in text


def test_all_lists_every_operator(saved):
    text = invoke(saved, "--all")
    assert "first_conv" in text
    assert "first_relu" in text


def test_json_is_json_alone(saved):
    found = json.loads(invoke(saved, "--json"))
    assert found["schema"] == "tvm-iovt/inspection/1"
    assert found["inputs"] == [{"name": "x", "shape": [1, 3, 8, 8], "dtype": "float32"}]
    assert found["totals"]["macs"] == 6912
    assert found["totals"]["operators"] == 2
    assert found["parameters"] == 108
    assert [operator["op"] for operator in found["operators"]] == ["Conv", "Relu"]
    assert found["unsupported"] == []


def test_dynamic_model_is_described_with_its_symbols(tmp_path):
    path = save_model(tmp_path / "net.onnx", batch="N")
    text = invoke(path)
    assert "N x 3 x 8 x 8" in text
    assert "--input-shape x=?x3x8x8" in text
    found = json.loads(invoke(path, "--json"))
    assert found["inputs"][0]["shape"] == ["N", 3, 8, 8]
    assert found["totals"] is None
    assert found["parameters"] == 108


def test_dynamic_model_with_given_shapes(tmp_path):
    path = save_model(tmp_path / "net.onnx", batch="N")
    found = json.loads(invoke(path, "--json", "--input-shape", "x=2x3x8x8"))
    assert found["totals"]["macs"] == 2 * 6912
    assert found["outputs"][0]["shape"] == [2, 4, 8, 8]


def test_shapes_that_the_operators_refuse(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Conv", ["x", "w"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["a", "b"], ["y"], name="misfit"),
    ]
    path = save_model(tmp_path / "net.onnx", batch="N", nodes=nodes)
    with pytest.raises(ModelError, match=r"net\.onnx contradict") as caught:
        invoke(path, "--input-shape", "x=1x3x8x8")
    assert "misfit" in caught.value.seen


def test_unsupported_operators_are_named_with_their_nodes(tmp_path):
    nodes = [
        helper.make_node("Fancy", ["x"], ["c"], name="my_fancy", domain="com.example"),
        helper.make_node("Conv", ["c", "w"], ["y"]),
    ]
    path = save_model(tmp_path / "net.onnx", nodes=nodes)
    text = invoke(path)
    assert "com.example.Fancy" in text
    assert "my_fancy" in text
    (item,) = json.loads(invoke(path, "--json"))["unsupported"]
    assert item == {"op": "Fancy", "domain": "com.example", "node": "my_fancy"}


def test_missing_file(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        invoke(tmp_path / "none.onnx")


def manifest():
    tensor = TensorSpec(name="x", shape=(1, 3, 8, 8), dtype="float32")
    cpu = CpuSpec(
        arch="aarch64",
        triple="aarch64-linux-gnu",
        mcpu="cortex-a72",
        cores=4,
        vector_bits=128,
        vector_registers=32,
        l1d_bytes=32768,
        l2_bytes=1 << 20,
    )

    def file(name):
        return FileRecord(file=name, sha256="ab" * 32, size_bytes=2_500_000)

    stage = Stage(index=0, target="arm", inputs=(tensor,), outputs=(tensor,))
    return Manifest(
        tool_version="0.1.0",
        tvm_version="0.27.0",
        tvm_ffi_version="0.1.14",
        created="2025-01-31T12:00:00+00:00",
        model_name="net",
        model_sha256="cd" * 32,
        inputs=(tensor,),
        outputs=(tensor,),
        deployments=(
            Deployment(
                name="arm",
                targets=(TargetSpec(name="arm", description="ARM", cpu=cpu),),
                plan=PartitionPlan(stages=(stage,), objective="latency", reason="one device"),
                libraries=(
                    Library(stage=0, file=file("stage0.arm.so"), device="cpu", parameters_bytes=9),
                ),
                verified="not run: another architecture",
            ),
        ),
        sample=file("sample.npz"),
        reference="onnxruntime 1.31.1",
        tolerance=Tolerance(rtol=1e-3, atol=1e-4),
        report=file("report.html"),
        operators=(
            OpCost(
                index=0,
                name="relu_0",
                op="Relu",
                flops=192,
                bytes_in=768,
                bytes_out=768,
                bytes_weights=0,
                dtype="float32",
                shape_out=(1, 3, 8, 8),
            ),
        ),
        decisions=(
            Decision(transform="FuseX", subject="relu_0", applied=False, reason="it is alone"),
        ),
    )


@pytest.fixture
def saved_bundle(tmp_path):
    folder = tmp_path / "net.iovt"
    folder.mkdir()
    bundle.save_manifest(folder, manifest())
    return folder


def test_bundle(saved_bundle):
    text = invoke(saved_bundle)
    for expected in (
        "TVM 0.27.0",
        "aarch64-linux-gnu",
        "not run: another",
        "stage0.arm.so",
        "report.html",
        "2.5 MB",
        "Relu",
    ):
        assert expected in text
    assert "it is alone" not in text
    assert "it is alone" in invoke(saved_bundle, "-v")
    assert "relu_0" in invoke(saved_bundle, "--all")


def test_bundle_as_json_is_its_manifest(saved_bundle):
    found = json.loads(invoke(saved_bundle, "--json"))
    assert from_json(Manifest, found) == manifest()
    assert found == to_json(manifest())


def test_bundle_has_no_open_shapes(saved_bundle):
    with pytest.raises(UsageError, match="for models"):
        invoke(saved_bundle, "--input-shape", "x=1")


def test_folder_that_is_no_bundle(tmp_path):
    with pytest.raises(BundleError):
        invoke(tmp_path)
