"""What this machine can build and run: the checks behind `tvm-iovt doctor`."""

from __future__ import annotations

import functools
import importlib.util
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata

from tvm_iovt import targets
from tvm_iovt.errors import IovtError


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One capability.

    Attributes:
        name: What was looked for.
        ok: Whether it is there and works.
        detail: What was found.
        cure: What to do about it; empty when ok.
        required: Whether nothing works without it.
    """

    name: str
    ok: bool
    detail: str
    cure: str = ""
    required: bool = False


def examine() -> tuple[Finding, ...]:
    """Look at everything; takes a few seconds, as TVM is started twice."""
    return tuple(_findings())


def _findings() -> Iterator[Finding]:
    try:
        from tvm_iovt import _tvm
    except IovtError as error:
        yield Finding(name="TVM", ok=False, detail=error.seen, cure=error.do, required=True)
        return
    pair = " and ".join(
        f"{name} {_tvm.installed_version(name)}" for name in ("apache-tvm", "apache-tvm-ffi")
    )
    yield Finding(name="TVM", ok=True, detail=pair, required=True)
    works = _tvm.probe_json_writer()
    yield Finding(
        name="TVM JSON writer",
        ok=works,
        detail="works" if works else "crashes: tuning would lose its records",
        cure="" if works else _tvm.INSTALL_COMMAND,
        required=True,
    )
    yield Finding(name="CPU", ok=True, detail=_cpu(), required=True)
    for name in targets.names():
        yield _attempt(f"target {name}", functools.partial(_target, name), required=name == "host")
    yield _attempt("CUDA compiler", _cuda_compiler)
    yield _emulator("aarch64")
    for package, use in (
        ("onnxruntime", "the reference of every comparison"),
        ("torch", "torch.export programs, zoo exports"),
    ):
        yield _package(package, use, required=package == "onnxruntime")
    yield _cost_model()
    yield _records()


def _attempt(name: str, probe: Callable[[], str], *, required: bool = False) -> Finding:
    try:
        return Finding(name=name, ok=True, detail=probe(), required=required)
    except IovtError as error:
        seen = error.seen or error.what
        return Finding(name=name, ok=False, detail=seen, cure=error.do, required=required)


def _cpu() -> str:
    from tvm_iovt import _tvm, host_cpu

    cpu = host_cpu.detect()
    return (
        f"{_tvm.llvm_cpu_name()} ({cpu.arch}), {cpu.cores} cores, "
        f"{cpu.vector_registers} registers of {cpu.vector_bits} bits"
    )


def _target(name: str) -> str:
    from tvm_iovt import _tvm
    from tvm_iovt.build import cuda
    from tvm_iovt.build.link import find_linker

    spec = targets.load(name)
    if spec.kind == "cuda":
        cuda.enable_codegen()
    _tvm.tvm_target(spec)
    return f"links with {find_linker(spec.cpu, prefer=spec.cross_compiler).name}"


def _cuda_compiler() -> str:
    from tvm_iovt.build import cuda

    return cuda.find_compiler().name


def _emulator(arch: str) -> Finding:
    name = f"qemu-{arch}"
    found = shutil.which(f"{name}-static") or shutil.which(name)
    return Finding(
        name=f"{arch} emulation",
        ok=found is not None,
        detail=found or f"{name} is not installed",
        cure="" if found else "apt-get install qemu-user-static (for verify and compile --emulate)",
    )


def _cost_model() -> Finding:
    from tvm_iovt.tuning.cost_model import XGBOOST, check_cost_model

    def probe() -> str:
        check_cost_model(XGBOOST)
        return "xgboost predicts which schedules are worth measuring"

    return _attempt("cost model of tune", probe)


def _records() -> Finding:
    """What compile and tune would find for this machine."""
    from tvm_iovt.runtime import threads
    from tvm_iovt.tuning.device_kind import device_kind
    from tvm_iovt.tuning.record_files import describe_device
    from tvm_iovt.tuning.record_store import find_choices

    threads.set_defaults()  # records are of a number of threads
    device = device_kind(targets.load("host"))
    found = find_choices(device)
    tuned = sum(choice.trace is not None for choice in found.choices.values())
    detail = f"{len(found.choices)} kernels, {tuned} with a tuned schedule"
    return Finding(
        name="tuning records", ok=True, detail=f"{detail}, for {describe_device(device)}"
    )


def _package(name: str, use: str, *, required: bool) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding(
            name=name,
            ok=False,
            detail=f"not installed; needed for {use}",
            cure=f"pip install {name}",
            required=required,
        )
    return Finding(name=name, ok=True, detail=f"{metadata.version(name)}; {use}", required=required)
