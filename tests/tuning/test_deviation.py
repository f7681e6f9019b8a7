from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tvm_iovt.tuning.deviation import MAX_DEVIATION, compared, deviation, other_than, tolerance


def test_deviation_is_relative_and_infinite_for_nan():
    reference = np.array([0.0, 10.0])
    assert deviation(np.array([0.1, 10.0]), reference) == pytest.approx(0.01)
    assert deviation(np.array([np.nan, 10.0]), reference) == float("inf")
    assert deviation(np.zeros(2), np.zeros(2)) == 0
    assert deviation(np.zeros((0, 3)), np.zeros((0, 3))) == 0


def test_infinity_is_right_where_the_reference_has_it():
    reference = np.array([-np.inf, 10.0])
    assert deviation(np.array([-np.inf, 10.1]), reference) == pytest.approx(0.01)
    assert deviation(np.array([np.inf, 10.0]), reference) == float("inf")
    assert deviation(np.array([-np.inf, -np.inf]), reference) == float("inf")
    assert deviation(np.array([0.0, 10.0]), reference) == float("inf")


REFERENCE = np.array([1.0, -4.0, 2.0])


@pytest.mark.parametrize(
    ("dtype", "step"),
    [
        ("float32", MAX_DEVIATION),
        ("float16", 2.0**-9),
        ("bfloat16", 2.0**-6),
        ("int8", 1 / 127),
        ("uint8", 1 / 255),
        ("int32", 0.0),
        ("bool", 0.0),
    ],
)
def test_what_is_allowed_follows_the_type(dtype, step):
    assert tolerance(dtype) == pytest.approx(step)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_sums_in_another_order_pass_and_wrong_values_do_not(dtype):
    exact = REFERENCE.astype(dtype)
    near = (REFERENCE * (1 + tolerance(dtype) / 4)).astype(dtype)
    assert compared([exact], [exact]) == (0, "")
    assert compared([near], [exact])[1] == ""
    off, reason = compared([(REFERENCE * 1.05).astype(dtype)], [exact])
    assert off == pytest.approx(0.05, rel=0.1)
    assert "differs from the unscheduled function by" in reason


def test_integers_are_exact_but_for_a_step_of_the_narrow_ones():
    byte = np.array([0, -128, 127], np.int8)
    assert compared([byte], [byte])[1] == ""
    assert compared([np.array([1, -128, 126], np.int8)], [byte])[1] == ""
    assert compared([np.array([2, -128, 127], np.int8)], [byte])[1] != ""
    wide = np.array([1 << 24, 1], np.int32)
    assert compared([wide + np.array([0, 1], np.int32)], [wide])[1] != ""


def test_every_output_counts_and_is_named():
    wrong = REFERENCE.copy()
    wrong[0] = np.nan
    off, reason = compared([REFERENCE, wrong], [REFERENCE, REFERENCE])
    assert off == float("inf") and reason.startswith("output 1 is not finite")
    assert compared([wrong], [REFERENCE])[1].startswith("its output")


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "bfloat16", "int8", "uint8", "int64", "bool"]
)
def test_other_values_differ_everywhere(dtype):
    value = np.arange(-3, 3).astype(dtype)
    other = other_than(value)
    assert other.dtype == value.dtype and (other != value).all()
