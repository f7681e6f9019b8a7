"""Run a packed bundle of a foreign architecture on this machine, under qemu-user."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvm_iovt import bundle, host_cpu
from tvm_iovt.errors import BundleError, DeviceError, IovtError, ToolchainError, UsageError
from tvm_iovt.json_codec import from_json
from tvm_iovt.runtime.pack import LIBRARIES, RUNNER, pack
from tvm_iovt.types import Discrepancy

RUN_TIMEOUT_S = 1800.0

# Where Debian's and Ubuntu's cross packages put the C library of an architecture.
_SYSROOTS = {"aarch64": Path("/usr/aarch64-linux-gnu")}
_DYNAMIC_LINKERS = {"aarch64": "lib/ld-linux-aarch64.so.1"}
_DEBIAN_PACKAGES = {"aarch64": "libstdc++6-arm64-cross"}
_ERRORS = {2: UsageError, 5: DeviceError, 8: BundleError}
_NUMERICS = 6


@dataclass(frozen=True)
class Emulation:
    """What a network computed under emulation.

    Attributes:
        outputs: Arrays by output name.
        discrepancy: Against the sample; None when other inputs were given, or when the bundle
            records no tolerance.
        emulator: The emulator and its version, for reports.
    """

    outputs: dict[str, np.ndarray]
    discrepancy: Discrepancy | None
    emulator: str


@dataclass(frozen=True)
class Emulator:
    """A qemu-user binary and the system libraries that it runs programs with."""

    command: Path
    sysroot: Path
    version: str


def find_emulator(arch: str) -> Emulator:
    """The emulator of an architecture.

    The system libraries are taken from `$TVM_IOVT_SYSROOT_<ARCH>` (`AARCH64`), else from where
    Debian's cross packages put them.

    Raises:
        ToolchainError: It, or the system libraries, are missing; names the package.
    """
    if arch not in _SYSROOTS:
        raise ToolchainError(
            f"There is no emulation of {arch}", seen=f"this version emulates {', '.join(_SYSROOTS)}"
        )
    names = (f"qemu-{arch}-static", f"qemu-{arch}")
    command = next((found for name in names if (found := shutil.which(name))), None)
    if command is None:
        raise ToolchainError(
            f"{arch} cannot be emulated on this machine",
            seen=f"neither {' nor '.join(names)} on PATH",
            do="apt-get install qemu-user-static",
        )
    variable = f"TVM_IOVT_SYSROOT_{arch.upper()}"
    sysroot = Path(os.environ.get(variable) or _SYSROOTS[arch])
    if not (sysroot / _DYNAMIC_LINKERS[arch]).exists():
        raise ToolchainError(
            f"{arch} cannot be emulated without its system libraries",
            seen=f"no {sysroot / _DYNAMIC_LINKERS[arch]}",
            do=f"apt-get install {_DEBIAN_PACKAGES[arch]}, or set {variable} to a root of {arch}",
        )
    printed = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    words = printed.stdout.split()
    version = words[words.index("version") + 1] if "version" in words[:-1] else "unknown"
    return Emulator(Path(command), sysroot, f"qemu-{arch} {version}")


def emulate(
    packed: Path, *, inputs: Mapping[str, np.ndarray] | None = None, target: str | None = None
) -> Emulation:
    """Run a packed bundle once, with the C++ runner.

    Times under emulation say nothing about a board, so none are returned.

    Args:
        packed: What `pack` wrote.
        inputs: One array for each input of the network; by default the bundle's sample.
        target: Name of the deployment; by default the only one.

    Raises:
        ToolchainError: The emulator or its system libraries are missing.
        UsageError: The inputs do not fit the network.
        BundleError: The bundle is damaged or not packed.
        DeviceError: The network failed while running.
    """
    manifest = bundle.read_manifest(packed)
    runner = packed / RUNNER
    arches = {t.cpu.arch for d in manifest.deployments for t in d.targets}
    if not runner.is_file() or len(arches) != 1:
        raise BundleError(
            f"{packed} is not a packed bundle", do="make one: tvm-iovt bundle pack BUNDLE OUT"
        )
    emulator = find_emulator(arches.pop())
    with tempfile.TemporaryDirectory() as temporary:
        written = Path(temporary) / "outputs.npz"
        command = [str(emulator.command), "-L", str(emulator.sysroot)]
        command += ["-E", f"LD_LIBRARY_PATH={packed / LIBRARIES}", str(runner), str(packed)]
        command += ["--json", "--repeat", "1", "--warmup", "0", "--outputs", str(written)]
        if target is not None:
            command += ["--target", target]
        if inputs is not None:
            given = Path(temporary)
            bundle.save_sample(given, inputs, {})
            command += ["--inputs", str(given / bundle.SAMPLE)]
        done = _run(command)
        if done.returncode not in (0, _NUMERICS):
            raise _error(done, emulator)
        _, outputs = bundle.load_sample(Path(temporary), written.name)
    found = json.loads(done.stdout)["discrepancy"]
    return Emulation(
        outputs=outputs,
        discrepancy=from_json(Discrepancy, found) if found else None,
        emulator=emulator.version,
    )


def emulate_deployment(
    path: Path, target: str, *, inputs: Mapping[str, np.ndarray] | None = None
) -> tuple[dict[str, np.ndarray], str]:
    """Pack one deployment into a temporary folder and run it once.

    Args:
        path: The bundle.
        target: Name of the deployment.
        inputs: As for `emulate`.

    Returns:
        The outputs by name, and the emulator with its version.

    Raises:
        ToolchainError: The emulator, a compiler or TVM's libraries are missing.
        BundleError: The bundle is damaged, or has no such deployment.
        DeviceError: The network failed while running, or needs a GPU.
    """
    manifest = bundle.read_manifest(path)
    deployment = next((d for d in manifest.deployments if d.name == target), None)
    if deployment is None:
        names = ", ".join(d.name for d in manifest.deployments)
        raise BundleError(f"{path} has no deployment {target}", seen=f"it contains {names}")
    gpus = [t.gpu.kind for t in deployment.targets if t.gpu]
    arch = deployment.targets[0].cpu.arch
    if gpus or arch == host_cpu.machine():
        raise DeviceError(
            f"{target} of {path} cannot be emulated",
            seen=f"it needs a {gpus[0]} device" if gpus else f"this machine is {arch} itself",
            do="run it on its device",
        )
    find_emulator(arch)  # before the minutes that a download may take
    with tempfile.TemporaryDirectory() as temporary:
        packed = Path(temporary) / "packed"
        pack(path, packed, arch=arch, target=target, portable=False)
        emulation = emulate(packed, inputs=inputs, target=target)
    return emulation.outputs, emulation.emulator


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DeviceError("The emulator failed", seen=str(error)) from error


def _error(done: subprocess.CompletedProcess[str], emulator: Emulator) -> IovtError:
    seen = done.stderr.strip()[-1500:]
    if done.returncode < 0:
        seen = f"{signal.Signals(-done.returncode).name}; {seen}"
    kind = _ERRORS.get(done.returncode, DeviceError)
    return kind(f"The network failed under {emulator.version}", seen=seen)
