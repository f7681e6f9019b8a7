"""Where shipped data (targets, tuning records) and the user's cache are found.

Works the same from a wheel (data under `tvm_iovt/_data`), an editable install and a plain
checkout (data in the folders beside the package).
"""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped(folder: str) -> Path:
    """The shipped data folder of that name (`"targets"` or `"tuning_logs"`)."""
    installed = _PACKAGE / "_data" / folder
    return installed if installed.is_dir() else _PACKAGE.parent / folder


def search_path(folder: str) -> tuple[Path, ...]:
    """Folders to look in, first match wins.

    The order is: the entries of `$TVM_IOVT_PATH` (separated by `:`), the user's configuration
    folder (`$XDG_CONFIG_HOME/tvm-iovt`, by default `~/.config/tvm-iovt`), the shipped data.
    Each is the *parent* of `folder`, except the last.
    """
    roots = [Path(entry) for entry in os.environ.get("TVM_IOVT_PATH", "").split(":") if entry]
    config = os.environ.get("XDG_CONFIG_HOME")
    roots.append((Path(config) if config else Path.home() / ".config") / "tvm-iovt")
    return (*(root / folder for root in roots), shipped(folder))


def cache(folder: str) -> Path:
    """A folder for things that can be made again (`$XDG_CACHE_HOME/tvm-iovt/<folder>`), created."""
    base = os.environ.get("XDG_CACHE_HOME")
    path = (Path(base) if base else Path.home() / ".cache") / "tvm-iovt" / folder
    path.mkdir(parents=True, exist_ok=True)
    return path
