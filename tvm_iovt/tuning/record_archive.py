"""The records of a device as one file, to be carried elsewhere.

A zip with `manifest.json` and the files of records; the manifest has the size and the SHA-256 of
each. Nothing in it is ever unpacked to a disk: what it holds is read, checked, and merged.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tvm_iovt._version import __version__
from tvm_iovt.errors import IovtError, TuningError, UsageError
from tvm_iovt.json_codec import from_json, to_json
from tvm_iovt.tuning.record_folder import KINDS, FolderRecords, read_folder
from tvm_iovt.tuning.record_lines import read_lines
from tvm_iovt.tuning.record_writing import replace_file
from tvm_iovt.tuning.schedule_records import DeviceKind
from tvm_iovt.types import FileRecord

SUFFIX = ".iovt-logs"

LARGEST_BYTES = 256 << 20
"""Of all files together, unpacked; some thousand tuned kernels."""

_MANIFEST = "manifest.json"
_LARGEST_MANIFEST_BYTES = 1 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    RuntimeError,
    KeyError,
    IndexError,
)
"""What `zipfile` raises for files that are none, or are damaged."""

_NO_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveManifest:
    """What an archive holds.

    Attributes:
        folder: Name of the folder that it was made of.
        devices: What was measured on.
        tvm_versions: Of apache-tvm.
        tool_version: Of this program.
        created: UTC, ISO 8601.
        files: The files of records.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/tuning-archive/1"

    folder: str
    devices: tuple[DeviceKind, ...]
    tvm_versions: tuple[str, ...]
    tool_version: str
    created: str
    files: tuple[FileRecord, ...]


def export(folder: Path, out: Path) -> tuple[ArchiveManifest, FolderRecords]:
    """Write the records of a device to a file; lines that cannot be read stay behind.

    Args:
        folder: Of the device; others may write there at the same time.
        out: The file, which is replaced.

    Returns:
        What the file holds, and what was read.

    Raises:
        TuningError: There are no records, or the disk is full.
        UsageError: The file cannot be written.
    """
    records = read_folder(folder)
    if not records.origins:
        raise TuningError(
            f"There is nothing to export in {folder}",
            seen="; ".join(records.problems[:3]) or "no measurement",
            do="`tvm-iovt logs stat` lists what there is",
        )
    members = {
        kind.name: b"".join(map(kind.line, lines.records))
        for kind, lines in zip(KINDS, records.lines, strict=True)
        if lines.records
    }
    manifest = ArchiveManifest(
        folder=folder.name,
        devices=tuple(sorted({found.device for found in records.origins}, key=str)),
        tvm_versions=tuple(sorted({found.tvm_version for found in records.origins})),
        tool_version=__version__,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        files=tuple(_record(name, content) for name, content in members.items()),
    )
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        first = json.dumps(to_json(manifest), indent=1).encode()
        for name, content in {_MANIFEST: first, **members}.items():
            info = zipfile.ZipInfo(name, _NO_DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)
    replace_file(out, stream.getvalue(), durable=True)
    return manifest, records


def read_archive(path: Path) -> tuple[ArchiveManifest, FolderRecords]:
    """Read and check an archive, in memory.

    Raises:
        TuningError: It is damaged, of another version, or not what it says.
        UsageError: There is no such file.
    """
    try:
        with path.open("rb") as stream:
            return _read(path, stream)
    except OSError as error:
        raise UsageError(f"Cannot read {path}", seen=error.strerror or str(error)) from error
    except _BROKEN as error:
        raise _damaged(path, str(error) or type(error).__name__) from error


def _read(path: Path, stream: Any) -> tuple[ArchiveManifest, FolderRecords]:
    with zipfile.ZipFile(stream) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        known = [kind.name for kind in KINDS]
        odd = sorted(set(names) - {_MANIFEST, *known})
        if odd or len(names) != len(set(names)):
            raise _damaged(path, f"a file that does not belong there: {(odd or names)[0]!r:.80}")
        if _MANIFEST not in names:
            raise _damaged(path, f"no {_MANIFEST}")
        if sum(entry.file_size for entry in entries) > LARGEST_BYTES:
            raise _damaged(path, f"more than {LARGEST_BYTES >> 20} MiB unpacked")
        manifest = _manifest(path, _content(path, archive, _MANIFEST, _LARGEST_MANIFEST_BYTES))
        if sorted(names) != sorted([_MANIFEST, *(file.file for file in manifest.files)]):
            raise _damaged(path, "other files than its manifest names")
        contents = {}
        for file in manifest.files:
            limit_bytes = max(0, min(file.size_bytes, LARGEST_BYTES))
            content = _content(path, archive, file.file, limit_bytes)
            if _record(file.file, content) != file:
                raise _damaged(path, f"{file.file} is not as its manifest records it (SHA-256)")
            contents[file.file] = content
    lines = [read_lines(kind, contents.get(kind.name, b""), path / kind.name) for kind in KINDS]
    workloads, trials, choices, kernels = lines
    return manifest, FolderRecords(
        folder=path, workloads=workloads, trials=trials, choices=choices, kernels=kernels
    )


def _manifest(path: Path, content: bytes) -> ArchiveManifest:
    try:
        return from_json(ArchiveManifest, json.loads(content))
    except RecursionError as error:
        raise _damaged(path, "nonsense in its manifest") from error
    except IovtError as error:
        raise TuningError(
            f"{path} cannot be imported: {error.what}", seen=error.seen, do=error.do
        ) from error


def _content(path: Path, archive: zipfile.ZipFile, name: str, limit_bytes: int) -> bytes:
    """A member, of which no more is unpacked than may be there, whatever its header says."""
    info = archive.getinfo(name)
    if info.flag_bits & 1 or info.compress_type not in _METHODS:
        raise _damaged(path, f"{name} is encrypted, or compressed in another way than deflate")
    with archive.open(info) as stream:
        content = stream.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise _damaged(path, f"{name} is larger than {limit_bytes} bytes")
    return content


def _record(name: str, content: bytes) -> FileRecord:
    digest = hashlib.sha256(content).hexdigest()
    return FileRecord(file=name, sha256=digest, size_bytes=len(content))


def _damaged(path: Path, seen: str) -> TuningError:
    return TuningError(
        f"{path} is not a whole archive of tuning records",
        seen=seen,
        do="copy it again from where `tvm-iovt logs export` wrote it",
    )
