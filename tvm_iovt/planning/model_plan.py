"""`plan_model`: from a model file to a plan; what `tvm-iovt plan` calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tvm_iovt import precision as precisions
from tvm_iovt import targets
from tvm_iovt.cost_graph import CostGraph
from tvm_iovt.errors import UsageError
from tvm_iovt.planning.network_plan import PlanRequest, check_request, plan_network
from tvm_iovt.planning.plan_file import PlanFile
from tvm_iovt.planning.unit_rows import Measuring, UnitRows
from tvm_iovt.stages.kernels import KernelOptions
from tvm_iovt.types import TargetSpec

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What `plan` can be told; what is not explained here is as in `CompileOptions`.

    Attributes:
        targets: Comma-separated devices; one may be named several times.
        measure: Time the operators on those devices that are this machine's CPU.
    """

    targets: str
    objective: str = "latency"
    cuts: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    measure: bool = False
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fuse: str = "auto"
    precision: str = "fp32"
    winograd: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CostedModel:
    """A model whose units and their times are known.

    Attributes:
        name: Of the model.
        sha256: Of its file.
        graph: Its units.
        rows: Their times on any of the targets.
    """

    name: str
    sha256: str
    graph: CostGraph
    rows: UnitRows


def plan_model(
    model: Path, options: PlanOptions, *, progress: Progress = lambda message: None
) -> PlanFile:
    """Plan where a model is cut, and which device runs which part.

    Args:
        model: ONNX file or torch.export program.
        options: See `PlanOptions`.
        progress: Called with a line for each step.

    Raises:
        IovtError: One of its subclasses, each with its exit code.
    """
    specs = targets.load_devices(options.targets)
    request = PlanRequest(objective=options.objective, cuts=options.cuts, links=options.links)
    if options.objective and options.cuts:
        raise UsageError("--objective and --cuts say the same thing twice", do="give one of them")
    check_request(request, specs)
    found = read_model(model, options, specs, progress)
    progress(f"planning {len(found.graph.units)} units on {len(specs)} devices")
    return plan_network(found.name, found.sha256, found.graph, specs, found.rows, request)[0]


def read_model(
    model: Path, options: PlanOptions, specs: Sequence[TargetSpec], progress: Progress
) -> CostedModel:
    """The units of a model, as a compilation for these targets makes them.

    Args:
        model: ONNX file or torch.export program.
        options: See `PlanOptions`.
        specs: The targets of the options.
        progress: Called with a line for each step.

    Raises:
        IovtError: One of its subclasses, each with its exit code.
    """
    precisions.check_targets(options.precision, specs)
    progress("loading the compiler")
    import relay_passes
    from tvm_iovt.frontend.load import load_network
    from tvm_iovt.stages.graph import annotate

    progress(f"reading {model.name}")
    network = load_network(model, options.input_shapes)
    precisions.check_model(options.precision, network.arithmetic, model.name)
    annotated, _ = annotate(network, specs, options.fuse)
    graph = relay_passes.read_costs(annotated)
    measuring = None
    if options.measure:
        measuring = Measuring(
            model=model,
            input_shapes=options.input_shapes,
            fuse=options.fuse,
            kernels=KernelOptions(precision=options.precision, winograd=options.winograd),
        )
    rows = UnitRows(graph, specs, measuring, progress)
    return CostedModel(name=network.name, sha256=network.sha256, graph=graph, rows=rows)
