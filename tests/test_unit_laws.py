from __future__ import annotations

import dataclasses
import math

import numpy as np

from tvm_iovt import unit_laws
from tvm_iovt.cost_graph import Unit
from tvm_iovt.types import DtypePeak, Roof

ROOF = Roof(
    threads=1,
    peaks=(
        DtypePeak(dtype="float32", flops_per_s=1e11),
        DtypePeak(dtype="int8", flops_per_s=4e11),
    ),
    bandwidth_bytes_per_s=1e10,
    cache_bandwidth_bytes_per_s=2e11,
)
LANES, CACHE = 16, 1 << 20


def conv(kind: str, byte: int, dtype: str = "float32", beside: int = 0) -> Unit:
    """56x56, 3x3, 64 channels; activations of `byte` bytes, `beside` other FLOPs an output."""
    groups = 64 if kind == "depthwise" else 1
    shape = (1, 64, 56, 56)
    outputs = math.prod(shape)
    return Unit(
        index=0,
        name="c",
        operators=(),
        kind=kind,
        flops=(2 * 9 * (64 // groups) + beside) * outputs,
        bytes_in=byte * outputs,
        bytes_out=byte * outputs,
        bytes_weights=4 * 9 * 64 * (64 // groups),
        dtype=dtype,
        shape_in=shape,
        shape_out=shape,
        kernel=(3, 3),
        strides=(1, 1),
        groups=groups,
    )


def row(unit: Unit) -> np.ndarray:
    return unit_laws.terms(unit, ROOF, LANES, CACHE)


def test_predictions_add_up_to_what_was_measured() -> None:
    random = np.random.default_rng(3)
    rows = np.abs(random.standard_normal((60, 12))) * 1e-5
    true = np.array([2.0, 1.0, 0.5, *[0.0] * 9])
    seconds = rows @ true * random.uniform(0.75, 1.35, 60)
    seconds[7] *= 20  # a sample that something disturbed counts for nothing
    found = np.array(unit_laws.fit_law(rows, list(seconds), 0.0))
    rest = np.arange(60) != 7
    ratio = (rows[rest] @ found).sum() / seconds[rest].sum()
    assert abs(ratio - 1) < 1e-6


def test_units_that_convert_bytes_have_laws_of_their_own() -> None:
    assert unit_laws.law_of(conv("conv", 4)) == "conv 3x3/1"
    assert unit_laws.law_of(conv("conv", 1)) == "int8 conv 3x3/1"
    assert unit_laws.law_of(conv("depthwise", 4)) == "depthwise"
    assert unit_laws.law_of(conv("depthwise", 1)) == "int8 depthwise"
    assert unit_laws.arithmetic_of(conv("depthwise", 1)) == "float32"
    assert unit_laws.law_of(conv("elementwise", 4, "uint8")) == "int8 elementwise"
    assert unit_laws.law_of(conv("elementwise", 2, "float16")) == "float16 elementwise"
    for kind in ("depthwise", "pool", "conv 3x3/2"):
        names = unit_laws.laws_like(f"int8 {kind}")
        assert names[0] == f"int8 {kind}"
        assert names.index(kind) > names.index(f"int8 {kind}")


def test_quantized_dense_windows_fall_back_to_dense_ones() -> None:
    assert unit_laws.laws_like("int8 conv")[1] == "int8 conv 3x3/2"


def test_weights_of_bytes_are_a_quarter_where_bytes_are_multiplied() -> None:
    for kind, share in (("conv", 0.25), ("depthwise", 1.0)):
        unit = conv(kind, 1)
        assert unit_laws.weight_bytes(unit) == share * unit.bytes_weights
    whole = conv("conv", 4)
    assert unit_laws.weight_bytes(whole) == whole.bytes_weights
    narrow = conv("conv", 1)
    assert unit_laws.compulsory_bytes(narrow) == (
        narrow.bytes_in + narrow.bytes_out + narrow.bytes_weights / 4
    )


def test_conversions_count_beside_the_products() -> None:
    bare, more = conv("conv", 1), conv("conv", 1, beside=7)
    beside_s = 7 * math.prod(bare.shape_out) / 1e11  # in float32
    difference = row(more) - row(bare)
    assert row(bare)[5] == 0.0
    assert math.isclose(difference[5], beside_s)
    pool = dataclasses.replace(conv("pool", 1), flops=1000)
    assert math.isclose(row(pool)[5], 1000 / 1e11)


def test_terms_of_float32_are_as_before() -> None:
    unit = dataclasses.replace(conv("conv", 4), shape_out=(1, 64, 57, 57))
    tiles = (math.ceil(57 / 4) * 4) ** 2 / 57**2 - 1
    assert math.isclose(row(unit)[5], unit.flops / 1e11 * tiles)
    large = dataclasses.replace(conv("pointwise", 4), bytes_in=3 << 20)
    assert row(large)[5] == 0.0
    assert math.isclose(row(large)[11], (large.bytes_in + large.bytes_out - CACHE) / 2e11)
    assert row(dataclasses.replace(conv("conv", 1), bytes_out=3 << 20, bytes_in=1))[11] == 0.0


def test_a_term_that_hardly_shows_explains_no_disturbance() -> None:
    rng = np.random.default_rng(5)
    rows = np.zeros((20, unit_laws.TERMS))
    rows[:, 1] = rng.uniform(1e-5, 1e-3, 20)
    rows[3, 9] = 1e-9
    seconds = 2 * rows[:, 1]
    seconds[3] *= 1.5  # disturbed
    found = unit_laws.fit_law(rows, list(seconds), 0.0)
    assert math.isclose(found[1], 2.0, rel_tol=0.05)
    assert found[9] * 1e-9 < 0.05 * seconds[3]
