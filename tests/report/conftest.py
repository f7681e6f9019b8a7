import pytest

from tvm_iovt.types import (
    CpuSpec,
    Decision,
    Deployment,
    Discrepancy,
    FileRecord,
    GpuSpec,
    Library,
    Manifest,
    Measurement,
    OpCost,
    OutputDiscrepancy,
    PartitionPlan,
    Preprocess,
    Stage,
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
