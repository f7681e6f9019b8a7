"""What the CPU of this machine is, read from the operating system (Linux)."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

from tvm_iovt.types import CpuSpec

# Flags of /proc/cpuinfo that decide whether compiled code can run; each names an ISA extension
# that LLVM uses when the CPU has it.
_X86_FLAGS = (
    "sse4_2",
    "avx",
    "f16c",
    "avx2",
    "fma",
    "bmi2",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
)
_ARM_FLAGS = ("neon", "asimd", "asimddp", "asimdhp", "bf16")

# psABI levels: the flags that each promises beyond the one before.
X86_LEVELS: dict[str, tuple[str, ...]] = {
    "x86-64": (),
    "x86-64-v2": ("sse4_2",),
    "x86-64-v3": ("sse4_2", "avx", "f16c", "avx2", "fma", "bmi2"),
    "x86-64-v4": (
        *("sse4_2", "avx", "f16c", "avx2", "fma", "bmi2"),
        *("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
    ),
}


def machine() -> str:
    """CPU architecture as the project names it: `x86_64`, `aarch64` or `armv7l`."""
    name = platform.machine().lower()
    name = {"amd64": "x86_64", "arm64": "aarch64", "armv8l": "armv7l"}.get(name, name)
    # A 32-bit user space on a 64-bit kernel runs 32-bit libraries only.
    if name == "aarch64" and platform.architecture()[0] == "32bit":
        return "armv7l"
    return name


@functools.cache
def flags() -> frozenset[str]:
    """Feature flags of `/proc/cpuinfo`; empty where there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


@functools.cache
def model() -> str:
    """The CPU's model as the system names it, with the numbers that tell generations apart."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return machine()
    facts: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip().lower(), value.strip())
    name = facts.get("model name") or facts.get("hardware") or machine()
    numbers = [
        f"{key} {facts[key]}"
        for key in ("cpu family", "model", "cpu implementer", "cpu part")
        if facts.get(key) and facts[key] != name
    ]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def vector_bits(arch: str, features: frozenset[str]) -> tuple[int, int]:
    """(width of one SIMD register in bits, number of registers) of an ISA with these features."""
    if arch == "x86_64":
        if "avx512f" in features:
            return 512, 32
        return (256, 16) if "avx2" in features else (128, 16)
    return (128, 16) if arch == "armv7l" else (128, 32)


def detect() -> CpuSpec:
    """The CPU of this machine; code for it may use everything that it has."""
    arch = machine()
    known = _X86_FLAGS if arch == "x86_64" else _ARM_FLAGS
    features = tuple(flag for flag in known if flag in flags())
    bits, registers = vector_bits(arch, frozenset(features))
    return CpuSpec(
        arch=arch,
        triple={"armv7l": "armv7l-linux-gnueabihf"}.get(arch, f"{arch}-linux-gnu"),
        mcpu="native",
        features=features,
        cores=usable_cores(),
        vector_bits=bits,
        vector_registers=registers,
        l1d_bytes=_cache_bytes(1, 32 * 1024),
        l2_bytes=_cache_bytes(2, 1024 * 1024),
    )


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def last_cache_bytes() -> int:
    """The last cache before memory."""
    return max(_cache_bytes(level, 0) for level in (2, 3, 4)) or 1024 * 1024


def _cache_bytes(level: int, default: int) -> int:
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            kind = (index / "type").read_text().strip()
            if int((index / "level").read_text()) == level and kind != "Instruction":
                size = (index / "size").read_text().strip()
                return int(size[:-1]) * {"K": 1024, "M": 1024**2}[size[-1]]
        except (OSError, ValueError, KeyError):
            continue
    return default
