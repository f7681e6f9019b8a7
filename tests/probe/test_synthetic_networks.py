from __future__ import annotations

from collections import Counter

import pytest

from tvm_iovt.probe.synthetic_networks import FAMILIES, network_plan
from tvm_iovt.unit_laws import has_bytes, law_of
from tvm_iovt.unit_times import LEAST_SAMPLES


@pytest.mark.parametrize("family", FAMILIES)
def test_networks_are_the_same_each_time_and_others_each_turn(family: str) -> None:
    first, again, other = (network_plan(family, turn) for turn in (0, 0, 1))
    assert first.units == again.units
    assert first.units != other.units
    assert first.module is not None
    assert len(first.shape) == 4


def test_one_quantized_network_has_samples_for_the_laws_that_count() -> None:
    units = network_plan("quantized", 0).units
    laws = Counter(law_of(unit) for unit in units)
    for law in ("pointwise", "depthwise", "conv 3x3/1", "conv 3x3/2"):
        assert laws[f"int8 {law}"] >= LEAST_SAMPLES
    assert all(law.startswith("int8 ") for law in laws), laws
    convolutions = [unit for unit in units if unit.groups > 1 or "conv" in unit.kind]
    assert all(has_bytes(unit) for unit in convolutions)


def test_three_turns_have_samples_for_all_laws_of_bytes() -> None:
    laws = Counter(
        law_of(unit) for turn in range(3) for unit in network_plan("quantized", turn).units
    )
    for law in ("conv", "grouped", "matmul", "pool", "reduce", "elementwise", "move"):
        assert laws[f"int8 {law}"] >= LEAST_SAMPLES
