from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tvm_iovt.tuning.allocation import MAX_FAILURES, Effort, most_promising

SECONDS = st.floats(1e-6, 1.0)


def effort(*times, weight=1, bound_s=0.0):
    made = Effort(weight=weight, bound_s=bound_s)
    for seconds in times:
        made.tell(seconds)
    return made


def test_an_untried_kernel_comes_first():
    assert most_promising([effort(1.0), effort()], [0, 0]) == 1


def test_where_the_network_spends_its_time_comes_first():
    assert most_promising([effort(1e-3), effort(1e-3, weight=5)], [0, 0]) == 1
    assert most_promising([effort(1e-3), effort(1e-4)], [0, 0]) == 0


def test_what_is_under_way_counts():
    efforts = [effort(1e-3), effort(0.9e-3)]
    assert most_promising(efforts, [0, 0]) == 0
    assert most_promising(efforts, [8, 0]) == 1


def test_what_improves_is_preferred_to_what_does_not():
    improving = effort(*(1e-3 - 2e-5 * i for i in range(16)))
    steady = effort(*(1e-3 for _ in range(16)))
    assert most_promising([steady, improving], [0, 0]) == 1


def test_a_kernel_at_its_roof_has_ended():
    made = effort(1.04e-3, bound_s=1e-3)
    assert "96% of the measured roofline" in made.ended
    assert most_promising([made, effort(1e-9)], [0, 0]) == 1
    assert not effort(1.06e-3, bound_s=1e-3).ended


def test_failures_in_a_row_end_a_kernel():
    made = effort(1e-3, *[None] * (MAX_FAILURES - 1))
    assert not made.ended
    made.tell(1e-3)
    for _ in range(MAX_FAILURES):
        made.tell(None)
    assert "in a row failed" in made.ended
    assert most_promising([made], [0]) is None


@given(st.lists(st.one_of(st.none(), SECONDS), max_size=40), st.integers(1, 9), SECONDS)
def test_no_kernel_promises_more_than_it_takes(times, weight, bound_s):
    made = effort(*times, weight=weight, bound_s=bound_s)
    assert made.trials == len(times)
    assert made.valid == sum(t is not None for t in times)
    if made.best_s is not None:
        assert made.best_s == min(t for t in times if t is not None)
        assert made.promise_s <= weight * max(filter(None, times))
