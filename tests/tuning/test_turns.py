from __future__ import annotations

import pytest

from tvm_iovt.tuning.turns import Turns


def test_with_cores_to_spare_building_goes_on_beside_a_measurement():
    turns = Turns(spare_cores=1, batch=8)
    turns.measuring = True
    assert turns.may_build(queued=5, waiting=3)
    turns.building = 1
    assert not turns.may_build(queued=5, waiting=3)


def test_a_measurement_waits_for_its_cores():
    turns = Turns(spare_cores=1, batch=8)
    turns.building = 2
    assert not turns.may_measure(queued=5, waiting=1)
    turns.building = 1
    assert turns.may_measure(queued=5, waiting=1)
    turns.measuring = True
    assert not turns.may_measure(queued=5, waiting=1)


def test_all_workers_build_while_there_is_nothing_to_measure():
    turns = Turns(spare_cores=1, batch=8)
    turns.building = 3
    assert turns.may_build(queued=1, waiting=0)
    assert not turns.may_build(queued=1, waiting=1)  # else its cores would never be free


def test_without_cores_to_spare_batches_are_built_and_then_measured():
    turns = Turns(spare_cores=0, batch=4)
    for waiting in range(4):
        assert turns.may_build(queued=9, waiting=waiting)
        assert not turns.may_measure(queued=9, waiting=waiting)
    for waiting in (4, 3, 2, 1):  # until the last one
        assert turns.may_measure(queued=9, waiting=waiting)
        assert not turns.may_build(queued=9, waiting=waiting)
    assert turns.may_build(queued=9, waiting=0)
    assert turns.may_build(queued=8, waiting=1)


def test_a_small_rest_is_measured_too():
    turns = Turns(spare_cores=0, batch=4)
    assert turns.may_measure(queued=0, waiting=1)
    turns.building = 1
    assert not turns.may_measure(queued=0, waiting=1)


@pytest.mark.parametrize("spare_cores", [0, 1])
def test_nothing_is_built_of_nothing(spare_cores):
    assert not Turns(spare_cores=spare_cores, batch=4).may_build(queued=0, waiting=0)


@pytest.mark.parametrize("cores", [1, 2, 3, 8])
@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_everything_is_measured_in_the_end_and_never_beside_too_many(cores, threads, jobs):
    """A simulation: workers begin what they may, and end in the order in which they began."""
    spare = max(cores - threads, 0)
    turns = Turns(spare_cores=spare, batch=4 * jobs)
    queued, built, building, measured = 40, [0] * jobs, [], 0
    measuring = None
    for _ in range(1000):
        for worker in range(jobs):
            if worker in building or worker == measuring:
                continue
            state = {"queued": queued, "waiting": sum(built)}
            if built[worker] and turns.may_measure(**state):
                turns.measuring, measuring = True, worker
                built[worker] -= 1
                assert len(building) <= spare
            elif turns.may_build(**state):
                turns.building += 1
                building.append(worker)
                queued -= 1
                assert measuring is None or len(building) <= spare
        if measuring is not None:
            turns.measuring, measuring, measured = False, None, measured + 1
        if building:
            turns.building -= 1
            built[building.pop(0)] += 1
    assert (measured, queued, sum(built)) == (40, 0, 0)


def test_the_measuring_phase_lasts_while_something_waits():
    turns = Turns(spare_cores=0, batch=2)
    assert not turns.is_measuring_phase(1)
    assert turns.may_measure(queued=3, waiting=2)
    turns.measuring = True
    assert turns.is_measuring_phase(0)
    turns.measuring = False
    assert turns.is_measuring_phase(1)
    assert not turns.is_measuring_phase(0)
    assert not Turns(spare_cores=1, batch=2).is_measuring_phase(5)
