"""The units of a network as dots of a roofline chart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tvm_iovt.cost_graph import Unit
from tvm_iovt.report.charts import swatch
from tvm_iovt.report.markup import Markup, element
from tvm_iovt.report.units import format_bytes, format_flops, format_percent, format_seconds

_SMALLEST, _LARGEST = 3.0, 13.0  # radius
_OWN_COLORS = 5  # classes c0..c4; c5 is "other"

STYLE = """
.plot circle.predicted{fill-opacity:.16;stroke-width:1.75}
.plot circle.measured{fill-opacity:.8;stroke-width:1.25}
.plot circle.away{opacity:.42}
.plot circle.d0{stroke:var(--c0)}.plot circle.d1{stroke:var(--c1)}
.plot circle.d2{stroke:var(--c2)}.plot circle.d3{stroke:var(--c3)}
.plot circle.d4{stroke:var(--c4)}.plot circle.d5{stroke:var(--c5)}
.plot circle.predicted:hover{fill-opacity:.5}
.legend circle{fill:none;stroke:var(--ink);stroke-width:1.75}
.legend circle.measured{fill:var(--ink)}
.legend circle.away{opacity:.35}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A unit with its time on the device.

    Attributes:
        unit: Of the network.
        unit_s: Its seconds, finite and positive.
        measured: Whether they were measured; predicted otherwise.
        group: What decides about its colour: its kind, or its stage in words.
        away: Whether another device runs it.
    """

    unit: Unit
    unit_s: float
    measured: bool
    group: str
    away: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How dots are drawn.

    Attributes:
        total_s: Seconds of all units, for the shares.
        colors: Numbers of the colours of the groups that have one of their own.
    """

    total_s: float
    colors: dict[str, int]

    def share(self, dot: Dot) -> float:
        """Of the time of all units."""
        return dot.unit_s / self.total_s if self.total_s else 0.0

    def radius(self, dot: Dot) -> float:
        """The area is the share of the time, but no dot is too small to be seen."""
        return max(_SMALLEST, min(_LARGEST, 26 * math.sqrt(self.share(dot))))

    def element(self, dot: Dot, x: float, y: float) -> Markup:
        """The dot at a point of the chart."""
        color = self.colors.get(dot.group, _OWN_COLORS)
        classes = ["measured" if dot.measured else "predicted", f"c{color}", f"d{color}"]
        if dot.away:
            classes.append("away")
        return element(
            "circle",
            element("title", self._tip(dot)),
            cx=f"{x:.1f}",
            cy=f"{y:.1f}",
            r=f"{self.radius(dot):.1f}",
            class_=" ".join(classes),
        )

    def _tip(self, dot: Dot) -> str:
        unit = dot.unit
        known = "measured" if dot.measured else "predicted"
        done, words = (unit.flops, format_flops) if unit.flops else (unit.nbytes, format_bytes)
        parts = [
            f"{unit.name} ({unit.kind})",
            format_flops(unit.flops) if unit.flops else "no FLOPs",
            format_bytes(unit.nbytes),
            f"{unit.intensity:.2f} FLOP/B" if unit.flops else "",
            f"{format_seconds(dot.unit_s)} {known}, {format_percent(self.share(dot))} of the time",
            rate(done / dot.unit_s, words),
            dot.group if dot.group != unit.kind else "",
            "another target runs it" if dot.away else "",
        ]
        return "; ".join(filter(None, parts))


def look_of(dots: Iterable[Dot]) -> Look:
    """Colours for the groups that take the most time; the rest shares the last one."""
    spent_s: dict[str, float] = {}
    for dot in dots:
        spent_s[dot.group] = spent_s.get(dot.group, 0.0) + dot.unit_s
    return Look(total_s=sum(spent_s.values()), colors=own_colors(spent_s))


def own_colors(spent_s: dict[str, float]) -> dict[str, int]:
    """Numbers of colours for the groups with the largest sums."""
    ordered = sorted(spent_s, key=lambda group: -spent_s[group])
    own = ordered if len(ordered) <= _OWN_COLORS + 1 else ordered[:_OWN_COLORS]
    return {group: number for number, group in enumerate(own)}


def color_items(groups: Iterable[str], colors: dict[str, int]) -> list[Markup]:
    """Of a legend: what the colours stand for."""
    items = [element("li", swatch(f"c{number}"), group) for group, number in colors.items()]
    if any(group not in colors for group in groups):
        items.append(element("li", swatch(f"c{_OWN_COLORS}"), "other"))
    return items


def dot_items(dots: Sequence[Dot]) -> list[Markup]:
    """Of a legend: what kinds of dots there are."""
    items = [
        element("li", _swatch(class_), f"time {class_}")
        for class_, known in (("measured", True), ("predicted", False))
        if any(dot.measured is known for dot in dots)
    ]
    if any(dot.away for dot in dots):
        items.append(element("li", _swatch("predicted away"), "on another target"))
    return items


def back_to_front(dots: Iterable[Dot]) -> list[Dot]:
    """The large ones first, so that they do not bury the small ones."""
    return sorted(dots, key=lambda dot: (not dot.away, -dot.unit_s))


def rate(per_s: float, words: Callable[[int], str]) -> str:
    """`1.2e10` with `format_flops` -> `12.0 GFLOP/s`."""
    return f"{words(round(per_s))}/s"


def _swatch(class_: str) -> Markup:
    drawn = element("circle", cx="5", cy="5", r="4", class_=class_)
    return element("svg", drawn, aria_hidden="true")
