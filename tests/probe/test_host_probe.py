from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from tvm_iovt import host_cpu, targets, unit_laws
from tvm_iovt.cost_graph import Unit
from tvm_iovt.errors import DeviceError, TargetError, TuningError
from tvm_iovt.probe import host_probe
from tvm_iovt.probe.network_timer import TimedNetwork
from tvm_iovt.probe.probe_target import probe_target
from tvm_iovt.stages.kernel_clock import TimedKernel
from tvm_iovt.tuning.worker_process import WorkerLost
from tvm_iovt.types import CpuSpec, TargetSpec
from tvm_iovt.unit_times import bound_s, profile_source, unit_time_s

PEAK, CACHE, MEMORY, LAUNCH_S, STAGE_S = 50e9, 40e9, 8e9, 3e-6, 70e-6
CPU = CpuSpec(
    arch="x86_64",
    triple="x86_64-linux-gnu",
    mcpu="haswell",
    cores=2,
    vector_bits=256,
    vector_registers=16,
    l1d_bytes=32 << 10,
    l2_bytes=1 << 20,
)
SPEC = TargetSpec(name="fake", description="", cpu=CPU)


def pointwise(index: int, rng: np.random.Generator) -> Unit:
    depth, channels, size = (int(n) for n in rng.integers((8, 8, 4), (256, 256, 60)))
    return Unit(
        index=index,
        name=f"p{index}",
        operators=(),
        kind="pointwise",
        flops=2 * depth * channels * size * size,
        bytes_in=4 * depth * size * size,
        bytes_out=4 * channels * size * size,
        bytes_weights=4 * depth * channels,
        shape_in=(1, depth, size, size),
        shape_out=(1, channels, size, size),
        kernel=(1, 1),
        strides=(1, 1),
    )


def seconds_of(unit: Unit, speed: float) -> float:
    return 1.5 * unit.flops / PEAK / speed + unit.nbytes / CACHE + LAUNCH_S


class FakeTimer:
    """A device whose numbers are known, in the place of processes."""

    made: list[FakeTimer] = []

    def __init__(self, spec: TargetSpec) -> None:
        self.speed = spec.cpu.cores
        self.closed = False
        FakeTimer.made.append(self)

    def call(self, method: str, *arguments: Any, timeout_s: float) -> Any:
        assert timeout_s > 0
        return getattr(self, method)(*arguments)

    def close(self) -> None:
        self.closed = True

    def stay_on(self, cpus: tuple[int, ...]) -> None:
        self.cpus = cpus

    def stream(self, seconds: float) -> float:
        return seconds

    def run_for(self, family: str, seconds: float) -> float:
        # By the first timer in turns: alone, and beside the other one.
        if not seconds:
            return 0.0
        self.runs = getattr(self, "runs", 0) + 1
        return 1.25 if self.runs % 2 == 0 else 1.0

    def seconds(self, family: str, arguments: Any, _budget_s: float, _precision: str = "") -> float:
        if family == "starts":
            return 5e-6 + arguments[0] * LAUNCH_S
        if family == "product":
            return 2 * math.prod(arguments) / PEAK / self.speed
        if family == "copy":
            nbytes = 8 * arguments[0]
            return nbytes / (CACHE if nbytes < 4 << 20 else MEMORY) + LAUNCH_S
        assert family == "layout_change"
        return 4 * math.prod(arguments) / 2e9

    def stage(self) -> tuple[float, float]:
        assert self.speed == 1  # the stages' own threads compute
        return STAGE_S, 0.1

    def network(self, family: str, turn: int, _budget_s: float) -> TimedNetwork:
        rng = np.random.default_rng([turn, len(family)])
        units = tuple(pointwise(i, rng) for i in range(12))
        kernels = tuple(
            TimedKernel(
                name=f"fused_conv2d{u.index}_add",
                shape=(u.shape_out[1],),
                seconds=seconds_of(u, self.speed),
            )
            for u in units
        )
        whole_s = sum(k.seconds for k in kernels)
        return TimedNetwork(name=family, units=units, kernels=kernels, whole_s=whole_s, spread=0.01)


@pytest.fixture
def result(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(host_cpu, "usable_cores", lambda: 2)
    FakeTimer.made.clear()
    return host_probe.probe_host(SPEC, timer=FakeTimer)


def test_numbers_of_a_known_device_are_found(result: Any) -> None:
    one, two = result.profile.roofs
    assert (one.threads, two.threads) == (1, 2)
    assert unit_laws.peak_of(one, "float32") == pytest.approx(host_probe.HEADROOM * PEAK)
    assert unit_laws.peak_of(two, "float32") == pytest.approx(2 * host_probe.HEADROOM * PEAK)
    assert one.bandwidth_bytes_per_s == pytest.approx(MEMORY, rel=0.01)
    assert one.cache_bandwidth_bytes_per_s == pytest.approx(host_probe.LOADS * CACHE, rel=0.01)
    assert one.shared_bandwidth_bytes_per_s == pytest.approx(MEMORY, rel=0.01)
    assert result.profile.launch_s == pytest.approx(LAUNCH_S)
    assert result.profile.boundary_bytes_per_s == pytest.approx(1e9)
    assert 0 < result.profile.handoff_s < 0.1
    assert result.profile.stage_s == STAGE_S
    assert "stage beside its kernels" in {finding.what for finding in result.findings}
    assert result.profile.shared_slowdown == 1.25
    assert result.profile.device == host_cpu.model()
    assert all(timer.closed for timer in FakeTimer.made)


def test_predictions_follow_what_was_measured(result: Any) -> None:
    spec = dataclasses.replace(SPEC, profile=result.profile)
    assert profile_source(spec) == "calibrated"
    rng = np.random.default_rng(99)
    for unit in (pointwise(i, rng) for i in range(30)):
        for threads in (1, 2):
            measured = seconds_of(unit, threads)
            assert unit_time_s(unit, spec, threads) == pytest.approx(measured, rel=0.05)
            assert bound_s(unit, spec, threads) <= measured


def test_quick_measures_one_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, timers, stage_s in ((2, 2, STAGE_S), (1, 1, 0.0)):
        monkeypatch.setattr(host_cpu, "usable_cores", lambda cores=cores: cores)
        FakeTimer.made.clear()
        found = host_probe.probe_host(SPEC, quick=True, timer=FakeTimer)
        assert [roof.threads for roof in found.profile.roofs] == [2]
        assert len(FakeTimer.made) == timers
        assert found.profile.stage_s == stage_s
        assert all(timer.closed for timer in FakeTimer.made)


def test_a_dead_process_is_a_device_error() -> None:
    class Dying(FakeTimer):
        def network(self, *_: Any) -> TimedNetwork:
            raise WorkerLost("died of SIGKILL", last_words="out of memory")

    with pytest.raises(DeviceError, match="died of SIGKILL") as caught:
        host_probe.probe_host(SPEC, timer=Dying)
    assert not isinstance(caught.value, TuningError)
    assert FakeTimer.made[-1].closed


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(TargetError, match="CPUs are measured"):
        probe_target(targets.load("cuda"))
    other = "arm" if host_cpu.machine() == "x86_64" else "host:x86-64-v3"
    if other == "arm":
        with pytest.raises(DeviceError, match="--tracker"):
            probe_target(targets.load(other))


def test_integers_and_halves_need_instructions() -> None:
    none = dataclasses.replace(SPEC, cpu=dataclasses.replace(CPU, features=("avx2",)))
    assert host_probe.reduced_types(none) == ()
    assert not host_probe.has_integers(none)
    pi = targets.load("raspberry-pi-5")
    assert host_probe.reduced_types(pi) == (("float16", "fp16"),)
    assert host_probe.has_integers(pi)


@pytest.mark.slow
def test_this_machine_is_measured_quickly() -> None:
    found = probe_target(targets.load("host/1"), quick=True)
    spec = dataclasses.replace(targets.load("host/1"), profile=found.profile)
    (roof,) = found.profile.roofs
    assert unit_laws.peak_of(roof, "float32") > roof.bandwidth_bytes_per_s / 10
    assert {"pointwise", "depthwise", "conv 3x3/1"} <= {fit.kind for fit in found.profile.fits}
    assert profile_source(spec) == "calibrated"
