"""Predicted over measured times of units as inline SVG."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_iovt.report.charts import line, svg_text, swatch
from tvm_iovt.report.log_scale import LogScale, spanning
from tvm_iovt.report.markup import Markup, element, joined
from tvm_iovt.report.roofline_dots import color_items, own_colors
from tvm_iovt.report.units import counted, format_percent, format_seconds

BAND = 0.15
"""Relative half-width of the band in which a prediction counts as good."""

_WIDTH, _HEIGHT = 540, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 82, 18, 16, 52
_OTHER = 5  # number of the colour that small groups share

STYLE = """
.plot .band{fill:var(--good-bg)}
.plot .equal{stroke:var(--good);stroke-width:1.5}
.legend .band{fill:var(--good-bg);stroke:var(--good);stroke-width:1}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A unit's predicted and measured time.

    Attributes:
        name: Of the unit.
        group: What decides about its colour.
        predicted_s: Positive.
        measured_s: Positive.
    """

    name: str
    group: str
    predicted_s: float
    measured_s: float

    @property
    def error(self) -> float:
        """Relative to the measured time."""
        return (self.predicted_s - self.measured_s) / self.measured_s


def median_error(pairs: Sequence[Pair]) -> float:
    """Median of the relative errors' sizes; of at least one pair."""
    return statistics.median(abs(pair.error) for pair in pairs)


def accuracy_words(pairs: Sequence[Pair]) -> str:
    """How good the predictions are, in a sentence."""
    inside = sum(abs(pair.error) <= BAND for pair in pairs)
    predicted_s = sum(pair.predicted_s for pair in pairs)
    measured_s = sum(pair.measured_s for pair in pairs)
    error = (predicted_s - measured_s) / measured_s
    return (
        f"Median error {format_percent(median_error(pairs))}; {inside} of "
        f"{counted(len(pairs), 'unit')} within {format_percent(BAND)}. All of them together: "
        f"{format_seconds(predicted_s)} predicted, {format_seconds(measured_s)} measured "
        f"({'+' if error > 0 else '-' if error < 0 else ''}{format_percent(abs(error))})."
    )


def unit_scatter(pairs: Sequence[Pair], *, name: str) -> Markup:
    """A dot for each unit; those on the diagonal were predicted exactly. Nothing without pairs."""
    if not pairs:
        return joined()
    low, high = spanning(s for pair in pairs for s in (pair.predicted_s, pair.measured_s))
    x = LogScale(low=low, high=high, start=_LEFT, end=_WIDTH - _RIGHT)
    y = LogScale(low=low, high=high, start=_HEIGHT - _BOTTOM, end=_TOP)
    parts: list[str] = [_band(x, y, low, high)]
    for value in x.marks():
        text = format_seconds(value).replace(".00", "").replace(".0", "")
        parts.append(line(x.at(value), _TOP, x.at(value), _HEIGHT - _BOTTOM, "grid"))
        parts.append(svg_text(text, x.at(value), _HEIGHT - _BOTTOM + 20, "middle"))
        parts.append(line(_LEFT, y.at(value), _WIDTH - _RIGHT, y.at(value), "grid"))
        parts.append(svg_text(text, _LEFT - 8, y.at(value) + 4, "end"))
    parts.append(line(x.at(low), y.at(low), x.at(high), y.at(high), "equal"))
    spent_s: dict[str, float] = {}
    for pair in pairs:
        spent_s[pair.group] = spent_s.get(pair.group, 0.0) + pair.measured_s
    colors = own_colors(spent_s)
    for pair in pairs:
        sign = "+" if pair.error > 0 else "-" if pair.error < 0 else ""
        tip = (
            f"{pair.name} ({pair.group}): {format_seconds(pair.predicted_s)} predicted, "
            f"{format_seconds(pair.measured_s)} measured, {sign}{format_percent(abs(pair.error))}"
        )
        parts.append(
            element(
                "circle",
                element("title", tip),
                cx=f"{x.at(pair.measured_s):.1f}",
                cy=f"{y.at(pair.predicted_s):.1f}",
                r="4.5",
                class_=f"c{colors.get(pair.group, _OTHER)}",
            )
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(svg_text("measured", middle, _HEIGHT - 8, "middle"))
    parts.append(svg_text("predicted", _LEFT + 8, _TOP + 14, "start"))
    items = color_items((pair.group for pair in pairs), colors)
    items.append(element("li", swatch("band"), f"within {format_percent(BAND)}"))
    chart = element(
        "svg",
        *parts,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        class_="plot scatter",
        role="img",
        aria_label=f"Predicted over measured times of {counted(len(pairs), 'unit')} on {name}",
    )
    return joined(element("ul", *items, class_="legend"), element("div", chart, class_="wide-plot"))


def _band(x: LogScale, y: LogScale, low: float, high: float) -> Markup:
    """Where the prediction is within the band of the measured time."""
    above = [(low, low * (1 + BAND)), (high / (1 + BAND), high), (high, high)]
    below = [(high, high * (1 - BAND)), (low / (1 - BAND), low), (low, low)]
    points = " ".join(f"{x.at(m):.1f},{y.at(p):.1f}" for m, p in (*above, *below))
    return element("polygon", points=points, class_="band")
