"""The roofline of a device as inline SVG, with the units of a network as dots.

Roofline: doi 10.1145/1498765.1498785.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm_iovt.report import roofline_dots, roofline_roofs
from tvm_iovt.report.charts import line, svg_text
from tvm_iovt.report.log_scale import LogScale, spanning
from tvm_iovt.report.markup import Markup, element
from tvm_iovt.report.roofline_dots import (
    Dot,
    Look,
    back_to_front,
    color_items,
    dot_items,
    look_of,
    rate,
)
from tvm_iovt.report.roofline_roofs import (
    Roofs,
    peak_labels,
    ridge,
    ridge_marks,
    roof_lines,
    roofs_of,
)
from tvm_iovt.report.roofline_strip import bytes_strip
from tvm_iovt.report.units import counted, format_flops
from tvm_iovt.types import DeviceProfile
from tvm_iovt.unit_laws import peak_of

_WIDTH, _HEIGHT = 930, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 92, 226, 16, 52
_DECADES = 7  # below the highest roof, that are shown

STYLE = (
    """
.roofline{display:grid;gap:6px;grid-template-columns:minmax(0,1fr)}
.wide-plot{overflow-x:auto}
.wide-plot .plot{min-width:700px;max-width:980px}
.wide-plot .plot text{font-size:11.5px;paint-order:stroke;stroke:var(--surface);stroke-width:4px;
stroke-linejoin:round}
.plot .bound{fill:var(--track);opacity:.6}
"""
    + roofline_roofs.STYLE
    + roofline_dots.STYLE
)


def roofline_plot(
    profile: DeviceProfile, dots: Sequence[Dot], *, threads: int, name: str
) -> Markup:
    """Attained FLOPs a second over intensity under the device's roofs, with a legend.

    Units without FLOPs lie in a strip below, by the bytes that they move in a second. The area of a
    dot is its share of the time of all units. Units that move nothing are left out.

    Args:
        profile: Of the device.
        dots: Units that the device can run; may be empty.
        threads: Of the roof that the dots' times are for; others are drawn faint.
        name: Of the device, for those who cannot see the chart.
    """
    working = [dot for dot in dots if dot.unit.flops > 0 and dot.unit.nbytes > 0]
    moving = [dot for dot in dots if dot.unit.flops <= 0 and dot.unit.nbytes > 0]
    roofs, look = roofs_of(profile, threads, working), look_of(dots)
    charts = [_chart(roofs, working, look, name)]
    if moving:
        charts.append(
            bytes_strip(roofs.main, moving, look, name=name, left=_LEFT, right=_RIGHT, width=_WIDTH)
        )
    legend = _legend(profile, roofs, dots, look)
    return element("div", legend, element("div", *charts, class_="wide-plot"), class_="roofline")


def _chart(roofs: Roofs, dots: Sequence[Dot], look: Look, name: str) -> Markup:
    x, y = _scales(roofs, dots)
    turning = x.at(roofs.ridge)
    parts: list[str] = [
        element(
            "rect",
            x=f"{_LEFT}",
            y=f"{_TOP}",
            width=f"{turning - _LEFT:.1f}",
            height=f"{_HEIGHT - _BOTTOM - _TOP}",
            class_="bound",
        )
    ]
    for value in x.marks():
        parts.append(line(x.at(value), _TOP, x.at(value), _HEIGHT - _BOTTOM, "grid"))
        parts.append(svg_text(f"{value:g}", x.at(value), _HEIGHT - _BOTTOM + 20, "middle"))
    for value in y.marks():
        text = rate(value, format_flops).replace(".0 ", " ") if value >= 1 else f"{value:g} FLOP/s"
        parts.append(line(_LEFT, y.at(value), _WIDTH - _RIGHT, y.at(value), "grid"))
        parts.append(svg_text(text, _LEFT - 8, y.at(value) + 4, "end"))
    parts += roof_lines(roofs, x, y)
    parts += [
        look.element(dot, x.at(dot.unit.intensity), y.at(dot.unit.flops / dot.unit_s))
        for dot in back_to_front(dots)
    ]
    parts += ridge_marks(roofs, x, y)
    parts += peak_labels(roofs, x, y)
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    axis = "arithmetic intensity, FLOP a byte (weights are traffic)"
    parts.append(svg_text(axis, middle, _HEIGHT - 8, "middle"))
    if turning - _LEFT > 110:
        parts.append(svg_text("memory-bound", _LEFT + 8, _TOP + 16, "start"))
    if _WIDTH - _RIGHT - turning > 130:
        parts.append(svg_text("compute-bound", turning + 8, _HEIGHT - _BOTTOM - 26, "start"))
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        class_="plot roofs",
        role="img",
        aria_label=f"Roofline of {name}: {counted(len(dots), 'unit')} with FLOPs",
    )


def _scales(roofs: Roofs, dots: Sequence[Dot]) -> tuple[LogScale, LogScale]:
    """Axes with room for all dots and ridges."""
    ridges = [ridge(roof, dtype) for roof, dtype, _ in roofs.all()]
    peaks = [peak_of(roof, dtype) for roof, dtype, _ in roofs.all()]
    attained = [dot.unit.flops / dot.unit_s for dot in dots]
    low, high = spanning([*(dot.unit.intensity for dot in dots), *ridges], least=100.0)
    x = LogScale(low=low, high=high, start=_LEFT, end=_WIDTH - _RIGHT)
    highest = max(*peaks, *attained, 1.0)
    lowest = max(min(*peaks, *attained, highest), highest / 10.0**_DECADES)
    low, high = spanning([lowest, highest], least=100.0)
    return x, LogScale(low=low, high=1.3 * high, start=_HEIGHT - _BOTTOM, end=_TOP)


def _legend(profile: DeviceProfile, roofs: Roofs, dots: Sequence[Dot], look: Look) -> Markup:
    items = color_items((dot.group for dot in dots), look.colors)
    items += dot_items(dots)
    text = f"roof of {counted(roofs.main.threads, 'thread')}, {profile.source}"
    items.append(element("li", _line_swatch("roof"), text))
    if roofs.others:
        items.append(element("li", _line_swatch("roof other"), "other numbers of threads"))
    if roofs.main.cache_bandwidth_bytes_per_s:
        items.append(element("li", _line_swatch("roof cache"), "nearest cache"))
    items.append(element("li", _ridge_swatch(), "ridge"))
    return element("ul", *items, class_="legend")


def _line_swatch(class_: str) -> Markup:
    drawn = element("line", x1="0", y1="5", x2="10", y2="5", class_=class_)
    return element("svg", drawn, aria_hidden="true")


def _ridge_swatch() -> Markup:
    drawn = element("path", d="M5 1l4 4l-4 4l-4 -4z", class_="ridge-mark")
    return element("svg", drawn, aria_hidden="true")
