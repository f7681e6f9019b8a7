"""What `tune` can be told, and what of it is refused at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tvm_iovt import precision, targets
from tvm_iovt.errors import UsageError
from tvm_iovt.types import TargetSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneOptions:
    """What `tune` can be told.

    Attributes:
        target: Name of one target, see `targets.load`.
        input_shapes: As `compile` is told; the kernels depend on it.
        trials: Stop after so many, those of earlier, interrupted runs included.
        time_s: Stop after so many seconds, likewise. One of the two is needed.
        jobs: Builds at a time; 0: one for each core.
        tracker: Address of the tracker of the boards to measure on; empty: this machine.
        key: Of the boards.
        dask: Address of a dask scheduler to build on too.
        fuse: As `compile` is told.
        precision: As `compile` is told.
        winograd: As `compile` is told.
        logs: Folder of the records; default: the user's.
        restart: Count the budget from zero where an earlier run could go on.
        cost_model: `xgb` or `random`.
        cross_compiler: Linker command for targets of another CPU architecture.
        plan: Partition plan whose stages to tune.
        build_timeout_s: For one schedule.
        run_timeout_s: For checking and timing one schedule.
    """

    target: str = "host"
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    trials: int | None = None
    time_s: float | None = None
    jobs: int = 0
    tracker: str = ""
    key: str = ""
    dask: str = ""
    fuse: str = "auto"
    precision: str = "fp32"
    winograd: bool = True
    logs: Path | None = None
    restart: bool = False
    cost_model: str = "xgb"
    cross_compiler: str = ""
    plan: Path | None = None
    build_timeout_s: float = 30.0
    run_timeout_s: float = 30.0


def check_options(options: TuneOptions) -> TargetSpec:
    """The target of a run.

    Raises:
        UsageError: The options contradict each other, or ask for what there is not.
        TargetError: There is no such target.
    """
    if options.trials is None and options.time_s is None:
        raise UsageError("Tuning needs a budget", do="give --trials 500, or --time 10m")
    if bool(options.tracker) != bool(options.key):
        raise UsageError(
            "--tracker and --key belong together",
            do="give the tracker's address with --tracker and the key of the boards with --key",
        )
    if options.dask and not options.tracker:
        raise UsageError(
            "--dask builds kernels for boards",
            seen="no --tracker: kernels for this machine are built where they are measured",
            do="leave --dask out, or measure on boards with --tracker HOST:PORT --key KEY",
        )
    if options.plan is not None:
        raise UsageError(
            "Partition plans cannot be tuned by this version",
            seen=str(options.plan),
            do="tune the whole network for each target: its kernels are those of the stages",
        )
    spec = targets.load(options.target)
    precision.check_targets(options.precision, (spec,))
    from tvm_iovt.tuning.cost_model import check_cost_model

    check_cost_model(options.cost_model)
    return spec


def check_is_reachable(spec: TargetSpec, options: TuneOptions) -> None:
    """Refuse a target that neither this machine nor a board can measure.

    Raises:
        UsageError: It is another kind of device.
    """
    if options.tracker:
        if spec.gpu is not None:
            raise UsageError(
                f"Kernels of {spec.name} cannot be measured on boards by this version",
                seen="--tracker",
                do="run `tvm-iovt tune` on a machine with that GPU",
            )
        return
    if spec.gpu is not None:
        reason, do = _why_no_gpu(spec), "run `tvm-iovt tune` on a machine with that GPU"
    else:
        from tvm_iovt.tuning.kernel_choice import why_not_here

        reason = why_not_here(spec)
        do = "measure on boards with --tracker HOST:PORT --key KEY, or tune for --target host"
    if reason:
        raise UsageError(
            f"{spec.name} cannot be measured on this machine", seen=f"{spec.name} {reason}", do=do
        )


def _why_no_gpu(spec: TargetSpec) -> str:
    """Why the GPU of a target is not that of this machine; empty if it is."""
    from tvm_iovt import _tvm

    assert spec.gpu is not None
    device = _tvm.tvm.device(spec.gpu.kind, 0)
    if not device.exist:
        return f"needs a {spec.gpu.kind} device, and TVM finds none here"
    here = f"sm_{str(device.compute_version).replace('.', '')}"
    if spec.gpu.kind == "cuda" and here != spec.gpu.arch.rstrip("af"):
        return f"is for {spec.gpu.arch}, the GPU here is {here}"
    return ""
