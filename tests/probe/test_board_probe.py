from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tvm_iovt import targets
from tvm_iovt.probe import board_probe, micro_networks
from tvm_iovt.probe.board_probe import fit_link, measure_board


def test_link_is_found_in_spite_of_disturbed_echoes() -> None:
    rng = np.random.default_rng(0)
    latency_s, rate = 3e-3, 20e6
    echoes = {}
    for size in board_probe.ECHO_BYTES:
        times = [2 * (latency_s + size / rate) * float(1 + 0.02 * rng.random()) for _ in range(7)]
        times[0] += 1.0
        echoes[size] = times
    link = fit_link("board", echoes)
    assert link.bytes_per_s == pytest.approx(rate, rel=0.1)
    assert link.latency_s == pytest.approx(latency_s, rel=0.1)
    assert (link.src, link.dst, link.source) == ("board", "host", "measured")


class FakeBoard:
    """A board with one thread that computes at 10 GFLOP/s."""

    spec = targets.load("arm/1")
    threads = 1
    name = "pi"

    def echoes(self, size_bytes: int) -> list[float]:
        return [2 * (1e-3 + size_bytes / 1e7)] * 3

    def seconds(self, family: str, *arguments: Any) -> float:
        rest_s = 1e-4  # what a call costs beside its kernels
        if family == "chain":
            count, *shape = arguments
            return rest_s + count * self.layer_s(self.unit(*shape))
        if family == "starts":
            return rest_s + arguments[0] * 2e-6
        if family == "copy":
            return rest_s + 8 * arguments[0] / 5e9
        if family == "product":
            return rest_s + 2 * math.prod(arguments) / 10e9
        return 4 * math.prod(arguments) / 1e9

    def unit(self, *shape: Any) -> Any:
        return micro_networks.chain_units(2, *shape)[-1]

    def layer_s(self, unit: Any) -> float:
        return 1.2 * unit.flops / 10e9 + unit.nbytes / 5e9 + 2e-6


def test_board_is_measured_by_differences() -> None:
    board = FakeBoard()
    found = measure_board(board, quick=False, progress=lambda _message: None)
    (roof,) = found.profile.roofs
    assert roof.threads == 1
    assert 10e9 <= roof.peaks[0].flops_per_s < 12e9
    assert found.profile.launch_s == pytest.approx(2e-6)
    assert found.profile.device == "pi"
    assert found.links[0].latency_s == pytest.approx(1e-3, rel=0.01)
    kinds = {fit.kind: fit for fit in found.profile.fits}
    assert {"pointwise", "conv 3x3/1", "depthwise", "pool"} == set(kinds)
    import dataclasses

    from tvm_iovt.unit_times import unit_time_s

    spec = dataclasses.replace(board.spec, profile=found.profile)
    unit = board.unit("pointwise", 96, 20, 20)
    assert unit_time_s(unit, spec) == pytest.approx(board.layer_s(unit), rel=0.15)
