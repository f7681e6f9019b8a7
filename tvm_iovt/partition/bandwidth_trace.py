"""A link whose bandwidth changes with time: steps, from a CSV text or from numbers."""

from __future__ import annotations

import bisect
import csv
import io
import itertools
import math
from collections.abc import Sequence

from tvm_iovt.errors import UsageError

HEADER = ("time_s", "bytes_per_s")


class BandwidthTrace:
    """Bandwidth over time. Each value holds until the next one, and the last one for ever.

    Args:
        time_s: When each value begins, increasing, on any clock; it is kept from the first one on.
        bytes_per_s: The values; 0 while the link is down, which it must not be at the end.

    Raises:
        UsageError: The numbers are not of that kind; names the first that is not.
    """

    def __init__(self, time_s: Sequence[float], bytes_per_s: Sequence[float]) -> None:
        if len(time_s) != len(bytes_per_s) or not time_s:
            raise _wrong(f"{len(time_s)} times, {len(bytes_per_s)} values")
        for i, (time, rate) in enumerate(zip(time_s, bytes_per_s, strict=True)):
            if not (math.isfinite(time) and 0 <= rate < math.inf):
                raise _wrong(f"{time} s, {rate} bytes/s in row {i + 1}")
            if i and time <= time_s[i - 1]:
                raise _wrong(f"{time} s after {time_s[i - 1]} s in row {i + 1}")
        if not bytes_per_s[-1]:
            raise _wrong("the link is down at the end, and so for ever")
        self.time_s = tuple(float(time - time_s[0]) for time in time_s)
        self.bytes_per_s = tuple(map(float, bytes_per_s))
        spans = zip(self.time_s, self.time_s[1:], self.bytes_per_s, strict=False)
        self._bytes = [0.0, *itertools.accumulate((b - a) * rate for a, b, rate in spans)]

    @property
    def end_s(self) -> float:
        """When the last value begins; the first one does at 0."""
        return self.time_s[-1]

    def at(self, time_s: float) -> float:
        """Bytes a second at a time."""
        return self.bytes_per_s[self._step(time_s)]

    def transfer_s(self, begin_s: float, nbytes: float) -> float:
        """Seconds that so many bytes take from `begin_s` on, with the link for themselves."""
        if not nbytes:
            return 0.0
        step = self._step(begin_s)
        # Bytes since the first value began, for which the steps' sums are kept.
        sent = self._bytes[step] + (begin_s - self.time_s[step]) * self.bytes_per_s[step] + nbytes
        last = max(bisect.bisect_left(self._bytes, sent) - 1, step)
        if last == step:  # no detour over large sums
            return nbytes / self.bytes_per_s[step]
        end_s = self.time_s[last] + (sent - self._bytes[last]) / self.bytes_per_s[last]
        return end_s - begin_s

    def _step(self, time_s: float) -> int:
        return max(bisect.bisect_right(self.time_s, time_s) - 1, 0)


def read_trace(text: str) -> BandwidthTrace:
    """A trace from CSV text: a line `time_s,bytes_per_s`, and a line for each value.

    Empty lines, and lines that begin with `#`, are passed over.

    Raises:
        UsageError: A line does not hold two numbers, the header is another, or they make no trace.
    """
    lines = [
        (number, row)
        for number, row in enumerate(csv.reader(io.StringIO(text)), 1)
        if any(cell.strip() for cell in row) and not row[0].lstrip().startswith("#")
    ]
    header = tuple(cell.strip() for cell in lines[0][1]) if lines else ()
    if header != HEADER:
        raise _wrong(f"a first line {','.join(header)!r}")
    times, rates = [], []
    for number, row in lines[1:]:
        try:
            time, rate = map(float, row)
        except ValueError:
            raise _wrong(f"line {number}: {','.join(row)!r}") from None
        times.append(time)
        rates.append(rate)
    return BandwidthTrace(times, rates)


def _wrong(seen: str) -> UsageError:
    return UsageError(
        "This is no trace of a link's bandwidth",
        seen=seen,
        do=f"give a CSV file with the header {','.join(HEADER)}, increasing times, and bytes a "
        "second of 0 or more, the last more than 0",
    )
