"""A cut that follows a link, over a trace."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tvm_iovt import targets
from tvm_iovt.errors import UsageError
from tvm_iovt.partition.findings import TraceReplay
from tvm_iovt.partition.split_candidates import natural_bottlenecks
from tvm_iovt.planning.edge_server import edge_and_server
from tvm_iovt.planning.model_plan import PlanOptions, read_model
from tvm_iovt.planning.trace_plan import TraceRequest, plan_trace, split_candidates

OPTIONS = PlanOptions(targets="edge,server", links=("server=1MB,10us",))

pytestmark = pytest.mark.usefixtures("edge_targets")


def replayed(model: Path, folder: Path, *rows: str, interval_s: float = 0.1) -> TraceReplay:
    path = folder / "trace.csv"
    path.write_text("\n".join(("time_s,bytes_per_s", *rows)))
    return plan_trace(model, OPTIONS, TraceRequest(path=path, frame_interval_s=interval_s))


def test_the_cut_follows_the_link(funnel_model: Path, tmp_path: Path) -> None:
    found = replayed(funnel_model, tmp_path, "0,1e9", "5,100", "10,1e9", "15,1e9")
    assert found.frames == 151
    assert found.switches >= 2
    used = {span.position for span in found.spans}
    assert found.units in used  # while the link is slow
    assert len(used) > 1
    assert found.spans[0].begin_s == 0
    assert found.spans[-1].end_s == pytest.approx(15.1)
    for before, after in zip(found.spans, found.spans[1:], strict=False):
        assert before.end_s == after.begin_s
        assert before.position != after.position
    assert sum(cut.chosen for cut in found.cuts) == pytest.approx(1)


def test_the_oracle_is_the_least_and_the_best_fixed_cut_is_one(
    funnel_model: Path, tmp_path: Path
) -> None:
    found = replayed(funnel_model, tmp_path, "0,1e9", "5,100", "10,1e9", "15,1e9")
    assert found.oracle_mean_s <= found.dynamic_mean_s
    best = found.cuts[found.best_fixed].mean_s
    assert best == min(cut.mean_s for cut in found.cuts)
    assert found.oracle_mean_s <= best
    assert found.cuts[-1].mean_s == pytest.approx(found.cuts[-1].p90_s)  # it sends nothing
    assert found.cuts[-1].nbytes == 0


def test_what_does_not_depend_on_the_rate(funnel_model: Path) -> None:
    """The same as from the times alone, where both devices are CPUs."""
    pair = edge_and_server(targets.load_devices(OPTIONS.targets), OPTIONS.links)
    model = read_model(funnel_model, OPTIONS, pair.specs, lambda message: None)
    rows = [model.rows.of(spec) for spec in pair.specs]
    found = split_candidates(pair.problem(model.graph, rows, bytes_per_s=math.inf))
    device_s, server_s = (row.unit_s for row in rows)
    crossing, units = model.graph.crossing_bytes, len(model.graph.units)
    assert [cut.position for cut in found] == [0, *natural_bottlenecks(model.graph), units]
    assert len(found) > 2
    for cut in found:
        sends = cut.position < units
        there_s = sum(server_s[cut.position :]) + sends * 2 * 10e-6  # of the link, there and back
        assert cut.nbytes == sends * (crossing[cut.position] + crossing[units])
        assert cut.before_s == pytest.approx(sum(device_s[: cut.position]))
        assert cut.after_s == pytest.approx(there_s)


def test_wrong_traces_are_named(funnel_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"trace\.csv") as caught:
        replayed(funnel_model, tmp_path, "0,many")
    assert "line 2" in caught.value.seen
    with pytest.raises(UsageError, match="Cannot read"):
        plan_trace(funnel_model, OPTIONS, TraceRequest(path=tmp_path / "none.csv"))


def test_too_many_frames_are_refused(funnel_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too many frames"):
        replayed(funnel_model, tmp_path, "0,1", "10,1", interval_s=1e-6)


def test_one_machine_has_no_link_to_trace(funnel_model: Path, tmp_path: Path) -> None:
    request = TraceRequest(path=tmp_path / "none.csv")
    with pytest.raises(UsageError, match="one machine"):
        plan_trace(funnel_model, PlanOptions(targets="host/1,host/1"), request)
