"""Writing a file so that no reader sees half of it."""

from __future__ import annotations

import os
from pathlib import Path

from tvm_iovt.errors import UsageError


def write_atomically(out: Path, content: bytes, *, durable: bool = False) -> None:
    """Writes beside the file and renames; makes the folder if it is missing.

    Args:
        out: The file.
        content: All of it.
        durable: Flush before renaming: a power failure then leaves the old file or the new one.

    Raises:
        UsageError: The file cannot be written.
    """
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            if durable:
                with temporary.open("rb") as stream:
                    os.fsync(stream.fileno())
            temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"Cannot write {out}",
            seen=error.strerror or str(error),  # not the temporary file's name, which says nothing
            do="check the path, its permissions and the free space, or name another file",
        ) from error
