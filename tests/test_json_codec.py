from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_iovt.errors import IovtError
from tvm_iovt.json_codec import from_json, to_json
from tvm_iovt.types import (
    CpuSpec,
    Decision,
    Deployment,
    Discrepancy,
    FileRecord,
    GpuSpec,
    Library,
    Manifest,
    OpCost,
    OutputDiscrepancy,
    PartitionPlan,
    Preprocess,
    Stage,
    TargetSpec,
    TensorSpec,
    Tolerance,
)

names = st.text(min_size=1, max_size=8)
counts = st.integers(0, 2**40)
floats = st.floats(allow_nan=False, allow_infinity=False)
tensors = st.builds(
    TensorSpec,
    name=names,
    shape=st.lists(st.integers(1, 9), max_size=4).map(tuple),
    dtype=st.sampled_from(["float32", "int8"]),
)
records = st.builds(FileRecord, file=names, sha256=names, size_bytes=counts)
cpus = st.builds(
    CpuSpec,
    arch=names,
    triple=names,
    mcpu=names,
    mattr=st.lists(names, max_size=2).map(tuple),
    features=st.just(()),
    cores=counts,
    vector_bits=counts,
    vector_registers=counts,
    l1d_bytes=counts,
    l2_bytes=counts,
)
gpus = st.builds(
    GpuSpec,
    kind=names,
    arch=names,
    max_threads_per_block=counts,
    max_shared_memory_per_block_bytes=counts,
    thread_warp_size=counts,
)
outputs = st.builds(
    OutputDiscrepancy,
    name=names,
    max_abs=floats,
    max_rel=floats,
    cosine=floats,
    violations=counts,
    elements=counts,
)
tolerances = st.builds(Tolerance, rtol=floats, atol=floats, min_cosine=st.none() | floats)
deployments = st.builds(
    Deployment,
    name=names,
    targets=st.lists(
        st.builds(TargetSpec, name=names, description=names, cpu=cpus, gpu=st.none() | gpus),
        max_size=2,
    ).map(tuple),
    plan=st.builds(
        PartitionPlan,
        stages=st.lists(
            st.builds(
                Stage,
                index=counts,
                target=names,
                units=st.lists(names, max_size=2).map(tuple),
                threads=counts,
                inputs=st.lists(tensors, max_size=2).map(tuple),
                outputs=st.just(()),
            ),
            max_size=2,
        ).map(tuple),
        objective=names,
        reason=names,
    ),
    libraries=st.lists(
        st.builds(Library, stage=counts, file=records, device=names, parameters_bytes=counts),
        max_size=2,
    ).map(tuple),
    verified=names,
    discrepancy=st.none()
    | st.builds(
        Discrepancy,
        outputs=st.lists(outputs, min_size=1, max_size=2).map(tuple),
        tolerance=tolerances,
        reference=names,
    ),
    measurement=st.none(),
)
manifests = st.builds(
    Manifest,
    tool_version=names,
    tvm_version=names,
    tvm_ffi_version=names,
    created=names,
    model_name=names,
    model_sha256=names,
    inputs=st.lists(tensors, max_size=2).map(tuple),
    outputs=st.lists(tensors, max_size=2).map(tuple),
    deployments=st.lists(deployments, max_size=2).map(tuple),
    sample=records,
    reference=names,
    tolerance=tolerances,
    report=records,
    operators=st.lists(
        st.builds(
            OpCost,
            index=counts,
            name=names,
            op=names,
            flops=counts,
            bytes_in=counts,
            bytes_out=counts,
            bytes_weights=counts,
            dtype=names,
            shape_out=st.just((1, 2)),
        ),
        max_size=2,
    ).map(tuple),
    decisions=st.lists(
        st.builds(Decision, transform=names, subject=names, applied=st.booleans(), reason=names),
        max_size=2,
    ).map(tuple),
    preprocess=st.none()
    | st.builds(
        Preprocess,
        name=names,
        resize=counts,
        mean=st.just((1.0, 2.0)),
        std=st.just((3.0,)),
        channels=names,
    ),
    labels=st.lists(names, max_size=3).map(tuple),
)


@given(manifests)
def test_json_round_trip(manifest: Manifest) -> None:
    text = json.dumps(to_json(manifest))
    assert from_json(Manifest, json.loads(text)) == manifest


def test_unknown_major_version_names_both() -> None:
    with pytest.raises(IovtError) as caught:
        from_json(Manifest, {"schema": "tvm-iovt/manifest/2"})
    assert "tvm-iovt/manifest/2" in str(caught.value)
    assert "tvm-iovt/manifest/1" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shape": [1, "x"]}, "shape[1] should be int"),
        ({"shape": 3}, "shape should be a list"),
        ({"name": None}, "name should be str"),
        ({"extra": 1}, "unknown extra"),
        ({"dtype": ...}, "missing dtype"),
        ({"shape": [True]}, "shape[0] should be int"),
    ],
)
def test_wrong_values_are_located(change: dict[str, object], said: str) -> None:
    data: dict[str, object] = {"name": "x", "shape": [1], "dtype": "float32", **change}
    data = {key: item for key, item in data.items() if item is not ...}
    with pytest.raises(IovtError) as caught:
        from_json(TensorSpec, data)
    assert said in str(caught.value)


def test_infinite_errors_survive_strict_json() -> None:
    output = OutputDiscrepancy(
        name="y", max_abs=math.inf, max_rel=math.nan, cosine=0.0, violations=1, elements=1
    )
    text = json.dumps(to_json(output), allow_nan=False)
    back = from_json(OutputDiscrepancy, json.loads(text))
    assert back.max_abs == math.inf
    assert math.isnan(back.max_rel)
