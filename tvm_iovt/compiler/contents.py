"""What a bundle holds: whole networks, one for each target, or the stages of plans."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_iovt import bundle, targets
from tvm_iovt.compiler.options import CompileOptions
from tvm_iovt.errors import IovtError, UsageError
from tvm_iovt.planning.plan_file import PlanFile
from tvm_iovt.stages.deployment import build_plan, build_whole
from tvm_iovt.stages.graph import annotate, run_graph_passes
from tvm_iovt.stages.library import StageBuilder, new_file
from tvm_iovt.types import Decision, Deployment, FileRecord, TargetSpec

if TYPE_CHECKING:
    from tvm_iovt.frontend.network import Network

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What was built.

    Attributes:
        deployments: For the manifest.
        decisions: Of the frontend, the passes and the lowering.
        plans: That were made, the chosen one first.
        annotated: The graph that they cut, with the costs of its units; None without plans.
        plan_of: The plan file of each deployment, by its name.
    """

    deployments: tuple[Deployment, ...]
    decisions: tuple[Decision, ...]
    plans: tuple[PlanFile, ...] = ()
    annotated: Any = None
    plan_of: Mapping[str, PlanFile] = field(default_factory=dict)


def build_whole_networks(
    network: Network,
    specs: tuple[TargetSpec, ...],
    builder: StageBuilder,
    folder: Path,
    options: CompileOptions,
    progress: Progress,
) -> Contents:
    """The whole network for each target."""
    decisions = list(network.decisions)
    deployments = []
    plan_of = {}
    for number, spec in enumerate(specs, start=1):
        progress(f"building for {spec.name} ({number} of {len(specs)})")
        module, made = run_graph_passes(network, (spec,), options.fuse)
        deployment, notes = build_whole(network, module, spec, builder, folder)
        file = _prediction_for(network, module, spec)
        if file is not None:
            plan_of[spec.name] = file
            deployment = dataclasses.replace(
                deployment,
                plan=dataclasses.replace(deployment.plan, prediction=file.plan.prediction),
                plan_file=_record_plan(folder, spec.name, file),
            )
        # What is decided alike for several targets is told once.
        decisions += [decision for decision in (*made, *notes) if decision not in decisions]
        deployments.append(deployment)
    return Contents(deployments=tuple(deployments), decisions=tuple(decisions), plan_of=plan_of)


def _prediction_for(network: Network, module: Any, spec: TargetSpec) -> PlanFile | None:
    """What is expected of the whole network; None if its units cannot be told apart."""
    import relay_passes
    from tvm_iovt.planning.network_plan import plan_whole

    try:
        graph = relay_passes.cost_graph(module, network.inputs, network.outputs)
        return plan_whole(network.name, network.sha256, graph, spec)
    except IovtError:
        return None  # it can be compiled and run all the same


def is_one_board(specs: Sequence[TargetSpec]) -> bool:
    """Whether the targets are a CPU and the GPU that it launches: parts of one board."""
    from tvm_iovt.planning.places import machine_of

    machines = {machine_of(spec, specs) for spec in specs}
    return len(machines) == 1 and {spec.gpu is None for spec in specs} == {True, False}


def with_board_plan(
    built: Contents,
    network: Network,
    specs: tuple[TargetSpec, ...],
    builder: StageBuilder,
    folder: Path,
    options: CompileOptions,
    progress: Progress,
) -> Contents:
    """Whole networks for the parts of one board, and the plan of least latency beside them.

    The plan is built where it cuts the network; where one of the parts is better alone, it is that
    part's whole network.
    """
    try:
        annotated, _ = annotate(network, specs, options.fuse)
    except IovtError:
        return built  # its units cannot be told apart; it can be compiled and run all the same
    plans = _plans(network, annotated, specs, _for_latency(options), progress)
    if all(len(file.plan.stages) == 1 for file in plans):
        return dataclasses.replace(built, plans=plans)
    planned = _build(annotated, plans, builder, folder, progress)
    return Contents(
        deployments=(*built.deployments, *planned.deployments),
        decisions=tuple(dict.fromkeys((*built.decisions, *planned.decisions))),
        plans=plans,
        annotated=annotated,
        plan_of={**built.plan_of, **planned.plan_of},
    )


def _for_latency(options: CompileOptions) -> CompileOptions:
    return dataclasses.replace(options, objective="latency")


def build_plans(
    network: Network,
    specs: tuple[TargetSpec, ...],
    planned: PlanFile | None,
    builder: StageBuilder,
    folder: Path,
    options: CompileOptions,
    progress: Progress,
) -> Contents:
    """The network cut onto the targets, as planned or as stated.

    The fusions are decided as they were for a plan: by all the targets that it was made for.
    """
    deciding = planned.named or specs if planned is not None else specs
    annotated, decisions = annotate(network, deciding, options.fuse)
    if planned is not None:
        plans: tuple[PlanFile, ...] = (_replayed(network, annotated, planned, options),)
    else:
        plans = _plans(network, annotated, specs, options, progress)
    built = _build(annotated, plans, builder, folder, progress)
    notes = (*network.decisions, *decisions, *built.decisions)
    return dataclasses.replace(built, decisions=tuple(dict.fromkeys(notes)))


def _replayed(
    network: Network, annotated: Any, planned: PlanFile, options: CompileOptions
) -> PlanFile:
    import relay_passes
    from tvm_iovt.planning.plan_file import check_model
    from tvm_iovt.planning.replay import replay

    assert options.plan is not None
    check_model(options.plan, planned, network.name, network.sha256)
    return replay(options.plan, planned, relay_passes.read_costs(annotated), options.links)


def _build(
    annotated: Any,
    plans: tuple[PlanFile, ...],
    builder: StageBuilder,
    folder: Path,
    progress: Progress,
) -> Contents:
    deployments: list[Deployment] = []
    notes: list[Decision] = []
    plan_of = {}
    for file in plans:
        name = plan_name(file, [deployment.name for deployment in deployments])
        count = len(file.plan.stages)
        progress(f"building {name} in {count} stage{'s' if count > 1 else ''}")
        deployment, made = build_plan(name, annotated, file.plan, file.targets, builder, folder)
        plan_of[name] = file
        record = _record_plan(folder, name, file)
        deployments.append(dataclasses.replace(deployment, plan_file=record))
        notes += [note for note in made if note not in notes]
    return Contents(
        deployments=tuple(deployments),
        decisions=tuple(notes),
        plans=plans,
        annotated=annotated,
        plan_of=plan_of,
    )


def _plans(
    network: Network,
    annotated: Any,
    specs: tuple[TargetSpec, ...],
    options: CompileOptions,
    progress: Progress,
) -> tuple[PlanFile, ...]:
    import relay_passes
    from tvm_iovt.planning import network_plan, unit_rows

    graph = relay_passes.read_costs(annotated)
    progress(f"planning {len(graph.units)} units on {len(specs)} devices")
    rows = unit_rows.UnitRows(graph, specs, None, progress)
    request = network_plan.PlanRequest(
        objective=options.objective,
        cuts=options.cuts,
        links=options.links,
        prepare=options.prepare,
    )
    return network_plan.plan_network(network.name, network.sha256, graph, specs, rows, request)


def plan_name(file: PlanFile, taken: Sequence[str]) -> str:
    """`host+arm`; of several plans for the same devices: `host+arm cut 12`, by their units."""
    name = "+".join(stage.target for stage in file.plan.stages)
    if name in taken:
        cuts = "-".join(str(len(stage.units)) for stage in file.plan.stages[:-1])
        name = f"{name} after {cuts}"
    # Branches can be divided in several ways with as many units in each part.
    numbered = (f"{name} ({number})" for number in itertools.count(2))
    return name if name not in taken else next(other for other in numbered if other not in taken)


def _record_plan(folder: Path, name: str, file: PlanFile) -> FileRecord:
    from tvm_iovt.planning.plan_file import write_plan

    part = new_file(folder, name, ".plan.json")
    write_plan(folder / part, file)
    return bundle.record(folder, part)


def specs_of(options: CompileOptions, planned: PlanFile | None) -> tuple[TargetSpec, ...]:
    """The targets of a compilation, of its plan if it has one."""
    stated = [
        flag
        for flag, given in (
            ("--plan", options.plan),
            ("--cuts", options.cuts),
            ("--objective", options.objective),
        )
        if given
    ]
    if len(stated) > 1:
        raise UsageError(f"{' and '.join(stated)} say the same thing twice", do="give one of them")
    if options.prepare < 0:
        raise UsageError("So many plans cannot be prepared", seen=f"--prepare {options.prepare}")
    if options.prepare and stated and not options.objective:
        raise UsageError(
            f"--prepare has nothing to choose beside {stated[0]}",
            do="use --objective, or leave --prepare out",
        )
    if planned is not None:
        return planned.targets
    if not options.is_partitioned:
        if options.links or options.prepare:
            raise UsageError(
                "--link and --prepare are for cutting a network",
                do="add --objective latency (or throughput), or leave them out",
            )
        return targets.load_all(options.targets)
    from tvm_iovt.planning.network_plan import PlanRequest, check_request

    specs = targets.load_devices(options.targets)
    check_request(
        PlanRequest(
            objective=options.objective,
            cuts=options.cuts,
            links=options.links,
            prepare=options.prepare,
        ),
        specs,
    )
    return specs
