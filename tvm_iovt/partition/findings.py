"""What the planners for two devices found, as values to print and to write as JSON.

The first device is the *edge*: frames come from there, and results are wanted there. A cut lies
behind the unit that it names; an empty name is the cut before the first unit or behind the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tvm_iovt.types import Decision, Link


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """A split that no other beats in both latency and use of the edge's memory.

    Attributes:
        position: Units on the edge: those before this position.
        cut: The last one of them.
        latency_s: Of a frame.
        period_s: Between frames of a full pipeline.
        edge_bytes: Memory of the edge's stage.
        limit_share: Of the memory that the edge may use.
    """

    position: int
    cut: str
    latency_s: float
    period_s: float
    edge_bytes: int
    limit_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoFront:
    """All such splits within the limit, and the one that was chosen.

    Attributes:
        model_name: Name of the model.
        units: Of the network.
        edge: The device that runs the first units.
        server: The one that runs the others.
        link: The way between them; None where they are parts of one machine.
        memory_bytes: Of the edge.
        memory_share: Of that, what the stage may use.
        limit_bytes: The product.
        rule: How one is chosen, see `lmos.RULES`.
        reason: Why this one.
        chosen: Its index in `front`.
        front: By rising latency and memory.
        fastest: The least latency without the limit.
        source: Of the unit times, see `types.Prediction`.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/pareto-front/1"

    model_name: str
    units: int
    edge: str
    server: str
    link: Link | None
    memory_bytes: int
    memory_share: float
    limit_bytes: float
    rule: str
    reason: str
    chosen: int
    front: tuple[FrontPoint, ...]
    fastest: FrontPoint
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedCut:
    """A cut that was kept over a whole trace.

    Attributes:
        position: Units on the edge.
        cut: The last one of them.
        nbytes: To the server and back.
        mean_s: Latency of a frame.
        p90_s: What nine frames in ten do not exceed.
        chosen: Share of the frames for which the dynamic policy took this cut.
    """

    position: int
    cut: str
    nbytes: int
    mean_s: float
    p90_s: float
    chosen: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CutSpan:
    """Frames one after the other with one cut: from a time to that of the next cut's first."""

    begin_s: float
    end_s: float
    position: int
    cut: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceReplay:
    """A cut that follows the link's bandwidth, against cuts that stay.

    Attributes:
        model_name: Name of the model.
        units: Of the network.
        edge: The device that frames come from.
        server: The other one.
        link: The way between them; its bandwidth is the trace's, its latency is of a transfer.
        frames: That were replayed.
        frame_interval_s: Between two of them.
        dynamic_mean_s: Latency of a frame with the policy.
        dynamic_p90_s: The same, see `FixedCut.p90_s`.
        oracle_mean_s: With the best cut for each frame, which only hindsight knows.
        oracle_p90_s: The same.
        switches: Of the policy.
        cuts: Both ends and the natural bottlenecks, by position.
        best_fixed: Index of the one of the least mean latency.
        spans: The cuts of the policy over time.
        source: Of the unit times, see `types.Prediction`.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/trace-replay/1"

    model_name: str
    units: int
    edge: str
    server: str
    link: Link
    frames: int
    frame_interval_s: float
    dynamic_mean_s: float
    dynamic_p90_s: float
    oracle_mean_s: float
    oracle_p90_s: float
    switches: int
    cuts: tuple[FixedCut, ...]
    best_fixed: int
    spans: tuple[CutSpan, ...]
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model on an edge device of its own that may use a server.

    Attributes:
        model_name: Name of the model.
        units: Of its network.
        position: Units on the edge.
        cut: The last one of them.
        cores: Of the server, for this model alone; 0 where it does without.
        latency_s: Of a frame.
        edge_s: Of that, on the edge.
        transfer_s: Of that, on the way.
        server_s: Of that, on the server.
        edge_only_s: Latency without the server; infinite if the edge cannot run it.
        alone_s: Latency if it had all of the server.
    """

    model_name: str
    units: int
    position: int
    cut: str
    cores: int
    latency_s: float
    edge_s: float
    transfer_s: float
    server_s: float
    edge_only_s: float
    alone_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedServer:
    """Cores of a server for several models, so that the longest latency is least.

    Attributes:
        edge: The kind of device that each model has one of.
        server: The device that they share.
        cores: That it has.
        link: From each edge device to the server.
        models: In the order in which they were named.
        longest_s: The longest latency of them.
        equal_s: The same with equal numbers of cores, and the best cuts for those.
        source: Of the unit times, see `types.Prediction`.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/shared-server/1"

    edge: str
    server: str
    cores: int
    link: Link
    models: tuple[ServedModel, ...]
    longest_s: float
    equal_s: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSplit:
    """A convolution that two devices together compute faster than either.

    Attributes:
        unit: Its name.
        kind: See `cost_graph.Unit`.
        axis: What is divided, see `operator_split.AXES`.
        parts: Rows or channels of each device.
        split_s: Seconds of it, transfers included.
        alone_s: Seconds of the whole one on the better device.
        gain: Share of `alone_s` that is saved.
        halo_rows: Input rows that both devices read.
    """

    unit: str
    kind: str
    axis: str
    parts: tuple[int, ...]
    split_s: float
    alone_s: float
    gain: float
    halo_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSplits:
    """All convolutions of a network, each looked at by itself.

    Attributes:
        model_name: Name of the model.
        first: The device that has each convolution's input, and wants its output.
        second: The one that computes a part.
        network_s: Seconds of all units on the first device.
        splits: Those that pay, by seconds saved, most first.
        refused: Why each of the others stays whole.
        margin: Least gain that counts: the noise of the times.
        source: Of the unit times, see `types.Prediction`.
    """

    SCHEMA: ClassVar[str] = "tvm-iovt/operator-splits/1"

    model_name: str
    first: str
    second: str
    network_s: float
    splits: tuple[OperatorSplit, ...]
    refused: tuple[Decision, ...]
    margin: float
    source: str
