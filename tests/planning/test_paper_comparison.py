"""The published formula's plan beside ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvm_iovt.errors import UsageError
from tvm_iovt.planning.model_plan import PlanOptions, plan_model


def test_the_published_plan_is_never_better_than_ours(funnel_model: Path) -> None:
    file = plan_model(funnel_model, PlanOptions(targets="host/1,host/1", objective="paper"))
    prediction = file.plan.prediction
    latency, throughput = file.plan.alternatives[:2]
    assert file.plan.objective == "paper"
    assert "reproduced with its defects" in file.plan.reason
    assert latency.name.startswith("our plan for latency")
    assert throughput.name.startswith("our plan for throughput")
    assert latency.latency_s <= prediction.latency_s * (1 + 1e-9)
    assert throughput.period_s <= prediction.period_s * (1 + 1e-9)
    ratio = prediction.period_s / throughput.period_s
    assert f"{ratio:.2f} times its period" in throughput.reason


def test_it_is_for_two_devices(funnel_model: Path) -> None:
    with pytest.raises(UsageError, match="two devices"):
        plan_model(funnel_model, PlanOptions(targets="host/1", objective="paper"))
