import dataclasses
import io
from types import SimpleNamespace

import pytest

from tvm_iovt.report import tables


def plain(renderable, width=100):
    stream = io.StringIO()
    tables.render(renderable, stream, width=width)
    return stream.getvalue()


def test_checks(discrepancy):
    passed = dataclasses.replace(discrepancy, outputs=discrepancy.outputs[:1])
    checks = [
        SimpleNamespace(deployment="x86", where="here", discrepancy=passed, skipped=""),
        SimpleNamespace(deployment="arm", where="qemu", discrepancy=discrepancy, skipped=""),
        SimpleNamespace(deployment="cuda", where="", discrepancy=None, skipped="no GPU"),
    ]
    text = plain(tables.checks_table(checks))
    for expected in ("passed", "FAILED", "12 of 1000", "not compared", "no GPU", "ONNX Runtime"):
        assert expected in text


def accuracy(**changes):
    fields = {
        "images": 500,
        "top1": 0.878,
        "top5": None,
        "reference_top1": 0.88,
        "reference_top5": None,
        "top1_agreement": 0.998,
        "disagreements": (SimpleNamespace(file="cat.jpg", label=-1, ours=3, reference=4),),
        "max_abs_difference": 1e-5,
    }
    return SimpleNamespace(**{**fields, **changes})


def test_accuracy():
    text = plain(tables.accuracy_table(accuracy()))
    for expected in ("500 images", "87.80%", "88.00%", "99.80%", "cat.jpg", "1.0e-05"):
        assert expected in text
    assert "top-5" not in text


def test_accuracy_without_labels_and_without_disagreements():
    text = plain(tables.accuracy_table(accuracy(top1=None, disagreements=())))
    assert "top-1" not in text
    assert "File" not in text


def test_findings():
    findings = [
        SimpleNamespace(name="LLVM", ok=True, detail="TVM with LLVM", cure="", required=True),
        SimpleNamespace(name="CUDA", ok=False, detail="no GPU", cure="none", required=False),
        SimpleNamespace(name="ffi", ok=False, detail="0.1.15", cure="pip install", required=True),
    ]
    text = plain(tables.findings_table(findings))
    for expected in ("ok", "missing", "BROKEN", "do: pip install"):
        assert expected in text


@pytest.fixture
def inference():
    scores = tuple(
        SimpleNamespace(index=i, label=f"class {i}", score=0.9 / (i + 1)) for i in range(2)
    )
    output = SimpleNamespace(name="y", shape=(1, 2), minimum=-1.0, maximum=2.5, mean=0.25)
    return SimpleNamespace(
        deployment="x86",
        answers=(
            SimpleNamespace(source="[red]cat.jpg", top=scores, outputs=(output,)),
            SimpleNamespace(source="x.npz", top=(), outputs=(output,)),
        ),
    )


def test_inference(inference):
    text = plain(tables.inference_table(inference))
    for expected in ("[red]cat.jpg", "class 0", "0.9000", "0.4500", "x.npz", "1x2", "0.25"):
        assert expected in text


@pytest.mark.parametrize("kept", [0, 1])
def test_inference_of_one_kind(inference, kept):
    only = SimpleNamespace(deployment="x86", answers=inference.answers[kept : kept + 1])
    text = plain(tables.inference_table(only))
    assert text.startswith(("Classes, by x86", "Outputs, by x86")[kept])


def test_target_details(deployments):
    (cuda,) = deployments[2].targets
    text = plain(tables.target_details(cuda))
    for expected in ("cuda:sm_87", "cortex-a78", "48 KiB a block", "32 registers of 128 bits"):
        assert expected in text


def test_unsupported():
    text = plain(tables.unsupported_table({"com.example.Fancy": ["a", "b"]}), 80)
    assert "com.example.Fancy" in text
    assert "a, b" in text
