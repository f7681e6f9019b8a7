"""Finding CUDA machine code in a compiled library, and telling which GPUs it is for."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path

from tvm_iovt.build.elf import ELF_MAGIC, HEADER_BYTES
from tvm_iovt.errors import ToolchainError

# Generated CUDA code starts with a block that tells NVRTC from nvcc; machine code has no such text.
SOURCE_MARKER = b"__CUDACC_RTC__"

_EM_CUDA = 190
_FATBIN_MAGIC = b"\x50\xed\x55\xba"
_FATBIN_KIND_ELF = 2

# From this ABI on, the second byte of e_flags is the architecture and the first one holds flags;
# before it, the first byte is the architecture.
_ABI_ARCH_IN_SECOND_BYTE = 8
_ACCELERATED_OLD_ABI = 0x800
_ACCELERATED_NEW_ABI = 0x8

# ptxas leaves its arguments in a note; the only place where it tells sm_90a from sm_90, sometimes.
_PTXAS_ARCH = re.compile(rb"-arch (sm_\d+[af]?)\b")


def embedded_archs(data: bytes) -> tuple[str, ...]:
    """The architectures (`sm_87`) of all CUDA machine code in a file's contents, sorted.

    Code inside compressed fat binaries counts too; a suffix such as that of `sm_90a` cannot be
    seen there.
    """
    return tuple(sorted({*_cubin_archs(data), *_fatbin_archs(data)}))


def check_embedded(library: Path, arch: str) -> None:
    """Make sure that a library carries machine code for exactly one CUDA architecture.

    Args:
        library: The linked library.
        arch: The architecture, e.g. `sm_87`.

    Raises:
        ToolchainError: It carries none, or another one, or CUDA source.
    """
    try:
        data = library.read_bytes()
    except OSError as error:
        raise ToolchainError(f"Cannot read {library}", seen=str(error)) from error
    if SOURCE_MARKER in data:
        raise ToolchainError(
            f"{library.name} carries CUDA source instead of machine code",
            seen="the code generator fell back to source, which needs a compiler on the device",
            do="report this: CUDA code generation was not enabled when the network was compiled",
        )
    archs = embedded_archs(data)
    if not archs:
        raise ToolchainError(
            f"{library.name} carries no CUDA machine code", seen=f"expected code for {arch}"
        )
    # A compressed fat binary does not show the suffix.
    compressed = not any(True for _ in _cubin_archs(data))
    if archs != ((arch.rstrip("af") if compressed else arch),):
        raise ToolchainError(
            f"{library.name} carries CUDA machine code for the wrong architecture",
            seen=f"{', '.join(archs)} instead of {arch}",
            do="compile the network again for the right target",
        )


def _cubin_archs(data: bytes) -> Iterator[str]:
    at = data.find(ELF_MAGIC)
    while at >= 0:
        header = data[at : at + HEADER_BYTES]
        if len(header) == HEADER_BYTES and header[4:6] == b"\x02\x01":
            (machine,) = struct.unpack_from("<H", header, 18)
            if machine == _EM_CUDA:
                yield _cubin_arch(header, data[at : at + _elf_bytes(header)])
        at = data.find(ELF_MAGIC, at + 1)


def _elf_bytes(header: bytes) -> int:
    """Length of an ELF file up to the later of its two tables; sections lie before them."""
    programs, sections = struct.unpack_from("<QQ", header, 32)
    program_bytes, program_count, section_bytes, section_count = struct.unpack_from(
        "<HHHH", header, 54
    )
    return int(
        max(programs + program_bytes * program_count, sections + section_bytes * section_count)
    )


def _cubin_arch(header: bytes, elf: bytes) -> str:
    (flags,) = struct.unpack_from("<I", header, 48)
    new_abi = header[8] >= _ABI_ARCH_IN_SECOND_BYTE
    arch = f"sm_{(flags >> 8 if new_abi else flags) & 0xFF}"
    noted = _PTXAS_ARCH.search(elf)
    if noted and noted[1].decode().rstrip("af") == arch:
        return noted[1].decode()
    accelerated = flags & (_ACCELERATED_NEW_ABI if new_abi else _ACCELERATED_OLD_ABI)
    return arch + ("a" if accelerated else "")


def _fatbin_archs(data: bytes) -> Iterator[str]:
    """Architectures of the compressed machine code; uncompressed is found as the ELF file it is."""
    at = data.find(_FATBIN_MAGIC)
    while at >= 0:
        if at + 16 <= len(data):
            version, header_bytes, size = struct.unpack_from("<HHQ", data, at + 4)
            if version == 1 and header_bytes == 16:
                yield from _fatbin_entries(data, at + 16, min(at + 16 + size, len(data)))
        at = data.find(_FATBIN_MAGIC, at + 1)


def _fatbin_entries(data: bytes, at: int, end: int) -> Iterator[str]:
    while at + 64 <= end:
        kind, _, header_bytes, size = struct.unpack_from("<HHIQ", data, at)
        (arch,) = struct.unpack_from("<I", data, at + 28)
        code = at + header_bytes
        if kind == _FATBIN_KIND_ELF and data[code : code + 4] != ELF_MAGIC:
            yield f"sm_{arch}"
        if header_bytes + size == 0:
            return
        at = code + size
