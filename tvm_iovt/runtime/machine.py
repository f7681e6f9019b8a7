"""The machine that runs a bundle: its instruction set and the features of its CPU."""

from __future__ import annotations

import ctypes
import functools
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from tvm_iovt import host_cpu
from tvm_iovt.types import CpuSpec

# Names that /proc/cpuinfo prints for the bits of AT_HWCAP and AT_HWCAP2 (Linux,
# arch/arm64/include/uapi/asm/hwcap.h). The auxiliary vector is what the kernel promises to this
# very process; an emulator's /proc/cpuinfo is often that of its host.
_AARCH64 = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma "
    "lrcpc dcpop sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg",
    "dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm "
    "svebf16 i8mm bf16 dgh rng bti mte",
)
# arch/arm/include/uapi/asm/hwcap.h
_ARM = (
    "swp half thumb 26bit fastmult fpa vfp edsp java iwmmxt crunch thumbee neon vfpv3 vfpv3d16 "
    "tls vfpv4 idiva idivt vfpd32 lpae evtstrm",
    "aes pmull sha1 sha2 crc32",
)
_AT_HWCAP, _AT_HWCAP2 = 16, 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A CPU as the running process sees it.

    Attributes:
        arch: `x86_64`, `aarch64` or `armv7l`.
        features: CPU flags in the spelling of `/proc/cpuinfo`.
        cpu: Model name, for reports.
        system: Operating system and release, for reports.
    """

    arch: str
    features: frozenset[str]
    cpu: str
    system: str

    def misfit(self, cpu: CpuSpec) -> str:
        """Why code for `cpu` cannot run here; empty if it can."""
        if cpu.arch != self.arch:
            return f"is for {cpu.arch}"
        missing = sorted(set(cpu.features) - self.features)
        return f"needs the CPU features {', '.join(missing)}" if missing else ""


@functools.cache
def this_machine() -> Machine:
    """The machine that this process runs on."""
    arch = host_cpu.machine()
    if arch == "aarch64":
        features = _hwcaps(_AARCH64)
    elif arch == "armv7l":
        features = _hwcaps(_ARM)
    else:
        features = host_cpu.flags()
    return Machine(
        arch=arch,
        features=features,
        cpu=_cpu_model() or arch,
        system=f"{platform.system()} {platform.release()}",
    )


def environment(threads: int) -> str:
    """One line that says what a measurement was made on."""
    machine = this_machine()
    cores = host_cpu.usable_cores()
    return f"{machine.cpu}, {threads} of {cores} cores, {machine.system} {machine.arch}"


def _cpu_model() -> str:
    """The name that `/proc/cpuinfo` gives the CPU (x86) or the board (ARM); empty if none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def _hwcaps(names: tuple[str, str]) -> frozenset[str]:
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    found = []
    for kind, bits in zip((_AT_HWCAP, _AT_HWCAP2), names, strict=True):
        value = getauxval(kind)
        found += [name for bit, name in enumerate(bits.split()) if value >> bit & 1]
    return frozenset(found)
