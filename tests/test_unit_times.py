from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_iovt import targets, unit_laws, unit_times
from tvm_iovt.cost_graph import KINDS, Unit
from tvm_iovt.types import CpuSpec, DeviceProfile, DtypePeak, KindFit, Roof, TargetSpec
from tvm_iovt.unit_times import UnitSample, bound_s, fit_kind, roof_of, unit_time_s

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


def roof(threads: int, speed: float = 1.0) -> Roof:
    return Roof(
        threads=threads,
        peaks=(
            DtypePeak(dtype="float32", flops_per_s=speed * 100e9),
            DtypePeak(dtype="int8", flops_per_s=speed * 400e9),
        ),
        bandwidth_bytes_per_s=10e9,
        cache_bandwidth_bytes_per_s=speed * 200e9,
    )


PROFILE = DeviceProfile(
    source="measured", roofs=(roof(1), roof(4, 3.0)), launch_s=1e-6, cache_bytes=8 << 20
)
SPEC = TargetSpec(name="test", description="", cpu=CPU, profile=PROFILE)


def conv(
    depth: int = 32,
    channels: int = 32,
    size: int = 28,
    kernel: int = 3,
    stride: int = 1,
    kind: str = "conv",
    dtype: str = "float32",
) -> Unit:
    out = (size - 1) // stride + 1
    groups = depth if kind == "depthwise" else 1
    return Unit(
        index=0,
        name="c",
        operators=("c",),
        kind=kind,
        flops=2 * depth // groups * channels * out * out * kernel * kernel,
        bytes_in=4 * depth * size * size,
        bytes_out=4 * channels * out * out,
        bytes_weights=4 * depth // groups * channels * kernel * kernel,
        dtype=dtype,
        shape_in=(1, depth, size, size),
        shape_out=(1, channels, out, out),
        kernel=(kernel, kernel),
        strides=(stride, stride),
        groups=groups,
    )


UNITS = st.builds(
    conv,
    depth=st.sampled_from([1, 3, 16, 100, 512]),
    channels=st.sampled_from([1, 8, 33, 512]),
    size=st.integers(1, 224),
    kernel=st.sampled_from([1, 2, 3, 5, 7]),
    stride=st.sampled_from([1, 2, 4]),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(["float32", "int8", "bfloat16"]),
)
FITS = st.lists(
    st.lists(st.floats(0, 1e6), min_size=unit_laws.TERMS, max_size=unit_laws.TERMS),
    max_size=2,
)


@settings(deadline=None, max_examples=300)
@given(unit=UNITS, fits=FITS, threads=st.integers(1, 8), source=st.booleans())
def test_no_prediction_is_below_the_bound_or_absurd(
    unit: Unit, fits: list[list[float]], threads: int, source: bool
) -> None:
    made = tuple(
        KindFit(
            kind=unit_laws.law_of(unit),
            threads=1 + 3 * i,
            coefficients=tuple(row),
            median_error=0.1,
            samples=9,
        )
        for i, row in enumerate(fits)
    )
    profile = dataclasses.replace(PROFILE, fits=made) if source else None
    spec = dataclasses.replace(SPEC, profile=profile)
    seconds, bound = unit_time_s(unit, spec, threads), bound_s(unit, spec, threads)
    assert bound <= seconds
    whole = unit.flops / 96e9 + unit.nbytes / 2e9 + 1e-5
    assert seconds <= 50 * max(4, 1) * whole


@given(unit=UNITS, threads=st.integers(1, 6))
def test_more_threads_lower_the_bound(unit: Unit, threads: int) -> None:
    assert bound_s(unit, SPEC, threads + 1) <= bound_s(unit, SPEC, threads) * (1 + 1e-12)


@pytest.mark.parametrize("kind", ["conv", "depthwise", "pointwise"])
def test_more_work_takes_longer(kind: str) -> None:
    kernel = 1 if kind == "pointwise" else 3
    times = [unit_time_s(conv(size=size, kind=kind, kernel=kernel), SPEC) for size in (7, 28, 112)]
    assert times == sorted(times)
    bounds = [bound_s(conv(size=size, kind=kind, kernel=kernel), SPEC) for size in (7, 28, 112)]
    assert bounds == sorted(bounds)


def test_winograd_needs_fewer_multiplications_than_the_bound_of_direct_sums() -> None:
    direct = conv().flops
    # F(6x6, 3x3): 64 multiplications for 36 outputs of 9 taps each.
    assert unit_laws.least_flops(conv()) == pytest.approx(direct * 64 / (36 * 9))
    # F(4x4, 5x5): 64 for 16 outputs of 25 taps.
    five = conv(kernel=5)
    assert unit_laws.least_flops(five) == pytest.approx(five.flops * 64 / (16 * 25))
    assert unit_laws.least_flops(conv(kernel=1, kind="pointwise")) == conv(kernel=1).flops
    depthwise = conv(kind="depthwise")
    assert unit_laws.least_flops(depthwise) == depthwise.flops


def test_strided_windows_save_less_and_never_cost_more() -> None:
    strided = conv(stride=2)
    least = unit_laws.least_flops(strided) / strided.flops
    assert 64 / (36 * 9) < least < 1
    assert unit_laws.least_flops(conv(stride=4)) == conv(stride=4).flops


def test_bytes_are_those_that_windows_touch() -> None:
    strided = conv(kernel=1, stride=2, kind="pointwise")
    assert unit_laws.compulsory_bytes(strided) == pytest.approx(
        strided.bytes_in / 4 + strided.bytes_out + strided.bytes_weights
    )


def test_data_beyond_the_last_cache_come_from_memory() -> None:
    big = conv(kernel=1, size=224, depth=64, channels=64, kind="pointwise")
    far = (unit_laws.compulsory_bytes(big) - PROFILE.cache_bytes) / 10e9
    no_work = dataclasses.replace(big, flops=0)
    assert bound_s(no_work, SPEC, 1) == pytest.approx(far)
    near = dataclasses.replace(PROFILE, cache_bytes=1 << 30)
    assert bound_s(no_work, dataclasses.replace(SPEC, profile=near), 1) == pytest.approx(
        unit_laws.compulsory_bytes(big) / 200e9
    )


def test_integers_have_their_own_peak_and_fall_back_to_float32() -> None:
    unit = conv(kernel=1, size=56, depth=256, channels=256, kind="pointwise")
    whole = dataclasses.replace(unit, dtype="int8")
    assert bound_s(unit, SPEC, 1) == pytest.approx(4 * bound_s(whole, SPEC, 1))
    unknown = dataclasses.replace(unit, dtype="float16")
    assert bound_s(unknown, SPEC, 1) == bound_s(unit, SPEC, 1)


def test_activations_of_a_byte_are_multiplied_as_bytes() -> None:
    unit = conv(kernel=1, size=56, depth=256, channels=256, kind="pointwise")
    quantized = dataclasses.replace(unit, bytes_in=unit.bytes_in // 4)
    assert unit_laws.arithmetic_of(unit) == "float32"
    assert unit_laws.arithmetic_of(quantized) == "int8"
    assert unit_laws.law_of(quantized) == "int8 pointwise"
    assert bound_s(unit, SPEC, 1) == pytest.approx(4 * bound_s(quantized, SPEC, 1))
    depthwise = conv(kind="depthwise")
    bytes_out = depthwise.bytes_out // 4
    assert unit_laws.arithmetic_of(dataclasses.replace(depthwise, bytes_out=bytes_out)) == "float32"
    whole = dataclasses.replace(conv(), bytes_in=conv().bytes_in // 4)
    assert unit_laws.least_flops(whole) == conv().flops


def test_what_may_vanish_has_no_bound_but_a_time() -> None:
    for kind in ("move", "elementwise", "other"):
        unit = conv(kind=kind)
        assert bound_s(unit, SPEC) == 0.0
        assert unit_time_s(unit, SPEC) > PROFILE.launch_s


def test_a_view_takes_no_time() -> None:
    view = Unit(
        index=0, name="v", operators=("v",), kind="move", flops=0,
        bytes_in=0, bytes_out=0, bytes_weights=0,
    )  # fmt: skip
    assert unit_time_s(view, SPEC) == 0.0


def samples(coefficients: np.ndarray, noise: float, count: int = 60) -> list[UnitSample]:
    rng = np.random.default_rng(1)
    made = []
    for _ in range(count):
        unit = conv(
            depth=int(rng.integers(4, 256)),
            channels=int(rng.integers(4, 256)),
            size=int(rng.integers(4, 80)),
            kernel=1,
            kind="pointwise",
        )
        row = unit_laws.terms(unit, PROFILE.roofs[0], 8, CPU.l2_bytes)
        seconds = float(row @ coefficients) + PROFILE.launch_s
        made.append(UnitSample(unit=unit, seconds=seconds * float(1 + noise * rng.normal())))
    return made


LAW = np.array([2.0, 1.3, 4.0, 2.0, 0.5, 0, 0.5, 1.0, 1.5, 2.0, 0, 0])


def test_fit_finds_the_law_that_samples_follow() -> None:
    fit = fit_kind("pointwise", samples(LAW, 0.0), SPEC, PROFILE, 1)
    assert fit is not None
    assert fit.samples == 60
    assert fit.median_error < 0.01
    assert min(fit.coefficients) >= 0
    calibrated = dataclasses.replace(SPEC, profile=dataclasses.replace(PROFILE, fits=(fit,)))
    for size in (5, 40, 150):  # also beyond the samples
        unit = conv(depth=64, channels=96, size=size, kernel=1, kind="pointwise")
        row = unit_laws.terms(unit, PROFILE.roofs[0], 8, CPU.l2_bytes)
        wanted = float(row @ LAW) + PROFILE.launch_s
        assert unit_time_s(unit, calibrated, 1) == pytest.approx(wanted, rel=0.03)


def test_fit_is_robust_and_its_error_is_that_of_left_out_samples() -> None:
    noisy = samples(LAW, 0.1)
    noisy[3] = dataclasses.replace(noisy[3], seconds=30 * noisy[3].seconds)
    fit = fit_kind("pointwise", noisy, SPEC, PROFILE, 1)
    assert fit is not None
    assert 0.03 < fit.median_error < 0.15
    calibrated = dataclasses.replace(SPEC, profile=dataclasses.replace(PROFILE, fits=(fit,)))
    unit = conv(depth=64, channels=96, size=40, kernel=1, kind="pointwise")
    row = unit_laws.terms(unit, PROFILE.roofs[0], 8, CPU.l2_bytes)
    assert unit_time_s(unit, calibrated, 1) == pytest.approx(float(row @ LAW), rel=0.15)


def test_too_few_samples_make_no_law() -> None:
    assert fit_kind("pointwise", samples(LAW, 0.0, 2), SPEC, PROFILE, 1) is None


def law(kind: str, threads: int, factor: float) -> KindFit:
    coefficients = (0.0, factor, *(0.0,) * (unit_laws.TERMS - 2))
    return KindFit(
        kind=kind, threads=threads, coefficients=coefficients, median_error=0.1, samples=9
    )


def test_kinds_without_a_law_take_their_neighbours() -> None:
    profile = dataclasses.replace(PROFILE, fits=(law("pointwise", 1, 7.0),))
    spec = dataclasses.replace(SPEC, profile=profile)
    unit = conv(kernel=5)
    assert unit_time_s(unit, spec, 1) == pytest.approx(7 * unit.flops / 100e9 + 1e-6)
    assert unit_laws.laws_like("int8 conv 3x3/1")[:2] == ("int8 conv 3x3/1", "int8 conv")
    assert unit_laws.laws_like("conv 3x3/1")[0] == "conv 3x3/1"
    for kind in KINDS:
        for dtype in ("float32", "int8"):
            name = unit_laws.law_of(conv(kind=kind, dtype=dtype))
            assert unit_laws.laws_like(name)[0] == name


def test_threads_between_measured_ones_follow_amdahl() -> None:
    # 12 s and 6 s of 12 + 0 / T would be serial; here t(T) = 4 + 8 / T at T = 1 and 4.
    fits = (law("conv", 1, 12.0), law("conv", 4, 18.0))  # the peak of 4 threads is 3 times higher
    spec = dataclasses.replace(SPEC, profile=dataclasses.replace(PROFILE, fits=fits))
    unit = conv(kernel=5, size=56)
    work = unit.flops / 100e9
    one, two, four, eight = (unit_time_s(unit, spec, n) for n in (1, 2, 4, 8))
    assert one == pytest.approx(12 * work + 1e-6)
    assert four == pytest.approx(6 * work + 1e-6)
    assert two == pytest.approx(8 * work + 1e-6)
    assert eight == four


def test_roofs_between_and_beyond() -> None:
    assert roof_of(PROFILE, 2).peaks[0].flops_per_s == pytest.approx(500e9 / 3)
    assert roof_of(PROFILE, 8).peaks[0].flops_per_s == pytest.approx(600e9)
    only = dataclasses.replace(PROFILE, roofs=(roof(4),))
    assert roof_of(only, 1) == roof(4)


def test_sources() -> None:
    assert unit_times.profile_source(dataclasses.replace(SPEC, profile=None)) == "assumed"
    assert unit_times.profile_source(SPEC) == "datasheet"
    fitted = dataclasses.replace(PROFILE, fits=(law("conv", 1, 2.0),))
    assert unit_times.profile_source(dataclasses.replace(SPEC, profile=fitted)) == "calibrated"


def test_assumed_profiles_grow_with_threads() -> None:
    profile = unit_times.profile_of(dataclasses.replace(SPEC, profile=None))
    one, four = profile.roofs
    assert (one.threads, four.threads) == (1, 4)
    assert four.peaks[0].flops_per_s == 4 * one.peaks[0].flops_per_s
    assert profile.source == "assumed"
    cuda = targets.load("vulkan")
    assert [r.threads for r in unit_times.profile_of(cuda).roofs] == [1]
