import dataclasses
import math

from tvm_iovt.report import plan_view
from tvm_iovt.types import Prediction, StagePrediction


def test_each_unit_has_its_stage(planned):
    stage_of = plan_view.unit_stages(planned.plan, planned.graph)
    assert sorted(set(stage_of)) == [0, 1, 2]
    for unit, place in zip(planned.graph.units, stage_of, strict=True):
        assert unit.name in planned.plan.stages[place].units


def test_a_unit_of_no_stage_is_known_as_such(planned):
    first = dataclasses.replace(planned.plan.stages[0], units=planned.plan.stages[0].units[1:])
    plan = dataclasses.replace(planned.plan, stages=(first, *planned.plan.stages[1:]))
    assert plan_view.unit_stages(plan, planned.graph)[0] == -1


def test_a_stage_without_names_is_the_whole_network(plan_of):
    planned = plan_of(stages=1)
    whole = dataclasses.replace(planned.plan.stages[0], units=())
    plan = dataclasses.replace(planned.plan, stages=(whole,))
    (view,) = plan_view.stage_views(plan, planned.graph)
    assert view.units == planned.graph.units
    assert view.flops == sum(unit.flops for unit in planned.graph.units)
    (view,) = plan_view.stage_views(plan, None)
    assert view.ends == ("", "")
    assert view.count == 0


def test_share_is_of_the_period(planned):
    views = plan_view.stage_views(planned.plan, planned.graph)
    for view in views:
        expected = view.prediction.compute_s / planned.plan.prediction.period_s
        assert view.share == expected
    assert max(view.share for view in views) == 1


def prediction(*stages, period_s):
    made = tuple(StagePrediction(receive_s=r, compute_s=c, send_s=s) for r, c, s in stages)
    return Prediction(latency_s=1.0, period_s=period_s, stages=made, source="assumed")


def test_what_sets_the_period():
    def words(*stages, period_s=0.02):
        return plan_view.sets_period(prediction(*stages, period_s=period_s))

    assert words((0, 0.02, 0), (0.01, 0.01, 0)) == "the work of stage 0"
    assert words((0, 0.01, 0), (0.02, 0.01, 0)) == "the transfer to stage 1"
    assert words((0, 0.01, 0), (0, 0.01, 0.02)) == "the transfer from stage 1 to the caller"
    assert words((0, 0.02, 0), (0, 0.0201, 0)).count("the work of") == 2
    assert words((0, 0.01, 0), period_s=0.5) == ""
    waiting = prediction((0, 0.01, 0), (0, 0.01, 0), period_s=0.02)
    waiting = dataclasses.replace(waiting, memory_s=0.02)
    assert plan_view.sets_period(waiting) == "the memory that stages share"


def test_frames_a_second():
    assert plan_view.frames_per_s(0.04) == "25.0 frames/s"
    assert plan_view.frames_per_s(0.001) == "1000 frames/s"
    assert plan_view.frames_per_s(2.0) == "0.50 frames/s"
    assert plan_view.frames_per_s(0.0) == plan_view.frames_per_s(math.inf) == "-"


def test_memory_is_summed_by_target(planned):
    stages = tuple(dataclasses.replace(stage, target="arm") for stage in planned.plan.stages)
    plan = dataclasses.replace(planned.plan, stages=stages)
    expected = sum(stage.memory_bytes for stage in plan.prediction.stages)
    assert plan_view.memory_by_target(plan, planned.targets) == (("arm", expected, 512 << 20),)


def test_times_that_are_no_times_are_gaps():
    times = ((0.1, math.inf, 0.0), ())
    assert plan_view.known_time(times, 0, 0) == 0.1
    for target, unit in ((0, 1), (0, 2), (0, 3), (1, 0), (2, 0)):
        assert plan_view.known_time(times, target, unit) is None
