"""The C++ runner, built for this machine and executed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_iovt import bundle
from tvm_iovt.discrepancy import compare
from tvm_iovt.json_codec import from_json
from tvm_iovt.runtime.pack import pack
from tvm_iovt.types import Discrepancy, Measurement, Tolerance


@pytest.fixture(scope="module")
def packed_once(tmp_path_factory: pytest.TempPathFactory, host_library: Path, tiny: Any) -> Path:
    if not shutil.which("g++") and not shutil.which("clang++"):
        pytest.skip("needs a C++ compiler (apt-get install g++)")
    folder = tmp_path_factory.mktemp("packed")
    source = tiny.write_bundle(folder / "host.iovt", {tiny.host: host_library})
    pack(source, folder / "packed", arch=tiny.host)
    return folder / "packed"


@pytest.fixture
def packed(packed_once: Path, tmp_path: Path) -> Path:
    """A packed bundle of this machine, at a path that it was not packed for."""
    return Path(shutil.copytree(packed_once, tmp_path / "a place with spaces"))


def run(packed: Path, *options: object, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
    return subprocess.run(
        [packed / "bin" / "iovt-runner", packed, *map(str, options)],
        env=clean | environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
    )


def outputs_of(packed: Path, *options: object) -> dict[str, np.ndarray]:
    done = run(packed, "--outputs", packed / "out.npz", *options)
    assert done.returncode == 0, done.stderr
    return bundle.load_sample(packed, "out.npz")[1]


# --- Results -----------------------------------------------------------------------------------


def test_the_sample_passes(packed: Path) -> None:
    done = run(packed)
    assert done.returncode == 0, done.stderr
    assert "0 of 2048" in done.stdout
    assert "passed" in done.stdout
    assert "(10 runs after 1)" in done.stdout


def test_json_is_what_python_reads(packed: Path, tiny: Any) -> None:
    done = run(packed, "--json", "--repeat", 5, "--warmup", 2)
    found = json.loads(done.stdout)
    discrepancy = from_json(Discrepancy, found["discrepancy"])
    measurement = from_json(Measurement, found["measurement"])
    assert (found["deployment"], found["passed"]) == (tiny.host, True)
    assert discrepancy.passed
    assert discrepancy.tolerance == Tolerance(rtol=1e-4, atol=1e-5)
    assert [output.elements for output in discrepancy.outputs] == [2048, 256]
    assert 0 < discrepancy.outputs[0].max_abs < 1e-5
    assert discrepancy.outputs[0].cosine == pytest.approx(1)
    assert (measurement.samples, measurement.warmup) == (5, 2)
    assert 0 < measurement.p10_s <= measurement.median_s <= measurement.p90_s


def test_it_agrees_with_the_python_comparison(packed: Path) -> None:
    from tvm_iovt.discrepancy import compare

    computed = outputs_of(packed)
    _, expected = bundle.load_sample(packed)
    python = compare(
        computed,
        expected,
        tolerance=Tolerance(rtol=1e-7, atol=1e-7),
        reference="NumPy, float64",
    )
    done = run(packed, "--json", "--rtol", 1e-7, "--atol", 1e-7)
    assert done.returncode == 6
    runner = from_json(Discrepancy, json.loads(done.stdout)["discrepancy"])
    for ours, theirs in zip(runner.outputs, python.outputs, strict=True):
        assert ours.violations == theirs.violations
        assert ours.max_abs == theirs.max_abs
        assert ours.max_rel == pytest.approx(theirs.max_rel)
        assert ours.cosine == pytest.approx(theirs.cosine)


def test_own_inputs(packed: Path, tiny: Any) -> None:
    image = tiny.image(3)
    bundle.save_sample(packed.parent, {"image": image}, {})
    outputs = outputs_of(packed, "--inputs", packed.parent / bundle.SAMPLE)
    expected = tiny.reference(image)
    np.testing.assert_allclose(outputs["features"], expected["features"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(outputs["class"], expected["class"], strict=True)


def test_own_inputs_with_expected_outputs(packed: Path, tiny: Any) -> None:
    image = tiny.image(3)
    expected = tiny.reference(image)
    expected["class"] += 1
    bundle.save_sample(packed.parent, {"image": image}, expected)
    done = run(packed, "--json", "--inputs", packed.parent / bundle.SAMPLE)
    assert done.returncode == 6
    found = from_json(Discrepancy, json.loads(done.stdout)["discrepancy"])
    assert [output.violations for output in found.outputs] == [0, 256]


def test_large_outputs_are_compared_as_python_does(packed: Path, tiny: Any) -> None:
    image = tiny.image(3)
    inputs, outputs = packed.parent / bundle.SAMPLE, packed / "out.npz"
    for offset, every in ((0.15, False), (0.4, True)):
        expected = tiny.reference(image)
        # One large number scales the absolute bound of all: 1e-5 to 0.2.
        expected["features"] = expected["features"] + np.float32(offset)
        expected["features"].flat[0] = 2e5
        bundle.save_sample(packed.parent, {"image": image}, expected)
        done = run(packed, "--json", "--inputs", inputs, "--outputs", outputs)
        assert done.returncode == 6
        found = from_json(Discrepancy, json.loads(done.stdout)["discrepancy"]).outputs[0]
        assert found.violations == (found.elements if every else 1)
        actual = bundle.load_sample(packed, outputs.name)[1]
        tolerance = Tolerance(rtol=1e-4, atol=1e-5)
        ours = compare(actual, expected, tolerance=tolerance, reference="").outputs[0]
        assert found.violations == ours.violations


def test_nan_and_infinity_in_expected_outputs(packed: Path, tiny: Any) -> None:
    image = tiny.image(3)
    expected = tiny.reference(image)
    expected["features"].flat[0] = np.nan
    expected["features"].flat[1] = np.inf
    bundle.save_sample(packed.parent, {"image": image}, expected)
    done = run(packed, "--json", "--inputs", packed.parent / bundle.SAMPLE)
    assert done.returncode == 6
    found = from_json(Discrepancy, json.loads(done.stdout)["discrepancy"])
    assert found.outputs[0].violations == 2
    assert found.outputs[0].max_abs == np.inf


def test_stages_are_chained_by_tensor_names(
    packed: Path, two_stage_bundle: Path, tiny: Any
) -> None:
    runner = packed / "bin" / "iovt-runner"
    done = subprocess.run([runner, two_stage_bundle, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def rename(data: dict) -> None:
        data["deployments"][0]["plan"]["stages"][1]["inputs"][0]["name"] = "missing"

    tiny.edit_manifest(two_stage_bundle, rename)
    done = subprocess.run([runner, two_stage_bundle], capture_output=True, text=True)
    assert done.returncode == 8
    assert "missing" in done.stderr


def test_operators_outside_of_the_core_library(tmp_path: Path, packed: Path, tiny: Any) -> None:
    library = tmp_path / "network.so"
    tiny.compile_network(tiny.host, library, sorted_output=True)
    source = tiny.write_bundle(tmp_path / "sort.iovt", {tiny.host: library})
    done = subprocess.run(
        [packed / "bin" / "iovt-runner", source, "--outputs", tmp_path / "out.npz"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 6, done.stderr  # sorted features are not those of the reference
    _, outputs = bundle.load_sample(tmp_path, "out.npz")
    assert (np.diff(outputs["features"], axis=1) >= 0).all()


def test_the_script_finds_its_libraries(packed: Path) -> None:
    done = subprocess.run(
        [packed / "run.sh", "--json", "--threads", "1"],
        cwd="/",
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed"] is True


# --- Refusals ----------------------------------------------------------------------------------


def test_help(packed: Path) -> None:
    done = run(packed, "--help")
    assert done.returncode == 0
    assert "--repeat N" in done.stdout


@pytest.mark.parametrize(
    "options",
    [
        ["--nonsense"],
        ["--repeat"],
        ["--repeat", "0"],
        ["--repeat", "many"],
        ["--repeat", "99999999999999999999"],
        ["--warmup", "-1"],
        ["--rtol", "-1"],
        ["--rtol", "nan"],
        ["--atol", ""],
        ["another.iovt"],
    ],
    ids=" ".join,
)
def test_wrong_usage(packed: Path, options: list[str]) -> None:
    done = run(packed, *options)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stdout == ""


@pytest.mark.parametrize(
    "array",
    [np.zeros((1, 3, 16, 15), np.float32), np.zeros((1, 3, 16, 16), np.float64), None],
    ids=["shape", "dtype", "missing"],
)
def test_wrong_inputs(packed: Path, array: np.ndarray | None) -> None:
    bundle.save_sample(packed.parent, {} if array is None else {"image": array}, {})
    done = run(packed, "--inputs", packed.parent / bundle.SAMPLE)
    assert done.returncode == 2
    assert "input/image of 1x3x16x16 float32" in done.stderr


def test_compressed_inputs_are_explained(packed: Path, tiny: Any) -> None:
    with (packed.parent / "in.npz").open("wb") as stream:
        np.savez_compressed(stream, **{"input/image": tiny.image()})
    done = run(packed, "--inputs", packed.parent / "in.npz")
    assert done.returncode == 8
    assert "numpy.savez" in done.stderr


@pytest.mark.parametrize("file", ["stage0", "sample"])
def test_tampering_is_found(packed: Path, file: str) -> None:
    (path,) = packed.glob(f"{file}*")
    recorded = next(r for r in bundle.files(bundle.read_manifest(packed)) if r.file == path.name)
    path.write_bytes(path.read_bytes() + b"\0")
    done = run(packed)
    assert done.returncode == 8
    assert path.name in done.stderr
    assert recorded.sha256 in done.stderr


def test_a_missing_library_is_named(packed: Path, tiny: Any) -> None:
    (packed / f"stage0.{tiny.host}.so").unlink()
    done = run(packed)
    assert done.returncode == 8
    assert f"stage0.{tiny.host}.so" in done.stderr


def test_a_library_outside_of_the_bundle(packed: Path, tiny: Any) -> None:
    def escape(data: dict) -> None:
        data["deployments"][0]["libraries"][0]["file"]["file"] = "../network.so"

    tiny.edit_manifest(packed, escape)
    done = run(packed)
    assert done.returncode == 8
    assert "outside" in done.stderr


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tvm_version": "0.26.0"}, "0.26.0"),
        ({"tvm_ffi_version": "0.1.15"}, "0.1.15"),
        ({"schema": "tvm-iovt/manifest/2"}, "manifest/2"),
        ({"schema": None}, "schema"),
        ({"deployments": []}, "no deployment"),
        ({"deployments": {}}, "deployments should be a list"),
        ({"sample": {}}, "no field file"),
    ],
)
def test_a_manifest_that_does_not_fit(
    packed: Path, tiny: Any, fields: dict[str, Any], message: str
) -> None:
    tiny.edit_manifest(packed, lambda data: data.update(fields))
    done = run(packed)
    assert done.returncode == 8
    assert message in done.stderr


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 5000, "\x00\xff"])
def test_malformed_manifests(packed: Path, text: str) -> None:
    (packed / bundle.MANIFEST).write_text(text, encoding="latin-1")
    done = run(packed)
    assert done.returncode == 8
    assert done.stderr.startswith("error: ")


def test_another_machine_is_named(packed: Path, arm_bundle: Path, tiny: Any) -> None:
    done = subprocess.run(
        [packed / "bin" / "iovt-runner", arm_bundle], capture_output=True, text=True
    )
    assert done.returncode == 8
    assert "aarch64 (is for aarch64)" in done.stderr
    assert f"this machine is {tiny.host}" in done.stderr


def test_missing_cpu_features_are_named(packed: Path, tiny: Any) -> None:
    def need(data: dict) -> None:
        data["deployments"][0]["targets"][0]["cpu"]["features"] = ["warp_drive"]

    tiny.edit_manifest(packed, need)
    done = run(packed)
    assert done.returncode == 8
    assert "warp_drive" in done.stderr


def test_a_full_disk_while_writing_outputs(packed: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    done = run(packed, "--outputs", "/dev/full")
    assert done.returncode == 2
    assert "cannot be written" in done.stderr


def test_damaged_inputs_never_crash_it(packed: Path, tiny: Any) -> None:
    bundle.save_sample(packed.parent, {"image": tiny.image()}, tiny.reference(tiny.image()))
    good = (packed.parent / bundle.SAMPLE).read_bytes()
    directory = good.rindex(b"PK\x01\x02", 0, good.rindex(b"PK\x05\x06")) - 120
    damaged = packed.parent / "damaged.npz"
    generator = random.Random(0)
    codes = set()
    for i in range(60):
        data = bytearray(good)
        # The headers at both ends are what a reader follows.
        where = generator.randrange(200) if i % 2 else generator.randrange(directory, len(data))
        data[where] = generator.randrange(256)
        damaged.write_bytes(data[: generator.choice([len(data), generator.randrange(len(data))])])
        codes.add(run(packed, "--inputs", damaged, "--repeat", 1).returncode)
    assert codes <= {0, 2, 6, 8}
    assert 8 in codes
