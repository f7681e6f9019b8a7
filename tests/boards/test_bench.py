from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_iovt import bundle
from tvm_iovt.boards.bench import Bench, BenchOptions, measure, ratio
from tvm_iovt.boards.bench_board import bench_board
from tvm_iovt.boards.bench_here import bench_here
from tvm_iovt.errors import BundleError, DeviceError, NumericsError, UsageError
from tvm_iovt.json_codec import from_json, to_json


class Fake:
    """A contestant that takes a stated time, and may compute nonsense."""

    def __init__(self, path: Path, seconds: float, log: list[str], factor: float = 1.0) -> None:
        self.bundle, self.deployment = path, "fake"
        self.manifest = bundle.read_manifest(path)
        self._seconds, self._log, self._factor = seconds, log, factor

    def run(self, inputs: Any) -> dict[str, np.ndarray]:
        _, expected = bundle.load_sample(self.bundle)
        return {name: value * np.float32(self._factor) for name, value in expected.items()}

    def device_s(self, inputs: Any, number: int, repeat: int) -> list[float]:
        self._log.append(f"{self._seconds:g}x{repeat}")
        return [self._seconds] * repeat

    def end_to_end_s(self, inputs: Any, repeat: int) -> list[float]:
        return [2 * self._seconds] * repeat


def test_bundles_take_turns(network: Path) -> None:
    log: list[str] = []
    contestants = [Fake(network, 0.001, log), Fake(network, 0.002, log)]
    first, second = measure(contestants, BenchOptions(repeat=25), environment="here")
    assert first.device.samples == first.end_to_end.samples == 25
    assert first.device.median_s == 0.001
    assert second.end_to_end.median_s == 0.004
    assert first.device_ratio is None
    assert second.device_ratio.median == second.device_ratio.low == 2.0
    assert second.end_to_end_ratio.median == 2.0
    # The first block of each is the estimate; then they take turns, and so do the first places.
    assert log[2:6] == ["0.001x3", "0.002x3", "0.002x3", "0.001x3"]
    assert log[-1].endswith("x1")  # the 25th


def test_blocks_of_slow_networks_stay_below_the_time_limit(network: Path) -> None:
    log: list[str] = []
    measure([Fake(network, 2.0, log)], BenchOptions(repeat=40, timeout_s=20), environment="here")
    assert set(log) == {"2x1"}


def test_wrong_outputs_are_refused(network: Path) -> None:
    with pytest.raises(NumericsError, match="sample wrongly"):
        measure([Fake(network, 1.0, [], factor=1.01)], BenchOptions(), environment="here")


def test_ratios_are_taken_within_rounds() -> None:
    first = [[1.0, 1.1], [10.0, 10.0], [2.0, 2.0]]  # the machine was slow in the second round
    assert ratio([[0.5, 0.55], [5.0, 5.0], [1.0, 1.0]], first).median == pytest.approx(0.5)
    noisy = ratio([[0.8], [1.0], [1.25], [1.0]], [[1.0]] * 4)
    assert noisy.low < 1 < noisy.high


def test_numbers_that_measure_nothing() -> None:
    for changes in ({"repeat": 0}, {"number": 0}, {"warmup": -1}, {"timeout_s": 0.0}):
        with pytest.raises(UsageError, match="something to measure"):
            dataclasses.replace(BenchOptions(), **changes).check()


def test_two_bundles_on_a_board(lab: Any, board: Any, network: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.iovt"
    shutil.copytree(network, other)
    told: list[str] = []
    found = bench_board(
        [network, other],
        BenchOptions(repeat=10, number=2),
        tracker=lab.tracker,
        key="shared",
        progress=told.append,
    )
    assert "bench-top" in found.board
    assert found.before.available_bytes > 0
    assert found.after.available_bytes > 0
    assert [timing.bundle for timing in found.timings] == [str(network), str(other)]
    for timing in found.timings:
        assert timing.discrepancy.passed
        assert 0 < timing.device.p10_s <= timing.device.median_s <= timing.device.p90_s
        assert timing.device.median_s < timing.end_to_end.median_s
        assert timing.device.samples == 10
    assert found.timings[1].device_ratio is not None
    assert "running a tiny kernel" in told
    assert from_json(Bench, json.loads(json.dumps(to_json(found)))) == found


def test_a_bundle_here(network: Path) -> None:
    found = bench_here([network], BenchOptions(repeat=7))
    (timing,) = found.timings
    assert timing.discrepancy.passed
    assert timing.device.samples == 7
    assert timing.end_to_end.median_s > 0
    assert found.board == ""


def test_a_bundle_for_another_cpu(lab: Any, board: Any, arm_network: Path) -> None:
    with pytest.raises(BundleError, match="no deployment for the board") as caught:
        bench_board([arm_network], BenchOptions(), tracker=lab.tracker, key="shared")
    assert "is for aarch64" in caught.value.seen
    with pytest.raises(BundleError, match="no deployment fpga"):
        bench_board([arm_network], BenchOptions(), tracker=lab.tracker, key="shared", target="fpga")


@pytest.mark.parametrize("field", ["tvm_version", "tvm_ffi_version"])
def test_a_board_with_another_runtime(
    lab: Any, board: Any, network: Path, tmp_path: Path, field: str
) -> None:
    other = tmp_path / "other.iovt"
    shutil.copytree(network, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest[field] = "0.26.0"
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DeviceError, match="comparing versions failed") as caught:
        bench_board([other], BenchOptions(), tracker=lab.tracker, key="shared")
    assert "0.26.0" in caught.value.seen
    assert "pip install" in caught.value.do


def test_a_damaged_bundle_never_reaches_the_board(lab: Any, network: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.iovt"
    shutil.copytree(network, other)
    library = next(other.glob("*.so"))
    library.write_bytes(library.read_bytes() + b"\0")
    with pytest.raises(BundleError, match="not the file that was compiled"):
        bench_board([other], BenchOptions(), tracker=lab.tracker, key="no-such-key")


@pytest.mark.arm
def test_an_emulated_board_end_to_end(
    own_lab: Any, arm_root: dict[str, str], arm_network: Path
) -> None:
    own_lab.start_tracker()
    own_lab.start_emulated_board("a64", arm_root)
    found = bench_board(
        [arm_network],
        BenchOptions(repeat=3, timeout_s=120),
        tracker=own_lab.tracker,
        key="a64",
        wait_s=60,
    )
    (timing,) = found.timings
    assert timing.discrepancy.passed
    assert "aarch64" in found.where
    assert own_lab.living("a64").arch == "aarch64"
    assert "asimd" in own_lab.living("a64").features
