"""Cost on a device, as a lower bound: the roofline.

`time >= max(FLOPs / peak, bytes / bandwidth)` (doi 10.1145/1498765.1498785), plus the time that it
takes to start one operator.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_iovt.types import TargetSpec

# Assumed for a device that nobody measured: one core's clock, the bits that its FMA units take in a
# cycle, and its bandwidth for tensors that mostly stay in its caches. The decisions taken with them
# depend on the ratio of peak to bandwidth only, which differs little between CPUs of one kind.
_CLOCK_HZ = {"x86_64": 3.0e9, "aarch64": 1.8e9, "armv7l": 1.2e9}
_FMA_BITS = {"x86_64": 512, "aarch64": 256, "armv7l": 128}
_BANDWIDTH_BYTES_PER_S = {"x86_64": 40e9, "aarch64": 10e9, "armv7l": 4e9}
_CPU_LAUNCH_S = 2e-6
_GPU_PEAK_FLOPS = 2e12
_GPU_BANDWIDTH_BYTES_PER_S = 100e9
_GPU_LAUNCH_S = 6e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """What a device can do at best, in float32.

    Attributes:
        peak_flops: FLOPs a second, a multiply-add counted as two.
        bandwidth_bytes_per_s: Bytes a second from and to memory.
        launch_s: Seconds to start one operator.
        source: Where the numbers come from, in words.
    """

    peak_flops: float
    bandwidth_bytes_per_s: float
    launch_s: float
    source: str

    def time_s(self, flops: int, nbytes: int) -> float:
        """Lower bound of an operator's time."""
        return max(flops / self.peak_flops, nbytes / self.bandwidth_bytes_per_s) + self.launch_s


def assumed_ceilings(spec: TargetSpec) -> Ceilings:
    """Ceilings of a target from its description alone, one core of a CPU; not measured."""
    if spec.gpu is not None:
        return Ceilings(
            peak_flops=_GPU_PEAK_FLOPS,
            bandwidth_bytes_per_s=_GPU_BANDWIDTH_BYTES_PER_S,
            launch_s=_GPU_LAUNCH_S,
            source=f"assumed for {spec.gpu.kind}",
        )
    cpu = spec.cpu
    lanes = min(_FMA_BITS.get(cpu.arch, cpu.vector_bits), 2 * cpu.vector_bits) // 32
    clock_hz = _CLOCK_HZ.get(cpu.arch, min(_CLOCK_HZ.values()))
    return Ceilings(
        peak_flops=2.0 * max(lanes, 1) * clock_hz,
        bandwidth_bytes_per_s=_BANDWIDTH_BYTES_PER_S.get(
            cpu.arch, min(_BANDWIDTH_BYTES_PER_S.values())
        ),
        launch_s=_CPU_LAUNCH_S,
        source=f"assumed for one {cpu.arch} core of {cpu.vector_bits}-bit vectors",
    )
