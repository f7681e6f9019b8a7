from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_iovt import bundle, runtime
from tvm_iovt.errors import BundleError, DeviceError, UsageError
from tvm_iovt.runtime import machine
from tvm_iovt.types import Tolerance

ROOT = Path(__file__).resolve().parents[2]
OTHER_ARCH = {"aarch64": "x86_64"}


def run_python(script: str, *arguments: str, **environment: str) -> Any:
    """Run a script in a fresh process; returns what it printed, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env={k: v for k, v in ({**os.environ, "PYTHONPATH": str(ROOT)} | environment).items() if v},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- Results -----------------------------------------------------------------------------------


def test_outputs_agree_with_an_independent_reference(host_bundle: Path, tiny: Any) -> None:
    executor = runtime.load(host_bundle)
    for seed in (1, 2):
        image = tiny.image(seed)
        outputs = executor.run({"image": image})
        expected = tiny.reference(image)
        assert list(outputs) == ["features", "class"]
        np.testing.assert_allclose(outputs["features"], expected["features"], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(outputs["class"], expected["class"], strict=True)


def test_the_sample_passes(host_bundle: Path) -> None:
    found = runtime.load(host_bundle).self_check()
    assert found.passed
    assert found.reference == "NumPy, float64"
    assert found.tolerance == Tolerance(rtol=1e-4, atol=1e-5)


def test_a_wrong_network_fails_its_sample(host_bundle: Path, tiny: Any) -> None:
    image = tiny.image()
    wrong = {name: value + 1 for name, value in tiny.reference(image).items()}
    sample = bundle.save_sample(host_bundle, {"image": image}, wrong)
    record = {"file": sample.file, "sha256": sample.sha256, "size_bytes": sample.size_bytes}
    tiny.edit_manifest(host_bundle, lambda data: data.update(sample=record))
    found = runtime.load(host_bundle).self_check()
    assert not found.passed
    assert [output.violations for output in found.outputs] == [2048, 256]


def test_outputs_belong_to_the_caller(host_bundle: Path, tiny: Any) -> None:
    executor = runtime.load(host_bundle)
    first = executor.run({"image": tiny.image(1)})
    kept = {name: value.copy() for name, value in first.items()}
    executor.run({"image": tiny.image(2)})
    for name, value in first.items():
        np.testing.assert_array_equal(value, kept[name])
        value[...] = 0  # writable


def test_any_memory_layout_of_an_input_will_do(host_bundle: Path, tiny: Any) -> None:
    executor = runtime.load(host_bundle)
    image = tiny.image()
    expected = executor.run({"image": image})["features"]
    read_only = image.copy()
    read_only.flags.writeable = False
    shifted = np.zeros(image.nbytes + 4, np.uint8)[4:].view(np.float32).reshape(image.shape)
    shifted[...] = image
    transposed = np.ascontiguousarray(image.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for other in (read_only, shifted, transposed):
        np.testing.assert_array_equal(executor.run({"image": other})["features"], expected)


def test_several_executors_live_side_by_side(host_bundle: Path, tiny: Any) -> None:
    executors = [runtime.load(host_bundle) for _ in range(3)]
    results = [executor.run({"image": tiny.image()})["features"] for executor in executors]
    np.testing.assert_array_equal(results[0], results[2])


def test_stages_are_chained_by_tensor_names(two_stage_bundle: Path, tiny: Any) -> None:
    executor = runtime.load(two_stage_bundle)
    assert executor.self_check().passed
    image = tiny.image(9)
    outputs = executor.run({"image": image})
    np.testing.assert_array_equal(outputs["class"], tiny.reference(image)["class"], strict=True)


def test_a_stage_whose_input_nobody_makes(two_stage_bundle: Path, tiny: Any) -> None:
    def rename(data: dict) -> None:
        data["deployments"][0]["plan"]["stages"][1]["inputs"][0]["name"] = "missing"

    tiny.edit_manifest(two_stage_bundle, rename)
    with pytest.raises(BundleError, match="missing"):
        runtime.load(two_stage_bundle)


def test_operators_outside_of_the_core_library(tmp_path: Path, tiny: Any) -> None:
    library = tmp_path / "network.so"
    tiny.compile_network(tiny.host, library, sorted_output=True)
    path = tiny.write_bundle(tmp_path / "sort.iovt", {tiny.host: library})
    found = run_python(
        """
        import json, sys
        import numpy as np
        from tvm_iovt import runtime
        executor = runtime.load(sys.argv[1])
        x = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
        y = executor.run({"image": x})["features"]
        print(json.dumps(bool((np.diff(y, axis=1) >= 0).all() and y.max() > 0)))
        """,
        str(path),
    )
    assert found is True


# --- Measuring ---------------------------------------------------------------------------------


def test_benchmark_measures_two_scopes(host_bundle: Path, tiny: Any) -> None:
    executor = runtime.load(host_bundle)
    device, whole = executor.benchmark({"image": tiny.image()}, warmup=2, repeat=20)
    assert (device.scope, whole.scope) == ("device", "end_to_end")
    for found in (device, whole):
        assert 0 < found.p10_s <= found.median_s <= found.p90_s
        assert (found.samples, found.warmup) == (20, 2)
        assert tiny.host in found.environment


@pytest.mark.parametrize(("warmup", "repeat"), [(0, 0), (-1, 1)])
def test_benchmark_refuses_nonsense(host_bundle: Path, tiny: Any, warmup: int, repeat: int) -> None:
    executor = runtime.load(host_bundle)
    with pytest.raises(UsageError):
        executor.benchmark({"image": tiny.image()}, warmup=warmup, repeat=repeat)


# --- Wrong inputs ------------------------------------------------------------------------------

GOOD = np.zeros((1, 3, 16, 16), np.float32)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "wrong names"),
        ({"picture": GOOD}, "wrong names"),
        ({"image": GOOD, "extra": GOOD}, "wrong names"),
        ({"image": GOOD[0]}, "3x16x16 float32"),
        ({"image": GOOD.astype(np.float64)}, "1x3x16x16 float64"),
        ({"image": GOOD.astype(">f4")}, "wrong shape or dtype"),
        ({"image": GOOD.tolist()}, "not a NumPy array"),
    ],
    ids=["none", "other", "extra", "shape", "dtype", "byte order", "list"],
)
def test_wrong_inputs_are_explained(
    host_bundle: Path, inputs: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        runtime.load(host_bundle).run(inputs)
    assert message in str(caught.value)


# --- Choosing a deployment ---------------------------------------------------------------------


def test_the_fitting_deployment_is_chosen(both_bundle: Path, tiny: Any) -> None:
    assert runtime.load(both_bundle).deployment.name == tiny.host


def test_a_bundle_for_other_machines_only(arm_bundle: Path, tiny: Any) -> None:
    with pytest.raises(BundleError) as caught:
        runtime.load(arm_bundle)
    assert caught.value.exit_code == 8
    assert "aarch64 (is for aarch64)" in caught.value.seen
    assert f"this machine is {tiny.host}" in caught.value.seen


def test_a_named_deployment_must_fit_too(both_bundle: Path) -> None:
    with pytest.raises(BundleError, match="cannot run here"):
        runtime.load(both_bundle, target="aarch64")
    with pytest.raises(BundleError, match="no deployment fpga"):
        runtime.load(both_bundle, target="fpga")


def test_two_that_fit_need_a_name(host_bundle: Path, tiny: Any) -> None:
    def double(data: dict) -> None:
        data["deployments"].append({**data["deployments"][0], "name": "second"})

    tiny.edit_manifest(host_bundle, double)
    with pytest.raises(BundleError, match="more than one") as caught:
        runtime.load(host_bundle)
    assert "--target" in caught.value.do
    assert runtime.load(host_bundle, target="second").deployment.name == "second"


def test_missing_cpu_features_are_named(host_bundle: Path, tiny: Any) -> None:
    def need(data: dict) -> None:
        data["deployments"][0]["targets"][0]["cpu"]["features"] = ["fp", "fpu", "warp_drive"]

    tiny.edit_manifest(host_bundle, need)
    with pytest.raises(BundleError, match=r"needs the CPU features .*warp_drive"):
        runtime.load(host_bundle)


def test_a_missing_gpu_is_named(host_bundle: Path, tiny: Any) -> None:
    def on_gpu(data: dict) -> None:
        data["deployments"][0]["targets"][0]["gpu"] = {
            "kind": "vulkan",
            "arch": "spirv1.3",
            "max_threads_per_block": 256,
            "max_shared_memory_per_block_bytes": 16384,
            "thread_warp_size": 1,
        }

    tiny.edit_manifest(host_bundle, on_gpu)
    with pytest.raises(BundleError, match="needs a vulkan device"):
        runtime.load(host_bundle)
    (deployment,) = bundle.read_manifest(host_bundle).deployments
    assert "vulkan" in runtime.why_not_here(host_bundle, deployment)


def test_why_not_here(both_bundle: Path, tiny: Any) -> None:
    reasons = {
        d.name: runtime.why_not_here(both_bundle, d)
        for d in bundle.read_manifest(both_bundle).deployments
    }
    assert reasons == {tiny.host: "", "aarch64": "is for aarch64"}


def test_this_machine_shows_its_features() -> None:
    found = machine.this_machine()
    assert found.features & {"fpu", "fp", "half"}


# --- Damage ------------------------------------------------------------------------------------


def test_a_tampered_library_is_never_loaded(host_bundle: Path, tiny: Any) -> None:
    library = host_bundle / f"stage0.{tiny.host}.so"
    library.write_bytes(library.read_bytes() + b"\0")
    with pytest.raises(BundleError, match="not the file that was compiled"):
        runtime.load(host_bundle)
    assert runtime.load(host_bundle, check=False).self_check().passed


def test_a_library_that_cannot_be_loaded(host_bundle: Path, tiny: Any) -> None:
    name = f"stage0.{tiny.host}.so"
    (host_bundle / name).write_bytes(b"\x7fELF junk")
    record = bundle.record(host_bundle, name)

    def accept(data: dict) -> None:
        data["deployments"][0]["libraries"][0]["file"] = {
            "file": name,
            "sha256": record.sha256,
            "size_bytes": record.size_bytes,
        }

    tiny.edit_manifest(host_bundle, accept)
    with pytest.raises(BundleError, match="cannot be loaded"):
        runtime.load(host_bundle)


def test_a_library_of_another_shape_than_the_manifest_says(host_bundle: Path, tiny: Any) -> None:
    def shrink(data: dict) -> None:
        data["inputs"][0]["shape"] = [1, 3, 16, 8]
        data["deployments"][0]["plan"]["stages"][0]["inputs"][0]["shape"] = [1, 3, 16, 8]

    tiny.edit_manifest(host_bundle, shrink)
    executor = runtime.load(host_bundle)
    with pytest.raises(DeviceError, match="Stage 0 failed"):
        executor.run({"image": np.zeros((1, 3, 16, 8), np.float32)})
    with pytest.raises(BundleError, match="not for this network"):
        executor.self_check()


def test_a_library_with_other_outputs_than_the_manifest_says(host_bundle: Path, tiny: Any) -> None:
    def drop(data: dict) -> None:
        data["outputs"].pop()
        data["deployments"][0]["plan"]["stages"][0]["outputs"].pop()

    tiny.edit_manifest(host_bundle, drop)
    with pytest.raises(BundleError, match="does not return what the bundle records"):
        runtime.load(host_bundle).run({"image": tiny.image()})


def test_a_tampered_sample_is_found(host_bundle: Path) -> None:
    executor = runtime.load(host_bundle)
    sample = host_bundle / bundle.SAMPLE
    sample.write_bytes(sample.read_bytes()[:-1] + b"\1")
    with pytest.raises(BundleError, match=r"sample\.npz"):
        executor.self_check()


@pytest.mark.parametrize("path", ["nothing", "file", "folder"])
def test_what_is_not_a_bundle(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_bytes(b"\x7fELF")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BundleError, match="is not a bundle"):
        runtime.load(tmp_path / path)


def test_unverified_deployment_is_checked_with_the_bundles_tolerance(
    host_bundle: Path, tiny: Any
) -> None:
    tiny.edit_manifest(host_bundle, lambda d: d["deployments"][0].update(discrepancy=None))
    assert runtime.load(host_bundle).self_check().passed


def test_sample_without_a_reference_cannot_be_checked(host_bundle: Path, tiny: Any) -> None:
    tiny.edit_manifest(host_bundle, lambda data: data.update(reference=""))
    with pytest.raises(BundleError, match="nothing to be compared with"):
        runtime.load(host_bundle).self_check()


def test_minimum_cosine_decides_instead_of_the_bounds(host_bundle: Path, tiny: Any) -> None:
    strict = {"rtol": 0.0, "atol": 0.0, "min_cosine": 0.999}
    tiny.edit_manifest(host_bundle, lambda data: data.update(tolerance=strict))
    executor = runtime.load(host_bundle)
    assert executor.self_check().passed
    assert not executor.self_check(rtol=0.0).passed


# --- Versions ----------------------------------------------------------------------------------


def test_another_tvm_is_refused(host_bundle: Path, tiny: Any) -> None:
    tiny.edit_manifest(host_bundle, lambda data: data.update(tvm_version="0.26.0"))
    with pytest.raises(BundleError) as caught:
        runtime.load(host_bundle)
    assert "0.26.0" in caught.value.seen
    assert "pip install apache-tvm==0.26.0" in caught.value.do


def test_another_ffi_is_refused_but_not_another_post_release(host_bundle: Path, tiny: Any) -> None:
    written = bundle.read_manifest(host_bundle).tvm_ffi_version
    release = ".".join(written.split(".")[:3])
    tiny.edit_manifest(host_bundle, lambda d: d.update(tvm_ffi_version=f"{release}.post99"))
    assert runtime.load(host_bundle).self_check().passed
    tiny.edit_manifest(host_bundle, lambda d: d.update(tvm_ffi_version=f"{release}9"))
    with pytest.raises(BundleError, match=f"{release}9"):
        runtime.load(host_bundle)


# --- The process -------------------------------------------------------------------------------


def test_cold_start_memory_and_imports(host_bundle: Path) -> None:
    found = run_python(
        """
        import json, pathlib, re, sys, time
        import numpy as np
        from tvm_iovt import runtime
        executor = runtime.load(sys.argv[1])
        executor.run({"image": np.zeros((1, 3, 16, 16), np.float32)})
        status = pathlib.Path("/proc/self/status").read_text
        print(json.dumps({
            "seconds": time.process_time(),  # whatever else the machine does
            # Not getrusage: its maximum includes the parent's memory at the time of the fork.
            "peak_kb": int(re.search(r"VmHWM:\\s*(\\d+)", status())[1]),
            "modules": sorted({name.split(".")[0] for name in sys.modules}),
        }))
        """,
        str(host_bundle),
    )
    # 0.3 s and 70 MB on an idle machine; the bounds leave room for a slow one.
    assert found["seconds"] < 3
    assert found["peak_kb"] < 200_000
    forbidden = {"tvm", "torch", "onnx", "onnxruntime", "onnxslim", "click", "rich"}
    assert not forbidden & set(found["modules"])


def test_torch_can_be_imported_afterwards(host_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("imported = True")
    found = run_python(
        """
        import json, sys
        from tvm_iovt import runtime
        runtime.load(sys.argv[1])
        before = "torch" in sys.modules
        import torch
        print(json.dumps([before, torch.imported]))
        """,
        str(host_bundle),
        PYTHONPATH=f"{ROOT}:{tmp_path}",
    )
    assert found == [False, True]


def test_works_where_tvm_is_imported_already(host_bundle: Path) -> None:
    found = run_python(
        """
        import json, sys
        import tvm
        from tvm_iovt import runtime
        print(json.dumps(runtime.load(sys.argv[1]).self_check().passed))
        """,
        str(host_bundle),
    )
    assert found is True


def test_tvm_can_be_imported_afterwards(host_bundle: Path) -> None:
    found = run_python(
        """
        import json, sys
        from tvm_iovt import runtime
        executor = runtime.load(sys.argv[1])
        first = executor.self_check().passed
        import tvm
        print(json.dumps([first, executor.self_check().passed, str(tvm.runtime.cpu())]))
        """,
        str(host_bundle),
    )
    assert found[:2] == [True, True]


THREADS = """
    import json, sys
    import tvm_ffi
    from tvm_iovt import runtime
    from tvm_iovt.errors import UsageError
    count = json.loads(sys.argv[2])
    try:
        executor = runtime.load(sys.argv[1], threads=count)
        executor.self_check()
        print(json.dumps(tvm_ffi.get_global_func("runtime.NumThreads")()))
    except UsageError as error:
        print(json.dumps(error.what))
"""


def test_threads_are_chosen_by_argument_or_variable(host_bundle: Path) -> None:
    path = str(host_bundle)
    assert run_python(THREADS, path, "1") == 1
    assert run_python(THREADS, path, "null", TVM_NUM_THREADS="1") == 1
    assert run_python(THREADS, path, "1", TVM_NUM_THREADS="2") == 1
    assert run_python(THREADS, path, "0") == "The number of threads must be positive"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="threads are bound on ARM")
def test_the_process_keeps_to_its_cpus_and_its_caller_keeps_them(host_bundle: Path) -> None:
    script = """
        import json, os, sys
        allowed = {max(os.sched_getaffinity(0))}
        os.sched_setaffinity(0, allowed)
        import tvm_ffi
        from tvm_iovt import runtime
        executor = runtime.load(sys.argv[1])
        executor.self_check()
        threads = tvm_ffi.get_global_func("runtime.NumThreads")()
        print(json.dumps([os.sched_getaffinity(0) == allowed, threads]))
    """
    unset = {name: "" for name in ("TVM_NUM_THREADS", "TVM_BIND_THREADS", "OMP_NUM_THREADS")}
    assert run_python(script, str(host_bundle), **unset) == [True, 1]


def test_a_library_path_that_holds_nothing(host_bundle: Path, tmp_path: Path) -> None:
    script = """
        import json, sys
        sys.modules["tvm"] = None  # as if apache-tvm were not installed
        from tvm_iovt import runtime
        from tvm_iovt.errors import BundleError
        try:
            runtime.load(sys.argv[1])
        except BundleError as error:
            print(json.dumps(str(error)))
    """
    found = run_python(script, str(host_bundle), TVM_LIBRARY_PATH=str(tmp_path))
    assert "libtvm_runtime.so cannot be found" in found
    assert str(tmp_path) in found
