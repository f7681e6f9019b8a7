"""The loops of a shared library, read from its machine code.

What runs is what the linker wrote, so that is what is disassembled, not the compiler's text.
"""

from __future__ import annotations

import bisect
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import capstone

from tvm_iovt.build.elf import elf_machine

_MACHINES = {
    "aarch64": (capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM),
    "armv7l": (capstone.CS_ARCH_ARM, capstone.CS_MODE_ARM),
    "x86_64": (capstone.CS_ARCH_X86, capstone.CS_MODE_64),
}

_FUSED = re.compile(r"fml[as]|vfm[as]|vml[as]|vfn?m(add|sub)\d+ps")
"""Multiply-adds of vectors, on all instruction sets."""

_APART = re.compile(r"v?f?(mul|add|dup)")
"""What a loop of products has only if multiplication, addition or broadcast stayed apart."""

_VECTOR = re.compile(r"\b([vq]\d+|d\d+|[xyz]mm\d+)\b")

_STORE = re.compile(r"st[rpu1]|stur|vst|v?mov[au]ps")

_BRANCH = re.compile(
    r"(b\.?(eq|ne|hs|lo|cs|cc|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)?|cbn?z|tbn?z|j[a-z]+)$"
)

_MAX_LOOP_BYTES = 1 << 16


@dataclass(frozen=True)
class Instruction:
    """One machine instruction, as Capstone writes it."""

    address: int
    name: str
    operands: str

    @property
    def target(self) -> int | None:
        """Where a branch goes; None for everything else."""
        found = re.search(r"(?:^|, )#?(0x[0-9a-f]+)$", self.operands)
        return int(found[1], 16) if found and _BRANCH.match(self.name) else None

    @property
    def is_multiply_add(self) -> bool:
        return _FUSED.match(self.name) is not None

    @property
    def registers(self) -> tuple[str, ...]:
        """The SIMD registers, the destination first."""
        return tuple(_VECTOR.findall(self.operands))

    @property
    def memory(self) -> str:
        """The address, empty without one. Lanes (`v1.s[0]`) and lists (`{d0[]}`) are none."""
        found = re.search(r"(?:^|[ ,])\[[^]]+\]", self.operands)
        if found:
            return found[0]
        return self.operands.split(",")[0] if self.name.startswith(("vldm", "vstm")) else ""

    @property
    def touches_stack(self) -> bool:
        """Whether an address is relative to the stack pointer, or is made here."""
        return re.search(r"\b(sp|rsp)\b", self.operands) is not None

    @property
    def stores(self) -> int:
        """SIMD registers written to memory."""
        if not self.memory or not _STORE.match(self.name):
            return 0
        if self.name.startswith(("v", "mov")) and not self.name.startswith("vst"):
            return int("ptr" in self.operands.split(",")[0])
        return self._moved

    @property
    def loads(self) -> int:
        """SIMD registers read from memory."""
        return self._moved if self.memory and not self.stores else 0

    @property
    def _moved(self) -> int:
        if self.memory and "ptr [" in self.operands:
            return int(bool(self.registers))
        names = re.findall(r"\b([vqs]\d+|d\d+)\b", self.operands.split("[")[0])
        if "{" in self.operands:
            names = re.findall(r"\b([vd]\d+)\b", self.operands.partition("{")[2].partition("}")[0])
        halves = [n for n in names if n.startswith("d")]
        return len(names) - len(halves) + -(-len(halves) // 2)

    def __str__(self) -> str:
        return f"{self.address:8x}  {self.name:12} {self.operands}"


@dataclass(frozen=True)
class Loop:
    """An innermost loop.

    Attributes:
        function: The symbol before it; the body of a parallel loop has no symbol of its own.
        body: Its instructions.
    """

    function: str
    body: tuple[Instruction, ...]

    @property
    def multiply_adds(self) -> int:
        return sum(i.is_multiply_add for i in self.body)

    @property
    def apart(self) -> tuple[Instruction, ...]:
        """Vector arithmetic that is no multiply-add."""
        return tuple(i for i in self.body if i.registers and not i.memory and _APART.match(i.name))

    @property
    def accumulators(self) -> frozenset[str]:
        """The registers that multiply-adds write."""
        return frozenset(i.registers[0] for i in self.body if i.is_multiply_add)

    @property
    def loads(self) -> int:
        """SIMD registers that are loaded."""
        return sum(i.loads for i in self.body)

    @property
    def stores(self) -> int:
        """SIMD registers that are stored."""
        return sum(i.stores for i in self.body)

    @property
    def spills(self) -> tuple[Instruction, ...]:
        """SIMD registers that are written to or read from the stack."""
        return tuple(
            i for i in self.body if i.touches_stack and (i.loads or i.stores or not i.memory)
        )

    def __str__(self) -> str:
        return "\n".join([f"loop in {self.function}:", *map(str, self.body)])


def hot_loops(library: Path) -> tuple[Loop, ...]:
    """The innermost loops with vector multiply-adds, in the order of the code."""
    code, base = _section(library, ".text")
    functions = sorted(_functions(library))
    disassembler = capstone.Cs(*_MACHINES[elf_machine(library)])
    disassembler.skipdata = True  # 32-bit ARM keeps constants between its functions
    instructions = [
        Instruction(address, name, operands)
        for address, _, name, operands in disassembler.disasm_lite(code, base)
    ]
    addresses = [i.address for i in instructions]
    backward = sorted(
        {
            (i.target, i.address)
            for i in instructions
            if i.target is not None and i.address - _MAX_LOOP_BYTES < i.target <= i.address
        }
    )
    found = []
    for first, last in backward:
        if any((a, b) != (first, last) and first <= a and b <= last for a, b in backward):
            continue
        at = bisect.bisect_left(addresses, first), bisect.bisect_right(addresses, last)
        before = bisect.bisect_right(functions, (first, "\x7f")) - 1
        name = functions[before][1] if before >= 0 else ""
        found.append(Loop(name, tuple(instructions[slice(*at)])))
    return tuple(loop for loop in found if loop.multiply_adds)


@dataclass(frozen=True)
class _Header:
    name: int
    kind: int
    address: int
    offset: int
    size: int
    link: int


def _headers(data: bytes) -> tuple[list[_Header], int]:
    """The section headers, and the number of that of their names."""
    wide = data[4] == 2
    (table,) = struct.unpack_from("<Q" if wide else "<I", data, 40 if wide else 32)
    size, count, names = struct.unpack_from("<HHH", data, 58 if wide else 46)
    form = "<IIQQQQI" if wide else "<IIIIIII"
    rows = (struct.unpack_from(form, data, table + size * i) for i in range(count))
    return [_Header(n, k, a, o, s, link) for n, k, _, a, o, s, link in rows], names


def _string(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()


def _section(library: Path, name: str) -> tuple[bytes, int]:
    """Contents and address of a section."""
    data = library.read_bytes()
    headers, names = _headers(data)
    (found,) = (h for h in headers if _string(data, headers[names].offset + h.name) == name)
    return data[found.offset : found.offset + found.size], found.address


def _functions(library: Path) -> Iterator[tuple[int, str]]:
    """Address and name of every function, local ones too."""
    data = library.read_bytes()
    headers, _ = _headers(data)
    table = next(h for h in headers if h.kind == 2)  # SHT_SYMTAB
    strings = headers[table.link].offset
    wide = data[4] == 2
    entry = 24 if wide else 16
    for at in range(table.offset, table.offset + table.size, entry):
        if wide:
            name, info, _, section, address, _ = struct.unpack_from("<IBBHQQ", data, at)
        else:
            name, address, _, info, _, section = struct.unpack_from("<IIIBBH", data, at)
        if info & 15 == 2 and section:  # STT_FUNC, defined here
            yield address, _string(data, strings + name)
