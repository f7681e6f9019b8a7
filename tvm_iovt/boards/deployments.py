"""Which deployment of a bundle suits a board, and whether the board's runtime is the right one."""

from __future__ import annotations

import re
from pathlib import Path

from tvm_iovt.boards.heartbeat import BoardStatus
from tvm_iovt.boards.rpc_session import RemoteStage
from tvm_iovt.errors import BundleError, DeviceError
from tvm_iovt.runtime.libtvm import pip_command
from tvm_iovt.runtime.machine import Machine
from tvm_iovt.types import Deployment, Manifest


def choose_deployment(
    path: Path, manifest: Manifest, target: str | None, status: BoardStatus | None
) -> Deployment:
    """The deployment of that name, or the only one that fits the board.

    Args:
        path: The bundle.
        manifest: Its manifest.
        target: Name of the deployment, or None.
        status: What the board is; None if it does not tell, then nothing is known to fit.

    Raises:
        BundleError: There is none, more than one, or the named one cannot run on the board.
    """
    misfits = {d.name: misfit(d, status) for d in manifest.deployments}
    contents = "; ".join(f"{name} ({why or 'fits'})" for name, why in misfits.items())
    board = f"the board is {status.arch} ({status.cpu})" if status else "the board does not tell"
    if target is not None and target not in misfits:
        raise BundleError(
            f"{path} has no deployment {target}",
            seen=f"it contains {contents}",
            do="name one that it contains, or compile the model for this target",
        )
    fitting = [name for name, why in misfits.items() if not why and target in (None, name)]
    if len(fitting) != 1:
        what = "more than one deployment" if fitting else f"no deployment {target or ''}".strip()
        raise BundleError(
            f"{path} has {what} for the board",
            seen=f"it contains {contents}; {board}",
            do="name one with --target" if fitting else "compile the model for the board's CPU",
        )
    return next(d for d in manifest.deployments if d.name == fitting[0])


def misfit(deployment: Deployment, status: BoardStatus | None) -> str:
    """Why a deployment cannot run on a board; empty if it can, or if the board does not tell."""
    if status is None:
        return ""
    machine = machine_of(status)
    for target in deployment.targets:
        reason = machine.misfit(target.cpu)
        if reason:
            return reason
        if target.gpu and not any(d.startswith(target.gpu.kind) for d in status.devices):
            return f"needs a {target.gpu.kind} device"
    return ""


def machine_of(status: BoardStatus) -> Machine:
    """A board as a machine that code may fit."""
    return Machine(
        arch=status.arch,
        features=frozenset(status.features),
        cpu=status.cpu,
        system=status.system,
    )


def check_runtime(path: Path, manifest: Manifest, status: BoardStatus, name: str) -> None:
    """Compare the versions that a bundle was compiled with to those of a board.

    Raises:
        DeviceError: They differ, see `libtvm.check_versions`.
    """
    same = status.tvm_version == manifest.tvm_version
    if same and _release(status.tvm_ffi_version) == _release(manifest.tvm_ffi_version):
        return
    raise DeviceError(
        f"Board {name}: comparing versions failed",
        seen=f"it runs apache-tvm {status.tvm_version} with apache-tvm-ffi "
        f"{status.tvm_ffi_version}; {path} was compiled by {manifest.tvm_version} with "
        f"{manifest.tvm_ffi_version}",
        do=f"on the board: {pip_command(manifest.tvm_version, manifest.tvm_ffi_version)}",
    )


def check_own_version(board: tuple[int, int, int], ours: tuple[int, int, int], name: str) -> None:
    """Compare what tvm_ffi calls itself on a board that tells nothing else, and here.

    Raises:
        DeviceError: They differ.
    """
    if board != ours:
        there, here = (".".join(map(str, version)) for version in (board, ours))
        raise DeviceError(
            f"Board {name}: comparing versions failed",
            seen=f"its libtvm_ffi is {there}, the one here is {here}",
            do="install the same apache-tvm and apache-tvm-ffi on the board as here",
        )


def remote_stages(path: Path, deployment: Deployment) -> tuple[RemoteStage, ...]:
    """The stages of a deployment, as a session takes them."""
    files = {library.stage: path / library.file.file for library in deployment.libraries}
    kinds = {target.name: target.kind for target in deployment.targets}
    return tuple(
        RemoteStage(
            library=files[stage.index],
            kind=kinds[stage.target],
            inputs=tuple(spec.name for spec in stage.inputs),
            outputs=tuple(spec.name for spec in stage.outputs),
        )
        for stage in deployment.plan.stages
    )


def _release(version: str) -> str:
    found = re.match(r"\d+\.\d+\.\d+", version)
    return found[0] if found else version
