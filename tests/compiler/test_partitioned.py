"""Networks that are cut onto several devices: planned, built, verified, replayed."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import tvm_iovt
from relay_passes import read_costs
from tvm_iovt import bundle, host_cpu, runtime, targets
from tvm_iovt.compiler import CompileOptions, compile_model
from tvm_iovt.compiler.contents import is_one_board, plan_name, specs_of
from tvm_iovt.errors import TargetError, UsageError
from tvm_iovt.frontend.load import load_network
from tvm_iovt.planning.model_plan import PlanOptions, plan_model
from tvm_iovt.planning.plan_file import read_plan, write_plan
from tvm_iovt.stages.graph import annotate

TWO = "host/1,host/1"


def compiled(model: Path, output: Path, **options: object):
    return compile_model(model, CompileOptions(output=output, **options))


@pytest.fixture(scope="module")
def halves(small_model: Path, tmp_path_factory: pytest.TempPathFactory):
    """The network cut behind its first convolution, for two parts of this machine."""
    output = tmp_path_factory.mktemp("halves") / "halves.iovt"
    return compiled(small_model, output, targets=TWO, cuts=("conv0",))


def test_stages_are_verified_against_the_whole_model(halves) -> None:
    (deployment,) = halves.manifest.deployments
    assert deployment.name == "host/1+host/1~2"
    assert [stage.target for stage in deployment.plan.stages] == ["host/1", "host/1~2"]
    assert deployment.discrepancy is not None
    assert deployment.discrepancy.passed
    assert len(deployment.libraries) == 2
    bundle.check(halves.path)


def test_stages_have_the_tensors_that_cross_the_cut(halves) -> None:
    first, second = halves.manifest.deployments[0].plan.stages
    assert [spec.name for spec in first.inputs] == ["image"]
    assert first.outputs == second.inputs
    assert first.outputs[0].shape == (1, 24, 8, 8)
    assert [spec.name for spec in second.outputs] == ["scores"]


def test_cut_and_whole_are_bit_identical(halves, small_model: Path, tmp_path: Path) -> None:
    whole = compiled(small_model, tmp_path / "whole.iovt", targets="host/1")
    inputs, _ = bundle.load_sample(halves.path)
    there = runtime.load(halves.path).run(inputs)
    here = runtime.load(whole.path).run(inputs)
    assert np.array_equal(there["scores"], here["scores"])


def test_a_cut_whose_device_is_not_here_is_checked_with_this_machines_kernels(
    small_model: Path, tmp_path: Path
) -> None:
    result = compiled(small_model, tmp_path / "a.iovt", targets="host/1,arm", cuts=("conv0",))
    (deployment,) = result.manifest.deployments
    assert deployment.discrepancy is None
    assert deployment.verified.startswith("not run here: it is for aarch64 for stage 1, arm")
    assert "its cut with this machine's kernels: passed" in deployment.verified


@pytest.mark.parametrize(
    ("names", "expected"),
    [("arm,cuda", True), ("host,arm", False), ("arm", False), ("cuda", False)],
)
def test_a_cpu_and_the_gpu_that_it_launches_are_one_board(names: str, expected: bool) -> None:
    assert is_one_board(targets.load_all(names)) is expected


def test_the_plan_of_a_deployment_is_in_the_bundle(halves) -> None:
    (deployment,) = halves.manifest.deployments
    file = read_plan(halves.path / deployment.plan_file.file)
    assert [s.units for s in file.plan.stages] == [s.units for s in deployment.plan.stages]
    assert file.plan.prediction.latency_s > 0
    assert file.model_sha256 == halves.manifest.model_sha256


def test_objectives_make_a_plan(small_model: Path, tmp_path: Path) -> None:
    result = compiled(small_model, tmp_path / "t.iovt", targets="host,arm", objective="throughput")
    (plan,) = result.plans
    assert plan.plan.objective == "throughput"
    assert plan.plan.prediction.period_s <= min(
        other.period_s for other in plan.plan.alternatives
    ) * (1 + plan.plan.prediction.noise)


def test_a_plan_is_written_edited_and_replayed(small_model: Path, tmp_path: Path) -> None:
    file = plan_model(small_model, PlanOptions(targets=TWO, objective="", cuts=("conv0",)))
    path = tmp_path / "plan.json"
    write_plan(path, file)
    data = json.loads(path.read_text())
    moved = data["plan"]["stages"][1]["units"].pop(0)
    data["plan"]["stages"][0]["units"].append(moved)
    path.write_text(json.dumps(data))
    result = compiled(small_model, tmp_path / "replayed.iovt", plan=path)
    first, second = result.manifest.deployments[0].plan.stages
    assert first.units[-1] == moved
    assert moved not in second.units
    assert result.manifest.deployments[0].discrepancy.passed


def test_python_takes_plans_by_name_and_cuts_alone(small_model: Path, tmp_path: Path) -> None:
    file = tvm_iovt.plan(small_model, targets=TWO, cuts=("conv0",))
    write_plan(tmp_path / "plan.json", file)
    result = tvm_iovt.compile(
        small_model, output=tmp_path / "named.iovt", plan=str(tmp_path / "plan.json")
    )
    assert len(result.manifest.deployments[0].plan.stages) == 2


def test_an_edited_plan_that_makes_no_network_is_refused(small_model, tmp_path: Path) -> None:
    file = plan_model(small_model, PlanOptions(targets=TWO, objective="", cuts=("conv0",)))
    first, second = file.plan.stages
    swapped = (
        dataclasses.replace(first, units=second.units),
        dataclasses.replace(second, units=first.units),
    )
    path = tmp_path / "plan.json"
    write_plan(path, dataclasses.replace(file, plan=dataclasses.replace(file.plan, stages=swapped)))
    with pytest.raises(UsageError, match="do not make the network"):
        compiled(small_model, tmp_path / "x.iovt", plan=path)
    assert not (tmp_path / "x.iovt").exists()


def test_a_plan_for_another_model_is_refused(small_model: Path, tmp_path: Path) -> None:
    file = plan_model(small_model, PlanOptions(targets=TWO, objective="", cuts=("conv0",)))
    path = tmp_path / "plan.json"
    write_plan(path, dataclasses.replace(file, model_sha256="0" * 64))
    with pytest.raises(UsageError, match="another model"):
        compiled(small_model, tmp_path / "x.iovt", plan=path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "Cannot read the plan"),
        ("{}", "not a"),
        ('{"schema": "tvm-iovt/plan/9"}', "plan/9"),
        ('{"schema": "tvm-iovt/plan/1", "model_name": 3}', "wrong fields"),
    ],
)
def test_damaged_plans_are_refused(small_model, tmp_path: Path, content: str, message: str):
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(UsageError) as caught:
        compiled(small_model, tmp_path / "x.iovt", plan=path)
    assert message in f"{caught.value.what} {caught.value.seen}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": TWO, "cuts": ("nothing",)}, "no operator 'nothing'"),
        ({"targets": "host/1", "cuts": ("conv0",)}, "2 parts"),
        ({"targets": f"{TWO},host/1", "cuts": ("depthwise", "conv0")}, "in order"),
        ({"targets": TWO, "cuts": ("conv0",), "objective": "latency"}, "twice"),
        ({"targets": TWO, "objective": "speed"}, "no objective"),
        ({"targets": TWO, "objective": "energy"}, "power"),
        ({"targets": "host", "links": ("host=1MB",)}, "for cutting"),
        ({"targets": "host,arm", "objective": "latency", "links": ("x=1MB",)}, "'x'"),
    ],
)
def test_what_cannot_be_planned_is_refused(small_model, tmp_path, options, message) -> None:
    with pytest.raises(UsageError) as caught:
        compiled(small_model, tmp_path / "x.iovt", **options)
    assert message in caught.value.what
    assert not (tmp_path / "x.iovt").exists()


def test_a_network_that_fits_no_memory_is_refused(small_model, tmp_path: Path) -> None:
    small = tmp_path / "small.toml"
    small.write_text('description = "no memory"\nmemory_bytes = 100\n[cpu]\narch = "native"\n')
    with pytest.raises(TargetError):
        compiled(small_model, tmp_path / "x.iovt", targets=str(small), objective="latency")


@pytest.fixture(scope="module")
def deep_model(make_model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six equal convolutions: worth two stages, and cut elsewhere where one of them is slower."""
    random = np.random.default_rng(0)
    names = [f"conv{i}" for i in range(6)]
    weights = {f"w_{n}": random.standard_normal((32, 32, 3, 3)).astype(np.float32) for n in names}
    scaled = {name: value / 17 for name, value in weights.items()}
    tensors = ["image", *names]
    nodes = [
        helper.make_node("Conv", [before, f"w_{name}"], [name], name, pads=[1] * 4)
        for before, name in zip(tensors, names, strict=False)
    ]
    shape = [1, 32, 28, 28]
    model = make_model(nodes, {"image": shape}, {names[-1]: shape}, scaled)
    path = tmp_path_factory.mktemp("deep") / "deep.onnx"
    onnx.save(model, str(path))
    return path


def test_equal_devices_get_equal_halves(deep_model: Path) -> None:
    file = plan_model(deep_model, PlanOptions(targets=TWO, objective="throughput"))
    assert [len(stage.units) for stage in file.plan.stages] == [3, 3]


def test_prepared_plans_are_deployments_of_their_own(deep_model, tmp_path: Path) -> None:
    result = compiled(
        deep_model, tmp_path / "p.iovt", targets=TWO, objective="throughput", prepare=2
    )
    names = [deployment.name for deployment in result.manifest.deployments]
    assert len(set(names)) == len(names) == len(result.plans) == 3
    cuts = {tuple(s.units for s in file.plan.stages) for file in result.plans}
    assert len(cuts) == len(names)
    assert all(d.discrepancy.passed for d in result.manifest.deployments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cuts": ("relu_1",), "prepare": 2}, "nothing to choose beside --cuts"),
        ({"plan": Path("plan.json"), "prepare": 2}, "nothing to choose beside --plan"),
        ({"objective": "latency", "prepare": -1}, "cannot be prepared"),
    ],
)
def test_prepared_plans_are_for_objectives(options, message) -> None:
    with pytest.raises(UsageError, match=message):
        specs_of(CompileOptions(targets="host/1,host/1", **options), None)


def test_names_of_plans_differ() -> None:
    def file(*sizes: int) -> Any:
        units = iter("abcd")
        stages = [
            SimpleNamespace(target="host", units=tuple(itertools.islice(units, size)))
            for size in sizes
        ]
        return SimpleNamespace(plan=SimpleNamespace(stages=stages))

    taken: list[str] = []
    for sizes in ((3, 1), (2, 2), (2, 2), (2, 2)):
        taken.append(plan_name(file(*sizes), taken))
    assert taken == [
        "host+host",
        "host+host after 2",
        "host+host after 2 (2)",
        "host+host after 2 (3)",
    ]


_CORE = """
description = "this machine, as described"
machine = "box"

[cpu]
arch = "native"
cores = {cores}
vector_bits = {vector_bits}
vector_registers = 32
l1d_bytes = 32768
l2_bytes = 1048576

[datasheet]
launch_s = 1e-6
"""
_ROOF = """
[[datasheet.roof]]
threads = {threads}
peak_flops = {{ float32 = {flops} }}
bandwidth_bytes_per_s = 1e9
"""


def squeezed_network() -> onnx.ModelProto:
    """1x1 convolutions 32 -> 12 -> 32 without an activation between them, and one behind it."""
    random = np.random.default_rng(0)
    shapes = {"w0": (12, 32, 1, 1), "w1": (32, 12, 1, 1), "w2": (32, 32, 1, 1)}
    weights = [
        onnx.numpy_helper.from_array(random.standard_normal(shape).astype(np.float32) / 8, name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], "c0"),
        helper.make_node("Conv", ["a", "w1"], ["b"], "c1"),
        helper.make_node("Relu", ["b"], ["c"], "relu"),
        helper.make_node("Conv", ["c", "w2"], ["y"], "c2"),
    ]
    inputs, outputs = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 32, 16, 16))
        for name in "xy"
    )
    graph = helper.make_graph(nodes, "squeezed", [inputs], [outputs], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


@pytest.mark.skipif(host_cpu.machine() != "x86_64", reason="the widths are of x86-64")
def test_a_plan_that_uses_fewer_targets_than_were_named_is_built(tmp_path: Path, monkeypatch):
    """All named targets decide whether the first two convolutions become one."""
    folder = tmp_path / "share" / "targets"
    folder.mkdir(parents=True)
    quick = _CORE.format(cores=2, vector_bits=512)
    quick += "".join(_ROOF.format(threads=n, flops=n * 1e11) for n in (1, 2))
    slow = _CORE.format(cores=1, vector_bits=128) + _ROOF.format(threads=1, flops=1e9)
    (folder / "quick.toml").write_text(quick)
    (folder / "slow.toml").write_text(slow.replace('"box"', '"other box"'))
    monkeypatch.setenv("TVM_IOVT_PATH", str(folder.parent))
    model, path = tmp_path / "squeezed.onnx", tmp_path / "plan.json"
    onnx.save(squeezed_network(), str(model))

    file = plan_model(model, PlanOptions(targets="quick,quick,slow"))
    assert len(file.named) == 3
    assert len(file.targets) < 3
    network = load_network(model, {})
    units = [
        len(read_costs(annotate(network, each, "auto")[0]).units)
        for each in (file.named, file.targets)
    ]
    assert units[0] == len(file.graph.units) != units[1]

    write_plan(path, file)
    result = compiled(model, tmp_path / "built.iovt", plan=path)
    (deployment,) = result.manifest.deployments
    assert deployment.plan.stages[0].units == file.plan.stages[0].units


def test_a_whole_network_has_the_threads_that_its_targets_name_states(
    small_model: Path, tmp_path: Path
) -> None:
    for targets_, threads in (("host/1", 1), ("host", 0)):
        output = tmp_path / f"{threads}.iovt"
        result = compiled(small_model, output, targets=targets_, verify=False)
        assert result.manifest.deployments[0].plan.stages[0].threads == threads
