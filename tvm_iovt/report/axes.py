"""Where the ticks of a chart's axes are, and what they say."""

from __future__ import annotations

import math

# Of an axis of wall time, which has at most seven ticks.
_TIME_STEPS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800)
_LEAST_SPAN = 0.1  # of a vertical axis: noise of a percent must not look like a cliff

Tick = tuple[float, str]


def duration_axis(low_s: float, high_s: float) -> tuple[float, float, list[Tick]]:
    """Ends and ticks, at least two, of a vertical axis that shows durations between two."""
    span_s = high_s - low_s
    margin_s = max(span_s * 0.12, (high_s * _LEAST_SPAN - span_s) / 2)
    low_s, high_s = max(low_s - margin_s, 0.0), high_s + margin_s
    ticks_s = _ticks(low_s, high_s, 4)
    units = (("s", 1.0), ("ms", 1e3), ("µs", 1e6), ("ns", 1e9))
    unit, scale = next((each for each in units if high_s * each[1] >= 1), units[-1])
    step = (ticks_s[1] - ticks_s[0]) * scale
    digits = next((d for d in range(9) if _is_whole(step * 10**d)), 3)
    return low_s, high_s, [(tick_s, f"{tick_s * scale:.{digits}f} {unit}") for tick_s in ticks_s]


def count_ticks(end: float) -> list[Tick]:
    """Ticks of an axis that counts things."""
    return [(at, f"{at:g}") for at in _ticks(0.0, end, 5) if at == round(at)]


def time_ticks(end_s: float) -> tuple[str, list[Tick]]:
    """What an axis of wall time counts, and its ticks: seconds to days."""
    if end_s < 2 or end_s > 6 * _TIME_STEPS_S[-1]:
        unit, each_s = ("seconds", 1) if end_s < 2 else ("days", 86400)
        return unit, [(at * each_s, f"{at:g}") for at in _ticks(0.0, end_s / each_s, 5)]
    step_s = next(step for step in _TIME_STEPS_S if step * 6 >= end_s)
    at_s = range(0, int(end_s) + 1, step_s)
    if step_s < 30:
        return "seconds", [(at, str(at)) for at in at_s]
    if step_s < 1800:
        return "minutes", [(at, f"{at // 60}:{at % 60:02}") for at in at_s]
    return "hours", [(at, f"{at // 3600}:{at % 3600 // 60:02}") for at in at_s]


def duration_ticks(start_s: float, end_s: float) -> tuple[str, list[Tick]]:
    """The unit and the ticks of an axis of short times, from one to a later one."""
    ticks_s = _ticks(start_s, end_s, 8)
    units = (("seconds", 1.0), ("ms", 1e3), ("µs", 1e6), ("ns", 1e9))
    unit, scale = next((u for u in units if (end_s - start_s) * u[1] >= 2), units[-1])
    step = (ticks_s[1] - ticks_s[0]) * scale
    digits = next((d for d in range(9) if _is_whole(step * 10**d)), 3)
    return unit, [(tick_s, f"{tick_s * scale:.{digits}f}") for tick_s in ticks_s]


def _ticks(low: float, high: float, wanted: int) -> tuple[float, ...]:
    """Round numbers within an interval, about as many as wanted and at least two."""
    exact = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(exact))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= exact * 0.999)
    for each in (step, step / 2, step / 5):
        first, last = math.ceil(low / each - 1e-9), math.floor(high / each + 1e-9)
        if last > first:
            return tuple(number * each for number in range(first, last + 1))
    return (low, high)


def _is_whole(value: float) -> bool:
    return abs(value - round(value)) < 1e-6 * max(abs(value), 1e-9) and round(value) > 0
