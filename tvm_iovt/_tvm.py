"""The only module that knows where TVM keeps things, and which versions of it we can use.

Importing this module imports the TVM compiler (about a second); the command line does so only
inside the verbs that compile.
"""

from __future__ import annotations

import difflib
import functools
import subprocess
import sys
from importlib import metadata
from typing import Any

from tvm_iovt.errors import TargetError, ToolchainError
from tvm_iovt.types import CpuSpec, TargetSpec

TVM_VERSION = "0.27.0.post1"
TVM_FFI_LINE = "0.1.14"
INSTALL_COMMAND = f"pip install apache-tvm=={TVM_VERSION} 'apache-tvm-ffi>=0.1.14.post0,<0.1.15'"


def installed_version(distribution: str) -> str:
    """Version of an installed distribution, or `"not installed"`."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def check_versions() -> None:
    """Refuse a TVM that this code was not written for, before importing it.

    apache-tvm 0.27 allows any newer apache-tvm-ffi, but 0.1.15 crashes its JSON graph writer and
    the tuner with a segmentation fault, so that an unchecked pair fails much later and silently.

    Raises:
        ToolchainError: The installed pair is not the one that works.
    """
    tvm, ffi = installed_version("apache-tvm"), installed_version("apache-tvm-ffi")
    if tvm != TVM_VERSION or not (ffi == TVM_FFI_LINE or ffi.startswith(TVM_FFI_LINE + ".")):
        raise ToolchainError(
            "This version of tvm-iovt needs an exact pair of TVM packages",
            seen=f"apache-tvm {tvm}, apache-tvm-ffi {ffi}",
            do=INSTALL_COMMAND,
        )


def probe_json_writer() -> bool:
    """Whether the installed pair survives `save_json`; asked in a subprocess, as it may crash."""
    code = 'import tvm; tvm.ir.save_json(tvm.tirx.const(1, "int32"))'
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


check_versions()

import tvm  # noqa: E402
import tvm_ffi  # noqa: E402
from tvm import relax, tirx  # noqa: E402

__all__ = [
    "check_versions",
    "installed_version",
    "llvm_cpu_name",
    "onnx_converters",
    "probe_json_writer",
    "relax",
    "tirx",
    "tvm",
    "tvm_ffi",
    "tvm_target",
]


def llvm_cpu_name() -> str:
    """This machine's CPU as LLVM names it, e.g. `znver4`."""
    return str(tvm.get_global_func("target.llvm_get_system_cpu")())


@functools.cache
def onnx_converters() -> frozenset[str]:
    """Names of the ONNX operators that TVM's importer converts in straight-line graphs."""
    from tvm.relax.frontend.onnx import onnx_frontend

    converters: dict[str, Any] = onnx_frontend._get_convert_map()
    return frozenset(name for name, converter in converters.items() if converter is not None)


def _cpu_target(cpu: CpuSpec) -> dict[str, Any]:
    target: dict[str, Any] = {
        "kind": "llvm",
        "mtriple": cpu.triple,
        "mcpu": llvm_cpu_name() if cpu.mcpu == "native" else cpu.mcpu,
        "num-cores": cpu.cores,
    }
    if cpu.mattr:
        target["mattr"] = list(cpu.mattr)
    if cpu.arch == "armv7l":
        target["mfloat-abi"] = "hard"
    return target


def _check_cpu(spec: TargetSpec) -> None:
    """Refuse names that LLVM does not know: it would build for a generic CPU, and only log that."""
    cpu = spec.cpu
    if cpu.mcpu != "native":
        known = _known_cpus(cpu.triple)
        if known and cpu.mcpu not in known:
            near = difflib.get_close_matches(cpu.mcpu, known, n=5, cutoff=0.3) or known[:5]
            raise TargetError(
                f"{spec.name}: LLVM knows no CPU {cpu.mcpu!r}",
                seen=f"mcpu = {cpu.mcpu!r} for {cpu.triple}",
                do=f"write one of the {len(known)} that it knows, such as {', '.join(near)}",
            )
    for attribute in cpu.mattr:
        feature = attribute[1:]
        if not _is_feature(cpu.triple, feature):
            every = {
                name for each in _known_cpus(cpu.triple) for name in _features(cpu.triple, each)
            }
            near = difflib.get_close_matches(feature, every, n=5, cutoff=0.3)
            raise TargetError(
                f"{spec.name}: LLVM knows no feature {feature!r} of {cpu.arch}",
                seen=f"mattr {attribute!r} for {cpu.triple}",
                do=f"correct it ({', '.join(near)}), or leave it out" if near else "leave it out",
            )


@functools.cache
def _known_cpus(triple: str) -> tuple[str, ...]:
    """CPUs that LLVM has code generators for; none if TVM was built without LLVM."""
    list_cpus = tvm.get_global_func("target.llvm_get_cpu_archlist", allow_missing=True)
    if list_cpus is None:
        return ()
    return tuple(map(str, list_cpus(tvm.target.Target({"kind": "llvm", "mtriple": triple}))))


@functools.cache
def _is_feature(triple: str, feature: str) -> bool:
    """Whether a CPU that is told to have a feature has it then; LLVM leaves out unknown ones."""
    found = _features(triple, "generic", f"+{feature}")
    return not found or feature in found


def _features(triple: str, mcpu: str, *mattr: str) -> frozenset[str]:
    """What a CPU has; nothing if TVM was built without LLVM."""
    list_features = tvm.get_global_func("target.llvm_get_cpu_features", allow_missing=True)
    if list_features is None:
        return frozenset()
    target = {"kind": "llvm", "mtriple": triple, "mcpu": mcpu, "mattr": list(mattr)}
    return frozenset(map(str, list_features(tvm.target.Target(target))))


def tvm_target(spec: TargetSpec) -> Any:
    """The `tvm.target.Target` of a target description.

    Raises:
        TargetError: TVM as installed has no code generator for it, or LLVM does not know its CPU
            or a feature of that.
    """
    _check_cpu(spec)
    if spec.gpu is None:
        return tvm.target.Target(_cpu_target(spec.cpu))
    if tvm.get_global_func(f"target.build.{spec.gpu.kind}", allow_missing=True) is None:
        raise TargetError(
            f"{spec.name}: the {spec.gpu.kind} back-end is not there yet",
            seen=f"apache-tvm {TVM_VERSION} from pip has no {spec.gpu.kind} code generator, "
            "and this version of tvm-iovt brings none",
            do=f"leave {spec.name} out of --targets; `tvm-iovt doctor` lists what can be built",
        )
    return tvm.target.Target(
        {
            "kind": spec.gpu.kind,
            "arch": spec.gpu.arch,
            "max_threads_per_block": spec.gpu.max_threads_per_block,
            "max_shared_memory_per_block": spec.gpu.max_shared_memory_per_block_bytes,
            "thread_warp_size": spec.gpu.thread_warp_size,
            "host": _cpu_target(spec.cpu),
        }
    )
