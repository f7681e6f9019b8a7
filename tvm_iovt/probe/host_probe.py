"""Measures this machine's CPU: roofs, starts of kernels, hand-offs, and the laws of kernels."""

from __future__ import annotations

import dataclasses
import datetime
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from tvm_iovt import host_cpu
from tvm_iovt.errors import TuningError
from tvm_iovt.probe.report import Finding, ProbeResult
from tvm_iovt.probe.sharing import (
    CALL_TIMEOUT_S,
    MEMORY_ELEMENTS,
    Timer,
    died,
    handoff,
    shared_bandwidth,
    slowdown_beside,
    stage_cost,
)
from tvm_iovt.types import DeviceProfile, DtypePeak, KindFit, Roof, TargetSpec
from tvm_iovt.unit_laws import arithmetic_of, has_bytes, law_of
from tvm_iovt.unit_times import UnitSample, fit_kind

Progress = Callable[[str], None]

PRODUCTS = ((256, 128, 8, 12), (128, 256, 8, 12), (256, 256, 14, 14), (64, 512, 7, 8))
"""Depth, channels, rows and columns of products that show the peak."""

HEADROOM = 1.05
"""A peak is what the fastest kernel reached, and as much more: clocks differ between moments."""

LOADS = 2.5
"""Kernels that load and do not store reach more than a copy, which does both: on current cores two
loads a cycle, against one and a store."""

_CACHED_ELEMENTS = (16384, 65536, 131072)
_STARTS = 21
_LAYOUTS = ((64, 56, 56), (128, 28, 28), (32, 112, 112))
_MICRO_S, _NETWORK_S = 0.25, 0.8
_TURNS = 3
_PATIENCE_S = 80.0
"""Seconds after which no further network is built with the same number of threads."""

_START_TIMEOUT_S = 120.0


def probe_host(
    spec: TargetSpec,
    *,
    quick: bool = False,
    progress: Progress = lambda _message: None,
    timer: Callable[[TargetSpec], Timer] | None = None,
) -> ProbeResult:
    """Measure the CPU of this machine.

    Args:
        spec: A CPU target of this machine; measured with one thread and with `cpu.cores`.
        quick: Fewer and shorter measurements, one number of threads.
        progress: Called with a line for each step.
        timer: Makes what times; by default a process for each number of threads.

    Raises:
        DeviceError: A process that measures died or hung.
    """
    counts = (spec.cpu.cores,) if quick else tuple(sorted({1, spec.cpu.cores}))
    roofs, fits, findings = [], [], []
    launch_s = boundary = 0.0
    for threads in counts:
        here = dataclasses.replace(spec, cpu=dataclasses.replace(spec.cpu, cores=threads))
        measured = _Measured(here, threads, quick, progress, timer or process_timer)
        roof, launch_s_here, boundary_here, samples = measured.run()
        launch_s, boundary = launch_s or launch_s_here, boundary or boundary_here
        bare = DeviceProfile(source="measured", roofs=(roof,), launch_s=launch_s_here)
        roofs.append(roof)
        fits += fit_all(samples, here, bare, threads)
        findings += measured.findings
    shared = 0.0 if quick else shared_bandwidth(spec, counts[0], timer or process_timer, progress)
    slowdown = 1.0 if quick else slowdown_beside(spec, counts[0], timer or process_timer, progress)
    if slowdown > 1:
        findings.append(Finding("kernels beside another stage", slowdown, "x", 0.0))
    roofs[0] = dataclasses.replace(roofs[0], shared_bandwidth_bytes_per_s=shared)
    if shared:
        findings.append(Finding(f"memory, shared, {_words(counts[0])}", shared, "B/s", 0.0))
    progress("timing hand-offs between stages")
    handoff_s, handoff_spread = handoff()
    findings.append(Finding("hand-off between stages", handoff_s, "s", handoff_spread))
    stage_s, stage_spread = stage_cost(spec, timer or process_timer, progress)
    if stage_s:
        findings.append(Finding("stage beside its kernels", stage_s, "s", stage_spread))
    profile = DeviceProfile(
        source="measured",
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        device=host_cpu.model(),
        roofs=tuple(roofs),
        launch_s=launch_s,
        handoff_s=handoff_s,
        stage_s=stage_s,
        boundary_bytes_per_s=boundary,
        shared_slowdown=slowdown,
        cache_bytes=host_cpu.last_cache_bytes(),
        fits=tuple(fits),
    )
    return ProbeResult(profile=profile, links=(), findings=tuple(findings))


def fit_all(
    samples: Sequence[UnitSample], spec: TargetSpec, profile: DeviceProfile, threads: int
) -> list[KindFit]:
    """A law for each kind that has enough samples."""
    groups: dict[str, list[UnitSample]] = defaultdict(list)
    for sample in samples:
        groups[law_of(sample.unit)].append(sample)
    fits = [fit_kind(name, group, spec, profile, threads) for name, group in sorted(groups.items())]
    return [fit for fit in fits if fit is not None]


def process_timer(spec: TargetSpec) -> Timer:
    """A process whose pool has `cpu.cores` threads."""
    from tvm_iovt.runtime import threads
    from tvm_iovt.tuning.worker_process import WorkerProcess

    environment = {threads.COUNT: str(spec.cpu.cores), threads.BIND: "0"}
    worker = WorkerProcess(
        "tvm_iovt.probe.network_timer:NetworkTimer", (spec,), environment=environment
    )
    try:
        worker.start(_START_TIMEOUT_S)
    except TuningError as error:
        raise died(error) from error
    return worker


class _Measured:
    """All measurements with one number of threads."""

    def __init__(
        self,
        spec: TargetSpec,
        threads: int,
        quick: bool,
        progress: Progress,
        timer: Callable[[TargetSpec], Timer],
    ) -> None:
        self._spec, self._threads, self._quick = spec, threads, quick
        self._progress = progress
        self._words = _words(threads)
        self._make = timer
        self.findings: list[Finding] = []

    def run(self) -> tuple[Roof, float, float, list[UnitSample]]:
        """The roof, seconds to start a kernel, bytes a second at a cut, and timed units."""
        timer = self._make(self._spec)
        try:
            return self._run(timer)
        except TuningError as error:
            raise died(error) from error
        finally:
            timer.close()

    def _run(self, timer: Timer) -> tuple[Roof, float, float, list[UnitSample]]:
        budget_s = _MICRO_S / 2 if self._quick else _MICRO_S

        def seconds(family: str, *arguments: int) -> tuple[float, float]:
            found = [
                timer.call("seconds", family, arguments, budget_s, timeout_s=CALL_TIMEOUT_S)
                for _ in range(2)
            ]
            return min(found), abs(found[0] - found[1]) / 2 / min(found)

        self._progress(f"{self._words}: starts of kernels, peaks, bandwidths")
        many_s, spread = seconds("starts", _STARTS)
        one_s, _ = seconds("starts", 1)
        launch_s = max((many_s - one_s) / (_STARTS - 1), 1e-9)
        self._found("start of a kernel", launch_s, "s", spread)
        products = PRODUCTS[:2] if self._quick else PRODUCTS
        rates = [2.0 * d * c * h * w / seconds("product", d, c, h, w)[0] for d, c, h, w in products]
        # Whole copies: differences of small ones would multiply any disturbance.
        copies = [(n, seconds("copy", n)[0]) for n in _CACHED_ELEMENTS]
        cached = max(8.0 * n / max(s - launch_s, s / 2) for n, s in copies)
        memory_s, spread = seconds("copy", MEMORY_ELEMENTS)
        memory = 8.0 * MEMORY_ELEMENTS / memory_s
        self._found("memory", memory, "B/s", spread)
        layouts = [
            4.0 * c * h * w / seconds("layout_change", c, h, w)[0] / 2 for c, h, w in _LAYOUTS
        ]
        boundary = statistics.median(layouts)
        spread = (max(layouts) - min(layouts)) / 2 / boundary
        self._found("layout change at a cut, both ends", boundary, "B/s", spread)
        samples = self._samples(timer)
        reached = defaultdict(list)
        for s in samples:
            if s.unit.kind in ("pointwise", "matmul"):
                reached[arithmetic_of(s.unit)].append(s.unit.flops / s.seconds)
        rates += reached["float32"]
        traffic = [
            s.unit.nbytes / s.seconds
            for s in samples
            if s.unit.kind in ("matmul", "pool", "reduce") and not has_bytes(s.unit)
        ]
        cached = max(cached, memory, *(rate / LOADS * HEADROOM for rate in traffic))
        self._found("peak float32", max(rates), "FLOP/s", 0.0)
        self._found("nearest cache", cached, "B/s", 0.0)
        peaks = [DtypePeak(dtype="float32", flops_per_s=HEADROOM * max(rates))]
        integers = HEADROOM * max(reached["int8"], default=0.0)
        peaks += self._other_peaks(timer, budget_s, HEADROOM * max(rates), integers)
        roof = Roof(
            threads=self._threads,
            peaks=tuple(peaks),
            bandwidth_bytes_per_s=memory,
            cache_bandwidth_bytes_per_s=LOADS * cached,
        )
        return roof, launch_s, boundary, samples

    def _samples(self, timer: Timer) -> list[UnitSample]:
        from tvm_iovt.probe.kernel_samples import samples_of
        from tvm_iovt.probe.synthetic_networks import FAMILIES

        samples: list[UnitSample] = []
        budget_s = _NETWORK_S / 2 if self._quick else _NETWORK_S
        plans = [(f, turn) for turn in range(1 if self._quick else _TURNS) for f in FAMILIES]
        spreads = []
        deadline_s = time.monotonic() + _PATIENCE_S
        for number, (family, turn) in enumerate(plans, start=1):
            if turn and time.monotonic() > deadline_s:
                break  # a busy machine builds slowly; each family has been there
            self._progress(f"{self._words}: network {number} of {len(plans)} ({family})")
            network = timer.call("network", family, turn, budget_s, timeout_s=CALL_TIMEOUT_S)
            samples += samples_of(network.units, network.kernels)
            spreads.append(network.spread)
        self._found("networks timed", float(len(spreads)), "", statistics.median(spreads))
        return samples

    def _other_peaks(
        self, timer: Timer, budget_s: float, float32: float, integers: float
    ) -> list[DtypePeak]:
        """Peaks of the types that the CPU has instructions for."""
        found = []
        for dtype, precision in reduced_types(self._spec):
            arguments = (*PRODUCTS[0],)
            seconds = timer.call(
                "seconds", "product", arguments, budget_s, precision, timeout_s=CALL_TIMEOUT_S
            )
            rate = 2.0 * arguments[0] * arguments[1] * arguments[2] * arguments[3] / seconds
            self._found(f"peak {dtype}", rate, "FLOP/s", 0.0)
            found.append(DtypePeak(dtype=dtype, flops_per_s=max(HEADROOM * rate, float32)))
        if has_integers(self._spec):
            # Four products of bytes in the place of one of float32: an instruction's width.
            peak = max(4 * float32, integers)
            found.append(DtypePeak(dtype="int8", flops_per_s=peak))
            self.findings.append(
                Finding(f"peak int8, {self._words}", peak, "FLOP/s", 0.0, "assumed")
            )
        return found

    def _found(self, what: str, value: float, unit: str, spread: float) -> None:
        self.findings.append(Finding(f"{what}, {self._words}", value, unit, spread))


def _words(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def reduced_types(spec: TargetSpec) -> tuple[tuple[str, str], ...]:
    """Types with instructions of their own: (dtype, precision of `lower_for_cpu`)."""
    features = set(spec.cpu.features)
    found = []
    if features & {"avx512_bf16", "bf16"}:
        found.append(("bfloat16", "bf16"))
    if "asimdhp" in features:
        found.append(("float16", "fp16"))
    return tuple(found)


def has_integers(spec: TargetSpec) -> bool:
    """Whether the CPU has instructions that multiply bytes and add."""
    return bool(set(spec.cpu.features) & {"avx512_vnni", "avx_vnni", "asimddp"})
