"""The roofs of a device in a roofline chart: slopes, peaks, ridges and their labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tvm_iovt.report.charts import line, svg_text
from tvm_iovt.report.log_scale import LogScale
from tvm_iovt.report.markup import Markup, element
from tvm_iovt.report.roofline_dots import Dot, rate
from tvm_iovt.report.units import counted, format_bytes, format_flops
from tvm_iovt.types import DeviceProfile, Roof
from tvm_iovt.unit_laws import peak_of
from tvm_iovt.unit_times import roof_of

_PITCH = 15.0  # of labels
_MAIN = "float32"
_LEAST_SLOPE = 180.0  # that has room for a label

STYLE = """
.plot .roof{fill:none;stroke:var(--ink);stroke-width:2;stroke-linejoin:round}
.plot .roof.other{stroke:var(--soft);stroke-width:1.25}
.plot .roof.cache{stroke:var(--soft);stroke-width:1.25;stroke-dasharray:2 4}
.plot .ridge{stroke:var(--ink);stroke-width:1;stroke-dasharray:5 4}
.plot .ridge-mark,.legend .ridge-mark{fill:var(--surface);stroke:var(--ink);stroke-width:1.75}
.wide-plot .plot .strong{fill:var(--ink);font-weight:600}
.legend .roof{stroke:var(--ink);stroke-width:2}
.legend .roof.other{stroke:var(--soft);stroke-width:1.5}
.legend .roof.cache{stroke:var(--soft);stroke-width:1.5;stroke-dasharray:2 2}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofs:
    """What is drawn of a device.

    Attributes:
        main: Of the number of threads that the units' times are for.
        others: Of other numbers of threads.
        dtypes: Whose peaks are drawn, the most important one first.
    """

    main: Roof
    others: tuple[Roof, ...]
    dtypes: tuple[str, ...]

    @property
    def dtype(self) -> str:
        """Of the main roof's strong line."""
        return self.dtypes[0]

    @property
    def ridge(self) -> float:
        """FLOPs a byte from which on kernels of the main roof wait for arithmetic."""
        return ridge(self.main, self.dtype)

    def all(self) -> Iterable[tuple[Roof, str, bool]]:
        """Every roof and dtype, and whether it is the main one, which comes last."""
        for roof in (*self.others, self.main):
            for dtype in reversed(self.dtypes):
                yield roof, dtype, roof is self.main and dtype == self.dtype


def roofs_of(profile: DeviceProfile, threads: int, dots: Sequence[Dot]) -> Roofs:
    """The roofs to draw: of all known numbers of threads, and the dtypes that the units have.

    Args:
        profile: Of the device.
        threads: That the dots' times are for.
        dots: Units on the device.
    """
    main = roof_of(profile, threads)
    known = list(dict.fromkeys(p.dtype for roof in profile.roofs for p in roof.peaks))
    spent_s = dict.fromkeys(known, 0.0)
    for dot in dots:
        # Units without a peak of their own are held against that of float32.
        spent_s[dot.unit.dtype if dot.unit.dtype in spent_s else _MAIN] += dot.unit_s
    drawn = sorted((d for d in known if spent_s[d] > 0), key=lambda dtype: -spent_s[dtype])
    return Roofs(
        main=main,
        others=tuple(roof for roof in profile.roofs if roof.threads != main.threads),
        dtypes=tuple(drawn) or (_MAIN,),
    )


def ridge(roof: Roof, dtype: str) -> float:
    """FLOPs a byte from which on a kernel no longer waits for memory."""
    return peak_of(roof, dtype) / roof.bandwidth_bytes_per_s


def three_digits(value: float) -> str:
    """`7.333` -> `7.33`, `1234.5` -> `1234`."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def roof_lines(roofs: Roofs, x: LogScale, y: LogScale) -> list[str]:
    """Slopes and peaks, and the slope of the nearest cache up to the main peak."""
    parts: list[str] = []
    for roof, dtype, main in roofs.all():
        peak, bandwidth = peak_of(roof, dtype), roof.bandwidth_bytes_per_s
        text = (
            f"{dtype}, {counted(roof.threads, 'thread')}: {rate(peak, format_flops)}, "
            f"{rate(bandwidth, format_bytes)}"
        )
        ends = [*_slope(peak, bandwidth, x, y), (x.high, min(x.high * bandwidth, peak))]
        parts.append(_path(ends, x, y, "roof" if main else "roof other", text))
    bandwidth = roofs.main.cache_bandwidth_bytes_per_s
    if bandwidth:
        ends = _slope(peak_of(roofs.main, roofs.dtype), bandwidth, x, y)
        if len(ends) > 1:
            text = f"nearest cache: {rate(bandwidth, format_bytes)}"
            parts.append(_path(ends, x, y, "roof cache", text))
    return [*parts, *_slope_label(roofs, x, y)]


def ridge_marks(roofs: Roofs, x: LogScale, y: LogScale) -> list[str]:
    """A mark at each ridge; a line down from the main one, with its intensity."""
    at_x, at_y = x.at(roofs.ridge), y.at(peak_of(roofs.main, roofs.dtype))
    parts: list[str] = [line(at_x, at_y, at_x, y.start, "ridge")]
    right = at_x > x.end - 130
    parts.append(
        svg_text(
            f"ridge {three_digits(roofs.ridge)} FLOP/B",
            at_x + (-8 if right else 8),
            y.start - 9,
            "end" if right else "start",
            class_="strong",
        )
    )
    for roof, dtype, _ in roofs.all():
        at, peak = ridge(roof, dtype), peak_of(roof, dtype)
        text = (
            f"ridge of {dtype}, {counted(roof.threads, 'thread')}: {three_digits(at)} FLOP/B, "
            f"{rate(peak, format_flops)}"
        )
        parts.append(
            element(
                "path",
                element("title", text),
                d=f"M{x.at(at):.1f} {y.at(peak) - 5:.1f}l5 5l-5 5l-5 -5z",
                class_="ridge-mark",
            )
        )
    return parts


def peak_labels(roofs: Roofs, x: LogScale, y: LogScale) -> list[str]:
    """Beside the right ends of the peaks, apart from each other."""
    labels = sorted(
        ((y.at(peak_of(roof, dtype)) + 4, roof, dtype, main) for roof, dtype, main in roofs.all()),
        key=lambda label: -label[0],
    )
    parts: list[str] = []
    places = _apart([at for at, *_ in labels])
    for at, (_, roof, dtype, main) in zip(places, labels, strict=True):
        text = rate(peak_of(roof, dtype), format_flops)
        if roofs.others:
            text += f", {counted(roof.threads, 'thread')}"
        if len(roofs.dtypes) > 1 or dtype != _MAIN:
            text = f"{dtype} {text}"
        parts.append(svg_text(text, x.end + 6, at, "start", "strong" if main else None))
    return parts


def _apart(wanted: Sequence[float]) -> list[float]:
    """Positions from the lowest to the highest, moved up to be apart, and down from the edge."""
    places: list[float] = []
    last = math.inf
    for at in wanted:
        last = min(at, last - _PITCH)
        places.append(last)
    first = -math.inf
    for number in reversed(range(len(places))):
        first = places[number] = max(places[number], first + _PITCH, _PITCH)
    return places


def _slope(peak: float, bandwidth: float, x: LogScale, y: LogScale) -> list[tuple[float, float]]:
    """Where the memory's slope enters the chart, and where it meets the peak."""
    enters = max(x.low, y.low / bandwidth)  # further left the slope is below the chart
    points = [(enters, min(enters * bandwidth, peak))]
    turns = peak / bandwidth
    return [*points, (turns, peak)] if enters < turns < x.high else points


def _path(
    points: Sequence[tuple[float, float]], x: LogScale, y: LogScale, class_: str, text: str
) -> Markup:
    path = "L".join(f"{x.at(intensity):.1f} {y.at(attained):.1f}" for intensity, attained in points)
    return element("path", element("title", text), d=f"M{path}", class_=class_)


def _slope_label(roofs: Roofs, x: LogScale, y: LogScale) -> list[str]:
    """The memory's bandwidth along the slope of the main roof; nothing where that is short."""
    bandwidth = roofs.main.bandwidth_bytes_per_s
    points = _slope(peak_of(roofs.main, roofs.dtype), bandwidth, x, y)
    if len(points) < 2:
        return []
    (left, low), (right, high) = ((x.at(i), y.at(attained)) for i, attained in points)
    if math.hypot(right - left, low - high) < _LEAST_SLOPE:
        return []
    angle = math.degrees(math.atan2(high - low, right - left))
    at_x, at_y = left + 0.45 * (right - left), low + 0.45 * (high - low)
    return [
        element(
            "text",
            f"memory {rate(bandwidth, format_bytes)}",
            text_anchor="middle",
            y="-8",
            transform=f"translate({at_x:.1f} {at_y:.1f}) rotate({angle:.1f})",
        )
    ]
