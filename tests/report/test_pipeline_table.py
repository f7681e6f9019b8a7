from __future__ import annotations

import io

import pytest

from tvm_iovt.report import tables
from tvm_iovt.report.pipeline_table import pipeline_facts
from tvm_iovt.runtime.pipeline_statistics import PipelineStatistics
from tvm_iovt.types import Prediction


@pytest.mark.parametrize(("sequential", "rate"), [(False, "predicted 100"), (True, "predicted 50")])
def test_one_frame_at_a_time_is_compared_with_the_latency(sequential: bool, rate: str) -> None:
    found = PipelineStatistics(
        frames=10,
        length_s=0.2,
        frames_per_s=50.0,
        latency_p50_s=0.02,
        latency_p90_s=0.02,
        latency_p99_s=0.02,
        stages=(),
    )
    expected = Prediction(latency_s=0.02, period_s=0.01, stages=(), source="measured")
    text = io.StringIO()
    tables.render(pipeline_facts(found, expected, sequential=sequential), text)
    assert rate in text.getvalue()
