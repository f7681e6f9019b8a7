"""Charts of operator costs as inline SVG, coloured by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm_iovt.report.markup import Markup, element, joined
from tvm_iovt.report.summary import OperatorGroup, group_by_op, moved_bytes
from tvm_iovt.report.units import format_bytes, format_count, format_flops, format_percent
from tvm_iovt.types import OpCost

_COLORS = 6  # classes c0..c5; the last one is "other"
_GROUPS_SHOWN = 10

_WIDTH, _HEIGHT = 720, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 28, 36, 58


def op_bars(groups: Sequence[OperatorGroup]) -> Markup:
    """Share of FLOPs and of traffic by operator type, one pair of bars a type."""
    flops = sum(group.flops for group in groups) or 1
    traffic = sum(group.bytes for group in groups) or 1
    counted = [group for group in groups if group.flops or group.bytes]
    shown = counted if len(counted) <= _GROUPS_SHOWN + 1 else counted[:_GROUPS_SHOWN]
    rows = [_bar_row(group, flops, traffic) for group in shown]
    rest = counted[len(shown) :]
    if rest:
        other = OperatorGroup(
            op=f"{len(rest)} other types",
            operators=sum(group.operators for group in rest),
            flops=sum(group.flops for group in rest),
            bytes=sum(group.bytes for group in rest),
            bytes_weights=sum(group.bytes_weights for group in rest),
        )
        rows.append(_bar_row(other, flops, traffic))
    legend = element(
        "ul",
        element("li", swatch("work"), "share of FLOPs"),
        element("li", swatch("traffic"), "share of memory traffic"),
        class_="legend",
    )
    return joined(legend, element("div", *rows, class_="bars"))


def _bar_row(group: OperatorGroup, flops: int, traffic: int) -> Markup:
    work, moved = group.flops / flops, group.bytes / traffic
    label = f"{group.op}: {format_percent(work)} of FLOPs, {format_percent(moved)} of traffic"
    bars = element(
        "svg",
        element("rect", width="100%", height="6", rx="3", class_="track"),
        element("rect", width=f"{100 * work:.2f}%", height="6", rx="3", class_="work"),
        element("rect", y="9", width="100%", height="6", rx="3", class_="track"),
        element("rect", y="9", width=f"{100 * moved:.2f}%", height="6", rx="3", class_="traffic"),
        role="img",
        aria_label=label,
    )
    return element(
        "div",
        element("div", group.op, element("span", f" ×{group.operators}"), class_="name"),  # noqa: RUF001
        element(
            "div",
            f"{format_flops(group.flops) if group.flops else 'no FLOPs'} · "
            f"{format_bytes(group.bytes)}",
            class_="soft num",
        ),
        bars,
        class_="row",
    )


def intensity_plot(operators: Sequence[OpCost]) -> Markup:
    """Work of every operator over its arithmetic intensity, both logarithmic.

    Traffic is work over intensity, so the dashed diagonals are lines of equal traffic. Operators
    without FLOPs have no place on it. Roofline: doi 10.1145/1498765.1498785.
    """
    dots = [cost for cost in operators if cost.flops > 0 and cost.intensity > 0]
    if len(dots) < 2:
        return joined()
    x_low, x_high = _decades([cost.intensity for cost in dots])
    y_low, y_high = _decades([float(cost.flops) for cost in dots])

    def x(log_intensity: float) -> float:
        return _LEFT + (log_intensity - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)

    def y(log_flops: float) -> float:
        share = (log_flops - y_low) / (y_high - y_low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts: list[str] = []
    for decade in range(x_low, x_high + 1):
        at = x(decade)
        parts.append(line(at, _TOP, at, _HEIGHT - _BOTTOM, "grid"))
        parts.append(svg_text(f"{10.0**decade:g}", at, _HEIGHT - _BOTTOM + 22, "middle"))
    for decade in range(y_low, y_high + 1):
        at = y(decade)
        parts.append(line(_LEFT, at, _WIDTH - _RIGHT, at, "grid"))
        if decade >= 0:
            parts.append(svg_text(_whole(format_count(10**decade)), _LEFT - 8, at + 4, "end"))
    for decade in range(math.ceil(y_low - x_high), math.floor(y_high - x_low) + 1):
        # On the line of 10^d bytes, log flops = log intensity + d.
        start, end = max(x_low, y_low - decade), min(x_high, y_high - decade)
        if end - start >= 0.75:
            parts.append(line(x(start), y(start + decade), x(end), y(end + decade), "iso"))
            parts.append(
                svg_text(
                    _whole(format_bytes(10**decade)) if decade >= 3 else "",
                    x(end) - 5,
                    y(end + decade) + 14,
                    "end",
                    class_="iso-label",
                )
            )
    colors = _colors(dots)
    # The rare types are drawn last, so that the common ones do not bury them.
    for cost in sorted(dots, key=lambda c: -sum(d.op == c.op for d in dots)):
        tip = (
            f"{cost.name} ({cost.op}): {format_flops(cost.flops)}, "
            f"{format_bytes(moved_bytes(cost))}, {cost.intensity:.2f} FLOP/B"
        )
        parts.append(
            element(
                "circle",
                element("title", tip),
                cx=f"{x(math.log10(cost.intensity)):.1f}",
                cy=f"{y(math.log10(cost.flops)):.1f}",
                r="6",
                class_=colors.get(cost.op, f"c{_COLORS - 1}"),
            )
        )
    parts.append(svg_text("FLOPs", _LEFT - 8, _TOP - 16, "end"))
    parts.append(
        svg_text(
            "arithmetic intensity, FLOP per byte",
            (_LEFT + _WIDTH - _RIGHT) / 2,
            _HEIGHT - 8,
            "middle",
        )
    )
    items = [element("li", swatch(color), op) for op, color in colors.items()]
    if any(cost.op not in colors for cost in dots):
        items.append(element("li", swatch(f"c{_COLORS - 1}"), "other"))
    plot = element(
        "svg",
        *parts,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        class_="plot",
        role="img",
        aria_label="FLOPs of each operator over its arithmetic intensity",
    )
    return joined(element("ul", *items, class_="legend"), plot)


def _colors(dots: Sequence[OpCost]) -> dict[str, str]:
    """A colour class for the types with the most work; the others share the last one."""
    groups = group_by_op(dots)
    own = groups if len(groups) <= _COLORS else groups[: _COLORS - 1]
    return {group.op: f"c{index}" for index, group in enumerate(own)}


def _decades(values: Sequence[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _whole(power_of_ten: str) -> str:
    return power_of_ten.replace(".0", "")


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line in the units of the chart."""
    return element(
        "line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=class_
    )


def svg_text(text: str, x: float, y: float, anchor: str, class_: str | None = None) -> Markup:
    """Text at a point of the chart; `anchor` is `start`, `middle` or `end`."""
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, class_=class_)


def swatch(class_: str) -> Markup:
    """The small square before a word of a legend."""
    square = element("rect", width="10", height="10", rx="3", class_=class_)
    return element("svg", square, aria_hidden="true")
