from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_iovt import bundle, runtime
from tvm_iovt.errors import BundleError, UsageError
from tvm_iovt.runtime import libtvm
from tvm_iovt.runtime.local_stage import LocalStage
from tvm_iovt.runtime.pipeline import Pipeline
from tvm_iovt.runtime.pipeline_stage import PipelineStage, StageError, stages_of
from tvm_iovt.types import Deployment

ROOT = Path(__file__).resolve().parents[2]


def opened(path: Path, **options: Any) -> tuple[Deployment, Callable[[int], LocalStage]]:
    (deployment,) = bundle.read_manifest(path).deployments
    ffi = libtvm.load(path / "lib")
    return deployment, lambda index: LocalStage(path, deployment, index, ffi, **options)


def in_thread(call: Callable[[], Any]) -> Any:
    """A lane changes the affinity of its thread, which should not be the test's."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(call())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


@pytest.mark.parametrize("sequential", [False, True])
def test_a_pipeline_computes_what_the_executor_computes(
    two_stage_bundle: Path, tiny: Any, sequential: bool
) -> None:
    deployment, make = opened(two_stage_bundle, threads=1)
    stages = stages_of(deployment.plan, make)
    manifest = bundle.read_manifest(two_stage_bundle)
    images = [tiny.image(seed) for seed in range(40)]
    executor = runtime.load(two_stage_bundle)
    expected = [executor.run({"image": image}) for image in images]
    pipeline = Pipeline(
        stages, ("features", "class"), inputs=manifest.inputs, sequential=sequential
    )
    results = list(pipeline.run({"image": image} for image in images))
    assert [r.index for r in results] == list(range(40))
    for result, outputs in zip(results, expected, strict=True):
        for name, value in outputs.items():
            np.testing.assert_array_equal(result.outputs[name], value, strict=True)
            result.outputs[name][...] = 0  # writable
    assert pipeline.timeline().stages == (
        f"stage 0 on {tiny.host}",
        f"stage 1 on {tiny.host}",
    )


def test_the_same_tensor_in_two_stages(two_stage_bundle: Path, tiny: Any) -> None:
    _, make = opened(two_stage_bundle)
    stages = [
        PipelineStage(device=make(0), inputs=("image",), outputs=("features",)),
        PipelineStage(device=make(1), inputs=("features",), outputs=("class",)),
    ]
    image = tiny.image()
    (result,) = Pipeline(stages, ("class",)).run([{"image": image}])
    np.testing.assert_array_equal(result.outputs["class"], tiny.reference(image)["class"])


def test_outputs_stay_as_they_are_while_the_stage_goes_on(
    two_stage_bundle: Path, tiny: Any
) -> None:
    _, make = opened(two_stage_bundle)

    def held() -> list[np.ndarray]:
        lane = make(0).open_lane()
        outputs = []
        for seed in range(12):
            lane.receive({"image": tiny.image(seed)})
            lane.compute()
            outputs.append(lane.send()["features"])
        lane.close()
        return [np.array(np.from_dlpack(output)) for output in outputs]

    for seed, features in enumerate(in_thread(held)):
        expected = tiny.reference(tiny.image(seed))["features"]
        np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_an_output_that_is_a_view_of_an_input_stays_as_it_is(view_bundle: Path) -> None:
    deployment, make = opened(view_bundle)
    images = [np.full((1, 6, 8), i, np.float32) for i in range(6)]

    def held() -> list[tuple[np.ndarray, bool]]:
        lane = make(0).open_lane()
        outputs = []
        for image in images:
            lane.receive({"x": image})
            taken = lane._values["x"].data_ptr()
            lane.compute()
            tensor = lane.send()["y"]
            outputs.append((tensor, tensor.data_ptr() == taken))
        return [(np.array(np.from_dlpack(tensor)), is_view) for tensor, is_view in outputs]

    for i, (value, is_view) in enumerate(in_thread(held)):
        assert is_view
        assert (value == i).all()
    found = Pipeline(stages_of(deployment.plan, make), ("y",)).run({"x": i} for i in images)
    for i, result in enumerate(found):
        assert (result.outputs["y"] == i).all()


def test_tensors_are_handed_on_without_a_copy(two_stage_bundle: Path, tiny: Any) -> None:
    _, make = opened(two_stage_bundle)

    def addresses() -> list[tuple[int, int]]:
        first, second = make(0).open_lane(), make(1).open_lane()
        first.receive({"image": tiny.image()})
        first.compute()
        values = first.send()
        second.receive(values)
        return [(values["features"].data_ptr(), second._values["features"].data_ptr())]

    ((made, taken),) = in_thread(addresses)
    assert made == taken


def test_a_wrong_array_in_the_middle_is_explained(two_stage_bundle: Path) -> None:
    deployment, make = opened(two_stage_bundle)
    pipeline = Pipeline(stages_of(deployment.plan, make), ("class",))
    with pytest.raises(StageError, match=r"Stage 0 on .* failed to receive frame 0") as caught:
        list(pipeline.run([{"image": np.zeros((1, 3, 16, 8), np.float32)}]))
    assert "Input image has the wrong shape" in caught.value.seen
    assert isinstance(caught.value.__cause__, UsageError)


def test_a_stage_for_another_machine(arm_bundle: Path, tiny: Any) -> None:
    if tiny.host == "aarch64":
        pytest.skip("needs a machine that is not 64-bit ARM itself")
    _, make = opened(arm_bundle)
    with pytest.raises(BundleError, match=r"Stage 0 of .* cannot run here") as caught:
        make(0)
    assert "is for aarch64" in caught.value.seen


def test_a_stage_that_is_not_there(host_bundle: Path) -> None:
    _, make = opened(host_bundle)
    with pytest.raises(BundleError, match="has no stage 1"):
        make(1)


def test_a_tampered_library_is_never_loaded(host_bundle: Path, tiny: Any) -> None:
    library = host_bundle / f"stage0.{tiny.host}.so"
    library.write_bytes(library.read_bytes() + b"\0")
    with pytest.raises(BundleError, match="not the file that was compiled"):
        opened(host_bundle)[1](0)


@pytest.mark.parametrize("options", [{"cpus": (100_000,)}, {"threads": 100_000}])
def test_cpus_and_threads_must_exist(host_bundle: Path, options: dict[str, Any]) -> None:
    _, make = opened(host_bundle, **options)
    with pytest.raises(UsageError, match="cannot be used") as caught:
        in_thread(lambda: make(0).open_lane())
    assert "this process may use" in caught.value.seen


def test_a_plan_with_more_threads_than_this_machine_has(host_bundle: Path, tiny: Any) -> None:
    tiny.edit_manifest(
        host_bundle, lambda d: d["deployments"][0]["plan"]["stages"][0].update(threads=4096)
    )
    deployment, make = opened(host_bundle)
    (result,) = Pipeline(stages_of(deployment.plan, make), ("class",)).run(
        [{"image": tiny.image()}]
    )
    np.testing.assert_array_equal(result.outputs["class"], tiny.reference(tiny.image())["class"])


POOLS = """
import json, os, sys, threading
from tvm_iovt.runtime import libtvm
from tvm_iovt.runtime.threads import COUNT, own_pool

ffi = libtvm.load()
before = os.environ.get(COUNT)
count = ffi.get_global_func("runtime.NumThreads")
allowed = sorted(os.sched_getaffinity(0))
found = {}

def tasks():
    return set(map(int, os.listdir("/proc/self/task")))

def use(name, threads, cpus):
    there = tasks()
    used = own_pool(ffi, threads=threads, cpus=cpus)
    workers = tasks() - there
    found[name] = {
        "used": used,
        "asked again": count(),
        "own": sorted(os.sched_getaffinity(0)),
        "workers": [sorted(os.sched_getaffinity(task)) for task in workers],
    }

def in_thread(*arguments):
    thread = threading.Thread(target=use, args=arguments)
    thread.start()
    thread.join()

in_thread("one", 1, ())
in_thread("all", len(allowed), ())
in_thread("last", 0, (allowed[-1],))
in_thread("default", 0, ())
print(json.dumps({
    "found": found, "allowed": allowed, "count": [before, os.environ.get(COUNT)],
    "main": sorted(os.sched_getaffinity(0)),
}))
"""


@pytest.mark.parametrize("bind", ["0", "1"])
def test_each_thread_has_a_pool_and_cpus_of_its_own(bind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(POOLS)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TVM_BIND_THREADS": bind},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    allowed, found = seen["allowed"], seen["found"]
    for name, used, cpus in (
        ("one", 1, allowed),
        ("last", 1, allowed[-1:]),
        ("all", len(allowed), allowed),
    ):
        pool = found[name]
        assert (pool["used"], pool["asked again"], pool["own"]) == (used, used, cpus)
        assert len(pool["workers"]) >= used - 1
        assert all(worker == cpus for worker in pool["workers"])
    assert found["default"]["own"] == allowed
    before, after = seen["count"]
    assert before == after
    assert seen["main"] == allowed


PARALLEL = """
import json, sys
from pathlib import Path
from tvm_iovt import bundle
from tvm_iovt.runtime import libtvm
from tvm_iovt.runtime.local_stage import LocalStage
from tvm_iovt.runtime.pipeline import Pipeline
from tvm_iovt.runtime.pipeline_stage import stages_of

# Threads pass the interpreter's lock on only where they give it up themselves.
sys.setswitchinterval(1000)
path = Path(sys.argv[1])
manifest = bundle.read_manifest(path)
(deployment,) = manifest.deployments
ffi = libtvm.load(path / "lib")
inputs, _ = bundle.load_sample(path, manifest.sample.file)
stages = stages_of(
    deployment.plan, lambda i: LocalStage(path, deployment, i, ffi, threads=1, cpus=(i,))
)
found = {}
for sequential in (True, False):
    with Pipeline(stages, ["y"], sequential=sequential) as pipeline:
        for _ in pipeline.run([inputs] * 60):
            pass
        timeline = pipeline.timeline()
    first, second = (timeline.of(i, "compute") for i in range(2))
    found[str(sequential)] = sum(
        a.start_s < b.end_s and b.start_s < a.end_s for a in first for b in second
    )
print(json.dumps(found))
"""


def test_two_stages_on_a_core_each_compute_at_the_same_time(balanced_bundle: Path) -> None:
    """Neither holds the interpreter's lock; how much faster that is depends on the machine."""
    if not {0, 1} <= os.sched_getaffinity(0):
        pytest.skip("needs CPUs 0 and 1")
    done = subprocess.run(
        [sys.executable, "-c", PARALLEL, str(balanced_bundle)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    together = json.loads(done.stdout)
    assert together["True"] == 0
    assert together["False"] > 10, together
