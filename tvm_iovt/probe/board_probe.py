"""Measures a board of a tracker: its link, its roofs, and the laws of kernels by differences.

TVM's instrument does not reach across its RPC. A kernel's seconds are those that one more layer of
its kind adds to a chain: each layer finds its input where the layer before has left it, as in a
network, and what a run costs beside its kernels cancels.
"""

from __future__ import annotations

import dataclasses
import datetime
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tvm_iovt.probe.host_probe import HEADROOM, LOADS, Progress, fit_all
from tvm_iovt.probe.report import Finding, ProbeResult
from tvm_iovt.types import DeviceProfile, DtypePeak, Link, Roof, TargetSpec
from tvm_iovt.unit_times import UnitSample

ECHO_BYTES = (1, 1 << 16, 1 << 20, 4 << 20)
_ECHOES = 7
_SHORT, _LONG = 2, 6
_COPIES = (4096, 65536)
_MEMORY_ELEMENTS = 4 << 20
_STARTS = 21
_LAYOUT = (64, 28, 28)
SESSION = "tvm_iovt.probe.board_session:ProbeSession"
_LIMIT_S = 1800.0

# Kind, channels, height and width: small and large ones of the layers that networks are made of.
CHAINS = (
    ("pointwise", 16, 56, 56),
    ("pointwise", 64, 28, 28),
    ("pointwise", 128, 14, 14),
    ("pointwise", 256, 7, 7),
    ("conv", 16, 56, 56),
    ("conv", 32, 28, 28),
    ("conv", 64, 28, 28),
    ("conv", 128, 7, 7),
    ("depthwise", 32, 56, 56),
    ("depthwise", 96, 28, 28),
    ("depthwise", 192, 14, 14),
    ("pool", 32, 28, 28),
    ("pool", 64, 56, 56),
    ("pool", 128, 14, 14),
)
_QUICK = ("pointwise", "conv")


def probe_board(
    spec: TargetSpec, *, tracker: str, key: str, quick: bool, progress: Progress
) -> ProbeResult:
    """Measure a board with as many threads as the target has cores.

    Args:
        spec: Its target.
        tracker: Address of its tracker.
        key: The kind of board.
        quick: Fewer layers.
        progress: Called with a line for each step.

    Raises:
        DeviceError: The tracker has no such board, or it failed.
        ToolchainError: Nothing can be built for it.
    """
    from tvm_iovt.boards.address import parse_address
    from tvm_iovt.boards.connection import connect
    from tvm_iovt.boards.session import BoardRequest

    request = BoardRequest(
        tracker=parse_address(tracker, what="tracker"),
        key=key,
        limit_s=_LIMIT_S,
        service=SESSION,
    )
    progress(f"connecting to a board of key {key}")
    with connect(request) as session, tempfile.TemporaryDirectory() as folder:
        return measure_board(_Board(spec, session, Path(folder)), quick=quick, progress=progress)


def measure_board(board: Any, *, quick: bool, progress: Progress) -> ProbeResult:
    """Measure a board through an object like `_Board`."""
    spec = board.spec
    progress("timing the link")
    link = fit_link(spec.name, {size: board.echoes(size) for size in ECHO_BYTES})
    threads = board.threads
    progress("starts of kernels, peaks, bandwidths")
    one_s, many_s = (board.seconds("starts", count) for count in (1, _STARTS))
    launch_s = max((many_s - one_s) / (_STARTS - 1), 1e-9)
    few_s, more_s = (board.seconds("copy", count) for count in _COPIES)
    cached = 8.0 * (_COPIES[1] - _COPIES[0]) / max(more_s - few_s, 1e-9)
    memory = 8.0 * _MEMORY_ELEMENTS / board.seconds("copy", _MEMORY_ELEMENTS)
    c, h, w = _LAYOUT
    boundary = 4.0 * c * h * w / board.seconds("layout_change", *_LAYOUT) / 2
    chains = [c for c in CHAINS if not quick or c[0] in _QUICK]
    samples = []
    for number, chain in enumerate(chains, start=1):
        progress(f"layer {number} of {len(chains)}: {chain[0]}, {chain[1]} channels")
        short_s, long_s = (board.seconds("chain", count, *chain) for count in (_SHORT, _LONG))
        seconds = max((long_s - short_s) / (_LONG - _SHORT), 1e-8)
        samples.append(UnitSample(unit=board.unit(*chain), seconds=seconds))
    product = (128, 128, 8, 12)
    rates = [2.0 * 128 * 128 * 8 * 12 / max(board.seconds("product", *product) - one_s, 1e-9)]
    rates += [s.unit.flops / s.seconds for s in samples if s.unit.kind == "pointwise"]
    cached = max(cached, memory, *(s.unit.nbytes / s.seconds for s in samples))
    roof = Roof(
        threads=threads,
        peaks=(DtypePeak(dtype="float32", flops_per_s=HEADROOM * max(rates)),),
        bandwidth_bytes_per_s=memory,
        cache_bandwidth_bytes_per_s=LOADS * cached,
    )
    profile = DeviceProfile(
        source="measured",
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        device=board.name,
        roofs=(roof,),
        launch_s=launch_s,
        boundary_bytes_per_s=boundary,
    )
    fits = fit_all(samples, spec, profile, threads)
    words = ", 1 thread" if threads == 1 else f", {threads} threads"
    findings = (
        Finding("link", link.bytes_per_s, "B/s", 0.0),
        Finding("link, latency", link.latency_s, "s", 0.0),
        Finding(f"start of a kernel{words}", launch_s, "s", 0.0),
        Finding(f"peak float32{words}", max(rates), "FLOP/s", 0.0),
        Finding(f"memory{words}", memory, "B/s", 0.0),
        Finding(f"nearest cache{words}", cached, "B/s", 0.0),
        Finding(f"layout change at a cut, both ends{words}", boundary, "B/s", 0.0),
    )
    return ProbeResult(
        profile=dataclasses.replace(profile, fits=tuple(fits)), links=(link,), findings=findings
    )


def fit_link(name: str, echoes: dict[int, list[float]]) -> Link:
    """Latency and rate of a link, one way, from the seconds of round trips by their bytes.

    The slope between sizes is the median over pairs (Theil and Sen), which a disturbed round trip
    does not move; the latency is what the smallest messages take.
    """
    medians = sorted((size, statistics.median(times) / 2) for size, times in echoes.items())
    slopes = [
        (b_s - a_s) / (b - a) for i, (a, a_s) in enumerate(medians) for b, b_s in medians[i + 1 :]
    ]
    slope = max(statistics.median(slopes), 1e-13)
    latency_s = max(medians[0][1] - slope * medians[0][0], 1e-7)
    return Link(src=name, dst="host", bytes_per_s=1 / slope, latency_s=latency_s, source="measured")


class _Board:
    """A session with a board, and what builds for it."""

    def __init__(self, spec: TargetSpec, session: Any, folder: Path) -> None:
        from tvm_iovt.build.link import find_linker

        self._session, self._folder = session, folder
        self._linker = find_linker(spec.cpu, prefer=spec.cross_compiler)
        self._built = 0
        self.name = session.label
        self.threads = int(session.call("setting threads", "set_threads", spec.cpu.cores))
        cpu = dataclasses.replace(spec.cpu, cores=self.threads)
        self.spec = dataclasses.replace(spec, cpu=cpu)

    def echoes(self, size_bytes: int) -> list[float]:
        """Seconds of round trips."""
        step = f"echoing {size_bytes} bytes"
        return [float(self._session.call(step, "echo", size_bytes)) for _ in range(_ECHOES)]

    def seconds(self, family: str, *arguments: Any) -> float:
        """Seconds of one run of a network of `micro_networks`."""
        from tvm_iovt.build.stage import build_stage
        from tvm_iovt.probe import micro_networks

        module, (shape,) = getattr(micro_networks, family)(*arguments)
        self._built += 1
        library = self._folder / f"probe{self._built}.so"
        build_stage(module, self.spec, self._linker, library)
        try:
            return float(self._session.call(f"timing {family}", "seconds", library, shape))
        finally:
            library.unlink(missing_ok=True)

    def unit(self, kind: str, channels: int, height: int, width: int) -> Any:
        """One layer of a chain."""
        from tvm_iovt.probe.micro_networks import chain_units

        return chain_units(2, kind, channels, height, width)[-1]
