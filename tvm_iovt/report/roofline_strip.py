"""Units without FLOPs below a roofline chart: they have no place over intensity."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm_iovt.report.charts import line, svg_text
from tvm_iovt.report.log_scale import LogScale, spanning
from tvm_iovt.report.markup import Markup, element
from tvm_iovt.report.roofline_dots import Dot, Look, rate
from tvm_iovt.report.units import counted, format_bytes
from tvm_iovt.types import Roof

_HEIGHT = 104
_TOP, _BOTTOM = 30, 46
_ROWS = (0, -9, 9)
_LABEL_ROOM = 56.0


def bytes_strip(
    roof: Roof, dots: Sequence[Dot], look: Look, *, name: str, left: int, right: int, width: int
) -> Markup:
    """The bytes that each unit moves in a second, beside what memory and cache can do.

    Args:
        roof: Of the device.
        dots: At least one, that moves bytes.
        look: As in the chart above.
        name: Of the device.
        left: Margin, as in the chart above.
        right: Likewise.
        width: Likewise.
    """
    marks = [("memory", roof.bandwidth_bytes_per_s, "roof")]
    if roof.cache_bandwidth_bytes_per_s:
        marks.append(("cache", roof.cache_bandwidth_bytes_per_s, "roof cache"))
    values = [*map(_bytes_per_s, dots), *(value for _, value, _ in marks)]
    low, high = spanning(values, least=100.0)
    x = LogScale(low=low, high=high, start=left, end=width - right)
    floor = float(_HEIGHT - _BOTTOM)
    centre = (_TOP + floor) / 2
    parts: list[str] = []
    for value in x.marks():
        parts.append(line(x.at(value), _TOP, x.at(value), floor, "grid"))
        text = rate(value, format_bytes).replace(".0 ", " ")
        parts.append(svg_text(text, x.at(value), floor + 18, "middle"))
    parts.append(line(left, floor, width - right, floor, "grid"))
    labelled = -math.inf
    for text, value, class_ in sorted(marks, key=lambda mark: mark[1]):
        at = x.at(value)
        parts.append(line(at, _TOP - 4, at, floor, class_))
        labelled = max(at, labelled + _LABEL_ROOM)
        parts.append(svg_text(text, labelled, _TOP - 10, "middle"))
    for row, dot in _rows(dots, look, x):
        parts.append(look.element(dot, x.at(_bytes_per_s(dot)), centre + _ROWS[row % len(_ROWS)]))
    parts.append(svg_text("no FLOPs", left - 8, centre + 4, "end"))
    parts.append(svg_text("bytes a second", (left + width - right) / 2, _HEIGHT - 8, "middle"))
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {width} {_HEIGHT}",
        class_="plot strip",
        role="img",
        aria_label=f"Bytes a second of {counted(len(dots), 'unit')} without FLOPs on {name}",
    )


def _bytes_per_s(dot: Dot) -> float:
    return dot.unit.nbytes / dot.unit_s


def _rows(dots: Sequence[Dot], look: Look, x: LogScale) -> list[tuple[int, Dot]]:
    """Dots that would cover each other get rows of their own."""
    placed: list[tuple[int, Dot]] = []
    row, last = 0, -math.inf
    for dot in sorted(dots, key=_bytes_per_s):
        at = x.at(_bytes_per_s(dot))
        row = row + 1 if at - last < 2 * look.radius(dot) else 0
        placed.append((row, dot))
        last = at
    return placed
