"""The results as plain text of at most 110 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from contestants import BASE, OURS, Contestant
from paired import Latency, Ratio, geometric_mean
from results import WRONG, Measured, NetworkResult, fastest_peer

_NAME, _CELL = 20, 9
_LABELS = {"onnxruntime": "ort", "openvino default": "ov deflt"}

LEGEND = """\
ms of one inference, NumPy in, NumPy out: medians of interleaved blocks of about 0.1 s.
ours/fastest: tvm-iovt over the fastest float32 runtime of the row, paired block by block; we are
faster below 1. [..]: eight of ten pairs lie in it. clean: blocks without other load on the machine.
~ too few clean blocks: a guess. ! outputs off by more than 1 %: not compared with."""


def title(threads: int) -> str:
    if threads == 1:
        return "1 thread (CPU time)"
    return f"{threads} threads (wall time of clean blocks)"


def header(contestants: Sequence[Contestant]) -> str:
    cells = "".join(f"{_LABELS.get(c.name, c.name):>{_CELL}}" for c in _columns(contestants))
    return f"{'network':{_NAME}}{cells}  {'ours/fastest':26}{'clean':>8}"


def rows(result: NetworkResult, threads: int, contestants: Sequence[Contestant]) -> Iterator[str]:
    """The row of a network, and one below it for each variant of ours."""
    found = result.measured[threads]
    peer = fastest_peer(found, contestants, result.differences)
    cells = "".join(_cell(result, found, c.name) for c in _columns(contestants))
    clean = sum(one.clean for one in found.latencies.values())
    blocks = sum(one.blocks for one in found.latencies.values())
    compared = _compared(found, OURS, peer)
    yield f"{result.name[: _NAME - 1]:{_NAME}}{cells}  {compared:26}{f'{clean}/{blocks}':>8}"
    for variant in contestants:
        if variant.is_ours and variant.name != OURS:
            blank = " " * (_CELL * (len(_columns(contestants)) - 1))
            name = f"  {variant.name}"[: _NAME - 1]
            cell = _cell(result, found, variant.name)
            yield f"{name:{_NAME}}{cell}{blank}  {_compared(found, variant.name, peer)}".rstrip()


def means(
    results: Sequence[NetworkResult], threads: int, contestants: Sequence[Contestant]
) -> Iterator[str]:
    """Geometric means over the networks, for ours and for each variant."""
    measured = [result for result in results if threads in result.measured]
    for ours in contestants:
        if not ours.is_ours:
            continue
        pairs = [
            (result.measured[threads].ratios.get(ours.name, {}), result) for result in measured
        ]
        cells = "".join(
            f"{_mean([ratios[c.name] for ratios, _ in pairs if c.name in ratios]):>{_CELL}}"
            for c in _columns(contestants)
        )
        fastest = [
            ratios[peer]
            for ratios, result in pairs
            if (peer := fastest_peer(result.measured[threads], contestants, result.differences))
            in ratios
        ]
        name = "geomean ours/this" if ours.name == OURS else f"  {ours.name}"
        noun = "network" if len(fastest) == 1 else "networks"
        yield (
            f"{name[: _NAME - 1]:{_NAME}}{cells}  {_mean(fastest)} of {len(fastest)} {noun}"
        ).rstrip()


def differences(
    results: Sequence[NetworkResult], contestants: Sequence[Contestant]
) -> Iterator[str]:
    """How far the outputs of each contestant are from the reference's."""
    shown = [c for c in contestants if c.name != BASE]
    yield f"largest difference from {BASE}, relative to the largest number of the output"
    yield f"{'network':{_NAME}}" + "".join(
        f"{_LABELS.get(c.name, c.name)[: _CELL + 3]:>{_CELL + 4}}" for c in shown
    )
    for result in results:
        cells = "".join(
            f"{_difference(result.differences.get(c.name)):>{_CELL + 4}}" for c in shown
        )
        yield f"{result.name[: _NAME - 1]:{_NAME}}{cells}"


def notes(results: Sequence[NetworkResult]) -> Iterator[str]:
    """What is missing and why, and what the runtimes computed in where it is not float32."""
    for result in results:
        for name, reason in result.failures.items():
            yield f"{result.name}: {name} is missing: {reason}"
    other = {
        (name, precision)
        for result in results
        for name, precision in result.precisions.items()
        if precision != "f32"
    }
    for name, precision in sorted(other):
        yield f"{name} computes in {precision}"


def _columns(contestants: Sequence[Contestant]) -> list[Contestant]:
    return [c for c in contestants if not c.is_ours or c.name == OURS]


def _cell(result: NetworkResult, found: Measured, name: str) -> str:
    latency = found.latencies.get(name)
    if latency is None:
        return f"{'-':>{_CELL}}"
    is_wrong = result.differences.get(name, 0.0) > WRONG
    return f"{_milliseconds(latency) + ('!' if is_wrong else ''):>{_CELL}}"


def _milliseconds(latency: Latency) -> str:
    value_ms = latency.median_s * 1e3
    digits = 3 if value_ms < 1 else 2 if value_ms < 100 else 1
    return f"{'~' if latency.is_noisy else ''}{value_ms:.{digits}f}"


def _compared(found: Measured, ours: str, peer: str) -> str:
    ratio = found.ratios.get(ours, {}).get(peer)
    return f"{_ratio(ratio)} {_LABELS.get(peer, peer)}" if ratio else "-"


def _ratio(ratio: Ratio) -> str:
    mark = "~" if ratio.is_noisy else ""
    return f"{mark}{ratio.median:.2f} [{ratio.p10:.2f}..{ratio.p90:.2f}]"


def _mean(ratios: Sequence[Ratio]) -> str:
    if not ratios:
        return ""
    mark = "~" if any(ratio.is_noisy for ratio in ratios) else ""
    return f"{mark}{geometric_mean([ratio.median for ratio in ratios]):.3f}"


def _difference(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1e}{'!' if value > WRONG else ''}"
