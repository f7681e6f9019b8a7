"""Sizes and short times as people write them: `512MB`, `33ms`."""

from __future__ import annotations

import re

from tvm_iovt.errors import UsageError

_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[kKMG]i?B|B)", re.ASCII)
_BYTES = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "kiB": 2**10,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_TIME = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>s|ms|us)", re.ASCII)
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


def parse_size(text: str) -> int:
    """`"512MB"` -> `512000000` bytes, `"512MiB"` -> `536870912`.

    Raises:
        UsageError: It is something else, or less than a byte.
    """
    match = _SIZE.fullmatch(text.strip())
    nbytes = int(float(match["number"]) * _BYTES[match["unit"]]) if match else 0
    if nbytes < 1:
        raise UsageError(
            "A size could not be read", seen=f"{text[:60]!r}", do="write it as 512MB or 2GiB"
        )
    return nbytes


def parse_interval(text: str) -> float:
    """`"33ms"` -> `0.033` seconds.

    Raises:
        UsageError: It is something else, or zero.
    """
    match = _TIME.fullmatch(text.strip())
    seconds = float(match["number"]) * _SECONDS[match["unit"]] if match else 0.0
    if not seconds > 0:
        raise UsageError(
            "An interval could not be read", seen=f"{text[:60]!r}", do="write it as 33ms or 0.5s"
        )
    return seconds
