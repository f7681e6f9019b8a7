from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tvm_iovt.discrepancy import compare, stated_bound
from tvm_iovt.errors import UsageError
from tvm_iovt.json_codec import from_json, to_json
from tvm_iovt.types import Discrepancy, OutputDiscrepancy, Tolerance


def one(y: object, r: object, *, rtol: float = 0.0, atol: float = 0.0) -> OutputDiscrepancy:
    found = compare(
        {"out": np.asarray(y)},
        {"out": np.asarray(r)},
        tolerance=Tolerance(rtol=rtol, atol=atol),
        reference="test",
    )
    (output,) = found.outputs
    return output


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_equal_outputs_pass_without_tolerance() -> None:
    found = one(f32(1, -2, 0), f32(1, -2, 0))
    assert found == OutputDiscrepancy(
        name="out", max_abs=0.0, max_rel=0.0, cosine=pytest.approx(1), violations=0, elements=3
    )


def test_an_element_is_allowed_atol_plus_rtol_of_the_reference() -> None:
    assert one(f32(10.5), f32(10), rtol=0.04, atol=0.1).violations == 0
    assert one(f32(10.625), f32(10), rtol=0.04, atol=0.1).violations == 1


def test_max_rel_ignores_elements_where_atol_governs() -> None:
    found = one(f32(0.51, 10.125), f32(0.01, 10), rtol=0.1, atol=0.5)
    assert found.max_abs == pytest.approx(0.5)
    assert found.max_rel == pytest.approx(0.0125)
    assert one(f32(0.5, 1), f32(0.01, 1), rtol=0.1, atol=1.0).max_rel == 0


def test_small_outputs_are_compared_strictly() -> None:
    # Probabilities near 0: a plain atol of 1e-4 would accept any of them.
    r = f32(2e-5, 5e-5, 1e-5)
    assert one(r * np.float32(1.0005), r, rtol=1e-3, atol=1e-4).violations == 0
    assert one(r * np.float32(1.5), r, rtol=1e-3, atol=1e-4).violations == 3


def test_zeros_among_large_numbers_are_as_inexact_as_those() -> None:
    # Differences of numbers around 1e5 in float32 are off by 1e-2.
    r = f32(1.8e5, 150, 0)
    assert one(f32(1.8e5, 150.3, 0.2), r, rtol=1e-3, atol=1e-4).violations == 0
    assert one(f32(1.8e5, 155, 4), r, rtol=1e-3, atol=1e-4).violations == 2


@pytest.mark.parametrize("largest", [1e-3, 0.5, 1.0, 7.0, 10.0, 300.0, 2e5])
def test_a_bound_can_be_stated_for_any_magnitude(largest: float) -> None:
    bound = 1e-4 * largest
    atol = stated_bound(bound, largest)
    assert one(f32(0.99 * bound, largest), f32(0, largest), rtol=0, atol=atol).violations == 0
    assert one(f32(1.01 * bound, largest), f32(0, largest), rtol=0, atol=atol).violations == 1


def test_zeros_keep_the_plain_absolute_tolerance() -> None:
    assert one(f32(1e-5, 0), f32(0, 0), rtol=1e-3, atol=1e-4).violations == 0
    assert one(f32(1e-3, 0), f32(0, 0), rtol=1e-3, atol=1e-4).violations == 1


def test_nan_agrees_with_nan_only() -> None:
    nan = math.nan
    assert one(f32(nan, 1), f32(nan, 1)).violations == 0
    for y, r in ((nan, 1.0), (1.0, nan)):
        found = one(f32(y, 1), f32(r, 1), rtol=1e9, atol=1e9)
        assert found.violations == 1
        assert found.max_abs == math.inf


def test_infinity_agrees_with_itself_only() -> None:
    inf = math.inf
    assert one(f32(inf, -inf), f32(inf, -inf)).violations == 0
    assert one(f32(inf), f32(-inf), rtol=1, atol=1).violations == 1
    assert one(f32(1), f32(inf), rtol=1, atol=1).violations == 1
    assert one(f32(inf), f32(1), rtol=1, atol=1).violations == 1


@pytest.mark.parametrize(
    ("y", "r"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32)),
        (np.zeros((2, 3), np.float64), np.zeros((2, 3), np.float32)),
    ],
    ids=["shape", "dtype"],
)
def test_other_shape_or_dtype_violates_everywhere(y: np.ndarray, r: np.ndarray) -> None:
    found = one(y, r, rtol=1, atol=1)
    assert (found.violations, found.elements, found.cosine) == (6, 6, 0.0)
    assert found.max_abs == math.inf


def test_shape_mismatch_of_an_empty_reference_fails() -> None:
    assert one(np.zeros(3, np.float32), np.zeros(0, np.float32)).violations == 1


def test_empty_and_scalar_outputs() -> None:
    assert one(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32)).violations == 0
    assert one(np.float32(2), np.float32(2)).elements == 1


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_integers_have_no_tolerance(dtype: type) -> None:
    r = np.array([0, 1, 1], dtype)
    assert one(r, r, rtol=1, atol=10).violations == 0
    assert one(np.array([1, 1, 1], dtype), r, rtol=1, atol=10).violations == 1


def test_large_integers_are_not_rounded() -> None:
    assert one(np.array([2**60 + 1]), np.array([2**60])).violations == 1


def test_small_differences_of_uint8_do_not_wrap() -> None:
    assert one(np.array([0], np.uint8), np.array([1], np.uint8)).max_abs == 1


def test_cosine_of_opposite_huge_and_zero_vectors() -> None:
    assert one(f32(1, 2), f32(-1, -2)).cosine == pytest.approx(-1)
    assert one(np.array([1e300, 1e300]), np.array([1e300, 1e300])).cosine == pytest.approx(1)
    assert one(np.array([1e-300]), np.array([1e-300])).cosine == pytest.approx(1)
    assert one(f32(0, 0), f32(0, 0)).cosine == 1
    assert one(f32(0, 0), f32(1, 0)).cosine == 0


def test_names_must_agree() -> None:
    with pytest.raises(UsageError, match="different names"):
        compare({"a": f32(1)}, {"b": f32(1)}, tolerance=Tolerance(rtol=0, atol=0), reference="test")


@pytest.mark.parametrize(("rtol", "atol"), [(-1.0, 0.0), (0.0, -1.0), (math.nan, 0.0)])
def test_tolerances_must_not_be_negative(rtol: float, atol: float) -> None:
    with pytest.raises(UsageError, match="negative"):
        compare({}, {}, tolerance=Tolerance(rtol=rtol, atol=atol), reference="test")


def test_survives_json() -> None:
    found = compare(
        {"a": f32(1)}, {"a": f32(2)}, tolerance=Tolerance(rtol=0.1, atol=0.1), reference="test"
    )
    assert not found.passed
    assert from_json(Discrepancy, to_json(found)) == found


@given(
    r=hnp.arrays(np.float32, st.integers(0, 20), elements=st.floats(-1e6, 1e6, width=32)),
    noise=st.floats(0, 1e3),
    rtol=st.floats(0, 0.5),
    atol=st.floats(0, 10),
)
def test_agrees_with_numpy(r: np.ndarray, noise: float, rtol: float, atol: float) -> None:
    y = (r + np.float32(noise) * np.sin(np.arange(r.size))).astype(np.float32)
    found = one(y, r, rtol=rtol, atol=atol)
    y64, r64 = y.astype(np.float64), r.astype(np.float64)
    largest = np.abs(r64).max(initial=0.0)
    bound = min(atol, max(1e-6, atol * largest)) if largest > 0 else atol
    if largest > 10:
        bound = atol * (largest / 10)
    close = np.isclose(y64, r64, rtol=rtol, atol=bound)
    assert found.violations == np.count_nonzero(~close)
    assert -1.000001 <= found.cosine <= 1.000001
