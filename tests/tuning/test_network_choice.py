"""Which schedules are chosen in the end, and what the next build makes of the records."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.tuning.search_cases import DEVICE, conv_function, host
from tests.tuning.test_tasks import IMAGE, WEIGHT, network
from tvm_iovt.schedules.cpu import schedule_functions
from tvm_iovt.tuning import network_choice
from tvm_iovt.tuning.allocation import Effort
from tvm_iovt.tuning.cost_model import CostModel
from tvm_iovt.tuning.events import TaskSummary
from tvm_iovt.tuning.finalists import FINALISTS, by_network_time, choice_of, finalists, keeps
from tvm_iovt.tuning.intrinsics import import_intrinsics
from tvm_iovt.tuning.network_ranking import Comparison, KernelTime
from tvm_iovt.tuning.schedule_records import TrialRecord
from tvm_iovt.tuning.session import TaskState
from tvm_iovt.tuning.task_search import task_search
from tvm_iovt.tuning.tasks import extract_tasks
from tvm_iovt.tuning.tuned import ChosenSchedules


@pytest.fixture(scope="module")
def fused():
    import_intrinsics(gpu=False)
    return network(conv=(conv_function(), 2))


@pytest.fixture(scope="module")
def proposals(fused):
    spec, target = host()
    (task,) = extract_tasks(fused).tasks
    return task_search(task, spec, target, CostModel("random", target), {}, 1).propose(6)


def state_of(fused, template_s=1e-3):
    (task,) = extract_tasks(fused).tasks
    summary = TaskSummary(
        workload=task.workload.key,
        name="conv",
        weight=task.weight,
        flops=task.flops,
        moved_bytes=task.moved_bytes,
        bound_s=0.0,
    )
    effort = Effort(weight=task.weight)
    effort.tell(template_s)
    return TaskState(
        summary=summary, task=task, effort=effort, template=None, template_s=template_s
    )


def record(proposal, seconds, failed=""):
    return TrialRecord(
        key=proposal.trial.key,
        workload=proposal.trial.workload.key,
        device=DEVICE,
        source="search",
        trace=None if failed else proposal.trace,
        run_s=() if failed else (seconds,),
        failed=failed,
        error=failed,
        deviation=0.0,
        runner="local",
        run="run",
        tvm_version="0.27.0.post1",
        tool_version="0",
        date="2026-01-01T00:00:00+00:00",
    )


def time(seconds, spread_s=0.0):
    return {"conv": KernelTime(median_s=seconds, spread_s=spread_s)}


def test_finalists_are_the_fastest_that_are_not_much_slower_than_the_template(fused, proposals):
    times = (1.2e-3, 0.5e-3, 0.9e-3, 1.04e-3, 0.4e-3, 0.7e-3)
    records = [record(p, t) for p, t in zip(proposals, times, strict=True)]
    records[4] = record(proposals[4], 0.4e-3, failed="run")
    found = finalists(state_of(fused), records)
    assert [r.median_s for r in found] == [0.5e-3, 0.7e-3, 0.9e-3, 1.04e-3]


def test_there_are_not_more_finalists_than_seats(fused, proposals):
    many = [record(p, 0.5e-3) for p in proposals] * 2
    assert len(finalists(state_of(fused), many)) == FINALISTS


def test_the_network_decides(fused, proposals):
    state = state_of(fused)
    records = [record(p, 0.5e-3) for p in proposals[:3]]
    best, seconds, before = by_network_time(
        state, records, [time(2e-3), time(1.9e-3), time(1.5e-3), time(1.6e-3)]
    )
    assert best is records[1]
    assert (seconds, before) == (1.5e-3, 2e-3)


@pytest.mark.parametrize(
    "other", [time(2e-3), time(1.99e-3), time(1.9e-3, spread_s=0.2e-3), time(2.1e-3)]
)
def test_the_template_stays_without_a_gain_beyond_the_noise(fused, proposals, other):
    records = [record(proposals[0], 0.5e-3)]
    best, seconds, before = by_network_time(state_of(fused), records, [time(2e-3), other])
    assert best is None
    assert seconds == before == 2e-3


class Network:
    """Stands in for `VariantNetwork`: the second variant is as fast as it is told."""

    kernel_gain, network_gain, wrong = 0.5, 0.5, ()
    built = 0

    def __init__(self, _network, variants, _spec, _inputs):
        self.variants = variants
        type(self).built += 1

    def check(self):
        return tuple(i for i in self.wrong if i < len(self.variants))

    def kernels(self):
        gains = [1.0, *([self.kernel_gain] * (len(self.variants) - 1))]
        return tuple(time(1e-3 * gain) for gain in gains)

    def compare(self, before, after):
        return Comparison(
            before_s=1.0, after_s=self.network_gain, ratio=self.network_gain, noise=0.01
        )


def chosen(monkeypatch, fused, proposals, **behaviour):
    stand_in = type("StandIn", (Network,), behaviour)
    monkeypatch.setattr(network_choice, "VariantNetwork", stand_in)
    spec, _ = host()
    state = state_of(fused)
    records = [record(p, 0.5e-3 + 1e-6 * i) for i, p in enumerate(proposals)]
    notes = []
    made = network_choice.choose_kernels(
        fused,
        [state],
        {state.task.workload.key: records},
        spec,
        DEVICE,
        [np.zeros(IMAGE, np.float32), np.zeros(WEIGHT, np.float32)],
        network="net",
        note=notes.append,
    )
    return made, records, notes


def test_a_gain_in_the_network_is_chosen(monkeypatch, fused, proposals):
    made, records, notes = chosen(monkeypatch, fused, proposals)
    (choice,) = made.choices
    assert choice.trial == records[0].key
    assert choice.trace == records[0].trace
    assert (choice.network_s, choice.template_network_s) == (0.5e-3, 1e-3)
    assert made.comparison.ratio == 0.5
    assert not notes


def test_a_network_that_is_not_faster_keeps_all_templates(monkeypatch, fused, proposals):
    made, _, notes = chosen(monkeypatch, fused, proposals, network_gain=1.0)
    (choice,) = made.choices
    assert choice.trial == ""
    assert choice.trace is None
    assert "as a whole" in choice.reason
    assert len(notes) == 1


def test_without_a_gain_in_the_network_nothing_is_built_twice(monkeypatch, fused, proposals):
    made, _, _ = chosen(monkeypatch, fused, proposals, kernel_gain=1.0)
    assert made.comparison is None
    assert [c.trial for c in made.choices] == [""]


def test_wrong_outputs_are_dropped_and_the_next_is_taken(monkeypatch, fused, proposals):
    made, records, notes = chosen(monkeypatch, fused, proposals, wrong=(1,))
    # The final network has a first variant, too; the stand-in says that it is wrong.
    assert "rank 1" in notes[0]
    assert [c.trial for c in made.choices] == [""]
    del records


def test_the_real_network_agrees_with_itself(fused, proposals):
    """Nothing stands in: real schedules in a real network, whatever their times."""
    spec, _ = host()
    state = state_of(fused)
    rng = np.random.default_rng(0)
    made = network_choice.choose_kernels(
        fused,
        [state],
        {state.task.workload.key: [record(p, 0.5e-3) for p in proposals]},
        spec,
        DEVICE,
        [rng.standard_normal(shape, np.float32) for shape in (IMAGE, WEIGHT)],
        network="net",
        note=lambda text: None,
    )
    (choice,) = made.choices
    assert choice.network_s is not None


def test_a_build_uses_what_was_chosen(fused, proposals):
    spec, _ = host()
    state = state_of(fused)
    choice = choice_of(state, record(proposals[0], 0.5e-3), DEVICE, network="net", reason="fastest")
    tuned = ChosenSchedules({choice.workload: choice})
    module, decisions = schedule_functions(fused, spec.cpu, tuned)
    assert tuned.used == 1
    assert not tuned.problems
    assert "tuned: 0.5 ms alone against 1 ms untuned" in decisions[0].reason
    plain, _ = schedule_functions(fused, spec.cpu)
    assert not module["conv"].same_as(plain["conv"])


def test_a_choice_of_the_template_changes_nothing(fused):
    spec, _ = host()
    choice = choice_of(state_of(fused), None, DEVICE, network="net", reason="none")
    tuned = ChosenSchedules({choice.workload: choice})
    _, decisions = schedule_functions(fused, spec.cpu, tuned)
    assert tuned.used == 0
    assert "tuned" not in decisions[0].reason


def test_a_choice_that_cannot_be_replayed_is_told_and_not_used(fused, proposals):
    spec, _ = host()
    choice = choice_of(
        state_of(fused), record(proposals[0], 0.5e-3), DEVICE, network="net", reason=""
    )
    damaged = dataclasses.replace(choice, trace=[[["NoSuchStep", [], [], []]], []])
    tuned = ChosenSchedules({choice.workload: damaged})
    _, decisions = schedule_functions(fused, spec.cpu, tuned)
    assert decisions[0].applied
    assert "cannot be replayed" in tuned.problems[0]


def test_a_found_schedule_outlives_another_network_s_template(fused, proposals):
    state = state_of(fused)
    found = choice_of(state, record(proposals[0], 0.5e-3), DEVICE, network="a", reason="")
    other = choice_of(state, record(proposals[1], 0.4e-3), DEVICE, network="b", reason="")
    template_of = {
        name: choice_of(state, None, DEVICE, network=name, reason="") for name in ("a", "b")
    }
    assert keeps(found, template_of["b"])
    assert not keeps(found, template_of["a"])
    assert not keeps(found, other)
    assert not keeps(template_of["a"], template_of["b"])
    assert not keeps(None, template_of["a"])


def together(fused, records, ratios, template_s=1e-3):
    """Choose between whole networks whose ratios to the untuned one are given; None: wrong."""
    spec, _ = host()
    state = state_of(fused, template_s)
    asked, notes = [], []

    def contest(modules):
        asked.append(modules)
        return [
            None if r is None else Comparison(before_s=1.0, after_s=r, ratio=r, noise=0.01)
            for r in ratios
        ]

    made = network_choice.choose_together(
        fused,
        [state],
        {state.task.workload.key: records},
        spec,
        DEVICE,
        contest,
        network="net",
        note=notes.append,
    )
    return made, asked, notes


def test_networks_as_a_whole_decide_where_kernels_cannot_be_timed(fused, proposals):
    records = [record(proposals[0], 0.5e-3)]
    made, asked, _ = together(fused, records, [0.9])
    assert [c.trial for c in made.choices] == [records[0].key]
    (modules,) = asked
    assert not modules[0]["conv"].same_as(modules[1]["conv"])
    assert made.comparison.ratio == 0.9


@pytest.mark.parametrize(("ratio", "told"), [(0.995, 0), (1.2, 0), (None, 1)])
def test_a_whole_network_without_a_gain_keeps_its_templates(fused, proposals, ratio, told):
    made, _, notes = together(fused, [record(proposals[0], 0.5e-3)], [ratio])
    assert [c.trial for c in made.choices] == [""]
    assert len(notes) == told


def test_nothing_is_built_where_nothing_was_faster_alone(fused, proposals):
    made, asked, _ = together(fused, [record(proposals[0], 1.01e-3)], [])
    assert not asked
    assert made.comparison is None
