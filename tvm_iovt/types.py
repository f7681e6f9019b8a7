"""The values that flow between modules: frozen, with units in their names.

`json_codec` turns them into JSON and back. A top-level type names its schema (`SCHEMA`), which is
`tvm-iovt/<thing>/<major>`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Name, shape and dtype of a network input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Size in bytes, dense and unpadded."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.name} {'x'.join(map(str, self.shape)) or 'scalar'} {self.dtype}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuSpec:
    """The CPU that runs a stage, or that launches the kernels of a GPU stage.

    Attributes:
        arch: `x86_64`, `aarch64` or `armv7l`, as `uname -m` prints it.
        triple: LLVM triple, e.g. `aarch64-linux-gnu`.
        mcpu: CPU name as LLVM knows it; `native` is resolved when the code is generated.
        mattr: LLVM feature switches such as `+neon`.
        features: Flags of `/proc/cpuinfo` that the machine must show to run the code.
        cores: Worker threads to plan for.
        vector_bits: Width of one SIMD register.
        vector_registers: Number of architectural SIMD registers.
        l1d_bytes: Level-1 data cache of one core.
        l2_bytes: Level-2 cache that one core can use.
    """

    arch: str
    triple: str
    mcpu: str
    mattr: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    cores: int
    vector_bits: int
    vector_registers: int
    l1d_bytes: int
    l2_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSpec:
    """The GPU of a stage. `arch` names the instruction set of the embedded binary (`sm_87`)."""

    kind: str
    arch: str
    max_threads_per_block: int
    max_shared_memory_per_block_bytes: int
    thread_warp_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DtypePeak:
    """FLOPs a second that kernels of one dtype reach at best, a multiply-add counted as two."""

    dtype: str
    flops_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Roof:
    """What a number of threads of a device can do at best (of a GPU: `threads` is 1).

    Attributes:
        threads: Worker threads.
        peaks: By dtype; `float32` is always there.
        bandwidth_bytes_per_s: From and to memory.
        shared_bandwidth_bytes_per_s: The same while another stage streams, too; 0 if unknown.
        cache_bandwidth_bytes_per_s: From and to the nearest cache, which no kernel exceeds; 0 if
            unknown.
    """

    threads: int
    peaks: tuple[DtypePeak, ...]
    bandwidth_bytes_per_s: float
    shared_bandwidth_bytes_per_s: float = 0.0
    cache_bandwidth_bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KindFit:
    """How units of one kind and number of threads miss the roofline, fitted to measurements.

    Attributes:
        kind: Name of the law, see `unit_laws.law_of`: a kind of `cost_graph.Unit`, refined.
        threads: Worker threads of the measurements.
        coefficients: Of the terms in `unit_laws.terms`.
        median_error: Median of `|predicted - measured| / measured` over the samples, left out one
            at a time.
        samples: Measured units.
    """

    kind: str
    threads: int
    coefficients: tuple[float, ...]
    median_error: float
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """Numbers that predictions for a device rest on.

    Attributes:
        source: `measured` (by `targets probe`) or `datasheet`; a target without a profile is
            `assumed`.
        date: ISO date of the measurement, empty for datasheets.
        device: What was measured: the CPU's model as the device names it.
        roofs: At least one, by increasing `threads`.
        launch_s: Seconds to start one kernel.
        handoff_s: Seconds from one stage of a pipeline to the next inside of one machine.
        stage_s: Seconds that a stage of a pipeline costs for a frame beside its kernels: being
            handed the frame, calling the network, and handing its outputs on; 0 if unknown.
        boundary_bytes_per_s: Bytes a second of a tensor at a cut that change their layout there, in
            and out together; 0 if unknown.
        shared_slowdown: How many times as long kernels take while another stage computes on other
            cores of the machine: caches, memory and clocks are shared.
        cache_bytes: Of the last cache, that a stage may have for itself; 0 if unknown.
        fits: See `KindFit`; empty without measurements.
    """

    source: str
    date: str = ""
    device: str = ""
    roofs: tuple[Roof, ...]
    launch_s: float
    handoff_s: float = 0.0
    stage_s: float = 0.0
    boundary_bytes_per_s: float = 0.0
    shared_slowdown: float = 1.0
    cache_bytes: int = 0
    fits: tuple[KindFit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A way for tensors from one device to another, of `source` `measured`, `stated` or `assumed`.

    `src` and `dst` are names of targets.
    """

    src: str
    dst: str
    bytes_per_s: float
    latency_s: float
    source: str = "stated"

    def time_s(self, nbytes: int) -> float:
        """Seconds that so many bytes take; none take none."""
        return self.latency_s + nbytes / self.bytes_per_s if nbytes else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSpec:
    """A device to compile for.

    Attributes:
        name: As the user wrote it, e.g. `arm` or `cuda:sm_90`.
        description: One line for listings.
        cpu: The CPU; of a GPU target, the one that launches its kernels.
        gpu: The GPU, if the target is one.
        cross_compiler: Linker command to prefer over those found on `PATH`.
        source: Where the numbers come from (a file, or `detected`).
        memory_bytes: What networks may use of its memory; 0 if that is not limited.
        active_w: Watts while it computes, beyond those of an idle device; 0 if unknown.
        machine: Name of the machine that the device is a part of, for those that share memory;
            empty for one of its own.
        profile: Numbers that predictions rest on; None if nobody measured or stated any.
        links: From this device to others, by their names.
    """

    name: str
    description: str
    cpu: CpuSpec
    gpu: GpuSpec | None = None
    cross_compiler: str = ""
    source: str = ""
    memory_bytes: int = 0
    active_w: float = 0.0
    machine: str = ""
    profile: DeviceProfile | None = None
    links: tuple[Link, ...] = ()

    @property
    def kind(self) -> str:
        """TVM's code generator: `llvm`, `cuda` or `vulkan`."""
        return self.gpu.kind if self.gpu else "llvm"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpCost:
    """Work and traffic of one operator. A multiply-add counts as two FLOPs.

    `bytes_in` and `bytes_out` are activations; weights are traffic too (`bytes_weights`). An
    operator whose shapes or formula are not known has zeros and an empty `dtype`.
    """

    index: int
    name: str
    op: str
    flops: int
    bytes_in: int
    bytes_out: int
    bytes_weights: int
    dtype: str
    shape_out: tuple[int, ...] = ()

    @property
    def intensity(self) -> float:
        """Arithmetic intensity in FLOPs a byte (Roofline, doi 10.1145/1498765.1498785)."""
        moved = self.bytes_in + self.bytes_out + self.bytes_weights
        return self.flops / moved if moved else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a pass did, or refused to do, and why.

    Attributes:
        transform: Name of the pass, e.g. `RestoreClip`.
        subject: The operator or group of operators.
        applied: Whether the rewrite was made.
        reason: Why it was made or refused, in the user's terms.
    """

    transform: str
    subject: str
    applied: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of the network that one target runs.

    Attributes:
        index: From 0, in the order in which they run.
        target: Name of a target of the deployment.
        units: Names of the units (see `cost_graph.Unit`) in it; empty: the whole network.
        inputs: Tensors that it takes, from the caller or from stages before it.
        outputs: Tensors that stages behind it or the caller take.
        threads: Worker threads on a CPU; 0: as many as the device has.
    """

    index: int
    target: str
    units: tuple[str, ...] = ()
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    threads: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePrediction:
    """What a plan expects of a stage.

    Attributes:
        receive_s: Seconds to get its inputs to its device.
        compute_s: Seconds of its kernels, and `overhead_s`.
        overhead_s: Of that, what a stage of a pipeline costs beside its kernels.
        send_s: Seconds to get the network's outputs from the last stage to the caller, else 0.
        bytes_in: Bytes that `receive_s` is for.
        memory_bytes: Weights, largest working set and buffers at both ends.
        energy_j: Joules beyond idling; 0 if the target states no watts.
    """

    receive_s: float
    compute_s: float
    send_s: float = 0.0
    bytes_in: int = 0
    memory_bytes: int = 0
    energy_j: float = 0.0
    overhead_s: float = 0.0

    @property
    def kernels_s(self) -> float:
        """Seconds of its kernels."""
        return self.compute_s - self.overhead_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a plan expects of one inference.

    Attributes:
        latency_s: From the first input to the last output of one frame in an empty pipeline.
        period_s: Between two frames of a full pipeline: its reciprocal is the frame rate.
        stages: One for each stage.
        source: Of the unit times: `measured`, `calibrated` (fitted to measurements of other
            networks), `datasheet` or `assumed`.
        noise: Relative half-width of the band that `latency_s` and `period_s` are known to.
        memory_s: Of the period, what a memory that stages share is busy for at least; 0 where no
            two of them share one whose bandwidth is known.
    """

    latency_s: float
    period_s: float
    stages: tuple[StagePrediction, ...]
    source: str
    noise: float = 0.0
    memory_s: float = 0.0

    @property
    def transfer_s(self) -> float:
        """Seconds of the latency that tensors travel for."""
        return sum(stage.receive_s + stage.send_s for stage in self.stages)

    @property
    def energy_j(self) -> float:
        """Joules of one inference beyond idling."""
        return sum(stage.energy_j for stage in self.stages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A plan that was not chosen.

    Attributes:
        name: `the whole network on host`, `host | arm, cut after conv_12`.
        latency_s: Predicted, see `Prediction`.
        period_s: Predicted.
        reason: Why not.
    """

    name: str
    latency_s: float
    period_s: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionPlan:
    """Which stage runs where, and why.

    Attributes:
        stages: In the order in which they run.
        objective: `whole`, `cuts` (stated by the user), or what was minimised: `latency`,
            `throughput`, `memory`, `energy`, `paper`, `pareto`.
        reason: Why this one, in a sentence or two.
        prediction: None for a network that was not planned.
        alternatives: That it was compared with, best first.
        reasons: Why each cut lies where it does, one for each but the last stage.
    """

    stages: tuple[Stage, ...]
    objective: str
    reason: str
    prediction: Prediction | None = None
    alternatives: tuple[Alternative, ...] = ()
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDiscrepancy:
    """One output against the reference.

    Attributes:
        name: Output name.
        max_abs: Largest `|y - r|`.
        max_rel: Largest `|y - r| / |r|` over the elements where the relative part of the
            tolerance exceeds the absolute part; 0 when there are none.
        cosine: Cosine similarity of the flattened tensors.
        violations: Number of elements outside of the tolerance's bound, NaN included.
        elements: Number of elements compared.

    `max_abs` is infinite when an element is not finite and its reference is.
    """

    name: str
    max_abs: float
    max_rel: float
    cosine: float
    violations: int
    elements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """When outputs `y` count as equal to reference outputs `r`.

    Attributes:
        rtol: Relative part of the bound of every element, `|y - r| <= atol + rtol * |r|`.
        atol: Absolute part of it. For an output whose largest number is below 1 it counts times
            that number (but not less than 1e-6), as any output of tiny numbers would pass
            otherwise; for one whose largest number is above 10, times a tenth of that number, as
            elements near zero are as inexact as the others there. An output of zeros keeps it.
        min_cosine: If given, what decides instead: the least cosine similarity of each output,
            all of whose elements must be finite. For networks that round to integers inside,
            where a last-bit difference before a rounding edge becomes a whole step after it.
    """

    rtol: float
    atol: float
    min_cosine: float | None = None

    def accepts(self, output: OutputDiscrepancy) -> bool:
        """Whether an output, compared with this `rtol` and `atol`, is near enough."""
        if self.min_cosine is None:
            return output.violations == 0
        return output.cosine >= self.min_cosine and math.isfinite(output.max_abs)

    def stated(self, rtol: float | None, atol: float | None) -> Tolerance:
        """This tolerance with the bounds that a user states; they make it element-wise."""
        if rtol is None and atol is None:
            return self
        return Tolerance(
            rtol=self.rtol if rtol is None else rtol, atol=self.atol if atol is None else atol
        )

    def __str__(self) -> str:
        if self.min_cosine is not None:
            return f"cosine >= {self.min_cosine:g}"
        return f"|y - r| <= {self.atol:g} + {self.rtol:g} |r|"


@dataclass(frozen=True, slots=True, kw_only=True)
class Discrepancy:
    """All outputs against the reference, with the tolerance that was applied."""

    outputs: tuple[OutputDiscrepancy, ...]
    tolerance: Tolerance
    reference: str

    @property
    def passed(self) -> bool:
        """Whether every output is near enough."""
        return all(map(self.tolerance.accepts, self.outputs))

    @property
    def worst(self) -> OutputDiscrepancy:
        """A refused output if there is one; of those, the one with the largest share outside."""
        return max(
            self.outputs,
            key=lambda o: (not self.tolerance.accepts(o), o.violations / max(o.elements, 1)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A latency measured over `samples` runs after `warmup` runs.

    `scope` is `device` (kernels alone) or `end_to_end` (with copies in and out).
    """

    median_s: float
    p10_s: float
    p90_s: float
    samples: int
    scope: str
    warmup: int
    environment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A file of a bundle, relative to its folder."""

    file: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """The compiled code of one stage, parameters inside."""

    stage: int
    file: FileRecord
    device: str
    parameters_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One way to run the network: a plan and its libraries, for one target (or several).

    `verified` says how the outputs were compared with the reference, or why they were not;
    `plan_file` is what a partitioned deployment was planned from (see `planning.plan_file`).
    """

    name: str
    targets: tuple[TargetSpec, ...]
    plan: PartitionPlan
    libraries: tuple[Library, ...]
    verified: str
    discrepancy: Discrepancy | None = None
    measurement: Measurement | None = None
    plan_file: FileRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """How an image becomes the network's input: RGB -> resize -> crop -> (x - mean) / std.

    Attributes:
        name: The preset it came from, or `custom`.
        resize: Short side after resizing in pixels; 0 resizes to the input size directly.
        mean: Subtracted per channel, on the 0..255 scale.
        std: Divided by per channel, on the 0..255 scale.
        channels: `RGB`, `BGR` or `L` (grey).
    """

    name: str
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything needed to load, check and explain a bundle.

    `reference` names what computed the sample's expected outputs, empty when there are none;
    `tolerance` is what every device accepts on the sample; `precision` is what the convolutions of
    a float32 model compute in (`fp32`, `bf16`, `fp16`), or `int8` for a quantized model that was
    asked to be computed in integers.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/manifest/1"

    tool_version: str
    tvm_version: str
    tvm_ffi_version: str
    created: str
    model_name: str
    model_sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    deployments: tuple[Deployment, ...]
    sample: FileRecord
    reference: str
    tolerance: Tolerance
    report: FileRecord
    operators: tuple[OpCost, ...]
    decisions: tuple[Decision, ...]
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] = ()
    precision: str = "fp32"
