from __future__ import annotations

import re

import numpy as np
import pytest
import tvm
import tvm_ffi
from onnx import helper
from tvm import te

from tvm_iovt.schedules.contraction import Contraction
from tvm_iovt.schedules.cpu import SCHEDULED, TEMPLATES, schedule_function
from tvm_iovt.schedules.elementwise import Elementwise
from tvm_iovt.schedules.reduction import Reduction
from tvm_iovt.schedules.template import Match, Refusal
from tvm_iovt.schedules.tvm_api import Schedule
from tvm_iovt.schedules.window import Window


@pytest.fixture(scope="session")
def network(make_model):
    """Convolution, depthwise, pointwise, residual, pooling, dense: one of each template."""
    rng = np.random.default_rng(5)

    def weight(*shape):
        return rng.standard_normal(shape, dtype=np.float32) * 0.2

    weights = {
        "stem": weight(32, 3, 3, 3),
        "deep": weight(32, 1, 3, 3),
        "point": weight(32, 32, 1, 1),
        "fc": weight(32, 10),
        "bias": weight(32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "stem", "bias"], ["a"], pads=(1, 1, 1, 1), strides=(2, 2)),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "deep"], ["c"], pads=(1, 1, 1, 1), group=32),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "point", "bias"], ["e"]),
        helper.make_node("Add", ["e", "b"], ["f"]),
        helper.make_node("GlobalAveragePool", ["f"], ["g"]),
        helper.make_node("Flatten", ["g"], ["h"]),
        helper.make_node("MatMul", ["h", "fc"], ["y"]),
    ]
    return make_model(nodes, {"x": [1, 3, 32, 32]}, {"y": None}, weights)


def test_one_kernel_per_heavy_operator(check, network):
    result = check(network)
    heavy = [k for k in result.kernels if "reshape" not in k]
    assert len(heavy) == 5
    assert result.templates.count("contraction") == 3
    assert result.templates.count("window") == 1
    assert result.templates.count("reduction") == 1


def test_every_function_is_marked_as_scheduled(lower, network):
    module, decisions = lower(network, "avx512")
    functions = [f for f in module.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
    assert all(f.attrs[SCHEDULED] for f in functions)
    assert len(decisions) == len(functions)
    assert all(d.applied and d.transform == "ScheduleForCpu" for d in decisions)


def test_lowering_is_deterministic(lower, network):
    first, decisions = lower(network, "avx2")
    second, again = lower(network, "avx2")
    assert decisions == again
    assert tvm_ffi.structural_hash(first) == tvm_ffi.structural_hash(second)


def test_lowering_leaves_its_input_alone(lower, network):
    from tvm.relax.frontend.onnx import from_onnx

    module = from_onnx(network, keep_params_in_input=False)
    before = tvm_ffi.structural_hash(module)
    lower(network, "avx2")
    assert tvm_ffi.structural_hash(module) == before


@pytest.mark.parametrize(
    ("cpu", "multiply_add"),
    [
        ("avx512", r"vfmadd\d+ps.*zmm"),
        ("avx2", r"vfmadd\d+ps.*ymm"),
        ("neon64", r"fmla\s+v\d+\.4s"),
        ("neon32", r"vmla\.f32\s+q|vfma\.f32\s+q"),
        ("sse", r"mulps"),
    ],
)
def test_inner_loops_use_the_vector_unit(assembly, network, cpu, multiply_add):
    text = assembly(network, cpu)
    assert len(re.findall(multiply_add, text)) > 50


def _function(kind):
    a = te.placeholder((4, 32), name="a")
    if kind == "elementwise":
        out = te.compute((4, 32), lambda i, j: a[i, j] + 1.0, name="out")
    else:
        k = te.reduce_axis((0, 4), "k")
        out = te.compute((32,), lambda j: te.sum(a[k, j], axis=[k]), name="out")
    return te.create_prim_func([a, out])


@pytest.mark.parametrize(
    ("template", "kind", "reason"),
    [
        (Contraction(), "elementwise", "no convolution"),
        (Window(), "reduction", "no depthwise"),
        (Reduction(), "elementwise", "no reduction"),
        (Elementwise(), "reduction", "reduces in out"),
    ],
)
def test_templates_refuse_with_a_reason(template, kind, reason):
    schedule = Schedule(tvm.IRModule({"main": _function(kind)}))
    refusal = template.match(schedule)
    assert isinstance(refusal, Refusal) and reason in refusal.reason


class _Broken:
    name = "broken"

    def match(self, schedule):
        return Match("out", "always")

    def apply(self, schedule, match, cpu):
        schedule.get_sblock("no such block")


def test_a_failing_template_falls_back_to_the_next(cpus):
    function, decision = schedule_function(
        _function("elementwise"), cpus["avx2"], "f", (_Broken(), *TEMPLATES)
    )
    assert decision.applied and decision.reason.startswith("elementwise")
    assert "broken failed" in decision.reason
    assert function.attrs[SCHEDULED]


def test_without_a_template_the_function_stays_as_it_is(cpus):
    original = _function("elementwise")
    function, decision = schedule_function(original, cpus["avx2"], "f", (Reduction(),))
    assert not decision.applied and "no reduction" in decision.reason
    assert function.same_as(original)


def test_small_kernels_stay_serial(lower, make_model):
    node = helper.make_node("Relu", ["x"], ["y"])
    small, _ = lower(make_model([node], {"x": [1, 64]}, {"y": None}), "avx2")
    large, _ = lower(make_model([node], {"x": [64, 1024]}, {"y": None}), "avx2")
    assert "T.parallel" not in small.script()
    assert "T.parallel" in large.script()
