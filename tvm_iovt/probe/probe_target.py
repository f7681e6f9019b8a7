"""Measure a target: this machine, or a board of a tracker."""

from __future__ import annotations

from tvm_iovt import host_cpu
from tvm_iovt.errors import DeviceError, TargetError
from tvm_iovt.probe.host_probe import Progress, probe_host
from tvm_iovt.probe.report import ProbeResult
from tvm_iovt.types import TargetSpec


def probe_target(
    spec: TargetSpec,
    *,
    tracker: str = "",
    key: str = "",
    quick: bool = False,
    progress: Progress = lambda _message: None,
) -> ProbeResult:
    """Measure what predictions for a target rest on.

    Args:
        spec: The target.
        tracker: Address of the tracker of its boards; empty: the target is this machine.
        key: The kind of board.
        quick: Fewer and shorter measurements.
        progress: Called with a line for each step.

    Raises:
        DeviceError: The target is not here, or a board failed.
        TargetError: This kind of target cannot be measured.
    """
    if spec.gpu is not None:
        raise TargetError(
            f"{spec.name} cannot be measured by `targets probe`",
            seen=f"a {spec.gpu.kind} GPU; CPUs are measured",
            do="state its numbers in a [datasheet] table; targets/README.md explains it",
        )
    if tracker:
        from tvm_iovt.probe.board_probe import probe_board

        return probe_board(spec, tracker=tracker, key=key, quick=quick, progress=progress)
    missing = sorted(set(spec.cpu.features) - host_cpu.flags())
    if spec.cpu.arch != host_cpu.machine() or missing:
        raise DeviceError(
            f"{spec.name} is not this machine",
            seen=f"code for {spec.cpu.arch} on {host_cpu.machine()}"
            + (f"; missing CPU features {', '.join(missing)}" if missing else ""),
            do="measure a board with --tracker HOST:PORT --key KEY",
        )
    return probe_host(spec, quick=quick, progress=progress)
