"""What a stage costs beside its kernels, from the frames of a pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tvm_iovt import targets
from tvm_iovt.probe.network_timer import NetworkTimer
from tvm_iovt.probe.stage_cost import beside_kernels_s, undisturbed
from tvm_iovt.runtime.pipeline_stage import FrameResult
from tvm_iovt.runtime.pipeline_statistics import FrameTiming
from tvm_iovt.runtime.timeline_recorder import StageTimes


def frames(period_s: float, *computing_s: list[float]) -> list[FrameResult]:
    return [
        FrameResult(
            index=i,
            outputs={},
            timing=FrameTiming(entered_s=0.0, finished_s=period_s * i),
            stages=tuple(StageTimes(receive_s=9.0, compute_s=t, send_s=9.0) for t in stages),
        )
        for i, stages in enumerate(zip(*computing_s, strict=True))
    ]


def test_the_kernels_of_the_slower_stage_are_taken_off() -> None:
    found = frames(100e-6, [20e-6] * 40, [30e-6] * 40)
    assert beside_kernels_s(found) == pytest.approx(70e-6)


def test_waiting_after_the_kernels_is_not_taken_for_them() -> None:
    waiting = [(30e-6, 90e-6)[i % 2] for i in range(40)]
    assert beside_kernels_s(frames(100e-6, waiting, waiting)) == pytest.approx(70e-6)


def test_a_cost_is_never_negative() -> None:
    assert beside_kernels_s(frames(10e-6, [30e-6] * 40)) == 0.0


def test_disturbances_do_not_count() -> None:
    least, spread = undisturbed([9.0, 2.0, 2.0, 1.0, 70.0, 3.0, 8.0])
    assert least == 1.0
    assert spread == pytest.approx(1.0)
    assert undisturbed([0.0, 0.0, 0.0]) == (0.0, 0.0)


def test_a_pipeline_of_this_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from tvm_iovt.probe import stage_cost

    seen: list[Any] = []

    def kept(results: Any) -> float:
        seen.append(results)
        return beside_kernels_s(results)

    monkeypatch.setattr(stage_cost, "_BLOCKS", 3)
    monkeypatch.setattr(stage_cost, "beside_kernels_s", kept)
    seconds, spread = NetworkTimer(targets.load("host/1")).stage()
    assert seconds > 0
    assert spread >= 0
    assert len(seen) == 3
    for result in seen[0]:  # both stages computed, and the result is that of two networks
        assert len(result.stages) == stage_cost.STAGES
        assert all(stage.compute_s > 0 for stage in result.stages)
        (output,) = result.outputs.values()
        assert np.isfinite(output).all()
        assert np.array_equal(output, seen[-1][-1].outputs["t2"])
