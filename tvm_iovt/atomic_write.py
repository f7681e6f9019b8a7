"""Writing a file so that no reader sees half of it."""

from __future__ import annotations

import os
from pathlib import Path

from tvm_iovt.errors import UsageError


def write_atomically(out: Path, content: bytes) -> None:
    """Writes beside the file and renames; makes the folder if it is missing.

    Raises:
        UsageError: The file cannot be written.
    """
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"Cannot write {out}", seen=str(error)) from error
