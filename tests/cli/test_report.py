import dataclasses
import json

import pytest
from click.testing import CliRunner

from tvm_iovt import bundle
from tvm_iovt.cli.report import report_command
from tvm_iovt.cost_graph import CostGraph, Edge, Unit
from tvm_iovt.errors import BundleError, UsageError
from tvm_iovt.planning.plan_file import PlanFile, write_plan
from tvm_iovt.types import (
    CpuSpec,
    Deployment,
    Library,
    Manifest,
    PartitionPlan,
    Prediction,
    Stage,
    StagePrediction,
    TargetSpec,
    TensorSpec,
    Tolerance,
)

IMAGE = TensorSpec(name="image", shape=(1, 3, 8, 8), dtype="float32")
MIDDLE = TensorSpec(name="middle", shape=(1, 4, 8, 8), dtype="float32")
SCORES = TensorSpec(name="scores", shape=(1, 10), dtype="float32")


def invoke(*arguments):
    """Output of the command; errors of ours are raised, as `main` expects them."""
    result = CliRunner().invoke(report_command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def target(name):
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
    return TargetSpec(name=name, description="a board", cpu=cpu)


@pytest.fixture
def plan_file():
    units = tuple(
        Unit(
            index=index,
            name=f"unit_{index}",
            operators=(f"op_{index}",),
            kind=kind,
            flops=100_000,
            bytes_in=4000,
            bytes_out=4000,
            bytes_weights=400,
        )
        for index, kind in enumerate(("conv", "matmul"))
    )
    edges = (
        Edge(spec=IMAGE, producer=-1, consumers=(0,)),
        Edge(spec=MIDDLE, producer=0, consumers=(1,)),
        Edge(spec=SCORES, producer=1, consumers=(), is_output=True),
    )
    stages = (
        Stage(index=0, target="near", units=("unit_0",), inputs=(IMAGE,), outputs=(MIDDLE,)),
        Stage(index=1, target="far", units=("unit_1",), inputs=(MIDDLE,), outputs=(SCORES,)),
    )
    prediction = Prediction(
        latency_s=0.005,
        period_s=0.002,
        stages=(
            StagePrediction(receive_s=0.0, compute_s=0.002),
            StagePrediction(receive_s=0.001, compute_s=0.002),
        ),
        source="assumed",
    )
    return PlanFile(
        model_name="tiny",
        model_sha256="ab" * 32,
        targets=(target("near"), target("far")),
        graph=CostGraph(units=units, edges=edges),
        unit_s=((0.002, 0.004), (0.003, 0.002)),
        plan=PartitionPlan(
            stages=stages, objective="throughput", reason="Two are faster.", prediction=prediction
        ),
    )


@pytest.fixture
def saved_bundle(tmp_path, plan_file):
    folder = tmp_path / "tiny.iovt"
    folder.mkdir()
    for name in ("stage0.so", "stage1.so", "sample.npz", "report.html"):
        (folder / name).write_bytes(name.encode())
    write_plan(folder / "near+far.plan.json", plan_file)
    libraries = tuple(
        Library(
            stage=index,
            file=bundle.record(folder, f"stage{index}.so"),
            device="llvm",
            parameters_bytes=10,
        )
        for index in range(2)
    )
    deployment = Deployment(
        name="near+far",
        targets=plan_file.targets,
        plan=plan_file.plan,
        libraries=libraries,
        verified="not run",
        plan_file=bundle.record(folder, "near+far.plan.json"),
    )
    manifest = Manifest(
        tool_version="0",
        tvm_version="0",
        tvm_ffi_version="0",
        created="2026-01-31T12:00:00+00:00",
        model_name="tiny",
        model_sha256="ab" * 32,
        inputs=(IMAGE,),
        outputs=(SCORES,),
        deployments=(deployment,),
        sample=bundle.record(folder, "sample.npz"),
        reference="",
        tolerance=Tolerance(rtol=1e-3, atol=1e-5),
        report=bundle.record(folder, "report.html"),
        operators=(),
        decisions=(),
    )
    bundle.save_manifest(folder, manifest)
    return folder


def test_a_plan(tmp_path, plan_file):
    path, out = tmp_path / "plan.json", tmp_path / "out" / "plan.html"
    write_plan(path, plan_file)
    assert invoke(path, "-o", out) == f"wrote {out}: the plan of tiny\n"
    text = out.read_text(encoding="utf-8")
    assert "Roofline of near" in text
    assert "unit_1" in text


def test_a_bundle_with_its_plans(saved_bundle, tmp_path):
    out = tmp_path / "report.html"
    before = bundle.check(saved_bundle)
    invoke(saved_bundle, "-o", out)
    text = out.read_text(encoding="utf-8")
    for expected in ("Plan of near+far", "Roofline of far", "Two are faster."):
        assert expected in text, expected
    assert bundle.check(saved_bundle) == before


def test_a_bundle_without_plan_files(saved_bundle, tmp_path):
    manifest = bundle.read_manifest(saved_bundle)
    (deployment,) = manifest.deployments
    deployment = dataclasses.replace(deployment, plan_file=None)
    bundle.save_manifest(saved_bundle, dataclasses.replace(manifest, deployments=(deployment,)))
    invoke(saved_bundle, "-o", tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Plan of near+far" in text
    assert "Roofline" not in text


def test_default_name_is_in_the_working_folder(saved_bundle, tmp_path, monkeypatch):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert invoke(saved_bundle).startswith("wrote tiny.html")
    assert [path.name for path in folder.iterdir()] == ["tiny.html"]


def test_json(saved_bundle, tmp_path):
    out = tmp_path / "report.html"
    found = json.loads(invoke(saved_bundle, "-o", out, "--json"))
    assert found == {"report": str(out), "of": "the bundle of tiny"}


def test_a_plan_file_that_was_changed_is_refused(saved_bundle, tmp_path):
    path = saved_bundle / "near+far.plan.json"
    path.write_text(path.read_text().replace("unit_0", "unit_9"))
    with pytest.raises(BundleError, match="not the file that was compiled"):
        invoke(saved_bundle, "-o", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("inside", ["report.html", "new/report.html"])
def test_a_bundle_is_not_written_into(saved_bundle, inside):
    with pytest.raises(UsageError, match="lies in the bundle"):
        invoke(saved_bundle, "-o", saved_bundle / inside)
    bundle.check(saved_bundle)


def test_a_plan_is_not_replaced_by_its_report(tmp_path, plan_file):
    path = tmp_path / "plan.json"
    write_plan(path, plan_file)
    with pytest.raises(UsageError, match="would replace"):
        invoke(path, "-o", path)


def test_what_is_no_bundle_and_no_plan(tmp_path):
    with pytest.raises(UsageError, match="There is no"):
        invoke(tmp_path / "nothing", "-o", tmp_path / "x.html")
    with pytest.raises(BundleError, match="is not a bundle"):
        invoke(tmp_path, "-o", tmp_path.parent / "x.html")
    odd = tmp_path / "odd.json"
    odd.write_text('{"schema": "tvm-iovt/other/1"}')
    with pytest.raises(UsageError, match="plan"):
        invoke(odd, "-o", tmp_path / "x.html")
    with pytest.raises(UsageError, match="is a folder"):
        invoke(odd, "-o", tmp_path)
