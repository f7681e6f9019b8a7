"""The file or folder that each runtime loads, converted or compiled once and kept."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from contestants import Contestant
from ncnn_pad import convert_pads
from problem import Problem

import relay_passes
import tvm_iovt
from tvm_iovt import resources
from tvm_iovt.errors import IovtError

_TOOL_TIMEOUT_S = 3600.0


class ConversionError(IovtError):
    """A network cannot be converted for a runtime."""


def make(contestant: Contestant, problem: Problem) -> Path:
    """What the contestant loads; made unless an earlier run did.

    Raises:
        ConversionError: A converter or our compiler refuses the network.
    """
    return _MAKERS[contestant.runtime](contestant, problem)


@functools.cache
def source_digest() -> str:
    """Of everything that decides what our compiler makes, so that no old bundle is measured."""
    folders = [Path(package.__path__[0]) for package in (tvm_iovt, relay_passes)]
    folders += [resources.shipped("targets"), resources.shipped("tuning_logs")]
    digest = hashlib.sha256(importlib.metadata.version("apache-tvm").encode())
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _as_it_is(contestant: Contestant, problem: Problem) -> Path:
    return problem.model


def _ncnn(contestant: Contestant, problem: Problem) -> Path:
    _require(problem, "ncnn takes float32 inputs of batch size 1", batch=1)
    package = importlib.util.find_spec("pnnx")  # without running its code, which asks for torch
    assert package is not None and package.origin is not None  # contestants.missing looked for it
    pnnx = str(Path(package.origin).parent / "pnnx")
    shapes = ",".join(f"[{','.join(map(str, spec.shape))}]" for spec in problem.inputs)

    def convert(out: Path) -> None:
        out.mkdir()
        shutil.copyfile(problem.model, out / "network.onnx")
        _run("pnnx", [pnnx, "network.onnx", f"inputshape={shapes}", "fp16=0"], out)
        network = out / "network.ncnn.param"
        if not network.is_file():
            raise ConversionError("pnnx wrote no network for ncnn")
        described = (out / "network.pnnx.param").read_text(encoding="utf-8")
        text = convert_pads(network.read_text(encoding="utf-8"), described)
        network.write_text(text, encoding="utf-8")
        for file in out.iterdir():
            if not file.name.startswith("network.ncnn."):
                file.unlink()

    return _kept(problem.folder / f"ncnn-{importlib.metadata.version('pnnx')}", convert)


def _mnn(contestant: Contestant, problem: Problem) -> Path:
    _require(problem, "only float32 inputs are passed to MNN here")

    def convert(out: Path) -> None:
        command = [sys.executable, "-m", "MNN.tools.mnnconvert", "-f", "ONNX"]
        command += ["--modelFile", str(problem.model), "--MNNModel", str(out), "--bizCode", "bench"]
        _run("mnnconvert", command, out.parent)
        if not out.is_file():  # it ends with 0 whatever happens
            raise ConversionError("mnnconvert wrote no network")

    return _kept(problem.folder / f"mnn-{importlib.metadata.version('MNN')}.mnn", convert)


def _require(problem: Problem, what: str, *, batch: int | None = None) -> None:
    """Refuse inputs that are not float32, or of another batch size."""
    for spec in problem.inputs:
        if spec.dtype != "float32" or (batch is not None and spec.shape[:1] != (batch,)):
            raise ConversionError(what, seen=str(spec))


def _ours(contestant: Contestant, problem: Problem) -> Path:
    options = list(contestant.compile_options)
    key = hashlib.sha256(" ".join([source_digest(), *options]).encode()).hexdigest()[:12]

    def compile_(out: Path) -> None:
        command = [sys.executable, "-m", "tvm_iovt", "compile", str(problem.model)]
        _run("tvm-iovt compile", [*command, "-o", str(out), *options], out.parent)

    return _kept(problem.folder / f"tvm-iovt-{key}.iovt", compile_)


_MAKERS: dict[str, Callable[[Contestant, Problem], Path]] = {
    "onnxruntime": _as_it_is,
    "openvino": _as_it_is,
    "ncnn": _ncnn,
    "mnn": _mnn,
    "tvm-iovt": _ours,
}


def _kept(path: Path, make_at: Callable[[Path], None]) -> Path:
    """The path, made by the call under another name first: a broken run leaves nothing behind."""
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            make_at(made)
            made.rename(path)
    return path


def _run(tool: str, command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=_TOOL_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise ConversionError(
            f"{tool} ended with {done.returncode}",
            seen=done.stdout.strip()[-600:],
        )
