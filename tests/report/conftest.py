import dataclasses
import itertools
import math
import random
from xml.etree import ElementTree

import pytest

from tvm_iovt.cost_graph import CostGraph, Edge, Unit
from tvm_iovt.types import (
    Alternative,
    CpuSpec,
    Decision,
    Deployment,
    DeviceProfile,
    Discrepancy,
    DtypePeak,
    FileRecord,
    GpuSpec,
    Library,
    Manifest,
    Measurement,
    OpCost,
    OutputDiscrepancy,
    PartitionPlan,
    Prediction,
    Preprocess,
    Roof,
    Stage,
    StagePrediction,
    TargetSpec,
    TensorSpec,
    Tolerance,
)

NASTY = "<script>alert('x')</script>&\"[red]\x1b[2J"


def _cpu(arch="aarch64", mcpu="cortex-a72", bits=128):
    return CpuSpec(
        arch=arch,
        triple=f"{arch}-linux-gnu",
        mcpu=mcpu,
        cores=4,
        vector_bits=bits,
        vector_registers=32,
        l1d_bytes=32768,
        l2_bytes=1 << 20,
    )


ARM = TargetSpec(name="arm", description="64-bit ARM boards: Raspberry Pi 4", cpu=_cpu())
X86 = TargetSpec(
    name="x86", description="x86-64 with AVX2", cpu=_cpu("x86_64", "x86-64-v3", bits=256)
)
CUDA = TargetSpec(
    name="cuda:sm_87",
    description="NVIDIA Jetson Orin",
    cpu=_cpu(mcpu="cortex-a78"),
    gpu=GpuSpec(
        kind="cuda",
        arch="sm_87",
        max_threads_per_block=1024,
        max_shared_memory_per_block_bytes=49152,
        thread_warp_size=32,
    ),
)


def _output(name="output", violations=0, max_abs=5.5e-6):
    return OutputDiscrepancy(
        name=name,
        max_abs=max_abs,
        max_rel=3.1e-5,
        cosine=0.9999999,
        violations=violations,
        elements=1000,
    )


@pytest.fixture
def discrepancy():
    return Discrepancy(
        outputs=(_output(), _output("scores", violations=12, max_abs=0.7)),
        tolerance=Tolerance(rtol=1e-3, atol=1e-5),
        reference="ONNX Runtime 1.31.1",
    )


def make_deployment(target, *, outputs=(), verified="on this machine", median_s=None):
    tensor = TensorSpec(name="x", shape=(1, 3, 224, 224), dtype="float32")
    return Deployment(
        name=target.name,
        targets=(target,),
        plan=PartitionPlan(
            stages=(
                Stage(
                    index=0,
                    target=target.name,
                    inputs=(tensor,),
                    outputs=(tensor,),
                ),
            ),
            objective="latency",
            reason="one device",
        ),
        libraries=(
            Library(
                stage=0,
                file=FileRecord(
                    file=f"stage0.{target.name}.so", sha256="0" * 64, size_bytes=14_200_000
                ),
                device=target.kind,
                parameters_bytes=13_900_000,
            ),
        ),
        verified=verified,
        discrepancy=Discrepancy(
            outputs=outputs,
            tolerance=Tolerance(rtol=1e-3, atol=1e-5),
            reference="ONNX Runtime 1.31.1",
        )
        if outputs
        else None,
        measurement=Measurement(
            median_s=median_s,
            p10_s=0.97 * median_s,
            p90_s=1.12 * median_s,
            samples=50,
            scope="end_to_end",
            warmup=5,
            environment="2 cores",
        )
        if median_s
        else None,
    )


@pytest.fixture
def deployments():
    return (
        make_deployment(X86, outputs=(_output(),), median_s=0.0123),
        make_deployment(ARM, outputs=(_output(violations=12),), verified="under qemu-aarch64"),
        make_deployment(CUDA, verified="not run: this machine has no NVIDIA GPU"),
    )


def make_cost(index, op, flops, *, name=None, weights=0, dtype="float32"):
    return OpCost(
        index=index,
        name=name or f"{op.lower()}_{index}",
        op=op,
        flops=flops,
        bytes_in=600_000 if dtype else 0,
        bytes_out=400_000 if dtype else 0,
        bytes_weights=weights,
        dtype=dtype,
        shape_out=(1, 32, 112, 112) if dtype else (),
    )


@pytest.fixture
def operators():
    return (
        make_cost(0, "Conv", 21_000_000, weights=3456, name=NASTY),
        make_cost(1, "Clip", 800_000),
        make_cost(2, "Conv", 7_000_000, weights=1152),
        make_cost(3, "NonMaxSuppression", 0, dtype=""),
        make_cost(4, "Transpose", 0),
    )


@pytest.fixture
def decisions():
    return (
        Decision(
            transform="FuseClip", subject="clip_1", applied=True, reason="it follows a convolution"
        ),
        Decision(
            transform="FuseParallelConvs",
            subject="conv_0 + conv_2",
            applied=False,
            reason="weight shared with conv_31",
        ),
    )


@pytest.fixture
def manifest(deployments, operators, decisions):
    def file(name):
        return FileRecord(file=name, sha256="1" * 64, size_bytes=612_000)

    return Manifest(
        tool_version="0.1.0",
        tvm_version="0.27.0.post1",
        tvm_ffi_version="0.1.14.post0",
        created="2025-01-31T12:00:00+00:00",
        model_name="mobilenet_v2",
        model_sha256="ab" * 32,
        inputs=(TensorSpec(name="input", shape=(1, 3, 224, 224), dtype="float32"),),
        outputs=(TensorSpec(name="output", shape=(1, 1000), dtype="float32"),),
        deployments=deployments,
        sample=file("sample.npz"),
        reference="onnxruntime 1.31.1",
        tolerance=Tolerance(rtol=1e-3, atol=1e-4),
        report=file("report.html"),
        operators=operators,
        decisions=decisions,
        preprocess=Preprocess(
            name="imagenet",
            resize=256,
            mean=(123.675, 116.28, 103.53),
            std=(58.395, 57.12, 57.375),
            channels="RGB",
        ),
        labels=("tench", "goldfish"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planned:
    """What a plan file holds."""

    model_name: str
    targets: tuple[TargetSpec, ...]
    graph: CostGraph
    unit_s: tuple[tuple[float, ...], ...]
    measured: tuple[tuple[float, ...], ...]
    plan: PartitionPlan


def make_graph(blocks=14, names=None):
    """Inverted residuals: pointwise, depthwise, pointwise, and a sum in every second block."""
    units = []
    edges = []

    def add(kind, channels_in, channels_out, size, *, kernel=1, groups=1):
        index = len(units)
        taps = channels_in // groups * kernel * kernel
        flops = 0 if kind == "move" else 2 * size * size * channels_out * taps
        if kind == "elementwise":
            flops = size * size * channels_out
        units.append(
            Unit(
                index=index,
                name=names(index) if names else f"/features/{index // 4}/{kind}_{index}",
                operators=(f"{kind}_{index}",),
                kind=kind,
                flops=flops,
                bytes_in=4 * size * size * channels_in,
                bytes_out=4 * size * size * channels_out,
                bytes_weights=4 * taps * channels_out if kind in _CONVOLUTIONS else 0,
                shape_out=(1, channels_out, size, size),
            )
        )
        spec = TensorSpec(name=f"t{index}", shape=(1, channels_out, size, size), dtype="float32")
        edges.append((spec, index - 1))

    add("conv", 3, 32, 112, kernel=3)
    size, channels = 112, 16
    for block in range(blocks):
        if block in (1, 3, 6, 10):
            size, channels = size // 2, channels + channels // 2
        wide = 6 * channels
        add("pointwise", channels, wide, size)
        add("depthwise", wide, wide, size, kernel=3, groups=wide)
        add("pointwise", wide, channels, size)
        add("elementwise" if block % 2 else "move", channels, channels, size)
    add("reduce", channels, channels, 1)
    add("matmul", channels, 1000, 1)
    tensors = [
        Edge(spec=spec, producer=at, consumers=(at + 1,) if at + 1 < len(units) else ())
        for at, (spec, _) in enumerate(edges)
    ]
    tensors[-1] = dataclasses.replace(tensors[-1], is_output=True)
    image = TensorSpec(name="image", shape=(1, 3, 224, 224), dtype="float32")
    tensors.insert(0, Edge(spec=image, producer=-1, consumers=(0,)))
    return CostGraph(units=tuple(units), edges=tuple(tensors))


_CONVOLUTIONS = ("conv", "pointwise", "depthwise", "matmul")


def make_profile(source="measured", scale=1.0, threads=(1, 2, 4)):
    return DeviceProfile(
        source=source,
        date="2026-11-20" if source == "measured" else "",
        device="Cortex-A72, 1.5 GHz" if source == "measured" else "",
        roofs=tuple(
            Roof(
                threads=count,
                peaks=(
                    DtypePeak(dtype="float32", flops_per_s=scale * 11e9 * count),
                    DtypePeak(dtype="int8", flops_per_s=scale * 22e9 * count),
                ),
                bandwidth_bytes_per_s=scale * (3.2e9 + 0.7e9 * count),
                shared_bandwidth_bytes_per_s=scale * 2.1e9,
                cache_bandwidth_bytes_per_s=scale * 21e9 * count,
            )
            for count in threads
        ),
        launch_s=4e-6,
        handoff_s=60e-6,
    )


def make_planned(*, stages=3, measured=False, names=None, blocks=14):
    """A network on three devices, cut into so many stages."""
    graph = make_graph(blocks, names)
    specs = (
        dataclasses.replace(ARM, profile=make_profile(), memory_bytes=512 << 20),
        dataclasses.replace(X86, profile=make_profile("datasheet", 6.0, (1, 2))),
        dataclasses.replace(CUDA, profile=make_profile("measured", 30.0, (1,))),
    )
    chance = random.Random(6)

    def row(scale):
        return tuple(
            max(unit.flops / (scale * 30e9), unit.nbytes / (scale * 5e9)) * chance.uniform(1.1, 2.6)
            + 4e-6
            for unit in graph.units
        )

    unit_s = (row(1.0), row(5.0), (math.inf, *row(25.0)[1:]))
    ends = [len(graph.units) * part // stages for part in range(stages + 1)]
    parts = [graph.units[first:last] for first, last in itertools.pairwise(ends)]
    tensor = TensorSpec(name="x", shape=(1, 3, 224, 224), dtype="float32")
    made = tuple(
        Stage(
            index=index,
            target=specs[index].name,
            units=tuple(unit.name for unit in part),
            inputs=(tensor,),
            outputs=(tensor,),
            threads=specs[index].cpu.cores if specs[index].gpu is None else 0,
        )
        for index, part in enumerate(parts)
    )
    expected = tuple(
        StagePrediction(
            receive_s=0.0021 if index else 0.0,
            compute_s=sum(unit_s[index][unit.index] for unit in part),
            send_s=0.0003 if index == stages - 1 else 0.0,
            bytes_in=602_112,
            memory_bytes=41_000_000 + 9_000_000 * index,
        )
        for index, part in enumerate(parts)
    )
    steps = [s for e in expected for s in (e.receive_s, e.compute_s, e.send_s)]
    prediction = Prediction(
        latency_s=sum(steps),
        period_s=max(steps),
        stages=expected,
        source="calibrated",
        noise=0.08,
    )
    plan = PartitionPlan(
        stages=made,
        objective="throughput",
        reason="Three stages give 1.8 times the frames a second of the best single device.",
        prediction=prediction,
        alternatives=(
            Alternative(
                name="the whole network on x86",
                latency_s=0.0141,
                period_s=0.0141,
                reason="42% fewer frames a second",
            ),
            Alternative(
                name="arm | x86, cut after /features/4/elementwise_16",
                latency_s=0.031,
                period_s=0.0122,
                reason="the cut moves 1.2 MB, which takes longer than it saves",
            ),
        ),
        reasons=(
            "Moves 0.6 MB in 2.1 ms; one unit later arm would set the period.",
            "Moves 0.1 MB in 2.1 ms; behind it the tensors are smallest.",
        )[: stages - 1],
    )
    times = (
        tuple(tuple(seconds * chance.uniform(0.8, 1.3) for seconds in row) for row in unit_s[:1])
        if measured
        else ()
    )
    if times:
        unit_s = (times[0], *unit_s[1:])
    return Planned(
        model_name="mobilenet_v2",
        targets=specs,
        graph=graph,
        unit_s=unit_s,
        measured=(times[0], (), ()) if times else (),
        plan=plan,
    )


@pytest.fixture
def planned():
    return make_planned(measured=True)


@pytest.fixture
def plan_of():
    return make_planned


@pytest.fixture
def svgs():
    """The charts of some markup, as elements."""

    def find(markup):
        # Entities of HTML that XML lacks do not occur: `html.escape` makes numeric ones of quotes.
        root = ElementTree.fromstring(f"<body>{markup}</body>")
        return list(root.iter("svg"))

    return find
