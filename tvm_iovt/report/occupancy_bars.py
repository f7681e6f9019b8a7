"""How busy the stages of a pipeline were, as bars."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_iovt.report.charts import swatch
from tvm_iovt.report.markup import Markup, element
from tvm_iovt.report.timeline_chart import CLASSES
from tvm_iovt.report.units import counted, format_percent
from tvm_iovt.runtime.timeline import ACTIONS, COMPUTE, RECEIVE, SEND, Timeline

STYLE = """
.bars.busy svg{height:14px}
"""


def occupancy_bars(timeline: Timeline) -> Markup:
    """For each stage the share of the run in which it received, computed and sent."""
    rows: list[str] = []
    for stage, name in enumerate(timeline.stages):
        shares = [(action, timeline.occupancy(stage, action)) for action in ACTIONS]
        lanes = len({span.lane for span in timeline.spans if span.stage == stage}) or 1
        words = ", ".join(f"{action} {format_percent(share)}" for action, share in shares if share)
        computes = format_percent(timeline.occupancy(stage, COMPUTE))
        rows.append(
            element(
                "div",
                element("div", name, class_="name"),
                element(
                    "div", f"{computes} computing, {counted(lanes, 'lane')}", class_="soft num"
                ),
                _stacked(shares, lanes, f"{name}: {words or 'idle'}"),
                class_="row",
            )
        )
    return element("div", *rows, class_="bars busy")


def _stacked(shares: Sequence[tuple[str, float]], lanes: int, label: str) -> Markup:
    """One bar; full if all lanes were always busy."""
    parts: list[str] = [element("rect", width="100%", height="14", rx="3", class_="track")]
    at = 0.0
    for action, share in shares:
        width = min(share / lanes, 1.0 - at)
        if width > 0:
            parts.append(
                element(
                    "rect",
                    element("title", f"{action} {format_percent(share)}"),
                    x=f"{100 * at:.2f}%",
                    width=f"{100 * width:.2f}%",
                    height="14",
                    class_=CLASSES[action],
                )
            )
            at += width
    return element("svg", *parts, role="img", aria_label=label)


def occupancy_legend() -> Markup:
    """What the colours of `occupancy_bars` tell."""
    words = {RECEIVE: "receiving", COMPUTE: "computing", SEND: "sending"}
    items = [element("li", swatch(CLASSES[action]), words[action]) for action in ACTIONS]
    return element("ul", *items, class_="legend")
