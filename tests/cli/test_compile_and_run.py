"""The way through as a user walks it: compile, run, verify, inspect, bundle check."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tvm_iovt.cli.main import run


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
