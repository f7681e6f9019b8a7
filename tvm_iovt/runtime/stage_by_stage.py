"""Run a deployment stage by stage, each where it can: on this machine, or emulated.

That checks a deployment whose stages belong to several machines without having them.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from tvm_iovt import bundle
from tvm_iovt.runtime.emulate import emulate_deployment
from tvm_iovt.runtime.executor import load, why_not_here
from tvm_iovt.types import Deployment, Manifest, PartitionPlan

Progress = Callable[[str], None]
Arrays = Mapping[str, np.ndarray]


def stage_deployment(deployment: Deployment, index: int) -> Deployment:
    """One stage of a deployment as a deployment of its own."""
    stage = deployment.plan.stages[index]
    (target,) = (t for t in deployment.targets if t.name == stage.target)
    (library,) = (each for each in deployment.libraries if each.stage == stage.index)
    plan = PartitionPlan(
        stages=(dataclasses.replace(stage, index=0, units=()),),
        objective="whole",
        reason=f"stage {stage.index} of {deployment.name}",
    )
    several = len(deployment.plan.stages) > 1
    return dataclasses.replace(
        deployment,
        name=f"{deployment.name} stage {stage.index}" if several else deployment.name,
        targets=(target,),
        plan=plan,
        libraries=(dataclasses.replace(library, stage=0),),
        discrepancy=None,
        measurement=None,
        plan_file=None,
    )


def why_not_run(path: Path, deployment: Deployment, *, emulate: bool) -> str:
    """Why a deployment cannot be run stage by stage on this machine; empty if it can.

    Args:
        path: The bundle.
        deployment: A deployment of it.
        emulate: Whether CPU stages of another architecture may run under qemu-user.
    """
    for stage in deployment.plan.stages:
        alone = stage_deployment(deployment, stage.index)
        reason = why_not_here(path, alone)
        foreign = alone.targets[0].gpu is None and emulate
        if reason and not foreign:
            several = len(deployment.plan.stages) > 1
            return f"{reason} for stage {stage.index}, {stage.target}" if several else reason
    return ""


def run_stages(
    path: Path, manifest: Manifest, deployment: Deployment, inputs: Arrays, progress: Progress
) -> tuple[dict[str, np.ndarray], str]:
    """Run a deployment once; `why_not_run` has been asked.

    Args:
        path: The bundle.
        manifest: Its manifest.
        deployment: A deployment of it.
        inputs: The network's inputs by name.
        progress: Called with a line for each stage.

    Returns:
        The network's outputs by name, and where the stages ran: `on this machine`,
        `under qemu-aarch64 7.2`, or several.

    Raises:
        IovtError: A stage failed; see `runtime.load` and `emulate_deployment`.
    """
    values: dict[str, np.ndarray] = dict(inputs)
    places: list[str] = []
    for stage in deployment.plan.stages:
        alone = stage_deployment(deployment, stage.index)
        given = {spec.name: values[spec.name] for spec in stage.inputs}
        with tempfile.TemporaryDirectory(prefix="tvm-iovt-stage-") as temporary:
            folder = Path(temporary)
            _write_stage_bundle(path, manifest, alone, given, folder)
            if not why_not_here(folder, alone):
                progress(f"running {alone.name} on this machine")
                found, place = load(folder, check=False).run(given), "on this machine"
            else:
                progress(f"running {alone.name} under emulation")
                found, emulator = emulate_deployment(folder, alone.name, inputs=given)
                place = f"under {emulator}"
        values.update(found)
        places.append(place)
    outputs = {spec.name: values[spec.name] for spec in manifest.outputs}
    return outputs, " and ".join(dict.fromkeys(places))


def _write_stage_bundle(
    path: Path, manifest: Manifest, alone: Deployment, inputs: Arrays, folder: Path
) -> None:
    """A bundle of one stage, whose sample is what the stages before it have made."""
    (stage,), (library,) = alone.plan.stages, alone.libraries
    shutil.copyfile(path / library.file.file, folder / library.file.file)
    (folder / manifest.report.file).write_text("", encoding="utf-8")
    bundle.save_manifest(
        folder,
        dataclasses.replace(
            manifest,
            inputs=stage.inputs,
            outputs=stage.outputs,
            deployments=(alone,),
            sample=bundle.save_sample(folder, inputs, {}),
            reference="",
            report=bundle.record(folder, manifest.report.file),
            operators=(),
            decisions=(),
            preprocess=None,
        ),
    )
