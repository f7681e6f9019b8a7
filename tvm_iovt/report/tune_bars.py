"""Bars of a tuning run: the kernels in a run of the network, and where the tuner's time went."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_iovt.report.charts import swatch
from tvm_iovt.report.markup import Markup, breakable, element, joined
from tvm_iovt.report.tune_history import TaskState
from tvm_iovt.report.units import counted, format_percent, format_seconds

_BARS_SHOWN = 10

STYLE = """
.before-bar{fill:var(--traffic)}.after-bar{fill:var(--work)}
.stack{display:flex;height:14px;border-radius:4px;overflow:hidden;background:var(--track);gap:1px}
.stack div{background:var(--part)}
.stack+.legend{margin-top:8px}
"""


def network_bars(tasks: Sequence[TaskState]) -> Markup:
    """Seconds of each kernel in a run of the network: with the template and with the best."""
    known = [task for task in tasks if task.network_s]
    shown = known if len(known) <= _BARS_SHOWN + 1 else known[:_BARS_SHOWN]
    largest = max((max(_before_s(task), task.network_s) for task in shown), default=0.0)
    rows = [_bar_row(task, largest) for task in shown]
    legend = element(
        "ul",
        element("li", swatch("before-bar"), "template"),
        element("li", swatch("after-bar"), "best found"),
        class_="legend",
    )
    rest = known[len(shown) :]
    others = format_seconds(sum(task.network_s for task in rest))
    text = f"The other {counted(len(rest), 'kernel')}: {others}."
    note = element("p", text, class_="soft small") if rest else joined()
    return joined(legend, element("div", *rows, class_="bars"), note)


def stacked_bar(parts: Sequence[tuple[str, float, str]]) -> Markup:
    """Shares of one whole: name, share, colour variable."""
    pieces = [
        element("div", style=f"width:{100 * min(max(share, 0), 1):.2f}%;--part:var(--{color})")
        for _, share, color in parts
    ]
    items = [
        element("li", swatch(color), f"{name} {format_percent(share)}")
        for name, share, color in parts
    ]
    label = ", ".join(f"{name} {format_percent(share)}" for name, share, _ in parts)
    return joined(
        element("div", *pieces, class_="stack", role="img", aria_label=label),
        element("ul", *items, class_="legend"),
    )


def _before_s(task: TaskState) -> float:
    return task.summary.weight * task.template_s if task.template_s is not None else 0.0


def _bar_row(task: TaskState, largest: float) -> Markup:
    before_s, after_s = _before_s(task), task.network_s
    ratio = f", {task.ratio:.2f}x" if task.ratio is not None else ""
    before = format_seconds(before_s) if before_s else "unknown"
    bars = element(
        "svg",
        element("rect", width="100%", height="6", rx="3", class_="track"),
        element("rect", width=_part(before_s, largest), height="6", rx="3", class_="before-bar"),
        element("rect", y="9", width="100%", height="6", rx="3", class_="track"),
        element(
            "rect", y="9", width=_part(after_s, largest), height="6", rx="3", class_="after-bar"
        ),
        role="img",
        aria_label=f"{task.summary.name}: template {before}, best {format_seconds(after_s)}",
    )
    calls = f" ×{task.summary.weight}" if task.summary.weight > 1 else ""  # noqa: RUF001
    return element(
        "div",
        element("div", breakable(task.summary.name), element("span", calls), class_="name"),
        element("div", f"{before} → {format_seconds(after_s)}{ratio}", class_="soft num"),
        bars,
        class_="row",
    )


def _part(seconds: float, largest: float) -> str:
    return f"{100 * seconds / largest:.2f}%" if largest else "0%"
