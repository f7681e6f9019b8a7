from __future__ import annotations

import math

import pytest

from tvm_iovt.types import Discrepancy, OutputDiscrepancy, TensorSpec, Tolerance


@pytest.mark.parametrize(
    ("min_cosine", "change", "accepted"),
    [
        (None, {}, True),
        (None, {"violations": 1}, False),
        (0.95, {"violations": 9}, True),
        (0.95, {"cosine": 0.94}, False),
        (0.95, {"cosine": math.nan}, False),
        (0.95, {"max_abs": math.inf}, False),
    ],
)
def test_tolerance(min_cosine: float | None, change: dict[str, float], accepted: bool) -> None:
    fields = {"max_abs": 0.1, "max_rel": 0.1, "cosine": 0.96, "violations": 0, **change}
    output = OutputDiscrepancy(name="y", elements=10, **fields)  # type: ignore[arg-type]
    tolerance = Tolerance(rtol=1e-3, atol=1e-4, min_cosine=min_cosine)
    assert tolerance.accepts(output) is accepted
    found = Discrepancy(outputs=(output,), tolerance=tolerance, reference="r")
    assert found.passed is accepted


def test_stated_bounds_make_a_tolerance_element_wise() -> None:
    default = Tolerance(rtol=1e-3, atol=1e-4, min_cosine=0.95)
    assert default.stated(None, None) is default
    assert default.stated(0.1, None) == Tolerance(rtol=0.1, atol=1e-4)
    assert str(default) == "cosine >= 0.95"
    assert str(default.stated(None, 0.5)) == "|y - r| <= 0.5 + 0.001 |r|"


def test_tensor_size() -> None:
    assert TensorSpec(name="x", shape=(2, 3, 4), dtype="float16").nbytes == 48
    assert TensorSpec(name="s", shape=(), dtype="int64").nbytes == 8
