"""Durations as people write them: `90s`, `20m`, `1h30m`."""

from __future__ import annotations

import re

from tvm_iovt.errors import UsageError

_NUMBER = r"(\d+(?:\.\d+)?)"
_DURATION = re.compile(
    rf"(?:{_NUMBER}h)?\s*(?:{_NUMBER}m(?:in)?)?\s*(?:{_NUMBER}s)?", re.IGNORECASE | re.ASCII
)
_LONGEST_S = 365 * 86400.0


def parse_duration(text: str) -> float:
    """`"1h30m"` -> `5400.0` seconds.

    Args:
        text: Hours, minutes and seconds, in that order, each a number with its unit (`h`, `m` or
            `min`, `s`).

    Raises:
        UsageError: It is something else, nothing, or more than a year.
    """
    match = _DURATION.fullmatch(text.strip())
    if match and any(match.groups()):
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        total_s = 3600 * hours + 60 * minutes + seconds
        if 0 < total_s <= _LONGEST_S:
            return total_s
    raise UsageError(
        "A duration could not be read",
        seen=f"{text[:60]!r}",
        do="write hours, minutes and seconds with their units: 90s, 20m, 1h30m",
    )
