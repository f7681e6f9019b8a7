from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import onnx
import pytest
from onnx import helper

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def model(make_model, tmp_path: Path) -> Path:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("MaxPool", ["a"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    path = tmp_path / "tiny.onnx"
    onnx.save(make_model(nodes, {"x": ["N", 4, 8, 8]}, {"y": None}), path)
    return path


def peers(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / "peers"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_ours_against_onnx_runtime(model: Path, tmp_path: Path) -> None:
    report, picture = tmp_path / "report.json", tmp_path / "picture.svg"
    options = ["--peers", "onnxruntime", "--threads", "1", "--rounds", "2", "--wait", "0"]
    options += ["--input-shape", "tiny:x=1x4x8x8", "--work", tmp_path / "work"]
    variants = ["--ours", "broken: --fuse sometimes"]
    done = peers(model, *options, *variants, "--json", report, "--svg", picture)
    assert done.returncode == 0, done.stderr
    assert "1 thread (CPU time)" in done.stdout
    assert "geomean ours/this" in done.stdout
    found = json.loads(report.read_text())
    (network,) = found["networks"]
    measured = network["measured"]["1"]
    assert network["name"] == "tiny" and network["failures"].keys() == {"broken"}
    assert "tiny: broken is missing" in done.stdout and "sometimes" in done.stdout
    assert network["differences"] == {"tvm-iovt": 0.0, "onnxruntime": 0.0}
    assert measured["ratios"]["tvm-iovt"]["onnxruntime"]["pairs"] == 2
    assert measured["latencies"]["tvm-iovt"]["median_s"] > 0
    assert len(measured["blocks"]["onnxruntime"]) == 2
    assert found["environment"]["versions"]["onnxruntime"]
    ET.parse(picture)

    done = peers(model, *options, "--cold", "--json", report)
    assert done.returncode == 0, done.stderr
    starts = json.loads(report.read_text())["cold"]["tiny"]
    assert starts.keys() == {"tvm-iovt", "onnxruntime"}
    for start in starts.values():
        assert start["cpu_s"] > 0
        assert 1e7 < start["peak_resident_bytes"] < 1e9


def test_wrong_options_end_in_a_sentence(model: Path, tmp_path: Path) -> None:
    done = peers(model, "--threads", "two")
    assert done.returncode == 1 and done.stderr.startswith("--threads takes positive numbers")
    done = peers(tmp_path / "work", "--threads", "1")
    assert "no such file" in done.stderr
    done = peers(model, "--work", tmp_path / "work")
    assert "--input-shape x=" in done.stderr  # N is open
