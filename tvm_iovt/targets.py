"""From the names after `--targets` to `TargetSpec`s.

A target is a TOML file; `targets/README.md` is its reference. Names may carry three suffixes:
`cuda:sm_90` overrides the GPU architecture (of the host: its x86-64 level, `host:x86-64-v3`),
`host/1` is as many of the CPU's threads, and `cuda@arm` names the CPU target that launches the
kernels.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm_iovt import host_cpu, resources
from tvm_iovt.errors import TargetError
from tvm_iovt.target_profiles import DATASHEET, LINK, MEASURED, read_links, read_profile
from tvm_iovt.target_profiles import wrong as _wrong
from tvm_iovt.types import CpuSpec, DeviceProfile, GpuSpec, TargetSpec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_NAME = re.compile(
    r"(?P<base>.*\.toml|[^:/@]+)(:(?P<arch>[^:/@]+))?(/(?P<threads>\d+))?(@(?P<host>.+))?"
)
_TOP_KEYS = ("description", "cross_compiler", "memory_bytes", "active_w", "machine")
_TABLES = ("cpu", "gpu", DATASHEET, MEASURED)
_ARCHES = ("x86_64", "aarch64", "armv7l")
_TRIPLES = {"x86_64": ("x86_64",), "aarch64": ("aarch64", "arm64"), "armv7l": ("arm",)}
"""What LLVM triples of each architecture begin with."""
_MAX_W = 1e6
_CUDA_ARCH = re.compile(r"sm_\d{2,3}[af]?")


def names() -> tuple[str, ...]:
    """Names of all targets that can be found, the shipped ones and the user's."""
    folders = resources.search_path("targets")
    return tuple(sorted({path.stem for folder in folders for path in folder.glob("*.toml")}))


def base_name(name: str) -> str:
    """The name of a target without suffixes, or the path of its file."""
    match = _NAME.fullmatch(name.strip())
    return match["base"] if match else name


def states_threads(name: str) -> bool:
    """Whether a target's name says how many threads it has, as `host/1` does."""
    match = _NAME.fullmatch(name.strip())
    return bool(match and match["threads"])


def load(name: str) -> TargetSpec:
    """The target of that name, or of that TOML file.

    A GPU target without a CPU of its own is launched by this machine, unless the name says
    otherwise (`cuda@arm`).

    Raises:
        TargetError: There is no such target, or its file is wrong.
    """
    match = _NAME.fullmatch(name.strip())
    if match is None:
        raise TargetError(
            f"{name!r} is not a target name",
            do="write NAME, NAME:ARCH, NAME/THREADS or NAME@HOST",
        )
    spec, has_cpu = _read(_find(match["base"]), match["base"])
    if match["arch"]:
        spec = _with_arch(spec, match["arch"])
    if match["threads"]:
        spec = _with_threads(spec, int(match["threads"]))
    if match["host"]:
        if spec.gpu is None:
            raise TargetError(f"{name}: only GPU targets have a host", do=f"use {match['base']}")
        spec = dataclasses.replace(spec, cpu=load(match["host"]).cpu)
    elif spec.gpu is not None and not has_cpu:
        spec = dataclasses.replace(spec, cpu=host_cpu.detect())
    return dataclasses.replace(spec, name=name.strip())


def load_all(text: str) -> tuple[TargetSpec, ...]:
    """Targets of a comma-separated list such as `arm,cuda`.

    A GPU target that does not say what launches it is launched by the one CPU target of the list,
    since the two are then parts of one board.

    Raises:
        TargetError: The list is empty, repeats a name, or leaves a GPU target's host ambiguous.
    """
    wanted = _split(text)
    repeated = sorted({name for name in wanted if wanted.count(name) > 1})
    if repeated:
        raise TargetError(f"Targets named twice: {', '.join(repeated)}", do="name each target once")
    return _load_each(wanted)


def load_devices(text: str) -> tuple[TargetSpec, ...]:
    """As `load_all`, but each name is a device of its own, and one may be named several times.

    The second `host/1` is called `host/1~2`, and is equal in everything else.

    Raises:
        TargetError: The list is empty, or leaves a GPU target's host ambiguous.
    """
    specs = []
    wanted = _split(text)
    for position, spec in enumerate(_load_each(wanted)):
        number = wanted[: position + 1].count(spec.name)
        name = f"{spec.name}~{number}" if number > 1 else spec.name
        specs.append(dataclasses.replace(spec, name=name))
    return tuple(specs)


def _split(text: str) -> list[str]:
    wanted = [part.strip() for part in text.split(",") if part.strip()]
    if not wanted:
        raise TargetError("No target was named", do="for example --targets host,arm")
    return wanted


def _load_each(wanted: list[str]) -> tuple[TargetSpec, ...]:
    known = {name: load(name) for name in wanted}  # each file is read, and warned of, once
    specs = [known[name] for name in wanted]
    cpus = [spec for name, spec in known.items() if spec.gpu is None]
    return tuple(_attach_host(spec, cpus) for spec in specs)


def _attach_host(spec: TargetSpec, cpus: list[TargetSpec]) -> TargetSpec:
    match = _NAME.fullmatch(spec.name)
    assert match is not None
    if spec.gpu is None or match["host"] or not cpus or _read(_find(match["base"]), "")[1]:
        return spec
    if len(cpus) > 1:
        choices = " or ".join(f"{spec.name}@{cpu.name}" for cpu in cpus)
        raise TargetError(
            f"{spec.name} needs a CPU that launches its kernels, and several are named",
            seen=", ".join(cpu.name for cpu in cpus),
            do=f"write {choices}",
        )
    return dataclasses.replace(spec, cpu=cpus[0].cpu)


def _find(base: str) -> Path:
    if base.endswith(".toml"):
        path = Path(base)
        if path.is_file():
            return path
        raise TargetError(f"There is no target file {base}", do="give the path of a TOML file")
    for folder in resources.search_path("targets"):
        path = folder / f"{base}.toml"
        if path.is_file():
            return path
    raise TargetError(
        f"There is no target {base!r}",
        seen="known targets: " + ", ".join(names()),
        do="correct the name, or describe your board in a TOML file (`tvm-iovt targets --help`)",
    )


def _read(path: Path, name: str) -> tuple[TargetSpec, bool]:
    """The target in a file, and whether the file describes its CPU."""
    try:
        with path.open("rb") as stream:
            table = tomllib.load(stream)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise TargetError(f"Cannot read the target {path}", seen=str(error)) from error
    top = _read_top(table, path)
    has_cpu = "cpu" in table
    cpu = _read_cpu(table.get("cpu", {"arch": "native"}), path)
    gpu = None
    if "gpu" in table:
        gpu = GpuSpec(**_fields(table["gpu"], GpuSpec, path, "gpu."))
        if gpu.kind not in ("cuda", "vulkan"):
            raise _wrong(path, "gpu.kind", gpu.kind, 'write "cuda" or "vulkan"')
        if gpu.kind == "cuda" and not _CUDA_ARCH.fullmatch(gpu.arch):
            raise _wrong(path, "gpu.arch", gpu.arch, "write it as sm_87")
    if gpu is None and not has_cpu:
        raise TargetError(f"{path} describes neither a [cpu] nor a [gpu]", do="add one")
    spec = TargetSpec(
        name=name,
        cpu=cpu,
        gpu=gpu,
        source=str(path),
        profile=_read_profile(table, path),
        links=read_links(table.get(LINK), path, name),
        **top,
    )
    return spec, has_cpu


def _read_top(table: dict[str, Any], path: Path) -> dict[str, Any]:
    """The keys above all tables."""
    unknown = sorted(set(table) - {*_TOP_KEYS, *_TABLES, LINK})
    if unknown:
        known = ", ".join((*_TOP_KEYS, *_TABLES, LINK))
        raise _wrong(path, unknown[0], table[unknown[0]], f"known: {known}")
    if "description" not in table:
        raise _wrong(path, "description", "nothing", "add it; targets/README.md explains it")
    for section in _TABLES:
        if not isinstance(table.get(section, {}), dict):
            raise _wrong(path, section, table[section], f"make it a table, [{section}]")
    top = {key: table[key] for key in _TOP_KEYS if key in table}
    for key in ("description", "cross_compiler", "machine"):
        if not isinstance(top.get(key, ""), str):
            raise _wrong(path, key, top[key], "write a text in quotes")
    memory = top.get("memory_bytes", 0)
    if isinstance(memory, bool) or not isinstance(memory, int) or memory < 0:
        raise _wrong(path, "memory_bytes", memory, "write a whole number of bytes, or leave it out")
    watts = top.get("active_w", 0.0)
    if isinstance(watts, bool) or not isinstance(watts, (int, float)) or not 0 <= watts < _MAX_W:
        raise _wrong(path, "active_w", watts, "write watts beyond idling, or leave it out")
    return {**top, "active_w": float(watts)}


def _read_profile(table: dict[str, Any], path: Path) -> DeviceProfile | None:
    """What was measured, else what is stated.

    Measurements of a machine that this one is not are left out, with a warning.
    """
    stated = read_profile(table[DATASHEET], path, DATASHEET) if DATASHEET in table else None
    if MEASURED not in table:
        return stated
    measured = read_profile(table[MEASURED], path, MEASURED)
    is_host = table.get("cpu", {}).get("arch") == "native"
    if is_host and measured.device and measured.device != host_cpu.model():
        warnings.warn(
            f"{path}: [{MEASURED}] is not used, as it was measured on {measured.device!r} and this "
            f"machine is {host_cpu.model()!r}; run `tvm-iovt targets probe host` again",
            stacklevel=2,
        )
        return stated
    return measured


def _read_cpu(table: dict[str, Any], path: Path) -> CpuSpec:
    table = dict(table)
    if table.get("arch") == "native":
        known = {f.name for f in dataclasses.fields(CpuSpec)}
        overrides = _fields(table, CpuSpec, path, "cpu.", optional=known)
        del overrides["arch"]
        return _fitting(dataclasses.replace(host_cpu.detect(), **overrides), path)
    cpu = CpuSpec(**_fields(table, CpuSpec, path, "cpu.", optional={"mattr", "features"}))
    if cpu.arch not in _ARCHES:
        raise _wrong(path, "cpu.arch", cpu.arch, f"one of {', '.join(_ARCHES)}")
    return _fitting(cpu, path)


def _fitting(cpu: CpuSpec, path: Path) -> CpuSpec:
    for misfit in cpu_misfits(cpu):
        raise _wrong(path, f"cpu.{misfit.key}", misfit.value, misfit.do)
    return cpu


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuMisfit:
    """What is wrong with a CPU's description: its key, the value there, and what to write."""

    key: str
    value: str
    do: str


def cpu_misfits(cpu: CpuSpec) -> Iterator[CpuMisfit]:
    """What stands against a CPU's description, as far as can be told without the compiler."""
    # LLVM crashes, and this process with it, on an architecture that it does not know.
    beginnings = _TRIPLES.get(cpu.arch)
    if beginnings is not None and not cpu.triple.startswith(beginnings):
        known = " or ".join(f"{beginning}-" for beginning in beginnings)
        do = f"write one of {cpu.arch}, which begins with {known}"
        yield CpuMisfit(key="triple", value=cpu.triple, do=do)
    for attribute in cpu.mattr:
        if attribute[:1] not in ("+", "-"):
            do = f'write "+{attribute}" or "-{attribute}"'
            yield CpuMisfit(key="mattr", value=attribute, do=do)


def _fields(
    table: dict[str, Any],
    cls: type[Any],
    path: Path,
    prefix: str,
    *,
    optional: Collection[str] = (),
) -> dict[str, Any]:
    """The table as arguments of `cls`; unknown, missing and mistyped keys are errors."""
    fields = {f.name: str(f.type) for f in dataclasses.fields(cls)}
    unknown = sorted(set(table) - set(fields))
    if unknown:
        raise _wrong(path, prefix + unknown[0], table[unknown[0]], f"known: {', '.join(fields)}")
    missing = sorted(set(fields) - set(table) - set(optional))
    if missing:
        raise _wrong(path, prefix + missing[0], "nothing", "add it; targets/README.md explains it")
    arguments = {}
    for key, value in table.items():
        kind = fields.get(key, "")
        if kind == "int" and (not isinstance(value, int) or isinstance(value, bool) or value <= 0):
            raise _wrong(path, prefix + key, value, "write a positive whole number")
        if kind == "str" and not isinstance(value, str):
            raise _wrong(path, prefix + key, value, "write a text in quotes")
        if kind.startswith("tuple"):
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise _wrong(path, prefix + key, value, 'write a list of texts, ["+neon"]')
            value = tuple(value)
        arguments[key] = value
    return arguments


def _with_arch(spec: TargetSpec, arch: str) -> TargetSpec:
    if spec.gpu is not None:
        if spec.gpu.kind == "cuda" and not _CUDA_ARCH.fullmatch(arch):
            raise TargetError(
                f"{spec.name}:{arch} names no CUDA architecture",
                seen=arch,
                do="write the compute capability as sm_87, for example cuda:sm_87",
            )
        return dataclasses.replace(spec, gpu=dataclasses.replace(spec.gpu, arch=arch))
    if spec.cpu.arch != "x86_64" or arch not in host_cpu.X86_LEVELS:
        raise TargetError(
            f"{spec.name}:{arch} cannot be built",
            seen=f"{spec.name} is a {spec.cpu.arch} CPU",
            do=f"x86-64 takes {', '.join(host_cpu.X86_LEVELS)}; for another ARM core write a "
            "target file",
        )
    features = host_cpu.X86_LEVELS[arch]
    bits, registers = host_cpu.vector_bits("x86_64", frozenset(features))
    cpu = dataclasses.replace(
        spec.cpu, mcpu=arch, features=features, vector_bits=bits, vector_registers=registers
    )
    return dataclasses.replace(spec, cpu=cpu)


def _with_threads(spec: TargetSpec, threads: int) -> TargetSpec:
    if spec.gpu is not None:
        raise TargetError(
            f"{spec.name}/{threads}: only CPU targets take a number of threads",
            seen=f"{spec.name} is a {spec.gpu.kind} GPU",
            do=f"write {spec.name}",
        )
    if not 1 <= threads <= spec.cpu.cores:
        raise TargetError(
            f"{spec.name}/{threads} has too many threads" if threads else f"{spec.name}/0 has none",
            seen=f"{spec.name} has {spec.cpu.cores} cores",
            do=f"write {spec.name}/1 to {spec.name}/{spec.cpu.cores}",
        )
    return dataclasses.replace(spec, cpu=dataclasses.replace(spec.cpu, cores=threads))
