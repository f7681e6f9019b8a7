"""Deployments of a bundle: the whole network for a target, or the stages of a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_iovt.stages.library import StageBuilder, new_file
from tvm_iovt.targets import states_threads
from tvm_iovt.types import Decision, Deployment, Library, PartitionPlan, Stage, TargetSpec

if TYPE_CHECKING:
    from tvm_iovt.frontend.network import Network

UNVERIFIED = "not verified (--no-verify)"


def build_whole(
    network: Network, module: Any, spec: TargetSpec, builder: StageBuilder, folder: Path
) -> tuple[Deployment, tuple[Decision, ...]]:
    """The whole network for one target.

    Args:
        network: The imported network.
        module: Its graph after the passes.
        spec: The target.
        builder: For it.
        folder: The bundle.

    Returns:
        The deployment, and what was decided about its kernels.
    """
    file = new_file(folder, f"stage0.{spec.name}", ".so")
    library, notes = builder.build(module, spec, folder, 0, file)
    stage = Stage(
        index=0,
        target=spec.name,
        inputs=network.inputs,
        outputs=network.outputs,
        threads=spec.cpu.cores if states_threads(spec.name) else 0,
    )
    plan = PartitionPlan(
        stages=(stage,), objective="whole", reason=f"the whole network on {spec.name}"
    )
    return _deployment(spec.name, (spec,), plan, (library,)), notes


def build_plan(
    name: str,
    annotated: Any,
    plan: PartitionPlan,
    specs: Sequence[TargetSpec],
    builder: StageBuilder,
    folder: Path,
) -> tuple[Deployment, tuple[Decision, ...]]:
    """The stages of a plan.

    Args:
        name: Of the deployment.
        annotated: Its graph after the passes and `AnnotateCost`.
        plan: What to build.
        specs: The targets of its stages, and perhaps others.
        builder: For them.
        folder: The bundle.

    Returns:
        The deployment, and what was decided about its kernels.
    """
    import relay_passes

    partition: Any = relay_passes.PartitionByPlan(plan)
    partitioned = partition(annotated)
    known = {spec.name: spec for spec in specs}
    libraries: list[Library] = []
    stages: list[Stage] = []
    notes: list[Decision] = []
    for stage in plan.stages:
        part = relay_passes.stage_module(partitioned, stage.index)
        file = new_file(folder, f"{name}.stage{stage.index}.{stage.target}", ".so")
        library, made = builder.build(part.module, known[stage.target], folder, stage.index, file)
        libraries.append(library)
        stages.append(
            dataclasses.replace(stage, inputs=part.interface.inputs, outputs=part.interface.outputs)
        )
        notes += [note for note in made if note not in notes]
    used = [stage.target for stage in plan.stages]
    return _deployment(
        name,
        tuple(spec for spec in specs if spec.name in used),
        dataclasses.replace(plan, stages=tuple(stages)),
        tuple(libraries),
    ), tuple(notes)


def _deployment(
    name: str,
    specs: tuple[TargetSpec, ...],
    plan: PartitionPlan,
    libraries: tuple[Library, ...],
) -> Deployment:
    return Deployment(
        name=name,
        targets=tuple(dataclasses.replace(s, source=Path(s.source).name) for s in specs),
        plan=plan,
        libraries=libraries,
        verified=UNVERIFIED,
    )
