"""Where each stage of a deployment runs: on this machine, with which CPUs, or on a board."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm_iovt.errors import BundleError, UsageError
from tvm_iovt.runtime.executor import why_not_here
from tvm_iovt.runtime.stage_by_stage import stage_deployment
from tvm_iovt.types import Deployment, Manifest, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuShare:
    """What a stage on this machine computes with.

    Attributes:
        threads: Worker threads; 0 for as many as the plan says.
        cpus: That they run on; empty if the system decides.
    """

    threads: int
    cpus: tuple[int, ...]

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}" if self.threads else ""
        cpus = f"CPU{'s' * (len(self.cpus) != 1)} {_ranges(self.cpus)}" if self.cpus else ""
        return " on ".join(filter(None, (threads, cpus))) or "any CPU"


def choose_deployment(
    path: Path, manifest: Manifest, name: str, boards: Collection[str], *, sequential: bool
) -> Deployment:
    """The deployment of that name, or the best one all of whose stages have a place.

    Args:
        path: The bundle.
        manifest: Its manifest.
        name: Of the deployment; empty for the only one that can run, or of several with predicted
            times the one with the best.
        boards: Names of the targets that boards stand for.
        sequential: Whether the predicted latency decides, or the frame rate.

    Raises:
        BundleError: There is none, or several without predictions.
        UsageError: A board stands for a target that none of them has.
    """
    _refuse_strangers(path, manifest, boards)
    misfits = {d.name: why_no_place(path, d, boards) for d in manifest.deployments}
    contents = "; ".join(f"{n} ({reason or 'can run'})" for n, reason in misfits.items())
    if name and name not in misfits:
        raise BundleError(
            f"{path} has no deployment {name}", seen=f"it contains {contents}", do="name one of it"
        )
    fitting = [n for n, reason in misfits.items() if not reason and name in ("", n)]
    best = _best([d for d in manifest.deployments if d.name in fitting], sequential=sequential)
    if best is None:
        what = "more than one deployment that" if fitting else f"no deployment {name}".strip()
        raise BundleError(
            f"{path} has {what} can be run" if fitting else f"{path} has {what} that can be run",
            seen=f"it contains {contents}",
            do="name one with --target"
            if fitting
            else "run the stages of other machines on boards: --tracker HOST:PORT --board "
            "TARGET=KEY; or compile the model for this machine",
        )
    return best


def _refuse_strangers(path: Path, manifest: Manifest, boards: Collection[str]) -> None:
    targets = {target.name for found in manifest.deployments for target in found.targets}
    strangers = sorted(set(boards) - targets)
    if strangers:
        raise UsageError(
            f"{path} has no target {', '.join(strangers)}, which --board names",
            seen=f"its targets are {', '.join(sorted(targets))}",
            do="name one of those, as TARGET=KEY",
        )


def _best(deployments: Sequence[Deployment], *, sequential: bool) -> Deployment | None:
    """The only deployment, or the one of the best prediction; None if nothing tells them apart."""
    if len(deployments) == 1:
        return deployments[0]
    times_s = []
    for deployment in deployments:
        prediction = deployment.plan.prediction
        if prediction is None:
            return None
        times_s.append(prediction.latency_s if sequential else prediction.period_s)
    return deployments[times_s.index(min(times_s))] if times_s else None


def why_no_place(path: Path, deployment: Deployment, boards: Collection[str]) -> str:
    """Why a deployment cannot be run here with these boards; empty if it can."""
    targets = {target.name for target in deployment.targets}
    strangers = sorted(set(boards) - targets)
    if strangers:
        return f"has no target {', '.join(strangers)}, but {', '.join(sorted(targets))}"
    for stage in deployment.plan.stages:
        if stage.target in boards:
            continue
        reason = why_not_here(path, stage_deployment(deployment, stage.index))
        if reason:
            return f"stage {stage.index} for {stage.target} {reason}"
    return ""


def prepared_deployments(
    path: Path, manifest: Manifest, boards: Collection[str]
) -> tuple[Deployment, ...]:
    """The deployments that a stream can change between: planned, and with a place for all stages.

    Args:
        path: The bundle.
        manifest: Its manifest.
        boards: Names of the targets that boards stand for; not all of them use each.

    Raises:
        BundleError: There are fewer than two.
        UsageError: A board stands for a target that none of them has.
    """
    _refuse_strangers(path, manifest, boards)
    reasons = {}
    for deployment in manifest.deployments:
        used = {target.name for target in deployment.targets} & set(boards)
        reason = why_no_place(path, deployment, used)
        if not reason and deployment.plan.prediction is None:
            reason = "has no predicted times: its cuts were stated, or it was not planned"
        reasons[deployment.name] = reason
    found = tuple(d for d in manifest.deployments if not reasons[d.name])
    if len(found) < 2:
        raise BundleError(
            f"{path} has nothing to adapt to",
            seen="; ".join(f"{name} ({reason or 'can run'})" for name, reason in reasons.items()),
            do="compile the model with several planned deployments, or leave out --adapt",
        )
    return found


def share_cpus(
    stages: Sequence[Stage],
    *,
    threads: int | None,
    cpus: Sequence[int] | None,
    sequential: bool,
) -> dict[int, CpuShare]:
    """Divide this machine's CPUs among the stages that compute on them.

    Stages that work at the same time get CPUs of their own, in order, as many as they have
    threads, if there are enough; a stage whose plan says no number gets an equal share. If they
    do not fit, and in sequential runs, where one stage works at a time, the system decides.

    Args:
        stages: Those that run on CPUs of this machine.
        threads: Of each stage, over the plan.
        cpus: To divide; by default all that this process may use.
        sequential: Whether one stage works at a time.

    Returns:
        The share of each stage by its index.

    Raises:
        UsageError: There is no such CPU, or `threads` is not positive.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if threads is not None and threads < 1:
        raise UsageError(
            "The number of threads must be positive",
            seen=str(threads),
            do="give each stage one thread or more, or leave it to the plan",
        )
    if cpus is not None and (not cpus or not set(cpus) <= set(allowed)):
        raise UsageError(
            "These CPUs cannot be used",
            seen=f"{_ranges(cpus) or 'none'}; this process may use {_ranges(allowed)}",
            do="choose among those",
        )
    free = list(cpus or allowed)
    everyone = tuple(cpus or ())
    if sequential or not stages:
        return {s.index: CpuShare(threads=threads or s.threads, cpus=everyone) for s in stages}
    equal = max(len(free) // len(stages), 1)
    wanted = {s.index: threads or min(s.threads, len(free)) or equal for s in stages}
    if sum(wanted.values()) > len(free):
        return {index: CpuShare(threads=count, cpus=everyone) for index, count in wanted.items()}
    shares = {}
    for index, count in wanted.items():
        shares[index] = CpuShare(threads=count, cpus=tuple(free[:count]))
        del free[:count]
    return shares


def _ranges(cpus: Sequence[int]) -> str:
    """`0-3,6`."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and cpu == parts[-1][-1] + 1:
            parts[-1][1:] = [cpu]
        else:
            parts.append([cpu])
    return ",".join("-".join(map(str, part)) for part in parts)
