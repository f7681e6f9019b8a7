"""The latencies as one self-contained SVG: a group a network, a bar a runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from contestants import BASE, Contestant
from results import Measured, NetworkResult

# Okabe and Ito's palette, which colour-blind readers can tell apart; the strongest is ours.
_OURS = ("#d55e00", "#e69f00", "#f0c05a", "#b3863b")
_PEERS = ("#0072b2", "#009e73", "#cc79a7", "#56b4e9")
_REDUCED = "#c9ced3"  # of a runtime that does not compute in float32
_PALE = (*_OURS[1:3], *_PEERS[2:], _REDUCED)  # dark text on these
_NOISY_OPACITY = 0.4
_TEXT, _QUIET, _GRID = "#1f2328", "#59636e", "#e4e7eb"

_BAR, _GAP = 17, 30
_LEFT, _RIGHT, _TOP = 56, 20, 92
_PLOT, _PANEL = 220, 304
_HIGHEST = 1.5
_STEP = 0.25


@dataclass(frozen=True)
class Series:
    """The bars of one contestant."""

    name: str
    label: str
    colour: str
    is_ours: bool


def draw(results: Sequence[NetworkResult], contestants: Sequence[Contestant], cpu: str) -> str:
    """A panel for each number of threads, one above the other."""
    series = _series(results, contestants)
    shown = [r for r in results if any(BASE in m.latencies for m in r.measured.values())]
    counts = sorted({threads for result in shown for threads in result.measured})
    group = _BAR * len(series) + _GAP
    width = max(720, _LEFT + group * len(shown) + _RIGHT)
    height = _TOP + _PANEL * len(counts)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, sans-serif">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(_LEFT - 36, 28, "Latency relative to ONNX Runtime (lower is better)", 17, weight=600),
        _text(_LEFT - 36, 48, _subtitle(shown, cpu), 12, _QUIET),
        *_legend(series),
    ]
    for index, threads in enumerate(counts):
        panel = [(r.name, r.measured.get(threads)) for r in shown]
        lines += _panel(panel, series, threads, _TOP + _PANEL * index, width)
    return "\n".join([*lines, "</svg>\n"])


def _subtitle(results: Sequence[NetworkResult], cpu: str) -> str:
    ratios = [
        r for result in results for m in result.measured.values() for r in m.relative.values()
    ]
    noisy = "; pale: too few undisturbed blocks" if any(r.is_noisy for r in ratios) else ""
    return f"{cpu}, NumPy in, NumPy out; an arrow: the bar is cut{noisy}"


def _series(results: Sequence[NetworkResult], contestants: Sequence[Contestant]) -> list[Series]:
    precisions = {name: p for result in results for name, p in result.precisions.items()}
    found, ours, peers = [], iter(_OURS * 9), iter(_PEERS * 9)
    for contestant in contestants:
        name = contestant.name
        if name == BASE:
            continue
        if contestant.is_ours:
            colour = next(ours)
        else:
            colour = next(peers) if contestant.is_peer else _REDUCED
        precision = precisions.get(name, "f32")
        label = name if precision == "f32" else f"{name} ({precision})"
        found.append(Series(name, label, colour, contestant.is_ours))
    return found


def _legend(series: Sequence[Series]) -> Iterator[str]:
    x = _LEFT - 36.0
    for one in series:
        yield f'<rect x="{x:.0f}" y="62" width="12" height="12" rx="2" fill="{one.colour}"/>'
        yield _text(x + 17, 72, one.label, 12)
        x += 17 + 6.6 * len(one.label) + 20
    yield f'<path d="M{x:.0f} 68h16" stroke="{_TEXT}" stroke-width="1.5"/>'
    yield _text(x + 21, 72, f"{BASE} = 1", 12)


def _panel(
    networks: Sequence[tuple[str, Measured | None]],
    series: Sequence[Series],
    threads: int,
    top: int,
    width: int,
) -> Iterator[str]:
    bottom = top + 30 + _PLOT
    unit = _PLOT / _HIGHEST
    noun, clock = ("thread", "CPU time") if threads == 1 else ("threads", "wall time")
    yield _text(_LEFT - 36, top + 18, f"{threads} {noun}, {clock}", 13, weight=600)
    for step in range(round(_HIGHEST / _STEP) + 1):
        y = bottom - step * _STEP * unit
        yield f'<path d="M{_LEFT} {y:.1f}H{width - _RIGHT}" stroke="{_GRID}"/>'
        yield _text(_LEFT - 8, y + 4, f"{step * _STEP:g}", 11, _QUIET, anchor="end")
    group = _BAR * len(series) + _GAP
    for index, (name, found) in enumerate(networks):
        left = _LEFT + group * index + _GAP / 2
        yield from _network_label(name, left + _BAR * len(series) / 2, bottom)
        if found is not None:
            yield from _bars(found, series, left, bottom, unit)
    y = bottom - unit
    yield f'<path d="M{_LEFT} {y:.1f}H{width - _RIGHT}" stroke="{_TEXT}" stroke-width="1.5"/>'


def _bars(
    found: Measured, series: Sequence[Series], left: float, bottom: float, unit: float
) -> Iterator[str]:
    for index, one in enumerate(series):
        ratio = found.relative.get(one.name)
        if ratio is None:
            continue
        x, high = left + _BAR * index, min(ratio.median, _HIGHEST) * unit
        tip = f"{one.label}: {ratio.median:.2f} [{ratio.p10:.2f} .. {ratio.p90:.2f}]"
        opacity = f' fill-opacity="{_NOISY_OPACITY}"' if ratio.is_noisy else ""
        yield (
            f'<rect x="{x + 1:.1f}" y="{bottom - high:.1f}" width="{_BAR - 2}" '
            f'height="{high:.1f}" fill="{one.colour}"{opacity}><title>{escape(tip)}</title></rect>'
        )
        if ratio.median > _HIGHEST:
            peak = f"M{x + 4:.1f} {bottom - high - 3:.1f}h{_BAR - 8}l{4 - _BAR / 2} -6z"
            yield f'<path d="{peak}" fill="{one.colour}"/>'
        ink = _TEXT if ratio.is_noisy or one.colour in _PALE else "#ffffff"
        label = f"{ratio.median:.2f}" if ratio.median < 10 else f"{ratio.median:.0f}"
        weight = 700 if one.is_ours else 400
        yield (
            f'<g transform="rotate(-90 {x + _BAR / 2 + 4:.1f} {bottom - 5:.1f})">'
            f"{_text(x + _BAR / 2 + 4, bottom - 5, label, 11, ink, weight=weight)}</g>"
        )


def _network_label(name: str, x: float, bottom: float) -> Iterator[str]:
    """Up to three lines, broken at underscores."""
    lines = [""]
    for part in name.replace("-", "_").split("_"):
        if lines[-1] and len(lines[-1]) + len(part) > 11 and len(lines) < 3:
            lines.append("")
        lines[-1] = f"{lines[-1]} {part}".strip()
    for index, line in enumerate(lines):
        yield _text(x, bottom + 16 + 13 * index, line, 11.5, anchor="middle")


def _text(
    x: float,
    y: float,
    text: str,
    size: float,
    colour: str = _TEXT,
    *,
    anchor: str = "start",
    weight: int = 400,
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{colour}" '
        f'text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'
    )
