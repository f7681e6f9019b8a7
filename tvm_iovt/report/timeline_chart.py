"""The timeline of a pipeline as inline SVG: what each lane of each stage did when."""

from __future__ import annotations

from tvm_iovt.report.axes import duration_ticks
from tvm_iovt.report.charts import line, svg_text, swatch
from tvm_iovt.report.markup import Markup, element, joined
from tvm_iovt.report.units import counted, format_seconds
from tvm_iovt.runtime.timeline import COMPUTE, RECEIVE, SEND, Span, Timeline

_WIDTH = 900
_LEFT, _RIGHT, _TOP, _BOTTOM = 172, 16, 10, 44
_BAR, _PITCH, _GAP = 20, 25, 14  # a bar, from lane to lane, between stages
_SHADES = 4
_DIGIT = 7.2  # width of a digit, about
_LEAST_WIDTH = 0.8  # a span shorter than a pixel is still seen
_NAME_CHARS = 20

CLASSES = {RECEIVE: "receive", COMPUTE: "f1", SEND: "send"}
"""Of the style sheet: the colour of each action, where frames are not told apart."""

STYLE = """
:root{--f0:#174a80;--f1:#2468b0;--f2:#0f6f8f;--f3:#4b55b5}
@media (prefers-color-scheme:dark){:root{--f0:#6cb0f2;--f1:#9cc9f7;--f2:#5fc4d6;--f3:#a9aef7}}
.receive{fill:var(--traffic)}.send{fill:var(--good)}
.f0{fill:var(--f0)}.f1{fill:var(--f1)}.f2{fill:var(--f2)}.f3{fill:var(--f3)}
.timeline{overflow-x:auto}
.timeline .plot{min-width:800px}
.timeline .plot text{font-size:12px}
.timeline .plot .frame{fill:var(--surface);font-size:11px;pointer-events:none}
.timeline .plot .stage-name{fill:var(--ink);font-weight:600}
.timeline .plot .lane{fill:var(--track)}
.timeline .plot .bar:hover{stroke:var(--ink);stroke-width:1.5}
.legend .shades{width:34px}
.windows{display:grid;gap:18px;grid-template-columns:minmax(0,1fr)}
.windows h4{margin:0 0 6px;font-size:13.5px;font-weight:600}
.windows h4 span{font-weight:400;color:var(--soft)}
"""


def timeline_plot(timeline: Timeline, start_s: float, end_s: float) -> Markup:
    """The spans that lie, at least in part, in a window of the run.

    A row is a lane; a lane carries one frame at a time. Colours tell what was done, the shade of
    the computing and the number tell the frame.

    Args:
        timeline: Of the run.
        start_s: Begin of the window.
        end_s: Its end, later than its begin.
    """
    rows = _rows(timeline)
    floor = float(_TOP + max(rows.values(), default=0) + _PITCH)
    height = floor + _BOTTOM
    scale = (_WIDTH - _LEFT - _RIGHT) / (end_s - start_s)

    def x(at_s: float) -> float:
        return _LEFT + (min(max(at_s, start_s), end_s) - start_s) * scale

    parts: list[str] = []
    for offset in rows.values():
        parts.append(
            element(
                "rect",
                x=f"{_LEFT}",
                y=f"{_TOP + offset}",
                width=f"{_WIDTH - _LEFT - _RIGHT}",
                height=f"{_BAR}",
                class_="lane",
            )
        )
    unit, ticks = duration_ticks(start_s, end_s)
    for at_s, text in ticks:
        parts.append(line(x(at_s), _TOP, x(at_s), floor, "grid"))
        parts.append(svg_text(text, x(at_s), floor + 17, "middle"))
    parts.append(svg_text(unit, (_LEFT + _WIDTH - _RIGHT) / 2, height - 6, "middle"))
    parts += _names(timeline, rows)
    for span in timeline.spans:
        if span.end_s > start_s and span.start_s < end_s:
            parts += _bar(span, x(span.start_s), x(span.end_s), _TOP + rows[span.stage, span.lane])
    chart = element(
        "svg",
        *parts,
        viewBox=f"0 0 {_WIDTH} {height:.0f}",
        class_="plot gantt",
        role="img",
        aria_label=f"What {counted(len(timeline.stages), 'stage')} did from "
        f"{format_seconds(start_s)} to {format_seconds(end_s)}",
    )
    return element("div", chart, class_="timeline")


def timeline_windows(timeline: Timeline, frames: int) -> Markup:
    """The begin of a run, while the pipeline fills, and a window of its middle; or all of it.

    Args:
        timeline: Of the run; one without a span makes nothing.
        frames: About how many frames to show in each window.
    """
    if not timeline.spans or timeline.length_s <= 0:
        return joined()
    windows = [
        element(
            "div",
            element("h4", title, element("span", f" {note}")),
            timeline_plot(timeline, start_s, end_s),
        )
        for title, note, start_s, end_s in windows_of(timeline, frames)
    ]
    return joined(_legend(timeline), element("div", *windows, class_="windows"))


def windows_of(timeline: Timeline, frames: int) -> list[tuple[str, str, float, float]]:
    """Title, note, begin and end of the windows that `timeline_windows` draws."""
    ended_s = _frame_ends(timeline)
    if len(ended_s) <= 2 * frames:
        end_s = max(timeline.length_s, *ended_s.values())
        return [("The whole run", counted(len(ended_s), "frame"), 0.0, end_s)]
    # Of a long run the frames in the middle were not kept.
    first = min(ended_s)
    known_s = sorted(
        end_s
        for place, (number, end_s) in enumerate(sorted(ended_s.items()))
        if number == first + place
    )
    fill_s = known_s[min(frames, len(known_s)) - 1]
    # As long as the first one, so that both have the same scale.
    start_s = max(min(known_s[len(known_s) // 2], known_s[-1] - fill_s), 0.0)
    begins = next(n for n in sorted(ended_s) if ended_s[n] > start_s)
    return [
        ("Filling", f"the first {counted(frames, 'frame')}", 0.0, fill_s),
        ("Full", f"from frame {begins} on", start_s, start_s + fill_s),
    ]


def _rows(timeline: Timeline) -> dict[tuple[int, int], int]:
    """Where the row of each lane of each stage is, below the top."""
    lanes: dict[int, set[int]] = {stage: set() for stage in range(len(timeline.stages))}
    for span in timeline.spans:
        lanes.setdefault(span.stage, set()).add(span.lane)
    rows: dict[tuple[int, int], int] = {}
    offset = 0
    for stage in sorted(lanes):
        for lane in sorted(lanes[stage]) or (0,):
            rows[stage, lane] = offset
            offset += _PITCH
        offset += _GAP
    return rows


def _names(timeline: Timeline, rows: dict[tuple[int, int], int]) -> list[str]:
    parts: list[str] = []
    for (stage, lane), offset in rows.items():
        first = min(other for at, other in rows if at == stage)
        if lane == first:
            name = timeline.stages[stage] if stage < len(timeline.stages) else f"stage {stage}"
            short = name if len(name) <= _NAME_CHARS else f"{name[: _NAME_CHARS - 1]}…"
            parts.append(
                element(
                    "text",
                    element("title", name),
                    short,
                    x=f"{_LEFT - 10}",
                    y=f"{_TOP + offset + 14}",
                    text_anchor="end",
                    class_="stage-name",
                )
            )
        else:
            parts.append(svg_text(f"lane {lane}", _LEFT - 10, _TOP + offset + 14, "end"))
    return parts


def _bar(span: Span, left: float, right: float, top: float) -> list[str]:
    shade = f"f{span.frame % _SHADES}" if span.action == COMPUTE else CLASSES.get(span.action, "")
    duration_s = span.end_s - span.start_s
    tip = (
        f"frame {span.frame}: {span.action} {format_seconds(duration_s)}, "
        f"{format_seconds(span.start_s)} to {format_seconds(span.end_s)}"
    )
    width = max(right - left, _LEAST_WIDTH)
    parts: list[str] = [
        element(
            "rect",
            element("title", tip),
            x=f"{left:.2f}",
            y=f"{top:.1f}",
            # A hair of the background between neighbours.
            width=f"{width - 0.6 if width > 3 else width:.2f}",
            height=f"{_BAR}",
            class_=f"bar {shade}",
        )
    ]
    number = str(span.frame)
    if span.action == COMPUTE and width > _DIGIT * len(number) + 4:
        parts.append(svg_text(number, left + width / 2, top + 14, "middle", "frame"))
    return parts


def _legend(timeline: Timeline) -> Markup:
    done = {span.action for span in timeline.spans}
    items: list[Markup] = []
    if RECEIVE in done:
        items.append(element("li", swatch("receive"), "receives"))
    if COMPUTE in done:
        text = "computes; number and shade tell the frame"
        items.append(element("li", _shades(), text))
    if SEND in done:
        items.append(element("li", swatch("send"), "sends"))
    return element("ul", *items, class_="legend")


def _shades() -> Markup:
    squares = [
        element("rect", x=str(8 * shade), width="8", height="10", class_=f"f{shade}")
        for shade in range(_SHADES)
    ]
    return element("svg", *squares, class_="shades", aria_hidden="true")


def _frame_ends(timeline: Timeline) -> dict[int, float]:
    ends: dict[int, float] = {}
    for span in timeline.spans:
        ends[span.frame] = max(ends.get(span.frame, 0.0), span.end_s)
    return ends
