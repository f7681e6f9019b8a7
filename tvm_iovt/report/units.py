"""Numbers as people read them: SI prefixes, three or four digits, and the unit."""

from __future__ import annotations

import math

_LARGE = ("", "k", "M", "G", "T", "P", "E")
_SMALL = ("", "m", "µ", "n", "p")


def format_flops(flops: int) -> str:
    """`1200000000` -> `1.2 GFLOP`."""
    return _scaled(flops, "FLOP")


def format_macs(macs: int) -> str:
    """`385000000` -> `385.0 MMAC`."""
    return _scaled(macs, "MAC")


def format_bytes(size_bytes: int) -> str:
    """`14000000` -> `14.0 MB` (decimal, as storage and bandwidth are sold)."""
    return _scaled(size_bytes, "B")


def format_count(count: int) -> str:
    """`3490000` -> `3.5 M`."""
    return _scaled(count, "").rstrip()


def counted(count: int, noun: str) -> str:
    """`(1, "trial")` -> `1 trial`, `(2, "trial")` -> `2 trials`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_seconds(seconds: float) -> str:
    """`0.0032` -> `3.20 ms`; minutes and hours above 60 s."""
    if not math.isfinite(seconds):
        return str(seconds)
    if seconds >= 59.95:
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
    step = _prefix_of_seconds(seconds)
    return f"{_three_digits(seconds * 1000**step)} {_SMALL[step]}s"


def format_seconds_range(low_s: float, high_s: float) -> str:
    """`(0.0031, 0.0042)` -> `3.10 .. 4.20 ms`: both ends in the unit of the upper one."""
    step = _prefix_of_seconds(high_s)
    low, high = (_three_digits(seconds * 1000**step) for seconds in (low_s, high_s))
    return f"{low} .. {high} {_SMALL[step]}s"


def format_percent(fraction: float) -> str:
    """`0.123` -> `12.3%`; a positive share never prints as zero."""
    if 0 < fraction < 0.0005:
        return "<0.1%"
    return f"{100 * fraction:.1f}%"


def format_error(value: float) -> str:
    """`0.0000055` -> `5.5e-06`; an exact match is `0`."""
    return "0" if value == 0 else f"{value:.1e}"


def format_cosine(value: float) -> str:
    """`0.9999996` -> `0.9999996`, `1 - 2e-11` -> `1-2e-11`: a difference never rounds to 1."""
    if 0.99999995 <= value < 1:
        return f"1-{1 - value:.0e}"
    return f"{value:.7g}"


def format_shape(shape: tuple[int | str, ...]) -> str:
    """`(1, 3, 224, 224)` -> `1x3x224x224`, with spaces around the `x` when there are symbols."""
    symbolic = any(isinstance(size, str) for size in shape)
    return (" x " if symbolic else "x").join(map(str, shape)) or "scalar"


def printable(text: str) -> str:
    """Replace control characters, so that a name from a file cannot move the cursor."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in text
    )


def _scaled(value: int, unit: str) -> str:
    magnitude = 0
    scaled = float(value)
    # 999,960 would print as 1000.0 k: the limit is where rounding reaches the next prefix.
    while abs(scaled) >= (999.5 if magnitude == 0 else 999.95) and magnitude < len(_LARGE) - 1:
        scaled /= 1000
        magnitude += 1
    text = f"{scaled:.1f}" if magnitude else f"{value}"
    return f"{text} {_LARGE[magnitude]}{unit}"


def _prefix_of_seconds(seconds: float) -> int:
    """Index into `_SMALL` of the first prefix that leaves at least 1 before the point."""
    for step in range(len(_SMALL)):
        # 0.999 s would print as 999 ms and 0.9999 s as 1000 ms: rounding decides.
        if seconds * 1000**step >= 0.9995:
            return step
    return 0 if seconds == 0 else len(_SMALL) - 1


def _three_digits(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
