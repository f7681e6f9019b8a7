import pytest

from tvm_iovt.report.unit_scatter import Pair, accuracy_words, median_error, unit_scatter


def pair(predicted_s, measured_s, name="conv", group="conv"):
    return Pair(name=name, group=group, predicted_s=predicted_s, measured_s=measured_s)


PAIRS = (pair(1.1e-3, 1e-3), pair(2e-4, 1e-4, group="pool"), pair(0.9e-5, 1e-5))


def test_errors():
    assert PAIRS[0].error == pytest.approx(0.1)
    assert median_error(PAIRS) == pytest.approx(0.1)
    words = accuracy_words(PAIRS)
    assert "Median error 10.0%" in words
    assert "2 of 3 units within 15.0%" in words
    assert "(+17.9%)" in words


def test_a_dot_for_every_pair(svgs):
    (chart,) = [s for s in svgs(unit_scatter(PAIRS, name="arm")) if s.get("class")]
    dots = list(chart.iter("circle"))
    assert len(dots) == len(PAIRS)
    # Above the diagonal where the prediction is too high.
    for dot, each in zip(dots, PAIRS, strict=True):
        exact = unit_scatter((*PAIRS, pair(each.measured_s, each.measured_s)), name="arm")
        (other,) = [s for s in svgs(exact) if s.get("class")]
        reference = list(other.iter("circle"))[-1]
        above = float(dot.get("cy")) < float(reference.get("cy"))
        assert above == (each.error > 0)


def test_nothing_measured():
    assert unit_scatter((), name="arm") == ""


def test_names_are_escaped(svgs):
    markup = unit_scatter([pair(1, 1, name="<script>", group="&<b>")], name='"<i>')
    assert "<script" not in markup
    svgs(markup)
