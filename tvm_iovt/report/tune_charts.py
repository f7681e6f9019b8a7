"""Charts of a tuning run as inline SVG: the network's time over trials or time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm_iovt.report.axes import count_ticks, duration_axis, time_ticks
from tvm_iovt.report.charts import line, svg_text, swatch
from tvm_iovt.report.markup import Markup, element
from tvm_iovt.report.units import format_seconds

_WIDTH, _HEIGHT = 540, 310
_LEFT, _RIGHT, _TOP, _BOTTOM = 92, 22, 14, 52

STYLE = """
.plot .step{fill:none;stroke:var(--work);stroke-width:2.25;stroke-linejoin:round}
.plot .under{fill:var(--work);opacity:.09}
.plot .reference{stroke:var(--traffic);stroke-width:1.75;stroke-dasharray:6 5}
.plot .earlier{fill:var(--track);opacity:.75}
.plot .seam{stroke:var(--soft);stroke-width:1.25;stroke-dasharray:2 4}
.plot .failed{stroke:var(--bad);stroke-width:1.5;opacity:.75}
.plot circle.gain{fill:var(--work);fill-opacity:1;stroke:var(--surface);stroke-width:1.25}
.plot .before,.legend .before{fill:var(--surface);stroke:var(--traffic);stroke-width:2}
.plot .after,.legend .after{fill:var(--good);stroke:var(--surface);stroke-width:1.5}
.legend line{stroke-width:2.5}.legend .step{stroke:var(--work)}
.legend .reference{stroke:var(--traffic);stroke-dasharray:4 2}
.legend .failed{stroke:var(--bad)}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """The network's estimated time once a trial has come back.

    Attributes:
        at: Where on the horizontal axis: trials or seconds.
        network_s: Estimated seconds of a run of the network from here on.
        gain: Which kernel got faster here and how much, for people; empty if none did.
    """

    at: float
    network_s: float
    gain: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What the chart shows.

    Attributes:
        points: In order.
        end: Right end of the horizontal axis.
        template_s: Estimated seconds with the templates' schedules; None if unknown.
        failed: Where trials failed.
        resumed_at: Until where earlier, interrupted runs went; 0 without them.
        before_s: Of the network with the templates, measured as a whole; None if it was not.
        after_s: The same with the chosen schedules.
    """

    points: tuple[CurvePoint, ...]
    end: float
    template_s: float | None
    failed: tuple[float, ...] = ()
    resumed_at: float = 0.0
    before_s: float | None = None
    after_s: float | None = None


def tuning_curve(curve: Curve, *, timed: bool, name: str) -> Markup:
    """A step line from the first estimate to the last, the templates as a reference.

    Args:
        curve: What to show.
        timed: Whether the horizontal axis counts seconds, not trials.
        name: What the chart is, for those who cannot see it.
    """
    levels = [point.network_s for point in curve.points]
    levels += [s for s in (curve.template_s, curve.before_s, curve.after_s) if s is not None]
    low_s, high_s, levels_marked = duration_axis(min(levels), max(levels))
    end = max(curve.end, 1e-9)

    def x(at: float) -> float:
        return _LEFT + min(max(at / end, 0.0), 1.0) * (_WIDTH - _LEFT - _RIGHT)

    def y(seconds: float) -> float:
        share = (seconds - low_s) / (high_s - low_s)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    floor = float(_HEIGHT - _BOTTOM)
    parts: list[str] = []
    if curve.resumed_at > 0:
        parts.append(
            element(
                "rect",
                element("title", "made by earlier, interrupted runs"),
                x=f"{_LEFT}",
                y=f"{_TOP}",
                width=f"{x(curve.resumed_at) - _LEFT:.1f}",
                height=f"{floor - _TOP:.1f}",
                class_="earlier",
            )
        )
        parts.append(line(x(curve.resumed_at), _TOP, x(curve.resumed_at), floor, "seam"))
    for level_s, text in levels_marked:
        parts.append(line(_LEFT, y(level_s), _WIDTH - _RIGHT, y(level_s), "grid"))
        parts.append(svg_text(text, _LEFT - 10, y(level_s) + 4, "end"))
    axis, marked = time_ticks(end) if timed else ("trials", count_ticks(end))
    for at, text in marked:
        parts.append(line(x(at), floor, x(at), floor + 5, "grid"))
        parts.append(svg_text(text, x(at), floor + 22, "middle"))
    parts.append(svg_text(axis, (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, "middle"))
    for pixel in sorted({round(x(at)) for at in curve.failed}):
        parts.append(line(pixel, floor - 9, pixel, floor - 1, "failed"))
    if curve.template_s is not None:
        at_y = y(curve.template_s)
        parts.append(line(_LEFT, at_y, _WIDTH - _RIGHT, at_y, "reference"))
    parts += _steps(curve, x, y, floor)
    parts += _marks(curve, y)
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        class_="plot",
        role="img",
        aria_label=name,
    )


def curve_legend(curve: Curve) -> Markup:
    """The names of what the chart shows, with the numbers that matter."""
    items: list[tuple[Markup, str]] = []
    if curve.points:
        best = format_seconds(curve.points[-1].network_s)
        items.append((_line_swatch("step"), f"best so far, {best} at the end"))
    if curve.template_s is not None:
        items.append((_line_swatch("reference"), f"templates, {format_seconds(curve.template_s)}"))
    if curve.before_s is not None:
        text = f"whole network with templates, {format_seconds(curve.before_s)}"
        items.append((_diamond_swatch("before"), text))
    if curve.after_s is not None:
        text = f"whole network with what was found, {format_seconds(curve.after_s)}"
        items.append((_diamond_swatch("after"), text))
    if curve.failed:
        items.append((_line_swatch("failed"), "failed trials"))
    if curve.resumed_at > 0:
        items.append((swatch("earlier track"), "before it was resumed"))
    return element("ul", *(element("li", *item) for item in items), class_="legend")


def _steps(
    curve: Curve, x: Callable[[float], float], y: Callable[[float], float], floor: float
) -> list[str]:
    """The step line with what is under it, and a dot where a kernel got faster."""
    if not curve.points:
        return []
    first = curve.points[0]
    path = [f"M{x(first.at):.1f} {y(first.network_s):.1f}"]
    level_s = first.network_s
    for point in curve.points[1:]:
        # Only where it changes: a run of hours has thousands of trials.
        if point.network_s != level_s:
            path.append(f"H{x(point.at):.1f}V{y(point.network_s):.1f}")
            level_s = point.network_s
    path.append(f"H{x(curve.end):.1f}")
    outline = "".join(path)
    parts: list[str] = [
        element("path", d=f"{outline}V{floor:.1f}H{x(first.at):.1f}Z", class_="under"),
        element("path", d=outline, class_="step"),
    ]
    for point in curve.points:
        if point.gain:
            parts.append(
                element(
                    "circle",
                    element("title", point.gain),
                    cx=f"{x(point.at):.1f}",
                    cy=f"{y(point.network_s):.1f}",
                    r="4",
                    class_="gain",
                )
            )
    return parts


def _marks(curve: Curve, y: Callable[[float], float]) -> list[str]:
    """Diamonds at the right end: the network measured as a whole."""
    at = _WIDTH - _RIGHT
    return [
        element(
            "path",
            element("title", f"{text}: {format_seconds(seconds)}"),
            d=f"M{at} {y(seconds) - 9:.1f}l9 9l-9 9l-9 -9z",
            class_=kind,
        )
        for kind, text, seconds in (
            ("before", "whole network with the templates", curve.before_s),
            ("after", "whole network with what was found", curve.after_s),
        )
        if seconds is not None
    ]


def _line_swatch(class_: str) -> Markup:
    drawn = element("line", x1="0", y1="5", x2="10", y2="5", class_=class_)
    return element("svg", drawn, aria_hidden="true")


def _diamond_swatch(class_: str) -> Markup:
    drawn = element("path", d="M5 1l4 4l-4 4l-4 -4z", class_=class_)
    return element("svg", drawn, aria_hidden="true")
