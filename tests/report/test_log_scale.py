import pytest

from tvm_iovt.report.log_scale import LogScale, spanning


def test_values_lie_by_their_logarithms():
    scale = LogScale(low=1.0, high=100.0, start=0.0, end=50.0)
    assert scale.at(1.0) == 0
    assert scale.at(10.0) == pytest.approx(25)
    assert scale.at(100.0) == pytest.approx(50)


def test_values_beyond_lie_at_the_ends():
    scale = LogScale(low=1.0, high=100.0, start=90.0, end=10.0)
    assert scale.at(0.001) == 90
    assert scale.at(1e9) == pytest.approx(10)


def test_powers_of_ten_are_marked():
    assert LogScale(low=0.5, high=200.0, start=0, end=1).marks() == (1.0, 10.0, 100.0)
    many = LogScale(low=1e-9, high=1e9, start=0, end=1).marks()
    assert 4 <= len(many) <= 9


def test_a_short_axis_has_marks_between():
    assert LogScale(low=0.8, high=30.0, start=0, end=1).marks() == (1.0, 2.0, 5.0, 10.0, 20.0)
    assert LogScale(low=2.5, high=8.0, start=0, end=1).marks() == (5.0,)


def test_axis_has_room_for_all_values():
    low, high = spanning([3.0, 40.0], least=10)
    assert low < 3
    assert high > 40


def test_one_value_makes_an_axis():
    low, high = spanning([7.0], least=100)
    assert high / low == pytest.approx(100)
    assert low < 7 < high
