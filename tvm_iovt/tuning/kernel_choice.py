"""Which kernel computes a convolution: measured where possible, remembered, else predicted."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from tvm_iovt import _tvm, host_cpu
from tvm_iovt._version import __version__
from tvm_iovt.errors import UsageError
from tvm_iovt.schedules.convolution import Conv2d
from tvm_iovt.schedules.selection import (
    Candidate,
    Kernel,
    candidates,
    kernel_name,
    kernel_named,
    predict,
)
from tvm_iovt.schedules.tiles import Tile
from tvm_iovt.schedules.winograd_plan import LARGER_TILE_GAIN
from tvm_iovt.tuning.convolution_worker import RunKernels
from tvm_iovt.tuning.deviation import MAX_DEVIATION, deviation
from tvm_iovt.tuning.kernel_bench import Bench, KernelBench
from tvm_iovt.tuning.kernel_records import (
    CpuKind,
    DroppedKernel,
    KernelChoice,
    MeasuredKernel,
    Records,
    Setting,
)
from tvm_iovt.tuning.kernel_timing import Timing
from tvm_iovt.tuning.worker_process import WorkerLost
from tvm_iovt.types import CpuSpec, Decision, TargetSpec

TRANSFORM = "ChooseKernel"

MARGIN = 0.03
"""A kernel must be faster than the predicted one by this share of its time, and by more than the
spreads of both. One that rounds more (a larger Winograd tile) must save as much as prediction asks
for, `1 - LARGER_TILE_GAIN`."""


def setting_of(spec: TargetSpec, *, winograd: bool) -> Setting:
    """The circumstances under which a CPU target's kernels are chosen.

    The number of threads is that of TVM's pool if the target is this machine (the pool is started
    then), else the number of cores.
    """
    cpu = spec.cpu
    kind = CpuKind(
        mcpu=_tvm.llvm_cpu_name() if cpu.mcpu == "native" else cpu.mcpu,
        triple=cpu.triple,
        vector_bits=cpu.vector_bits,
        cores=cpu.cores,
    )
    threads = cpu.cores
    if not why_not_here(spec):
        threads = int(_tvm.tvm.get_global_func("runtime.NumThreads")())
    return Setting(target=kind, threads=threads, winograd=winograd)


def check_is_here(spec: TargetSpec) -> None:
    """Refuse to measure for another device.

    Raises:
        UsageError: The target is not the CPU of this machine.
    """
    reason = why_not_here(spec)
    if reason:
        raise UsageError(
            f"Kernels for {spec.name} cannot be measured on this machine",
            seen=f"{spec.name} {reason}",
            do="measure with --targets host, or leave --measure out: kernels are then predicted, "
            "or taken from records that were made on such a device",
        )


def why_not_here(spec: TargetSpec) -> str:
    """Why the target is not the CPU of this machine; empty if it is."""
    if spec.gpu is not None:
        return "is a GPU"
    cpu = spec.cpu
    if cpu.arch != host_cpu.machine():
        return f"is for {cpu.arch} CPUs, this one is {host_cpu.machine()}"
    here = _tvm.llvm_cpu_name()
    if cpu.mcpu not in ("native", here):
        return f"is for {cpu.mcpu}, this CPU is {here}"
    missing = sorted(set(cpu.features) - host_cpu.flags())
    return f"needs the CPU features {', '.join(missing)}" if missing else ""


class Measure(Protocol):
    """Measures the candidates of convolutions."""

    def __call__(
        self, conv: Conv2d, weights: np.ndarray, setting: Setting, /
    ) -> KernelChoice | None:
        """Choose for a geometry and OIHW weights; None if no candidate can run."""
        ...

    def close(self) -> None:
        """End what runs for it."""
        ...


class KernelSelector:
    """A `selection.Selector` that uses measurements where there are any.

    A convolution without a measurement is measured, if that is wanted, else predicted. A choice
    that does not fit the weights at hand, whose values decide how large Winograd tiles may be, or
    that this version does not know, is not used.

    Attributes:
        decisions: What was chosen by measurement, one for each geometry.
        predicted: Convolutions whose kernels were predicted.
        measured: Convolutions whose kernels come from measurements.
    """

    def __init__(
        self, cpu: CpuSpec, setting: Setting, records: Records, measure: Measure | None = None
    ) -> None:
        self.decisions: list[Decision] = []
        self.predicted = 0
        self.measured = 0
        self._cpu = cpu
        self._setting = setting
        self._records = records
        self._measure = measure
        self._tried: set[tuple[Conv2d, str]] = set()
        self._told: set[tuple[Conv2d, str]] = set()

    def __call__(self, conv: Conv2d, weights: np.ndarray) -> Kernel:
        """The kernel of a convolution that is not depthwise; `weights` are OIHW float32."""
        predicted = predict(conv, weights, self._cpu, winograd=self._setting.winograd)
        name = kernel_name(predicted)
        choice = self._records.find(conv, name)
        if choice is None and self._measure is not None and (conv, name) not in self._tried:
            self._tried.add((conv, name))
            choice = self._measure(conv, weights, self._setting)
            if choice is not None:
                self._records.add(choice)
        if choice is None:
            self.predicted += 1
            if self._measure is not None:
                self._tell(conv, False, "none of the candidates could be measured; it is predicted")
            return predicted
        kernel: Kernel | None = predicted
        if choice.chosen != name:
            kernel = kernel_named(
                choice.chosen, conv, weights, self._cpu, winograd=self._setting.winograd
            )
        if kernel is None:
            self.predicted += 1
            self._tell(
                conv,
                False,
                f"{choice.chosen} was measured to be the fastest, but is not accurate enough for "
                "these weights, or not known to this version; the kernel is predicted",
            )
            return predicted
        self.measured += 1
        self._tell(conv, True, _account(choice))
        return kernel

    def close(self) -> None:
        """End the process that measures, if there is one; without it, kernels are predicted."""
        if self._measure is not None:
            self._measure.close()
            self._measure = None

    @property
    def summary(self) -> str:
        """How many kernels came from where, as a line for the user."""
        return f"kernels: {self.predicted} predicted, {self.measured} from measurements"

    def _tell(self, conv: Conv2d, applied: bool, reason: str) -> None:
        if (conv, reason) not in self._told:
            self._told.add((conv, reason))
            self.decisions.append(
                Decision(
                    transform=TRANSFORM, subject=description(conv), applied=applied, reason=reason
                )
            )


def description(conv: Conv2d) -> str:
    """A convolution in short: `conv 96->24@56x56 k1` with what is not the default."""
    rows, cols = conv.in_size
    kernel = "x".join(map(str, sorted(set(conv.kernel))))
    text = f"conv {conv.in_channels}->{conv.out_channels}@{rows}x{cols} k{kernel}"
    if conv.strides != (1, 1):
        text += f" stride {'x'.join(map(str, sorted(set(conv.strides))))}"
    if conv.dilation != (1, 1):
        text += f" dilation {'x'.join(map(str, sorted(set(conv.dilation))))}"
    if conv.groups > 1:
        text += f" groups {conv.groups}"
    return text if conv.batch == 1 else f"{text} batch {conv.batch}"


def _account(choice: KernelChoice) -> str:
    """What was measured, for the decision log."""
    times = {c.name: c for c in choice.candidates}
    best = times[choice.chosen]
    text = f"{choice.chosen}, {best.median_s * 1e3:.3g} ms"
    if choice.chosen == choice.predicted:
        text += ", as predicted"
    elif choice.predicted in times:
        before = times[choice.predicted].median_s
        text += f" against {before * 1e3:.3g} ms of the predicted {choice.predicted}"
    else:
        text += f"; the predicted {choice.predicted} could not be used"
    threads = f"{choice.setting.threads} thread" + "s" * (choice.setting.threads > 1)
    text += f" (of {len(times)} kernels, {threads}, {choice.date[:10]})"
    for dropped in choice.dropped:
        text += f"; {dropped.name}: {dropped.reason}"
    return text


class KernelMeasurer:
    """A `Measure` for a target that is this machine.

    Args:
        spec: The target.
        threads: Of TVM's pool.
        progress: Called with a line for each convolution.
        bench: Builds and times kernels; by default a process of this machine does.
    """

    def __init__(
        self,
        spec: TargetSpec,
        threads: int,
        progress: Callable[[str], None],
        *,
        bench: Bench | None = None,
    ) -> None:
        self._cpu = spec.cpu
        self._progress = progress
        self._bench = KernelBench(spec, threads) if bench is None else bench

    def __call__(
        self, conv: Conv2d, weights: np.ndarray, setting: Setting, /
    ) -> KernelChoice | None:
        """Choose for a geometry and OIHW weights; None if no candidate can run."""
        self._progress(f"measuring kernels of {description(conv)}")
        found = candidates(conv, weights, self._cpu, winograd=setting.winograd)
        built = self._bench.build(conv, weights, [c.kernel for c in found])
        try:
            return decide(conv, found, built, setting, self._bench.time)
        except WorkerLost as lost:
            self._progress(f"measuring kernels of {description(conv)}: the process {lost.what}")
            return None

    def close(self) -> None:
        """End the process."""
        self._bench.close()


Timer = Callable[[Sequence[str]], tuple[Timing, ...]]
"""From the names of kernels to compare to their timings, in order."""


def decide(
    conv: Conv2d,
    found: Sequence[Candidate],
    built: RunKernels,
    setting: Setting,
    timer: Timer,
) -> KernelChoice | None:
    """Check and time candidates, and choose.

    The fastest one replaces the predicted one only if it also wins when the two are timed again on
    their own: the best of several is the luckiest, too.

    Args:
        conv: The geometry.
        found: From `selection.candidates`: the predicted one first, a direct one among them.
        built: The same, after one run.
        setting: For the record.
        timer: Times those that are right.

    Returns:
        None if no candidate is right.
    """
    kernels = {c.name: c.kernel for c in found}
    dropped = [DroppedKernel(name=name, reason=reason) for name, reason in built.dropped]
    reference = next((k for k in built.kernels if isinstance(kernels[k.name], Tile)), None)
    right = []
    for kernel in built.kernels:
        off = float("inf") if reference is None else deviation(kernel.output, reference.output)
        if off <= MAX_DEVIATION:
            right.append(kernel)
        else:
            reason = "there is no direct kernel to compare it with"
            if reference is not None:
                reason = f"its outputs differ by {off:.1e} of the largest from {reference.name}"
            dropped.append(DroppedKernel(name=kernel.name, reason=reason))
    if not right:
        return None
    names = [kernel.name for kernel in right]
    times = dict(zip(names, timer(names), strict=True))
    incumbent = found[0].name if found[0].name in times else next(iter(times))
    chosen = incumbent
    for rival in sorted(set(times) - {incumbent}, key=lambda name: times[name].median_s):
        if not _beats(kernels[rival], times[rival], kernels[incumbent], times[incumbent]):
            continue
        pair = timer([incumbent, rival])
        times |= dict(zip((incumbent, rival), pair, strict=True))
        if _beats(kernels[rival], times[rival], kernels[incumbent], times[incumbent]):
            chosen = rival
            break
    return KernelChoice(
        setting=setting,
        convolution=conv,
        candidates=tuple(
            MeasuredKernel(name=name, median_s=time.median_s, spread_s=time.spread_s)
            for name, time in times.items()
        ),
        dropped=tuple(dropped),
        predicted=found[0].name,
        chosen=chosen,
        tvm_version=_tvm.installed_version("apache-tvm"),
        tool_version=__version__,
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def _beats(kernel: Kernel, time: Timing, other: Kernel, other_time: Timing) -> bool:
    margin = MARGIN if _rounding(kernel) <= _rounding(other) else 1 - LARGER_TILE_GAIN
    gain_s = other_time.median_s - time.median_s
    return gain_s > max(margin * other_time.median_s, time.spread_s + other_time.spread_s)


def _rounding(kernel: Kernel) -> int:
    """Orders kernels by their rounding errors: direct, then Winograd by the size of the tiles."""
    return 0 if isinstance(kernel, Tile) else kernel.outputs[0]
