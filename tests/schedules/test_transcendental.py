from __future__ import annotations

import math
import re

import numpy as np
import pytest
import tvm
from onnx import helper
from tvm import te

from tvm_iovt.schedules import transcendental
from tvm_iovt.schedules.cpu import schedule_function
from tvm_iovt.schedules.vector_math import power_of

SWEEP = np.unique(
    np.concatenate(
        [
            np.linspace(-12, 12, 1 << 17, dtype=np.float32),
            np.linspace(-100, 100, 1 << 15, dtype=np.float32),
            *(s * np.logspace(-37, 2, 1 << 13).astype(np.float32) for s in (-1, 1)),
        ]
    )
)
_erf = np.vectorize(math.erf)


def _sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


def _gelu_tanh(x):
    return x * _sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


# Name, domain, reference in float64, and the bound that the docstring states: relative, or relative
# to max(1, |x|) or max(1, |f(x)|).
FUNCTIONS = [
    ("exp", (-86, 88.7), np.exp, "relative", 2e-7),
    ("log", (1e-37, 100), np.log, "result", 2e-7),
    ("erf", (-100, 100), _erf, "relative", 4e-7),
    ("tanh", (-100, 100), np.tanh, "relative", 4e-7),
    ("sigmoid", (-86, 100), _sigmoid, "relative", 3e-7),
    ("silu", (-86, 100), lambda x: x * _sigmoid(x), "relative", 3e-7),
    ("gelu", (-100, 100), lambda x: x * (1 + _erf(x / math.sqrt(2))) / 2, "size", 3e-7),
    ("gelu_tanh", (-100, 100), _gelu_tanh, "size", 3e-7),
    ("softplus", (-100, 100), lambda x: np.logaddexp(0, x), "size", 2e-7),
]


def _run(function, values, cpus):
    x = te.placeholder(values.shape, name="x")
    y = te.compute(values.shape, lambda i: function(x(i)), name="y")
    scheduled, _ = schedule_function(te.create_prim_func([x, y]), cpus["avx512"], "f")
    name = str(tvm.get_global_func("target.llvm_get_system_cpu")())
    target = tvm.target.Target({"kind": "llvm", "mcpu": name, "num-cores": 2})
    library = tvm.compile(tvm.IRModule({"main": scheduled}), target=target)
    out = tvm.runtime.tensor(np.zeros_like(values))
    library["main"](tvm.runtime.tensor(values), out)
    return out.numpy()


@pytest.mark.parametrize(
    ("name", "domain", "reference", "kind", "bound"), FUNCTIONS, ids=[f[0] for f in FUNCTIONS]
)
def test_error_over_a_dense_sweep(cpus, name, domain, reference, kind, bound):
    values = SWEEP[(domain[0] <= SWEEP) & (domain[1] >= SWEEP)]
    values = np.ascontiguousarray(values[: len(values) // 16 * 16])
    exact = values.astype(np.float64)
    with np.errstate(all="ignore"):
        expected = reference(exact)
    size = {
        "relative": np.abs(expected),
        "size": np.maximum(1, np.abs(exact)),
        "result": np.maximum(1, np.abs(expected)),
    }[kind]
    difference = np.abs(_run(getattr(transcendental, name), values, cpus) - expected)
    normal = size > 1e-36
    assert (difference[normal] / size[normal]).max() < bound
    assert difference[~normal].max(initial=0) < 1e-36


@pytest.mark.parametrize("name", [f[0] for f in FUNCTIONS])
def test_not_a_number_passes(cpus, name):
    assert np.isnan(
        _run(getattr(transcendental, name), np.full(16, np.nan, np.float32), cpus)
    ).all()


def test_ends_of_the_range(cpus):
    values = np.array([-np.inf, -1e30, -200, -88, 0, 88.75, 1e30, np.inf] * 2, np.float32)
    np.testing.assert_array_equal(
        _run(transcendental.exp, values, cpus)[:8], [0, 0, 0, 0, 1, np.inf, np.inf, np.inf]
    )
    for odd in (transcendental.erf, transcendental.tanh):
        np.testing.assert_array_equal(_run(odd, values, cpus)[:8], [-1, -1, -1, -1, 0, 1, 1, 1])
    sigmoids = _run(transcendental.sigmoid, values, cpus)[:8]
    np.testing.assert_allclose(sigmoids, [0, 0, 0, 0, 0.5, 1, 1, 1], rtol=0, atol=1e-37)
    logs = np.array([0, -0.0, -1, np.inf, 1, 1e-40, 1.1754944e-38, 3.4e38] * 2, np.float32)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(
            _run(transcendental.log, logs, cpus), np.log(logs), rtol=2e-7, atol=0
        )


@pytest.mark.parametrize("exponent", [-2, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 7, 16, 17, 21, 2.2, -0.3])
def test_powers(cpus, exponent):
    values = np.concatenate([np.linspace(-3, 3, 62), [1e-3, 9.0]]).astype(np.float32)
    with np.errstate(all="ignore"):
        expected = np.power(values.astype(np.float64), exponent)
    ours = _run(lambda x: power_of(x, float(exponent)), values, cpus)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-36)


_LIBRARY_CALL = re.compile(
    r"\b(?:call|callq|bl|jmp)\b.*\b(expf?|logf?|log1pf?|expm1f?|erff?|tanhf?|powf?|sqrtf?|floorf?)\b"
)
ACTIVATIONS = [
    *("Exp", "Log", "Erf", "Gelu", "Tanh", "Sigmoid", "HardSwish", "HardSigmoid", "Mish"),
    *("Softplus", "Elu", "Selu", "LeakyRelu", "Sqrt", "Softmax", "LogSoftmax"),
]


@pytest.mark.parametrize("cpu", ["avx512", "avx2", "neon64"])
@pytest.mark.parametrize("op", ACTIVATIONS)
def test_no_lane_calls_the_c_library(assembly, make_model, cpu, op):
    model = make_model([helper.make_node(op, ["x"], ["y"])], {"x": [16, 64]}, {"y": None}, opset=20)
    text = assembly(model, cpu)
    assert not _LIBRARY_CALL.findall(text)


@pytest.mark.parametrize("exponent", [2.0, 0.5, -0.5, 2.2])
def test_powers_by_constants_call_nothing(assembly, make_model, exponent):
    constants = {"p": np.array(exponent, np.float32)}
    model = make_model(
        [helper.make_node("Pow", ["x", "p"], ["y"])], {"x": [16, 64]}, {"y": None}, constants
    )
    assert not _LIBRARY_CALL.findall(assembly(model, "avx512"))


@pytest.mark.parametrize("op", ["Mish", "Softplus", "Gelu", "Selu"])
def test_activations_compile_quickly_in_an_epilogue(check, make_model, rng, op):
    constants = {"w": rng.standard_normal((24, 48), dtype=np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node(op, ["m"], ["y"])]
    result = check(make_model(nodes, {"x": [30, 24]}, {"y": None}, constants, opset=20))
    assert len(result.kernels) == 1
