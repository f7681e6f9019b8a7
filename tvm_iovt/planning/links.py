"""The ways between devices: stated on the command line, in target files, or assumed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_iovt.errors import UsageError

ETHERNET = (110e6, 0.5e-3)
"""Bytes a second and latency assumed between machines: Gigabit Ethernet with TCP."""

BUS = (6e9, 20e-6)
"""Assumed between a CPU and its GPU: PCIe 3.0 x8 with one small copy."""

_RATE = re.compile(
    r"(?P<number>\d+(\.\d+)?([eE]\d+)?)\s*(?P<prefix>[kMG]?)(?P<unit>bit|b|B)(/s|ps)?"
)
_TIME = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>s|ms|us)")
_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedLink:
    """What `--link` says of the way between the caller and a target."""

    target: str
    bytes_per_s: float
    latency_s: float


def parse_link(text: str) -> StatedLink:
    """`arm=100Mbit/s,2ms`: the way between the caller and a target.

    Raises:
        UsageError: It is something else.
    """
    target, equals, rest = text.partition("=")
    rate, comma, latency = rest.partition(",")
    found_rate = _RATE.fullmatch(rate.strip())
    found_time = _TIME.fullmatch(latency.strip()) if comma else None
    if not target.strip() or not equals or found_rate is None or (comma and found_time is None):
        raise UsageError(
            "The link cannot be read", seen=text, do="write it as arm=100Mbit/s,2ms or arm=40MB/s"
        )
    bits = 1.0 if found_rate["unit"] == "B" else 8.0
    bytes_per_s = float(found_rate["number"]) * _PREFIXES[found_rate["prefix"]]
    if bytes_per_s <= 0:
        raise UsageError(
            "A link needs a positive rate", seen=text, do="state what it carries: arm=100Mbit/s,2ms"
        )
    latency_s = float(found_time["number"]) * _SECONDS[found_time["unit"]] if found_time else 0.0
    return StatedLink(target=target.strip(), bytes_per_s=bytes_per_s / bits, latency_s=latency_s)


def parse_links(texts: Sequence[str], names: Sequence[str]) -> tuple[StatedLink, ...]:
    """All links of a command line.

    Raises:
        UsageError: One cannot be read, or names a target that is not in `names`, or that another
            one names, too.
    """
    links = tuple(map(parse_link, texts))
    for link in links:
        if link.target not in names:
            raise UsageError(
                f"--link names {link.target!r}, which is none of the targets",
                seen=", ".join(names),
                do="name one of those",
            )
        said = [
            text for text, other in zip(texts, links, strict=True) if other.target == link.target
        ]
        if len(said) > 1:
            raise UsageError(
                f"--link says {len(said)} things of the way to {link.target}",
                seen=" and ".join(said),
                do="give --link once for each target",
            )
    return links
