"""One network layer by layer: measured and as text of at most 110 columns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from layer_times.kernels import InstrumentedBundle, empty_call_s
from layer_times.matching import match
from layer_times.native import Recorder
from layer_times.onnx_layers import Layer, layers
from layer_times.ort_profile import ProfiledSession, layer_times_s
from layer_times.runs import Runs
from peers.other_load import wait_until_quiet

from tvm_iovt import bundle, targets
from tvm_iovt.frontend.onnx_model import load_onnx
from tvm_iovt.frontend.shapes import fix_shapes
from tvm_iovt.onnx_fusion import fuse_onnx
from tvm_iovt.roofline import assumed_ceilings

_HEADER = (
    f"{'kernel':32}{'layer':29}{'MFLOP':>7}{'us':>9}{'GFLOP/s':>9}{'peak':>6}"
    f"{'ort us':>9}{'ratio':>7}"
)


@dataclass(frozen=True)
class Row:
    """One kernel of the network.

    Attributes:
        kernel: Name of the function.
        template: How it was scheduled.
        layer: Geometry of the convolution or dense layer that it computes; empty for others.
        flops: Of that layer.
        time_s: Inside of the network, the cost of the time stamps subtracted.
        peer_s: ONNX Runtime's time for the layer with what it fuses into it; None if not known.
    """

    kernel: str
    template: str
    layer: str
    flops: int
    time_s: float
    peer_s: float | None


@dataclass(frozen=True)
class LayerTable:
    """One network.

    Attributes:
        rows: In the order of execution.
        builtins_s: The virtual machine's own functions: memory, shapes.
        whole_s: One inference without time stamps, tensors in, tensors out.
        peer_other_s: Nodes of ONNX Runtime that are no layer of `rows`.
        peer_whole_s: One inference of ONNX Runtime without its profiler.
        empty_call_s: What the time stamps cost a call.
        clean_blocks: Blocks without other load on the machine.
        blocks: All blocks.
        is_busy: Too few were clean; kernel times then are 20th percentiles in place of medians.
    """

    rows: tuple[Row, ...]
    builtins_s: float
    whole_s: float
    peer_other_s: float
    peer_whole_s: float
    empty_call_s: float
    clean_blocks: int
    blocks: int
    is_busy: bool


def measure(
    model: Path, shapes: Mapping[str, tuple[int, ...]], path: Path, *, rounds: int, wait_s: float
) -> LayerTable:
    """Measure a bundle and its model; the four ways to run the network alternate.

    Args:
        model: ONNX file.
        shapes: Static shapes of inputs that it leaves open.
        path: The bundle that was made of it.
        rounds: Blocks of each way.
        wait_s: Longest wait for a quiet machine before a block.
    """
    fused = fuse_onnx(
        fix_shapes(load_onnx(model), shapes), time=assumed_ceilings(targets.load("host")).time_s
    )
    recorder = Recorder()
    ours = InstrumentedBundle(path, recorder)
    inputs, _ = bundle.load_sample(path)
    session = ProfiledSession(fused, inputs)

    def stamped() -> object:
        recorder.clear()
        ours.run_instrumented()
        return recorder.durations_s()

    whole, calls = Runs(_timed(ours.run)), Runs(stamped)
    peer_whole, peer_nodes = Runs(_timed(session.run)), Runs(session.run_profiled)
    ways: list[Runs[Any]] = [whole, calls, peer_whole, peer_nodes]
    for index in range(rounds):
        first = index % len(ways)
        for way in ways[first:] + ways[:first]:
            wait_until_quiet(wait_s)
            way.block()
    nodes_s = session.node_times_s(peer_nodes.undisturbed(), peer_nodes.quantile)
    durations_s = np.quantile(np.array(calls.undisturbed()), calls.quantile, axis=0)
    empty_s = empty_call_s(ours.calls, durations_s)
    times_s = [max(0.0, float(duration_s) - empty_s) for duration_s in durations_s]
    rows = tuple(_rows(ours, times_s, layers(fused), nodes_s))
    return LayerTable(
        rows=rows,
        builtins_s=sum(times_s) - sum(row.time_s for row in rows),
        whole_s=statistics.median(whole.undisturbed()),
        peer_other_s=sum(nodes_s.values()) - sum(row.peer_s or 0.0 for row in rows),
        peer_whole_s=statistics.median(peer_whole.undisturbed()),
        empty_call_s=empty_s,
        clean_blocks=sum(way.clean for way in ways),
        blocks=sum(len(way.loads) for way in ways),
        is_busy=any(way.quantile < 0.5 for way in (calls, peer_nodes)),
    )


def _rows(
    ours: InstrumentedBundle,
    times_s: Sequence[float],
    found: Sequence[Layer],
    nodes_s: Mapping[str, float],
) -> Iterator[Row]:
    """The kernels among the calls, each with the layer that it computes."""
    peers_s = layer_times_s(found, nodes_s)
    of_call = match(ours.calls, found)
    for index, (call, time_s) in enumerate(zip(ours.calls, times_s, strict=True)):
        if not call.is_kernel:
            continue
        number = of_call.get(index)
        layer = None if number is None else found[number]
        yield Row(
            kernel=call.name,
            template=ours.templates.get(call.name, ""),
            layer=layer.geometry if layer else "",
            flops=layer.flops if layer else 0,
            time_s=time_s,
            peer_s=None if number is None else peers_s[number],
        )


def text(found: LayerTable, peak_flops: float) -> Iterator[str]:
    """The table, then the sums."""
    yield _HEADER
    for row in found.rows:
        yield _line(row, peak_flops)
    kernels_s = sum(row.time_s for row in found.rows)
    with_peer = [row for row in found.rows if row.peer_s]
    ours_s = sum(row.time_s for row in with_peer)
    peer_s = sum(row.peer_s or 0.0 for row in with_peer)
    flops = sum(row.flops for row in found.rows)
    layers_s = sum(row.time_s for row in found.rows if row.flops)
    rate = flops / layers_s if layers_s else 0.0
    gap = (found.whole_s - kernels_s) / found.whole_s
    yield (
        f"layers: {flops / 1e9:.2f} GFLOP in {layers_s * 1e3:.3f} ms, {rate / 1e9:.1f} GFLOP/s, "
        f"{rate / peak_flops:.0%} of the peak; other kernels {(kernels_s - layers_s) * 1e3:.3f} ms"
    )
    yield (
        f"whole network without time stamps {found.whole_s * 1e3:.3f} ms, kernels "
        f"{kernels_s * 1e3:.3f} ms: {gap:.1%} outside of kernels"
    )
    yield (
        f"builtins of the virtual machine {found.builtins_s * 1e3:.3f} ms; time stamps cost "
        f"{found.empty_call_s * 1e6:.2f} us a call, subtracted"
    )
    if peer_s:
        yield (
            f"onnxruntime: whole network {found.peer_whole_s * 1e3:.3f} ms, the same layers "
            f"{peer_s * 1e3:.3f} ms (ratio {ours_s / peer_s:.2f}), "
            f"others {found.peer_other_s * 1e3:.3f} ms"
        )
    busy = "; kernels: 20th percentiles, the machine is busy" if found.is_busy else ""
    yield f"{found.clean_blocks} of {found.blocks} blocks without other load on the machine{busy}"


def _line(row: Row, peak_flops: float) -> str:
    name = row.kernel.removeprefix("fused_")
    name = name if len(name) < 32 else f"{name[:29]}.."
    line = f"{name:32}{row.layer:29}"
    rate = row.flops / row.time_s if row.time_s else 0.0
    work = f"{row.flops / 1e6:7.1f}" if row.flops else " " * 7
    speed = f"{rate / 1e9:9.1f}{rate / peak_flops:6.0%}" if rate else " " * 15
    peer = f"{row.peer_s * 1e6:9.1f}{row.time_s / row.peer_s:7.2f}" if row.peer_s else ""
    return f"{line}{work}{row.time_s * 1e6:9.1f}{speed}{peer}".rstrip()


def _timed(run: Callable[[], object]) -> Callable[[], float]:
    """CPU time: long enough to be interrupted on a busy machine, which kernels hardly are."""

    def timed() -> float:
        began_s = time.process_time()
        run()
        return time.process_time() - began_s

    return timed
