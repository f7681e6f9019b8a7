"""Make a self-contained folder of a bundle: copy it to a board, run `run.sh`."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tvm_iovt import bundle
from tvm_iovt.build.elf import imported_symbols
from tvm_iovt.errors import BundleError, UsageError
from tvm_iovt.runtime.libtvm import DEVICE_LIBRARIES, EXTRA, RUNTIME
from tvm_iovt.runtime.runner_build import build_runner, find_compiler
from tvm_iovt.runtime.shared_objects import FFI, find_libraries, needed_libraries
from tvm_iovt.types import Deployment, Manifest

RUNNER = Path("bin") / "iovt-runner"
LIBRARIES = Path("lib")
SCRIPT = "run.sh"

# Parts of glibc, which every Linux system with a dynamic linker of that name has.
_GLIBC = ("libc.", "libm.", "libdl.", "libpthread.", "librt.", "ld-linux")

_SCRIPT_TEXT = """\
#!/bin/sh
# Runs the network of this folder on its sample, or on --inputs FILE; --help lists the options.
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export LD_LIBRARY_PATH
exec "$here/bin/iovt-runner" "$here" "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A packed folder, and what it asks of the board.

    Attributes:
        path: The folder; itself a bundle.
        arch: Architecture, as `uname -m` prints it.
        deployments: Names of the deployments in it.
        compiler: What the runner was compiled with.
        size_bytes: Size of all files.
        needs: Shared libraries that the board must have, beside glibc.
        glibc: Oldest glibc that has all symbols.
    """

    path: str
    arch: str
    deployments: tuple[str, ...]
    compiler: str
    size_bytes: int
    needs: tuple[str, ...]
    glibc: str


def choose_architecture(manifest: Manifest, *, arch: str | None, target: str | None) -> str:
    """The architecture to pack for: `arch`, or that of `target`, or the only one of the bundle.

    Raises:
        BundleError: The bundle has no such deployment.
        UsageError: Neither is given and the bundle has several architectures.
    """
    if arch is not None:
        return arch
    arches = {d.name: _arch(d) for d in manifest.deployments}
    held = ", ".join(f"{name} ({of})" for name, of in arches.items())
    if target is not None:
        if target not in arches:
            raise BundleError(f"The bundle has no deployment {target}", seen=f"it contains {held}")
        return arches[target]
    if len(set(arches.values())) != 1:
        raise UsageError(
            "The bundle has several architectures",
            seen=held,
            do="choose one with --arch, or a deployment with --target",
        )
    return next(iter(arches.values()))


def pack(
    path: Path,
    out: Path,
    *,
    arch: str,
    wheels: Path | None = None,
    target: str | None = None,
    compiler: str = "",
    portable: bool = True,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda message: None,
) -> Packed:
    """Write a bundle's deployments for one architecture, the C++ runner and TVM's libraries.

    The result is a bundle too: the Python runtime loads it as well.

    Args:
        path: The bundle.
        out: The folder to write.
        arch: Architecture of the board, as `uname -m` prints it.
        wheels: Folder with the wheels of `apache-tvm` and `apache-tvm-ffi` for the board, of the
            bundle's versions; by default they are downloaded once, by pip.
        target: Pack this deployment alone.
        compiler: C++ compiler command to use instead of those found.
        portable: See `runner_build.find_compiler`.
        overwrite: Whether `out` may replace an older bundle.
        progress: Called with a line of text before each step that can take long.

    Raises:
        BundleError: The bundle is damaged or has no such deployment, or `out` cannot be written.
        ToolchainError: TVM's libraries or a compiler for the architecture are missing.
    """
    progress(f"checking {path}")
    manifest = bundle.check(path)
    chosen = tuple(d for d in manifest.deployments if _arch(d) == arch and target in (None, d.name))
    if not chosen:
        held = ", ".join(f"{d.name} ({_arch(d)})" for d in manifest.deployments)
        raise BundleError(
            f"{path} has no deployment {target or ''} for {arch}".replace("  ", " "),
            seen=f"it contains {held or 'none'}",
            do="compile the model for it: tvm-iovt targets lists what there is",
        )
    progress(f"finding TVM's libraries for {arch}")
    libraries = find_libraries(arch, manifest.tvm_version, manifest.tvm_ffi_version, wheels=wheels)
    found = find_compiler(chosen[0].targets[0].cpu, portable=portable, prefer=compiler)
    with bundle.staging(out, overwrite=overwrite) as folder:
        (folder / LIBRARIES).mkdir()
        for name in _wanted(chosen):
            if name in libraries:
                shutil.copyfile(libraries[name], folder / LIBRARIES / name)
        progress(f"building the runner with {found.name}")
        build_runner(
            arch,
            folder / LIBRARIES,
            folder / RUNNER,
            found.command,
            tvm_version=manifest.tvm_version,
            tvm_ffi_version=manifest.tvm_ffi_version,
        )
        (folder / SCRIPT).write_text(_SCRIPT_TEXT)
        (folder / SCRIPT).chmod(0o755)
        reduced = dataclasses.replace(manifest, deployments=chosen)
        for expected in bundle.files(reduced):
            (folder / expected.file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path / expected.file, folder / expected.file)
        bundle.save_manifest(folder, reduced)
        needs, glibc = _requirements(folder)
        size_bytes = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    return Packed(
        path=str(out),
        arch=arch,
        deployments=tuple(d.name for d in chosen),
        compiler=found.name,
        size_bytes=size_bytes,
        needs=needs,
        glibc=glibc,
    )


def _arch(deployment: Deployment) -> str:
    """That of a deployment's machine; of stages on several machines all of them, which none is."""
    return "+".join(dict.fromkeys(target.cpu.arch for target in deployment.targets))


def _wanted(deployments: tuple[Deployment, ...]) -> tuple[str, ...]:
    kinds = dict.fromkeys(target.kind for d in deployments for target in d.targets)
    devices = tuple(DEVICE_LIBRARIES[kind] for kind in kinds if kind in DEVICE_LIBRARIES)
    return (RUNTIME, FFI, EXTRA, *devices)


def _requirements(folder: Path) -> tuple[tuple[str, ...], str]:
    """Shared libraries that are neither packed nor glibc's, and the version of glibc asked for."""
    binaries = (folder / RUNNER, *sorted((folder / LIBRARIES).glob("*.so")))
    packed = {binary.name for binary in binaries}
    needs: set[str] = set()
    glibc = (0, 0)
    for binary in binaries:
        needs |= {n for n in needed_libraries(binary) if not n.startswith(_GLIBC)}
        for symbol in imported_symbols(binary):
            name, _, version = symbol.version.partition("_")
            if name == "GLIBC" and version.replace(".", "").isdigit():
                major, minor = (int(number) for number in version.split(".")[:2])
                glibc = max(glibc, (major, minor))
    return tuple(sorted(needs - packed)), f"{glibc[0]}.{glibc[1]}"
