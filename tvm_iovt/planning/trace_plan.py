"""`plan --trace`: a cut that follows the bandwidth of a link, replayed over a trace of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvm_iovt import targets
from tvm_iovt.cost_graph import CostGraph
from tvm_iovt.errors import UsageError
from tvm_iovt.partition.bandwidth_trace import BandwidthTrace, read_trace
from tvm_iovt.partition.dynamic_split import Replay, SplitPolicy, replay
from tvm_iovt.partition.evaluate import Evaluator
from tvm_iovt.partition.findings import CutSpan, FixedCut, TraceReplay
from tvm_iovt.partition.lmos import split_placement
from tvm_iovt.partition.problem import Problem
from tvm_iovt.partition.split_candidates import Candidate, natural_bottlenecks
from tvm_iovt.planning.edge_server import cut_name, edge_and_server
from tvm_iovt.planning.model_plan import PlanOptions, Progress, read_model
from tvm_iovt.planning.unit_rows import worst_source

FRAME_INTERVAL_S = 1 / 30

_MOST_FRAMES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRequest:
    """What to replay.

    Attributes:
        path: CSV file of the trace, see `bandwidth_trace.read_trace`.
        frame_interval_s: Between two frames.
    """

    path: Path
    frame_interval_s: float = FRAME_INTERVAL_S


def plan_trace(
    model: Path,
    options: PlanOptions,
    request: TraceRequest,
    *,
    progress: Progress = lambda message: None,
) -> TraceReplay:
    """What frames would have taken with a cut that follows the link, and with cuts that stay.

    Args:
        model: ONNX file or torch.export program.
        options: The first target is the edge, the second one the server; no objective or cuts. Of a
            link only the latency counts.
        request: The trace.
        progress: Called with a line for each step.

    Raises:
        IovtError: One of its subclasses, each with its exit code.
    """
    pair = edge_and_server(
        targets.load_devices(options.targets), options.links, apart="a trace of the link's rate"
    )
    assert pair.link is not None
    trace = _read(request.path)
    frames = int(trace.end_s / request.frame_interval_s) + 1
    if frames > _MOST_FRAMES:
        raise UsageError(
            "There are too many frames to replay",
            seen=f"{frames} in {trace.end_s:.6g} s, at most {_MOST_FRAMES}",
            do="give a longer --frame-interval, or a part of the trace",
        )
    found = read_model(model, options, pair.specs, progress)
    progress(f"replaying {frames} frames")
    rows = [found.rows.of(spec) for spec in pair.specs]
    problem = pair.problem(found.graph, rows, bytes_per_s=math.inf)
    cuts = split_candidates(problem)
    done = replay(trace, SplitPolicy(cuts), frame_interval_s=request.frame_interval_s)
    taken = {cut.position: done.chosen.count(cut.position) / frames for cut in cuts}
    return TraceReplay(
        model_name=found.name,
        units=len(found.graph.units),
        edge=pair.edge.name,
        server=pair.server.name,
        link=pair.link,
        frames=frames,
        frame_interval_s=request.frame_interval_s,
        dynamic_mean_s=_mean(done.dynamic_s),
        dynamic_p90_s=_p90(done.dynamic_s),
        oracle_mean_s=_mean(done.oracle_s),
        oracle_p90_s=_p90(done.oracle_s),
        switches=done.switches,
        cuts=tuple(
            FixedCut(
                position=cut.position,
                cut=cut_name(found.graph, cut.position),
                nbytes=cut.nbytes,
                mean_s=_mean(latencies),
                p90_s=_p90(latencies),
                chosen=taken[cut.position],
            )
            for cut, latencies in zip(done.candidates, done.fixed_s, strict=True)
        ),
        best_fixed=done.best_fixed,
        spans=_spans(done, found.graph, request.frame_interval_s),
        source=worst_source(rows),
    )


def split_candidates(problem: Problem) -> tuple[Candidate, ...]:
    """The network's ends and natural bottlenecks, with what does not depend on the link's rate.

    Args:
        problem: Of the edge and the server, with an infinitely fast link.

    Raises:
        UsageError: None of them can be had (the memory of the devices, say).
    """
    graph = problem.graph
    units = len(graph.units)
    evaluator = Evaluator(problem)
    cuts, obstacles = [], []
    for position in (0, *natural_bottlenecks(graph), units):
        evaluation = evaluator.evaluate(split_placement(problem, 0, 1, position))
        if evaluation.obstacle:
            obstacles.append(evaluation.obstacle)
            continue
        first = evaluation.prediction.stages[0]
        before_s = first.receive_s + first.compute_s if position else 0.0
        crossing = graph.crossing_bytes
        cuts.append(
            Candidate(
                position=position,
                before_s=before_s,
                after_s=evaluation.prediction.latency_s - before_s,
                nbytes=crossing[position] + crossing[units] if position < units else 0,
            )
        )
    if not cuts:
        raise UsageError(
            "No cut of the network between these two devices is possible",
            seen=obstacles[0],
            do="name another target, or raise a target's memory_bytes if it has more",
        )
    return tuple(cuts)


def _read(path: Path) -> BandwidthTrace:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"Cannot read the trace {path}",
            seen=f"{type(error).__name__}: {error}",
            do="give a CSV file with the header time_s,bytes_per_s",
        ) from error
    try:
        return read_trace(text)
    except UsageError as error:
        raise UsageError(f"{path}: {error.what}", seen=error.seen, do=error.do) from error


def _spans(done: Replay, graph: CostGraph, interval_s: float) -> tuple[CutSpan, ...]:
    spans = []
    first = 0
    for position, group in itertools.groupby(done.chosen):
        count = len(list(group))
        spans.append(
            CutSpan(
                begin_s=first * interval_s,
                end_s=(first + count) * interval_s,
                position=position,
                cut=cut_name(graph, position),
            )
        )
        first += count
    return tuple(spans)


def _mean(latencies: Sequence[float]) -> float:
    return float(np.mean(latencies))


def _p90(latencies: Sequence[float]) -> float:
    return float(np.percentile(latencies, 90))
