"""Seconds of a unit on a device: a bound that holds, and a prediction that is near.

The bound is the roofline's: the least arithmetic at the measured peak, or the compulsory traffic at
the speed of the caches, whichever takes longer. A prediction follows the law of the unit's kind
(`unit_laws`), fitted to measurements by `targets probe`; for a device that nobody measured, kernels
are taken to miss the roofline by as much as they usually do.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tvm_iovt.cost_graph import Unit
from tvm_iovt.roofline import assumed_ceilings
from tvm_iovt.types import DeviceProfile, DtypePeak, KindFit, Roof, TargetSpec
from tvm_iovt.unit_laws import (
    arithmetic_of,
    compulsory_bytes,
    fit_laws,
    law_of,
    laws_like,
    least_flops,
    may_vanish,
    peak_of,
    terms,
)

MOST = 50.0
"""No prediction exceeds the bound by more, wherever a law is asked."""

LEAST_SAMPLES = 3
"""Fewer measurements make no law."""

_DOUBT = 2.5
"""Assumed numbers may be that far below what the device can do."""

# Of our kernels on a Zen 4 core, against the arithmetic in the unit and the traffic of the caches.
_USUAL = {"conv 3x3/1": 0.5, "conv 3x3/2": 1.0, "conv": 1.2, "pointwise": 1.3, "grouped": 2.0}
_USUAL_FACTOR = 2.0

# Bytes of the nearest cache for each FLOP of the peak, where nobody measured it.
_CACHE_BYTES_PER_FLOP = 2.0
_INT8_FEATURES = ("avx512_vnni", "avx_vnni", "asimddp")
_BF16_FEATURES = ("avx512_bf16", "bf16")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSample:
    """A unit and the seconds that it took."""

    unit: Unit
    seconds: float


def profile_of(spec: TargetSpec) -> DeviceProfile:
    """The numbers of a target, measured, stated or assumed."""
    return spec.profile or assumed_profile(spec)


def assumed_profile(spec: TargetSpec) -> DeviceProfile:
    """Numbers from a target's description alone; peaks grow with the threads, memory's less."""
    ceilings = assumed_ceilings(spec)
    counts = (1,) if spec.gpu is not None else tuple(sorted({1, spec.cpu.cores}))
    factors = {"float32": 1.0}
    if spec.gpu is None and set(_INT8_FEATURES) & set(spec.cpu.features):
        factors["int8"] = 4.0
    if spec.gpu is None and set(_BF16_FEATURES) & set(spec.cpu.features):
        factors["bfloat16"] = 2.0
    roofs = tuple(
        Roof(
            threads=threads,
            peaks=tuple(
                DtypePeak(dtype=dtype, flops_per_s=factor * threads * ceilings.peak_flops)
                for dtype, factor in factors.items()
            ),
            bandwidth_bytes_per_s=min(threads, 2) * ceilings.bandwidth_bytes_per_s,
            cache_bandwidth_bytes_per_s=_CACHE_BYTES_PER_FLOP * threads * ceilings.peak_flops,
        )
        for threads in counts
    )
    return DeviceProfile(
        source="assumed", device=ceilings.source, roofs=roofs, launch_s=ceilings.launch_s
    )


def profile_source(spec: TargetSpec) -> str:
    """Where predictions come from: `calibrated`, `datasheet` or `assumed`."""
    if spec.profile is None:
        return "assumed"
    return "calibrated" if spec.profile.fits else "datasheet"


def bound_s(unit: Unit, spec: TargetSpec, threads: int = 0) -> float:
    """Seconds that no kernel for the unit can be faster than, without its start.

    Args:
        unit: The unit.
        spec: The device.
        threads: Of a CPU; 0: as many as the target has cores.
    """
    if may_vanish(unit):
        return 0.0
    profile = profile_of(spec)
    roof = roof_of(profile, _threads(spec, threads))
    doubt = _DOUBT if profile.source == "assumed" else 1.0
    nbytes = compulsory_bytes(unit)
    cache = roof.cache_bandwidth_bytes_per_s
    far = max(nbytes - profile.cache_bytes, 0.0) if profile.cache_bytes else 0.0
    return (
        max(
            least_flops(unit) / peak_of(roof, arithmetic_of(unit)),
            nbytes / cache if cache else 0.0,
            far / roof.bandwidth_bytes_per_s,
        )
        / doubt
    )


def unit_time_s(unit: Unit, spec: TargetSpec, threads: int = 0) -> float:
    """Predicted seconds of a unit, the start of its kernel included.

    Never below `bound_s`, and never far above what the unit's arithmetic and traffic take. A unit
    that neither computes nor moves anything takes no time.

    Args:
        unit: The unit.
        spec: The device.
        threads: Of a CPU; 0: as many as the target has cores.
    """
    if not unit.flops and not unit.nbytes:
        return 0.0
    profile = profile_of(spec)
    count = _threads(spec, threads)
    fits = _fits_for(unit, profile)
    if not fits:
        return _usual_s(unit, spec, profile, count)
    return _between(count, [(fit.threads, _fitted_s(unit, spec, profile, fit)) for fit in fits])


def fit_kind(
    name: str, samples: Sequence[UnitSample], spec: TargetSpec, profile: DeviceProfile, threads: int
) -> KindFit | None:
    """The law of some units, fitted to measurements.

    Args:
        name: Of the law, see `unit_laws.law_of`.
        samples: Measured units that follow it.
        spec: The device.
        profile: Its roofs and `launch_s`; fits are not looked at.
        threads: That the measurements were made with.

    Returns:
        None if there are too few samples.
    """
    if len(samples) < LEAST_SAMPLES:
        return None
    roof = roof_of(profile, threads)
    rows = np.array([_terms(sample.unit, spec, roof) for sample in samples])
    seconds = np.array([sample.seconds for sample in samples])
    coefficients, predicted = fit_laws(rows, list(seconds), profile.launch_s)
    return KindFit(
        kind=name,
        threads=threads,
        coefficients=coefficients,
        median_error=float(np.median(np.abs(predicted - seconds) / seconds)),
        samples=len(samples),
    )


def roof_of(profile: DeviceProfile, threads: int) -> Roof:
    """The roof of a number of threads.

    Between two that are known it is interpolated. Beyond the largest it grows with the threads, and
    below the smallest it is that one: it stays above what the device can do.
    """
    roofs = profile.roofs
    for roof in roofs:
        if roof.threads == threads:
            return roof
    if threads < roofs[0].threads:
        return roofs[0]
    if threads > roofs[-1].threads:
        return _scaled(roofs[-1], threads)
    below = max((r for r in roofs if r.threads < threads), key=lambda r: r.threads)
    above = min((r for r in roofs if r.threads > threads), key=lambda r: r.threads)
    share = (threads - below.threads) / (above.threads - below.threads)
    return Roof(
        threads=threads,
        peaks=tuple(
            DtypePeak(
                dtype=peak.dtype,
                flops_per_s=_mix(peak.flops_per_s, peak_of(above, peak.dtype), share),
            )
            for peak in below.peaks
        ),
        bandwidth_bytes_per_s=_mix(below.bandwidth_bytes_per_s, above.bandwidth_bytes_per_s, share),
        shared_bandwidth_bytes_per_s=_mix(
            below.shared_bandwidth_bytes_per_s, above.shared_bandwidth_bytes_per_s, share
        ),
        cache_bandwidth_bytes_per_s=_mix(
            below.cache_bandwidth_bytes_per_s, above.cache_bandwidth_bytes_per_s, share
        ),
    )


def _mix(low: float, high: float, share: float) -> float:
    """Between two numbers; unknown (0) if one of them is."""
    return low + share * (high - low) if low and high else 0.0


def _scaled(roof: Roof, threads: int) -> Roof:
    factor = threads / roof.threads
    return Roof(
        threads=threads,
        peaks=tuple(
            DtypePeak(dtype=peak.dtype, flops_per_s=factor * peak.flops_per_s)
            for peak in roof.peaks
        ),
        bandwidth_bytes_per_s=factor * roof.bandwidth_bytes_per_s,
        shared_bandwidth_bytes_per_s=factor * roof.shared_bandwidth_bytes_per_s,
        cache_bandwidth_bytes_per_s=factor * roof.cache_bandwidth_bytes_per_s,
    )


def _threads(spec: TargetSpec, threads: int) -> int:
    if spec.gpu is not None:
        return 1
    return threads or spec.cpu.cores


def _fits_for(unit: Unit, profile: DeviceProfile) -> tuple[KindFit, ...]:
    """The fits of the nearest law that has any, one for each number of threads."""
    for name in laws_like(law_of(unit)):
        found = {fit.threads: fit for fit in profile.fits if fit.kind == name}
        if found:
            return tuple(found[threads] for threads in sorted(found))
    return ()


def _fitted_s(unit: Unit, spec: TargetSpec, profile: DeviceProfile, fit: KindFit) -> float:
    row = _terms(unit, spec, roof_of(profile, fit.threads))
    return _clipped(float(row @ np.asarray(fit.coefficients)), unit, spec, profile, fit.threads)


def _usual_s(unit: Unit, spec: TargetSpec, profile: DeviceProfile, threads: int) -> float:
    roof = roof_of(profile, threads)
    factor = _USUAL.get(law_of(unit), _USUAL_FACTOR)
    speed = roof.bandwidth_bytes_per_s
    if unit.nbytes <= spec.cpu.l2_bytes and spec.gpu is None:
        speed = max(speed, roof.cache_bandwidth_bytes_per_s / 4)
    seconds = max(factor * unit.flops / peak_of(roof, arithmetic_of(unit)), unit.nbytes / speed)
    return _clipped(seconds, unit, spec, profile, threads)


def _clipped(
    seconds: float, unit: Unit, spec: TargetSpec, profile: DeviceProfile, threads: int
) -> float:
    """With the start of the kernel, and inside of what is possible."""
    roof = roof_of(profile, threads)
    least = bound_s(unit, spec, threads)
    cache = roof.cache_bandwidth_bytes_per_s or roof.bandwidth_bytes_per_s
    most = MOST * max(
        least,
        unit.flops / peak_of(roof, arithmetic_of(unit)),
        unit.nbytes / cache,
        profile.launch_s,
    )
    return min(max(seconds, least), most) + profile.launch_s


def _between(threads: int, known: Sequence[tuple[int, float]]) -> float:
    """Seconds at a number of threads from those at others, `serial + parallel / threads`."""
    if threads <= known[0][0]:
        return known[0][1] * known[0][0] / threads
    for (few, few_s), (many, many_s) in itertools.pairwise(known):
        if threads <= many:
            share = (1 / few - 1 / threads) / (1 / few - 1 / many)
            return few_s + share * (many_s - few_s)
    return known[-1][1]  # more threads than anybody measured are not trusted to help


def _terms(unit: Unit, spec: TargetSpec, roof: Roof) -> np.ndarray:
    lanes = spec.gpu.thread_warp_size if spec.gpu is not None else spec.cpu.vector_bits // 32
    return terms(unit, roof, max(lanes, 1), spec.cpu.l2_bytes)
