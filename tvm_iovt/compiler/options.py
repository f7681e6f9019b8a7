"""What `compile` can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tvm_iovt.stages.kernels import KernelOptions

FUSE_MODES = ("always", "auto", "never")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileOptions:
    """What `compile` can be told.

    Attributes:
        targets: Comma-separated target names, see `targets.load_all`.
        input_shapes: Static shapes of inputs that the model leaves open.
        output: The bundle to write; by default `<model>.iovt` in the current folder.
        overwrite: Replace an existing bundle.
        verify: Compare with the reference before the bundle is written.
        keep: Write the bundle even if the comparison fails (which still is an error).
        emulate: Also run targets of another CPU architecture, under qemu-user.
        rtol: Relative tolerance of the comparison, over the default.
        atol: Absolute tolerance of the comparison, over the default.
        sample: Input to verify with (image or .npz); by default seeded random numbers.
        preprocess: Name of an image preset, over what the model's file says.
        cross_compiler: Linker command for targets of another CPU architecture, over those that
            are found.
        fuse: Which operators with constant weights become one: `always` (whatever is exact),
            `auto` (what saves time by the target's roofline) or `never`.
        precision: What convolutions and matrix products with constant weights compute in: `fp32`
            (as the model says: float32, or integers in a quantized model), `bf16` or `fp16`
            (operands rounded), or `int8` (requires a quantized model and integer instructions).
        winograd: Whether convolutions may use Winograd's algorithm where it is predicted to be
            faster. Its rounding errors are larger than those of direct sums, within bounds that
            are checked layer by layer.
        measure: Decide between kernels of a convolution by measuring them, where no record of an
            earlier measurement does; every target must be the CPU of this machine.
        tuned: Use the schedules that `tune` has recorded for the target's kind of device.
        objective: Cut the network onto the targets so that this is least: `latency`,
            `throughput` (the time between two frames), `memory`, `energy`, or `paper` (a published
            formula, for comparison). Empty: the whole network for each target.
        cuts: Operators to cut behind, in place of an objective; the targets get the parts in order.
        plan: A plan file to build, in place of an objective; it names the targets, too.
        links: The ways to the targets, see `planning.links.parse_link`.
        prepare: Also build so many alternatives of the plan, for `run --adapt`.
    """

    targets: str = "host"
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    output: Path | None = None
    overwrite: bool = False
    verify: bool = True
    keep: bool = False
    emulate: bool = False
    rtol: float | None = None
    atol: float | None = None
    sample: Path | None = None
    preprocess: str = ""
    cross_compiler: str = ""
    fuse: str = "auto"
    precision: str = "fp32"
    winograd: bool = True
    measure: bool = False
    tuned: bool = True
    objective: str = ""
    cuts: tuple[str, ...] = ()
    plan: Path | None = None
    links: tuple[str, ...] = ()
    prepare: int = 0

    @property
    def kernels(self) -> KernelOptions:
        """What decides between kernels."""
        return KernelOptions(
            precision=self.precision,
            winograd=self.winograd,
            measure=self.measure,
            tuned=self.tuned,
        )

    @property
    def is_partitioned(self) -> bool:
        """Whether the network is to be cut onto the targets."""
        return bool(self.objective or self.cuts or self.plan)
