from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tvm_iovt


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    out = tmp_path_factory.mktemp("bench") / "small.iovt"
    tvm_iovt.compile(small_model, targets="host", output=out)
    return out


def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tvm_iovt", "bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def test_json_of_this_machine(network: Path) -> None:
    done = call(network, network, "--repeat", "12", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["schema"] == "tvm-iovt/bench/1"
    first, second = found["timings"]
    assert first["device_ratio"] is None
    assert second["device_ratio"]["low"] <= second["device_ratio"]["median"]
    for timing in (first, second):
        assert timing["device"]["samples"] == timing["end_to_end"]["samples"] == 12
        assert timing["discrepancy"]["outputs"][0]["violations"] == 0


def test_the_table(network: Path) -> None:
    done = call(network, network, "--repeat", "4", "--threads", "1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Latency on ")
    assert "Ratio" in lines[1]
    assert sum("right" in line for line in lines) == 2
    assert sum(" end to end " in line for line in lines) == 2
    assert max(map(len, lines)) <= 100
    assert "round 4 of 4" in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--key", "k"), 2, "needs a tracker"),
        (("--tracker", "127.0.0.1:1"), 2, "by its key"),
        (("--tracker", "a:b", "--key", "k"), 2, "address of the tracker"),
        (("--tracker", "127.0.0.1:1", "--key", "k"), 5, "tracker at 127.0.0.1:1"),
        (("--repeat", "0"), 2, "something to measure"),
        (("--target", "fpga"), 8, "no deployment fpga"),
        (("--tracker", "127.0.0.1:1", "--key", "k", "--threads", "1"), 2, "TVM_NUM_THREADS"),
    ],
)
def test_errors(network: Path, options: tuple[str, ...], code: int, words: str) -> None:
    began_s = time.monotonic()
    done = call(network, *options)
    assert time.monotonic() - began_s < 120
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "do:" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_no_bundle(tmp_path: Path) -> None:
    done = call(tmp_path / "nothing.iovt")
    assert done.returncode == 8
    assert "is not a bundle" in done.stderr
