"""What a probe found, with spreads."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_iovt.types import DeviceProfile, Link


@dataclass(frozen=True, slots=True)
class Finding:
    """One number.

    Attributes:
        what: In words.
        value: In `unit`.
        unit: `s`, `B/s`, `FLOP/s`, or empty for a count.
        spread: Half of the range between repetitions, relative; 0 if it is a maximum.
        source: `measured` or `assumed`.
    """

    what: str
    value: float
    unit: str
    spread: float
    source: str = "measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What `targets probe` found.

    Attributes:
        profile: For the target's file.
        links: To the device, from its point of view; empty for this machine.
        findings: For the table.
    """

    profile: DeviceProfile
    links: tuple[Link, ...]
    findings: tuple[Finding, ...]
