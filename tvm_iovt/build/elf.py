"""Reading ELF files: which machine they are for, and which symbols they want from others."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from tvm_iovt.errors import ToolchainError

ELF_MAGIC = b"\x7fELF"
HEADER_BYTES = 64

# e_machine, 64-bit?, as `uname -m` prints it.
_ARCHES = {(62, True): "x86_64", (183, True): "aarch64", (40, False): "armv7l"}

_SHT_DYNSYM = 11
_SHT_GNU_VERNEED = 0x6FFFFFFE
_SHT_GNU_VERSYM = 0x6FFFFFFF
_VERSYM_HIDDEN = 0x8000


def elf_machine(path: Path) -> str:
    """The CPU architecture an ELF file is for, as `uname -m` prints it.

    Architectures that tvm-iovt has no targets for are named by number (`machine 8, 32-bit`).

    Raises:
        ToolchainError: The file cannot be read or is not an ELF file.
    """
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
    except OSError as error:
        raise ToolchainError(f"Cannot read {path}", seen=str(error)) from error
    if len(header) < 20 or not header.startswith(ELF_MAGIC):
        raise ToolchainError(f"{path} is not an ELF file", seen=f"it starts with {header[:8]!r}")
    is_64_bit, little_endian = header[4] == 2, header[5] == 1
    (machine,) = struct.unpack_from("<H" if little_endian else ">H", header, 18)
    arch = _ARCHES.get((machine, is_64_bit)) if little_endian else None
    if arch:
        return arch
    return f"machine {machine}, {64 if is_64_bit else 32}-bit" + (
        "" if little_endian else ", big-endian"
    )


@dataclass(frozen=True)
class ImportedSymbol:
    """A symbol that a shared library wants from another one.

    Attributes:
        name: Symbol name.
        version: Symbol version, empty if unversioned.
        library: File the version is wanted from (`libcudart.so.13`), empty if unversioned.
    """

    name: str
    version: str = ""
    library: str = ""


def imported_symbols(path: Path) -> tuple[ImportedSymbol, ...]:
    """The undefined symbols of a 64-bit little-endian shared library, with their versions.

    Raises:
        ToolchainError: The file cannot be read, or is not such a library.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ToolchainError(f"Cannot read {path}", seen=str(error)) from error
    if data[:4] != ELF_MAGIC or data[4:6] != b"\x02\x01":
        raise ToolchainError(f"{path} is not a 64-bit little-endian ELF file")
    try:
        return _imported(data)
    except (struct.error, IndexError, ValueError) as error:
        raise ToolchainError(f"{path} is a damaged ELF file", seen=str(error)) from error


def _imported(data: bytes) -> tuple[ImportedSymbol, ...]:
    sections = _sections(data)
    dynsym = next((s for s in sections if s.kind == _SHT_DYNSYM), None)
    if dynsym is None:
        return ()
    strings = sections[dynsym.link].offset
    versions = _needed_versions(data, sections)
    versym = next((s for s in sections if s.kind == _SHT_GNU_VERSYM), None)
    found = []
    for index in range(1, dynsym.size // 24):
        name_at, _, _, section = struct.unpack_from("<IBBH", data, dynsym.offset + 24 * index)
        if section != 0:
            continue
        version, library = "", ""
        if versym is not None:
            (number,) = struct.unpack_from("<H", data, versym.offset + 2 * index)
            version, library = versions.get(number & ~_VERSYM_HIDDEN, ("", ""))
        found.append(ImportedSymbol(_string(data, strings + name_at), version, library))
    return tuple(found)


@dataclass(frozen=True)
class _Section:
    kind: int
    offset: int
    size: int
    link: int
    entries: int


def _sections(data: bytes) -> list[_Section]:
    (table,) = struct.unpack_from("<Q", data, 40)
    entry_bytes, count = struct.unpack_from("<HH", data, 58)
    sections = []
    for index in range(count):
        _, kind, _, _, offset, size, link, info = struct.unpack_from(
            "<IIQQQQII", data, table + entry_bytes * index
        )
        sections.append(_Section(kind, offset, size, link, info))
    return sections


def _needed_versions(data: bytes, sections: list[_Section]) -> dict[int, tuple[str, str]]:
    """Version index -> (version, library), from the linked lists of `.gnu.version_r`."""
    versions: dict[int, tuple[str, str]] = {}
    verneed = next((s for s in sections if s.kind == _SHT_GNU_VERNEED), None)
    if verneed is None:
        return versions
    strings = sections[verneed.link].offset
    at = verneed.offset
    for _ in range(verneed.entries):
        _, count, file_at, first, following = struct.unpack_from("<HHIII", data, at)
        entry = at + first
        for _ in range(count):
            _, _, number, name_at, next_entry = struct.unpack_from("<IHHII", data, entry)
            versions[number] = (_string(data, strings + name_at), _string(data, strings + file_at))
            entry += next_entry
        at += following
    return versions


def _string(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode("ascii", "replace")
