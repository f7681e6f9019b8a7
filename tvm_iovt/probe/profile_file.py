"""Target files with what was measured: everything else in them stays as it was."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from tvm_iovt import resources
from tvm_iovt.atomic_write import write_atomically
from tvm_iovt.target_profiles import LINK, MEASURED, profile_toml
from tvm_iovt.types import DeviceProfile, Link

_HEADER = re.compile(r"\s*\[\[?\s*(?P<name>[^\]]+?)\s*\]\]?\s*(#.*)?")
_NOTE = "# Written by `tvm-iovt targets probe`; running it again replaces what follows.\n"


def user_file(name: str) -> Path:
    """Where a measured target of that name goes: the first folder of the search path."""
    return resources.search_path("targets")[0] / f"{name}.toml"


def write_profile(
    source: Path, output: Path, profile: DeviceProfile, links: Sequence[Link]
) -> None:
    """Write a target file with measurements, atomically.

    Args:
        source: The file that describes the target; its keys, tables and comments are kept.
        output: The file to write; it may be the same.
        profile: What was measured.
        links: What was measured; the file's other links stay.

    Raises:
        UsageError: The file cannot be written.
    """
    kept = without_measurements(source.read_text(encoding="utf-8"), bool(links))
    text = f"{kept.rstrip()}\n\n{_NOTE}{profile_toml(profile, links)}"
    # A link to a shared file is followed: the file is replaced, not the link.
    destination = Path(os.path.realpath(output)) if output.is_symlink() else output
    write_atomically(destination, text.encode("utf-8"))


def without_measurements(text: str, links: bool) -> str:
    """A target file's text without `[measured]` tables, and without measured links if `links`."""
    kept: list[str] = []
    blocks: list[tuple[str, list[str]]] = [("", [])]
    for line in text.splitlines(keepends=True):
        header = _HEADER.fullmatch(line.rstrip("\n"))
        if header is not None:
            blocks.append((header["name"], []))
        blocks[-1][1].append(line)
    for name, lines in blocks:
        if name == MEASURED or name.startswith(f"{MEASURED}."):
            continue
        body = "".join(lines)
        if links and name == LINK and re.search(r'^source\s*=\s*"measured"', body, re.MULTILINE):
            continue
        kept.append(body)
    return "".join(kept).replace(_NOTE, "")
