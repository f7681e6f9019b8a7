"""Targets as TVM gets them: what LLVM does not know is refused, not built for something else."""

from __future__ import annotations

import dataclasses

import pytest

from tvm_iovt import _tvm, targets
from tvm_iovt.errors import TargetError
from tvm_iovt.types import TargetSpec


def arm(**changes: object) -> TargetSpec:
    spec = targets.load("arm")
    return dataclasses.replace(spec, cpu=dataclasses.replace(spec.cpu, **changes))


@pytest.mark.parametrize(
    "name",
    ["host", "arm", "armv7", "raspberry-pi-4", "raspberry-pi-5"],
)
def test_shipped_targets_are_known(name: str) -> None:
    assert str(_tvm.tvm_target(targets.load(name)).kind.name) == "llvm"


def test_an_unknown_cpu_is_refused_with_known_ones() -> None:
    with pytest.raises(TargetError, match="'cortex-a99'") as caught:
        _tvm.tvm_target(arm(mcpu="cortex-a99"))
    assert "cortex-a7" in caught.value.do
    assert caught.value.exit_code == 4
    with pytest.raises(TargetError, match="'znver3'"):
        _tvm.tvm_target(arm(mcpu="znver3"))  # of another architecture


def test_an_unknown_feature_is_refused_with_known_ones() -> None:
    with pytest.raises(TargetError, match="'neno' of aarch64") as caught:
        _tvm.tvm_target(arm(mattr=("+dotprod", "+neno")))
    assert "neon" in caught.value.do
    with pytest.raises(TargetError, match="'avx2'"):
        _tvm.tvm_target(arm(mattr=("-avx2",)))


def test_features_may_be_switched_on_and_off() -> None:
    assert list(_tvm.tvm_target(arm(mattr=("+dotprod", "-crypto"))).attrs["mattr"]) == [
        "+dotprod",
        "-crypto",
    ]


def test_a_switch_of_the_reference_is_a_feature() -> None:
    """`targets/README.md` advises it for a Cortex-A7."""
    spec = targets.load("armv7")
    cpu = dataclasses.replace(spec.cpu, mcpu="cortex-a7", mattr=("+vfp4", "-slowfpvfmx"))
    assert "-slowfpvfmx" in _tvm.tvm_target(dataclasses.replace(spec, cpu=cpu)).attrs["mattr"]


def test_a_gpus_launcher_is_checked_too() -> None:
    cuda = dataclasses.replace(targets.load("cuda"), cpu=arm(mcpu="cortex-a99").cpu)
    with pytest.raises(TargetError, match="cortex-a99"):
        _tvm.tvm_target(cuda)
