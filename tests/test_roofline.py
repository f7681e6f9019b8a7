from __future__ import annotations

import dataclasses

import pytest

from tvm_iovt import targets
from tvm_iovt.roofline import Ceilings, assumed_ceilings
from tvm_iovt.types import CpuSpec, GpuSpec, TargetSpec

CEILINGS = Ceilings(peak_flops=1e9, bandwidth_bytes_per_s=1e8, launch_s=1e-6, source="test")
CPU = CpuSpec(
    arch="x86_64",
    triple="x86_64-linux-gnu",
    mcpu="haswell",
    cores=4,
    vector_bits=256,
    vector_registers=16,
    l1d_bytes=32 << 10,
    l2_bytes=1 << 20,
)
GPU = GpuSpec(
    kind="cuda",
    arch="sm_87",
    max_threads_per_block=1024,
    max_shared_memory_per_block_bytes=49152,
    thread_warp_size=32,
)


def ceilings(**changes) -> Ceilings:
    cpu = dataclasses.replace(CPU, **changes)
    return assumed_ceilings(TargetSpec(name="test", description="", cpu=cpu))


def test_work_or_traffic_whichever_takes_longer() -> None:
    assert CEILINGS.time_s(2_000_000, 0) == pytest.approx(2e-3 + 1e-6)
    assert CEILINGS.time_s(0, 2_000_000) == pytest.approx(2e-2 + 1e-6)
    # At ten FLOPs a byte both take as long.
    assert CEILINGS.time_s(1000, 100) == pytest.approx(CEILINGS.time_s(0, 100))
    assert CEILINGS.time_s(2000, 100) > CEILINGS.time_s(1000, 100)


def test_an_operator_that_does_nothing_is_started_all_the_same() -> None:
    assert CEILINGS.time_s(0, 0) == 1e-6


def test_wider_vectors_do_more() -> None:
    narrow, wide = ceilings(vector_bits=128), ceilings(vector_bits=256)
    assert wide.peak_flops == 2 * narrow.peak_flops
    assert wide.bandwidth_bytes_per_s == narrow.bandwidth_bytes_per_s


def test_two_units_of_the_widest_vectors_are_assumed_at_most() -> None:
    # 256-bit vectors twice a cycle, or 512-bit ones once: 16 lanes at 3 GHz, a FMA as two FLOPs.
    assert ceilings(vector_bits=256).peak_flops == pytest.approx(2 * 16 * 3e9)
    assert ceilings(vector_bits=512).peak_flops == ceilings(vector_bits=256).peak_flops


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_a_cpu_without_vectors_does_one_at_a_time(bits) -> None:
    found = ceilings(arch="riscv64", vector_bits=bits)
    assert found.peak_flops > 0


def test_an_unknown_architecture_is_taken_for_a_small_one() -> None:
    found, known = ceilings(arch="riscv64", vector_bits=128), ceilings(arch="armv7l")
    assert found.bandwidth_bytes_per_s == known.bandwidth_bytes_per_s
    assert "riscv64" in found.source


def test_smaller_architectures_do_less() -> None:
    found = [ceilings(arch=arch, vector_bits=128) for arch in ("x86_64", "aarch64", "armv7l")]
    peaks = [c.peak_flops for c in found]
    assert peaks == sorted(peaks, reverse=True)


def test_a_gpu_is_asked_not_the_cpu_beside_it() -> None:
    spec = TargetSpec(name="gpu", description="", cpu=CPU, gpu=GPU)
    found = assumed_ceilings(spec)
    assert found.peak_flops > 10 * ceilings().peak_flops
    assert found.launch_s > ceilings().launch_s
    assert found.source == "assumed for cuda"


@pytest.mark.parametrize("name", targets.names())
def test_every_shipped_target_has_ceilings(name) -> None:
    found = assumed_ceilings(targets.load(name))
    assert found.peak_flops > 0
    assert found.bandwidth_bytes_per_s > 0
    assert found.launch_s > 0
    assert found.source.startswith("assumed for")
    # Anything else would turn every decision one way.
    assert 1 < found.peak_flops / found.bandwidth_bytes_per_s < 100
