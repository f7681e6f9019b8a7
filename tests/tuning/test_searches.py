"""Both searches: what they propose is legal, new, computes the same, and ends."""

from __future__ import annotations

import math

import pytest

from tests.tuning.search_cases import (
    conv_function,
    dense_function,
    host,
    invented_s,
    softmax_like_function,
    task_of,
)
from tvm_iovt.errors import UsageError
from tvm_iovt.schedules.design_space import template_spaces
from tvm_iovt.schedules.tvm_api import Schedule
from tvm_iovt.tuning import cost_model, evolution, small_space
from tvm_iovt.tuning.cost_model import CostModel
from tvm_iovt.tuning.intrinsics import import_intrinsics
from tvm_iovt.tuning.proposal import Measured
from tvm_iovt.tuning.search_chain import SearchChain
from tvm_iovt.tuning.small_space import SmallSpaceSearch
from tvm_iovt.tuning.task_search import _or_none, task_search, template_proposal
from tvm_iovt.tuning.traces import replayed


@pytest.fixture(scope="module", autouse=True)
def intrinsics():
    import_intrinsics(gpu=False)


def search_of(task, history=None, model=None):
    spec, target = host()
    model = model or CostModel("random", target)
    return task_search(task, spec, target, model, history or {}, seed=1)


def small_search_of(task, history=None, seed=1):
    """The search of the template's space alone."""
    spec, target = host()
    spaces = template_spaces(Schedule(task.module, debug_mask="none"), spec.cpu)
    return SmallSpaceSearch(task, spaces, CostModel("random", target), history or {}, seed)


def drained(search, limit=10_000):
    found = []
    while len(found) < limit:
        proposals = search.propose(8)
        if not proposals:
            return found
        found += proposals
        for proposal in proposals:
            search.tell(proposal, invented_s(proposal.trial.key))
    message = "the search does not end"
    raise AssertionError(message)


def test_a_small_space_is_searched_to_its_end_without_repetition():
    task = task_of(conv_function())
    search = small_search_of(task)
    found = drained(search)
    keys = [proposal.trial.key for proposal in found]
    assert len(keys) == len(set(keys)) > 20
    assert search.propose(8) == []
    # A search in another order finds the same schedules.
    other = drained(small_search_of(task, seed=2))
    assert {proposal.trial.key for proposal in other} == set(keys)


def test_what_is_known_is_not_proposed_again():
    task = task_of(dense_function())
    found = drained(small_search_of(task))
    known = found[: len(found) // 2]
    history = {p.trial.key: Measured(schedule=p.schedule, seconds=1e-3) for p in known}
    rest = drained(small_search_of(task, history))
    assert {p.trial.key for p in rest} == {p.trial.key for p in found} - set(history)


def test_neighbours_of_the_fastest_come_first():
    """With a model that knows nothing, half of what is looked at is near the fastest."""
    search = small_search_of(task_of(conv_function(24)))
    first = search.propose(8)
    best = first[0]
    for proposal in first:
        search.tell(proposal, 1e-6 if proposal is best else 1e-3)
    sampled = list(search._sample())
    neighbours = {p for _, parent in search._fastest for p in search._neighbours(parent)}
    assert set(search._neighbours(search._fastest[0][1])) <= neighbours
    # A neighbour of several counts several times, so that fewer different ones may come.
    several = 1 + min(len(neighbours), small_space._SCORED // 2) // (2 * len(search._fastest))
    assert set(sampled[:several]) <= neighbours


def test_large_spaces_are_searched_by_evolution():
    search = search_of(task_of(softmax_like_function()))
    found = []
    for _ in range(3):
        proposals = search.propose(4)
        found += proposals
        for proposal in proposals:
            search.tell(proposal, invented_s(proposal.trial.key))
    keys = [proposal.trial.key for proposal in found]
    assert len(keys) == len(set(keys)) >= 8


def test_generic_rules_come_after_the_template_s_space():
    task = task_of(dense_function())
    small = {p.trial.key for p in drained(small_search_of(task))}
    search = search_of(task)
    found = []
    while len(found) < len(small) + 4:
        proposals = search.propose(8)
        assert proposals
        found += [proposal.trial.key for proposal in proposals]
        for proposal in proposals:
            search.tell(proposal, invented_s(proposal.trial.key))
    assert set(found[: len(small)]) == small
    assert len(found) == len(set(found))


def test_a_search_that_takes_longer_than_measuring_ends(monkeypatch):
    monkeypatch.setattr(evolution, "_SLOW_S", 0.0)
    search = search_of(task_of(softmax_like_function()))
    turns = 0
    while search.propose(4):
        turns += 1
        assert turns < 10
    assert turns == evolution._SLOW_TURNS


def test_a_space_that_cannot_be_made_ends_the_search():
    def broken():
        raise RuntimeError

    chain = SearchChain([_or_none(broken), lambda: None])
    assert chain.propose(4) == []
    assert chain.propose(4) == []


def test_evolution_goes_on_from_what_is_known():
    task = task_of(softmax_like_function())
    found = search_of(task).propose(6)
    history = {
        p.trial.key: Measured(schedule=replayed(task.module, p.trace), seconds=1e-4) for p in found
    }
    again = search_of(task, history).propose(6)
    assert again
    assert not {p.trial.key for p in again} & set(history)


def test_the_template_is_a_proposal_of_its_own():
    spec, target = host()
    task = task_of(conv_function())
    template = template_proposal(task, spec, target)
    assert template.trace is None
    assert template.trial.key not in {p.trial.key for p in search_of(task).propose(8)}


def test_a_model_learns_which_schedules_are_fast():
    pytest.importorskip("xgboost", reason="pip install xgboost")
    _, target = host()
    task = task_of(conv_function(24))
    schedules = [p.schedule for p in drained(small_search_of(task))]
    # Time grows with the number of loops: something that the features show.
    seconds = [1e-5 * str(s.mod).count("for ") for s in schedules]
    model = CostModel("xgb", target)
    model.learn("conv", task.module, schedules, seconds)
    scores = model.scores("conv", task.module, schedules)
    fastest = min(range(len(scores)), key=lambda i: seconds[i])
    slowest = max(range(len(scores)), key=lambda i: seconds[i])
    assert scores[fastest] > scores[slowest]


def test_failed_schedules_do_not_disturb_a_model():
    pytest.importorskip("xgboost", reason="pip install xgboost")
    _, target = host()
    task = task_of(dense_function())
    schedules = [p.schedule for p in drained(small_search_of(task))]
    model = CostModel("xgb", target)
    model.learn("dense", task.module, schedules, [None] * len(schedules))
    assert all(map(math.isfinite, model.scores("dense", task.module, schedules)))


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setattr(cost_model.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs the package xgboost") as caught:
        cost_model.check_cost_model("xgb")
    assert "pip install" in caught.value.do
    cost_model.check_cost_model("random")
    with pytest.raises(UsageError, match="no cost model 'neural'"):
        cost_model.check_cost_model("neural")
