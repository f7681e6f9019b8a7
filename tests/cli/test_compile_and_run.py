"""The way through as a user walks it: compile, run, verify, inspect, bundle check."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from tvm_iovt import host_cpu
from tvm_iovt.cli.main import run
from tvm_iovt.errors import UsageError
from tvm_iovt.precision import check_model


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    assert run(["zoo", "export", "digits", "-o", str(folder / "digits.onnx")]) == 0
    command = ["compile", str(folder / "digits.onnx"), "-o", str(folder / "digits.iovt")]
    assert run([*command, "--targets", "host,arm"]) == 0
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Class folders with white bars on black: not digits, but images."""
    for label in range(2):
        (tmp_path / "data" / str(label)).mkdir(parents=True)
        for index in range(3):
            pixels = np.zeros((28, 28), np.uint8)
            pixels[4:24, 8 + 3 * label + index : 12 + 3 * label + index] = 255
            Image.fromarray(pixels).save(tmp_path / "data" / str(label) / f"{index}.png")
    return tmp_path / "data"


def output(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_compile_prints_the_table(digits: Path, capsys) -> None:
    code, out, err = output(
        capsys, "compile", digits / "digits.onnx", "-o", digits / "b.iovt", "-v"
    )
    assert code == 0
    assert "passed" in out
    assert "against onnxruntime" in out
    assert "ScheduleForCpu" in out
    assert "3 branches: 3x3, 32 to 32 channels" in out
    assert "blocks.4.conv3x3 + blocks.4.conv1x1" in out
    assert "building for host (1 of 1)" in err


def test_branches_stay_when_told_so(digits: Path, capsys) -> None:
    arguments = ("compile", digits / "digits.onnx", "-o", digits / "never.iovt", "-v")
    code, out, _ = output(capsys, *arguments, "--fuse", "never")
    assert code == 0
    assert "branches" not in out
    code, out, err = output(capsys, *arguments, "--overwrite", "--fuse", "perhaps")
    assert code == 2
    assert "'always', 'auto', 'never'" in err


def test_compile_json_is_alone_on_stdout(digits: Path, capsys) -> None:
    code, out, _ = output(
        capsys, "compile", digits / "digits.onnx", "-o", digits / "c.iovt", "--json"
    )
    assert code == 0
    found = json.loads(out)
    assert found["manifest"]["schema"] == "tvm-iovt/manifest/1"
    assert found["manifest"]["labels"] == [str(i) for i in range(10)]


def test_run_names_the_top_classes(digits: Path, images: Path, capsys) -> None:
    code, out, _ = output(
        capsys, "run", digits / "digits.iovt", images / "0" / "0.png", "-k", 2, "--json"
    )
    assert code == 0
    (answer,) = json.loads(out)["answers"]
    assert len(answer["top"]) == 2
    assert answer["top"][0]["score"] >= answer["top"][1]["score"]
    assert answer["top"][0]["label"] in "0123456789"


def test_run_on_a_folder_writes_the_outputs(
    digits: Path, images: Path, tmp_path: Path, capsys
) -> None:
    path = tmp_path / "out.npz"
    code, out, _ = output(
        capsys, "run", digits / "digits.iovt", images, "--output", path, "--repeat", 5
    )
    assert code == 0
    assert out.count(".png") >= 6
    assert "end to end, 5 runs" in out
    with np.load(path) as arrays:
        assert len(arrays.files) == 6
        assert arrays["0/output"].shape == (1, 10)


def test_run_without_inputs_uses_the_sample(digits: Path, capsys) -> None:
    code, out, _ = output(capsys, "run", digits / "digits.iovt")
    assert code == 0
    assert "the sample of digits.iovt" in out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["{bundle}", "nothing.png"], 2, "no input nothing.png"),
        (["{bundle}", "{empty}"], 2, "no image below"),
        (["{bundle}", "{text}"], 2, "image"),
        (["{bundle}", "--target", "arm"], 8, "aarch64"),
        (["{bundle}", "--target", "pi"], 8, "no deployment pi"),
        (["{bundle}", "{image}", "--preprocess", "fancy"], 2, "fancy"),
        (["{bundle}", "--labels", "nothing.txt"], 2, "labels nothing.txt"),
        (["{empty}"], 8, "not a bundle"),
    ],
)
def test_run_refuses(
    digits: Path, images: Path, tmp_path: Path, capsys, arguments: list[str], code: int, said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no image")
    names = {
        "bundle": digits / "digits.iovt",
        "empty": tmp_path / "empty",
        "text": tmp_path / "text.png",
        "image": images / "0" / "0.png",
    }
    found, _, err = output(capsys, "run", *[a.format(**names) for a in arguments])
    assert found == code, err
    assert said in err
    assert "Traceback" not in err


def test_verify_checks_what_can_run_here(digits: Path, capsys) -> None:
    code, out, _ = output(capsys, "verify", digits / "digits.iovt", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["passed"]
    host, arm = found["checks"]
    assert host["discrepancy"]["outputs"][0]["violations"] == 0
    assert "aarch64" in arm["skipped"]


def test_verify_with_an_impossible_tolerance_fails(digits: Path, capsys) -> None:
    code, _, err = output(capsys, "verify", digits / "digits.iovt", "--rtol", 0, "--atol", 1e-12)
    assert code == 6
    assert "something else than its reference" in err


def test_verify_data_compares_classes(digits: Path, images: Path, capsys) -> None:
    code, out, _ = output(
        capsys,
        *("verify", digits / "digits.iovt", "--model", digits / "digits.onnx"),
        *("--data", images, "--labels", "folders", "--json"),
    )
    assert code == 0
    accuracy = json.loads(out)["accuracy"]
    assert accuracy["images"] == 6
    assert accuracy["top1_agreement"] == 1.0
    assert accuracy["top1"] == accuracy["reference_top1"]


def test_too_little_agreement_is_exit_6(digits: Path, images: Path, capsys, monkeypatch) -> None:
    from tvm_iovt.frontend.reference import OnnxReference

    def contrary(self: OnnxReference, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"output": np.eye(10, dtype=np.float32)[:1] * 99}

    arguments = [
        *("verify", digits / "digits.iovt", "--model", digits / "digits.onnx"),
        *("--data", images),
    ]
    monkeypatch.setattr(OnnxReference, "__call__", contrary)
    code, _, err = output(capsys, *arguments)
    assert code == 6
    assert "names other classes" in err
    assert output(capsys, *arguments, "--min-agreement", 0)[0] == 0


def test_verify_data_needs_the_same_model(digits: Path, images: Path, small_model, capsys) -> None:
    arguments = ["verify", digits / "digits.iovt", "--data", images, "--model", small_model]
    code, _, err = output(capsys, *arguments)
    assert code == 6
    assert "is not the model" in err
    assert output(capsys, *arguments[:4])[0] == 2


def test_verify_of_an_unverified_bundle_says_so(digits: Path, capsys) -> None:
    bundle = digits / "unverified.iovt"
    assert run(["compile", str(digits / "digits.onnx"), "-o", str(bundle), "--no-verify"]) == 0
    code, _, err = output(capsys, "verify", bundle)
    assert code == 8
    assert "--no-verify" in err


def test_inspect_and_check_read_the_bundle(digits: Path, capsys) -> None:
    code, out, _ = output(capsys, "inspect", digits / "digits.iovt")
    assert code == 0
    assert "stage0.arm.so" in out
    assert output(capsys, "bundle", "check", digits / "digits.iovt")[0] == 0


def test_cuda_for_an_arm_board_embeds_the_named_architecture(
    small_model: Path, tmp_path: Path, capsys
) -> None:
    from tvm_iovt.build import cuda
    from tvm_iovt.build.elf import elf_machine

    if not cuda.compilers():
        pytest.skip("no CUDA compiler: neither nvcc nor NVRTC from pip is installed")
    bundle = tmp_path / "b.iovt"
    code, out, err = output(capsys, "compile", small_model, "--targets", "arm,cuda", "-o", bundle)
    assert code == 0, err
    assert "not run here" in out
    library = bundle / "stage0.cuda.so"
    assert elf_machine(library) == "aarch64"
    assert cuda.embedded_archs(library.read_bytes()) == ("sm_87",)


@pytest.mark.arm
def test_arm_code_is_verified_under_emulation(digits: Path, capsys) -> None:
    from tvm_iovt.errors import ToolchainError
    from tvm_iovt.runtime.emulate import find_emulator

    try:
        find_emulator("aarch64")
    except ToolchainError as error:
        pytest.skip(f"no aarch64 emulation: {error.what}; {error.do}")
    code, out, err = output(capsys, "verify", digits / "digits.iovt", "--target", "arm")
    if code == 4 and "pip download" in err:
        pytest.skip("the aarch64 wheels of TVM are not reachable")
    assert code == 0, err
    assert "qemu-aarch64" in out
    assert "passed" in out


needs_bf16 = pytest.mark.skipif(
    "avx512_bf16" not in host_cpu.flags(), reason="this CPU has no avx512_bf16"
)


@needs_bf16
def test_bf16_reports_its_error_beside_the_speed(digits: Path, capsys) -> None:
    bundle = digits / "bf16.iovt"
    code, out, _ = output(
        capsys, "compile", digits / "digits.onnx", "-o", bundle, "--precision", "bf16"
    )
    assert code == 0
    assert "Cosine" in out
    assert "Tolerance: cosine >= 0.99" in out
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["precision"] == "bf16"
    (deployment,) = manifest["deployments"]
    assert deployment["discrepancy"]["outputs"][0]["max_abs"] > 1e-5
    assert any("avx512_bf16" in d["reason"] for d in manifest["decisions"])
    code, out, _ = output(capsys, "inspect", bundle)
    assert "precision     bf16" in out
    assert "precision bf16" in (bundle / "report.html").read_text()
    assert output(capsys, "verify", bundle)[0] == 0


def test_precisions_that_do_not_fit_are_refused(digits: Path, tmp_path: Path, capsys) -> None:
    model = digits / "digits.onnx"
    compile_ = ("compile", model, "-o", tmp_path / "x.iovt")
    code, _, err = output(capsys, *compile_, "--targets", "arm", "--precision", "fp16")
    assert code == 4
    assert "half-precision arithmetic (ARMv8.2 fullfp16), which arm has not" in err
    code, _, err = output(
        capsys, *compile_, "--targets", "raspberry-pi-5", "--precision", "int8", "--no-verify"
    )
    assert code == 2
    assert "needs a quantized model, and digits.onnx computes in float32" in err
    code, _, err = output(capsys, *compile_, "--precision", "fp8")
    assert code == 2
    assert "'fp32', 'bf16', 'fp16', 'int8'" in err
    assert not (tmp_path / "x.iovt").exists()


def test_the_precision_comes_from_the_configuration_too(
    digits: Path, tmp_path: Path, capsys
) -> None:
    config = tmp_path / "iovt.toml"
    config.write_text('[compile]\nprecision = "fp16"\ntargets = "arm"\n')
    code, _, err = output(capsys, "compile", digits / "digits.onnx", "--config", config)
    assert code == 4
    assert "--precision fp16" in err


@pytest.fixture(scope="module")
def quantized_digits(digits: Path) -> Path:
    """Quantized the way the refusal of `--precision int8` describes."""
    folder = digits / "quantizing" / "test_data_set_0"
    folder.mkdir(parents=True)
    shutil.copy(digits / "digits.onnx", folder.parent)
    (spec,) = onnx.load(str(digits / "digits.onnx")).graph.input
    shape = [dim.dim_value for dim in spec.type.tensor_type.shape.dim]
    image = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
    (folder / "input_0.pb").write_bytes(onnx.numpy_helper.from_array(image).SerializeToString())
    with pytest.raises(UsageError) as error:
        check_model("int8", "float32", "digits.onnx")
    command = re.search(r"`python (.*?)`", error.value.do)
    assert command is not None
    arguments = [sys.executable, *shlex.split(command[1])]
    subprocess.run(arguments, cwd=folder.parent, check=True, capture_output=True)
    return folder.parent / "quantized.onnx"


@pytest.mark.skipif("avx512_vnni" not in host_cpu.flags(), reason="this CPU has no avx512_vnni")
def test_int8_computes_a_quantized_model_in_integers(quantized_digits: Path, capsys) -> None:
    bundle = quantized_digits.with_suffix(".iovt")
    code, out, err = output(
        capsys, "compile", quantized_digits, "-o", bundle, "--precision", "int8", "-v"
    )
    assert code == 0, err
    assert "4 inputs a step with avx512_vnni" in out


@pytest.mark.arm
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_reduced_precision_runs_on_an_emulated_board(
    precision: str, digits: Path, quantized_digits: Path, tmp_path: Path, capsys
) -> None:
    from tvm_iovt.errors import ToolchainError
    from tvm_iovt.runtime.emulate import find_emulator

    try:
        find_emulator("aarch64")
    except ToolchainError as error:
        pytest.skip(f"no aarch64 emulation: {error.what}; {error.do}")
    model = quantized_digits if precision == "int8" else digits / "digits.onnx"
    arguments = ("compile", model, "-o", tmp_path / "x.iovt", "--emulate")
    code, out, err = output(
        capsys, *arguments, "--targets", "raspberry-pi-5", "--precision", precision
    )
    if code == 4 and "pip download" in err:
        pytest.skip("the aarch64 wheels of TVM are not reachable")
    assert code == 0, err
    assert "under qemu" in out
    assert "passed" in out
